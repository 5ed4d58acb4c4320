package vision

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// doorman is a Gate that lets calls begin unless the endpoint is one that it closes.
type doorman struct {
	closed map[string]*Error
	calls  []Call
	ends   []End
}

func (d *doorman) Enter(_ context.Context, c Call) (Pass, error) {
	if e := d.closed[c.Endpoint]; e != nil {
		return nil, e
	}
	d.calls = append(d.calls, c)
	return d, nil
}

func (d *doorman) Leave(e End) int64 {
	d.ends = append(d.ends, e)
	return 7
}

// chainOf is a chain of two endpoints, of which the first answers so.
func chainOf(t *testing.T, g Gate, first answer, change func(*OpenAIConfig)) (c *Chain, asked, askedNext *service) {
	t.Helper()
	a, b := newService(t, first, first, first), newService(t, says(goodReply), says(goodReply))
	one := a.analyzer(t, func(c *OpenAIConfig) {
		c.Name, c.Model, c.Gate = "first", "small", g
		if change != nil {
			change(c)
		}
	})
	two := b.analyzer(t, func(c *OpenAIConfig) { c.Name, c.Model, c.Gate = "second", "large", g })
	return NewChain(nil, one, two), a, b
}

// TestCascade has a cheap model answer with a confidence: where it is not sure enough the dearer one is asked, within
// the answers that a job pays for, and where that has no answer the first one counts.
func TestCascade(t *testing.T) {
	t.Parallel()
	sure := func(confidence string) answer { return says(strings.Replace(goodReply, "0.93", confidence, 1)) }
	failing := answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	quota := answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPaymentRequired) })
	half := func(c float64) float64 { return c / 2 }
	for name, tt := range map[string]struct {
		cascade Cascade
		first   []answer
		second  answer
		opt     Options
		want    string // the model
		calls   int
		how     Cascaded
	}{
		"sure":                     {Cascade{Below: 0.8}, []answer{sure("0.8")}, sure("0.5"), Options{}, "small", 1, CascadeSure},
		"not sure":                 {Cascade{Below: 0.8}, []answer{sure("0.79")}, sure("0.5"), Options{}, "large", 2, CascadeAsked},
		"calibrated":               {Cascade{Below: 0.8, Sure: half}, []answer{sure("0.99")}, sure("0.5"), Options{}, "large", 2, CascadeAsked},
		"calibrated, sure":         {Cascade{Below: 0.4, Sure: half}, []answer{sure("0.81")}, sure("0.5"), Options{}, "small", 1, CascadeSure},
		"another field":            {Cascade{Below: 0.8, Field: "sure"}, []answer{sure("0.99")}, sure("0.5"), Options{}, "large", 2, CascadeAsked},
		"the field named":          {Cascade{Below: 0.8, Field: "confidence"}, []answer{sure("0.8")}, sure("0.5"), Options{}, "small", 1, CascadeSure},
		"of another prompt":        {Cascade{Below: 0.1, PromptVersion: "other"}, []answer{sure("0.99")}, sure("0.5"), Options{}, "large", 2, CascadeAsked},
		"the dearer one is away":   {Cascade{Below: 0.8}, []answer{sure("0.5")}, failing, Options{}, "small", 2, CascadeFailed},
		"the cheaper has no quota": {Cascade{Below: 0.8}, []answer{quota}, sure("0.5"), Options{}, "large", 2, ""},
		"the cheaper refuses":      {Cascade{Below: 0.8}, []answer{completion(map[string]any{"refusal": "no"}, "stop")}, sure("0.5"), Options{}, "large", 2, CascadeAsked},
		"the cheaper is cut off":   {Cascade{Below: 0.8}, []answer{completion(map[string]any{"content": "{"}, "length")}, sure("0.5"), Options{}, "large", 2, CascadeAsked},
		"paid for before":          {Cascade{Below: 0.8}, []answer{sure("0.5")}, sure("0.9"), Options{Paid: 1}, "small", 1, CascadeFailed},
		"repaired":                 {Cascade{Below: 0.8}, []answer{says("no"), sure("0.5")}, sure("0.9"), Options{}, "small", 2, CascadeFailed},
		"the job's own model":      {Cascade{Below: 0.8}, []answer{sure("0.5")}, sure("0.9"), Options{Model: "small"}, "small", 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			named := func(model string, a answer) answer {
				return func(w http.ResponseWriter, r *http.Request) {
					rec := httptest.NewRecorder()
					a(rec, r)
					w.WriteHeader(rec.Code)
					_, _ = w.Write([]byte(strings.Replace(rec.Body.String(), `"model":"test-model"`, `"model":"`+model+`"`, 1)))
				}
			}
			for i, a := range tt.first {
				tt.first[i] = named("small", a)
			}
			a, b := newService(t, tt.first...), newService(t, named("large", tt.second))
			one := a.analyzer(t, func(c *OpenAIConfig) { c.Name, c.Model = "first", "small" })
			two := b.analyzer(t, func(c *OpenAIConfig) { c.Name, c.Model = "second", "large" })
			got, usage, err := NewChain(&tt.cascade, one, two).Analyze(t.Context(), testPreview(t), tt.opt)
			if got.Cascade != tt.how || (got.Dearer != nil) != (tt.how == CascadeFailed) {
				t.Errorf("got cascade %q, %v, want %q", got.Cascade, got.Dearer, tt.how)
			}
			if err != nil || got.Model != tt.want || usage.Calls != tt.calls {
				t.Errorf("got %s after %d calls, %v, want %s after %d", got.Model, usage.Calls, err, tt.want, tt.calls)
			}
		})
	}
}

