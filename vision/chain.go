package vision

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"time"

	"onceover/vision/prompt"
)

// Chain is the Analyzer that asks endpoints in their order: the next one where one has no quota left, refuses the key,
// does not have the model, is not asked because it fails, or wants to be left alone for longer than a minute. A limit
// alone is waited for. It is safe for concurrent use.
type Chain struct {
	all     []*OpenAI
	cascade *Cascade // nil: the first answer counts
}

// Cascade has a cheaper model be asked first, and a dearer one only where that is not sure enough.
type Cascade struct {
	// Below is the confidence, 0 to 1, from where on an answer of the first endpoint's model counts. The answers of
	// others always do.
	Below float64
	// Sure is how sure an answer is that states a confidence, 0 to 1; nil: as it says. See eval.Calibration.
	Sure func(stated float64) float64
	// Field is the field of an answer that states how sure it is, 0 to 1; "" for confidence.
	Field string
	// PromptVersion is the prompt for which Sure holds; answers to others are never sure. Empty: Sure holds for all.
	PromptVersion string
}

var _ Analyzer = (*Chain)(nil)

// tooLong is the wait from where on the next endpoint is taken.
const tooLong = time.Minute

// NewChain returns a chain of at least one endpoint. With a cascade the endpoints that have the first one's model are
// asked first.
func NewChain(cascade *Cascade, first *OpenAI, others ...*OpenAI) *Chain {
	if cascade != nil {
		slices.SortStableFunc(others, func(a, b *OpenAI) int {
			switch {
			case a.model == first.model && b.model != first.model:
				return -1
			case a.model != first.model && b.model == first.model:
				return 1
			}
			return 0
		})
	}
	return &Chain{append([]*OpenAI{first}, others...), cascade}
}

// Model is that of the first endpoint.
func (c *Chain) Model(lang string) string { return c.all[0].Model(lang) }

// PromptVersion is the same for all.
func (c *Chain) PromptVersion(lang string) string { return c.all[0].PromptVersion(lang) }

// Analyze asks the first endpoint that can be asked. In a cascade it asks the next model too where the answer of the
// first is not sure enough: if that has none, or may not be asked, the first answer counts after all, as it is paid for.
func (c *Chain) Analyze(ctx context.Context, p *Preview, opt Options) (Answer, Usage, error) {
	endpoints, opt := c.candidates(prompt.Analysis, opt)
	p = &Preview{JPEG: p.JPEG, size: sizeClass(p)} // a call that waits does not keep the pixels
	a, usage, err := analyze(ctx, endpoints, p, opt)
	if c.cascade == nil || a.by.model != c.all[0].model || err != nil && !isNoAnswer(err) {
		return a, usage, err
	}
	var dearer []*OpenAI
	for _, o := range endpoints {
		if o.model != c.all[0].model {
			dearer = append(dearer, o)
		}
	}
	opt.Paid += usage.Paid
	switch {
	case len(dearer) == 0 || err != nil && opt.Paid >= MaxPaid:
		return a, usage, err
	case err != nil:
		return askInstead(ctx, dearer, p, opt, usage)
	case c.cascade.takes(a):
		a.Cascade = CascadeSure
		return a, usage, nil
	}
	return askDearer(ctx, dearer, p, opt, a, usage)
}

// isNoAnswer reports whether a model had its say, and another one may have more to say.
func isNoAnswer(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Class == Refused || e.Class == Truncated || e.Class == Unusable)
}

// askInstead asks the endpoints of a cascade's dearer model where the cheaper one has no answer. If they cannot be asked at the
// moment, the job is tried again as after any fault of theirs.
func askInstead(ctx context.Context, endpoints []*OpenAI, p *Preview, opt Options, usage Usage) (Answer, Usage, error) {
	a, more, err := analyze(ctx, endpoints, p, opt)
	if err != nil {
		return Answer{}, usage.Add(more), err
	}
	a.Cascade = CascadeAsked
	return a, usage.Add(more), nil
}

// askDearer asks the endpoints of a cascade's dearer model, after an answer of the cheaper one.
func askDearer(ctx context.Context, endpoints []*OpenAI, p *Preview, opt Options, cheaper Answer, usage Usage) (Answer, Usage, error) {
	a, more, err := analyze(ctx, endpoints, p, opt)
	usage = usage.Add(more)
	if err != nil {
		cheaper.Cascade, cheaper.Dearer = CascadeFailed, err
		return cheaper, usage, nil
	}
	a.Cascade = CascadeAsked
	return a, usage, nil
}

