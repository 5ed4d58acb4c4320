// Package redisretry rides out the outage of a Redis server.
//
// A [Guard] stands before the commands of one role (results, cache, progress).
// While the server is away it tries again with growing, jittered pauses until
// the caller's context ends, and tells the log twice: when the server was lost
// and when it is back. Replies that will not change by waiting (wrong type, no
// permission) are returned at once.
package redisretry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// Guard repeats commands while their server is away. Safe for concurrent use.
type Guard struct {
	role string
	log  *zap.Logger

	mu    sync.Mutex
	since time.Time // start of the present outage; zero while all is well
	tries int       // failed attempts of all callers during the outage
}

// New returns the guard of a role, by which the log calls it.
func New(role string, log *zap.Logger) *Guard {
	return &Guard{role: role, log: log}
}

// UnavailableError says that a context ended while Redis was away. Nothing is
// known to be wrong with the job itself.
type UnavailableError struct {
	Role string
	Err  error // the last error of Redis
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("redis for %s is unavailable: %v", e.Role, e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// Unavailable marks the error as an outage, see worker.
func (e *UnavailableError) Unavailable() bool { return true }

// Do runs op until it succeeds, fails for good, or ctx ends. op must be safe to
// repeat. If ctx ends during an outage the error is an [*UnavailableError].
func (g *Guard) Do(ctx context.Context, op func(context.Context) error) error {
	var away error
	attempt := func() (struct{}, error) {
		err := op(ctx)
		switch {
		case err == nil:
			away = nil
			g.back()
		case ctx.Err() != nil && isContext(err):
			// The caller is gone; what Redis would have said is unknown.
			return struct{}{}, backoff.Permanent(context.Cause(ctx))
		case temporary(err):
			away = err
			g.lost(err)
		default:
			away = nil
			g.back() // the server answered
			return struct{}{}, backoff.Permanent(err)
		}
		return struct{}{}, err
	}
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 50 * time.Millisecond
	b.MaxInterval = 2 * time.Second
	_, err := backoff.Retry(ctx, attempt, backoff.WithBackOff(b), backoff.WithMaxElapsedTime(0))
	if err != nil && away != nil {
		return &UnavailableError{Role: g.role, Err: away}
	}
	return err
}

func (g *Guard) lost(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tries++
	if g.since.IsZero() {
		g.since = time.Now()
		g.log.Warn("redis lost, waiting for it", zap.String("role", g.role), zap.Error(err))
	}
}

func (g *Guard) back() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.since.IsZero() {
		return
	}
	g.log.Info("redis is back", zap.String("role", g.role),
		zap.Float64("duration_seconds", time.Since(g.since).Seconds()), zap.Int("failed_attempts", g.tries))
	g.since, g.tries = time.Time{}, 0
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// temporaryReplies are the error replies of a server that is starting, failing
// over, full, or cannot write at the moment.
var temporaryReplies = [...]string{
	"LOADING ", "READONLY ", "MASTERDOWN ", "CLUSTERDOWN ", "TRYAGAIN ", "NOREPLICAS ",
	"MISCONF ", "OOM ", "EXECABORT ", "BUSY ", "ERR max number of clients reached",
}

// temporary reports whether err may pass by waiting.
func temporary(err error) bool {
	if errors.Is(err, redis.Nil) || errors.Is(err, redis.TxFailedErr) || errors.Is(err, redis.ErrClosed) {
		return false
	}
	var reply redis.Error
	if !errors.As(err, &reply) {
		// Not a reply: the network, the dialler or the pool's time-out. Errors
		// of our own op (an encoding fault) are told apart by final.
		var f *finalError
		return !errors.As(err, &f)
	}
	for _, prefix := range temporaryReplies {
		if strings.HasPrefix(reply.Error(), prefix) {
			return true
		}
	}
	return false
}

// Final wraps an error of the caller's own that no waiting will mend.
func Final(err error) error { return &finalError{err} }

type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }
