package remote

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
)

// mingle says hello to the other workers and takes over what they have revoked.
// That there are none, or that they do not answer, is no fault
// (celery/worker/consumer/mingle.py).
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
		// Ids without their times, which every Celery takes: times would be by
		// the clock of this host, and a Celery before 5.7 would compare them with
		// its own and drop the ids of a host that was started after it.
		"method": "hello", "arguments": map[string]any{"from_node": l.r.cfg.NodeName, "revoked": l.r.Revoked.IDs()},
		"destination": nil, "pattern": nil, "matcher": nil, "ticket": ticket,
		"reply_to": map[string]string{"exchange": replyExchange, "routing_key": oid},
	})
	if err != nil {
		return err
	}
	expires := unixSeconds(time.Now().Add(helloTime))
	err = ch.Publish(controlExchange, "", false, false, amqp.Publishing{
		ContentType: celery.ContentTypeJSON, ContentEncoding: "utf-8", DeliveryMode: amqp.Transient,
		Headers: amqp.Table{"clock": l.r.Clock.Forward(), "expires": expires}, Body: body,
	})
	if err != nil {
		return err
	}
	enough := time.NewTimer(helloTime)
	defer enough.Stop()
	for {
		select {
		case d, ok := <-replies:
			if !ok {
				return errors.New("the consumer of replies was cancelled")
			}
			if d.Headers["ticket"] == ticket {
				l.r.greeted(d.Body)
			}
		case <-enough.C:
			return nil
		case <-ctx.Done():
			return nil
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
