package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
)

// link is one connection, from dialling to its loss. Requests, replies, events
// and gossip have a channel each.
type link struct {
	r        *Remote
	conn     *amqp.Connection
	closed   chan *amqp.Error
	requests <-chan amqp.Delivery
	gossip   <-chan amqp.Delivery
	replies  *amqp.Channel
	events   *amqp.Channel
}

// open dials and declares.
func (r *Remote) open(ctx context.Context) (_ *link, err error) {
	conn, err := r.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	l := &link{r: r, conn: conn, closed: conn.NotifyClose(make(chan *amqp.Error, 1))}
	for _, x := range []struct {
		name, kind string
		durable    bool
	}{{controlExchange, amqp.ExchangeFanout, false}, {replyExchange, amqp.ExchangeDirect, false}, {eventExchange, amqp.ExchangeTopic, true}} {
		if err := declareExchange(conn, x.name, x.kind, x.durable); err != nil {
			return nil, err
		}
	}
	requests, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel for remote control: %w", err)
	}
	if err := declarePidbox(conn, r.cfg.NodeName); err != nil {
		return nil, err
	}
	queue := pidboxName(r.cfg.NodeName)
	if l.requests, err = requests.Consume(queue, "", true, false, false, false, nil); err != nil {
		return nil, fmt.Errorf("consume remote control of %s: %w", r.cfg.NodeName, err)
	}
	if l.replies, err = conn.Channel(); err != nil {
		return nil, fmt.Errorf("open channel for replies: %w", err)
	}
	if l.events, err = conn.Channel(); err != nil {
		return nil, fmt.Errorf("open channel for events: %w", err)
	}
	gossip, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel for gossip: %w", err)
	}
	q, err := gossip.QueueDeclare("celeryev."+uuid.NewString(), false, true, true, false,
		amqp.Table{"x-message-ttl": int32(5000), "x-expires": int32(60000)})
	if err != nil {
		return nil, fmt.Errorf("declare queue for gossip: %w", err)
	}
	if err := gossip.QueueBind(q.Name, "worker.#", eventExchange, false, nil); err != nil {
		return nil, fmt.Errorf("bind queue for gossip: %w", err)
	}
	if l.gossip, err = gossip.Consume(q.Name, "", true, false, false, false, nil); err != nil {
		return nil, fmt.Errorf("consume gossip: %w", err)
	}
	return l, nil
}

func pidboxName(node string) string { return node + ".celery.pidbox" }

// declareExchange takes an exchange as it stands, or creates it: other programs
// may have declared it with whatever flags.
func declareExchange(conn *amqp.Connection, name, kind string, durable bool) error {
	ch, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("open channel: %w", err)
	}
	defer ch.Close() // it may be closed already
	err = ch.ExchangeDeclarePassive(name, kind, durable, false, false, false, nil)
	var fault *amqp.Error
	if err == nil || !errors.As(err, &fault) || fault.Code != amqp.NotFound {
		return err
	}
	again, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("open channel: %w", err)
	}
	defer again.Close()
	if err := again.ExchangeDeclare(name, kind, durable, false, false, false, nil); err != nil {
		return fmt.Errorf("declare exchange %s: %w", name, err)
	}
	return nil
}

// declarePidbox creates the queue of the node, exclusive as newer Celery has it.
func declarePidbox(conn *amqp.Connection, node string) error {
	ch, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("open channel: %w", err)
	}
	defer ch.Close()
	_, err = ch.QueueDeclare(pidboxName(node), false, true, true, false,
		amqp.Table{"x-expires": int32(10000), "x-message-ttl": int32(300000)})
	var fault *amqp.Error
	if errors.As(err, &fault) && (fault.Code == amqp.ResourceLocked || fault.Code == amqp.PreconditionFailed) {
		return fmt.Errorf("another worker has the node name %s: each needs its own, set ONCEOVER_NODE_NAME (%w)", node, err)
	}
	if err != nil {
		return fmt.Errorf("declare queue for remote control: %w", err)
	}
	if err := ch.QueueBind(pidboxName(node), "", controlExchange, false, nil); err != nil {
		return fmt.Errorf("bind queue for remote control: %w", err)
	}
	return nil
}

