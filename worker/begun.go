package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"onceover/celery"
)

// suspicious is from how many deaths on a job does not run beside another one of which as many died: of a job that kills its process
// those die too that are at work there, each time if they begin with it each time.
const suspicious = 2

// errSuspect says that a job that is suspicious has to wait for its turn.
var errSuspect = errors.New("another job is at work of which processes may have died")

// killed counts the run of a job that begins and was seen before, and returns the failure of one of which
// too many processes died. The error is errSuspect if the job has to wait for its turn first.
func (j *job) killed(ctx context.Context) (*celery.Exception, error) {
	if !j.seen || j.w.cfg.MaxCrashes == 0 || j.isCounted() {
		return nil, nil
	}
	run := uuid.NewString()
	j.setCounted(run)
	times, err := j.w.marks.CountRun(ctx, j.req.ID, run)
	if err != nil {
		return nil, err
	}
	deaths := times - 1 // this one has not begun
	if j.delivery.Redelivered && !j.delivery.Own.Again {
		deaths++ // the first delivery was not counted
	}
	if deaths < j.w.cfg.MaxCrashes {
		if deaths >= suspicious && !j.takeTurn() {
			j.uncount(ctx) // it has not begun
			return nil, errSuspect
		}
		return nil, nil
	}
	j.setCounted("")
	return &celery.Exception{Type: "WorkerLostError", Module: celery.ModuleBilliard, Args: []any{
		fmt.Sprintf("work on the task has begun %d times and did not end: the processes that ran it seem to have died of it", deaths)}}, nil
}

// takeTurn reports whether the job has the turn of the suspicious ones.
func (j *job) takeTurn() bool {
	if !j.turn {
		select {
		case j.w.suspects <- struct{}{}:
			j.turn = true
		default:
		}
	}
	return j.turn
}

// waitForTurn waits for the turn of the suspicious jobs, outside of the slots.
func (j *job) waitForTurn(waits context.Context) error {
	defer j.inTheWay()()
	select {
	case j.w.suspects <- struct{}{}:
		j.turn = true
		return nil
	case <-waits.Done():
		return context.Cause(waits)
	}
}

// giveTurn gives the turn back, if the job has it.
func (j *job) giveTurn() {
	if j.turn {
		j.turn = false
		<-j.w.suspects
	}
}

// outlive says that the run goes on when its session is lost, and takes it out of the crash
// count: the broker redelivers the job although this process is alive. It says nothing once jobs
// has ended: the process ends then, and the run with it. The caller calls stop when the run has
// ended.
func (j *job) outlive(jobs context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(jobs))
	done := make(chan struct{})
	unwatch := context.AfterFunc(j.consumer.gone, func() {
		defer close(done)
		if errors.Is(context.Cause(j.consumer.gone), errSessionLost) && jobs.Err() == nil {
			j.sayAlive(ctx)
			j.uncount(ctx)
		}
	})
	return func() {
		cancel()
		if !unwatch() {
			<-done
		}
	}
}

// sayAlive tells the workers to which the broker redelivers the job that this run goes on.
func (j *job) sayAlive(ctx context.Context) {
	run := j.runName()
	if run == "" {
		return
	}
	named, err := j.book.Alive(ctx, j.req.ID, run)
	if err != nil {
		j.w.log.Debug("others do not know that the run goes on", zap.String("task_id", j.req.ID), zap.Error(err))
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.run == run {
		j.run = named
	}
}

// uncount removes the run from the crash count, trying until ctx ends. A run that stays would
// look like a crash.
func (j *job) uncount(ctx context.Context) {
	run := j.setCounted("")
	if run == "" {
		return
	}
	if err := j.w.marks.NotBegun(ctx, j.req.ID, run); err != nil {
		j.setCounted(run)
		j.w.log.Debug("run not removed from the crash count", zap.String("task_id", j.req.ID), zap.Error(err))
	}
}

// uncountSoon is uncount for a run that has ended in good order.
func (j *job) uncountSoon() {
	if !j.isCounted() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	j.uncount(ctx)
}

// isCounted reports whether an earlier round of the job counts.
func (j *job) isCounted() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.counted != ""
}

// setCounted changes the name under which the run counts, "" if it does not.
func (j *job) setCounted(run string) (before string) {
	return j.rename(&j.counted, run)
}
