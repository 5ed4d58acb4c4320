package phash

import "golang.org/x/sys/cpu"

var vector = cpu.X86.HasAVX2

// put writes weight i: a block is 16 high halves before 16 low ones, both with sign.
func put(weights []int16, i int, w int32) {
	i += i / blockTaps * blockTaps
	low := int16(w)
	weights[i], weights[i+blockTaps] = int16((w-int32(low))>>16), low
}
