package source

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRequote(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		" https://h/a b.jpg?q=x y\n":       "https://h/a%20b.jpg?q=x%20y",
		"https://h/사진.jpg":                 "https://h/%EC%82%AC%EC%A7%84.jpg",
		"https://h/a%20b.jpg?x=%ed%95%9c":  "https://h/a%20b.jpg?x=%ed%95%9c",
		"https://h/100%.jpg":               "https://h/100%25.jpg",
		"https://h/50%zz%4":                "https://h/50%25zz%254",
		"https://u:p@[::1]:8/a;b=c,d!*'()": "https://u:p@[::1]:8/a;b=c,d!*'()",
		`https://h/a|b^c"<d>\e`:            "https://h/a%7Cb%5Ec%22%3Cd%3E%5Ce",
		"https://h/a?b=[1]#f":              "https://h/a?b=[1]#f",
		"https://그림.example/a b":           "https://그림.example/a%20b",
		"//h%zz/a b":                       "//h%zz/a%20b",
		"/a b?u=http://h%zz/":              "/a%20b?u=http://h%25zz/",
		"https://h%zz":                     "https://h%zz",
	} {
		if got := requote(raw); got != want {
			t.Errorf("%q: got %q, want %q", raw, got, want)
		}
	}
}

// TestAsRequests fetches what Python's requests fetches: URLs that are not quite, in the job and in a redirect, and bodies in a
// coding that nobody asked for.
func TestAsRequests(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("picture "), 500)
	coded := func(w func(io.Writer) io.WriteCloser) []byte {
		var out bytes.Buffer
		z := w(&out)
		if _, err := z.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	gz := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	zl := func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }
	raw := func(w io.Writer) io.WriteCloser {
		z, err := flate.NewWriter(w, 6)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	twice := func() []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, _ = z.Write(coded(zl))
		_ = z.Close()
		return out.Bytes()
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("got Accept-Encoding %q", got)
		}
		body, coding := content, strings.TrimPrefix(r.URL.Path, "/coded/")
		switch coding {
		case "gzip", "GZIP":
			body = coded(gz)
		case "deflate":
			body = coded(zl)
		case "raw":
			body, coding = coded(raw), "deflate"
		case "deflate, gzip":
			body = twice()
		case "broken":
			coding = "gzip"
		case "members":
			body, coding = append(coded(gz), make([]byte, 20)...), "gzip"
		case "dictionary":
			body, coding = []byte{0x78, 0xbb, 0, 0, 0, 0}, "deflate"
		case "nothing":
			body, coding = nil, "gzip"
		case "many":
			body = content
			for range maxCodings + 1 {
				var out bytes.Buffer
				z := gzip.NewWriter(&out)
				_, _ = z.Write(body)
				_ = z.Close()
				body = out.Bytes()
			}
			coding = "gzip, gzip, gzip, gzip"
		case "empty members":
			var out bytes.Buffer
			for range 1000 {
				z := gzip.NewWriter(&out)
				_ = z.Close()
			}
			body, coding = out.Bytes(), "gzip"
		case "aws-chunked":
		case "/사진 1.jpg":
			if r.URL.RawQuery != "q=%ED%95%9C%20%EA%B8%80" {
				t.Errorf("got query %q", r.URL.RawQuery)
			}
			coding = ""
		case "/moved":
			w.Header().Set("Location", " /사진 1.jpg?q=한 글 ")
			w.WriteHeader(http.StatusFound)
			return
		default:
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Encoding", coding)
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	cfg := DefaultConfig()
	cfg.Allow = []string{"127.0.0.1"}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	for _, path := range []string{"/coded/gzip", "/coded/GZIP", "/coded/deflate", "/coded/raw", "/coded/deflate, gzip", "/coded/aws-chunked", "/coded/members", "/사진 1.jpg?q=한 글", "/moved"} {
		if got, err := f.Fetch(t.Context(), " "+server.URL+path+"\n"); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: got %d bytes, %v, want the content", path, len(got), err)
		}
	}
	for path, want := range map[string]string{
		"broken": "not in the content coding", "dictionary": "not in the content coding", "nothing": "empty", "many": "more than 3", "empty members": "empty",
	} {
		if _, err := f.Fetch(t.Context(), server.URL+"/coded/"+path); asError(err) == nil || asError(err).Kind != Unusable || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an Unusable error with %q", path, err, want)
		}
	}
	if _, err := f.Fetch(t.Context(), server.URL+"/100%.jpg\n"); asError(err) == nil || !strings.Contains(err.Error(), "100%25.jpg") {
		t.Errorf("got %v, want the URL in it", err)
	}
	cfg.MaxBytes = int64(len(content)) - 1
	small, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(small.Close)
	if _, err := small.Fetch(t.Context(), server.URL+"/coded/gzip"); asError(err) == nil || asError(err).Kind != TooLarge {
		t.Errorf("got %v, want that it is too large", err)
	}
}
