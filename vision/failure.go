package vision

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
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
			// What is large, the picture, goes past the buffers; an answer has one or two KB. Each call in flight has both.
			t.ReadBufferSize, t.WriteBufferSize = 1<<10, 1<<10
			c.Transport = t
		}
	}
	client := *c
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}

// callFailure classifies a call that gave no completion, by the reply if there is one, else by err.
func (o *OpenAI) callFailure(model string, r *reply, err error) error {
	switch {
	case r == nil:
		return o.failure(model, &Error{Class: Unreachable}, "reach the endpoint", o.clean(err.Error()), "check "+o.setting("ONCEOVER_VISION_URL", "url")+" if this lasts")
	case errors.Is(err, errAnswerTooLarge) && r.ok():
		return o.failure(model, &Error{Class: Unusable}, fmt.Sprintf("the answer is larger than %d bytes", maxAnswerBytes))
	case r.ok():
		return o.failure(model, &Error{Class: Unreachable}, o.answerFault(r, err))
	}
	return o.serverFailure(model, r.status, r.header, readError(r.body))
}

// serverFailure is the error that a server reports, under its status or inside of an answer.
func (o *OpenAI) serverFailure(model string, status int, h http.Header, s serverError) *Error {
	e := &Error{StatusCode: status, RetryAfter: waitOf(h, s, time.Now())}
	e.Class = classOf(status, s, e.RetryAfter)
	text := s.message
	if e.Class == Denied {
		text = "" // usually repeats a part of the key
	}
	what := strings.TrimSpace(fmt.Sprintf("HTTP %d %s", status, http.StatusText(status)))
	return o.failure(model, e, what, o.clean(text), o.remedy(e))
}

// Codes by which servers name what an HTTP status leaves open. They are compared whole: a limit that is taken for a
// quota ends work, a quota that is taken for a limit is only asked again.
var (
	quotaCodes = []string{
		"insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded", "project_spend_limit_exceeded",
		"organization_usage_limit_exceeded", "billing_hard_limit_reached", "billing_not_active", "access_terminated", // OpenAI
		"budget_exceeded", "insufficient_balance", "insufficient_credits", "payment_required", "insufficient_user_quota", // LiteLLM, DeepSeek, gateways
		"arrearage", "1113", "model_rate_limit_daily", // DashScope, Zhipu
	}
	filterCodes = []string{
		"content_filter", "responsibleaipolicyviolation", "content_policy_violation", "data_inspection_failed", "moderation", "moderation_blocked",
		"prohibited_content", "safety", "image_content_policy_violation",
	}
	// What the model wrote did not pass the server's own check (Groq).
	brokenCodes = []string{"json_validate_failed"}
)

// classOf tells what kind of fault a status and what the server says are.
func classOf(status int, s serverError, wait time.Duration) Class {
	text := strings.ToLower(s.message)
	says := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	// The request itself is at fault.
	request := status == http.StatusBadRequest || status == http.StatusForbidden || status == http.StatusUnprocessableEntity
	switch {
	case status == http.StatusPaymentRequired, s.has(quotaCodes...), says("budget has been exceeded", "exceeded budget", "exceededbudget", "insufficient balance", "credit balance is too low"):
		return Quota
	case s.has(brokenCodes...):
		return Unusable
	case s.has(filterCodes...), request && (s.reasons || says("content management policy", "flagged by", "content policy", "safety system") || flagged.MatchString(text)):
		return Refused
	case status == http.StatusTooManyRequests && says("request too large", "must be reduced"): // it never fits under the limit
		return Invalid
	case status >= 500 && says("image input is not supported", "does not support image", "not a multimodal model"): // llama.cpp and others
		return Invalid
	case status == http.StatusTooManyRequests && wait == 0 && strings.Contains(s.limit, "PerDay"), status == http.StatusTooManyRequests && wait > longWait:
		return Quota
	case status == http.StatusTooManyRequests, s.has("rate_limit_exceeded", "resource_exhausted"):
		return RateLimited
	case status == statusCapacity, status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooEarly, status >= 500:
		return Overloaded
	case status == http.StatusUnauthorized, status == http.StatusForbidden, s.has("invalid_api_key", "api_key_invalid"):
		return Denied
	case status == http.StatusNotFound, s.has("model_not_found", "model_not_exist"), status == http.StatusBadRequest && (says("unknown model", "invalid model") || noModel.MatchString(text)):
		return NotFound
	case request && (s.has("unsupported_response_format") || says("response_format", "json_schema", "response format", "structured output", "responseschema", "response_schema", "guided_json") || says("unknown name") && says("schema", "additionalproperties")):
		return Unsupported
	case status >= 300 && status < 400:
		return NotFound
	default:
		return Invalid
	}
}

