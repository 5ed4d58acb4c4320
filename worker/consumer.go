package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/rabbit"
)

// consumer is one subscription to a queue, on a channel of its own: what the broker ends, for one
// queue or for a delivery that took too long, is this consumer and no other.
type consumer struct {
	queue    rabbit.Queue
	tag      string
	prefetch int
	channel  *amqp.Channel
	closing  chan *amqp.Error // has the reason if the broker closes the channel

	deliveries <-chan amqp.Delivery
	held       atomic.Int64 // deliveries that wait for something other than a slot
	open       atomic.Int64 // deliveries that are not settled, and one for the reader
	cancelled  atomic.Bool  // by us

	// waits ends when the broker has ended the consumer, and when the session ends.
	waits    context.Context
	endWaits context.CancelCauseFunc
}

func (s *session) newConsumer(q rabbit.Queue, prefetch int, tag string) (*consumer, error) {
	ch, err := s.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	c := &consumer{queue: q, tag: tag, prefetch: prefetch, channel: ch, closing: ch.NotifyClose(make(chan *amqp.Error, 1))}
	c.open.Store(1)
	c.waits, c.endWaits = context.WithCancelCause(s.waits)
	// Per consumer: quorum queues refuse the global flag.
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return nil, fmt.Errorf("set prefetch %d: %w", prefetch, err)
	}
	if c.deliveries, err = ch.Consume(q.Name, tag, false, false, false, false, nil); err != nil {
		return nil, err
	}
	return c, nil
}

// read hands deliveries to accept until the consumer ends.
func (c *consumer) read(s *session, accept func(amqp.Delivery)) {
	for d := range c.deliveries {
		accept(d)
	}
	if !c.cancelled.Load() {
		c.endWaits(errSessionLost)
		select {
		case s.ended <- c:
		case <-s.waits.Done():
		}
	}
	c.settled()
}

// cancel ends the consumer. What it has delivered is still to be acknowledged.
func (c *consumer) cancel() error {
	c.cancelled.Store(true)
	return c.channel.Cancel(c.tag, false)
}

// reason is why the broker has ended the consumer.
func (c *consumer) reason() error {
	select {
	case err := <-c.closing:
		if err != nil {
			return err
		}
	default:
	}
	return errors.New("cancelled by the broker")
}

// lost reports whether the broker has taken back what the consumer had.
func (c *consumer) lost() bool {
	return errors.Is(context.Cause(c.waits), errSessionLost) || c.channel.IsClosed()
}

// settled closes the channel of a consumer that has ended, when its last delivery is settled.
func (c *consumer) settled() {
	if c.open.Add(-1) == 0 {
		_ = c.channel.Close() // an error means that it is closed
	}
}
