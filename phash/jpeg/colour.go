package jpeg

import (
	"image/color"
	"sync"
)

// luma is Pillow's conversion of R, G, B to gray (ITU-R 601-2 weights, 16 fraction bits).
func luma(r, g, b uint8) uint8 {
	return uint8((19595*uint32(r) + 38470*uint32(g) + 7471*uint32(b) + 1<<15) >> 16)
}

// ink is Pillow's conversion of one of C, M, Y to R, G, B, light being 255 less the black.
func ink(c, light uint8) uint8 {
	t := uint(c)*uint(light) + 128
	return uint8(max(int(light)-int((t+t>>8)>>8), 0))
}

// offsets are what chroma adds to Y for R, G and B: the matrix of JFIF 1.02 with 16 fraction bits. R and B are rounded; for G the
// two products are added first.
func offsets(cb, cr uint8) (r, g, b int32) {
	const half = 1 << 15
	u, v := int32(cb)-128, int32(cr)-128
	return (91881*v + half) >> 16, (-22554*u - 46802*v + half) >> 16, (116130*u + half) >> 16
}

func toRGB(y, cb, cr uint8) (r, g, b uint8) {
	dr, dg, db := offsets(cb, cr)
	return clip(int32(y) + dr), clip(int32(y) + dg), clip(int32(y) + db)
}

// toChroma is the matrix the other way.
func toChroma(r, g, b uint8) (cb, cr uint8) {
	_, cb, cr = color.RGBToYCbCr(r, g, b)
	return cb, cr
}

// A shade is what a pair of Cb and Cr does to gray. The weights of R, G and B add up to 1, so that the gray value is Y + add, and
// add is -1, 0 or 1: as long as none of R, G, B is clipped, which is so for Y from low to high.
type shade struct {
	add       int8
	low, high uint8
}

// shades is indexed by Cb, then Cr.
var shades = sync.OnceValue(func() *[1 << 16]shade {
	t := new([1 << 16]shade)
	for i := range t {
		r, g, b := offsets(uint8(i>>8), uint8(i))
		t[i] = shade{
			add:  int8((19595*r + 38470*g + 7471*b + 1<<15) >> 16),
			low:  uint8(-min(r, g, b)),
			high: uint8(255 - max(r, g, b)),
		}
	}
	return t
})

func yccGo(gray, luminance, cbs, crs []uint8, n int) {
	gray, luminance, cbs, crs = gray[:n], luminance[:n], cbs[:n], crs[:n]
	table := shades()
	for x, y := range luminance {
		cb, cr := cbs[x], crs[x]
		s := table[int(cb)<<8|int(cr)]
		if y-s.low <= s.high-s.low && s.low <= s.high {
			gray[x] = y + uint8(s.add)
		} else {
			gray[x] = luma(toRGB(y, cb, cr))
		}
	}
}
