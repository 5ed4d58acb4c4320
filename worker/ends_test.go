package worker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/worker"
)

// The tests of this file are about jobs that have two ends: another delivery of the
// job, or another life of it, has stored one before.

// saveState stores what another process would have.
func (b *bundle) saveState(id string, state celery.State, result any, retries int) {
	b.t.Helper()
	m, err := celery.NewMeta(&celery.Request{ID: id, Retries: retries}, state, result, time.Now())
	if err != nil {
		b.t.Error(err)
	}
	since, err := b.results.Look(b.t.Context(), id)
	if err != nil {
		b.t.Error(err)
	}
	if theirs, err := b.results.Record(b.t.Context(), m, since); err != nil || theirs.Raw != "" {
		b.t.Errorf("got %q, %v, want %s recorded", theirs.Raw, err, state)
	}
}

// state is what is stored, "" for nothing.
func (b *bundle) state(id string) celery.State {
	b.t.Helper()
	states, err := b.results.States(b.t.Context(), []string{id})
	if err != nil {
		b.t.Fatal(err)
	}
	return states[0]
}

func (b *bundle) records(id string) int {
	b.t.Helper()
	refs, err := b.kept.Find(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return len(refs)
}

// TestSuccessStays has a job succeed in another process while it fails here, for good
// or to be retried: it has succeeded, and nothing follows from the failure.
func TestSuccessStays(t *testing.T) {
	b := setup(t)
	var runs atomic.Int32
	for name, err := range map[string]error{"retry": worker.Retry(errors.New("reset"), time.Second), "fail": errors.New("gone")} {
		b.task(name, worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
			runs.Add(1)
			b.saveState(r.ID, celery.Success, 42, 0)
			return nil, err
		}))
	}
	b.start()
	for _, name := range []string{"retry", "fail"} {
		last := celery.NewSignature("last")
		last.Options.TaskID = uuid.NewString()
		id := b.send(name, func(r *celery.Request) { r.Chain = celery.Signatures{last} })
		if line := b.outcome(id).ContextMap(); line["duplicate"] != true {
			t.Errorf("%s: got %v, want a duplicate", name, line)
		}
		if s, next := b.state(id), b.state(last.Options.TaskID); s != celery.Success || next != "" {
			t.Errorf("%s: got %s, and %q for the next step, want SUCCESS and nothing", name, s, next)
		}
		if n := b.records(id); n != 0 {
			t.Errorf("%s: got %d records, want none", name, n)
		}
	}
	if n := runs.Load(); n != 2 || b.left("q.ai") != 0 {
		t.Errorf("got %d runs and %d messages left, want 2 and 0", n, b.left("q.ai"))
	}
}

// startBehindProxy runs a worker whose connections the caller can cut.
func (b *bundle) startBehindProxy() *testenv.Proxy {
	b.t.Helper()
	proxy, _ := b.startStoppable()
	return proxy
}

// startStoppable is startBehindProxy with what stops the worker.
func (b *bundle) startStoppable() (*testenv.Proxy, func() error) {
	b.t.Helper()
	proxy := testenv.NewProxy(b.t, hostOf(b.t, b.url))
	direct := b.cfg.BrokerURLs
	b.cfg.BrokerURLs = []string{proxy.URL(b.url)}
	_, stop := b.start()
	b.cfg.BrokerURLs = direct
	return proxy, stop
}

// forget has the ledger forget the run of a job that goes on without its broker, as when Redis
// has evicted its lease: another worker runs the job, too.
func (b *bundle) forget(id string, ignored bool) {
	b.t.Helper()
	key := "onceover:run:" + id
	if ignored {
		key = "job:" + id + ":run"
	}
	b.until(func() bool { return strings.HasPrefix(b.redis.Get(b.t.Context(), key).Val(), "alive ") })
	b.redis.Del(b.t.Context(), key)
}

// TestRunIsWaitedFor cuts a worker off from the broker while it runs a job: the worker that gets
// the job waits for the end of that run, and does not run it.
func TestRunIsWaitedFor(t *testing.T) {
	b := setup(t)
	g := newGate()
	b.task("t", g)
	proxy := b.startBehindProxy()
	id := b.send("t", nil)
	<-g.entered
	proxy.Cut()
	b.start()
	b.until(func() bool { return b.left("q.ai") == 0 })
	b.until(func() bool { return strings.HasPrefix(b.redis.Get(t.Context(), "onceover:run:"+id).Val(), "alive ") })
	b.waits(id)
	close(g.release)
	b.until(func() bool { return len(b.outcomes(id)) == 2 })
	if got := b.outcomes(id); got[0] == got[1] || g.runs.Load() != 1 { // in any order
		t.Errorf("got runs that were duplicates: %v, and %d runs; want one run, and its redelivery recognised", got, g.runs.Load())
	}
}

