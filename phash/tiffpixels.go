package phash

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"math/bits"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/image/ccitt"
	"golang.org/x/image/tiff/lzw"
)

// A tiffGrid is how the pixels of a plane are cut into pieces, which are strips or tiles.
type tiffGrid struct {
	width, height   int // of a piece; those at the right and lower edge may reach beyond the picture
	across, down    int // pieces
	offsets, counts []uint32
	tiled           bool
}

func (t *tiffHeader) grid() (tiffGrid, error) {
	g := tiffGrid{
		width: t.width, height: min(t.get(tagRowsPerStrip, t.height), t.height), across: 1,
		offsets: t.values[tagStripOffsets], counts: t.values[tagStripByteCounts],
	}
	if t.values[tagTileOffsets] != nil {
		if g.offsets != nil {
			return g, unsupported("both strips and tiles")
		}
		g = tiffGrid{
			width: t.get(tagTileWidth, 0), height: t.get(tagTileLength, 0), tiled: true,
			offsets: t.values[tagTileOffsets], counts: t.values[tagTileByteCounts],
		}
		if g.width > 0 {
			g.across = (t.width + g.width - 1) / g.width
		}
	}
	if g.width <= 0 || g.height <= 0 || g.width > maxSide || g.height > maxSide {
		return g, damaged("strips or tiles of %d x %d pixels", g.width, g.height)
	}
	g.down = (t.height + g.height - 1) / g.height
	need := g.across * g.down
	if t.planar {
		need *= t.samples
	}
	switch {
	case len(g.offsets) < need:
		return g, damaged("%d strips or tiles, want %d", len(g.offsets), need)
	case len(g.offsets) > need && t.compression == noCompression:
		return g, unsupported("%d strips or tiles, %d needed", len(g.offsets), need) // Pillow draws them all, or the last one
	case t.compression == noCompression:
		g.counts = nil // not looked at
	case len(g.counts) < need:
		return g, damaged("sizes of %d strips or tiles, want %d", len(g.counts), need)
	}
	return g, nil
}

// pixels decodes the picture to n bytes a pixel: gray, an index, R G B, any of these and alpha, C M Y K, or gray of 16 bits, the high
// byte first.
func (t *tiffHeader) pixels(data []byte) (pix []uint8, n int, err error) {
	g, err := t.grid()
	if err != nil {
		return nil, 0, err
	}
	n = t.colours()
	if t.transparent() {
		n++
	}
	if t.wide() {
		n = 2
	}
	planes, inPiece, keep := 1, t.samples, n // planes of the file, samples of a pixel in each, and of these the ones to keep
	if t.planar {
		planes, inPiece, keep = t.samples, 1, 1
	}
	rowBytes := (g.width*inPiece*t.bits + 7) / 8
	pieces := planes * g.across * g.down
	if g.tiled && t.compression == noCompression && g.width*inPiece*t.bits%8 != 0 {
		return nil, 0, unsupported("tiles of %d samples of %d bits a row", g.width*inPiece, t.bits) // of which Pillow rounds the size down
	}
	if most := max(4*(n*t.width*t.height), 1<<22); rowBytes*g.height > most {
		return nil, 0, unsupported("tiles of %d x %d pixels in a picture of %d x %d", g.width, g.height, t.width, t.height)
	}
	if g.tiled {
		// Tiles may be larger than the picture, and lie on top of each other.
		ratio := 4 * 4096
		if t.compression == noCompression {
			ratio = 4
		}
		if err := plausible(data, pieces*g.height, 8*rowBytes, ratio); err != nil {
			return nil, 0, err
		}
	}
	pix = make([]uint8, n*t.width*t.height)
	convert := t.converter(keep)
	piece := make([]byte, 0, rowBytes*g.height)
	for i := range pieces {
		plane, at := i/(g.across*g.down), i%(g.across*g.down)
		left, top := at%g.across*g.width, at/g.across*g.height
		width, height := min(g.width, t.width-left), min(g.height, t.height-top)
		rows := height
		if g.tiled && t.compression != noCompression {
			rows = g.height
		}
		size := rows * rowBytes
		if g.tiled && t.compression == noCompression { // what is beyond the edge may be missing after the last row
			size = (rows-1)*rowBytes + (width*inPiece*t.bits+7)/8
		}
		if piece, err = t.piece(piece[:size], data, g, i, rows); err != nil {
			return nil, 0, err
		}
		if plane >= n {
			continue // only to see whether it is corrupt, as Pillow does
		}
		for y := range height {
			to := n*((top+y)*t.width+left) + plane
			convert(pix[to:], piece[y*rowBytes:], width, n, inPiece)
		}
	}
	return pix, n, nil
}

