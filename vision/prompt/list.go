package prompt

import (
	"slices"
	"strings"
	"unicode"
)

// meant returns the value of the list that a text means, and whether there is exactly one: the value itself, one that
// differs in case, white space or separators only, one of which it is a synonym, or the only one that is a single edit
// away. A text that means none is returned as it is.
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
	// A short word that differs by a letter is likely another word.
	if n := len([]rune(key)); n >= minEditRunes {
		if to, ok := only(f.enum, func(e string) bool { return len([]rune(folded(e))) >= minEditRunes && oneEdit(key, folded(e)) }); ok {
			return to, true
		}
	}
	return v, false
}

// minEditRunes is the least length of a word in which an edit is taken for a slip.
const minEditRunes = 5

// only returns the one element for which ok is true; false if there is none or more than one.
func only(list []string, ok func(string) bool) (string, bool) {
	i := slices.IndexFunc(list, ok)
	if i < 0 || slices.IndexFunc(list[i+1:], ok) >= 0 {
		return "", false
	}
	return list[i], true
}

// folded is a text in lower case, without white space, separators and quotes.
func folded(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || strings.ContainsRune(`_-/·"'`, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// oneEdit reports whether a becomes b by putting in, taking out or changing one letter, or by changing places with its
// neighbour (Damerau, 1964).
func oneEdit(a, b string) bool {
	x, y := []rune(a), []rune(b)
	if len(x) > len(y) {
		x, y = y, x
	}
	if len(y)-len(x) > 1 {
		return false
	}
	i := 0
	for i < len(x) && x[i] == y[i] {
		i++
	}
	if len(x) < len(y) {
		return slices.Equal(x[i:], y[i+1:])
	}
	if i == len(x) {
		return false // equal
	}
	return slices.Equal(x[i+1:], y[i+1:]) ||
		i+1 < len(x) && x[i] == y[i+1] && x[i+1] == y[i] && slices.Equal(x[i+2:], y[i+2:])
}
