package violence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// trialLimit is what jobs of a trial may take at most that nothing holds up.
const trialLimit = 10 * time.Second

// trials do single kinds of violence to workers that have nothing else to bear, so that
// it is exact what is to become of each job. They need that all is settled.
func (r *run) trials(ctx context.Context) error {
	for _, trial := range []func(context.Context) error{r.tryStuck, r.tryBrief, r.tryLate, r.tryDeadly} {
		if err := trial(ctx); err != nil {
			return err
		}
	}
	return nil
}

// try publishes jobs of these kinds and returns their tasks.
func (r *run) try(ctx context.Context, order []kind) ([]*task, error) {
	before := len(r.ledger.tasks())
	err := publishJobs(ctx, r.ledger, r.producer, r.factory, order)
	return r.ledger.tasks()[before:], err
}

// reconnect cuts the connections of all workers to the broker.
func (r *run) reconnect() error {
	for _, w := range r.crew.slots {
		defer w.touching()()
		w.broker.Cut()
		if err := w.broker.Mend(); err != nil {
			return err
		}
		r.tally.did(actCutBroker)
	}
	return nil
}

// tryStuck has callbacks to a destination that has no majority, beside next steps that
// can never be published and others that can: only the callbacks wait. The workers'
// channels have never published to that destination, and have to other queues: RabbitMQ
// does nothing more for a channel whose first message to a quorum queue meets no majority.
func (r *run) tryStuck(ctx context.Context) error {
	if err := r.servers.suspendQueue(ctx); err != nil {
		return err
	}
	r.tally.did(actStuck)
	err := r.reconnect()
	var tried []*task
	if err == nil {
		// Retries and next steps are published. The answers between the refusals keep the endpoint from being closed.
		tried, err = r.try(ctx, slices.Repeat([]kind{busy, chain, chain}, 2*r.cfg.Workers))
	}
	if err == nil {
		r.untilEnded(ctx, tried, "connected anew", func(*task) bool { return true })
		tried, err = r.try(ctx, slices.Repeat([]kind{linked, plain, unsayable, plain, chain}, 6))
	}
	if err == nil {
		r.untilEnded(ctx, tried, "while a destination has no majority", func(t *task) bool { return t.kind != linked })
	}
	for _, t := range tried {
		if t.kind == linked && r.ledger.hasEnded(t) {
			r.taskFault(t, "trial", "it ended although its callback was not confirmed")
		}
	}
	if err = errors.Join(err, r.servers.resumeQueue(ctx)); err != nil {
		return err
	}
	r.untilEnded(ctx, tried, "when it has one again", func(*task) bool { return true })
	for _, t := range tried {
		if n := len(r.servers.host.fetchesOf(t.picture)); t.kind == unsayable && t.after == nil && n != 1 {
			r.taskFault(t, "trial", fmt.Sprintf("begun %d times, want once: nothing kept it from its end", n))
		}
	}
	return nil
}

// tryBrief cuts the connections of workers that run jobs whose messages are older than
// their queue keeps them: the broker lets these run out, and the runs go on.
func (r *run) tryBrief(ctx context.Context) error {
	tried, err := r.try(ctx, slices.Repeat([]kind{brief}, 2*r.cfg.Workers))
	if err == nil {
		err = pause(ctx, briefTTL+300*time.Millisecond)
	}
	if err == nil {
		err = r.reconnect()
	}
	if err != nil {
		return err
	}
	r.untilEnded(ctx, tried, "run out under work", func(*task) bool { return true })
	for _, t := range tried {
		t.alone = true
	}
	return nil
}

// tryLate has jobs that take longer than the broker waits for their acknowledgement: who
// gets them then waits for their end, and nothing is asked twice.
func (r *run) tryLate(ctx context.Context) error {
	tried, err := r.try(ctx, slices.Repeat([]kind{slow}, r.cfg.Workers))
	if err != nil {
		return err
	}
	r.untilEnded(ctx, tried, "taken back by the broker", func(*task) bool { return true })
	for _, t := range tried {
		if calls := r.servers.host.callsOf(t.picture); len(calls) != 1 {
			r.taskFault(t, "trial", fmt.Sprintf("%d calls of the model, want 1%s", len(calls), r.visits(calls)))
		}
		t.alone = true
	}
	return nil
}

// tryDeadly has a job that kills its workers, beside others.
func (r *run) tryDeadly(ctx context.Context) error {
	tried, err := r.try(ctx, append([]kind{deadly}, slices.Repeat([]kind{plain}, 10)...))
	if err != nil {
		return err
	}
	r.untilEndedWithin(ctx, tried, "killing their workers", (maxCrashes+2)*trialLimit/2, func(*task) bool { return true })
	for _, t := range tried {
		died, _ := r.deaths(t)
		if t.kind == deadly && died != maxCrashes {
			r.taskFault(t, "trial", fmt.Sprintf("%d workers died of it, want %d", died, maxCrashes))
		}
		t.alone = t.kind != deadly
	}
	return nil
}

func (r *run) untilEnded(ctx context.Context, tried []*task, when string, counts func(*task) bool) {
	r.untilEndedWithin(ctx, tried, when, trialLimit, counts)
}

// untilEndedWithin waits until those tasks have ended that count.
func (r *run) untilEndedWithin(ctx context.Context, tried []*task, when string, limit time.Duration, counts func(*task) bool) {
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
		if time.Since(began) > limit {
			r.tally.fault("trial: %s, %d tasks have not ended within %v that nothing holds up", when, open, limit)
			return
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return
		}
	}
}
