package phash

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/zlib"
)

// Colour types of PNG (W3C PNG, third edition, 11.2.1).
const (
	pngGray      = 0
	pngRGB       = 2
	pngPalette   = 3
	pngGrayAlpha = 4
	pngRGBA      = 6
)

const pngSignature = "\x89PNG\r\n\x1a\n"

// A pngFile is a PNG up to its compressed pixels, as Pillow reads it.
type pngFile struct {
	width, height int
	depth, colour uint8 // bits of a sample; colour type
	interlaced    bool
	colours       colourTable
	transparent   []byte // content of tRNS, nil if there is none
	idat          []byte // contents of all chunks IDAT that follow one another
	starts        []int  // where in idat each of them begins
	cut           bool   // the last of them does not have all of its content
}

// header reads the content of the chunk IHDR. Of several the last one counts, as long as pixels have not begun.
func (f *pngFile) header(chunk []byte) error {
	if len(chunk) < 13 {
		return damaged("chunk IHDR of %d bytes", len(chunk))
	}
	w, h := binary.BigEndian.Uint32(chunk), binary.BigEndian.Uint32(chunk[4:])
	if w > 1<<31-1 || h > 1<<31-1 {
		return damaged("side of more than 2^31-1 pixels")
	}
	if chunk[11] != 0 {
		return unsupported("filter method %d", chunk[11])
	}
	f.width, f.height, f.depth, f.colour = int(w), int(h), chunk[8], chunk[9]
	f.interlaced = f.interlaced || chunk[12] != 0
	return nil
}

// readPNGHeader goes to the chunk IHDR that counts, which other chunks may stand before.
func readPNGHeader(data []byte) (f pngFile, err error) {
	r := pieces{rest: data[len(pngSignature):]}
	for {
		name, size, ok := r.pngHead()
		if !ok || name == "IDAT" || name == "IEND" {
			if f.width == 0 {
				err = damaged("no chunk IHDR before the pixels")
			}
			return f, err
		}
		chunk, ok := r.next(size)
		if name == "IHDR" {
			if err := f.header(chunk); err != nil {
				return f, err
			}
		}
		if !ok {
			r.rest = nil
		}
		r.next(4) // checksum
	}
}

func sizePNG(data []byte) (width, height int, err error) {
	f, err := readPNGHeader(data)
	return f.width, f.height, err
}

// readPNG reads all chunks. Those before the pixels must be whole, with checksums that are right. Checksums are not looked at from
// the pixels on, as the compressed data have their own; a chunk after them may be missing, or end within its head, but not within
// its content.
func readPNG(data []byte) (pngFile, error) {
	var f pngFile
	r := pieces{rest: data[len(pngSignature):]}
	animated := false
	for {
		head := r.rest
		name, size, ok := r.pngHead()
		if !ok {
			return f, damaged("ends before the pixels, or has no chunk where one is expected")
		}
		if name == "IDAT" {
			if f.width == 0 {
				return f, damaged("no chunk IHDR before the pixels")
			}
			if name, size, ok = f.takePixels(&r, size); ok {
				return f, r.skipPNG(name, size, animated)
			}
			return f, nil
		}
		chunk, whole := r.next(size)
		sum, ok := r.next(4)
		switch {
		case !whole || !ok:
			return f, damaged("ends within the chunk %s", name)
		case crc32.ChecksumIEEE(head[4:8+size]) != binary.BigEndian.Uint32(sum):
			return f, damaged("checksum of the chunk %s is wrong", name)
		}
		switch name {
		case "IEND":
			return f, damaged("no pixels")
		case "IHDR":
			if err := f.header(chunk); err != nil {
				return f, err
			}
		case "PLTE":
			if f.colour != pngPalette { // as before the chunk IHDR
				continue
			}
			colours := len(chunk) / 3
			if colours > len(f.colours) {
				return f, damaged("palette of %d colours", colours)
			}
			f.colours = colourTable{}
			for i := range colours {
				copy(f.colours[i][:], chunk[3*i:])
			}
		case "fcTL":
			if len(chunk) < 20 || int(binary.BigEndian.Uint32(chunk[4:])) != f.width || int(binary.BigEndian.Uint32(chunk[8:])) != f.height || !bytes.Equal(chunk[12:20], make([]byte, 8)) {
				return f, unsupported("a first frame of an animation that is not the whole picture")
			}
		case "fdAT":
			return f, unsupported("a frame of an animation before the picture")
		case "tRNS":
			if f.colour == pngGray && len(chunk) < 2 || f.colour == pngRGB && len(chunk) < 6 {
				return f, damaged("transparent colour of %d bytes", len(chunk))
			}
			f.transparent = chunk
		case "acTL":
			animated = len(chunk) >= 4 && binary.BigEndian.Uint32(chunk) > 1
		}
	}
}

