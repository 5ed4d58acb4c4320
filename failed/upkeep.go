package failed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/zap"
)

// Periodic is work that one process does once in each period, however many run.
type Periodic struct {
	Name  string
	Every time.Duration
	Run   func(ctx context.Context) error
}

// upkeepTimeout is the longest that periodic work may take.
const upkeepTimeout = 10 * time.Minute

// Schedule adds periodic work. It must not be called after Run, and be the same in
// all processes.
func (s *Store) Schedule(work ...Periodic) { s.periodic = append(s.periodic, work...) }

// tick enqueues what is due. The task of a period has the period in its id, so
// that only the first process to enqueue it does.
func (s *Store) tick(ctx context.Context) {
	done := map[string]int64{}
	timer := time.NewTicker(time.Second)
	defer timer.Stop()
	for {
		for _, p := range s.periodic {
			slot := time.Now().UnixNano() / int64(p.Every)
			if done[p.Name] == slot {
				continue
			}
			_, err := s.queue.EnqueueContext(ctx, asynq.NewTask(p.Name, nil),
				asynq.Queue(QueueUpkeep), asynq.TaskID(fmt.Sprintf("%s:%d", p.Name, slot)),
				asynq.Retention(2*p.Every), asynq.MaxRetry(3), asynq.Timeout(upkeepTimeout))
			if err == nil {
				s.hasWork()
			}
			if err == nil || errors.Is(err, asynq.ErrTaskIDConflict) {
				done[p.Name] = slot
			}
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// upkeep does the periodic work that a task names.
func (s *Store) upkeep(ctx context.Context, t *asynq.Task) error {
	for _, p := range s.periodic {
		if p.Name != t.Type() {
			continue
		}
		began := time.Now()
		if err := p.Run(ctx); err != nil {
			s.log.Warn("periodic work failed", zap.String("name", p.Name), zap.Error(err))
			return err
		}
		s.log.Info("periodic work done", zap.String("name", p.Name), zap.Float64("duration_seconds", time.Since(began).Seconds()))
		return nil
	}
	return fmt.Errorf("periodic work %q is not known to this version: %w", t.Type(), asynq.SkipRetry)
}

// Expire discards the failed jobs that are older than the retention, and what is
// left over of others: causes that nothing has, and pieces of messages whose task has gone. It
// returns how many jobs were discarded.
func (s *Store) Expire(ctx context.Context) (n int, err error) {
	if s.cfg.Retention > 0 {
		n, err = s.expire(ctx, time.Now().Add(-s.cfg.Retention))
		if n > 0 {
			s.log.Info("failed jobs beyond their retention discarded", zap.Int("jobs", n), zap.Duration("retention", s.cfg.Retention))
		}
		if err != nil {
			return n, err
		}
	}
	if err := s.forgetCauses(ctx); err != nil {
		return n, err
	}
	return n, s.sweepPieces(ctx)
}
