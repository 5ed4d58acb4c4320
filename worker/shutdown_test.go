package worker_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"onceover/celery"
	"onceover/internal/testenv"
	"onceover/rabbit"
	"onceover/results"
	"onceover/worker"
)

// gate is a handler that says when it runs and goes on when told to.
type gate struct {
	entered chan string
	release chan struct{}
	runs    atomic.Int32
}

func newGate() *gate { return &gate{entered: make(chan string, 64), release: make(chan struct{})} }

func (g *gate) Run(ctx context.Context, r *celery.Request) (any, error) {
	g.runs.Add(1)
	g.entered <- r.ID
	select {
	case <-g.release:
		return "done", nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// TestDrain stops the worker with one job in flight and three prefetched: the
// one finishes, the others are ready for another worker at once.
func TestDrain(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency, b.cfg.PrefetchMultiplier = 1, 4
	g := newGate()
	b.task("t", g)
	w, stop := b.start()
	var ids []string
	for range 4 {
		ids = append(ids, b.send("t", nil))
	}
	first := <-g.entered
	b.until(func() bool { return b.left("q.ai") == 0 })
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	b.until(func() bool { return len(w.Problems()) > 0 && b.left("q.ai") == 3 })
	close(g.release)
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	if m := b.wait(first); m.Status != celery.Success {
		t.Errorf("job in flight: got %s, want SUCCESS", m.Status)
	}
	if n := b.left("q.ai"); n != 3 || g.runs.Load() != 1 {
		t.Errorf("got %d messages back and %d runs, want 3 and 1", n, g.runs.Load())
	}
	b.start()
	for _, id := range ids {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("task %s: got %s, want SUCCESS", id, m.Status)
		}
	}
	if g.runs.Load() != 4 {
		t.Errorf("got %d runs of 4 jobs", g.runs.Load())
	}
}

func TestGraceEnds(t *testing.T) {
	for name, end := range map[string]func(*bundle, *worker.Worker){
		"by time":          func(*bundle, *worker.Worker) {},
		"by second signal": func(_ *bundle, w *worker.Worker) { w.Abort() },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.cfg.Grace = time.Minute
			if name == "by time" {
				b.cfg.Grace = 200 * time.Millisecond
			}
			g := newGate()
			b.task("t", g)
			w, stop := b.start()
			id := b.send("t", nil)
			<-g.entered
			stopped := make(chan error, 1)
			go func() { stopped <- stop() }()
			b.until(func() bool { return len(w.Problems()) > 0 })
			end(b, w)
			var returned *worker.ReturnedError
			if err := <-stopped; !errors.As(err, &returned) || returned.Jobs != 1 {
				t.Errorf("Run: got %v, want one job returned", err)
			}
			b.until(func() bool { return b.left("q.ai") == 1 })
			if m, err := b.results.Load(t.Context(), id); m != nil || err != nil {
				t.Errorf("got %+v, %v stored, want nothing", m, err)
			}
			close(g.release)
			b.start()
			if m := b.wait(id); m.Status != celery.Success {
				t.Errorf("got %s, want SUCCESS from the next worker", m.Status)
			}
		})
	}
}

// TestRetryDoesNotHoldTheWorker stops a worker whose only job waits for its
// retry: the next attempt is parked, for whichever worker there is then.
func TestRetryDoesNotHoldTheWorker(t *testing.T) {
	b := setup(t)
	b.cfg.Grace = 0
	b.task("t", fail(&celery.Retry{Err: errors.New("away"), After: time.Minute}))
	_, stop := b.start()
	id := b.send("t", nil)
	b.until(func() bool { return b.logs.FilterMessage("task will be retried").Len() == 1 })
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	parked, err := b.kept.Parked(t.Context(), 10)
	if err != nil || len(parked) != 1 {
		t.Fatalf("got %v, %v parked, want the next attempt", parked, err)
	}
	h := parked[0].Headers
	if h["id"] != id || h["retries"] != int32(1) || h["eta"] == nil || parked[0].Queue != "q.ai" {
		t.Errorf("got %+v, want the next attempt of %s with its time", parked[0], id)
	}
	if n := b.left("q.ai"); n != 0 {
		t.Errorf("got %d messages in the queue, want none", n)
	}
}

// TestConnectionLost cuts the connection while a job runs: the broker delivers
// it again to the same worker, which must not run it twice.
func TestConnectionLost(t *testing.T) {
	b := setup(t)
	proxy := testenv.NewProxy(t, hostOf(t, b.url))
	b.cfg.BrokerURLs = []string{proxy.URL(b.url)}
	g := newGate()
	b.task("t", g)
	w, _ := b.start()
	id := b.send("t", nil)
	<-g.entered
	proxy.Cut()
	b.until(func() bool { return len(w.Problems()) > 0 })
	proxy.Restore()
	b.until(func() bool { return len(w.Problems()) == 0 })
	close(g.release)
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	b.until(func() bool { return len(b.outcomes(id)) == 2 }) // the run, and the duplicate
	if g.runs.Load() != 1 {
		t.Errorf("got %d runs, want 1", g.runs.Load())
	}
	b.until(func() bool { return b.left("q.ai") == 0 })
	if n := b.logs.FilterMessage("broker lost, reconnecting").Len(); n != 1 {
		t.Errorf("got %d lines about the loss, want 1", n)
	}
}

