package progress

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/internal/ledger"
)

// finishedTTL is how long a completion mark is kept: as long as a result would
// be.
const finishedTTL = 24 * time.Hour

// markFormat is that of completion marks, "STATE attempt microseconds unconfirmed". The last is mostly absent, older ones end earlier.
var markFormat = ledger.Format{
	DocumentKey: finishedKey, LeaseKey: runKey, TTL: finishedTTL,
	Write: writeMark, Read: readMark,
	State: `return string.match(doc, '^%s*(%S+)') or ''`,
}

// writeMark writes the mark of an end. The time, which is m's date_done, makes the marks of two
// runs different.
func writeMark(m celery.Meta) (string, error) {
	mark := fmt.Sprintf("%s %d", m.Status, max(m.Attempt(), 0))
	if m.DateDone == nil {
		return mark, nil
	}
	done, err := celery.ParseTime(*m.DateDone)
	if err != nil {
		return "", fmt.Errorf("date_done: %w", err)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %d %s", mark, done.UnixMicro(), m.Unconfirmed)), nil
}

// readMark returns the state, the task and the attempt of a mark.
func readMark(taskID, raw string) *celery.Meta {
	var m celery.Meta
	var attempt int
	var micros int64
	_, _ = fmt.Sscan(raw, &m.Status, &attempt, &micros, &m.Unconfirmed) // what is missing stays empty
	switch m.Status {
	case celery.Success, celery.Failure, celery.Revoked, celery.Retried, celery.Started:
		m.TaskID, m.Retries = taskID, &attempt
		return &m
	}
	return nil
}

// CountRun notes that a run begins of a job that had been delivered before, and returns
// how many have within a day that were not taken back. run names it among all of the
// job.
func (s *Store) CountRun(ctx context.Context, taskID, run string) (times int, err error) {
	var n *redis.IntCmd
	err = s.guard.Do(ctx, func(ctx context.Context) error {
		_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.SAdd(ctx, runsKey(taskID), run)
			p.Expire(ctx, runsKey(taskID), finishedTTL)
			n = p.SCard(ctx, runsKey(taskID))
			return nil
		})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("note that a run of task %s begins: %w", taskID, err)
	}
	return int(n.Val()), nil
}

// NotBegun takes the CountRun of a run back.
func (s *Store) NotBegun(ctx context.Context, taskID, run string) error {
	err := s.guard.Do(ctx, func(ctx context.Context) error {
		return s.client.SRem(ctx, runsKey(taskID), run).Err()
	})
	if err != nil {
		return fmt.Errorf("take back that a run of task %s began: %w", taskID, err)
	}
	return nil
}

// paidTTL is longer than the longest pause between two attempts, a day. Each attempt renews it.
const paidTTL = 48 * time.Hour

// AddPaid notes that a task has paid for n calls of a kind.
func (s *Store) AddPaid(ctx context.Context, taskID, kind string, n int) error {
	err := s.guard.Do(ctx, func(ctx context.Context) error {
		_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.HIncrBy(ctx, paidKey(taskID), kind, int64(n))
			p.Expire(ctx, paidKey(taskID), paidTTL)
			return nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("note what task %s has paid for: %w", taskID, err)
	}
	return nil
}

// Paid returns what AddPaid has noted of a task since it was last replayed, if its last attempt was within two days.
func (s *Store) Paid(ctx context.Context, taskID, kind string) (n int, err error) {
	err = s.guard.Do(ctx, func(ctx context.Context) error {
		p := s.client.Pipeline()
		paid := p.HGet(ctx, paidKey(taskID), kind)
		p.Expire(ctx, paidKey(taskID), paidTTL)
		_, _ = p.Exec(ctx) // what went wrong is in the answers
		if n, err = paid.Int(); errors.Is(err, redis.Nil) {
			return nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look up what task %s has paid for: %w", taskID, err)
	}
	return n, nil
}

// ResetMarks forgets what was recorded of the ends and runs of a task, and which run has its id,
// unless it succeeded or is to be retried. It returns the state on record, "" for none.
func (s *Store) ResetMarks(ctx context.Context, taskID string) (was celery.State, err error) {
	mark, err := s.Look(ctx, taskID)
	if err != nil {
		return "", err
	}
	if mark.Meta != nil {
		was = mark.Meta.Status
	}
	if was == celery.Success || was == celery.Retried {
		return was, nil
	}
	err = s.guard.Do(ctx, func(ctx context.Context) error {
		return s.client.Unlink(ctx, finishedKey(taskID), runsKey(taskID), runKey(taskID), paidKey(taskID)).Err()
	})
	if err != nil {
		return "", fmt.Errorf("forget the marks of task %s: %w", taskID, err)
	}
	return was, nil
}
