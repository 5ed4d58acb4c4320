package worker

import (
	"math/bits"
	"sync"
)

const (
	// unknownBody is the size that a body is taken to have before any has come, in bytes: a
	// picture in a data: URL.
	unknownBody = 8 << 20
	// forgetBody is the share of the expectation that each body replaces.
	forgetBody = 0.02
)

// bodies counts the bytes of the message bodies that the worker holds, and expects the size of
// those to come: that of the largest lately. The broker counts messages, not bytes, so that the
// prefetch follows from both.
type bodies struct {
	mu       sync.Mutex
	held     int64
	expected float64
}

func newBodies() *bodies { return &bodies{expected: unknownBody} }

// take counts a body that has come. It reports whether windows may have changed.
func (b *bodies) take(size int) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held += int64(size)
	before := bits.Len64(uint64(b.expected))
	b.expected = max(float64(size), b.expected+forgetBody*(float64(size)-b.expected))
	return bits.Len64(uint64(b.expected)) != before
}

// give takes a body off that is not held any more.
func (b *bodies) give(size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= int64(size)
}

// bytes returns how many are held.
func (b *bodies) bytes() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}

// window returns how many messages a consumer may have sent ahead, most at most, if their bodies
// are to have budget bytes together: most, or a half, a quarter, … of it, as each change makes a
// new consumer, and at least one.
func (b *bodies) window(most int, budget int64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for most > 1 && float64(most)*b.expected > float64(budget) {
		most /= 2
	}
	return most
}
