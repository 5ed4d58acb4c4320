package failed

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"onceover/rabbit"
)

// TestManyFailedJobs keeps, lists and replays very many failed jobs: 3,000, or
// 100,000 with ONCEOVER_TEST_FULL=1.
func TestManyFailedJobs(t *testing.T) {
	n := 3_000
	if os.Getenv("ONCEOVER_TEST_FULL") == "1" {
		n = 100_000
	}
	b := setupSerial(t)
	b.store = New(Config{}, b.client, b.results, b.marks, prometheus.NewRegistry(), zap.NewNop())
	stop := b.run(b.store, b.out.publish)
	watch := newStopwatch(t)

	// The message is made once: what is measured is the store.
	template := failure(t, "template")
	records := make([]Record, n)
	for i := range records {
		r := template
		r.ID = fmt.Sprintf("job-%06d", i)
		r.Message = r.Message.Clone()
		r.Message.Headers["id"], r.Message.Headers["root_id"] = r.ID, r.ID
		records[i] = r
	}
	watch.lap("made")
	b.keepMany(records)
	watch.lap("kept")
	deadline, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var queues []string
	for left := 1; left > 0; {
		left = 0
		var err error
		if queues, err = b.store.failedQueues(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, q := range queues {
			left += int(b.client.LLen(deadline, "asynq:{"+q+"}:pending").Val() + b.client.LLen(deadline, "asynq:{"+q+"}:active").Val())
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline.Done():
			t.Fatalf("%d jobs are not archived", left)
		}
	}
	watch.lap("archived besides")
	t.Logf("queues: %v; Redis uses %s", queues, infoField(b.client.Info(t.Context(), "memory").Val(), "used_memory_human"))
	if len(queues) != (n-1)/fullQueue+1 {
		t.Errorf("got queues %v, want %d", queues, (n-1)/fullQueue+1)
	}
	for _, q := range queues {
		if size := b.client.ZCard(t.Context(), "asynq:{"+q+"}:archived").Val(); size >= roomForQueue {
			t.Errorf("queue %s has %d jobs, want fewer than %d", q, size, roomForQueue)
		}
	}
	stop()

	refs := make([]Ref, 0, n)
	listed := map[string]bool{}
	err := b.store.Each(t.Context(), Filter{}, func(e Entry) bool {
		refs = append(refs, e.Ref)
		listed[e.ID] = true
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	watch.lap("listed")
	if len(refs) != n || len(listed) != n {
		t.Errorf("listed %d records of %d jobs, want %d", len(refs), len(listed), n)
	}
	if found, err := b.store.Find(t.Context(), records[0].ID); err != nil || len(found) != 1 {
		t.Errorf("the first of all: got %v, %v", found, err)
	}
	watch.lap("found by id")
	if found, err := b.store.Find(t.Context(), "job-000000"); err != nil || len(found) != 1 {
		t.Errorf("by a prefix: got %v, %v", found, err)
	}

	var published atomic.Int64
	seen := make([]atomic.Int32, n)
	publish := func(_ context.Context, _ bool, messages ...rabbit.Message) error {
		for _, m := range messages {
			i, err := strconv.Atoi(strings.TrimPrefix(text(m.Headers["id"]), "job-"))
			if err != nil {
				return err
			}
			seen[i].Add(1)
		}
		published.Add(int64(len(messages)))
		return nil
	}
	batches := make(chan []Ref)
	var replays sync.WaitGroup
	for range 2 {
		replays.Go(func() {
			for batch := range batches {
				out, err := b.store.Replay(t.Context(), batch, publish, nil)
				if err != nil {
					t.Error(err)
				}
				for _, o := range out {
					if !o.Done {
						t.Errorf("got %+v", o)
					}
				}
			}
		})
	}
	for batch := range slices.Chunk(refs, ReplayBatch) {
		batches <- batch
	}
	close(batches)
	replays.Wait()
	watch.lap("replayed")
	if published.Load() != int64(n) {
		t.Errorf("published %d messages, want %d", published.Load(), n)
	}
	for i := range seen {
		if k := seen[i].Load(); k != 1 {
			t.Errorf("job %d was published %d times, want once", i, k)
		}
	}
	if left := b.entries(); len(left) != 0 {
		t.Errorf("got %d records left, want none", len(left))
	}
}

// stopwatch logs what a step took.
type stopwatch struct {
	t    *testing.T
	last time.Time
}

func newStopwatch(t *testing.T) *stopwatch { return &stopwatch{t, time.Now()} }

func (w *stopwatch) lap(step string) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.t.Logf("%s: %v, heap %d MB, of the system %d MB, %d goroutines", step, time.Since(w.last).Round(time.Millisecond),
		m.HeapAlloc>>20, m.Sys>>20, runtime.NumGoroutine())
	w.last = time.Now()
}
