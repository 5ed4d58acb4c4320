package failed

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"
)

// locators finds URLs in text: up to white space, a quote or a bracket.
var locators = regexp.MustCompile(`(?i)\b(?:data:[^\s'"<>]+|[a-z][a-z0-9+.-]*:(?://|\\/\\/)[^\s'"<>]+)`)

// secrets finds what looks like a secret wherever it stands: a parameter of a query
// by its name, and a user with a password before a host.
var secrets = regexp.MustCompile(`(?i)([?&][\w.-]*(?:sig|signature|token|key|secret|passw|credential|auth)[\w.-]*=)[^&\s'"<>]+|[^\s'"/:@]+:[^\s'"/@]+@`)

// Redact takes what may be secret out of the URLs in text: queries, fragments and
// user names, and the content of data URLs.
func Redact(text string) string { return redact(text) }

// redact takes the queries and user names out of the URLs in text, and the content
// out of data URLs.
func redact(text string) string {
	text = locators.ReplaceAllStringFunc(text, redactURL)
	return secrets.ReplaceAllStringFunc(text, func(raw string) string {
		if name, _, ok := strings.Cut(raw, "="); ok && strings.ContainsAny(raw[:1], "?&") {
			return name + "=…"
		}
		return "…@"
	})
}

func redactURL(raw string) string {
	if len(raw) >= 5 && strings.EqualFold(raw[:5], "data:") {
		head, data, ok := strings.Cut(raw, ",")
		if !ok {
			return fmt.Sprintf("data:… (%d bytes)", len(raw)-5)
		}
		return fmt.Sprintf("%s,… (%d bytes)", head, len(data))
	}
	escaped := strings.Contains(raw, `:\/\/`) // as PHP writes JSON
	u, err := url.Parse(strings.ReplaceAll(raw, `\/`, "/"))
	if err != nil {
		scheme, _, _ := strings.Cut(raw, ":")
		return scheme + "://…"
	}
	query := u.RawQuery != "" || u.Fragment != ""
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	out := strings.ReplaceAll(u.String(), "%E2%80%A6", "…")
	if escaped {
		out = strings.ReplaceAll(out, "/", `\/`)
	}
	if query {
		out += "?…"
	}
	return out
}

// shorten cuts text to about max bytes and says so.
func shorten(text string, max int) string {
	if len(text) <= max {
		return text
	}
	cut := max
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return fmt.Sprintf("%s… (%d bytes more)", text[:cut], len(text)-cut)
}
