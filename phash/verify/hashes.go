package verify

import (
	"encoding/binary"
	"math/bits"

	"onceover/phash"
)

// Hashes are those by which a picture is found.
type Hashes struct {
	Hash  phash.Hash    // of the picture as people see it
	Crops [2]phash.Hash // without 2.5 and 5 % at each side; zeros where they are not known
}

// HashesSize is that of [Hashes.Append], in bytes.
const HashesSize = 3 * 32

// Append appends the hashes, the most significant byte of each first.
func (h *Hashes) Append(b []byte) []byte {
	for _, hash := range [3]phash.Hash{h.Hash, h.Crops[0], h.Crops[1]} {
		for _, v := range hash {
			b = binary.BigEndian.AppendUint64(b, v)
		}
	}
	return b
}

// ReadHashes reads what Append wrote. b has HashesSize bytes at least.
func ReadHashes(b []byte) (h Hashes) {
	for _, hash := range [3]*phash.Hash{&h.Hash, &h.Crops[0], &h.Crops[1]} {
		for i := range hash {
			hash[i] = binary.BigEndian.Uint64(b)
			b = b[8:]
		}
	}
	return h
}

// Apart returns how far two pictures are apart at least, in bits: by their hashes, or by that of the one as it is and that of the
// other one cropped. It is more than 256 where nothing can be said.
func (h *Hashes) Apart(o *Hashes) int {
	return min(apart(h.Hash, o.Hash), apart(h.Hash, o.Crops[0]), apart(h.Hash, o.Crops[1]), apart(h.Crops[0], o.Hash), apart(h.Crops[1], o.Hash))
}

func apart(a, b phash.Hash) int {
	if a == (phash.Hash{}) || b == (phash.Hash{}) {
		return 257
	}
	return bits.OnesCount64(a[0]^b[0]) + bits.OnesCount64(a[1]^b[1]) + bits.OnesCount64(a[2]^b[2]) + bits.OnesCount64(a[3]^b[3])
}
