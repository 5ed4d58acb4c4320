package failed

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/rabbit"
)

// keepMany keeps records from several goroutines.
func (b *bundle) keepMany(records []Record) {
	b.t.Helper()
	var wg sync.WaitGroup
	for part := range slices.Chunk(records, (len(records)+7)/8) {
		wg.Go(func() {
			for _, r := range part {
				if err := b.store.Keep(b.t.Context(), r); err != nil {
					b.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// crowd fills the archive of a queue with names, so that it has no room; the
// returned function takes them out again.
func (b *bundle) crowd(queue string) (empty func()) {
	b.t.Helper()
	key := "asynq:{" + queue + "}:archived"
	// Newer than all others, so that they are the last to be looked at.
	newer := float64(time.Now().Add(time.Hour).Unix())
	var names []redis.Z
	for i := range roomForQueue {
		names = append(names, redis.Z{Score: newer, Member: fmt.Sprint("crowd-", i)})
	}
	ctx := context.WithoutCancel(b.t.Context())
	_, err := b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZAdd(ctx, key, names...)
		for _, n := range names {
			p.HSet(ctx, fmt.Sprintf("asynq:{%s}:t:%s", queue, n.Member), "msg", "", "state", "archived")
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return func() {
		score := fmt.Sprint(int64(newer))
		if err := b.client.ZRemRangeByScore(ctx, key, score, score).Err(); err != nil {
			b.t.Error(err)
		}
	}
}

// TestRotation keeps more jobs than a queue takes.
func TestRotation(t *testing.T) {
	b := setup(t)
	b.out.refuse(func(rabbit.Message) error { return errAway })
	b.run(b.store, b.out.publish)
	const n = fullQueue + 200
	var records []Record
	records = append(records, sized(t, "large", 200<<10, "x"))
	for i := range n - 1 {
		records = append(records, failure(t, fmt.Sprintf("job-%05d", i)))
	}
	began := time.Now()
	b.keepMany(records)
	t.Logf("%d jobs kept in %v", n, time.Since(began))
	began = time.Now()
	count := func(queue, state string) int64 { return b.client.ZCard(t.Context(), "asynq:{"+queue+"}:"+state).Val() }
	b.within(4*patience, "all are archived", func() bool { return count(QueueFailed, "archived")+count("failed-2", "archived") == n })
	t.Logf("and archived %v later", time.Since(began))
	if first := count(QueueFailed, "archived"); first < fullQueue || first > fullQueue+200 {
		t.Errorf("got %d jobs in the first queue, want %d and a few", first, fullQueue)
	}
	wantAll := func() {
		t.Helper()
		seen := map[string]int{}
		for _, e := range b.entries() {
			seen[e.ID]++
		}
		for _, r := range records {
			if seen[r.ID] != 1 {
				t.Errorf("job %s is listed %d times, want once", r.ID, seen[r.ID])
			}
		}
		if len(seen) != n {
			t.Errorf("got %d jobs, want %d", len(seen), n)
		}
	}
	wantAll()
	// A redelivery of what is in the queue before changes nothing.
	for _, s := range []*Store{b.store, b.newStore(Config{})} {
		if err := s.Keep(t.Context(), records[0]); err != nil {
			t.Fatal(err)
		}
	}
	wantAll()

	// Run in vain, it has no room in the old queue, and moves.
	empty := b.crowd(QueueFailed)
	b.runTask(ref("large"))
	b.archived(Ref{"failed-2", "large:0"})
	b.until("it has left the old queue", func() bool { return b.info(ref("large")) == nil })
	empty()
	wantAll()
	if got := b.get(Ref{"failed-2", "large:0"}); !bytes.Equal(got.Message.Body, records[0].Message.Body) {
		t.Error("the job that moved has another body")
	}
	hours, err := b.store.Hours(t.Context(), 2)
	if err != nil || hours[0].Total()+hours[1].Total() != n {
		t.Errorf("got counts %v, %v, want %d failures", hours, err, n)
	}

	// The newest are listed first.
	if all := b.entries(); all[0].Ref.Queue != "failed-2" || all[n-1].Ref.Queue != QueueFailed {
		t.Errorf("got first %v, last %v", all[0].Ref, all[n-1].Ref)
	}
	if refs, err := b.store.Find(t.Context(), "job-00000"); err != nil || !slices.Equal(refs, []Ref{ref("job-00000")}) {
		t.Errorf("got %v, %v", refs, err)
	}
}

// TestOldQueue begins the next queue when the oldest job of the last has lain there
// for long.
func TestOldQueue(t *testing.T) {
	b := setup(t)
	b.out.refuse(func(rabbit.Message) error { return errAway })
	b.keep(failure(t, "old"))
	b.aged(oldQueue+time.Hour, "old")
	s := b.newStore(Config{})
	if err := s.Keep(t.Context(), failure(t, "new")); err != nil {
		t.Fatal(err)
	}
	if b.info(Ref{"failed-2", "new:0"}) == nil {
		t.Fatal("the next queue has not begun")
	}
	b.run(s, b.out.publish)
	b.archived(Ref{"failed-2", "new:0"})
	b.runTask(ref("old"))
	b.archived(ref("old")) // there is still room for its age
}

// TestTooOldQueue runs a job of a queue that asynq is about to trim.
func TestTooOldQueue(t *testing.T) {
	b := setup(t)
	b.out.refuse(func(rabbit.Message) error { return errAway })
	b.keep(failure(t, "old"))
	b.keep(failure(t, "older"))
	b.aged(95*24*time.Hour, "old", "older")
	b.run(b.newStore(Config{}), b.out.publish)
	b.runTask(ref("old"))
	b.until("the job moves", func() bool {
		return b.info(Ref{"failed-2", "old:0"}) != nil && b.info(ref("old")) == nil
	})
	if b.info(ref("older")) == nil {
		t.Error("asynq has forgotten a job")
	}
	b.archived(Ref{"failed-2", "old:0"})
}

// aged archives jobs that failed so long ago.
func (b *bundle) aged(age time.Duration, ids ...string) {
	b.t.Helper()
	for _, id := range ids {
		if err := b.store.inspector.ArchiveTask(QueueFailed, id+":0"); err != nil {
			b.t.Fatal(err)
		}
	}
	ctx, at, lastErr := b.t.Context(), time.Now().Add(-age).Unix(), keptPrefix+"ValueError: boom"
	for _, id := range ids {
		key := "asynq:{failed}:t:" + id + ":0"
		msg, err := b.client.HGet(ctx, key, "msg").Bytes()
		if err != nil {
			b.t.Fatal(err)
		}
		// Fields 11 and 7 of the protocol buffer, last_failed_at and error_msg.
		msg = binary.AppendUvarint(append(msg, 11<<3), uint64(at))
		msg = append(binary.AppendUvarint(append(msg, 7<<3|2), uint64(len(lastErr))), lastErr...)
		_, err = b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.HSet(ctx, key, "msg", msg)
			p.ZAdd(ctx, "asynq:{failed}:archived", redis.Z{Score: float64(at), Member: id + ":0"})
			return nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestTaskHasGone has Redis lose the hash of one task, such as by eviction: the
// others do not suffer.
func TestTaskHasGone(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	b.keep(failure(t, "gone"))
	b.keep(failure(t, "a"))
	b.archived(ref("gone"), ref("a"))
	if err := b.client.Del(t.Context(), "asynq:{failed}:t:gone:0").Err(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := b.newStore(Config{}).Keep(ctx, failure(t, "b")); err != nil {
		t.Fatal(err)
	}
	var listed []string
	if err := b.store.Each(t.Context(), Filter{}, func(e Entry) bool { listed = append(listed, e.ID); return true }); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if !slices.Contains(listed, id) {
			t.Errorf("got %v listed, want %s among them", listed, id)
		}
	}
	b.archived(ref("b"))
}

// TestNoRoomYet archives in a full queue while the store still takes it for the
// last one, as it may for a second: the job must not be taken for moved.
func TestNoRoomYet(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	defer b.crowd(QueueFailed)()
	s := b.newStore(Config{})
	s.mu.Lock()
	s.current, s.checked, s.since = QueueFailed, time.Now().Add(time.Hour), -1000
	s.mu.Unlock()
	b.run(s, b.out.publish)
	b.until("the job is handled", func() bool {
		info := b.info(ref("a"))
		return info == nil || info.LastErr != "" || b.info(Ref{"failed-2", "a:0"}) != nil
	})
	if b.info(ref("a")) == nil && b.info(Ref{"failed-2", "a:0"}) == nil {
		t.Error("the job is lost")
	}
}