func (b *bundle) outcomes(id string) (duplicates []bool) {
	for _, e := range b.logs.FilterMessage("task finished").All() {
		if e.ContextMap()["task_id"] == id {
			duplicates = append(duplicates, e.ContextMap()["duplicate"].(bool))
		}
	}
	return duplicates
}

// TestBrokerRestart restarts a RabbitMQ of its own in the middle of 200 jobs.
func TestBrokerRestart(t *testing.T) {
	b := setup(t)
	server := testenv.RabbitMQ(t)
	b.url = server.URL()
	b.cfg.BrokerURLs, b.cfg.Concurrency = []string{b.url}, 10
	b.connect()
	if _, err := rabbit.Declare(t.Context(), b.conn, rabbit.Names(b.cfg.Queues...)...); err != nil {
		t.Fatal(err)
	}
	var runs atomic.Int32
	tenth := make(chan struct{})
	b.task("t", worker.HandlerFunc(func(ctx context.Context, _ *celery.Request) (any, error) {
		if runs.Add(1) == 10 {
			close(tenth)
		}
		timer := time.NewTimer(20 * time.Millisecond)
		defer timer.Stop()
		<-timer.C
		return nil, nil
	}))
	const jobs = 200
	var ids []string
	for range jobs {
		ids = append(ids, b.send("t", nil))
	}
	b.start()
	<-tenth
	server.Restart()
	for _, id := range ids {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("task %s: got %s, want SUCCESS", id, m.Status)
		}
	}
	if n := int(runs.Load()); n != jobs {
		t.Errorf("got %d runs of %d jobs, want each once: running jobs finish, finished ones are recognised", n, jobs)
	}
	if n := b.logs.FilterMessage("broker not reachable, trying again").Len(); n > 4 {
		t.Errorf("got %d lines about the outage, want a few", n)
	}
}

// TestRedisRestart stops Redis while 200 jobs run.
func TestRedisRestart(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency = 10
	var runs atomic.Int32
	tenth, stopped := make(chan struct{}), make(chan struct{})
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		n := runs.Add(1)
		if n == 10 {
			close(tenth)
		}
		if n > 10 {
			<-stopped // else all might end before
		}
		return nil, nil
	}))
	const jobs = 200
	var ids []string
	for range jobs {
		ids = append(ids, b.send("t", nil))
	}
	b.start()
	<-tenth
	b.server.Stop()
	close(stopped)
	b.until(func() bool { return b.logs.FilterMessage("redis lost, waiting for it").Len() == 1 })
	b.server.Start()
	for _, id := range ids {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("task %s: got %s, want SUCCESS", id, m.Status)
		}
	}
	if n := runs.Load(); n != jobs {
		t.Errorf("got %d runs of %d jobs, want each once", n, jobs)
	}
	if lost, back := b.logs.FilterMessage("redis lost, waiting for it").Len(), b.logs.FilterMessage("redis is back").Len(); lost != 1 || back != 1 {
		t.Errorf("got %d lines 'lost' and %d 'back', want one each", lost, back)
	}
}

// TestSameIDTwice publishes one id twice: the second waits for the first and is
// recognised as finished.
func TestSameIDTwice(t *testing.T) {
	b := setup(t)
	g := newGate()
	b.task("t", g)
	b.start()
	id := uuid.NewString()
	for range 2 {
		b.send("t", func(r *celery.Request) { r.ID = id })
	}
	<-g.entered
	b.until(func() bool { return b.left("q.ai") == 0 })
	close(g.release)
	b.until(func() bool { return len(b.outcomes(id)) == 2 })
	if g.runs.Load() != 1 {
		t.Errorf("got %d runs, want 1", g.runs.Load())
	}
}

// unstorable is a store that records nothing, and tells when it is asked to.
type unstorable struct {
	*results.Store
	asked chan struct{}
}

func (u unstorable) Record(context.Context, celery.Meta, celery.Stored) (celery.Stored, error) {
	u.asked <- struct{}{}
	return celery.Stored{}, errors.New("it cannot be stored")
}

func (u unstorable) End(ctx context.Context, _ string, m celery.Meta, since celery.Stored) (celery.Stored, bool, error) {
	theirs, err := u.Record(ctx, m, since)
	return theirs, false, err
}

// TestLateJobIsNotLeftBehind stops a worker whose handler takes as long to heed that as it may, and whose outcome cannot
// be stored then: the job has been given back when the worker has ended. Nothing may come for three seconds then.
func TestLateJobIsNotLeftBehind(t *testing.T) {
	b := setup(t)
	b.cfg.Grace = 0
	store := unstorable{b.results, make(chan struct{}, 100)}
	b.store = store
	entered := make(chan struct{})
	b.task("t", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
		close(entered)
		<-ctx.Done()
		time.Sleep(5 * time.Second) // it is slow to end, which is the point
		return 1, nil
	}))
	_, stop := b.start()
	b.send("t", nil)
	<-entered
	if err := stop(); err == nil {
		t.Error("got no error of a worker that gave a job back")
	}
	for len(store.asked) > 0 {
		<-store.asked
	}
	select {
	case <-store.asked:
		t.Error("a job that was left behind is at work on its outcome")
	case <-time.After(3 * time.Second):
	}
}
