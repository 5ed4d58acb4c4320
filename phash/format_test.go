package phash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"onceover/phash/jpeg"
)

func TestFormatError(t *testing.T) {
	t.Parallel()
	read := func(file string) []byte {
		data, err := os.ReadFile(filepath.Join(goldenDir, file))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, c := range []struct {
		name  string
		data  []byte
		fault Fault
		found string
	}{
		{"nothing", nil, Unrecognized, ""},
		{"text", []byte("no such picture"), Unrecognized, ""},
		{"zeros", make([]byte, 100), Unrecognized, ""},
		{"HEIC", []byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"), Unsupported, "HEIC"},
		{"HEIC by second brand", []byte("\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic"), Unsupported, "HEIC"},
		{"AVIF", []byte("\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf"), Unsupported, "AVIF"},
		{"AVIF by second brand", []byte("\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1avif"), Unsupported, "AVIF"},
		{"HEIF", []byte("\x00\x00\x00\x14ftypmif1\x00\x00\x00\x00mif1"), Unsupported, "HEIF"},
		{"MP4", []byte("\x00\x00\x00\x14ftypisom\x00\x00\x02\x00isom"), Unsupported, "a video or another ISO media file"},
		{"JPEG XL", []byte("\xff\x0a\x00\x00"), Unsupported, "JPEG XL"},
		{"JPEG XL box", []byte("\x00\x00\x00\x0cJXL \r\n\x87\n"), Unsupported, "JPEG XL"},
		{"SVG", []byte(`<svg xmlns="http://www.w3.org/2000/svg"/>`), Unsupported, "SVG"},
		{"SVG after XML", []byte("\xef\xbb\xbf <?xml version=\"1.0\"?>\n<!-- x --><svg/>"), Unsupported, "SVG"},
		{"HTML", []byte("\n<!DOCTYPE html><title>Sign in"), Unsupported, "an HTML page"},
		{"PDF", []byte("%PDF-1.7"), Unsupported, "PDF"},
		{"JPEG start", []byte("\xff\xd8\xff\xe0"), Damaged, "JPEG"},
		{"PNG signature", []byte("\x89PNG\r\n\x1a\n"), Damaged, "PNG"},
		{"GIF header", []byte("GIF89a"), Damaged, "GIF"},
		{"TIFF header", []byte("II\x2a\x00"), Damaged, "TIFF"},
		{"TIFF directory beyond the end", []byte("MM\x00\x2a\xff\xff\xff\xff"), Damaged, "TIFF"},
		{"BMP start", []byte("BM"), Damaged, "BMP"},
		{"WebP header", []byte("RIFF\x04\x00\x00\x00WEBP"), Damaged, "WebP"},
		{"arithmetic JPEG", bytes.Replace(read("jpeg-gray.jpg"), []byte("\xff\xc0"), []byte("\xff\xc9"), 1), Unsupported, "this kind of JPEG"},
		{"BMP compression", bmpHeader(8, 8, 24, 4), Unsupported, "this kind of BMP"},
		{"BMP depth", bmpHeader(8, 8, 2, 0), Unsupported, "this kind of BMP"},
		{"BMP run lengths", bmpHeader(8, 8, 24, 1), Unsupported, "this kind of BMP"},
		{"empty BMP", bmpHeader(0, 0, 24, 0), Damaged, "BMP"},
	} {
		for name, f := range map[string]func([]byte) error{
			"Inspect": func(b []byte) error { _, err := Inspect(b); return err },
			"Sum":     func(b []byte) error { _, err := Sum(b); return err },
		} {
			err := f(c.data)
			var got *FormatError
			if !errors.As(err, &got) {
				t.Errorf("%s, %s: got %v, want a *FormatError", name, c.name, err)
				continue
			}
			if got.Fault != c.fault || got.Found != c.found {
				t.Errorf("%s, %s: got fault %d, %q, want %d, %q (%v)", name, c.name, got.Fault, got.Found, c.fault, c.found, err)
			}
			if !strings.Contains(err.Error(), c.found) || strings.Contains(err.Error(), accepted) == (c.fault == Damaged) {
				t.Errorf("%s, %s: got message %q, want what was found and, unless damaged, what is accepted", name, c.name, err)
			}
		}
	}
}

func TestFormatErrorUnwraps(t *testing.T) {
	t.Parallel()
	var detail jpeg.UnsupportedError
	if _, err := Sum([]byte("\xff\xd8\xff\xc9\x00\x0b\x08\x00\x08\x00\x08\x01\x01\x11\x00\xff\xd9")); !errors.As(err, &detail) {
		t.Errorf("got %v, want an error that wraps that of the JPEG decoder", err)
	}
}

// bmpHeader returns a BMP without pixels.
func bmpHeader(width, height int32, bitsPerPixel uint16, compression uint32) []byte {
	b := []byte("BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00")
	b = binary.LittleEndian.AppendUint32(b, uint32(width))
	b = binary.LittleEndian.AppendUint32(b, uint32(height))
	b = binary.LittleEndian.AppendUint16(b, 1)
	b = binary.LittleEndian.AppendUint16(b, bitsPerPixel)
	b = binary.LittleEndian.AppendUint32(b, compression)
	return append(b, make([]byte, 20)...)
}

// tiffFile returns a little-endian TIFF of short and long entries, without pixels.
func tiffFile(entries ...[2]uint32) []byte {
	b := []byte("II\x2a\x00\x08\x00\x00\x00")
	b = binary.LittleEndian.AppendUint16(b, uint16(len(entries)))
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = append(b, 4, 0, 1, 0, 0, 0) // one LONG
		b = binary.LittleEndian.AppendUint32(b, e[1])
	}
	return append(b, 0, 0, 0, 0)
}

// What does not come out as in Pillow has to be refused.
func TestTIFFRefuses(t *testing.T) {
	t.Parallel()
	plain := map[uint32]uint32{tagWidth: 8, tagHeight: 8, tagBitsPerSample: 8, tagPhotometric: blackIsZero, tagCompression: 1}
	for _, c := range []struct {
		name string
		tags map[uint32]uint32
	}{
		{"YCbCr", map[uint32]uint32{tagPhotometric: ycbcr, tagSamplesPerPixel: 3}},
		{"LAB", map[uint32]uint32{tagPhotometric: lab, tagSamplesPerPixel: 3}},
		{"6 bits", map[uint32]uint32{tagBitsPerSample: 6}},
		{"RGB of 4 bits", map[uint32]uint32{tagPhotometric: rgbColours, tagSamplesPerPixel: 3, tagBitsPerSample: 4}},
		{"gray and alpha, not declared", map[uint32]uint32{tagSamplesPerPixel: 2}},
		{"gray multiplied by alpha", map[uint32]uint32{tagSamplesPerPixel: 2, tagExtraSamples: 1}},
		{"palette of 16 bits", map[uint32]uint32{tagPhotometric: paletted, tagBitsPerSample: 16}},
		{"floating-point predictor of integers", map[uint32]uint32{tagPredictor: 3, tagCompression: deflate}},
		{"predictor of 4 bits", map[uint32]uint32{tagPredictor: 2, tagCompression: deflate, tagBitsPerSample: 4}},
		{"two-dimensional Group 3", map[uint32]uint32{tagBitsPerSample: 1, tagCompression: groupThree, tagT4Options: 1}},
		{"fax of 8 bits", map[uint32]uint32{tagCompression: groupFour}},
		{"16 bits in planes", map[uint32]uint32{
			tagPhotometric: rgbColours, tagSamplesPerPixel: 3, tagBitsPerSample: 16, tagPlanarConfig: 2,
		}},
		{"JPEG of before Technical Note 2", map[uint32]uint32{tagCompression: oldJPEG}},
		{"CMYK as JPEG", map[uint32]uint32{tagPhotometric: cmykInks, tagSamplesPerPixel: 4, tagCompression: newJPEG}},
		{"WebP", map[uint32]uint32{tagCompression: 50001}},
	} {
		tags := make(map[uint32]uint32)
		for _, m := range []map[uint32]uint32{plain, c.tags} {
			for tag, v := range m {
				tags[tag] = v
			}
		}
		var entries [][2]uint32
		for tag, v := range tags {
			entries = append(entries, [2]uint32{tag, v})
		}
		slices.SortFunc(entries, func(a, b [2]uint32) int { return int(a[0]) - int(b[0]) })
		_, err := Sum(tiffFile(entries...))
		var format *FormatError
		if !errors.As(err, &format) || format.Fault != Unsupported {
			t.Errorf("%s: got %v, want unsupported", c.name, err)
		}
	}
}

// Compressed strips that are all the same bytes of a file must not be read again for each of a million strips.
func TestTIFFOverlap(t *testing.T) {
	t.Parallel()
	_, err := Inspect(tiffFile([2]uint32{tagWidth, 8}, [2]uint32{tagHeight, 8}, [2]uint32{tagBitsPerSample, 8},
		[2]uint32{tagCompression, lzwCompression}, [2]uint32{tagPhotometric, 1}, [2]uint32{tagStripByteCounts, 1000}))
	var format *FormatError
	if !errors.As(err, &format) || format.Fault != Damaged {
		t.Errorf("got %v, want damaged", err)
	}
}

// Nor must tiles of one column of pixels that are as large as the file be read again for each.
func TestTIFFWideTiles(t *testing.T) {
	t.Parallel()
	const pieces, side = 500, 20_000
	entries := [][2]uint32{
		{tagWidth, 1}, {tagHeight, 2 * pieces}, {tagBitsPerSample, 8}, {tagCompression, noCompression}, {tagPhotometric, blackIsZero},
		{tagTileWidth, side}, {tagTileLength, 2}, {tagTileOffsets, 0},
	}
	data := tiffFile(entries...)
	last := 10 + 12*(len(entries)-1)
	binary.LittleEndian.PutUint32(data[last+4:], pieces)
	binary.LittleEndian.PutUint32(data[last+8:], uint32(len(data)))
	data = append(data, make([]byte, 4*pieces+side+1)...)
	_, err := Sum(data)
	var format *FormatError
	if !errors.As(err, &format) || format.Fault != Damaged {
		t.Errorf("got %v, want damaged", err)
	}
}

// A header of a few bytes can claim a huge picture. Inspect has to reveal it, and nobody may allocate for it.
func TestAbsurdSizes(t *testing.T) {
	png := func(w, h uint32) []byte {
		b := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
		b = binary.BigEndian.AppendUint32(b, w)
		b = binary.BigEndian.AppendUint32(b, h)
		return append(b, 16, 6, 0, 0, 0, 0, 0, 0, 0)
	}
	gif := func(w, h uint16) []byte {
		b := []byte("GIF89a\x01\x00\x01\x00\x00\x00\x00\x2c\x00\x00\x00\x00")
		b = binary.LittleEndian.AppendUint16(b, w)
		b = binary.LittleEndian.AppendUint16(b, h)
		return append(b, 0, 8, 1, 0, 0)
	}
	jpeg := func(w, h uint16) []byte {
		b := []byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xc0\x00\x11\x08")
		b = binary.BigEndian.AppendUint16(b, h)
		b = binary.BigEndian.AppendUint16(b, w)
		return append(b, "\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00"...)
	}
	tiff := func(w, h uint32) []byte {
		return tiffFile([2]uint32{tagWidth, w}, [2]uint32{tagHeight, h}, [2]uint32{tagBitsPerSample, 8},
			[2]uint32{tagCompression, 1}, [2]uint32{tagPhotometric, 1}, [2]uint32{273, 8}, [2]uint32{tagStripByteCounts, 100})
	}
	vp8l := func(w, h uint32) []byte {
		b := []byte("RIFF\x16\x00\x00\x00WEBPVP8L\x0a\x00\x00\x00\x2f")
		b = binary.LittleEndian.AppendUint32(b, w-1|(h-1)<<14)
		return append(b, 0, 0, 0, 0, 0)
	}
	for _, c := range []struct {
		name          string
		data          []byte
		width, height int
	}{
		{"png", png(1<<31-1, 1<<31-1), 1<<31 - 1, 1<<31 - 1},
		{"png, many but allowed", png(16000, 16000), 16000, 16000},
		{"png, one column", png(1, 1<<27), 1, 1 << 27},
		{"gif", gif(65535, 65535), 65535, 65535},
		{"gif, many but allowed", gif(16000, 16000), 16000, 16000},
		{"jpeg", jpeg(65535, 65535), 65535, 65535},
		{"jpeg, many but allowed", jpeg(16000, 16000), 16000, 16000},
		{"bmp", bmpHeader(1<<30, 1<<30, 24, 0), 1 << 30, 1 << 30},
		{"bmp, many but allowed", bmpHeader(16000, 16000, 32, 0), 16000, 16000},
		{"tiff", tiff(math.MaxInt32, math.MaxInt32), math.MaxInt32, math.MaxInt32},
		{"tiff, many but allowed", tiff(16000, 16000), 16000, 16000},
		{"webp", vp8l(16384, 16384), 16384, 16384},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		info, err := Inspect(c.data)
		if err == nil {
			_, err = Sum(c.data)
		}
		runtime.ReadMemStats(&after)
		if info.Width != c.width || info.Height != c.height {
			t.Errorf("%s: got %d x %d (%v), want %d x %d", c.name, info.Width, info.Height, err, c.width, c.height)
		}
		var format *FormatError
		if !errors.As(err, &format) {
			t.Errorf("%s: got %v, want a *FormatError", c.name, err)
		}
		const limit = 1 << 20
		if n := after.TotalAlloc - before.TotalAlloc; n > limit {
			t.Errorf("%s: got %d bytes allocated, want at most %d", c.name, n, limit)
		}
	}
}

// Orientation is as in TIFF 6.0, page 36: where row 0 and column 0 of what is stored are in what is seen.
func TestOrient(t *testing.T) {
	t.Parallel()
	for orientation, want := range []string{
		1: "abc def", 2: "cba fed", 3: "fed cba", 4: "def abc", 5: "ad be cf", 6: "da eb fc", 7: "fc eb da", 8: "cf be ad", 9: "abc def",
	} {
		if want == "" {
			continue
		}
		p := orient(picture{width: 3, height: 2, row: func(y int, gray []uint8) { copy(gray, "abcdef"[3*y:]) }}, orientation)
		var rows [][]byte
		for y := range p.height {
			row := make([]byte, p.width)
			p.row(y, row)
			rows = append(rows, row)
		}
		if got := string(bytes.Join(rows, []byte(" "))); got != want {
			t.Errorf("orientation %d: got %q, want %q", orientation, got, want)
		}
	}
}

// Tiles whose size overflows, or is out of proportion to the picture, a tag that is there again and again with as many values as
// the file can hold, and a frame that Pillow resamples in another way.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	tiles := tiffFile([2]uint32{tagWidth, 8}, [2]uint32{tagHeight, 8}, [2]uint32{tagBitsPerSample, 8}, [2]uint32{tagCompression, 1},
		[2]uint32{tagPhotometric, 1}, [2]uint32{tagTileWidth, 1 << 31}, [2]uint32{tagTileLength, 1 << 31},
		[2]uint32{tagTileOffsets, 8}, [2]uint32{tagTileByteCounts, 100})
	large := tiffFile([2]uint32{tagWidth, 8}, [2]uint32{tagHeight, 8}, [2]uint32{tagBitsPerSample, 8}, [2]uint32{tagCompression, 5},
		[2]uint32{tagPhotometric, 1}, [2]uint32{tagTileWidth, 1 << 18}, [2]uint32{tagTileLength, 1 << 17},
		[2]uint32{tagTileOffsets, 8}, [2]uint32{tagTileByteCounts, 100})
	large = append(large, make([]byte, 1<<22)...) // so that it could be
	again := tiffFile(slices.Repeat([][2]uint32{{tagStripOffsets, 8}}, 65535)...)
	for e := range 65535 {
		binary.LittleEndian.PutUint32(again[10+12*e+4:], uint32(len(again)/8))
	}
	gray := []byte("GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\x00\x00\x00\xff\x00\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x80" +
		"\x00\x00\x00\x01\x01\x01\x02\x02\x44\x01\x00\x3b")
	for name, data := range map[string][]byte{"tiles": tiles, "large tiles": large, "one tag": again, "gray frame": gray} {
		var format *FormatError
		if h, err := Sum(data); !errors.As(err, &format) {
			t.Errorf("%s: got %v, %v, want a *FormatError", name, h, err)
		}
	}
}
