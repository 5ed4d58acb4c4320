package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"onceover/celery"
	"onceover/rabbit"
	"onceover/results"
	"onceover/worker"
)

// crashing panics once in a call of a store, before or after it was done, as a worker
// does that dies there: the delivery comes again.
type crashing struct {
	*results.Store
	at   string // name of the call, and whether it is done
	left atomic.Int32

	mu    sync.Mutex
	begun []bool // for each call of BeginChord, whether it was by a redelivered run
}

var errCrash = errors.New("crashed")

func (c *crashing) dies(at string) bool { return c.at == at && c.left.Add(-1) == 0 }

func (c *crashing) Record(ctx context.Context, m celery.Meta, since celery.Stored) (celery.Stored, error) {
	if m.Status == celery.Success && c.dies("before result") {
		panic(errCrash)
	}
	theirs, err := c.Store.Record(ctx, m, since)
	if m.Status == celery.Success && c.dies("after result") {
		panic(errCrash)
	}
	return theirs, err
}

func (c *crashing) End(ctx context.Context, _ string, m celery.Meta, since celery.Stored) (celery.Stored, bool, error) {
	theirs, err := c.Record(ctx, m, since)
	return theirs, false, err
}

func (c *crashing) CountPart(ctx context.Context, p results.Part) (bool, error) {
	complete, err := c.Store.CountPart(ctx, p)
	if c.dies("after part") {
		panic(errCrash)
	}
	return complete, err
}

func (c *crashing) ChordDone(ctx context.Context, id string) error {
	if c.dies("after body") {
		panic(errCrash)
	}
	return c.Store.ChordDone(ctx, id)
}

func (c *crashing) BeginChord(ctx context.Context, s celery.ChordSize, again bool) error {
	c.mu.Lock()
	c.begun = append(c.begun, again)
	c.mu.Unlock()
	err := c.Store.BeginChord(ctx, s, again)
	if c.dies("after chord begun") {
		panic(errCrash)
	}
	return err
}

// to puts a signature on the queue that the worker consumes.
func to(s *celery.Signature) *celery.Signature {
	s.Options.Queue = "q.ai"
	return s
}

// TestCanvasSurvivesCrashes interrupts each step from the end of a task to its
// acknowledgement: what follows the task happens, and once.
func TestCanvasSurvivesCrashes(t *testing.T) {
	for _, tt := range []struct {
		at string
		n  int32 // which of the calls
	}{
		{"none", 1}, {"before result", 1}, {"before result", 2}, {"after result", 1}, {"after chord begun", 1},
		{"after part", 1}, {"after part", 3}, {"after body", 1},
	} {
		t.Run(tt.at, func(t *testing.T) {
			b := setup(t)
			c := &crashing{Store: b.results, at: tt.at}
			c.left.Store(tt.n)
			b.store = c
			var mu sync.Mutex
			runs := map[string]int{}
			sums := map[string]string{}
			b.task("add", worker.Func(func(_ context.Context, a struct {
				Nums []json.RawMessage `celery:"*args"`
			}) (int, error) {
				sum := 0
				for _, raw := range a.Nums {
					var n int
					var list []int
					if json.Unmarshal(raw, &n) == nil {
						sum += n
					} else if err := json.Unmarshal(raw, &list); err == nil {
						for _, n := range list {
							sum += n
						}
					}
				}
				return sum, nil
			}))
			b.task("note", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
				mu.Lock()
				defer mu.Unlock()
				runs[r.ID]++
				sums[r.ID] = string(r.Args[0])
				return nil, nil
			}))
			b.start()

			// start (1) | group(add 10, add 20, add 30) | add 100 | note: (11+21+31)+100.
			add := func(n int) *celery.Signature { return to(celery.NewSignature("add", n)) }
			last := to(celery.NewSignature("note"))
			last.Options.TaskID = "last-" + tt.at
			p := celery.Plan{Now: time.Now()}
			chain := celery.Chain(add(1), celery.Group(add(10), add(20), add(30)), add(100), last)
			if _, err := p.Apply(chain, nil, celery.Options{}); err != nil {
				t.Fatal(err)
			}
			b.publishRequest(rabbit.ExchangeTasks, "ai.test", p.Messages[0].Request)
			if m := b.wait(last.Options.TaskID); m.Status != celery.Success {
				t.Errorf("got %s, want SUCCESS", m.Status)
			}
			b.until(func() bool { return b.left("q.ai") == 0 })
			mu.Lock()
			defer mu.Unlock()
			if runs[last.Options.TaskID] != 1 || sums[last.Options.TaskID] != "163" {
				t.Errorf("the last step ran %d times with %s, want once with 163", runs[last.Options.TaskID], sums[last.Options.TaskID])
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if want, ok := map[string][]bool{"none": {false}, "after chord begun": {false, true}}[tt.at]; ok && !slices.Equal(c.begun, want) {
				t.Errorf("got the chord begun by redelivered runs %t, want %t", c.begun, want)
			}
		})
	}
}

