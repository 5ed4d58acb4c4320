package worker_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/rabbit"
	"onceover/results"
	"onceover/worker"
)

// TestSlotOfAHeldJob has a job that cannot go on, as its result's key has another type: it does not
// hold the only slot.
func TestSlotOfAHeldJob(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency = 1
	b.task("t", value(1))
	bad := b.send("t", nil)
	if err := b.redis.LPush(t.Context(), results.Key(bad), "x").Err(); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.until(func() bool { return b.logs.FilterMessage("a job cannot go on, trying again").Len() > 0 })
	if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
}

// second starts another worker.
func (b *bundle) second() (stop func() error) {
	b.cfg.NodeName = "another-" + b.cfg.NodeName
	_, stop = b.start()
	return stop
}

// TestCopyGivenBack publishes an id twice. The worker that holds the copy gives it back, though it stops
// just when it hears that the id is taken, and the next one must not take the copy for a redelivery of the
// run that is at work.
func TestCopyGivenBack(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency = 1
	store := b.watchRefusals()
	g := newGate()
	b.task("t", g)
	b.start()
	id := b.send("t", nil)
	<-g.entered
	b.store = refusals{store.Store, store.taken, true}
	stop := b.second()
	b.send("t", func(r *celery.Request) { r.ID = id })
	<-store.taken
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-store.taken: // of the worker that has stopped
	default:
	}
	b.store = store
	b.second()
	for range 3 { // once it has waited for a sign of life it would take the id
		select {
		case <-store.taken:
		case <-g.entered:
			t.Fatal("the id runs twice at once, and nothing was lost")
		case <-time.After(time.Minute):
			t.Fatal("the copy did not ask for its id")
		}
	}
	close(g.release)
	b.until(func() bool { return len(b.outcomes(id)) == 2 })
	if n := g.runs.Load(); n != 1 {
		t.Errorf("got %d runs, want 1", n)
	}
}

// TestSecondRunIsNotTakenFrom has a redelivery meet the run of a copy after the run before it has
// ended: only the first could be of an earlier delivery of its own.
func TestSecondRunIsNotTakenFrom(t *testing.T) {
	b := setup(t)
	store := b.watchRefusals()
	g := newGate()
	b.task("t", g)
	id := b.send("t", nil)
	lease := func(run string) { b.redis.Set(t.Context(), "onceover:run:"+id, run, time.Minute) }
	lease("first")
	b.redeliver()
	b.start()
	<-store.taken
	lease("second")
	for range 4 {
		select {
		case <-store.taken:
		case <-g.entered:
			t.Fatal("the id was taken from a run that is healthy")
		case <-time.After(time.Minute):
			t.Fatal("the redelivery did not ask for its id")
		}
	}
	if err := b.results.Release(t.Context(), id, "alive second"); err != nil {
		t.Fatal(err)
	}
	<-g.entered
	close(g.release)
	b.wait(id)
}

// TestLeaseOfARunLeftBehind stops a worker whose handler ignores its context. The process ends, so
// that the lease must not say that the run goes on.
func TestLeaseOfARunLeftBehind(t *testing.T) {
	b := setup(t)
	b.cfg.Grace = 100 * time.Millisecond
	entered, release := make(chan struct{}), make(chan struct{})
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		close(entered)
		<-release
		return 1, nil
	}))
	defer close(release)
	_, stop := b.start()
	id := b.send("t", nil)
	<-entered
	if err := stop(); err == nil {
		t.Error("got no error of a worker that left a job behind")
	}
	if lease := b.redis.Get(t.Context(), "onceover:run:"+id).Val(); lease == "" || strings.HasPrefix(lease, "alive") {
		t.Errorf("got lease %q, want that of a run that may be taken over", lease)
	}
}

// TestStopWhileAnEndWaits stops a worker with an expired copy of a job that runs elsewhere: the
// copy goes back at once.
func TestStopWhileAnEndWaits(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency, b.cfg.Grace = 1, time.Hour
	store := b.watchRefusals()
	g := newGate()
	b.task("t", g)
	b.start()
	id := b.send("t", nil)
	<-g.entered
	stop := b.second()
	b.send("t", func(r *celery.Request) { r.ID, r.Expires = id, time.Now().Add(-time.Second) })
	<-store.taken
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Error("the worker has not stopped")
	}
	close(g.release)
	b.wait(id)
	<-stopped
}

