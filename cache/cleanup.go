package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// scanCount is how many keys a step of a scan looks at.
const scanCount = 500

// Cleaned is what Cleanup found and did.
type Cleaned struct {
	Scanned int `json:"scanned"` // entries there
	Dated   int `json:"dated"`   // that had no TTL, and have one now
	Removed int `json:"removed"` // that were no analyses
}

// Cleanup goes through all entries: one without a TTL, as others may write it, gets
// TTL, so that nothing stays for ever; one that is no analysis goes. It reads what
// is there step by step and may run beside anything.
func (c *Cache) Cleanup(ctx context.Context) (Cleaned, error) {
	var done Cleaned
	var cursor uint64
	for {
		var keys []string
		err := c.guard.Do(ctx, func(ctx context.Context) (err error) {
			keys, cursor, err = c.client.Scan(ctx, cursor, "cache:image:hash:*", scanCount).Result()
			return err
		})
		if err == nil && len(keys) > 0 {
			err = c.cleanKeys(ctx, keys, &done)
		}
		if err != nil {
			return done, fmt.Errorf("clean up the cache after %d entries: %w", done.Scanned, err)
		}
		if cursor == 0 {
			c.log.Info("cache cleaned up", zap.Int("scanned", done.Scanned), zap.Int("dated", done.Dated), zap.Int("removed", done.Removed))
			return done, nil
		}
	}
}

func (c *Cache) cleanKeys(ctx context.Context, keys []string, done *Cleaned) error {
	docs := make([]*redis.StringCmd, len(keys))
	ages := make([]*redis.DurationCmd, len(keys))
	err := c.guard.Do(ctx, func(ctx context.Context) error {
		// The error of the whole is the first of any command.
		_, err := c.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, key := range keys {
				docs[i], ages[i] = p.Get(ctx, key), p.TTL(ctx, key)
			}
			return nil
		})
		if err != nil && !noEntry(err) {
			return err
		}
		for _, doc := range docs {
			if err := doc.Err(); err != nil && !noEntry(err) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var undated, damaged []string
	for i, key := range keys {
		doc, err := docs[i].Bytes()
		if err != nil {
			continue
		}
		done.Scanned++
		if _, err := decode(doc); err != nil {
			damaged = append(damaged, key)
		} else if ages[i].Val() == -1 { // none, as go-redis says it
			undated = append(undated, key)
		}
	}
	done.Dated += len(undated)
	done.Removed += len(damaged)
	return c.guard.Do(ctx, func(ctx context.Context) error {
		_, err := c.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, key := range undated {
				p.Expire(ctx, key, TTL)
			}
			if len(damaged) > 0 {
				p.Unlink(ctx, damaged...)
			}
			return nil
		})
		return err
	})
}

// noEntry tells the answers about a key that has run out meanwhile, or holds another
// type of value, which is not ours.
func noEntry(err error) bool {
	return errors.Is(err, redis.Nil) || strings.HasPrefix(err.Error(), "WRONGTYPE ")
}
