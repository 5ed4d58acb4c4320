package source

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// lastModified is a header that every object has and the client insists on.
const lastModified = "Sun, 02 Nov 2025 08:49:37 GMT"

// s3Config points at s, with credentials. Nothing is allowed: the endpoint is exempt from the address rules.
func s3Config(s *httptest.Server) func(*Config) {
	return func(c *Config) {
		c.Allow = nil
		c.S3 = S3Config{Endpoint: s.URL, AccessKeyID: "AKID", SecretAccessKey: "hush", SessionToken: "token"}
	}
}

func TestFetchS3(t *testing.T) {
	t.Parallel()
	var got *http.Request
	handler := func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.Header().Set("ETag", `"0123"`)
		w.Header().Set("Last-Modified", lastModified)
		io.WriteString(w, "picture")
	}
	s := serve(t, handler)
	secure, pool := serveTLS(t, handler)
	tests := []struct {
		name, url string
		change    func(*Config)
		path      string // as requested
		scope     string // of the signature; "" for anonymous
	}{
		{"plain", "s3://photos/2025/a.jpg", s3Config(s), "/photos/2025/a.jpg", "us-east-1"},
		{"scheme in capitals", "S3://photos/a.jpg", s3Config(s), "/photos/a.jpg", "us-east-1"},
		{"key as it stands", "s3://photos/100%25 ?x=1#y+플라스틱", s3Config(s), "/photos/100%25 ?x=1#y+플라스틱", "us-east-1"},
		{"region", "s3://photos/a.jpg", func(c *Config) {
			s3Config(s)(c)
			c.S3.Region = "ap-northeast-2"
		}, "/photos/a.jpg", "ap-northeast-2"},
		{"anonymous", "s3://photos/a.jpg", func(c *Config) { c.S3.Endpoint = s.URL + "/" }, "/photos/a.jpg", ""},
		{"TLS", "s3://photos/a.jpg", s3Config(secure), "/photos/a.jpg", "us-east-1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data, err := fetch(t, newTestFetcher(t, hooks{rootCAs: pool}, tt.change), tt.url)
			if err != nil || string(data) != "picture" {
				t.Fatalf("got %q and error %v, want %q", data, err, "picture")
			}
			if got.URL.Path != tt.path || got.URL.RawQuery != "" {
				t.Errorf("got path %q, query %q, want path %q alone", got.URL.Path, got.URL.RawQuery, tt.path)
			}
			if agent := got.Header.Get("User-Agent"); !strings.Contains(agent, "onceover/") {
				t.Errorf("got User-Agent %q, want onceover/ in it", agent)
			}
			auth, token := got.Header.Get("Authorization"), got.Header.Get("X-Amz-Security-Token")
			if tt.scope == "" {
				if auth != "" || token != "" {
					t.Errorf("got Authorization %q and token %q, want none", auth, token)
				}
				return
			}
			if !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=AKID/") || !strings.Contains(auth, "/"+tt.scope+"/s3/aws4_request") {
				t.Errorf("got Authorization %q, want AKID's signature for %s", auth, tt.scope)
			}
			if token != "token" {
				t.Errorf("got token %q, want %q", token, "token")
			}
		})
	}
}

func TestFetchS3Errors(t *testing.T) {
	t.Parallel()
	reply := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/xml")
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(status)
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>SECRET</Message><AWSAccessKeyId>AKID</AWSAccessKeyId></Error>", code)
		}
	}
	tests := []struct {
		name    string
		handler http.HandlerFunc
		kind    Kind
		text    string
		wait    time.Duration
	}{
		{"no such key", reply(404, "NoSuchKey"), NotFound, "S3 answered NoSuchKey", 0},
		{"no such bucket", reply(404, "NoSuchBucket"), NotFound, "NoSuchBucket", 0},
		{"not an S3 reply", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, NotFound, "", 0},
		{"access denied", reply(403, "AccessDenied"), Forbidden, "AccessDenied", 0},
		{"wrong secret", reply(403, "SignatureDoesNotMatch"), Forbidden, "SignatureDoesNotMatch", 0},
		{"free text for a code", reply(403, "see SECRET"), Forbidden, "403 Forbidden", 0},
		{"slow down", reply(503, "SlowDown"), Transient, "SlowDown", 3 * time.Second},
		{"internal error", reply(500, "InternalError"), Transient, "InternalError", 3 * time.Second},
		{"request time-out", reply(400, "RequestTimeout"), Transient, "RequestTimeout", 3 * time.Second},
		{"bad gateway", reply(502, ""), Transient, "502 Bad Gateway", 3 * time.Second},
		{"another region", reply(301, "PermanentRedirect"), Unusable, "PermanentRedirect", 0},
		{"redirect inwards", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, Unusable, "307", 0},
		{"empty", func(w http.ResponseWriter, r *http.Request) {}, Unusable, "empty", 0},
		{"over the cap by Content-Length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1001")
			w.(http.Flusher).Flush()
			hang(r)
		}, TooLarge, "1000 bytes", 0},
		{"over the cap, chunked", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			w.Write(make([]byte, 1001))
		}, TooLarge, "1000 bytes", 0},
		{"headers missing", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x") }, Unusable, "without the headers", 0},
		{"cut short", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "900")
			w.Write(make([]byte, 500))
		}, Transient, "before all had arrived", 0},
		{"no answer", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, Transient, "", 0},
		{"no header", func(w http.ResponseWriter, r *http.Request) { hang(r) }, Transient, "did not answer in time", 0},
		{"body that stops", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "some")
			w.(http.Flusher).Flush()
			hang(r)
		}, Transient, "the body did not arrive", 0},
		{"error body that stops", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			w.(http.Flusher).Flush()
			hang(r)
		}, Transient, "the body did not arrive", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				if tt.name != "headers missing" {
					w.Header().Set("Last-Modified", lastModified)
				}
				tt.handler(w, r)
			})
			f := newTestFetcher(t, hooks{}, func(c *Config) {
				s3Config(s)(c)
				c.MaxBytes = 1000
				c.HeaderTimeout = time.Second
				if strings.HasSuffix(tt.name, "body that stops") {
					c.BodyTimeout = 100 * time.Millisecond
				}
			})
			_, err := fetch(t, f, "s3://photos/a.jpg")
			e := wantKind(t, err, tt.kind, tt.text)
			if !strings.HasPrefix(e.Msg, "fetch s3://photos/a.jpg: ") || strings.Contains(e.Msg, "SECRET") || strings.Contains(e.Msg, "AKID") {
				t.Errorf("got error %q, want the URL and nothing that the server wrote", e.Msg)
			}
			if e.RetryAfter != tt.wait {
				t.Errorf("got RetryAfter %v, want %v", e.RetryAfter, tt.wait)
			}
			if got := requests.Load(); got != 1 {
				t.Errorf("got %d requests, want 1: retries are not ours", got)
			}
		})
	}
}

// TestFetchS3EndpointIsExempt: the endpoint's host may be dialled for s3://, and by that for nothing else.
func TestFetchS3EndpointIsExempt(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", lastModified)
		io.WriteString(w, "picture")
	})
	f := newTestFetcher(t, hooks{}, s3Config(s))
	if _, err := fetch(t, f, "s3://photos/a.jpg"); err != nil {
		t.Errorf("by s3://: got error %v, want none", err)
	}
	_, err := fetch(t, f, s.URL+"/photos/a.jpg")
	wantKind(t, err, Forbidden, "not public")
	if errors.Unwrap(err) == nil {
		t.Error("got no cause, want the guard's refusal")
	}
}
