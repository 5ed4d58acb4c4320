package console

import (
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/text/language"

	"onceover/internal/redact"
)

// tongue is a language of the page. Texts are called by their English form.
type tongue struct {
	tag   string
	texts map[string]string // by the English text; nil: that itself
}

var tongues = []*tongue{{"en", nil}, {"ko", korean}}

var matcher = language.NewMatcher([]language.Tag{language.English, language.Korean})

// langCookie has the language that a reader has chosen.
const langCookie = "onceover_lang"

// tongueOf returns the language of a request: chosen by ?lang= now or before, else what the browser asks for.
func tongueOf(r *http.Request) *tongue {
	if l := named(r.URL.Query().Get("lang")); l != nil {
		return l
	}
	if cookie, err := r.Cookie(langCookie); err == nil {
		if l := named(cookie.Value); l != nil {
			return l
		}
	}
	tags, _, err := language.ParseAcceptLanguage(r.Header.Get("Accept-Language"))
	if err != nil || len(tags) == 0 {
		return tongues[0]
	}
	_, i, _ := matcher.Match(tags...)
	return tongues[i]
}

func named(tag string) *tongue {
	for _, l := range tongues {
		if l.tag == tag {
			return l
		}
	}
	return nil
}

// text returns a text in the language, with its arguments put in.
func (l *tongue) text(english string, args ...any) string {
	form := english
	if t, ok := l.texts[english]; ok {
		form = t
	}
	if len(args) == 0 {
		return form
	}
	return fmt.Sprintf(form, args...)
}

// functions are those of the templates.
func functions(l *tongue) template.FuncMap {
	return template.FuncMap{
		"t":      l.text,
		"ago":    func(t time.Time) string { return l.text("%s ago", l.span(time.Since(t))) },
		"ahead":  func(t time.Time) string { return l.text("in %s", l.span(max(0, time.Until(t)))) },
		"span":   l.span,
		"clock":  func(t time.Time) string { return t.Local().Format("15:04:05 MST") },
		"moment": func(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") },
		"number": number,
		"money":  money,
		"rate":   func(perSecond float64) string { return fmt.Sprintf("%.1f", perSecond) },
		"chart":  func(b Bars) template.HTML { return b.draw(l) },
		"esc":    func(part any) string { return url.PathEscape(fmt.Sprint(part)) },
		"inc":    func(n int) int { return n + 1 },
		"dec":    func(n int) int { return n - 1 },
		"percent": func(part, whole int) string {
			if whole == 0 {
				return "–"
			}
			return fmt.Sprintf("%d %%", part*100/whole)
		},
		"plain": plain,
		"clean": redact.Text,
	}
}

// span is a length of time in its largest unit that makes sense.
func (l *tongue) span(d time.Duration) string {
	switch {
	case d < time.Second:
		return l.text("%d ms", max(0, d.Milliseconds()))
	case d < time.Minute:
		return l.text("%d s", int(d.Seconds()))
	case d < time.Hour:
		return l.text("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return l.text("%d h", int(d.Hours()))
	}
	return l.text("%d d", int(d.Hours()/24))
}

// number is n with thin spaces between thousands.
func number(n any) string {
	text := fmt.Sprint(n)
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return sign + text
}

// money is millionths of a US dollar as people write it.
func money(micro int64) string {
	return fmt.Sprintf("$%d.%02d", micro/1_000_000, micro%1_000_000/10_000)
}

// plain is text without characters that draw, or turn the direction of what follows.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}
