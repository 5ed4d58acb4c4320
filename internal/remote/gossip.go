package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// listen binds a queue to what the workers say of themselves.
func listen(conn *amqp.Connection) (<-chan amqp.Delivery, error) {
	ch, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel for gossip: %w", err)
	}
	q, err := ch.QueueDeclare("celeryev."+uuid.NewString(), false, true, true, false,
		amqp.Table{"x-message-ttl": int32(5000), "x-expires": int32(60000)})
	if err != nil {
		return nil, fmt.Errorf("declare queue for gossip: %w", err)
	}
	if err := ch.QueueBind(q.Name, "worker.#", eventExchange, false, nil); err != nil {
		return nil, fmt.Errorf("bind queue for gossip: %w", err)
	}
	deliveries, err := ch.Consume(q.Name, "", true, false, false, false, nil)
	if err != nil {
		return nil, fmt.Errorf("consume gossip: %w", err)
	}
	return deliveries, nil
}

// followGossip hears what the workers say until ctx ends.
func (l *link) followGossip(ctx context.Context) error {
	for {
		select {
		case d, ok := <-l.gossip:
			if !ok {
				return errors.New("the consumer of gossip was cancelled")
			}
			l.r.heard(d.Body)
		case <-ctx.Done():
			return nil
		}
	}
}

// heard keeps the clock by an event, and acknowledges elections, our own too:
// they wait for every worker that sends heartbeats (celery/worker/consumer/
// gossip.py). What is no event is passed over.
func (r *Remote) heard(body []byte) {
	var event struct {
		Type     string `json:"type"`
		Hostname string `json:"hostname"`
		Clock    int64  `json:"clock"`
		ID       any    `json:"id"`
	}
	if json.Unmarshal(body, &event) != nil {
		return
	}
	if event.Type == "worker-elect" {
		r.events.add("worker-elect-ack", map[string]any{"id": event.ID})
	} else if event.Hostname != r.cfg.NodeName {
		r.Clock.Adjust(event.Clock)
	}
}
