package upload_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"onceover/internal/source"
	"onceover/internal/testenv"
	"onceover/internal/upload"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// fetcher is what a worker fetches with.
func fetcher(t *testing.T, change func(*source.Config)) *source.Fetcher {
	t.Helper()
	cfg := source.DefaultConfig()
	change(&cfg)
	f, err := source.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func open(t *testing.T, target string, s3 source.S3Config) upload.Store {
	t.Helper()
	s, err := upload.Open(target, s3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

var errCut = errors.New("the client went away")

// TestFolder keeps pictures where a worker finds them, and nothing of those that did not arrive.
func TestFolder(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "up loads", "100%")
	s := open(t, dir, source.S3Config{})
	worker := fetcher(t, func(c *source.Config) { c.Root = root })
	files := func() []string {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return out
	}
	one, err := s.Put(t.Context(), strings.NewReader("picture one"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.Put(t.Context(), strings.NewReader("picture two"))
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{one: "picture one", two: "picture two"} {
		if got, err := worker.Fetch(t.Context(), url); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", url, got, err, want)
		}
	}
	if _, err := s.Put(t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errCut))); !errors.Is(err, errCut) {
		t.Errorf("got %v, want the error of the reader", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errCut)
	if _, err := s.Put(ctx, strings.NewReader("x")); !errors.Is(err, errCut) {
		t.Errorf("got %v, want why the context ended", err)
	}
	if got := files(); len(got) != 2 {
		t.Errorf("got files %v, want those of the two pictures", got)
	}
	if err := s.Remove(t.Context(), one); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), one); err != nil {
		t.Errorf("got %v for one that is not there any more", err)
	}
	for _, foreign := range []string{"file:///etc/passwd", "file://" + dir + "/../x", "s3://b/k", "%", "file://" + dir + "/a/b"} {
		if err := s.Remove(t.Context(), foreign); err == nil {
			t.Errorf("%s: got no error", foreign)
		}
	}

	// What is old goes, and only what uploads have left.
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * time.Hour)
	for _, name := range files() {
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	young, err := s.Put(t.Context(), strings.NewReader("young"))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Sweep(t.Context(), time.Hour); err != nil || n != 1 {
		t.Errorf("got %d, %v, want the old one removed", n, err)
	}
	if got, want := files(), []string{filepath.Base(young), "notes.txt"}; !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestFolderBehindALink has a worker find the picture by the name that both were given.
func TestFolderBehindALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "real"), link); err != nil {
		t.Fatal(err)
	}
	url, err := open(t, filepath.Join(link, "in"), source.S3Config{}).Put(t.Context(), strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	worker := fetcher(t, func(c *source.Config) { c.Root = link })
	if got, err := worker.Fetch(t.Context(), url); err != nil || string(got) != "x" {
		t.Errorf("%s: got %q, %v", url, got, err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for target, ok := range map[string]bool{
		"/var/lib/onceover": true, "s3://bucket": true, "s3://bucket/a/b": true,
		"": false, "uploads": false, "s3://": false, "s3:///x": false, "https://x": false,
	} {
		if err := upload.Check(target); (err == nil) != ok {
			t.Errorf("%q: got %v", target, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{file, filepath.Join(file, "below"), "s3://photos"} {
		if s, err := upload.Open(target, source.S3Config{Endpoint: "nonsense"}); err == nil || s != nil {
			t.Errorf("%s: got %v, %v, want an error and no store", target, s, err)
		}
	}
}

// s3 plays the service, without what has to be installed for make s3. It keeps objects, and checks that requests are signed.
type s3 struct {
	*httptest.Server
	mu       sync.Mutex
	objects  map[string][]byte
	requests []string
	refuse   string // the code of an error, "" for none
}

func newS3(t *testing.T) *s3 {
	t.Helper()
	s := &s3{objects: map[string][]byte{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *s3) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Method)
	switch {
	case s.refuse != "" || !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKID/") || err != nil:
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, "<Error><Code>%s</Code></Error>", s.refuse)
	case r.Method == http.MethodDelete:
		delete(s.objects, r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		s.objects[r.URL.Path] = plainBody(r, body)
		w.Header().Set("ETag", `"x"`)
	case r.Method == http.MethodGet:
		w.Header().Set("Last-Modified", "Sun, 02 Nov 2025 08:49:37 GMT")
		w.Header().Set("ETag", `"x"`)
		w.Write(s.objects[r.URL.Path])
	}
}

// plainBody takes a body out of the signed chunks in which it comes over HTTP without TLS.
func plainBody(r *http.Request, body []byte) []byte {
	if !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return body
	}
	var out []byte
	for {
		head, rest, ok := bytes.Cut(body, []byte("\r\n"))
		var size int
		if _, err := fmt.Sscanf(string(head), "%x", &size); !ok || err != nil || size == 0 || size > len(rest) {
			return out
		}
		out, body = append(out, rest[:size]...), rest[min(len(rest), size+2):]
	}
}

func (s *s3) config() source.S3Config {
	return source.S3Config{Endpoint: s.URL, AccessKeyID: "AKID", SecretAccessKey: "hush"}
}

func (s *s3) held() (objects, requests []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests, s.requests = s.requests, nil
	return slices.Collect(maps.Keys(s.objects)), requests
}

// TestBucket puts pictures where a worker fetches them.
func TestBucket(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	service := newS3(t)
	s := open(t, "s3://photos/in", service.config())
	worker := fetcher(t, func(c *source.Config) { c.S3 = service.config() })
	for _, size := range []int{0, 1000, 19_000_000} {
		picture := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		url, err := s.Put(t.Context(), bytes.NewReader(picture))
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if !strings.HasPrefix(url, "s3://photos/in/") {
			t.Errorf("got %s", url)
		}
		if _, got := service.held(); !slices.Equal(got, []string{"PUT"}) {
			t.Errorf("%d bytes: got requests %v, want one", size, got)
		}
		if size > 0 {
			if got, err := worker.Fetch(t.Context(), url); err != nil || !bytes.Equal(got, picture) {
				t.Errorf("%d bytes: got %d bytes back, %v", size, len(got), err)
			}
		}
		if err := s.Remove(t.Context(), url); err != nil {
			t.Error(err)
		}
		service.held()
	}
	// A client that goes away.
	if _, err := s.Put(t.Context(), io.MultiReader(bytes.NewReader(make([]byte, 6<<20)), iotest.ErrReader(errCut))); !errors.Is(err, errCut) {
		t.Errorf("got %v, want the error of the reader", err)
	}
	if objects, requests := service.held(); len(objects) != 0 || len(requests) != 0 {
		t.Errorf("got objects %v and requests %v, want none", objects, requests)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "onceover-upload-*")); err != nil || len(left) != 0 {
		t.Errorf("got temporary files %v, %v", left, err)
	}
	for _, foreign := range []string{"s3://photos/other", "s3://else/in/x", "file:///in/x"} {
		if err := s.Remove(t.Context(), foreign); err == nil {
			t.Errorf("%s: got no error", foreign)
		}
	}
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	if _, err := upload.Open("s3://photos", service.config()); err == nil || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("got %v where no temporary file can be made", err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	service.mu.Lock()
	service.refuse = "AccessDenied"
	service.mu.Unlock()
	for _, size := range []int{1, 6 << 20} {
		if _, err := s.Put(t.Context(), bytes.NewReader(make([]byte, size))); err == nil || !strings.Contains(err.Error(), "AccessDenied") || strings.Contains(err.Error(), "http") {
			t.Errorf("%d bytes: got %v, want the code and no URL", size, err)
		}
	}
}
