package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestFetchHTTP(t *testing.T) {
	t.Parallel()
	picture := bytes.Repeat([]byte("pixel"), 300_000) // 1.5 MB: the buffer must grow
	for _, length := range []string{"with Content-Length", "chunked"} {
		t.Run(length, func(t *testing.T) {
			t.Parallel()
			var header http.Header
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				header = r.Header
				if length != "chunked" {
					w.Header().Set("Content-Length", fmt.Sprint(len(picture)))
				}
				w.Write(picture)
			})
			got, err := fetch(t, newTestFetcher(t, hooks{}, nil), s.URL+"/a%20b.png?sig=1#frag")
			if err != nil {
				t.Fatalf("Fetch: %v", err)
			}
			if !bytes.Equal(got, picture) {
				t.Errorf("got %d other bytes, want the %d sent", len(got), len(picture))
			}
			if got, want := header.Get("User-Agent"), "onceover/"; !strings.HasPrefix(got, want) {
				t.Errorf("got User-Agent %q, want %q…", got, want)
			}
			if got, want := header.Get("Accept-Encoding"), "identity"; got != want {
				t.Errorf("got Accept-Encoding %q, want %q", got, want)
			}
		})
	}
}

func TestFetchStatus(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status     int
		retryAfter string
		kind       Kind
		wait       time.Duration
	}{
		{204, "", Unusable, 0},
		{206, "", Unusable, 0},
		{304, "", Unusable, 0},
		{400, "", Unusable, 0},
		{401, "", Forbidden, 0},
		{403, "9", Forbidden, 0},
		{404, "", NotFound, 0},
		{408, "", Transient, 0},
		{410, "", NotFound, 0},
		{418, "", Unusable, 0},
		{425, "", Transient, 0},
		{429, "", Transient, 0},
		{429, "7", Transient, 7 * time.Second},
		{451, "", Forbidden, 0},
		{500, "", Transient, 0},
		{503, "120", Transient, 2 * time.Minute},
		{599, "soon", Transient, 0},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, tt.retryAfter), func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.status)
				if tt.status != 204 && tt.status != 304 {
					io.WriteString(w, "an explanation")
				}
			})
			_, err := fetch(t, newTestFetcher(t, hooks{}, nil), s.URL+"/p?sig=SECRET")
			e := wantKind(t, err, tt.kind, fmt.Sprintf("fetch %s/p: the server answered %d", s.URL, tt.status))
			if e.RetryAfter != tt.wait {
				t.Errorf("got RetryAfter %v, want %v", e.RetryAfter, tt.wait)
			}
		})
	}
}

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2025, 11, 2, 8, 49, 37, 0, time.UTC)
	tests := []struct {
		value string
		want  time.Duration
	}{
		{"", 0},
		{"0", 0},
		{" 30 ", 30 * time.Second},
		{"-5", 0},
		{"1.5", 0},
		{"86401", 24 * time.Hour},
		{"18446744073709551615", 24 * time.Hour},
		{"99999999999999999999", 0},
		{"Sun, 02 Nov 2025 08:50:37 GMT", time.Minute},
		{"Sunday, 02-Nov-25 08:50:37 GMT", time.Minute},
		{"Sun, 02 Nov 2025 08:48:37 GMT", 0},
		{"Wed, 02 Nov 2095 08:49:37 GMT", 24 * time.Hour},
		{"tomorrow", 0},
	}
	for _, tt := range tests {
		if got := parseRetryAfter(tt.value, now); got != tt.want {
			t.Errorf("parseRetryAfter(%q): got %v, want %v", tt.value, got, tt.want)
		}
	}
}

func TestFetchSize(t *testing.T) {
	t.Parallel()
	const limit = 100_000
	tests := []struct {
		name    string
		handler http.HandlerFunc
		kind    Kind
		size    int // of the body; 0 where an error is wanted
	}{
		{"at the cap, with Content-Length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(limit))
			w.Write(make([]byte, limit))
		}, 0, limit},
		{"at the cap, chunked", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			w.Write(make([]byte, limit))
		}, 0, limit},
		// The body never comes: only a refusal by the header ends this before a time-out, which would be Transient.
		{"over the cap by Content-Length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(limit+1))
			w.(http.Flusher).Flush()
			hang(r)
		}, TooLarge, 0},
		// The body never ends: only the cap stops this.
		{"over the cap, chunked", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write(make([]byte, 1000))
			}
		}, TooLarge, 0},
		{"empty", func(w http.ResponseWriter, r *http.Request) {}, Unusable, 0},
		{"empty, chunked", func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush() }, Unusable, 0},
		{"shorter than Content-Length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Write(make([]byte, 500))
		}, Transient, 0},
		{"chunked, cut", func(w http.ResponseWriter, r *http.Request) {
			w.Write(make([]byte, 500))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, Transient, 0},
		{"no answer", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, Transient, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tt.handler)
			f := newTestFetcher(t, hooks{}, func(c *Config) { c.MaxBytes = limit })
			got, err := fetch(t, f, s.URL)
			if tt.size == 0 {
				wantKind(t, err, tt.kind, "")
			} else if err != nil || len(got) != tt.size {
				t.Errorf("got %d bytes and error %v, want %d bytes", len(got), err, tt.size)
			}
		})
	}
}

