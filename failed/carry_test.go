package failed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
)

func TestIsOld(t *testing.T) {
	t.Parallel()
	for queue, want := range map[string]bool{
		"failed": true, "failed-2": true, "failed-10": true, "failed-123": true,
		"": false, "delay": false, "upkeep": false, "failed-": false, "failed-0": false, "failed-1": false, "failed--2": false, "failed-02": false,
		"failed-x": false, "failed2": false, "failed-2x": false, "xfailed": false, "failed-+2": false, "failed-99999999999999999999": false,
	} {
		if got := isOld(queue); got != want {
			t.Errorf("%q: got %v, want %v", queue, got, want)
		}
	}
}

// keepOld keeps a record as versions before this one did: as a task of asynq that is on its way into
// the archive of its queue.
func (b *bundle) keepOld(queue, key string, r Record) {
	b.t.Helper()
	message, err := json.Marshal(r.Message)
	if err != nil {
		b.t.Fatal(err)
	}
	j := job{Record: r, Message: message}
	if len(message) > pieceSize {
		fields, sum := cut(message)
		j.Message, j.Pieces, j.Sum = nil, len(fields), sum
		if err := b.client.HSet(b.t.Context(), piecesKey(queue, key, sum), fields).Err(); err != nil {
			b.t.Fatal(err)
		}
	}
	payload, err := json.Marshal(j)
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = b.store.queue.EnqueueContext(b.t.Context(), asynq.NewTask(taskName(r.Task), payload),
		asynq.Queue(queue), asynq.TaskID(key), asynq.MaxRetry(forever), asynq.Timeout(taskTimeout))
	if err != nil {
		b.t.Fatal(err)
	}
}

// archive has asynq archive a task.
func (b *bundle) archive(queue, key string) {
	b.t.Helper()
	if err := b.store.inspector.ArchiveTask(queue, key); err != nil {
		b.t.Fatal(err)
	}
}

// oldStore is what a version before this one may have left.
type oldStore struct {
	records map[Key]Record // by their keys from now on
	left    []string       // queue/key of the tasks that are not to be carried over
	large   []Key
	damaged Key // its message cannot be read: it is carried over to be seen and discarded
}

// fillOld makes an oldStore: more tasks that are not ours than asynq lists at once, and before the
// records among them.
func (b *bundle) fillOld() oldStore {
	b.t.Helper()
	old := oldStore{records: map[Key]Record{}}
	for i := range pageSize + 5 {
		key := fmt.Sprintf("0-foreign-%03d", i)
		b.foreign("failed", key, []byte("not JSON"))
		b.archive("failed", key)
		old.left = append(old.left, "failed/"+key)
	}
	aged := func(id string, i int) Record {
		r := failure(b.t, id)
		r.First, r.Last = dawn.Add(-48*time.Hour), dawn.Add(-time.Duration(i)*time.Hour)
		r.Text = "text " + word(i%7)
		return r
	}
	archived := func(queue string, r Record) {
		b.t.Helper()
		b.keepOld(queue, string(r.key()), r)
		b.archive(queue, string(r.key()))
		old.records[r.key()] = r
	}
	for i := range pageSize + 20 {
		archived("failed", aged(fmt.Sprintf("job-%03d", i), i))
	}
	for i := range 5 {
		r := aged(fmt.Sprintf("second-%d", i), i)
		r.Replays, r.Message.Own.Replays = i, i
		archived("failed-2", r)
	}
	// On its way into the archive.
	pending := aged("pending", 1)
	b.keepOld("failed-2", "pending:0", pending)
	old.records[key("pending")] = pending
	// Those that the broker did not take when they were to run again.
	retry := aged("retry", 2)
	b.keepOld("failed-3", "retry:0", retry)
	b.fail("failed-3", "retry:0")
	old.records[key("retry")] = retry
	// Large ones.
	for _, queue := range []string{"failed", "failed-2"} {
		r := sized(b.t, "large-in-"+queue, 200<<10, "é")
		archived(queue, r)
		old.large = append(old.large, r.key())
	}
	// Two calls under one id, and one call in two queues.
	archived("failed", failure(b.t, "twice"))
	twin := request("twice")
	twin.Args = append(twin.Args, json.RawMessage("2"))
	second := Failure(message(b.t, twin), twin, boom, ReasonFailed)
	second.Last = second.Last.Add(time.Second)
	twinKey := second.key() + Key("~"+second.callSum())
	b.keepOld("failed", string(twinKey), second)
	b.archive("failed", string(twinKey))
	old.records[twinKey] = second
	moved := aged("moved", 3)
	archived("failed", moved)
	archived("failed-3", moved)
	// A message whose pieces have gone.
	b.keepOld("failed-2", "broken:0", sized(b.t, "broken", 200<<10, "x"))
	b.archive("failed-2", "broken:0")
	if err := b.client.Del(b.t.Context(), b.keys(piecesKey("failed-2", "broken:0", "*"))...).Err(); err != nil {
		b.t.Fatal(err)
	}
	old.damaged = key("broken")
	// A queue of somebody else's with such a name.
	b.foreign("failed-x", "x", []byte("{}"))
	old.left = append(old.left, "failed-x/x")
	return old
}