// TestFailureReachesWhatFollows fails a header task: the body fails with
// ChordError, its errback is called with its id, and the step after it fails,
// too.
func TestFailureReachesWhatFollows(t *testing.T) {
	b := setup(t)
	called, inline := make(chan string, 4), make(chan string, 4)
	b.task("ok", value(1))
	b.task("bad", fail(celery.NewException("ValueError", "boom", nil)))
	b.task("errback", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
		var id string
		err := json.Unmarshal(r.Args[0], &id)
		called <- id
		return nil, err
	}))
	b.tasks = append(b.tasks, worker.Task{Name: "inline", Errback: func(_ context.Context, failed *celery.Request, exc *celery.Exception) error {
		inline <- failed.ID + " " + exc.Error()
		return nil
	}})
	b.start()
	call := func(name string) *celery.Signature { return to(celery.NewSignature(name)) }
	body, after := call("ok"), call("ok")
	body.Options.TaskID, after.Options.TaskID = "the-body", "after-it"
	body.LinkFailure(call("errback"))
	body.LinkFailure(celery.NewSignature("inline"))
	p := celery.Plan{Now: time.Now()}
	if _, err := p.Apply(celery.Chain(celery.Chord([]*celery.Signature{call("ok"), call("bad")}, body), after), nil, celery.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range p.ChordSizes {
		if err := b.results.BeginChord(t.Context(), c, true); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range p.Messages {
		b.publishRequest(rabbit.ExchangeTasks, "ai.test", m.Request)
	}
	exc := b.wantException(b.wait("the-body"), celery.Failure,
		"celery.exceptions.ChordError: Dependency "+p.Messages[1].Request.ID+" raised ValueError('boom')")
	b.wantException(b.wait("after-it"), celery.Failure, exc.Error())
	if got := <-called; got != "the-body" {
		t.Errorf("the errback got %q, want the-body", got)
	}
	if got := <-inline; got != "the-body "+exc.Error() {
		t.Errorf("the inline errback got %q", got)
	}
}

// TestHandlersStartTasks covers Send, RequestFrom, Replace, Ignore and Reject.
func TestHandlersStartTasks(t *testing.T) {
	b := setup(t)
	b.cfg.DefaultQueue = "q.ai"
	b.task("leaf", worker.Func(func(ctx context.Context, a struct {
		N int `celery:"n" default:"7"`
	}) (any, error) {
		r := worker.RequestFrom(ctx)
		return map[string]any{"n": a.N, "parent": r.ParentID, "root": r.RootID}, nil
	}))
	b.task("sender", worker.HandlerFunc(func(ctx context.Context, _ *celery.Request) (any, error) {
		return worker.Send(ctx, celery.NewSignature("leaf", 1))
	}))
	b.task("replaced", fail(worker.Replace(celery.Chain(celery.NewSignature("leaf", 2).SetImmutable(), celery.NewSignature("leaf").SetImmutable()))))
	b.task("ignored", fail(worker.ErrIgnore))
	b.task("rejected", fail(worker.Reject("not mine", false)))
	b.start()

	parent := b.send("sender", nil)
	m := b.wait(parent)
	var child celery.Result
	if err := json.Unmarshal(m.Result, &child); err != nil {
		t.Fatal(err)
	}
	if got, want := string(m.Children), `[[["`+child.ID+`",null],null]]`; got != want {
		t.Errorf("got children %s, want %s", got, want)
	}
	if got, want := string(b.wait(child.ID).Result), `{"n":1,"parent":"`+parent+`","root":"`+parent+`"}`; got != want {
		t.Errorf("the child: got %s, want %s", got, want)
	}
	replaced := b.send("replaced", nil)
	var end struct{ N int }
	if m := b.wait(replaced); m.Status != celery.Success || json.Unmarshal(m.Result, &end) != nil || end.N != 7 {
		t.Errorf("replaced: got %s %s, want the last step's result", m.Status, m.Result)
	}
	ignored := b.send("ignored", nil)
	b.outcome(ignored)
	if m, err := b.results.Load(t.Context(), ignored); m != nil || err != nil {
		t.Errorf("ignored: got %v, %v stored, want nothing", m, err)
	}
	rejected := b.send("rejected", nil)
	b.wantException(b.wait(rejected), celery.Failure, "celery.exceptions.Reject: ('not mine', False)")
	if r := b.record(rejected); r.Reason != rabbit.Rejected {
		t.Errorf("got record %+v, want a rejected task", r)
	}
}

// heldETA is an ETA near enough for a job to be held, and not parked, and far enough to do
// something else before it.
func heldETA() time.Time { return time.Now().Add(9 * time.Second) }

// TestScheduledJobsHoldNoSlot sends far more jobs with an ETA than the prefetch allows before one
// without. That one runs before the time of the others has come: the consumer is replaced as soon
// as its deliveries wait, as once a second would not be enough.
func TestScheduledJobsHoldNoSlot(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency, b.cfg.PrefetchMultiplier = 1, 4
	b.task("t", value(1))
	b.start()
	b.wait(b.send("t", nil))
	eta := heldETA()
	var waiting []string
	for range 100 {
		waiting = append(waiting, b.send("t", func(r *celery.Request) { r.ETA = eta }))
	}
	m := b.wait(b.send("t", nil))
	if late := time.Since(eta); m.Status != celery.Success || late > 0 {
		t.Errorf("got %s, %v after the ETA of the others, want SUCCESS before it", m.Status, late)
	}
	for _, id := range waiting {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("task %s: got %s, want SUCCESS", id, m.Status)
		}
	}
}

