package prompt

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// meant returns the value of the list that a text means, and whether there is exactly one: the value itself, one that
// differs in case, white space or separators only, one of which it is a synonym, or the only one that is a slip of the
// pen away. A text that means none is returned as it is.
func (f *field) meant(v string) (string, bool) {
	if slices.Contains(f.enum, v) {
		return v, true
	}
	key := folded(v)
	if to, ok := only(f.enum, func(e string) bool { return folded(e) == key }); ok {
		return to, true
	}
	if to, ok := f.synonyms[key]; ok {
		return to, true
	}
	if to, ok := only(f.enum, func(e string) bool { return isSlip(v, e) }); ok {
		return to, true
	}
	return v, false
}

// only returns the one element for which ok is true; false if there is none or more than one.
func only(list []string, ok func(string) bool) (string, bool) {
	i := slices.IndexFunc(list, ok)
	if i < 0 || slices.IndexFunc(list[i+1:], ok) >= 0 {
		return "", false
	}
	return list[i], true
}

// folded is a text in lower case, composed (NFC), without white space, separators and quotes.
func folded(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || strings.ContainsRune(`_-/·"'`, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, norm.NFC.String(s))
}

// minSlip is the least length of the longer of two words that a slip makes of one.
const minSlip = 5

// isSlip reports whether two texts differ in one word, and that in a letter too many, one too few, or two that have
// changed places (three of the four errors of Damerau, 1964). The fourth, another letter, is as often another word
// (clean, clear), and so is a letter at the beginning (smelt, melt), or any letter of a script whose letters are
// syllables.
func isSlip(a, b string) bool {
	split := func(s string) []string {
		return strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	}
	x, y := split(a), split(b)
	if len(x) != len(y) {
		return false
	}
	slips := 0
	for i := range x {
		if x[i] == y[i] {
			continue
		}
		if slips++; slips > 1 || !isSlipOfWord(x[i], y[i]) {
			return false
		}
	}
	return slips == 1
}

func isSlipOfWord(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b) < minSlip || utf8.RuneCountInString(b) != len(b) || a[0] != b[0] {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch len(b) - len(a) {
	case 1:
		return a[i:] == b[i+1:]
	case 0:
		return i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
	}
	return false
}

// says reports whether a text that is on no list says anything: a skeleton of the schema, or what is far too long, does
// not.
func says(v string) bool {
	return utf8.RuneCountInString(v) <= maxOffList && strings.ContainsFunc(v, unicode.IsLetter) && !slices.Contains(jsonTypes, strings.ToLower(v))
}

// maxOffList is the most characters of a value that is taken although it is on no list.
const maxOffList = 100
