package phash

import "encoding/binary"

// plausible refuses a picture that needs more bytes than the file can hold, before anything is allocated for it: rows of rowBits
// bits, with ratio the compression's best.
func plausible(data []byte, height, rowBits, ratio int) error {
	if need := height * ((rowBits + 7) / 8); need/ratio > len(data) {
		return damaged("%d bytes are too few for the size that the header claims", len(data))
	}
	return nil
}

// Little-endian numbers at the beginning of b.
func le16(b []byte) int { return int(binary.LittleEndian.Uint16(b)) }
func le24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }
func le32(b []byte) int { return int(binary.LittleEndian.Uint32(b)) }

// A pieces cuts pieces off the front of a file.
type pieces struct{ rest []byte }

// next returns n bytes; ok is false if there are fewer.
func (r *pieces) next(n int) (b []byte, ok bool) {
	if n < 0 || len(r.rest) < n {
		return nil, false
	}
	b, r.rest = r.rest[:n], r.rest[n:]
	return b, true
}
