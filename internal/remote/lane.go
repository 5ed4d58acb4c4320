package remote

import (
	"context"
	"time"
)

// laneLength is how many commands may wait in a lane.
const laneLength = 10000

// lane carries out the commands that have to wait for somebody else, Redis or the
// broker, one after the other and in the order of their requests. Those that
// wait for nobody are answered in the meantime.
type lane struct{ work chan func() }

func newLane() lane { return lane{make(chan func(), laneLength)} }

// later is returned by a command in place of its answer if it has to wait: do is
// called in the lane, and returns the answer.
type later struct {
	lane lane
	do   func() (any, error)
}

// add queues f, unless the lane is full.
func (l lane) add(f func()) (added bool) {
	select {
	case l.work <- f:
		return true
	default:
		return false
	}
}

// run carries out what is added until ctx ends, and then what still waits, but
// begins nothing after offlineTime.
func (l lane) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case f := <-l.work:
			f()
		case <-ctx.Done():
		}
	}
	for end := time.Now().Add(offlineTime); len(l.work) > 0 && time.Now().Before(end); {
		(<-l.work)() // nobody else takes from it
	}
}
