package violence

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"onceover/failed"
	"onceover/internal/testenv"
	"onceover/rabbit"
)

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
