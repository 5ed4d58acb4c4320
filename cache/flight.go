package cache

import (
	"context"
	"errors"
	"sync"

	"onceover/celery"
)

// errClosed ends the computations that are under way when the cache closes.
var errClosed = errors.New("the cache is closing")

// errAbandoned ends a computation for which nobody waits any more.
var errAbandoned = errors.New("nobody waits for the answer any more")

// flight lets concurrent callers of one key share one computation. Unlike
// x/sync/singleflight it ends a computation when its last caller has gone, and
// it owns the goroutines it starts.
type flight struct {
	mu    sync.Mutex
	calls map[flightKey]*call
	turns map[string]*turn // by key: of the computation that is under way
	done  bool
	wg    sync.WaitGroup
}

// A turn is that of a computation among those for one key.
type turn struct {
	ended chan struct{} // closed when the computation has ended
	err   error         // with which those that waited for it end too; set before
}

// flightKey is a file under a key: two files of an equal hash need not show the same, so they take turns.
type flightKey struct {
	key  string
	file Digest
}

type call struct {
	cancel  context.CancelCauseFunc
	waits   chan struct{} // closed when the computation has to wait for another process
	waiters int
	ended   chan struct{} // closed when answer and err are set
	answer  *Answer
	err     error
}

func newFlight() *flight {
	return &flight{calls: map[flightKey]*call{}, turns: map[string]*turn{}}
}

// turn takes the turn of a key, which end gives back, or returns that of the computation that has it.
func (f *flight) turn(key string) (end func(err error), theirs *turn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.turns[key]; t != nil {
		return nil, t
	}
	t := &turn{ended: make(chan struct{})}
	f.turns[key] = t
	return func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.turns, key)
		t.err = err
		close(t.ended)
	}, nil
}

// do calls fn once for concurrent callers of a key. fn calls its second argument,
// once at most, when it has to wait for another process. waiting is called by the
// caller's own goroutine, so that nothing of the caller's is touched once do has
// returned. All callers have the same answer, which none of them may change.
func (f *flight) do(ctx context.Context, key flightKey, waiting func(), fn func(ctx context.Context, waits func()) (*Answer, error)) (*Answer, bool, error) {
	f.mu.Lock()
	if f.done {
		f.mu.Unlock()
		return nil, false, errClosed
	}
	c, shared := f.calls[key]
	if !shared {
		// The computation outlives its first caller if others wait too.
		run, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		c = &call{cancel: cancel, waits: make(chan struct{}), ended: make(chan struct{})}
		f.calls[key] = c
		f.wg.Go(func() { f.run(run, key, c, fn) })
	}
	c.waiters++
	f.mu.Unlock()
	waits := c.waits
	if shared {
		waiting()
		waits = nil
	}
	for {
		select {
		case <-waits:
			waiting()
			waits = nil
		case <-c.ended:
			return c.answer, shared, c.err
		case <-ctx.Done():
			f.leave(key, c)
			return nil, shared, context.Cause(ctx)
		}
	}
}

func (f *flight) run(ctx context.Context, key flightKey, c *call, fn func(context.Context, func()) (*Answer, error)) {
	defer func() {
		if p := recover(); p != nil {
			c.err = celery.Recovered(p)
		}
		f.mu.Lock()
		f.forget(key, c)
		f.mu.Unlock()
		c.cancel(nil)
		close(c.ended)
	}()
	c.answer, c.err = fn(ctx, func() { close(c.waits) })
}

// leave takes one waiter away and ends the computation with the last one.
func (f *flight) leave(key flightKey, c *call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.waiters--; c.waiters == 0 {
		f.forget(key, c) // a caller that comes now starts afresh
		c.cancel(errAbandoned)
	}
}

// busy reports whether a computation for a key is under way.
func (f *flight) busy(key flightKey) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[key] != nil
}

func (f *flight) forget(key flightKey, c *call) {
	if f.calls[key] == c {
		delete(f.calls, key)
	}
}

func (f *flight) close() {
	f.mu.Lock()
	f.done = true
	for _, c := range f.calls {
		c.cancel(errClosed)
	}
	f.mu.Unlock()
	f.wg.Wait()
}
