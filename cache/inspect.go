package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/phash/verify"
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
// has an entry or another picture has the hash, else under the hash as Picture.Key says.
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

// Candidate is a picture that may show the same as another one.
type Candidate struct {
	Neighbour
	Stored  *Stored // nil if it is gone
	Verdict Verdict
	Result  verify.Result // where the two were compared
	Turned  bool          // it was found by another way to look at the picture than as it is
}

// Candidates returns the pictures of the index within a radius of q's, of MaxRadius bits at most, the nearest first, and what Lookup
// would make of them. It changes nothing. The caller has called Load.
func (c *Cache) Candidates(ctx context.Context, q *Query, radius int) ([]Candidate, error) {
	ways := []verify.Way{}
	if q.View != nil {
		view, err := q.View(ctx)
		if err != nil {
			return nil, err
		}
		ways = append(append(ways, view.Itself()), view.Ways(c.cfg.Turned)...)
	}
	hashes := []verify.Hashes{{Hash: q.Hash}}
	if len(ways) > 0 {
		hashes = hashes[:0]
		for _, w := range ways {
			hashes = append(hashes, w.Hashes)
		}
	}
	near := slices.DeleteFunc(c.index.Near(min(radius, MaxRadius), hashes...), func(n Neighbour) bool { return n.Hash == q.Hash })
	keys := make([]string, len(near))
	for i, n := range near {
		keys[i] = Key(n.Hash, q.Variant)
	}
	found, err := c.Inspect(ctx, keys...)
	if err != nil {
		return nil, err
	}
	out := make([]Candidate, 0, len(near))
	for part := range slices.Chunk(near, maxCandidates) {
		_, known, err := c.known(ctx, q, part)
		if err != nil {
			return nil, err
		}
		for i, n := range part {
			candidate := Candidate{Neighbour: n, Stored: found[len(out)], Verdict: known[i].Verdict, Turned: n.Way > 0}
			switch {
			case candidate.Verdict != "":
			case len(ways) == 0:
				candidate.Verdict = Unknown
			default:
				candidate.Result = verify.Compare(ways[n.Way].View(), known[i].Signature, c.cfg.options())
				candidate.Verdict = Answers
				if candidate.Result.Reason != verify.Same {
					candidate.Verdict = Differs
				}
			}
			out = append(out, candidate)
		}
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
