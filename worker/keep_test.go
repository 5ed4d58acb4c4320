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
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"

	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/testenv"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
	"onceover/worker"
)

// record waits until a failed job is kept.
func (b *bundle) record(id string) *failed.Record {
	b.t.Helper()
	var r *failed.Record
	b.until(func() bool {
		refs, err := b.kept.Find(b.t.Context(), id)
		if err == nil && len(refs) > 0 {
			r, err = b.kept.Get(b.t.Context(), refs[0])
		}
		if err != nil {
			b.t.Fatal(err)
		}
		return r != nil
	})
	return r
}

// replay runs a failed job again.
func (b *bundle) replay(id string) failed.Outcome {
	b.t.Helper()
	b.record(id)
	refs, err := b.kept.Find(b.t.Context(), id)
	if err != nil || len(refs) == 0 {
		b.t.Fatalf("no record of %s: %v", id, err)
	}
	sender := &rabbit.Sender{Conn: b.conn, Waiting: func(*rabbit.FullError) {}, Idle: func(string, time.Duration) {}}
	defer sender.Close()
	publish := func(ctx context.Context, _ bool, m ...rabbit.Message) error { return sender.Send(ctx, m...) }
	out, err := b.kept.Replay(b.t.Context(), refs[:1], publish, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return out[0]
}

type staged struct{ error }

func (s staged) Unwrap() error { return s.error }
func (staged) Stage() string   { return "upload" }

// flaky fails until it is mended.
type flaky struct {
	mended atomic.Bool
	runs   atomic.Int64
}

func (f *flaky) Run(_ context.Context, r *celery.Request) (any, error) {
	f.runs.Add(1)
	if f.mended.Load() {
		return r.Retries, nil
	}
	return nil, staged{celery.NewException("ValueError", "no such file: https://u:p@store.example/a.jpg?sig=secret", nil)}
}

// LogFields is what the log has of a job that fails.
func (f *flaky) LogFields(req *celery.Request) []zap.Field {
	return []zap.Field{zap.String("user_id", "user of "+req.ID)}
}

// TestFailureIsAnError has one line at level error of a job that has failed for good, with whose it
// was and what it came of, and none of one that succeeds, is tried again or comes twice.
func TestFailureIsAnError(t *testing.T) {
	b := setup(t)
	b.task("flaky", &flaky{})
	b.task("well", value(1))
	b.task("again", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
		if r.Retries == 0 {
			return nil, &celery.Retry{Err: celery.NewException("ValueError", "once", nil)}
		}
		return 1, nil
	}))
	b.start()
	root := uuid.NewString()
	bad := b.send("flaky", func(r *celery.Request) { r.RootID = root }, "x")
	e := b.outcome(bad)
	if m := e.ContextMap(); e.Level != zap.ErrorLevel || m["root_id"] != root || m["user_id"] != "user of "+bad || m["state"] != "FAILURE" || m["error"] == nil {
		t.Errorf("got %v %v, want an error with root and user", e.Level, m)
	}
	for _, id := range []string{b.send("well", nil), b.send("again", nil)} {
		if e := b.outcome(id); e.Level != zap.InfoLevel || e.ContextMap()["root_id"] != nil {
			t.Errorf("got %v %v, want info", e.Level, e.ContextMap())
		}
	}
}

