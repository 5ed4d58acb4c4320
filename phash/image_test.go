package phash

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"testing"
)

// TestImage compares with the picture of which files of all formats were made.
func TestImage(t *testing.T) {
	t.Parallel()
	read := func(file string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(modesDir, file))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	want, err := png.Decode(bytes.NewReader(read("colours.png")))
	if err != nil {
		t.Fatal(err)
	}
	for file, tolerance := range map[string]int{
		"colours.png": 3, "colours.bmp": 3, "colours.tif": 3, "colours.webp": 3, "colours-cmyk.tif": 3,
		"colours-lossy.webp": 20, "colours.jpg": 20, "colours-jpeg.tif": 20, "colours.gif": 20,
	} {
		got, err := Image(read(file))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if got.Bounds() != want.Bounds() {
			t.Errorf("%s: got %v, want %v", file, got.Bounds(), want.Bounds())
			continue
		}
		if d := meanDifference(got, want); d > tolerance {
			t.Errorf("%s: got colours that differ by %d on average, want at most %d", file, d, tolerance)
		}
	}
	for _, g := range readGolden(t) {
		m, err := Image(g.data)
		if err != nil {
			t.Errorf("%s: got %v, want a picture of all that has a hash", g.file, err)
			continue
		}
		_ = m.At(m.Bounds().Dx()-1, m.Bounds().Dy()-1) // does not panic
	}
	if m, err := Image([]byte("<svg/>")); err == nil {
		t.Errorf("got %v, want an error", m)
	}
}

func meanDifference(a, b image.Image) int {
	sum := 0
	r := a.Bounds()
	for y := range r.Dy() {
		for x := range r.Dx() {
			p, _ := color.NRGBAModel.Convert(a.At(x, y)).(color.NRGBA)
			q, _ := color.NRGBAModel.Convert(b.At(x, y)).(color.NRGBA)
			for _, d := range []int{int(p.R) - int(q.R), int(p.G) - int(q.G), int(p.B) - int(q.B)} {
				sum += max(d, -d)
			}
		}
	}
	return sum / (3 * r.Dx() * r.Dy())
}
