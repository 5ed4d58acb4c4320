package vision

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/image/bmp"
	"golang.org/x/image/draw"
	"golang.org/x/image/tiff"

	"onceover/phash"
)

// tile is the side of the squares that letters stand for.
const tile = 16

func letterColour(letter rune) color.RGBA {
	return map[rune]color.RGBA{
		'A': {255, 0, 0, 255}, 'B': {0, 255, 0, 255}, 'C': {0, 0, 255, 255},
		'D': {255, 255, 0, 255}, 'E': {0, 255, 255, 255}, 'F': {255, 0, 255, 255}, '.': {255, 255, 255, 255},
	}[letter]
}

// tiles paints rows of letters as squares, so that a picture's way up can be read off it.
func tiles(rows ...string) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, tile*len(rows[0]), tile*len(rows)))
	for y, row := range rows {
		for x, letter := range row {
			r := image.Rect(x*tile, y*tile, (x+1)*tile, (y+1)*tile)
			draw.Draw(img, r, image.NewUniform(letterColour(letter)), image.Point{}, draw.Src)
		}
	}
	return img
}

// readTiles is the inverse of tiles, for pictures that have been through a lossy format.
func readTiles(img image.Image) string {
	var rows []string
	for y := tile / 2; y < img.Bounds().Dy(); y += tile {
		var row strings.Builder
		for x := tile / 2; x < img.Bounds().Dx(); x += tile {
			best, distance := '?', math.MaxInt
			r, g, b, _ := img.At(x, y).RGBA()
			for _, letter := range "ABCDEF." {
				c := letterColour(letter)
				abs := func(a uint32, b uint8) int { return max(int(a>>8)-int(b), int(b)-int(a>>8)) }
				if d := abs(r, c.R) + abs(g, c.G) + abs(b, c.B); d < distance {
					best, distance = letter, d
				}
			}
			row.WriteRune(best)
		}
		rows = append(rows, row.String())
	}
	return strings.Join(rows, "/")
}

func encodeJPEG(t testing.TB, img image.Image) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, img, &jpeg.Options{Quality: 90}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// withOrientation puts an orientation into a JPEG file, and more that stands in its metadata.
func withOrientation(file []byte, o int, more string) []byte {
	exif := "Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00" + string(rune(o)) + "\x00\x00\x00\x00\x00\x00" + more
	segment := "\xff\xe1\x00" + string([]byte{byte(2 + len(exif))}) + exif
	return append(append(bytes.Clone(file[:2]), segment...), file[2:]...)
}

// redWebP is a lossless WebP file of one red tile; there is no encoder in Go's libraries.
func redWebP() []byte {
	return []byte("RIFF\x1c\x00\x00\x00WEBPVP8L\x0f\x00\x00\x00\x2f\x0f\xc0\x03\x00\x07\x10\xfd\x8f\xfe\x07\x22\xa2\xff\x01\x00")
}

// The meaning of the eight values, as drawn in EXIF 2.32 section 4.6.4.
func TestNewPreviewTurnsUpright(t *testing.T) {
	t.Parallel()
	file := encodeJPEG(t, tiles("ABC", "DEF"))
	want := []string{
		1: "ABC/DEF",
		2: "CBA/FED",
		3: "FED/CBA",
		4: "DEF/ABC",
		5: "AD/BE/CF",
		6: "DA/EB/FC",
		7: "FC/EB/DA",
		8: "CF/BE/AD",
	}
	for o := 1; o <= 8; o++ {
		p, err := NewPreview(withOrientation(file, o, ""))
		if err != nil {
			t.Fatalf("orientation %d: %v", o, err)
		}
		if got := readTiles(p.Image); got != want[o] {
			t.Errorf("orientation %d: got image %s, want %s", o, got, want[o])
		}
		sent, err := jpeg.Decode(bytes.NewReader(p.JPEG))
		if err != nil {
			t.Fatalf("orientation %d: %v", o, err)
		}
		if got := readTiles(sent); got != want[o] {
			t.Errorf("orientation %d: got JPEG %s, want %s", o, got, want[o])
		}
	}
}

