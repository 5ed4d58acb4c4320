package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Exchanges of the fixed topology.
const (
	ExchangeTasks      = "tasks" // topic: where producers publish
	ExchangeDeadLetter = "dlx"   // direct: dead letters
	QueueDeadLetter    = "q.dlq"
	keyDeadLetter      = "dlq"
)

// Queue is how a queue is created where it does not exist.
type Queue struct {
	Name       string
	Exchange   string     // bound to this exchange
	Kind       string     // type of the exchange; "": topic for tasks, else direct
	BindingKey string     // by this key
	Args       amqp.Table // nil: none, a classic queue
}

// Topology returns the five queues of the fixed topology.
func Topology() []Queue {
	work := func(name, key string, ttlSeconds, maxLength int32) Queue {
		return Queue{Name: name, Exchange: ExchangeTasks, BindingKey: key, Args: amqp.Table{
			"x-queue-type":              "quorum",
			"x-message-ttl":             ttlSeconds * 1000,
			"x-max-length":              maxLength,
			"x-dead-letter-exchange":    ExchangeDeadLetter,
			"x-dead-letter-routing-key": keyDeadLetter,
		}}
	}
	return []Queue{
		work("q.ai", "ai.*", 300, 5000),
		work("q.batch", "batch.*", 3600, 1000),
		work("q.api", "api.*", 300, 2000),
		work("q.sched", "sched.*", 3600, 500),
		{Name: QueueDeadLetter, Exchange: ExchangeDeadLetter, BindingKey: keyDeadLetter, Args: amqp.Table{
			"x-queue-type": "quorum",
			"x-max-length": int32(10000),
			"x-overflow":   "drop-head",
		}},
	}
}

// queueNamed returns how the queue would be created: one of the topology's, or
// any other as Celery creates it (celery/app/amqp.py, Queues.new_missing):
// durable and classic, bound by its name to a direct exchange of its name.
func queueNamed(name string) Queue {
	for _, q := range Topology() {
		if q.Name == name {
			return q
		}
	}
	return Queue{Name: name, Exchange: name, BindingKey: name}
}

// exchangeKind returns the type of the exchange where it has to be created.
func exchangeKind(name string) string {
	if name == ExchangeTasks {
		return amqp.ExchangeTopic
	}
	return amqp.ExchangeDirect
}

// Declare creates what is missing of the named queues, their exchanges, and the
// dead-letter exchange with its queue. What exists is left as it is, whatever
// its arguments. It returns the names of the queues it created.
func Declare(ctx context.Context, conn *amqp.Connection, queues []string) (created []string, err error) {
	wanted := make([]Queue, len(queues))
	for i, name := range queues {
		wanted[i] = queueNamed(name)
	}
	return declare(ctx, conn, wanted)
}

func declare(ctx context.Context, conn *amqp.Connection, queues []Queue) (created []string, err error) {
	d := declarer{conn: conn}
	defer d.close()
	if !slices.ContainsFunc(queues, func(q Queue) bool { return q.Name == QueueDeadLetter }) {
		queues = append(slices.Clone(queues), queueNamed(QueueDeadLetter))
	}
	if err := d.exchange(ExchangeTasks, ""); err != nil {
		return nil, err
	}
	for _, q := range queues {
		if err := ctx.Err(); err != nil {
			return created, context.Cause(ctx)
		}
		isNew, err := d.queue(q)
		if err != nil {
			return created, err
		}
		if isNew {
			created = append(created, q.Name)
		}
	}
	return created, nil
}

// declarer declares on a channel that it replaces when the broker closes it, as
// a passive declaration of something missing does.
type declarer struct {
	conn *amqp.Connection
	ch   *amqp.Channel
}

func (d *declarer) close() {
	if d.ch != nil {
		d.ch.Close()
	}
}

func (d *declarer) do(what string, f func(*amqp.Channel) error) error {
	if d.ch == nil || d.ch.IsClosed() {
		ch, err := d.conn.Channel()
		if err != nil {
			return fmt.Errorf("open channel: %w", err)
		}
		d.ch = ch
	}
	if err := f(d.ch); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// once declares what has this name with f, unless passive finds it.
func (d *declarer) once(what string, passive, f func(*amqp.Channel) error) (created bool, err error) {
	if err := d.do("look for "+what, passive); !notFound(err) {
		return false, err
	}
	return true, d.do("declare "+what, f)
}

func notFound(err error) bool {
	var e *amqp.Error
	return errors.As(err, &e) && e.Code == amqp.NotFound
}

func (d *declarer) exchange(name, kind string) error {
	if kind == "" {
		kind = exchangeKind(name)
	}
	_, err := d.once("exchange "+name, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(name, kind, true, false, false, false, nil)
	}, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare(name, kind, true, false, false, false, nil)
	})
	return err
}

func (d *declarer) queue(q Queue) (created bool, err error) {
	created, err = d.once("queue "+q.Name, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(q.Name, true, false, false, false, nil)
		return err
	}, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(q.Name, true, false, false, false, q.Args)
		return err
	})
	if err != nil || (!created && len(q.Args) == 0) {
		return created, err // somebody else's queue: its bindings are theirs too
	}
	if err := d.exchange(q.Exchange, q.Kind); err != nil {
		return created, err
	}
	return created, d.do("bind queue "+q.Name, func(ch *amqp.Channel) error {
		return ch.QueueBind(q.Name, q.BindingKey, q.Exchange, false, nil)
	})
}
