package celery

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// ReprArgs is Python's repr of a tuple of the JSON values, as Celery puts it
// into the header argsrepr: ('a', 1) or ('a',).
func ReprArgs(args []json.RawMessage) string {
	var b strings.Builder
	b.WriteByte('(')
	for i, a := range args {
		if i > 0 {
			b.WriteString(", ")
		}
		reprRaw(&b, a)
	}
	if len(args) == 1 {
		b.WriteByte(',')
	}
	b.WriteByte(')')
	return b.String()
}

// ReprKwargs is Python's repr of a dict of the JSON values, keys sorted.
func ReprKwargs(kwargs map[string]json.RawMessage) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, k := range sortedKeys(kwargs) {
		if i > 0 {
			b.WriteString(", ")
		}
		reprString(&b, k)
		b.WriteString(": ")
		reprRaw(&b, kwargs[k])
	}
	b.WriteByte('}')
	return b.String()
}

// Repr is Python's repr of a value made of JSON types (nil, bool, string, any
// number, slices and maps of them). Anything else is shown as its JSON.
func Repr(v any) string {
	var b strings.Builder
	repr(&b, v)
	return b.String()
}

// ReprRaw is Python's repr of a JSON value, cut to about 1,024 bytes as Celery
// cuts what it shows of results.
func ReprRaw(raw json.RawMessage) string {
	var b strings.Builder
	reprRaw(&b, raw)
	return clip(b.String(), maxRepr)
}

func reprRaw(b *strings.Builder, raw json.RawMessage) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		b.Write(raw)
		return
	}
	repr(b, v)
}

func repr(b *strings.Builder, v any) {
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case string:
		reprString(b, v)
	case json.Number:
		b.WriteString(v.String())
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			repr(b, e)
		}
		b.WriteByte(']')
	case map[string]any:
		b.WriteByte('{')
		for i, k := range sortedKeys(v) {
			if i > 0 {
				b.WriteString(", ")
			}
			reprString(b, k)
			b.WriteString(": ")
			repr(b, v[k])
		}
		b.WriteByte('}')
	default:
		if raw, err := MarshalJSON(v); err == nil {
			b.Write(raw)
		}
	}
}

// reprString quotes as Python does: single quotes unless the text has single
// and no double quotes; unprintable runes escaped, all others kept.
func reprString(b *strings.Builder, s string) {
	quote := '\''
	if strings.ContainsRune(s, '\'') && !strings.ContainsRune(s, '"') {
		quote = '"'
	}
	b.WriteRune(quote)
	for _, r := range s {
		switch {
		case r == quote || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			b.WriteString(`\x`)
			hex(b, r, 2)
		case r < 0x10000:
			b.WriteString(`\u`)
			hex(b, r, 4)
		default:
			b.WriteString(`\U`)
			hex(b, r, 8)
		}
	}
	b.WriteRune(quote)
}

func hex(b *strings.Builder, r rune, width int) {
	s := strconv.FormatInt(int64(r), 16)
	b.WriteString(strings.Repeat("0", width-len(s)))
	b.WriteString(s)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
