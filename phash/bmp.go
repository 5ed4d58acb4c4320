package phash

import (
	"encoding/binary"
	"math/bits"
)

// Compressions of BMP.
const (
	bmpRaw       = 0
	bmpRLE8      = 1
	bmpRLE4      = 2
	bmpBitFields = 3
)

// A bmpFile is what stands before the pixels of a BMP, with Pillow's reading of it where files contradict themselves.
type bmpFile struct {
	width, height int
	topDown       bool
	depth         int // bits per pixel
	stride        int // bytes per row
	compression   int
	masks         [4]uint32 // R, G, B, alpha; for bmpBitFields
	colours       int       // entries of the palette; for a depth of 8 and less
	table         []byte    // the palette
	entry         int       // bytes of one of its entries
	pixels        int       // offset
}

// readBMP reads the headers that Pillow knows: 12 bytes (OS/2 1), 64 (OS/2 2), 40, 52, 56, 108 and 124 (Windows).
func readBMP(data []byte) (bmpFile, error) {
	const fileHeader = 14
	var h bmpFile
	short := damaged("no complete header")
	if len(data) < fileHeader+4 {
		return h, short
	}
	size := le32(data[fileHeader:])
	r := pieces{rest: data[fileHeader:]}
	header, ok := r.next(size)
	switch {
	case size != 12 && size != 40 && size != 52 && size != 56 && size != 64 && size != 108 && size != 124:
		return h, unsupported("header of %d bytes", size)
	case !ok:
		return h, short
	case size == 12:
		h.width, h.height, h.depth, h.entry = le16(header[4:]), le16(header[6:]), le16(header[10:]), 3
	default:
		h.width, h.height, h.depth, h.entry = le32(header[4:]), le32(header[8:]), le16(header[14:]), 4
		if h.topDown = header[11] == 0xff; h.topDown {
			h.height = int(-int32(le32(header[8:])))
		}
		h.compression, h.colours = le32(header[16:]), le32(header[32:])
	}
	if h.width > 1<<31-1 || h.height > 1<<31-1 {
		return h, damaged("side of more than 2^31-1 pixels")
	}
	h.stride = (h.width*h.depth + 31) / 32 * 4

	if h.compression == bmpBitFields {
		masks := header[min(40, size):]
		if size == 40 {
			if masks, ok = r.next(12); !ok {
				return h, short
			}
		}
		for i := range min(len(masks)/4, len(h.masks)) {
			h.masks[i] = binary.LittleEndian.Uint32(masks[4*i:])
		}
	}

	if h.colours == 0 {
		h.colours = 1 << min(h.depth, 31)
	}
	h.pixels = le32(data[10:])
	if h.depth <= 8 {
		if h.pixels == fileHeader+size { // as if there were no palette, which there is
			if h.entry == 3 { // of which releases of Pillow skip more or less
				return h, unsupported("pixels in the place of the palette after a header of 12 bytes")
			}
			h.pixels += h.entry * h.colours
		}
		h.table, _ = r.next(min(h.entry*min(h.colours, len(colourTable{})), len(r.rest)))
	}
	if h.pixels == 0 {
		h.pixels = len(data) - len(r.rest)
	}
	return h, h.check()
}

// check refuses what Pillow refuses.
func (h bmpFile) check() error {
	switch h.depth {
	case 1, 4, 8:
		if h.colours > len(colourTable{}) {
			return unsupported("palette of %d colours", h.colours)
		}
	case 16, 24, 32:
	default:
		return unsupported("%d bits per pixel", h.depth)
	}
	switch h.compression {
	case bmpRaw:
	case bmpRLE8, bmpRLE4:
		if h.depth == 1 || h.depth > 8 {
			return unsupported("run lengths of %d bits per pixel", h.depth)
		}
	case bmpBitFields:
		if _, ok := h.layout(); !ok {
			return unsupported("bit fields %x of %d bits per pixel", h.masks, h.depth)
		}
	default:
		return unsupported("compression %d", h.compression)
	}
	return nil
}

