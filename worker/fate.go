package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"onceover/celery"
)

// Defaults of Backoff, those of Celery's autoretry (celery/utils/time.py,
// get_exponential_backoff_interval).
const (
	retryBase = time.Second
	retryCap  = 600 * time.Second
)

// Causes with which a job's context ends.
var (
	errSoftLimit   = errors.New("soft time limit exceeded")
	errRevoked     = errors.New("revoked")
	errSessionLost = errors.New("the session is lost")
	// errStopping is the cause with which jobs end that outlast the grace period.
	errStopping = errors.New("the worker is stopping")
)

// terminated is the cause with which a running job is revoked.
type terminated struct{ signal int }

func (t *terminated) Error() string { return "terminated" }

// fate is what becomes of a job after an attempt.
type fate int

const (
	fail     fate = iota
	giveBack      // back to its queue: nothing is wrong with the job
	succeed
	retry
	replace
	ignore
	requeue // back to its queue because the task wants it so
	reject  // kept as a dead letter
	revoke
)

// outcome is a fate with what belongs to it.
type outcome struct {
	fate
	exc     *celery.Exception // why; nil on success, and for a retry without a reason
	err     error             // the Go error, for the log
	wait    time.Duration     // before the next attempt
	expires time.Time         // of the next attempt; zero: as before
	replace *celery.Replace
	why     revocation
}

// decide turns the outcome of an attempt into the job's fate. Nothing else
// does. cause is why the attempt's context had ended, nil if it had not.
func decide(t *task, err, cause error, req *celery.Request) outcome {
	if err == nil {
		return outcome{fate: succeed}
	}
	var away interface{ Unavailable() bool }
	if errors.As(err, &away) && away.Unavailable() {
		return outcome{fate: giveBack}
	}
	var ended *terminated
	switch {
	case errors.Is(cause, errStopping):
		return outcome{fate: giveBack}
	case errors.As(cause, &ended):
		return outcome{fate: revoke, exc: celery.TaskRevoked("terminated"), why: revocation{terminated: true, signal: ended.signal}}
	case errors.Is(cause, errSoftLimit):
		return outcome{fate: fail, exc: celery.SoftTimeLimitExceeded()}
	}
	var (
		again    *celery.Retry
		replaced *celery.Replace
		rejected *celery.Reject
	)
	switch {
	case errors.As(err, &again):
	case errors.Is(err, celery.ErrIgnore):
		return outcome{fate: ignore}
	case errors.As(err, &replaced):
		return outcome{fate: replace, replace: replaced}
	case errors.As(err, &rejected) && rejected.Requeue:
		return outcome{fate: requeue}
	case errors.As(err, &rejected):
		return outcome{fate: reject, exc: rejected.Exception()}
	case t.autoRetries(err):
		again = &celery.Retry{Err: err}
	default:
		return outcome{fate: fail, exc: exceptionOf(err)}
	}
	maxRetries := t.MaxRetries
	if again.MaxRetries != nil {
		maxRetries = *again.MaxRetries
	}
	switch {
	case req.Retries < maxRetries:
		o := outcome{fate: retry, err: again, wait: t.Backoff.wait(req.Retries, again.After), expires: again.Expires}
		if again.Err != nil {
			o.exc = exceptionOf(again.Err)
		}
		return o
	case again.Err != nil:
		return outcome{fate: fail, exc: exceptionOf(again.Err)}
	default:
		return outcome{fate: fail, exc: &celery.Exception{Type: "MaxRetriesExceededError", Module: celery.ModuleCelery, Args: []any{
			fmt.Sprintf("Can't retry %s[%s] args:%s kwargs:%s", req.Task, req.ID, req.ArgsText(), req.KwargsText())}}}
	}
}

// wait is the pause before retry number retries+1. after is what the handler
// asked for, 0 if it left it to the backoff: the pause is at least that, up to
// the cap.
func (b Backoff) wait(retries int, after time.Duration) time.Duration {
	base, top := b.Base, b.Cap
	if base <= 0 {
		base = retryBase
	}
	if top <= 0 {
		top = retryCap
	}
	if after > 0 {
		return min(after, top)
	}
	backoff := top
	if retries < 30 && base < top>>retries {
		backoff = base << retries
	}
	if !b.Exact {
		backoff = rand.N(backoff)
	}
	return backoff
}

// exceptionOf is how Python sees err.
func exceptionOf(err error) *celery.Exception {
	var exc *celery.Exception
	if errors.As(err, &exc) {
		return exc
	}
	return celery.NewException("RuntimeError", err.Error(), err)
}

// runAttempt runs the handler once, within the time limits. At the soft limit
// the handler's context ends; at the hard limit, and when it is terminated, the
// handler is left behind. It returns the value, the error, and why the handler's
// context ended, if it did.
func runAttempt(ctx context.Context, h Handler, req *celery.Request, soft, hard time.Duration) (value any, cause, err error) {
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if soft > 0 {
		timer := time.AfterFunc(soft, func() { cancel(errSoftLimit) })
		defer timer.Stop()
	}
	type result struct {
		value any
		err   error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r = result{err: celery.Recovered(p)}
			}
			done <- r
		}()
		r.value, r.err = h.Run(ctx, req)
	}()
	var limit <-chan time.Time
	if hard > 0 {
		timer := time.NewTimer(hard)
		defer timer.Stop()
		limit = timer.C
	}
	ended := outer.Done()
	for {
		select {
		case r := <-done:
			return r.value, context.Cause(ctx), r.err
		case <-limit:
			return nil, nil, celery.TimeLimitExceeded(hard)
		case <-ended:
			var t *terminated
			if errors.As(context.Cause(outer), &t) {
				return nil, t, t
			}
			ended = nil // stopping: drain decides how long it may take
		}
	}
}

// refusal is how Python sees a message that cannot be run.
func refusal(e *celery.MessageError) *celery.Exception {
	exc := func(class, module string) *celery.Exception {
		return &celery.Exception{Type: class, Module: module, Args: []any{e.Err.Error()}, Err: e}
	}
	switch e.Reason {
	case celery.ReasonUnknownTask:
		return celery.NotRegistered(e.Task)
	case celery.ReasonContentType:
		return exc("ContentDisallowed", "kombu.exceptions")
	default:
		return exc("DecodeError", "kombu.exceptions")
	}
}

func unknownTask(req *celery.Request) *celery.MessageError {
	return &celery.MessageError{ID: req.ID, Task: req.Task, Reason: celery.ReasonUnknownTask,
		Err: fmt.Errorf("task %q is not registered with this worker", req.Task)}
}
