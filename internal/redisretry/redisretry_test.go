package redisretry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// reply is an error reply of a server.
type reply string

func (r reply) Error() string { return string(r) }
func (reply) RedisError()     {}

func observed() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	return zap.New(core), logs
}

func TestDoRidesOutAnOutage(t *testing.T) {
	outages := []error{
		io.EOF, &net.OpError{Op: "dial", Err: errors.New("connection refused")},
		reply("LOADING Redis is loading the dataset in memory"), reply("READONLY You can't write against a read only replica."),
		reply("OOM command not allowed when used memory > 'maxmemory'."),
	}
	for _, outage := range outages {
		synctest.Test(t, func(t *testing.T) {
			log, logs := observed()
			g := redisretry.New("results", log)
			calls := 0
			err := g.Do(t.Context(), func(context.Context) error {
				if calls++; calls <= 20 {
					return outage
				}
				return nil
			})
			if err != nil {
				t.Fatalf("%v: got %v, want success after the outage", outage, err)
			}
			if calls != 21 {
				t.Errorf("%v: got %d calls, want 21", outage, calls)
			}
			if n := logs.Len(); n != 2 {
				t.Errorf("%v: got %d log lines, want 2 (lost, back)", outage, n)
			}
		})
	}
}

func TestDoReturnsOtherErrorsAtOnce(t *testing.T) {
	fault := errors.New("not JSON")
	for _, want := range []error{redis.Nil, redis.TxFailedErr, redis.ErrClosed, fault} {
		log, logs := observed()
		calls := 0
		err := redisretry.New("cache", log).Do(t.Context(), func(context.Context) error {
			calls++
			if want == fault {
				return redisretry.Final(fault)
			}
			return want
		})
		var refused *redisretry.RefusedError
		if !errors.Is(err, want) || errors.As(err, &refused) || calls != 1 || logs.Len() != 0 {
			t.Errorf("%v: got %v after %d calls and %d log lines, want it at once and no log line", want, err, calls, logs.Len())
		}
	}
}

// TestDoReturnsAnAnswerAfterAnOutage has the server back, and it says that nothing is there.
func TestDoReturnsAnAnswerAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		err := redisretry.New("results", zap.NewNop()).Do(t.Context(), func(context.Context) error {
			if calls++; calls == 1 {
				return io.EOF
			}
			return redis.Nil
		})
		if err != redis.Nil {
			t.Errorf("got %v, want %v", err, redis.Nil)
		}
	})
}

func TestDoEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		err := redisretry.New("cache", zap.NewNop()).Do(ctx, func(context.Context) error { return io.EOF })
		var away *redisretry.UnavailableError
		if !errors.As(err, &away) || !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want an UnavailableError with the last error of Redis", err)
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("gave up after %v, want 10 s", d)
		}
	})
}

func TestDoReportsTheCause(t *testing.T) {
	cause := errors.New("draining")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := redisretry.New("cache", zap.NewNop()).Do(ctx, func(ctx context.Context) error {
		cancel(cause)
		return ctx.Err()
	})
	if !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
}

// TestStalledServer asks a server that takes connections and never answers.
func TestStalledServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // the connections it did not accept are closed with it
	opt, err := redisretry.Options("redis://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	opt.ReadTimeout = time.Hour
	client := redis.NewClient(opt)
	defer client.Close()
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		done <- redisretry.New("cache", zap.NewNop()).Do(ctx, func(ctx context.Context) error { return client.Ping(ctx).Err() })
	}()
	select {
	case err := <-done:
		var away *redisretry.UnavailableError
		if !errors.As(err, &away) {
			t.Errorf("got %v, want an UnavailableError", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still waiting 20 s after the end of the context")
	}
}

// TestLastAttemptRunsIntoTheDeadline has the caller's time end in the middle of an attempt: the error is what was wrong
// before, as the time-out of the connection says nothing.
func TestLastAttemptRunsIntoTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := redisretry.New("results", zap.NewNop())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		why := reply("READONLY You can't write against a read only replica.")
		err := g.Do(ctx, func(ctx context.Context) error {
			if deadline, _ := ctx.Deadline(); time.Until(deadline) > 3*time.Second {
				return why
			}
			deadline, _ := ctx.Deadline()
			time.Sleep(time.Until(deadline)) // the connection may see it before ctx does
			return &net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}
		})
		var away *redisretry.UnavailableError
		if !errors.As(err, &away) || !errors.Is(err, why) {
			t.Errorf("got %v, want that Redis is away with %v", err, why)
		}
	})
}

// early is a context whose deadline has passed, and which has not ended yet.
type early struct{ context.Context }

func (early) Deadline() (time.Time, bool) { return time.Now().Add(-time.Nanosecond), true }

// TestDeadlineBeforeItsContext has the time-out of a connection come before the end of the context that it is of: that is
// no success.
func TestDeadlineBeforeItsContext(t *testing.T) {
	g := redisretry.New("results", zap.NewNop())
	n, why := 0, reply("READONLY You can't write against a read only replica.")
	err := g.Do(early{t.Context()}, func(context.Context) error {
		if n++; n == 1 {
			return why
		}
		return &net.OpError{Op: "write", Err: os.ErrDeadlineExceeded}
	})
	var away *redisretry.UnavailableError
	if !errors.As(err, &away) || !errors.Is(err, why) {
		t.Errorf("got %v, want that Redis is away", err)
	}
}
