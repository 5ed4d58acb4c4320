package jpeg

func idct(dst []uint8, stride int, coefs *[64]int16, quant *[64]uint16) {
	idctGo(dst, stride, coefs, quant)
}

func ycc(gray, luminance, cbs, crs []uint8, n int) { yccGo(gray, luminance, cbs, crs, n) }

func across(dst, near, far []uint8, sums []int16, n, biasLeft, biasRight int) {
	acrossGo(dst, near, far, sums, n, biasLeft, biasRight)
}

func down(dst, near, far []uint8, n, bias int) { downGo(dst, near, far, n, bias) }
