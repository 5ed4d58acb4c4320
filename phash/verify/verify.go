package verify

import (
	"math"
)

// A Reason says why two pictures are not the same.
type Reason string

// The reasons, in the order in which they are come to.
const (
	Same      Reason = ""          // they are
	Elsewhere Reason = "elsewhere" // too much of the one lies outside of the other
	Alike     Reason = "alike"     // on the whole they differ too much
	Tone      Reason = "tone"      // one is far lighter or darker, or has other contrasts, than copies have
	Part      Reason = "part"      // some part differs
	Far       Reason = "far"       // they lie on each other, and their hashes are far apart all the same
	Colour    Reason = "colour"    // the colours of some part differ
)

// A Result is what Compare has found.
type Result struct {
	Reason Reason
	Part   float64 // the largest difference of a cell of luma, in parts of what is allowed for its contrast
	Mean   float64 // the mean difference, in levels
	Colour float64 // the largest difference of a cell of chroma
	At     [2]int  // column and row of the cell of the largest difference, of 48 x 48
}

// What decides.
const (
	most        = 1.84 // what a cell may differ, beyond
	mostOfMean  = 4    // times the mean difference
	mostAtAll   = 9
	mostMean    = 3.5
	leastLike   = 0.9 // correlation
	leastGain   = 0.55
	mostGain    = 1.8
	stillness   = 0.008 // moved by less, a picture is no crop
	mostBits    = 24    // between the hashes of two that are no crops of one another
	forContrast = 0.03  // of the range of values around a cell
	forBurnt    = 0.25  // of what a cell is beyond burnt
	burnt       = 245
	mostColour  = 7
	mostGrey    = 0.31 // change of saturation
)

// Options are what an operator may choose.
type Options struct {
	// Corner leaves out the corner in which two pictures differ most, as a watermark there does. Another date or price in that
	// corner is then not seen either.
	Corner bool
}

// Compare tells whether a view shows the same as the picture of a signature.
func Compare(q *View, s *Signature, opt Options) Result {
	bits := apart(q.Hash, s.Hash)
	luma := planeOf(s.Luma[:], lumaSide)
	p, apart := align(q, luma.down(alignSide))
	if apart >= farOff {
		return Result{Reason: Elsewhere}
	}
	r := compareLuma(q, luma, p, bits)
	if r.Reason == Same {
		r.Colour = compareColours(q, s, p)
		if r.Colour > mostColour {
			r.Reason = Colour
		}
	}
	return r
}

func compareLuma(q *View, a plane, p affine, bits int) Result {
	sampled := q.fine.sample(p, lumaSide)
	in, count := p.inside(lumaSide, 0.06)
	if float64(count) < leastInside*lumaSide*lumaSide {
		return Result{Reason: Elsewhere}
	}
	fitted, gain := fitTone(sampled.pix, a.pix, in, true, 3)
	x := newPlane(lumaSide)
	for i, f := range fitted {
		x.pix[i] = float32(min(max(f, 0), 255))
	}
	var r Result
	rangeA, rangeX := a.ranges(), x.ranges()
	var sum, sumA, sumX, sumAA, sumXX, sumAX float64
	for i, ok := range in {
		if !ok {
			continue
		}
		va, vx := float64(a.pix[i]), float64(x.pix[i])
		d := math.Abs(va - vx)
		sum += d
		sumA, sumX, sumAA, sumXX, sumAX = sumA+va, sumX+vx, sumAA+va*va, sumXX+vx*vx, sumAX+va*vx
		allowed := 1 + forContrast*float64(max(rangeA[i], rangeX[i])) +
			forBurnt*(max(float64(sampled.pix[i])-burnt, 0)+max(va-burnt, 0))
		if d /= allowed; d > r.Part {
			r.Part, r.At = d, [2]int{i % lumaSide, i / lumaSide}
		}
	}
	n := float64(count)
	r.Mean = sum / n
	like := (sumAX - sumA*sumX/n) / math.Sqrt((sumAA-sumA*sumA/n)*(sumXX-sumX*sumX/n))
	switch {
	case r.Mean > mostMean || !(like >= leastLike): // NaN where one is flat
		r.Reason = Alike
	case gain < leastGain || gain > mostGain:
		r.Reason = Tone
	case r.Part > most+mostOfMean*r.Mean || r.Part > mostAtAll:
		r.Reason = Part
	case p.still(stillness) && bits > mostBits:
		r.Reason = Far
	}
	return r
}

