package rabbit

import (
	"errors"
	"runtime"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Acks acknowledges the deliveries of one channel, many with one frame where their order allows (AMQP 0-9-1, basic.ack, multiple). It is
// their [amqp.Acknowledger], and is told of all of them: their tags count up from 1.
//
// An acknowledgement that comes while others are written waits for the next frames.
type Acks struct {
	ch amqp.Acknowledger

	mu   sync.Mutex
	low  uint64          // all tags up to this one are settled, and the broker knows
	done map[uint64]bool // settled tags above: whether an acknowledgement is still to be sent
	busy bool            // somebody sends
	next *round          // of those that wait to be sent; nil if none do
}

// A round is the acknowledgements that are sent together.
type round struct {
	sent chan struct{} // closed when they were
	err  error         // set before
}

// NewAcks returns the acknowledger of a channel that has not delivered anything yet.
func NewAcks(ch amqp.Acknowledger) *Acks { return &Acks{ch: ch, done: map[uint64]bool{}} }

// Ack acknowledges a delivery. multiple has to be false.
func (a *Acks) Ack(tag uint64, multiple bool) error {
	if multiple {
		return errors.New("acknowledge several deliveries: each has to be named")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done[tag] = true
	if a.next == nil {
		a.next = &round{sent: make(chan struct{})}
	}
	mine := a.next
	if a.busy { // whoever sends takes it along
		a.mu.Unlock()
		<-mine.sent
		a.mu.Lock()
		return mine.err
	}
	a.busy = true
	for a.next != nil {
		a.send()
		a.mu.Unlock()
		runtime.Gosched() // those that are about to end come along
		a.mu.Lock()
	}
	a.busy = false
	return mine.err
}

// send sends a round. a.mu is held, but while it sends.
func (a *Acks) send() {
	now := a.next
	a.next = nil
	up, others := a.take()
	a.mu.Unlock()
	if up > 0 {
		now.err = a.ch.Ack(up, true)
	}
	for _, tag := range others {
		now.err = errors.Join(now.err, a.ch.Ack(tag, false))
	}
	close(now.sent)
	a.mu.Lock()
}

// take returns what is to be sent: the last tag up to which all can be acknowledged together, 0 if there is none, and those beyond.
func (a *Acks) take() (up uint64, others []uint64) {
	for {
		due, settled := a.done[a.low+1]
		if !settled {
			break
		}
		delete(a.done, a.low+1)
		if a.low++; due {
			up = a.low // one that the broker waits for, as it has to be
		}
	}
	for tag, due := range a.done {
		if due {
			others = append(others, tag)
			a.done[tag] = false
		}
	}
	return up, others
}

// Forget notes that the broker waits for a delivery no more, as it has ended its consumer.
func (a *Acks) Forget(tag uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done[tag] = false
}

// Nack gives a delivery back.
func (a *Acks) Nack(tag uint64, multiple, requeue bool) error {
	err := a.ch.Nack(tag, multiple, requeue)
	a.Forget(tag)
	return err
}

// Reject gives a delivery back.
func (a *Acks) Reject(tag uint64, requeue bool) error {
	err := a.ch.Reject(tag, requeue)
	a.Forget(tag)
	return err
}
