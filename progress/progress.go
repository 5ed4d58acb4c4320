// Package progress keeps the staged progress of jobs (DB2), which a Python API
// polls every half second.
//
// Start with [Store]; [Store.Track] gives the [Tracker] through which one run
// of a job reports. It promises that the number of a job never falls while it
// is retried or redelivered, and that every key expires. It does not decide
// what the stages are.
package progress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/redisretry"
)

// TTL is how long a job's progress is kept after its last update.
const TTL = time.Hour

// finishedTTL is how long a completion mark is kept: as long as a result would
// be.
const finishedTTL = 24 * time.Hour

// Key is the key of a job's progress document.
func Key(jobID string) string { return "job:" + jobID + ":progress" }

// finishedKey is the key of the completion mark of a task without a result.
func finishedKey(taskID string) string { return "job:" + taskID + ":finished" }

// Update is the document as clients read it.
type Update struct {
	Progress  int    `json:"progress"` // 0 to 100; 100 only once the result can be read
	Message   string `json:"message"`  // for people
	Stage     string `json:"stage"`
	UpdatedAt string `json:"updated_at"`      // UTC without offset, whole seconds: 2026-11-21T00:44:25
	Error     string `json:"error,omitempty"` // only when the job has failed
}

// Store reads and writes progress. Safe for concurrent use.
type Store struct {
	client redis.UniversalClient
	guard  *redisretry.Guard
	now    func() time.Time
}

// New returns a store on the database that client has selected. The caller
// closes client.
func New(client redis.UniversalClient, log *zap.Logger) *Store {
	return &Store{client: client, guard: redisretry.New("progress", log), now: time.Now}
}

// Load returns the last update of a job, nil if there is none. A document that
// is not JSON is an error.
func (s *Store) Load(ctx context.Context, jobID string) (*Update, error) {
	var doc []byte
	err := s.guard.Do(ctx, func(ctx context.Context) (err error) {
		doc, err = s.client.Get(ctx, Key(jobID)).Bytes()
		return err
	})
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("load progress of job %s: %w", jobID, err)
	}
	var u Update
	if err := json.Unmarshal(doc, &u); err != nil {
		return nil, fmt.Errorf("decode progress of job %s: %w", jobID, err)
	}
	return &u, nil
}

// Track returns the tracker of one run of a job. With resume, for a run that
// follows an interrupted or failed one, it starts from the number that was
// last shown, unless that was 100.
func (s *Store) Track(ctx context.Context, jobID string, resume bool) (*Tracker, error) {
	t := &Tracker{store: s, jobID: jobID}
	if !resume {
		return t, nil
	}
	last, err := s.Load(ctx, jobID)
	if err != nil {
		var damaged *json.SyntaxError
		if errors.As(err, &damaged) {
			return t, nil // somebody else's value: it is about to be replaced
		}
		return nil, err
	}
	if last != nil && last.Progress < 100 {
		t.floor = last.Progress
	}
	return t, nil
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

// timestamp is the time as it stands in updates.
func (s *Store) timestamp() string { return s.now().UTC().Format("2006-01-02T15:04:05") }

// runsKey is the key of the runs of [Store.Begin].
func runsKey(taskID string) string { return "job:" + taskID + ":runs" }

// Begin notes that a run begins of a job that had been delivered before, and returns
// how many have within a day that were not taken back. run names it among all of the
// job.
func (s *Store) Begin(ctx context.Context, taskID, run string) (times int, err error) {
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

// NotBegun takes the Begin of a run back.
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

// Reset shows a job as not begun, before it is run again, if anything is shown of
// it.
func (s *Store) Reset(ctx context.Context, jobID, stage, message string) error {
	doc, err := celery.MarshalJSON(Update{Stage: stage, Message: message, UpdatedAt: s.timestamp()})
	if err != nil {
		return fmt.Errorf("encode progress of job %s: %w", jobID, err)
	}
	err = s.guard.Do(ctx, func(ctx context.Context) error {
		err := s.client.SetXX(ctx, Key(jobID), doc, TTL).Err()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("reset progress of job %s: %w", jobID, err)
	}
	return nil
}

// Tracker reports the progress of one run of a job. Safe for concurrent use.
type Tracker struct {
	store *Store
	jobID string

	mu    sync.Mutex
	floor int // the number last shown
}

// JobID is the job that t reports for.
func (t *Tracker) JobID() string { return t.jobID }

// Report shows the stage. progress counts from 0 to 100; a number below the one
// last shown is raised to it.
func (t *Tracker) Report(ctx context.Context, progress int, stage, message string) error {
	return t.write(ctx, Update{Progress: progress, Stage: stage, Message: message})
}

// Fail shows that the job has failed: the number stays, the stage is "failed".
func (t *Tracker) Fail(ctx context.Context, message, reason string) error {
	return t.write(ctx, Update{Stage: "failed", Message: message, Error: reason})
}

func (t *Tracker) write(ctx context.Context, u Update) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	u.Progress = max(u.Progress, t.floor)
	u.UpdatedAt = t.store.timestamp()
	doc, err := celery.MarshalJSON(u)
	if err != nil {
		return fmt.Errorf("encode progress of job %s: %w", t.jobID, err)
	}
	err = t.store.guard.Do(ctx, func(ctx context.Context) error {
		return t.store.client.Set(ctx, Key(t.jobID), doc, TTL).Err()
	})
	if err != nil {
		return fmt.Errorf("write progress of job %s: %w", t.jobID, err)
	}
	t.floor = u.Progress
	return nil
}
