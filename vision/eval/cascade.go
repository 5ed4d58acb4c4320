package eval

import (
	"cmp"
	"slices"
)

// Asked is what two models made of one picture, the first being the cheaper one.
type Asked struct {
	Confidence            float64 // of the first model's answer; below 0 if it states none
	FirstRight            bool
	SecondRight           bool  // the answer is right that counts once the second model was asked
	FirstCost, SecondCost int64 // in micro-dollars
	Never                 bool  // the second model is not asked, whatever the bound
}

// Step is a cascade with one bound: the second model is asked about the pictures of which the first is less sure, as the
// workers ask it (see vision.Cascade).
type Step struct {
	Bound      float64  `json:"bound"`                // on the first model's stated confidence: below it the second model is asked; 2: always
	Calibrated *float64 `json:"calibrated,omitempty"` // the same bound on the calibrated confidence
	Asked      int      `json:"asked"`                // pictures that the second model is asked about
	N          int      `json:"n"`
	Right      int      `json:"right"`
	Accuracy   float64  `json:"accuracy"`
	Interval
	CostPerPicture float64 `json:"cost_per_picture_microusd"` // of both models

	// Any bound above these, up to Bound and Calibrated, makes the same cascade.
	after, afterCalibrated float64
}

// Cascade returns the steps for each bound that makes a difference, in ascending order: from 0, where the second model is
// asked only if the first states no confidence, to a bound above each confidence, where it is asked whenever it may be.
// It is empty if there are no pictures.
func Cascade(asked []Asked) []Step {
	if len(asked) == 0 {
		return nil
	}
	n := len(asked)
	var right int
	var cost int64
	for _, a := range asked { // with the first model alone
		right += hits(a.FirstRight)
		cost += a.FirstCost
	}
	byBound := slices.DeleteFunc(slices.Clone(asked), func(a Asked) bool { return a.Never })
	slices.SortStableFunc(byBound, func(a, b Asked) int { return cmp.Compare(a.Confidence, b.Confidence) })
	var out []Step
	step := func(after, bound float64, count int) {
		s := Step{after: after, Bound: bound, Asked: count, N: n, Right: right, Accuracy: float64(right) / float64(n), Interval: Wilson(right, n),
			CostPerPicture: float64(cost) / float64(n)}
		out = append(out, s)
	}
	for i, a := range byBound {
		// All pictures before this one are less sure than the bound, which is this one's confidence.
		switch {
		case a.Confidence < 0:
		case len(out) == 0:
			step(-1, 0, i)
		case a.Confidence > byBound[i-1].Confidence:
			step(byBound[i-1].Confidence, a.Confidence, i)
		}
		right += hits(a.SecondRight) - hits(a.FirstRight)
		cost += a.SecondCost
	}
	step(1, always, len(byBound))
	return out
}

// always is a bound above each confidence.
const always = 2

func hits(right bool) int {
	if right {
		return 1
	}
	return 0
}

// Thin returns at most most steps, the first and the last among them, spread evenly over the share of pictures that the
// second model is asked about.
func Thin(steps []Step, most int) []Step {
	if len(steps) <= most || most < 2 {
		return steps
	}
	first, last := steps[0].Asked, steps[len(steps)-1].Asked
	out := []Step{steps[0]}
	for i, s := range steps[1 : len(steps)-1] {
		// The step whose share is nearest to the next of the shares wanted: the following one is past it.
		want := first + (last-first)*len(out)/(most-1)
		if s.Asked >= want || steps[i+2].Asked > want && want-s.Asked <= steps[i+2].Asked-want {
			out = append(out, s)
		}
		if len(out) == most-1 {
			break
		}
	}
	return append(out, steps[len(steps)-1])
}
