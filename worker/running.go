package worker

import (
	"context"
	"sync"
)

// running keeps one task id from running twice at a time in this process: after
// a lost connection the broker redelivers what is still being worked on. The
// zero value is ready.
type running struct {
	mu  sync.Mutex
	ids map[string]*turn
}

type turn struct {
	token chan struct{} // holds one token while the id is free
	users int           // holder and waiters
}

// tryLock takes the id if it is free. The caller calls release once it is done.
func (r *running) tryLock(id string) (release func(), ok bool) {
	t := r.enter(id)
	select {
	case <-t.token:
		return func() { t.token <- struct{}{}; r.leave(id, t) }, true
	default:
		r.leave(id, t)
		return nil, false
	}
}

// lock waits until the id is free.
func (r *running) lock(ctx context.Context, id string) (release func(), err error) {
	t := r.enter(id)
	select {
	case <-t.token:
		return func() { t.token <- struct{}{}; r.leave(id, t) }, nil
	case <-ctx.Done():
		r.leave(id, t)
		return nil, context.Cause(ctx)
	}
}

func (r *running) enter(id string) *turn {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, known := r.ids[id]
	if !known {
		t = &turn{token: make(chan struct{}, 1)}
		t.token <- struct{}{}
		if r.ids == nil {
			r.ids = map[string]*turn{}
		}
		r.ids[id] = t
	}
	t.users++
	return t
}

func (r *running) leave(id string, t *turn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.users--; t.users == 0 {
		delete(r.ids, id)
	}
}
