package verify

import (
	"math"
	"slices"
)

// An affine says where a point of a signature lies in a view: x = 0.5 + p0 + (1+p1) u + p2 v and y = 0.5 + p3 + p4 u + (1+p5) v, u and v
// from -0.5 to 0.5. The zero value is the identity.
type affine [6]float64

// still reports whether nothing is moved by more than most of the picture.
func (p affine) still(most float64) bool {
	for _, v := range p {
		if math.Abs(v) >= most {
			return false
		}
	}
	return true
}

// sample returns the means of q over the side x side cells of a signature, each of (q.side/side)² bilinear samples. Beyond the edge
// the sample at the edge counts.
func (q plane) sample(p affine, side int) plane {
	n := q.side
	k := n / side
	half := 0.5 - 0.5*float64(n)
	cx := float64(n)*(0.5+p[0]) + (1+p[1])*half + p[2]*half - 0.5
	cy := float64(n)*(0.5+p[3]) + (1+p[5])*half + p[4]*half - 0.5
	out := newPlane(side)
	share := float32(1 / float64(k*k))
	last := float64(n - 1)
	for i := range n {
		row := out.pix[i/k*side:][:side]
		x, y := cx+p[2]*float64(i), cy+(1+p[5])*float64(i)
		for j := range n {
			fx, fy := min(max(x, 0), last), min(max(y, 0), last)
			x0, y0 := min(int(fx), n-2), min(int(fy), n-2)
			dx, dy := float32(fx-float64(x0)), float32(fy-float64(y0))
			a := q.pix[y0*n+x0:]
			b := q.pix[(y0+1)*n+x0:]
			top := a[0] + dx*(a[1]-a[0])
			bottom := b[0] + dx*(b[1]-b[0])
			row[j/k] += share * (top + dy*(bottom-top))
			x += 1 + p[1]
			y += p[4]
		}
	}
	return out
}

// inside returns the cells, of side x side, that lie in the view, and how many they are. slack is how much of a cell may lie outside.
func (p affine) inside(side int, slack float64) (in []bool, count int) {
	in = make([]bool, side*side)
	e, s := 0.5/float64(side), slack/float64(side)
	if t := max(math.Abs(p[2]), math.Abs(p[4])); t >= 0.004 {
		s = -0.55 * t // a turned cell has its corners outside
	}
	for i := range side {
		v := (float64(i)+0.5)/float64(side) - 0.5
		for j := range side {
			u := (float64(j)+0.5)/float64(side) - 0.5
			x, y := 0.5+p[0]+(1+p[1])*u+p[2]*v, 0.5+p[3]+(1+p[5])*v+p[4]*u
			if x-e >= -s && x+e <= 1+s && y-e >= -s && y+e <= 1+s {
				in[i*side+j] = true
				count++
			}
		}
	}
	return in, count
}

const (
	alignSide = 32
	// leastInside is the share of the cells of a signature that must lie in the view.
	leastInside = 0.6
	farOff      = 1e9
)

// starts are the scales from which alignment begins: copies are cropped by up to 9 % of a side in all, or the other way round.
var starts = [...]float64{0, 0.04, -0.04, 0.09, -0.09}

// align returns where the signature lies in the view, and how far the two are apart then.
func align(q *View, a plane) (affine, float64) {
	blurred := a.blurred()
	best, apart := affine{}, math.Inf(1)
	for _, s := range starts {
		p, e := refine(q.coarse, blurred, affine{1: s, 5: s}, 5, true)
		if e < apart-0.02 {
			best, apart = p, e
		}
		if e < 2 {
			break
		}
	}
	return refine(q.coarse, a, best, 4, false)
}

// refine moves p so that the view and the signature differ as little as may be, by steps of Gauss and Newton with weights that leave
// out what differs much.
func refine(q, a plane, p affine, steps int, blur bool) (affine, float64) {
	var ridge [8]float64 // keeps what the picture does not decide near nothing
	for i := 2; i < 8; i++ {
		ridge[i] = (2 / 0.03) * (2 / 0.03)
	}
	ridge[4], ridge[6] = (2/0.01)*(2/0.01), (2/0.01)*(2/0.01)
	sampled := func() plane {
		s := q.sample(p, alignSide)
		if blur {
			s = s.blurred()
		}
		return s
	}
	gain := 1.0
	for step := range steps {
		s := sampled()
		in, count := p.inside(alignSide, 0.06)
		if float64(count) < leastInside*alignSide*alignSide {
			return p, farOff
		}
		gx, gy := s.gradients()
		rest := make([]float64, len(s.pix))
		for i, v := range s.pix {
			rest[i] = float64(a.pix[i]) - gain*float64(v)
		}
		offset := medianOf(rest, in, false)
		for i := range rest {
			rest[i] -= offset
		}
		spread := 1.48*medianOf(rest, in, true) + 0.5

		var h [8][8]float64
		var b [8]float64
		for i := range rest {
			if !in[i] {
				continue
			}
			u := (float64(i%alignSide)+0.5)/alignSide - 0.5
			v := (float64(i/alignSide)+0.5)/alignSide - 0.5
			r := rest[i] / (2.5 * spread)
			weight := 1 / (1 + r*r)
			dx, dy := gain*gx[i], gain*gy[i]
			x := [8]float64{float64(s.pix[i]), 1, dx, dx * u, dx * v, dy, dy * u, dy * v}
			y := float64(a.pix[i])
			for j, xj := range x {
				wx := weight * xj
				b[j] += wx * y
				for k := j; k < 8; k++ {
					h[j][k] += wx * x[k]
				}
			}
		}
		// The derivatives are of p0, p1, p2 (x) and p3, p4, p5 (y): of x by 1, u, v, and of y by 1, u, v.
		for j := range 8 {
			for k := range j {
				h[j][k] = h[k][j]
			}
			h[j][j] += ridge[j]
		}
		for j := 2; j < 8; j++ {
			b[j] -= ridge[j] * p[j-2]
		}
		h[0][0] += 300
		b[0] += 300
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
		if step > 1 && most < 2e-4 {
			break
		}
	}
	s := sampled()
	in, count := p.inside(alignSide, 0.06)
	if float64(count) < leastInside*alignSide*alignSide {
		return p, farOff
	}
	fitted, _ := fitTone(s.pix, a.pix, in, false, 2)
	sum := 0.0
	for i, f := range fitted {
		if in[i] {
			sum += min(math.Abs(float64(a.pix[i])-f), 20)
		}
	}
	return p, sum / float64(count)
}

