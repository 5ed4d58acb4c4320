package worker_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/results"
	"onceover/worker"
)

// The tests of this file are about messages with the id of one that has ended, or goes on: a
// producer's second, or a delivery that comes again.

// watched tells when a task is looked up, or its id is asked for.
type watched struct {
	*results.Store
	looked chan string
}

func (l watched) Look(ctx context.Context, id string) (celery.Stored, error) {
	defer func() { l.looked <- id }()
	return l.Store.Look(ctx, id)
}

// TestSentAgainInOneProcess has a producer send an id again as soon as it sees the end, to the
// process that has not acknowledged the first message yet: the second is another message, and runs.
func TestSentAgainInOneProcess(t *testing.T) {
	for _, first := range []celery.State{celery.Failure, celery.Success} {
		t.Run(string(first), func(t *testing.T) {
			b := setup(t)
			store := watched{b.results, make(chan string, 100)}
			b.store = store
			held, release := make(chan struct{}, 4), make(chan struct{})
			var runs atomic.Int32
			b.task("t", returning{worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
				if runs.Add(1) == 1 && first == celery.Failure {
					return nil, celery.NewException("ValueError", "no picture", nil)
				}
				return 1, nil
			}), func(celery.State) {
				held <- struct{}{}
				<-release
			}})
			b.start()
			id := b.send("t", nil)
			<-held // the end is on record, and the message is not acknowledged
			for len(store.looked) > 0 {
				<-store.looked
			}
			b.send("t", func(r *celery.Request) { r.ID = id })
			<-store.looked // by the second
			close(release)
			b.until(func() bool { return len(b.outcomes(id)) == 2 })
			if n := runs.Load(); n != 2 {
				t.Errorf("got %d runs, want one of each message", n)
			}
		})
	}
}

// TestAwayAfterAnEarlierSuccess redelivers a message with an id that has succeeded before. Its run
// meets an outage, and must not take that success for its own.
func TestAwayAfterAnEarlierSuccess(t *testing.T) {
	b := setup(t)
	var runs atomic.Int32
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		if runs.Add(1) == 1 {
			return nil, away{}
		}
		return 2, nil
	}))
	id := uuid.NewString()
	b.saveState(id, celery.Success, 1, 0)
	if _, _, err := b.results.Begin(t.Context(), id, "run", "", celery.AnyEnd); err != nil { // of a process that died
		t.Fatal(err)
	}
	b.send("t", func(r *celery.Request) { r.ID = id })
	b.redeliver()
	b.start()
	b.until(func() bool { return len(b.outcomes(id)) == 1 })
	if b.outcomes(id)[0] || runs.Load() != 2 {
		t.Errorf("got %d runs, a duplicate: %v, want two of this message", runs.Load(), b.outcomes(id)[0])
	}
}

// TestCopyEndsWhileTheFirstIsAway has a job give its id back, as something is away, and a copy of it
// end meanwhile: it does not run once more.
func TestCopyEndsWhileTheFirstIsAway(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency = 1
	store := b.watchRefusals()
	entered, release := make(chan struct{}, 1), make(chan struct{})
	var runs atomic.Int32
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		if runs.Add(1) == 1 {
			entered <- struct{}{}
			<-release
			return nil, away{}
		}
		return 1, nil
	}))
	b.start()
	id := b.send("t", nil)
	<-entered
	b.second()
	b.send("t", func(r *celery.Request) { r.ID = id })
	<-store.taken
	close(release)
	b.until(func() bool { return len(b.outcomes(id)) == 2 })
	if n := runs.Load(); n != 2 {
		t.Errorf("got %d runs, want the one that was given back, and one", n)
	}
}

