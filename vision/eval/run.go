package eval

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"onceover/vision"
)

// Model is a model to be measured.
type Model struct {
	Name     string // in results and reports
	As       string // as Analyzer knows it; "" for Name
	Endpoint string // who is asked, in words: its host, the model and the tier. Answers of another are none of this model
	Analyzer vision.Analyzer
	Lang     string // of the answers; "" for the analyzer's own

	// Price returns what calls took, in micro-dollars, by their tokens; nil if that is not known.
	Price func(vision.Usage) int64
}

// asked is the model as the endpoint knows it.
func (m Model) asked() string { return cmp.Or(m.As, m.Name) }

// PerMillion returns a Model.Price of so many micro-dollars per million prompt and completion tokens.
func PerMillion(in, out int64) func(vision.Usage) int64 {
	return func(u vision.Usage) int64 {
		return (int64(u.PromptTokens)*in + int64(u.CompletionTokens)*out + 500_000) / 1_000_000
	}
}

// Config says what [Run] does.
type Config struct {
	Models      []Model
	Items       []Item // distinct, see [Distinct]
	Pictures    Pictures
	Results     *Results
	Concurrency int   // pictures in flight, at least 1
	MaxCost     int64 // micro-dollars that Results may come to; 0: no limit. Each model has a price then
	RetryLost   bool  // ask again about pictures that may have been paid for

	// Progress, if it is not nil, is called after each picture, one call at a time.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Done, Total  int   // pictures by models: those of earlier runs included
	Right        int   // of Done
	CostMicroUSD int64 // without pictures in flight
	Last         Verdict
}

const (
	attempts  = 5                // of one picture, where the endpoint fails
	longest   = 5 * time.Minute  // that a run waits when the endpoint asks it to
	patience  = 15 * time.Minute // with an endpoint that has no room for any call
	inARow    = 5                // pictures that an endpoint may fail before the run ends
	firstWait = time.Second
	lastWait  = time.Minute
)

