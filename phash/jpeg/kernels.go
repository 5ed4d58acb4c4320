//go:build amd64 || arm64

package jpeg

// The kernels that take most of the time beside the entropy decoder. Each has a version in Go, which says what it does, and one for
// the vector instructions of some processors, which gives the same bytes.

// idct writes the samples of a block to 8 rows of dst, stride bytes apart. Coefficients are multiplied by quant, modulo 2^16.
func idct(dst []uint8, stride int, coefs *[64]int16, quant *[64]uint16) {
	if !vector {
		idctGo(dst, stride, coefs, quant)
		return
	}
	idctVector(&dst[:7*stride+8][0], stride, coefs, quant)
}

// across interpolates between n samples of two rows, with margins, to 2*n pixels: a pixel is 9/16 of the nearest sample, 3/16 each
// of the next ones and 1/16 of the farthest. If both rows are the same, that is 3/4 and 1/4. What follows in dst is void.
func across(dst, near, far []uint8, n, biasLeft, biasRight int) {
	if !vector {
		acrossGo(dst, near, far, n, biasLeft, biasRight)
		return
	}
	blocks := ceil(n, 16)
	_, _, _ = dst[:32*blocks], near[:marginLeft+16*blocks+1], far[:marginLeft+16*blocks+1]
	acrossVector(&dst[0], &near[marginLeft], &far[marginLeft], blocks, biasLeft, biasRight)
}

// ycc converts n pixels of a row to gray. What follows in gray is void.
func ycc(gray, luminance, cbs, crs []uint8, n int) {
	if !vector {
		yccGo(gray, luminance, cbs, crs, n)
		return
	}
	blocks := ceil(n, 16)
	_, _, _, _ = gray[:16*blocks], luminance[:16*blocks], cbs[:16*blocks], crs[:16*blocks]
	yccVector(&gray[0], &luminance[0], &cbs[0], &crs[0], blocks)
}

//go:noescape
func idctVector(dst *uint8, stride int, coefs *[64]int16, quant *[64]uint16)

//go:noescape
func acrossVector(dst, near, far *uint8, blocks, biasLeft, biasRight int)

//go:noescape
func yccVector(gray, luminance, cbs, crs *uint8, blocks int)
