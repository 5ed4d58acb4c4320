package vision

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// wantError fails the test unless err is an *Error whose text contains part and not the API key, however it is printed.
func wantError(t *testing.T, err error, part string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if !strings.Contains(e.Error(), part) {
		t.Errorf("got %q, want it to contain %q", e, part)
	}
	if s := fmt.Sprintf("%v %+v %#v", err, err, *e); strings.Contains(s, testKey) {
		t.Errorf("the error shows the API key: %s", s)
	}
	return e
}

func TestFailures(t *testing.T) {
	t.Parallel()
	echo := `{"error":{"message":"key ` + testKey + ` and data:image/jpeg;base64,` + strings.Repeat("QUJD", 100) + `","type":"t","code":"c"}}`
	quota := `{"error":{"message":"You exceeded your quota","type":"insufficient_quota","code":"insufficient_quota"}}`
	tests := []struct {
		name   string
		answer answer
		want   Error
		part   string
	}{
		{"429", fails(429, echo), Error{StatusCode: 429, Class: RateLimited}, "Too Many Requests: key [redacted] and […]"},
		{"429, seconds", fails(429, `{}`, "Retry-After", "7"), Error{StatusCode: 429, Class: RateLimited, RetryAfter: 7 * time.Second}, "429"},
		{"429, no quota", fails(429, quota, "Retry-After", "7"), Error{StatusCode: 429, Class: Quota, RetryAfter: 7 * time.Second}, "billing"},
		{"402", fails(402, `{"error":{"message":"Insufficient credits","code":402}}`), Error{StatusCode: 402, Class: Quota}, "Insufficient credits"},
		{"408", fails(408, ``), Error{StatusCode: 408, Class: Overloaded}, "408"},
		{"500", fails(500, echo), Error{StatusCode: 500, Class: Overloaded}, "500"},
		{"503, seconds", fails(503, `<html>`, "Retry-After", "1.5"), Error{StatusCode: 503, Class: Overloaded, RetryAfter: 1500 * time.Millisecond}, "503"},
		{"529, without a text", fails(529, `{"error":"overloaded"}`), Error{StatusCode: 529, Class: Overloaded}, "HTTP 529: overloaded"},
		{"400", fails(400, echo), Error{StatusCode: 400, Class: Invalid}, "ONCEOVER_VISION_MODEL"},
		{"401", fails(401, echo), Error{StatusCode: 401, Class: Denied}, "check ONCEOVER_VISION_API_KEY"},
		{"403", fails(403, echo), Error{StatusCode: 403, Class: Denied}, "ONCEOVER_VISION_API_KEY"},
		{"404", fails(404, `{"message":"The model does not exist"}`), Error{StatusCode: 404, Class: NotFound}, "does not exist: no such model or path: check ONCEOVER_VISION_MODEL"},
		{"huge error", fails(500, `{"error":{"message":"`+strings.Repeat("x", 3*maxAnswerBytes)+`"}}`), Error{StatusCode: 500, Class: Overloaded}, "500"},
		{"redirect", fails(307, `{}`, "Location", "http://192.0.2.1/"), Error{StatusCode: 307, Class: NotFound}, "ONCEOVER_VISION_URL"},
		{"not JSON", fails(200, `<html>`, "Content-Type", "text/html"), Error{Class: Unreachable}, `not JSON but "text/html"`},
		{"not JSON in spite of its type", fails(200, `<html>`), Error{Class: Unreachable}, "cannot be read"},
		{"null", fails(200, `null`), Error{Class: Unreachable}, "cannot be read"},
		{"cut off", fails(200, `{"choices":[`), Error{Class: Unreachable}, "cannot be read"},
		{"huge", fails(200, `{"choices":[{"message":{"content":"`+strings.Repeat("x", 3*maxAnswerBytes)+`"}}]}`), Error{Class: Unusable}, "larger than 1048576 bytes"},
		{"no choices", fails(200, `{"choices":[]}`), Error{Class: Overloaded}, "no choices"},
		{"error under status 200", fails(200, echo), Error{StatusCode: 500, Class: Overloaded}, "Internal Server Error: key [redacted]"},
		{"refusal", completion(map[string]any{"role": "assistant", "content": nil, "refusal": "I cannot help with that."}, "stop"), Error{Class: Refused}, "refused to answer: I cannot help"},
		{"content filter", completion(map[string]any{"role": "assistant", "content": ""}, "content_filter"), Error{Class: Refused}, "refused"},
		{"connection closed", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Error{Class: Unreachable}, "reach the endpoint: EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, tt.answer)
			_, usage, err := s.analyzer(t).Analyze(t.Context(), testPreview(t), Options{})
			got := *wantError(t, err, tt.part)
			if got.Err = nil; got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if n := utf8.RuneCountInString(err.Error()); n > 600 {
				t.Errorf("the error has %d characters, want a short one", n)
			}
			if usage.Calls != 1 {
				t.Errorf("usage: got %+v, want one call", usage)
			}
			s.calls(t, 1) // no retries of the library's own
		})
	}
}

