package tasks

import (
	"context"
	"runtime"

	"onceover/celery"
)

// cores bounds the work that keeps a core busy: one token for each core.
type cores chan struct{}

func newCores(n int) cores {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	return make(cores, n)
}

// onCPU runs f when a core is free for it, on a thread of its own with a lower
// priority than the rest of the process: hashing a large picture takes a core for
// a good part of a second, and health probes and remote control are to be
// answered meanwhile.
func onCPU[T any](ctx context.Context, c cores, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	select {
	case c <- struct{}{}:
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-c }()
		// The goroutine ends without unlocking, and its thread with it: a thread
		// may not raise its priority again.
		runtime.LockOSThread()
		lowerPriority()
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = celery.Recovered(p)
			}
			done <- r
		}()
		r.value, r.err = f()
	}()
	r := <-done
	return r.value, r.err
}
