package violence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"

	"onceover/celery"
	"onceover/failed"
	"onceover/rabbit"
)

// settle waits until nothing moves any more, for as long as the limit. It returns
// what still moved, "" if all is quiet.
func (r *run) settle(ctx context.Context, limit time.Duration) (moving string) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began, told := time.Now(), time.Time{}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		what, err := r.moving(ctx)
		if err != nil && ctx.Err() == nil {
			what = err.Error()
		}
		if what == "" && err == nil {
			r.tally.say("settled after %.1fs", time.Since(began).Seconds())
			return ""
		}
		if what != "" {
			moving = what
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			r.tally.say("waiting: %s", what)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return moving
		}
	}
}

// moving says what has not come to rest, "" if all has.
func (r *run) moving(ctx context.Context) (string, error) {
	if n, _ := r.ledger.openCount(); n > 0 {
		return fmt.Sprintf("%d tasks without a final state", n), nil
	}
	queues, err := r.servers.inspector.Queues()
	if err != nil {
		return "", fmt.Errorf("list the queues of asynq: %w", err)
	}
	for _, q := range queues {
		info, err := r.servers.inspector.GetQueueInfo(q)
		if err != nil {
			return "", fmt.Errorf("look at queue %s of asynq: %w", q, err)
		}
		n := info.Pending + info.Active + info.Retry + info.Scheduled
		if q == failed.QueueDelay {
			n += info.Archived // none must ever be
		} else if r.cfg.Short {
			n -= info.Active // may be a dead worker's, see run.held
		}
		if n > 0 && q != failed.QueueUpkeep {
			return fmt.Sprintf("%d tasks in asynq's %s (%d pending, %d active, %d to be retried, %d scheduled, %d archived)",
				n, q, info.Pending, info.Active, info.Retry, info.Scheduled, info.Archived), nil
		}
	}
	out, err := r.servers.rabbit.Control(ctx, "list_queues", "name", "messages", "--no-table-headers")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		name, count, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if n, _ := strconv.Atoi(count); n > 0 && strings.HasPrefix(name, "q.") {
			return fmt.Sprintf("%d messages in %s", n, name), nil
		}
	}
	return "", nil
}

// aside are the reasons for which a job may be kept that would have succeeded: it
// waited too long, or too many processes died of it.
var aside = []celery.Reason{rabbit.Expired, failed.ReasonPoison, rabbit.MaxLength, rabbit.DeliveryLimit}

// records returns all records, by the id of their jobs.
func (r *run) records(ctx context.Context) (map[string][]failed.Entry, error) {
	out := map[string][]failed.Entry{}
	err := r.servers.failed.Each(ctx, failed.Filter{}, func(e failed.Entry) bool {
		out[e.ID] = append(out[e.ID], e)
		return true
	})
	return out, err
}

// account compares every task with what is to have become of it. After the replay
// all are to have succeeded, and no record is left.
func (r *run) account(ctx context.Context, replayed bool) error {
	all := r.ledger.tasks()
	ids := make([]string, len(all))
	for i, t := range all {
		ids[i] = t.id
	}
	states, err := r.servers.results.States(ctx, ids)
	if err != nil {
		return fmt.Errorf("read the states: %w", err)
	}
	records, err := r.records(ctx)
	if err != nil {
		return fmt.Errorf("read the records: %w", err)
	}
	when := "before the replay"
	if replayed {
		when = "after the replay"
	}
	setAside := map[*task]bool{}
	for i, t := range all {
		t.state = states[i]
		row := &r.report.Kinds[t.kind]
		kept := records[t.id]
		delete(records, t.id)
		fault := func(format string, args ...any) {
			r.taskFault(t, when, fmt.Sprintf(format, args...))
		}
		if replayed {
			switch {
			case !final(t.state):
				row.Lost++
				fault("lost: its state is %q, and it has %d records", t.state, len(kept))
			case r.isHeld(t) && t.state != celery.Success && len(kept) == t.records:
				r.report.Held += len(kept)
			case t.state != celery.Success || len(kept) > 0:
				row.Wrong++
				fault("state %q with %d records, want SUCCESS and none", t.state, len(kept))
			default:
				row.Mended++
			}
			continue
		}
		row.Tasks++
		odd := slices.IndexFunc(kept, func(e failed.Entry) bool { return slices.Contains(aside, e.Reason) })
		switch {
		case !final(t.state):
			row.Lost++
			fault("lost: its state is %q, and it has %d records", t.state, len(kept))
		case odd >= 0 && len(kept) == 1 && t.state != celery.Success:
			setAside[t] = true
			row.Aside++
			r.report.aside[string(kept[odd].Reason)]++
		case t.after != nil && setAside[t.after] && t.state == celery.Failure && len(kept) == 0:
			row.Aside++ // with the step before it
		case t.state != t.want:
			row.Wrong++
			fault("state %s with %d records, want %s", t.state, len(kept), t.want)
		case len(kept) != t.records:
			row.Wrong++
			fault("state %s with %d records, want %d", t.state, len(kept), t.records)
		case t.state == celery.Success:
			row.Succeeded++
			r.checkProgress(ctx, t, fault)
		default:
			row.Failed++
		}
	}
	for id, kept := range records {
		r.tally.fault("%s: %d records of %q, which was never published", when, len(kept), id)
	}
	return nil
}

