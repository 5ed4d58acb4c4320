package worker_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"onceover/celery"
	"onceover/worker"
)

// TestRevokedWhileItIsAtWork revokes a job while its redelivery waits for the run that lost its
// connection: that run goes on, as in Celery, and its end stands.
func TestRevokedWhileItIsAtWork(t *testing.T) {
	b := setup(t)
	g := newGate()
	b.task("t", g)
	proxy := b.startBehindProxy()
	id := b.send("t", nil)
	<-g.entered
	proxy.Cut()
	b.second()
	b.until(func() bool { return b.left("q.ai") == 0 })
	b.control("revoke", map[string]any{"task_id": id})
	b.waits(id)
	if s := b.state(id); s != "" {
		t.Errorf("got %s while the job is at work, want nothing", s)
	}
	close(g.release)
	b.until(func() bool { return len(b.outcomes(id)) == 2 })
	if m := b.wait(id); m.Status != celery.Success || g.runs.Load() != 1 {
		t.Errorf("got %s and %d runs, want the end of the run", m.Status, g.runs.Load())
	}
}

// TestExpiredCopyOfAJobAtWork publishes an id twice; the second message has expired when it comes
// to another worker, while the first is at work: the end of the run stands.
func TestExpiredCopyOfAJobAtWork(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency = 1
	g := newGate()
	b.task("t", g)
	b.start()
	id := b.send("t", nil)
	<-g.entered
	b.second()
	b.send("t", func(r *celery.Request) { r.ID, r.Expires = id, time.Now().Add(-time.Second) })
	b.until(func() bool { return b.left("q.ai") == 0 })
	b.waits(id)
	close(g.release)
	b.until(func() bool { return len(b.outcomes(id)) == 2 })
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS of the run", m.Status)
	}
}

// TestSentAgainAfterFailure has a producer send an id again as soon as it sees FAILURE, while the
// worker has not acknowledged the first message yet: the second is another message, and runs.
func TestSentAgainAfterFailure(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency = 1
	held, release := make(chan struct{}, 2), make(chan struct{})
	runs := make(chan int, 4)
	n := 0
	b.task("t", returning{worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		n++
		if runs <- n; n == 1 {
			return nil, celery.NewException("ValueError", "no picture", nil)
		}
		return n, nil
	}), func(s celery.State) {
		if s == celery.Failure {
			held <- struct{}{}
			<-release
		}
	}})
	b.start()
	id := b.send("t", nil)
	<-held // FAILURE is on record, and the message is not acknowledged
	b.second()
	b.send("t", func(r *celery.Request) { r.ID = id })
	b.until(func() bool { return b.left("q.ai") == 0 })
	close(release)
	b.until(func() bool { return b.state(id) == celery.Success })
	if got := len(runs); got != 2 {
		t.Errorf("got %d runs, want one of each message", got)
	}
}

// returning has a function called with what was stored.
type returning struct {
	worker.HandlerFunc
	after func(celery.State)
}

func (r returning) AfterReturn(_ context.Context, _ *celery.Request, s celery.State, _ *celery.Exception) error {
	r.after(s)
	return nil
}

// TestStopIsPrompt stops a worker with one job at work and others that wait: they go back at once,
// none begins, and nobody says that the broker does not answer.
func TestStopIsPrompt(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency, b.cfg.PrefetchMultiplier = 1, 3
	g := newGate()
	b.task("t", g)
	_, stop := b.start()
	for range 3 {
		b.send("t", nil)
	}
	<-g.entered
	b.until(func() bool { return b.left("q.ai") == 0 })
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	b.until(func() bool { return b.left("q.ai") == 2 })
	close(g.release)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if n := g.runs.Load(); n != 1 {
		t.Errorf("got %d runs, want that of the job at work", n)
	}
	if n := b.logs.FilterMessage("the broker does not answer, stopping all the same").Len(); n != 0 {
		t.Errorf("got %d lines that the broker does not answer", n)
	}
}

// TestAliveWhileStopping loses the broker while a worker that stops waits for its last job: the
// worker that gets the job waits for its end.
func TestAliveWhileStopping(t *testing.T) {
	b := setup(t)
	g := newGate()
	b.task("t", g)
	proxy, stop := b.startStoppable()
	id := b.send("t", nil)
	<-g.entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	b.until(func() bool { return b.logs.FilterMessage("stopping").Len() == 1 })
	proxy.Cut()
	b.start()
	b.until(func() bool { return b.left("q.ai") == 0 })
	b.waits(id)
	close(g.release)
	b.until(func() bool { return len(b.outcomes(id)) == 2 })
	<-stopped
	if got := b.outcomes(id); !slices.Contains(got, true) || g.runs.Load() != 1 {
		t.Errorf("got %v and %d runs, want one run", got, g.runs.Load())
	}
}
