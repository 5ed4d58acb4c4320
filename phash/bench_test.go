package phash

import (
	"bytes"
	"fmt"
	"image"
	"image/color/palette"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
)

// BenchmarkSum hashes one photograph of 1024 x 768 pixels in each format that Go can write, and the largest golden WebP.
func BenchmarkSum(b *testing.B) {
	photo := func(file string) []byte {
		data, err := os.ReadFile(filepath.Join(goldenDir, file))
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	file := photo("jpeg-420-1024x768.jpg")
	m, err := jpeg.Decode(bytes.NewReader(file))
	if err != nil {
		b.Fatal(err)
	}
	encode := func(f func(*bytes.Buffer) error) []byte {
		var buf bytes.Buffer
		if err := f(&buf); err != nil {
			b.Fatal(err)
		}
		return buf.Bytes()
	}
	indexed := image.NewPaletted(m.Bounds(), palette.Plan9)
	draw.Draw(indexed, m.Bounds(), m, image.Point{}, draw.Src)
	rgb := image.NewRGBA(m.Bounds())
	draw.Draw(rgb, m.Bounds(), m, image.Point{}, draw.Src)

	for _, f := range []struct {
		name string
		data []byte
	}{
		{"jpeg", file},
		{"png", encode(func(w *bytes.Buffer) error { return png.Encode(w, rgb) })},
		{"gif", encode(func(w *bytes.Buffer) error { return gif.Encode(w, indexed, nil) })},
		{"bmp", encode(func(w *bytes.Buffer) error { return bmp.Encode(w, rgb) })},
		{"tiff", encode(func(w *bytes.Buffer) error { return tiff.Encode(w, rgb, nil) })},
		{"webp", photo("webp-lossy.webp")},
	} {
		info, err := Inspect(f.data)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%s-%dx%d", f.name, info.Width, info.Height), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Sum(f.data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLook compares what the hash alone costs with what people see beside it, of a picture of 12 megapixels, and with the
// decoder of the standard library, which was the second one in a job's way.
func BenchmarkLook(b *testing.B) {
	data := photo12(b)
	for name, f := range map[string]func() error{
		"Sum":    func() error { _, err := Sum(data); return err },
		"LookAt": func() error { _, err := LookAt(data, AcrossFirst); return err },
		"image":  func() error { _, err := jpeg.Decode(bytes.NewReader(data)); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
