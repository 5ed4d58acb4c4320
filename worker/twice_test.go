package worker_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"

	"onceover/celery"
	"onceover/results"
	"onceover/worker"
)

// refusals tells when the id of a job is found to be taken by another run.
type refusals struct {
	*results.Store
	taken chan string
	late  bool // a job hears of a refusal when it need not wait any more
}

// watchRefusals has the workers that start from here on tell when an id is refused to a job.
func (b *bundle) watchRefusals() refusals {
	r := refusals{b.results, make(chan string, 1), false}
	b.store = r
	return r
}

func (r refusals) Begin(ctx context.Context, taskID, run, from, earlier string) (celery.Stored, string, error) {
	stored, holder, err := r.Store.Begin(ctx, taskID, run, from, earlier)
	if err == nil && !strings.Contains(holder, run) {
		select {
		case r.taken <- taskID:
		default: // it asks again and again
		}
		if r.late {
			<-ctx.Done()
		}
	}
	return stored, holder, err
}

// TestOneIDInTwoWorkers publishes an id twice, to two workers with one slot each: the second waits
// for the end of the first, and has the same end.
func TestOneIDInTwoWorkers(t *testing.T) {
	for name, fails := range map[string]bool{"success": false, "failure": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.cfg.Concurrency = 1
			store := b.watchRefusals()
			g := newGate()
			b.task("t", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
				v, err := g.Run(ctx, r)
				if fails && err == nil {
					err = celery.NewException("ValueError", "no picture", nil)
				}
				return v, err
			}))
			b.start()
			b.start()
			id := uuid.NewString()
			for range 2 {
				b.send("t", func(r *celery.Request) { r.ID = id })
			}
			<-g.entered
			b.until(func() bool { return len(store.taken) > 0 || g.runs.Load() > 1 })
			close(g.release)
			b.until(func() bool { return len(b.outcomes(id)) == 2 })
			if got := b.outcomes(id); got[0] || !got[1] {
				t.Errorf("got runs that were duplicates: %v, want only the first to end", got)
			}
			if n := g.runs.Load(); n != 1 || b.left("q.ai") != 0 {
				t.Errorf("got %d runs and %d messages left, want 1 and 0", n, b.left("q.ai"))
			}
			want, records := celery.Success, 0
			if fails {
				want, records = celery.Failure, 1
			}
			if m := b.wait(id); m.Status != want || b.records(id) != records {
				t.Errorf("got %s and %d records, want %s and %d", m.Status, b.records(id), want, records)
			}
		})
	}
}
