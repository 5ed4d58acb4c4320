package worker

import (
	"context"
	"slices"
	"sync"
)

// pool grants slots in the order in which they were asked for. Its size can be
// changed at any time; slots above a smaller size are not taken away, they end
// with their jobs.
type pool struct {
	mu      sync.Mutex
	size    int
	used    int
	waiting []*ticket
}

// place is a job's place in the line for a slot, or the slot. The job may leave it and get in line
// once more. It is used by the job's goroutine only.
type place struct {
	p *pool
	t *ticket // nil: out of the line
}

// place returns a place at the end of the line.
func (p *pool) place() *place { return &place{p, p.join()} }

// wait waits for the slot, or returns why ctx ended.
func (l *place) wait(ctx context.Context) error {
	if l.t == nil {
		l.t = l.p.join()
	}
	return l.t.wait(ctx)
}

// leave gives the slot back, or leaves the line.
func (l *place) leave() {
	if l.t != nil {
		l.t.leave()
		l.t = nil
	}
}

// ticket is one request for a slot.
type ticket struct {
	p       *pool
	granted chan struct{} // closed when the slot is there
	over    bool          // given back
}

// join gets in line. The caller calls leave once, whether it got the slot or
// not.
func (p *pool) join() *ticket {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &ticket{p: p, granted: make(chan struct{})}
	p.waiting = append(p.waiting, t)
	p.grant()
	return t
}

// rejoin gets in line before all others, for a slot that was given away for a while.
func (p *pool) rejoin() *ticket {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &ticket{p: p, granted: make(chan struct{})}
	p.waiting = slices.Insert(p.waiting, 0, t)
	p.grant()
	return t
}

// grant hands out free slots. p.mu is held.
func (p *pool) grant() {
	for p.used < p.size && len(p.waiting) > 0 {
		t := p.waiting[0]
		p.waiting[0] = nil
		p.waiting = p.waiting[1:]
		if !t.over {
			p.used++
			close(t.granted)
		}
	}
}

// wait waits for the slot, or returns why ctx ended.
func (t *ticket) wait(ctx context.Context) error {
	select {
	case <-t.granted:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leave gives the slot back, or leaves the line.
func (t *ticket) leave() {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	if t.over {
		return
	}
	t.over = true
	select {
	case <-t.granted:
		t.p.used--
		t.p.grant()
	default:
	}
}

// resize sets the number of slots.
func (p *pool) resize(size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size = size
	p.grant()
}

// inUse is how many slots are taken, capacity how many there are.
func (p *pool) inUse() (used, capacity int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used, p.size
}