// takes reports whether an answer of the cheaper model is sure enough.
func (c *Cascade) takes(a Answer) bool {
	var fields map[string]json.RawMessage
	var stated *float64
	if json.Unmarshal(a.Fields, &fields) != nil || json.Unmarshal(fields[cmp.Or(c.Field, "confidence")], &stated) != nil || stated == nil ||
		c.PromptVersion != "" && a.PromptVersion != c.PromptVersion {
		return false
	}
	sure := *stated
	if c.Sure != nil {
		sure = c.Sure(sure)
	}
	return sure >= c.Below
}

// analyze asks the first of some endpoints that can be asked.
func analyze(ctx context.Context, endpoints []*OpenAI, p *Preview, opt Options) (a Answer, all Usage, err error) {
	err = each(endpoints, opt, func(o *OpenAI, opt Options) (err error) {
		var spent Usage
		opt.Paid += all.Paid
		a, spent, err = o.Analyze(ctx, p, opt)
		a.by = o
		all = all.Add(spent)
		return err
	})
	return a, all, err
}

// Feedback asks the first endpoint that can be asked.
func (c *Chain) Feedback(ctx context.Context, analysis json.RawMessage, question string, opt Options) (text string, all Usage, err error) {
	endpoints, opt := c.candidates(prompt.Feedback, opt)
	err = each(endpoints, opt, func(o *OpenAI, opt Options) (err error) {
		var spent Usage
		opt.Paid += all.Paid
		text, spent, err = o.Feedback(ctx, analysis, question, opt)
		all = all.Add(spent)
		return err
	})
	return text, all, err
}

// each calls ask for one endpoint after the other, until one answers or the fault is one for which no other is asked.
// The error is that of an endpoint that is well, and has no room; else of one that may get well; else the last. Of like
// ones it is the one that says to come again soonest.
func each(endpoints []*OpenAI, opt Options, ask func(*OpenAI, Options) error) error {
	var why *Error
	soonest := time.Duration(math.MaxInt64)
	for _, o := range endpoints {
		err := ask(o, opt)
		var e *Error
		if !errors.As(err, &e) {
			return err
		}
		next := o.passesOn(e, opt.Model != "")
		if !next && !e.Class.Retryable() {
			return err
		}
		if why == nil || hope(e) > hope(why) || hope(e) == hope(why) && (hope(e) == 0 || e.RetryAfter < why.RetryAfter) {
			why = e
		}
		if hope(e) > 0 && e.Class != Quota {
			soonest = min(soonest, e.RetryAfter)
		}
		if !next {
			break
		}
	}
	if why.Class == RateLimited && soonest < why.RetryAfter { // another one may be asked before
		return &Error{Class: why.Class, StatusCode: why.StatusCode, RetryAfter: soonest, Err: why}
	}
	return why
}

// hope says how soon an endpoint may be asked: 2 if it is well and has no room, 1 if it may get well by itself, 0 if
// somebody has to act.
func hope(e *Error) int {
	switch {
	case e.Class == RateLimited, e.Class == Spent:
		return 2
	case e.Class.Retryable(), e.Closed:
		return 1
	}
	return 0
}

// candidates are the endpoints for a job: those with the model that it, or the prompt, names; else all of them, or the
// first if it names one that none has.
func (c *Chain) candidates(task string, opt Options) ([]*OpenAI, Options) {
	want := opt.Model
	if p := c.all[0].prompts.Find(task, cmp.Or(opt.Lang, c.all[0].lang)); want == "" && p != nil {
		want = p.Model
	}
	if want == "" {
		return c.all, opt
	}
	var out []*OpenAI
	for _, o := range c.all {
		if o.model == want {
			out = append(out, o)
		}
	}
	if len(out) > 0 {
		return out, opt
	}
	return c.all[:1], opt
}

// passesOn reports whether the next endpoint is asked after a fault of this one. named says that the job has chosen
// the model.
func (o *OpenAI) passesOn(e *Error, named bool) bool {
	switch {
	case e.Closed, e.Class == Quota:
		return true
	case e.Class == Denied, e.Class == NotFound:
		return !named || e.StatusCode == http.StatusUnauthorized
	case e.Class == RateLimited || e.Class == Overloaded || e.Class == Unreachable:
		return o.cheap || e.StatusCode != 0 && e.RetryAfter > tooLong
	}
	return false
}
