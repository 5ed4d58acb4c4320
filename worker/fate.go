package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"onceover/celery"
)

// Backoff of retries: base, doubling, capped, with full jitter, as Celery's
// autoretry does (celery/utils/time.py, get_exponential_backoff_interval).
const (
	retryBase = time.Second
	retryCap  = 600 * time.Second
)

// Causes with which a job's context ends, besides errStopping.
var errSoftLimit = errors.New("soft time limit exceeded")

// fate is what becomes of a job after an attempt.
type fate struct {
	state celery.State      // RETRY, SUCCESS or FAILURE; "" gives the delivery back to its queue
	exc   *celery.Exception // why, unless SUCCESS
	wait  time.Duration     // before the next attempt
}

// decide turns the outcome of an attempt into the job's fate. Nothing else
// does. cause is why the attempt's context had ended, nil if it had not.
func decide(err, cause error, retries, maxRetries int) fate {
	if err == nil {
		return fate{state: celery.Success}
	}
	var away interface{ Unavailable() bool }
	if errors.As(err, &away) && away.Unavailable() {
		return fate{} // nothing is wrong with the job
	}
	switch {
	case errors.Is(cause, errStopping):
		return fate{}
	case errors.Is(cause, errSoftLimit):
		return fate{state: celery.Failure, exc: celery.SoftTimeLimitExceeded()}
	}
	var again *celery.Retry
	if errors.As(err, &again) {
		if retries < maxRetries {
			return fate{state: celery.Retried, exc: exceptionOf(again.Err), wait: retryWait(retries, again.After)}
		}
		return fate{state: celery.Failure, exc: exceptionOf(again.Err)}
	}
	return fate{state: celery.Failure, exc: exceptionOf(err)}
}

// retryWait is the pause before retry number retries+1: at least after.
func retryWait(retries int, after time.Duration) time.Duration {
	top := retryCap
	if retries < 10 { // 2^10 s is over the cap
		top = min(top, retryBase<<retries)
	}
	return max(rand.N(top), min(after, retryCap))
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
// the handler's context ends; at the hard limit the handler is left behind. It
// returns the value, the error, and why the handler's context ended, if it did.
func runAttempt(ctx context.Context, h Handler, req *celery.Request, soft, hard time.Duration) (value any, cause, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if soft > 0 {
		timer := time.AfterFunc(soft, func() { cancel(errSoftLimit) })
		defer timer.Stop()
	}
	type outcome struct {
		value any
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			if p := recover(); p != nil {
				o = outcome{err: celery.Recovered(p)}
			}
			done <- o
		}()
		o.value, o.err = h.Run(ctx, req)
	}()
	var limit <-chan time.Time
	if hard > 0 {
		timer := time.NewTimer(hard)
		defer timer.Stop()
		limit = timer.C
	}
	select {
	case o := <-done:
		return o.value, context.Cause(ctx), o.err
	case <-limit:
		return nil, nil, celery.TimeLimitExceeded(hard)
	}
}

// limitsOf returns the limits of a job: the message's own, else the worker's.
func (w *Worker) limitsOf(req *celery.Request) (soft, hard time.Duration) {
	soft, hard = w.cfg.SoftTimeLimit, w.cfg.TimeLimit
	if req.SoftTimeLimit > 0 {
		soft = req.SoftTimeLimit
	}
	if req.TimeLimit > 0 {
		hard = req.TimeLimit
	}
	return soft, hard
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
	case celery.ReasonCanvas:
		return exc("NotImplementedError", celery.ModuleBuiltins)
	default:
		return exc("DecodeError", "kombu.exceptions")
	}
}

func unknownTask(req *celery.Request) *celery.MessageError {
	return &celery.MessageError{ID: req.ID, Task: req.Task, Reason: celery.ReasonUnknownTask,
		Err: fmt.Errorf("task %q is not registered with this worker", req.Task)}
}
