package phash

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The golden pictures test the last bit; this tests that the transform is a DCT-II.
func TestDCT(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	var in [side]float64
	for i := range in {
		in[i] = float64(r.IntN(256))
	}
	got := in
	dct(&got)
	for k := range got {
		want := 0.0
		for n, v := range in {
			want += 2 * v * math.Cos(math.Pi*float64(k*(2*n+1))/(2*side))
		}
		if math.Abs(got[k]-want) > 1e-9 {
			t.Errorf("coefficient %d: got %v, want %v", k, got[k], want)
		}
	}
}