// gradients returns the differences by u and v, central ones within.
func (p plane) gradients() (gx, gy []float64) {
	n := p.side
	gx, gy = make([]float64, n*n), make([]float64, n*n)
	for y := range n {
		for x := range n {
			i := y*n + x
			left, right := max(x-1, 0), min(x+1, n-1)
			up, down := max(y-1, 0), min(y+1, n-1)
			gx[i] = float64(p.pix[y*n+right]-p.pix[y*n+left]) / float64(right-left) * float64(n)
			gy[i] = float64(p.pix[down*n+x]-p.pix[up*n+x]) / float64(down-up) * float64(n)
		}
	}
	return gx, gy
}

// kernel is a Gaussian of sigma 1.2.
var kernel = func() (k [11]float32) {
	sum := 0.0
	for i := range k {
		d := float64(i - len(k)/2)
		sum += math.Exp(-d * d / (2 * 1.2 * 1.2))
	}
	for i := range k {
		d := float64(i - len(k)/2)
		k[i] = float32(math.Exp(-d*d/(2*1.2*1.2)) / sum)
	}
	return k
}()

// blurred returns the plane blurred, the samples at the edge being repeated.
func (p plane) blurred() plane {
	n, r := p.side, len(kernel)/2
	across, out := newPlane(n), newPlane(n)
	for y := range n {
		for x := range n {
			sum := float32(0)
			for k, w := range kernel {
				sum += w * p.pix[y*n+min(max(x+k-r, 0), n-1)]
			}
			across.pix[y*n+x] = sum
		}
	}
	for y := range n {
		for k, w := range kernel {
			from := across.pix[min(max(y+k-r, 0), n-1)*n:][:n]
			for x, v := range from {
				out.pix[y*n+x] += w * v
			}
		}
	}
	return out
}

// medianOf returns the median of the values that count, or of their absolute values.
func medianOf(values []float64, in []bool, absolute bool) float64 {
	kept := make([]float64, 0, len(values))
	for i, v := range values {
		if in[i] {
			if absolute {
				v = math.Abs(v)
			}
			kept = append(kept, v)
		}
	}
	if len(kept) == 0 {
		return 0
	}
	slices.Sort(kept)
	return (kept[(len(kept)-1)/2] + kept[len(kept)/2]) / 2
}

// fitTone fits a = g s + o, and with bend + q (s-128)²/128, leaving out what differs much. It returns the fitted values and g.
func fitTone(s, a []float32, in []bool, bend bool, rounds int) (fitted []float64, gain float64) {
	n := 2
	if bend {
		n = 3
	}
	ridge, prior := [3]float64{300, 1, 300}, [3]float64{1, 0, 0}
	fitted, rest := make([]float64, len(s)), make([]float64, len(s))
	var c [3]float64
	spread := math.Inf(1)
	for range rounds {
		var h [3][3]float64
		var b [3]float64
		for i, v := range s {
			if !in[i] {
				continue
			}
			weight := 1.0
			if !math.IsInf(spread, 1) {
				r := rest[i] / (2 * spread)
				weight = 1 / (1 + r*r)
			}
			d := float64(v) - 128
			x := [3]float64{float64(v), 1, d * d / 128}
			for j := range n {
				b[j] += weight * x[j] * float64(a[i])
				for k := range n {
					h[j][k] += weight * x[j] * x[k]
				}
			}
		}
		for j := range n {
			h[j][j] += ridge[j]
			b[j] += ridge[j] * prior[j]
		}
		if n == 2 {
			h[2][2] = 1
		}
		var ok bool
		if c, ok = solve3(h, b); !ok {
			c = prior
		}
		for i, v := range s {
			d := float64(v) - 128
			fitted[i] = c[0]*float64(v) + c[1] + c[2]*d*d/128
			rest[i] = float64(a[i]) - fitted[i]
		}
		spread = 1.48*medianOf(rest, in, true) + 0.5
	}
	return fitted, c[0]
}

func solve3(h [3][3]float64, b [3]float64) (x [3]float64, ok bool) {
	var wide [8][8]float64
	var right [8]float64
	for i := range 8 {
		wide[i][i] = 1
	}
	for i := range 3 {
		right[i] = b[i]
		for j := range 3 {
			wide[i][j] = h[i][j]
		}
	}
	all, ok := solve(wide, right)
	copy(x[:], all[:3])
	return x, ok
}

// solve solves h x = b for a matrix that is symmetric and positive definite, by Cholesky's decomposition.
func solve(h [8][8]float64, b [8]float64) (x [8]float64, ok bool) {
	var l [8][8]float64
	for i := range 8 {
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
	for i := range 8 {
		sum := b[i]
		for k := range i {
			sum -= l[i][k] * x[k]
		}
		x[i] = sum / l[i][i]
	}
	for i := 7; i >= 0; i-- {
		sum := x[i]
		for k := i + 1; k < 8; k++ {
			sum -= l[k][i] * x[k]
		}
		x[i] = sum / l[i][i]
	}
	return x, true
}
