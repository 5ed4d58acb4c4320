package remote

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
)

// A greeting is our hello to the other workers, and where they answer. That there are none, or that they do not answer, is no fault
// (celery/worker/consumer/mingle.py).
type greeting struct {
	ch      *amqp.Channel
	replies <-chan amqp.Delivery
	ticket  string
	say     func(ctx context.Context, mandatory bool) (*amqp.DeferredConfirmation, error)
	alone   bool // no worker has a queue for it
}

// hello says hello before our own node can be reached: if the broker has nobody to give it to, there is no other worker. It has to be said
// once more when it can, as who begins at the same time could not be reached either, and what is revoked in between reaches nobody.
func (r *Remote) hello(ctx context.Context, conn *amqp.Connection) (_ *greeting, err error) {
	g := &greeting{ticket: uuid.NewString()}
	if g.ch, err = conn.Channel(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = g.ch.Close() // the error says what is wrong
		}
	}()
	oid := uuid.NewString()
	q, err := g.ch.QueueDeclare(oid+"."+replyExchange, false, true, true, false, amqp.Table{"x-expires": int32(10000)})
	if err != nil {
		return nil, err
	}
	if err := g.ch.QueueBind(q.Name, oid, replyExchange, false, nil); err != nil {
		return nil, err
	}
	if g.replies, err = g.ch.Consume(q.Name, "", true, false, false, false, nil); err != nil {
		return nil, err
	}
	if err := g.ch.Confirm(false); err != nil {
		return nil, err
	}
	body, err := celery.MarshalJSON(map[string]any{
		// Ids without their times, which every Celery takes: times would be by
		// the clock of this host, and a Celery before 5.7 would compare them with
		// its own and drop the ids of a host that was started after it.
		"method": "hello", "arguments": map[string]any{"from_node": r.cfg.NodeName, "revoked": r.Revoked.IDs()},
		"destination": nil, "pattern": nil, "matcher": nil, "ticket": g.ticket,
		"reply_to": map[string]string{"exchange": replyExchange, "routing_key": oid},
	})
	if err != nil {
		return nil, err
	}
	g.say = func(ctx context.Context, mandatory bool) (*amqp.DeferredConfirmation, error) {
		return g.ch.PublishWithDeferredConfirmWithContext(ctx, controlExchange, "", mandatory, false, amqp.Publishing{
			ContentType: celery.ContentTypeJSON, ContentEncoding: "utf-8", DeliveryMode: amqp.Transient,
			Headers: amqp.Table{"clock": r.Clock.Forward(), "expires": unixSeconds(time.Now().Add(helloTime))}, Body: body,
		})
	}
	returned := g.ch.NotifyReturn(make(chan amqp.Return, 1)) // the broker returns a message before it confirms it
	confirm, err := g.say(ctx, true)
	if err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	if _, err := confirm.WaitContext(limit); err != nil {
		return g, nil // it may still be answered
	}
	select {
	case <-returned:
		g.alone = true
	default:
	}
	return g, nil
}

// mingle takes over what the other workers have revoked, for a second. It says that we are ready at once if nobody is there, else when
// those that answer seem to have.
func (l *link) mingle(ctx context.Context) {
	ready := func() { l.r.once.Do(func() { close(l.r.ready) }) }
	defer ready()
	g := l.greeting
	if g == nil {
		return
	}
	defer g.ch.Close()
	if g.alone {
		ready()
	}
	end, quiet := time.NewTimer(helloTime), time.NewTimer(helloTime)
	defer end.Stop()
	defer quiet.Stop()
	for {
		select {
		case d, ok := <-g.replies:
			if !ok {
				if ctx.Err() == nil {
					l.r.log.Warn("did not learn what other workers have revoked: the consumer of their replies was cancelled")
				}
				return
			}
			if d.Headers["ticket"] == g.ticket {
				l.r.greeted(d.Body)
				quiet.Reset(answersApart)
			}
		case <-quiet.C:
			ready()
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// greeted takes over what another worker says to our hello; what makes no sense
// is passed over.
func (r *Remote) greeted(body []byte) {
	var reply map[string]*struct {
		Revoked json.RawMessage `json:"revoked"`
		Clock   int64           `json:"clock"`
	}
	if json.Unmarshal(body, &reply) != nil {
		return
	}
	for node, said := range reply {
		if node != r.cfg.NodeName && said != nil {
			r.Clock.Adjust(said.Clock)
			r.mergeRevoked(said.Revoked)
		}
	}
}

// mergeRevoked takes over what another worker has revoked: a list of ids, or
// from a Celery before 5.7 a dict of them with their times, which are by the clock
// of another host.
func (r *Remote) mergeRevoked(raw json.RawMessage) {
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		r.Revoked.merge(list)
		return
	}
	var table map[string]json.RawMessage
	if json.Unmarshal(raw, &table) == nil {
		r.Revoked.merge(slices.Sorted(maps.Keys(table)))
	}
}
