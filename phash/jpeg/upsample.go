package jpeg

// An upsampler gives rows of a component the size of the picture. Doubling is by a triangle filter, 3/4 of the nearer sample and
// 1/4 of the farther one, with biases that alternate; other ratios repeat samples. So does libjpeg.
type upsampler struct {
	c        *component
	kind     int
	h, v     int // pixels for each sample
	pixels   []uint8
	repeated int // row of samples that pixels was made from, or -1
}

// Ways to upsample.
const (
	upNothing = iota
	upAcross  // 2:1 across, triangle
	upDown    // 2:1 down, triangle
	upBoth    // 2:1 both ways, triangle
	upRepeat
)

func newUpsampler(d *decoder, c *component) upsampler {
	const tooNarrow = 2 // samples; libjpeg repeats them then
	u := upsampler{c: c, h: d.maxH / c.h, v: d.maxV / c.v, repeated: -1}
	switch {
	case u.h == 1 && u.v == 1:
		u.kind = upNothing
		return u
	case u.h == 1 && u.v == 2:
		u.kind = upDown
	case u.h == 2 && u.v == 1 && c.width > tooNarrow:
		u.kind = upAcross
	case u.h == 2 && u.v == 2 && c.width > tooNarrow:
		u.kind = upBoth
	default:
		u.kind = upRepeat
	}
	u.pixels = make([]uint8, c.samples.stride*u.h+marginRight)
	return u
}

// ready returns how many rows of pixels can be computed from the first n rows of samples, more of which will follow.
func (u *upsampler) ready(n int) int {
	switch u.kind {
	case upDown, upBoth:
		return 2*n - 1 // the last one needs the next row
	}
	return n * u.v
}

// row returns row y of pixels, which stays valid until the next call.
func (u *upsampler) row(y int) []uint8 {
	c := u.c
	switch u.kind {
	case upNothing:
		return c.samples.row(y)[marginLeft:]
	case upAcross:
		near := c.samples.row(y)
		across(u.pixels, near, near, c.width, 4, 8)
	case upBoth:
		near, far, _ := u.nearFar(y)
		across(u.pixels, near, far, c.width, 8, 7)
	case upDown:
		near, far, below := u.nearFar(y)
		bias := 1
		if below {
			bias = 2
		}
		down(u.pixels, near[marginLeft:], far[marginLeft:], c.width, bias)
	case upRepeat:
		u.repeat(y / u.v)
	}
	return u.pixels
}

// nearFar returns the rows of samples that row y of pixels lies between; the edges of the picture count as repeated.
func (u *upsampler) nearFar(y int) (near, far []uint8, below bool) {
	at := y / 2
	other := at - 1
	if y%2 == 1 {
		other, below = at+1, true
	}
	return u.c.samples.row(at), u.c.samples.row(min(max(other, 0), u.c.height-1)), below
}

func (u *upsampler) repeat(y int) {
	if u.repeated == y {
		return
	}
	u.repeated = y
	samples := u.c.samples.row(y)[marginLeft:][:u.c.width]
	for x, s := range samples {
		for h := range u.h {
			u.pixels[x*u.h+h] = s
		}
	}
}

func acrossGo(dst, near, far []uint8, n, biasLeft, biasRight int) {
	near, far = near[marginLeft-1:][:n+2], far[marginLeft-1:][:n+2]
	sum := func(x int) int { return 3*int(near[x]) + int(far[x]) }
	dst = dst[:2*n]
	before, s := sum(0), sum(1)
	for x := range n {
		after := sum(x + 2)
		dst[2*x] = uint8((3*s + before + biasLeft) >> 4)
		dst[2*x+1] = uint8((3*s + after + biasRight) >> 4)
		before, s = s, after
	}
}

// down interpolates between two rows.
func down(dst, near, far []uint8, n, bias int) {
	dst, near, far = dst[:n], near[:n], far[:n]
	for x, s := range near {
		dst[x] = uint8((3*int(s) + int(far[x]) + bias) >> 2)
	}
}
