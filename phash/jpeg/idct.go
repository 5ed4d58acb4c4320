package jpeg

// The inverse DCT is that of libjpeg's "islow": the factorisation of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) in fixed
// point, down the columns first, then along the rows. Its results have to be those of libjpeg-turbo's vector code, which differs
// from the C code in what it does with values too large for 16 bits; these come from corrupt files only, and from some of extreme
// contrast.

const (
	fixBits  = 13 // fraction bits of the constants
	moreBits = 2  // fraction bits that are kept between the passes
)

// Sines and cosines, and sums of them, times 2^13.
const (
	f0298 = 2446
	f0390 = 3196
	f0541 = 4433
	f0765 = 6270
	f0899 = 7373
	f1175 = 9633
	f1501 = 12299
	f1847 = 15137
	f1961 = 16069
	f2053 = 16819
	f2562 = 20995
	f3072 = 25172
)

// smallSum is a sum of the magnitudes of all coefficients up to which no value leaves 16 bits: a pass magnifies by less than 1.39,
// and keeps two bits more after the first one.
const smallSum = 5800

func idctGo(dst []uint8, stride int, coefs *[64]int16, quant *[64]uint16) {
	var b [64]int32
	sum := int32(0)
	for i, c := range coefs {
		v := int32(c * int16(quant[i]))
		b[i] = v
		sum += (v ^ v>>31) - v>>31
	}
	if uint32(sum) > smallSum {
		idctLarge(dst, stride, coefs, &b)
		return
	}
	for x := range 8 {
		c := b[x : x+57 : x+57]
		if c[8]|c[16]|c[24]|c[32]|c[40]|c[48]|c[56] == 0 {
			v := c[0] << moreBits
			c[0], c[8], c[16], c[24], c[32], c[40], c[48], c[56] = v, v, v, v, v, v, v, v
			continue
		}
		const half = 1 << (fixBits - moreBits - 1)
		e0, e1, e2, e3 := even(c[0]+c[32], c[0]-c[32], c[16], c[48])
		o0, o1, o2, o3 := odd(c[8], c[24], c[40], c[56], c[56]+c[24], c[40]+c[8])
		c[0], c[56] = (e0+o0+half)>>(fixBits-moreBits), (e0-o0+half)>>(fixBits-moreBits)
		c[8], c[48] = (e1+o1+half)>>(fixBits-moreBits), (e1-o1+half)>>(fixBits-moreBits)
		c[16], c[40] = (e2+o2+half)>>(fixBits-moreBits), (e2-o2+half)>>(fixBits-moreBits)
		c[24], c[32] = (e3+o3+half)>>(fixBits-moreBits), (e3-o3+half)>>(fixBits-moreBits)
	}
	for y := range 8 {
		c := b[8*y : 8*y+8 : 8*y+8]
		d := dst[y*stride:]
		d = d[:8:8]
		const shift = fixBits + moreBits + 3
		const half = 1<<(shift-1) + 128<<shift // with the level shift of T.81, A.3.1
		e0, e1, e2, e3 := even(c[0]+c[4], c[0]-c[4], c[2], c[6])
		o0, o1, o2, o3 := odd(c[1], c[3], c[5], c[7], c[7]+c[3], c[5]+c[1])
		d[0], d[7] = clip((e0+o0+half)>>shift), clip((e0-o0+half)>>shift)
		d[1], d[6] = clip((e1+o1+half)>>shift), clip((e1-o1+half)>>shift)
		d[2], d[5] = clip((e2+o2+half)>>shift), clip((e2-o2+half)>>shift)
		d[3], d[4] = clip((e3+o3+half)>>shift), clip((e3-o3+half)>>shift)
	}
}

// even is the part for the even coefficients: sum and difference of 0 and 4, then 2 and 6.
func even(sum, difference, c2, c6 int32) (e0, e1, e2, e3 int32) {
	s, d := sum<<fixBits, difference<<fixBits
	z := (c2 + c6) * f0541
	p, q := z+c2*f0765, z-c6*f1847
	return s + p, d + q, d - q, s - p
}

// odd is the part for the odd coefficients, with the sums of 7 and 3, and of 5 and 1.
func odd(c1, c3, c5, c7, s73, s51 int32) (o0, o1, o2, o3 int32) {
	z := (s73 + s51) * f1175
	z3, z4 := z-s73*f1961, z-s51*f0390
	z1, z2 := (c7+c1)*-f0899, (c5+c3)*-f2562
	return c1*f1501 + z1 + z4, c3*f3072 + z2 + z3, c5*f2053 + z2 + z4, c7*f0298 + z1 + z3
}

func clip(v int32) uint8 {
	if uint32(v) > 255 {
		return uint8(^v >> 31)
	}
	return uint8(v)
}

// idctLarge is the same for values of any size: sums of coefficients wrap at 16 bits, results are clipped to 16. If all
// coefficients below the first row are 0, the first pass is only a shift, and wraps.
func idctLarge(dst []uint8, stride int, coefs *[64]int16, b *[64]int32) {
	below := int16(0)
	for _, c := range coefs[8:] {
		below |= c
	}
	for x := range 8 {
		c := b[x : x+57 : x+57]
		if below == 0 {
			v := int32(int16(c[0] << moreBits))
			for y := range 8 {
				c[8*y] = v
			}
			continue
		}
		r := largePass([8]int32{c[0], c[8], c[16], c[24], c[32], c[40], c[48], c[56]}, fixBits-moreBits)
		for y, v := range r {
			c[8*y] = v
		}
	}
	for y := range 8 {
		r := largePass([8]int32(b[8*y:8*y+8]), fixBits+moreBits+3)
		for x, v := range r {
			dst[y*stride+x] = uint8(min(max(v, -128), 127) + 128)
		}
	}
}

func largePass(c [8]int32, shift int) (r [8]int32) {
	wrap := func(v int32) int32 { return int32(int16(v)) }
	half := int32(1) << (shift - 1)
	round := func(v int32) int32 { return min(max((v+half)>>shift, -1<<15), 1<<15-1) }
	e0, e1, e2, e3 := even(wrap(c[0]+c[4]), wrap(c[0]-c[4]), c[2], c[6])
	o0, o1, o2, o3 := odd(c[1], c[3], c[5], c[7], wrap(c[7]+c[3]), wrap(c[5]+c[1]))
	return [8]int32{round(e0 + o0), round(e1 + o1), round(e2 + o2), round(e3 + o3),
		round(e3 - o3), round(e2 - o2), round(e1 - o1), round(e0 - o0)}
}

// flat writes the samples of a block that has a DC value only. It is shorter, not different.
func flat(dst []uint8, stride int, dc int16, quant uint16) {
	v := int32(dc*int16(quant)<<moreBits)<<fixBits + 1<<(fixBits+moreBits+2)
	s := uint64(uint8(min(max(v>>(fixBits+moreBits+3), -128), 127)+128)) * 0x0101010101010101
	for y := range 8 {
		putUint64(dst[y*stride:], s)
	}
}