func TestNewPreviewFormats(t *testing.T) {
	t.Parallel()
	opaque := tiles("ABC", "DEF")
	// D is fully transparent, so it becomes white.
	seeThrough := image.NewNRGBA(opaque.Rect)
	draw.Draw(seeThrough, opaque.Rect, opaque, image.Point{}, draw.Src)
	draw.Draw(seeThrough, image.Rect(0, tile, tile, 2*tile), image.Transparent, image.Point{}, draw.Src)

	palette := color.Palette{color.Transparent}
	for _, letter := range "ABCDEF" {
		palette = append(palette, letterColour(letter))
	}
	paletted := image.NewPaletted(opaque.Rect, palette)
	draw.Draw(paletted, opaque.Rect, seeThrough, image.Point{}, draw.Src)
	sixteenBit := image.NewNRGBA64(opaque.Rect)
	draw.Draw(sixteenBit, opaque.Rect, seeThrough, image.Point{}, draw.Src)

	// A GIF whose first frame covers only the last column of the canvas, and whose second frame would cover all.
	frame := image.NewPaletted(image.Rect(2*tile, 0, 3*tile, 2*tile), palette)
	draw.Draw(frame, frame.Rect, opaque, frame.Rect.Min, draw.Src)
	partial := &gif.GIF{
		Image:  []*image.Paletted{frame, paletted},
		Delay:  []int{1, 1},
		Config: image.Config{Width: 3 * tile, Height: 2 * tile},
	}

	encode := func(f func(*bytes.Buffer) error) []byte {
		var buf bytes.Buffer
		if err := f(&buf); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	tests := []struct {
		name string
		file []byte
		want string
	}{
		{"jpeg", encodeJPEG(t, opaque), "ABC/DEF"},
		{"png", encode(func(b *bytes.Buffer) error { return png.Encode(b, opaque) }), "ABC/DEF"},
		{"png, transparent", encode(func(b *bytes.Buffer) error { return png.Encode(b, seeThrough) }), "ABC/.EF"},
		{"png, transparent palette", encode(func(b *bytes.Buffer) error { return png.Encode(b, paletted) }), "ABC/.EF"},
		{"png, 16 bit", encode(func(b *bytes.Buffer) error { return png.Encode(b, sixteenBit) }), "ABC/.EF"},
		{"gif", encode(func(b *bytes.Buffer) error { return gif.Encode(b, opaque, nil) }), "ABC/DEF"},
		{"gif, partial first frame", encode(func(b *bytes.Buffer) error { return gif.EncodeAll(b, partial) }), "..C/..F"},
		{"bmp", encode(func(b *bytes.Buffer) error { return bmp.Encode(b, opaque) }), "ABC/DEF"},
		{"tiff", encode(func(b *bytes.Buffer) error { return tiff.Encode(b, opaque, nil) }), "ABC/DEF"},
		{"webp", redWebP(), "A"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := NewPreview(tt.file)
			if err != nil {
				t.Fatal(err)
			}
			if got := readTiles(p.Image); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if !p.Image.Opaque() {
				t.Error("the preview is not opaque")
			}
		})
	}
}

func TestNewPreviewErrors(t *testing.T) {
	t.Parallel()
	whole := encodeJPEG(t, tiles("ABC", "DEF"))
	for name, tt := range map[string]struct {
		file []byte
		want phash.Fault
	}{
		"not a picture": {[]byte("<html>not found</html>"), phash.Unsupported},
		"empty":         {nil, phash.Unrecognized},
		"cut off":       {whole[:len(whole)/2], phash.Damaged},
	} {
		var format *phash.FormatError
		if _, err := NewPreview(tt.file); !errors.As(err, &format) || format.Fault != tt.want {
			t.Errorf("%s: got %v, want fault %d", name, err, tt.want)
		}
	}
}

