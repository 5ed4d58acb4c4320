package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/rabbit"
)

// channel is the channel of the consumers of one queue, of which one takes the place of another.
// What the broker ends, for one queue or for a delivery that took too long, is this channel and
// no other.
type channel struct {
	*amqp.Channel
	acks *rabbit.Acks // of what it delivers
	open atomic.Int64 // deliveries that are not settled, and one for each reader
	why  atomic.Pointer[amqp.Error]

	// waits ends when the channel does, and when the worker stops; gone only when the channel does.
	waits    context.Context
	endWaits context.CancelCauseFunc
	gone     context.Context
	endGone  context.CancelCauseFunc
}

// openChannel opens a channel and watches it.
func (s *session) openChannel() (*channel, error) {
	ch, err := s.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	c := &channel{Channel: ch, acks: rabbit.NewAcks(ch)}
	c.waits, c.endWaits = context.WithCancelCause(s.waits)
	c.gone, c.endGone = context.WithCancelCause(context.WithoutCancel(s.waits))
	closing := ch.NotifyClose(make(chan *amqp.Error, 1))
	s.watch.Go(func() {
		c.why.Store(<-closing)
		c.endWaits(errSessionLost)
		c.endGone(errSessionLost)
	})
	return c, nil
}

// settled closes a channel whose consumers have ended, when its last delivery is settled.
func (c *channel) settled() {
	if c.open.Add(-1) == 0 {
		_ = c.Close() // an error means that it is closed
	}
}

// consumer is one subscription to a queue.
type consumer struct {
	*channel
	queue    rabbit.Queue
	tag      string
	prefetch int

	deliveries <-chan amqp.Delivery
	mine       atomic.Int64 // deliveries of this consumer that are not settled, and one for the reader
	held       atomic.Int64 // deliveries that wait for something other than a slot
	cancelled  atomic.Bool  // by us

	// waits ends when the broker has ended the consumer, when the channel ends, and when the worker
	// stops; gone not when the worker stops.
	waits    context.Context
	endWaits context.CancelCauseFunc
	gone     context.Context
	endGone  context.CancelCauseFunc
}

// newConsumer consumes a queue on the channel of old, which it replaces, or on a new one.
func (s *session) newConsumer(old *consumer, q rabbit.Queue, prefetch int, tag string) (_ *consumer, err error) {
	c := &consumer{queue: q, tag: tag, prefetch: prefetch}
	if old != nil {
		c.channel = old.channel
	} else if c.channel, err = s.openChannel(); err != nil {
		return nil, err
	}
	c.waits, c.endWaits = context.WithCancelCause(c.channel.waits)
	c.gone, c.endGone = context.WithCancelCause(c.channel.gone)
	c.taken() // by the reader
	// Per consumer: quorum queues refuse the global flag.
	if err := c.Qos(prefetch, 0, false); err != nil {
		return nil, fmt.Errorf("set prefetch %d: %w", prefetch, err)
	}
	if c.deliveries, err = c.Consume(q.Name, tag, false, false, false, false, nil); err != nil {
		return nil, err
	}
	return c, nil
}

// read hands deliveries to accept until the consumer ends.
func (c *consumer) read(s *session, accept func(amqp.Delivery)) {
	for d := range c.deliveries {
		d.Acknowledger = c.acks
		accept(d)
	}
	if !c.cancelled.Load() {
		c.endWaits(errSessionLost)
		c.endGone(errSessionLost)
		select {
		case s.ended <- c:
		case <-s.waits.Done():
		}
	}
	c.settled()
}

// taken counts a delivery.
func (c *consumer) taken() {
	c.open.Add(1)
	c.mine.Add(1)
}

// settled takes a delivery off.
func (c *consumer) settled() {
	if c.mine.Add(-1) == 0 {
		c.endWaits(nil) // nobody waits
		c.endGone(nil)
	}
	c.channel.settled()
}

// cancel ends the consumer. What it has delivered is still to be acknowledged.
func (c *consumer) cancel() error {
	c.cancelled.Store(true)
	return c.Cancel(c.tag, false)
}

// reason is why the broker has ended the consumer.
func (c *consumer) reason() error {
	if why := c.why.Load(); why != nil {
		return why
	}
	return errors.New("cancelled by the broker")
}

// lost reports whether the broker has taken back what the consumer had.
func (c *consumer) lost() bool {
	return errors.Is(context.Cause(c.gone), errSessionLost) || c.IsClosed()
}
