package verify

import (
	"math"
	"slices"
)

// An affine maps a point of a signature to one of a view: x = 0.5 + p0 + (1+p1) u + p2 v and
// y = 0.5 + p3 + p4 u + (1+p5) v, with u and v from -0.5 to 0.5. The zero value is the identity.
type affine [6]float64

// still reports whether no parameter moves the picture by most of a side or more.
func (p affine) still(most float64) bool {
	for _, v := range p {
		if math.Abs(v) >= most {
			return false
		}
	}
	return true
}

// near reports whether p and o differ by less than a tenth of a cell.
func (p affine) near(o affine) bool {
	for i := range p {
		p[i] -= o[i]
	}
	return p.still(0.1 / lumaSide)
}

// sample returns the means of q over the side x side cells of a signature, each of (q.side/side)²
// bilinear samples. Beyond the edge the sample at the edge counts.
func (q plane) sample(p affine, side int) plane {
	out := newPlane(side)
	q.sampleInto(p, out)
	return out
}

func (q plane) sampleInto(p affine, out plane) {
	n, side := q.side, out.side
	k := n / side
	half := 0.5 - 0.5*float64(n)
	cx := float64(n)*(0.5+p[0]) + (1+p[1])*half + p[2]*half - 0.5
	cy := float64(n)*(0.5+p[3]) + (1+p[5])*half + p[4]*half - 0.5
	clear(out.pix)
	share := float32(1 / float64(k*k))
	last := float32(n - 1)
	right, down := float32(1+p[1]), float32(p[4])
	for i := range n {
		row := out.pix[i/k*side:][:side]
		x, y := float32(cx+p[2]*float64(i)), float32(cy+(1+p[5])*float64(i))
		for cell := range row {
			sum := float32(0)
			for range k {
				fx, fy := within(x, last), within(y, last)
				x0, y0 := min(int(fx), n-2), min(int(fy), n-2)
				dx, dy := fx-float32(x0), fy-float32(y0)
				a := q.pix[y0*n+x0:][: n+2 : n+2]
				top := a[0] + dx*(a[1]-a[0])
				bottom := a[n] + dx*(a[n+1]-a[n])
				sum += top + dy*(bottom-top)
				x += right
				y += down
			}
			row[cell] += share * sum
		}
	}
}

// within returns v, or 0 or last if it lies beyond. The built-in min and max take longer.
func within(v, last float32) float32 {
	if v < 0 {
		return 0
	}
	if v > last {
		return last
	}
	return v
}

// inside returns the cells, of side x side, that lie in the view, and how many they are. slack is
// the share of a cell that may lie outside.
func (p affine) inside(side int, slack float64) (in []bool, count int) {
	in = make([]bool, side*side)
	return in, p.insideInto(in, side, slack)
}

func (p affine) insideInto(in []bool, side int, slack float64) (count int) {
	e, s := 0.5/float64(side), slack/float64(side)
	if t := max(math.Abs(p[2]), math.Abs(p[4])); t >= 0.004 {
		s = -0.55 * t // a turned cell has its corners outside
	}
	for i := range side {
		v := (float64(i)+0.5)/float64(side) - 0.5
		for j := range side {
			u := (float64(j)+0.5)/float64(side) - 0.5
			x, y := 0.5+p[0]+(1+p[1])*u+p[2]*v, 0.5+p[3]+(1+p[5])*v+p[4]*u
			ok := x-e >= -s && x+e <= 1+s && y-e >= -s && y+e <= 1+s
			in[i*side+j] = ok
			if ok {
				count++
			}
		}
	}
	return count
}

const (
	// Alignment goes from few cells, on which a picture that is moved by some percent is still
	// found, to those on which luma is judged.
	firstSide, secondSide = 16, 32
	// leastInside is the share of the cells of a signature that must lie in the view.
	leastInside = 0.6
	farOff      = 1e9
)

