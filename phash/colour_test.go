package phash

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// grayColour is the Colour of pictures without colours.
var grayColour = func() (c Colour) {
	for i := range c {
		c[i] = 128
	}
	return c
}()

// The colours of one picture do not depend on its format, but for what a palette, ink or lossy compression changes.
func TestColourByFormat(t *testing.T) {
	t.Parallel()
	colourOf := func(file string) Colour {
		data, err := os.ReadFile(filepath.Join(modesDir, file))
		if err != nil {
			t.Fatal(err)
		}
		f, err := Of(data, AcrossFirst)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		return f.Colour
	}
	want := colourOf("colours.png")
	if want == grayColour {
		t.Fatal("colours.png: got no colours")
	}
	// The picture has 40 x 30 pixels, and a cell 5 x 4, of which lossy WebP keeps two or four of chroma.
	for file, tolerance := range map[string]int{
		"colours.bmp": 0, "colours.tif": 0, "colours.webp": 0, "colours.gif": 4, "colours-cmyk.tif": 1, "colours-lossy.webp": 24,
		"colours.jpg": 3, "colours-jpeg.tif": 3,
	} {
		got := colourOf(file)
		for i := range got {
			if d := int(got[i]) - int(want[i]); d > tolerance || d < -tolerance {
				t.Errorf("%s: got %v, want %v within %d", file, got, want, tolerance)
				break
			}
		}
	}
}

// Gray is exactly 128, whether it is stored as gray or as colours.
func TestColourOfGray(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"l.png", "la.png", "l.gif", "i16.png", "1.bmp", "l.bmp"} {
		data, err := os.ReadFile(filepath.Join(modesDir, file))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := Of(data, AcrossFirst); err != nil || f.Colour != grayColour {
			t.Errorf("%s: got %v, %v, want %v", file, f.Colour, err, grayColour)
		}
	}
}

// A canvas around a first frame, tall or turned pictures and pictures of few pixels have colours too.
func TestColourOfEverything(t *testing.T) {
	t.Parallel()
	for _, g := range readTable(t, modesDir) {
		across, err := Of(g.data, AcrossFirst)
		if err != nil {
			t.Fatalf("%s: %v", g.file, err)
		}
		down, err := Of(g.data, TallDownFirst)
		if err != nil || across.Colour != down.Colour {
			t.Errorf("%s: got colours %v, %v, want %v in either order", g.file, down.Colour, err, across.Colour)
		}
		if across.Colour == (Colour{}) {
			t.Errorf("%s: got no colours", g.file)
		}
	}
}

// TestColourDistance has the pairs of which the documentation speaks: a step of 8 in gray is the most, vivid colours may move further.
func TestColourDistance(t *testing.T) {
	t.Parallel()
	cell := func(cb, cr uint8) Colour {
		c := grayColour
		c[2*9], c[2*9+1] = cb, cr
		return c
	}
	for _, tt := range []struct {
		a, b Colour
		want int
	}{
		{grayColour, grayColour, 0},
		{grayColour, cell(136, 128), 8}, // 64 less 64/16, rounded up
		{grayColour, cell(137, 128), 9},
		{grayColour, cell(134, 134), 9},
		{cell(128, 228), cell(128, 200), 0},
		{cell(128, 228), cell(128, 190), 25},
		{cell(0, 0), cell(255, 255), 355},
		{Colour{}, grayColour, 176},
	} {
		if got := tt.a.Distance(tt.b); got != tt.want || tt.b.Distance(tt.a) != got {
			t.Errorf("%v, %v: got %d and %d, want %d", tt.a[18:20], tt.b[18:20], got, tt.b.Distance(tt.a), tt.want)
		}
		if got := tt.a.Same(tt.b); got != (tt.want <= 8) {
			t.Errorf("%v, %v: got %v", tt.a[18:20], tt.b[18:20], got)
		}
	}
	// The rule as it stands in the documentation.
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		a, b := cell(uint8(r.UintN(256)), uint8(r.UintN(256))), Colour{}
		b = cell(uint8(int(a[18])+r.IntN(41)-20), uint8(int(a[19])+r.IntN(41)-20))
		sq := func(x, y uint8) int { return (int(x) - int(y)) * (int(x) - int(y)) }
		apart := sq(a[18], b[18]) + sq(a[19], b[19])
		vivid := sq(a[18], 128) + sq(a[19], 128) + sq(b[18], 128) + sq(b[19], 128)
		if want := 16*apart <= 16*64+vivid; a.Same(b) != want {
			t.Fatalf("%v, %v: got %v, want %v", a[18:20], b[18:20], !want, want)
		}
	}
}

func FuzzParseColour(f *testing.F) {
	f.Add(grayColour.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseColour(s)
		if err == nil && c.String() != s {
			t.Fatalf("got %q back, want %q", c, s)
		}
	})
}
