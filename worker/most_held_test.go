package worker

import "testing"

// TestMostHeld holds jobs that have run, and wait for a destination that does not confirm: no more are fetched in their place
// than may wait for any other reason.
func TestMostHeld(t *testing.T) {
	w := &Worker{cfg: Config{Concurrency: 2, PrefetchMultiplier: 1, HeldBytes: 1 << 20}, bodies: newBodies(), queues: newQueues([]string{"q"})}
	for range maxScheduled + 2 {
		w.held.add(&job{phase: settled})
	}
	if !w.mayHoldMore() {
		t.Errorf("%d jobs are held, and no more may be", w.held.count())
	}
	w.held.add(&job{phase: settled})
	if w.mayHoldMore() {
		t.Errorf("%d jobs are held, and more may be", w.held.count())
	}
}
