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

// lock waits until the id is free. waited tells that somebody else was running
// it. The caller calls release once it is done.
func (r *running) lock(ctx context.Context, id string) (release func(), waited bool, err error) {
	r.mu.Lock()
	t, waited := r.ids[id]
	if !waited {
		t = &turn{token: make(chan struct{}, 1)}
		t.token <- struct{}{}
		if r.ids == nil {
			r.ids = map[string]*turn{}
		}
		r.ids[id] = t
	}
	t.users++
	r.mu.Unlock()

	leave := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(r.ids, id)
		}
	}
	select {
	case <-t.token:
		return func() { t.token <- struct{}{}; leave() }, waited, nil
	case <-ctx.Done():
		leave()
		return nil, waited, context.Cause(ctx)
	}
}
