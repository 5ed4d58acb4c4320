package worker_test

import (
	"context"
	"sync/atomic"
	"testing"

	"onceover/celery"
)

// preparing is a handler that begins to read before it runs.
type preparing struct{ prepared, ran atomic.Int32 }

func (p *preparing) Prepare(r *celery.Request) {
	p.prepared.Add(1)
	r.Memo = "read ahead"
	if len(r.Args) > 0 {
		panic("while it prepares")
	}
}

func (p *preparing) Run(_ context.Context, r *celery.Request) (any, error) {
	p.ran.Add(1)
	return r.Memo, nil
}

// TestPrepare has a handler prepare its run, once, and a panic in that cost the job nothing.
func TestPrepare(t *testing.T) {
	b := setup(t)
	p := &preparing{}
	b.task("t", p)
	b.start()
	for n, args := range [][]any{nil, {1}} {
		m := b.wait(b.send("t", nil, args...))
		if m.Status != celery.Success || string(m.Result) != `"read ahead"` {
			t.Errorf("got %s %s", m.Status, m.Result)
		}
		if prepared, ran := p.prepared.Load(), p.ran.Load(); int(prepared) != n+1 || prepared != ran {
			t.Errorf("got it prepared %d times and run %d times", prepared, ran)
		}
	}
	if n := b.logs.FilterMessage("Prepare panicked").Len(); n != 1 {
		t.Errorf("got %d lines of the panic, want 1", n)
	}
}
