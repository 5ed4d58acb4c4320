package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"onceover/rabbit"
)

// How long a message waits for its confirm while the broker is there and takes messages.
// RabbitMQ confirms within milliseconds; a queue without a majority does when it has one again.
const (
	confirmLimit = 5 * time.Minute // without a time limit of the task
	leastConfirm = 2 * time.Second // also if nothing is left of the task's time limit
	slowConfirm  = 5 * time.Second // after which the log says so
)

// refusedPause is how long a message waits that a full queue has refused.
const refusedPause = 500 * time.Millisecond

// maxLost is how many connections may end with a fault of the protocol while one message is on
// its way, before the message is taken for the cause.
const maxLost = 3

// outbox publishes over whichever session there is: a message that was not confirmed because the
// broker went away is sent again on the next session.
type outbox struct {
	log    *zap.Logger
	faults *faults

	forbade atomic.Int64 // when a message to the exchange of the tasks was last refused, in ns

	mu      sync.Mutex
	session *session
	changed chan struct{}   // closed when session changes
	slow    map[string]bool // destinations that do not confirm at the moment
}

func newOutbox(log *zap.Logger, faults *faults) *outbox {
	return &outbox{log: log, faults: faults, changed: make(chan struct{}), slow: map[string]bool{}}
}

// tellSlow says once of each destination of messages that it does not confirm.
func (o *outbox) tellSlow(messages []rabbit.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range messages {
		if to := m.Destination(); !o.slow[to] {
			o.slow[to] = true
			o.log.Warn("a destination does not confirm messages: a full or missing queue process, or a quorum queue without a majority; only jobs that publish to it wait",
				zap.String("destination", to))
		}
	}
}

// forbidden reports whether a message failed because we may not publish to queues, or to the exchange
// of the tasks, and notes that: without these rights no retry is sent, and no next step. A right that
// another exchange asks for is the message's own matter.
func (o *outbox) forbidden(m rabbit.Message, err error) bool {
	var undeliverable *rabbit.UndeliverableError
	if !rabbit.Forbidden(err) || !errors.As(err, &undeliverable) {
		return false
	}
	if _, ok := m.QueueOf(); ok {
		o.faults.set(faultPublish, rabbit.NewConfigError("publish to the default exchange", undeliverable.Err))
		return true
	}
	if m.Exchange != rabbit.ExchangeTasks {
		return false
	}
	o.forbade.Store(time.Now().UnixNano())
	o.faults.set(faultTasks, rabbit.NewConfigError("publish to exchange "+rabbit.ExchangeTasks, undeliverable.Err))
	return true
}

// sinceForbidden is how long ago a message to the exchange of the tasks was last refused.
func (o *outbox) sinceForbidden() time.Duration { return time.Since(time.Unix(0, o.forbade.Load())) }

// tellConfirmed says that a destination confirms again.
func (o *outbox) tellConfirmed(m rabbit.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if to := m.Destination(); o.slow[to] {
		delete(o.slow, to)
		o.log.Info("the destination confirms messages again", zap.String("destination", to))
	}
}

func (o *outbox) set(s *session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.session = s
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *outbox) get() (*session, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.session, o.changed
}

// wait returns a session that is not lost, once there is one.
func (o *outbox) wait(ctx context.Context) (*session, error) {
	for {
		s, changed := o.get()
		if s != nil && !s.closed() {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("publish: the broker is away: %w", context.Cause(ctx))
		}
	}
}

// publish sends messages and waits until the broker has each in a queue. While the broker is away
// or takes no messages it waits until ctx ends, and for a confirm at most limit. A queue that does
// not exist is created as Celery creates it. The error is a rabbit.Errors.
func (o *outbox) publish(ctx context.Context, limit time.Duration, messages ...rabbit.Message) error {
	p := posting{outbox: o, limit: limit, faults: make(rabbit.Errors, len(messages)), lost: map[int]int{}, declared: map[string]bool{}}
	for i, m := range messages {
		p.left = append(p.left, letter{i, m.Clone()})
	}
	for len(p.left) > 0 {
		s, err := o.wait(ctx)
		if err != nil {
			for _, l := range p.left {
				p.faults[l.index] = p.waited(err)
			}
			break
		}
		p.round(ctx, s)
	}
	return p.faults.OrNil()
}

// letter is a message that is not in a queue yet.
type letter struct {
	index   int
	message rabbit.Message
}

// posting is one call of publish.
type posting struct {
	outbox *outbox
	limit  time.Duration // of one round, and of refusals
	left   []letter
	faults rabbit.Errors
	lost   map[int]int // how many connections ended with a fault while the message was on its way
	until  time.Time   // when a message is given up that is refused, zero before that

	declared map[string]bool // queues that were created, or found

	forbidden error // why a message waits that we may not publish
}

