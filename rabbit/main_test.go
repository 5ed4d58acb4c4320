package rabbit

import (
	"context"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// bundle is a connection to a real RabbitMQ, and a publisher on it.
type bundle struct {
	t    *testing.T
	conn *Conn
	pub  *Publisher
}

func setup(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	return connect(t, testenv.SharedRabbitMQ(t))
}

func connect(t *testing.T, url string) *bundle {
	t.Helper()
	conn, err := Dial(t.Context(), "test", []string{url})
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle{t, conn, NewPublisher(conn)}
	t.Cleanup(func() {
		conn.Close()
		b.pub.Close()
	})
	return b
}

func (b *bundle) channel() *amqp.Channel {
	b.t.Helper()
	ch, err := b.conn.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	return ch
}

// queue declares a queue.
func (b *bundle) queue(name string, args amqp.Table) {
	b.t.Helper()
	if _, err := b.channel().QueueDeclare(name, true, false, false, false, args); err != nil {
		b.t.Fatal(err)
	}
}

// left returns how many messages are in a queue.
func (b *bundle) left(name string) int {
	b.t.Helper()
	q, err := b.channel().QueueDeclarePassive(name, true, false, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return q.Messages
}

// within returns a context that ends when a broker that works has long answered.
func (b *bundle) within() context.Context {
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	b.t.Cleanup(cancel)
	return ctx
}

// to is a message for a queue with an id.
func to(queue, id string) Message {
	return Message{RoutingKey: queue, Body: []byte(id), Properties: celery.Properties{CorrelationID: id, DeliveryMode: 2}}
}
