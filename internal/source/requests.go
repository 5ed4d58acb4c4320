package source

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zlib"
)

// This file takes the URLs and bodies that Python's requests takes (requests 2.x: utils.requote_uri; urllib3 2.x: response.MultiDecoder),
// by which other services of a deployment get the same pictures. It is not the same in all: what is encoded already stays as it is,
// where requests writes some of it anew, and urllib3 encodes every "%" of a path that has one too many.

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

// maxCodings is how many content codings of a body are undone: each has a window of its own in memory. One is usual.
const maxCodings = 3

// decoded returns a body without its content codings (RFC 9110, section 8.4), and its length, -1 if that is not known. Some servers
// and proxies apply one although none was asked for. Codings other than gzip and deflate are left as they are. Of the coded body no
// more than maxBytes bytes are read.
func decoded(resp *http.Response, maxBytes int64) (io.Reader, int64, error) {
	if resp.ContentLength > maxBytes {
		return nil, 0, errTooLarge(maxBytes)
	}
	body, size := io.Reader(resp.Body), resp.ContentLength
	codings := strings.Split(resp.Header.Get("Content-Encoding"), ",")
	undone := 0
	for i := len(codings) - 1; i >= 0; i-- { // the last one was applied last
		coding := strings.ToLower(strings.TrimSpace(codings[i]))
		if coding != "gzip" && coding != "x-gzip" && coding != "deflate" {
			continue
		}
		if undone++; undone > maxCodings {
			return nil, 0, &Error{Kind: Unusable, Msg: fmt.Sprintf("the body has more than %d content codings: store the picture without Content-Encoding", maxCodings)}
		}
		if undone == 1 {
			body, size = &capped{body, maxBytes, maxBytes}, -1
		}
		var err error
		if coding == "deflate" {
			body, err = inflate(body)
		} else {
			body, err = gunzip(body)
		}
		if err != nil {
			return nil, 0, codingError(err)
		}
	}
	return body, size, nil
}

// codingError gives an error of a decoder its Kind. Others, as of the network, stay.
func codingError(err error) error {
	var corrupt flate.CorruptInputError
	for _, e := range []error{gzip.ErrHeader, gzip.ErrChecksum, zlib.ErrHeader, zlib.ErrChecksum, zlib.ErrDictionary} {
		if errors.Is(err, e) {
			return errCoding
		}
	}
	switch {
	case errors.As(err, &corrupt):
		return errCoding
	case errors.Is(err, io.EOF):
		return errEmpty()
	}
	return err
}

// errCoding says that a body is not coded as its server says.
var errCoding = &Error{Kind: Unusable, Msg: "the body is not in the content coding (gzip or deflate) that the server names: store the picture without Content-Encoding, or compress it so"}

// capped is a reader that fails once more than some bytes were read.
type capped struct {
	r          io.Reader
	left, most int64
}

func (c *capped) Read(p []byte) (int, error) {
	if c.left < 0 {
		return 0, errTooLarge(c.most)
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left+1)])
	c.left -= int64(n)
	return n, err
}

// gunzip reads the first member of a gzip file. What follows it is left alone: others are not, and padding does not matter.
func gunzip(body io.Reader) (io.Reader, error) {
	z, err := gzip.NewReader(body)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return z, nil
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
