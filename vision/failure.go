package vision

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// httpClient returns a copy of c, or a new client if c is nil, that follows no redirects.
func httpClient(c *http.Client) *http.Client {
	if c == nil {
		c = &http.Client{}
		if t, ok := http.DefaultTransport.(*http.Transport); ok {
			t = t.Clone()
			t.MaxIdleConnsPerHost = t.MaxIdleConns // all connections go to one host; the default keeps two of them
			c.Transport = t
		}
	}
	client := *c
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}

// callFailure classifies a call that gave no completion, by the reply if there is one, else by err.
func (o *OpenAI) callFailure(model string, r *reply, err error) error {
	if r == nil {
		return failure(model, &Error{Transient: true}, "reach the endpoint", o.clean(err.Error()), "check ONCEOVER_VISION_URL if this lasts")
	}
	if r.ok() {
		return failure(model, &Error{Transient: true}, o.answerFault(r, err))
	}

	quota, text := serverError(r.body)
	e := &Error{
		StatusCode: r.status,
		Quota:      quota || r.status == http.StatusPaymentRequired,
		RetryAfter: retryAfter(r.header, time.Now()),
	}
	e.Transient = e.Quota || r.status == http.StatusRequestTimeout || r.status == http.StatusTooManyRequests || r.status >= 500
	what := strings.TrimSpace(fmt.Sprintf("HTTP %d %s", r.status, http.StatusText(r.status)))
	if r.status == http.StatusUnauthorized {
		text = "" // usually repeats a part of the key
	}
	return failure(model, e, what, o.clean(text), remedy(e))
}

// answerFault says what is wrong with an answer of status 2xx that is not a completion.
func (o *OpenAI) answerFault(r *reply, err error) string {
	switch {
	case errors.Is(err, errAnswerTooLarge):
		return fmt.Sprintf("the answer is larger than %d bytes", maxAnswerBytes)
	case !strings.Contains(r.header.Get("Content-Type"), "json"):
		return fmt.Sprintf("the answer is not JSON but %q: check that ONCEOVER_VISION_URL is the base URL of the API", o.clean(r.header.Get("Content-Type")))
	case err == nil:
		return "the answer cannot be read: it is null"
	default: // cut off, or not JSON after all
		return "the answer cannot be read: " + o.clean(err.Error())
	}
}

// remedy says what an operator can do about an error; empty if nothing.
func remedy(e *Error) string {
	switch {
	case e.Quota:
		return "the account has no quota left: check its plan and billing"
	case e.Transient:
		return ""
	case e.StatusCode == http.StatusUnauthorized:
		return "the endpoint does not accept the API key: check ONCEOVER_VISION_API_KEY"
	case e.StatusCode == http.StatusForbidden:
		return "the API key may not use this model or endpoint: check the rights of ONCEOVER_VISION_API_KEY"
	case e.StatusCode == http.StatusNotFound:
		return "no such model or path: check ONCEOVER_VISION_MODEL, and that ONCEOVER_VISION_URL is the base URL of the API, such as https://api.openai.com/v1"
	case e.StatusCode < 400:
		return "the endpoint is elsewhere: set ONCEOVER_VISION_URL to its final address"
	default:
		return "the endpoint does not accept the request: check that ONCEOVER_VISION_MODEL takes pictures and JSON schema output"
	}
}

// serverError reads the message of an error body, and whether it says that the account has no quota left. Most servers
// send OpenAI's {"error": {"message", "type", "code"}}; some {"error": "message"} or {"message"}, or a number as the code.
func serverError(body []byte) (quota bool, message string) {
	var outer struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
	}
	if json.Unmarshal(body, &outer) != nil {
		return false, ""
	}
	if json.Unmarshal(outer.Error, &message) == nil {
		return false, message
	}
	var inner struct {
		Message string `json:"message"`
		Type    any    `json:"type"`
		Code    any    `json:"code"`
	}
	if json.Unmarshal(outer.Error, &inner) != nil {
		return false, outer.Message
	}
	for _, v := range []any{inner.Type, inner.Code} {
		quota = quota || v == "insufficient_quota" || v == "billing_hard_limit_reached"
	}
	return quota, inner.Message
}
