package phash

import (
	"os"
	"path/filepath"
	"testing"
)

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
	for file, tolerance := range map[string]int{
		"colours.bmp": 0, "colours.tif": 0, "colours.webp": 0, "colours.gif": 4, "colours-cmyk.tif": 1, "colours-lossy.webp": 12,
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
