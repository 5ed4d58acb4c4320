package failed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"onceover/rabbit"
)

// park parks a job until then; change may be nil.
func (b *bundle) park(id string, due time.Time, retries int, change func(*rabbit.Message)) (key string) {
	b.t.Helper()
	req := request(id)
	req.Retries, req.ETA = retries, due
	m := message(b.t, req)
	if change != nil {
		change(&m)
	}
	if err := b.store.Park(b.t.Context(), m, req, due, nil); err != nil {
		b.t.Fatal(err)
	}
	return parkKey(id+":0", retries, 0)
}

// page is a page of parked jobs as texts.
func (b *bundle) page(page, size int) (shown []string, total int) {
	b.t.Helper()
	jobs, total, err := b.store.ParkedPage(b.t.Context(), page, size)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, j := range jobs {
		shown = append(shown, fmt.Sprintf("%s %s %s", j.Name(), j.State, j.Why))
	}
	return shown, total
}

// TestParkedPages has jobs in all states, and pages of all sizes.
func TestParkedPages(t *testing.T) {
	b := setup(t)
	if shown, total := b.page(1, 10); shown != nil || total != 0 {
		t.Errorf("got %v of %d jobs where there is no queue yet", shown, total)
	}
	now := time.Now().Truncate(time.Millisecond)
	for i, id := range []string{"f", "d", "e"} {
		b.park(id, now.Add(time.Duration([]int{3, 1, 2}[i])*time.Hour+5*time.Millisecond), i, nil)
	}
	b.park("past", now.Add(-time.Minute), 0, nil) // asynq has it due at once
	run := b.park("run", now.Add(time.Hour), 0, nil)
	if err := b.store.RunParked(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	archived := b.park("archived", now.Add(time.Hour), 0, nil)
	if err := b.store.inspector.ArchiveTask(QueueDelay, archived); err != nil {
		t.Fatal(err)
	}
	want := []string{"d waiting retry 1", "e waiting retry 2", "f waiting eta", "past due eta", "run due eta", "archived damaged eta"}
	for size := 1; size <= 8; size++ {
		var all []string
		for page := 1; ; page++ {
			shown, total := b.page(page, size)
			if total != len(want) || len(shown) > size {
				t.Errorf("page %d of %d: got %d jobs of %d, want %d in all", page, size, len(shown), total, len(want))
			}
			if len(shown) == 0 {
				break
			}
			all = append(all, shown...)
		}
		if !slices.Equal(all, want) {
			t.Errorf("pages of %d: got %q, want %q", size, all, want)
		}
	}
	jobs, _, err := b.store.ParkedPage(t.Context(), 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if j := jobs[0]; !j.Due.Equal(now.Add(time.Hour+5*time.Millisecond)) || j.ID != "d" || j.Task != "t" || j.Queue != "q.ai" || j.Args != "('a',)" || j.Message.Body != nil || j.Key != "d:0:1:0" || j.Fault != "" {
		t.Errorf("got %+v", j)
	}
	for _, x := range [][2]int{{0, 1}, {1, 0}, {1, 1001}, {-1, 1}} {
		if _, _, err := b.store.ParkedPage(t.Context(), x[0], x[1]); err == nil || !strings.Contains(err.Error(), "expected a page from 1") {
			t.Errorf("page %d of %d: got %v, want an error", x[0], x[1], err)
		}
	}
}

// TestParkedDamaged lists what is not ours, and says what cannot be read. It is not run, and can be discarded.
func TestParkedDamaged(t *testing.T) {
	b := setup(t)
	add := func(key string, payload string) {
		t.Helper()
		_, err := b.store.queue.EnqueueContext(t.Context(), asynq.NewTask("others", []byte(payload)), asynq.Queue(QueueDelay), asynq.TaskID(key), asynq.ProcessIn(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
	}
	add("text", "hello")
	add("object", `{"x":1}`)
	add("null", `null`)
	long := b.park("long", time.Now().Add(2*time.Hour), 0, func(m *rabbit.Message) { m.Body = make([]byte, 3*pieceSize) })
	info := b.info(QueueDelay, long)
	j, err := decodeJob(info.Payload)
	if err != nil || j.Pieces < 2 {
		t.Fatalf("got %d pieces, %v, want some", j.Pieces, err)
	}
	if err := b.client.Del(t.Context(), piecesKey(QueueDelay, long, j.Sum)).Err(); err != nil {
		t.Fatal(err)
	}
	jobs, total, err := b.store.ParkedPage(t.Context(), 1, 10)
	if err != nil || total != 4 || len(jobs) != 4 {
		t.Fatalf("got %d of %d jobs, %v", len(jobs), total, err)
	}
	for _, j := range jobs {
		if j.Key == long {
			continue // of which nothing is known before it is due
		}
		if j.State != ParkedDamaged || j.Task != "others" || !strings.Contains(j.Fault, errNotOurs.Error()) || j.Name() != j.Key {
			t.Errorf("got %+v", j)
		}
	}
	for _, j := range jobs {
		if err := b.store.RunParked(t.Context(), j.Key); !errors.Is(err, errStaysDamaged) {
			t.Errorf("run %s: got %v, want %v", j.Key, err, errStaysDamaged)
		}
		if err := b.store.DiscardParked(t.Context(), j.Key); err != nil {
			t.Errorf("discard %s: %v", j.Key, err)
		}
	}
	if shown, total := b.page(1, 10); total != 0 {
		t.Errorf("got %v left", shown)
	}
}

// TestRunParked publishes a job before its time. What has gone or is due already is told apart.
func TestRunParked(t *testing.T) {
	b := setup(t)
	key := b.park("early", time.Now().Add(time.Hour), 0, nil)
	for range 2 { // it is due already then
		if err := b.store.RunParked(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	b.run(b.store, b.out.publish)
	b.until("the job to be published", func() bool { return b.out.counts()["early"] == 1 })
	b.until("the job to be gone", func() bool {
		_, total := b.page(1, 1)
		return total == 0
	})
	for name, do := range map[string]func(context.Context, string) error{"run": b.store.RunParked, "discard": b.store.DiscardParked} {
		for _, key := range []string{key, "never", ""} {
			if err := do(t.Context(), key); !errors.Is(err, ErrNotParked) {
				t.Errorf("%s %q: got %v, want %v", name, key, err, ErrNotParked)
			}
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.store.DiscardParked(over, key); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}

// TestParkedBeingPublished cannot be discarded, and need not be run.
func TestParkedBeingPublished(t *testing.T) {
	b := setup(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	stop := b.run(b.store, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		entered <- struct{}{}
		<-leave
		return b.out.publish(context.WithoutCancel(ctx), create, messages...)
	})
	key := b.park("now", time.Now().Add(-time.Second), 0, nil)
	select {
	case <-entered:
	case <-time.After(patience):
		t.Fatal("the job is not published")
	}
	if shown, total := b.page(1, 10); total != 1 || !slices.Equal(shown, []string{"now publishing eta"}) {
		t.Errorf("got %v", shown)
	}
	if err := b.store.DiscardParked(t.Context(), key); !errors.Is(err, errBeingPublished) {
		t.Errorf("got %v, want %v", err, errBeingPublished)
	}
	if err := b.store.RunParked(t.Context(), key); err != nil {
		t.Error(err)
	}
	close(leave)
	b.until("the job to be published", func() bool { return b.out.counts()["now"] == 1 })
	stop()
}

// TestParkedRefused has a broker that does not take the job: the list says why.
func TestParkedRefused(t *testing.T) {
	b := setup(t)
	b.out.refuse(func(rabbit.Message) error { return errors.New("the queue is full") })
	b.park("again", time.Now().Add(-time.Second), 0, nil)
	b.run(b.store, b.out.publish)
	b.until("the fault to be listed", func() bool {
		jobs, _, err := b.store.ParkedPage(t.Context(), 1, 10)
		return err == nil && len(jobs) == 1 && jobs[0].State == ParkedDue && strings.Contains(jobs[0].Fault, "the queue is full")
	})
}

// TestDiscardParked takes the message away with the job, however long it is.
func TestDiscardParked(t *testing.T) {
	b := setup(t)
	stays := b.park("stays", time.Now().Add(time.Hour), 0, func(m *rabbit.Message) { m.Body = make([]byte, 2*pieceSize) })
	key := b.park("goes", time.Now().Add(time.Hour), 0, func(m *rabbit.Message) { m.Body = make([]byte, 3*pieceSize) })
	pieces := func() []string {
		t.Helper()
		keys, err := b.client.Keys(t.Context(), "onceover:message:*").Result()
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	if keys := pieces(); len(keys) != 2 {
		t.Fatalf("got the pieces %v, want those of two jobs", keys)
	}
	if err := b.store.DiscardParked(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if keys := pieces(); len(keys) != 1 || !strings.Contains(keys[0], stays) {
		t.Errorf("got the pieces %v, want those of the job that stays", keys)
	}
	if shown, total := b.page(1, 10); total != 1 || !slices.Equal(shown, []string{"stays waiting eta"}) {
		t.Errorf("got %v", shown)
	}
	if n, err := b.client.Exists(t.Context(), taskKey(QueueDelay, key)).Result(); n != 0 || err != nil {
		t.Errorf("got %d tasks left, %v", n, err)
	}
}

// TestFindParked finds jobs in all states by what people know of them.
func TestFindParked(t *testing.T) {
	b := setup(t)
	later := time.Now().Add(time.Hour)
	for _, id := range []string{"abc-1", "abc-2", "ab", "x*y", "xzy", "a:b:c", "y[1]"} {
		b.park(id, later, 0, nil)
	}
	b.park("abc-1", later, 2, nil)
	if err := b.store.RunParked(t.Context(), "abc-2:0:0:0"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"abc-1":       {"abc-1:0:0:0", "abc-1:0:2:0"},
		"abc-1:0:2:0": {"abc-1:0:2:0"},
		"abc-2":       {"abc-2:0:0:0"},
		"ab":          {"ab:0:0:0"}, // it is a whole id
		"x*":          {"x*y:0:0:0"},
		"y[":          {"y[1]:0:0:0"},
		"xz":          {"xzy:0:0:0"},
		"a:b":         {"a:b:c:0:0:0"},
		"none":        nil,
		"abc-1:0":     nil, // no beginning of an id
	} {
		got, err := b.store.FindParked(t.Context(), name)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, want)
		}
	}
	if _, err := b.store.FindParked(t.Context(), "abc"); err == nil || !strings.Contains(err.Error(), "abc-1 and abc-2") {
		t.Errorf("got %v, want that two ids begin so", err)
	}
}

// TestParkedJSON has a list's own fields beside those of the record.
func TestParkedJSON(t *testing.T) {
	t.Parallel()
	doc, err := json.Marshal(ParkedJob{Key: "a:0:0:0", State: ParkedDue, Record: Record{ID: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(doc, &got); err != nil {
		t.Fatal(err)
	}
	if got["key"] != "a:0:0:0" || got["state"] != ParkedDue || got["id"] != "a" {
		t.Errorf("got %s", doc)
	}
}

// TestParkedName is the other way round of what makes the keys.
func TestParkedName(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		parkKey("a:0", 3, 1):             "a",
		parkKey("a:0", 3, 1) + "~0a1b2c": "a",
		parkKey("a:1:2:0", 0, 0):         "a:1:2",
		"text":                           "text",
		"a:b:c:d":                        "a:b:c:d",
		"a:1:2":                          "a:1:2",
		"":                               "",
	} {
		if got := parkedName(key); got != want {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}

// TestRunParkedWithETA runs a job an hour early: its message says nothing of its time any more, for which a worker would park it again.
func TestRunParkedWithETA(t *testing.T) {
	b := setup(t)
	eta := time.Now().Add(time.Hour)
	req := request("early")
	req.ETA = eta
	m := message(t, req)
	if err := b.store.Park(t.Context(), m, requestOf(t, m), eta, nil); err != nil {
		t.Fatal(err)
	}
	keys, err := b.store.FindParked(t.Context(), "early")
	if err != nil || len(keys) != 1 {
		t.Fatalf("got %v, %v", keys, err)
	}
	if err := b.store.RunParked(t.Context(), keys[0]); err != nil {
		t.Fatal(err)
	}
	b.run(b.store, b.out.publish)
	b.until("the job to be published", func() bool { return b.out.counts()["early"] == 1 })
	if got := requestOf(t, b.out.messages()[0]); !got.ETA.IsZero() || got.ID != "early" {
		t.Errorf("got %+v, want no ETA", got)
	}
}

// TestDestinationWithoutConfirms has more jobs due than are published at once, to a queue that does not confirm: one to another queue does
// not wait for them, and they go when the queue confirms again.
func TestDestinationWithoutConfirms(t *testing.T) {
	b := setup(t)
	b.store.times = shortTimes
	due := time.Now().Add(time.Second)
	var stuck []string
	for i := range 60 {
		id := fmt.Sprintf("stuck-%02d", i)
		b.park(id, due, 0, func(m *rabbit.Message) { m.Queue = "q.stuck" })
		stuck = append(stuck, id)
	}
	well := make(chan struct{})
	var tried atomic.Int32
	waiting := make(chan struct{}, 1000)
	b.run(b.store, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		if messages[0].Queue == "q.stuck" {
			tried.Add(1)
			waiting <- struct{}{}
			select {
			case <-well: // what waits is confirmed then
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", rabbit.ErrUnconfirmed, context.Cause(ctx))
			}
		}
		return b.out.publish(ctx, create, messages...)
	})
	for range 20 { // all that are published at once
		<-waiting
	}
	b.park("other", time.Now(), 0, nil)
	b.until("the other job is published", func() bool { return slices.Contains(slices.Collect(maps.Keys(b.out.counts())), "other") })
	if n := len(b.out.messages()); n != 1 {
		t.Errorf("got %d messages, want that of the other job", n)
	}
	if n := tried.Load(); n >= 40 { // all at once, and then one at a time
		t.Errorf("%d jobs were tried before the other one", n)
	}
	close(well)
	b.within(5*patience, "the others are published", func() bool { return len(b.out.counts()) == len(stuck)+1 })
	wantOnce(t, b.out.counts(), append(stuck, "other"))
}

// TestSlowDestination has a queue confirm later than others wait for: each of its jobs is published, with one copy at most.
func TestSlowDestination(t *testing.T) {
	b := setup(t)
	b.store.times = shortTimes
	jobs := []string{"a", "b", "c"}
	for _, id := range jobs {
		b.park(id, time.Now(), 0, func(m *rabbit.Message) { m.Queue = "q.slow" })
	}
	var tries atomic.Int32
	b.run(b.store, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		tries.Add(1)
		confirm := time.NewTimer(3 * shortTimes.confirm / 2)
		defer confirm.Stop()
		select {
		case <-confirm.C:
			return b.out.publish(ctx, create, messages...)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", rabbit.ErrUnconfirmed, context.Cause(ctx))
		}
	})
	b.within(5*patience, "all are published", func() bool { return len(b.out.counts()) == len(jobs) })
	wantOnce(t, b.out.counts(), jobs)
	if n := tries.Load(); n > int32(2*len(jobs)) {
		t.Errorf("%d attempts at %d jobs, want two for each at most", n, len(jobs))
	}
}

// TestLateDelay is a table of the pause before a job is looked at again whose destination another one tries.
func TestLateDelay(t *testing.T) {
	t.Parallel()
	for late, want := range map[time.Duration]time.Duration{0: 2 * time.Second, 20 * time.Second: 10 * time.Second, time.Hour: 30 * time.Second} {
		err := fmt.Errorf("publish: %w", &lateError{time.Now().Add(-late)})
		if got := retryDelay(0, err, nil); got < want || got > want+time.Second {
			t.Errorf("late for %v: got %v, want %v", late, got, want)
		}
	}
}
