package phash

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"

	"github.com/corona10/goimagehash"
)

// bitCount is the number of bits of a Hash.
const bitCount = 256

// Hash is a 256-bit perceptual hash: a 16 x 16 grid of bits, row by row, the first bit being the most significant of Hash[0].
// It is comparable and can be a map key. The zero value is the hash of a black picture, not of "no picture".
type Hash [4]uint64

// String returns the 64 lower-case hex digits that Python's str(ImageHash) returns.
func (h Hash) String() string {
	var b [bitCount / 8]byte
	for i, v := range h {
		binary.BigEndian.PutUint64(b[8*i:], v)
	}
	return hex.EncodeToString(b[:])
}

// Parse reads what [Hash.String] writes: exactly 64 hex digits, upper case allowed. Anything else is an error.
func Parse(s string) (Hash, error) {
	var h Hash
	var b [bitCount / 8]byte
	if len(s) != hex.EncodedLen(len(b)) {
		return h, fmt.Errorf("parse phash: got %d characters, want 64 hex digits", len(s))
	}
	if _, err := hex.Decode(b[:], []byte(s)); err != nil {
		return h, fmt.Errorf("parse phash: want 64 hex digits: %w", err)
	}
	for i := range h {
		h[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return h, nil
}

// Ext returns the hash as goimagehash's type for large hashes (kind PHash, 256 bits), for its serialisation. The result shares
// nothing with h.
func (h Hash) Ext() *goimagehash.ExtImageHash {
	return goimagehash.NewExtImageHash(h[:], goimagehash.PHash, bitCount)
}

// Distance returns the Hamming distance in bits, 0 to 256. Between hashes that are not degenerate it is always even.
func (h Hash) Distance(o Hash) int {
	// Distance fails only where kind or length differ; both are the same for every Hash.
	d, _ := h.Ext().Distance(o.Ext())
	return d
}

// Degenerate reports whether the hash says too little to be a key: without ties at the median exactly half of the bits are set,
// and pictures with ties (flat, symmetric, striped, line art) share their hash with unrelated pictures.
func (h Hash) Degenerate() bool {
	n := 0
	for _, v := range h {
		n += bits.OnesCount64(v)
	}
	return n != bitCount/2
}
