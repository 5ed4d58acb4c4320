package failed

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"
)

// locators finds URLs in text: up to white space, a quote or a bracket.
var locators = regexp.MustCompile(`(?i)\b(?:data:[^\s'"<>]*|[a-z][a-z0-9+.-]*://[^\s'"<>]+)`)

// Redact takes what may be secret out of the URLs in text: queries, fragments and
// user names, and the content of data URLs.
func Redact(text string) string { return redact(text) }

// redact takes the queries and user names out of the URLs in text, and the content
// out of data URLs.
func redact(text string) string {
	return locators.ReplaceAllStringFunc(text, func(raw string) string {
		if len(raw) >= 5 && strings.EqualFold(raw[:5], "data:") {
			head, data, ok := strings.Cut(raw, ",")
			if !ok {
				return raw
			}
			return fmt.Sprintf("%s,… (%d bytes)", head, len(data))
		}
		u, err := url.Parse(raw)
		if err != nil {
			scheme, _, _ := strings.Cut(raw, "://")
			return scheme + "://…"
		}
		query := u.RawQuery != "" || u.Fragment != ""
		u.User, u.RawQuery, u.Fragment = nil, "", ""
		out := u.String()
		if query {
			out += "?…"
		}
		return out
	})
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
