package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrUnroutable says that the broker took a message and had no queue for it.
var ErrUnroutable = errors.New("the broker has no queue for the message")

// Publisher publishes with confirms and returns on a channel of its own: a nil
// error means that the message is in a queue. Safe for concurrent use; messages
// go out one at a time.
type Publisher struct {
	mu       sync.Mutex
	ch       *amqp.Channel
	returned chan amqp.Return
}

// NewPublisher opens a channel for publishing.
func NewPublisher(conn *amqp.Connection) (*Publisher, error) {
	ch, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel for publishing: %w", err)
	}
	if err := ch.Confirm(false); err != nil {
		return nil, fmt.Errorf("ask for publisher confirms: %w", err)
	}
	return &Publisher{ch: ch, returned: ch.NotifyReturn(make(chan amqp.Return, 1))}, nil
}

// Close closes the channel.
func (p *Publisher) Close() error { return p.ch.Close() }

// Publish sends m and waits until the broker has it in a queue.
func (p *Publisher) Publish(ctx context.Context, exchange, key string, m amqp.Publishing) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select { // left by a publication whose caller stopped waiting
	case <-p.returned:
	default:
	}
	confirm, err := p.ch.PublishWithDeferredConfirm(exchange, key, true, false, m)
	if err != nil {
		return fmt.Errorf("publish to exchange %q with key %q: %w", exchange, key, err)
	}
	ok, err := confirm.WaitContext(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("wait for the confirm of exchange %q with key %q: %w", exchange, key, err)
	case !ok:
		return fmt.Errorf("publish to exchange %q with key %q: the broker refused the message (full queue, or a closed channel)", exchange, key)
	}
	// RabbitMQ sends basic.return before the confirm of the same message.
	select {
	case r, ok := <-p.returned:
		if ok {
			return fmt.Errorf("publish to exchange %q with key %q: %w (%d %s)", exchange, key, ErrUnroutable, r.ReplyCode, r.ReplyText)
		}
	default:
	}
	return nil
}
