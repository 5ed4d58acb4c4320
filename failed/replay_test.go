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

	"onceover/celery"
	"onceover/rabbit"
	"onceover/results"
)

// TestReplay replays a job: as it was sent, once, and nothing of it is left.
func TestReplay(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	r := failure(t, "a")
	b.end("a", celery.Failure)
	b.keep(r)
	if n := len(b.out.messages()); n != 0 {
		t.Fatalf("got %d messages published by keeping a job, want none", n)
	}
	b.replay(key("a"))
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

// TestReplayInVain replays a job that its queue does not take: it stays listed with what was wrong
// at last, and can be replayed again.
func TestReplayInVain(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	b.end("a", celery.Failure)
	notes := func() (out []string) {
		for _, e := range b.entries() {
			out = append(out, e.Note)
		}
		return out
	}
	for _, tt := range []struct {
		fault error
		note  string // part of it
		ends  bool   // the fault is that of all messages, and nothing is noted
	}{
		{rabbit.ErrNoQueue, "start a worker", false},
		{errAway, "start a worker", true},
		{&rabbit.UndeliverableError{Err: errors.New("the headers have 200000 bytes")}, "200000 bytes", false},
		{fmt.Errorf("%w: no majority", rabbit.ErrUnconfirmed), "no majority", false},
		{fmt.Errorf("%w: full", rabbit.ErrRefused), "when there is room", false},
	} {
		b.out.refuse(func(rabbit.Message) error { return tt.fault })
		out, err := b.store.Replay(t.Context(), []Key{key("a")}, b.out.publish, nil)
		if (err != nil) != tt.ends || out[0].Done || out[0].Over {
			t.Errorf("%v: got %+v, %v, want it not replayed", tt.fault, out[0], err)
		}
		if got := notes(); len(got) != 1 || !strings.HasPrefix(got[0], "not replayed: ") || !strings.Contains(got[0], tt.note) {
			t.Errorf("%v: got notes %q, want %q", tt.fault, got, tt.note)
		}
		// Another process, and a redelivery, change nothing.
		if err := b.newStore(Config{}).Keep(t.Context(), failure(t, "a")); err != nil {
			t.Fatal(err)
		}
		if got := notes(); len(got) != 1 || !strings.Contains(got[0], tt.note) {
			t.Errorf("%v: kept again, got notes %q, want %q", tt.fault, got, tt.note)
		}
	}
	b.out.refuse(nil)
	b.replay(key("a"))
	if got := notes(); len(got) != 0 {
		t.Errorf("got notes %q, want no record", got)
	}
	wantOnce(t, b.out.counts(), []string{"a"})
	// A note does not come to life again.
	if err := b.store.note(t.Context(), key("a"), "too late"); err != nil || len(b.keys(recordKey(key("a")))) != 0 {
		t.Errorf("got %v, keys %v, want nothing noted with a record that has gone", err, b.keys(recordKey(key("a"))))
	}
}

// TestFailsAgainAtOnce replays jobs that fail again and again before their record is forgotten: each
// failure is a record of its own.
func TestFailsAgainAtOnce(t *testing.T) {
	b := setup(t)
	all := ids(20)
	for _, id := range all {
		b.keep(failure(t, id))
	}
	for generation := range 3 {
		var keys []Key
		for _, id := range all {
			keys = append(keys, Key(fmt.Sprintf("%s:%d", id, generation)))
		}
		out, err := b.store.Replay(t.Context(), keys, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
			for _, m := range messages {
				if err := b.store.Keep(ctx, failedAgain(t, m)); err != nil {
					return err
				}
			}
			if n := len(b.entries()); n != 2*len(all) {
				t.Errorf("got %d records, want %d that failed, and failed again", n, 2*len(all))
			}
			return b.out.publish(ctx, create, messages...)
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range out {
			if !o.Done {
				t.Errorf("got %+v, want it replayed", o)
			}
		}
	}
	got := b.entries()
	for _, e := range got {
		if e.Replays != 3 || e.Key != Key(e.ID+":3") {
			t.Errorf("got %s with %d replays, want 3", e.Key, e.Replays)
		}
	}
	if len(got) != len(all) {
		t.Errorf("got %d records, want %d", len(got), len(all))
	}
	for _, id := range all {
		if n := b.out.counts()[id]; n != 3 {
			t.Errorf("job %s was published %d times, want 3", id, n)
		}
	}
}

// TestReplayStates replays jobs by what is known of them.
func TestReplayStates(t *testing.T) {
	b := setup(t)
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
			if err := b.store.Discard(t.Context(), key(id)); err != nil {
				t.Fatal(err)
			}
		}, "no longer there"},
	}
	var keys []Key
	var want []string
	for _, tt := range tests {
		b.keep(failure(t, tt.id))
		tt.change(tt.id)
		keys = append(keys, key(tt.id))
		if tt.why == "" {
			want = append(want, tt.id)
		}
	}
	out, err := b.store.Replay(t.Context(), append(keys, keys[0]), b.out.publish, nil)
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
		if o := out[i]; o.Key != keys[i] || o.Done != (tt.why == "") || !strings.Contains(o.Why, tt.why) {
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
	if _, err := s.Replay(t.Context(), []Key{key("first")}, b.out.publish, nil); err != nil {
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
	var keys []Key
	for _, id := range ids(5) {
		b.keep(failure(t, id))
		keys = append(keys, key(id))
	}
	lost := func(m rabbit.Message) bool { return m.Headers["id"] == "job-0002" }

	b.out.refuse(func(m rabbit.Message) error {
		if lost(m) {
			return errAway
		}
		return nil
	})
	if _, err := b.store.Replay(t.Context(), keys, b.out.publish, nil); !errors.Is(err, errAway) {
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
	if out, err := b.store.Replay(t.Context(), keys, b.out.publish, nil); err != nil || out[2].Done || !strings.Contains(out[2].Why, "no majority") {
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
		out, err := b.store.Replay(t.Context(), keys, b.out.publish, nil)
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
	out, err := b.store.Replay(t.Context(), keys, b.out.publish, nil)
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
	out, err = b.store.Replay(t.Context(), keys[2:3], b.out.publish, func(r *Record) error {
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
	if _, err := b.store.Replay(t.Context(), []Key{key("a")}, b.out.publish, func(*Record) error { return refused }); !errors.Is(err, refused) {
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
	var keys []Key
	for _, id := range all {
		b.keep(failure(t, id))
		keys = append(keys, key(id))
	}
	var wg sync.WaitGroup
	for _, s := range []*Store{b.store, b.newStore(Config{})} {
		wg.Go(func() {
			for batch := range slices.Chunk(keys, 20) {
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
	_, err := b.store.Replay(t.Context(), []Key{key("a")}, b.out.publish, func(*Record) error {
		_, err := other.Replay(t.Context(), []Key{key("a")}, b.out.publish, nil)
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

// TestDiscardWhileReplayed discards a record whose job is about to be published: it stays until that is done, and its job runs once.
func TestDiscardWhileReplayed(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	out, err := b.store.Replay(t.Context(), []Key{key("a")}, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		var busy *SkippedError
		if err := b.store.Discard(ctx, key("a")); !errors.As(err, &busy) || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("got %v, want that it is being replayed", err)
		}
		if n, err := b.store.expire(ctx, time.Now().Add(time.Hour)); n != 0 || err != nil {
			t.Errorf("got %d discarded as old, %v, want none", n, err)
		}
		if n := len(b.entries()); n != 1 {
			t.Errorf("got %d records, want it", n)
		}
		return b.out.publish(ctx, create, messages...)
	}, nil)
	if err != nil || !out[0].Done {
		t.Errorf("got %+v, %v", out, err)
	}
	wantOnce(t, b.out.counts(), []string{"a"})
	b.keep(failure(t, "a"))
	if err := b.store.Discard(t.Context(), key("a")); err != nil || len(b.entries()) != 0 {
		t.Errorf("got %v, %v left, want it discarded afterwards", err, b.entries())
	}
}

// TestReplayWithoutABroker replays a job while there is no connection, and while the broker refuses the login: nothing was sent, the result
// is as it was, and it is no fault of the job.
func TestReplayWithoutABroker(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	b.end("a", celery.Failure)
	for _, fault := range []error{
		rabbit.ErrNoConnection,
		fmt.Errorf("%w: %w", rabbit.ErrNoConnection, &rabbit.ConfigError{Doing: "connect", Err: errors.New("ACCESS_REFUSED"), Remedy: "check the password"}),
	} {
		b.out.refuse(func(rabbit.Message) error { return fault })
		out, err := b.store.Replay(t.Context(), []Key{key("a")}, b.out.publish, nil)
		if !errors.Is(err, rabbit.ErrNoConnection) || out[0].Done || out[0].Why != "" {
			t.Errorf("%v: got %+v, %v, want the fault of all", fault, out[0], err)
		}
		if s := b.state("a"); s != celery.Failure {
			t.Errorf("%v: got the state %q, want it as it was", fault, s)
		}
		if all := b.entries(); len(all) != 1 || all[0].Note != "" {
			t.Errorf("%v: got %+v, want the record without a note", fault, all)
		}
	}
}

// TestReplayWhileReplayed has another process begin to replay a record while it is being published.
func TestReplayWhileReplayed(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	other := b.newStore(Config{})
	out, err := b.store.Replay(t.Context(), []Key{key("a")}, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		theirs, err := other.Replay(ctx, []Key{key("a")}, b.out.publish, nil)
		if err != nil || theirs[0].Done || theirs[0].Over || !strings.Contains(theirs[0].Why, "somebody else") {
			t.Errorf("got %+v, %v, want it left to who has it", theirs, err)
		}
		if all := b.entries(); len(all) != 1 || all[0].Note != "" {
			t.Errorf("got %+v, want the record without a note", all)
		}
		return b.out.publish(ctx, create, messages...)
	}, nil)
	if err != nil || !out[0].Done {
		t.Errorf("got %+v, %v", out, err)
	}
	wantOnce(t, b.out.counts(), []string{"a"})
	if n := len(b.entries()); n != 0 {
		t.Errorf("got %d records left, want none", n)
	}
}

// TestLockOfAnother replays for longer than the lock lasts: when it is done it must
// not take away the lock of who has it now.
func TestLockOfAnother(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	lock := lockKey(key("a"))
	_, err := b.store.Replay(t.Context(), []Key{key("a")}, func(ctx context.Context, _ bool, _ ...rabbit.Message) error {
		// Ours has run out, and another process has its own.
		if err := b.client.Set(ctx, lock, "another", replayLock).Err(); err != nil {
			return err
		}
		return errAway
	}, nil)
	if !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	if n := b.client.Exists(t.Context(), lock).Val(); n != 1 {
		t.Error("the lock of another process is gone, want it left")
	}
}

// TestReplayedBefore replays a record whose job was replayed and has failed again, as whoever replayed it died before it was forgotten.
func TestReplayedBefore(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	again := failure(t, "a")
	again.Replays = 1
	b.keep(again)
	out, err := b.store.Replay(t.Context(), []Key{key("a")}, b.out.publish, nil)
	if err != nil || out[0].Done || !out[0].Over || !strings.Contains(out[0].Why, "another record") {
		t.Errorf("got %+v, %v", out, err)
	}
	if n := len(b.out.messages()); n != 0 || b.has(key("a")) || !b.has("a:1") {
		t.Errorf("got %d messages, and %v listed, want only the later record", n, b.entries())
	}
}

// TestReplayedBeforeAnotherCall has two calls of one id, the second of which was replayed and failed again: the first was not, whatever
// the key of that says. One that was replayed by a command which was killed then is known by its call, under either key.
func TestReplayedBeforeAnotherCall(t *testing.T) {
	b := setup(t)
	first, second := sized(t, "job", 1, "x"), sized(t, "job", 1, "y")
	twin := key("job") + Key("~"+second.callSum())
	b.keep(first)
	b.keep(second)
	again := second
	again.Replays = 1
	b.keep(again) // under the key that the first would have

	out, err := b.store.Replay(t.Context(), []Key{key("job"), twin}, b.out.publish, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range out {
		if done := o.Key == key("job"); o.Done != done {
			t.Errorf("got %+v, want done %v", o, done)
		}
	}

	b.keep(first)
	again = first
	again.Replays = 1
	b.keep(again) // beside that of the second
	if out, err = b.store.Replay(t.Context(), []Key{key("job")}, b.out.publish, nil); err != nil || len(out) != 1 || out[0].Done {
		t.Errorf("got %+v, %v, want it known as replayed", out, err)
	}
	if n := len(b.out.messages()); n != 1 {
		t.Errorf("got %d messages, want that of the first alone", n)
	}
}

// TestReplayPassesOverAJob has a job whose result's key is of another type, which no waiting mends: it is left with its reason, and others go.
func TestReplayPassesOverAJob(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "bad"))
	b.keep(failure(t, "good"))
	if err := b.connect(0).HSet(t.Context(), results.Key("bad"), "x", "y").Err(); err != nil {
		t.Fatal(err)
	}
	out, err := b.store.Replay(t.Context(), []Key{key("bad"), key("good")}, b.out.publish, nil)
	if err != nil || out[0].Done || out[0].Why == "" || !out[1].Done {
		t.Errorf("got %+v, %v, want the good one replayed", out, err)
	}
	if all := b.entries(); len(all) != 1 || all[0].ID != "bad" || !strings.Contains(all[0].Note, "WRONGTYPE") {
		t.Errorf("got %+v, want the bad one with why", all)
	}
}
