package worker

import "testing"

func TestWindow(t *testing.T) {
	t.Parallel()
	const budget = 512 << 20
	b := newBodies()
	if got := b.window(100, budget); got != 50 {
		t.Errorf("before any body: got a window of %d, want half of 100: 64 bodies of %d bytes fit", got, unknownBody)
	}
	if got := b.window(10000, budget); got != 39 {
		t.Errorf("before any body: got a window of %d, want a power of two below 64", got)
	}
	for range 400 {
		b.take(1000)
	}
	if got := b.window(10000, budget); got != 10000 {
		t.Errorf("after small bodies: got %d, want all", got)
	}
	b.take(5 << 20)
	if got := b.window(10000, budget); got != 78 || got*5<<20 > budget {
		t.Errorf("after one of 5 MiB: got %d, want as many as fit", got)
	}
	b.take(1 << 30)
	if got := b.window(10000, budget); got != 1 {
		t.Errorf("after one that is larger than the budget: got %d, want 1", got)
	}
	for range 401 {
		b.give(1000)
	}
	if got := b.bytes(); got != (5<<20)+(1<<30)-1000 {
		t.Errorf("got %d bytes held", got)
	}
}