// waits waits until a job was held longer than a run takes to say that it is alive.
func (b *bundle) waits(id string) {
	b.t.Helper()
	began := time.Now()
	b.until(func() bool { return time.Since(began) > 2500*time.Millisecond })
	if len(b.outcomes(id)) != 0 {
		b.t.Errorf("the job has ended")
	}
}

// TestFailureStays cuts a worker off from the broker while it runs a job, which another
// worker gets then and fails. That was told to everybody, so it stays, although the first
// one succeeds.
func TestFailureStays(t *testing.T) {
	for name, ignored := range map[string]bool{"stored": false, "ignored": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			g := newGate()
			b.task("t", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
				if g.runs.Load() == 0 {
					return g.Run(ctx, r)
				}
				return nil, celery.NewException("ValueError", "no picture", nil)
			}))
			proxy := b.startBehindProxy()
			last := to(celery.NewSignature("t"))
			last.Options.TaskID = uuid.NewString()
			id := b.send("t", func(r *celery.Request) { r.Chain, r.IgnoreResult = celery.Signatures{last}, ignored })
			<-g.entered
			proxy.Cut()
			b.start()
			b.forget(id, ignored)
			b.record(id)
			b.until(func() bool { return len(b.outcomes(id)) == 1 })
			close(g.release)
			b.until(func() bool { return len(b.outcomes(id)) == 2 })
			if got := b.outcomes(id); !slices.Equal(got, []bool{false, true}) {
				t.Errorf("got runs that were duplicates: %v, want only the second to end", got)
			}
			if s := b.state(last.Options.TaskID); s != celery.Failure || len(b.outcomes(last.Options.TaskID)) > 0 {
				t.Errorf("got %q for the next step, want it failed with the first, and not run", s)
			}
			if !ignored {
				b.wantException(b.wait(id), celery.Failure, "ValueError: no picture")
			}
			if n := b.records(id); n != 1 {
				t.Errorf("got %d records, want 1", n)
			}
		})
	}
}

// TestEndWhileWaiting has a job end in one worker, which lost the broker, while it waits
// for a slot of another: there it is not run any more.
func TestEndWhileWaiting(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency, b.cfg.PrefetchMultiplier = 1, 2
	busy, filler, g := newGate(), newGate(), newGate()
	b.task("busy", busy)
	b.task("filler", filler)
	b.task("t", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
		if _, err := g.Run(ctx, r); err != nil || g.runs.Load() > 1 {
			return nil, err
		}
		return nil, celery.NewException("ValueError", "no picture", nil)
	}))
	b.start()
	b.send("busy", nil)
	<-busy.entered
	b.send("filler", nil)
	b.until(func() bool { return b.left("q.ai") == 0 })
	proxy := b.startBehindProxy()
	id := b.send("t", nil)
	<-g.entered
	proxy.Cut()
	b.forget(id, false)
	b.until(func() bool { return b.left("q.ai") == 1 })
	close(busy.release)
	<-filler.entered
	// The redelivery has its id, and waits for the slot.
	b.until(func() bool { return b.redis.Exists(t.Context(), "onceover:run:"+id).Val() == 1 })
	close(g.release)
	b.until(func() bool { return len(b.outcomes(id)) == 1 })
	close(filler.release)
	b.until(func() bool { return len(b.outcomes(id)) == 2 })
	b.wantException(b.wait(id), celery.Failure, "ValueError: no picture")
	if n := g.runs.Load(); n != 1 {
		t.Errorf("got %d runs, want 1", n)
	}
}