// ranges returns the largest less the smallest value of each cell and its neighbours.
func (p plane) ranges() []float32 {
	n := p.side
	out := make([]float32, n*n)
	for y := range n {
		for x := range n {
			low, high := float32(math.Inf(1)), float32(math.Inf(-1))
			for sy := max(y-1, 0); sy <= min(y+1, n-1); sy++ {
				for _, v := range p.pix[sy*n+max(x-1, 0) : sy*n+min(x+1, n-1)+1] {
					low, high = min(low, v), max(high, v)
				}
			}
			out[y*n+x] = high - low
		}
	}
	return out
}

// noColours is what compareColours returns where nothing can be said.
const noColours = 999

// compareColours returns the largest difference of Cb and Cr of a cell, after gains of red and blue, as of another white balance, and
// of saturation, less what vivid colours may move.
func compareColours(q *View, s *Signature, p affine) float64 {
	cb, cr := q.chroma[0].sample(p, chromaSide), q.chroma[1].sample(p, chromaSide)
	luma := q.coarse.sample(p, chromaSide)
	in, count := p.inside(chromaSide, 0.12)
	if count < chromaSide*chromaSide/4 {
		return noColours
	}
	// Each cell gives two equations, of Cb and of Cr, for three unknowns: the gains, and saturation.
	n := len(in)
	var x [3][]float64
	for k := range x {
		x[k] = make([]float64, 2*n)
	}
	y := make([]float64, 2*n)
	for i := range n {
		u, v := float64(cb.pix[i])-128, float64(cr.pix[i])-128
		red, blue := float64(luma.pix[i])+1.402*v, float64(luma.pix[i])+1.772*u
		x[0][i], x[1][i], x[2][i] = -0.1687*red, 0.5*blue, u
		x[0][n+i], x[1][n+i], x[2][n+i] = 0.5*red, -0.0813*blue, v
		y[i], y[n+i] = float64(s.Cb[i])-128-u, float64(s.Cr[i])-128-v
	}
	ridge := [3]float64{(2 / 0.05) * (2 / 0.05), (2 / 0.05) * (2 / 0.05), (2 / 0.2) * (2 / 0.2)}
	low, high := [3]float64{-0.12, -0.12, -0.3}, [3]float64{0.12, 0.12, 0.45}
	weights := make([]float64, 2*n)
	for i, ok := range in {
		if ok {
			weights[i], weights[n+i] = 1, 1
		}
	}
	var t [3]float64
	for range 4 {
		var h [3][3]float64
		var b [3]float64
		for i, w := range weights {
			if w == 0 {
				continue
			}
			for j := range 3 {
				b[j] += w * x[j][i] * y[i]
				for k := range 3 {
					h[j][k] += w * x[j][i] * x[k][i]
				}
			}
		}
		for j := range 3 {
			h[j][j] += ridge[j]
		}
		var ok bool
		if t, ok = solve3(h, b); !ok {
			return noColours
		}
		for j := range t {
			t[j] = min(max(t[j], low[j]), high[j])
		}
		for i := range weights {
			if in[i%n] {
				r := (y[i] - t[0]*x[0][i] - t[1]*x[1][i] - t[2]*x[2][i]) / 3
				weights[i] = 1 / (1 + r*r)
			}
		}
	}
	if math.Abs(t[2]) > mostGrey {
		return noColours
	}
	most := 0.0
	for i, ok := range in {
		if !ok {
			continue
		}
		fit := func(at int) float64 { return t[0]*x[0][at] + t[1]*x[1][at] + t[2]*x[2][at] }
		u, v := float64(cb.pix[i])-128+fit(i), float64(cr.pix[i])-128+fit(n+i)
		eu, ev := float64(s.Cb[i])-128, float64(s.Cr[i])-128
		apart := (u-eu)*(u-eu) + (v-ev)*(v-ev)
		vivid := (u*u + v*v + eu*eu + ev*ev) / 16
		most = max(most, apart-vivid)
	}
	return math.Sqrt(most)
}
