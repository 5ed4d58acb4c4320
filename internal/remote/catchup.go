package remote

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// catchUpTime is how long a job waits at most for requests that were sent before it.
	catchUpTime = time.Second
	// markType is the type of the messages that are marks.
	markType = "onceover.mark"
)

// CatchUp waits until the requests that the broker had for this node when CatchUp
// was called have been carried out, but for what waits for Redis or the broker. It
// takes a round trip to the broker, a second at most, and returns at once when ctx
// ends or there is no connection.
//
// A client may revoke by a stamp and then send a task that has it, as Celery's
// test_revoked_by_headers_complex_canvas does. The two reach the worker over two
// connections, and the task came first in one of ten cases on an idle machine, in one
// of four on a busy one; at a Python worker, which has one connection for both, in one
// of a hundred. So a job that has stamps calls CatchUp before it asks Revoked.
func (r *Remote) CatchUp(ctx context.Context) {
	l := r.link.Load()
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	id, passed := l.marks.add()
	defer l.marks.pass(id)
	select {
	case l.marks.unsent <- id:
	case <-l.marks.ended:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-passed:
	case <-l.marks.ended:
	case <-ctx.Done():
	}
}

// marks are messages by which the node finds out how far it has come with its
// requests: it sends them to its own queue, where they stand behind what came before.
type marks struct {
	ch     *amqp.Channel
	queue  string
	unsent chan string
	ended  chan struct{} // closed when no mark comes back any more

	mu      sync.Mutex
	waiting map[string]chan struct{} // by message id; closed when the mark has come back
}

func newMarks(ch *amqp.Channel, queue string) *marks {
	return &marks{ch: ch, queue: queue, unsent: make(chan string), ended: make(chan struct{}), waiting: map[string]chan struct{}{}}
}

func (m *marks) add() (id string, passed <-chan struct{}) {
	c := make(chan struct{})
	id = uuid.NewString()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting[id] = c
	return id, c
}

// pass ends the wait for a mark, if somebody still waits for it.
func (m *marks) pass(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, waiting := m.waiting[id]; waiting {
		close(c)
		delete(m.waiting, id)
	}
}

// send sends marks until ctx ends.
func (m *marks) send(ctx context.Context) error {
	defer close(m.ended)
	for {
		select {
		case id := <-m.unsent:
			mark := amqp.Publishing{Type: markType, MessageId: id, DeliveryMode: amqp.Transient}
			if err := m.ch.Publish("", m.queue, false, false, mark); err != nil {
				return fmt.Errorf("send mark: %w", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}