// takePixels takes the contents of this chunk IDAT and of those that follow at once, and returns the head of the chunk after
// them; ok is false if there is none.
func (f *pngFile) takePixels(r *pieces, size int) (name string, _ int, ok bool) {
	for {
		content, _ := r.next(min(size, len(r.rest)))
		f.starts, f.cut = append(f.starts, len(f.idat)), len(content) < size
		if f.idat == nil {
			f.idat = content[:len(content):len(content)]
		} else {
			f.idat = append(slices.Grow(f.idat, len(content)+len(r.rest)), content...)
		}
		r.next(4) // checksum
		if name, size, ok = r.pngHead(); !ok || name != "IDAT" {
			return name, size, ok
		}
	}
}

// skipPNG goes from the content of a chunk behind the pixels to where Pillow stops reading.
func (r *pieces) skipPNG(name string, size int, animated bool) error {
	for ok := true; ok && name != "IEND" && !(name == "fcTL" && animated); name, size, ok = r.pngHead() {
		if _, ok := r.next(size); !ok {
			return damaged("ends within the chunk %s", name)
		}
		r.next(4) // checksum
	}
	return nil
}

// pngHead returns name and size of the next chunk.
func (r *pieces) pngHead() (name string, size int, ok bool) {
	b, ok := r.next(8)
	if !ok {
		return "", 0, false
	}
	for _, c := range b[4:] {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
			return "", 0, false
		}
	}
	return string(b[4:]), int(binary.BigEndian.Uint32(b)), true
}

func decodePNG(data []byte) (picture, error) {
	const deflateRatio = 1032 // the most that deflate can expand a byte to
	f, err := readPNG(data)
	if err != nil {
		return picture{}, err
	}
	samples := map[uint8]int{pngGray: 1, pngRGB: 3, pngPalette: 1, pngGrayAlpha: 2, pngRGBA: 4}[f.colour]
	switch {
	case samples > 0 && (f.depth == 8 || f.depth == 16 && f.colour != pngPalette):
	case samples == 1 && (f.depth == 1 || f.depth == 2 || f.depth == 4):
	default:
		return picture{}, unsupported("colour type %d of %d bits", f.colour, f.depth)
	}
	if err := plausible(data, f.height, f.width*samples*int(f.depth), deflateRatio); err != nil {
		return picture{}, err
	}
	pix, err := f.pixels(samples)
	if err != nil {
		return picture{}, err
	}

	p := picture{width: f.width, height: f.height}
	size := len(pix) / f.height / f.width // bytes of a pixel
	stride := f.width * size
	switch {
	case f.colour == pngPalette:
		p.rgb = func(y int, rgb []uint8) { f.colours.row(rgb, pix[y*stride:][:stride]) }
	case samples > 2:
		p.rgb = everyNth(pix, stride, size, size/samples)
	case f.colour == pngGray && f.depth == 16:
		p.row, p.seen = clipped(pix, stride), everySample(pix, stride, size, 0)
	default:
		scale := uint8(1)
		if f.depth < 8 {
			scale = 255 / (1<<f.depth - 1)
		}
		p.row = func(y int, gray []uint8) {
			row := pix[y*stride:]
			for x := range gray {
				gray[x] = scale * row[size*x]
			}
		}
	}
	p.alpha = f.alpha(pix, size, samples)
	return p, nil
}

// alpha returns the rows of alpha of pixels of size bytes, nil if all are opaque. The transparent colour of a picture without an
// alpha channel is one that its pixels have before they are spread over 0 to 255 (W3C PNG, third edition, 11.3.1.1).
func (f *pngFile) alpha(pix []uint8, size, samples int) func(y int, alpha []uint8) {
	stride := f.width * size
	switch {
	case samples == 2 || samples == 4:
		return everySample(pix, stride, size, size/samples*(samples-1))
	case f.transparent == nil:
		return nil
	case f.colour == pngPalette:
		return func(y int, alpha []uint8) {
			for x, i := range pix[y*stride:][:f.width] {
				alpha[x] = 255
				if int(i) < len(f.transparent) {
					alpha[x] = f.transparent[i]
				}
			}
		}
	}
	colour := bytes.Clone(f.transparent[:2*samples])
	if f.depth < 16 { // the low bytes of 16 bits each
		for i := range samples {
			colour[i] = colour[2*i+1]
		}
		colour = colour[:samples]
	}
	return func(y int, alpha []uint8) {
		row := pix[y*stride:][:stride]
		for x := range alpha {
			alpha[x] = 255
			if bytes.Equal(row[size*x:][:size], colour) {
				alpha[x] = 0
			}
		}
	}
}

// A pngPass is the pixels that interlacing puts together: those of every nth column and row from a first one on.
type pngPass struct{ left, top, right, down int }

