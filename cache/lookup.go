package cache

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"onceover/phash"
)

// Query is what to look for. A picture whose colours are not known has no near
// lookup, as they cannot be compared.
type Query struct {
	Picture
	Variant Variant
	// Prompt is the present prompt version, "" to take entries of any.
	Prompt string
	// Usable refuses entries that are no answer for other reasons; nil takes all.
	Usable func(Entry) bool
	// Stale, if not nil, is an entry that is no answer any more: see Answer.Expiring.
	Stale *Entry
	// Own says that the answer to a picture that looks the same is none.
	Own bool
}

// Kind is how an answer was found.
type Kind string

// The kinds of answers, and of none.
const (
	Exact  Kind = "exact"  // the picture's own entry
	Near   Kind = "near"   // the entry of a picture that looks the same
	Shared Kind = "shared" // made meanwhile for another job, here or in another process
	Fresh  Kind = "miss"   // made for this job
)

// Answer is the analysis of a picture.
type Answer struct {
	Entry
	Kind Kind
	Near int // Hamming distance in bits to the picture that was looked at, where Kind is Near
	// Expiring says that this caller should have the entry made anew, by Fill with
	// Query.Stale, before it runs out. Few callers are told so, and the more often
	// an entry is looked up the earlier one of them is.
	Expiring bool
}

// usable reports whether e answers q.
func (c *Cache) usable(q *Query, e Entry) bool {
	switch {
	case q.Stale != nil && e == *q.Stale, q.Own && e.DerivedFrom != "":
		return false
	case e.PromptVersion != "" && q.Prompt != "" && e.PromptVersion != q.Prompt && !c.cfg.AnyPrompt:
		return false
	}
	return q.Usable == nil || q.Usable(e)
}

// Lookup finds the entry of the picture, or of one within the radius. The colours
// of the two agree, or those of one are not known. It returns nil if there is none.
// The answer of a near hit is stored under the picture's own hash as well, if that is free.
func (c *Cache) Lookup(ctx context.Context, q *Query) (*Answer, error) {
	key := q.Key(q.Variant)
	if key == "" {
		return nil, nil
	}
	found, err := c.own(ctx, q.Variant, q.Picture)
	if err != nil {
		return nil, err
	}
	own := found[0]
	c.tellDamage(own)
	if own.key != key && own.entry == nil {
		c.metrics.vetoed.Inc()
	}
	if own.entry != nil && c.usable(q, *own.entry) {
		a := &Answer{Entry: *own.entry, Kind: Exact, Expiring: c.expiring(own.ttl)}
		if a.CorrectedAt != "" && own.ttl >= 0 && own.ttl < TTL/2 {
			// No model knows better than the person who corrected it: it stays for as
			// long as it is asked for.
			a.Expiring = false
			if err := c.keep(ctx, own.key); err != nil {
				c.log.Warn("correction not prolonged", zap.String("key", own.key), zap.Error(err))
			}
		}
		return a, nil
	}
	return c.lookupNear(ctx, q, own.key)
}

// Candidates are read a few at a time, the nearest first, and no more than some:
// where a camera looks at one spot all day, thousands may be near.
const (
	batch         = 8
	maxCandidates = 64
)

// lookupNear is Lookup for a picture that has no entry of its own under key.
func (c *Cache) lookupNear(ctx context.Context, q *Query, key string) (*Answer, error) {
	if c.cfg.Radius == 0 || q.Own || !q.hasColour() || q.Stale != nil && q.Stale.DerivedFrom == "" {
		return nil, nil // what was looked at itself is looked at again
	}
	candidates := c.index.Near(q.Hash, c.cfg.Radius)
	for near := range slices.Chunk(candidates[:min(len(candidates), maxCandidates)], batch) {
		keys := make([]string, len(near))
		for i, n := range near {
			keys[i] = Key(n.Hash, q.Variant)
		}
		found, err := c.get(ctx, keys...)
		if err != nil {
			return nil, err
		}
		for i, n := range near {
			switch c.judge(q, n, found[i].entry) {
			case Colours:
				c.metrics.vetoed.Inc()
			case Answers:
				e := *found[i].entry
				e.Colour, e.DerivedFrom, e.Distance = q.Colour.String(), n.Hash.String(), n.Distance
				if key != q.Key(q.Variant) {
					// The copies that are kept are found by their hashes, when their root is corrected.
				} else if _, err := c.store(ctx, key, e); err != nil {
					c.log.Warn("near answer not cached", zap.String("phash", q.Hash.String()), zap.Error(err))
				}
				return &Answer{Entry: e, Kind: Near, Near: n.Distance}, nil
			}
		}
	}
	return nil, nil
}

// Verdict says whether the entry of a picture answers a job with another one.
type Verdict string

// The verdicts, in the order in which they are come to.
const (
	Gone     Verdict = "gone"     // in the index, but its entry has run out or was removed
	TooFar   Verdict = "too_far"  // farther away than Config.Radius
	Derived  Verdict = "derived"  // a copy itself
	Unusable Verdict = "unusable" // of another prompt version, or refused by Query.Usable
	Colours  Verdict = "colours"  // the same shapes in other colours
	Unknown  Verdict = "unknown"  // the colours decide, and those of the picture that is asked about are not known
	Answers  Verdict = "answers"  // it does; of several the nearest
)

// judge decides about a neighbour of q and its entry, nil if there is none. An
// entry without colours, as Python writes it, counts as one of the same.
func (c *Cache) judge(q *Query, n Neighbour, e *Entry) Verdict {
	switch {
	case e == nil:
		return Gone
	case n.Distance > c.cfg.Radius:
		return TooFar
	case e.DerivedFrom != "":
		return Derived
	case !c.usable(q, *e):
		return Unusable
	case e.Colour == "":
		return Answers
	case !q.hasColour():
		return Unknown
	}
	if other, err := phash.ParseColour(e.Colour); err != nil || !other.Same(q.Colour) {
		return Colours
	}
	return Answers
}

// expiring draws whether an entry is made anew before it runs out: with a
// probability that grows towards its end, and the earlier the longer a
// computation takes. See Vattani, Chierichetti and Lowenstein, "Optimal
// Probabilistic Cache Stampede Prevention" (2015), with beta 1.
func (c *Cache) expiring(left time.Duration) bool {
	if left < 0 {
		return false
	}
	return time.Duration(float64(c.took.get())*-math.Log(1-rand.Float64())) >= left
}

// average is a moving average of durations.
type average struct{ nanos atomic.Int64 }

// firstAverage stands in until something was measured: what a vision call takes.
const firstAverage = 3 * time.Second

func (a *average) get() time.Duration {
	if n := a.nanos.Load(); n > 0 {
		return time.Duration(n)
	}
	return firstAverage
}

// add counts d for an eighth. Of concurrent calls one may be lost.
func (a *average) add(d time.Duration) {
	old := a.get()
	a.nanos.Store(int64(old + (d-old)/8))
}
