package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
)

const (
	eventExchange = "celeryev"
	// eventBuffer is how many task events may wait for the broker.
	eventBuffer = 10000
	// workerBuffer is the same for other events, of which there are few.
	workerBuffer = 100
	// eventBatch is how many are sent as one message, when they wait. Replies
	// share the connection with it, so it is not large.
	eventBatch = 100

	heartbeatEvery = 2 * time.Second
)

// event is one event with all its fields, JSON values.
type event map[string]any

// events are the events on their way to the broker (celery/events/dispatcher.py).
type events struct {
	r       *Remote
	queue   chan event  // task-*, which are sent in lists
	others  chan event  // worker-*, each sent on its own: gossip listens to worker.#
	unsent  []event     // taken from queue, not sent: the next connection has them first; run's
	tasks   atomic.Bool // task events are on
	given   bool        // they were from the start, which remote control does not change
	dropped atomic.Int64
}

func newEvents(r *Remote) *events {
	e := &events{
		r: r, given: r.cfg.TaskEvents,
		queue: make(chan event, eventBuffer), others: make(chan event, workerBuffer),
	}
	e.tasks.Store(r.cfg.TaskEvents)
	return e
}

// complete adds what every event has; fields win.
func (e *events) complete(kind string, fields map[string]any) event {
	now := time.Now()
	out := event{
		"type": kind, "hostname": e.r.cfg.NodeName, "pid": os.Getpid(), "clock": e.r.Clock.Forward(),
		"utcoffset": hoursWest(now), "timestamp": unixSeconds(now),
	}
	maps.Copy(out, fields)
	return out
}

// enable turns task events on or off and says whether that changed anything.
func (e *events) enable(on bool) (changed bool) {
	return !e.given && e.tasks.Swap(on) != on
}

// add queues an event, or drops it.
func (e *events) add(kind string, fields map[string]any) {
	queue := e.others
	if strings.HasPrefix(kind, "task-") {
		queue = e.queue
	}
	select {
	case queue <- e.complete(kind, fields):
	default:
		e.dropped.Add(1)
	}
}

// run sends events over a connection until ctx ends: worker-online first, then
// heartbeats and what is added, and at the end what still waits and
// worker-offline.
func (e *events) run(ctx context.Context, ch *amqp.Channel) error {
	if err := e.send(ch, e.worker("worker-online")); err != nil {
		return err
	}
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		if err := e.sendTasks(ch); err != nil {
			return err
		}
		select {
		case first := <-e.queue:
			e.unsent = append(e.unsent, first)
		case other := <-e.others:
			if err := e.send(ch, other); err != nil {
				return err
			}
		case <-tick.C:
			if err := e.send(ch, e.worker("worker-heartbeat")); err != nil {
				return err
			}
		case <-ctx.Done():
			for waiting := true; waiting; waiting = len(e.queue) > 0 {
				if err := e.sendTasks(ch); err != nil {
					return err
				}
			}
			return e.send(ch, e.worker("worker-offline"))
		}
	}
}

// sendTasks sends the task events that wait, as one message.
func (e *events) sendTasks(ch *amqp.Channel) error {
	for len(e.unsent) < eventBatch && len(e.queue) > 0 { // nobody else takes from it
		e.unsent = append(e.unsent, <-e.queue)
	}
	if len(e.unsent) == 0 {
		return nil
	}
	if err := e.send(ch, e.unsent...); err != nil {
		return err
	}
	e.unsent = nil
	return nil
}

// worker is an event about the worker itself.
func (e *events) worker(kind string) event {
	processed := 0
	for _, n := range e.r.node.Totals() {
		processed += n
	}
	fields := software()
	fields["freq"], fields["loadavg"] = heartbeatEvery.Seconds(), loadAverage()
	fields["active"], fields["processed"] = len(e.r.node.Jobs().Active), processed
	return e.complete(kind, fields)
}

// send publishes events: a single one under its own name, several task events as
// the list that Python's dispatcher sends.
func (e *events) send(ch *amqp.Channel, batch ...event) error {
	docs, key := make([]json.RawMessage, 0, len(batch)), ""
	for _, event := range batch {
		doc, err := json.Marshal(event)
		if err != nil {
			e.dropped.Add(1)
			e.r.log.Error("event cannot be encoded", zap.Any("type", event["type"]), zap.Error(err))
			continue
		}
		docs, key = append(docs, doc), strings.ReplaceAll(event["type"].(string), "-", ".")
	}
	if len(docs) == 0 {
		return nil
	}
	body := []byte(docs[0])
	if len(docs) > 1 {
		body, _ = json.Marshal(docs) // each is JSON
		key = "task.multi"
	}
	err := ch.Publish(eventExchange, key, false, false, amqp.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Transient,
		Headers: amqp.Table{"hostname": e.r.cfg.NodeName}, Body: body,
	})
	if err != nil {
		return fmt.Errorf("send event %s: %w", key, err)
	}
	return nil
}
