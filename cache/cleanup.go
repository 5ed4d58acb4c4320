package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/phash"
)

// scanCount is how many keys a step of a scan looks at.
const scanCount = 500

// entries are the patterns of the keys of all entries.
var entries = []string{hashPrefix + "*", digestPrefix + "*" + analysis + "*"}

// each calls visit with the entries whose keys match one of the patterns and are
// wanted, a few hundred at a time, and step, if it is not nil, with the number of
// all keys seen so far. What is written meanwhile may be left out or seen twice.
func (c *Cache) each(ctx context.Context, patterns []string, wanted func(key string) bool, step func(seen int), visit func([]item) error) error {
	seen := 0
	for _, pattern := range patterns {
		err := c.scan(ctx, pattern, func(keys []string) error {
			seen += len(keys)
			want := keys
			if wanted != nil {
				want = slices.DeleteFunc(keys, func(key string) bool { return !wanted(key) })
			}
			if len(want) > 0 {
				found, err := c.get(ctx, want...)
				if err != nil {
					return err
				}
				if err := visit(found); err != nil {
					return err
				}
			}
			if step != nil {
				step(seen)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scan calls visit with the keys that match a pattern, on every server of a
// Cluster, one call at a time.
func (c *Cache) scan(ctx context.Context, pattern string, visit func(keys []string) error) error {
	var mu sync.Mutex
	scan := func(ctx context.Context, client redis.UniversalClient) error {
		var cursor uint64
		for {
			var keys []string
			err := c.guard.Do(ctx, func(ctx context.Context) (err error) {
				var next uint64
				if keys, next, err = client.Scan(ctx, cursor, pattern, scanCount).Result(); err == nil {
					cursor = next
				}
				return err
			})
			if err != nil {
				return err
			}
			mu.Lock()
			err = visit(keys)
			mu.Unlock()
			if err != nil || cursor == 0 {
				return err
			}
		}
	}
	if cluster, ok := c.client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return scan(ctx, node) })
	}
	return scan(ctx, c.client)
}

// Cleaned is what Cleanup found and did.
type Cleaned struct {
	Scanned int `json:"scanned"` // entries there
	Dated   int `json:"dated"`   // that had no TTL, and have one now
	Removed int `json:"removed"` // that were no analyses
	Records int `json:"records"` // of the index, without an entry, taken out
}

// Cleanup goes through all entries: one without a TTL, as others may write it, gets
// TTL, so that nothing stays for ever; one that is no analysis goes. It then takes
// out of the logs what has no entry. It reads what is there step by step and may
// run beside anything.
func (c *Cache) Cleanup(ctx context.Context) (Cleaned, error) {
	var done Cleaned
	there := map[phash.Hash]bool{}
	// Only what we, or Python services, could have written is ours to remove.
	own := func(key string) bool {
		_, ok := hashOfKey(key)
		return ok || strings.HasPrefix(key, digestPrefix)
	}
	err := c.each(ctx, entries, own, nil, func(found []item) error {
		var undated, damaged []string
		for _, f := range found {
			switch {
			case len(f.doc) == 0:
				continue
			case f.entry == nil:
				damaged = append(damaged, f.key)
			case f.ttl < 0:
				undated = append(undated, f.key)
			}
			if h, ok := hashOfKey(f.key); ok && f.entry != nil {
				there[h] = true
			}
			done.Scanned++
		}
		done.Dated += len(undated)
		done.Removed += len(damaged)
		return c.pipeline(ctx, func(p redis.Pipeliner) {
			for _, key := range undated {
				p.Expire(ctx, key, TTL)
			}
			for _, key := range damaged {
				p.Unlink(ctx, key)
			}
		})
	})
	if err == nil {
		done.Records, err = c.compact(ctx, there)
	}
	if err != nil {
		return done, fmt.Errorf("clean up the cache after %d entries: %w", done.Scanned, err)
	}
	c.log.Info("cache cleaned up", zap.Int("scanned", done.Scanned), zap.Int("dated", done.Dated), zap.Int("removed", done.Removed), zap.Int("records", done.Records))
	return done, nil
}
