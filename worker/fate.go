package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"onceover/celery"
	"onceover/failed"
	"onceover/rabbit"
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

// decide turns the outcome of an attempt into the job's verdict. Nothing else
// does. cause is why the attempt's context had ended, nil if it had not; own are the marks of its message.
func decide(t *task, err, cause error, req *celery.Request, own rabbit.Own) *verdict {
	if err == nil {
		return &verdict{fate: succeed, outcome: outcomeSuccess}
	}
	failed := func(exc *celery.Exception) *verdict {
		v := failure(exc, failed.ReasonFailed)
		v.err = err
		return v
	}
	var away interface{ Unavailable() bool }
	if errors.As(err, &away) && away.Unavailable() {
		return &verdict{fate: giveBack, err: err}
	}
	var ended *terminated
	switch {
	case errors.Is(cause, errStopping):
		return &verdict{fate: giveBack, err: err}
	case errors.As(cause, &ended):
		return revoked("terminated", revocation{terminated: true, signal: ended.signal})
	case errors.Is(cause, errSoftLimit):
		return failed(celery.SoftTimeLimitExceeded())
	}
	var (
		again    *celery.Retry
		later    *celery.Postpone
		replaced *celery.Replace
		rejected *celery.Reject
	)
	switch {
	case errors.As(err, &later):
		return &verdict{fate: postpone, err: err, wait: later.After, outcome: outcomeParked}
	case errors.As(err, &again):
	case errors.Is(err, celery.ErrIgnore):
		return &verdict{fate: ignore, outcome: outcomeIgnored}
	case errors.As(err, &replaced):
		return &verdict{fate: replace, replace: replaced, outcome: outcomeReplaced}
	case errors.As(err, &rejected) && rejected.Requeue:
		return &verdict{fate: requeue, rejected: true, err: err}
	case errors.As(err, &rejected):
		v := failure(rejected.Exception(), rabbit.Rejected)
		v.rejected, v.err = true, err
		return v
	case t.autoRetries(err):
		again = &celery.Retry{Err: err}
	default:
		return failed(exceptionOf(err))
	}
	maxRetries := t.MaxRetries
	if again.MaxRetries != nil {
		maxRetries = *again.MaxRetries
	}
	counted := max(req.Retries-own.Timed, 0)
	wait, granted := t.Backoff.wait(counted, again.After), counted < maxRetries
	if again.For > 0 {
		// They grow, whatever is asked for, and not so long that a job comes late when all is well again.
		wait = max(again.After, min(t.Backoff.wait(own.Timed, 0), again.For/longestPart))
		wait, own.Trying, granted = untilEnd(wait, again.For, own.Trying)
		own.Timed++
	} else {
		own.Trying = time.Time{}
	}
	switch {
	case granted:
		v := &verdict{fate: retry, err: again, wait: wait, trying: own.Trying, timed: own.Timed, quiet: again.Quiet, expires: again.Expires, outcome: outcomeRetry}
		if again.Err != nil {
			v.exc = exceptionOf(again.Err)
		}
		return v
	case again.Err != nil:
		return failed(exceptionOf(again.Err))
	default:
		return failed(&celery.Exception{Type: "MaxRetriesExceededError", Module: celery.ModuleCelery, Args: []any{
			fmt.Sprintf("Can't retry %s[%s] args:%s kwargs:%s", req.Task, req.ID, req.ArgsText(), req.KwargsText())}})
	}
}

// longestPart is how many of the longest pauses fit into the time for which retries go on.
const longestPart = 30

// untilEnd bounds the pause before a retry so that the last one comes when they have gone on for long enough.
// After that none is granted.
func untilEnd(wait, long time.Duration, began time.Time) (_ time.Duration, trying time.Time, granted bool) {
	now := time.Now()
	if began.IsZero() {
		began = now
	}
	left := began.Add(long).Sub(now)
	return min(wait, left), began, left > 0
}

// wait is the pause before retry number retries+1. after is the pause that the handler asked for,
// which holds as it is, as Celery's countdown does; 0 if it left it to the backoff.
func (b Backoff) wait(retries int, after time.Duration) time.Duration {
	base, top := b.Base, b.Cap
	if base <= 0 {
		base = retryBase
	}
	if top <= 0 {
		top = retryCap
	}
	if after > 0 {
		return after
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
// context ended, if it did. run runs a function on another goroutine.
func runAttempt(ctx context.Context, run func(func()), h Handler, req *celery.Request, soft, hard time.Duration) (value any, cause, err error) {
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type result struct {
		value any
		err   error
	}
	done := make(chan result, 1)
	run(func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r = result{err: celery.Recovered(p)}
			}
			done <- r
		}()
		r.value, r.err = h.Run(ctx, req)
	})
	if hard > 0 && soft >= hard {
		soft = 0 // it does not come to that
	}
	var limit <-chan time.Time
	timer := time.NewTimer(cmp.Or(soft, hard, time.Hour))
	defer timer.Stop()
	if soft > 0 || hard > 0 {
		limit = timer.C
	}
	ended := outer.Done()
	for {
		select {
		case r := <-done:
			return r.value, context.Cause(ctx), r.err
		case <-limit:
			if soft == 0 {
				return nil, nil, celery.TimeLimitExceeded(hard)
			}
			cancel(errSoftLimit)
			if limit = nil; hard > 0 {
				timer.Reset(max(hard-soft, 0))
				limit = timer.C
			}
			soft = 0
		case <-ended:
			var t *terminated
			if errors.As(context.Cause(outer), &t) {
				return nil, t, t
			}
			ended = nil // stopping: drain decides how long it may take
		}
	}
}
