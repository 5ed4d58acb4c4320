package progress

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/internal/ledger"
)

// finishedTTL is how long a completion mark is kept: as long as a result would
// be.
const finishedTTL = 24 * time.Hour

// markFormat is that of completion marks, "STATE attempt microseconds". Older ones end earlier.
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
	return fmt.Sprintf("%s %d", mark, done.UnixMicro()), nil
}

// readMark returns the state, the task and the attempt of a mark.
func readMark(taskID, raw string) *celery.Meta {
	var m celery.Meta
	var attempt int
	_, _ = fmt.Sscan(raw, &m.Status, &attempt) // the attempt is missing in the oldest
	switch m.Status {
	case celery.Success, celery.Failure, celery.Revoked, celery.Retried, celery.Started:
		m.TaskID, m.Retries = taskID, &attempt
		return &m
	}
	return nil
}

// MarkFinished records the state in which an attempt ended whose result is not
// stored, so that its redelivery is recognised: a final state, or RETRY. attempt
// is celery.Request.Attempt.
func (s *Store) MarkFinished(ctx context.Context, taskID string, state celery.State, attempt int) error {
	mark := fmt.Sprintf("%s %d %d", state, attempt, s.now().UnixMicro())
	err := s.guard.Do(ctx, func(ctx context.Context) error {
		return s.client.Set(ctx, finishedKey(taskID), mark, finishedTTL).Err()
	})
	if err != nil {
		return fmt.Errorf("mark task %s as finished: %w", taskID, err)
	}
	return nil
}

// A Mark is what MarkFinished recorded.
type Mark struct {
	State   celery.State // "" for nothing
	Attempt int
	At      time.Time
}

// Finished returns what MarkFinished recorded for the task within a day.
func (s *Store) Finished(ctx context.Context, taskID string) (m Mark, err error) {
	var text string
	err = s.guard.Do(ctx, func(ctx context.Context) (err error) {
		text, err = s.client.Get(ctx, finishedKey(taskID)).Result()
		return err
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return m, fmt.Errorf("look for the completion mark of task %s: %w", taskID, err)
	}
	var state string
	var micros int64
	// What is missing stays 0, as it was written before there was more than the state.
	_, _ = fmt.Sscan(text, &state, &m.Attempt, &micros)
	m.State, m.At = celery.State(state), time.UnixMicro(micros)
	return m, nil
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

// ResetMarks forgets what was recorded of the ends and runs of a task, unless it
// succeeded or is to be retried. It returns the state that Finished would have, "" for none.
func (s *Store) ResetMarks(ctx context.Context, taskID string) (was celery.State, err error) {
	m, err := s.Finished(ctx, taskID)
	if was = m.State; err != nil || was == celery.Success || was == celery.Retried {
		return was, err
	}
	err = s.guard.Do(ctx, func(ctx context.Context) error {
		return s.client.Unlink(ctx, finishedKey(taskID), runsKey(taskID)).Err()
	})
	if err != nil {
		return "", fmt.Errorf("forget the marks of task %s: %w", taskID, err)
	}
	return was, nil
}
