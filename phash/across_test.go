package phash

import (
	"math/rand/v2"
	"testing"
)

// checkNarrower compares the pass over rows of noise with plain sums.
func checkNarrower(t *testing.T, width, rows int, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, uint64(width)))
	f := lanczos(width)
	var want, got [][side]uint8
	n := newNarrower(width, func(row *[side]uint8) { got = append(got, *row) })
	second := &narrower{widthPlan: &widthPlan{width: width, filter: f}, pairs: make([]int64, width)} // always in Go
	for range rows {
		row := make([]uint8, width)
		for i := range row {
			row[i] = uint8(rng.Uint32())
			if rng.IntN(3) == 0 {
				row[i] = uint8(rng.IntN(2) * 255)
			}
		}
		var sums [side]int32
		var w [side]uint8
		if f == nil {
			copy(w[:], row)
		} else {
			for i := range w {
				for j, weight := range f.weight[i] {
					sums[i] += weight * int32(row[f.start[i]+j])
				}
				w[i] = round(sums[i])
			}
			second.rows = [2][]uint8{row, row}
			second.narrowGo()
			if second.sums != [2][side]int32{sums, sums} {
				t.Fatalf("%d pixels in Go: got %v, want %v twice", width, second.sums, sums)
			}
		}
		want = append(want, w)
		n.take(row)
	}
	n.finish()
	if len(got) != len(want) {
		t.Fatalf("%d rows of %d pixels: got %d", rows, width, len(got))
	}
	for y := range want {
		if got[y] != want[y] {
			t.Fatalf("%d pixels, row %d: got %v, want %v", width, y, got[y], want[y])
		}
	}
}

func TestNarrower(t *testing.T) {
	t.Parallel()
	for width := 1; width < 700; width += 1 + width/60 {
		checkNarrower(t, width, 1+width%4, 1)
	}
	for _, width := range []int{1000, 1024, 4000, 4032, 12345} {
		checkNarrower(t, width, 3, 2)
	}
}

func FuzzNarrower(f *testing.F) {
	f.Add(uint16(1), uint64(1))
	f.Add(uint16(63), uint64(2))
	f.Add(uint16(4000), uint64(3))
	f.Fuzz(func(t *testing.T, width uint16, seed uint64) {
		checkNarrower(t, int(width)+1, 2, seed)
	})
}
