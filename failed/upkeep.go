package failed

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
// left over of others: pieces of messages whose task has gone, and queues that are
// empty and closed. It returns how many jobs were discarded.
func (s *Store) Expire(ctx context.Context) (int, error) {
	n := 0
	if s.cfg.Retention > 0 {
		var old []Ref
		limit := time.Now().Add(-s.cfg.Retention)
		err := s.Each(ctx, Filter{Before: limit}, func(e Entry) bool {
			if !e.Last.IsZero() {
				old = append(old, e.Ref)
			}
			return true
		})
		if err != nil {
			return 0, err
		}
		for _, ref := range old {
			if err := s.Discard(ctx, ref); err != nil {
				s.log.Warn("failed job beyond its retention not discarded", zap.String("key", ref.Key), zap.Error(err))
				continue // next time
			}
			n++
		}
		if n > 0 {
			s.log.Info("failed jobs beyond their retention discarded", zap.Int("jobs", n), zap.Duration("retention", s.cfg.Retention))
		}
	}
	if err := s.sweepPieces(ctx); err != nil {
		return n, err
	}
	return n, s.dropEmptyQueues(ctx)
}

func (s *Store) dropEmptyQueues(ctx context.Context) error {
	queues, err := s.failedQueues(ctx)
	if err != nil || len(queues) < 2 {
		return err
	}
	for _, q := range queues[:len(queues)-1] {
		has, err := s.sizes(ctx, q)
		if err == nil && has.total() == 0 {
			err = s.inspector.DeleteQueue(q, false)
		}
		if err != nil && !gone(err) && !errors.Is(err, asynq.ErrQueueNotEmpty) {
			return fmt.Errorf("remove the empty queue %s: %w", q, err)
		}
	}
	return nil
}

// sweepPieces has the pieces expire of messages whose task was deleted by somebody
// who does not know of them, such as Asynqmon.
func (s *Store) sweepPieces(ctx context.Context) error {
	prefix := strings.TrimRight(piecesKey("", "", ""), ":") + ":"
	scan := s.client.Scan(ctx, 0, prefix+"*", 500).Iterator()
	for scan.Next(ctx) {
		queue, rest, _ := strings.Cut(strings.TrimPrefix(scan.Val(), prefix), ":")
		cut := max(strings.LastIndexByte(rest, ':'), 0)
		key, sum := rest[:cut], strings.TrimPrefix(rest[cut:], ":")
		info, err := s.inspector.GetTaskInfo(queue, key)
		if err != nil && !gone(err) {
			return fmt.Errorf("look whether the message pieces of %s are needed: %w", key, err)
		}
		if err == nil {
			if j, err := decodeJob(info.Payload); err == nil && j.Sum == sum {
				// It may have been about to be deleted, and come back after a crash.
				if err := s.client.Persist(ctx, scan.Val()).Err(); err != nil {
					return fmt.Errorf("keep the message pieces of %s: %w", key, err)
				}
				continue
			}
		}
		// Not at once: the task may be about to be enqueued. If it is, the pieces are
		// written before it, without expiry.
		if err := s.client.ExpireNX(ctx, scan.Val(), usedPieces).Err(); err != nil {
			return fmt.Errorf("let the message pieces of %s expire: %w", key, err)
		}
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("look for left message pieces: %w", err)
	}
	return nil
}
