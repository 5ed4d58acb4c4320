package vision

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"onceover/vision/prompt"
)

// Chain is the Analyzer that asks endpoints in their order: the next one where one has no quota left, refuses the key,
// does not have the model, is not asked because it fails, or wants to be left alone for longer than a minute. A limit
// alone is waited for. It is safe for concurrent use.
type Chain struct {
	all []*OpenAI
}

var _ Analyzer = (*Chain)(nil)

// tooLong is the wait from where on the next endpoint is taken.
const tooLong = time.Minute

// NewChain returns a chain of at least one endpoint.
func NewChain(first *OpenAI, others ...*OpenAI) *Chain {
	return &Chain{append([]*OpenAI{first}, others...)}
}

// Model is that of the first endpoint.
func (c *Chain) Model(lang string) string { return c.all[0].Model(lang) }

// PromptVersion is the same for all.
func (c *Chain) PromptVersion(lang string) string { return c.all[0].PromptVersion(lang) }

// Analyze asks the first endpoint that can be asked.
func (c *Chain) Analyze(ctx context.Context, p *Preview, opt Options) (a Answer, all Usage, err error) {
	err = c.each(prompt.Analysis, opt, func(o *OpenAI, opt Options) (spent Usage, err error) {
		opt.Paid += all.Paid
		a, spent, err = o.Analyze(ctx, p, opt)
		all = all.Add(spent)
		return spent, err
	})
	return a, all, err
}

// Feedback asks the first endpoint that can be asked.
func (c *Chain) Feedback(ctx context.Context, analysis json.RawMessage, question string, opt Options) (text string, all Usage, err error) {
	err = c.each(prompt.Feedback, opt, func(o *OpenAI, opt Options) (spent Usage, err error) {
		opt.Paid += all.Paid
		text, spent, err = o.Feedback(ctx, analysis, question, opt)
		all = all.Add(spent)
		return spent, err
	})
	return text, all, err
}

// each calls ask for one endpoint after the other, until one answers or the fault is one for which no other is asked.
// The error is the last, or the one that says to come again soonest.
func (c *Chain) each(task string, opt Options, ask func(*OpenAI, Options) (Usage, error)) error {
	endpoints, opt := c.candidates(task, opt)
	var why *Error
	for i, o := range endpoints {
		_, err := ask(o, opt)
		var e *Error
		if !errors.As(err, &e) {
			return err
		}
		if why == nil || !why.Class.Retryable() || e.Class.Retryable() && e.RetryAfter < why.RetryAfter {
			why = e
		}
		if i == len(endpoints)-1 || !o.passesOn(e, opt.Model != "") {
			if !e.Class.Retryable() && !o.passesOn(e, opt.Model != "") {
				return err
			}
			return why
		}
	}
	return why
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
