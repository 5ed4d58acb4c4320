package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"onceover/celery"
)

// returned gives a delivery back that was not acknowledged: its session is lost, or the worker
// stops, or it has met a fault of our own.
func (j *job) returned(jobs context.Context, err error) {
	if !errors.Is(err, errStopping) && !errors.Is(err, errSessionLost) {
		j.w.log.Error("job goes back to its queue", j.fields(zap.Error(err))...)
		_ = pause(jobs, time.Second)
	}
	if jobs.Err() != nil && j.phase >= active && !j.hasAcked() {
		j.w.returned.Add(1)
	}
	j.giveBack()
}

// givenUp is the verdict for a job that did not end and cannot be given back, as it was
// acknowledged early.
func (j *job) givenUp(v *verdict, err error) *verdict {
	return v.instead(&celery.Exception{Type: "WorkerLostError", Module: celery.ModuleBilliard, Args: []any{
		fmt.Sprintf("the task did not end, and its message had been acknowledged before it began: %v", err)}, Err: err})
}

// concludeOther concludes a job that has ended in another run, of which the end is on record:
// the process that recorded it may have died right after.
func (j *job) concludeOther(jobs context.Context, now celery.Stored) error {
	v := verdictOn(now.Meta)
	if j.refused != nil && v.reason != "" {
		v.reason = j.refused.Reason // it was not run there either
	}
	j.recorded, j.verdict, j.again = true, v, true
	return j.conclude(jobs, v)
}

// settlePause is the first pause before a verdict is carried out once more; it grows to
// maxSettlePause.
const (
	settlePause    = time.Second
	maxSettlePause = time.Minute
)

// conclude carries out a verdict, acknowledges the delivery, counts and logs. The work is done:
// its outcome is still stored when the worker stops. What goes wrong is tried again here, as
// the broker would count a return, and drop the job after some. The error is that the worker
// stops.
func (j *job) conclude(jobs context.Context, v *verdict) error {
	ctx := j.w.writing
	j.place.leave()
	j.enter(settled)
	if !j.recorded && j.started.IsZero() && !j.hasRun() && j.req.ID != "" && v.state() != "" {
		// It has not run, nor will it: nobody else has to.
		waits := j.consumer.waits // nothing is done yet: the delivery may go back
		switch done, err := j.claimAs(jobs, waits, notRun); {
		case done:
			return err
		case err != nil:
			return stopped(waits, err)
		}
		j.enter(settled)
	}
	j.settles(true)
	defer j.settles(false)
	for wait, logged := settlePause, ""; ; wait = min(2*wait, maxSettlePause) {
		j.again = j.again || j.seen || j.consumer.lost()
		j.lease = j.runName()
		had := j.lease
		var err error
		v, err = j.settle(ctx, v)
		if had != "" && j.lease == "" {
			j.setRun("")
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return stopped(ctx, err)
		}
		if logged != err.Error() {
			logged = err.Error()
			j.w.log.Error("the outcome of a task cannot be stored, trying again", j.fields(zap.Error(err))...)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		j.again = true
	}
	j.tellEnd(v)
	if v.fate == requeue {
		j.release(&verdict{}, false)
		j.giveBack()
		return nil
	}
	j.end(v)
	return nil
}

// settles notes that the job's verdict is about to be carried out, or that it was.
func (j *job) settles(begins bool) {
	if begins {
		j.mu.Lock()
		j.settling = time.Now()
		j.mu.Unlock()
		j.w.settling.add(j)
		return
	}
	j.w.settling.remove(j)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.settling = time.Time{}
	if j.slow {
		j.slow = false
		j.consumer.held.Add(-1)
	}
}

// holdSlow has other deliveries be fetched in the place of the jobs whose verdict has taken a second already.
func (w *Worker) holdSlow() {
	for _, j := range w.settling.list() {
		j.mu.Lock()
		if !j.slow && !j.settling.IsZero() && time.Since(j.settling) > time.Second/2 { // it is looked at each second
			j.slow = true
			w.holdMore(j.consumer)
		}
		j.mu.Unlock()
	}
}

// stopped is err with the reason for which ctx has ended, if it has.
func stopped(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// end acknowledges, counts and logs: the one line of the job's outcome.
func (j *job) end(v *verdict) {
	j.uncountSoon()
	var extra []zap.Field
	ackErr := j.ack()
	if ackErr != nil {
		extra = append(extra, zap.Bool("ack_lost", true))
	}
	j.release(v, ackErr == nil)
	name := j.w.taskLabel(j.task.Name)
	j.w.metrics.jobs.WithLabelValues(name, v.outcome).Inc()
	took := time.Since(j.received)
	extra = append(extra, zap.Bool("redelivered", j.delivery.Redelivered))
	if j.death != nil {
		j.endOfDeath(v, extra)
		return
	}
	switch v.outcome {
	case outcomeRetry:
		level := zap.WarnLevel
		if v.quiet {
			level = zap.DebugLevel
		}
		j.w.log.Log(level, "task will be retried", j.fields(append(extra, zap.Error(v.err), zap.Float64("wait_seconds", v.wait.Seconds()))...)...)
		return
	case outcomeRefused:
		j.w.log.Error("message refused and kept as a failed job", j.fields(append(extra, zap.String("reason", string(v.reason)), zap.Error(v.err))...)...)
		return
	}
	j.w.metrics.duration.WithLabelValues(name).Observe(took.Seconds())
	extra = append(extra, zap.String("state", string(v.state())), zap.Float64("duration_seconds", took.Seconds()),
		zap.Bool("duplicate", v.outcome == outcomeDuplicate))
	if v.exc != nil && v.outcome != outcomeDuplicate {
		extra = append(extra, zap.Error(v.exc))
	}
	if m, ok := v.value.(zapcore.ObjectMarshaler); ok && v.outcome == outcomeSuccess {
		extra = append(extra, zap.Inline(m))
	}
	level := zap.InfoLevel
	if v.outcome != outcomeDuplicate && v.state() == celery.Failure {
		level = zap.ErrorLevel // somebody has to look: nothing more is tried
		extra = append(extra, zap.String("root_id", j.req.RootID))
		if h, ok := j.task.Handler.(Detailer); ok {
			extra = append(extra, h.LogFields(j.req)...)
		}
	}
	j.w.log.Log(level, "task finished", j.fields(extra...)...)
}

// ack acknowledges the delivery, once. An error means that its channel is gone:
// the broker will deliver the job again, and it will be recognised.
func (j *job) ack() error {
	if !j.settleDelivery() {
		return nil
	}
	if j.consumer.lost() {
		j.delivery.Forget()
		return errSessionLost // the broker has taken the delivery back
	}
	return j.delivery.Ack()
}

// settleDelivery reports whether the delivery is neither acknowledged nor given back, which the caller does now.
func (j *job) settleDelivery() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	before := j.acked
	j.acked = true
	return !before
}

// giveBack returns the delivery to its queue, to run elsewhere or later. An
// error means that its session is gone, and the broker has done so itself.
func (j *job) giveBack() {
	j.uncountSoon()
	if !j.settleDelivery() {
		return
	}
	if j.consumer.lost() {
		j.delivery.Forget()
		return
	}
	if err := j.delivery.Requeue(); err == nil {
		j.w.metrics.jobs.WithLabelValues(j.w.taskLabel(j.req.Task), outcomeReturned).Inc()
	}
}

func (j *job) hasAcked() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.acked
}
