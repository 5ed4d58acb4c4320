package worker_test

import (
	"testing"
	"time"

	"onceover/celery"
	"onceover/results"
)

// TestStoreRefuses has a key of another type where the end of a job is to be recorded: the job is
// held and tried again, not given back, and ends when the key has gone.
func TestStoreRefuses(t *testing.T) {
	b := setup(t)
	g := newGate()
	close(g.release)
	b.task("t", g)
	id := b.send("t", nil)
	if err := b.redis.LPush(t.Context(), results.Key(id), "x").Err(); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.until(func() bool { return b.logs.FilterMessage("a job cannot go on, trying again").Len() > 0 })
	began := time.Now()
	b.until(func() bool { return time.Since(began) > 4*time.Second }) // for more than one try
	b.redis.Del(t.Context(), results.Key(id))
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	if e := b.outcome(id); e.ContextMap()["redelivered"] != false || g.runs.Load() != 1 {
		t.Errorf("got %v and %d runs, want the first delivery and one run", e.ContextMap(), g.runs.Load())
	}
}
