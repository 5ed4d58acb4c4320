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

// What decides. docs/near-duplicates.md says where each line was drawn, and on which pictures.
const (
	most       = 0.95 // what a cell may differ, beyond
	mostOfMean = 2.75 // times the mean difference
	mostAtAll  = 5
	mostMean   = 3.5

	plainRange         = 3   // levels within which a cell and those around it are plain
	leastPlain         = 0.1 // share of the cells: with fewer plain ones a picture is textured
	mostOfTexturedMean = 4   // mostOfMean and mostAtAll of such a picture
	mostTexturedAtAll  = 7

	leastLike   = 0.9 // correlation
	leastGain   = 0.55
	mostGain    = 1.8
	forContrast = 0.03 // of the range of values around a cell
	forBurnt    = 0.3  // of what a cell may have lost where it burns out
	mostColour  = 7
	leastVivid  = 0.69 // change of saturation
	mostVivid   = 1.42
)

// Options are what an operator may choose.
type Options struct {
	// Corner leaves out the corner in which two pictures differ most, as a watermark there does. Another date or price in that
	// corner is then not seen either.
	Corner bool
}

// Compare decides whether a view shows the same as the picture of a signature. A view with uniform
// bands at its edges is compared without them too. That takes some milliseconds.
func Compare(q *View, s *Signature, opt Options) Result {
	r := compare(q, s, opt, false)
	if r.Reason != Same && q.inner != nil {
		if inner := compare(q.inner, s, opt, true); inner.Reason == Same {
			return inner
		}
	}
	return r
}

// compare compares with a view as it is. With whole, only the outermost cells of the signature may lie
// outside of the view: a band that was taken away must not hide what the signature's picture has there.
func compare(q *View, s *Signature, opt Options, whole bool) Result {
	luma := planeOf(s.Luma[:], lumaSide)
	planes := q.planes()
	p, apart := align(planes, luma)
	if apart >= farOff {
		return Result{Reason: Elsewhere}
	}
	in, count := p.inside(lumaSide, 0.06)
	least := leastInside * lumaSide * lumaSide
	if whole {
		least = (lumaSide - 2) * (lumaSide - 2)
	}
	if float64(count) < least {
		return Result{Reason: Elsewhere}
	}
	c := comparison{in: in, of: cells{planes.finest().sample(p, lumaSide), planes.chroma[0].sample(p, chromaSide), planes.chroma[1].sample(p, chromaSide)}}
	c.to = cells{luma, planeOf(s.Cb[:], chromaSide), planeOf(s.Cr[:], chromaSide)}
	c.inColour, c.countColour = p.inside(chromaSide, 0.12)
	c.blur = planes.fine.blurs().sample(p, lumaSide)
	c.fit()
	return c.decide(opt)
}

// cells are the means of a picture in the cells of a signature.
type cells struct{ luma, cb, cr plane }

// A comparison has two pictures in the cells of one of them. The first one is that which has less
// contrast, so that what burns out is in the second one.
type comparison struct {
	of, to       cells
	in, inColour []bool
	countColour  int
	blur         plane // of the view: what a blur of it would add
	tone         tone
	luma, cb, cr plane     // of, with the tone of to, burnt out where that is
	lost         []float32 // by each cell of luma, at most, where it burns out
}

// fit fits the tone, and exchanges the pictures if the second one has less contrast.
func (c *comparison) fit() {
	c.tone = fitTone(c.of.luma.pix, c.to.luma.pix, c.in, false, 3)
	if c.tone.gain < 1 {
		c.of, c.to = c.to, c.of
		c.tone = fitTone(c.of.luma.pix, c.to.luma.pix, c.in, false, 3)
	}
	kept := make([]bool, len(c.in))
	for range 2 {
		c.predict()
		// Cells that burn out say nothing about the tone, unless there are hardly any others.
		count, all := 0, 0
		for i, ok := range c.in {
			kept[i] = ok && c.lost[i] < 1
			if ok {
				all++
			}
			if kept[i] {
				count++
			}
		}
		if 5*count < all {
			copy(kept, c.in)
		}
		c.tone = fitTone(c.of.luma.pix, c.to.luma.pix, kept, true, 3)
	}
	c.predict()
	c.sharpen()
}

// mostSharpness limits sharpen: the share of what is between a picture and its blur.
const mostSharpness = 1

// blurs returns what each point of the plane lacks to the mean of the four around it.
func (q plane) blurs() plane {
	n, out := q.side, newPlane(q.side)
	for y := range n {
		up, here, down := q.pix[max(y-1, 0)*n:][:n], q.pix[y*n:][:n], q.pix[min(y+1, n-1)*n:][:n]
		for x, v := range here {
			out.pix[y*n+x] = (up[x]+down[x]+here[max(x-1, 0)]+here[min(x+1, n-1)])/4 - v
		}
	}
	return out
}

