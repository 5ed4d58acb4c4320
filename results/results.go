// Package results is Celery's Redis result backend (DB0), the side that a
// worker writes and a client reads.
//
// Start with [Store]. It promises what Celery clients rely on: the document is
// SET with its expiry and PUBLISHed on its own key in one step, and a stored
// SUCCESS is never overwritten. It counts the parts of chords, on the same keys as
// Python workers do.
//
// Source: Celery 5.x, celery/backends/redis.py and base.py.
package results

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

// TTL is how long a result is kept: Celery's result_expires, one day.
const TTL = 24 * time.Hour

// Store keeps task meta documents. The ledger in it records how tasks end and which run is at
// work on each. Safe for concurrent use.
type Store struct {
	*ledger.Ledger
	client redis.UniversalClient
	guard  *redisretry.Guard
}

// New returns a store on the database that client has selected. The caller
// closes client.
func New(client redis.UniversalClient, log *zap.Logger) *Store {
	guard := redisretry.New("results", log).On(client)
	return &Store{client: client, guard: guard, Ledger: ledger.New(client, guard, format)}
}

// format is that of Celery's documents.
var format = ledger.Format{
	DocumentKey: Key, LeaseKey: runKey, TTL: TTL, Publish: true,
	Write: func(m celery.Meta) (string, error) {
		doc, err := m.MarshalJSON()
		return string(doc), err
	},
	Read: func(taskID, raw string) *celery.Meta {
		m, err := celery.DecodeMeta(taskID, []byte(raw))
		if err != nil || m.Status == "" {
			return nil
		}
		return m
	},
	State: `
	local ok, meta = pcall(cjson.decode, doc)
	if not ok then return nil end -- not JSON, or nested more deeply than Lua reads
	return type(meta) == 'table' and type(meta.status) == 'string' and meta.status or ''`,
}

// Load returns the stored document, nil if there is none. A document that is
// not Celery's is a *celery.MetaError.
func (s *Store) Load(ctx context.Context, taskID string) (*celery.Meta, error) {
	get := redis.NewStringCmd(ctx, "get", Key(taskID))
	switch err := s.guard.Send(ctx, get); {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("load meta of task %s: %w", taskID, err)
	}
	return celery.DecodeMeta(taskID, []byte(get.Val()))
}

// lookAgain is when Await looks although no message came: messages may be lost.
const lookAgain = 10 * time.Second

// Await returns the document of a task once the task has a final state. As AsyncResult.get() in Python it is told by the message that is
// published with the document. The error is why ctx ended, or that of [Store.Load].
func (s *Store) Await(ctx context.Context, taskID string) (*celery.Meta, error) {
	sub := s.client.Subscribe(ctx, Key(taskID))
	defer sub.Close() // its connection is of no more use
	told := sub.ChannelWithSubscriptions()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		m, err := s.Load(ctx, taskID)
		switch {
		case err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return nil, context.Cause(ctx)
		case err != nil || m != nil && m.Status.Final():
			return m, err
		}
		select {
		case <-told: // also that the subscription stands, and stands again
		case <-again.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// reset deletes a document that tells of a failure.
//
// KEYS: the document. Returns the state that it had, "" if it was not there, and the
// document if it is deleted.
var reset = redis.NewScript(`
local doc = redis.call('GET', KEYS[1])
if not doc then return {''} end
local ok, meta = pcall(cjson.decode, doc)
if not ok or type(meta) ~= 'table' or type(meta.status) ~= 'string' then return {'?'} end
if meta.status == 'FAILURE' or meta.status == 'REVOKED' then
	redis.call('DEL', KEYS[1])
	return {meta.status, doc}
end
return {meta.status}
`)

// Reset makes the state of a task PENDING, which in Celery is that nothing is
// stored, if it is FAILURE or REVOKED. It returns the state that it had, "" for
// PENDING, and what it deleted, for [Store.PutBack].
func (s *Store) Reset(ctx context.Context, taskID string) (was celery.State, deleted []byte, err error) {
	var reply []string
	err = s.guard.Do(ctx, func(ctx context.Context) (err error) {
		reply, err = reset.Run(ctx, s.client, []string{Key(taskID)}).StringSlice()
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("reset the result of task %s: %w", taskID, err)
	}
	if len(reply) == 2 {
		deleted = []byte(reply[1])
	}
	return celery.State(reply[0]), deleted, nil
}

// PutBack undoes a Reset, if nothing has been stored since.
func (s *Store) PutBack(ctx context.Context, taskID string, deleted []byte) error {
	err := s.guard.Do(ctx, func(ctx context.Context) error {
		return s.client.SetNX(ctx, Key(taskID), deleted, TTL).Err()
	})
	if err != nil {
		return fmt.Errorf("put the result of task %s back: %w", taskID, err)
	}
	return nil
}

// States returns the stored states of tasks, in their order, "" where nothing is
// stored.
func (s *Store) States(ctx context.Context, taskIDs []string) ([]celery.State, error) {
	if len(taskIDs) == 0 {
		return nil, nil
	}
	replies := make([]*redis.StringCmd, len(taskIDs))
	err := s.guard.Do(ctx, func(ctx context.Context) error {
		_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, id := range taskIDs {
				replies[i] = p.Get(ctx, Key(id))
			}
			return nil
		})
		if errors.Is(err, redis.Nil) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load the states of %d tasks: %w", len(taskIDs), err)
	}
	out := make([]celery.State, len(taskIDs))
	for i, r := range replies {
		doc, err := r.Bytes()
		if err == nil {
			out[i] = status(doc)
		}
	}
	return out, nil
}

// status reads the state of a stored document, "" if it cannot be read.
func status(doc []byte) celery.State {
	var m struct {
		Status celery.State `json:"status"`
	}
	if json.Unmarshal(doc, &m) != nil {
		return ""
	}
	return m.Status
}

// Wait waits until what was sent to Redis was answered, after the client was closed.
func (s *Store) Wait() { s.guard.Wait() }

// Fault returns what is wrong with Redis, nil while all is well.
func (s *Store) Fault() *redisretry.Fault { return s.guard.Fault() }
