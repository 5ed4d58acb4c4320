package vision

import (
	"strings"
	"time"
)

// Class says what kind of fault an Error is, and with that what may cure it.
type Class string

// The classes, with what cures them.
const (
	Unreachable Class = "unreachable" // time: no connection, no answer in time, or one that is not of this API
	Overloaded  Class = "overloaded"  // time: the server's own fault, such as HTTP 500, 503 or 529
	RateLimited Class = "ratelimited" // time: too many requests or tokens a minute
	Quota       Class = "quota"       // money, or the next day or month: the account has nothing left
	Denied      Class = "denied"      // another key: the endpoint does not accept this one, or not for this
	NotFound    Class = "notfound"    // another model or URL
	Unsupported Class = "unsupported" // another response format or model: the endpoint does not take the request as it is
	Invalid     Class = "invalid"     // another request: the endpoint does not accept this one
	Refused     Class = "refused"     // another picture: the model or a filter before or behind it refuses to answer
	Truncated   Class = "truncated"   // a higher limit, or less thinking: the answer was cut off at the limit of tokens
	Unusable    Class = "unusable"    // another model or prompt: the answer does not satisfy the schema, nor when asked again
	Spent       Class = "spent"       // the next window, or the operator: the budget has no room for the call
	Exhausted   Class = "exhausted"   // a person: the job has had the answers that are paid for, and none could be used
)

// Retryable reports whether the same request may succeed later.
func (c Class) Retryable() bool {
	return c == Unreachable || c == Overloaded || c == RateLimited || c == Quota || c == Spent
}

// Error is a model that could not be asked, or an answer that cannot be used. Test for it with errors.As.
// It never contains the API key or picture data.
type Error struct {
	Class Class

	// RetryAfter is how long the server asked to wait; 0 if it did not say, at most 24 hours.
	RetryAfter time.Duration

	// StatusCode is the HTTP status, or the one that stands in an answer of status 200; 0 if there is none.
	StatusCode int

	// Closed says that the endpoint was not asked, as it has failed lately.
	Closed bool

	// Err says what went wrong and, where somebody can do something about it, what.
	Err error
}

// Error returns the text of e.Err.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

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