// layout returns where R, G, B are in a pixel of whole bytes (24 or 32 bits), or, for one of 16 bits, the bits of green; ok is false
// for bit fields that Pillow does not take.
func (h bmpFile) layout() (at [3]int, ok bool) {
	type fields [4]uint32
	bgr, xbgr, bgxr, rgba := [3]int{2, 1, 0}, [3]int{3, 2, 1}, [3]int{3, 1, 0}, [3]int{0, 1, 2}
	m := fields(h.masks)
	if h.depth != 32 {
		m[3] = 0 // not looked at
	}
	switch {
	case h.compression != bmpBitFields:
		return bgr, true
	case h.depth == 16:
		return bgr, m == fields{0xf800, 0x7e0, 0x1f} || m == fields{0x7c00, 0x3e0, 0x1f}
	case h.depth == 24:
		return bgr, m == fields{0xff0000, 0xff00, 0xff}
	case h.depth != 32:
		return bgr, false
	}
	switch m {
	case fields{}, fields{0xff0000, 0xff00, 0xff}, fields{0xff0000, 0xff00, 0xff, 0xff000000}:
		return bgr, true
	case fields{0xff000000, 0xff0000, 0xff00}, fields{0xff000000, 0xff0000, 0xff00, 0xff}:
		return xbgr, true
	case fields{0xff000000, 0xff00, 0xff}, fields{0xff000000, 0xff00, 0xff, 0xff0000}:
		return bgxr, true
	case fields{0xff, 0xff00, 0xff0000, 0xff000000}:
		return rgba, true
	}
	return bgr, false
}

func sizeBMP(data []byte) (width, height int, err error) {
	h, err := readBMP(data)
	return h.width, h.height, err
}

func decodeBMP(data []byte) (picture, error) {
	h, err := readBMP(data)
	if err != nil {
		return picture{}, err
	}
	if h.pixels > len(data) {
		return picture{}, damaged("pixels lie beyond the end")
	}
	pixels := data[h.pixels:]
	if h.depth <= 8 {
		return h.indexed(pixels, h.pixels)
	}
	rowBytes := h.width * h.depth / 8
	if h.height == 0 || len(pixels) < (h.height-1)*h.stride+rowBytes {
		return picture{}, damaged("%d bytes are too few for the size that the header claims", len(data))
	}
	row := func(y int) []byte { return pixels[h.stored(y)*h.stride:][:rowBytes] }
	p := picture{width: h.width, height: h.height}
	if h.depth == 16 {
		green := 5
		if h.compression == bmpBitFields {
			green = bits.OnesCount32(h.masks[1])
		}
		p.rgb = func(y int, rgb []uint8) { unpack16(rgb, row(y), green) }
		return p, nil
	}
	step := h.depth / 8
	at, _ := h.layout()
	p.rgb = func(y int, rgb []uint8) {
		row := row(y)
		for x := range h.width {
			from, to := row[step*x:][:step], rgb[3*x:3*x+3:3*x+3]
			to[0], to[1], to[2] = from[at[0]], from[at[1]], from[at[2]]
		}
	}
	p.alpha = h.alpha(row)
	return p, nil
}

// alpha returns the rows of alpha of a picture of 32 bits per pixel, nil if it has none, or nothing but zeros: many writers leave it so
// in pictures that are not meant to be transparent.
func (h bmpFile) alpha(rows func(y int) []byte) func(y int, alpha []uint8) {
	if h.compression != bmpBitFields || h.depth != 32 || h.masks[3] == 0 {
		return nil
	}
	at := bits.TrailingZeros32(h.masks[3]) / 8
	for y := range h.height {
		for row := rows(y); len(row) >= 4; row = row[4:] {
			if row[at] != 0 {
				return func(y int, alpha []uint8) {
					from := rows(y)
					for x := range alpha {
						alpha[x] = from[4*x+at]
					}
				}
			}
		}
	}
	return nil
}

// stored returns the place in the file of row y of the picture.
func (h bmpFile) stored(y int) int {
	if h.topDown {
		return y
	}
	return h.height - 1 - y
}

// unpack16 converts pixels of two bytes: 5 bits each of red and blue, and 5 or 6 of green.
func unpack16(rgb []uint8, row []byte, green int) {
	widen := func(v, bits int) uint8 {
		most := 1<<bits - 1
		return uint8(v & most * 255 / most)
	}
	for x := range len(rgb) / 3 {
		v := le16(row[2*x:])
		rgb[3*x], rgb[3*x+1], rgb[3*x+2] = widen(v>>(5+green), 5), widen(v>>5, green), widen(v, 5)
	}
}

// gray reports whether the palette has nothing but the gray values 0, 1, 2 and so on, or black and white if it has two. Pillow
// then does without it, and takes each pixel to be one bit (of two colours or one) or one byte, whatever the depth.
func (h bmpFile) gray() bool {
	for i := range h.colours {
		v := byte(i)
		if h.colours == 2 {
			v *= 255
		}
		if at := h.entry * i; at+3 > len(h.table) || [3]byte(h.table[at:]) != [3]byte{v, v, v} {
			return false
		}
	}
	return true
}

