package source

import (
	"encoding/base64"
	"net/url"
	"strings"
)

// base64Space is the white space that may stand in base64, as line breaks of MIME (RFC 2045) or by hand.
const base64Space = "\r\n\t\f "

// decodeData returns the content of a data URL, given what follows "data:" (RFC 2397: [mediatype] [";base64"] "," data).
func decodeData(rest string, maxBytes int64) ([]byte, error) {
	header, body, ok := strings.Cut(rest, ",")
	if !ok {
		return nil, &Error{Kind: BadURL, Msg: "data URL without a comma, want data:image/png;base64,…"}
	}
	// A fragment is no part of the data (RFC 3986, section 3.5); a "?" is.
	body, _, _ = strings.Cut(body, "#")
	if strings.Contains(body, "%") {
		var err error
		if body, err = url.PathUnescape(body); err != nil {
			return nil, &Error{Kind: BadURL, Msg: "data URL with a malformed percent escape"}
		}
	}
	if !isBase64(header) {
		if int64(len(body)) > maxBytes {
			return nil, errTooLarge(maxBytes)
		}
		if body == "" {
			return nil, errEmpty()
		}
		return []byte(body), nil
	}
	return decodeBase64(body, maxBytes)
}

// isBase64 says whether the last parameter of a data URL's header is "base64".
func isBase64(header string) bool {
	i := strings.LastIndexByte(header, ';')
	return i >= 0 && strings.EqualFold(strings.TrimSpace(header[i+1:]), "base64")
}

// decodeBase64 decodes the standard alphabet of RFC 4648, section 4. The length is known, and judged, before a byte is decoded.
func decodeBase64(s string, maxBytes int64) ([]byte, error) {
	if strings.ContainsAny(s, base64Space) {
		s = strings.Map(func(r rune) rune {
			if strings.ContainsRune(base64Space, r) {
				return -1
			}
			return r
		}, s)
	}
	// Padding is right or missing; only whole groups of four may end in it.
	if len(s)%4 == 0 {
		s = strings.TrimSuffix(strings.TrimSuffix(s, "="), "=")
	}
	if int64(base64.RawStdEncoding.DecodedLen(len(s))) > maxBytes {
		return nil, errTooLarge(maxBytes)
	}
	data, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return nil, &Error{Kind: BadURL, Msg: "data URL whose base64 is malformed, want the standard alphabet (A-Z a-z 0-9 + /)"}
	}
	if len(data) == 0 {
		return nil, errEmpty()
	}
	return data, nil
}