// TestFailedJobIsKept fails a job in a chain, and replays it once its fault is
// mended: it runs again under its id, and the chain goes on to its end.
func TestFailedJobIsKept(t *testing.T) {
	b := setup(t)
	f := &flaky{}
	b.task("flaky", f)
	b.task("last", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) { return r.Args[0], nil }))
	b.start()
	last := celery.NewSignature("last")
	last.Options.TaskID = uuid.NewString()
	last.Options.Queue = "q.ai"
	id := b.send("flaky", func(r *celery.Request) {
		r.Chain = celery.Signatures{last}
		r.Headers = map[string]any{"tenant": int64(1) << 40, "nested": map[string]any{"n": int32(7)}}
		r.Expires = time.Now().Add(time.Hour)
	}, "https://store.example/a.jpg?X-Amz-Signature=secret")
	b.wantException(b.wait(id), celery.Failure, "ValueError: no such file: https://u:p@store.example/a.jpg?sig=secret")
	b.wait(last.Options.TaskID)

	r := b.record(id)
	if r.Task != "flaky" || r.Error != "ValueError" || r.Stage != "upload" || r.Attempts != 1 || r.Replays != 0 ||
		r.Worker != b.cfg.NodeName || r.Queue != "q.ai" || r.Reason != failed.ReasonFailed || r.State != celery.Failure {
		t.Errorf("got record %+v", r)
	}
	if r.Text != "no such file: https://store.example/a.jpg?…" || r.Args != "('https://store.example/a.jpg?…',)" || strings.Contains(r.Traceback, "secret") {
		t.Errorf("got text %q, arguments %q, traceback %q: want no secret", r.Text, r.Args, r.Traceback)
	}
	h := r.Message.Headers
	if h["tenant"] != int64(1)<<40 || h["nested"].(amqp.Table)["n"] != int32(7) || h["retries"] != int32(0) {
		t.Errorf("got headers %#v, want their types as they were", h)
	}

	// It fails again, under the next number.
	if o := b.replay(id); !o.Done {
		t.Fatalf("got %+v, want it replayed", o)
	}
	b.until(func() bool { return f.runs.Load() == 2 })
	var again *failed.Record
	b.until(func() bool { again = b.record(id); return again.Replays == 1 })
	if !again.First.Equal(r.First) || !again.Last.After(r.Last) || again.Message.Exchange != "tasks" || again.Message.RoutingKey != "ai.test" {
		t.Errorf("got first %v, last %v, route %q %q; the record before had %v, %v", again.First, again.Last,
			again.Message.Exchange, again.Message.RoutingKey, r.First, r.Last)
	}

	f.mended.Store(true)
	if o := b.replay(id); !o.Done {
		t.Fatalf("got %+v, want it replayed", o)
	}
	b.until(func() bool {
		m, err := b.results.Load(t.Context(), id)
		return err == nil && m != nil && m.Status == celery.Success
	})
	if m := b.wait(id); string(m.Result) != "0" {
		t.Errorf("got %s, want a first attempt", m.Result)
	}
	b.until(func() bool {
		m, err := b.results.Load(t.Context(), last.Options.TaskID)
		return err == nil && m != nil && m.Status == celery.Success
	})
	if refs, err := b.kept.Find(t.Context(), id); err != nil || len(refs) != 0 {
		t.Errorf("got %v, %v, want no record left", refs, err)
	}
}

// TestReplayOfSuccess replays a record whose job has succeeded since.
func TestReplayOfSuccess(t *testing.T) {
	b := setup(t)
	f := &flaky{}
	b.task("flaky", f)
	b.start()
	id := b.send("flaky", nil)
	b.wait(id)
	b.saveState(id, celery.Success, 1, 0)
	if o := b.replay(id); o.Done || !strings.Contains(o.Why, "succeeded") {
		t.Errorf("got %+v, want it left alone", o)
	}
	b.record(id)
	if f.runs.Load() != 1 {
		t.Errorf("got %d runs, want 1", f.runs.Load())
	}
}