// sharpen makes up for blur, sharpening, and the blur of reducing, which move the cells of the whole
// picture by one share of what blur would.
func (c *comparison) sharpen() {
	x, a, blur := c.luma.pix, c.to.luma.pix, c.blur.pix
	rest, room := make([]float32, len(x)), make([]float32, len(x))
	for i, v := range x {
		rest[i] = a[i] - v
	}
	share := 0.0
	for range 3 {
		sharpness := 1 / (2 * (1.48*float64(median(rest, c.in, true, room)) + 0.5))
		top, bottom := 0.0, 300.0
		for i, ok := range c.in {
			if !ok || c.lost[i] >= 1 {
				continue
			}
			r := float64(rest[i]) * sharpness
			w := float64(blur[i]) / (1 + r*r)
			top += w * (float64(a[i]) - float64(x[i]))
			bottom += w * float64(blur[i])
		}
		share = min(max(top/bottom, -mostSharpness), mostSharpness)
		for i := range rest {
			rest[i] = a[i] - x[i] - float32(share)*blur[i]
		}
	}
	for i := range x {
		x[i] = min(max(x[i]+float32(share)*blur[i], 0), 255)
	}
}

// predict computes what the first picture would be with the tone of the second one: each of red,
// green and blue is brightened and burns out by itself.
func (c *comparison) predict() {
	const k = lumaSide / chromaSide
	if c.lost == nil {
		c.luma, c.lost = newPlane(lumaSide), make([]float32, lumaSide*lumaSide)
		c.cb, c.cr = newPlane(chromaSide), newPlane(chromaSide)
	}
	clear(c.cb.pix)
	clear(c.cr.pix)
	ranges := c.of.luma.ranges()
	over, under := max(c.tone.of(255)-255, 0), max(-c.tone.of(0), 0) // what a point may lose
	for i, v := range c.of.luma.pix {
		at := i/lumaSide/k*chromaSide + i%lumaSide/k
		y, cb, cr := float64(v), float64(c.of.cb.pix[at])-128, float64(c.of.cr.pix[at])-128
		red, green, blue := y+1.402*cr, y-0.344136*cb-0.714136*cr, y+1.772*cb
		high, low := max(red, green, blue), min(red, green, blue)
		half := float64(ranges[i]) / 2
		c.lost[i] = float32(min(over, max(c.tone.of(high+half)-255, 0)) + min(under, max(-c.tone.of(low-half), 0)))
		lostRed, lostGreen, lostBlue := c.tone.loses(red), c.tone.loses(green), c.tone.loses(blue)
		luma := c.tone.of(y) - (0.299*lostRed + 0.587*lostGreen + 0.114*lostBlue)
		c.luma.pix[i] = float32(min(max(luma, 0), 255))
		r, g, b := c.tone.of(red)-lostRed, c.tone.of(green)-lostGreen, c.tone.of(blue)-lostBlue
		luma = 0.299*r + 0.587*g + 0.114*b
		c.cb.pix[at] += float32((b-luma)/1.772) / (k * k)
		c.cr.pix[at] += float32((r-luma)/1.402) / (k * k)
	}
	for i := range c.cb.pix {
		c.cb.pix[i] += 128
		c.cr.pix[i] += 128
	}
}

// loses returns what a value of 0 to 255 loses with the tone, as there is nothing beyond 0 and 255.
// Values beyond, such as those of a red that was computed of luma and chroma, count as 0 or 255.
func (t tone) loses(v float64) float64 {
	f := t.of(min(max(v, 0), 255))
	return f - min(max(f, 0), 255)
}

// decide judges the cells, without one corner if opt says so: that one without which the largest
// difference is the smallest.
func (c *comparison) decide(opt Options) Result {
	differences := c.differences()
	r, left := c.part(differences, box{}), box{}
	if opt.Corner {
		for _, b := range corners {
			if without := c.part(differences, b); without.Part < r.Part {
				r, left = without, b
			}
		}
	}
	like := c.alike(left)
	switch gain := c.tone.gain; {
	case r.Mean > mostMean || !(like >= leastLike): // NaN where one is flat
		r.Reason = Alike
	case gain < leastGain || gain > mostGain:
		r.Reason = Tone
	case r.Part > c.mostOfPart(r.Mean):
		r.Reason = Part
	default:
		r.Colour = c.colours(left)
		if r.Colour > mostColour {
			r.Reason = Colour
		}
	}
	return r
}

// A box is a part of a picture, from 0 to 1.
type box struct{ left, top, right, bottom float64 }

// corners are those that Options.Corner leaves out.
var corners = [...]box{{0, 0, 0.36, 0.12}, {0.64, 0, 1, 0.12}, {0, 0.88, 0.36, 1}, {0.64, 0.88, 1, 1}}

