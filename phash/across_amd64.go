package phash

import (
	"encoding/binary"

	"golang.org/x/sys/cpu"
)

var vector = cpu.X86.HasAVX2

// put writes weight i of a block: 16 high halves come before 16 low ones, both with sign.
func put(block []uint8, i int, w int32) {
	low := int16(w)
	binary.LittleEndian.PutUint16(block[2*i:], uint16((w-int32(low))>>16))
	binary.LittleEndian.PutUint16(block[2*i+blockSize/2:], uint16(low))
}
