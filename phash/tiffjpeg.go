package phash

import (
	"bytes"

	"onceover/phash/jpeg"
)

func (t *tiffHeader) jpegPicture(data []byte) (picture, error) {
	pix, err := t.jpegPixels(data)
	if err != nil {
		return picture{}, err
	}
	stride := 3 * t.width
	p := picture{width: t.width, height: t.height}
	switch t.photometric {
	case whiteIsZero:
		p.row = func(y int, gray []uint8) {
			for x := range gray {
				gray[x] = ^pix[y*stride+3*x]
			}
		}
	case blackIsZero:
		p.row = func(y int, gray []uint8) {
			for x := range gray {
				gray[x] = pix[y*stride+3*x]
			}
		}
	default:
		p.ycc = func(y int, ycc []uint8) { copy(ycc, pix[y*stride:]) }
	}
	return orient(p, t.orientation()), nil
}

// jpegPixels decodes a picture whose strips or tiles are JPEG files without their tables (TIFF Technical Note 2) to gray, Cb and Cr,
// 3 bytes a pixel. Chroma is as large as it is stored, and repeated.
func (t *tiffHeader) jpegPixels(data []byte) ([]uint8, error) {
	g, err := t.grid()
	if err != nil {
		return nil, err
	}
	pix := make([]uint8, 3*t.width*t.height)
	for i := range g.across * g.down {
		start, size := int(g.offsets[i]), int(g.counts[i])
		if start+size > len(data) {
			return nil, damaged("strip or tile %d lies beyond the end", i)
		}
		left, top := i%g.across*g.width, i/g.across*g.height
		s := tiffSink{
			pix: pix[3*(top*t.width+left):], stride: 3 * t.width,
			width: min(g.width, t.width-left), height: min(g.height, t.height-top),
		}
		file := t.completeJPEG(data[start : start+size])
		c, err := jpeg.DecodeConfig(file)
		if err != nil {
			return nil, err
		}
		s.decoded = c
		want := g.height
		if !g.tiled && c.Height != g.height { // the last strip may be as high as the others, or only as high as is left
			want = s.height
		}
		if c.Width != g.width || c.Height != want {
			return nil, unsupported("JPEG of %d x %d pixels in a strip or tile of %d x %d", c.Width, c.Height, g.width, g.height)
		}
		if err := jpeg.Decode(file, &s); err != nil {
			return nil, err
		}
		if s.chroma != (t.photometric > blackIsZero) {
			return nil, unsupported("JPEG with other colours than the TIFF has")
		}
	}
	return pix, nil
}

// completeJPEG returns a whole file: with the common tables and, in place of what application markers say, the kind of colours that
// the TIFF says, which is what counts for libtiff.
func (t *tiffHeader) completeJPEG(strip []byte) []byte {
	transform := byte(1)
	if t.photometric == rgbColours {
		transform = 0
	}
	file := []byte{0xff, 0xd8, 0xff, 0xee, 0, 14}
	file = append(file, "Adobe\x00\x64\x00\x00\x00\x00"...)
	file = append(file, transform)
	file = append(file, jpegSegments(t.tables)...)
	return append(file, jpegSegments(strip)...)
}

// jpegSegments returns a JPEG stream from its first segment on, without application segments and without an end that has no picture
// before it.
func jpegSegments(stream []byte) []byte {
	const startOfScan = 0xda
	var out []byte
	r := pieces{rest: bytes.TrimPrefix(stream, []byte("\xff\xd8"))}
	for {
		rest := r.rest
		head, _ := r.next(4)
		if len(head) == 4 && head[0] == 0xff && head[1] != startOfScan {
			if body, ok := r.next(max(int(head[2])<<8+int(head[3])-2, 0)); ok {
				if m := head[1]; m < 0xe0 || m > 0xef {
					out = append(append(out, head...), body...)
				}
				continue
			}
		}
		if string(rest) == "\xff\xd9" {
			return out
		}
		return append(out, rest...)
	}
}

// A tiffSink puts a strip or tile into its place among pixels of 3 bytes.
type tiffSink struct {
	pix           []uint8 // from the first pixel of the place on
	stride        int     // bytes of a row
	width, height int     // of the place
	decoded       jpeg.Config
	y             int // next row
	chroma        bool
}

func (s *tiffSink) Gray(row []uint8) {
	if s.y < s.height {
		for x, v := range row[:s.width] {
			s.pix[s.y*s.stride+3*x] = v
		}
	}
	s.y++
}

func (s *tiffSink) Chroma(plane, width, height, y int, row []uint8) {
	s.chroma = true
	top, bottom := y*s.decoded.Height/height, (y+1)*s.decoded.Height/height
	for y := top; y < min(bottom, s.height); y++ {
		for x := range s.width {
			s.pix[y*s.stride+3*x+1+plane] = row[x*width/s.decoded.Width]
		}
	}
}
