package cache

import (
	"context"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"onceover/phash"
	"onceover/phash/verify"
)

// Query is what to look for. A picture without a View has no near lookup, as it
// cannot be compared.
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
	// Ahead, if not nil, is what was read already of the picture's entry. It is used once.
	Ahead *Ahead
	// AnyPicture says of a failure of Fill's compute that another picture would have met it too; nil: none does.
	AnyPicture func(error) bool
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
	Near int    // bits to the picture that was looked at, see verify.Hashes.Apart, where Kind is Near
	Like Digest // for Remember: names what the picture was compared with and shows; zeros: there was no need
	// Expiring says that this caller should have the entry made anew, by Fill with
	// Query.Stale, before it runs out. Few callers are told so, and the more often
	// an entry is looked up the earlier one of them is.
	Expiring bool
}

// Usable reports whether e, the entry of q's picture, answers q.
func (c *Cache) Usable(q *Query, e Entry) bool {
	switch {
	case q.Stale != nil && e == *q.Stale, q.Own && e.DerivedFrom != "":
		return false
	case e.DerivedFrom != "" && e.DerivedFile == "" && e.CorrectedAt == "": // an earlier version did not compare
		return false
	case e.PromptVersion != "" && q.Prompt != "" && e.PromptVersion != q.Prompt && !c.cfg.AnyPrompt:
		return false
	}
	return q.Usable == nil || q.Usable(e)
}

// Lookup finds the entry of the picture, or of one that shows the same (see package verify). It returns nil if there is none.
// The answer of a near hit is stored as the picture's own as well, if nothing else is.
func (c *Cache) Lookup(ctx context.Context, q *Query) (*Answer, error) {
	if q.Key(q.Variant) == "" {
		return nil, nil
	}
	a, _, err := c.lookup(ctx, q)
	return a, err
}

// lookup is Lookup, and returns the place at which the picture's own entry is, or would be.
func (c *Cache) lookup(ctx context.Context, q *Query) (*Answer, item, error) {
	ahead := q.Ahead
	q.Ahead = nil
	found, err := c.ownAhead(ctx, q.Variant, ahead, q.Picture)
	if err != nil {
		return nil, item{}, err
	}
	own := found[0]
	c.tellDamage(own)
	if own.entry != nil && c.Usable(q, *own.entry) {
		a := &Answer{Entry: *own.entry, Kind: Exact, Expiring: c.expiring(own.ttl)}
		if own.compared {
			a.Like = likeOf(own.entry)
		}
		if a.CorrectedAt != "" && own.ttl >= 0 && own.ttl < TTL/2 {
			// No model knows better than the person who corrected it: it stays for as
			// long as it is asked for.
			a.Expiring = false
			if err := c.keep(ctx, own.key, *own.entry); err != nil {
				c.log.Warn("correction not prolonged", zap.String("key", own.key), zap.Error(err))
			}
		}
		return a, own, nil
	}
	a, err := c.lookupNear(ctx, q, own)
	return a, own, err
}

// lookupNear is Lookup for a picture that has no entry of its own at its place.
func (c *Cache) lookupNear(ctx context.Context, q *Query, own item) (*Answer, error) {
	if c.cfg.Radius == 0 || q.Own || q.View == nil || q.Stale != nil && q.Stale.DerivedFrom == "" {
		return nil, nil // what was looked at itself is looked at again
	}
	view, err := q.View(ctx)
	if err != nil {
		return nil, err
	}
	read := map[phash.Hash]*Entry{}
	s := &Search{Index: c.index, Config: c.cfg, Compared: func(_ Neighbour, _ bool, r verify.Result) {
		if r.Reason != verify.Same {
			c.metrics.vetoed.Inc()
		}
	}}
	s.Read = func(ctx context.Context, near []Neighbour) ([]Known, error) {
		found, known, err := c.known(ctx, q, near)
		for i, f := range found {
			read[near[i].Hash] = f.entry
		}
		return known, err
	}
	n, err := s.Find(ctx, q.Hash, view)
	if n == nil || err != nil {
		return nil, err
	}
	e := *read[n.Hash]
	e.Colour, e.DerivedFrom, e.Distance, e.DerivedFile, e.File = q.Colour.String(), n.Hash.String(), n.Distance, e.File, q.Digest.String()
	if _, err := c.store(ctx, own, &q.Picture, q.Variant, e, view.Signature()); err != nil {
		c.log.Warn("near answer not cached", zap.String("phash", q.Hash.String()), zap.Error(err))
	}
	return &Answer{Entry: e, Kind: Near, Near: n.Distance}, nil
}

// known returns what is stored of candidates, and what there is of them.
func (c *Cache) known(ctx context.Context, q *Query, near []Neighbour) ([]item, []Known, error) {
	keys := make([]string, len(near))
	for i, n := range near {
		keys[i] = Key(n.Hash, q.Variant)
	}
	found, err := c.get(ctx, keys...)
	if err != nil {
		return nil, nil, err
	}
	known := make([]Known, len(near))
	var files []string
	for i, f := range found {
		if known[i].Verdict = c.judge(q, near[i].Distance, f.entry); known[i].Verdict == "" {
			files = append(files, f.entry.File)
		}
	}
	if len(files) == 0 {
		return found, known, nil
	}
	signatures, err := c.signatures(ctx, files...)
	if err != nil {
		return nil, nil, err
	}
	for i := range known {
		if known[i].Verdict != "" {
			continue
		}
		if known[i].Signature, signatures = signatures[0], signatures[1:]; known[i].Signature == nil {
			known[i].Verdict = Unsigned
		}
	}
	return found, known, nil
}

// judge says why the entry of a neighbour, nil if there is none, can be no answer to q; "" if the pictures have to be compared.
func (c *Cache) judge(q *Query, distance int, e *Entry) Verdict {
	switch {
	case e == nil:
		return Gone
	case distance > c.cfg.Radius:
		return TooFar
	case e.DerivedFrom != "":
		return Derived
	case !c.Usable(q, *e):
		return Unusable
	case e.File == "":
		return Unsigned
	}
	return ""
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
