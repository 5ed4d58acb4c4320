package rabbit

import (
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
)

// Delivery is a message that the broker has delivered and that is to be acknowledged.
type Delivery struct {
	Message
	Redelivered bool // it was delivered before

	acknowledger amqp.Acknowledger
	tag          uint64
}

// Of is the door: it reads a delivery from a queue.
func Of(d amqp.Delivery, queue string) *Delivery {
	return &Delivery{Message: messageOf(d, queue), Redelivered: d.Redelivered, acknowledger: d.Acknowledger, tag: d.DeliveryTag}
}

// Ack acknowledges the delivery. An error means that its channel is gone: the broker delivers the
// message again.
func (d *Delivery) Ack() error { return d.acknowledger.Ack(d.tag, false) }

// Requeue returns the message to its queue. RabbitMQ 4.0 to 4.2 count it against the queue's
// delivery limit. An error means that the channel is gone, and the message is in its queue.
func (d *Delivery) Requeue() error { return d.acknowledger.Nack(d.tag, false, true) }

// Forget notes that the broker has taken the delivery back: there is nothing to acknowledge.
func (d *Delivery) Forget() {
	if a, ok := d.acknowledger.(*Acks); ok {
		a.Forget(d.tag)
	}
}

// Names of the headers in which a quorum queue counts how often a message came back.
const (
	headerReturned = "x-delivery-count" // against the delivery limit
	headerAcquired = "x-acquired-count" // since RabbitMQ 4.3, each time
)

// Returned is how often the message came back to its quorum queue, as the delivery limit counts it;
// 0 for other queues.
func (d *Delivery) Returned() int { return count(d.Headers[headerReturned]) }

// Fresh returns the message as it is published to queue to stand there as if it had never been
// returned. What RabbitMQ notes about its deaths stays.
func (d *Delivery) Fresh(queue string) Message {
	m := d.Clone()
	m.Queue = queue
	delete(m.Headers, headerReturned)
	delete(m.Headers, headerAcquired)
	return m
}

// Reasons for which RabbitMQ dead-letters a message.
const (
	Rejected      celery.Reason = "rejected"
	Expired       celery.Reason = "expired"
	MaxLength     celery.Reason = "maxlen"
	DeliveryLimit celery.Reason = "delivery_limit"
)

// Death is why and where RabbitMQ dead-lettered a message (its documentation of dead letter
// exchanges, "Effects on Messages").
type Death struct {
	Reason celery.Reason
	Queue  string // "" if a producer has published the message to the dead-letter queue
}

// Death reads x-death, whose first entry is the latest death, and gives the message its route
// back: it is in the dead-letter queue, and its Queue becomes the one in which it died, or
// fallback.
func (m *Message) Death(fallback string) Death {
	out := Death{Reason: Rejected}
	entries, _ := m.Headers["x-death"].([]any)
	m.Queue = fallback
	if len(entries) == 0 {
		return out
	}
	last, _ := entries[0].(amqp.Table)
	if reason, ok := last["reason"].(string); ok {
		out.Reason = celery.Reason(reason)
	}
	if out.Queue, _ = last["queue"].(string); out.Queue != "" {
		m.Queue = out.Queue
	}
	if m.Own.Routed {
		return out // it had come from there, and says where its producer published it
	}
	m.Exchange, _ = last["exchange"].(string)
	m.RoutingKey = ""
	if keys, _ := last["routing-keys"].([]any); len(keys) > 0 {
		m.RoutingKey, _ = keys[0].(string)
	}
	return out
}

// ForgetDeaths removes what RabbitMQ notes about dead-lettering and returns.
func (m Message) ForgetDeaths() {
	for name := range m.Headers {
		if isDeathNote(name) {
			delete(m.Headers, name)
		}
	}
}
