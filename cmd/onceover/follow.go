package main

import (
	"context"
	"slices"
	"sync"

	"onceover/celery"
	"onceover/progress"
	"onceover/results"
)

// finished waits until the task has a final state and its progress says so, showing each update of that. It returns why ctx ended, if it did.
func finished(ctx context.Context, rs *results.Store, ps *progress.Store, taskID, jobID string, show func(progress.Update)) (*celery.Meta, error) {
	updates, stop := context.WithCancel(ctx)
	defer stop()
	var showing sync.WaitGroup
	var fault error
	showing.Go(func() {
		fault = eachUpdate(updates, ps, jobID, func(u progress.Update) error {
			show(u)
			return nil
		})
	})
	m, err := rs.Await(ctx, taskID)
	if err == nil && !refused(m) {
		// The progress ends right after the result is stored, except that of a message that was refused: it has none.
		showing.Wait()
		return m, fault
	}
	stop()
	showing.Wait()
	return m, err
}

// eachUpdate calls show with each update of a job, the newest one first, until the job is over or ctx ends.
func eachUpdate(ctx context.Context, ps *progress.Store, jobID string, show func(progress.Update) error) error {
	feed := progress.NewFeed(ps)
	feedCtx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { feed.Run(feedCtx) })
	defer running.Wait()
	defer stop()
	listener := feed.Listen(jobID, "")
	defer listener.Close()
	for {
		events, err := listener.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := show(e.Update); err != nil || e.Over() {
				return err
			}
		}
	}
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