// starts are the scales from which alignment begins: copies are cropped by up to 9 % of a side in
// all, or the signature's picture is.
var starts = [...]float64{0, 0.02, -0.02, 0.05, -0.05, 0.1, -0.1}

// pursued is the number of different places, best first, that are looked at in more cells.
const pursued = 3

// Between these mean differences, in levels, slightCrops are tried as well: beyond, the pictures are
// different ones, and it would take as long again.
const doubtful, hopeless = 0.9, 6

var slightCrops = [...]float64{0.02, -0.02, 0.045, -0.045}

// align returns where the signature lies in the view, and how far the two are apart then.
func align(q *planes, a plane) (affine, float64) {
	type place struct {
		p     affine
		apart float64
	}
	better := func(a, b place) int {
		if a.apart < b.apart {
			return -1
		}
		return 1
	}
	first, second, last := newAligner(q.rough, a.down(firstSide)), newAligner(q.coarse, a.down(secondSide)), newAligner(q.fine, a)
	var places []place
	for _, s := range starts {
		p, e := first.refine(affine{1: s, 5: s}, 6)
		if e < farOff && !slices.ContainsFunc(places, func(o place) bool { return o.p.near(p) }) {
			places = append(places, place{p, e})
		}
	}
	slices.SortFunc(places, better)
	places = append(places[:min(len(places), pursued)], place{})
	for i, c := range places {
		places[i].p, places[i].apart = second.refine(c.p, 5)
	}
	slices.SortFunc(places, better)
	// Rows of text draw a picture to where other rows lie, which fine cells alone tell from the right
	// place. So the fine cells begin without a detour too, and, where that is no good, from crops.
	best := place{apart: farOff}
	pursue := func(p affine, steps int) {
		if p, e := last.refine(p, steps); e < best.apart {
			best = place{p, e}
		}
	}
	for i, c := range append(places[:min(len(places), 2)], place{}) {
		if i == 0 || !c.p.near(places[0].p) && !(i < len(places) && c.apart > 3*places[0].apart+1) {
			pursue(c.p, 3)
		}
	}
	if best.apart > doubtful && best.apart < hopeless {
		for _, s := range slightCrops {
			pursue(affine{1: s, 5: s}, 5)
		}
	}
	return best.p, best.apart
}

// An aligner aligns one signature with one view on a number of cells.
type aligner struct {
	q, a, s  plane
	in       []bool
	rest     []float32
	sorted   []float32
	gx, gy   []float32
	position []float32 // of the cells of a row, or of a column, from -0.5 to 0.5
}

func newAligner(q, a plane) *aligner {
	n := len(a.pix)
	l := &aligner{q: q, a: a, s: newPlane(a.side), in: make([]bool, n), position: make([]float32, a.side)}
	floats := make([]float32, 4*n)
	l.rest, l.sorted, l.gx, l.gy = floats[:n:n], floats[n:2*n:2*n], floats[2*n:3*n:3*n], floats[3*n:]
	for i := range l.position {
		l.position[i] = (float32(i)+0.5)/float32(a.side) - 0.5
	}
	return l
}

// look samples the view where p says and reports whether enough cells lie in it.
func (l *aligner) look(p affine) bool {
	l.q.sampleInto(p, l.s)
	return float64(p.insideInto(l.in, l.a.side, 0.06)) >= leastInside*float64(len(l.in))
}

