package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/phash"
)

// What people want to know of the cache, and jobs do not.

// Stored is an entry as it is there at this moment.
type Stored struct {
	Entry
	TTL time.Duration // until it runs out; negative if it never does, see Cleanup
}

// Inspect returns the entries under keys in their order, nil where there is none.
func (c *Cache) Inspect(ctx context.Context, keys ...string) ([]*Stored, error) {
	out := make([]*Stored, 0, len(keys))
	for part := range slices.Chunk(keys, scanCount) {
		found, err := c.get(ctx, part...)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			var s *Stored
			if f.entry != nil {
				s = &Stored{*f.entry, f.ttl}
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// Owned is the place of a picture's own entry.
type Owned struct {
	Key    string  // "" if it can have none
	Stored *Stored // nil if there is none
}

// Own returns the places of the entries of pictures, in their order: under the digest where the file
// has an entry or a picture of other colours has the hash, else under the hash as Picture.Key says.
func (c *Cache) Own(ctx context.Context, v Variant, pictures ...Picture) ([]Owned, error) {
	out := make([]Owned, 0, len(pictures))
	for part := range slices.Chunk(pictures, scanCount) {
		found, err := c.own(ctx, v, part...)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			o := Owned{Key: f.key}
			if f.entry != nil {
				o.Stored = &Stored{*f.entry, f.ttl}
			}
			out = append(out, o)
		}
	}
	return out, nil
}

// Candidate is a picture that looks like another one.
type Candidate struct {
	Neighbour
	Stored         *Stored // nil if it is gone
	ColourDistance int     // see phash.Colour.Distance; -1 if the colours of one of the two are not known
	Verdict        Verdict
}

// Candidates returns the pictures of the index within a radius of q's, of MaxRadius
// bits at most, the nearest first, and what Lookup would make of them. It changes
// nothing. The caller has called Load.
func (c *Cache) Candidates(ctx context.Context, q *Query, radius int) ([]Candidate, error) {
	near := c.index.Near(q.Hash, min(radius, MaxRadius))
	keys := make([]string, len(near))
	for i, n := range near {
		keys[i] = Key(n.Hash, q.Variant)
	}
	found, err := c.Inspect(ctx, keys...)
	if err != nil {
		return nil, err
	}
	out := make([]Candidate, len(near))
	for i, n := range near {
		out[i] = Candidate{Neighbour: n, Stored: found[i], ColourDistance: -1}
		var e *Entry
		if found[i] != nil {
			e = &found[i].Entry
			if colour, err := phash.ParseColour(e.Colour); err == nil && q.hasColour() {
				out[i].ColourDistance = colour.Distance(q.Colour)
			}
		}
		out[i].Verdict = c.judge(q, n, e)
	}
	return out, nil
}

// Estimate returns about how many entries there are under a hash, judged by a
// sample of the keys.
func (c *Cache) Estimate(ctx context.Context) (int, error) {
	const sample = 400
	var size *redis.IntCmd
	var keys [sample]*redis.StringCmd
	err := c.pipeline(ctx, func(p redis.Pipeliner) {
		size = p.DBSize(ctx)
		for i := range keys {
			keys[i] = p.RandomKey(ctx)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("estimate the number of entries: %w", err)
	}
	entries := 0
	for _, k := range keys {
		if strings.HasPrefix(k.Val(), hashPrefix) {
			entries++
		}
	}
	return int(size.Val()) * entries / sample, nil
}
