package failed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"onceover/celery"
	"onceover/rabbit"
)

// TestRunReplays presses the Run button of Asynqmon.
func TestRunReplays(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	r := failure(t, "a")
	b.end("a", celery.Failure)
	b.keep(r)
	b.archived(ref("a"))
	if n := len(b.out.messages()); n != 0 {
		t.Fatalf("got %d messages published by keeping a job, want none", n)
	}
	b.runTask(ref("a"))
	b.until("the record is deleted", func() bool { return b.info(ref("a")) == nil })
	got := b.out.messages()
	if len(got) != 1 {
		t.Fatalf("got %d messages, want 1", len(got))
	}
	m := got[0]
	if m.Queue != "q.ai" || string(m.Body) != string(r.Message.Body) || m.Own.Replays != 1 || *m.Properties.Priority != 3 ||
		!m.Own.Again || m.Headers["id"] != "a" {
		t.Errorf("got message %+v", m)
	}
	if exchange, key := m.Exchange, m.RoutingKey; exchange != "tasks" || key != "ai.test" {
		t.Errorf("got route %q %q, want that of the producer", exchange, key)
	}
	if s := b.state("a"); s != "" {
		t.Errorf("got state %s after the replay, want nothing stored", s)
	}
	if all := b.entries(); len(all) != 0 {
		t.Errorf("got %v, want no record", all)
	}
}

// TestRunInVain runs a job while the broker is away: it goes back to the archive
// and says why, and can be run again.
func TestRunInVain(t *testing.T) {
	b := setup(t)
	b.out.refuse(func(rabbit.Message) error { return errAway })
	b.run(b.store, b.out.publish)
	b.keep(failure(t, "a"))
	b.archived(ref("a"))
	b.runTask(ref("a"))
	note := func() string {
		for _, e := range b.entries() {
			return e.Note
		}
		return ""
	}
	b.until("a note", func() bool { return note() != "" })
	if want := "not replayed: " + errAway.Error(); note() != want {
		t.Errorf("got note %q, want %q", note(), want)
	}
	b.archived(ref("a"))
	b.out.refuse(func(rabbit.Message) error { return rabbit.ErrNoQueue })
	b.runTask(ref("a"))
	b.until("another note", func() bool { return strings.Contains(note(), "start a worker") })
	b.archived(ref("a"))
	b.out.refuse(nil)
	b.runTask(ref("a"))
	b.until("the record is deleted", func() bool { return b.info(ref("a")) == nil })
	wantOnce(t, b.out.counts(), []string{"a"})
}

