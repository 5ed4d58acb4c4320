package phash

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Tags and values of TIFF 6.0.
const (
	tagWidth           = 256
	tagHeight          = 257
	tagBitsPerSample   = 258
	tagCompression     = 259
	tagPhotometric     = 262
	tagFillOrder       = 266
	tagStripOffsets    = 273
	tagOrientation     = 274
	tagSamplesPerPixel = 277
	tagRowsPerStrip    = 278
	tagStripByteCounts = 279
	tagPlanarConfig    = 284
	tagT4Options       = 292
	tagPredictor       = 317
	tagColorMap        = 320
	tagTileWidth       = 322
	tagTileLength      = 323
	tagTileOffsets     = 324
	tagTileByteCounts  = 325
	tagExtraSamples    = 338
	tagXMP             = 700
	tagSampleFormat    = 339
	tagJPEGTables      = 347

	whiteIsZero = 0
	blackIsZero = 1
	rgbColours  = 2
	paletted    = 3
	cmykInks    = 5
	ycbcr       = 6
	lab         = 8

	noCompression   = 1
	huffmanRows     = 2
	groupThree      = 3
	groupFour       = 4
	lzwCompression  = 5
	oldJPEG         = 6
	newJPEG         = 7
	deflate         = 8
	packBits        = 32773
	deflateObsolete = 32946

	unsignedSamples = 1
	signedSamples   = 2
	floatSamples    = 3
)

// maxJPEGTables bounds the tables that go with every strip of JPEG, in bytes: four of each kind have less.
const maxJPEGTables = 1 << 12

// A tiffHeader is what the first directory of a TIFF says.
type tiffHeader struct {
	order  binary.ByteOrder
	values map[uint16][]uint32

	// What follows from it, as Pillow reads it.
	width, height int
	compression   int
	photometric   int
	bits          int   // of a sample; 1, 2, 4, 8, 12, 16 or 32
	format        int   // of a sample
	samples       int   // of a pixel
	extra         []int // kinds of those beyond the colours, see tiffKind
	planar        bool  // each sample of the pixels in a plane of its own
	tables        []byte
	xmp           []byte
}

// get returns the first value of a tag, or its default.
func (t *tiffHeader) get(tag uint16, otherwise int) int {
	if v := t.values[tag]; len(v) > 0 {
		return int(v[0])
	}
	return otherwise
}

// readTIFF reads the tags that decide how pixels are stored.
func readTIFF(data []byte) (*tiffHeader, error) {
	const entrySize = 12
	t := &tiffHeader{order: binary.LittleEndian, values: make(map[uint16][]uint32)}
	short := damaged("directory lies beyond the end")
	if len(data) < 8 {
		return nil, short
	}
	if data[0] == 'M' {
		t.order = binary.BigEndian
	}
	start := int64(t.order.Uint32(data[4:]))
	if start+2 > int64(len(data)) {
		return nil, short
	}
	entries := data[start+2:]
	count := int(t.order.Uint16(data[start:]))
	if len(entries) < count*entrySize {
		return nil, short
	}
	for e := range count {
		entry := entries[e*entrySize:][:entrySize]
		most := 8 // values; enough for all but the tables
		switch tag := t.order.Uint16(entry); tag {
		case tagStripOffsets, tagStripByteCounts, tagTileOffsets, tagTileByteCounts, tagColorMap, tagJPEGTables:
			most = len(data)
			if tables := int64(t.order.Uint32(entry[4:])); tag == tagJPEGTables && tables > maxJPEGTables {
				return nil, unsupported("JPEG tables of %d bytes", tables)
			}
			fallthrough
		case tagWidth, tagHeight, tagBitsPerSample, tagCompression, tagPhotometric, tagFillOrder, tagOrientation, tagSamplesPerPixel,
			tagRowsPerStrip, tagPlanarConfig, tagT4Options, tagPredictor, tagTileWidth, tagTileLength, tagExtraSamples, tagSampleFormat:
			if t.values[tag] != nil { // of which Pillow and libtiff take different ones
				return nil, unsupported("tag %d twice", tag)
			}
			v, err := t.read(data, entry, most)
			if err != nil {
				return nil, err
			}
			t.values[tag] = v
		case tagXMP:
			if kind := t.order.Uint16(entry[2:]); kind == 1 || kind == 7 { // bytes
				t.xmp = valueOf(data, t.order, entry, 1)
			}
		}
	}
	if t.get(tagCompression, noCompression) != noCompression {
		sum := 0
		for _, n := range slices.Concat(t.values[tagStripByteCounts], t.values[tagTileByteCounts]) {
			sum += int(n)
		}
		if sum > 4*len(data) {
			// Strips that lie on top of each other would make decoding quadratic in the size of the file.
			return nil, damaged("strips are larger than the file")
		}
	}
	return t, t.interpret()
}