// refine moves p, by steps of Gauss and Newton with weights that leave out what differs much, so
// that the view and the signature differ as little as possible. It returns the mean difference
// after that, differences of more than 20 levels counting as 20.
func (l *aligner) refine(p affine, steps int) (affine, float64) {
	// The ridge keeps parameters that the picture does not decide near 0.
	const move, shear = (2 / 0.03) * (2 / 0.03), (2 / 0.01) * (2 / 0.01)
	ridge := [8]float64{300, 0, move, move, shear, move, shear, move}
	gain := 1.0
	for step := range steps {
		if !l.look(p) {
			return p, farOff
		}
		l.gradients()
		spread := 1.48*l.differ(gain) + 0.5
		h, b := l.equations(float32(gain), float32(1/(2.5*spread)))
		for j := range 8 {
			for k := range j {
				h[j][k] = h[k][j]
			}
			h[j][j] += ridge[j]
		}
		b[0] += ridge[0]
		for j := 2; j < 8; j++ {
			b[j] -= ridge[j] * p[j-2]
		}
		d, ok := solve(h, b)
		if !ok {
			return p, farOff
		}
		gain = min(max(d[0], 0.5), 2)
		most := 0.0
		for j := range p {
			p[j] += min(max(d[j+2], -0.04), 0.04)
			most = max(most, math.Abs(d[j+2]))
		}
		if step > 0 && most < 2e-4 {
			break
		}
	}
	if !l.look(p) {
		return p, farOff
	}
	fit := fitTone(l.s.pix, l.a.pix, l.in, false, 2)
	sum, n := 0.0, 0
	for i, ok := range l.in {
		if ok {
			sum += min(math.Abs(float64(l.a.pix[i])-fit.of(float64(l.s.pix[i]))), 20)
			n++
		}
	}
	return p, sum / float64(n)
}

// differ sets rest to how far the cells are apart by a gain and the best offset. It returns the
// median of the absolute values.
func (l *aligner) differ(gain float64) float64 {
	for i, v := range l.s.pix {
		l.rest[i] = l.a.pix[i] - float32(gain)*v
	}
	offset := median(l.rest, l.in, false, l.sorted)
	for i := range l.rest {
		l.rest[i] -= offset
	}
	return float64(median(l.rest, l.in, true, l.sorted))
}

// equations returns the upper half of the normal equations for the gain, the offset, and the moves
// of p0, p1, p2 (of x by 1, u, v) and p3, p4, p5 (of y by 1, u, v).
func (l *aligner) equations(gain, sharpness float32) (h [8][8]float64, b [8]float64) {
	// Two of the eight are others times v, which is the same along a row: the sums of a row are those of six.
	of := [8]int{0, 1, 2, 3, 2, 4, 5, 4}
	n := l.a.side
	for y, v := range l.position {
		var hr [6][6]float32
		var br [6]float32
		for x, u := range l.position {
			i := y*n + x
			if !l.in[i] {
				continue
			}
			r := l.rest[i] * sharpness
			weight := 1 / (1 + r*r)
			dx, dy := gain*l.gx[i], gain*l.gy[i]
			f := [6]float32{l.s.pix[i], 1, dx, dx * u, dy, dy * u}
			a := l.a.pix[i]
			for j := range 6 {
				w := weight * f[j]
				br[j] += w * a
				for k := j; k < 6; k++ {
					hr[j][k] += w * f[k]
				}
			}
		}
		times := [8]float64{1, 1, 1, 1, float64(v), 1, 1, float64(v)}
		for j := range 8 {
			b[j] += times[j] * float64(br[of[j]])
			for k := j; k < 8; k++ {
				h[j][k] += times[j] * times[k] * float64(hr[min(of[j], of[k])][max(of[j], of[k])])
			}
		}
	}
	return h, b
}

// gradients sets gx and gy to the differences of s by u and v, central ones within.
func (l *aligner) gradients() {
	n, pix := l.s.side, l.s.pix
	for y := range n {
		for x := range n {
			left, right := max(x-1, 0), min(x+1, n-1)
			up, down := max(y-1, 0), min(y+1, n-1)
			l.gx[y*n+x] = (pix[y*n+right] - pix[y*n+left]) * float32(n) / float32(right-left)
			l.gy[y*n+x] = (pix[down*n+x] - pix[up*n+x]) * float32(n) / float32(down-up)
		}
	}
}

// median returns the median of the values that count, or of their absolute values: the upper one
// of two. It needs room for as many values.
func median(values []float32, in []bool, absolute bool, room []float32) float32 {
	kept := room[:0]
	for i, v := range values {
		if in[i] {
			if absolute && v < 0 {
				v = -v
			}
			kept = append(kept, v)
		}
	}
	if len(kept) == 0 {
		return 0
	}
	return quantile(kept, len(kept)/2)
}