// TestParkedJobRuns parks a job until its ETA, and one until its retry.
func TestParkedJobRuns(t *testing.T) {
	b := setup(t)
	var at atomic.Int64
	b.task("later", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
		at.Store(time.Now().UnixNano())
		return map[string]any{"key": r.Delivery.RoutingKey, "headers": len(r.Headers)}, nil
	}))
	b.task("again", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
		if r.Retries == 0 {
			return nil, &celery.Retry{Err: errors.New("busy"), After: 11 * time.Second}
		}
		return r.Retries, nil
	}))
	b.start()
	eta := time.Now().Add(11 * time.Second)
	later := b.send("later", func(r *celery.Request) { r.ETA = eta }, strings.Repeat("x", 200_000))
	again := b.send("again", nil)
	b.until(func() bool {
		parked, err := b.kept.Parked(t.Context(), 10)
		return err == nil && len(parked) == 2 && b.left("q.ai") == 0
	})
	if m, err := b.results.Load(t.Context(), again); err != nil || m == nil || m.Status != celery.Retried {
		t.Errorf("got %+v, %v, want RETRY", m, err)
	}
	if m := b.wait(later); m.Status != celery.Success || string(m.Result) != `{"headers":0,"key":"ai.test"}` {
		t.Errorf("got %s %s", m.Status, m.Result)
	}
	if got := time.Unix(0, at.Load()); got.Before(eta.Truncate(time.Microsecond)) {
		t.Errorf("ran %v before its ETA", eta.Sub(got))
	}
	if m := b.wait(again); m.Status != celery.Success || string(m.Result) != "1" {
		t.Errorf("got %s %s, want the second attempt", m.Status, m.Result)
	}
}