func TestFetchTimeouts(t *testing.T) {
	t.Parallel()
	drip := func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
				io.WriteString(w, ".")
				w.(http.Flusher).Flush()
			}
		}
	}
	tests := []struct {
		name    string
		handler http.HandlerFunc
		text    string
	}{
		{"no header", func(w http.ResponseWriter, r *http.Request) { hang(r) }, "did not answer in time"},
		{"informational headers without end", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.WriteHeader(http.StatusEarlyHints)
			}
		}, ""},
		{"body of one byte at a time", drip, "the body did not arrive within 100ms"},
		{"body of a known length that stops", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "some")
			w.(http.Flusher).Flush()
			hang(r)
		}, "the body did not arrive within 100ms"},
		// Nobody may wait for the body of a redirect.
		{"redirect that drips", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/next" {
				hang(r)
				return
			}
			w.Header().Set("Location", "/next")
			w.WriteHeader(http.StatusFound)
			drip(w, r)
		}, "did not answer in time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tt.handler)
			f := newTestFetcher(t, hooks{}, func(c *Config) {
				c.HeaderTimeout = time.Second
				c.BodyTimeout = 100 * time.Millisecond
			})
			_, err := fetch(t, f, s.URL)
			wantKind(t, err, Transient, tt.text)
		})
	}
}

func TestFetchConnectErrors(t *testing.T) {
	t.Parallel()
	// Accepts connections, but never says a word of TLS.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	silent := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	plain := serve(t, func(w http.ResponseWriter, r *http.Request) {})
	untrusted, _ := serveTLS(t, func(w http.ResponseWriter, r *http.Request) {})
	tests := []struct {
		name    string
		url     string
		hooks   hooks
		timeout time.Duration
		kind    Kind
		text    string
	}{
		{"refused", "http://127.0.0.1:1", hooks{}, 10 * time.Second, Transient, "connection refused"},
		{"TLS handshake without answer", "https://" + mute.Addr().String(), hooks{}, 100 * time.Millisecond, Transient, "did not answer in time"},
		{"name server without answer", "http://pics.test/", hooks{resolver: silent}, 100 * time.Millisecond, Transient, "could not be resolved"},
		{"no TLS on the other side", "https" + strings.TrimPrefix(plain.URL, "http"), hooks{}, 10 * time.Second, Unusable, "no TLS connection"},
		{"certificate of an unknown authority", untrusted.URL, hooks{}, 10 * time.Second, Unusable, "certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newTestFetcher(t, tt.hooks, func(c *Config) { c.ConnectTimeout = tt.timeout })
			_, err := fetch(t, f, tt.url)
			wantKind(t, err, tt.kind, tt.text)
		})
	}
}

func TestFetchCancelled(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 1)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "some")
			w.(http.Flusher).Flush()
		}
		started <- struct{}{}
		hang(r)
	})
	f := newTestFetcher(t, hooks{}, nil)
	revoked := errors.New("revoked")
	for _, path := range []string{"/header", "/body"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-started
			cancel(revoked)
		}()
		_, err := f.Fetch(ctx, s.URL+path+"?sig=SECRET")
		if !errors.Is(err, revoked) {
			t.Errorf("%s: got error %v, want one that wraps the cause", path, err)
		}
		var e *Error
		if errors.As(err, &e) {
			t.Errorf("%s: got an *Error of kind %v, want none", path, e.Kind)
		}
		if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: error shows the query: %v", path, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.Fetch(ctx, s.URL+"/deadline"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the caller's deadline: got error %v, want DeadlineExceeded", err)
	}
}