// round sends all that is left over a session.
func (p *posting) round(ctx context.Context, s *session) {
	sending, left := p.left, []letter(nil)
	messages := make([]rabbit.Message, len(sending))
	for i, l := range sending {
		messages[i] = l.message
	}
	patient, cancel := s.patience(ctx, p.limit)
	defer cancel()
	slow := time.AfterFunc(slowConfirm, func() {
		if s.takingSince(time.Time{}) >= slowConfirm {
			p.outbox.tellSlow(messages)
		}
	})
	defer slow.Stop()
	refused := false
	for i, err := range rabbit.ErrorsOf(s.publisher.Publish(patient, messages...), len(sending)) {
		l := sending[i]
		switch {
		case err == nil:
			p.outbox.tellConfirmed(l.message)
		case ctx.Err() != nil:
			p.faults[l.index] = p.waited(err)
		case p.outbox.forbidden(l.message, err):
			p.forbidden = err
			refused, left = true, append(left, l)
		case errors.Is(err, rabbit.ErrUnroutable):
			if err = p.createQueue(ctx, s, l.message, err); err == nil {
				left = append(left, l)
			}
			p.faults[l.index] = err
		case errors.Is(err, rabbit.ErrRefused) && p.mayWait():
			refused, left = true, append(left, l)
		case errors.Is(err, rabbit.ErrLost):
			if err = p.lostAgain(s, l, err); err == nil {
				l.message.Own.Again = true // the broker may have it
				left = append(left, l)
			}
			p.faults[l.index] = err
		default:
			p.faults[l.index] = err
		}
	}
	p.left = left
	if refused {
		_ = pause(ctx, refusedPause) // the next round sees that ctx has ended
	}
}

// forbiddenError says that a context ended while a message waited for the right to publish it.
type forbiddenError struct {
	why, err error
}

func (e *forbiddenError) Error() string { return fmt.Sprintf("%v: %v", e.err, e.why) }
func (e *forbiddenError) Unwrap() error { return e.err }

// Unavailable marks the error as one that is no fault of the job.
func (e *forbiddenError) Unavailable() bool { return true }

// waited is err, with which the wait has ended, and why there was one.
func (p *posting) waited(err error) error {
	if p.forbidden == nil {
		return err
	}
	return &forbiddenError{p.forbidden, err}
}

// mayWait reports whether a message that a queue refuses is tried again.
func (p *posting) mayWait() bool {
	if p.until.IsZero() {
		p.until = time.Now().Add(p.limit)
	}
	return time.Now().Before(p.until)
}

// createQueue creates the missing queue of a message, as Celery does before it publishes. What
// cannot be created is the message's fault, and so is a message that comes back once more.
func (p *posting) createQueue(ctx context.Context, s *session, m rabbit.Message, unroutable error) error {
	queue, ok := m.QueueOf()
	if !ok || p.declared[queue] {
		return unroutable
	}
	d, err := rabbit.Declare(ctx, s.conn, rabbit.QueueNamed(queue))
	if err != nil {
		if ctx.Err() == nil { // else it is the caller's wait that has ended
			s.fail(err)
			_ = pause(ctx, refusedPause) // the session may be one that ends anyway
		}
		return nil // the next one tries again
	}
	// One that could not be bound is there: messages come to it by its name.
	if fault, ok := d.Faults[queue]; ok && !slices.Contains(d.Created, queue) {
		return &rabbit.UndeliverableError{RoutingKey: queue, Err: fault}
	}
	p.declared[queue] = true
	return nil
}

// lostAgain ends the session, and returns err for a message that has seen too many ends.
func (p *posting) lostAgain(s *session, l letter, err error) error {
	s.fail(err)
	if !rabbit.Refused(err) {
		return nil
	}
	if p.lost[l.index]++; p.lost[l.index] < maxLost {
		return nil
	}
	return &rabbit.UndeliverableError{Exchange: l.message.Exchange, RoutingKey: l.message.RoutingKey,
		Err: fmt.Errorf("the broker ended %d connections over it: %w", maxLost, err)}
}

// patience returns a context that ends limit after now, not counted while the broker takes no
// messages from anybody.
func (s *session) patience(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	began := time.Now()
	var timer *time.Timer
	var mu sync.Mutex // of timer, which may fire before it is set
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(limit, func() {
		mu.Lock()
		defer mu.Unlock()
		if left := limit - s.takingSince(began); left > 0 && ctx.Err() == nil {
			timer.Reset(left)
			return
		}
		cancel(errUnconfirmed)
	})
	return ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
		cancel(nil)
	}
}

// takingSince is how long the broker has taken messages without a break since a time.
func (s *session) takingSince(began time.Time) time.Duration {
	if s.blocked.Load() {
		return 0
	}
	if unblocked := time.Unix(0, s.unblocked.Load()); unblocked.After(began) {
		began = unblocked
	}
	return time.Since(began)
}

// errUnconfirmed is the cause with which the wait for a confirm ends.
var errUnconfirmed = errors.New("no confirm in time, though the broker takes messages")

// encodable says why a message could not be published over the present session.
func (o *outbox) encodable(m rabbit.Message) error {
	if s, _ := o.get(); s != nil {
		return s.publisher.Encodable(m)
	}
	return nil
}