// checkProgress wants 100 in DB2.
func (r *run) checkProgress(ctx context.Context, t *task, fault func(string, ...any)) {
	u, err := r.servers.progress.Load(ctx, t.id)
	switch {
	case err != nil:
		fault("%v", err)
	case u == nil || u.Progress != 100:
		fault("it succeeded, and its progress is %+v", u)
	}
}

// mostEvidence is for how many tasks the log is searched.
const mostEvidence = 8

// taskFault is a fault with what the workers logged of the task.
func (r *run) taskFault(t *task, when, what string) {
	r.evidence++
	text := fmt.Sprintf("%s: task %s (%s, picture %d): %s", when, t.id, t.kind, t.picture, what)
	if r.evidence <= mostEvidence {
		text += r.logged(t.id)
	}
	r.tally.fault("%s", text)
}

// logged returns the log lines that name the id.
func (r *run) logged(id string) string {
	names, err := filepath.Glob(filepath.Join(r.cfg.Dir, "log", "*.log"))
	if err != nil {
		return ""
	}
	var out []string
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(text) {
			if bytes.Contains(line, []byte(id)) {
				out = append(out, fmt.Sprintf("\n    %s: %.400s", strings.TrimSuffix(filepath.Base(name), ".log"), bytes.TrimSpace(line)))
			}
		}
	}
	return strings.Join(out, "")
}

// countCalls compares the calls of the model with what the jobs need.
func (r *run) countCalls() {
	for _, t := range r.ledger.tasks() {
		row := &r.report.Kinds[t.kind]
		calls := r.servers.host.callsOf(t.picture)
		row.Calls += calls
		switch {
		case calls > t.calls:
			row.Doubled += calls - t.calls
		case calls < t.calls && t.state == celery.Success:
			row.Wrong++
			r.taskFault(t, "model", fmt.Sprintf("%d calls, want %d", calls, t.calls))
		}
	}
	doubled := 0
	for _, row := range r.report.Kinds {
		doubled += row.Doubled
	}
	if n := r.servers.host.unreadable.Load(); n > 0 {
		r.tally.fault("the model was asked %d times about no picture of ours", n)
	}
	died := r.tally.count(actKill) + r.tally.count(actTerm)
	for _, p := range points {
		died += r.tally.hits(p.name)
	}
	for _, p := range replayPoints {
		died += r.tally.hits(p)
	}
	// A worker that loses the broker goes on with jobs that others get again.
	cut := r.tally.count(actCutBroker) + r.tally.count(actStallBroker) + r.tally.count(actRabbit)*r.cfg.Workers
	r.report.Doubled, r.report.Bound = doubled, (died+cut)*r.cfg.Concurrency+r.producer.again
	if doubled > r.report.Bound {
		r.tally.fault("%d doubled calls of the model, more than the bound of %d", doubled, r.report.Bound)
	}
}

