package cache

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"onceover/phash"
	"onceover/phash/verify"
)

// randomHash returns a hash that is not degenerate: half of it is the complement of the other.
func randomHash(r *rand.Rand) phash.Hash {
	a, b := r.Uint64(), r.Uint64()
	return phash.Hash{a, b, ^bits.RotateLeft64(a, 7), ^bits.RotateLeft64(b, 7)}
}

// moved returns h with n bits of each kind swapped, 2n bits away and not degenerate.
func moved(r *rand.Rand, h phash.Hash, n int) phash.Hash {
	ones, zeros := n, n
	for _, i := range r.Perm(256) {
		bit := uint64(1) << (i % 64)
		switch set := h[i/64]&bit != 0; {
		case set && ones > 0:
			ones--
			h[i/64] ^= bit
		case !set && zeros > 0:
			zeros--
			h[i/64] ^= bit
		}
	}
	return h
}

// held returns the pictures that are in x.
func held(x *Index) map[phash.Hash]bool {
	out := map[phash.Hash]bool{}
	for i := x.dead - x.floor; i < x.last-x.floor; i++ {
		out[x.chunks[i/chunkSize].keys[i%chunkSize]] = true
	}
	return out
}

// contains reports whether a picture is in x.
func contains(x *Index, h phash.Hash) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return held(x)[h]
}

// brute is what Near has to find.
func brute(all []phash.Hash, h phash.Hash, radius int) []phash.Hash {
	var out []phash.Hash
	for _, o := range all {
		d := 0
		for i := range h {
			d += bits.OnesCount64(h[i] ^ o[i])
		}
		if d <= radius {
			out = append(out, o)
		}
	}
	return out
}

func hashes(found []Neighbour) []phash.Hash {
	var out []phash.Hash
	for _, n := range found {
		out = append(out, n.Hash)
	}
	return out
}

func byBits(a, b phash.Hash) int { return slices.Compare(a[:], b[:]) }

// TestNearFindsAll compares with a search through everything, at each radius.
func TestNearFindsAll(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var all []phash.Hash
	for range 2000 {
		h := randomHash(r)
		all = append(all, h)
		for range 4 {
			all = append(all, moved(r, h, r.IntN(14)+1))
		}
	}
	x := NewIndex(1 << 20)
	for i, h := range all {
		x.Add(int64(i/1000), record(h))
	}
	for _, h := range all[:100] { // twice there, found once
		x.Add(3000, record(h))
	}
	within := map[phash.Hash][]phash.Hash{}
	for _, h := range all[:60] {
		within[h] = brute(all, h, MaxRadius)
	}
	for radius := 0; radius <= MaxRadius; radius++ {
		found := 0
		for h, all := range within {
			near := x.Near(radius, 1<<20, record(h).Hashes)
			got, want := hashes(near), brute(all, h, radius)
			found += len(want)
			slices.SortFunc(got, byBits)
			slices.SortFunc(want, byBits)
			if diff := cmp.Diff(slices.Compact(want), got); diff != "" {
				t.Fatalf("radius %d of %v (-want +got):\n%s", radius, h, diff)
			}
			if !slices.IsSortedFunc(near, func(a, b Neighbour) int { return a.Distance - b.Distance }) {
				t.Fatalf("radius %d: got %v, want the nearest first", radius, near)
			}
			for _, n := range near {
				if n.Distance != h.Distance(n.Hash) {
					t.Fatalf("got distance %d, want %d", n.Distance, h.Distance(n.Hash))
				}
			}
		}
		if radius >= 2 && found == 0 {
			t.Errorf("radius %d: nothing to find, want some", radius)
		}
	}
}

func TestIndexForgets(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	x := NewIndex(1 << 20)
	byHour := map[int64][]phash.Hash{}
	for hour := int64(100); hour < 110; hour++ {
		for range 1000 {
			h := randomHash(r)
			byHour[hour] = append(byHour[hour], h)
			x.Add(hour, record(h))
		}
	}
	x.Add(105, record(phash.Hash{1}), Record{Key: byHour[105][0]}) // degenerate, and of Python
	if got := x.Len(); got != 10_000 {
		t.Errorf("got %d entries, want 10,000", got)
	}
	check := func(hour int64, want bool) {
		t.Helper()
		there := held(x)
		for i, h := range byHour[hour] {
			if got := there[h]; got != want {
				t.Fatalf("hour %d: got %v, want %v", hour, got, want)
			}
			if i > 30 {
				continue
			}
			if near := x.Near(6, 1<<20, record(moved(r, h, 3)).Hashes); want != slices.ContainsFunc(near, func(n Neighbour) bool { return n.Hash == h }) {
				t.Fatalf("hour %d: near got %v, want %v", hour, near, want)
			}
		}
	}
	x.DropBefore(105)
	for hour := range byHour {
		check(hour, hour >= 105)
	}
	if got := x.Len(); got != 5000 {
		t.Errorf("got %d entries, want 5,000", got)
	}
	gone := byHour[107][0]
	x.DropBefore(1000)
	if got := x.Len(); got != 0 {
		t.Errorf("got %d entries, want none", got)
	}
	x.Add(1001, record(gone))
	if !contains(x, gone) {
		t.Error("a hash that was added after all had gone is not found")
	}
}

// TestIndexIsBounded adds more than is kept: the newest stay, and memory does not grow.
func TestIndexIsBounded(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	const most = 10_000
	x := NewIndex(most)
	var newest []phash.Hash
	largest := 0
	for i := range 50_000 {
		h := randomHash(r)
		x.Add(int64(i/10_000), record(h))
		if newest = append(newest, h); len(newest) > most {
			newest = newest[1:]
		}
		largest = max(largest, x.Bytes())
	}
	there := held(x)
	for _, h := range newest {
		if !there[h] {
			t.Fatal("one of the newest is missing")
		}
	}
	if n := x.Len(); n < most || n > most+chunkSize {
		t.Errorf("got %d entries, want %d to %d", n, most, most+chunkSize)
	}
	if limit := entryBytes * (most + 2*chunkSize); largest > limit {
		t.Errorf("got %d bytes, want %d at most", largest, limit)
	}
}

// FuzzIndex does what the bytes say beside a plain list that does the same.
func FuzzIndex(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 200, 9, 1, 250, 17})
	f.Fuzz(func(t *testing.T, steps []byte) {
		r := rand.New(rand.NewPCG(7, 8))
		x := NewIndex(1 << 20)
		type entry struct {
			hash phash.Hash
			hour int64
		}
		var plain []entry
		hour := int64(0)
		for _, s := range steps[:min(len(steps), 2000)] {
			switch {
			case s < 230 || len(plain) == 0:
				h := randomHash(r)
				if len(plain) > 0 && s%2 == 0 {
					h = moved(r, plain[int(s)%len(plain)].hash, int(s)%12+1)
				}
				hour += int64(s / 190)
				x.Add(hour, record(h))
				plain = append(plain, entry{h, hour})
			default:
				from := hour - int64(s-230)
				x.DropBefore(from)
				plain = slices.DeleteFunc(plain, func(e entry) bool { return e.hour < from })
			}
		}
		var all []phash.Hash
		for _, e := range plain {
			all = append(all, e.hash)
		}
		there := held(x)
		for _, h := range all {
			got, want := hashes(x.Near(MaxRadius, 1<<20, record(h).Hashes)), brute(all, h, MaxRadius)
			slices.SortFunc(got, byBits)
			slices.SortFunc(want, byBits)
			if diff := cmp.Diff(slices.Compact(want), got); diff != "" || !there[h] {
				t.Fatalf("near %v (-want +got):\n%s", h, diff)
			}
		}
	})
}

