package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
)

// undoKey is a hash with what a correction has replaced: a was in JSON by the key of its entry.
func undoKey(id string) string { return undoPrefix + id }

const undoPrefix = "cache:undo:"

// was is an entry as it was before a correction.
type was struct {
	Doc    string `json:"doc"`    // "" if there was none
	Left   int64  `json:"left"`   // milliseconds until it would have run out, -1 for never
	Became string `json:"became"` // what replaced it
	At     string `json:"at"`     // CorrectedAt of that
}

// ErrNothingToUndo says that nothing is known of a correction: it was more than 7 days ago, or was undone.
var ErrNothingToUndo = errors.New("nothing is known of this correction: it was undone, or is more than 7 days old")

// note keeps what a correction is about to replace.
func (c *Cache) note(ctx context.Context, id string, old item, by Entry) error {
	became, err := celery.MarshalJSON(by)
	if err != nil {
		return err
	}
	left := int64(-1)
	if old.ttl >= 0 {
		left = max(1, old.ttl.Milliseconds())
	}
	doc, err := json.Marshal(was{string(old.doc), left, string(became), by.CorrectedAt})
	if err != nil {
		return err
	}
	err = c.pipeline(ctx, func(p redis.Pipeliner) {
		p.HSetNX(ctx, undoKey(id), old.key, doc) // the first time: a redo would note the correction itself
		p.Expire(ctx, undoKey(id), TTL)
	})
	if err != nil {
		return fmt.Errorf("note what is corrected: %w", err)
	}
	return nil
}

// Undo gives the entries that a correction has changed their former answers, and returns how many. Those that were changed again
// since, or have run out, stay as they are; those that have taken the correction over since, as near hits, are removed. The error is
// ErrNothingToUndo if nothing is known of the correction.
func (c *Cache) Undo(ctx context.Context, id string) (n int, err error) {
	var noted *redis.MapStringStringCmd
	if err := c.pipeline(ctx, func(p redis.Pipeliner) { noted = p.HGetAll(ctx, undoKey(id)) }); err != nil {
		return 0, fmt.Errorf("look up correction %s: %w", id, err)
	}
	if len(noted.Val()) == 0 {
		return 0, fmt.Errorf("undo correction %s: %w", id, ErrNothingToUndo)
	}
	roots := map[string]string{} // CorrectedAt by the hash of who may have handed the correction on
	for key, doc := range noted.Val() {
		var old was
		if !strings.HasPrefix(key, hashPrefix) && !strings.HasPrefix(key, digestPrefix) || json.Unmarshal([]byte(doc), &old) != nil {
			continue // written by nobody of ours
		}
		there, err := c.get(ctx, key)
		if err != nil {
			return n, err
		}
		if string(there[0].doc) != old.Became {
			continue
		}
		if err := c.putBack(ctx, id, key, old); err != nil {
			return n, err
		}
		if h, ok := hashOfKey(key); ok {
			roots[h.String()] = old.At
		}
		n++
	}
	if n == 0 {
		return 0, nil
	}
	return n, c.each(ctx, entries, func(string) bool { return true }, nil, func(found []item) error {
		return c.pipeline(ctx, func(p redis.Pipeliner) {
			for _, f := range found {
				if e := f.entry; e != nil && e.DerivedFrom != "" && e.CorrectedAt != "" && roots[e.DerivedFrom] == e.CorrectedAt {
					p.Unlink(ctx, f.key)
				}
			}
		})
	})
}

// putBack makes an entry what it was, and forgets that it was corrected.
func (c *Cache) putBack(ctx context.Context, id, key string, old was) error {
	if before := itemOf(key, old.Doc, time.Duration(old.Left)*time.Millisecond); before.entry != nil {
		if err := c.replace(ctx, key, *before.entry, nil); err != nil {
			return err
		}
	} else {
		old.Left = 0 // there was none
	}
	return c.pipeline(ctx, func(p redis.Pipeliner) {
		switch {
		case old.Left < 0:
			p.Persist(ctx, key)
		case old.Left > 0:
			p.PExpire(ctx, key, time.Duration(old.Left)*time.Millisecond)
		default:
			p.Unlink(ctx, key)
		}
		p.HDel(ctx, undoKey(id), key)
	})
}
