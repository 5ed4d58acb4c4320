package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
)

// link is one connection, from dialling to its loss. Requests, replies, events,
// gossip and marks have a channel each.
type link struct {
	r        *Remote
	conn     *amqp.Connection
	closed   chan *amqp.Error
	requests <-chan amqp.Delivery
	gossip   <-chan amqp.Delivery
	events   *amqp.Channel
	replies  *replies
	greeting *greeting // nil if nobody was greeted
	marks    *marks
	faults   chan error // the first is why serve ends
}

// errNodeName is the error of open when another worker has our node name.
var errNodeName = errors.New("another worker has the same node name: each needs its own, set ONCEOVER_NODE_NAME")

// open dials and declares.
func (r *Remote) open(ctx context.Context) (_ *link, err error) {
	conn, err := r.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	// A broker that has stopped answering does not keep us from ending.
	stop := context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })
	defer stop()
	defer func() {
		if err != nil {
			conn.CloseDeadline(time.Now().Add(offlineTime)) // there is nothing to lose in it
		}
	}()
	l := &link{
		r: r, conn: conn, closed: conn.NotifyClose(make(chan *amqp.Error, 1)),
		replies: newReplies(r, conn), faults: make(chan error, 1),
	}
	for _, x := range []struct {
		name, kind string
		durable    bool
	}{{controlExchange, amqp.ExchangeFanout, false}, {replyExchange, amqp.ExchangeDirect, false}, {eventExchange, amqp.ExchangeTopic, true}} {
		if err := declareExchange(conn, x.name, x.kind, x.durable); err != nil {
			return nil, fmt.Errorf("declare exchange %s: %w", x.name, err)
		}
	}
	if r.cfg.Mingle {
		if l.greeting, err = r.hello(ctx, conn); err != nil && ctx.Err() == nil {
			r.log.Warn("did not learn what other workers have revoked", zap.Error(err))
		}
	}
	pidbox := r.cfg.NodeName + ".celery.pidbox"
	if l.requests, err = consumePidbox(conn, pidbox); err != nil {
		return nil, fmt.Errorf("consume remote control of %s: %w", r.cfg.NodeName, err)
	}
	if l.greeting != nil {
		if _, err := l.greeting.say(ctx, false); err != nil {
			return nil, fmt.Errorf("greet other workers: %w", err)
		}
	}
	if l.events, err = conn.Channel(); err != nil {
		return nil, fmt.Errorf("open channel for events: %w", err)
	}
	if l.gossip, err = listen(conn); err != nil {
		return nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel for marks: %w", err)
	}
	l.marks = newMarks(ch, pidbox)
	return l, nil
}

// declareExchange takes an exchange as it stands, or creates it: other programs
// may have declared it with whatever flags.
func declareExchange(conn *amqp.Connection, name, kind string, durable bool) error {
	err := withChannel(conn, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(name, kind, durable, false, false, false, nil)
	})
	if code(err) == amqp.AccessRefused {
		return nil // RabbitMQ 4.3 lets nobody look who may not declare
	}
	exists := err == nil
	if !exists && code(err) != amqp.NotFound {
		return err
	}
	err = withChannel(conn, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare(name, kind, durable, false, false, false, nil)
	})
	// Passively, the broker does not look at the type, without which nothing arrives.
	if exists && !(code(err) == amqp.PreconditionFailed && strings.Contains(err.Error(), "arg 'type'")) {
		return nil
	}
	return err
}

// consumePidbox consumes the requests to the node from its queue, exclusive as
// newer Celery has it. One that Celery 5.2 has left behind, with other flags, is
// used as it stands, as long as nobody consumes from it.
func consumePidbox(conn *amqp.Connection, queue string) (<-chan amqp.Delivery, error) {
	err := withChannel(conn, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(queue, false, true, true, false,
			amqp.Table{"x-expires": int32(10000), "x-message-ttl": int32(300000)})
		return err
	})
	if c := code(err); c == amqp.ResourceLocked || c == amqp.PreconditionFailed {
		err = withChannel(conn, func(ch *amqp.Channel) error {
			q, err := ch.QueueDeclarePassive(queue, false, true, false, false, nil)
			if err == nil && q.Consumers > 0 {
				return errNodeName
			}
			return err
		})
	}
	if code(err) == amqp.ResourceLocked {
		return nil, errNodeName // exclusive to another, or to our last connection that has not ended yet
	}
	if err != nil {
		return nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.QueueBind(queue, "", controlExchange, false, nil); err != nil {
		return nil, err
	}
	const noAck, exclusive = true, true
	return ch.Consume(queue, "", noAck, exclusive, false, false, nil)
}

// withChannel runs f with a channel of its own, which the broker closes when it
// refuses something.
func withChannel(conn *amqp.Connection, f func(*amqp.Channel) error) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close() // it may be closed already
	return f(ch)
}

// code is that of the broker's refusal, 0 for other errors.
func code(err error) int {
	var fault *amqp.Error
	if errors.As(err, &fault) {
		return fault.Code
	}
	return 0
}

// serve answers and sends until the connection is lost, for which it returns the
// reason, or ctx ends.
func (l *link) serve(ctx context.Context) error {
	serving, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	run := func(f func(context.Context) error) { wg.Go(func() { l.fault(f(serving)) }) }
	run(l.answerAll)
	run(l.marks.send)
	run(func(ctx context.Context) error { return l.r.events.run(ctx, l.events) })
	run(l.followGossip)
	l.r.link.Store(l)
	defer l.r.link.Store(nil)
	if l.r.cfg.Mingle {
		wg.Go(func() { l.mingle(serving) })
	} else {
		l.r.once.Do(func() { close(l.r.ready) })
	}
	var err error
	select {
	case err = <-l.faults:
	case fault := <-l.closed:
		err = errors.New("connection closed")
		if fault != nil {
			err = fmt.Errorf("connection closed: %w", fault)
		}
	case <-ctx.Done():
	}
	stop()
	// The last events go out, unless the broker does not take them.
	force := time.AfterFunc(offlineTime, func() { l.conn.CloseDeadline(time.Now()) })
	wg.Wait()
	force.Stop()
	l.conn.CloseDeadline(time.Now().Add(offlineTime)) // an error means that it was closed before
	return err
}

// fault ends serve with err, if it is one.
func (l *link) fault(err error) {
	if err == nil {
		return
	}
	select {
	case l.faults <- err:
	default: // not the first
	}
}

// answerAll carries out the requests in their order. Those that have to wait for
// somebody are left to a lane, so that this waits for nobody.
func (l *link) answerAll(ctx context.Context) error {
	for {
		select {
		case d, ok := <-l.requests:
			if !ok {
				return errors.New("the consumer of remote control was cancelled")
			}
			if d.Type == markType {
				l.marks.pass(d.MessageId)
			} else {
				l.r.handle(d, l.reply)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// reply sends a reply, or ends serve.
func (l *link) reply(r *reply) {
	if err := l.replies.send(r); err != nil {
		l.fault(fmt.Errorf("reply to %s: %w", r.method, err))
	}
}
