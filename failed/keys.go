package failed

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// Keys of failed jobs in DB5. The braces put all of them into one slot of Redis Cluster, so that
// one script may change them together.
const (
	prefix    = "onceover:{failed}:"
	timesKey  = prefix + "times"  // sorted set: the key of each record by when its job failed last
	namesKey  = prefix + "names"  // sorted set of the same keys, with one score: in the order of their texts
	causesKey = prefix + "causes" // hash: what is known of each cause, by its id
	seenKey   = prefix + "seen"   // sorted set: the id of each cause by when it was met with last,
	firstKey  = prefix + "first"  // and for the first time
)

// recordKey is the hash of a record: see [Store.Keep].
func recordKey(k Key) string { return prefix + "job:" + string(k) }

// causeKey is a sorted set as timesKey is, of the records of one cause.
func causeKey(id string) string { return prefix + "cause:" + id }

// longKey is a hash with the message of a record that is longer than pieceSize, with a field for
// each piece. sum is that of the message: two that come for one record do not disturb each other.
func longKey(k Key, sum string) string { return prefix + "message:" + string(k) + ":" + sum }

// goneKey is there for an hour after a record was forgotten, where replicas are asked for: whoever waits for them with the record does not
// take it for lost with a server.
func goneKey(k Key) string { return prefix + "gone:" + string(k) }

const goneTTL = time.Hour

// metKey counts the failures of an hour: a hash with a field for each five minutes and cause.
func metKey(hour time.Time) string { return prefix + "met:" + hour.UTC().Format(hourLayout) }

func lockKey(k Key) string { return "onceover:replaying:" + string(k) }

// queuesKey is asynq's set of its queues. Asynq adds a queue to it once in each
// process: one that was deleted since, or lost, would not be listed again.
const queuesKey = "asynq:queues"

// taskKey is the key of a task in asynq 0.26.
func taskKey(queue, task string) string { return "asynq:{" + queue + "}:t:" + task }

// parked counts the jobs that wait. Asynq's own count fails once a task has gone from Redis.
func (s *Store) parked(ctx context.Context) (int, error) {
	p := "asynq:{" + QueueDelay + "}:" // the keys of asynq 0.26
	var counts []*redis.IntCmd
	_, err := s.client.Pipelined(ctx, func(c redis.Pipeliner) error {
		counts = append(counts, c.LLen(ctx, p+"pending"), c.LLen(ctx, p+"active"),
			c.ZCard(ctx, p+"scheduled"), c.ZCard(ctx, p+"retry"), c.ZCard(ctx, p+"archived"))
		return nil
	})
	n := 0
	for _, c := range counts {
		n += int(c.Val())
	}
	return n, err
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
