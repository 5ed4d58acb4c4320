package failed

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"onceover/rabbit"
)

// seen is what of asynq's lines an operator sees, and what is for debugging.
func seen(logs *observer.ObservedLogs) (shown, debug []observer.LoggedEntry) {
	for _, l := range logs.All() {
		if l.Level == zapcore.DebugLevel {
			debug = append(debug, l)
		} else {
			shown = append(shown, l)
		}
	}
	return shown, debug
}

// logged runs a store whose log is kept, with a parked job, so that asynq serves.
func (b *bundle) logged() *observer.ObservedLogs {
	b.t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	store := New(Config{}, b.connect(5), b.results, b.marks, nil, zap.New(core))
	if err := store.Park(b.t.Context(), message(b.t, request("parked")), request("parked"), time.Now().Add(time.Hour), nil); err != nil {
		b.t.Fatal(err)
	}
	b.run(store, func(context.Context, bool, ...rabbit.Message) error { return nil })
	b.until("asynq serves", func() bool { return b.client.Exists(b.t.Context(), "asynq:servers").Val() == 1 })
	return logs
}

// TestQuietOutage stops Redis while asynq runs: an operator hears nothing of that from asynq.
func TestQuietOutage(t *testing.T) {
	b := setup(t)
	logs := b.logged()
	b.server.Stop()
	// The parts of asynq that ask at least every few seconds.
	for _, part := range []string{"Dequeue error", "Failed to forward", "Failed to write server state"} {
		b.until(part, func() bool { return logged(logs, part) > 0 })
	}
	b.until("some more", func() bool { return logged(logs, "Failed to forward") > 5 })
	b.server.Start()
	b.until("asynq serves again", func() bool {
		n := logged(logs, "Failed to forward")
		time.Sleep(1500 * time.Millisecond)
		return logged(logs, "Failed to forward") == n
	})
	shown, debug := seen(logs)
	for _, l := range shown {
		t.Errorf("an operator sees %s %q %v", l.Level, l.Message, l.ContextMap())
	}
	if len(debug) < 10 {
		t.Errorf("got %d lines to debug with, want asynq's own", len(debug))
	}
}

func logged(logs *observer.ObservedLogs, part string) int {
	return logs.Filter(func(l observer.LoggedEntry) bool {
		return strings.Contains(l.Message, part)
	}).Len()
}

// TestQuietTellsOtherFaults takes a right away while asynq runs: that is told once, whichever
// parts of asynq meet with it.
func TestQuietTellsOtherFaults(t *testing.T) {
	b := setup(t)
	logs := b.logged()
	if err := b.client.Do(t.Context(), "ACL", "SETUSER", "default", "-zrangebyscore").Err(); err != nil {
		t.Fatal(err)
	}
	b.until("asynq meets with it often", func() bool { return logs.Len() > 8 })
	shown, _ := seen(logs)
	if len(shown) != 1 || shown[0].Level != zapcore.ErrorLevel || !strings.Contains(shown[0].ContextMap()["remedy"].(string), "grant") {
		t.Errorf("got %v, want one line with a remedy", shown)
	}
}

// TestQuietReadsReplies has error replies of Redis 7, 8 and Valkey 9 in lines of asynq's.
func TestQuietReadsReplies(t *testing.T) {
	for line, want := range map[string]string{
		"Dequeue error: UNKNOWN: redis eval error: ERR The user executing the script can't run this command or subcommand script: f00, on @user_script:1.":           "ERR The user executing the script can't run this command or subcommand",
		"Dequeue error: UNKNOWN: redis eval error: ERR ACL failure in script: User default has no permissions to run the 'get' command script: on @user_script:2.":   "ERR ACL failure in script: User default has no permissions to run the 'get' command",
		"could not forward: ERR ACL failure in script: User default has no permissions to run the 'get' command script: f00, on @user_script:2.; Will retry syncing": "ERR ACL failure in script: User default has no permissions to run the 'get' command",
	} {
		if got := replyIn(line); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

func TestQuietTellsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		q := newQuiet(zap.New(core))
		wrong := "Failed to forward scheduled tasks: INTERNAL_ERROR: redis eval error: WRONGTYPE Operation against a key holding the wrong kind of value script: f00, on @user_script:1."
		same := strings.Replace(wrong, "f00", "f01", 1)
		denied := "Dequeue error: UNKNOWN: redis eval error: NOPERM this user has no permissions to run the 'rpoplpush' command"
		steps := []struct {
			write func(...any)
			line  string
			want  int // lines so far
		}{
			{q.Error, wrong, 1}, {q.Error, same, 1}, {q.Error, denied, 2}, {q.Error, wrong, 2}, {q.Error, denied, 2},
			{q.Warn, "recoverer: could not list lease expired tasks: " + denied, 2},
			{q.Error, "Dequeue error: UNKNOWN: redis eval error: LOADING Redis is loading the dataset in memory", 2},
			{q.Error, "Dequeue error: UNKNOWN: redis eval error: dial tcp 127.0.0.1:6379: connect: connection refused", 2},
			{q.Error, "Dequeue error: UNKNOWN: redis eval error: EOF", 2},
			{q.Warn, "Could not remove task id=1 type=\"x\" from \"y\" err: UNKNOWN: redis eval error: EOF; Will retry syncing", 2},
			{q.Warn, "revoke task id=1", 2},
			{q.Error, "recovering from panic. See the stack trace below for details:\nEOF at 1", 3},
			{q.Error, "recovering from panic. See the stack trace below for details:\nEOF at 1", 4},
		}
		for _, s := range steps {
			if s.write(s.line); logs.Len() != s.want {
				t.Errorf("%s: got %d lines, want %d", s.line, logs.Len(), s.want)
			}
		}
		time.Sleep(forgotten + time.Second)
		if q.Error(wrong); logs.Len() != 5 {
			t.Errorf("got %d lines, want the fault told that had gone away", logs.Len())
		}
	})
}