// has reports whether some of cell i of side x side lies in the box.
func (b box) has(i, side int) bool {
	x, y, n := float64(i%side), float64(i/side), float64(side)
	return x+1 > b.left*n && x < b.right*n && y+1 > b.top*n && y < b.bottom*n
}

// differences returns how much each cell of luma differs, in parts of what its contrast allows.
func (c *comparison) differences() []float64 {
	out := make([]float64, len(c.in))
	x, a := c.luma, c.to.luma
	rangeA, rangeX := a.ranges(), x.ranges()
	for i, ok := range c.in {
		if ok {
			allowed := 1 + forContrast*float64(max(rangeA[i], rangeX[i])) + forBurnt*float64(c.lost[i])
			out[i] = math.Abs(float64(a.pix[i])-float64(x.pix[i])) / allowed
		}
	}
	return out
}

// part returns the largest difference out of the box, and how much the cells differ as a rule.
func (c *comparison) part(differences []float64, b box) (r Result) {
	n, sum := 0, 0.0
	for i, ok := range c.in {
		if !ok || b.has(i, lumaSide) {
			continue
		}
		n++
		sum += math.Abs(float64(c.to.luma.pix[i]) - float64(c.luma.pix[i]))
		if d := differences[i]; d > r.Part {
			r.Part, r.At = d, [2]int{i % lumaSide, i / lumaSide}
		}
	}
	if n == 0 {
		return Result{Part: math.Inf(1)}
	}
	r.Mean = sum / float64(n)
	return r
}

// alike returns the correlation of the cells of luma that are not in the box, NaN where one of the
// pictures is flat.
func (c *comparison) alike(b box) float64 {
	var n, sumA, sumX, sumAA, sumXX, sumAX float64
	for i, ok := range c.in {
		if !ok || b.has(i, lumaSide) {
			continue
		}
		a, x := float64(c.to.luma.pix[i]), float64(c.luma.pix[i])
		n, sumA, sumX = n+1, sumA+a, sumX+x
		sumAA, sumXX, sumAX = sumAA+a*a, sumXX+x*x, sumAX+a*x
	}
	return (sumAX - sumA*sumX/n) / math.Sqrt((sumAA-sumA*sumA/n)*(sumXX-sumX*sumX/n))
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

// mostOfPart returns what a cell may differ when all differ by mean on average. Print, dials and drawings, in which something small may
// be all that matters, have plain ground. In a picture that has next to none, copies differ by more where there is texture, and what is
// small is as much smaller than what is around it.
func (c *comparison) mostOfPart(mean float64) float64 {
	plain := 0
	for _, r := range c.to.luma.ranges() {
		if r < plainRange {
			plain++
		}
	}
	if float64(plain) < leastPlain*lumaSide*lumaSide {
		return min(most+mostOfTexturedMean*mean, mostTexturedAtAll)
	}
	return min(most+mostOfMean*mean, mostAtAll)
}

// noColours is what colours returns where nothing can be said.
const noColours = 999

// colours returns the largest difference of Cb and Cr of a cell, after gains of red and blue, as of another white balance, and of
// saturation, less what vivid colours may move.
func (c *comparison) colours(left box) float64 {
	cb, cr := c.cb, c.cr
	in := make([]bool, len(c.inColour))
	for i, ok := range c.inColour {
		in[i] = ok && !left.has(i, chromaSide)
	}
	if c.countColour < chromaSide*chromaSide/4 {
		return noColours
	}
	luma := c.luma.down(chromaSide)
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
		y[i], y[n+i] = float64(c.to.cb.pix[i])-128-u, float64(c.to.cr.pix[i])-128-v
	}
	ridge := [3]float64{(2 / 0.05) * (2 / 0.05), (2 / 0.05) * (2 / 0.05), (2 / 0.2) * (2 / 0.2)}
	low, high := [3]float64{-0.12, -0.12, -0.45}, [3]float64{0.12, 0.12, 0.6}
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
	if t[2] < leastVivid-1 || t[2] > mostVivid-1 {
		return noColours
	}
	most := 0.0
	for i, ok := range in {
		if !ok {
			continue
		}
		fit := func(at int) float64 { return t[0]*x[0][at] + t[1]*x[1][at] + t[2]*x[2][at] }
		u, v := float64(cb.pix[i])-128+fit(i), float64(cr.pix[i])-128+fit(n+i)
		eu, ev := float64(c.to.cb.pix[i])-128, float64(c.to.cr.pix[i])-128
		apart := (u-eu)*(u-eu) + (v-ev)*(v-ev)
		vivid := (u*u + v*v + eu*eu + ev*ev) / 16
		most = max(most, apart-vivid)
	}
	return math.Sqrt(most)
}