// read returns the values of an entry of type SHORT or LONG, or of bytes for the JPEG tables, most of them at most.
func (t *tiffHeader) read(data, entry []byte, most int) ([]uint32, error) {
	const byteType, shortType, longType, undefinedType = 1, 3, 4, 7
	tag := t.order.Uint16(entry)
	var size int64
	switch kind := t.order.Uint16(entry[2:]); {
	case kind == shortType:
		size = 2
	case kind == longType:
		size = 4
	case tag == tagJPEGTables && (kind == byteType || kind == undefinedType):
		size = 1
	default:
		return nil, unsupported("type %d of tag %d", kind, tag)
	}
	count := int64(t.order.Uint32(entry[4:]))
	field := entry[8:12]
	if count*size > 4 {
		at := int64(t.order.Uint32(field))
		if at+count*size > int64(len(data)) {
			return nil, damaged("the values of tag %d lie beyond the end", tag)
		}
		field = data[at:]
	}
	switch tag {
	case tagBitsPerSample, tagStripOffsets, tagStripByteCounts, tagColorMap, tagTileOffsets, tagTileByteCounts, tagExtraSamples,
		tagSampleFormat, tagJPEGTables:
		if count == 0 {
			return nil, damaged("tag %d has no value", tag)
		}
	default:
		if count != 1 {
			return nil, unsupported("%d values of tag %d", count, tag)
		}
	}
	v := make([]uint32, min(count, int64(most)))
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
	return v, nil
}

// interpret derives the kind of picture from the tags, and refuses what Pillow refuses or what cannot be done as it does.
func (t *tiffHeader) interpret() error {
	t.width, t.height = t.get(tagWidth, 0), t.get(tagHeight, 0)
	if t.width > 1<<31-1 || t.height > 1<<31-1 {
		return damaged("side of more than 2^31-1 pixels")
	}
	t.compression = t.get(tagCompression, noCompression)
	t.photometric = t.get(tagPhotometric, whiteIsZero)
	t.samples = t.get(tagSamplesPerPixel, 1)
	t.planar = t.get(tagPlanarConfig, 1) == 2
	for _, v := range t.values[tagJPEGTables] {
		t.tables = append(t.tables, byte(v))
	}
	for _, v := range t.values[tagExtraSamples] {
		t.extra = append(t.extra, int(v))
	}
	bits, ok := same(t.values[tagBitsPerSample], 1)
	if t.bits = bits; !ok {
		return unsupported("samples of different sizes")
	}
	if t.format, ok = same(t.values[tagSampleFormat], unsignedSamples); !ok {
		return unsupported("samples of different types")
	}
	if v := t.get(tagPlanarConfig, 1); v != 1 && v != 2 {
		return unsupported("planar configuration %d", v)
	}

	sizes := max(len(t.values[tagBitsPerSample]), 1)
	if t.planar && len(t.extra) > 0 && slices.Max(t.extra) == 0 {
		t.samples -= len(t.extra)
		sizes -= len(t.extra)
		t.extra = nil
	}
	if sizes != 1 && sizes < t.samples {
		return unsupported("sizes of %d of %d samples", sizes, t.samples)
	}
	if t.samples == 1 && !(t.planar && t.compression == noCompression) {
		t.planar = false
	}
	return t.check()
}

// same returns the value that all of v have, and otherwise if there are none.
func same(v []uint32, otherwise int) (int, bool) {
	if len(v) == 0 {
		return otherwise, true
	}
	return int(v[0]), !slices.ContainsFunc(v, func(x uint32) bool { return x != v[0] })
}

// colours returns the number of samples that make the colour of a pixel.
func (t *tiffHeader) colours() int {
	switch t.photometric {
	case rgbColours, ycbcr:
		return 3
	case cmykInks:
		return 4
	}
	return 1
}

// A tiffKind is what samples there are of a pixel.
type tiffKind struct {
	photometric, format, bits, samples int
	extra                              string // kinds of those beyond the colours: 0 nothing, 1 alpha that colours were multiplied by, others alpha
}

