package phash

import (
	"slices"

	"onceover/phash/jpeg"
)

// Limits of Sum, whatever its caller allows: beyond them memory and time are no longer in proportion to any real picture.
const (
	maxPixels = 1 << 28 // pixels of the picture; decoding takes 1 to 4 bytes for each as a rule, 16 at worst
	maxSide   = 1 << 20 // pixels of width or height; the resampling filters need 24 bytes for each
)

// Info is what a picture's header says.
type Info struct {
	Format string // "jpeg", "png", "gif", "webp", "bmp" or "tiff"
	// Size in pixels, each at least 1; the product fits in an int64. For a TIFF with an orientation tag it is the size after
	// turning, for a GIF that of the whole screen, as Pillow has it.
	Width, Height int
}

// Inspect tells the format, judged by the content, and the size of a picture. It reads the header only: its cost does not depend
// on the size that the header claims, and success does not mean that the rest is intact. The error is a [*FormatError].
func Inspect(data []byte) (Info, error) {
	format, other := sniff(data)
	info := Info{Format: format}
	var err error
	switch format {
	case formatJPEG:
		info.Width, info.Height, err = sizeJPEG(data)
	case formatPNG:
		info.Width, info.Height, err = sizePNG(data)
	case formatGIF:
		info.Width, info.Height, err = sizeGIF(data)
	case formatWebP:
		info.Width, info.Height, err = sizeWebP(data)
	case formatBMP:
		info.Width, info.Height, err = sizeBMP(data)
	case formatTIFF:
		info.Width, info.Height, err = sizeTIFF(data)
	default:
		if other != "" {
			return Info{}, &FormatError{Fault: Unsupported, Found: other}
		}
		return Info{}, &FormatError{Fault: Unrecognized}
	}
	if err == nil && (info.Width <= 0 || info.Height <= 0) {
		err = damaged("size of %d x %d pixels", info.Width, info.Height)
	}
	if err != nil {
		return Info{}, formatError(format, err)
	}
	return info, nil
}

// A Fingerprint is what is known of a picture by its pixels.
type Fingerprint struct {
	Hash   Hash
	Colour Colour
}

// Sum returns the hash of an encoded picture: its first frame, alpha, EXIF and colour profile ignored, as Python with Pillow up
// to 12.1 computes it. Hashes of flat or symmetric pictures are returned too; see [Hash.Degenerate].
//
// Memory and time are proportional to the pixel count, which a few bytes can claim to be huge: check [Inspect] first. Sum itself
// refuses, as unsupported, only what is beyond 2^28 pixels or 2^20 pixels on a side. The error is a [*FormatError].
func Sum(data []byte) (Hash, error) {
	p, format, err := open(data)
	if err != nil {
		return Hash{}, err
	}
	small, err := thumbnail(p, false, nil)
	if err != nil {
		return Hash{}, formatError(format, err)
	}
	return hash(small), nil
}

// Of returns the hash as [Sum] does, but as the given releases of Pillow compute it, and the colours.
func Of(data []byte, order Order) (Fingerprint, error) {
	l, err := LookAt(data, order)
	if err != nil {
		return Fingerprint{}, err
	}
	return l.Fingerprint, nil
}

// open begins to decode a picture of a bearable size. The error is a [*FormatError].
func open(data []byte) (p picture, format string, err error) {
	info, err := Inspect(data)
	if err != nil {
		return picture{}, "", err
	}
	if info.Width > maxSide || info.Height > maxSide || info.Width*info.Height > maxPixels {
		return picture{}, "", formatError(info.Format, unsupported("%d x %d pixels is more than can be hashed", info.Width, info.Height))
	}
	p, err = decode(info.Format, data)
	if err == nil && (p.width != info.Width || p.height != info.Height) {
		err = damaged("header says %d x %d pixels, content has %d x %d", info.Width, info.Height, p.width, p.height)
	}
	if err != nil {
		return picture{}, "", formatError(info.Format, err)
	}
	return p, info.Format, nil
}

