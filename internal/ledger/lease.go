package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
)

// LeaseTTL is how long an id stays taken by a run that is not renewed.
const LeaseTTL = 60 * time.Second

// Begin takes the id for a run and returns what is on record, in one round trip. run is a name
// that no other run has. holder is the run that has the id now: run itself, or another one that is
// at work. from names a run, as holder did before, from which the id is taken all the same, unless
// it has said since that it is alive ([Ledger.Alive]); "" for none.
//
// The id is taken before the record is read. An end that is recorded before its lease is
// released is seen therefore by whoever gets the lease next.
func (l *Ledger) Begin(ctx context.Context, taskID, run, from string) (stored celery.Stored, holder string, err error) {
	var raw string
	err = l.guard.Do(ctx, func(ctx context.Context) (err error) {
		holder, raw, err = l.begin(ctx, taskID, run, from)
		return err
	})
	if err != nil {
		return celery.Stored{}, "", fmt.Errorf("begin a run of task %s: %w", taskID, err)
	}
	return l.stored(taskID, raw), holder, nil
}

// beginScript takes a lease that is free, that of a message that has ended, or that of a run which
// it is to be taken from.
//
// KEYS: the lease. ARGV: run, the run from which it is taken, TTL in seconds.
// Returns who has the lease now.
const beginScript = `
local has = redis.call('GET', KEYS[1])
if not has or has == ARGV[1] or has == 'ended' or has == 'acknowledged' or has == ARGV[2] and string.sub(has, 1, 6) ~= 'alive ' then
	redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
	return ARGV[1]
end
return has
`

func (l *Ledger) begin(ctx context.Context, taskID, run, from string) (holder, raw string, err error) {
	pipe := l.client.Pipeline()
	// Not EVALSHA: in a pipeline nobody would answer a NOSCRIPT.
	has := pipe.Eval(ctx, beginScript, []string{l.format.LeaseKey(taskID)}, run, from, int(LeaseTTL.Seconds()))
	if _, cluster := l.client.(*redis.ClusterClient); cluster {
		// The keys may be on two servers, which a pipeline would ask at the same time.
		if _, err := pipe.Exec(ctx); err != nil {
			return "", "", err
		}
		pipe = l.client.Pipeline()
	}
	doc := pipe.Get(ctx, l.format.DocumentKey(taskID))
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return "", "", err
	}
	holder, err = has.Text()
	return holder, doc.Val(), errors.Join(err, failure(doc))
}

// failure is the error of a GET in a pipeline, whose first error may have been another's nil.
func failure(cmd *redis.StringCmd) error {
	if err := cmd.Err(); !errors.Is(err, redis.Nil) {
		return err
	}
	return nil
}

// renew lets a lease last longer that is the run's.
//
// KEYS: the lease. ARGV: run, TTL in seconds.
const renew = `
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return 1
`

// Renew lets the leases that the runs still have last LeaseTTL from now, by task id, in one round
// trip.
//
// A lease that another run has got, or that has vanished, stays as it is. The run of a vanished
// one may have been released while this call was on its way. Or Redis was away for longer than
// LeaseTTL, or evicted the lease: then a second run of the task may begin, and as always one of
// the two records the end.
func (l *Ledger) Renew(ctx context.Context, runs map[string]string) error {
	if len(runs) == 0 {
		return nil
	}
	err := l.guard.Do(ctx, func(ctx context.Context) error {
		pipe := l.client.Pipeline()
		for taskID, run := range runs {
			// Not EVALSHA: in a pipeline nobody would answer a NOSCRIPT.
			pipe.Eval(ctx, renew, []string{l.format.LeaseKey(taskID)}, run, int(LeaseTTL.Seconds()))
		}
		_, err := pipe.Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("renew the leases of %d tasks: %w", len(runs), err)
	}
	return nil
}

// release deletes a lease that is the run's.
//
// KEYS: the lease. ARGV: run.
var release = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
`)

// Release gives the id back if run still has it.
func (l *Ledger) Release(ctx context.Context, taskID, run string) error {
	err := l.guard.Do(ctx, func(ctx context.Context) error {
		return release.Run(ctx, l.client, []string{l.format.LeaseKey(taskID)}, run).Err()
	})
	if err != nil {
		return fmt.Errorf("release task %s: %w", taskID, err)
	}
	return nil
}

// Held reports whether some run has the id at this moment.
func (l *Ledger) Held(ctx context.Context, taskID string) (bool, error) {
	var lease string
	err := l.guard.Do(ctx, func(ctx context.Context) (err error) {
		lease, err = l.client.Get(ctx, l.format.LeaseKey(taskID)).Result()
		return err
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return false, fmt.Errorf("look whether task %s is taken: %w", taskID, err)
	}
	return atWork(lease), nil
}
