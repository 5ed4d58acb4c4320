package remote

import "sync/atomic"

// Clock is a Lamport clock (L. Lamport, "Time, Clocks, and the Ordering of Events
// in a Distributed System", 1978), as kombu.clocks.LamportClock. The zero value
// is ready. Safe for concurrent use.
type Clock struct{ now atomic.Int64 }

// Forward moves the clock by one, for something that is sent, and returns it.
func (c *Clock) Forward() int64 { return c.now.Add(1) }

// Adjust moves the clock past one that was received.
func (c *Clock) Adjust(seen int64) {
	for {
		now := c.now.Load()
		if c.now.CompareAndSwap(now, max(now, seen)+1) {
			return
		}
	}
}

// Value is the clock as it is.
func (c *Clock) Value() int64 { return c.now.Load() }
