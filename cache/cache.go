// Package cache keeps the analyses of pictures under their perceptual hash
// (DB1), in a form that Python services read and write too.
//
// Start with [Cache]: [Cache.Get] looks up, [Cache.Fill] computes what is
// missing once however many jobs ask for it. It promises that a lost entry
// costs a vision call and nothing else, and that every key expires. A
// degenerate hash (see phash.Hash.Degenerate) is shared by unrelated pictures
// and has no key.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/phash"
)

// TTL is how long an entry is kept.
const TTL = 7 * 24 * time.Hour

// Entry is a cached analysis. The first six fields are the contract with
// Python services, in this order; an entry with only these is complete.
type Entry struct {
	WasteType  string  `json:"waste_type"`
	Confidence float64 `json:"confidence"` // 0 to 1
	Feedback   string  `json:"feedback"`
	Category   string  `json:"category"`
	Recyclable bool    `json:"recyclable"`
	AnalyzedAt string  `json:"analyzed_at"` // UTC without offset, whole seconds

	Model         string `json:"model,omitempty"`          // who answered; "" when Python wrote the entry
	PromptVersion string `json:"prompt_version,omitempty"` // "" when Python wrote the entry
}

// Variant tells analyses of one picture apart. The zero value is the default
// language and model, the one that Python services share.
type Variant struct {
	Lang, Model string
}

// Key returns the key of the picture's analysis, "" if the hash is degenerate.
func Key(h phash.Hash, v Variant) string {
	if h.Degenerate() {
		return ""
	}
	key := "cache:image:hash:" + h.String()
	if v.Lang != "" {
		key += ":lang=" + v.Lang
	}
	if v.Model != "" {
		key += ":model=" + v.Model
	}
	return key
}

// Cache reads and writes entries. Safe for concurrent use.
type Cache struct {
	client redis.UniversalClient
	guard  *redisretry.Guard
	log    *zap.Logger
	flight *flight
}

// New returns a cache on the database that client has selected. The caller
// closes client, after Close.
func New(client redis.UniversalClient, log *zap.Logger) *Cache {
	return &Cache{client: client, guard: redisretry.New("cache", log), log: log, flight: newFlight()}
}

// Close cancels the computations of Fill that are under way and waits for them.
func (c *Cache) Close() { c.flight.close() }

// Get returns the entry under key, nil if there is none. A value that is not an
// entry counts as none: the next fill replaces it.
func (c *Cache) Get(ctx context.Context, key string) (*Entry, error) {
	if key == "" {
		return nil, nil
	}
	var doc []byte
	err := c.guard.Do(ctx, func(ctx context.Context) (err error) {
		doc, err = c.client.Get(ctx, key).Bytes()
		return err
	})
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look up %s: %w", key, err)
	}
	e, err := decode(doc)
	if err != nil {
		c.log.Warn("cache entry is damaged, treated as a miss", zap.String("key", key), zap.Error(err))
		return nil, nil
	}
	return e, nil
}

// Set stores e under key; with key "" it does nothing.
func (c *Cache) Set(ctx context.Context, key string, e Entry) error {
	if key == "" {
		return nil
	}
	doc, err := celery.MarshalJSON(e)
	if err != nil {
		return fmt.Errorf("encode entry of %s: %w", key, err)
	}
	err = c.guard.Do(ctx, func(ctx context.Context) error {
		return c.client.Set(ctx, key, doc, TTL).Err()
	})
	if err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

// Fill computes the entry of key and stores it. Concurrent calls for one key
// share one computation: exactly one of them, whose shared is false, has its
// compute run; the others have their waiting called, if it is not nil, and wait
// for the outcome. A call that ends because its ctx ended leaves the
// computation to the others; compute's own context ends when nobody waits any
// more, or with Close. A key of "" is not shared and not stored.
func (c *Cache) Fill(ctx context.Context, key string, compute func(context.Context) (Entry, error), waiting func()) (e Entry, shared bool, err error) {
	if key == "" {
		e, err = compute(ctx)
		return e, false, err
	}
	return c.flight.do(ctx, key, waiting, func(ctx context.Context) (Entry, error) {
		e, err := compute(ctx)
		if err != nil {
			return Entry{}, err
		}
		// The answer is paid for: it is kept even if all who asked have gone.
		keep, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := c.Set(keep, key, e); err != nil {
			c.log.Warn("answer not cached", zap.String("key", key), zap.Error(err))
		}
		return e, nil
	})
}

// decode reads an entry. waste_type and category tell an analysis from other
// JSON: one of them must be there.
func decode(doc []byte) (*Entry, error) {
	var e Entry
	if err := json.Unmarshal(doc, &e); err != nil {
		return nil, err
	}
	if e.WasteType == "" && e.Category == "" {
		return nil, errors.New("neither waste_type nor category is set")
	}
	return &e, nil
}
