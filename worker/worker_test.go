package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
	"onceover/worker"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// bundle is a worker on a real RabbitMQ and a real Redis, and a connection to
// play producer with.
type bundle struct {
	t          *testing.T
	url        string
	cfg        worker.Config
	conn       *rabbit.Conn
	pub        *rabbit.Publisher
	redis      *redis.Client
	server     *testenv.RedisServer
	results    *results.Store
	store      worker.Results // what the worker is given: results, or something around it
	marks      worker.Marks   // progress.Store, or something around it
	kept       *failed.Store
	keptClient *redis.Client
	logs       *observer.ObservedLogs
	log        *zap.Logger
	tasks      []worker.Task
}

func setup(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	return setupOn(t, testenv.SharedRabbitMQ(t))
}

func setupOn(t *testing.T, url string) *bundle {
	t.Helper()
	b := &bundle{t: t, url: url, server: testenv.Redis(t)}
	var core zapcore.Core
	core, b.logs = observer.New(zap.InfoLevel)
	b.log = zap.New(core)
	opt, err := redisretry.Options(b.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	b.redis = redis.NewClient(opt)
	t.Cleanup(func() { b.redis.Close() })
	marks := progress.New(b.redis, b.log)
	b.results, b.marks = results.New(b.redis, b.log), marks
	b.store = b.results
	keptOpt := *opt
	keptOpt.DB = 5
	b.keptClient = redis.NewClient(&keptOpt)
	t.Cleanup(func() { b.keptClient.Close() })
	b.kept = failed.New(failed.Config{}, b.keptClient, b.results, marks, nil, b.log)
	b.connect()
	b.cfg = worker.DefaultConfig()
	b.cfg.BrokerURLs, b.cfg.Concurrency, b.cfg.Grace = []string{b.url}, 4, 10*time.Second
	b.cfg.Mingle = false // there is nobody to ask
	b.cfg.DelayedDelivery = false
	b.cfg.NodeName = "test-" + uuid.NewString() + "@host"
	if _, err := rabbit.Declare(t.Context(), b.conn, rabbit.Names(b.cfg.Queues...)...); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bundle) connect() {
	b.t.Helper()
	conn, err := rabbit.Dial(b.t.Context(), "test", []string{b.url})
	if err != nil {
		b.t.Fatal(err)
	}
	b.conn, b.pub = conn, rabbit.NewPublisher(conn)
	pub := b.pub
	b.t.Cleanup(func() {
		conn.Close()
		pub.Close()
	})
}

func (b *bundle) task(name string, h worker.Handler) {
	b.tasks = append(b.tasks, worker.Task{Name: name, Handler: h, MaxRetries: 1})
}

// start runs the worker; stop ends it and returns what Run said.
func (b *bundle) start() (w *worker.Worker, stop func() error) {
	b.t.Helper()
	w, err := worker.New(b.cfg, b.store, b.marks, b.kept, prometheus.NewRegistry(), b.log)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, task := range b.tasks {
		if err := w.Register(task); err != nil {
			b.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	b.t.Cleanup(func() { _ = stop() }) // the test has looked if it cares
	return w, stop
}

// send publishes a task with these arguments to exchange tasks.
func (b *bundle) send(task string, change func(*celery.Request), args ...any) string {
	b.t.Helper()
	req := &celery.Request{ID: uuid.NewString(), Task: task}
	for _, a := range args {
		raw, err := json.Marshal(a)
		if err != nil {
			b.t.Fatal(err)
		}
		req.Args = append(req.Args, raw)
	}
	if change != nil {
		change(req)
	}
	props, headers, body, err := req.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	props.Expiration = "" // the broker would drop it before the worker can
	b.publish(publishing(props, headers, body))
	return req.ID
}

func (b *bundle) publish(m amqp.Publishing) {
	b.t.Helper()
	m.DeliveryMode = amqp.Persistent
	if err := b.publishTo(rabbit.ExchangeTasks, "ai.test", m); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) publishTo(exchange, key string, m amqp.Publishing) error {
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	return b.pub.Publish(ctx, messageOf(exchange, key, m))
}

// messageOf is a message that goes to an exchange as it is.
func messageOf(exchange, key string, m amqp.Publishing) rabbit.Message {
	return rabbit.Of(amqp.Delivery{
		Exchange: exchange, RoutingKey: key, Headers: m.Headers, Body: m.Body,
		ContentType: m.ContentType, ContentEncoding: m.ContentEncoding, DeliveryMode: m.DeliveryMode, Priority: m.Priority,
		CorrelationId: m.CorrelationId, ReplyTo: m.ReplyTo, Expiration: m.Expiration, MessageId: m.MessageId, Timestamp: m.Timestamp, Type: m.Type, AppId: m.AppId,
	}, "").Message
}

// publishing is the message of what celery.Request.Encode returns.
func publishing(p celery.Properties, headers map[string]any, body []byte) amqp.Publishing {
	return rabbit.Message{Properties: p, Headers: tableOf(headers), Body: body}.Publishing()
}

func tableOf(m map[string]any) amqp.Table {
	out := amqp.Table{}
	for k, v := range m {
		if nested, ok := v.(map[string]any); ok {
			v = tableOf(nested)
		}
		out[k] = v
	}
	return out
}

// wait returns the task's final document.
func (b *bundle) wait(id string) *celery.Meta {
	b.t.Helper()
	sub := b.redis.Subscribe(b.t.Context(), results.Key(id))
	defer sub.Close()
	if _, err := sub.Receive(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	for {
		m, err := b.results.Load(b.t.Context(), id)
		if err != nil {
			b.t.Fatal(err)
		}
		if m != nil && m.Status.Final() {
			return m
		}
		ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
		_, err = sub.ReceiveMessage(ctx)
		cancel()
		if err != nil {
			b.t.Fatalf("no result of task %s: %v; log: %v", id, err, b.logs.All())
		}
	}
}

// left returns how many messages are ready in a queue. It opens a channel of its
// own, so that a missing queue does no harm.
func (b *bundle) left(queue string) int {
	b.t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	defer ch.Close()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return q.Messages
}

// get takes one message off a queue, waiting for it to arrive.
func (b *bundle) get(queue string) amqp.Delivery {
	b.t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	defer ch.Close()
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	select {
	case d := <-deliveries:
		if err := d.Ack(false); err != nil {
			b.t.Fatal(err)
		}
		return d
	case <-time.After(20 * time.Second):
		b.t.Fatalf("nothing arrived in queue %s", queue)
		panic("unreachable")
	}
}

// outcome waits for the log line of the job's end.
func (b *bundle) outcome(id string) observer.LoggedEntry {
	b.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		for _, e := range b.logs.FilterMessage("task finished").All() {
			if e.ContextMap()["task_id"] == id {
				return e
			}
		}
		select {
		case <-deadline:
			b.t.Fatalf("task %s: no line \"task finished\" in %v", id, b.logs.All())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (b *bundle) wantException(m *celery.Meta, state celery.State, want string) *celery.Exception {
	b.t.Helper()
	exc, err := m.Exception()
	if err != nil {
		b.t.Fatal(err)
	}
	if m.Status != state || exc.Error() != want {
		b.t.Errorf("got %s %v, want %s %s", m.Status, exc, state, want)
	}
	return exc
}

func value(v any) worker.HandlerFunc {
	return func(context.Context, *celery.Request) (any, error) { return v, nil }
}

func fail(err error) worker.HandlerFunc {
	return func(context.Context, *celery.Request) (any, error) { return nil, err }
}

func TestSuccess(t *testing.T) {
	b := setup(t)
	b.cfg.ResultExtended = true
	b.task("t", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
		return map[string]any{"got": r.Args[0], "한": "글"}, nil
	}))
	_, stop := b.start()
	id := b.send("t", func(r *celery.Request) { r.Group = "g-1" }, "안녕")
	m := b.wait(id)
	if m.Status != celery.Success || string(m.Result) != `{"got":"안녕","한":"글"}` || m.GroupID != "g-1" || m.TaskID != id {
		t.Errorf("got %+v (%s)", m, m.Result)
	}
	if m.Extended == nil || m.Extended.Name != "t" || m.Extended.Queue != "ai.test" || m.Extended.Worker != b.cfg.NodeName || m.Retries == nil {
		t.Errorf("got extended %+v", m.Extended)
	}
	b.outcome(id)
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if n := b.left("q.ai"); n != 0 {
		t.Errorf("got %d messages left, want 0", n)
	}
}

func TestFailures(t *testing.T) {
	b := setup(t)
	b.cfg.SoftTimeLimit, b.cfg.TimeLimit = 5*time.Second, 10*time.Second
	untilDone := worker.HandlerFunc(func(ctx context.Context, _ *celery.Request) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	release := make(chan struct{})
	defer close(release)
	b.task("exception", fail(celery.NewException("FileNotFoundError", "no such picture", nil)))
	b.task("error", fail(errors.New("plain")))
	b.task("panic", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) { panic("boom") }))
	b.task("not json", value(func() {}))
	b.task("soft", untilDone)
	b.task("hard", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		<-release // heeds nothing
		return nil, nil
	}))
	b.start()
	soft := func(r *celery.Request) { r.SoftTimeLimit = 50 * time.Millisecond }
	hard := func(r *celery.Request) { r.TimeLimit = 100 * time.Millisecond }
	tests := []struct {
		task          string
		change        func(*celery.Request)
		want          string
		wantTraceback string
	}{
		{"exception", nil, "FileNotFoundError: no such picture", "FileNotFoundError: no such picture\n"},
		{"error", nil, "RuntimeError: plain", "Traceback (most recent call last):\n"},
		{"panic", nil, "RuntimeError: panic: boom", "worker_test.go"},
		{"not json", nil, "TypeError: the result is not", "TypeError"},
		{"soft", soft, "billiard.exceptions.SoftTimeLimitExceeded", "SoftTimeLimitExceeded"},
		{"hard", hard, "billiard.exceptions.TimeLimitExceeded: 0.1", ""},
	}
	for _, tt := range tests {
		m := b.wait(b.send(tt.task, tt.change))
		exc, err := m.Exception()
		if err != nil {
			t.Fatal(err)
		}
		if m.Status != celery.Failure || !strings.HasPrefix(exc.Error(), tt.want) {
			t.Errorf("%s: got %s %v, want FAILURE %s", tt.task, m.Status, exc, tt.want)
		}
		switch {
		case tt.wantTraceback == "" && m.Traceback != nil:
			t.Errorf("%s: got traceback %q, want null", tt.task, *m.Traceback)
		case tt.wantTraceback != "" && (m.Traceback == nil || !strings.Contains(*m.Traceback, tt.wantTraceback)):
			t.Errorf("%s: got traceback %v, want it to contain %q", tt.task, m.Traceback, tt.wantTraceback)
		}
	}
}

func TestRetry(t *testing.T) {
	b := setup(t)
	b.cfg.TrackStarted = true
	var attempts atomic.Int32
	away := celery.NewException("ConnectionError", "away", nil)
	b.task("once", worker.HandlerFunc(func(_ context.Context, r *celery.Request) (any, error) {
		if attempts.Add(1); r.Retries == 0 {
			return nil, &celery.Retry{Err: away}
		}
		return r.Retries, nil
	}))
	b.task("always", fail(&celery.Retry{Err: away}))
	b.start()

	id := uuid.NewString()
	sub := b.redis.Subscribe(t.Context(), results.Key(id))
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.send("once", func(r *celery.Request) { r.ID = id })
	var states []string
	for len(states) == 0 || states[len(states)-1] != "SUCCESS" {
		msg, err := sub.ReceiveMessage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var m celery.Meta
		if err := json.Unmarshal([]byte(msg.Payload), &m); err != nil {
			t.Fatal(err)
		}
		states = append(states, string(m.Status))
		if m.Status == celery.Retried {
			b.wantException(&m, celery.Retried, "ConnectionError: away")
		}
	}
	if got, want := strings.Join(states, " "), "STARTED RETRY STARTED SUCCESS"; got != want {
		t.Errorf("got states %s, want %s", got, want)
	}
	if attempts.Load() != 2 {
		t.Errorf("got %d attempts, want 2", attempts.Load())
	}
	b.wantException(b.wait(b.send("always", nil)), celery.Failure, "ConnectionError: away")
}

// after records what AfterReturn sees.
type after struct {
	worker.HandlerFunc
	b     *bundle
	calls chan string
}

func (a after) AfterReturn(ctx context.Context, r *celery.Request, state celery.State, exc *celery.Exception) error {
	stored := "nothing"
	if m, err := a.b.results.Load(ctx, r.ID); err == nil && m != nil {
		stored = string(m.Status)
	}
	a.calls <- fmt.Sprintf("%s stored=%s exc=%v", state, stored, exc != nil)
	return nil
}

func TestAfterReturnComesAfterTheResult(t *testing.T) {
	b := setup(t)
	calls := make(chan string, 8)
	b.task("ok", after{value(1), b, calls})
	b.task("bad", after{fail(errors.New("x")), b, calls})
	b.start()
	b.send("ok", nil)
	if got, want := <-calls, "SUCCESS stored=SUCCESS exc=false"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	b.send("bad", nil)
	if got, want := <-calls, "FAILURE stored=FAILURE exc=true"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// redeliver takes the message of q.ai once without acknowledging it, as a worker that dies does.
func (b *bundle) redeliver() { b.redeliverOf("q.ai") }

func (b *bundle) redeliverOf(queue string) {
	b.t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	<-deliveries
	if err := ch.Close(); err != nil {
		b.t.Fatal(err)
	}
}

func TestFinishedIsNotRunAgain(t *testing.T) {
	b := setup(t)
	calls := make(chan string, 8)
	var runs atomic.Int32
	b.task("t", after{func(context.Context, *celery.Request) (any, error) { runs.Add(1); return 2, nil }, b, calls})
	save := func(id string, state celery.State, result any) { b.saveState(id, state, result, 0) }
	begin := func(id string) {
		t.Helper()
		if _, holder, err := b.results.Begin(t.Context(), id, "run", "", celery.AnyEnd); err != nil || !strings.HasPrefix(holder, "run") {
			t.Fatal(holder, err)
		}
	}
	tests := []struct {
		name    string
		prepare func(id string)
		change  func(*celery.Request)
		after   string
		runs    int32
	}{
		{"success", func(id string) { save(id, celery.Success, 1) }, nil, "SUCCESS stored=SUCCESS exc=false", 0},
		{"failure, by a run that died", func(id string) {
			begin(id)
			save(id, celery.Failure, celery.NewException("ValueError", "x", nil))
		}, nil, "FAILURE stored=FAILURE exc=true", 0},
		{"failure, acknowledged in vain", func(id string) {
			begin(id)
			save(id, celery.Failure, celery.NewException("ValueError", "x", nil))
			if err := b.results.Ended(t.Context(), id, "run"); err != nil {
				t.Fatal(err)
			}
		}, nil, "FAILURE stored=FAILURE exc=true", 0},
		{"failure of an earlier message", func(id string) { save(id, celery.Failure, celery.NewException("ValueError", "x", nil)) }, nil,
			"SUCCESS stored=SUCCESS exc=false", 1},
		{"failure of an earlier message, begun again", func(id string) {
			save(id, celery.Failure, celery.NewException("ValueError", "x", nil))
			begin(id)
		}, nil, "SUCCESS stored=SUCCESS exc=false", 1},
		{"ignored", func(id string) {
			if _, err := b.marks.Record(t.Context(), celery.Meta{TaskID: id, Status: celery.Success}, celery.Stored{}); err != nil {
				t.Fatal(err)
			}
		}, func(r *celery.Request) { r.IgnoreResult = true }, "SUCCESS stored=nothing exc=false", 0},
		{"started only", func(id string) { save(id, celery.Started, nil) }, nil, "SUCCESS stored=SUCCESS exc=false", 1},
		{"damaged", func(id string) { b.redis.Set(t.Context(), results.Key(id), "{", time.Minute) }, nil, "SUCCESS stored=SUCCESS exc=false", 1},
	}
	for _, tt := range tests {
		runs.Store(0)
		id := b.send("t", tt.change)
		tt.prepare(id)
		b.redeliver()
		_, stop := b.start()
		if got := <-calls; got != tt.after {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.after)
		}
		b.outcome(id)
		if err := stop(); err != nil {
			t.Errorf("%s: Run: %v", tt.name, err)
		}
		if runs.Load() != tt.runs || b.left("q.ai") != 0 {
			t.Errorf("%s: got %d runs and %d messages left, want %d and 0", tt.name, runs.Load(), b.left("q.ai"), tt.runs)
		}
	}
}

func TestIgnoreResult(t *testing.T) {
	b := setup(t)
	b.cfg.TrackStarted = true
	b.task("t", value(1))
	b.start()
	id := b.send("t", func(r *celery.Request) { r.IgnoreResult = true })
	b.outcome(id)
	if n := b.redis.Exists(t.Context(), results.Key(id)).Val(); n != 0 {
		t.Error("a result is stored, want none")
	}
	if m, err := b.marks.Look(t.Context(), id); !m.Ended() || m.Meta.Status != celery.Success || err != nil {
		t.Errorf("got mark %+v, %v, want SUCCESS", m, err)
	}
}

func TestExpiredIsRevoked(t *testing.T) {
	b := setup(t)
	b.task("t", fail(errors.New("must not run")))
	b.start()
	m := b.wait(b.send("t", func(r *celery.Request) { r.Expires = time.Now().Add(-time.Second) }))
	b.wantException(m, celery.Revoked, "celery.exceptions.TaskRevokedError: expired")
	if m.Traceback != nil {
		t.Errorf("got traceback %q, want null", *m.Traceback)
	}
}

func TestETAIsWaitedFor(t *testing.T) {
	b := setup(t)
	ran := make(chan time.Time, 1)
	b.task("t", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) { ran <- time.Now(); return nil, nil }))
	b.start()
	eta := time.Now().Add(700 * time.Millisecond)
	b.send("t", func(r *celery.Request) { r.ETA = eta })
	if at := <-ran; at.Before(eta.Truncate(time.Microsecond)) {
		t.Errorf("ran %v before its ETA", eta.Sub(at))
	}
}

