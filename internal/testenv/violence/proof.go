package violence

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"onceover/celery"
	"onceover/failed"
	"onceover/rabbit"
)

// endOf is until when a task was open.
func endOf(t *task) time.Time {
	if t.ended.IsZero() {
		return time.Now()
	}
	return t.ended
}

// atWork returns the lives that have begun a task before it ended, and when each did so
// first.
func (r *run) atWork(t *task) map[*life]time.Time {
	r.crew.mu.Lock()
	defer r.crew.mu.Unlock()
	out := map[*life]time.Time{}
	for _, v := range r.servers.host.fetchesOf(t.picture) {
		l := r.crew.lives[v.life]
		if _, again := out[l]; l != nil && !again && v.at.Before(endOf(t)) {
			out[l] = v.at
		}
	}
	return out
}

// deaths counts the processes that died while they had begun the task, and the other ways
// in which the broker got it back from those that had: a lost session, a time-out. A process
// that died after that did not die of it, as it had lost it.
func (r *run) deaths(t *task) (died, returned int) {
	for l, from := range r.atWork(t) {
		lost := l.lossesWithin(from, endOf(t))
		if l.diedWithin(from, endOf(t)) && lost == 0 {
			died++
		}
		returned += lost
	}
	return died, returned
}

// losses counts how often any worker died or lost what it held while the task was open: it
// cannot have been delivered more often, but for what workers give back themselves.
func (r *run) losses(t *task) int {
	r.crew.mu.Lock()
	defer r.crew.mu.Unlock()
	n := 0
	for _, l := range r.crew.lives {
		if !l.ended.IsZero() && l.ended.After(t.published) && l.ended.Before(endOf(t)) {
			n++
		}
		n += l.lossesWithin(t.published, endOf(t))
	}
	return n
}

// stillAtWork returns a life that had begun a task and was there when it ended; nil if
// there is none.
func (r *run) stillAtWork(t *task) *life {
	for l := range r.atWork(t) {
		if l.ended.IsZero() || l.ended.After(endOf(t)) {
			return l
		}
	}
	return nil
}

// excuse says why a job that would have succeeded may end for another reason: it is
// proven that the harness has made it so. "" means that it may not.
func (r *run) excuse(t *task, reason celery.Reason) string {
	if t.alone {
		return ""
	}
	died, _ := r.deaths(t)
	switch {
	case reason == failed.ReasonPoison && died >= maxCrashes-1: // the first delivery is not counted
		return fmt.Sprintf("%d processes died of it", died)
	case reason == rabbit.DeliveryLimit && r.limit > 0 && r.losses(t) > r.limit:
		return fmt.Sprintf("%d processes died of it, and all workers lost what they held %d times while it was open", died, r.losses(t))
	case reason == rabbit.Expired && t.kind == brief && endOf(t).Sub(t.published) > briefTTL && r.stillAtWork(t) == nil:
		return "it waited too long, or who ran it died"
	}
	return ""
}

// unexcused describes an end that is not excused.
func (r *run) unexcused(t *task, reason celery.Reason) string {
	died, returned := r.deaths(t)
	text := fmt.Sprintf("kept as %s, which was no fault of its own: %d processes died while it ran, and %d times they lost it otherwise; it was open for %.1fs",
		reason, died, returned, endOf(t).Sub(t.published).Seconds())
	if l := r.stillAtWork(t); l != nil {
		text += "; worker " + l.name + " had begun it and was there at its end"
	}
	return text
}

// mayGoUnconfirmed reports whether a worker may have given up to publish the task's
// callback.
func (r *run) mayGoUnconfirmed(t *task) bool {
	return t.kind == linked && r.servers.silence.longest(t.published, endOf(t)) >= confirmLimit
}

// confirmLimit is how long a worker waits for the confirm of a callback.
const confirmLimit = 30 * time.Second

// countCalls compares the calls of the model with what the jobs need. A call may be made
// once more if it was in flight when its worker died or lost it.
func (r *run) countCalls() {
	for _, t := range r.ledger.tasks() {
		row := &r.report.Kinds[t.kind]
		calls := r.servers.host.callsOf(t.picture)
		row.Calls += len(calls)
		inFlight := r.inFlight(t, calls)
		r.report.Bound += inFlight
		doubled := len(calls) - t.calls
		switch {
		case doubled > 0:
			row.Doubled += doubled
			r.report.Doubled += doubled
		case doubled < 0 && t.state == celery.Success:
			row.Wrong++
			r.taskFault(t, "model", fmt.Sprintf("%d calls, want %d", len(calls), t.calls))
		}
		if doubled > inFlight {
			r.taskFault(t, "model", fmt.Sprintf("%d calls, want %d and one more for each of %d that were in flight at a death or a loss%s",
				len(calls), t.calls, inFlight, r.visits(calls)))
		}
	}
	if n := r.servers.host.unreadable.Load(); n > 0 {
		r.tally.fault("the model was asked %d times about no picture of ours", n)
	}
}

// inFlight counts the calls for a task that were the last ones when their worker died or
// lost the job.
func (r *run) inFlight(t *task, calls []visit) int {
	n := 0
	for i, c := range calls {
		until := endOf(t)
		if i+1 < len(calls) {
			until = calls[i+1].at
		}
		r.crew.mu.Lock()
		l := r.crew.lives[c.life]
		r.crew.mu.Unlock()
		if l != nil && (l.diedWithin(c.at, until) || l.lossesWithin(c.at, until) > 0) {
			n++
		}
	}
	return n
}

// visits lists who called the model, and how their lives went on.
func (r *run) visits(calls []visit) (text string) {
	for _, c := range calls {
		r.crew.mu.Lock()
		l := r.crew.lives[c.life]
		r.crew.mu.Unlock()
		text += fmt.Sprintf("\n    call of %s at %s", c.life, clock(c.at))
		if l != nil && !l.ended.IsZero() {
			text += fmt.Sprintf(", whose life ended at %s (killed: %v)", clock(l.ended), l.killed)
		}
	}
	return text
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// countLosses counts how often the broker ended a consumer. A session that is lost although
// nobody has touched it is a fault, and so is a job that a worker returns again and again.
func (r *run) countLosses() {
	for _, name := range slices.Sorted(maps.Keys(r.crew.lives)) {
		l := r.crew.lives[name]
		r.tally.add(actLate, len(l.late))
		r.tally.add(actLateSession, len(l.torn))
		untouched := 0
		for _, at := range l.lost {
			if !l.slot.wasTouched(at) {
				untouched++
			}
		}
		if untouched > 0 {
			r.tally.fault("worker %s lost the broker %d times though nobody had touched its connection", l.name, untouched)
		}
		for id, n := range l.givenUp {
			if n > 1 {
				r.tally.fault("worker %s gave task %s back to its queue %d times, which uses up its delivery limit", l.name, id, n)
			}
		}
	}
}
