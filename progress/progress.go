// Package progress keeps the staged progress of jobs (DB2), which a Python API
// polls every half second.
//
// Start with [Store]; [Store.Track] gives the [Tracker] through which one run
// of a job reports. It promises that the number of a job never falls while it
// is retried or redelivered, that nothing lower is shown after its end, whichever
// runs are still at work, and that every key expires. It does not decide what the
// stages are.
package progress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/ledger"
	"onceover/internal/redisretry"
)

// TTL is how long a job's progress is kept after its last update.
const TTL = time.Hour

// Update is the document as clients read it.
type Update struct {
	Progress  int    `json:"progress"` // 0 to 100; 100 only once the result can be read
	Message   string `json:"message"`  // for people
	Stage     string `json:"stage"`
	UpdatedAt string `json:"updated_at"`      // UTC without offset, whole seconds: 2026-11-21T00:44:25
	Error     string `json:"error,omitempty"` // only when the job has failed
}

// Over reports whether an update is the last of its job, unless the job is replayed.
func (u Update) Over() bool { return u.Progress == 100 || u.Stage == stageFailed }

// Store reads and writes progress. The ledger in it records how tasks end whose result is not
// stored, and which run is at work on each. Safe for concurrent use.
type Store struct {
	*ledger.Ledger
	client redis.UniversalClient
	guard  *redisretry.Guard
	now    func() time.Time
}

// New returns a store on the database that client has selected. The caller
// closes client.
func New(client redis.UniversalClient, log *zap.Logger) *Store {
	guard := redisretry.New("progress", log).On(client)
	return &Store{client: client, guard: guard, now: time.Now, Ledger: ledger.New(client, guard, markFormat)}
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

// LoadAll returns the last updates of jobs, in their order, nil for those without one that can be read.
func (s *Store) LoadAll(ctx context.Context, jobIDs []string) ([]*Update, error) {
	out := make([]*Update, len(jobIDs))
	if len(jobIDs) == 0 {
		return out, nil
	}
	keys := make([]string, len(jobIDs))
	for i, id := range jobIDs {
		keys[i] = Key(id)
	}
	var docs []any
	err := s.guard.Do(ctx, func(ctx context.Context) (err error) {
		docs, err = s.client.MGet(ctx, keys...).Result()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load progress of %d jobs: %w", len(jobIDs), err)
	}
	for i, doc := range docs {
		var u Update
		if text, ok := doc.(string); ok && json.Unmarshal([]byte(text), &u) == nil {
			out[i] = &u
		}
	}
	return out, nil
}

// timestamp is the time as it stands in updates.
func (s *Store) timestamp() string { return s.now().UTC().Format("2006-01-02T15:04:05") }

// Reset shows a job as not begun, before it is run again, if anything is shown of
// it.
func (s *Store) Reset(ctx context.Context, jobID, stage, message string) error {
	if err := s.put(ctx, jobID, "XX", stage, message); err != nil {
		return fmt.Errorf("reset progress of job %s: %w", jobID, err)
	}
	return nil
}

// Announce shows a job as waiting, unless anything is shown of it.
func (s *Store) Announce(ctx context.Context, jobID, stage, message string) error {
	if err := s.put(ctx, jobID, "NX", stage, message); err != nil {
		return fmt.Errorf("announce job %s: %w", jobID, err)
	}
	return nil
}

// put writes a document under a condition.
//
// KEYS: the document, the stream of updates. ARGV: the document, NX or XX as for SET, and from the fifth on as for show.
// Returns whether it was written.
var put = redis.NewScript(`
local doc = ARGV[1]
if not redis.call('SET', KEYS[1], doc, ARGV[2], 'EX', ARGV[5]) then return 0 end
` + tell + `
return 1
`)

// put shows a job at its beginning.
func (s *Store) put(ctx context.Context, jobID, condition, stage, message string) error {
	doc, err := celery.MarshalJSON(Update{Stage: stage, Message: message, UpdatedAt: s.timestamp()})
	if err != nil {
		return fmt.Errorf("encode progress: %w", err)
	}
	_, err = s.guard.Run(ctx, put, []string{Key(jobID), eventsKey(jobID)}, doc, condition, "", "", int(TTL.Seconds()))
	return err
}

// Flush waits until what was reported before was written, or lost because Redis is away.
func (s *Store) Flush(ctx context.Context) error {
	if err := s.guard.Send(ctx, redis.NewStatusCmd(ctx, "ping")); err != nil {
		return fmt.Errorf("flush progress: %w", err)
	}
	return nil
}

// Wait waits until what was sent to Redis was answered, after the client was closed.
func (s *Store) Wait() { s.guard.Wait() }

// Fault returns what is wrong with Redis, nil while all is well.
func (s *Store) Fault() *redisretry.Fault { return s.guard.Fault() }