// Run asks the models about the pictures that have no verdict yet, and writes each verdict to the results. It returns once
// everything in flight is written.
//
// When begin ends no further picture is begun, and Run returns why it ended; when calls ends the calls in flight end too,
// and their pictures count as lost. The other errors are [ErrMaxCost]; that of a faulty endpoint, which wraps a
// *vision.Error if asking on would not help; and those of the disk.
func Run(begin, calls context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	for _, m := range cfg.Models {
		cfg.Results.price(m)
	}
	r := &run{Config: cfg, budget: newBudget(cfg.MaxCost, cfg.Results.Spent()), gates: map[string]*gate{}, failing: map[string]int{}}
	var todo []task
	for _, item := range cfg.Items { // all models of a picture, so that the part that is done can be compared
		for _, m := range cfg.Models {
			r.total++
			v, there := cfg.Results.Verdict(item.Digest, m.Name)
			if there && (v.Outcome.verdict() || v.Outcome == Lost && !cfg.RetryLost) {
				r.count(item, v)
				continue
			}
			todo = append(todo, task{item, m})
		}
	}
	for _, m := range cfg.Models {
		r.gates[m.Name] = &gate{}
		r.budget.dearest[m.Name] = cfg.Results.dearestPicture(m.Name)
	}
	group, more := errgroup.WithContext(begin)
	group.SetLimit(cfg.Concurrency)
	for _, t := range todo {
		if more.Err() != nil {
			break
		}
		group.Go(func() error {
			err := r.do(more, calls, t)
			if err != nil && !errors.Is(err, ErrMaxCost) {
				r.mu.Lock()
				r.fault = err
				r.mu.Unlock()
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		if r.fault != nil && errors.Is(err, ErrMaxCost) {
			return r.fault // what was spent on it has left too little for others
		}
		return err
	}
	if r.judged < r.total {
		return context.Cause(begin) // nil if all were asked about
	}
	return nil
}

func (c Config) validate() error {
	if c.Concurrency < 1 {
		return fmt.Errorf("concurrency is %d: expected at least 1", c.Concurrency)
	}
	for _, m := range c.Models {
		if c.MaxCost > 0 && m.Price == nil {
			return fmt.Errorf("there is a cost limit, and no price for %s: expected a price for each model", m.Name)
		}
	}
	return nil
}

// run is one call of Run.
type run struct {
	Config
	budget *budget
	gates  map[string]*gate // by model
	total  int

	mu                  sync.Mutex // of the calls of Progress, and what follows
	done, judged, right int
	failing             map[string]int // by model: pictures in a row that the endpoint failed
	fault               error          // one that is not ErrMaxCost
}

type task struct {
	item  Item
	model Model
}

// count counts a verdict. The caller holds the lock, or is alone.
func (r *run) count(item Item, v Verdict) {
	r.done++
	if v.Outcome.verdict() {
		r.judged++
	}
	if v.Outcome == Answered && v.Answer == item.Label {
		r.right++
	}
}

// do asks about one picture and writes what became of it.
func (r *run) do(begin, calls context.Context, t task) error {
	preview, err := r.preview(t.item)
	if err != nil {
		return err
	}
	reserved, err := r.budget.take(begin, t.model.Name)
	if err != nil {
		return err
	}
	v := Verdict{ID: t.item.ID, Digest: t.item.Digest, Model: t.model.Name, Endpoint: t.model.Endpoint,
		PromptVersion: t.model.Analyzer.PromptVersion(t.model.Lang), Gold: t.item.Label, ReservedMicroUSD: reserved}
	if err := r.Results.intend(v); err != nil {
		r.budget.give(reserved, Verdict{})
		return err
	}
	a := asked{v: v}
	a.ask(begin, calls, preview, t.model, r.gates[t.model.Name])
	a.judge(r.Results.header)
	a.price(t.model)
	err = r.Results.settle(a.v)
	r.budget.give(reserved, a.v)
	return errors.Join(err, r.after(t, a))
}

// preview reads a picture that was checked before.
func (r *run) preview(it Item) (*vision.Preview, error) {
	data, err := r.Pictures.Load(it.Path)
	if err == nil && Digest(data) != it.Digest {
		err = errors.New("has changed since it was checked: expected the same file")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", it.ID, err)
	}
	p, err := vision.NewPreview(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", it.ID, err)
	}
	return p, nil
}

// after reports a verdict, and ends the run where going on does not help.
func (r *run) after(t task, a asked) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(t.item, a.v)
	if r.Progress != nil {
		r.Progress(Progress{Done: r.done, Total: r.total, Right: r.right, CostMicroUSD: r.budget.total(), Last: a.v})
	}
	var e *vision.Error
	failed := errors.As(a.err, &e) && !a.v.Outcome.verdict() // else it is the model's verdict, or the caller's wish
	if !failed {
		r.failing[t.model.Name] = 0
	} else {
		r.failing[t.model.Name]++
	}
	switch {
	case a.over != "":
		return fmt.Errorf("%w; %s", a.err, a.over)
	case failed && (e.Class == vision.Denied || e.Class == vision.NotFound || e.Class == vision.Quota || e.Class == vision.Unsupported):
		return a.err
	case r.failing[t.model.Name] >= inARow:
		return fmt.Errorf("%d pictures in a row got no answer: %w", inARow, a.err)
	case r.MaxCost > 0 && a.v.Outcome == Answered && a.v.PromptTokens+a.v.CompletionTokens == 0:
		return fmt.Errorf("%s: the endpoint does not count tokens, so that a cost limit cannot be kept", t.model.Name)
	}
	return nil
}

// asked is a picture that a model is asked about.
type asked struct {
	v      Verdict
	answer vision.Answer
	usage  vision.Usage
	err    error
	over   string // why the run ends, as waiting on does not help; "" if it does not
}

// ask asks, and again where the endpoint fails or asks for patience. The vision package does not retry, as the worker
// does that over attempts of a job; here it is done on the spot.
func (a *asked) ask(begin, calls context.Context, p *vision.Preview, m Model, g *gate) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = firstWait, lastWait
	for try := 1; ; {
		if err := g.wait(begin); err != nil {
			if a.err == nil {
				a.err = err
			}
			return
		}
		began := time.Now()
		answer, usage, err := m.Analyzer.Analyze(calls, p, vision.Options{Model: m.asked(), Lang: m.Lang, Paid: a.usage.Paid})
		a.v.MS = float64(time.Since(began)) / float64(time.Millisecond)
		a.usage = a.usage.Add(usage)
		a.answer, a.err = answer, err
		var e *vision.Error
		switch errors.As(err, &e); {
		case err == nil || outcomeOf(err, true).verdict():
			g.answered()
			return
		case e == nil || !e.Class.Retryable() || e.Class == vision.Quota:
			return
		case e.RetryAfter > longest:
			a.over = fmt.Sprintf("the endpoint asks to wait for %v", e.RetryAfter.Round(time.Second))
			return
		case a.usage.Paid >= vision.MaxPaid:
			return
		case e.Class == vision.RateLimited: // for all pictures, so none of them counts its attempts
			if !g.limited(e.RetryAfter) {
				a.over = fmt.Sprintf("the endpoint has had no room for %v", patience)
				return
			}
		case try >= attempts:
			return
		default:
			try++
			g.close(cmp.Or(e.RetryAfter, pause.NextBackOff()))
		}
	}
}

// price says what the calls took.
func (a *asked) price(m Model) {
	a.v.Calls, a.v.Paid, a.v.Uncounted = a.usage.Calls, a.usage.Paid, a.usage.Uncounted
	a.v.PromptTokens, a.v.CompletionTokens = a.usage.PromptTokens, a.usage.CompletionTokens
	if m.Price != nil {
		cost := m.Price(a.usage)
		a.v.CostMicroUSD = &cost
	}
	if a.v.Uncounted == 0 {
		a.v.ReservedMicroUSD = 0 // no doubt is left
	}
}

// judge says what became of the picture.
func (a *asked) judge(h Header) {
	if a.err != nil {
		a.v.Outcome, a.v.Error = outcomeOf(a.err, a.usage.Paid > 0), a.err.Error()
		return
	}
	a.v.Outcome = Answered
	a.v.Answer, a.v.Confidence = read(a.answer.Fields, h)
	a.v.OffList = slices.Contains(a.answer.OffList, h.Field)
	a.v.AnsweredBy, a.v.PromptVersion = a.answer.Model, a.answer.PromptVersion
}

// outcomeOf is the outcome of a picture that got an error and may have been paid for.
func outcomeOf(err error, paid bool) Outcome {
	var e *vision.Error
	errors.As(err, &e)
	switch {
	case e != nil && e.Class == vision.Refused:
		return Refused
	case e != nil && (e.Class == vision.Unusable || e.Class == vision.Truncated || e.Class == vision.Exhausted):
		return Broken
	case paid:
		return Lost
	}
	return Failed
}

// read returns what an answer says: the field that is compared with the label, as text, and the confidence.
func read(fields json.RawMessage, h Header) (answer string, confidence *float64) {
	var all map[string]json.RawMessage
	if json.Unmarshal(fields, &all) != nil {
		return "", nil
	}
	var c float64
	if raw := all[h.Confidence]; len(raw) > 0 && string(raw) != "null" && json.Unmarshal(raw, &c) == nil && c >= 0 && c <= 1 {
		confidence = &c
	}
	return TextOf(all[h.Field]), confidence
}

// gate holds all calls of a model back while its endpoint asks for patience.
type gate struct {
	mu      sync.Mutex
	until   time.Time
	refused time.Time     // the first call since the last answer that the endpoint had no room for; zero if there is none
	pause   time.Duration // after the last such call, where the endpoint does not say how long
}

// limited holds calls back after one that the endpoint had no room for: for wait or, if it is 0, twice as long as the time
// before. It returns false if patience is over.
func (g *gate) limited(wait time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.refused.IsZero() {
		g.refused = now
	}
	if now.Sub(g.refused) >= patience {
		return false
	}
	if wait == 0 && now.Before(g.until) {
		return true // it was in flight with the one that has closed the gate
	}
	if wait == 0 {
		g.pause = min(lastWait, max(firstWait, 2*g.pause))
		wait = g.pause
	}
	g.hold(wait)
	return true
}

// answered says that the endpoint has room.
func (g *gate) answered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused, g.pause = time.Time{}, 0
}

// close holds calls back for so long from now.
func (g *gate) close(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold(d)
}

// hold is close for one who has the lock.
func (g *gate) hold(d time.Duration) {
	if t := time.Now().Add(d); t.After(g.until) {
		g.until = t
	}
}

// wait returns once calls may be made, or why ctx ended.
func (g *gate) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		d := time.Until(g.until)
		g.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if d <= 0 {
			return nil
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}