// quantile returns the value that would be at index k if the values were sorted, by Hoare's
// selection. It reorders them.
func quantile(v []float32, k int) float32 {
	low, high := 0, len(v)-1
	for low < high {
		pivot := v[k]
		i, j := low, high
		for i <= j {
			for v[i] < pivot {
				i++
			}
			for pivot < v[j] {
				j--
			}
			if i <= j {
				v[i], v[j] = v[j], v[i]
				i++
				j--
			}
		}
		if j < k {
			low = i
		}
		if k < i {
			high = j
		}
	}
	return v[k]
}

// A tone says how bright a thing of the one picture is in the other.
type tone struct{ gain, offset, bend float64 }

func (t tone) of(v float64) float64 {
	d := v - 128
	return t.gain*v + t.offset + t.bend*d*d/128
}

// fitTone fits a tone by which a is s, without bend or with it, leaving out what differs much.
func fitTone(s, a []float32, in []bool, bend bool, rounds int) tone {
	n := 2
	if bend {
		n = 3
	}
	ridge := [3]float64{300, 1, 300}
	t := tone{gain: 1}
	rest, room := make([]float32, len(s)), make([]float32, len(s))
	sharpness := 0.0
	for range rounds {
		var h [3][3]float64
		var b [3]float64
		for i, v := range s {
			if !in[i] {
				continue
			}
			r := float64(rest[i]) * sharpness
			weight := 1 / (1 + r*r)
			d := float64(v) - 128
			x := [3]float64{float64(v), 1, d * d / 128}
			for j := range n {
				w := weight * x[j]
				b[j] += w * float64(a[i])
				for k := j; k < n; k++ {
					h[j][k] += w * x[k]
				}
			}
		}
		for j := range n {
			for k := range j {
				h[j][k] = h[k][j]
			}
			h[j][j] += ridge[j]
		}
		b[0] += ridge[0]
		if n == 2 {
			h[2][2] = 1
		}
		c, ok := solve3(h, b)
		if !ok {
			return tone{gain: 1}
		}
		t = tone{c[0], c[1], c[2]}
		for i, v := range s {
			rest[i] = a[i] - float32(t.of(float64(v)))
		}
		sharpness = 1 / (2 * (1.48*float64(median(rest, in, true, room)) + 0.5))
	}
	return t
}

// solve solves h x = b for a matrix that is symmetric and positive definite, by Cholesky's
// decomposition.
func solve(h [8][8]float64, b [8]float64) (x [8]float64, ok bool) { return solveFirst(8, &h, &b) }

func solve3(h [3][3]float64, b [3]float64) (x [3]float64, ok bool) {
	var wide [8][8]float64
	var right [8]float64
	for i := range 3 {
		right[i] = b[i]
		copy(wide[i][:], h[i][:])
	}
	all, ok := solveFirst(3, &wide, &right)
	copy(x[:], all[:])
	return x, ok
}

// solveFirst solves the first n equations.
func solveFirst(n int, h *[8][8]float64, b *[8]float64) (x [8]float64, ok bool) {
	var l [8][8]float64
	for i := range n {
		for j := range i + 1 {
			sum := h[i][j]
			for k := range j {
				sum -= l[i][k] * l[j][k]
			}
			if i == j {
				if !(sum > 0) {
					return x, false
				}
				l[i][i] = math.Sqrt(sum)
			} else {
				l[i][j] = sum / l[j][j]
			}
		}
	}
	for i := range n {
		sum := b[i]
		for k := range i {
			sum -= l[i][k] * x[k]
		}
		x[i] = sum / l[i][i]
	}
	for i := n - 1; i >= 0; i-- {
		sum := x[i]
		for k := i + 1; k < n; k++ {
			sum -= l[k][i] * x[k]
		}
		x[i] = sum / l[i][i]
	}
	return x, true
}