func TestFetchRedirects(t *testing.T) {
	t.Parallel()
	secure, pool := serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
			return
		}
		io.WriteString(w, "secure picture")
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if referer := r.Header.Get("Referer"); referer != "" {
			t.Errorf("got Referer %q, want none", referer)
		}
		if cookie := r.Header.Get("Cookie"); cookie != "" {
			t.Errorf("got Cookie %q, want none", cookie)
		}
		http.SetCookie(w, &http.Cookie{Name: "c", Value: "v"})
		var left int
		switch n, _ := fmt.Sscanf(r.URL.Path, "/chain/%d", &left); {
		case n == 1 && left > 0:
			w.Header().Set("Location", fmt.Sprintf("%d?sig=SECRET", left-1)) // relative
			w.WriteHeader([]int{301, 302, 303, 307, 308}[left%5])
			io.WriteString(w, "moved")
		case r.URL.Path == "/to":
			w.Header()["Location"] = []string{r.URL.Query().Get("url")}
			w.WriteHeader(http.StatusFound)
		default:
			io.WriteString(w, "picture")
		}
	})
	to := func(target string) string { return s.URL + "/to?url=" + url.QueryEscape(target) }
	tests := []struct {
		name, url string
		kind      Kind
		want      string // the body, or a part of the error
		ok        bool
	}{
		{"5", s.URL + "/chain/5", 0, "picture", true},
		{"6", s.URL + "/chain/6", Unusable, "more than 5 redirects", false},
		{"http to https", to(secure.URL), 0, "secure picture", true},
		{"https to https", secure.URL + "?to=/other", 0, "secure picture", true},
		{"https to http", secure.URL + "?to=" + url.QueryEscape(s.URL+"/x?SECRET"), Forbidden, "redirect from https to " + s.URL + "/x", false},
		{"to a file", to("file:///etc/passwd"), Forbidden, "neither https nor http", false},
		{"to data", to("data:text/plain,SECRET"), Forbidden, "neither https nor http", false},
		{"to s3", to("s3://bucket/SECRET?"), Forbidden, "neither https nor http", false},
		{"to nowhere", to(""), Unusable, "without a Location", false},
		{"to a malformed URL", to("http://u:SECRET@%zz/"), Unusable, "malformed", false},
		{"to no host", to("http:///SECRET"), BadURL, "no host", false},
		{"to a wrong port", to("http://127.0.0.1:0/"), BadURL, "port", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := fetch(t, newTestFetcher(t, hooks{rootCAs: pool}, nil), tt.url)
			if tt.ok {
				if err != nil || string(got) != tt.want {
					t.Fatalf("got %q and error %v, want %q", got, err, tt.want)
				}
				return
			}
			e := wantKind(t, err, tt.kind, tt.want)
			if tt.name != "to s3" && tt.name != "to no host" && strings.Contains(e.Msg, "SECRET") {
				t.Errorf("error shows what it must not: %q", e.Msg)
			}
		})
	}
}

func TestFetchCredentialsStayWithTheirOrigin(t *testing.T) {
	t.Parallel()
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if auth := r.Header.Get("Authorization"); auth != "" {
			t.Errorf("another origin got Authorization %q, want none", auth)
		}
		io.WriteString(w, "other")
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "ann" || password != "p w" {
			t.Errorf("%s: got credentials %q:%q, want ann:p w", r.URL.Path, user, password)
		}
		switch r.URL.Path {
		case "/same":
			http.Redirect(w, r, "http://mallory:x@"+r.Host+"/picture", http.StatusFound)
		case "/other":
			http.Redirect(w, r, "http://mallory:x@"+other.Listener.Addr().String(), http.StatusFound)
		default:
			io.WriteString(w, "same")
		}
	})
	f := newTestFetcher(t, hooks{}, nil)
	for _, want := range []string{"same", "other"} {
		got, err := fetch(t, f, "http://ann:p%20w@"+s.Listener.Addr().String()+"/"+want)
		if err != nil || string(got) != want {
			t.Errorf("got %q and error %v, want %q", got, err, want)
		}
	}
}

func TestFetchUsesNoProxy(t *testing.T) {
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "by proxy") })
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "direct") })
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	f := newTestFetcher(t, hooks{resolver: resolveAll(local)}, nil)
	if got, err := fetch(t, f, "http://pics.test"+port(s)); err != nil || string(got) != "direct" {
		t.Errorf("got %q and error %v, want %q", got, err, "direct")
	}
}

// TestFetchConcurrently runs 100 fetches at once, twice, and counts connections: the second round must find the first's.
func TestFetchConcurrently(t *testing.T) {
	t.Parallel()
	const fetches = 100
	var conns atomic.Int32
	var together sync.WaitGroup // all requests of a round
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		together.Done()
		together.Wait()
		io.WriteString(w, r.URL.Path)
	})
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	f := newTestFetcher(t, hooks{}, nil)
	for range 2 {
		together.Add(fetches)
		var round sync.WaitGroup
		for i := range fetches {
			round.Go(func() {
				want := fmt.Sprint("/", i)
				if got, err := fetch(t, f, s.URL+want); err != nil || string(got) != want {
					t.Errorf("got %q and error %v, want %q", got, err, want)
				}
			})
		}
		round.Wait()
	}
	if got := conns.Load(); got != fetches {
		t.Errorf("got %d connections for 2 rounds of %d fetches, want %d", got, fetches, fetches)
	}
}
