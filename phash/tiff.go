package phash

import (
	"bytes"
	"encoding/binary"
	"image"

	"golang.org/x/image/tiff"
)

// Tags and values of TIFF 6.0.
const (
	tagWidth           = 256
	tagHeight          = 257
	tagBitsPerSample   = 258
	tagCompression     = 259
	tagPhotometric     = 262
	tagFillOrder       = 266
	tagOrientation     = 274
	tagSamplesPerPixel = 277
	tagStripByteCounts = 279
	tagPlanarConfig    = 284
	tagT4Options       = 292
	tagPredictor       = 317
	tagTileByteCounts  = 325
	tagExtraSamples    = 338

	whiteIsZero = 0
	blackIsZero = 1
	rgbColours  = 2
	paletted    = 3

	noCompression   = 1
	groupThree      = 3
	groupFour       = 4
	lzwCompression  = 5
	deflate         = 8
	deflateObsolete = 32946
)

// A tiffHeader is what the first directory of a TIFF says.
type tiffHeader struct {
	order  binary.ByteOrder
	values map[uint16][]uint32
}

// get returns the first value of a tag, or its default.
func (t tiffHeader) get(tag uint16, otherwise int) int {
	if v := t.values[tag]; len(v) > 0 {
		return int(v[0])
	}
	return otherwise
}

// readTIFF reads the tags that decide how pixels are stored.
func readTIFF(data []byte) (tiffHeader, error) {
	const entrySize = 12
	t := tiffHeader{order: binary.LittleEndian, values: make(map[uint16][]uint32)}
	short := damaged("directory lies beyond the end")
	if len(data) < 8 {
		return t, short
	}
	if data[0] == 'M' {
		t.order = binary.BigEndian
	}
	start := int64(t.order.Uint32(data[4:]))
	if start+2 > int64(len(data)) {
		return t, short
	}
	entries := data[start+2:]
	count := int(t.order.Uint16(data[start:]))
	if len(entries) < count*entrySize {
		return t, short
	}
	for e := range count {
		entry := entries[e*entrySize:][:entrySize]
		switch tag := t.order.Uint16(entry); tag {
		case tagWidth, tagHeight, tagBitsPerSample, tagCompression, tagPhotometric, tagFillOrder, tagOrientation,
			tagSamplesPerPixel, tagPlanarConfig, tagT4Options, tagPredictor, tagExtraSamples:
			const enough = 8
			v, ok := t.read(data, entry, enough)
			if !ok {
				return t, damaged("tag %d cannot be read", tag)
			}
			t.values[tag] = v
		case tagStripByteCounts, tagTileByteCounts:
			// Strips that lie on top of each other would make decoding quadratic in the size of the file.
			v, ok := t.read(data, entry, len(data))
			sum := 0
			for _, n := range v {
				sum += int(n)
			}
			if !ok || sum > 4*len(data) {
				return t, damaged("strips are larger than the file")
			}
		}
	}
	return t, nil
}

// read returns the values of an entry of type BYTE, SHORT or LONG, most of them at most. It allocates no more than the file holds.
func (t tiffHeader) read(data, entry []byte, most int) ([]uint32, bool) {
	size := map[uint16]int64{1: 1, 3: 2, 4: 4}[t.order.Uint16(entry[2:])]
	count := int64(t.order.Uint32(entry[4:]))
	if size == 0 || count == 0 {
		return nil, false
	}
	field := entry[8:12]
	if count*size > 4 {
		count = min(count, int64(most))
		at := int64(t.order.Uint32(field))
		if at+count*size > int64(len(data)) {
			return nil, false
		}
		field = data[at:]
	}
	v := make([]uint32, count)
	for i := range v {
		switch size {
		case 1:
			v[i] = uint32(field[i])
		case 2:
			v[i] = uint32(t.order.Uint16(field[2*i:]))
		case 4:
			v[i] = t.order.Uint32(field[4*i:])
		}
	}
	return v, true
}

