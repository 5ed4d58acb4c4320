package jpeg

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"os"
	"path/filepath"
	"testing"
)

// seeds returns the JPEG files of the hash's test pictures that are not large.
func seeds(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../testdata/golden/jpeg-*.jpg")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden pictures: got %v, %v, want some", files, err)
	}
	all := make(map[string][]byte)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) < 8000 {
			all[filepath.Base(f)] = data
		}
	}
	return all
}

// Whatever the bytes, there is the picture that the header announced or an error of a known type, and no panic.
func FuzzDecode(f *testing.F) {
	for _, data := range seeds(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := DecodeConfig(data)
		known(t, err)
		if err == nil && (c.Width < 1 || c.Height < 1) {
			t.Fatalf("got %d x %d pixels", c.Width, c.Height)
		}
		if c.Width*c.Height > 1<<20 {
			return // valid, but too slow to fuzz
		}
		var g grayPicture
		headerErr := err
		err = Decode(data, &g)
		known(t, err)
		if err == nil && headerErr != nil {
			t.Fatalf("header: got error %v of a picture that can be decoded", headerErr)
		}
		if err == nil && (g.rows != c.Height || len(g.pix) != c.Width*c.Height) {
			t.Fatalf("got %d rows, %d pixels, want %d x %d", g.rows, len(g.pix), c.Width, c.Height)
		}
	})
}

func known(t *testing.T, err error) {
	t.Helper()
	var unsupported UnsupportedError
	var damaged DamagedError
	if err != nil && (!errors.As(err, &unsupported) && !errors.As(err, &damaged) || err.Error() == "") {
		t.Fatalf("got error %v of type %T", err, err)
	}
}

// What image/jpeg accepts and encodes anew is decoded by both, to nearly the same brightness.
func FuzzAgainstStandardLibrary(f *testing.F) {
	for _, data := range seeds(f) {
		f.Add(data, uint8(90))
	}
	f.Fuzz(func(t *testing.T, data []byte, quality uint8) {
		c, err := jpeg.DecodeConfig(bytes.NewReader(data))
		if err != nil || c.Width*c.Height > 1<<18 {
			return
		}
		m, err := jpeg.Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		var file bytes.Buffer
		if err := jpeg.Encode(&file, m, &jpeg.Options{Quality: int(quality%100) + 1}); err != nil {
			t.Fatal(err)
		}
		near(t, file.Bytes(), 3)
	})
}

// near compares with image/jpeg where that leaves chroma out of account: in files of one component, or where Y is far from being
// clipped and chroma gray.
func near(t *testing.T, file []byte, tolerance int) {
	t.Helper()
	m, err := jpeg.Decode(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	var g grayPicture
	if err := Decode(file, &g); err != nil {
		t.Fatalf("got error %v of a file that image/jpeg decodes", err)
	}
	b := m.Bounds()
	if len(g.pix) != b.Dx()*b.Dy() {
		t.Fatalf("got %d pixels, want %v", len(g.pix), b)
	}
	i := 0
	for y := range b.Dy() {
		for x := range b.Dx() {
			got := int(g.pix[i])
			i++
			want := 0
			switch m := m.(type) {
			case *image.Gray:
				want = int(m.GrayAt(x, y).Y)
			case *image.YCbCr:
				p := m.YCbCrAt(x, y)
				want = int(p.Y)
				if r, g, b := color.YCbCrToRGB(p.Y, p.Cb, p.Cr); p.Y < 60 || p.Y > 195 || max(r, g, b)-min(r, g, b) > 20 {
					continue // chroma next to this may clip
				}
			default:
				return
			}
			if max(got-want, want-got) > tolerance {
				t.Fatalf("pixel %d, %d: got %d, want about %d", x, y, got, want)
			}
		}
	}
}
