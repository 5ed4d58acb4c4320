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
// Of acknowledgements that come while one is written, only the caller that writes them is told that the channel is gone. The broker delivers
// those messages again, as it does when it is lost before it has read an acknowledgement that was written.
type Acks struct {
	ch amqp.Acknowledger

	mu   sync.Mutex
	low  uint64          // all tags up to this one are settled, and the broker knows
	done map[uint64]bool // settled tags above: whether an acknowledgement is still to be sent
	busy bool            // somebody sends
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
	if a.busy {
		return nil // whoever sends takes it along
	}
	a.busy = true
	defer func() { a.busy = false }()
	var err error
	for first := true; ; first = false {
		if !first {
			a.mu.Unlock()
			runtime.Gosched() // those that are about to end come along
			a.mu.Lock()
		}
		up, others := a.take()
		if up == 0 && len(others) == 0 {
			return err
		}
		a.mu.Unlock()
		if up > 0 {
			err = errors.Join(err, a.ch.Ack(up, true))
		}
		for _, tag := range others {
			err = errors.Join(err, a.ch.Ack(tag, false))
		}
		a.mu.Lock()
	}
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