// tiffOrders are the orders of bytes, and of bits in a byte, in which a kind is known.
type tiffOrders uint8

const (
	little tiffOrders = 1 << iota
	big
	littleReversed
	bigReversed

	eitherOrder = little | big
	anyOrder    = eitherOrder | littleReversed | bigReversed
)

// tiffKinds are the kinds that Pillow opens (OPEN_INFO in its TiffImagePlugin), without those that it cannot make gray, LAB and
// gray multiplied by alpha, and without YCbCr of one sample.
var tiffKinds = map[tiffKind]tiffOrders{
	{whiteIsZero, unsignedSamples, 1, 1, ""}:  anyOrder,
	{whiteIsZero, unsignedSamples, 2, 1, ""}:  anyOrder,
	{whiteIsZero, unsignedSamples, 4, 1, ""}:  anyOrder,
	{whiteIsZero, unsignedSamples, 8, 1, ""}:  anyOrder,
	{whiteIsZero, unsignedSamples, 16, 1, ""}: little,
	{whiteIsZero, floatSamples, 32, 1, ""}:    eitherOrder,

	{blackIsZero, unsignedSamples, 1, 1, ""}:  anyOrder,
	{blackIsZero, unsignedSamples, 2, 1, ""}:  anyOrder,
	{blackIsZero, unsignedSamples, 4, 1, ""}:  anyOrder,
	{blackIsZero, unsignedSamples, 8, 1, ""}:  anyOrder,
	{blackIsZero, unsignedSamples, 8, 2, "0"}: eitherOrder,
	{blackIsZero, unsignedSamples, 8, 2, "2"}: eitherOrder,
	{blackIsZero, unsignedSamples, 12, 1, ""}: little,
	{blackIsZero, unsignedSamples, 16, 1, ""}: eitherOrder | littleReversed,
	{blackIsZero, unsignedSamples, 32, 1, ""}: little,
	{blackIsZero, signedSamples, 8, 1, ""}:    eitherOrder,
	{blackIsZero, signedSamples, 16, 1, ""}:   eitherOrder,
	{blackIsZero, signedSamples, 32, 1, ""}:   eitherOrder,
	{blackIsZero, floatSamples, 32, 1, ""}:    eitherOrder,

	{rgbColours, unsignedSamples, 8, 3, ""}:      anyOrder,
	{rgbColours, unsignedSamples, 8, 4, ""}:      eitherOrder,
	{rgbColours, unsignedSamples, 8, 4, "0"}:     eitherOrder,
	{rgbColours, unsignedSamples, 8, 4, "1"}:     eitherOrder,
	{rgbColours, unsignedSamples, 8, 4, "2"}:     eitherOrder,
	{rgbColours, unsignedSamples, 8, 4, "999"}:   eitherOrder,
	{rgbColours, unsignedSamples, 8, 5, "0 0"}:   eitherOrder,
	{rgbColours, unsignedSamples, 8, 5, "1 0"}:   eitherOrder,
	{rgbColours, unsignedSamples, 8, 5, "2 0"}:   eitherOrder,
	{rgbColours, unsignedSamples, 8, 6, "0 0 0"}: eitherOrder,
	{rgbColours, unsignedSamples, 8, 6, "1 0 0"}: eitherOrder,
	{rgbColours, unsignedSamples, 8, 6, "2 0 0"}: eitherOrder,
	{rgbColours, unsignedSamples, 16, 3, ""}:     eitherOrder,
	{rgbColours, unsignedSamples, 16, 4, ""}:     eitherOrder,
	{rgbColours, unsignedSamples, 16, 4, "0"}:    eitherOrder,
	{rgbColours, unsignedSamples, 16, 4, "1"}:    eitherOrder,
	{rgbColours, unsignedSamples, 16, 4, "2"}:    eitherOrder,

	{paletted, unsignedSamples, 1, 1, ""}:  anyOrder,
	{paletted, unsignedSamples, 2, 1, ""}:  anyOrder,
	{paletted, unsignedSamples, 4, 1, ""}:  anyOrder,
	{paletted, unsignedSamples, 8, 1, ""}:  anyOrder,
	{paletted, unsignedSamples, 8, 2, "0"}: eitherOrder,
	{paletted, unsignedSamples, 8, 2, "2"}: eitherOrder,

	{cmykInks, unsignedSamples, 8, 4, ""}:    eitherOrder,
	{cmykInks, unsignedSamples, 8, 5, "0"}:   eitherOrder,
	{cmykInks, unsignedSamples, 8, 6, "0 0"}: eitherOrder,
	{cmykInks, unsignedSamples, 16, 4, ""}:   eitherOrder,

	{ycbcr, unsignedSamples, 8, 3, ""}: eitherOrder,
}

