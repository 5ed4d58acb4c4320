package eval

import (
	"context"
	"errors"
	"sync"

	"onceover/vision"
)

// ErrMaxCost says that the next picture might cost more than is left of Config.MaxCost.
var ErrMaxCost = errors.New("the next picture might exceed the cost limit")

// margin is how many times the dearest picture so far a call about the next one may cost.
const margin = 2

// budget keeps what is spent, and what pictures in flight may still cost, within a limit.
type budget struct {
	max int64 // micro-dollars; 0: no limit

	mu       sync.Mutex
	spent    int64
	reserved int64            // by pictures in flight
	flying   int              // pictures in flight
	dearest  map[string]int64 // by model: micro-dollars of the dearest picture
	freed    chan struct{}    // closed when any of these changes
}

func newBudget(limit, spent int64) *budget {
	return &budget{max: limit, spent: spent, dearest: map[string]int64{}, freed: make(chan struct{})}
}

// worst is what a picture may cost if the dearest one so far took so much: it may need several calls.
func worst(dearest int64) int64 { return margin * vision.MaxPaid * dearest }

// take reserves what a picture may cost. It waits while pictures in flight hold too much. As long as nothing is known of a
// model's cost, its picture has all that is left, and goes alone. The error is ErrMaxCost or why ctx ended.
func (b *budget) take(ctx context.Context, model string) (int64, error) {
	for {
		b.mu.Lock()
		left := b.max - b.spent - b.reserved
		need := worst(b.dearest[model])
		switch {
		case ctx.Err() != nil:
			b.mu.Unlock()
			return 0, context.Cause(ctx)
		case b.max == 0, need > 0 && need <= left:
			b.reserved += need
			b.flying++
			b.mu.Unlock()
			return need, nil
		case need == 0 && b.flying == 0 && left > 0:
			b.reserved += left
			b.flying++
			b.mu.Unlock()
			return left, nil
		case b.flying == 0:
			b.mu.Unlock()
			return 0, ErrMaxCost
		}
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
		}
	}
}

// total is what was spent. It leaves out what pictures in flight may take, as most take a fraction of that.
func (b *budget) total() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spent
}

// give returns a reservation: v is what became of the picture.
func (b *budget) give(reserved int64, v Verdict) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reserved -= reserved
	b.flying--
	if v.CostMicroUSD != nil {
		b.spent += *v.CostMicroUSD
		b.dearest[v.Model] = max(b.dearest[v.Model], *v.CostMicroUSD)
	}
	b.spent += v.assumed(b.dearest[v.Model])
	close(b.freed)
	b.freed = make(chan struct{})
}
