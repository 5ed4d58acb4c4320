package phash

import (
	"bytes"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/corona10/goimagehash"
)

func randomHash(r *rand.Rand) Hash {
	return Hash{r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()}
}

func TestStringParse(t *testing.T) {
	t.Parallel()
	first := Hash{1 << 63}
	if got, want := first.String(), "8"+strings.Repeat("0", 63); got != want {
		t.Errorf("first bit set: got %s, want %s", got, want)
	}
	last := Hash{3: 1}
	if got, want := last.String(), strings.Repeat("0", 63)+"1"; got != want {
		t.Errorf("last bit set: got %s, want %s", got, want)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		want := randomHash(r)
		s := want.String()
		for _, s := range []string{s, strings.ToUpper(s)} {
			got, err := Parse(s)
			if err != nil || got != want {
				t.Fatalf("Parse(%q): got %v, %v, want %v", s, got, err, want)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	digits := strings.Repeat("0123456789abcdef", 4)
	for _, s := range []string{"", digits[1:], digits + "0", digits[:63] + "g", " " + digits[1:], "0x" + digits[2:], digits[:62] + "é"} {
		if h, err := Parse(s); err == nil {
			t.Errorf("Parse(%q): got %v, want an error", s, h)
		}
	}
}

func TestDistance(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		a, b := randomHash(r), randomHash(r)
		want := 0
		for i := range a {
			want += bits.OnesCount64(a[i] ^ b[i])
		}
		if got := a.Distance(b); got != want {
			t.Fatalf("%v, %v: got %d, want %d", a, b, got, want)
		}
		if got := b.Distance(a); got != want {
			t.Fatalf("%v, %v: got %d the other way round, want %d", a, b, got, want)
		}
		if got := a.Distance(a); got != 0 {
			t.Fatalf("%v: got distance %d to itself, want 0", a, got)
		}
	}
	if got := (Hash{}).Distance(Hash{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}); got != 256 {
		t.Errorf("all bits: got %d, want 256", got)
	}
}

func TestExt(t *testing.T) {
	t.Parallel()
	want := randomHash(rand.New(rand.NewPCG(5, 6)))
	var buf bytes.Buffer
	if err := want.Ext().Dump(&buf); err != nil {
		t.Fatal(err)
	}
	ext, err := goimagehash.LoadExtImageHash(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if ext.Bits() != 256 || ext.GetKind() != goimagehash.PHash {
		t.Errorf("got %d bits of kind %d, want 256 of kind %d", ext.Bits(), ext.GetKind(), goimagehash.PHash)
	}
	if got := Hash(ext.GetHash()); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	ext = want.Ext()
	same := want
	ext.GetHash()[0]++
	if want != same {
		t.Error("got a hash that shares memory with its Ext, want a copy")
	}
}

func TestDegenerate(t *testing.T) {
	t.Parallel()
	half := Hash{0: ^uint64(0), 2: ^uint64(0)}
	for _, c := range []struct {
		hash Hash
		want bool
	}{
		{Hash{}, true},
		{Hash{1 << 63}, true},
		{half, false},
		{Hash{half[0], 1, half[2], 0}, true},
	} {
		if got := c.hash.Degenerate(); got != c.want {
			t.Errorf("%v: got %v, want %v", c.hash, got, c.want)
		}
	}
	for _, g := range readTable(t, goldenDir) {
		if strings.HasPrefix(g.file, "flat-") && !g.want.Degenerate() {
			t.Errorf("%s: got false, want true", g.file)
		}
		if strings.Contains(g.file, "-photo") && g.want.Degenerate() {
			t.Errorf("%s: got true, want false", g.file)
		}
	}
}
