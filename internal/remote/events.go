package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	eventExchange = "celeryev"
	// eventBuffer is how many events may wait for the broker.
	eventBuffer = 10000
	// eventBatch is how many are sent as one message, when they wait.
	eventBatch = 500

	heartbeatEvery = 2 * time.Second
)

// software is what the worker-* events say of the program: monitors know
// "py-celery", and its version tells them what it can do.
var software = map[string]any{"sw_ident": "py-celery", "sw_ver": "5.6.2", "sw_sys": "Linux"}

// events are the events on their way to the broker.
type events struct {
	r       *Remote
	queue   chan map[string]any
	tasks   atomic.Bool // task events are on
	given   bool        // they were from the start, which remote control does not change
	dropped atomic.Int64
}

func newEvents(r *Remote) *events {
	e := &events{r: r, queue: make(chan map[string]any, eventBuffer), given: r.cfg.TaskEvents}
	e.tasks.Store(r.cfg.TaskEvents)
	return e
}

// stamp completes an event.
func (e *events) stamp(kind string, fields map[string]any) map[string]any {
	_, west := time.Now().Zone()
	event := map[string]any{
		"type": kind, "hostname": e.r.cfg.NodeName, "pid": os.Getpid(), "clock": e.r.Clock.Forward(),
		"utcoffset": -west / 3600, "timestamp": unixSeconds(time.Now()),
	}
	maps.Copy(event, fields)
	return event
}

func unixSeconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// enable turns task events on or off and says whether that changed anything.
func (e *events) enable(on bool) (changed bool) {
	return !e.given && e.tasks.Swap(on) != on
}

// add queues an event, or drops it.
func (e *events) add(kind string, fields map[string]any) {
	select {
	case e.queue <- e.stamp(kind, fields):
	default:
		e.dropped.Add(1)
	}
}

// run sends events over a connection until ctx ends: worker-online first,
// heartbeats, and worker-offline at the end.
func (e *events) run(ctx context.Context, ch *amqp.Channel) error {
	if err := e.send(ch, e.worker("worker-online", heartbeatEvery)); err != nil {
		return err
	}
	tick := time.NewTicker(heartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case first := <-e.queue:
			batch := []map[string]any{first}
		more:
			for len(batch) < eventBatch {
				select {
				case next := <-e.queue:
					batch = append(batch, next)
				default:
					break more
				}
			}
			if err := e.send(ch, batch...); err != nil {
				return err
			}
		case <-tick.C:
			if err := e.send(ch, e.worker("worker-heartbeat", heartbeatEvery)); err != nil {
				return err
			}
		case <-ctx.Done():
			return e.send(ch, e.worker("worker-offline", heartbeatEvery))
		}
	}
}

// worker is an event about the worker itself.
func (e *events) worker(kind string, freq time.Duration) map[string]any {
	processed := 0
	for _, n := range e.r.node.Totals() {
		processed += n
	}
	fields := map[string]any{
		"freq": freq.Seconds(), "active": len(e.r.node.Jobs().Active), "processed": processed, "loadavg": loadAverage(),
	}
	maps.Copy(fields, software)
	return e.stamp(kind, fields)
}

// send publishes events: a single one under its own name, several task events as
// the list that Python's buffered dispatcher sends.
func (e *events) send(ch *amqp.Channel, batch ...map[string]any) error {
	var body any = batch[0]
	key := strings.ReplaceAll(batch[0]["type"].(string), "-", ".")
	if len(batch) > 1 {
		body, key = batch, "task.multi"
	}
	doc, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", key, err)
	}
	err = ch.Publish(eventExchange, key, false, false, amqp.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Transient,
		Headers: amqp.Table{"hostname": e.r.cfg.NodeName}, Body: doc,
	})
	if err != nil {
		return fmt.Errorf("send event %s: %w", key, err)
	}
	return nil
}

// loadAverage is that of the machine over 1, 5 and 15 minutes; zeros where it is
// not known.
func loadAverage() [3]float64 {
	var out [3]float64
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return out
	}
	for i, field := range strings.Fields(string(text)) {
		if i == len(out) {
			break
		}
		out[i], _ = strconv.ParseFloat(field, 64)
	}
	return out
}
