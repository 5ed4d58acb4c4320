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
		if i%3 == 0 {
			r.Error = "KeyError"
		}
		r.Message = r.Message.Clone()
		r.Message.Headers["id"], r.Message.Headers["root_id"] = r.ID, r.ID
		records[i] = r
	}
	watch.lap("made")
	b.keepMany(records)
	watch.lap("kept")
	t.Logf("Redis uses %s", infoField(b.client.Info(t.Context(), "memory").Val(), "used_memory_human"))
	stop()

	page, err := b.store.Page(t.Context(), Filter{}, Cursor{}, 50)
	if err != nil || len(page.Entries) != 50 || page.Looked != 50 || page.Next.IsZero() {
		t.Errorf("got a page of %d, %d looked at, next %q, %v", len(page.Entries), page.Looked, page.Next, err)
	}
	watch.lap("first page of 50")
	causes, err := b.store.Causes(t.Context())
	if err != nil || len(causes) != 2 || causes[0].Kept+causes[1].Kept != n || causes[0].Day+causes[1].Day != n {
		t.Fatalf("got causes %+v, %v, want two of %d jobs", causes, err, n)
	}
	watch.lap("causes")
	f := Filter{Cause: causes[1].ID}
	if page, err = b.store.Page(t.Context(), f, Cursor{}, 50); err != nil || len(page.Entries) != 50 || page.Looked != 50 || page.Next.IsZero() {
		t.Errorf("got a page of %d, %d looked at, next %q, %v", len(page.Entries), page.Looked, page.Next, err)
	}
	watch.lap("page by cause")
	for _, f := range []Filter{{}, {Task: template.Task}} {
		if size, exact, err := b.store.Size(t.Context(), f); size != n || !exact || err != nil {
			t.Errorf("%+v: got size %d, %v, %v, want exactly %d", f, size, exact, err, n)
		}
	}
	if size, exact, err := b.store.Size(t.Context(), f); size != causes[1].Kept || !exact || err != nil {
		t.Errorf("got size %d of a cause, %v, %v, want exactly %d", size, exact, err, causes[1].Kept)
	}
	watch.lap("size")

	keys := make([]Key, 0, n)
	listed := map[string]bool{}
	err = b.store.Each(t.Context(), Filter{}, func(e Entry) bool {
		keys = append(keys, e.Key)
		listed[e.ID] = true
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	watch.lap("listed")
	if len(keys) != n || len(listed) != n {
		t.Errorf("listed %d records of %d jobs, want %d", len(keys), len(listed), n)
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
	batches := make(chan []Key)
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
	for batch := range slices.Chunk(keys, ReplayBatch) {
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