// flagged finds that what was sent was objected to, not who has sent it.
var flagged = regexp.MustCompile(`\b(input|content|image|picture|prompt|request) (was|were|has been|is) flagged`)

// noModel finds that a model is not there.
var noModel = regexp.MustCompile(`model\s+\S+\s+(does not exist|not found|was not found|is not found)`)

const (
	statusCapacity = 498 // Groq: no capacity for flex processing
	// longWait is from where on a rate limit is none that a minute or an hour cures, as of a monthly plan.
	longWait = 6 * time.Hour
)

// answerFault says what is wrong with an answer of status 2xx that is not a completion.
func (o *OpenAI) answerFault(r *reply, err error) string {
	switch {
	case !strings.Contains(r.header.Get("Content-Type"), "json"):
		return fmt.Sprintf("the answer is not JSON but %q: check that %s is the base URL of the API", o.clean(r.header.Get("Content-Type")), o.setting("ONCEOVER_VISION_URL", "url"))
	case err == nil:
		return "the answer cannot be read: it is null"
	default: // cut off, or not JSON after all
		return "the answer cannot be read: " + o.clean(err.Error())
	}
}

// setting names where something is set: a variable, or a field in the file of models.
func (o *OpenAI) setting(variable, field string) string {
	if o.name == onlyEndpoint {
		return variable
	}
	return fmt.Sprintf("%s of endpoint %s in the file of models", field, o.name)
}

// remedy says what an operator can do about an error; empty if nothing.
func (o *OpenAI) remedy(e *Error) string {
	key, model, url := o.setting("ONCEOVER_VISION_API_KEY", "the key"), o.setting("ONCEOVER_VISION_MODEL", "model"), o.setting("ONCEOVER_VISION_URL", "url")
	switch e.Class {
	case Quota:
		return "the account has no quota left: check its plan and billing"
	case Denied:
		if e.StatusCode == http.StatusForbidden {
			return "the API key may not use this model or endpoint: check the rights of " + key
		}
		return "the endpoint does not accept the API key: check " + key
	case NotFound:
		if e.StatusCode >= 300 && e.StatusCode < 400 {
			return "the endpoint is elsewhere: set " + url + " to its final address"
		}
		return "no such model or path: check " + model + ", and that " + url + " is the base URL of the API, such as https://api.openai.com/v1"
	case Unsupported:
		return "the endpoint does not take this form of JSON output: see onceover vision check"
	case Invalid:
		if e.StatusCode == http.StatusRequestEntityTooLarge || e.StatusCode == http.StatusTooManyRequests {
			return "the request is larger than the endpoint takes: raise its limit, or shorten the prompt"
		}
		return "the endpoint does not accept the request: check that " + model + " takes pictures, with onceover vision check"
	case Truncated:
		return "the answer was cut off at the limit of tokens: set max_completion_tokens, or less reasoning, in the prompt's config, or choose a model that thinks less"
	}
	return ""
}

// refusalIn finds an error in a completion: some servers report errors under status 200, and Azure's Foundry sends a
// completion under status 400.
func (o *OpenAI) refusalIn(model string, h http.Header, c *chatCompletion) *Error {
	raw := c.Error
	if len(c.Choices) > 0 && readError(c.Choices[0].Error).says() {
		raw = c.Choices[0].Error
	}
	if s := readError(raw); s.says() {
		if s.status == 0 {
			s.status = http.StatusInternalServerError
		}
		return o.serverFailure(model, s.status, h, s)
	}
	if len(c.Choices) == 0 {
		return o.failure(model, &Error{Class: Overloaded}, "the answer has no choices")
	}
	choice := c.Choices[0]
	if choice.Message.Refusal.value != "" || choice.FinishReason.value == "content_filter" {
		return o.failure(model, &Error{Class: Refused}, "the model refused to answer", o.clean(choice.Message.Refusal.value))
	}
	return nil
}

// failure completes e with what was being done, at which endpoint if there are several, and what went wrong; empty details
// are left out.
func (o *OpenAI) failure(model string, e *Error, what string, details ...string) *Error {
	text := what
	for _, d := range details {
		if d != "" {
			text += ": " + d
		}
	}
	at := ""
	if o.name != onlyEndpoint {
		at = " at endpoint " + o.name
	}
	e.Err = fmt.Errorf("ask vision model %q%s: %w", model, at, errors.New(text))
	return e
}
