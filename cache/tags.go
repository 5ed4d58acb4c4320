package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Tags are sets of keys, one an hour for each tag, so that they run out with the
// entries they name. A member is a key without its first part.
const (
	tagPrefix = "cache:tag:"
	keyPrefix = "cache:image:"
)

// Tag is a property by which entries can be found.
type Tag struct{ Name, Value string }

// TagNames are the names that a Tag may have.
var TagNames = []string{"model", "prompt", "category"}

// ParseTag reads name=value.
func ParseTag(s string) (Tag, error) {
	name, value, ok := strings.Cut(s, "=")
	if !ok || value == "" || !slices.Contains(TagNames, name) {
		return Tag{}, fmt.Errorf("tag %q: expected NAME=VALUE, where NAME is %s", s, strings.Join(TagNames, ", "))
	}
	return Tag{name, value}, nil
}

// String returns name=value.
func (t Tag) String() string { return t.Name + "=" + t.Value }

func (t Tag) key(hour int64) string { return fmt.Sprintf("%s%d:%s", tagPrefix, hour, t) }

func (e Entry) tags() []Tag {
	all := []Tag{{"model", e.Model}, {"prompt", e.PromptVersion}, {"category", e.Category}}
	return slices.DeleteFunc(all, func(t Tag) bool { return t.Value == "" })
}

// tag adds an entry's key to the sets of its tags.
func (c *Cache) tag(ctx context.Context, p redis.Pipeliner, key string, e Entry) {
	for _, t := range e.tags() {
		set := t.key(hourOf(c.now()))
		p.SAdd(ctx, set, strings.TrimPrefix(key, keyPrefix))
		p.Expire(ctx, set, logTTL)
	}
}

// Selection says which entries to invalidate: those of all that is set.
type Selection struct {
	Tags      []Tag
	Picture   *Picture      // its entries, the copies of them, and what they are copies of
	OlderThan time.Duration // by analyzed_at
	Corrected bool          // what people have corrected too
	// Scan looks at every entry instead of the tags. It also finds what a Python
	// service wrote within the last minutes, and entries whose tags were evicted.
	Scan bool
	// DryRun only counts.
	DryRun bool
}

// Invalidated is what Invalidate found and did.
type Invalidated struct {
	Entries   int `json:"entries"`   // removed, or to be removed with DryRun
	Corrected int `json:"corrected"` // left, as people have corrected them
}

// Invalidate removes the selected entries, so that the next job with such a
// picture has a model look at it again. Entries in a language or of a model of
// their own count too. It calls step, if that is not nil, with the number of
// entries looked at so far.
func (c *Cache) Invalidate(ctx context.Context, s Selection, step func(seen int)) (Invalidated, error) {
	var done Invalidated
	if len(s.Tags) == 0 && s.Picture == nil && s.OlderThan <= 0 {
		return done, errors.New("nothing is selected: expected a tag, a picture or an age")
	}
	match := func(e Entry) bool {
		if s.OlderThan > 0 {
			at, err := time.Parse(timeLayout, e.AnalyzedAt)
			if err != nil || c.now().Sub(at) < s.OlderThan {
				return false
			}
		}
		for _, t := range s.Tags {
			if !slices.Contains(e.tags(), t) {
				return false
			}
		}
		return true
	}
	remove := func(found []item) error {
		var keys []string
		for _, f := range found {
			switch {
			case f.entry == nil || !match(*f.entry):
			case f.entry.CorrectedAt != "" && !s.Corrected:
				done.Corrected++
			default:
				keys = append(keys, f.key)
			}
		}
		done.Entries += len(keys)
		if s.DryRun || len(keys) == 0 {
			return nil
		}
		return c.pipeline(ctx, func(p redis.Pipeliner) {
			for _, key := range keys { // on a Cluster they may be on several servers
				p.Unlink(ctx, key)
			}
		})
	}
	var err error
	switch {
	case s.Picture != nil && s.Picture.Key(Variant{}) == "":
		err = errNoKey
	case s.Picture != nil:
		err = c.eachOf(ctx, s.Picture, step, remove)
	case len(s.Tags) > 0 && !s.Scan:
		err = c.tagged(ctx, s.Tags[0], step, remove)
	default:
		err = c.each(ctx, entries, nil, step, remove)
	}
	if err != nil {
		return done, fmt.Errorf("invalidate, after %d entries: %w", done.Entries, err)
	}
	return done, nil
}

// eachOf calls visit with the entries of a picture in all variants, and with the copies of its answer.
func (c *Cache) eachOf(ctx context.Context, p *Picture, step func(int), visit func([]item) error) error {
	own, err := c.own(ctx, Variant{}, *p)
	if err != nil {
		return err
	}
	fam, _, err := c.familyOf(ctx, p, Variant{}, own[0])
	if err != nil {
		return err
	}
	file := p.fileKey(Variant{})
	return c.each(ctx, entries, nil, step, func(found []item) error {
		var members []item
		for _, f := range found {
			h, byHash := hashOfKey(f.key)
			var member bool
			var err error
			switch {
			case f.entry == nil:
			case p.Digest != (Digest{}) && strings.HasPrefix(f.key, file):
				member = true
			case byHash && h == p.Hash: // in this variant it may be another picture's than in that
				var is showing
				is, _, err = c.shows(ctx, p, f.entry)
				member = is == shown
			default:
				member, err = c.has(ctx, &fam, f)
			}
			if err != nil {
				return err
			}
			if member {
				members = append(members, f)
			}
		}
		return visit(members)
	})
}

// tagged calls visit with the entries that were tagged so; they may have changed
// since.
func (c *Cache) tagged(ctx context.Context, t Tag, step func(int), visit func([]item) error) error {
	seen := map[string]bool{}
	now := hourOf(c.now())
	for hour := now + 1; hour >= now-logHours; hour-- { // from the next one on, by a clock that is ahead
		set := t.key(hour)
		var cursor uint64
		for {
			var members []string
			err := c.guard.Do(ctx, func(ctx context.Context) error {
				found, next, err := c.client.SScan(ctx, set, cursor, "", scanCount).Result()
				if err == nil {
					members, cursor = found, next
				}
				return err
			})
			if err != nil {
				return err
			}
			var keys []string
			for _, m := range members {
				if !seen[m] {
					seen[m] = true
					keys = append(keys, keyPrefix+m)
				}
			}
			if len(keys) > 0 {
				found, err := c.get(ctx, keys...)
				if err == nil {
					err = visit(found)
				}
				if err != nil {
					return err
				}
			}
			if step != nil {
				step(len(seen))
			}
			if cursor == 0 {
				break
			}
		}
	}
	return nil
}
