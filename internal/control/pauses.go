package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// pausedKey is a hash in DB5: a Pause in JSON by the name of its queue.
const pausedKey = "onceover:paused"

// Pause is why workers do not consume a queue.
type Pause struct {
	By    string    `json:"by"` // user@host
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
	Nodes []string  `json:"nodes,omitempty"` // that consumed it, sorted: those that consume it again afterwards
}

// Pauses are the queues that are paused, kept in Redis. Safe for concurrent use.
type Pauses struct{ client redis.UniversalClient }

// NewPauses returns the pauses of the database that client has selected (DB5). The caller closes client.
func NewPauses(client redis.UniversalClient) *Pauses { return &Pauses{client} }

// Set notes that a queue is paused. A pause that is there is replaced, but for its nodes, to which those of p are added.
func (p *Pauses) Set(ctx context.Context, queue string, pause Pause) error {
	if err := checkQueue(queue); err != nil {
		return err
	}
	_, err := p.change(ctx, queue, func(old *Pause) *Pause {
		if old != nil {
			pause.Nodes = append(pause.Nodes, old.Nodes...)
		}
		return &pause
	})
	if err != nil {
		return fmt.Errorf("note that queue %s is paused: %w", queue, err)
	}
	return nil
}

// had notes in a pause that workers consumed the queue. It reports whether the queue is paused.
func (p *Pauses) had(ctx context.Context, queue string, nodes []string) (paused bool, err error) {
	paused, err = p.change(ctx, queue, func(old *Pause) *Pause {
		if old != nil {
			old.Nodes = append(old.Nodes, nodes...)
		}
		return old
	})
	if err != nil {
		return false, fmt.Errorf("note who consumed the paused queue %s: %w", queue, err)
	}
	return paused, nil
}

// change replaces the pause of a queue, nil if there is none, by what f returns, and reports whether there is one then. f may be called
// more than once.
func (p *Pauses) change(ctx context.Context, queue string, f func(old *Pause) *Pause) (is bool, err error) {
	for range 10 { // others change the pauses of other queues meanwhile
		err = p.client.Watch(ctx, func(tx *redis.Tx) error {
			var old *Pause
			doc, err := tx.HGet(ctx, pausedKey, queue).Result()
			switch {
			case err == nil:
				read := readPause(doc)
				old = &read
			case !errors.Is(err, redis.Nil):
				return err
			}
			pause := f(old)
			if is = pause != nil; !is {
				return nil
			}
			slices.Sort(pause.Nodes)
			pause.Nodes = slices.Compact(pause.Nodes)
			pause.Nodes = pause.Nodes[:min(len(pause.Nodes), maxNodes)] // containers come and go under new names
			text, err := json.Marshal(pause)
			if err != nil || doc == string(text) {
				return err
			}
			_, err = tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				pipe.HSet(ctx, pausedKey, queue, text)
				return nil
			})
			return err
		}, pausedKey)
		if !errors.Is(err, redis.TxFailedErr) {
			break
		}
	}
	return is, err
}

// Clear ends a pause, and returns what it was. It reports whether there was one.
func (p *Pauses) Clear(ctx context.Context, queue string) (pause Pause, was bool, err error) {
	var got *redis.StringCmd
	_, err = p.client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		got = pipe.HGet(ctx, pausedKey, queue)
		pipe.HDel(ctx, pausedKey, queue)
		return nil
	})
	switch {
	case errors.Is(err, redis.Nil):
		return Pause{}, false, nil
	case err != nil:
		return Pause{}, false, fmt.Errorf("end the pause of queue %s: %w", queue, err)
	}
	return readPause(got.Val()), true, nil
}

// All are the pauses by the names of their queues.
func (p *Pauses) All(ctx context.Context) (map[string]Pause, error) {
	docs, err := p.client.HGetAll(ctx, pausedKey).Result()
	if err != nil {
		return nil, fmt.Errorf("look up which queues are paused: %w", err)
	}
	out := make(map[string]Pause, len(docs))
	for queue, doc := range docs {
		out[queue] = readPause(doc)
	}
	return out, nil
}

// readPause reads a note. One that somebody has damaged is a pause all the same.
func readPause(doc string) Pause {
	var p Pause
	if json.Unmarshal([]byte(doc), &p) != nil {
		return Pause{By: "unknown", Why: "its note in " + pausedKey + " cannot be read"}
	}
	return p
}
