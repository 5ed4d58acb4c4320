package eval

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// z95 is the 97.5th percentile of the normal distribution: all intervals are of 95 %.
const z95 = 1.959963984540054

// Interval is a confidence interval of 95 %.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Wilson returns the score interval of a share of k in n (E. B. Wilson 1927, Probable inference, the law of succession,
// and statistical inference). It is 0 to 1 for n = 0. It stays within 0 and 1, and holds for small n and shares near 1,
// where the usual normal interval does not.
func Wilson(k, n int) Interval {
	if n == 0 {
		return Interval{0, 1}
	}
	p, m := float64(k)/float64(n), float64(n)
	d := 1 + z95*z95/m
	centre := (p + z95*z95/(2*m)) / d
	half := z95 / d * math.Sqrt(p*(1-p)/m+z95*z95/(4*m*m))
	return Interval{max(0, centre-half), min(1, centre+half)}
}

// McNemar returns the two-sided p-value of the exact test that two models are equally often right about the same pictures
// (Q. McNemar 1947, in its exact binomial form): b and c are how many pictures only the one and only the other was right
// about. It is 1 where b equals c.
func McNemar(b, c int) float64 {
	n, k := b+c, min(b, c)
	if b == c {
		return 1
	}
	// The tail of Binomial(n, 1/2), from its largest term down: in that order a sum of small numbers loses nothing.
	lg := func(x int) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
	term := math.Exp(lg(n) - lg(k) - lg(n-k) - float64(n)*math.Ln2)
	if n <= 1000 { // the exact way, without the rounding of large logarithms
		term = math.Ldexp(1, -n)
		for i := 1; i <= k; i++ {
			term *= float64(n-i+1) / float64(i)
		}
	}
	var tail float64
	for i := k; i >= 0 && term > 0; i-- {
		tail += term
		term *= float64(i) / float64(n-i+1)
	}
	return min(1, 2*tail)
}

// Difference is how much more often one model is right than another about the same pictures.
type Difference struct {
	Mean float64 `json:"mean"`
	Interval
}

// PairedDifference returns the mean of d, the difference between two models for each picture (1, 0 or -1), with the normal
// interval of a paired mean (E. Miller 2024, Adding error bars to evals, section 4.2). Under a few hundred pictures the
// interval is too narrow; [McNemar] is exact. The interval has no width for fewer than two pictures.
func PairedDifference(d []float64) Difference {
	n := float64(len(d))
	if n == 0 {
		return Difference{}
	}
	var sum, squares float64
	for _, v := range d {
		sum += v
	}
	mean := sum / n
	for _, v := range d {
		squares += (v - mean) * (v - mean)
	}
	half := 0.0
	if n > 1 {
		half = z95 * math.Sqrt(squares/(n-1)/n)
	}
	return Difference{mean, Interval{mean - half, mean + half}}
}

// Quantile returns the quantile q (0 to 1) of values in ascending order, interpolated linearly as NumPy does (type 7 of
// Hyndman and Fan 1996); 0 if there are none.
func Quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// Bins is how many bins of equal width calibration is measured in, as Guo et al. have it.
const Bins = 15

// Point is an answer's confidence, 0 to 1, and whether the answer was right.
type Point struct {
	Confidence float64
	Right      bool
}

// Bin is one row of a reliability table: the answers whose confidence is above Low and at most High; 0 is in the first.
type Bin struct {
	Low        float64 `json:"low"`
	High       float64 `json:"high"`
	N          int     `json:"n"`
	Confidence float64 `json:"confidence"` // their mean; 0 if there are none
	Accuracy   float64 `json:"accuracy"`   // the share of them that is right; 0 if there are none
}

// Reliability sorts answers into [Bins] bins.
func Reliability(points []Point) []Bin {
	out := make([]Bin, Bins)
	for i := range out {
		out[i].Low, out[i].High = float64(i)/Bins, float64(i+1)/Bins
	}
	for _, p := range points {
		b := &out[binOf(p.Confidence)]
		b.N++
		b.Confidence += p.Confidence
		if p.Right {
			b.Accuracy++
		}
	}
	for i := range out {
		if b := &out[i]; b.N > 0 {
			b.Confidence /= float64(b.N)
			b.Accuracy /= float64(b.N)
		}
	}
	return out
}

// binOf returns the bin of a confidence. Its edges are i/Bins as float64 has them, so that 0.2 is in the bin that ends
// there.
func binOf(c float64) int {
	i := 0
	for i < Bins-1 && c > float64(i+1)/Bins {
		i++
	}
	return i
}

// ECE returns the expected calibration error: how far confidence and accuracy are apart on average over the bins, weighed
// by their answers (C. Guo et al. 2017, On calibration of modern neural networks). 0 is best; 0 if there are no answers.
func ECE(points []Point) float64 {
	var sums binSums
	for _, p := range points {
		sums.add(p)
	}
	return sums.ece()
}

// binSums is what ECE needs of each bin: the sum of confidence minus right, so that n |confidence - accuracy| is its
// absolute value.
type binSums struct {
	n    int
	gaps [Bins]float64
}

func (s *binSums) add(p Point) { s.n++; s.gaps[binOf(p.Confidence)] += p.Confidence - p.hit() }

func (s *binSums) ece() float64 {
	if s.n == 0 {
		return 0
	}
	var sum float64
	for _, g := range s.gaps {
		sum += math.Abs(g)
	}
	return sum / float64(s.n)
}

// hit is 1 for a right answer and 0 for a wrong one.
func (p Point) hit() float64 {
	if p.Right {
		return 1
	}
	return 0
}

// Brier returns the mean squared distance of confidence from the outcome, which is 1 for a right answer and 0 for a wrong
// one (G. W. Brier 1950, Verification of forecasts expressed in terms of probability). 0 is best; 0 if there are no
// answers.
func Brier(points []Point) float64 {
	var sum float64
	for _, p := range points {
		sum += p.squared()
	}
	return sum / max(1, float64(len(points)))
}

func (p Point) squared() float64 { d := p.Confidence - p.hit(); return d * d }

const (
	resamples = 2000
	// The bootstrap's seed: the same answers always give the same interval.
	seedHigh, seedLow = 1927, 2017
)

// Bootstrap returns the percentile intervals of [ECE] and [Brier] over 2,000 resamples (B. Efron 1979). The same points in
// the same order give the same intervals. Both are zero if there are no points. That of ECE lies too high where answers are few
// or well calibrated, since the absolute gaps of a resample are larger than those of the answers.
func Bootstrap(points []Point) (ece, brier Interval) {
	if len(points) == 0 {
		return
	}
	r := rand.NewPCG(seedHigh, seedLow)
	eces, briers := make([]float64, resamples), make([]float64, resamples)
	for i := range resamples {
		var sums binSums
		var squares float64
		for range points {
			at, _ := bits.Mul64(r.Uint64(), uint64(len(points))) // 0 to len-1, each as likely but for 2^-64
			sums.add(points[at])
			squares += points[at].squared()
		}
		eces[i], briers[i] = sums.ece(), squares/float64(len(points))
	}
	return middle(eces), middle(briers)
}

// middle is the interval that holds 95 % of the values.
func middle(values []float64) Interval {
	slices.Sort(values)
	return Interval{Quantile(values, 0.025), Quantile(values, 0.975)}
}