// check refuses what the decoder would read otherwise than Pillow.
func (t tiffHeader) check() error {
	bits := t.values[tagBitsPerSample]
	if len(bits) == 0 {
		bits = []uint32{1}
	}
	samples := t.get(tagSamplesPerPixel, 1)
	extra := t.get(tagExtraSamples, 0)
	compression := t.get(tagCompression, noCompression)
	photometric := t.get(tagPhotometric, whiteIsZero)
	switch photometric {
	case whiteIsZero, blackIsZero, paletted:
		if samples != 1 {
			return unsupported("%d samples per pixel", samples)
		}
		if photometric == paletted && bits[0] > 8 {
			return unsupported("palette of %d bits", bits[0])
		}
		if photometric == whiteIsZero && bits[0] == 16 && t.order == binary.BigEndian {
			return unsupported("inverted big-endian 16-bit gray") // Pillow has no such mode
		}
	case rgbColours:
		if samples != 3 && (samples != 4 || extra != 1 && extra != 2) {
			return unsupported("%d samples per pixel, extra sample of kind %d", samples, extra)
		}
	default:
		return unsupported("photometric interpretation %d", photometric)
	}
	if len(bits) != samples {
		return unsupported("bits per sample not given for each of %d samples", samples)
	}
	for _, b := range bits {
		if b != bits[0] || b != 1 && b != 8 && b != 16 {
			return unsupported("%d bits per sample", b)
		}
	}
	if v := t.get(tagPlanarConfig, 1); v != 1 && samples > 1 {
		return unsupported("samples in separate planes")
	}
	if t.fax() && (bits[0] != 1 || photometric == paletted) {
		return unsupported("fax compression of %d-bit samples", bits[0])
	}
	if v := t.get(tagT4Options, 0); compression == groupThree && v&3 != 0 {
		return unsupported("two-dimensional or uncompressed Group 3 fax")
	}
	if v := t.get(tagFillOrder, 1); v != 1 && !t.fax() {
		return unsupported("reversed bit order")
	}
	switch v := t.get(tagPredictor, 1); {
	case v == 1:
	case v == 2 && (compression == lzwCompression || compression == deflate || compression == deflateObsolete) && bits[0] >= 8:
	default:
		return unsupported("predictor %d with compression %d", v, compression)
	}
	return nil
}

// fax reports whether the compression is one of those made for black and white faxes.
func (t tiffHeader) fax() bool {
	c := t.get(tagCompression, noCompression)
	return c == groupThree || c == groupFour
}

// turned reports whether the picture is to be turned by a quarter, which swaps width and height.
func (t tiffHeader) turned() bool {
	return t.get(tagOrientation, 1) >= 5 && t.get(tagOrientation, 1) <= 8
}

func sizeTIFF(data []byte) (width, height int, err error) {
	t, err := readTIFF(data)
	if err == nil {
		err = t.check()
	}
	if err != nil {
		return 0, 0, err
	}
	width, height = t.get(tagWidth, 0), t.get(tagHeight, 0)
	if width > 1<<31-1 || height > 1<<31-1 {
		return 0, 0, damaged("side of more than 2^31-1 pixels")
	}
	if t.turned() {
		width, height = height, width
	}
	return width, height, nil
}

func decodeTIFF(data []byte) (picture, error) {
	t, err := readTIFF(data)
	if err == nil {
		err = t.check()
	}
	if err != nil {
		return picture{}, err
	}
	bitsPerSample, samples := t.get(tagBitsPerSample, 1), t.get(tagSamplesPerPixel, 1)
	ratio := 4096 // of LZW; deflate has less
	switch t.get(tagCompression, noCompression) {
	case noCompression:
		ratio = 1
	case groupThree, groupFour: // a row can be a single bit
		ratio = 8 * max(t.get(tagWidth, 0), 1)
	}
	if err := plausible(data, t.get(tagHeight, 0), t.get(tagWidth, 0)*bitsPerSample*samples, ratio); err != nil {
		return picture{}, err
	}
	m, err := tiff.Decode(bytes.NewReader(data))
	if err != nil {
		return picture{}, err
	}
	switch m := m.(type) {
	case *image.Gray:
		// A white run of a fax is a run of zeros, so it is black where black is zero. The decoder makes it white always.
		if t.fax() && t.get(tagPhotometric, whiteIsZero) == blackIsZero {
			invert(m.Pix)
		}
	case *image.Gray16:
		// Pillow leaves 16-bit gray as it is stored.
		if t.get(tagPhotometric, whiteIsZero) == whiteIsZero {
			invert(m.Pix)
		}
	}
	p, err := newPicture(m, nil)
	if err != nil {
		return picture{}, err
	}
	return orient(p, t.get(tagOrientation, 1)), nil
}

func invert(pix []uint8) {
	for i := range pix {
		pix[i] = ^pix[i]
	}
}

// orient turns and mirrors p as the orientation tag says (1 to 8, TIFF 6.0 page 36); other values leave it as it is. Pillow does
// so when it loads a TIFF, and for no other format.
func orient(p picture, orientation int) picture {
	w, h := p.width, p.height
	// Where the pixel of row 0 and column 0 comes from, and the steps to its neighbours.
	var origin, right, down int
	switch orientation {
	case 2:
		origin, right, down = w-1, -1, w
	case 3:
		origin, right, down = w*h-1, -1, -w
	case 4:
		origin, right, down = w*(h-1), 1, -w
	case 5:
		origin, right, down = 0, w, 1
	case 6:
		origin, right, down = w*(h-1), -w, 1
	case 7:
		origin, right, down = w*h-1, -w, -1
	case 8:
		origin, right, down = w-1, w, -1
	default:
		return p
	}
	plane := make([]uint8, w*h)
	for y := range h {
		p.row(y, plane[y*w:][:w])
	}
	if orientation >= 5 {
		w, h = h, w
	}
	return picture{width: w, height: h, row: func(y int, gray []uint8) {
		i := origin + y*down
		for x := range gray {
			gray[x] = plane[i]
			i += right
		}
	}}
}
