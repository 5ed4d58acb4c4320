package source

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zlib"
)

// This file takes URLs and bodies as Python's requests does (requests 2.x: utils.requote_uri; urllib3 2.x: _encode_invalid_chars and
// response.MultiDecoder), by which other services of a deployment get the same pictures.

// requote percent-encodes what must not stand in a URL, such as white space and characters beyond ASCII, and a "%" that begins no
// escape, but not in the host. White space around it goes. What is encoded already stays.
func requote(raw string) string {
	const digits = "0123456789ABCDEF"
	raw = strings.TrimSpace(raw)
	path := 0
	if scheme, rest, ok := strings.Cut(raw, "//"); ok && (scheme == "" || strings.HasSuffix(scheme, ":") && !strings.ContainsAny(scheme, "/?#")) {
		path = len(raw)
		if end := strings.IndexAny(rest, "/?#"); end >= 0 {
			path -= len(rest) - end
		}
	}
	var out strings.Builder
	out.WriteString(raw[:path])
	for i := path; i < len(raw); i++ {
		c := raw[i]
		if isAlphanumeric(c) || strings.IndexByte("-._~!#$&'()*+,/:;=?@[]", c) >= 0 ||
			c == '%' && i+2 < len(raw) && isHex(raw[i+1]) && isHex(raw[i+2]) {
			out.WriteByte(c)
			continue
		}
		out.WriteByte('%')
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isHex(c byte) bool {
	return c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' || c >= '0' && c <= '9'
}

// decoded returns a body without its content codings (RFC 9110, section 8.4), and its length, -1 if that is not known. Some servers
// and proxies apply one although none was asked for. Codings other than gzip and deflate are left as they are.
func decoded(resp *http.Response) (io.Reader, int64, error) {
	body, size := io.Reader(resp.Body), resp.ContentLength
	codings := strings.Split(resp.Header.Get("Content-Encoding"), ",")
	for i := len(codings) - 1; i >= 0; i-- { // the last one was applied last
		var err error
		switch strings.ToLower(strings.TrimSpace(codings[i])) {
		case "gzip", "x-gzip":
			body, err = gzip.NewReader(body)
		case "deflate":
			body, err = inflate(body)
		default:
			continue
		}
		size = -1
		if err != nil {
			return nil, 0, err
		}
	}
	return body, size, nil
}

// inflate reads deflate in zlib's format, as RFC 9110 has it, or without that, as some servers do.
func inflate(body io.Reader) (io.Reader, error) {
	buffered := bufio.NewReader(body)
	head, err := buffered.Peek(2)
	if err != nil {
		return nil, err
	}
	const method, check = 8, 31 // RFC 1950, section 2.2
	if head[0]&15 == method && (int(head[0])<<8|int(head[1]))%check == 0 {
		return zlib.NewReader(buffered)
	}
	return flate.NewReader(buffered), nil
}
