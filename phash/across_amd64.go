package phash

import "golang.org/x/sys/cpu"

var useAVX2 = cpu.X86.HasAVX2

// narrowAVX2 computes the weighted sums of two rows.
//
//go:noescape
func narrowAVX2(sums *[2][side]int32, row0, row1 *uint8, start *[side]int32, weights *int16, blocks int)