// TestLostSessionsAreNoDeaths has a job redelivered because its workers lose the broker,
// and go on with it: nobody has died of it.
func TestLostSessionsAreNoDeaths(t *testing.T) {
	b := setup(t)
	b.cfg.MaxCrashes = 2
	g := newGate()
	b.task("t", g)
	first := b.startBehindProxy()
	id := b.send("t", nil)
	<-g.entered
	second := b.startBehindProxy()
	first.Cut()
	b.forget(id, false)
	<-g.entered // redelivered, and counted
	second.Cut()
	b.until(func() bool { return b.redis.Exists(t.Context(), "job:"+id+":runs").Val() == 0 })
	b.forget(id, false)
	b.start()
	<-g.entered // by a third
	close(g.release)
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
}

// begins tells when a run is about to begin.
type begins struct {
	*progress.Store
	run chan string
}

func (b begins) CountRun(ctx context.Context, taskID, run string) (int, error) {
	b.run <- run
	return b.Store.CountRun(ctx, taskID, run)
}

// TestOutagesAreNoDeaths has a redelivered job run again and again since Redis is away, which
// cannot be told at that moment that nobody has died. The delivery is not given back meanwhile.
func TestOutagesAreNoDeaths(t *testing.T) {
	b := setup(t)
	b.cfg.MaxCrashes = 2
	proxy := testenv.NewProxy(t, b.server.Addr())
	opt, err := redisretry.Options(proxy.URL(b.server.URL()))
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	marks := begins{progress.New(client, b.log), make(chan string, 8)}
	b.marks = marks
	var runs atomic.Int32
	cut := make(chan bool)
	b.task("t", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
		if runs.Add(1) > 3 {
			return 1, nil
		}
		proxy.Cut()
		cut <- r.Delivery.Redelivered
		return nil, away{errors.New("redis for progress is unavailable")}
	}))
	id := b.send("t", nil)
	ch, err := b.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := ch.Get("q.ai", false); !ok || err != nil {
		t.Fatalf("got %v, %v from q.ai", ok, err)
	}
	ch.Close() // what it had taken goes back, as redelivered
	b.start()
	<-marks.run
	for range 3 {
		<-cut
		proxy.Restore()
	}
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	if n := len(marks.run); n != 0 {
		t.Errorf("%d more runs were counted, want the first only", n)
	}
}

// TestReplacedAfterRetry replaces tasks in their second attempt: what takes their
// place has their ids and no retries, and is no redelivery of the first.
func TestReplacedAfterRetry(t *testing.T) {
	b := setup(t)
	b.task("t", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
		if r.Retries == 0 {
			return nil, worker.Retry(errors.New("reset"), time.Millisecond)
		}
		return nil, worker.Replace(to(celery.NewSignature("end")))
	}))
	b.task("end", value(7))
	b.start()
	var ids []string
	for i := range 20 {
		ids = append(ids, b.send("t", func(r *celery.Request) { r.IgnoreResult = i%2 == 1 }))
	}
	for _, id := range ids {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("got %s", m.Status)
		}
	}
}

// TestDeadLetterOfWhatGoesOn drains the redelivery of an attempt whose next one has
// been published, and one of a job that has failed.
func TestDeadLetterOfWhatGoesOn(t *testing.T) {
	b := setup(t)
	b.task("t", value(1))
	b.start()
	dead := func(id string) {
		t.Helper()
		b.publishRequest(rabbit.ExchangeDeadLetter, "dlq", &celery.Request{ID: id, Task: "t"})
	}
	dropped := func(n int) {
		t.Helper()
		b.until(func() bool {
			return b.logs.FilterMessage("dead letter of a job that has ended or goes on, dropped").Len() == n
		})
	}
	id := uuid.NewString()
	b.saveState(id, celery.Retried, celery.NewException("ConnectionError", "reset", nil), 0)
	dead(id)
	dropped(1)
	b.send("t", func(r *celery.Request) {
		r.ID, r.Retries, r.Headers = id, 1, map[string]any{"x-onceover-again": true}
	})
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want the next attempt to run", m.Status)
	}
	// Its run could not acknowledge it, and did not keep it any more.
	id = uuid.NewString()
	b.saveState(id, celery.Failure, celery.NewException("ValueError", "no picture", nil), 0)
	if _, holder, err := b.results.Begin(t.Context(), id, "run", "", ""); err != nil || holder != "run" {
		t.Fatal(holder, err)
	}
	if err := b.results.Ended(t.Context(), id, "run"); err != nil {
		t.Fatal(err)
	}
	dead(id)
	dropped(2)
	b.wantException(b.wait(id), celery.Failure, "ValueError: no picture")
	if r := b.record(id); r.Error != "ValueError" || r.Replays != 0 {
		t.Errorf("got record %+v", r)
	}
	// Its run died before it could say that the end is its own.
	id = uuid.NewString()
	if _, holder, err := b.results.Begin(t.Context(), id, "run", "", ""); err != nil || holder != "run" {
		t.Fatal(holder, err)
	}
	b.saveState(id, celery.Failure, celery.NewException("ValueError", "no picture", nil), 0)
	dead(id)
	dropped(3)
	b.wantException(b.wait(id), celery.Failure, "ValueError: no picture")
	if r := b.record(id); r.Error != "ValueError" {
		t.Errorf("got record %+v", r)
	}
	// An earlier message with its id failed, long ago.
	id = uuid.NewString()
	b.saveState(id, celery.Failure, celery.NewException("ValueError", "no picture", nil), 0)
	dead(id)
	if r := b.record(id); r.Error != "Reject" || r.Reason != rabbit.Rejected {
		t.Errorf("got record %+v, want it kept as rejected", r)
	}
}

