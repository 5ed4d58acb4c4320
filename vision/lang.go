package vision

import (
	"fmt"
	"regexp"
)

// langTag is the shape of the BCP 47 tags that a model makes something of: language with an optional extended language,
// script, region, variants. Extensions and private use are left out: they say how to sort or to format, and would have
// room for other words in a prompt.
var langTag = regexp.MustCompile(`(?i)^[a-z]{2,3}(-[a-z]{3})?(-[a-z]{4})?(-([a-z]{2}|[0-9]{3}))?(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3})){0,2}$`)

// CheckLang returns an error unless tag names a language as a BCP 47 tag does: ko, en, pt-BR, zh-Hant-TW, es-419,
// sl-rozaj. It is the one grammar for every language that people set, of the worker and of a job. What passes it is
// at most 34 bytes long and cannot carry instructions into a prompt. The error repeats the tag, cut to 40 characters.
func CheckLang(tag string) error {
	if !langTag.MatchString(tag) {
		return fmt.Errorf("%.40q is not a language tag: expected one such as ko, en or pt-BR", tag)
	}
	return nil
}