// check refuses as unsupported all that is not known to come out as in Pillow.
func (t *tiffHeader) check() error {
	kind := tiffKind{t.photometric, t.format, t.bits, t.samples, strings.Trim(fmt.Sprint(t.extra), "[]")}
	orders, fillOrder := little, t.get(tagFillOrder, 1)
	if t.order == binary.BigEndian {
		orders = big
	}
	if fillOrder == 2 {
		orders <<= 2 // little to littleReversed, big to bigReversed
	}
	if tiffKinds[kind]&orders == 0 || fillOrder != 1 && fillOrder != 2 {
		return unsupported("%d samples of %d bits and type %d, photometric interpretation %d, extra samples %d, bit order %d",
			t.samples, t.bits, t.format, t.photometric, t.extra, fillOrder)
	}
	raw := t.compression == noCompression
	switch {
	case t.photometric == ycbcr && t.compression != newJPEG:
		// libtiff converts what is compressed by JPEG; other YCbCr releases of Pillow read differently.
		return unsupported("YCbCr with compression %d", t.compression)
	case t.format != unsignedSamples && t.bits > 8 && t.order == binary.BigEndian && !raw:
		// Pillow mistakes the order of bytes, and its releases differ in that.
		return unsupported("big-endian samples of type %d with compression %d", t.format, t.compression)
	case t.planar && t.samples > 4:
		return unsupported("%d planes", t.samples)
	case fillOrder == 2 && raw && (t.photometric == whiteIsZero && t.bits == 8 || t.photometric == paletted && t.bits < 8):
		return unsupported("samples of %d bits in reverse order, not compressed", t.bits) // nor has Pillow's reader them
	case t.planar && raw:
		// Pillow's own reader, not libtiff, which knows few kinds.
		undeclared := t.photometric == rgbColours && t.samples == 4 && len(t.extra) == 0
		tiled := t.values[tagTileOffsets] != nil
		if t.bits != 8 || t.colours() == 1 || t.multiplied() || undeclared && tiled || fillOrder == 2 {
			return unsupported("samples in separate planes, not compressed, of this kind")
		}
	}
	return t.checkCompression()
}

// multiplied reports whether colours are stored multiplied by alpha.
func (t *tiffHeader) multiplied() bool {
	if t.photometric != rgbColours || t.samples < 4 {
		return false
	}
	if len(t.extra) == 0 {
		return t.planar && t.compression != noCompression // libtiff says so, and Pillow believes it there only
	}
	return t.extra[0] == 1
}

// wide reports whether pixels are gray of 16 bits, of which people see the high byte, and Pillow takes what is above 255 for white.
func (t *tiffHeader) wide() bool {
	return t.bits == 16 && t.format == unsignedSamples && t.colours() == 1 && t.photometric != paletted
}

// transparent reports whether the sample after the colours is alpha.
func (t *tiffHeader) transparent() bool {
	return t.multiplied() || t.photometric != cmykInks && t.photometric != ycbcr && len(t.extra) > 0 && t.extra[0] == 2
}

func (t *tiffHeader) checkCompression() error {
	switch t.compression {
	case noCompression, packBits:
		return nil
	case groupThree, groupFour:
		if t.bits != 1 || t.photometric == paletted {
			return unsupported("fax compression of %d-bit samples", t.bits)
		}
		if v := t.get(tagT4Options, 0); t.compression == groupThree && v&3 != 0 {
			return unsupported("two-dimensional or uncompressed Group 3 fax")
		}
		return nil
	case lzwCompression, deflate, deflateObsolete:
		switch v := t.get(tagPredictor, 1); {
		case v == 1, v == 2 && t.bits >= 8 && t.bits != 12:
		case v == 3 && t.format == floatSamples:
		default:
			return unsupported("predictor %d of %d-bit samples", v, t.bits)
		}
		return nil
	case newJPEG:
		if t.bits != 8 || t.planar || len(t.extra) > 0 || t.photometric == paletted || t.photometric == cmykInks {
			return unsupported("JPEG compression of this kind of picture")
		}
		return nil
	case oldJPEG:
		return unsupported("JPEG compression of before TIFF Technical Note 2")
	}
	return unsupported("compression %d", t.compression)
}