type away struct{ error }

func (away) Unavailable() bool { return true }

// TestEarlyAckEnds has tasks go on, and end, with nothing to give back.
func TestEarlyAckEnds(t *testing.T) {
	b := setup(t)
	var runs atomic.Int32
	b.tasks = append(b.tasks,
		worker.Task{Name: "away", AckEarly: true, Handler: worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
			n := runs.Add(1)
			if r.Delivery.Redelivered != (n > 1) { // what it has paid for is looked up
				t.Errorf("run %d: redelivered is %v", n, r.Delivery.Redelivered)
			}
			if n < 3 {
				return nil, away{errors.New("redis for cache is unavailable")}
			}
			return 1, nil
		})},
		worker.Task{Name: "requeue", AckEarly: true, Handler: fail(worker.Reject("later", true))})
	gone := newGate()
	b.tasks = append(b.tasks, worker.Task{Name: "gone", AckEarly: true, Handler: worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
		gone.entered <- r.ID
		return nil, away{errors.New("redis for cache is unavailable")}
	})})
	_, stop := b.start()
	if m := b.wait(b.send("away", nil)); m.Status != celery.Success {
		t.Errorf("away: got %s, want SUCCESS when it is back", m.Status)
	}
	id := b.send("requeue", nil)
	if exc, err := b.wait(id).Exception(); err != nil || exc.Type != "WorkerLostError" {
		t.Errorf("requeue: got %v, %v, want WorkerLostError", exc, err)
	}
	b.record(id)
	id = b.send("gone", nil)
	<-gone.entered
	<-gone.entered
	_ = stop() // what it returns is not looked at
	if exc, err := b.wait(id).Exception(); err != nil || exc.Type != "WorkerLostError" {
		t.Errorf("stopped while away: got %v, %v, want WorkerLostError", exc, err)
	}
}

type panicking struct{ worker.HandlerFunc }

func (panicking) AfterReturn(context.Context, *celery.Request, celery.State, *celery.Exception) error {
	panic("after return")
}

type unwritable struct{}

func (unwritable) MarshalJSON() ([]byte, error) { panic("no JSON") }

// TestPanicsOutsideOfHandlers lets a task panic where it is asked about itself.
func TestPanicsOutsideOfHandlers(t *testing.T) {
	b := setup(t)
	b.cfg.MaxCrashes = 1
	b.task("after", panicking{value(1)})
	b.task("result", value(unwritable{}))
	b.tasks = append(b.tasks, worker.Task{Name: "retry", Handler: fail(errors.New("x")), AutoRetry: func(error) bool { panic("retry?") }})
	b.start()
	if m := b.wait(b.send("after", nil)); m.Status != celery.Success {
		t.Errorf("AfterReturn: got %s", m.Status)
	}
	if m := b.wait(b.send("retry", nil)); m.Status != celery.Failure {
		t.Errorf("AutoRetry: got %s", m.Status)
	}
	if exc, err := b.wait(b.send("result", nil)).Exception(); err != nil || exc.Type != "TypeError" {
		t.Errorf("a result that panics: got %v, %v, want TypeError", exc, err)
	}
}