// indexed returns the picture of depth 8 or less whose pixels begin at offset start of the file.
func (h bmpFile) indexed(pixels []byte, start int) (picture, error) {
	depth := h.depth
	var colours colourTable
	switch gray := h.gray(); {
	case gray && h.colours == 1: // which releases of Pillow read as one bit or eight
		return picture{}, unsupported("palette of black alone")
	case gray && h.colours <= 2:
		depth = 1
		for i := range colours[1:] { // run lengths can have more than 1
			colours[i+1] = [3]uint8{255, 255, 255}
		}
	case gray:
		depth = 8
		for i := range colours {
			colours[i] = [3]uint8{uint8(i), uint8(i), uint8(i)}
		}
	default:
		for i := range len(h.table) / h.entry {
			b := h.table[h.entry*i:]
			colours[i] = [3]uint8{b[2], b[1], b[0]}
		}
	}

	stride := h.stride
	if h.compression != bmpRaw {
		ratio := h.width + 255 // of a run, and of a row of which most is left out
		if err := plausible(pixels, h.height, 8*h.width, ratio); err != nil {
			return picture{}, err
		}
		var err error
		if pixels, err = h.expand(pixels, start); err != nil {
			return picture{}, err
		}
		depth, stride = 8, h.width
	}
	rowBytes := (h.width*depth + 7) / 8
	if rowBytes > stride {
		return picture{}, unsupported("palette of %d grays with %d bits per pixel", h.colours, h.depth)
	}
	if h.height == 0 || len(pixels) < (h.height-1)*stride+rowBytes {
		return picture{}, damaged("pixels are too few for the size that the header claims")
	}
	indices := make([]uint8, h.width)
	return picture{width: h.width, height: h.height, rgb: func(y int, rgb []uint8) {
		unpackBits(indices, pixels[h.stored(y)*stride:], depth)
		colours.row(rgb, indices)
	}}, nil
}

// unpackBits writes the numbers of 1, 2, 4 or 8 bits that are in row, from the most significant bit on.
func unpackBits(dst []uint8, row []byte, depth int) {
	if depth == 8 {
		copy(dst, row)
		return
	}
	for x := range dst {
		at := x * depth
		dst[x] = row[at/8] >> (8 - depth - at%8) & (1<<depth - 1)
	}
}

// expand returns the indices that run lengths stand for, row after row in the order of the file. It does what Pillow does, also
// where that differs from others: what is left out has index 0, an end of line after a full row says nothing, runs are cut at the
// end of a row, but literal pixels go on into the next one. Moves and odd numbers of literal pixels of 4 bits are refused, because
// Pillow's releases read them differently. start is the offset of src in the file: literal pixels are padded to even offsets.
func (h bmpFile) expand(src []byte, start int) ([]byte, error) {
	all := h.width * h.height
	dst := make([]byte, 0, min(all, 256*len(src)))
	four := h.compression == bmpRLE4
	r := pieces{rest: src}
	x := 0
	for len(dst) < all {
		code, ok := r.next(2)
		switch {
		case !ok:
			return dst, nil
		case code[0] != 0: // a run
			n := min(int(code[0]), max(h.width-x, 0))
			even, odd := code[1], code[1]
			if four {
				even, odd = code[1]>>4, code[1]&15
			}
			for i := range n {
				if i%2 == 0 {
					dst = append(dst, even)
				} else {
					dst = append(dst, odd)
				}
			}
			x += n
		case code[1] == 0: // end of line
			if n := len(dst) % h.width; n > 0 {
				dst = append(dst, make([]byte, h.width-n)...)
			}
			x = 0
		case code[1] == 1: // end of picture
			return dst, nil
		case code[1] == 2:
			return nil, unsupported("run lengths with moves")
		case four && code[1]%2 != 0:
			return nil, unsupported("run lengths with an odd number of literal pixels of 4 bits")
		default: // literal pixels
			n := int(code[1])
			if four {
				n /= 2
			}
			literal, ok := r.next(n)
			if !ok {
				return dst, nil
			}
			for _, b := range literal {
				if four {
					dst = append(dst, b>>4, b&15)
				} else {
					dst = append(dst, b)
				}
			}
			x += int(code[1])
			if (start+len(src)-len(r.rest))%2 != 0 {
				r.next(1)
			}
		}
	}
	return dst, nil
}
