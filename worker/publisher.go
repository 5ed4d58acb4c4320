package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/failed"
)

// ErrUnroutable says that the broker took a message and had no queue for it.
var ErrUnroutable = errors.New("the broker has no queue for the message")

// errNoExchange says that a message names an exchange that the broker does not
// have, or that we may not publish to, or is itself what the broker does not take.
var errNoExchange = errors.New("the broker does not let us publish that there")

// undeliverable tells that publishing again would not help.
func undeliverable(err error) bool {
	return errors.Is(err, ErrUnroutable) || errors.Is(err, errNoExchange)
}

// errRefused says that the broker did not take a message.
var errRefused = errors.New("the broker refused the message (full queue, or a closed channel)")

// batchSize is how many messages are sent before their confirms are waited for.
const batchSize = 256

// Outgoing is a message and where it goes.
type Outgoing struct {
	Exchange   string
	RoutingKey string
	Publishing amqp.Publishing
	Optional   bool // it does not matter if there is no queue for it
}

// Publisher publishes with confirms and returns on a channel of its own: a nil
// error means that the message is in a queue. Safe for concurrent use.
type Publisher struct {
	conn *amqp.Connection

	mu       sync.Mutex
	ch       *amqp.Channel
	returned chan amqp.Return
	closed   chan *amqp.Error
}

// NewPublisher opens a channel for publishing.
func NewPublisher(conn *amqp.Connection) (*Publisher, error) {
	p := &Publisher{conn: conn}
	return p, p.open()
}

func (p *Publisher) open() error {
	ch, err := p.conn.Channel()
	if err != nil {
		return fmt.Errorf("open channel for publishing: %w", err)
	}
	if err := ch.Confirm(false); err != nil {
		return fmt.Errorf("ask for publisher confirms: %w", err)
	}
	p.ch, p.returned = ch, ch.NotifyReturn(make(chan amqp.Return, batchSize))
	p.closed = ch.NotifyClose(make(chan *amqp.Error, 1))
	return nil
}

// refusal looks why the channel was closed while m was published. An exchange
// that is not there closes it: that is the message's fault, and the next one gets
// a new channel.
func (p *Publisher) refusal(m Outgoing, err error) error {
	var why *amqp.Error
	select {
	case why = <-p.closed:
	default:
	}
	// 406 is a message that is too large, for one.
	if why == nil || !slices.Contains([]int{amqp.NotFound, amqp.AccessRefused, amqp.PreconditionFailed}, why.Code) || p.conn.IsClosed() {
		return m.fault(err)
	}
	if openErr := p.open(); openErr != nil {
		return openErr
	}
	return m.fault(fmt.Errorf("%w: %s", errNoExchange, why.Reason))
}

// broken reports whether only a new session can publish.
func (p *Publisher) broken() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ch.IsClosed()
}

// Close closes the channel.
func (p *Publisher) Close() error { return p.ch.Close() }

// Publish sends messages in order and waits until the broker has each in a
// queue. Of several faults it returns the first; the other messages may have
// been published.
func (p *Publisher) Publish(ctx context.Context, messages ...Outgoing) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(messages) > 0 {
		n := min(len(messages), batchSize)
		if err := p.batch(ctx, messages[:n]); err != nil {
			return err
		}
		messages = messages[n:]
	}
	return nil
}

func (p *Publisher) batch(ctx context.Context, messages []Outgoing) error {
	p.takeReturns() // of publications whose callers stopped waiting
	confirms := make([]*amqp.DeferredConfirmation, len(messages))
	for i, m := range messages {
		confirm, err := p.ch.PublishWithDeferredConfirm(m.Exchange, m.RoutingKey, !m.Optional, false, m.Publishing)
		if err != nil {
			return p.refusal(m, err)
		}
		confirms[i] = confirm
	}
	for i, m := range messages {
		ok, err := confirms[i].WaitContext(ctx)
		switch {
		case err != nil:
			return p.refusal(m, err)
		case !ok:
			return p.refusal(m, errRefused)
		}
	}
	// RabbitMQ sends basic.return before the confirm of the same message.
	if returns := p.takeReturns(); len(returns) > 0 {
		r := returns[0]
		return Outgoing{Exchange: r.Exchange, RoutingKey: r.RoutingKey}.fault(
			fmt.Errorf("%w (%d %s)", ErrUnroutable, r.ReplyCode, r.ReplyText))
	}
	return nil
}

func (o Outgoing) fault(err error) error {
	return fmt.Errorf("publish to exchange %q with key %q: %w", o.Exchange, o.RoutingKey, err)
}

func (p *Publisher) takeReturns() (out []amqp.Return) {
	for {
		select {
		case r, ok := <-p.returned:
			if !ok {
				return out
			}
			out = append(out, r)
		default:
			return out
		}
	}
}

