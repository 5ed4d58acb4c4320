package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/worker"
)

// TestHeldBytes sends far more large bodies than the worker is to hold, to jobs that run and to
// jobs that wait for their ETA: it holds its budget and one window at most, and runs all.
func TestHeldBytes(t *testing.T) {
	const (
		size   = 256 << 10
		budget = 2 << 20
		jobs   = 30
		most   = budget/size + budget/size // the budget, and a window of as many at most
	)
	for name, later := range map[string]bool{"at work": false, "before their ETA": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.queue("large", amqp.Table{})
			b.cfg.Queues, b.cfg.Concurrency, b.cfg.HeldBytes = []string{"large"}, 200, budget
			release := make(chan struct{})
			b.task("t", worker.HandlerFunc(func(ctx context.Context, r *celery.Request) (any, error) {
				select {
				case <-release:
					return nil, nil
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			}))
			req := &celery.Request{Task: "t", Args: []json.RawMessage{[]byte(fmt.Sprintf("%q", strings.Repeat("x", size)))}}
			if later {
				req.ETA = heldETA()
			}
			props, headers, body, err := req.Encode()
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for range jobs {
				id := uuid.NewString()
				headers["id"] = id
				if err := b.publishTo("", "large", publishing(props, headers, body)); err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id)
			}
			b.start()
			b.until(func() bool { return b.left("large") < jobs })
			left := jobs
			for quiet := time.Now(); time.Since(quiet) < 1500*time.Millisecond; time.Sleep(20 * time.Millisecond) {
				if now := b.left("large"); now != left {
					left, quiet = now, time.Now()
				}
			}
			if held := jobs - left; held > most || held == 0 {
				t.Errorf("%d bodies of %d KiB are held, want 1 to %d", held, size>>10, most)
			}
			close(release)
			for _, id := range ids {
				if m := b.wait(id); m.Status != celery.Success {
					t.Errorf("task %s: got %s, want SUCCESS", id, m.Status)
				}
			}
		})
	}
}