// orientation is that of the tag or, as in Pillow, of XMP where there is no tag.
func (t *tiffHeader) orientation() int {
	if t.values[tagOrientation] == nil {
		return metadata{xmp: t.xmp}.orientation()
	}
	return t.get(tagOrientation, 1)
}

// turned reports whether the picture is to be turned by a quarter, which swaps width and height.
func (t *tiffHeader) turned() bool { return t.orientation() >= 5 && t.orientation() <= 8 }

func sizeTIFF(data []byte) (width, height int, err error) {
	t, err := readTIFF(data)
	if err != nil {
		return 0, 0, err
	}
	if t.turned() {
		return t.height, t.width, nil
	}
	return t.width, t.height, nil
}

func decodeTIFF(data []byte) (picture, error) {
	t, err := readTIFF(data)
	if err != nil {
		return picture{}, err
	}
	ratio := 4096 // of LZW; others have less
	switch t.compression {
	case noCompression:
		ratio = 1
	case groupThree, groupFour: // a row can be a single bit
		ratio = 8 * max(t.width, 1)
	}
	if err := plausible(data, t.height, t.width*t.bits*t.samples, ratio); err != nil {
		return picture{}, err
	}
	if t.compression == newJPEG {
		return t.jpegPicture(data)
	}
	pix, n, err := t.pixels(data)
	if err != nil {
		return picture{}, err
	}
	stride := n * t.width
	p := picture{width: t.width, height: t.height}
	first := everySample(pix, stride, n, 0)
	switch {
	case t.photometric == paletted:
		colours, err := t.palette()
		if err != nil {
			return picture{}, err
		}
		indices := make([]uint8, t.width)
		p.rgb = func(y int, rgb []uint8) {
			first(y, indices)
			colours.row(rgb, indices)
		}
	case n <= 2:
		p.row = first
	case t.photometric == cmykInks:
		p.rgb = func(y int, rgb []uint8) { cmykToRGB(rgb, pix[y*stride:]) }
	case t.multiplied():
		p.rgb = func(y int, rgb []uint8) { unmultiply(rgb, pix[y*stride:]) }
	default:
		p.rgb = everyNth(pix, stride, n, 1)
	}
	if t.transparent() {
		p.alpha = everySample(pix, stride, n, n-1)
	}
	if t.wide() {
		p.row, p.seen = clipped(pix, stride), everySample(pix, stride, n, 0)
		if t.photometric == whiteIsZero {
			p.seen = inverted(p.seen)
		}
	}
	return orient(p, t.orientation()), nil
}

// palette returns the colour map: all of red, then green, then blue, 16 bits each, of which Pillow takes the high ones.
func (t *tiffHeader) palette() (p colourTable, err error) {
	v, n := t.values[tagColorMap], 1<<t.bits
	if len(v) < 3*n {
		return p, damaged("colour map of %d values, want %d", len(v), 3*n)
	}
	n = len(v) / 3
	for i := range min(n, len(p)) {
		p[i] = [3]uint8{uint8(v[i] >> 8), uint8(v[n+i] >> 8), uint8(v[2*n+i] >> 8)}
	}
	return p, nil
}

// orient turns and mirrors p as the orientation tag says (1 to 8, TIFF 6.0 page 36); other values leave it as it is. Pillow does
// so when it loads a TIFF, and for no other format.
func orient(p picture, orientation int) picture {
	if orientation < 2 || orientation > 8 {
		return p
	}
	at, w, h := turning(orientation, p.width, p.height)
	// turned returns rows of size bytes a pixel, nil if there are none.
	turned := func(read func(y int, row []uint8), size int) func(y int, row []uint8) {
		if read == nil {
			return nil
		}
		plane := make([]uint8, size*p.width*p.height)
		for y := range p.height {
			read(y, plane[size*y*p.width:][:size*p.width])
		}
		return func(y int, row []uint8) {
			from := size * (at.origin + y*at.down)
			for to := 0; to < len(row); to += size {
				copy(row[to:to+size], plane[from:])
				from += size * at.right
			}
		}
	}
	return picture{width: w, height: h, row: turned(p.row, 1), rgb: turned(p.rgb, 3), ycc: turned(p.ycc, 3), alpha: turned(p.alpha, 1), seen: turned(p.seen, 1)}
}
