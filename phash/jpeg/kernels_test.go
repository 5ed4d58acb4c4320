package jpeg

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// checkIDCT compares the two versions of the inverse DCT.
func checkIDCT(t *testing.T, coefs *[64]int16, quant *[64]uint16) {
	t.Helper()
	const stride = 11
	got, want := make([]uint8, 8*stride), make([]uint8, 8*stride)
	idct(got, stride, coefs, quant)
	idctGo(want, stride, coefs, quant)
	if !bytes.Equal(got, want) {
		t.Errorf("coefficients %v, factors %v: got %v, want %v", coefs, quant, got, want)
	}
}

func TestIDCT(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		var coefs [64]int16
		var quant [64]uint16
		limit := 1 + rng.IntN(1<<rng.IntN(17))
		top := 1 + rng.IntN(1<<rng.IntN(17))
		rows := 1 + rng.IntN(8)
		some := 1 + rng.IntN(8)
		for i := range quant {
			quant[i] = uint16(rng.IntN(top))
			if i < 8*rows && rng.IntN(some) == 0 {
				coefs[i] = int16(rng.IntN(2*limit) - limit)
			}
		}
		checkIDCT(t, &coefs, &quant)
		if t.Failed() {
			return
		}
		const stride = 8
		var dc [64]int16
		dc[0] = coefs[0]
		got, want := make([]uint8, 8*stride), make([]uint8, 8*stride)
		flat(got, stride, dc[0], quant[0])
		idctGo(want, stride, &dc, &quant)
		if !bytes.Equal(got, want) {
			t.Fatalf("DC value %d times %d: got %v, want %v", dc[0], quant[0], got, want)
		}
	}
}

func FuzzIDCT(f *testing.F) {
	f.Add(make([]byte, 256))
	f.Add(bytes.Repeat([]byte{0xff, 0x7f, 0x00, 0x80, 1, 0}, 43))
	f.Fuzz(func(t *testing.T, data []byte) {
		var coefs [64]int16
		var quant [64]uint16
		at := func(i int) uint16 {
			if 2*i+1 >= len(data) {
				return 1
			}
			return uint16(data[2*i]) | uint16(data[2*i+1])<<8
		}
		for i := range coefs {
			coefs[i], quant[i] = int16(at(i)), at(64+i)
		}
		checkIDCT(t, &coefs, &quant)
	})
}

func TestAcross(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for n := range 200 {
		if n == 0 {
			continue
		}
		near, far := noise(rng, marginLeft+n+marginRight), noise(rng, marginLeft+n+marginRight)
		sum := func(x int) int { return 3*int(near[marginLeft+x]) + int(far[marginLeft+x]) }
		for _, bias := range [][2]int{{4, 8}, {8, 7}} {
			want := make([]uint8, 2*n)
			for x := range n {
				want[2*x] = uint8((3*sum(x) + sum(x-1) + bias[0]) / 16)
				want[2*x+1] = uint8((3*sum(x) + sum(x+1) + bias[1]) / 16)
			}
			for name, version := range map[string]func(dst, near, far []uint8, n, left, right int){"across": across, "acrossGo": acrossGo} {
				got := make([]uint8, 2*n+marginRight)
				version(got, near, far, n, bias[0], bias[1])
				if !bytes.Equal(got[:2*n], want) {
					t.Fatalf("%s of %d samples, biases %v: got %v, want %v", name, n, bias, got[:2*n], want)
				}
			}
		}
	}
}

// Every pair of Cb and Cr, with Y in steps.
func TestYCC(t *testing.T) {
	t.Parallel()
	const n = 1 << 16
	cbs, crs := make([]uint8, n), make([]uint8, n)
	for i := range n {
		cbs[i], crs[i] = uint8(i>>8), uint8(i)
	}
	luminance, got, want := make([]uint8, n), make([]uint8, n), make([]uint8, n)
	for y := 0; y < 256; y += 5 {
		for i := range luminance {
			luminance[i] = uint8(y)
		}
		ycc(got, luminance, cbs, crs, n)
		yccGo(want, luminance, cbs, crs, n)
		if !bytes.Equal(got, want) {
			t.Fatalf("Y of %d: results differ", y)
		}
		for i := 0; i < n; i += 37 {
			if l := luma(toRGB(uint8(y), cbs[i], crs[i])); want[i] != l {
				t.Fatalf("Y %d, Cb %d, Cr %d: got %d, want %d", y, cbs[i], crs[i], want[i], l)
			}
		}
	}
}

func noise(rng *rand.Rand, n int) []uint8 {
	b := make([]uint8, n)
	for i := range b {
		b[i] = uint8(rng.Uint32())
	}
	return b
}