// TestCascadeWithoutAnAnswer has the cheaper model refuse where nothing more may be paid for, which is the job's end, and where the
// dearer one is away, which is not.
func TestCascadeWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	refuses := completion(map[string]any{"refusal": "no"}, "stop")
	for name, tt := range map[string]struct {
		opt  Options
		want Class
		at   string
	}{
		"away":     {Options{}, Overloaded, "at endpoint second"},
		"paid for": {Options{Paid: MaxPaid - 1}, Refused, "at endpoint first"},
	} {
		a, b := newService(t, refuses), newService(t, fails(503, `{}`))
		one := a.analyzer(t, func(c *OpenAIConfig) { c.Name, c.Model = "first", "small" })
		two := b.analyzer(t, func(c *OpenAIConfig) { c.Name, c.Model = "second", "large" })
		_, _, err := NewChain(&Cascade{Below: 0.8}, one, two).Analyze(t.Context(), testPreview(t), tt.opt)
		if e := wantError(t, err, tt.at); e.Class != tt.want {
			t.Errorf("%s: got %v, want class %s", name, e, tt.want)
		}
	}
}

// TestChain has the first of two endpoints fail in each way: for some the second is asked, for others the job waits or
// fails.
func TestChain(t *testing.T) {
	t.Parallel()
	failing := func(status int, header, body string) answer {
		return func(w http.ResponseWriter, _ *http.Request) {
			if header != "" {
				w.Header().Set("Retry-After", header)
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	quota := `{"error":{"message":"no money","code":"insufficient_quota"}}`
	for name, tt := range map[string]struct {
		first  answer
		change func(*OpenAIConfig)
		closed *Error
		opt    Options
		next   bool  // the second is asked
		class  Class // of the error, "" if there is none
	}{
		"answers":                  {first: says(goodReply)},
		"a limit":                  {first: failing(429, "3", ""), class: RateLimited},
		"a long limit":             {first: failing(429, "300", ""), next: true},
		"no quota":                 {first: failing(429, "", quota), next: true},
		"a dead key":               {first: failing(401, "", ""), next: true},
		"no such model":            {first: failing(404, "", ""), next: true},
		"no such model of the job": {first: failing(404, "", ""), opt: Options{Model: "mine"}, class: NotFound},
		"overloaded":               {first: failing(503, "", ""), class: Overloaded},
		"a tier without room":      {first: failing(429, "", `{"error":{"code":"resource_unavailable"}}`), change: func(c *OpenAIConfig) { c.Cheap = true }, next: true},
		"closed":                   {first: failing(500, "", ""), closed: &Error{Class: Overloaded, Closed: true, Err: errors.New("x")}, next: true},
		"no room here":             {first: failing(500, "", ""), closed: &Error{Class: RateLimited, RetryAfter: time.Hour, Err: errors.New("x")}, class: RateLimited},
		"no money":                 {first: failing(500, "", ""), closed: &Error{Class: Spent, Err: errors.New("x")}, class: Spent},
		"a bad request":            {first: failing(400, "", `{"error":{"message":"too large"}}`), class: Invalid},
		"the model of the second":  {first: failing(500, "", ""), opt: Options{Model: "large"}, next: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &doorman{closed: map[string]*Error{"first": tt.closed}}
			if tt.closed == nil {
				delete(d.closed, "first")
			}
			c, _, second := chainOf(t, d, tt.first, tt.change)
			a, usage, err := c.Analyze(t.Context(), testPreview(t), tt.opt)
			var e *Error
			if errors.As(err, &e); tt.class == "" && err != nil || tt.class != "" && (e == nil || e.Class != tt.class) {
				t.Errorf("got %v, want class %q", err, tt.class)
			}
			if asked := len(second.requests) > 0; asked != tt.next {
				t.Errorf("the second was asked: %v, want %v", asked, tt.next)
			}
			if err == nil && a.PromptVersion == "" || usage.Calls != len(d.calls) {
				t.Errorf("got %+v and %+v after %d calls", a, usage, len(d.calls))
			}
		})
	}
}

// TestChainSaysWhen has both endpoints not be asked: what the job is told is what the one says that is well, if one is.
func TestChainSaysWhen(t *testing.T) {
	t.Parallel()
	closed := &Error{Class: Quota, Closed: true, Err: errors.New("no quota")}
	full := &Error{Class: RateLimited, RetryAfter: 5 * time.Minute, Err: errors.New("no room")}
	spent := &Error{Class: Spent, RetryAfter: time.Hour, Err: errors.New("no money")}
	soon := &Error{Class: Overloaded, Closed: true, RetryAfter: time.Second, Err: errors.New("down")}
	for name, tt := range map[string]struct{ first, second, want *Error }{
		"the second is full":         {closed, full, full},
		"the budget is spent":        {closed, spent, spent},
		"both are closed":            {closed, soon, closed},
		"the second fails":           {&Error{Class: RateLimited, StatusCode: 429, RetryAfter: 5 * time.Minute, Err: errors.New("no room")}, &Error{Class: Overloaded, Closed: true, RetryAfter: time.Second, Err: errors.New("down")}, &Error{Class: RateLimited, RetryAfter: time.Second}},
		"both are, the other sooner": {&Error{Class: Quota, Closed: true, RetryAfter: time.Minute, Err: errors.New("no quota")}, soon, soon},
	} {
		c, _, _ := chainOf(t, &doorman{closed: map[string]*Error{"first": tt.first, "second": tt.second}}, says(goodReply), nil)
		_, _, err := c.Analyze(t.Context(), testPreview(t), Options{})
		if got := (*Error)(nil); !errors.As(err, &got) || got.Class != tt.want.Class || got.RetryAfter != tt.want.RetryAfter || got.Closed != tt.want.Closed {
			t.Errorf("%s: got %+v, want %+v", name, err, tt.want)
		}
	}
}

// TestCascadeOrder has an endpoint of the cheaper model stand behind one of the dearer.
func TestCascadeOrder(t *testing.T) {
	t.Parallel()
	a, b, other := newService(t), newService(t, says(goodReply)), newService(t, says(goodReply))
	d := &doorman{closed: map[string]*Error{"first": {Class: Quota, Closed: true, Err: errors.New("x")}}}
	of := func(s *service, name, model string) *OpenAI {
		return s.analyzer(t, func(c *OpenAIConfig) { c.Name, c.Model, c.Gate = name, model, d })
	}
	c := NewChain(&Cascade{Below: 0.5}, of(a, "first", "small"), of(b, "dear", "large"), of(other, "third", "small"))
	if _, _, err := c.Analyze(t.Context(), testPreview(t), Options{}); err != nil || len(d.calls) != 1 || d.calls[0].Endpoint != "third" {
		t.Errorf("got %v after %+v, want the other endpoint of the cheaper model asked", err, d.calls)
	}
}

// TestCallsPassTheGate looks at what a gate is told of a call, and of its end.
func TestCallsPassTheGate(t *testing.T) {
	t.Parallel()
	d := &doorman{}
	s := newService(t, says("no"), says(goodReply), says("text"))
	o := s.analyzer(t, func(c *OpenAIConfig) {
		c.Name, c.Gate, c.Prices, c.Tier = "e", d, Prices{150_000, 600_000}, "flex"
	})
	opt := Options{Priority: 5, User: "u", Expires: time.Unix(1, 0)}
	_, usage, err := o.Analyze(t.Context(), testPreview(t), opt)
	if err != nil || usage.Calls != 2 || usage.CostMicroUSD != 14 || usage.Paid != 2 {
		t.Fatalf("got %+v, %v, want two calls at the cost that the gate says", usage, err)
	}
	if _, _, err := o.Feedback(t.Context(), json.RawMessage(`{}`), "why?", opt); err != nil {
		t.Fatal(err)
	}
	first, question := d.calls[0], d.calls[2]
	if kind := d.calls[1].Kind; kind != "analysis/repair" {
		t.Errorf("the second is of kind %s: it is longer than the first ones are", kind)
	}
	if first.Endpoint != "e" || first.Model != "test-model" || first.Kind != "analysis" || first.Size != "1x1" || first.Prices.In != 150_000 ||
		first.Priority != 5 || first.User != "u" || !first.Expires.Equal(opt.Expires) || first.Prompt == "" || first.Bytes == 0 || first.Last {
		t.Errorf("the gate is told %+v", first)
	}
	if first.Most.Prompt < mostForPicture+500 || first.Most.Completion != mostCompletion {
		t.Errorf("at most %+v, want the picture, the text and the limit of the answer", first.Most)
	}
	if question.Kind != "feedback" || question.Size != "" || question.Most.Prompt > mostForPicture {
		t.Errorf("of a question the gate is told %+v", question)
	}
	if d.ends[0].Err != nil || !d.ends[0].Paid || d.ends[0].Prompt != 1000 {
		t.Errorf("the end is told as %+v", d.ends[0])
	}
	if body := s.requests[0].raw; !strings.Contains(string(body), `"service_tier":"flex"`) || !strings.Contains(string(body), `"data:image/jpeg;base64,/9j/`) {
		t.Errorf("the request is %.300s", body)
	}
}

// TestLimitIsWaitedForAtTheGate has an endpoint take no call twice: the job makes it again when the gate lets it.
func TestLimitIsWaitedForAtTheGate(t *testing.T) {
	t.Parallel()
	limited := answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) })
	d := &doorman{}
	s := newService(t, limited, limited, says(goodReply))
	o := s.analyzer(t, func(c *OpenAIConfig) { c.Gate = d })
	_, usage, err := o.Analyze(t.Context(), testPreview(t), Options{})
	if err != nil || usage.Calls != 3 || usage.Paid != 1 || len(d.ends) != 3 {
		t.Errorf("got %+v, %v and %d ends, want three calls of which one is paid for", usage, err, len(d.ends))
	}
	s = newService(t, limited, limited, limited, limited)
	o = s.analyzer(t, func(c *OpenAIConfig) { c.Gate = d })
	var e *Error
	if _, usage, err := o.Analyze(t.Context(), testPreview(t), Options{}); !errors.As(err, &e) || e.Class != RateLimited || usage.Calls != maxThrottled {
		t.Errorf("got %+v, %v, want the limit after %d calls", usage, err, maxThrottled)
	}
}

// TestPanicEndsTheCall has the transport panic: the call has ended for the gate.
func TestPanicEndsTheCall(t *testing.T) {
	t.Parallel()
	d := &doorman{}
	s := newService(t)
	o := s.analyzer(t, func(c *OpenAIConfig) {
		c.Gate = d
		c.HTTPClient = &http.Client{Transport: panics{}}
	})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_, _, _ = o.Analyze(t.Context(), testPreview(t), Options{})
	}()
	if len(d.ends) != 1 || !d.ends[0].Paid {
		t.Errorf("got ends %+v, want one that may be paid for", d.ends)
	}
}

type panics struct{}

func (panics) RoundTrip(*http.Request) (*http.Response, error) { panic("boom") }
