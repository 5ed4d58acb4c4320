package vision

import (
	"encoding/json"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a server may ask for: a job has long expired by then.
const maxRetryAfter = 24 * time.Hour

// waitOf reads how long a response asks to wait; 0 if it does not say. Servers say it in
//
//	retry-after-ms, x-ms-retry-after-ms   milliseconds (OpenAI, Azure)
//	retry-after                           seconds or a date (RFC 9110 section 10.2.3)
//	llm_provider-retry-after              the same, of the endpoint behind LiteLLM
//	error.details[].retryDelay            "36s" (Google's google.rpc.RetryInfo)
//	the message                           "Please try again in 1m26.4s"
//	x-ratelimit-reset-requests, -tokens   "6m0s" where x-ratelimit-remaining-… is 0 (OpenAI, Groq)
//	x-ratelimit-reset                     seconds since 1970, or milliseconds (OpenRouter)
//
// and the first of these that says anything counts.
func waitOf(h http.Header, e serverError, now time.Time) time.Duration {
	for _, name := range []string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if ms, err := strconv.ParseFloat(h.Get(name), 64); err == nil && ms > 0 {
			return bounded(ms / 1000)
		}
	}
	for _, name := range []string{"Retry-After", "Llm_provider-Retry-After"} {
		if s, err := strconv.ParseFloat(h.Get(name), 64); err == nil && s > 0 {
			return bounded(s)
		} else if t, err := http.ParseTime(h.Get(name)); err == nil && t.After(now) {
			return bounded(t.Sub(now).Seconds())
		}
	}
	if e.delay > 0 {
		return bounded(e.delay.Seconds())
	}
	if m := inMessage.FindStringSubmatch(e.message); m != nil {
		if d := duration(m[1]); d > 0 {
			return bounded(d.Seconds())
		}
	}
	longest := time.Duration(0)
	for _, kind := range []string{"Requests", "Tokens"} {
		if h.Get("X-Ratelimit-Remaining-"+kind) == "0" {
			longest = max(longest, duration(h.Get("X-Ratelimit-Reset-"+kind)))
		}
	}
	if longest > 0 {
		return bounded(longest.Seconds())
	}
	if at, err := strconv.ParseFloat(h.Get("X-Ratelimit-Reset"), 64); err == nil {
		if at > 1e11 { // milliseconds
			at /= 1000
		}
		if wait := at - float64(now.UnixMilli())/1000; wait > 0 && at > 1e9 {
			return bounded(wait)
		}
	}
	return 0
}

// bounded is a wait of so many seconds, at most maxRetryAfter.
func bounded(seconds float64) time.Duration {
	if math.IsNaN(seconds) || seconds > maxRetryAfter.Seconds() {
		return maxRetryAfter
	}
	return time.Duration(seconds * float64(time.Second))
}

// inMessage finds the wait that a message asks for.
var inMessage = regexp.MustCompile(`(?i)(?:try again|retry|retry your request)(?: after| in)\s+([0-9][0-9a-z.]*(?:\s*(?:milliseconds?|seconds?|minutes?|hours?))?)`)

// duration reads "36s", "1m26.4s", "20 seconds" or "20", which are seconds; 0 if it is neither.
func duration(s string) time.Duration {
	s = strings.TrimRight(strings.ToLower(strings.TrimSpace(s)), ".")
	if d, err := time.ParseDuration(s); err == nil {
		return d
	}
	number, unit, _ := strings.Cut(s, " ")
	n, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0
	}
	units := map[string]time.Duration{"": time.Second, "millisecond": time.Millisecond, "second": time.Second, "minute": time.Minute, "hour": time.Hour}
	return time.Duration(n * float64(units[strings.TrimSuffix(strings.TrimSpace(unit), "s")]))
}

// serverError is what a server says went wrong.
type serverError struct {
	message string
	codes   []string      // of error.type, error.code, error.status and what is nested, in lower case
	status  int           // an HTTP status among the codes
	delay   time.Duration // google.rpc.RetryInfo
	limit   string        // google.rpc.QuotaFailure's quotaId
	reasons bool          // OpenRouter's moderation gives reasons
}

// says reports whether there is an error at all: some gateways send an empty one beside a good answer.
func (e serverError) says() bool { return e.message != "" || len(e.codes) > 0 || e.status != 0 }

func (e serverError) has(codes ...string) bool {
	for _, c := range e.codes {
		for _, want := range codes {
			if c == want {
				return true
			}
		}
	}
	return false
}

// readError reads an error body: OpenAI's {"error": {"message", "type", "code"}}, {"error": "message"}, {"message"},
// {"detail"}, a list of one of these (Gemini), and what a proxy has nested in error.metadata.raw (OpenRouter) or
// error.innererror (Azure).
func readError(body []byte) serverError {
	var e serverError
	e.read(body, 0)
	return e
}

const maxNested = 5

func (e *serverError) read(raw json.RawMessage, depth int) {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil && len(list) > 0 {
		raw = list[0]
	}
	var text string
	if json.Unmarshal(raw, &text) == nil { // a message, or an error that was encoded twice
		if strings.HasPrefix(strings.TrimSpace(text), "{") && depth < maxNested {
			e.read(json.RawMessage(text), depth+1)
		} else if e.message == "" {
			e.message = text
		}
		return
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || depth > maxNested {
		return
	}
	for _, name := range []string{"code", "type", "status"} {
		var code any
		if json.Unmarshal(fields[name], &code) != nil {
			continue
		}
		switch c := code.(type) {
		case string:
			if c == "" {
				continue
			}
			e.codes = append(e.codes, strings.ToLower(c))
			if n, err := strconv.Atoi(c); err == nil {
				e.noteStatus(n)
			}
		case float64:
			e.noteStatus(int(c))
		}
	}
	for _, name := range []string{"error", "message", "msg", "detail"} {
		if fields[name] != nil {
			e.read(fields[name], depth+1)
		}
	}
	for _, name := range []string{"metadata", "raw", "innererror", "inner_error", "content_filter_result"} {
		var more map[string]json.RawMessage
		if json.Unmarshal(fields[name], &more) == nil && name != "raw" {
			if more["raw"] != nil {
				e.message = ""
				e.read(more["raw"], depth+1)
			}
			if more["code"] != nil {
				e.read(fields[name], depth+1)
			}
			var reasons []string
			e.reasons = e.reasons || json.Unmarshal(more["reasons"], &reasons) == nil && len(reasons) > 0
		}
	}
	e.details(fields["details"])
}

func (e *serverError) noteStatus(n int) {
	if e.status == 0 && n >= 400 && n < 600 {
		e.status = n
	}
}

// details reads those of Google's errors (google.rpc.Status).
func (e *serverError) details(raw json.RawMessage) {
	var details []struct {
		RetryDelay loose[string] `json:"retryDelay"`
		Reason     loose[string] `json:"reason"`
		Violations []struct {
			QuotaID loose[string] `json:"quotaId"`
		} `json:"violations"`
	}
	if json.Unmarshal(raw, &details) != nil {
		return
	}
	for _, d := range details {
		e.delay = max(e.delay, duration(d.RetryDelay.value))
		if d.Reason.value != "" {
			e.codes = append(e.codes, strings.ToLower(d.Reason.value))
		}
		for _, v := range d.Violations {
			e.limit += v.QuotaID.value
		}
	}
}
