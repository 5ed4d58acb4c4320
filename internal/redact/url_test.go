package redact

import (
	"net/url"
	"strings"
	"testing"
)

func TestURL(t *testing.T) {
	t.Parallel()
	tests := []struct{ url, want string }{
		{"https://h/a/b.png", "https://h/a/b.png"},
		{"https://u:p@h:8443/a?sig=1#f", "https://h:8443/a"},
		{"HTTPS://H/a%2Fb", "https://H/a%2Fb"},
		{"http://[::1]:80/a", "http://[::1]:80/a"},
		{"http://h", "http://h"},
		{"http://h?sig", "http://h"},
		{"http://h/@p/x", "http://h/@p/x"},
		{"http://u:p/", "invalid URL (11 bytes)"}, // the password would be the port
		{"http://u:p@%zz/", "invalid URL (15 bytes)"},
		{"http://h/\n", "invalid URL (10 bytes)"},
		{"http:secret", "http:…"},
		{"http://?secret", "http:…"},
		{"mailto:a@b", "mailto:…"},
		{"iVBORw0KGgo", "invalid URL (11 bytes)"}, // a body without its "data:"
		{"", "invalid URL (0 bytes)"},
		{"file:///data/a%20b.png?x", "file:///data/a%20b.png"},
		{"s3://bucket/a/b.png", "s3://bucket/a/b.png"},
		{"s3://key:secret@bucket/a", "s3://bucket/a"},
		{"s3://bucket/a?versionId=1#x", "s3://bucket/a"},
		{"s3://bucket/100%\n", "s3://bucket/100%25%0A"},
		{"s3://bucket", "s3://bucket/"},
		{"http://플/\u202e", "http://%ED%94%8C/%E2%80%AE"},
		{"data:image/png;base64,AAAA", "data:image/png;… (4 bytes)"},
		{"data:image/svg+xml;charset=utf-8,<svg/>", "data:image/svg+xml;… (6 bytes)"},
		{"DATA:image/png,AB", "data:image/png;… (2 bytes)"},
		{"data:,secret", "data:… (6 bytes)"},
		{"data:secret", "data:… (6 bytes)"},
		{"data:not a type/x;base64,AA", "data:… (2 bytes)"},
		{"https://h/" + strings.Repeat("p", 600), "https://h/" + strings.Repeat("p", 490) + "…"},
	}
	for _, tt := range tests {
		if got := URL(tt.url); got != tt.want {
			t.Errorf("URL(%q): got %q, want %q", tt.url, got, tt.want)
		}
	}
}

// FuzzURL puts a secret into each place where one may stand, around which the fuzzer writes what it likes, and wants it gone
// unless the parser says that it stands in the host or path after all.
func FuzzURL(f *testing.F) {
	for _, scheme := range []string{"http://", "https://", "s3://", "file://", "data:", "HTTP://", "mailto:", ""} {
		f.Add(scheme, "user", "host", "/path/a.png", "sig=1", "image/png;base64,AAAA")
		f.Add(scheme, "", "[fe80::1%25e]:80", "", "", ",")
		f.Add(scheme, "u:p", "h\n", "%zz\x00", "#", "no comma")
		f.Add(scheme, "@", "", "//", "?", ";a/b,c,d")
	}
	const secret = "S3CR3T"
	f.Fuzz(func(t *testing.T, scheme, user, host, path, query, body string) {
		for _, rawURL := range []string{
			scheme + user + secret + "@" + host + path + "?" + query,
			scheme + user + ":" + secret + "@" + host + path,
			scheme + host + path + "?" + query + secret,
			scheme + host + path + "#" + query + secret,
			scheme + user + "@" + host + path + "?" + query,
		} {
			got := URL(rawURL)
			checkRedacted(t, rawURL, got)
			if !strings.Contains(got, secret) {
				continue
			}
			// Right only where it does stand in the host or path, as in "http://h/S3CR3T@x".
			if !strings.Contains(hostAndPath(rawURL), secret) {
				t.Errorf("URL(%q): got %q, which shows the secret", rawURL, got)
			}
		}
		for _, rawURL := range []string{"data:" + body + "," + secret, "data:" + secret, "data:;base64," + secret + body, secret + body} {
			got := URL(rawURL)
			checkRedacted(t, rawURL, got)
			if strings.Contains(got, secret) && !strings.HasPrefix(rawURL, secret) {
				t.Errorf("URL(%q): got %q, which shows the body", rawURL, got)
			}
		}
	})
}

// hostAndPath returns the parts of a URL that may be shown.
func hostAndPath(rawURL string) string {
	if rest, ok := CutScheme(rawURL, "s3://"); ok {
		if i := strings.IndexAny(rest, "?#"); i >= 0 {
			rest = rest[:i]
		}
		bucket, key, _ := strings.Cut(rest, "/")
		return bucket[strings.LastIndexByte(bucket, '@')+1:] + "/" + key
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return u.Scheme + u.Host + u.EscapedPath()
}

// checkRedacted checks what holds for every result.
func checkRedacted(t *testing.T, rawURL, got string) {
	t.Helper()
	if strings.ContainsAny(got, "?#") && !strings.HasPrefix(got, "data:") {
		t.Errorf("URL(%q): got %q, want neither query nor fragment", rawURL, got)
	}
	if len(got) > maxRedacted+100 || strings.IndexFunc(got, notPlain) >= 0 {
		t.Errorf("URL(%q): got %q, want short, printable ASCII", rawURL, got)
	}
	if u, err := url.Parse(got); err == nil && u.User != nil {
		t.Errorf("URL(%q): got %q, want no userinfo", rawURL, got)
	}
}

// notPlain is for characters other than printable ASCII and our own ellipsis.
func notPlain(r rune) bool { return (r < ' ' || r > '~') && r != '…' }
