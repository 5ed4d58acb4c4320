package violence

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// What the jobs of the trial may take: those that nothing holds up, and those with a
// callback once it can be published.
const trialLimit = 10 * time.Second

// trial publishes jobs when no violence is done any more, some of them to a destination
// without a majority and some whose next step can never be published: these end at
// once, and the others are not held up. It needs that all is settled.
func (r *run) trial(ctx context.Context) error {
	if err := r.servers.suspendQueue(ctx); err != nil {
		return err
	}
	r.tally.did(actStuck)
	var order []kind
	for range 6 {
		order = append(order, linked, plain, unsayable, plain, chain)
	}
	before := len(r.ledger.tasks())
	err := publishJobs(ctx, r.ledger, r.producer, r.factory, order)
	tried := r.ledger.tasks()[before:]
	if err == nil {
		r.untilEnded(ctx, tried, "while a destination has no majority", func(t *task) bool { return t.kind != linked })
	}
	early := 0
	for _, t := range tried {
		if t.kind == linked && r.ledger.hasEnded(t) {
			early++
		}
	}
	if early > 0 {
		r.tally.fault("trial: %d jobs ended although their callback was not confirmed", early)
	}
	if resumeErr := r.servers.resumeQueue(ctx); resumeErr != nil || err != nil {
		return errors.Join(err, resumeErr)
	}
	r.untilEnded(ctx, tried, "when it has one again", func(*task) bool { return true })
	for _, t := range tried {
		if n := len(r.servers.host.fetchesOf(t.picture)); t.kind == unsayable && t.after == nil && n != 1 {
			r.taskFault(t, "trial", fmt.Sprintf("begun %d times, want once: nothing kept it from its end", n))
		}
	}
	r.tally.say("trial: %d tasks", len(tried))
	return nil
}

// untilEnded waits until those tasks have ended that count, for trialLimit at most.
func (r *run) untilEnded(ctx context.Context, tried []*task, when string, counts func(*task) bool) {
	began := time.Now()
	for {
		open := 0
		for _, t := range tried {
			if counts(t) && !r.ledger.hasEnded(t) {
				open++
			}
		}
		if open == 0 {
			r.tally.say("trial: %s, all have ended within %.1fs", when, time.Since(began).Seconds())
			return
		}
		if time.Since(began) > trialLimit {
			r.tally.fault("trial: %s, %d tasks have not ended within %v that nothing holds up", when, open, trialLimit)
			return
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return
		}
	}
}