// TestRunAfterCrash runs jobs whose last error is not ours, such as after the death
// of who ran them: they are archived anew, and not published until they are run again.
func TestRunAfterCrash(t *testing.T) {
	b := setup(t)
	for _, lastErr := range []string{"asynq: task lease expired", "context deadline exceeded", "kept"} {
		r := failure(t, "a")
		b.keep(r)
		// A server of asynq that dies of the task, as far as Redis can tell.
		crashed := asynq.NewServerFromRedisClient(b.client, asynq.Config{
			Queues: map[string]int{QueueFailed: 1}, TaskCheckInterval: pollQueue, LogLevel: asynq.FatalLevel,
			Logger:         newQuiet(b.store.log),
			RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return time.Hour },
		})
		if err := crashed.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { return errors.New(lastErr) })); err != nil {
			t.Fatal(err)
		}
		b.until("an error", func() bool { return b.info(ref("a")).LastErr == lastErr })
		crashed.Shutdown()
		b.runTask(ref("a"))
		stop := b.run(b.store, b.out.publish)
		b.archived(ref("a"))
		if got := b.info(ref("a")).LastErr; got != "kept: ValueError: boom" {
			t.Errorf("after %q: got last error %q", lastErr, got)
		}
		if n := len(b.out.messages()); n != 0 {
			t.Fatalf("after %q: got %d messages published, want none", lastErr, n)
		}
		stop()
		if err := b.store.Discard(t.Context(), ref("a")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFailsAgainAtOnce runs jobs that fail again before asynq has deleted the task
// that ran them.
func TestFailsAgainAtOnce(t *testing.T) {
	b := setup(t)
	all := ids(20)
	for _, id := range all {
		b.keep(failure(t, id))
	}
	var mu sync.Mutex
	seen := map[string]int{}
	b.run(b.store, func(ctx context.Context, _ bool, messages ...rabbit.Message) error {
		for _, m := range messages {
			mu.Lock()
			seen[text(m.Headers["id"])]++
			mu.Unlock()
			if err := b.store.Keep(ctx, failedAgain(t, m)); err != nil {
				return err
			}
		}
		return nil
	})
	for generation := range 3 {
		for _, id := range all {
			r := Ref{QueueFailed, fmt.Sprintf("%s:%d", id, generation)}
			b.archived(r)
			b.runTask(r)
		}
	}
	for _, id := range all {
		b.archived(Ref{QueueFailed, id + ":3"})
	}
	if got := b.entries(); len(got) != len(all) {
		t.Errorf("got %d records, want %d", len(got), len(all))
	}
	mu.Lock()
	defer mu.Unlock()
	for _, id := range all {
		if seen[id] != 3 {
			t.Errorf("job %s was published %d times, want 3", id, seen[id])
		}
	}
}

// TestReplayFailsAgainAtOnce is the same by Replay.
func TestReplayFailsAgainAtOnce(t *testing.T) {
	b := setup(t)
	all := ids(20)
	var refs []Ref
	for _, id := range all {
		b.keep(failure(t, id))
		refs = append(refs, ref(id))
	}
	b.run(b.store, b.out.publish)
	b.archived(refs...)
	_, err := b.store.Replay(t.Context(), refs, func(ctx context.Context, _ bool, messages ...rabbit.Message) error {
		for _, m := range messages {
			if err := b.store.Keep(ctx, failedAgain(t, m)); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := b.entries()
	for _, e := range got {
		if e.Replays != 1 {
			t.Errorf("got %v with %d replays, want 1", e.Ref, e.Replays)
		}
	}
	if len(got) != len(all) {
		t.Errorf("got %d records, want %d", len(got), len(all))
	}
}

// TestReplayStates replays jobs by what is known of them.
func TestReplayStates(t *testing.T) {
	b := setup(t)
	stop := b.run(b.store, b.out.publish)
	tests := []struct {
		id     string
		change func(id string)
		why    string // "": replayed
	}{
		{"failure", func(id string) { b.end(id, celery.Failure) }, ""},
		{"revoked", func(id string) { b.end(id, celery.Revoked) }, ""},
		{"nothing", func(string) {}, ""},
		{"success", func(id string) { b.end(id, celery.Success) }, "has succeeded meanwhile"},
		{"retry", func(id string) { b.end(id, celery.Retried) }, "runs again already"},
		{"mark-success", func(id string) { b.mark(id, celery.Success) }, "has succeeded meanwhile"},
		{"mark-failure", func(id string) { b.mark(id, celery.Failure) }, ""},
		{"discarded", func(id string) {
			if err := b.store.Discard(t.Context(), ref(id)); err != nil {
				t.Fatal(err)
			}
		}, "no longer there"},
	}
	var refs []Ref
	var want []string
	for _, tt := range tests {
		b.keep(failure(t, tt.id))
		b.archived(ref(tt.id))
		tt.change(tt.id)
		refs = append(refs, ref(tt.id))
		if tt.why == "" {
			want = append(want, tt.id)
		}
	}
	// The same by the Run button; then back.
	b.runTask(ref("success"))
	b.until("a note", func() bool {
		return slices.ContainsFunc(b.entries(), func(e Entry) bool { return strings.Contains(e.Note, "has succeeded meanwhile") })
	})
	stop()
	out, err := b.store.Replay(t.Context(), append(refs, refs[0]), b.out.publish, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Of the record that is named twice, one is done.
	if out[0].Done == out[len(tests)].Done {
		t.Errorf("got %+v and %+v, want one of them done", out[0], out[len(tests)])
	} else if !out[0].Done {
		out[0] = out[len(tests)]
	}
	for i, tt := range tests {
		if o := out[i]; o.Ref != refs[i] || o.Done != (tt.why == "") || !strings.Contains(o.Why, tt.why) {
			t.Errorf("%s: got %+v, want %q", tt.id, o, tt.why)
		}
		wantState := celery.State("")
		switch tt.id {
		case "success":
			wantState = celery.Success
		case "retry":
			wantState = celery.Retried
		}
		if s := b.state(tt.id); s != wantState {
			t.Errorf("%s: got state %q, want %q", tt.id, s, wantState)
		}
	}
	wantOnce(t, b.out.counts(), want)
	if keys := b.client.Keys(t.Context(), "onceover:replaying:*").Val(); len(keys) != 0 {
		t.Errorf("got locks %v left, want none", keys)
	}
}

func (b *bundle) mark(id string, state celery.State) {
	b.t.Helper()
	m := celery.Meta{TaskID: id, Status: state}
	if theirs, err := b.marks.Record(b.t.Context(), m, celery.Stored{}); err != nil || theirs.Raw != "" {
		b.t.Fatalf("got %q, %v, want %s recorded", theirs.Raw, err, state)
	}
}

// TestReplayResetsFollowers looks at what follows in the chain of a failed job.
func TestReplayResetsFollowers(t *testing.T) {
	b := setup(t)
	req := request("first")
	for _, id := range []string{"third", "second"} {
		s := celery.NewSignature("t")
		s.Options.TaskID = id
		req.Chain = append(req.Chain, s)
	}
	b.keep(Failure(message(t, req), req, boom, ReasonFailed))
	for _, id := range []string{"first", "second", "third"} {
		b.end(id, celery.Failure)
	}
	var before []string
	s := b.newStore(Config{BeforeReplay: func(_ context.Context, r *celery.Request) error {
		before = append(before, r.ID)
		return nil
	}})
	if _, err := s.Replay(t.Context(), []Ref{ref("first")}, b.out.publish, nil); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"first", "second", "third"} {
		if state := b.state(id); state != "" {
			t.Errorf("got state %s of %s, want nothing stored", state, id)
		}
	}
	if !slices.Equal(before, []string{"first"}) {
		t.Errorf("BeforeReplay was called with %v, want first", before)
	}
}

// TestReplayFaults replays a batch of which one message cannot be published: the others go, once,
// however often the command is repeated.
func TestReplayFaults(t *testing.T) {
	b := setup(t)
	var refs []Ref
	for _, id := range ids(5) {
		b.keep(failure(t, id))
		refs = append(refs, ref(id))
	}
	lost := func(m rabbit.Message) bool { return m.Headers["id"] == "job-0002" }

	b.out.refuse(func(m rabbit.Message) error {
		if lost(m) {
			return errAway
		}
		return nil
	})
	if _, err := b.store.Replay(t.Context(), refs, b.out.publish, nil); !errors.Is(err, errAway) {
		t.Errorf("got %v, want the broker's error", err)
	}
	if all := b.entries(); len(all) != 1 || all[0].ID != "job-0002" {
		t.Errorf("got %v, want the one that may not be in its queue", all)
	}
	// Of a queue without a majority others need not wait.
	b.out.refuse(func(m rabbit.Message) error {
		if lost(m) {
			return fmt.Errorf("%w: no majority", rabbit.ErrUnconfirmed)
		}
		return nil
	})
	if out, err := b.store.Replay(t.Context(), refs, b.out.publish, nil); err != nil || out[2].Done || !strings.Contains(out[2].Why, "no majority") {
		t.Errorf("got %+v, %v, want it not replayed, and why", out[2], err)
	}
	if all := b.entries(); len(all) != 1 || all[0].ID != "job-0002" {
		t.Errorf("got %v, want the one that may not be in its queue", all)
	}
	for range 3 {
		b.out.refuse(func(m rabbit.Message) error {
			if lost(m) {
				return &rabbit.UndeliverableError{Err: errors.New("the headers have 200000 bytes")}
			}
			return nil
		})
		out, err := b.store.Replay(t.Context(), refs, b.out.publish, nil)
		if err != nil {
			t.Fatal(err)
		}
		if o := out[2]; o.Done || o.Over || !strings.Contains(o.Why, "200000") {
			t.Errorf("got %+v, want it not replayed, and why", o)
		}
	}
	wantOnce(t, b.out.counts(), []string{"job-0000", "job-0001", "job-0003", "job-0004"})

	b.out.refuse(func(m rabbit.Message) error {
		if lost(m) {
			return fmt.Errorf("%w (%q)", rabbit.ErrNoQueue, m.Queue)
		}
		return nil
	})
	out, err := b.store.Replay(t.Context(), refs, b.out.publish, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range out {
		if o.Done || o.Over != (i != 2) {
			t.Errorf("got %+v", o)
		}
	}
	if all := b.entries(); len(all) != 1 || all[0].ID != "job-0002" {
		t.Errorf("got %v, want the one whose queue is missing", all)
	}

	// Named another queue, it goes.
	b.out.refuse(func(m rabbit.Message) error {
		if m.Queue == "q.ai" {
			return rabbit.ErrNoQueue
		}
		return nil
	})
	out, err = b.store.Replay(t.Context(), refs[2:3], b.out.publish, func(r *Record) error {
		r.Message.Queue = "q.other"
		return nil
	})
	if err != nil || !out[0].Done {
		t.Errorf("got %+v, %v", out, err)
	}
}

// TestReplayEditRefused ends a replay before anything has happened.
func TestReplayEditRefused(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	b.end("a", celery.Failure)
	refused := errors.New("no such argument")
	if _, err := b.store.Replay(t.Context(), []Ref{ref("a")}, b.out.publish, func(*Record) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("got %v, want the error of edit", err)
	}
	if s := b.state("a"); s != celery.Failure || len(b.entries()) != 1 || len(b.out.messages()) != 0 {
		t.Errorf("got state %q, records %v, messages %v: want nothing changed", s, b.entries(), b.out.messages())
	}
}

// TestReplayTogether replays the same records by two processes at once.
func TestReplayTogether(t *testing.T) {
	b := setup(t)
	all := ids(200)
	var refs []Ref
	for _, id := range all {
		b.keep(failure(t, id))
		refs = append(refs, ref(id))
	}
	var wg sync.WaitGroup
	for _, s := range []*Store{b.store, b.newStore(Config{})} {
		wg.Go(func() {
			for batch := range slices.Chunk(refs, 20) {
				if _, err := s.Replay(t.Context(), batch, b.out.publish, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantOnce(t, b.out.counts(), all)
	if n := len(b.entries()); n != 0 {
		t.Errorf("got %d records left, want none", n)
	}
}

// TestReplayOvertaken replays a record that another process replays from beginning
// to end between our look at it and our lock.
func TestReplayOvertaken(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	other := b.newStore(Config{})
	_, err := b.store.Replay(t.Context(), []Ref{ref("a")}, b.out.publish, func(*Record) error {
		_, err := other.Replay(t.Context(), []Ref{ref("a")}, b.out.publish, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wantOnce(t, b.out.counts(), []string{"a"})
	if n := len(b.entries()); n != 0 {
		t.Errorf("got %d records left, want none", n)
	}
}

// TestReplayWhileRun presses Run while Replay is publishing.
func TestReplayWhileRun(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	b.keep(failure(t, "a"))
	b.archived(ref("a"))
	out, err := b.store.Replay(t.Context(), []Ref{ref("a")}, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		if err := b.out.publish(ctx, create, messages...); err != nil {
			return err
		}
		b.runTask(ref("a"))
		b.until("it is back in the archive", func() bool {
			info := b.info(ref("a"))
			return info != nil && info.State == asynq.TaskStateArchived
		})
		return nil
	}, nil)
	if err != nil || !out[0].Done {
		t.Errorf("got %+v, %v", out, err)
	}
	wantOnce(t, b.out.counts(), []string{"a"})
	if n := len(b.entries()); n != 0 {
		t.Errorf("got %d records left, want none", n)
	}
}

// TestReplayWhileRunAll presses Run All in the middle of a Replay.
func TestReplayWhileRunAll(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	all := ids(40)
	var refs []Ref
	for _, id := range all {
		b.keep(failure(t, id))
		refs = append(refs, ref(id))
	}
	b.archived(refs...)
	_, err := b.store.Replay(t.Context(), refs[:20], func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		if _, err := b.store.inspector.RunAllArchivedTasks(QueueFailed); err != nil {
			return err
		}
		return b.out.publish(ctx, create, messages...)
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.until("all are gone", func() bool { return len(b.entries()) == 0 })
	wantOnce(t, b.out.counts(), all)
}

// TestLockOfAnother replays for longer than the lock lasts: when it is done it must
// not take away the lock of who has it now.
func TestLockOfAnother(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	key := lockKey(&replay{queue: QueueFailed, key: "a:0"})
	_, err := b.store.Replay(t.Context(), []Ref{ref("a")}, func(ctx context.Context, _ bool, _ ...rabbit.Message) error {
		// Ours has run out, and another process has its own.
		if err := b.client.Set(ctx, key, "another", replayLock).Err(); err != nil {
			return err
		}
		return errAway
	}, nil)
	if !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	if n := b.client.Exists(t.Context(), key).Val(); n != 1 {
		t.Error("the lock of another process is gone, want it left")
	}
}