// outbox publishes over whichever session there is: a message that could not be
// sent, or was not confirmed, because the broker went away is sent again on the
// next session.
type outbox struct {
	mu      sync.Mutex
	session *session
	changed chan struct{} // closed when session changes
}

func newOutbox() *outbox { return &outbox{changed: make(chan struct{})} }

func (o *outbox) set(s *session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.session = s
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *outbox) get() (*session, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.session, o.changed
}

// wait returns the session, once there is one.
func (o *outbox) wait(ctx context.Context) (*session, error) {
	for {
		s, changed := o.get()
		if s != nil {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("publish: the broker is away: %w", context.Cause(ctx))
		}
	}
}

// publish sends messages, waiting for a session until ctx ends. A queue that does
// not exist is created as Celery creates it.
func (o *outbox) publish(ctx context.Context, messages ...Outgoing) error {
	for len(messages) > 0 {
		s, changed := o.get()
		if s != nil {
			err := s.publisher.Publish(ctx, messages...)
			switch {
			case err == nil, ctx.Err() != nil:
				return err
			case errors.Is(err, ErrUnroutable):
				if err := o.sendOneByOne(ctx, s, messages); err == nil || !s.closed() {
					return err
				}
			case !s.publisher.broken():
				return err
			}
			// It is not known which of them arrived: whoever gets one twice must be
			// able to tell.
			for i := range messages {
				messages[i].Publishing.Headers[headerAgain] = true
			}
			s.fail(err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("publish: the broker is away: %w", context.Cause(ctx))
		}
	}
	return nil
}

// sendOneByOne sends messages of which one found no queue, and creates queues
// that are missing. Those that had arrived arrive again, and say so.
func (o *outbox) sendOneByOne(ctx context.Context, s *session, messages []Outgoing) error {
	for _, m := range messages {
		if len(messages) > 1 {
			m.Publishing.Headers[headerAgain] = true
		}
		err := s.publisher.Publish(ctx, m)
		if errors.Is(err, ErrUnroutable) && m.Exchange == "" {
			if _, err := Declare(ctx, s.conn, []string{m.RoutingKey}); err != nil {
				return err
			}
			err = s.publisher.Publish(ctx, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// outgoing makes the message of a request, for the default exchange if none is
// named. again marks one that may have been sent before.
func (w *Worker) outgoing(m celery.Message, again bool) (Outgoing, error) {
	props, headers, body, err := m.Request.Encode()
	if err != nil {
		return Outgoing{}, err
	}
	out := Outgoing{Exchange: m.Exchange, RoutingKey: m.RoutingKey}
	switch {
	case m.Exchange != "":
	case m.Queue != "":
		out.RoutingKey = m.Queue
	case m.RoutingKey == "":
		out.RoutingKey = w.cfg.DefaultQueue
	}
	out.Publishing = Publishing(props, headers, body)
	if again {
		out.Publishing.Headers[headerAgain] = true
	}
	return out, nil
}

// headerAgain marks a message that may have been published before: before it is
// run, its id is looked up.
const headerAgain = failed.HeaderAgain

// Publishing is the AMQP message of what celery.Request.Encode returns.
func Publishing(p celery.Properties, headers map[string]any, body []byte) amqp.Publishing {
	m := amqp.Publishing{
		Headers:         table(headers),
		ContentType:     p.ContentType,
		ContentEncoding: p.ContentEncoding,
		DeliveryMode:    p.DeliveryMode,
		CorrelationId:   p.CorrelationID,
		ReplyTo:         p.ReplyTo,
		Expiration:      p.Expiration,
		MessageId:       p.MessageID,
		Timestamp:       p.Timestamp,
		Type:            p.Type,
		AppId:           p.AppID,
		Body:            body,
		// No UserId: the broker takes only our own.
	}
	if p.Priority != nil {
		m.Priority = *p.Priority
	}
	return m
}

// table converts nested maps to the AMQP client's type.
func table(m map[string]any) amqp.Table {
	out := make(amqp.Table, len(m))
	for k, v := range m {
		out[k] = tableValue(v)
	}
	return out
}

func tableValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return table(v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = tableValue(e)
		}
		return out
	default:
		return v
	}
}

// properties are those of a delivery.
func properties(d amqp.Delivery) celery.Properties {
	p := celery.Properties{
		ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
		CorrelationID: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration,
		MessageID: d.MessageId, Type: d.Type, UserID: d.UserId, AppID: d.AppId,
		DeliveryMode: d.DeliveryMode, Timestamp: d.Timestamp,
	}
	// The client does not tell a missing priority from 0, which is what Celery's
	// producers send when they set none.
	p.Priority = &d.Priority
	return p
}
