package worker_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/worker"
)

// TestUnwritableException has a task fail with an exception that is no JSON value: it fails all the same, and the text says with
// what.
func TestUnwritableException(t *testing.T) {
	b := setup(t)
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		return nil, &celery.Exception{Type: "ValueError", Args: []any{"measured", math.NaN()}}
	}))
	b.start()
	id := b.send("t", nil)
	exc, err := b.wait(id).Exception()
	if err != nil || exc == nil || exc.Type != "ValueError" || !strings.Contains(exc.Message(), "measured") {
		t.Errorf("got %v, %v, want the ValueError", exc, err)
	}
	b.until(func() bool { return b.records(id) == 1 })
}

// TestRetryThatIsNotConfirmed has a retry stay without its confirm for longer than the task may take: the task fails. When the queue
// delivers the retry after all, it does not run.
func TestRetryThatIsNotConfirmed(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := setupOn(t, server.URL())
	b.queue("own", amqp.Table{})
	b.cfg.Queues, b.cfg.Concurrency, b.cfg.PrefetchMultiplier = []string{"own"}, 1, 2
	var runs atomic.Int32
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		runs.Add(1)
		return nil, worker.Retry(errors.New("again"), time.Millisecond)
	}))
	before := newGate()
	b.task("before", before)
	b.start()
	b.sendTo("own", "before", nil)
	<-before.entered
	req := &celery.Request{ID: uuid.NewString(), Task: "t", TimeLimit: 3 * time.Second}
	props, headers, body, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.publishTo("", "own", publishing(props, headers, body)); err != nil {
		t.Fatal(err)
	}
	// The job is at the worker, and its time does not run yet, when the queue stops.
	b.until(func() bool { return b.left("own") == 0 })
	suspend(server, "suspend", "own")
	close(before.release)
	if m := b.wait(req.ID); m.Status != celery.Failure {
		t.Errorf("got %s, want FAILURE", m.Status)
	}
	suspend(server, "resume", "own")
	b.until(func() bool { return len(b.outcomes(req.ID)) == 2 })
	if got := b.outcomes(req.ID); got[0] || !got[1] || runs.Load() != 1 || b.state(req.ID) != celery.Failure {
		t.Errorf("got duplicates %v, %d runs, %s; want the failure, and the retry recognised", got, runs.Load(), b.state(req.ID))
	}
}

// TestReplyQueueWithoutConfirms has more callers than a channel takes wait behind a queue that does not confirm: others get their
// results.
func TestReplyQueueWithoutConfirms(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := setupOn(t, server.URL())
	b.queue("stuck", amqp.Table{})
	b.queue("well", amqp.Table{})
	b.cfg.RPCResults, b.cfg.Concurrency = true, 200
	b.task("t", value(1))
	b.start()
	suspend(server, "suspend", "stuck")
	for range 140 {
		b.send("t", func(r *celery.Request) { r.ReplyTo = "stuck" })
	}
	id := b.send("t", func(r *celery.Request) { r.ReplyTo = "well" })
	if d := b.get("well"); d.CorrelationId != id {
		t.Errorf("got the result of %q, want that of %s", d.CorrelationId, id)
	}
	suspend(server, "resume", "stuck")
}

// TestNextStepWhileStopping has a job end while the worker stops, whose callback goes to a queue that is not there: it is made.
func TestNextStepWhileStopping(t *testing.T) {
	b := setup(t)
	g := newGate()
	b.task("t", g)
	_, stop := b.start()
	queue := "new-" + uuid.NewString()
	id := b.send("t", callback(queue, nil))
	<-g.entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	b.until(func() bool { return b.logs.FilterMessageSnippet("stopping").Len() > 0 })
	close(g.release)
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if d := b.get(queue); d.Headers["parent_id"] != id {
		t.Errorf("got headers %v, want the callback of %s", d.Headers, id)
	}
	ch := b.channel()
	defer ch.Close()
	if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
		t.Error(err)
	}
}

// needed is a store of the tasks' own, with what is wrong with it.
type needed struct {
	fault atomic.Pointer[redisretry.Fault]
}

func (n *needed) Fault() *redisretry.Fault { return n.fault.Load() }

// TestRightsOfWhatTasksNeed has rights be missing at a store that only tasks need: jobs stay in their queue, and the reason has a
// remedy. An outage there is the jobs' own matter.
func TestRightsOfWhatTasksNeed(t *testing.T) {
	b := setup(t)
	var n needed
	n.fault.Store(&redisretry.Fault{Role: "cache", Kind: redisretry.Rights, Since: time.Now(), Err: errors.New("WRONGPASS invalid username-password pair"), Remedy: "set the right one"})
	b.cfg.Needs = []worker.Store{&n}
	b.task("t", value(1))
	w, _ := b.start()
	id := b.send("t", nil)
	b.until(func() bool {
		return strings.Contains(fmt.Sprint(w.Problems()), "redis for cache: WRONGPASS invalid username-password pair: set the right one")
	})
	if s := b.state(id); s != "" || b.left("q.ai") != 1 {
		t.Errorf("got %q and %d messages left, want the job in its queue", s, b.left("q.ai"))
	}
	n.fault.Store(&redisretry.Fault{Role: "cache", Kind: redisretry.Outage, Since: time.Now(), Err: errors.New("connection refused")})
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
}

// TestNextStepThatCannotBe has a callback go to queues that nobody may have: the task fails, and says why.
func TestNextStepThatCannotBe(t *testing.T) {
	b := setup(t)
	b.task("t", value(1))
	b.start()
	for _, queue := range []string{"amq.of-the-broker", strings.Repeat("q", 256)} {
		id := b.send("t", callback(queue, nil))
		exc, err := b.wait(id).Exception()
		if err != nil || exc == nil || exc.Type != "OperationalError" || !strings.Contains(exc.Message(), queue[:min(20, len(queue))]) {
			t.Errorf("queue %.20s: got %v, %v, want an OperationalError that names it", queue, exc, err)
		}
		b.until(func() bool { return b.records(id) == 1 })
	}
	if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
		t.Errorf("another job: got %s, want SUCCESS", m.Status)
	}
}

// TestResultThatIsTooLarge has a task return more than Redis takes: it fails, and others go on.
func TestResultThatIsTooLarge(t *testing.T) {
	b := setup(t)
	if err := b.redis.ConfigSet(t.Context(), "proto-max-bulk-len", "1048576").Err(); err != nil {
		t.Fatal(err)
	}
	b.task("large", value(strings.Repeat("x", 2<<20)))
	b.task("t", value(1))
	b.start()
	exc, err := b.wait(b.send("large", nil)).Exception()
	if err != nil || exc == nil || exc.Type != "RuntimeError" || !strings.Contains(exc.Message(), "cannot be stored") {
		t.Errorf("got %v, %v, want a RuntimeError", exc, err)
	}
	if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
		t.Errorf("another job: got %s, want SUCCESS", m.Status)
	}
}