// serve answers and sends until the connection is lost, for which it returns the
// reason, or ctx ends.
func (l *link) serve(ctx context.Context) error {
	serving, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	faults := make(chan error, 3)
	run := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(serving); err != nil {
				faults <- err
			}
		})
	}
	run(func(ctx context.Context) error {
		for {
			select {
			case d, ok := <-l.requests:
				if !ok {
					return errors.New("the consumer of remote control was cancelled")
				}
				if err := l.r.answer(ctx, l.replies, d); err != nil {
					return err
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	run(func(ctx context.Context) error { return l.r.events.run(ctx, l.events) })
	run(l.followGossip)
	if l.r.cfg.Mingle {
		wg.Go(func() { l.mingle(serving) })
	} else {
		l.r.once.Do(func() { close(l.r.ready) })
	}
	var err error
	select {
	case err = <-faults:
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

// followGossip hears what the other workers say: it keeps the clock, and
// acknowledges elections, which wait for every worker (celery/worker/consumer/
// gossip.py).
func (l *link) followGossip(ctx context.Context) error {
	for {
		var d amqp.Delivery
		select {
		case next, ok := <-l.gossip:
			if !ok {
				return errors.New("the consumer of gossip was cancelled")
			}
			d = next
		case <-ctx.Done():
			return nil
		}
		var event struct {
			Type     string `json:"type"`
			Hostname string `json:"hostname"`
			Clock    int64  `json:"clock"`
			ID       string `json:"id"`
		}
		if json.Unmarshal(d.Body, &event) != nil || event.Hostname == l.r.cfg.NodeName {
			continue
		}
		l.r.Clock.Adjust(event.Clock)
		if event.Type == "worker-elect" {
			l.r.events.add("worker-elect-ack", map[string]any{"id": event.ID})
		}
	}
}

// mingle says hello to the other workers and takes over what they have revoked.
// That there are none, or that they do not answer, is no fault.
func (l *link) mingle(ctx context.Context) {
	defer l.r.once.Do(func() { close(l.r.ready) })
	if err := l.hello(ctx); err != nil && ctx.Err() == nil {
		l.r.log.Warn("did not learn what other workers have revoked", zap.Error(err))
	}
}

func (l *link) hello(ctx context.Context) error {
	ch, err := l.conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	oid := uuid.NewString()
	q, err := ch.QueueDeclare(oid+"."+replyExchange, false, true, true, false, amqp.Table{"x-expires": int32(10000)})
	if err != nil {
		return err
	}
	if err := ch.QueueBind(q.Name, oid, replyExchange, false, nil); err != nil {
		return err
	}
	replies, err := ch.Consume(q.Name, "", true, false, false, false, nil)
	if err != nil {
		return err
	}
	ticket := uuid.NewString()
	body, err := celery.MarshalJSON(map[string]any{
		"method": "hello", "arguments": map[string]any{"from_node": l.r.cfg.NodeName, "revoked": l.r.revokedTable()},
		"destination": nil, "pattern": nil, "matcher": nil, "ticket": ticket,
		"reply_to": map[string]string{"exchange": replyExchange, "routing_key": oid},
	})
	if err != nil {
		return err
	}
	expires := unixSeconds(time.Now().Add(mingleTime))
	err = ch.Publish(controlExchange, "", false, false, amqp.Publishing{
		ContentType: celery.ContentTypeJSON, ContentEncoding: "utf-8", DeliveryMode: amqp.Transient,
		Headers: amqp.Table{"clock": l.r.Clock.Forward(), "expires": expires}, Body: body,
	})
	if err != nil {
		return err
	}
	enough := time.NewTimer(mingleTime)
	defer enough.Stop()
	for {
		select {
		case d, ok := <-replies:
			if !ok {
				return errors.New("the consumer of replies was cancelled")
			}
			var reply map[string]*struct {
				Revoked json.RawMessage `json:"revoked"`
				Clock   int64           `json:"clock"`
			}
			if d.Headers["ticket"] != ticket || json.Unmarshal(d.Body, &reply) != nil {
				continue
			}
			for node, said := range reply {
				if node != l.r.cfg.NodeName && said != nil {
					l.r.Clock.Adjust(said.Clock)
					l.r.mergeRevoked(said.Revoked)
				}
			}
		case <-enough.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
