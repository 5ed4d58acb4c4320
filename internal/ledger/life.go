package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
)

// An id may be used again: a producer that retries sends the same id after a FAILURE. Whether an
// end that is on record is that of a message which comes again, or of an earlier message with the
// id, is told by the lease. It has one of these values:
//
//	RUN            a run is at work, or has died
//	RUN DIGEST     likewise, and the document with this digest is of an earlier message
//	alive RUN …    likewise, and nobody takes the id from the run: the broker has taken its message
//	               back, and it goes on, or another message with the id may come again
//	ended          the end on record is of a message that may come again: it is not acknowledged
//	acknowledged   the end on record is of a message that will not come again, unless it was
//	               published twice
const (
	leaseAlive = "alive " // followed by the run
	leaseEnded = "ended"
	leaseAcked = "acknowledged"
)

// endTTL is how long the ledger knows to which message a FAILURE or REVOKED belongs: as long as
// the document is kept.
const endTTL = 24 * time.Hour

// atWork reports whether a lease is that of a run.
func atWork(lease string) bool { return lease != "" && lease != leaseEnded && lease != leaseAcked }

// Past returns what is on record of a task whose message may have been delivered before, and
// whether that is an end of this very message. again says that the message may have been
// published twice; else it was redelivered. since is the digest of an end that the message is
// known to come after, "" for none.
//
// An end may be of an earlier message with the same id: then this one has not run. Where nothing
// is known of that, a SUCCESS counts as this message's, since Celery never replaces one, and a
// FAILURE or REVOKED does not, since a job would be lost.
func (l *Ledger) Past(ctx context.Context, taskID string, again bool, since string) (stored celery.Stored, over bool, err error) {
	has, doc := redis.NewStringCmd(ctx, "get", l.format.LeaseKey(taskID)), redis.NewStringCmd(ctx, "get", l.format.DocumentKey(taskID))
	err = l.guard.Do(ctx, func(ctx context.Context) error {
		if err := l.guard.Exec(ctx, has, doc); err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		return errors.Join(failure(has), failure(doc))
	})
	if err != nil {
		return stored, false, fmt.Errorf("look for an end of task %s: %w", taskID, err)
	}
	lease := has.Val()
	stored = l.stored(taskID, doc.Val())
	switch digest := stored.Digest(); {
	case digest == "", digest == since, strings.HasSuffix(lease, " "+digest):
		return stored, false, nil
	case stored.Meta.Status == celery.Success, lease == leaseEnded, atWork(lease):
		// At work: recorded by the run that had the lease, which died before it could say so.
		return stored, true, nil
	}
	return stored, lease == leaseAcked && again, nil
}

// failure is the error of a GET in a pipeline, whose first error may have been another's nil.
func failure(cmd *redis.StringCmd) error {
	if err := cmd.Err(); !errors.Is(err, redis.Nil) {
		return err
	}
	return nil
}

// change replaces the value of a lease.
//
// KEYS: the lease. ARGV: the value that it has, the one that it gets, TTL in seconds.
// Returns 1 if it had that value.
var change = redis.NewScript(isRun + `
if not isRun(redis.call('GET', KEYS[1]), ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
`)

func (l *Ledger) change(ctx context.Context, taskID, from, to string, ttl time.Duration) error {
	if _, err := l.guard.Run(ctx, change, []string{l.format.LeaseKey(taskID)}, from, to, int(ttl.Seconds())); err != nil {
		return fmt.Errorf("change the lease of task %s: %w", taskID, err)
	}
	return nil
}

// Alive notes that nobody takes the id from a run, and returns the name that the run has from now
// on. The run says so itself, if the broker has taken its message back, or another message with
// the id does, before it can come again and be taken for that one. The run need not know.
func (l *Ledger) Alive(ctx context.Context, taskID, run string) (named string, err error) {
	if strings.HasPrefix(run, leaseAlive) {
		return run, nil
	}
	return leaseAlive + run, l.change(ctx, taskID, run, leaseAlive+run, LeaseTTL)
}

// Ended notes that the run has recorded the end of its message, which is not acknowledged yet.
func (l *Ledger) Ended(ctx context.Context, taskID, run string) error {
	return l.change(ctx, taskID, run, leaseEnded, endTTL)
}

// Acknowledged notes that the message is, of which Ended was said.
func (l *Ledger) Acknowledged(ctx context.Context, taskID string) error {
	return l.change(ctx, taskID, leaseEnded, leaseAcked, endTTL)
}