// TestNearOfCrops finds pictures by the hashes of either one cropped, and says which way to look at it was the nearest.
func TestNearOfCrops(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(11, 12))
	x := NewIndex(1 << 20)
	all := make([]Record, 3000)
	for i := range all {
		all[i] = Record{randomHash(r), verify.Hashes{Hash: randomHash(r), Crops: [2]phash.Hash{randomHash(r), randomHash(r)}}}
	}
	x.Add(1, all...)
	for i, way := range []func(of Record) verify.Hashes{
		func(of Record) verify.Hashes { return verify.Hashes{Hash: moved(r, of.Hash, 20)} },
		func(of Record) verify.Hashes {
			return verify.Hashes{Hash: moved(r, of.Crops[0], 20), Crops: [2]phash.Hash{randomHash(r), randomHash(r)}}
		},
		func(of Record) verify.Hashes {
			return verify.Hashes{Hash: moved(r, of.Crops[1], 20), Crops: [2]phash.Hash{randomHash(r), randomHash(r)}}
		},
		func(of Record) verify.Hashes {
			return verify.Hashes{Hash: randomHash(r), Crops: [2]phash.Hash{moved(r, of.Hash, 20), randomHash(r)}}
		},
		func(of Record) verify.Hashes {
			return verify.Hashes{Hash: randomHash(r), Crops: [2]phash.Hash{randomHash(r), moved(r, of.Hash, 20)}}
		},
	} {
		of := all[r.IntN(len(all))]
		for at := range 3 {
			ways := []verify.Hashes{record(randomHash(r)).Hashes, record(randomHash(r)).Hashes, record(randomHash(r)).Hashes}
			ways[at] = way(of)
			want := []Neighbour{{of.Key, 40, at}}
			if diff := cmp.Diff(want, x.Near(50, 1<<20, ways...)); diff != "" {
				t.Errorf("case %d, way %d (-want +got):\n%s", i, at, diff)
			}
		}
	}
}

// TestNearBesideAdd searches while records come and go.
func TestNearBesideAdd(t *testing.T) {
	t.Parallel()
	x := NewIndex(chunkSize)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := rand.New(rand.NewPCG(1, 1))
		for i := range 4 * chunkSize {
			x.Add(int64(i/chunkSize), record(randomHash(r)))
		}
		x.DropBefore(3)
	}()
	r := rand.New(rand.NewPCG(2, 2))
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		x.Near(MaxRadius, 1<<20, record(randomHash(r)).Hashes)
	}
}

// BenchmarkIndex looks for pictures of which half are within 50 bits of an entry, as they are and by all ways to look at them; the
// time in which memory gives up the index is the baseline.
func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		r := rand.New(rand.NewPCG(9, 10))
		x := NewIndex(2 * n)
		all := make([]Record, n)
		for i := range all {
			all[i] = Record{randomHash(r), verify.Hashes{Hash: randomHash(r), Crops: [2]phash.Hash{randomHash(r), randomHash(r)}}}
		}
		x.Add(1, all...)
		queries := make([][]verify.Hashes, 100)
		for i := range queries {
			q := verify.Hashes{Hash: randomHash(r), Crops: [2]phash.Hash{randomHash(r), randomHash(r)}}
			if i%2 == 0 {
				q.Hash = moved(r, all[r.IntN(n)].Hash, r.IntN(25)+1)
			}
			queries[i] = []verify.Hashes{q, q}
			for range phash.Turns - 1 {
				queries[i] = append(queries[i], verify.Hashes{Hash: randomHash(r)})
			}
		}
		for name, ways := range map[string]func(q []verify.Hashes) []verify.Hashes{
			"itself": func(q []verify.Hashes) []verify.Hashes { return q[:1] },
			"others": func(q []verify.Hashes) []verify.Hashes { return q[1:] },
		} {
			b.Run(fmt.Sprintf("n=%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					x.Near(DefaultRadius, maxCandidates, ways(queries[i%len(queries)])...)
				}
				b.ReportMetric(float64(x.Bytes())/float64(n), "B/entry")
			})
		}
		b.Run(fmt.Sprintf("n=%d/read", n), func(b *testing.B) {
			sum := uint64(0)
			for b.Loop() {
				for _, c := range x.chunks {
					for i := range c.first {
						f := &c.first[i]
						sum += f[0][0] + f[1][0] + f[2][0]
					}
				}
			}
			if sum == 1 {
				b.Fatal("got 1") // so that it is not left out
			}
		})
	}
}

// BenchmarkDenseIndex searches among pictures that are all as near, as a fixed camera has them; twice as many should take twice as long.
func BenchmarkDenseIndex(b *testing.B) {
	for _, n := range []int{20_000, 40_000} {
		r := rand.New(rand.NewPCG(9, 10))
		h := randomHash(r)
		x := NewIndex(2 * n)
		for range n {
			x.Add(1, Record{randomHash(r), verify.Hashes{Hash: h}})
		}
		b.Run(fmt.Sprint("n=", n), func(b *testing.B) {
			for b.Loop() {
				x.Near(DefaultRadius, maxCandidates, record(h).Hashes)
			}
		})
	}
}
