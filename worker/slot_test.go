package worker_test

import (
	"testing"

	"onceover/celery"
	"onceover/worker"
)

// TestLimitSetWhileJobsWait sets a rate limit of one run an hour while jobs of the task wait for
// the only slot: they do not keep another task from it.
func TestLimitSetWhileJobsWait(t *testing.T) {
	b := setup(t)
	b.cfg.Concurrency, b.cfg.PrefetchMultiplier = 1, 10
	g := newGate()
	b.task("busy", g)
	b.tasks = append(b.tasks, worker.Task{Name: "slow", Handler: value(1)})
	b.task("t", value(2))
	b.start()
	b.send("busy", nil)
	<-g.entered
	for range 3 {
		b.send("slow", nil)
	}
	id := b.send("t", nil)
	b.until(func() bool { return b.left("q.ai") == 0 })
	if reply := string(b.control("rate_limit", map[string]any{"task_name": "slow", "rate_limit": "1/h"})); reply != `{"ok":"new rate limit set successfully"}` {
		t.Fatalf("got %s", reply)
	}
	close(g.release)
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
}