// unreleased fails to release the first id, as in an outage.
type unreleased struct {
	refusals
	n *atomic.Int32
}

func (u unreleased) Release(ctx context.Context, id, run string) error {
	if u.n.Add(1) == 1 {
		return context.DeadlineExceeded
	}
	return u.refusals.Release(ctx, id, run)
}

// TestReleaseInAnOutage has a job that waits for something to come back fail to release its id: it
// does not wait for itself then.
func TestReleaseInAnOutage(t *testing.T) {
	b := setup(t)
	store := unreleased{b.watchRefusals(), new(atomic.Int32)}
	b.store = store
	var runs atomic.Int32
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		if runs.Add(1) == 1 {
			return nil, away{}
		}
		return 1, nil
	}))
	b.start()
	id := b.send("t", nil)
	if m := b.wait(id); m.Status != celery.Success || runs.Load() != 2 {
		t.Errorf("got %s after %d runs, want SUCCESS after two", m.Status, runs.Load())
	}
	if len(store.taken) > 0 {
		t.Error("the job has waited for its own lease")
	}
}

// parts is a store in which the first part of a chord is not counted before ctx ends.
type parts struct {
	*results.Store
	told chan celery.State
}

func (p parts) CountPart(ctx context.Context, part results.Part) (bool, error) {
	p.told <- part.State
	if len(p.told) == 1 {
		<-ctx.Done()
		return false, errors.New("redis is away")
	}
	return false, nil
}

// TestEarlyAcknowledgedAndStopped stops a worker between the SUCCESS on record and what follows from
// it, of a task that was acknowledged early: it has not failed.
func TestEarlyAcknowledgedAndStopped(t *testing.T) {
	b := setup(t)
	b.cfg.Grace = 100 * time.Millisecond
	p := parts{b.results, make(chan celery.State, 10)}
	b.store = p
	b.tasks = append(b.tasks, worker.Task{Name: "t", Handler: value(1), AckEarly: true})
	_, stop := b.start()
	id := b.send("t", func(r *celery.Request) { r.Group, r.Chord = "g", &celery.Signature{Task: "body"} })
	b.until(func() bool { return len(p.told) > 0 })
	_ = stop()
	close(p.told)
	for state := range p.told {
		if state != celery.Success {
			t.Errorf("the chord was told of %s, want SUCCESS", state)
		}
	}
	if n := b.records(id); n != 0 || b.state(id) != celery.Success {
		t.Errorf("got %d records and %s, want none and SUCCESS", n, b.state(id))
	}
}

// TestBurialAfterADeath has a dead letter that ran out come after the death of a process that was
// about to bury it. That process had not run it: its message is not published once more.
func TestBurialAfterADeath(t *testing.T) {
	b := setup(t)
	g := newGate()
	close(g.release)
	b.task("t", g)
	b.queue("short", amqp.Table{"x-message-ttl": int32(1)})
	id := uuid.NewString()
	if _, _, err := b.results.Begin(t.Context(), id, "end-x", "", ""); err != nil {
		t.Fatal(err)
	}
	b.publishRequest("", "short", &celery.Request{ID: id, Task: "t"})
	b.start()
	b.until(func() bool {
		return b.logs.FilterMessage("dead letter of a job that is at work waits for its end").Len() == 1
	})
	if err := b.results.Release(t.Context(), id, "end-x"); err != nil { // as if it had run out
		t.Fatal(err)
	}
	if m := b.wait(id); m.Status != celery.Revoked {
		t.Errorf("got %s, want REVOKED", m.Status)
	}
	if r := b.record(id); r.Reason != rabbit.Expired || g.runs.Load() != 0 {
		t.Errorf("got reason %s, %d runs, want expired, none", r.Reason, g.runs.Load())
	}
	if n := b.logs.FilterMessageSnippet("published once more").Len(); n != 0 {
		t.Errorf("got %d lines that it was published once more, want none", n)
	}
}
