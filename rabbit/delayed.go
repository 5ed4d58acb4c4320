package rabbit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Native delayed delivery: producers of Celery 5.5 and later publish a task with
// a countdown for a queue on a topic exchange to the exchange celery_delayed_27,
// with the seconds to wait in the routing key, 28 bits, a word each. A message
// goes through the queue of each bit that is set, whose TTL is that many seconds,
// and past the others, down to celery_delayed_delivery
// (kombu/transport/native_delayed_delivery.py).
const (
	delayLevels   = 28
	delayDelivery = "celery_delayed_delivery"
)

func delayName(level int) string { return fmt.Sprintf("celery_delayed_%d", level) }

// DeclareDelays creates what is missing of the exchanges and queues of native
// delayed delivery, and leads their end to queues. It reports whether anything
// but bindings was created. An exchange of another type, which would lose what is published to it,
// is a *ConfigError.
func DeclareDelays(ctx context.Context, conn *Conn, queues []Queue) (created bool, err error) {
	d := declarer{conn: conn, strict: true}
	defer d.close()
	exchange := func(name string) error { return d.exchange(name, amqp.ExchangeTopic) }
	if err := exchange(delayDelivery); err != nil {
		return false, err
	}
	for level := range delayLevels {
		if err := ctx.Err(); err != nil {
			return created, context.Cause(ctx)
		}
		name, next := delayName(level), delayDelivery
		if level > 0 {
			next = delayName(level - 1)
		}
		if err := exchange(name); err != nil {
			return created, err
		}
		isNew, err := d.once("queue "+name, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
			return err
		}, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{
				"x-queue-type":           "quorum",
				"x-dead-letter-strategy": "at-least-once",
				"x-overflow":             "reject-publish",
				"x-message-ttl":          int64(1000) << level,
				"x-dead-letter-exchange": next,
			})
			return err
		})
		if err != nil {
			return created, err
		}
		created = created || isNew
		before := strings.Repeat("*.", delayLevels-1-level)
		err = d.do("bind delay "+name, func(ch *amqp.Channel) error {
			if err := ch.QueueBind(name, before+"1.#", name, false, nil); err != nil {
				return err
			}
			return ch.ExchangeBind(next, before+"0.#", name, false, nil)
		})
		if err != nil {
			return created, err
		}
	}
	for _, q := range queues {
		if q.ExchangeKind() == amqp.ExchangeDirect {
			continue // its tasks are not delayed by the broker
		}
		err := d.do("bind delays to "+q.Name, func(ch *amqp.Channel) error {
			if err := ch.ExchangeBind(q.Exchange, "#."+q.BindingKey, delayDelivery, false, nil); err != nil {
				return err
			}
			return ch.QueueBind(q.Name, "#."+q.BindingKey, q.Exchange, false, nil)
		})
		if err != nil {
			return created, err
		}
	}
	return created, nil
}

// WantsDelays reports whether one of the queues is on an exchange through which
// Celery delays tasks.
func WantsDelays(queues []Queue) bool {
	return slices.ContainsFunc(queues, func(q Queue) bool { return q.ExchangeKind() == amqp.ExchangeTopic })
}
