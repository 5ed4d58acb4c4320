package violence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hibiken/asynq"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/testenv"
	"onceover/rabbit"
)

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
			if t := byID[id]; t != nil && !t.kind.spoilt() && state == asynq.TaskStateArchived {
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
	req := &celery.Request{ID: t.id, Task: taskName, Kwargs: kwargs(r.servers.host, t)}
	switch t.kind {
	case unknown:
		rec.Message.Headers["task"] = taskName
		return nil
	case garbled:
	case unsayable:
		if n := r.ledger.after(t); n != nil {
			req.Chain = celery.Signatures{step(r.servers.host, n)}
		}
	default:
		return nil
	}
	_, _, body, err := req.Encode()
	if err == nil {
		rec.Message.Body = body
	}
	return err
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

// kept returns what publishes kept messages, over the producer's connection.
func (p *producer) kept(ctx context.Context) (failed.Publish, error) {
	if p.conn == nil || p.conn.IsClosed() {
		if err := p.connect(ctx); err != nil {
			return nil, err
		}
	}
	s := &rabbit.Sender{Conn: p.conn, Waiting: func(*rabbit.FullError) {}, Idle: func(string, time.Duration) {}}
	return func(ctx context.Context, _ bool, messages ...rabbit.Message) error { return s.Send(ctx, messages...) }, nil
}

// replayByCommand has "onceover failed replay" replay records, and be killed at each
// of its points. In a short run it is not killed.
func (r *run) replayByCommand(ctx context.Context, refs []failed.Ref) error {
	stops := append([]string{}, commandPoints...)
	if r.cfg.Short {
		stops = []string{"replay-before-delete"} // leaves nothing to wait for
	}
	stops = append(stops, "")
	for i, stop := range stops {
		part := refs[i*len(refs)/len(stops) : (i+1)*len(refs)/len(stops)]
		if len(part) == 0 {
			continue
		}
		args := []string{"failed", "replay"}
		for _, ref := range part {
			id, _, _ := strings.Cut(ref.Key, ":")
			args = append(args, id)
		}
		cmd := exec.Command(r.servers.program, args...)
		s := r.servers
		cmd.Env = s.environment(s.rabbit.Addr(), s.redis.Addr(), s.keeper.Addr())
		if stop != "" {
			cmd.Env = append(cmd.Env, crashVariable+"="+stop)
		}
		log := filepath.Join(r.cfg.Dir, "log", fmt.Sprintf("replay%d.log", i))
		proc, err := testenv.OpenProgram(cmd, log)
		if err != nil {
			return err
		}
		select {
		case <-proc.Ended():
		case <-time.After(time.Minute):
			r.tally.fault("onceover failed replay did not end within a minute")
			proc.Kill()
		case <-ctx.Done():
			proc.Kill()
			return context.Cause(ctx)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		switch {
		case stop != "" && bytes.Contains(text, []byte("crash point "+stop+"\n")):
			r.tally.hit(stop)
			r.tally.did(actReplayKilled)
			r.tally.say("onceover failed replay of %d records died at %s", len(part), stop)
		case stop != "" || proc.Err() != nil:
			r.tally.fault("onceover failed replay with crash point %q ended with %v:\n%.2000s", stop, proc.Err(), text)
		default:
			r.tally.say("onceover failed replay of %d records: %s", len(part), bytes.TrimSpace(text))
		}
	}
	return nil
}

// replayByRun replays records as the Run button of Asynqmon does. In a long run two
// workers are killed meanwhile.
func (r *run) replayByRun(ctx context.Context, refs []failed.Ref) error {
	if !r.cfg.Short {
		var armed []string
		for _, p := range replayPoints {
			armed = append(armed, p+":3")
		}
		r.crew.arm(armed)
		for _, w := range r.crew.slots[:min(len(armed), len(r.crew.slots))] {
			select {
			case <-w.changed:
			default:
			}
			r.tally.did(actTerm)
			w.end("SIGTERM", syscall.SIGTERM)
			select {
			case <-w.changed:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	for _, ref := range refs {
		if err := r.servers.inspector.RunTask(ref.Queue, ref.Key); err != nil {
			return fmt.Errorf("run record %s: %w", ref.Key, err)
		}
	}
	r.tally.say("%d records run as Asynqmon does", len(refs))
	return nil
}
