// Package redact takes what may be secret out of URLs before they are logged, listed
// or put into an error: [URL] of one, [Text] wherever they stand.
package redact

import (
	"fmt"
	"net/url"
	"strings"
)

// maxRedacted bounds what URL returns, in bytes, before the mark of what was cut.
const maxRedacted = 500

// URL returns rawURL in a form fit for logs and error texts: scheme, host and path, never userinfo, query or fragment (which
// may hold a signature), and of a data URL the media type and the length of what follows the comma, never a byte of it. What
// cannot be told apart is left out: a URL that does not parse, or has no scheme, is described by its length only. The result has
// no control characters and at most some 500 bytes.
func URL(rawURL string) string {
	if rest, ok := CutScheme(rawURL, "data:"); ok {
		return redactData(rest)
	}
	if rest, ok := CutScheme(rawURL, "s3://"); ok {
		return redactS3(rest)
	}
	u, err := url.Parse(rawURL)
	switch {
	case err != nil || u.Scheme == "":
		return fmt.Sprintf("invalid URL (%d bytes)", len(rawURL))
	case u.Opaque != "" || u.Host == "" && u.Scheme != "file":
		return shorten(u.Scheme) + ":…"
	}
	return shorten((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String())
}

// redactData describes what follows "data:". Without a comma nothing says where the media type ends, so none is shown.
func redactData(rest string) string {
	mediaType, body := "", rest
	if header, data, ok := strings.Cut(rest, ","); ok {
		body = data
		if t, _, _ := strings.Cut(header, ";"); isMediaType(t) {
			mediaType = t + ";"
		}
	}
	return fmt.Sprintf("data:%s… (%d bytes)", mediaType, len(body))
}

// redactS3 describes what follows "s3://". Fetch takes all of it as bucket and key, but what stands before an @ or after a ? is
// left out all the same: it may be meant as credentials or as a signature.
func redactS3(rest string) string {
	rest, _, _ = strings.Cut(rest, "#")
	rest, _, _ = strings.Cut(rest, "?")
	bucket, key, _ := strings.Cut(rest, "/")
	bucket = bucket[strings.LastIndexByte(bucket, '@')+1:]
	return shorten("s3://" + (&url.URL{Path: "/" + bucket + "/" + key}).EscapedPath()[1:])
}

// isMediaType says whether s is type "/" subtype in the characters of RFC 6838, section 4.2.
func isMediaType(s string) bool {
	mainType, subtype, ok := strings.Cut(s, "/")
	return ok && isRestrictedName(mainType) && isRestrictedName(subtype)
}

func isRestrictedName(s string) bool {
	if s == "" || len(s) > 127 {
		return false
	}
	for _, r := range s {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$&-^_.+", r)) {
			return false
		}
	}
	return true
}

// CutScheme returns s without the leading prefix, which it matches without regard to case.
func CutScheme(s, prefix string) (rest string, ok bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// shorten cuts s, which is ASCII because the URL's parts were escaped, to maxRedacted bytes.
func shorten(s string) string {
	if len(s) <= maxRedacted {
		return s
	}
	return s[:maxRedacted] + "…"
}