// fail has a task of asynq fail, so that it waits to be tried again.
func (b *bundle) fail(queue, key string) {
	b.t.Helper()
	server := asynq.NewServerFromRedisClient(b.client, asynq.Config{
		Queues: map[string]int{queue: 1}, TaskCheckInterval: pollQueue, LogLevel: asynq.FatalLevel, Logger: newQuiet(b.store.log),
		RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return time.Hour },
	})
	if err := server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { return errors.New("not now") })); err != nil {
		b.t.Fatal(err)
	}
	defer server.Shutdown()
	b.until("the task failed", func() bool { return b.info(queue, key).State == asynq.TaskStateRetry })
}

// wantCarried says that the records are there, and nothing of what they were.
func (b *bundle) wantCarried(old oldStore) {
	b.t.Helper()
	seen := map[Key]int{}
	for _, e := range b.entries() {
		seen[e.Key]++
	}
	for k, want := range old.records {
		if seen[k] != 1 {
			b.t.Errorf("%s is listed %d times, want once", k, seen[k])
			continue
		}
		got, err := json.Marshal(b.get(k))
		if err != nil {
			b.t.Fatal(err)
		}
		as, err := json.Marshal(want)
		if err != nil {
			b.t.Fatal(err)
		}
		if diff := cmp.Diff(string(as), string(got)); diff != "" {
			b.t.Errorf("%s (-want +got):\n%.2000s", k, diff)
		}
	}
	if len(seen) != len(old.records)+1 {
		b.t.Errorf("got %d records, want %d and a damaged one", len(seen), len(old.records))
	}
	if _, err := b.store.Get(b.t.Context(), old.damaged); seen[old.damaged] != 1 || !errors.Is(err, errUnreadable) {
		b.t.Errorf("the damaged one is listed %d times, and says %v", seen[old.damaged], err)
	}
	queues, err := b.store.inspector.Queues()
	if err != nil {
		b.t.Fatal(err)
	}
	var left []string
	for _, q := range queues {
		for _, list := range []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
			b.store.inspector.ListArchivedTasks, b.store.inspector.ListRetryTasks, b.store.inspector.ListPendingTasks,
		} {
			tasks, err := list(q, asynq.PageSize(1000))
			if err != nil {
				b.t.Fatal(err)
			}
			for _, task := range tasks {
				left = append(left, q+"/"+task.ID)
			}
		}
	}
	want := slices.Clone(old.left)
	slices.Sort(want)
	slices.Sort(left)
	if diff := cmp.Diff(want, left); diff != "" {
		b.t.Errorf("tasks of asynq (-want +got):\n%s", diff)
	}
	if pieces := b.keys("onceover:message:*"); len(pieces) != 0 {
		b.t.Errorf("got pieces %v of tasks, want none", pieces)
	}
	for _, k := range old.large {
		if ttl := b.client.TTL(b.t.Context(), b.pieces(k)).Val(); ttl != -1 {
			b.t.Errorf("the message of %s expires in %v, want never", k, ttl)
		}
	}
	hours, err := b.store.Hours(b.t.Context(), 48)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, h := range hours {
		if h.Total() != 0 {
			b.t.Errorf("got %v, want no failure counted again", h)
		}
	}
	kept := 0
	for _, c := range b.causes() {
		kept += c.Kept
		if c.Hour != 0 || c.Day != 0 {
			b.t.Errorf("got %+v, want no failure counted again", c)
		}
	}
	if kept != len(old.records)+1 {
		b.t.Errorf("got %d records by their causes, want %d", kept, len(old.records)+1)
	}
}

