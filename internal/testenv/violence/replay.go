package violence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/testenv"
	"onceover/rabbit"
)

// replay mends what was at fault and replays all records, by the command and by the
// package, until none is left.
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
	var plain []failed.Key
	for id, kept := range entries {
		r.report.Records += len(kept)
		for _, e := range kept {
			if t := byID[id]; t != nil && !t.kind.spoilt() {
				plain = append(plain, e.Key)
			}
		}
	}
	r.tally.say("%d records are run again", r.report.Records)
	if err := r.replayByCommand(ctx, plain[:len(plain)/2]); err != nil {
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

// replayRest replays records, and discards what has succeeded although it
// is there: whoever replayed it died before he could forget it. It returns how many
// records were found.
func (r *run) replayRest(ctx context.Context, publish failed.Publish, edit func(*failed.Record) error) (int, error) {
	entries, err := r.records(ctx)
	if err != nil {
		return 0, err
	}
	found := 0
	var keys []failed.Key
	for id, kept := range entries {
		for _, e := range kept {
			found++
			states, err := r.servers.results.States(ctx, []string{id})
			if err != nil {
				return found, err
			}
			if states[0] == celery.Success {
				var busy *failed.SkippedError
				switch err := r.servers.failed.Discard(ctx, e.Key); {
				case errors.As(err, &busy): // by a command that was killed: it is looked at again
				case err != nil:
					return found, err
				default:
					r.report.Left++
				}
				continue
			}
			if len(keys) < failed.ReplayBatch {
				keys = append(keys, e.Key)
			}
		}
	}
	if len(keys) == 0 {
		return found, nil
	}
	outcomes, err := r.servers.failed.Replay(ctx, keys, publish, edit)
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
func (r *run) replayByCommand(ctx context.Context, keys []failed.Key) error {
	stops := append([]string{}, commandPoints...)
	if r.cfg.Short {
		stops = []string{"replay-before-delete"} // leaves nothing to wait for
	}
	stops = append(stops, "")
	for i, stop := range stops {
		part := keys[i*len(keys)/len(stops) : (i+1)*len(keys)/len(stops)]
		if len(part) == 0 {
			continue
		}
		args := []string{"failed", "replay"}
		for _, k := range part {
			args = append(args, k.Name())
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