// TestDeadLetters lets RabbitMQ drop messages for each of its reasons.
func TestDeadLetters(t *testing.T) {
	b := setup(t)
	b.task("t", value(1))
	b.cfg.Queues = []string{"other"}
	b.start()
	ch, err := b.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	b.queue("short", amqp.Table{"x-message-ttl": int32(1)})
	b.queue("small", amqp.Table{"x-max-length": int32(1)})
	b.queue("refusing", amqp.Table{})
	b.queue("limited", amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": int32(1)})
	expired, dropped := b.sendTo("short", "t", nil), b.sendTo("small", "t", nil)
	b.sendTo("small", "t", nil)
	rejected, redelivered := b.sendTo("refusing", "t", nil), b.sendTo("limited", "t", nil)
	for queue, requeue := range map[string]bool{"refusing": false, "limited": true} {
		deliveries, err := ch.Consume(queue, queue, false, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		d := <-deliveries
		for requeue && d.Headers["x-delivery-count"] != int64(1) {
			_ = d.Reject(true) // RabbitMQ 4.3 does not count a nack towards the limit
			d = <-deliveries
		}
		if err := d.Reject(requeue); err != nil {
			t.Fatal(err)
		}
		if err := ch.Cancel(queue, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		id, queue string
		reason    celery.Reason
		state     celery.State
		exc       string
	}{
		{expired, "short", rabbit.Expired, celery.Revoked, "celery.exceptions.TaskRevokedError: expired"},
		{dropped, "small", rabbit.MaxLength, celery.Failure, "kombu.exceptions.LimitExceeded: queue small was full: the message was dropped from it"},
		{rejected, "refusing", rabbit.Rejected, celery.Failure, "celery.exceptions.Reject: ('the message was rejected from queue refusing', False)"},
		{redelivered, "limited", rabbit.DeliveryLimit, celery.Failure, "billiard.exceptions.WorkerLostError: the message was delivered from queue limited more often than its delivery limit allows"},
	} {
		b.wantException(b.wait(tt.id), tt.state, tt.exc)
		r := b.record(tt.id)
		if r.Reason != tt.reason || r.State != tt.state || r.Queue != tt.queue || r.Message.RoutingKey != tt.queue {
			t.Errorf("%s: got record %+v", tt.reason, r)
		}
	}
	// What is replayed goes back to where it was, without the past.
	b.replay(rejected)
	d := b.get("refusing")
	if d.Headers["x-death"] != nil || d.Headers["id"] != rejected || d.Headers["x-onceover-replays"] != int32(1) {
		t.Errorf("got headers %v", d.Headers)
	}
	if m, err := b.results.Load(t.Context(), rejected); m != nil || err != nil {
		t.Errorf("got %+v, %v, want nothing stored: PENDING", m, err)
	}
}

// TestDeadLetterIsNeverDropped has a dead letter come back to its queue more often than the queue's
// delivery limit allows, while its job is at work. The queue has no dead-letter exchange.
func TestDeadLetterIsNeverDropped(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := setupOn(t, server.URL())
	const limit = 3
	server.Ctl("set_policy", "--apply-to", "queues", "dlq", "^q.dlq$", `{"delivery-limit":3}`)
	b.queue("short", amqp.Table{"x-message-ttl": int32(1)})
	id := uuid.NewString()
	if _, _, err := b.results.Begin(t.Context(), id, "run", "", ""); err != nil {
		t.Fatal(err)
	}
	b.redis.Persist(t.Context(), "onceover:run:"+id)
	b.publishRequest("", "short", &celery.Request{ID: id, Task: "t"})
	b.start()
	waits := func(n int) {
		b.until(func() bool {
			return b.logs.FilterMessage("dead letter of a job that is at work waits for its end").Len() >= n
		})
	}
	for n := range limit + 3 {
		waits(n + 1)
		server.Ctl("close_all_connections", "test")
	}
	waits(limit + 4)
	b.connect()
	if err := b.results.Release(t.Context(), id, "run"); err != nil {
		t.Fatal(err)
	}
	// The run is taken for dead, so that the message goes back to its queue, and runs out there.
	if m := b.wait(id); m.Status != celery.Revoked {
		t.Errorf("got %s, want REVOKED", m.Status)
	}
	if r := b.record(id); r.Reason != rabbit.Expired || r.Message.Queue != "short" {
		t.Errorf("got reason %s of queue %s, want expired of short", r.Reason, r.Message.Queue)
	}
	b.until(func() bool { return b.left(rabbit.QueueDeadLetter) == 0 })
}

// TestDeadLetterOfSuccess drains a dead letter whose job has succeeded.
func TestDeadLetterOfSuccess(t *testing.T) {
	b := setup(t)
	b.task("t", value(1))
	b.start()
	id := b.send("t", nil)
	b.wait(id)
	b.publishRequest(rabbit.ExchangeDeadLetter, "dlq", &celery.Request{ID: id, Task: "t"})
	b.until(func() bool {
		return b.logs.FilterMessage("dead letter of a job that has ended or goes on, dropped").Len() == 1
	})
	if refs, err := b.kept.Find(t.Context(), id); err != nil || len(refs) != 0 {
		t.Errorf("got %v, %v, want no record", refs, err)
	}
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
}

// renewing tells which leases are renewed.
type renewing struct {
	*results.Store
	renewed chan string
}

func (r renewing) Renew(ctx context.Context, runs map[string]string) error {
	for id := range runs {
		r.renewed <- id
	}
	return r.Store.Renew(ctx, runs)
}

// startWithoutKept starts a worker and takes the store of failed jobs away from it, until the
// proxy is restored.
func (b *bundle) startWithoutKept() (proxy *testenv.Proxy, stop func() error) {
	b.t.Helper()
	opt := *b.keptClient.Options()
	proxy = testenv.NewProxy(b.t, opt.Addr)
	opt.Addr = proxy.Addr()
	client := redis.NewClient(&opt)
	b.t.Cleanup(func() { client.Close() })
	direct := b.kept
	b.kept = failed.New(failed.Config{}, client, b.results, progress.New(b.redis, b.log), nil, b.log)
	_, stop = b.start()
	b.kept = direct
	b.until(func() bool { return b.logs.FilterMessage("broker connected").Len() == 1 })
	proxy.Cut()
	return proxy, stop
}

// TestInterruptedKeeping stops a worker after it has recorded the end of a dead letter
// and of a refused message, and before it has kept them: the next one keeps them, with their reasons.
func TestInterruptedKeeping(t *testing.T) {
	b := setup(t)
	b.cfg.Grace = time.Second
	b.task("t", value(1))
	b.queue("short", amqp.Table{"x-message-ttl": int32(1)})
	_, stop := b.startWithoutKept()
	refused, dead := b.send("unknown", nil), b.sendTo("short", "t", nil)
	for id, want := range map[string]celery.State{refused: celery.Failure, dead: celery.Revoked} {
		if m := b.wait(id); m.Status != want {
			t.Errorf("task %s: got %s, want %s", id, m.Status, want)
		}
	}
	if err := stop(); err == nil {
		t.Error("got no error of a worker that could not bring its jobs to their ends")
	}
	if n := b.records(refused) + b.records(dead); n != 0 {
		t.Fatalf("got %d records, want none yet: the test shows nothing", n)
	}
	b.start()
	for id, want := range map[string]celery.Reason{refused: celery.ReasonUnknownTask, dead: rabbit.Expired} {
		if r := b.record(id); r.Reason != want {
			t.Errorf("task %s: got reason %s, want %s", id, r.Reason, want)
		}
	}
}

// TestLeasesOfTheRefused has a dead letter and a refused message wait for the store of failed jobs:
// another worker must not take their ids meanwhile. It takes the time to the first renewal, 15 s.
func TestLeasesOfTheRefused(t *testing.T) {
	b := setup(t)
	store := renewing{b.results, make(chan string, 10)}
	b.store = store
	proxy, stop := b.startWithoutKept()
	defer stop() //nolint:errcheck // the test does not ask how the worker ended

	refused := b.send("unknown", nil)
	dead := b.publishRequest(rabbit.ExchangeDeadLetter, "dlq", requestOf("t"))
	for left := map[string]bool{refused: true, dead: true}; len(left) > 0; {
		select {
		case id := <-store.renewed:
			delete(left, id)
		case <-time.After(time.Minute):
			t.Fatalf("the leases of %v are not renewed (refused %s, dead %s)", left, refused, dead)
		}
	}
	proxy.Restore()
	for _, id := range []string{refused, dead} {
		if m := b.wait(id); m.Status != celery.Failure && m.Status != celery.Revoked {
			t.Errorf("task %s: got %s", id, m.Status)
		}
		b.until(func() bool {
			return b.records(id) == 1 && b.redis.Get(t.Context(), "onceover:run:"+id).Val() == "acknowledged"
		})
	}
}

// TestSuspectsTakeTurns has jobs come back of each of which three processes may have died, as of one that kills them and those that were
// beside it: they run one after the other, and do not keep others waiting.
func TestSuspectsTakeTurns(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency = 4
	const suspects = 4
	var atWork, most atomic.Int32
	fresh := make(chan struct{})
	b.task("t", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
		if !r.Delivery.Redelivered {
			close(fresh)
			return 1, nil
		}
		most.Store(max(most.Load(), atWork.Add(1)))
		defer atWork.Add(-1)
		select {
		case <-fresh: // has a slot although all suspects are there
		case <-ctx.Done():
		}
		return 1, nil
	}))
	var ids []string
	for range suspects {
		id := b.send("t", nil)
		for _, run := range []string{"second", "third"} { // the first was not counted
			if _, err := b.marks.CountRun(t.Context(), id, run); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, id)
	}
	ch, err := b.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for range suspects {
		if _, ok, err := ch.Get("q.ai", false); !ok || err != nil {
			t.Fatalf("got %v, %v from q.ai", ok, err)
		}
	}
	ch.Close() // what it had taken goes back, as redelivered
	b.start()
	b.until(func() bool { return atWork.Load() == 1 })
	for _, id := range append(ids, b.send("t", nil)) {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("got %s, want SUCCESS", m.Status)
		}
	}
	if n := most.Load(); n != 1 {
		t.Errorf("got %d at once, want 1", n)
	}
}

