package cache

import (
	"cmp"
	"context"
	"fmt"
	"image"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/phash"
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
	Turned  bool          // or mirrored: so the two were compared
}

// Candidates returns the pictures of the index within a radius of q's, of MaxRadius bits at most, the nearest first, and what Lookup
// would make of them. It changes nothing. The caller has called Load.
func (c *Cache) Candidates(ctx context.Context, q *Query, radius int) ([]Candidate, error) {
	if q.Hash.Degenerate() {
		return nil, nil
	}
	stages, cannot := [][]verify.Way{{{Hashes: verify.Hashes{Hash: q.Hash}}}}, Unknown
	if q.View != nil {
		view, err := q.View(ctx)
		if err != nil {
			return nil, err
		}
		stages, cannot = [][]verify.Way{{view.Itself()}, view.Ways(c.cfg.Turned)}, ""
		if view.Quality() < verify.MinQuality {
			cannot = Poor
		}
	}
	found := map[phash.Hash]Candidate{}
	for _, ways := range stages {
		near := c.index.Near(min(radius, MaxRadius), maxCandidates, hashesOf(ways)...)
		near = slices.DeleteFunc(near, func(n Neighbour) bool { return n.Hash == q.Hash && !ways[n.Way].Turned() })
		if len(near) == 0 {
			continue
		}
		judged, err := c.candidates(ctx, q, ways, cannot, near[:min(len(near), maxCandidates)])
		if err != nil {
			return nil, err
		}
		for _, n := range judged {
			if old, known := found[n.Hash]; !known || n.Distance < old.Distance {
				found[n.Hash] = n
			}
		}
		if slices.ContainsFunc(judged, func(n Candidate) bool { return n.Verdict == Answers || n.Verdict == Differs }) {
			break // there is no need for another way, see Search.Find
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(a.Distance, b.Distance), slices.Compare(a.Hash[:], b.Hash[:]))
	}), nil
}

// candidates is Candidates for some ways to look at the picture; cannot says why it cannot be compared, if it cannot.
func (c *Cache) candidates(ctx context.Context, q *Query, ways []verify.Way, cannot Verdict, near []Neighbour) ([]Candidate, error) {
	found, known, err := c.known(ctx, q, near)
	if err != nil {
		return nil, err
	}
	out := make([]Candidate, len(near))
	compared := 0
	for i, n := range near {
		out[i] = Candidate{Neighbour: n, Verdict: known[i].Verdict, Turned: ways[n.Way].Turned()}
		if f := found[i]; f.entry != nil {
			out[i].Stored = &Stored{*f.entry, f.ttl}
		}
		switch {
		case out[i].Verdict != "":
		case cannot != "":
			out[i].Verdict = cannot
		case known[i].Signature.Poor():
			out[i].Verdict = Poor
		case compared == maxCompared:
			out[i].Verdict = Beyond
		default:
			compared++
			out[i].Result = verify.Compare(ways[n.Way].View(), known[i].Signature, c.cfg.options())
			if out[i].Verdict = Answers; out[i].Result.Reason != verify.Same {
				out[i].Verdict = Differs
			}
		}
	}
	return out, nil
}

// Thumbnail returns what is kept of a file's picture, 48 x 48 cells whatever its shape. It is nil if nothing is kept.
func (c *Cache) Thumbnail(ctx context.Context, file Digest) (image.Image, error) {
	kept, err := c.signatures(ctx, file.String())
	if err != nil || kept[0] == nil {
		return nil, err
	}
	return kept[0].Image(), nil
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
