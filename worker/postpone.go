package worker

import (
	"context"
	"time"

	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/crash"
)

// postpone has a job that had no room elsewhere run again after the time that its handler asked for: here, if
// that is near, or from where parked jobs are. It reports whether the job goes round here.
func (j *job) postpone(jobs, waits context.Context, v *verdict) (again bool, err error) {
	if j.hasAcked() {
		waits = jobs // the broker does not have it any more
	}
	if end := j.req.Expires; !end.IsZero() {
		v.wait = min(v.wait, max(time.Until(end), 0)) // it is revoked in time
	}
	if v.wait > maxHold {
		return false, j.postponeAway(jobs, waits, v)
	}
	j.message.Own.Trying = later(j.message.Own.Trying, v.wait)
	j.hasBeenAtWork()
	j.release(&verdict{}, false)
	j.goesRound()
	j.again = true // what it has started it may start once more
	j.mu.Lock()
	j.stop = j.stopWaiting
	j.mu.Unlock()
	j.w.log.Debug("task waits", j.fields(zap.Error(v.err), zap.Float64("wait_seconds", v.wait.Seconds()))...)
	return true, j.holdFor(waits, v.wait)
}

// later is when the first retry would have been without the time in which the job is postponed; zero if there was none.
func later(trying time.Time, wait time.Duration) time.Time {
	if trying.IsZero() {
		return trying
	}
	return trying.Add(wait)
}

// postponeAway parks the job as the attempt that it is.
func (j *job) postponeAway(jobs, waits context.Context, v *verdict) error {
	m, req := j.message.Clone(), *j.req
	m.Own.Trying = later(m.Own.Trying, v.wait)
	req.ETA = time.Now().Add(v.wait)
	err := m.SetRequest(&req)
	if err == nil {
		m.Own.Since = j.since.Digest()
		err = j.park(waits, m, &req, exceptionOf(v.err))
	}
	if exc := unpublishable(err); exc != nil {
		return j.conclude(jobs, failure(exc, failed.ReasonFailed))
	}
	if err != nil {
		return err
	}
	j.parked(req.ETA, zap.Error(v.err))
	return nil
}

// parked acknowledges, counts and logs a job that has been put away.
func (j *job) parked(due time.Time, extra ...zap.Field) {
	crash.Point("park-before-ack")
	j.enter(settled)
	j.uncountSoon()
	j.release(&verdict{}, false)
	ackErr := j.ack()
	j.w.metrics.jobs.WithLabelValues(j.task.Name, outcomeParked).Inc()
	level := zap.InfoLevel
	if len(extra) > 0 { // it had no room, as others have: that is no outcome
		level = zap.DebugLevel
	}
	j.w.log.Log(level, "task parked", j.fields(append(extra, zap.Time("eta", due), zap.Bool("ack_lost", ackErr != nil))...)...)
}

// Postpone asks for the task to be run again after delay, not as a retry: it has not begun what it was called for, as
// there was no room for it elsewhere. It waits without end, unless it expires.
func Postpone(err error, delay time.Duration) error { return &celery.Postpone{Err: err, After: delay} }

// StepAside gives the slot of the handler whose context ctx is to another job, while the handler waits for something.
// back waits for a slot, of which the handler is the next one to have it; its error is why ctx ended. Outside of a
// handler, or of a slot, both do nothing.
func StepAside(ctx context.Context) (back func(ctx context.Context) error) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok || !a.stepAside() {
		return func(context.Context) error { return nil }
	}
	there := a.job.inTheWay()
	return func(ctx context.Context) error {
		there()
		return a.stepBack(ctx)
	}
}

// stepAside gives the attempt's slot away, unless the attempt is over or has none.
func (a *attempt) stepAside() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || a.job.place.t == nil {
		return false
	}
	a.job.place.leave()
	return true
}

// stepBack waits for a slot.
func (a *attempt) stepBack(ctx context.Context) error {
	t := a.job.w.pool.rejoin()
	if err := t.wait(ctx); err != nil {
		t.leave()
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over { // the job was not waited for
		t.leave()
		return context.Cause(ctx)
	}
	a.job.place.t = t
	return nil
}
