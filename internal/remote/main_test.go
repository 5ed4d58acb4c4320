package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"onceover/celery"
	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// still is a node that holds jobs and notes what it is told.
type still struct {
	jobs     Jobs
	problems []string
	autoErr  error
	addErr   error
	// gates, where they are not nil, hold up the methods of these names until they are
	// closed, once they have been noted.
	gates map[string]chan struct{}

	mu   sync.Mutex
	said []string
}

func (s *still) Jobs() Jobs                { return s.jobs }
func (s *still) Parked() []Job             { s.note("parked"); return nil }
func (s *still) RevokeParked(ids []string) { s.note("revoke-parked", ids) }
func (s *still) Totals() map[string]int    { return map[string]int{"t": 3} }
func (s *still) Tasks() []Task {
	return []Task{{Name: "t", Attributes: map[string]any{"rate_limit": "10/m", "max_retries": 3}}, {Name: "celery.map"}}
}
func (s *still) Queues() []Queue {
	return []Queue{{Name: "celery", Exchange: "celery", ExchangeType: "direct", RoutingKey: "celery"}}
}
func (s *still) Pool() Pool {
	return Pool{Size: 2, Prefetch: 8, Autoscaled: s.autoErr != nil, Max: 4, Min: 1}
}
func (s *still) Settings() map[string]any { return map[string]any{"timezone": "UTC"} }
func (s *still) Broker() Broker           { return Broker{Host: "h", Port: 1} }
func (s *still) Resize(n int) error       { s.note("resize", n); return s.autoErr }
func (s *still) Autoscale(most, least int) (int, int, error) {
	s.note("autoscale", most, least)
	if s.autoErr == nil {
		return 0, 0, fmt.Errorf("Autoscale not enabled")
	}
	return most, least, nil
}
func (s *still) RateLimit(task string, perSecond float64) error {
	s.note("rate", task, perSecond)
	return known(task)
}
func (s *still) TimeLimits(task string, hard, soft time.Duration) error {
	s.note("limits", task, hard, soft)
	return known(task)
}
func (s *still) AddConsumer(q Queue) error {
	s.note("add", q.Name, q.Exchange, q.RoutingKey)
	return s.addErr
}
func (s *still) CancelConsumer(queue string) { s.note("cancel", queue) }
func (s *still) Problems() []string          { return s.problems }
func (s *still) Shutdown()                   { s.note("shutdown") }
func (s *still) Revoke(match func(*celery.Request) bool, terminate bool, signal int) (ran []string) {
	s.note("revoke", terminate, signal)
	for _, j := range s.jobs.Active {
		if match(j.Request) && terminate {
			ran = append(ran, j.Request.ID)
		}
	}
	return ran
}

func known(task string) error {
	if task != "t" {
		return ErrUnknownTask
	}
	return nil
}

func (s *still) note(method string, v ...any) {
	s.mu.Lock()
	s.said = append(s.said, strings.TrimSpace(fmt.Sprintln(append([]any{method}, v...)...)))
	s.mu.Unlock()
	if gate := s.gates[method]; gate != nil {
		<-gate
	}
}

// told are the things that the node was told with one of these methods.
func (s *still) told(methods ...string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, what := range s.said {
		if method, _, _ := strings.Cut(what, " "); slices.Contains(methods, method) {
			out = append(out, what)
		}
	}
	return out
}

// lastSaid is what the node was told last, "" for nothing.
func (s *still) lastSaid() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.said) == 0 {
		return ""
	}
	return s.said[len(s.said)-1]
}

func newStill() (*Remote, *still) {
	priority := uint8(0)
	request := func(id string) *celery.Request {
		return &celery.Request{
			ID: id, Task: "t", Args: []json.RawMessage{json.RawMessage(`"안녕"`)}, Kwargs: map[string]json.RawMessage{"who": json.RawMessage(`"me"`)},
			ETA:            time.Unix(1800000000, 500_000_000),
			StampedHeaders: []string{"who"}, Stamps: map[string]json.RawMessage{"who": json.RawMessage(`["me", 7]`)},
			Delivery: celery.DeliveryInfo{RoutingKey: "celery"}, Properties: celery.Properties{Priority: &priority},
		}
	}
	s := &still{jobs: Jobs{
		Active:    []Job{{Request: request("running"), Started: time.Unix(1700000000, 5e8), Acknowledged: true}},
		Reserved:  []Job{{Request: request("waiting")}},
		Scheduled: []Job{{Request: request("later")}},
	}}
	return New(Config{NodeName: "n@h"}, s, zap.NewNop()), s
}

