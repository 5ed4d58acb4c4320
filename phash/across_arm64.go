package phash

import "golang.org/x/sys/cpu"

// UDOT is there since Neoverse N1. Without it, the multiplications would take four times as long there.
var vector = cpu.ARM64.HasASIMDDP

// put writes weight i of a block: 16 low bytes come first, 16 high ones last.
func put(block []uint8, i int, w int32) {
	for b := range 4 {
		block[i+blockTaps*b] = uint8(w >> (8 * b))
	}
}
