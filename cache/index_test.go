package cache

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"onceover/phash"
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

// contains reports whether h is in x, by a hash beside it.
func contains(x *Index, h phash.Hash) bool {
	beside := h
	beside[3] ^= 1 << 63 >> bits.LeadingZeros64(h[3]) // a bit that is set
	beside[0] ^= 1 << bits.TrailingZeros64(^h[0])     // and one that is not
	return slices.ContainsFunc(x.Near(beside, 2), func(n Neighbour) bool { return n.Hash == h })
}

// brute is what Near has to find.
func brute(all []phash.Hash, h phash.Hash, radius int) []phash.Hash {
	var out []phash.Hash
	for _, o := range all {
		d := 0
		for i := range h {
			d += bits.OnesCount64(h[i] ^ o[i])
		}
		if d > 0 && d <= radius {
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
	x.Add(1, all...)
	x.Add(2, all[:100]...) // twice there, found once
	within := map[phash.Hash][]phash.Hash{}
	for _, h := range all[:200] {
		within[h] = brute(all, h, MaxRadius)
	}
	for radius := 0; radius <= MaxRadius; radius++ {
		found := 0
		for h, all := range within {
			near := x.Near(h, radius)
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
			x.Add(hour, h)
		}
	}
	x.Add(105, phash.Hash{}, phash.Hash{1}) // degenerate
	if got := x.Len(); got != 10_000 {
		t.Errorf("got %d entries, want 10,000", got)
	}
	check := func(hour int64, want bool) {
		t.Helper()
		for _, h := range byHour[hour] {
			if got := contains(x, h); got != want {
				t.Fatalf("hour %d: got %v, want %v", hour, got, want)
			}
			if near := x.Near(moved(r, h, 3), 6); want != slices.ContainsFunc(near, func(n Neighbour) bool { return n.Hash == h }) {
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
	x.Add(1001, gone)
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
		x.Add(int64(i/10_000), h)
		if newest = append(newest, h); len(newest) > most {
			newest = newest[1:]
		}
		largest = max(largest, x.Bytes())
	}
	for _, h := range newest {
		if !contains(x, h) {
			t.Fatal("one of the newest is missing")
		}
	}
	if n := x.Len(); n < most || n > most+chunkSize {
		t.Errorf("got %d entries, want %d to %d", n, most, most+chunkSize)
	}
	if limit := headBytes + entryBytes*(most+2*chunkSize); largest > limit {
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
				x.Add(hour, h)
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
		for _, h := range all {
			got, want := hashes(x.Near(h, MaxRadius)), brute(all, h, MaxRadius)
			slices.SortFunc(got, byBits)
			slices.SortFunc(want, byBits)
			if diff := cmp.Diff(slices.Compact(want), got); diff != "" || !contains(x, h) {
				t.Fatalf("near %v (-want +got):\n%s", h, diff)
			}
		}
	})
}

// BenchmarkIndex looks up hashes of which half are within 14 bits of an entry; the plain search through everything is the baseline.
func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		r := rand.New(rand.NewPCG(9, 10))
		all := make([]phash.Hash, n)
		for i := range all {
			all[i] = randomHash(r)
		}
		x := NewIndex(2 * n)
		x.Add(1, all...)
		queries := make([]phash.Hash, 1000)
		for i := range queries {
			queries[i] = randomHash(r)
			if i%2 == 0 {
				queries[i] = moved(r, all[r.IntN(n)], r.IntN(7)+1)
			}
		}
		for _, radius := range []int{DefaultRadius, MaxRadius} {
			b.Run(fmt.Sprintf("n=%d/radius=%d/bands", n, radius), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					x.Near(queries[i%len(queries)], radius)
				}
				b.ReportMetric(float64(x.Bytes()-headBytes)/float64(n), "B/entry")
			})
		}
		b.Run(fmt.Sprintf("n=%d/radius=%d/all", n, DefaultRadius), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				brute(all, queries[i%len(queries)], DefaultRadius)
			}
		})
	}
}