// answerTo runs a request, with what it leaves to a lane.
func answerTo(r *Remote, m *request) (answer any, answered bool) {
	r.run(m, func(v any) { answer, answered = v, true })
	for _, l := range []lane{r.parked, r.queues} {
		for len(l.work) > 0 {
			(<-l.work)()
		}
	}
	return answer, answered
}

// live is a Remote on a real broker, and a channel to play the others with.
type live struct {
	*Remote
	t    *testing.T
	url  string
	node *still
	ch   *amqp.Channel
	logs *observer.ObservedLogs
	stop func() // ends Run
}

// start runs a Remote whose connection goes to url; change may be nil.
func start(t *testing.T, url string, change func(*Config)) *live {
	t.Helper()
	_, node := newStill()
	return startWith(t, url, node, change)
}

// startWith is start with a node.
func startWith(t *testing.T, url string, node *still, change func(*Config)) *live {
	t.Helper()
	cfg := Config{NodeName: "go@h", Dial: func(context.Context) (*amqp.Connection, error) { return amqp.Dial(url) }}
	if change != nil {
		change(&cfg)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	l := &live{Remote: New(cfg, node, zap.New(core)), t: t, url: url, node: node, logs: logs, ch: channel(t, url)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx)
	}()
	l.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(l.stop)
	return l
}

// channel opens a connection of the test's own.
func channel(t *testing.T, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() }) // the test may have closed it
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// wait waits for an event, or fails.
func wait[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(15 * time.Second):
		t.Fatalf("got no %s in 15 s", what)
		panic("unreachable")
	}
}

// logged waits until a message was logged n times.
func (l *live) logged(message string, n int) observer.LoggedEntry {
	l.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for time.Now().Before(deadline) {
		if entries := l.logs.FilterMessage(message).All(); len(entries) >= n {
			return entries[n-1]
		}
		wait(l.t, "tick", time.After(10*time.Millisecond))
	}
	l.t.Fatalf("got the log %v, want %q %d times", l.logs.All(), message, n)
	panic("unreachable")
}

// capture consumes what comes to a new queue with this binding.
func capture(t *testing.T, ch *amqp.Channel, exchange, key string) (queue string, deliveries <-chan amqp.Delivery) {
	t.Helper()
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if exchange != "" {
		if err := ch.QueueBind(q.Name, key, exchange, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	deliveries, err = ch.Consume(q.Name, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q.Name, deliveries
}

// request publishes a request as it stands.
func (l *live) request(body string) {
	l.t.Helper()
	err := l.ch.Publish(controlExchange, "", false, false, amqp.Publishing{
		ContentType: "application/json", Body: []byte(body), Headers: amqp.Table{"clock": int64(100)}})
	if err != nil {
		l.t.Fatal(err)
	}
}

// ask publishes a request and returns where the reply comes.
func (l *live) ask(method, arguments string) <-chan amqp.Delivery {
	l.t.Helper()
	queue, replies := capture(l.t, l.ch, "", "")
	l.request(fmt.Sprintf(`{"method":%q,"arguments":%s,"ticket":"T","reply_to":{"exchange":"","routing_key":%q}}`, method, arguments, queue))
	return replies
}

// ping asks and waits for the reply.
func (l *live) ping() amqp.Delivery {
	l.t.Helper()
	return wait(l.t, "reply to ping", l.ask("ping", "{}"))
}

// python runs testdata/peer.py to its end and returns what it printed.
func python(t *testing.T, interpreter, url, stdin string, args ...string) []byte {
	t.Helper()
	cmd := peer(interpreter, url, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("peer.py %v: %v\n%s%s", args, err, out, errors.Bytes())
	}
	return out
}

// kinds are the types of the events in a message.
func kinds(t *testing.T, d amqp.Delivery) (out []string) {
	t.Helper()
	body := d.Body
	if body[0] != '[' {
		body = slices.Concat([]byte("["), body, []byte("]"))
	}
	var events []struct{ Type string }
	if err := json.Unmarshal(body, &events); err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		out = append(out, e.Type)
	}
	return out
}

func broker(t *testing.T) string {
	t.Parallel()
	return testenv.SharedRabbitMQ(t)
}
