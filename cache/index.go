package cache

import (
	"cmp"
	"math/bits"
	"slices"
	"sync"

	"onceover/phash"
)

// Limits of the near lookup.
const (
	DefaultRadius = 14 // bits; distances between hashes that can be keys are even
	MaxRadius     = 24 // bits; different pictures begin to meet far beyond it, see docs/near-duplicates.md
)

// maxIndexEntries is what fits into 10 GB, far beyond what is of use.
const maxIndexEntries = 100_000_000

// The shape of an Index. A hash is cut into as many bands as 15 bits of distance cannot all touch: two hashes within 15 bits agree
// in one band at least. See Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index Hashing" (2012).
const (
	bandCount = 16
	bandBits  = 256 / bandCount
	bandSize  = 1 << bandBits
	chunkSize = 4096 // entries that are allocated, and dropped, together

	entryBytes = 32 + 4*bandCount // memory of one entry
	headBytes  = 4 * bandCount * bandSize
)

// Neighbour is a hash near to another one.
type Neighbour struct {
	Hash     phash.Hash
	Distance int // bits
}

// Index finds hashes within a Hamming distance, in memory: 96 bytes an entry and 4 MiB. What it holds is a hint: the entry behind a
// hash may have gone. Safe for concurrent use.
type Index struct {
	most int // entries

	mu     sync.RWMutex
	heads  [bandCount][bandSize]uint32 // number of the newest entry with this value of the band, 0 if there is none
	chunks [][]indexed                 // the entries from number floor+1 on, oldest first
	floor  uint32                      // entries up to this number have been dropped; a multiple of chunkSize
	last   uint32                      // number of the newest entry
	dead   uint32                      // entries up to this number are too old, though their chunk may still be there
	hours  []hourMark                  // where each hour begins, oldest first
}

// indexed is an entry. Numbers go up with time, so that the lists that next makes go back in time and end where the dropped
// entries begin.
type indexed struct {
	hash phash.Hash
	next [bandCount]uint32
}

type hourMark struct {
	hour   int64
	before uint32 // number of the last entry before the hour
}

// NewIndex returns an empty index that keeps the newest entries, most of them at least and a chunk of 4,096 more at most.
func NewIndex(most int) *Index { return &Index{most: most} }

// bands cuts h into its values by band.
func bands(h phash.Hash) (v [bandCount]uint16) {
	for i := range v {
		v[i] = uint16(h[i/4] >> (48 - i%4*bandBits))
	}
	return v
}

// Add puts in h, written in an hour (hours since 1970), unless it is degenerate. Hours that go back count as the newest one so far.
// A hash may be there more than once.
func (x *Index) Add(hour int64, hashes ...phash.Hash) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.hours); n == 0 || x.hours[n-1].hour < hour {
		x.hours = append(x.hours, hourMark{hour, x.last})
	}
	for _, h := range hashes {
		if h.Degenerate() {
			continue
		}
		if x.last-x.floor == uint32(len(x.chunks))*chunkSize {
			x.chunks = append(x.chunks, make([]indexed, chunkSize))
		}
		x.last++
		e := x.at(x.last)
		e.hash = h
		for i, v := range bands(h) {
			e.next[i], x.heads[i][v] = x.heads[i][v], x.last
		}
		if x.last-x.floor >= uint32(x.most)+chunkSize {
			x.dropTo(x.floor + chunkSize)
		}
	}
}

func (x *Index) at(number uint32) *indexed {
	i := number - x.floor - 1
	return &x.chunks[i/chunkSize][i%chunkSize]
}

// dropTo forgets the entries up to a number, and their chunks where all entries have gone.
func (x *Index) dropTo(number uint32) {
	x.dead = max(x.dead, number)
	if n := (x.dead - x.floor) / chunkSize; n > 0 {
		x.chunks = slices.Delete(x.chunks, 0, int(n))
		x.floor += n * chunkSize
	}
}

// DropBefore forgets what was written before an hour.
func (x *Index) DropBefore(hour int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n, _ := slices.BinarySearchFunc(x.hours, hour, func(m hourMark, hour int64) int { return cmp.Compare(m.hour, hour) })
	switch {
	case n == 0:
		return
	case n == len(x.hours):
		x.dropTo(x.last)
	default:
		x.dropTo(x.hours[n].before)
	}
	x.hours = slices.Delete(x.hours, 0, n)
}

// Near returns the hashes within radius bits of h but h itself, the nearest first; all of them, if radius is MaxRadius at most. A
// degenerate h has none.
func (x *Index) Near(h phash.Hash, radius int) []Neighbour {
	if h.Degenerate() {
		return nil
	}
	var found []Neighbour
	x.mu.RLock()
	for i, v := range bands(h) {
		if radius < bandCount {
			found = x.list(found, i, v, h, radius, 0)
			continue
		}
		// Beyond 15 bits all bands may differ, but up to 31 bits one of them differs in a single bit at most.
		found = x.list(found, i, v, h, radius, 1)
		for b := range bandBits {
			found = x.list(found, i, v^1<<b, h, radius, 1)
		}
	}
	x.mu.RUnlock()
	slices.SortFunc(found, func(a, b Neighbour) int {
		return cmp.Or(cmp.Compare(a.Distance, b.Distance), slices.Compare(a.Hash[:], b.Hash[:]))
	})
	return slices.Compact(found) // a hash may have been added again
}

// list adds to found what has this value in a band and is near. An entry that is listed by several bands, which is one that differs
// in at most slack bits there, is taken from the first.
func (x *Index) list(found []Neighbour, band int, value uint16, h phash.Hash, radius, slack int) []Neighbour {
	for n := x.heads[band][value]; n > x.dead; {
		e := x.at(n)
		n = e.next[band]
		diff := phash.Hash{e.hash[0] ^ h[0], e.hash[1] ^ h[1], e.hash[2] ^ h[2], e.hash[3] ^ h[3]}
		d := bits.OnesCount64(diff[0]) + bits.OnesCount64(diff[1]) + bits.OnesCount64(diff[2]) + bits.OnesCount64(diff[3])
		if d == 0 || d > radius {
			continue
		}
		by := bands(diff)
		first := slices.IndexFunc(by[:], func(v uint16) bool { return bits.OnesCount16(v) <= slack })
		if first == band {
			found = append(found, Neighbour{e.hash, d})
		}
	}
	return found
}

// Len is the number of entries.
func (x *Index) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return int(x.last - x.dead)
}

// Bytes is the memory that the index takes.
func (x *Index) Bytes() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return headBytes + len(x.chunks)*chunkSize*entryBytes
}
