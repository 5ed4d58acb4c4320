package rabbit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// channelOf acts as RabbitMQ does: a tag has to be outstanding, and multiple stands for all that are, up to it.
type channelOf struct {
	t  testing.TB
	mu sync.Mutex

	open   []uint64 // outstanding, in their order
	acked  []uint64
	frames int
	hold   chan struct{} // if not nil an acknowledgement waits for it
}

func (c *channelOf) settle(tag uint64, multiple bool) []uint64 {
	c.frames++
	at, found := slices.BinarySearch(c.open, tag)
	if !found {
		c.t.Errorf("unknown delivery tag %d: the broker would close the channel", tag)
		return nil
	}
	from := at
	if multiple {
		from = 0
	}
	settled := slices.Clone(c.open[from : at+1])
	c.open = slices.Delete(c.open, from, at+1)
	return settled
}

func (c *channelOf) Ack(tag uint64, multiple bool) error {
	if c.hold != nil {
		<-c.hold
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = append(c.acked, c.settle(tag, multiple)...)
	return nil
}

func (c *channelOf) Nack(tag uint64, _, _ bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(tag, false)
	return nil
}

func (c *channelOf) Reject(tag uint64, _ bool) error { return c.Nack(tag, false, false) }

func tagsTo(n uint64) (tags []uint64) {
	for tag := uint64(1); tag <= n; tag++ {
		tags = append(tags, tag)
	}
	return tags
}

// TestAcks settles deliveries in any order, at once, in each way: those are acknowledged that were to be, and no other.
func TestAcks(t *testing.T) {
	t.Parallel()
	const deliveries = 300
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		c := &channelOf{t: t, open: tagsTo(deliveries)}
		a := NewAcks(c)
		var want []uint64
		var all sync.WaitGroup
		for _, i := range rng.Perm(deliveries) {
			tag := uint64(i + 1)
			switch rng.IntN(10) {
			case 0:
				all.Go(func() { _ = a.Nack(tag, false, true) })
			case 1:
				c.mu.Lock() // the broker has taken it back
				c.open = slices.DeleteFunc(c.open, func(o uint64) bool { return o == tag })
				c.mu.Unlock()
				all.Go(func() { a.Forget(tag) })
			case 2: // is still at work
			default:
				want = append(want, tag)
				all.Go(func() {
					if err := a.Ack(tag, false); err != nil {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
		slices.Sort(c.acked)
		slices.Sort(want)
		if !slices.Equal(c.acked, want) {
			t.Fatalf("seed %d: got %v acknowledged, want %v", seed, c.acked, want)
		}
	}
}

// TestAcksTogether has a hundred deliveries end while one acknowledgement is written: they are one frame, where none before them is at work.
func TestAcksTogether(t *testing.T) {
	t.Parallel()
	for _, atWork := range []bool{false, true} {
		t.Run(fmt.Sprint(atWork), func(t *testing.T) {
			t.Parallel()
			c := &channelOf{t: t, open: tagsTo(101), hold: make(chan struct{})}
			a := NewAcks(c)
			var first sync.WaitGroup
			first.Go(func() { _ = a.Ack(1, false) })
			c.hold <- struct{}{}
			first.Wait()
			first.Go(func() { _ = a.Ack(2, false) })
			for busy := false; !busy; { // until it is about to be written
				a.mu.Lock()
				busy = a.busy && a.low == 2
				a.mu.Unlock()
			}
			waiting := 0
			for tag := uint64(3); tag <= 101; tag++ {
				if !atWork || tag != 3 {
					waiting++
					first.Go(func() { _ = a.Ack(tag, false) })
				}
			}
			for n := 0; n < waiting; { // until all wait for the next round
				a.mu.Lock()
				n = len(a.done)
				a.mu.Unlock()
			}
			close(c.hold)
			first.Wait()
			if want := map[bool]int{false: 3, true: 100}[atWork]; c.frames != want || atWork != slices.Contains(c.open, 3) {
				t.Errorf("got %d frames, %v open, want %d", c.frames, c.open, want)
			}
		})
	}
}

type goneChannel struct{}

func (goneChannel) Ack(uint64, bool) error        { return errors.New("gone") }
func (goneChannel) Nack(uint64, bool, bool) error { return errors.New("gone") }
func (goneChannel) Reject(uint64, bool) error     { return errors.New("gone") }

// TestAcksOfALostChannel has each caller be told, also those whose acknowledgement another one sends.
func TestAcksOfALostChannel(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	many := NewAcks(goneChannel{})
	for tag := range uint64(100) {
		all.Go(func() {
			if many.Ack(1+tag, false) == nil {
				t.Errorf("%d: got no error", 1+tag)
			}
		})
	}
	all.Wait()
	a := NewAcks(goneChannel{})
	if a.Ack(1, false) == nil || a.Nack(2, false, true) == nil || a.Ack(3, true) == nil {
		t.Error("got no error, want one each")
	}
}
