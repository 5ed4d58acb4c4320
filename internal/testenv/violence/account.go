package violence

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

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
	if err := r.crew.readLives(); err != nil {
		return err
	}
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
	called, err := r.servers.called(ctx)
	if err != nil {
		return fmt.Errorf("read the callbacks: %w", err)
	}
	judge := &judge{run: r, when: "before the replay", called: called, aside: map[*task]bool{}}
	if replayed {
		judge.when = "after the replay"
	}
	for i, t := range all {
		t.state = states[i]
		kept := records[t.id]
		delete(records, t.id)
		if replayed {
			judge.mended(t, kept)
		} else {
			judge.first(ctx, t, kept)
		}
	}
	for id, kept := range records {
		r.tally.fault("%s: %d records of %q, which was never published", judge.when, len(kept), id)
	}
	return nil
}

// judge compares tasks with what is to have become of them.
type judge struct {
	*run
	when   string
	called map[string]int // how often each callback was published
	aside  map[*task]bool // ended otherwise than wanted, by what the harness has done
}

func (j *judge) fault(t *task, format string, args ...any) {
	j.taskFault(t, j.when, fmt.Sprintf(format, args...))
}

// first judges a task before the replay.
func (j *judge) first(ctx context.Context, t *task, kept []failed.Entry) {
	row := &j.report.Kinds[t.kind]
	row.Tasks++
	wrong := func(format string, args ...any) {
		row.Wrong++
		j.fault(t, format, args...)
	}
	var reason celery.Reason
	if len(kept) > 0 {
		reason = kept[0].Reason
	}
	switch {
	case !final(t.state):
		row.Lost++
		j.fault(t, "lost: its state is %q, and it has %d records", t.state, len(kept))
	case t.kind == deadly && t.state == celery.Failure && len(kept) == 1:
		j.deadly(t, reason, wrong)
	case len(kept) == 1 && t.state != celery.Success && asideReasons[reason]:
		why := j.excuse(t, reason)
		if why == "" {
			wrong("%s", j.unexcused(t, reason))
			return
		}
		j.setAside(t, string(reason)+": "+why)
	case j.mayGoUnconfirmed(t) && t.state == celery.Failure && len(kept) == 1 && kept[0].Error == "OperationalError":
		j.setAside(t, "its callback was not confirmed in time")
	case t.after != nil && j.aside[t.after] && t.state == celery.Failure && len(kept) == 0:
		row.Aside++ // with the step before it
	case t.state != t.want:
		wrong("state %s with %d records, want %s", t.state, len(kept), t.want)
	case len(kept) != t.records:
		wrong("state %s with %d records, want %d", t.state, len(kept), t.records)
	case t.kind == unsayable && t.records > 0 && kept[0].Error != "OperationalError":
		wrong("it failed with %s: %s, want OperationalError", kept[0].Error, kept[0].Text)
	case t.state == celery.Success:
		j.success(ctx, t, wrong)
	default:
		row.Failed++
	}
}

// asideReasons are those for which a job may be kept that would have succeeded.
var asideReasons = map[celery.Reason]bool{rabbit.Expired: true, failed.ReasonPoison: true, rabbit.MaxLength: true, rabbit.DeliveryLimit: true}

func (j *judge) setAside(t *task, why string) {
	j.aside[t] = true
	j.report.Kinds[t.kind].Aside++
	reason, _, _ := strings.Cut(why, ":")
	j.report.aside[reason]++
	j.tally.say("task %s (%s) set aside as %s", t.id, t.kind, why)
}

// deadly judges a job that kills its workers.
func (j *judge) deadly(t *task, reason celery.Reason, wrong func(string, ...any)) {
	died, _ := j.deaths(t)
	switch {
	case reason != failed.ReasonPoison && j.excuse(t, reason) == "":
		wrong("%s, want poison", j.unexcused(t, reason))
	case died > maxCrashes:
		wrong("%d processes died of it, want %d", died, maxCrashes)
	default:
		j.report.Kinds[t.kind].Failed++
	}
}

// success judges a task that has succeeded, as it was to.
func (j *judge) success(ctx context.Context, t *task, wrong func(string, ...any)) {
	if t.next != "" && j.called[t.next] == 0 {
		wrong("it succeeded, and its callback was never published")
		return
	}
	j.report.Kinds[t.kind].Succeeded++
	j.checkProgress(ctx, t, func(format string, args ...any) { j.fault(t, format, args...) })
}

// mended judges a task after the replay.
func (j *judge) mended(t *task, kept []failed.Entry) {
	row := &j.report.Kinds[t.kind]
	switch {
	case !final(t.state):
		row.Lost++
		j.fault(t, "lost: its state is %q, and it has %d records", t.state, len(kept))
	case t.state != celery.Success || len(kept) > 0:
		row.Wrong++
		j.fault(t, "state %q with %d records, want SUCCESS and none", t.state, len(kept))
	case t.next != "" && j.called[t.next] == 0:
		row.Wrong++
		j.fault(t, "it succeeded, and its callback was never published")
	default:
		row.Mended++
	}
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