func decode(format string, data []byte) (picture, error) {
	switch format {
	case formatJPEG:
		return decodeJPEG(data)
	case formatPNG:
		return decodePNG(data)
	case formatGIF:
		return decodeGIF(data)
	case formatWebP:
		return decodeWebP(data)
	case formatBMP:
		return decodeBMP(data)
	}
	return decodeTIFF(data)
}

// lowest is the number of frequencies, down as across, that the hash has a bit for each of.
const lowest = 16

// A spectrum holds the lowest frequencies of a picture, row by row: down, then across.
type spectrum [lowest * lowest]float64

// spectrumOf is the part of imagehash.phash from the resized gray picture on: DCT down the columns, then along the rows.
func spectrumOf(gray *[side][side]uint8) (low spectrum) {
	var freq [lowest][side]float64 // vertical frequency, column
	for x := range side {
		var c [side]float64
		for y := range c {
			c[y] = float64(gray[y][x])
		}
		dct(&c)
		for v := range freq {
			freq[v][x] = c[v]
		}
	}
	for v := range freq {
		dct(&freq[v])
		copy(low[v*lowest:], freq[v][:lowest])
	}
	return low
}

// hash is one bit for each frequency, set if it is above the median of all.
func (s *spectrum) hash() (h Hash) {
	sorted := *s
	slices.Sort(sorted[:])
	median := (sorted[len(sorted)/2-1] + sorted[len(sorted)/2]) / 2
	for i, f := range s {
		if f > median {
			h[i/64] |= 1 << (63 - i%64)
		}
	}
	return h
}

// turned returns the spectrum of the picture turned and mirrored, by the numbers of [Turned]: an odd frequency changes its sign with
// the direction that it lies in, and rows and columns change places.
func (s *spectrum) turned(turn int) (out spectrum) {
	for v := range lowest {
		for u := range lowest {
			down, across := v, u // of the picture as it is
			if turn&4 != 0 {
				down, across = u, v
			}
			f := s[down*lowest+across]
			if turn&1 != 0 && across%2 == 1 {
				f = -f
			}
			if turn&2 != 0 && down%2 == 1 {
				f = -f
			}
			out[v*lowest+u] = f
		}
	}
	return out
}

// Turned are hashes of a picture turned and mirrored: 0 as it is, 1 mirrored, 2 upside down and mirrored, 3 turned by 180 degrees, and
// 4 to 7 the same with rows and columns exchanged after that. They are within a few bits of those of files that are stored so.
type Turned [Turns]Hash

// Turns is how many ways there are to turn and mirror a picture.
const Turns = 8

// Then returns the turn that is a turn and then another one, by the numbers of [Turned].
func Then(first, second int) int {
	mirrors := second & 3
	if first&4 != 0 { // rows and columns have changed places
		mirrors = mirrors>>1 | mirrors&1<<1
	}
	return (first^second)&4 | first&3 ^ mirrors
}

// OfGray returns the hash of a gray picture of w x h samples.
func OfGray(pix []uint8, stride, w, h int) Hash {
	small, _ := thumbnail(picture{width: w, height: h, row: func(y int, gray []uint8) { copy(gray, pix[y*stride:]) }}, false, nil)
	return hash(small) // there is nothing that can be wrong with it
}

func hash(gray *[side][side]uint8) Hash {
	s := spectrumOf(gray)
	return s.hash()
}

// A picture is decoded, or about to be, and converted row by row.
type picture struct {
	width, height int

	// One of these is set. The first three write row y, 0 <= y < height.
	row func(y int, gray []uint8) // of a gray picture; len(gray) is width
	rgb func(y int, rgb []uint8)  // of one with colours: R, G, B as stored, 3 bytes a pixel
	ycc func(y int, ycc []uint8)  // of one whose gray cannot be had from R, G, B: gray, Cb, Cr, 3 bytes a pixel
	// stream decodes the picture into a sink.
	stream func(jpeg.Sink) error

	// What the hash does not see.
	alpha func(y int, alpha []uint8) // of a picture with row or rgb that is not opaque, else nil
	seen  func(y int, gray []uint8)  // of a gray picture that people see otherwise than Pillow hashes it, else nil
}
