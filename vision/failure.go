package vision

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/openai/openai-go/v3/option"
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

var errAnswerTooLarge = errors.New("answer too large")

// boundAnswer is middleware of the client library, which itself reads answers of any size into memory.
func boundAnswer(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
	resp, err := next(req)
	if resp != nil && resp.Body != nil {
		resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxAnswerBytes}
	}
	return resp, err
}

// boundedBody fails with errAnswerTooLarge where a body goes on after left bytes.
type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if len(p) > b.left+1 {
		p = p[:b.left+1] // one more than allowed shows that there is more
	}
	n, err := b.ReadCloser.Read(p)
	if n > b.left {
		return b.left, errAnswerTooLarge
	}
	b.left -= n
	return n, err
}

// callFailure classifies a call that gave no completion, by the response if there is one (its status is known even
// where its body could not be read), else by err.
func (o *OpenAI) callFailure(model string, resp *http.Response, err error) error {
	if resp == nil {
		// Without the URL that net/http puts before its errors.
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return failure(model, &Error{Transient: true}, "reach the endpoint", o.clean(err.Error()), "check ONCEOVER_VISION_URL if this lasts")
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return failure(model, &Error{Transient: true}, o.answerFault(resp, err))
	}

	var quota bool
	var text string
	if body, err := io.ReadAll(resp.Body); err == nil { // in memory already, put back by the library
		quota, text = serverError(body)
	}
	e := &Error{
		StatusCode: resp.StatusCode,
		Quota:      quota || resp.StatusCode == http.StatusPaymentRequired,
		RetryAfter: retryAfter(resp.Header, time.Now()),
	}
	e.Transient = e.Quota || resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500
	what := strings.TrimSpace(fmt.Sprintf("HTTP %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
	if resp.StatusCode == http.StatusUnauthorized {
		text = "" // usually repeats a part of the key
	}
	return failure(model, e, what, o.clean(text), remedy(e))
}

// answerFault says what is wrong with an answer of status 2xx that is not a completion.
func (o *OpenAI) answerFault(resp *http.Response, err error) string {
	switch {
	case errors.Is(err, errAnswerTooLarge):
		return fmt.Sprintf("the answer is larger than %d bytes", maxAnswerBytes)
	case !strings.Contains(resp.Header.Get("Content-Type"), "json"):
		return fmt.Sprintf("the answer is not JSON but %q: check that ONCEOVER_VISION_URL is the base URL of the API", o.clean(resp.Header.Get("Content-Type")))
	default: // cut off, not JSON after all, or null
		return "the answer cannot be read: " + o.clean(fmt.Sprint(err))
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
