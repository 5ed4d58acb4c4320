// Package redisretry rides out the faults of a Redis server.
//
// A [Guard] stands before the commands of one role (results, cache, progress) and tells three
// kinds of faults apart:
//
//   - an outage (the network, a server that starts, fails over or is full) and
//   - missing rights or a wrong configuration (password, permissions, database number): it tries
//     again with growing, jittered pauses until the caller's context ends, tells the log once,
//     and once more when it is over;
//   - a value or command that the server refuses (wrong type, larger than it takes): returned at
//     once as a [*RefusedError], since waiting changes nothing.
package redisretry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// Guard repeats commands while their server is away. Safe for concurrent use.
type Guard struct {
	role   string
	log    *zap.Logger
	client redis.UniversalClient // nil before On
	line   line                  // of commands to it

	mu      sync.Mutex
	fault   *Fault          // nil while all is well
	tries   int             // failed attempts of all callers during the fault
	waiting int             // callers whose last attempt failed
	told    map[string]bool // what the log knows of the fault
	backAt  time.Time       // when the log was told last that a fault is over
	probing bool
}

// New returns the guard of a role, by which the log calls it.
func New(role string, log *zap.Logger) *Guard {
	return &Guard{role: role, log: log, told: map[string]bool{}}
}

// On names the client whose commands g guards, and returns g. Call it before the client is used.
// Without it a value that is too large, and missing rights in a MULTI, look like an outage.
func (g *Guard) On(client redis.UniversalClient) *Guard {
	client.AddHook(causes{})
	g.client = client
	g.line.send = func(cmds []redis.Cmder) error {
		p := client.Pipeline()
		err := p.BatchProcess(context.Background(), cmds...)
		if err == nil {
			_, err = p.Exec(context.Background())
		}
		return err
	}
	return g
}

// UnavailableError says that a context ended while Redis was away, or did not let this program
// work. Nothing is known to be wrong with the job itself.
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

// RefusedError says that the server does not take a command, however often it is sent: its value
// is too large or of another type.
type RefusedError struct {
	Role string
	Err  error // the answer of Redis
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("redis for %s refused the command: %v", e.Role, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// Refused marks the error as a fault of the value, see worker.
func (e *RefusedError) Refused() bool { return true }

// Do runs op until it succeeds, fails for good, or ctx ends. op must be safe to
// repeat. The error is
//   - an [*UnavailableError] if ctx ends during an outage, or while rights are missing,
//   - a [*RefusedError] for what the server never takes,
//   - else that of op: redis.Nil, redis.TxFailedErr, redis.ErrClosed or one marked by [Final].
func (g *Guard) Do(ctx context.Context, op func(context.Context) error) error {
	c := call{g: g}
	again, err := c.attempt(ctx, op)
	if !again {
		return err
	}
	defer c.end()
	if err = c.retry(ctx, op, err); err != nil && c.away != nil {
		return &UnavailableError{Role: g.role, Err: c.away}
	}
	return err
}

// retry makes further attempts after a first one that has failed with err.
func (c *call) retry(ctx context.Context, op func(context.Context) error, err error) error {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 50 * time.Millisecond
	b.MaxInterval = 2 * time.Second
	attempt := func() (struct{}, error) {
		if first := err; first != nil {
			err = nil
			return struct{}{}, first
		}
		again, failed := c.attempt(ctx, op)
		if !again && failed != nil {
			failed = backoff.Permanent(failed)
		}
		return struct{}{}, failed
	}
	_, err = backoff.Retry(ctx, attempt, backoff.WithBackOff(b), backoff.WithMaxElapsedTime(0))
	return err
}

// call is one call of Do.
type call struct {
	g      *Guard
	away   error // of the last attempt, if it failed in a way that may pass
	broken int   // attempts running that broke the connection of a server that is there
}

// maxBroken is how often a large command may break its connection before that is taken for its
// doing.
const maxBroken = 3

// attempt runs op once. again is false if it is no use, or there is no need, to try again.
func (c *call) attempt(ctx context.Context, op func(context.Context) error) (again bool, err error) {
	err = op(ctx)
	if staleConn(err) && c.away == nil && c.broken == 0 {
		err = op(ctx)
	}
	if err != nil && (ctx.Err() != nil && isContext(err) || c.away != nil && over(ctx) && isTimeout(err)) {
		// The caller is gone; what Redis would have said is unknown, and what was wrong before is what is known.
		return false, cmp.Or(context.Cause(ctx), context.DeadlineExceeded)
	}
	if c.tooLarge(ctx, err) {
		if c.broken++; c.broken < maxBroken {
			return true, err
		}
		c.answered()
		return false, &RefusedError{Role: c.g.role, Err: fmt.Errorf(
			"the connection broke %d times over it, and the server answers others: the value is larger than it takes (proto-max-bulk-len, client-query-buffer-limit): %w",
			c.broken, err)}
	}
	c.broken = 0
	switch v := judge(err); v {
	case wellDone:
		c.answered()
		c.g.line.answers()
		return false, nil
	case outage, missingRights:
		c.g.lost(v, err, c.away == nil)
		c.away = err
		return true, err
	case refused:
		c.answered()
		return false, &RefusedError{Role: c.g.role, Err: err}
	default:
		c.answered()
		return false, err
	}
}

// staleConn reports whether a command met a connection that the server had closed. The pool may hold
// more of these than the client tries: it is no outage yet.
func staleConn(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// tooLarge reports whether err is a connection that broke over a command so large that the
// server may have closed it for that, while the server answers a PING.
func (c *call) tooLarge(ctx context.Context, err error) bool {
	var large *largeError
	if c.g.client == nil || !errors.As(err, &large) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	return c.g.client.Ping(ctx).Err() == nil
}

// answered notes that the server answered.
func (c *call) answered() {
	c.g.back(c.away != nil)
	c.away = nil
}

// end notes that the caller waits no more.
func (c *call) end() {
	if c.away != nil {
		c.g.leave()
	}
}

// over reports whether ctx has ended, or its deadline has passed, which a connection may see first.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// Final wraps an error of the caller's own that no waiting will mend.
func Final(err error) error { return &finalError{err} }

type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }
