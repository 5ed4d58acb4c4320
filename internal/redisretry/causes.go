package redisretry

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/redis/go-redis/v9"
)

// causes adds to an error of the client what is needed to tell its kind: why a transaction was
// discarded, and that the command was large when its connection broke.
type causes struct{}

func (causes) DialHook(next redis.DialHook) redis.DialHook { return next }

func (causes) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return large(next(ctx, cmd), cmd)
	}
}

func (causes) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return large(discarded(next(ctx, cmds), cmds), cmds...)
	}
}

// discarded returns why the server discarded a transaction: the error of the command that it did
// not queue. Others have the error of the whole.
func discarded(err error, cmds []redis.Cmder) error {
	if !isAbort(err) {
		return err
	}
	for _, cmd := range cmds {
		var reply redis.Error
		if cause := cmd.Err(); errors.As(cause, &reply) && !isAbort(cause) {
			return fmt.Errorf("transaction discarded: %w", cause)
		}
	}
	return err
}

func isAbort(err error) bool { return redis.HasErrorPrefix(err, "EXECABORT") }

// largeSize is the least that proto-max-bulk-len and client-query-buffer-limit can be set to.
const largeSize = 1 << 20

// largeError is a broken connection over a large command. Redis closes the connection of a
// client that sends more than it takes, mostly without a word.
type largeError struct {
	err  error
	size int
}

func (e *largeError) Error() string { return fmt.Sprintf("command of %d bytes: %v", e.size, e.err) }
func (e *largeError) Unwrap() error { return e.err }

// large returns err as a *largeError if it is one.
func large(err error, cmds ...redis.Cmder) error {
	var reply redis.Error
	if err == nil || errors.As(err, &reply) || isContext(err) || isTimeout(err) {
		return err
	}
	size := sizeOfAll(cmds)
	if size < largeSize {
		return err
	}
	return &largeError{err, size}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func sizeOf(arg any) int {
	switch a := arg.(type) {
	case string:
		return len(a)
	case []byte:
		return len(a)
	}
	return 0
}