// TestCarryOver carries over what a version before this one has kept.
func TestCarryOver(t *testing.T) {
	b := setup(t)
	old := b.fillOld()
	n, err := b.store.CarryOver(t.Context())
	// The one that is in two queues is moved out of both.
	if err != nil || n != len(old.records)+2 { // and the damaged one
		t.Errorf("got %d, %v, want %d", n, err, len(old.records)+2)
	}
	b.wantCarried(old)
	for _, s := range []*Store{b.store, b.newStore(Config{})} {
		if n, err := s.CarryOver(t.Context()); n != 0 || err != nil {
			t.Errorf("once more: got %d, %v, want nothing to do", n, err)
		}
	}
	b.wantCarried(old)
	if _, err := b.store.Expire(t.Context()); err != nil {
		t.Error(err)
	}
	b.wantCarried(old)

	// They are replayed as any.
	want := map[string]int{}
	var keys []Key
	for k, r := range old.records {
		keys = append(keys, k)
		want[r.ID]++
	}
	for batch := range slices.Chunk(keys, ReplayBatch) {
		b.replay(batch...)
	}
	if diff := cmp.Diff(want, b.out.counts()); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	for _, m := range b.out.messages() {
		if r, ok := old.records[Key(fmt.Sprintf("%s:%d", m.Headers["id"], m.Own.Replays-1))]; m.Headers["id"] != "twice" && (!ok || string(r.Message.Body) != string(m.Body)) {
			t.Errorf("another message of %v was published", m.Headers["id"])
		}
	}
	if err := b.store.Discard(t.Context(), old.damaged); err != nil {
		t.Error(err)
	}
	if left := b.keys(prefix + "job:*"); len(left) != 0 {
		t.Errorf("got %v left, want no record", left)
	}
}

// TestCarryOverTogether has three processes carry over at once, of which one is interrupted.
func TestCarryOverTogether(t *testing.T) {
	b := setup(t)
	old := b.fillOld()
	ctx, cancel := context.WithCancel(t.Context())
	half := b.newStore(Config{})
	half.client.AddHook(&beforeScript{f: cancel, after: 400})
	n, err := half.CarryOver(ctx)
	if got := len(b.entries()); err == nil || n == 0 || n > got || got == len(old.records)+1 {
		t.Errorf("got %d, %v, and %d records, want some, and an error of a context that has ended", n, err, got)
	}
	var wg sync.WaitGroup
	for range 3 {
		s := b.newStore(Config{})
		wg.Go(func() {
			if _, err := s.CarryOver(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b.wantCarried(old)
}

// TestRunCarriesOver has Run do it, beside its other work.
func TestRunCarriesOver(t *testing.T) {
	b := setup(t)
	old := b.fillOld()
	b.run(b.store, b.out.publish)
	b.until("all are carried over", func() bool {
		n, _, err := b.store.Size(t.Context(), Filter{})
		return err == nil && n == len(old.records)+1 && len(b.keys("onceover:message:*")) == 0
	})
	b.wantCarried(old)
	if n := len(b.out.messages()); n != 0 {
		t.Errorf("got %d messages, want none", n)
	}
}

// TestCarryOverLeavesActive has a version before this one work on a task: the task stays with it.
func TestCarryOverLeavesActive(t *testing.T) {
	b := setup(t)
	b.keepOld("failed", "a:0", failure(t, "a"))
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	server := asynq.NewServerFromRedisClient(b.client, asynq.Config{
		Queues: map[string]int{"failed": 1}, TaskCheckInterval: pollQueue, LogLevel: asynq.FatalLevel, Logger: newQuiet(b.store.log),
	})
	err := server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		once.Do(func() { close(entered) })
		<-leave
		return fmt.Errorf("kept: boom: %w", asynq.SkipRetry)
	}))
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	if n, err := b.store.CarryOver(t.Context()); n != 0 || err != nil {
		t.Errorf("got %d, %v, want it left to who works on it", n, err)
	}
	if all := b.entries(); len(all) != 0 {
		t.Errorf("got %v, want no record", all)
	}
	close(leave)
	b.archived("failed", "a:0")
	server.Shutdown()
	if n, err := b.store.CarryOver(t.Context()); n != 1 || err != nil || !b.has(key("a")) {
		t.Errorf("got %d, %v, want it carried over", n, err)
	}
	if b.info("failed", "a:0") != nil {
		t.Error("the task is still there")
	}
}
