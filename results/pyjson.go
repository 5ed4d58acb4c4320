package results

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	"onceover/celery"
)

// pythonJSON writes v as json.dumps of Python does by default: a space after
// each comma and colon, and ASCII only. Parts of a chord are members of a sorted
// set, where the same part has to be the same text whoever wrote it.
func pythonJSON(v any) ([]byte, error) {
	doc, err := celery.MarshalJSON(v)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(doc)+len(doc)/8)
	quoted := false
	for i := 0; i < len(doc); {
		c := doc[i]
		switch {
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRune(doc[i:])
			i += size
			if hi, lo := utf16.EncodeRune(r); hi != utf8.RuneError {
				out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
			} else {
				out = fmt.Appendf(out, `\u%04x`, r)
			}
			continue
		case quoted && c == '\\':
			out = append(out, c, doc[i+1])
			i += 2
			continue
		case c == '"':
			quoted = !quoted
		}
		out = append(out, c)
		if !quoted && (c == ',' || c == ':') {
			out = append(out, ' ')
		}
		i++
	}
	return out, nil
}
