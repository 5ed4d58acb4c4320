package failed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// replicationTime is how long one WAIT lasts.
const replicationTime = time.Second

// replicatedKey is written before a WAIT, which waits for the last write of its own connection.
const replicatedKey = "onceover:replicated"

// errGone says that what was written is not there: a server has taken over that did not have it.
var errGone = errors.New("the job has gone from the Redis that had it: another server has taken over")

// replicated waits until replicas have all that was written so far, and looks that keys are there:
// the connection may be to a server that has taken over since. It does nothing if no replicas are
// asked for. Redis's WAIT does not make it certain: a replica without the job may still be chosen
// to take over.
func (s *Store) replicated(ctx context.Context, keys ...string) error {
	if s.cfg.Replicas == 0 {
		return nil
	}
	var there []*redis.IntCmd
	var replicas *redis.Cmd
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range keys {
			there = append(there, p.Exists(ctx, key))
		}
		p.Set(ctx, replicatedKey, 1, time.Hour)
		replicas = p.Do(ctx, "wait", s.cfg.Replicas, replicationTime.Milliseconds())
		return nil
	})
	if err != nil {
		return err
	}
	for _, has := range there {
		if has.Val() == 0 {
			return errGone
		}
	}
	n, err := replicas.Int()
	if err != nil {
		return err
	}
	if n < s.cfg.Replicas {
		return fmt.Errorf("%d replicas of the Redis of failed and parked jobs have the job, %d should (ONCEOVER_FAILED_REPLICAS)", n, s.cfg.Replicas)
	}
	return nil
}
