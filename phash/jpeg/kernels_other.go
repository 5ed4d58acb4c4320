//go:build !amd64 && !arm64

package jpeg

// See kernels.go.

func idct(dst []uint8, stride int, coefs *[64]int16, quant *[64]uint16) {
	idctGo(dst, stride, coefs, quant)
}

func across(dst, near, far []uint8, n, biasLeft, biasRight int) {
	acrossGo(dst, near, far, n, biasLeft, biasRight)
}

func ycc(gray, luminance, cbs, crs []uint8, n int) { yccGo(gray, luminance, cbs, crs, n) }
