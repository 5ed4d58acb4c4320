package main

import (
	"context"
	"slices"
	"time"

	"onceover/celery"
	"onceover/progress"
	"onceover/results"
)

// pollEvery is how often the commands look at a job.
const pollEvery = 100 * time.Millisecond

// follower watches jobs through the same keys that clients read.
type follower struct {
	results  *results.Store
	progress *progress.Store
	every    time.Duration
}

// finished waits until the task has a final state and its progress says so,
// showing each change of the progress. It returns why ctx ended, if it did.
func (f follower) finished(ctx context.Context, taskID, jobID string, show func(progress.Update)) (*celery.Meta, error) {
	var done *celery.Meta
	err := f.changes(ctx, jobID, func(u *progress.Update) (bool, error) {
		if u != nil {
			show(*u)
		}
		if done == nil {
			m, err := f.results.Load(ctx, taskID)
			if err != nil {
				return false, err
			}
			if m != nil && m.Status.Final() {
				done = m
			}
		}
		// The progress ends right after the result is stored, except that of a
		// message that was refused: it has none.
		return done != nil && (u != nil && u.Over() || refused(done)), nil
	})
	return done, err
}

// refusals are the exceptions of messages that were refused, see worker.refusal.
var refusals = []string{"NotRegistered", "ContentDisallowed", "DecodeError", "NotImplementedError"}

// refused reports whether the task never ran, so that it has no progress.
func refused(m *celery.Meta) bool {
	if m.Status != celery.Failure {
		return false
	}
	exc, err := m.Exception()
	return err == nil && slices.Contains(refusals, exc.Type)
}

// changes calls each with the job's progress (nil while there is none) until it
// says to stop; only changed updates are passed twice.
func (f follower) changes(ctx context.Context, jobID string, each func(*progress.Update) (stop bool, err error)) error {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for {
		u, err := f.progress.Load(ctx, jobID)
		if err != nil {
			return err
		}
		if stop, err := each(u); stop || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
