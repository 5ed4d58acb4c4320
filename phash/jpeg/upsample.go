package jpeg

import "encoding/binary"

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

// acrossGo takes four samples at once, in words of four times 16 bits, which are enough for every value.
func acrossGo(dst, near, far []uint8, n, biasLeft, biasRight int) {
	const each, low = 0x0001000100010001, 0x00ff00ff00ff00ff
	left, right := each*uint64(biasLeft), each*uint64(biasRight)
	sums := func(x int) uint64 { return 3*spread(near[x:x+4:x+4]) + spread(far[x:x+4:x+4]) }
	before, here := sums(marginLeft-4)>>48, sums(marginLeft)
	for x := 0; x < n; x += 4 {
		after := sums(marginLeft + x + 4)
		l := (3*here + (here<<16 | before) + left) >> 4 & low
		r := (3*here + (here>>16 | after<<48) + right) >> 4 & low
		putUint64(dst[2*x:2*x+8:2*x+8], l|r<<8)
		before, here = here>>48, after
	}
}

// spread gives four samples 16 bits each.
func spread(samples []uint8) uint64 {
	v := uint64(binary.LittleEndian.Uint32(samples))
	v = (v | v<<16) & 0x0000ffff0000ffff
	return (v | v<<8) & 0x00ff00ff00ff00ff
}

// down interpolates between two rows.
func down(dst, near, far []uint8, n, bias int) {
	dst, near, far = dst[:n], near[:n], far[:n]
	for x, s := range near {
		dst[x] = uint8((3*int(s) + int(far[x]) + bias) >> 2)
	}
}
