package rabbit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrNoQueue says that the queue of a message does not exist.
var ErrNoQueue = errors.New("its queue does not exist")

// FullError says that a queue would drop older messages for new ones.
type FullError struct {
	Queue           string
	Messages, Limit int
}

func (e *FullError) Error() string {
	return fmt.Sprintf("queue %s is nearly full: %d messages wait there, and it holds %d", e.Queue, e.Messages, e.Limit)
}

// QueueExists returns an error that wraps [ErrNoQueue] if the queue does not exist.
func QueueExists(conn *Conn, queue string) error {
	d := declarer{conn: conn}
	defer d.close()
	_, err := d.look(queue)
	return err
}

// Standing is what waits in a queue, and who consumes it.
type Standing struct{ Ready, Consumers int }

// Look returns how a queue stands. The error wraps [ErrNoQueue] if it does not exist.
func Look(conn *Conn, queue string) (Standing, error) {
	d := declarer{conn: conn}
	defer d.close()
	q, err := d.look(queue)
	return Standing{q.Messages, q.Consumers}, err
}

// Delete deletes a queue with what is in it. One that does not exist is deleted.
func Delete(conn *Conn, queue string) error {
	d := declarer{conn: conn}
	defer d.close()
	return d.do("delete queue "+shorten(queue), func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(queue, false, false, false)
		return err
	})
}

// look returns what is known of a queue.
func (d *declarer) look(queue string) (q amqp.Queue, err error) {
	err = d.do("look for queue "+shorten(queue), func(ch *amqp.Channel) (err error) {
		q, err = ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err
	})
	if notFound(err) {
		err = fmt.Errorf("%w (%q)", ErrNoQueue, queue)
	}
	return q, err
}

// HaveRoom looks at the queues of messages. The error is an [Errors] with an element for each
// message: one that wraps [ErrNoQueue] if its queue does not exist, a *[FullError] if that is of
// the topology and has no room for all of them: it would dead-letter others. It calls idle, if
// that is not nil, for queues that nobody consumes.
func HaveRoom(conn *Conn, messages []Message, idle func(Queue)) error {
	d := declarer{conn: conn}
	defer d.close()
	coming := map[string]int{}
	for _, m := range messages {
		coming[m.Queue]++
	}
	faults := map[string]error{}
	for name, n := range coming {
		if len(name) > maxShortString {
			continue // it cannot be published, which says so
		}
		q, err := d.look(name)
		queue := QueueNamed(name)
		limit, limited := queue.Args["x-max-length"].(int32)
		switch {
		case err != nil:
			faults[name] = err
		case limited && q.Messages+n > int(limit)*9/10:
			faults[name] = &FullError{Queue: name, Messages: q.Messages, Limit: int(limit)}
		case q.Consumers == 0 && idle != nil:
			idle(queue)
		}
	}
	each := make(Errors, len(messages))
	for i, m := range messages {
		each[i] = faults[m.Queue]
	}
	return each.OrNil()
}

// unsentError is why a message was not sent.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// Unsent reports whether a message was certainly not sent: there was no connection, or its queue could not be looked at.
func Unsent(err error) bool {
	var unsent *unsentError
	return errors.Is(err, ErrNoConnection) || errors.As(err, &unsent)
}

// Sender publishes messages back to queues that exist, for commands.
type Sender struct {
	Conn *Conn
	// Waiting is called each second while a queue is full.
	Waiting func(*FullError)
	// Idle is called once for each queue that nobody consumes, with the time after which it drops
	// messages; 0 if it does not, or is not of the topology.
	Idle func(queue string, ttl time.Duration)

	once  sync.Once
	pub   *Publisher
	told  sync.Map
	looks sync.WaitGroup // at the queues; each ends with the connection at the latest
}

// Send publishes messages and returns once the broker has confirmed each. It waits for queues that
// are full. The error is an [Errors].
func (s *Sender) Send(ctx context.Context, messages ...Message) error {
	s.once.Do(func() { s.pub = NewPublisher(s.Conn) })
	faults, err := s.room(ctx, messages)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return faults.Rest(messages, func(m ...Message) error { return s.pub.Publish(ctx, m...) })
}

// sendTimeout bounds how long Send waits for confirms.
const sendTimeout = 30 * time.Second

// room waits until no queue is full.
func (s *Sender) room(ctx context.Context, messages []Message) (Errors, error) {
	for {
		err := s.haveRoom(ctx, messages)
		var full *FullError
		if !errors.As(err, &full) {
			faults := ErrorsOf(err, len(messages))
			for i, err := range faults {
				if err != nil {
					faults[i] = &unsentError{err}
				}
			}
			return faults, nil
		}
		s.Waiting(full)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, &unsentError{fmt.Errorf("%w: %w", context.Cause(ctx), full)}
		}
	}
}

// haveRoom is HaveRoom, whether or not the broker answers: one that is short of memory reads nothing of a connection that publishes.
func (s *Sender) haveRoom(ctx context.Context, messages []Message) error {
	looked := make(chan error, 1)
	s.looks.Go(func() { looked <- HaveRoom(s.Conn, messages, s.idle) })
	select {
	case err := <-looked:
		return err
	case <-ctx.Done():
		return fmt.Errorf("look whether the queues have room: the broker does not answer, as one does that is short of memory or disk: %w", context.Cause(ctx))
	}
}

func (s *Sender) idle(q Queue) {
	if _, told := s.told.LoadOrStore(q.Name, true); !told {
		ttl, _ := q.Args["x-message-ttl"].(int32)
		s.Idle(q.Name, time.Duration(ttl)*time.Millisecond)
	}
}

// Close waits for what Send has begun. The caller has closed the connection, if the broker may not answer.
func (s *Sender) Close() {
	if s.pub != nil {
		s.pub.Close()
	}
	s.looks.Wait()
}
