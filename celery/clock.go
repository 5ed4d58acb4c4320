package celery

import "sync/atomic"

// maxClock is the highest time that is taken over from others: beyond it readers
// of JSON lose digits, and an overflow would turn the clock back.
const maxClock = 1 << 52

// Clock is a Lamport clock (L. Lamport, "Time, Clocks, and the Ordering of Events
// in a Distributed System", 1978), as kombu.clocks.LamportClock. The zero value
// is ready. Safe for concurrent use.
type Clock struct{ now atomic.Int64 }

// Forward moves the clock by one, for something that is sent, and returns it.
func (c *Clock) Forward() int64 { return c.now.Add(1) }

// Adjust moves the clock past one that was received. A time beyond 2^52 is
// nobody's, and counts as 0.
func (c *Clock) Adjust(seen int64) {
	if seen > maxClock {
		seen = 0
	}
	for {
		now := c.now.Load()
		if c.now.CompareAndSwap(now, max(now, seen)+1) {
			return
		}
	}
}

// AdjustTo is Adjust for the field "clock" of a message's headers, which may be missing or no number: then it counts as 0. The client
// library returns an integer in the size in which it was sent.
func (c *Clock) AdjustTo(field any) {
	var seen int64
	switch v := field.(type) {
	case int64:
		seen = v
	case int32:
		seen = int64(v)
	case int16:
		seen = int64(v)
	case int8:
		seen = int64(v)
	}
	c.Adjust(seen)
}

// Value is the clock as it is.
func (c *Clock) Value() int64 { return c.now.Load() }