// piece reads piece i into dst, whose length is that of the decompressed piece.
func (t *tiffHeader) piece(dst, data []byte, g tiffGrid, i, rows int) ([]byte, error) {
	short := damaged("strip or tile %d lies beyond the end", i)
	start := int(g.offsets[i])
	if start > len(data) {
		return nil, short
	}
	src := data[start:]
	if g.counts != nil {
		if int(g.counts[i]) > len(src) {
			return nil, short
		}
		src = src[:g.counts[i]]
	} else if len(dst) > len(src) {
		return nil, short
	} else {
		src = src[:len(dst)]
	}
	if t.get(tagFillOrder, 1) == 2 {
		src = bytes.Clone(src)
		for i, b := range src {
			src[i] = bits.Reverse8(b)
		}
	}
	if err := t.decompress(dst, src, g.width, rows); err != nil {
		return nil, err
	}
	if t.compression == lzwCompression || t.compression == deflate || t.compression == deflateObsolete {
		t.undoPredictor(dst, len(dst)/rows)
	}
	return dst, nil
}

// decompress fills dst, or returns an error.
func (t *tiffHeader) decompress(dst, src []byte, width, rows int) error {
	var r io.Reader
	switch t.compression {
	case noCompression:
		copy(dst, src)
		return nil
	case packBits:
		return unpackPackBits(dst, src)
	case groupThree:
		r = ccitt.NewReader(bytes.NewReader(src), ccitt.MSB, ccitt.Group3, width, rows, &ccitt.Options{Invert: true})
	case groupFour:
		r = ccitt.NewReader(bytes.NewReader(src), ccitt.MSB, ccitt.Group4, width, rows, &ccitt.Options{Invert: true})
	case lzwCompression:
		if len(src) > 1 && src[0] == 0 && src[1]&1 != 0 {
			return unsupported("LZW of before TIFF 5.0")
		}
		r = lzw.NewReader(bytes.NewReader(src), lzw.MSB, 8)
	default:
		z, err := zlib.NewReader(bytes.NewReader(src))
		if err != nil {
			return err
		}
		r = z
	}
	if _, err := io.ReadFull(r, dst); err != nil {
		if t.compression == groupThree || t.compression == groupFour {
			return unsupported("fax that cannot be read: %v", err) // libtiff forgives more
		}
		return err
	}
	if t.compression == deflate || t.compression == deflateObsolete {
		// Behind the last byte is the checksum.
		if _, err := r.Read(make([]byte, 1)); err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// unpackPackBits is TIFF 6.0, section 9.
func unpackPackBits(dst, src []byte) error {
	r := pieces{rest: src}
	for len(dst) > 0 {
		head, ok := r.next(1)
		if !ok {
			return io.ErrUnexpectedEOF
		}
		switch n := int(int8(head[0])); {
		case n >= 0:
			literal, ok := r.next(n + 1)
			if !ok {
				return io.ErrUnexpectedEOF
			}
			dst = dst[copy(dst, literal):]
		case n > -128:
			value, ok := r.next(1)
			if !ok {
				return io.ErrUnexpectedEOF
			}
			n = min(1-n, len(dst))
			fill(dst[:n], value[0])
			dst = dst[n:]
		}
	}
	return nil
}

func fill(row []uint8, v uint8) {
	for x := range row {
		row[x] = v
	}
}

// undoPredictor adds up differences between samples of the same kind along each row (TIFF 6.0, section 14; TIFF Technical Note 3
// for floating point, whose bytes lie apart by significance).
func (t *tiffHeader) undoPredictor(pix []byte, rowBytes int) {
	step := t.samples // samples to the left neighbour
	if t.planar {
		step = 1
	}
	size := t.bits / 8
	for ; len(pix) > 0; pix = pix[rowBytes:] {
		row := pix[:rowBytes]
		switch predictor := t.get(tagPredictor, 1); {
		case predictor == 2 && size == 1:
			for i := step; i < len(row); i++ {
				row[i] += row[i-step]
			}
		case predictor == 2 && size == 2:
			for i := 2 * step; i < len(row); i += 2 {
				t.order.PutUint16(row[i:], t.order.Uint16(row[i:])+t.order.Uint16(row[i-2*step:]))
			}
		case predictor == 2:
			for i := 4 * step; i < len(row); i += 4 {
				t.order.PutUint32(row[i:], t.order.Uint32(row[i:])+t.order.Uint32(row[i-4*step:]))
			}
		case predictor == 3:
			for i := step; i < len(row); i++ {
				row[i] += row[i-step]
			}
			apart := bytes.Clone(row)
			for i := range row { // from the least significant byte on
				row[i] = apart[(size-1-i%size)*(len(row)/size)+i/size]
			}
		}
	}
}

// A tiffConverter writes the samples of one row that matter to dst, step bytes from pixel to pixel, from pixels of several samples.
type tiffConverter func(dst, row []uint8, width, step, samples int)

// converter returns the function that makes bytes of samples, keep of each pixel.
func (t *tiffHeader) converter(keep int) tiffConverter {
	switch {
	case t.bits < 8:
		return t.convertBits
	case t.bits == 8:
		return t.convertBytes(keep)
	case t.bits == 12:
		return func(dst, row []uint8, width, _, _ int) {
			for x := range width {
				at := 3 * x / 2
				v := int(row[at])<<4 | int(row[at+1])>>4
				if x%2 == 1 {
					v = int(row[at]&15)<<8 | int(row[at+1])
				}
				dst[x] = uint8(min(v, 255))
			}
		}
	case t.wide():
		return func(dst, row []uint8, width, step, _ int) {
			for x := range width {
				v := t.order.Uint16(row[2*x:])
				dst[step*x], dst[step*x+1] = uint8(v>>8), uint8(v)
			}
		}
	case t.colours() == 1:
		return t.convertWide
	}
	high := 0 // byte
	if t.order == binary.LittleEndian {
		high = 1
	}
	return func(dst, row []uint8, width, step, samples int) {
		for x := range width {
			for i := range keep {
				dst[step*x+i] = row[2*(samples*x+i)+high]
			}
		}
	}
}

func (t *tiffHeader) convertBytes(keep int) tiffConverter {
	return func(dst, row []uint8, width, step, samples int) {
		if t.photometric == whiteIsZero {
			for x := range width {
				dst[x] = ^row[x]
			}
			return
		}
		if keep == samples && keep == step {
			copy(dst[:keep*width], row)
			return
		}
		for x := range width {
			copy(dst[step*x:step*x+keep], row[samples*x:])
		}
	}
}

// convertBits spreads gray of less than 8 bits over 0 to 255, and leaves indices as they are.
func (t *tiffHeader) convertBits(dst, row []uint8, width, _, _ int) {
	dst = dst[:width]
	unpackBits(dst, row, t.bits)
	if t.photometric == paletted {
		return
	}
	scale := uint8(255 / (1<<t.bits - 1))
	for x := range dst {
		if dst[x] *= scale; t.photometric == whiteIsZero {
			dst[x] = ^dst[x]
		}
	}
}

// convertWide clips gray of 16 and 32 bits. Which of black and white is zero does not matter to Pillow.
func (t *tiffHeader) convertWide(dst, row []uint8, width, _, _ int) {
	order := t.order
	for x := range width {
		var v float64
		switch {
		case t.bits == 16 && t.format == signedSamples:
			v = float64(int16(order.Uint16(row[2*x:])))
		case t.bits == 16:
			v = float64(order.Uint16(row[2*x:]))
		case t.format == floatSamples:
			v = float64(math.Float32frombits(order.Uint32(row[4*x:])))
		default: // Pillow has no unsigned numbers of 32 bits
			v = float64(int32(order.Uint32(row[4*x:])))
		}
		if v != v {
			v = 0
		}
		dst[x] = uint8(min(max(v, 0), 255))
	}
}