// TestPoison redelivers a job as often as processes may die of it.
func TestPoison(t *testing.T) {
	b := setup(t)
	b.cfg.MaxCrashes = 2
	var runs atomic.Int64
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) { runs.Add(1); return 1, nil }))
	id := b.send("t", nil)
	// Two processes begin and die: the first was not counted, the second was.
	if _, err := b.marks.CountRun(t.Context(), id, "first"); err != nil {
		t.Fatal(err)
	}
	ch, err := b.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := ch.Get("q.ai", false); !ok || err != nil {
		t.Fatalf("got %v, %v from q.ai", ok, err)
	}
	ch.Close() // what it had taken goes back, as redelivered
	b.start()
	m := b.wait(id)
	b.wantException(m, celery.Failure, "billiard.exceptions.WorkerLostError: work on the task has begun 2 times and did not end: the processes that ran it seem to have died of it")
	if r := b.record(id); r.Reason != failed.ReasonPoison {
		t.Errorf("got record %+v, want poison", r)
	}
	if runs.Load() != 0 {
		t.Errorf("got %d runs, want none", runs.Load())
	}
}

// TestReplayLeavesRoom replays into a queue that would drop its oldest messages.
func TestReplayLeavesRoom(t *testing.T) {
	b := setup(t)
	many := make([]rabbit.Message, 4500)
	for i := range many {
		many[i] = rabbit.Message{Exchange: rabbit.ExchangeTasks, RoutingKey: "ai.test", Body: []byte("x")}
	}
	if err := b.pub.Publish(t.Context(), many...); err != nil {
		t.Fatal(err)
	}
	b.until(func() bool { return b.left("q.ai") == len(many) })
	ctx, cancel := context.WithCancel(t.Context())
	var full *rabbit.FullError
	sender := &rabbit.Sender{Conn: b.conn, Waiting: func(e *rabbit.FullError) {
		full = e
		cancel()
	}, Idle: func(string, time.Duration) {}}
	t.Cleanup(sender.Close)
	if err := sender.Send(ctx, rabbit.Message{Queue: "q.ai"}); !errors.Is(err, context.Canceled) || full == nil || full.Limit != 5000 {
		t.Errorf("got %v, told of %+v; want it to wait for room", err, full)
	}
	if err := sender.Send(t.Context(), rabbit.Message{Queue: "nowhere"}); !errors.Is(err, rabbit.ErrNoQueue) {
		t.Errorf("got %v, want ErrNoQueue", err)
	}
}

