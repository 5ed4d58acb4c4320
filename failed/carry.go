package failed

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
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
	if !slices.ContainsFunc(queues, isOld) {
		return 0, nil
	}
	// One at a time: a list that was read a while ago would bring back what was replayed since.
	token := rand.Text()
	if err := s.client.SetArgs(ctx, carryKey, token, redis.SetArgs{Mode: "NX", TTL: carryLease}).Err(); err != nil {
		if errors.Is(err, redis.Nil) {
			return 0, nil // another process does it
		}
		return 0, fmt.Errorf("look for failed jobs of a version before: %w", err)
	}
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		release.Run(late, s.client, []string{carryKey}, token) // else it runs out
	}()
	held := func() (bool, error) {
		n, err := prolong.Run(ctx, s.client, []string{carryKey}, token, carryLease.Milliseconds()).Int()
		return n == 1, err
	}
	slices.SortFunc(queues, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }) // by age
	for _, queue := range queues {
		if !isOld(queue) {
			continue
		}
		moved, err := s.carryQueue(ctx, queue, held)
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

// carryKey is held by the process that carries over, for carryLease after it has died.
const (
	carryKey   = prefix + "carry"
	carryLease = 30 * time.Second
)

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

func (s *Store) carryQueue(ctx context.Context, queue string, held func() (bool, error)) (n int, err error) {
	for _, list := range []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		s.inspector.ListArchivedTasks, s.inspector.ListRetryTasks, s.inspector.ListPendingTasks,
	} {
		for page := 1; ; {
			if is, err := held(); err != nil || !is {
				return n, cmp.Or(err, context.Cause(ctx))
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
				moved, err := s.carryTask(ctx, queue, t.ID)
				if ctx.Err() != nil {
					return n, context.Cause(ctx)
				}
				if err != nil { // of this one; others go on
					s.log.Warn("failed job of a version before not carried over", zap.String("queue", queue), zap.String("key", t.ID), zap.Error(err))
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
	return n, nil // its queue stays: an older version may be about to add to it
}

// carryTask moves a task. One with a message that cannot be read is moved too, so that it is seen and can be discarded.
func (s *Store) carryTask(ctx context.Context, queue, key string) (moved bool, err error) {
	t, err := s.inspector.GetTaskInfo(queue, key) // as it is now: it may have been replayed
	if gone(err) || err == nil && t.State == asynq.TaskStateActive {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	j, err := s.read(ctx, queue, key, t.Payload)
	switch {
	case errors.Is(err, errNotOurs):
		return false, nil
	case errors.Is(err, errUnreadable):
		if j, err = decodeJob(t.Payload); err != nil {
			return false, err
		}
		_, err = s.add(ctx, Key(key), &j.Record, j.Message, false)
	case err == nil:
		_, err = s.Import(ctx, j.Record)
	}
	if err != nil {
		return false, err
	}
	if err := s.inspector.DeleteTask(queue, key); err != nil && !gone(err) {
		if t, again := s.inspector.GetTaskInfo(queue, key); again == nil && t.State == asynq.TaskStateActive {
			return false, nil // somebody works on it
		}
		return false, fmt.Errorf("it is kept here, and not taken out of asynq: %w", err)
	}
	if j.Pieces == 0 {
		return true, nil
	}
	return true, s.client.Unlink(ctx, piecesKey(queue, key, j.Sum)).Err()
}
