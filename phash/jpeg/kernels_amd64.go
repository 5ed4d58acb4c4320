package jpeg

import "golang.org/x/sys/cpu"

var useAVX2 = cpu.X86.HasAVX2

//go:noescape
func idctAVX2(dst *uint8, stride int, coefs *[64]int16, quant *[64]uint16)

//go:noescape
func acrossAVX2(dst, near, far *uint8, blocks, biasLeft, biasRight int)

//go:noescape
func yccAVX2(gray, luminance, cbs, crs *uint8, blocks int)
