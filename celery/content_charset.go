package celery

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// toUTF8 returns a body in UTF-8, of which encoding is the content encoding. As in
// Python, where py-amqp decodes and kombu decodes again, a body that does not decode
// is taken for UTF-8 (amqp/abstract_channel.py, dispatch_method).
//
// Python knows a hundred encodings. Of those that are not here only a body of ASCII is
// taken, which is the same in all that JSON is written in.
func toUTF8(body []byte, encoding string) ([]byte, error) {
	switch charsetName(encoding) {
	case "", "utf-8", "utf8", "us-ascii", "ascii", "binary":
		return body, nil
	case "utf-8-sig":
		return bytes.TrimPrefix(body, []byte("\ufeff")), nil
	case "latin-1", "latin1", "latin", "l1", "iso-8859-1", "iso8859-1", "8859", "cp819":
		return fromLatin1(body), nil
	case "utf-16", "utf16":
		switch {
		case bytes.HasPrefix(body, []byte{0xfe, 0xff}):
			return fromUTF16(body, 2, binary.BigEndian), nil
		case bytes.HasPrefix(body, []byte{0xff, 0xfe}):
			return fromUTF16(body, 2, binary.LittleEndian), nil
		}
		return fromUTF16(body, 0, binary.LittleEndian), nil
	case "utf-16-le", "utf-16le":
		return fromUTF16(body, 0, binary.LittleEndian), nil
	case "utf-16-be", "utf-16be":
		return fromUTF16(body, 0, binary.BigEndian), nil
	}
	if bytes.ContainsFunc(body, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return nil, fmt.Errorf("content encoding %q is not accepted: expected utf-8, us-ascii, latin-1 or utf-16", clip(encoding, 64))
	}
	return body, nil
}

// charsetName is the name of an encoding as Python compares it.
func charsetName(encoding string) string {
	return strings.ToLower(strings.NewReplacer("_", "-", " ", "-").Replace(strings.TrimSpace(encoding)))
}

func fromLatin1(body []byte) []byte {
	out := make([]byte, 0, len(body)+len(body)/8)
	for _, c := range body {
		out = utf8.AppendRune(out, rune(c))
	}
	return out
}

// fromUTF16 decodes what comes after the byte order mark of size skip. What is no
// UTF-16 is returned as it is.
func fromUTF16(body []byte, skip int, order binary.ByteOrder) []byte {
	if len(body)%2 != 0 {
		return body
	}
	out := make([]byte, 0, len(body))
	for at := skip; at < len(body); at += 2 {
		r := rune(order.Uint16(body[at:]))
		if utf16.IsSurrogate(r) {
			if at += 2; at >= len(body) {
				return body
			}
			if r = utf16.DecodeRune(r, rune(order.Uint16(body[at:]))); r == utf8.RuneError {
				return body
			}
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}

// checkUTF8 names the first byte that is not UTF-8.
func checkUTF8(body []byte) error {
	if utf8.Valid(body) {
		return nil
	}
	at := 0
	for utf8.FullRune(body[at:]) {
		r, size := utf8.DecodeRune(body[at:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		at += size
	}
	return fmt.Errorf("byte %d is not UTF-8: expected UTF-8, or a content encoding that names another", at)
}