// TestRevoked revokes a job that waits for its ETA, one that runs, and one that
// is still to come.
func TestRevoked(t *testing.T) {
	b := setup(t)
	g := newGate()
	b.task("t", g)
	w, _ := b.start()
	b.until(func() bool { return len(w.Problems()) == 0 })
	revoke := func(id string, terminate bool) {
		t.Helper()
		b.control("revoke", map[string]any{"task_id": id, "terminate": terminate})
	}
	eta := heldETA()
	later := b.send("t", func(r *celery.Request) { r.ETA = eta })
	b.until(func() bool { return strings.Contains(string(b.control("scheduled", nil)), later) })
	revoke(later, false)
	b.wantException(b.wait(later), celery.Revoked, "celery.exceptions.TaskRevokedError: revoked")
	if late := time.Since(eta); late > 0 {
		t.Errorf("revoked %v after its ETA, want it before", late)
	}

	running := b.send("t", nil)
	<-g.entered
	revoke(running, true)
	b.wantException(b.wait(running), celery.Revoked, "celery.exceptions.TaskRevokedError: terminated")

	revoke("to-come", false)
	b.send("t", func(r *celery.Request) { r.ID = "to-come" })
	b.wantException(b.wait("to-come"), celery.Revoked, "celery.exceptions.TaskRevokedError: revoked")
	if n := g.runs.Load(); n != 1 {
		t.Errorf("got %d runs, want 1", n)
	}
}

// TestRateLimit lets three jobs of a task run at 20 a second, and then without
// a limit.
func TestRateLimit(t *testing.T) {
	b := setup(t)
	var mu sync.Mutex
	var at []time.Time
	b.tasks = append(b.tasks, worker.Task{Name: "t", RateLimit: "20/s", Handler: worker.HandlerFunc(
		func(context.Context, *celery.Request) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Now())
			return nil, nil
		})})
	b.start()
	began := time.Now()
	var ids []string
	for range 3 {
		ids = append(ids, b.send("t", nil))
	}
	for _, id := range ids {
		b.wait(id)
	}
	mu.Lock()
	defer mu.Unlock()
	slices.SortFunc(at, time.Time.Compare)
	if took := at[2].Sub(began); took < 100*time.Millisecond {
		t.Errorf("three runs within %v, want at least two intervals of 50 ms", took)
	}
}

// TestRegister checks that what is wrong with a task is said.
func TestRegister(t *testing.T) {
	b := setup(t)
	w, _ := b.start()
	for _, bad := range []worker.Task{
		{}, {Name: "t"}, {Name: "t", Handler: value(1), MaxRetries: -1}, {Name: "t", Handler: value(1), RateLimit: "often"},
	} {
		if err := w.Register(bad); err == nil {
			t.Errorf("%+v: got no error", bad)
		}
	}
}

// TestLinkToNowhere has a task whose callback names an exchange that is not there:
// the task fails, once, and the worker goes on.
func TestLinkToNowhere(t *testing.T) {
	b := setup(t)
	var runs atomic.Int32
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) { runs.Add(1); return 1, nil }))
	b.start()
	for name, set := range map[string]func(*celery.Options){
		"no exchange": func(o *celery.Options) { o.Exchange, o.RoutingKey = "nowhere", "k" },
		"no binding":  func(o *celery.Options) { o.Exchange, o.RoutingKey = rabbit.ExchangeTasks, "nobody.listens" },
	} {
		runs.Store(0)
		link := celery.NewSignature("t")
		set(&link.Options)
		m := b.wait(b.send("t", func(r *celery.Request) { r.Callbacks = celery.Signatures{link} }))
		exc, err := m.Exception()
		if err != nil || m.Status != celery.Failure || exc.Type != "OperationalError" {
			t.Errorf("%s: got %s %v, want FAILURE OperationalError", name, m.Status, exc)
		}
		if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
			t.Errorf("%s: the next task: got %s, want SUCCESS", name, m.Status)
		}
		if runs.Load() != 2 {
			t.Errorf("%s: got %d runs of two tasks", name, runs.Load())
		}
	}
	if n := b.logs.FilterMessage("broker lost, reconnecting").Len(); n != 0 {
		t.Errorf("the session was lost %d times", n)
	}
}

// TestRateLimitedJobsHoldNoSlot sends jobs of a task that may run once an hour:
// another task runs beside them.
func TestRateLimitedJobsHoldNoSlot(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency, b.cfg.PrefetchMultiplier = 1, 10
	b.tasks = append(b.tasks, worker.Task{Name: "slow", Handler: value(1), RateLimit: "1/h"})
	b.task("t", value(2))
	b.start()
	b.wait(b.send("slow", nil))
	for range 3 {
		b.send("slow", nil)
	}
	if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
}