// TestOneIDForTwoCalls fails two calls to which a producer has given one id, and parks what takes
// the place of a parked task. Whether the second call is run depends on whether the first is still
// at work; each has its record, to replay it with its own arguments.
func TestOneIDForTwoCalls(t *testing.T) {
	b := setup(t)
	b.task("t", fail(errors.New("no")))
	b.task("replaced", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		return nil, worker.Replace(to(celery.NewSignature("end").SetCountdown(11 * time.Second)))
	}))
	b.task("end", value("the end"))
	b.start()
	id := uuid.NewString()
	for _, arg := range []string{"first", "second"} {
		b.send("t", func(r *celery.Request) { r.ID = id }, arg)
	}
	var args []string
	b.until(func() bool {
		args = nil
		err := b.kept.Each(t.Context(), failed.Filter{Text: id}, func(e failed.Entry) bool {
			args = append(args, e.Args)
			return true
		})
		return err == nil && len(args) == 2
	})
	slices.Sort(args)
	if want := []string{"('first',)", "('second',)"}; !slices.Equal(args, want) {
		t.Errorf("got records of %v, want %v", args, want)
	}
	later := b.send("replaced", func(r *celery.Request) { r.ETA = time.Now().Add(11 * time.Second) })
	if m := b.wait(later); m.Status != celery.Success || string(m.Result) != `"the end"` {
		t.Errorf("got %s %s", m.Status, m.Result)
	}
}
