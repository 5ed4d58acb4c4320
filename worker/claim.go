package worker

import (
	"context"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"onceover/celery"
)

// mayRun takes the id of the job, which may have ended in another run while this one waited. If
// the job does not go on, it is at its end, or has to go round once more.
func (j *job) mayRun(jobs, waits context.Context) (goOn, again bool, err error) {
	if j.hasRun() {
		now, err := j.book.Look(waits, j.req.ID)
		if err == nil && j.overtaken(j.since, now) {
			return false, false, j.concludeOther(jobs, now)
		}
		return err == nil, false, err
	}
	if done, err := j.endedBefore(jobs, waits); done || err != nil {
		return false, false, err
	}
	taken, err := j.begin(waits, false)
	switch {
	case err != nil:
		return false, false, err
	case !taken:
		// Another worker runs the same id, which was published twice. Its end is this job's.
		j.seen, j.twice = true, true
		return false, true, j.holdFor(waits, j.nextLook())
	case j.seen && j.overtaken(j.past, j.since):
		return false, false, j.concludeOther(jobs, j.since)
	}
	return true, false, nil
}

// endedBefore concludes a job that has been seen before and has ended in another run, or whose
// attempt has: then the next one has been published.
func (j *job) endedBefore(jobs, waits context.Context) (done bool, err error) {
	if !j.seen {
		return false, nil
	}
	now, over, err := j.book.Past(waits, j.req.ID, j.twice, j.message.Own.Since)
	if err != nil {
		return false, err
	}
	retried := now.Meta != nil && now.Meta.Status == celery.Retried && now.Meta.Attempt() >= j.req.Attempt()
	if !over && !retried {
		j.past = now
		return false, nil
	}
	return true, j.concludeOther(jobs, now)
}

// nextLook is the pause before a job looks again whether another run still has its id: short at
// first, as the attempt before gives it back right after it has published this one.
func (j *job) nextLook() time.Duration {
	j.looks++
	return min(50*time.Millisecond<<min(j.looks, 10), time.Second)
}

// saysAlive is how long a redelivered job waits for the run before it to say that it is alive. A
// process learns at once that the broker has ended its connection or its consumer.
const saysAlive = 1500 * time.Millisecond

// takeOver takes the id of a redelivered job from the run before it, which has died or has lost
// its connection. One that goes on is waited for: its end is this job's.
func (j *job) takeOver(jobs, waits context.Context) (done bool, err error) {
	if !j.delivery.Redelivered || j.task.AckEarly {
		return false, nil
	}
	for wait, steal := saysAlive, false; ; wait, steal = time.Second, true {
		taken, err := j.begin(waits, steal)
		switch {
		case err != nil:
			return false, err
		case taken && j.overtaken(j.past, j.since):
			return true, j.concludeOther(jobs, j.since)
		case taken:
			return false, nil
		}
		if err := j.holdFor(waits, wait); err != nil {
			return false, err
		}
		if done, err := j.endedBefore(jobs, waits); done || err != nil {
			return done, err
		}
	}
}

// hasRun reports whether the job has its id already.
func (j *job) hasRun() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.run != ""
}

// begin takes the id of the job for its run, and notes what is on record. With steal it takes it
// away from another run: nobody knows whether that is alive. A task that is acknowledged early
// may run twice, as in Celery.
func (j *job) begin(ctx context.Context, steal bool) (taken bool, err error) {
	if j.task.AckEarly {
		j.since, err = j.book.Look(ctx, j.req.ID)
		return true, err
	}
	run := uuid.NewString()
	if j.since, taken, err = j.book.Begin(ctx, j.req.ID, run, steal); err != nil || !taken {
		return false, err
	}
	if j.since.Ended() { // an earlier message's, as this one would have been recognised by now
		if run, err = j.book.Earlier(ctx, j.req.ID, run, j.since); err != nil {
			return false, err
		}
	}
	j.setRun(run)
	return true, nil
}

// setRun changes the name under which the job has its id, "" if it has not.
func (j *job) setRun(run string) (before string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	before, j.run = j.run, run
	return before
}

// release gives the id of the job back, after a verdict or without one. That of a job that has
// failed or was revoked stays marked: a message that comes again must be told from another one
// with the same id. A lease that stays by mistake runs out.
func (j *job) release(v verdict, acked bool) {
	run := j.setRun("")
	if run == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var err error
	if state := v.state(); state == celery.Failure || state == celery.Revoked {
		if err = j.book.Ended(ctx, j.req.ID, run); err == nil && acked {
			err = j.book.Acknowledged(ctx, j.req.ID)
		}
	} else {
		err = j.book.Release(ctx, j.req.ID, run)
	}
	if err != nil {
		j.w.log.Debug("id not released", zap.String("task_id", j.req.ID), zap.Error(err))
	}
}
