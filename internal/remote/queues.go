package remote

import (
	"fmt"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
)

// maxName is how many bytes a name may have in AMQP.
const maxName = 255

// addConsumer answers when the node has the queue, or cannot get it. A Python worker
// says ok before it has tried, and ends over a queue that it cannot declare
// (celery/worker/control.py, add_consumer).
func addConsumer(r *Remote, a arguments) (any, error) {
	var q Queue
	for name, dst := range map[string]*string{"queue": &q.Name, "exchange": &q.Exchange, "exchange_type": &q.ExchangeType, "routing_key": &q.RoutingKey} {
		if err := a.get(name, dst); err != nil {
			return nil, err
		}
	}
	if err := q.check(); err != nil {
		return nil, celery.NewException("ValueError", err.Error(), err)
	}
	return later{r.queues, func() (any, error) {
		if err := r.node.AddConsumer(q); err != nil {
			return nil, err
		}
		return ok("add consumer " + q.Name), nil
	}}, nil
}

// check refuses what no broker would declare.
func (q Queue) check() error {
	for _, n := range []struct{ what, name string }{{"queue", q.Name}, {"exchange", q.Exchange}, {"exchange type", q.ExchangeType}, {"routing key", q.RoutingKey}} {
		if len(n.name) > maxName {
			return fmt.Errorf("the name of the %s has %d bytes: expected %d at most", n.what, len(n.name), maxName)
		}
	}
	switch {
	case q.Name == "":
		return fmt.Errorf("the name of the queue is empty: expected 1 to %d bytes", maxName)
	case strings.HasPrefix(q.Name, "amq."):
		return fmt.Errorf("queue %s: names that begin with amq. are the broker's own, choose another", q.Name)
	case !knownType(q.ExchangeType):
		return fmt.Errorf("exchange type %s: expected direct, topic, fanout, headers, or one of a plugin, which begins with x-", celery.Repr(q.ExchangeType))
	}
	return nil
}

func knownType(kind string) bool {
	usual := []string{"", amqp.ExchangeDirect, amqp.ExchangeTopic, amqp.ExchangeFanout, amqp.ExchangeHeaders}
	return slices.Contains(usual, kind) || strings.HasPrefix(kind, "x-")
}

// cancelConsumer waits for the queues that are added before it.
func cancelConsumer(r *Remote, a arguments) (any, error) {
	var queue string
	if err := a.get("queue", &queue); err != nil {
		return nil, err
	}
	return later{r.queues, func() (any, error) {
		r.node.CancelConsumer(queue)
		return ok("no longer consuming from " + queue), nil
	}}, nil
}
