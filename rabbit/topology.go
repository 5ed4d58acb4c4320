package rabbit

import (
	"time"

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

// QueueNamed returns how the queue would be created: one of the topology's, or
// any other as Celery creates it (celery/app/amqp.py, Queues.new_missing):
// durable and classic, bound by its name to a direct exchange of its name.
func QueueNamed(name string) Queue {
	for _, q := range Topology() {
		if q.Name == name {
			return q
		}
	}
	return Queue{Name: name, Exchange: name, BindingKey: name}
}

// Passing returns a quorum queue, as q.ai is, that the broker deletes once nobody has consumed it for a time.
func Passing(name string, unused time.Duration) Queue {
	return Queue{Name: name, Exchange: ExchangeTasks, BindingKey: name, Args: amqp.Table{
		"x-queue-type": "quorum",
		"x-expires":    int32(unused.Milliseconds()),
	}}
}

// ExchangeKind returns the type of the queue's exchange where that has to be created.
func (q Queue) ExchangeKind() string {
	switch {
	case q.Kind != "":
		return q.Kind
	case q.Exchange == ExchangeTasks:
		return amqp.ExchangeTopic
	default:
		return amqp.ExchangeDirect
	}
}

// ours reports whether the topology is fixed for the exchange: one of another type is a fault.
func ours(exchange string) bool { return exchange == ExchangeTasks || exchange == ExchangeDeadLetter }
