package cache

import (
	"context"
	"slices"

	"onceover/phash"
	"onceover/phash/verify"
)

// Verdict says whether the entry of a picture answers a job with another one.
type Verdict string

// The verdicts, in the order in which they are come to.
const (
	Gone     Verdict = "gone"     // in the index, but its entry has run out or was removed
	TooFar   Verdict = "too_far"  // farther away than Config.Radius
	Derived  Verdict = "derived"  // a copy itself
	Unusable Verdict = "unusable" // of another prompt version, or refused by Query.Usable
	Unsigned Verdict = "unsigned" // nothing is kept with which the picture could be compared
	Unknown  Verdict = "unknown"  // the picture that is asked about is not at hand
	Poor     Verdict = "poor"     // there is too little to compare in one of the two, see verify.MinQuality
	Beyond   Verdict = "beyond"   // as many nearer ones were compared as may be
	Differs  Verdict = "differs"  // another picture: see verify.Reason
	Answers  Verdict = "answers"  // it does; of several the nearest
)

// What a search may cost. A comparison takes about 5 ms. Where a camera looks at one spot all day, thousands may be near.
const (
	batch         = 32  // candidates that are read together
	maxCandidates = 256 // that are read at all: many may have gone, or be copies
	maxCompared   = 4   // that are compared
)

// A Search looks for a picture that was looked at before and shows the same as another one.
type Search struct {
	Index *Index
	Config
	// Read says what there is of candidates, in their order. It is called with a few at a time.
	Read func(ctx context.Context, near []Neighbour) ([]Known, error)
	// Compared, if it is not nil, is told of each candidate that was compared, and whether the picture was turned or mirrored.
	Compared func(n Neighbour, turned bool, r verify.Result)
}

// Known is what there is of a candidate.
type Known struct {
	Verdict   Verdict           // why it can be no answer; "" if it may be one
	Signature *verify.Signature // nil if it is not kept
}

// Find returns the picture that shows the same as the one of key and v, nil if there is none: the nearest of those that do. Where there
// is nothing to compare with the picture as it is, the other ways to look at it are tried. One that is too poor in detail has none.
func (s *Search) Find(ctx context.Context, key phash.Hash, v *verify.View) (*Neighbour, error) {
	if s.Radius == 0 || key.Degenerate() {
		return nil, nil
	}
	n, compared, err := s.find(ctx, key, v, []verify.Way{v.Itself()})
	if compared == 0 && err == nil {
		n, _, err = s.find(ctx, key, v, v.Ways(s.Turned))
	}
	return n, err
}

// find is Find for some ways. It also returns how many pictures were compared.
func (s *Search) find(ctx context.Context, key phash.Hash, v *verify.View, ways []verify.Way) (_ *Neighbour, compared int, _ error) {
	near := s.Index.Near(s.Radius, maxCandidates, hashesOf(ways)...)
	if len(near) == 0 || v.Quality() < verify.MinQuality {
		return nil, 0, nil
	}
	for near := range slices.Chunk(near[:min(len(near), maxCandidates)], batch) {
		known, err := s.Read(ctx, near)
		if err != nil {
			return nil, compared, err
		}
		for i, k := range known {
			n := near[i]
			// What has the key was compared already, as it is.
			if k.Verdict != "" || k.Signature == nil || n.Hash == key && !ways[n.Way].Turned() || k.Signature.Poor() {
				continue
			}
			r := verify.Compare(ways[n.Way].View(), k.Signature, s.options())
			if s.Compared != nil {
				s.Compared(n, ways[n.Way].Turned(), r)
			}
			compared++
			if r.Reason == verify.Same {
				return &n, compared, nil
			}
			if compared == maxCompared {
				return nil, compared, nil
			}
		}
	}
	return nil, compared, nil
}

func hashesOf(ways []verify.Way) []verify.Hashes {
	out := make([]verify.Hashes, len(ways))
	for i, w := range ways {
		out[i] = w.Hashes
	}
	return out
}
