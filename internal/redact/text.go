package redact

import (
	"regexp"
	"strings"
)

// locators finds URLs in text: up to white space, a quote or a bracket.
var locators = regexp.MustCompile(`(?i)\b(?:data:[^\s'"<>]+|[a-z][a-z0-9+.-]*:(?://|\\/\\/)[^\s'"<>]+)`)

// secrets finds what looks like a secret wherever it stands: a parameter of a query
// by its name, and a user with a password before a host.
var secrets = regexp.MustCompile(`(?i)([?&][\w.-]*(?:sig|signature|token|key|secret|passw|credential|auth)[\w.-]*=)[^&\s'"<>]+|[^\s'"/:@]+:[^\s'"/@]+@`)

// Text treats the URLs in text as URL does, and marks where a query or a fragment was.
func Text(text string) string {
	text = locators.ReplaceAllStringFunc(text, locator)
	return secrets.ReplaceAllStringFunc(text, func(raw string) string {
		if name, _, ok := strings.Cut(raw, "="); ok && strings.ContainsAny(raw[:1], "?&") {
			return name + "=…"
		}
		return "…@"
	})
}

func locator(raw string) string {
	if _, ok := CutScheme(raw, "data:"); ok {
		return URL(raw)
	}
	escaped := strings.Contains(raw, `:\/\/`) // as PHP writes JSON
	out := strings.ReplaceAll(URL(strings.ReplaceAll(raw, `\/`, "/")), "%E2%80%A6", "…")
	if escaped {
		out = strings.ReplaceAll(out, "/", `\/`)
	}
	if strings.ContainsAny(raw, "?#") {
		out += "?…"
	}
	return out
}
