package worker_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"onceover/celery"
	"onceover/worker"
)

// TestPostpone postpones a job twice, here and by way of the parked jobs: it is the same attempt each time, and
// nothing is recorded meanwhile.
func TestPostpone(t *testing.T) {
	b := setup(t)
	b.cfg.MaxCrashes = 1 // a run that is postponed has ended in good order
	waits := []time.Duration{time.Millisecond, 11 * time.Second}
	var runs atomic.Int64
	var states []celery.State
	b.task("t", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
		states = append(states, b.state(r.ID))
		if again := runs.Load() > 0; r.Delivery.Redelivered != again {
			t.Errorf("run %d: it was at work before: %v", runs.Load()+1, r.Delivery.Redelivered)
		}
		if n := int(runs.Add(1)) - 1; n < len(waits) {
			return nil, worker.Postpone(errors.New("no room"), waits[n])
		}
		return r.Retries, nil
	}))
	b.start()
	began := time.Now()
	id := b.send("t", nil)
	b.until(func() bool {
		parked, err := b.kept.Parked(t.Context(), 10)
		return err == nil && len(parked) == 1 && b.left("q.ai") == 0
	})
	if parked, _, err := b.kept.ParkedPage(t.Context(), 1, 10); err != nil || len(parked) != 1 || parked[0].Why != "postponed" || parked[0].Error != "RuntimeError" || parked[0].Text != "no room" {
		t.Errorf("parked is %+v, %v: want it to say why", parked, err)
	}
	if m := b.wait(id); m.Status != celery.Success || string(m.Result) != "0" {
		t.Errorf("got %s %s, want SUCCESS of the first attempt", m.Status, m.Result)
	}
	if took := time.Since(began); runs.Load() != 3 || took < waits[1] {
		t.Errorf("%d runs in %v, want 3 in at least %v", runs.Load(), took, waits[1])
	}
	for i, s := range states {
		if s != "" {
			t.Errorf("state %q is on record before run %d, want none", s, i+1)
		}
	}
}

// TestPostponedBeyondItsExpiry postpones a job for longer than anybody wants it: it is revoked when its time is over.
func TestPostponedBeyondItsExpiry(t *testing.T) {
	b := setup(t)
	var runs atomic.Int64
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		runs.Add(1)
		return nil, worker.Postpone(errors.New("no room"), time.Hour)
	}))
	b.start()
	id := b.send("t", func(r *celery.Request) { r.Expires = time.Now().Add(2 * time.Second) })
	if m := b.wait(id); m.Status != celery.Revoked || runs.Load() != 1 {
		t.Errorf("got %s after %d runs, want REVOKED after one", m.Status, runs.Load())
	}
}

// TestStepAside has more jobs wait outside of the slots than there are slots and deliveries sent ahead: another job
// is not behind them.
func TestStepAside(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency, b.cfg.PrefetchMultiplier = 2, 1
	g := newGate()
	var inSlot, most atomic.Int64
	b.task("slow", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
		back := worker.StepAside(ctx)
		if again := worker.StepAside(ctx); again(ctx) != nil { // it has no slot to give
			t.Error("a second time")
		}
		got, err := g.Run(ctx, r)
		err = errors.Join(err, back(ctx))
		most.Store(max(most.Load(), inSlot.Add(1)))
		inSlot.Add(-1)
		return got, err
	}))
	b.task("quick", value(1))
	b.start()
	var ids []string
	for range 20 {
		ids = append(ids, b.send("slow", nil))
	}
	for range ids {
		<-g.entered
	}
	if m := b.wait(b.send("quick", nil)); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	close(g.release)
	for _, id := range ids {
		if m := b.wait(id); m.Status != celery.Success || string(m.Result) != `"done"` {
			t.Errorf("got %s %s", m.Status, m.Result)
		}
	}
	if most.Load() > 2 {
		t.Errorf("%d jobs were in two slots", most.Load())
	}
}

// TestStepAsideLeftBehind has a handler come back from outside of the slots after its job was given up: it has no slot
// any more, nor takes one.
func TestStepAsideLeftBehind(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency = 1
	release, came := make(chan struct{}), make(chan error, 1)
	b.task("t", worker.HandlerFunc(func(ctx context.Context, _ *celery.Request) (any, error) {
		back := worker.StepAside(ctx)
		<-release
		err := back(ctx)
		came <- err
		return nil, err
	}))
	b.task("quick", value(1))
	b.start()
	id := b.send("t", func(r *celery.Request) { r.TimeLimit = 100 * time.Millisecond })
	if m := b.wait(id); m.Status != celery.Failure {
		t.Errorf("got %s, want FAILURE", m.Status)
	}
	close(release)
	if err := <-came; err == nil {
		t.Error("a handler that was left behind has a slot")
	}
	if m := b.wait(b.send("quick", nil)); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
}
