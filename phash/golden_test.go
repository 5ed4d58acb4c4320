package phash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	goldenDir = "testdata/golden" // photographs and patterns in every format
	modesDir  = "testdata/modes"  // small pictures made by compare.py, one of each mode and encoding
)

// A golden picture is a line of golden.tsv, recorded from Python.
type golden struct {
	file string
	size string // "640x480"
	want Hash
	data []byte
}

func readGolden(t testing.TB) []golden {
	t.Helper()
	return append(readTable(t, goldenDir), readTable(t, modesDir)...)
}

func readTable(t testing.TB, dir string) []golden {
	t.Helper()
	tsv, err := os.ReadFile(filepath.Join(dir, "golden.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(tsv)), "\n")
	var all []golden
	for i, line := range lines[1:] {
		f := strings.Split(strings.TrimSuffix(line, "\r"), "\t")
		if len(f) != 5 {
			t.Fatalf("golden.tsv line %d: got %d fields, want 5", i+2, len(f))
		}
		h, err := Parse(f[3])
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, f[0]))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, golden{file: f[0], size: f[2], want: h, data: data})
	}
	return all
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for _, g := range readGolden(t) {
		got, err := Sum(g.data)
		if err != nil {
			t.Errorf("%s: got error %v, want %v", g.file, err, g.want)
		} else if got != g.want {
			t.Errorf("%s: got %v, want %v, distance %d", g.file, got, g.want, got.Distance(g.want))
		}
	}
}

// Hashes of the same pictures by Pillow 12.3 and 13.0.
func TestGoldenNewerPillow(t *testing.T) {
	t.Parallel()
	type key struct {
		file  string
		order Order
	}
	other := map[key]string{
		{"png-size-3x900.png", VeryTallDownFirst}: "e7fe6326e72d320a180b980ce7794c0de7bf32bd323a19dccd7332ae1838b214",
		{"png-rgb-photo-odd.png", TallDownFirst}:  "c90096ff265c192059d7e669a5385ad74d6cf599a292696f548a9ed1b33be086",
		{"png-size-3x900.png", TallDownFirst}:     "e7fe6326e72d320a180b980ce7794c0de7bf32bd323a19dccd7332ae1838b214",
		{"png-size-63x65.png", TallDownFirst}:     "c53f0ea09ecd096d31d01c46b23e18383327b1bc13e1d77985f3809daa6de8bf",
	}
	for _, g := range readTable(t, goldenDir) {
		for _, order := range []Order{VeryTallDownFirst, TallDownFirst} {
			want := g.want.String()
			if s, ok := other[key{g.file, order}]; ok {
				want = s
			}
			f, err := Of(g.data, order)
			got := f.Hash
			if err != nil || got.String() != want {
				t.Errorf("%s, order %d: got %v, %v, want %v", g.file, order, got, err, want)
			}
		}
	}
}

func TestInspectGolden(t *testing.T) {
	t.Parallel()
	formats := map[string]string{
		".jpg": "jpeg", ".png": "png", ".gif": "gif", ".webp": "webp", ".bmp": "bmp", ".tif": "tiff",
	}
	for _, g := range readGolden(t) {
		info, err := Inspect(g.data)
		if err != nil {
			t.Errorf("%s: got error %v, want %s", g.file, err, g.size)
			continue
		}
		if got := fmt.Sprintf("%dx%d", info.Width, info.Height); got != g.size {
			t.Errorf("%s: got %s, want %s", g.file, got, g.size)
		}
		if want := formats[filepath.Ext(g.file)]; info.Format != want {
			t.Errorf("%s: got %q, want %q", g.file, info.Format, want)
		}
	}
}

// A file that was cut off has no hash, unless all of its first frame is there: Pillow then accepts it too, mostly.
func TestTruncated(t *testing.T) {
	t.Parallel()
	// Pillow hashes them, as only what follows the pixels is missing.
	complete := map[string]int{
		"dot-64.png": 70, "flat-black.png": 77, "png-size-1x1.png": 57, "png-size-2x2.png": 66, "stripes-64.png": 85, "1-transparent.png": 85,
	}
	refused := 0
	for _, g := range readGolden(t) {
		const small = 20_000 // pixels; larger ones take long and show nothing more
		info, err := Inspect(g.data)
		if err != nil || info.Width*info.Height > small {
			continue
		}
		whole, err := Sum(g.data)
		if err != nil {
			continue
		}
		const pieces = 6
		for i := range 2 * pieces {
			cut := len(g.data) * i / pieces
			if i >= pieces {
				cut = len(g.data) - (i - pieces) - 1
			}
			if cut < 0 {
				continue
			}
			got, err := Sum(g.data[:cut])
			var format *FormatError
			switch {
			case err == nil && got != whole:
				t.Errorf("%s cut to %d of %d bytes: got %v, want an error or %v", g.file, cut, len(g.data), got, whole)
			case (err == nil) != (cut > 0 && cut == complete[g.file]) && i < pieces && filepath.Ext(g.file) != ".gif": // the animated one ends with more frames
				t.Errorf("%s cut to %d of %d bytes: got %v, want an error, unless no pixels are missing", g.file, cut, len(g.data), err)
			case err != nil && !errors.As(err, &format):
				t.Errorf("%s cut to %d of %d bytes: got error %v, want a *FormatError", g.file, cut, len(g.data), err)
			case err != nil:
				refused++
			}
		}
	}
	if refused == 0 {
		t.Error("got no refusals, want most of the cut files refused")
	}
}
