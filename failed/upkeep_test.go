package failed

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
)

// TestRetention discards what failed too long ago.
func TestRetention(t *testing.T) {
	b := setup(t)
	now := time.Now().UTC()
	for id, last := range map[string]time.Time{
		"old": now.Add(-25 * time.Hour), "older": now.Add(-2000 * time.Hour), "new": now.Add(-23 * time.Hour), "unknown": {},
	} {
		r := sized(t, id, 100<<10, "x")
		r.Last = last
		b.keep(r)
	}
	if n, err := b.store.Expire(t.Context()); n != 0 || err != nil {
		t.Errorf("without a retention: got %d discarded, %v", n, err)
	}
	s := b.newStore(Config{Retention: 24 * time.Hour})
	for _, want := range []int{2, 0} {
		if n, err := s.Expire(t.Context()); n != want || err != nil {
			t.Errorf("got %d discarded, %v, want %d", n, err, want)
		}
	}
	for id, want := range map[string]bool{"old": false, "older": false, "new": true, "unknown": true} {
		if got := b.has(key(id)); got != want {
			t.Errorf("record %s: got %v, want %v", id, got, want)
		}
		if got := b.client.Exists(t.Context(), b.pieces(key(id))).Val() > 0; got != want {
			t.Errorf("message of %s: got %v, want %v", id, got, want)
		}
	}
}

// TestRollUp adds hours up into days, as often as it likes.
func TestRollUp(t *testing.T) {
	b := setup(t)
	today := time.Now().UTC().Truncate(24 * time.Hour)
	count := func(at time.Time, class string) {
		r := Record{Last: at, Error: class}
		b.store.count(t.Context(), &r)
	}
	yesterday := today.Add(-24 * time.Hour)
	for range 3 {
		count(yesterday, "ValueError")                         // its first hour,
		count(yesterday.Add(24*time.Hour-1), "ValueError")     // and its last
		count(yesterday.Add(12*time.Hour), "KeyError")         //
		count(today, "ValueError")                             // not over yet
		count(today.Add(-12*24*time.Hour), "TimeoutError")     // the earliest but one
		count(today.Add(-5*24*time.Hour+time.Hour), "IOError") //
	}
	for range 3 {
		if err := b.store.RollUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	days, err := b.store.Days(t.Context(), 14)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]Count, 14)
	for i := range want {
		want[i] = Count{Start: today.Add(time.Duration(i-14) * 24 * time.Hour), Classes: map[string]int{}}
	}
	want[13].Classes = map[string]int{"ValueError": 6, "KeyError": 3}
	want[9].Classes = map[string]int{"IOError": 3}
	want[2].Classes = map[string]int{"TimeoutError": 3}
	if diff := cmp.Diff(want, days); diff != "" {
		t.Errorf("days (-want +got):\n%s", diff)
	}
	hours, err := b.store.Hours(t.Context(), 24)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, h := range hours {
		total += h.Total()
	}
	if total < 3 {
		t.Errorf("got %v, want the failures of today", hours)
	}
}

// TestPeriodicOnce runs three processes: the work of a slot is done by one.
func TestPeriodicOnce(t *testing.T) {
	b := setup(t)
	const every = 2 * time.Second
	var runs atomic.Int64
	first := time.Now().UnixNano() / int64(every)
	var stops []func()
	for range 3 {
		s := b.newStore(Config{})
		s.Schedule(Periodic{Name: "work", Every: every, Run: func(context.Context) error { runs.Add(1); return nil }})
		stops = append(stops, b.run(s, b.out.publish))
	}
	b.until("the work is done in three slots", func() bool { return runs.Load() >= 3 })
	for _, stop := range stops {
		stop()
	}
	slots := time.Now().UnixNano()/int64(every) - first + 1
	if n := runs.Load(); n > slots {
		t.Errorf("got %d runs in %d slots, want one in each at most", n, slots)
	}
}

// TestPeriodicFails does work again that failed, and leaves alone what this version
// does not know.
func TestPeriodicFails(t *testing.T) {
	b := setup(t)
	var runs atomic.Int64
	b.store.Schedule(Periodic{Name: "work", Every: time.Hour, Run: func(context.Context) error {
		if runs.Add(1) == 1 {
			return errors.New("not now")
		}
		return nil
	}})
	if _, err := b.store.queue.EnqueueContext(t.Context(), asynq.NewTask("of another version", nil), asynq.Queue(QueueUpkeep), asynq.TaskID("other:1")); err != nil {
		t.Fatal(err)
	}
	b.run(b.store, b.out.publish)
	b.until("the work is repeated", func() bool { return runs.Load() == 2 })
	b.archived(QueueUpkeep, "other:1")
	if got := b.info(QueueUpkeep, "other:1").LastErr; !strings.Contains(got, "not known to this version") {
		t.Errorf("got %q", got)
	}
}