// TestReplayAfterRevoke revokes a job while it runs, which fails and is replayed: that
// counts more.
func TestReplayAfterRevoke(t *testing.T) {
	b := setup(t)
	f, g := &flaky{}, newGate()
	b.task("t", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
		if f.runs.Load() == 0 {
			if _, err := g.Run(ctx, r); err != nil {
				return nil, err
			}
		}
		return f.Run(ctx, r)
	}))
	b.start()
	id := b.send("t", nil)
	<-g.entered
	b.control("revoke", map[string]any{"task_id": id})
	close(g.release)
	if m := b.wait(id); m.Status != celery.Failure {
		t.Fatalf("got %s, want the failure of what ran", m.Status)
	}
	f.mended.Store(true)
	if o := b.replay(id); !o.Done {
		t.Fatalf("got %+v", o)
	}
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
}

// TestStopsWhileTheBrokerIsBlocked stops a worker while RabbitMQ reads nothing, as it
// does in a memory alarm.
func TestStopsWhileTheBrokerIsBlocked(t *testing.T) {
	t.Parallel()
	rabbit := testenv.RabbitMQ(t)
	b := setupOn(t, rabbit.URL())
	g := newGate()
	b.task("slow", g)
	b.task("next", value(1))
	b.cfg.Grace = time.Second
	_, stop := b.start()
	b.wait(b.send("next", nil))
	slow := b.send("slow", func(r *celery.Request) { r.Callbacks = celery.Signatures{to(celery.NewSignature("next"))} })
	<-g.entered
	rabbit.Ctl("set_vm_memory_high_watermark", "absolute", "1")
	close(g.release) // it publishes into a connection that is not read
	done := make(chan error, 1)
	go func() { done <- stop() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Errorf("not stopped after 30 s, with a grace period of 1 s")
	}
	rabbit.Ctl("set_vm_memory_high_watermark", "0.6")
	b.start()
	if m := b.wait(slow); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS from the next worker", m.Status)
	}
}

// TestWorksOffWhatWaitsWhileTheBrokerIsBlocked has more jobs waiting than are prefetched
// when RabbitMQ has a memory alarm: only what is acknowledged makes room for the next, and
// an operator expects the queues to get shorter.
func TestWorksOffWhatWaitsWhileTheBrokerIsBlocked(t *testing.T) {
	t.Parallel()
	rabbit := testenv.RabbitMQ(t)
	b := setupOn(t, rabbit.URL())
	b.cfg.Concurrency, b.cfg.PrefetchMultiplier = 1, 2
	g := newGate()
	b.task("slow", g)
	b.task("next", value(1))
	b.start()
	sendChain := func(follower string) {
		b.send("next", func(r *celery.Request) {
			next := celery.NewSignature("next")
			next.Options.TaskID = follower
			r.Callbacks = celery.Signatures{to(next)}
		})
	}
	sendChain("before") // RabbitMQ blocks connections that have published
	b.wait("before")
	ids := []string{b.send("slow", nil)}
	<-g.entered
	for range 20 {
		ids = append(ids, b.send("next", nil))
	}
	sendChain("after")
	rabbit.Ctl("set_vm_memory_high_watermark", "absolute", "1")
	close(g.release)
	for i, id := range ids {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("job %d: got %s, want SUCCESS", i, m.Status)
		}
	}
	b.until(func() bool {
		return b.logs.FilterMessageSnippet("the broker takes no messages").Len() == 1
	})
	rabbit.Ctl("set_vm_memory_high_watermark", "0.6")
	b.wait("after")
}

// TestRefusedByTheBroker has a task start what the broker does not take: the task
// fails, and the others go on.
func TestRefusedByTheBroker(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	server.Ctl("eval", "application:set_env(rabbit, max_message_size, 1000000), persistent_term:put(max_message_size, 1000000).")
	b := setupOn(t, server.URL())
	b.task("big", value(strings.Repeat("x", 2_000_000)))
	b.task("t", value(1))
	b.start()
	next := celery.NewSignature("t")
	next.Options.Exchange, next.Options.RoutingKey = rabbit.ExchangeTasks, "ai.test"
	big := b.send("big", func(r *celery.Request) { r.Callbacks = celery.Signatures{next} })
	if exc, err := b.wait(big).Exception(); err != nil || exc.Type != "OperationalError" || !strings.Contains(exc.Message(), "larger than") {
		t.Errorf("too large: got %v, %v", exc, err)
	}
	if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
		t.Errorf("got %s", m.Status)
	}
}
