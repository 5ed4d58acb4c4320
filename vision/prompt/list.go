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

// minChanged is the least length of two words that another letter makes of one another, and minJamo that of Korean words
// in jamo, the letters that their syllables are made of, for any slip.
const (
	minChanged = 7
	minJamo    = 8
)

// isSlip reports whether two texts differ in one word, and that in a letter too many, one too few, two that have
// changed places, or, in a longer word, another letter (Damerau, 1964). In a short one another letter is as often another
// word (clean, clear), and so is a letter at the beginning (smelt, melt). Korean words are compared by their jamo, and
// other scripts are not, as any letter of theirs may be a word.
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

func isSlipOfWord(x, y string) bool {
	a, jamo, ok := lettersOf(x)
	b, jamoToo, okToo := lettersOf(y)
	if len(a) > len(b) {
		a, b = b, a
	}
	least := minSlip
	if jamo {
		least = minJamo
	}
	if !ok || !okToo || jamo != jamoToo || len(b) < least || len(a) == 0 || a[0] != b[0] {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch len(b) - len(a) {
	case 1:
		return slices.Equal(a[i:], b[i+1:])
	case 0:
		if i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && slices.Equal(a[i+2:], b[i+2:]) {
			return true
		}
		return i < len(a) && slices.Equal(a[i+1:], b[i+1:]) && (jamo || len(a) >= minChanged)
	}
	return false
}

// lettersOf returns the letters of a word, and whether they are jamo; ok is false for other scripts than ASCII and Korean, and
// for both in one.
func lettersOf(word string) (letters []rune, jamo, ok bool) {
	for _, r := range norm.NFD.String(word) {
		isJamo := r >= 0x1100 && r <= 0x11ff
		if !isJamo && r > unicode.MaxASCII || len(letters) > 0 && isJamo != jamo {
			return nil, false, false
		}
		jamo = isJamo
		letters = append(letters, r)
	}
	return letters, jamo, true
}

// says reports whether a text that is on no list says anything: a skeleton of the schema, or what is far too long, does
// not.
func says(v string) bool {
	return utf8.RuneCountInString(v) <= maxOffList && strings.ContainsFunc(v, unicode.IsLetter) && !slices.Contains(jsonTypes, strings.ToLower(v))
}

// maxOffList is the most characters of a value that is taken although it is on no list.
const maxOffList = 100