// replay mends what was at fault and runs all records again, in all ways that there
// are, until none is left.
func (r *run) replay(ctx context.Context) error {
	r.servers.host.mended.Store(true)
	all := r.ledger.tasks()
	byID := map[string]*task{}
	for _, t := range all {
		byID[t.id] = t
	}
	edit := func(rec *failed.Record) error { return r.mend(rec, byID[rec.ID]) }
	entries, err := r.records(ctx)
	if err != nil {
		return err
	}
	var refs, plainRefs []failed.Ref
	for id, kept := range entries {
		for _, e := range kept {
			refs = append(refs, e.Ref)
			state, err := r.stateOf(e.Ref)
			if err != nil {
				return err
			}
			if t := byID[id]; t != nil && t.kind != unknown && t.kind != garbled && state == asynq.TaskStateArchived {
				plainRefs = append(plainRefs, e.Ref)
			}
		}
	}
	r.report.Records = len(refs)
	r.tally.say("%d records are run again", len(refs))
	if err := r.replayByCommand(ctx, plainRefs[:len(plainRefs)/3]); err != nil {
		return err
	}
	if err := r.replayByRun(ctx, plainRefs[len(plainRefs)/3:2*len(plainRefs)/3]); err != nil {
		return err
	}
	publish, err := r.producer.kept(ctx)
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, r.cfg.Settle)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := r.replayRest(limit, publish, edit)
		if err != nil && limit.Err() == nil {
			return err
		}
		if left == 0 && err == nil {
			r.ledger.reopen(all) // by now their states have been reset
			return nil
		}
		select {
		case <-tick.C:
		case <-limit.Done():
			r.tally.fault("%d records could not be run again within %v", left, r.cfg.Settle)
			return nil
		}
	}
}

// mend corrects the message of a job that could not be run as it was.
func (r *run) mend(rec *failed.Record, t *task) error {
	if t == nil {
		return nil
	}
	switch t.kind {
	case unknown:
		rec.Message.Headers["task"] = taskName
	case garbled:
		req := &celery.Request{ID: t.id, Task: taskName, Kwargs: kwargs(r.servers.host, t)}
		_, _, body, err := req.Encode()
		if err != nil {
			return err
		}
		rec.Message.Body = body
	}
	return nil
}

// stateOf is where asynq has a record, 0 if it has gone.
func (r *run) stateOf(ref failed.Ref) (asynq.TaskState, error) {
	info, err := r.servers.inspector.GetTaskInfo(ref.Queue, ref.Key)
	switch {
	case errors.Is(err, asynq.ErrTaskNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("look up record %s: %w", ref.Key, err)
	}
	return info.State, nil
}

// isHeld tells a task whose record, or that of the step before it, is with a dead
// worker.
func (r *run) isHeld(t *task) bool { return r.held[t.id] || t.after != nil && r.held[t.after.id] }

// replayRest replays what is archived, and discards what has succeeded although it
// is there: whoever replayed it died before he could forget it. It returns how many
// records were found.
func (r *run) replayRest(ctx context.Context, publish failed.Publish, edit func(*failed.Record) error) (int, error) {
	entries, err := r.records(ctx)
	if err != nil {
		return 0, err
	}
	found := 0
	clear(r.held)
	var refs []failed.Ref
	for id, kept := range entries {
		for _, e := range kept {
			state, err := r.stateOf(e.Ref)
			if err != nil {
				return found, err
			}
			if r.cfg.Short && state == asynq.TaskStateActive {
				r.held[id] = true
				continue
			}
			found++
			if state != asynq.TaskStateArchived {
				continue // on its way
			}
			states, err := r.servers.results.States(ctx, []string{id})
			if err != nil {
				return found, err
			}
			if states[0] == celery.Success {
				r.report.Left++
				if err := r.servers.failed.Discard(ctx, e.Ref); err != nil {
					return found, err
				}
				continue
			}
			if len(refs) < failed.ReplayBatch {
				refs = append(refs, e.Ref)
			}
		}
	}
	if len(refs) == 0 {
		return found, nil
	}
	outcomes, err := r.servers.failed.Replay(ctx, refs, publish, edit)
	why := map[string]int{}
	for _, o := range outcomes {
		if !o.Done && o.Why != "" {
			why[o.Why]++
		}
	}
	if len(why) > 0 && time.Since(r.told) > 10*time.Second {
		r.told = time.Now()
		r.tally.say("not replayed yet: %v", why)
	}
	return found, err
}