// pixels decompresses and unfilters the picture: samples of less than 8 bits in a byte each, others as they are in the file. As in
// Pillow rows are zero if the compressed data end before them in good order and within the piece that the row before them was in,
// and what follows the last row may be missing, but not corrupt.
func (f *pngFile) pixels(samples int) ([]uint8, error) {
	depth := int(f.depth)
	size := max(samples*depth/8, 1) // bytes of a pixel, here, and to the left neighbour for the filters
	pix := make([]uint8, size*f.width*f.height)
	passes := []pngPass{{0, 0, 1, 1}}
	if f.interlaced {
		passes = []pngPass{{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}}
	}
	in := bytes.NewReader(f.idat)
	z, err := zlib.NewReader(in)
	if err != nil {
		return nil, err
	}
	longest := 1 + (f.width*samples*depth+7)/8 // with the byte that names the filter
	var read, last int                         // bytes of all rows, and of the last one
	lines, unpacked := [2][]byte{make([]byte, longest), make([]byte, longest)}, make([]byte, f.width)
	for _, pass := range passes {
		width := (f.width - pass.left + pass.right - 1) / pass.right
		if width <= 0 {
			continue
		}
		line, above := lines[0][:1+(width*samples*depth+7)/8], lines[1]
		clear(above)
		for y := pass.top; y < f.height; y += pass.down {
			_, err := io.ReadFull(z, line)
			if err == io.EOF && read > 0 && !inflates(f.idat[:f.readBefore(len(f.idat)-in.Len())], read) {
				return pix, nil
			}
			if err != nil {
				return nil, err
			}
			read, last = read+len(line), len(line)
			row := line[1:]
			if !unfilter(line[0], row, above[1:], size) {
				return nil, damaged("filter %d", line[0])
			}
			if depth < 8 {
				unpackBits(unpacked[:width], row, depth)
				row = unpacked
			}
			to := pix[(y*f.width+pass.left)*size:]
			if pass.right == 1 {
				copy(to, row[:width*size])
			} else {
				for x := range width {
					copy(to[x*pass.right*size:][:size], row[x*size:])
				}
			}
			line, above = above[:len(line)], line
		}
	}
	switch _, err := io.ReadFull(z, make([]byte, 1)); {
	case f.cut && inflates(f.idat[:f.starts[len(f.starts)-1]], read):
		return nil, damaged("ends within the chunk IDAT") // which Pillow does not need, but skips
	case err == io.ErrUnexpectedEOF:
		// Pillow does not begin with the last row if zlib has taken the last byte by then. Rows go one by one, and zlib takes what
		// the next code needs before it stops for want of room.
		if !inflates(f.idat[:len(f.idat)-1], read-last+1) {
			return nil, err
		}
	case err == zlib.ErrChecksum:
		// Pillow has not seen it if the rows were complete before the bytes that it had read with it.
		if !inflates(f.idat[:f.readBefore(len(f.idat)-in.Len())], read) {
			return nil, err
		}
	case err != nil && err != io.EOF:
		return nil, err
	}
	return pix, nil
}

// inflates reports whether compressed data give n bytes.
func inflates(data []byte, n int) bool {
	z, err := zlib.NewReader(bytes.NewReader(data))
	if err != nil {
		return false
	}
	m, _ := io.CopyN(io.Discard, z, int64(n))
	return m == int64(n)
}

// readBefore returns where the piece begins that Pillow reads the byte before end of the compressed data with: a chunk, or 64 KiB of
// it.
func (f *pngFile) readBefore(end int) int {
	const block = 1 << 16 // ImageFile.MAXBLOCK
	start := 0
	for _, s := range f.starts {
		if s < end {
			start = s
		}
	}
	return start + (end-1-start)/block*block
}

// unfilter undoes the filter of a row (W3C PNG, third edition, chapter 9), which lies size bytes from pixel to pixel. It returns
// false for a filter that does not exist.
func unfilter(filter byte, row, above []byte, size int) bool {
	above = above[:len(row)]
	switch filter {
	case 0:
	case 1:
		for i := size; i < len(row); i++ {
			row[i] += row[i-size]
		}
	case 2:
		for i := range row {
			row[i] += above[i]
		}
	case 3:
		for i := range min(size, len(row)) {
			row[i] += above[i] / 2
		}
		for i := size; i < len(row); i++ {
			row[i] += uint8((int(row[i-size]) + int(above[i])) / 2)
		}
	case 4:
		for first := range size {
			left, corner := 0, 0
			for i := first; i < len(row); i += size {
				up := int(above[i])
				byLeft, byUp := up-corner, left-corner // distances of the prediction left + up - corner
				byCorner := max(byLeft+byUp, -byLeft-byUp)
				byLeft, byUp = max(byLeft, -byLeft), max(byUp, -byUp)
				nearest := corner
				if byLeft <= byUp && byLeft <= byCorner {
					nearest = left
				} else if byUp <= byCorner {
					nearest = up
				}
				left, corner = (nearest+int(row[i]))&0xff, up
				row[i] = uint8(left)
			}
		}
	default:
		return false
	}
	return true
}
