package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/rabbit"
	"onceover/worker"
)

// sendTo publishes a task to a queue.
func (b *bundle) sendTo(queue, task string, change func(*celery.Request)) string {
	b.t.Helper()
	req := requestOf(task)
	if change != nil {
		change(req)
	}
	return b.publishRequest("", queue, req)
}

// requestOf is a request of a task with a new id.
func requestOf(task string) *celery.Request {
	return &celery.Request{ID: uuid.NewString(), Task: task}
}

// publishRequest publishes a task to an exchange, and returns its id.
func (b *bundle) publishRequest(exchange, key string, r *celery.Request) string {
	b.t.Helper()
	props, headers, body, err := r.Encode()
	if err == nil {
		err = b.publishTo(exchange, key, publishing(props, headers, body))
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return r.ID
}

// queue declares a queue whose dead letters go where those of the others go. With
// x-message-ttl 1 all that is published to it goes there at once.
func (b *bundle) queue(name string, args amqp.Table) {
	b.t.Helper()
	args["x-dead-letter-exchange"], args["x-dead-letter-routing-key"] = rabbit.ExchangeDeadLetter, "dlq"
	ch := b.channel()
	defer ch.Close()
	if _, err := ch.QueueDeclare(name, true, false, false, false, args); err != nil {
		b.t.Fatal(err)
	}
}

// lock has Redis ask for a password that nobody was told, and returns what undoes that.
func (b *bundle) lock() (unlock func()) {
	b.t.Helper()
	const password = "of nobody here"
	if err := b.redis.ConfigSet(b.t.Context(), "requirepass", password).Err(); err != nil {
		b.t.Fatal(err)
	}
	admin := redis.NewClient(&redis.Options{Addr: b.server.Addr(), Password: password})
	b.t.Cleanup(func() { admin.Close() })
	// The connections that were there before have the right to go on.
	if err := admin.ClientKillByFilter(b.t.Context(), "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		b.t.Fatal(err)
	}
	return func() {
		b.t.Helper()
		if err := admin.ConfigSet(b.t.Context(), "requirepass", "").Err(); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestWrongRedisPassword has Redis refuse the worker's password while jobs are at work, wait and
// arrive, in a queue that drops a message after few returns: nothing is returned. Three seconds
// are as long as it took the code that returned a job each second to lose one.
func TestWrongRedisPassword(t *testing.T) {
	b := setup(t)
	b.queue("limited", amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": int32(3)})
	b.cfg.Queues, b.cfg.PrefetchMultiplier = []string{"limited"}, 2
	var mu sync.Mutex
	runs, returned := map[string]int{}, 0
	g := newGate()
	b.task("t", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
		mu.Lock()
		runs[r.ID]++
		if r.Delivery.Redelivered {
			returned++
		}
		mu.Unlock()
		return g.Run(ctx, r)
	}))
	w, _ := b.start()
	var ids []string
	send := func(n int) {
		for range n {
			ids = append(ids, b.sendTo("limited", "t", nil))
		}
	}
	send(20)
	for range b.cfg.Concurrency {
		<-g.entered
	}
	unlock := b.lock()
	began := time.Now()
	close(g.release)
	b.until(func() bool { return b.logs.FilterMessageSnippet("consuming is paused").Len() == 1 })
	b.until(func() bool { return strings.Contains(fmt.Sprint(w.Problems()), "set it in the URL") })
	send(20)
	if left := b.left("limited"); left < 20 {
		t.Errorf("got %d messages in the queue, want the 20 that were published in the pause", left)
	}
	time.Sleep(time.Until(began.Add(3 * time.Second)))
	unlock()
	for _, id := range ids {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("task %s: got %s, want SUCCESS", id, m.Status)
		}
	}
	b.until(func() bool {
		return len(w.Problems()) == 0 && b.left("limited") == 0 && b.left(rabbit.QueueDeadLetter) == 0
	})
	mu.Lock()
	defer mu.Unlock()
	if returned > 0 {
		t.Errorf("%d runs were of deliveries that had been returned, want none", returned)
	}
	for _, id := range ids {
		if runs[id] > 2 || b.records(id) > 0 {
			t.Errorf("task %s: got %d runs and %d records, want one run, or two at most, and no record", id, runs[id], b.records(id))
		}
	}
	roles := map[any]int{}
	for _, e := range b.logs.FilterMessage("redis refuses commands, waiting until that is mended").All() {
		roles[e.ContextMap()["role"]]++
	}
	for role, n := range roles {
		if n != 1 {
			t.Errorf("got %d lines about redis for %v, want one", n, role)
		}
	}
	if len(roles) == 0 {
		t.Error("got no line about redis")
	}
}

// TestStopWhileRefused stops a worker whose Redis refuses its password, with jobs that have run and
// cannot be recorded: they go back, and Run says how many. It takes lastWrites, 5 s.
func TestStopWhileRefused(t *testing.T) {
	b := setup(t)
	b.cfg.Grace = 200 * time.Millisecond
	g := newGate()
	b.task("t", g)
	_, stop := b.start()
	for range 20 {
		b.send("t", nil)
	}
	for range b.cfg.Concurrency {
		<-g.entered
	}
	unlock := b.lock()
	defer unlock()
	close(g.release)
	b.until(func() bool { return b.logs.FilterMessageSnippet("consuming is paused").Len() == 1 })
	var returned *worker.ReturnedError
	// Those that have run, and those fetched in their place before consuming was paused.
	if err := stop(); !errors.As(err, &returned) || returned.Jobs < b.cfg.Concurrency || returned.Jobs > 2*b.cfg.Concurrency {
		t.Errorf("Run: got %v, want %d jobs returned or a few more", err, b.cfg.Concurrency)
	}
	if b.logs.FilterMessageSnippet("the broker does not answer").Len() > 0 {
		t.Error("the log says that the broker does not answer, which does")
	}
	b.until(func() bool { return b.left("q.ai") == 20 }) // the broker learns that the channels are closed
}