// TestRefused sends what cannot be run: it must be kept with the reason, and fail
// for whoever waits for it.
func TestRefused(t *testing.T) {
	b := setup(t)
	b.task("t", value(1))
	b.start()
	headers := func(kv ...any) amqp.Table {
		h := amqp.Table{"task": "t", "id": uuid.NewString(), "CC": []any{"q.ai"}}
		for i := 0; i < len(kv); i += 2 {
			h[kv[i].(string)] = kv[i+1]
		}
		return h
	}
	ok := []byte(`[[],{},{}]`)
	tests := []struct {
		name   string
		m      amqp.Publishing
		reason string
		exc    string
	}{
		{"unknown task", amqp.Publishing{Headers: headers("task", "nobody.knows"), ContentType: "application/json", Body: ok}, "unknown-task", "celery.exceptions.NotRegistered: nobody.knows"},
		{"pickle", amqp.Publishing{Headers: headers(), ContentType: "application/x-python-serialize", Body: []byte{0x80, 4}}, "content-type", "kombu.exceptions.ContentDisallowed: content type"},
		{"undecodable", amqp.Publishing{Headers: headers(), ContentType: "application/json", Body: []byte("\xff{")}, "body", "kombu.exceptions.DecodeError: the body"},
		{"bad eta", amqp.Publishing{Headers: headers("eta", "soon"), ContentType: "application/json", Body: ok}, "header", "kombu.exceptions.DecodeError: header"},
		{"chain of nothing", amqp.Publishing{Headers: headers(), ContentType: "application/json", Body: []byte(`[[],{},{"chain":[{"args":[]}]}]`)}, "canvas", "kombu.exceptions.DecodeError: "},
		{"no headers", amqp.Publishing{ContentType: "text/plain", Body: []byte("hello")}, "not-a-task", ""},
	}
	for _, tt := range tests {
		if tt.m.Headers != nil {
			delete(tt.m.Headers, "CC") // RabbitMQ would route it; put back below
		}
		b.publish(tt.m)
		name, _ := tt.m.Headers["id"].(string)
		if name == "" {
			name = "message-"
		}
		r := b.record(name)
		if string(r.Reason) != tt.reason || r.Text == "" || r.Queue != "q.ai" {
			t.Errorf("%s: got record %+v, want reason %s", tt.name, r, tt.reason)
		}
		m := r.Message
		if string(m.Body) != string(tt.m.Body) || m.Properties.ContentType != tt.m.ContentType || m.RoutingKey != "ai.test" || m.Exchange != "tasks" {
			t.Errorf("%s: the message is not what was sent: %+v", tt.name, m)
		}
		if tt.exc == "" {
			continue
		}
		end := b.wait(tt.m.Headers["id"].(string))
		if exc, err := end.Exception(); err != nil || end.Status != celery.Failure || !strings.HasPrefix(exc.Error(), tt.exc) {
			t.Errorf("%s: got %s %v, want FAILURE %s", tt.name, end.Status, exc, tt.exc)
		}
	}
}

// until polls a state that announces itself in no other way.
func (b *bundle) until(cond func() bool) {
	b.t.Helper()
	deadline := time.After(30 * time.Second)
	for !cond() {
		select {
		case <-deadline:
			b.t.Fatalf("condition not met; log: %v", b.logs.All())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// control sends a remote control command and waits for the answer.
func (b *bundle) control(method string, arguments map[string]any) json.RawMessage {
	b.t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	defer ch.Close()
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	replies, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"method": method, "arguments": arguments, "ticket": "1",
		"reply_to": map[string]string{"exchange": "", "routing_key": q.Name},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	// The worker may not listen yet: then nobody answers.
	for range 30 {
		if err := ch.PublishWithContext(b.t.Context(), "celery.pidbox", "", false, false, amqp.Publishing{ContentType: "application/json", Body: body}); err != nil {
			b.t.Fatal(err)
		}
		select {
		case d := <-replies:
			var reply map[string]json.RawMessage
			if err := json.Unmarshal(d.Body, &reply); err != nil {
				b.t.Fatal(err)
			}
			return reply[b.cfg.NodeName]
		case <-time.After(time.Second):
		}
	}
	b.t.Fatalf("nobody answers %s", method)
	return nil
}
