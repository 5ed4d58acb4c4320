package remote

import (
	"fmt"
	"regexp"
	"strings"
)

// globPattern is a pattern of Python's fnmatch as a regular expression. It
// differs from path.Match: a slash and a backslash are nothing special, and a [
// that is not closed stands for itself (fnmatch.translate).
func globPattern(glob string) string {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	pattern := []rune(glob)
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*':
			b.WriteString(`.*`)
		case '?':
			b.WriteByte('.')
		case '[':
			end := setEnd(pattern, i+1)
			if end < 0 {
				b.WriteString(`\[`)
				continue
			}
			b.WriteString(globSet(pattern[i+1 : end]))
			i = end
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	b.WriteString(`\z`)
	return b.String()
}

// setEnd is the place of the ] that closes the set which begins at i, or -1. A ]
// in the first place is one of the set.
func setEnd(pattern []rune, i int) int {
	if i < len(pattern) && pattern[i] == '!' {
		i++
	}
	for first := i; i < len(pattern); i++ {
		if pattern[i] == ']' && i > first {
			return i
		}
	}
	return -1
}

// globSet is what stands between [ and ], as a regular expression.
func globSet(set []rune) string {
	negated := set[0] == '!'
	if negated {
		set = set[1:]
	}
	var b strings.Builder
	for i := 0; i < len(set); i++ {
		low, high := set[i], set[i]
		if i+2 < len(set) && set[i+1] == '-' {
			high = set[i+2]
			i += 2
		}
		if low <= high { // else the range is empty
			fmt.Fprintf(&b, `\x{%x}-\x{%x}`, low, high)
		}
	}
	switch {
	case b.Len() == 0 && negated:
		return "."
	case b.Len() == 0:
		return `[^\x{0}-\x{10FFFF}]`
	case negated:
		return "[^" + b.String() + "]"
	}
	return "[" + b.String() + "]"
}
