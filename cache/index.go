package cache

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math/bits"
	"slices"
	"sync"

	"onceover/phash"
	"onceover/phash/verify"
)

// Limits of the near lookup.
const (
	DefaultRadius = 50 // bits; what is that near is compared, see docs/near-duplicates.md
	MaxRadius     = 60 // bits; from about there on pictures that have nothing in common are candidates too
)

// maxIndexEntries is what fits into 13 GB, far beyond what is of use.
const maxIndexEntries = 100_000_000

const (
	chunkSize  = 4096 // records that are allocated, and dropped, together
	entryBytes = recordSize
)

// A Record is a picture that was looked at.
type Record struct {
	Key           phash.Hash // of its key
	verify.Hashes            // by which it is found; zeros where its signature is not kept
}

// recordSize is that of Record.append, in bytes.
const recordSize = 32 + verify.HashesSize

func (r *Record) append(b []byte) []byte {
	for _, v := range r.Key {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return r.Hashes.Append(b)
}

// readRecord reads what append wrote. b has recordSize bytes at least.
func readRecord(b []byte) (r Record) {
	for i := range r.Key {
		r.Key[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	r.Hashes = verify.ReadHashes(b[32:])
	return r
}

// Neighbour is a picture near to another one.
type Neighbour struct {
	Hash     phash.Hash // of its key
	Distance int        // bits, see verify.Hashes.Apart
	Way      int        // which of those that were asked for is the nearest
}

// Index finds pictures within a Hamming distance, in memory: 128 bytes each. It looks at all of them, which takes some milliseconds
// for a million: no index by parts of the hash is faster where so many bits may differ. What it holds is a hint: the entry behind a
// hash may have gone. Safe for concurrent use.
type Index struct {
	most int // records

	mu     sync.RWMutex
	chunks []*chunk   // the records from number floor+1 on, oldest first; what is there is never changed
	floor  uint32     // records up to this number have been dropped; a multiple of chunkSize
	last   uint32     // number of the newest record
	dead   uint32     // records up to this number are too old, though their chunk may still be there
	hours  []hourMark // where each hour begins, oldest first
}

// A chunk has its records in parts: the halves that are looked at first lie together, as memory is what a search waits for.
type chunk struct {
	first, second [chunkSize][3][2]uint64 // of the hash, and of those of the crops
	keys          [chunkSize]phash.Hash
}

type hourMark struct {
	hour   int64
	before uint32 // number of the last record before the hour
}

// NewIndex returns an empty index that keeps the newest records, most of them at least and a chunk of 4,096 more at most.
func NewIndex(most int) *Index { return &Index{most: most} }

// Add puts in records, written in an hour (hours since 1970), but those without hashes. Hours that go back count as the newest one
// so far. A picture may be there more than once.
func (x *Index) Add(hour int64, records ...Record) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.hours); n == 0 || x.hours[n-1].hour < hour {
		x.hours = append(x.hours, hourMark{hour, x.last})
	}
	for _, r := range records {
		if r.Hash == (phash.Hash{}) || r.Key.Degenerate() {
			continue
		}
		at := x.last - x.floor
		if at == uint32(len(x.chunks))*chunkSize {
			x.chunks = append(x.chunks, new(chunk))
		}
		c, i := x.chunks[at/chunkSize], at%chunkSize
		for k, h := range [3]phash.Hash{r.Hash, r.Crops[0], r.Crops[1]} {
			c.first[i][k], c.second[i][k] = [2]uint64(h[:2]), [2]uint64(h[2:])
		}
		c.keys[i] = r.Key
		x.last++
		if x.last-x.floor >= uint32(x.most)+chunkSize {
			x.dropTo(x.floor + chunkSize)
		}
	}
}

// dropTo forgets the records up to a number, and their chunks where all of them have gone.
func (x *Index) dropTo(number uint32) {
	x.dead = max(x.dead, number)
	if n := (x.dead - x.floor) / chunkSize; n > 0 {
		x.chunks = slices.Clone(x.chunks[n:]) // somebody may be searching
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

// Near returns the pictures within radius bits of one of the ways to look at a picture, the nearest first, each once: the nearest
// most of them, and those that are as far away as the last.
func (x *Index) Near(radius, most int, ways ...verify.Hashes) []Neighbour {
	x.mu.RLock()
	chunks, from, to := x.chunks, int(x.dead-x.floor), int(x.last-x.floor)
	x.mu.RUnlock()
	s := nearest{most: most, radius: min(radius, MaxRadius), way: map[phash.Hash]Neighbour{}}
	for n, c := range chunks {
		begin, end := max(from-n*chunkSize, 0), min(to-n*chunkSize, chunkSize)
		for way := range ways {
			s.search(c, begin, end, way, &ways[way])
		}
	}
	return s.found()
}

// nearest are the nearest pictures that a search has found.
type nearest struct {
	most   int
	radius int // what is farther away is of no interest any more
	limit  int // of way, at which those that are too far away are taken out
	way    map[phash.Hash]Neighbour
	at     [MaxRadius + 1]int // how many are at each distance
}

// search takes the records of a chunk from begin to end that are within the radius of a way. One without crops, as of a picture that
// is turned, is looked for among pictures that are not cropped either.
func (s *nearest) search(c *chunk, begin, end, way int, hashes *verify.Hashes) {
	h0, h1 := hashes.Hash[0], hashes.Hash[1]
	if hashes.Crops[0] == (phash.Hash{}) {
		for i := begin; i < end; i++ {
			if apart(&c.first[i][0], h0, h1) <= s.radius { // the first half has to be near enough already
				s.take(c, i, way, hashes)
			}
		}
		return
	}
	a0, a1, b0, b1 := hashes.Crops[0][0], hashes.Crops[0][1], hashes.Crops[1][0], hashes.Crops[1][1]
	for i := begin; i < end; i++ {
		first := &c.first[i]
		if min(apart(&first[0], h0, h1), apart(&first[1], h0, h1), apart(&first[2], h0, h1), apart(&first[0], a0, a1), apart(&first[0], b0, b1)) <= s.radius {
			s.take(c, i, way, hashes)
		}
	}
}

// take takes a record if it is near enough.
func (s *nearest) take(c *chunk, i, way int, hashes *verify.Hashes) {
	record := c.hashes(i)
	if d := hashes.Apart(&record); d <= s.radius {
		s.add(Neighbour{c.keys[i], d, way})
	}
}

// add takes a picture, and draws the radius in once there are enough within a smaller one.
func (s *nearest) add(n Neighbour) {
	if old, known := s.way[n.Hash]; known {
		if old.Distance <= n.Distance {
			return
		}
		s.at[old.Distance]--
	}
	s.way[n.Hash] = n
	s.at[n.Distance]++
	for {
		within := 0
		for _, k := range s.at[:s.radius] {
			within += k
		}
		if within < s.most || s.radius == 0 {
			break
		}
		s.radius--
	}
	if len(s.way) > s.limit {
		maps.DeleteFunc(s.way, func(_ phash.Hash, n Neighbour) bool { return n.Distance > s.radius })
		s.limit = 2*len(s.way) + 1000
	}
}

// found returns them, the nearest first.
func (s *nearest) found() []Neighbour {
	out := slices.Collect(maps.Values(s.way))
	out = slices.DeleteFunc(out, func(n Neighbour) bool { return n.Distance > s.radius })
	slices.SortFunc(out, func(a, b Neighbour) int {
		return cmp.Or(cmp.Compare(a.Distance, b.Distance), slices.Compare(a.Hash[:], b.Hash[:]))
	})
	return out
}

func apart(a *[2]uint64, b0, b1 uint64) int {
	return bits.OnesCount64(a[0]^b0) + bits.OnesCount64(a[1]^b1)
}

func (c *chunk) hashes(i int) verify.Hashes {
	whole := func(k int) phash.Hash {
		return phash.Hash{c.first[i][k][0], c.first[i][k][1], c.second[i][k][0], c.second[i][k][1]}
	}
	return verify.Hashes{Hash: whole(0), Crops: [2]phash.Hash{whole(1), whole(2)}}
}

// Len is the number of records.
func (x *Index) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return int(x.last - x.dead)
}

// Bytes is the memory that the index takes.
func (x *Index) Bytes() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.chunks) * chunkSize * entryBytes
}
