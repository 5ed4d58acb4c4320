package worker_test

import (
	"errors"
	"net/url"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/rabbit"
)

func hostOf(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func (b *bundle) channel() *amqp.Channel {
	b.t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	return ch
}

// TestDeclare checks the arguments by declaring again: the broker answers 406
// to any difference.
func TestDeclare(t *testing.T) {
	b := setup(t) // has declared q.ai and q.dlq
	queues := append(rabbit.Topology(), rabbit.QueueNamed("celery"))
	d, err := rabbit.Declare(t.Context(), b.conn, queues...)
	if err != nil || d.Err() != nil {
		t.Fatal(err, d.Err())
	}
	if want := 4; len(d.Created) != want { // q.batch, q.api, q.sched, celery
		t.Errorf("created %v, want %d queues", d.Created, want)
	}
	for _, q := range append(rabbit.Topology(), rabbit.Queue{Name: "celery"}) {
		if _, err := b.channel().QueueDeclare(q.Name, true, false, false, false, q.Args); err != nil {
			t.Errorf("queue %s: %v", q.Name, err)
		}
	}
	for name, kind := range map[string]string{"tasks": "topic", "dlx": "direct", "celery": "direct"} {
		if err := b.channel().ExchangeDeclare(name, kind, true, false, false, false, nil); err != nil {
			t.Errorf("exchange %s: %v", name, err)
		}
	}
	for key, queue := range map[string]string{"ai.analyze": "q.ai", "batch.x": "q.batch", "api.x": "q.api", "sched.x": "q.sched"} {
		if err := b.publishTo("tasks", key, amqp.Publishing{Body: []byte(key)}); err != nil {
			t.Errorf("publish %s: %v", key, err)
		}
		if d := b.get(queue); string(d.Body) != key {
			t.Errorf("queue %s: got %q, want %q", queue, d.Body, key)
		}
	}
	if d, err := rabbit.Declare(t.Context(), b.conn, queues...); err != nil || d.Err() != nil || len(d.Created) != 0 {
		t.Errorf("again: got %+v, %v, want nothing created", d, err)
	}
}

// TestExistingQueueIsConsumedAsItIs creates q.batch as somebody else might have.
func TestExistingQueueIsConsumedAsItIs(t *testing.T) {
	b := setup(t)
	foreign := amqp.Table{"x-max-priority": int32(5)}
	if _, err := b.channel().QueueDeclare("q.batch", true, false, false, false, foreign); err != nil {
		t.Fatal(err)
	}
	b.cfg.Queues = []string{"q.batch", "celery"}
	b.task("t", value(1))
	b.start()
	if got := b.wait(b.sendTo("q.batch", "t", nil)); got.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", got.Status)
	}
	if _, err := b.channel().QueueDeclare("q.batch", true, false, false, false, foreign); err != nil {
		t.Errorf("the queue's arguments have changed: %v", err)
	}
}

func TestPublisher(t *testing.T) {
	b := setup(t)
	err := b.publishTo("tasks", "nobody.listens", amqp.Publishing{Body: []byte("x")})
	if !errors.Is(err, rabbit.ErrUnroutable) {
		t.Errorf("got %v, want ErrUnroutable", err)
	}
	if err := b.publishTo("tasks", "ai.x", amqp.Publishing{Body: []byte("x")}); err != nil {
		t.Errorf("after a return: %v", err)
	}
	if err := b.publishTo("no such exchange", "k", amqp.Publishing{}); err == nil {
		t.Error("unknown exchange: got no error")
	}
}
