package failed

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// queuesKey is asynq's set of its queues. Asynq adds a queue to it once in each
// process: one that was deleted since, or lost, would not be listed again.
const queuesKey = "asynq:queues"

// taskKey is the key of a task in asynq 0.26.
func taskKey(queue, task string) string { return "asynq:{" + queue + "}:t:" + task }

// sizes is what a queue holds, and how old the oldest job in its archive is. Asynq's
// own count fails once a task has gone from Redis.
type sizes struct {
	pending, active, scheduled, retry, archived int
	age                                         time.Duration
}

func (s sizes) total() int { return s.pending + s.active + s.scheduled + s.retry + s.archived }

func (s *Store) sizes(ctx context.Context, queue string) (sizes, error) {
	p := "asynq:{" + queue + "}:" // the keys of asynq 0.26
	var lens [5]*redis.IntCmd
	var oldest *redis.ZSliceCmd
	_, err := s.client.Pipelined(ctx, func(c redis.Pipeliner) error {
		lens = [5]*redis.IntCmd{c.LLen(ctx, p+"pending"), c.LLen(ctx, p+"active"),
			c.ZCard(ctx, p+"scheduled"), c.ZCard(ctx, p+"retry"), c.ZCard(ctx, p+"archived")}
		oldest = c.ZRangeWithScores(ctx, p+"archived", 0, 0)
		return nil
	})
	if err != nil {
		return sizes{}, err
	}
	out := sizes{pending: int(lens[0].Val()), active: int(lens[1].Val()),
		scheduled: int(lens[2].Val()), retry: int(lens[3].Val()), archived: int(lens[4].Val())}
	if z := oldest.Val(); len(z) > 0 {
		out.age = time.Since(time.Unix(int64(z[0].Score), 0))
	}
	return out, nil
}

// pace makes a command that Redis did not answer take a moment: asynq asks for the
// next task again at once, and would keep a core busy for each queue.
type pace struct{}

func (pace) DialHook(next redis.DialHook) redis.DialHook { return next }
func (pace) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (pace) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		var reply redis.Error
		if err != nil && ctx.Err() == nil && !errors.As(err, &reply) {
			select {
			case <-time.After(pollQueue):
			case <-ctx.Done():
			}
		}
		return err
	}
}
