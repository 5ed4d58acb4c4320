package main

import (
	"fmt"
	"io"

	"onceover/cache"
	"onceover/vision/eval"
)

// judged is what people have said of the pairs of a simulation. A nil *judged has no judgements.
type judged struct {
	Judgements  int         `json:"judgements"` // of different pairs
	Overruled   int         `json:"overruled"`  // of these, pairs of which an earlier line says otherwise
	Near        judgedPairs `json:"near"`       // wrong where the two differ
	Twins       judgedPairs `json:"twin"`       // wrong where the two show the same
	Vetoed      judgedPairs `json:"vetoed"`     // wrong where the two show the same
	WastedCalls int         `json:"wasted_calls"`
	NotCompared int         `json:"not_compared"` // judgements of two files of the folder that are no pair of this run
	Elsewhere   []elsewhere `json:"elsewhere"`    // judgements of files of which one or both are not in the folder

	all    []eval.Judgement
	by     map[eval.PicturePair]*metPair
	wasted map[cache.Digest]bool // pictures that were told apart from one that shows the same
	part   bool                  // some pairs of this run were not judged
}

// judgedPairs are those of one verdict.
type judgedPairs struct {
	Judged   int           `json:"judged"`
	Wrong    int           `json:"wrong"`
	Interval eval.Interval `json:"interval"` // of 95 %, of the share that is wrong
}

// elsewhere is a judgement of other files.
type elsewhere struct {
	First  string `json:"first"`
	Second string `json:"second"`
	Line   string `json:"line"`
}

// metPair is a judgement, and with which verdicts the run has met its pair. The two may be compared several times, as the one
// was turned; to people they are one pair.
type metPair struct {
	same bool
	as   map[string]bool
}

func newJudged(all []eval.Judgement, overruled int) *judged {
	d := &judged{Judgements: len(all), Overruled: overruled, Elsewhere: []elsewhere{}, all: all, by: map[eval.PicturePair]*metPair{}, wasted: map[cache.Digest]bool{}}
	for _, j := range all {
		d.by[j.Pair()] = &metPair{j.Same, map[string]bool{}}
	}
	return d
}

// count reports whether a pair was judged, and counts it then. second is its later picture.
func (d *judged) count(p pair, second cache.Digest) bool {
	if d == nil {
		return false
	}
	j := d.by[eval.PairOf(p.FirstDigest, p.SecondDigest)]
	if j == nil {
		return false
	}
	if j.as[p.Verdict] {
		return true
	}
	j.as[p.Verdict] = true
	group := map[string]*judgedPairs{pairNear: &d.Near, pairTwin: &d.Twins, pairVetoed: &d.Vetoed}[p.Verdict]
	group.Judged++
	if answered := p.Verdict == pairNear; answered != j.same {
		group.Wrong++
		if !answered {
			d.wasted[second] = true
		}
	}
	return true
}

// called counts a call for a picture, if it shows the same as one that it was told apart from.
func (d *judged) called(picture cache.Digest) {
	if d != nil && d.wasted[picture] {
		d.WastedCalls++
	}
}

// end sums up. has reports whether the folder has a file of that SHA-256 in hex; part says that some pairs were not judged.
func (d *judged) end(has func(digest string) bool, part bool) {
	if d == nil {
		return
	}
	d.part = part
	for _, group := range []*judgedPairs{&d.Near, &d.Twins, &d.Vetoed} {
		group.Interval = eval.Wilson(group.Wrong, group.Judged)
	}
	for _, j := range d.all {
		if !has(j.FirstDigest) || !has(j.SecondDigest) {
			d.Elsewhere = append(d.Elsewhere, elsewhere{j.First, j.Second, j.Source})
		} else if len(d.by[j.Pair()].as) == 0 {
			d.NotCompared++
		}
	}
}

// facts says in words what people have found. near is how many near hits there are.
func (d *judged) facts(near int) []string {
	if d == nil {
		return nil
	}
	var out []string
	add := func(p judgedPairs, of, one, many string) {
		if p.Judged > 0 {
			out = append(out, fmt.Sprintf("%s: %s, %s (95 %%: %.1f – %.1f %%)", of, count(p.Wrong, one, many), percent(p.Wrong, p.Judged), 100*p.Interval.Low, 100*p.Interval.High))
		}
	}
	add(d.Near, fmt.Sprintf("%s of %s judged", number(d.Near.Judged), count(near, "near hit", "near hits")), "was false", "were false")
	add(d.Twins, count(d.Twins.Judged, "pair of equal hashes", "pairs of equal hashes")+" judged", "shows the same", "show the same")
	add(d.Vetoed, count(d.Vetoed.Judged, "pair that was told apart", "pairs that were told apart")+" judged", "shows the same", "show the same")
	if d.Twins.Wrong+d.Vetoed.Wrong > 0 {
		out = append(out, count(d.WastedCalls, "call was wasted on a picture that shows the same", "calls were wasted on pictures that show the same")+" as an earlier one")
	}
	if d.part && d.Near.Judged+d.Twins.Judged+d.Vetoed.Judged > 0 {
		out = append(out, "the page begins with the likeliest mistakes: among the pairs that nobody judged there are fewer")
	}
	if d.Overruled > 0 {
		out = append(out, count(d.Overruled, "judgement says", "judgements say")+" the opposite of an earlier one, and counts instead of it")
	}
	if d.NotCompared > 0 {
		out = append(out, count(d.NotCompared, "judgement is of a pair", "judgements are of pairs")+" that this run does not compare")
	}
	if n := len(d.Elsewhere); n > 0 {
		out = append(out, count(n, "judgement is", "judgements are")+" of files that are not in the folder")
	}
	return out
}

// warn names the first judgements of other files.
func (d *judged) warn(out io.Writer) {
	if d == nil {
		return
	}
	for _, e := range d.Elsewhere[:min(len(d.Elsewhere), maxWarned)] {
		fmt.Fprintf(out, "not in the folder: %s and %s, judged in %s\n", plainLine(e.First, 200), plainLine(e.Second, 200), plainLine(e.Line, 200))
	}
	if more := len(d.Elsewhere) - maxWarned; more > 0 {
		fmt.Fprintf(out, "… and %s of other files; --json has all\n", count(more, "more judgement", "more judgements"))
	}
}
