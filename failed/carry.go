package failed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/zap"
)

// Versions before this one kept failed jobs as tasks of asynq, in the archives of queues "failed",
// "failed-2", "failed-3", …
const oldQueue = "failed"

// isOld reports whether a queue of asynq is one of those.
func isOld(queue string) bool {
	rest, ok := strings.CutPrefix(queue, oldQueue)
	if !ok || rest == "" {
		return ok
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "-"))
	return err == nil && n >= 2 && rest == "-"+strconv.Itoa(n)
}

// CarryOver moves the failed jobs that versions before this one kept, and returns how many. It may
// be repeated, and called by several processes at once. A task that is being worked on by such a
// version stays for the next call, and so does one that is not ours.
func (s *Store) CarryOver(ctx context.Context) (n int, err error) {
	queues, err := s.client.SMembers(ctx, queuesKey).Result()
	if err != nil {
		return 0, fmt.Errorf("look for failed jobs of a version before: %w", err)
	}
	slices.SortFunc(queues, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }) // by age
	for _, queue := range queues {
		if !isOld(queue) {
			continue
		}
		moved, err := s.carryQueue(ctx, queue)
		n += moved
		if err != nil {
			return n, fmt.Errorf("carry over failed jobs of asynq's queue %s: %w", queue, err)
		}
	}
	if n > 0 {
		s.log.Info("failed jobs of a version before carried over", zap.Int("jobs", n))
	}
	return n, nil
}

// carryEvery is the time between looks for failed jobs of a version before.
const carryEvery = time.Minute

// carry carries over until ctx ends: workers of a version before may run beside this one.
func (s *Store) carry(ctx context.Context) {
	tick := time.NewTicker(carryEvery)
	defer tick.Stop()
	for {
		if _, err := s.CarryOver(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("failed jobs of a version before not carried over, trying again", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Store) carryQueue(ctx context.Context, queue string) (n int, err error) {
	for _, list := range []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		s.inspector.ListArchivedTasks, s.inspector.ListRetryTasks, s.inspector.ListPendingTasks,
	} {
		for page := 1; ; {
			if err := context.Cause(ctx); err != nil {
				return n, err
			}
			tasks, err := list(queue, asynq.PageSize(pageSize), asynq.Page(page))
			if gone(err) {
				return n, nil
			}
			if err != nil {
				return n, err
			}
			if len(tasks) == 0 {
				break
			}
			before := n
			for _, t := range tasks {
				moved, err := s.carryTask(ctx, queue, t)
				if err != nil {
					return n, err
				}
				if moved {
					n++
				}
			}
			if n == before { // these stay
				page++
			}
		}
	}
	err = s.inspector.DeleteQueue(queue, false)
	if err != nil && !gone(err) && !errors.Is(err, asynq.ErrQueueNotEmpty) {
		return n, err
	}
	return n, nil
}

func (s *Store) carryTask(ctx context.Context, queue string, t *asynq.TaskInfo) (moved bool, err error) {
	j, err := s.read(ctx, queue, t.ID, t.Payload)
	if errors.Is(err, errNotOurs) || errors.Is(err, errUnreadable) {
		s.log.Debug("failed job not carried over", zap.String("queue", queue), zap.String("key", t.ID), zap.Error(err))
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if _, err := s.Import(ctx, j.Record); err != nil {
		return false, err
	}
	if err := s.inspector.DeleteTask(queue, t.ID); err != nil && !gone(err) {
		s.log.Debug("failed job not taken out of asynq", zap.String("queue", queue), zap.String("key", t.ID), zap.Error(err))
		return false, nil // somebody works on it
	}
	if j.Pieces == 0 {
		return true, nil
	}
	return true, s.client.Unlink(ctx, piecesKey(queue, t.ID, j.Sum)).Err()
}
