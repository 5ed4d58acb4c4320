package phash

// The hash compares 256 DCT coefficients with their median. In flat, symmetric and striped pictures many coefficients are equal
// or zero in theory, so rounding decides their bits. Python's bits come out only if every addition and multiplication is done in
// the order of scipy's FFT library, pocketfft, with its twiddle factors. That is what this file does: a DCT-II of length 64 as a
// real inverse FFT in three radix-4 passes, with a rotation afterwards. Each product stands in float64() because the compiler
// may otherwise fuse it with the following addition (it does so on arm64), which rounds once instead of twice.

// dct replaces c by its DCT-II, not normalised (scipy's default): twice the plain sum of c[n]*cos(pi*k*(2n+1)/128).
func dct(c *[side]float64) {
	const half = side / 2

	// Pairs of neighbours become the half-complex spectrum whose inverse FFT is the transform.
	c[0] *= 2
	c[side-1] *= 2
	for k := 1; k < side-1; k += 2 {
		c[k], c[k+1] = c[k+1]+c[k], c[k+1]-c[k]
	}

	var t [side]float64
	radix4(&t, c, 16)
	radix4(c, &t, 4)
	radix4(&t, c, 1)

	c[0] = t[0]
	for k := 1; k < half; k++ {
		near, far := t[k], t[side-k]
		cosine, sine := quarterWave[k-1], quarterWave[side-k-1]
		a := float64(cosine*far) + float64(sine*near)
		b := float64(cosine*near) - float64(sine*far)
		c[k] = 0.5 * (a + b)
		c[side-k] = 0.5 * (a - b)
	}
	c[half] = t[half] * quarterWave[half-1]
}

// radix4 is one pass of the inverse FFT: in blocks of four neighbouring spectra of n values each, it joins each block to one
// value of four interleaved spectra. A spectrum of n real values is kept as re(0), re(1), im(1), re(2), im(2), … and, n being
// even, re(n/2) last.
func radix4(dst, src *[side]float64, n int) {
	const sqrt2 = 1.414213562373095048801688724209698
	blocks := side / (4 * n)
	for k := range blocks {
		in := src[4*n*k : 4*n*(k+1)]
		s0, s1, s2, s3 := in[:n], in[n:2*n], in[2*n:3*n], in[3*n:4*n]
		d0 := dst[n*k:][:n]
		d1 := dst[n*(k+blocks):][:n]
		d2 := dst[n*(k+2*blocks):][:n]
		d3 := dst[n*(k+3*blocks):][:n]
		last := n - 1

		// Frequency 0 is real.
		sum, diff := s0[0]+s3[last], s0[0]-s3[last]
		odd, even := 2*s2[0], 2*s1[last]
		d0[0], d2[0] = sum+even, sum-even
		d3[0], d1[0] = diff+odd, diff-odd
		if n == 1 {
			continue
		}

		// So is frequency n/2, whose twiddle factors are the eighth roots of one.
		im, imDiff := s3[0]+s1[0], s3[0]-s1[0]
		re, reDiff := s0[last]+s2[last], s0[last]-s2[last]
		d0[last] = re + re
		d1[last] = sqrt2 * (reDiff - im)
		d2[last] = imDiff + imDiff
		d3[last] = -sqrt2 * (reDiff + im)

		for i := 2; i < n; i += 2 {
			j := n - i // the mirrored frequency, stored from the other end
			ar, br := s0[i-1]+s3[j-1], s0[i-1]-s3[j-1]
			ai, bi := s0[i]+s3[j], s0[i]-s3[j]
			cr, ci := s2[i-1]+s1[j-1], s2[i-1]-s1[j-1]
			dr, di := s2[i]+s1[j], s2[i]-s1[j]
			d0[i-1], d0[i] = ar+cr, bi+di
			f := blocks * i / 2
			d1[i-1], d1[i] = rotate(f, br-dr, ai+ci)
			d2[i-1], d2[i] = rotate(2*f, ar-cr, bi-di)
			d3[i-1], d3[i] = rotate(3*f, br+dr, ai-ci)
		}
	}
}

// rotate multiplies the complex number re + i*im by the root of one number n out of 64.
func rotate(n int, re, im float64) (float64, float64) {
	w := &roots[n]
	return float64(w[0]*re) - float64(w[1]*im), float64(w[0]*im) + float64(w[1]*re)
}

// The tables hold what pocketfft computes, which is not always the double nearest to the true value: it multiplies two roots from
// short tables instead of asking for each cosine.

// roots[n] is the cosine and the sine of 2*pi*n/64.
var roots = [22][2]float64{
	{1.0, 0.0},
	{0.9951847266721969, 0.0980171403295606},
	{0.9807852804032304, 0.19509032201612825},
	{0.9569403357322088, 0.29028467725446233},
	{0.9238795325112867, 0.3826834323650898},
	{0.881921264348355, 0.47139673682599764},
	{0.8314696123025452, 0.5555702330196022},
	{0.773010453362737, 0.6343932841636455},
	{0.7071067811865475, 0.7071067811865476},
	{0.6343932841636455, 0.773010453362737},
	{0.5555702330196022, 0.8314696123025452},
	{0.47139673682599753, 0.8819212643483549},
	{0.38268343236508967, 0.9238795325112867},
	{0.2902846772544623, 0.9569403357322088},
	{0.19509032201612825, 0.9807852804032304},
	{0.09801714032956049, 0.9951847266721969},
	{0.0, 1.0},
	{-0.0980171403295606, 0.9951847266721969},
	{-0.19509032201612825, 0.9807852804032304},
	{-0.29028467725446233, 0.9569403357322088},
	{-0.3826834323650898, 0.9238795325112867},
	{-0.47139673682599764, 0.881921264348355},
}

// quarterWave[n] is the cosine of 2*pi*(n+1)/256.
var quarterWave = [side - 1]float64{
	0.9996988186962042, 0.9987954562051724, 0.9972904566786902, 0.9951847266721969,
	0.99247953459871, 0.989176509964781, 0.9852776423889412, 0.9807852804032304,
	0.9757021300385286, 0.970031253194544, 0.9637760657954398, 0.9569403357322088,
	0.9495281805930367, 0.9415440651830208, 0.932992798834739, 0.9238795325112867,
	0.9142097557035307, 0.9039892931234433, 0.8932243011955152, 0.881921264348355,
	0.8700869911087113, 0.8577286100002721, 0.844853565249707, 0.8314696123025451,
	0.8175848131515837, 0.8032075314806448, 0.7883464276266062, 0.773010453362737,
	0.7572088465064846, 0.740951125354959, 0.724247082951467, 0.7071067811865475,
	0.6895405447370668, 0.6715589548470183, 0.6531728429537768, 0.6343932841636455,
	0.6152315905806268, 0.5956993044924332, 0.5758081914178452, 0.5555702330196022,
	0.5349976198870972, 0.5141027441932217, 0.49289819222978404, 0.47139673682599753,
	0.4496113296546066, 0.42755509343028203, 0.40524131400498986, 0.3826834323650898,
	0.35989503653498817, 0.33688985339222005, 0.3136817403988915, 0.2902846772544624,
	0.2667127574748984, 0.24298017990326393, 0.2191012401568698, 0.19509032201612828,
	0.17096188876030127, 0.14673047445536175, 0.12241067519921622, 0.0980171403295606,
	0.0735645635996674, 0.04906767432741804, 0.02454122852291235,
}