func TestConnectionRefused(t *testing.T) {
	t.Parallel()
	o, err := NewOpenAI(OpenAIConfig{BaseURL: "http://127.0.0.1:1", Model: "m", APIKey: testKey, Prompts: defaultPrompts(t)})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = o.Analyze(t.Context(), testPreview(t), Options{})
	if e := wantError(t, err, "connection refused"); e.Class != Unreachable || e.StatusCode != 0 || strings.Contains(e.Error(), "chat/completions") {
		t.Errorf("got %+v, want a transient error without the URL", e)
	}
}

// hang answers nothing until the client has gone; it announces each request on asked.
func hang(asked chan<- struct{}) answer {
	return func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}
}

func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	s := newService(t, hang(asked))
	cause := errors.New("revoked")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(cause)
	}()
	o := s.analyzer(t)
	_, usage, err := o.Analyze(ctx, testPreview(t), Options{})
	if e := (*Error)(nil); !errors.Is(err, cause) || errors.As(err, &e) {
		t.Errorf("got %v, want the cause and no *Error", err)
	}
	if usage.Calls != 1 {
		t.Errorf("usage: got %+v, want one call", usage)
	}
	if _, usage, err = o.Analyze(ctx, testPreview(t), Options{}); !errors.Is(err, cause) || usage != (Usage{}) {
		t.Errorf("after the end: got %+v, %v, want the cause at no cost", usage, err)
	}
	s.calls(t, 1)
}

func TestOwnTimeout(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	slowBody := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"choices":`)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for name, answer := range map[string]answer{"no answer": hang(asked), "half an answer": slowBody} {
		s := newService(t, answer)
		o := s.analyzer(t, func(c *OpenAIConfig) { c.Timeout = 200 * time.Millisecond })
		_, _, err := o.Analyze(t.Context(), testPreview(t), Options{})
		if e := wantError(t, err, "no answer within 200ms"); e.Class != Unreachable {
			t.Errorf("%s: got class %s, want %s", name, e.Class, Unreachable)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name, value string
		want        time.Duration
	}{
		{"Retry-After", "30", 30 * time.Second},
		{"Retry-After", "Sat, 21 Nov 2026 12:01:30 GMT", 90 * time.Second},
		{"Retry-After", "Sat, 21 Nov 2026 11:00:00 GMT", 0},
		{"Retry-After", "Mon, 21 Nov 2099 11:00:00 GMT", maxRetryAfter},
		{"Retry-After", "-5", 0},
		{"Retry-After", "1e300", maxRetryAfter},
		{"Retry-After", "NaN", 0},
		{"Retry-After", "Inf", maxRetryAfter},
		{"Retry-After", "soon", 0},
		{"Retry-After", "", 0},
		{"Retry-After-Ms", "250", 250 * time.Millisecond},
	}
	for _, tt := range tests {
		if got := waitOf(http.Header{tt.name: {tt.value}}, serverError{}, now); got != tt.want {
			t.Errorf("%s %q: got %v, want %v", tt.name, tt.value, got, tt.want)
		}
	}
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, want string }{{"", ""}, {"가나다", "가나다"}, {"가나다라", "가나…"}, {"abcdef", "ab…"}} {
		if got := truncate(tt.in, 3); got != tt.want {
			t.Errorf("truncate(%q, 3): got %q, want %q", tt.in, got, tt.want)
		}
	}
}

func FuzzServerError(f *testing.F) {
	f.Add([]byte(`{"error":{"message":"key `+testKey+` wrong","type":"t","code":401}}`), "7")
	f.Add([]byte(`{"error":"model not found"}`), "Sat, 21 Nov 2026 12:01:30 GMT")
	f.Add([]byte(`{"message":"m","error":null}`), "1e9")
	f.Fuzz(func(t *testing.T, body []byte, after string) {
		read := readError(body)
		text := serverText(read.message, testKey)
		if strings.Contains(text, testKey) || utf8.RuneCountInString(text) > maxServerText || strings.ContainsAny(text, "\r\n\x00") {
			t.Errorf("got %q, want a short line without the key", text)
		}
		if d := waitOf(http.Header{"Retry-After": {after}}, read, time.Now()); d < 0 || d > maxRetryAfter {
			t.Errorf("retry after %q: got %v, want 0 to %v", after, d, maxRetryAfter)
		}
	})
}
