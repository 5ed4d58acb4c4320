package worker

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"onceover/celery"
)

// claim takes the id of the job for its run, and notes what is on record. A run of another message
// with the id, or of an earlier delivery, is waited for, outside of the slots: its end is this
// job's. done says that the job is concluded.
//
// A redelivered job takes the id from a run that does not say that it is alive. A task that is
// acknowledged early may run twice, as in Celery.
func (j *job) claim(jobs, waits context.Context) (done bool, err error) {
	return j.claimAs(jobs, waits, "")
}

// claimAs is claim. kind is notRun for a job that is to end without a run.
func (j *job) claimAs(jobs, waits context.Context, kind string) (done bool, err error) {
	if j.task.AckEarly {
		j.since, err = j.book.Look(waits, j.req.ID)
		return false, err
	}
	if j.name == "" {
		j.name = uuid.NewString()
	}
	for from, met := "", ""; ; {
		if done, err := j.endedBefore(jobs, waits); done || err != nil {
			return done, err
		}
		earlier := celery.AnyEnd
		if j.looked {
			earlier = j.past.Digest() // any other end is this message's
		}
		now, holder, err := j.book.Begin(waits, j.req.ID, kind+j.name, from, earlier)
		if err != nil {
			return false, err
		}
		if strings.Contains(holder, j.name) {
			return j.claimed(jobs, holder, now)
		}
		j.meets(holder, now)
		wait := j.nextLook()
		if j.mayTakeFrom(holder) {
			if wait = time.Second; holder != from {
				wait = saysAlive
			}
			from = holder
		} else if holder != met {
			// This delivery may come again, and must not be taken for one of that run then.
			from = ""
			met = holder
			if err := j.sayHolds(waits, holder); err != nil {
				return false, err
			}
		}
		if err := j.holdFor(waits, wait); err != nil {
			return false, err
		}
	}
}

// sayHolds says that the holder of the id is at work on another message. It is still said when the wait
// ends, as the delivery may come again then.
func (j *job) sayHolds(waits context.Context, holder string) error {
	ctx, done := lingering(waits, lastWrites)
	defer done()
	_, err := j.book.Alive(ctx, j.req.ID, holder)
	return err
}

// claimed notes that the job has its id.
func (j *job) claimed(jobs context.Context, run string, now celery.Stored) (done bool, err error) {
	j.setRun(run)
	j.had = true
	if j.looked && j.overtaken(j.past, now) || j.isNone(now) {
		return true, j.concludeOther(jobs, now)
	}
	j.since = now
	return false, nil
}

// isNone reports whether the FAILURE on record is that of whoever published this very message, because the broker did not confirm it: the
// attempt before, the task that this one replaces, or the step of a chain or the chord before it.
func (j *job) isNone(now celery.Stored) bool {
	m := now.Meta
	return m != nil && m.Status == celery.Failure && m.Unconfirmed != "" && m.Unconfirmed == j.message.Own.From
}

// mayTakeFrom reports whether the holder of the id may be the run of an earlier delivery of this very
// message, which has died: the first that a redelivery meets, unless it has had the id itself. A dead
// letter that comes again does so from its own queue, in which nobody runs it.
func (j *job) mayTakeFrom(holder string) bool {
	return j.delivery.Redelivered && j.death == nil && !j.had && j.first == nameOf(holder)
}

// nameOf is the name of the run that a lease is of, whether that says that it is alive or not.
func nameOf(holder string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(holder, "alive "), " ")
	return name
}

// meets notes that another run has the id. If that has recorded its end already, the message came
// after the end, and is another one, as of a producer that sends a failed job again; else it was
// published twice.
func (j *job) meets(holder string, now celery.Stored) {
	if j.first == "" {
		j.first = nameOf(holder)
	}
	switch {
	case j.delivery.Redelivered || j.seen:
	case now.Ended():
		j.message.Own.Since = now.Digest()
	default:
		j.twice = true
	}
	j.seen = true
	j.look(now)
}

// goesRound notes what was on record when a run of the job began that has given the id back: it is not
// the job's own end. Another message with the id may have its end before the next run begins.
func (j *job) goesRound() {
	if j.task.AckEarly {
		return
	}
	if digest := j.since.Digest(); digest != "" {
		j.message.Own.Since = digest
	}
	j.seen = true
	j.look(j.since)
}

// look notes what was on record when the job was first looked up: an end that is there later and
// is not in this is the job's own.
func (j *job) look(now celery.Stored) {
	if !j.looked {
		j.looked, j.past = true, now
	}
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
	if over || j.wentOn(now) || j.looked && j.overtaken(j.past, now) {
		return true, j.concludeOther(jobs, now)
	}
	j.look(now)
	return false, nil
}

// wentOn reports whether the attempt of the job has been retried, or a later one has begun. What was on
// record when the job had its id is not that.
func (j *job) wentOn(now celery.Stored) bool {
	switch {
	case now.Meta == nil, j.had && now.Raw == j.since.Raw:
		return false
	case now.Meta.Status == celery.Retried:
		return now.Meta.Attempt() >= j.req.Attempt()
	default:
		return now.Meta.Status == celery.Started && now.Meta.Attempt() > j.req.Attempt()
	}
}

// endedSince concludes a job that has its id, and has ended in another run all the same: one that
// had lost the id.
func (j *job) endedSince(jobs, waits context.Context) (done bool, err error) {
	if !j.seen {
		return false, nil
	}
	now, err := j.book.Look(waits, j.req.ID)
	if err != nil || !j.overtaken(j.since, now) {
		return false, err
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

// hasRun reports whether the job has its id already.
func (j *job) hasRun() bool { return j.runName() != "" }

// runName is the name under which the job has its id, "" if it has not.
func (j *job) runName() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.run
}

// notRun begins the name under which a job has its id that is to end without a run.
const notRun = "end-"

// setRun changes the name under which the job has its id, "" if it has not. Its lease is renewed
// while it has.
func (j *job) setRun(run string) (before string) {
	if run != "" {
		j.w.leased.add(j)
	} else {
		j.w.leased.remove(j)
	}
	return j.rename(&j.run, run)
}

// rename sets a name that j.mu guards, and returns the one before.
func (j *job) rename(field *string, name string) (before string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	before, *field = *field, name
	return before
}

// release gives the id of the job back, after a verdict or without one. That of a job that has
// failed or was revoked stays marked: a message that comes again must be told from another one
// with the same id. A lease that stays by mistake runs out.
func (j *job) release(v *verdict, acked bool) {
	run := j.setRun("")
	failed := v.state() == celery.Failure || v.state() == celery.Revoked
	own := run != "" || v.outcome == outcomeDuplicate && j.delivery.Redelivered // else the end may be of another message
	if run == "" && !(failed && acked && own) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var err error
	switch {
	case run != "" && failed:
		err = j.book.Ended(ctx, j.req.ID, run)
	case run != "":
		err = j.book.Release(ctx, j.req.ID, run)
	}
	if err == nil {
		j.name = "" // else the next run has the lease of this one
	}
	if err == nil && failed && acked {
		err = j.book.Acknowledged(ctx, j.req.ID)
	}
	if err != nil {
		j.w.log.Debug("id not released", zap.String("task_id", j.req.ID), zap.Error(err))
	}
}
