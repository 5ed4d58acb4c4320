//go:build !amd64

package jpeg

const useAVX2 = false

func idctAVX2(*uint8, int, *[64]int16, *[64]uint16)             { panic("no AVX2") }
func acrossAVX2(dst, near, far *uint8, blocks, left, right int) { panic("no AVX2") }
func yccAVX2(gray, luminance, cbs, crs *uint8, blocks int)      { panic("no AVX2") }