// TestCopiesDoNotFillThePrefetch has copies of a job at work wait: another job takes the free slot.
func TestCopiesDoNotFillThePrefetch(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency, b.cfg.PrefetchMultiplier = 2, 2
	g := newGate()
	b.task("t", g)
	b.task("other", value(1))
	b.start()
	id := b.send("t", nil)
	<-g.entered
	for range 6 {
		b.send("t", func(r *celery.Request) { r.ID = id })
	}
	if m := b.wait(b.send("other", nil)); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	if n := len(b.outcomes(id)); n != 0 {
		t.Errorf("got %d ends of the job at work, want none yet", n)
	}
	close(g.release)
	b.until(func() bool { return len(b.outcomes(id)) == 7 })
	if n := g.runs.Load(); n != 1 {
		t.Errorf("got %d runs, want one", n)
	}
}

// otherQueue has the worker that starts next consume a queue of its own, and returns the queue.
func (b *bundle) otherQueue() string {
	b.t.Helper()
	const name = "second"
	b.queue(name, amqp.Table{})
	b.cfg.Queues, b.cfg.NodeName = []string{name}, "second-"+b.cfg.NodeName
	return name
}

// TestAttemptBeforeComesAgain redelivers an attempt that was retried, whose acknowledgement was lost,
// while the next one is at work and STARTED is on record: it leaves that one alone, and tells nobody of an end.
func TestAttemptBeforeComesAgain(t *testing.T) {
	b := setup(t)
	b.cfg.TrackStarted = true
	g := newGate()
	b.task("t", g)
	var told atomic.Int32
	b.task("told", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) { return told.Add(1), nil }))
	b.start()
	id := uuid.NewString()
	b.saveState(id, celery.Retried, nil, 0)
	b.send("t", func(r *celery.Request) { r.ID, r.Retries = id, 1 })
	<-g.entered
	b.until(func() bool { return b.state(id) == celery.Started })
	queue := b.otherQueue()
	step := celery.NewSignature("told")
	step.Options.TaskID = uuid.NewString()
	b.sendTo(queue, "t", func(r *celery.Request) {
		r.ID, r.Errbacks, r.Chain = id, celery.Signatures{celery.NewSignature("told")}, celery.Signatures{step}
	})
	b.redeliverOf(queue)
	b.start()
	b.until(func() bool { return len(b.outcomes(id)) == 1 || g.runs.Load() > 1 })
	if n := g.runs.Load(); n != 1 {
		t.Errorf("got %d runs at once, want that of the next attempt", n)
	}
	if s := b.state(step.Options.TaskID); s == celery.Failure {
		t.Errorf("got %s of the next step, want that it is not told", s)
	}
	close(g.release)
	b.wait(id)
	b.wait(b.send("told", nil)) // an errback would have come before it
	if n := told.Load(); n != 1 {
		t.Errorf("got %d runs, want that of the last job alone: no errback", n)
	}
}

// TestCopyDoesNotAcknowledge has a copy of a failed job end as a duplicate. The job itself comes
// again, as its acknowledgement was lost: its end stands.
func TestCopyDoesNotAcknowledge(t *testing.T) {
	b := setup(t)
	var runs atomic.Int32
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		runs.Add(1)
		return 1, nil
	}))
	store := b.watchRefusals()
	id := uuid.NewString()
	if _, _, err := b.results.Begin(t.Context(), id, "first", "", celery.AnyEnd); err != nil { // elsewhere
		t.Fatal(err)
	}
	_, stop := b.start()
	b.send("t", func(r *celery.Request) { r.ID = id })
	<-store.taken
	b.saveState(id, celery.Failure, celery.NewException("ValueError", "x", nil), 0)
	if err := b.results.Ended(t.Context(), id, "first"); err != nil {
		t.Fatal(err)
	}
	b.until(func() bool { return len(b.outcomes(id)) == 1 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	queue := b.otherQueue()
	b.sendTo(queue, "t", func(r *celery.Request) { r.ID = id })
	b.redeliverOf(queue)
	b.start()
	b.until(func() bool { return len(b.outcomes(id)) == 2 })
	if n := runs.Load(); n != 0 || b.state(id) != celery.Failure {
		t.Errorf("got %d runs and %s, want none and the FAILURE", n, b.state(id))
	}
}
