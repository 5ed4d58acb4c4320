package vision

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Error is a model that could not be asked, or an answer that cannot be used. Test for it with errors.As.
// It never contains the API key or picture data.
type Error struct {
	// Transient says that the same request may succeed later: a time-out, a lost connection, HTTP 408, 429 and 5xx,
	// or an answer that broke the schema even when asked again. Otherwise the request, the configuration or the
	// model's mind would have to change.
	Transient bool

	// Quota says that the account has no money or allowance left, which waiting seconds does not cure: HTTP 402, or
	// the code insufficient_quota. Such an error is Transient too, and meant to be waited out for much longer.
	Quota bool

	// RetryAfter is how long the server asked to wait; 0 if it did not say, at most 24 hours.
	RetryAfter time.Duration

	// StatusCode is the HTTP status; 0 if there was no answer or it was not the status that was wrong.
	StatusCode int

	// Err says what went wrong and, where somebody can do something about it, what.
	Err error
}

// Error returns the text of e.Err.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// maxRetryAfter bounds what a server may ask for: a job has long expired by then.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads how long a response asks to wait: Retry-After-Ms, OpenAI's finer form, or Retry-After in seconds or
// as a date (RFC 9110 section 10.2.3). It is 0 if absent, unreadable or past.
func retryAfter(h http.Header, now time.Time) time.Duration {
	wait := math.NaN() // seconds
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil {
		wait = ms / 1000
	} else if s, err := strconv.ParseFloat(h.Get("Retry-After"), 64); err == nil {
		wait = s
	} else if t, err := http.ParseTime(h.Get("Retry-After")); err == nil {
		wait = t.Sub(now).Seconds()
	}
	switch {
	case !(wait > 0): // NaN too
		return 0
	case wait > maxRetryAfter.Seconds():
		return maxRetryAfter
	default:
		return time.Duration(wait * float64(time.Second))
	}
}

const (
	maxServerText = 200 // characters of a server's own words that an error repeats
	maxServerWord = 64  // longer words are not words but picture data or keys
)

// serverText makes words that come from outside fit for an error: on one line, short, without the API key, and without
// picture data that the server may have echoed.
func serverText(s, apiKey string) string {
	if apiKey != "" {
		s = strings.ReplaceAll(s, apiKey, "[redacted]")
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
	for i, w := range words {
		if len(w) > maxServerWord {
			words[i] = "[…]"
		}
	}
	return truncate(strings.Join(words, " "), maxServerText)
}

// truncate returns s cut to at most limit characters, the last of them an ellipsis where something was left out.
func truncate(s string, limit int) string {
	n, keep := 0, 0 // characters seen; bytes of the first limit-1 of them
	for i := range s {
		if n == limit-1 {
			keep = i
		}
		if n == limit {
			return s[:keep] + "…"
		}
		n++
	}
	return s
}