func TestNewPreviewSize(t *testing.T) {
	t.Parallel()
	tests := []struct{ w, h, wantW, wantH int }{
		{1, 1, 1, 1},
		{1024, 1024, 1024, 1024},
		{1025, 10, 1024, 10},
		{2000, 1500, 1024, 768},
		{1500, 2000, 768, 1024},
		{5000, 1, 1024, 1},
		{1, 5000, 1, 1024},
		{1367, 911, 1024, 682},
	}
	for _, tt := range tests {
		p, err := NewPreview(encodeJPEG(t, image.NewGray(image.Rect(0, 0, tt.w, tt.h))))
		if err != nil {
			t.Fatalf("%dx%d: %v", tt.w, tt.h, err)
		}
		sent, err := jpeg.DecodeConfig(bytes.NewReader(p.JPEG))
		if err != nil {
			t.Fatalf("%dx%d: %v", tt.w, tt.h, err)
		}
		if got, want := p.Image.Rect, image.Rect(0, 0, tt.wantW, tt.wantH); got != want {
			t.Errorf("%dx%d: got image %v, want %v", tt.w, tt.h, got, want)
		}
		if sent.Width != tt.wantW || sent.Height != tt.wantH {
			t.Errorf("%dx%d: got JPEG %dx%d, want %dx%d", tt.w, tt.h, sent.Width, sent.Height, tt.wantW, tt.wantH)
		}
	}
}

func FuzzNewPreview(f *testing.F) {
	f.Add(encodeJPEG(f, tiles("AB", "CD")))
	f.Add(withOrientation(encodeJPEG(f, tiles("AB")), 6, ""))
	f.Add(redWebP())
	f.Fuzz(func(t *testing.T, file []byte) {
		if info, err := phash.Inspect(file); err == nil && info.Width*info.Height > 1<<20 {
			t.Skip("the caller refuses it")
		}
		p, err := NewPreview(file)
		if err != nil {
			return
		}
		if s := p.Image.Rect.Size(); min(s.X, s.Y) < 1 || max(s.X, s.Y) > MaxPreviewSide || !p.Image.Opaque() {
			t.Errorf("got %v, opaque %v, want an opaque preview of 1 to %d pixels", s, p.Image.Opaque(), MaxPreviewSide)
		}
	})
}

// photo12MP is a JPEG file of 12 megapixels with as much detail as a phone's.
func photo12MP(tb testing.TB) []byte {
	img := image.NewRGBA(image.Rect(0, 0, 4000, 3000))
	r := rand.New(rand.NewPCG(1, 2))
	for y := range 3000 {
		for x := range 4000 {
			noise := r.IntN(16)
			p := img.Pix[img.PixOffset(x, y):][:4]
			p[0], p[1], p[2], p[3] = uint8(x*239/4000+noise), uint8(y*239/3000+noise), uint8((x/50+y/50)%2*100+noise), 255
		}
	}
	return encodeJPEG(tb, img)
}

func BenchmarkNewPreview(b *testing.B) {
	file := photo12MP(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewPreview(file); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPreviewOfAllThatIsHashed takes all files that have a hash.
func TestPreviewOfAllThatIsHashed(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../phash/testdata/*/*.*")
	if err != nil || len(files) < 200 {
		t.Fatalf("got %d files, %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		info, err := phash.Inspect(data)
		if err != nil {
			continue // no picture
		}
		p, err := NewPreview(data)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if got, want := p.Image.Bounds().Dx() > p.Image.Bounds().Dy(), info.Width > info.Height; info.Format == "tiff" && got != want {
			t.Errorf("%s: got %v, want it turned as its tag says, %d x %d", file, p.Image.Bounds(), info.Width, info.Height)
		}
	}
}
