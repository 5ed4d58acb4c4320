package jpeg

import "encoding/binary"

// Markers (T.81, table B.1), the second of their two bytes.
const (
	markerTEM   = 0x01
	markerSOF0  = 0xC0 // baseline
	markerSOF1  = 0xC1 // extended sequential
	markerSOF2  = 0xC2 // progressive
	markerDHT   = 0xC4
	markerSOF9  = 0xC9 // sequential, arithmetic coding
	markerSOF10 = 0xCA // progressive, arithmetic coding
	markerDAC   = 0xCC
	markerRST0  = 0xD0
	markerRST7  = 0xD7
	markerSOI   = 0xD8
	markerEOI   = 0xD9
	markerSOS   = 0xDA
	markerDQT   = 0xDB
	markerDNL   = 0xDC
	markerDRI   = 0xDD
	markerAPP0  = 0xE0
	markerAPP14 = 0xEE
	markerAPP15 = 0xEF
	markerCOM   = 0xFE
)

const (
	maxSide      = 65500 // pixels; libjpeg's limit, a little below that of the format
	maxMCUBlocks = 10    // blocks in a minimum coded unit (T.81, B.2.3)
)

// A component is one of the colour channels (T.81, A.1.1).
type component struct {
	id                    uint8
	h, v                  int // sampling factors, 1 to 4
	table                 uint8
	width, height         int // in samples, without the padding to whole blocks
	blocksWide, blocksTop int // in blocks, without the padding to whole MCUs
	blocksHigh            int // the same down; blocksTop is kept for the buffer of coefficients
	stride                int // blocks in a row with that padding

	quant   *[64]uint16 // by position in the block; nil until the first scan with this component
	coefs   [][64]int16 // by row of stride blocks, where the file has several scans
	known   []uint64    // progressive: a bit for each AC coefficient of a block that is not 0, in zigzag order
	bits    [64]int8    // progressive: the bit up to which each coefficient is known, -1 for nothing; in zigzag order
	samples plane
}

// A scanComponent is a component's part in a scan.
type scanComponent struct {
	*component
	dcTable, acTable uint8
	dc, ac           *table
	prediction       int32 // DC value of the block before
}

type decoder struct {
	data   []byte
	pos    int
	marker uint8 // marker that was met but not dealt with, or 0
	atWork uint8 // marker that is being dealt with, or 0
	sink   Sink
	// application takes the application segments, if it is not nil.
	application func(marker uint8, content []byte)

	frame         uint8 // marker of the frame header, or 0
	width, height int
	progressive   bool
	maxH, maxV    int
	mcusX, mcusY  int // of an interleaved scan
	components    []component

	quant     [4]*[64]uint16
	dc, ac    [4]*codes
	interval  int // MCUs between restart markers, or 0
	jfif      bool
	adobe     bool
	transform uint8 // Adobe's: 0 none, 1 YCbCr, 2 YCCK

	scan                []scanComponent
	first, last         int    // coefficients in zigzag order
	band                uint64 // a bit for each of these
	highBit, lowBit     uint   // successive approximation
	entropy             reader
	nextRestart         uint8 // 0 to 7
	untilRestart        int   // MCUs
	scanStart           int   // where the data of the scan begin, of a file that has only one
	endOfBands          int   // blocks that the end-of-band run still covers
	exhausted           bool  // the data up to the next marker is used up
	visited, mostVisits int   // blocks, over all scans
}

// zigzag is the position in the block of each coefficient in coded order (T.81, figure A.6). A run in corrupt data can go past the
// end by 15, where libjpeg stores at the last position.
var zigzag = func() (z [128]uint8) {
	for i := range z {
		z[i] = 63
	}
	i := 0
	for sum := range 15 {
		for n := range sum + 1 {
			x, y := n, sum-n
			if sum%2 == 1 {
				x, y = y, x
			}
			if x < 8 && y < 8 {
				z[i] = uint8(8*y + x)
				i++
			}
		}
	}
	return z
}()

// nextMarker goes on to the next marker, over whatever else there is.
func (d *decoder) nextMarker() error {
	d.atWork = 0
	for {
		for d.pos < len(d.data) && d.data[d.pos] != 0xFF {
			d.pos++
		}
		for d.pos < len(d.data) && d.data[d.pos] == 0xFF { // any number of fill bytes
			d.pos++
		}
		if d.pos >= len(d.data) {
			return errTruncated
		}
		m := d.data[d.pos]
		d.pos++
		if m != 0 {
			d.marker = m
			return nil
		}
	}
}

// segment reads the parameters of a marker segment and goes past it. A length of less than that of the length itself is let pass
// in segments that are skipped, and an error in others.
func (d *decoder) segment(skipped bool) ([]byte, error) {
	if d.pos+2 > len(d.data) {
		return nil, errTruncated
	}
	n := int(binary.BigEndian.Uint16(d.data[d.pos:]))
	if n < 2 && !skipped {
		return nil, damaged("segment of marker %#02x without room for its length", d.data[d.pos-1])
	}
	n = max(n, 2)
	if d.pos+n > len(d.data) {
		return nil, errTruncated
	}
	s := d.data[d.pos+2 : d.pos+n]
	d.pos += n
	return s, nil
}

// header reads up to and with the first scan header or, if sizeOnly, the frame header.
func (d *decoder) header(sizeOnly bool) error {
	// Pillow wants the next marker right behind.
	if len(d.data) < 3 || d.data[0] != 0xFF || d.data[1] != markerSOI || d.data[2] != 0xFF {
		return damaged("does not begin with the start-of-image marker and another")
	}
	d.pos = 2
	for {
		if err := d.nextMarker(); err != nil {
			return err
		}
		if d.marker < markerSOF0 {
			return damaged("marker %#02x before the first scan", d.marker)
		}
		if d.marker == markerEOI {
			return damaged("no picture before the end-of-image marker")
		}
		done, err := d.segmentOf()
		if done || err != nil || sizeOnly && d.frame != 0 {
			return err
		}
	}
}

// next goes on after a scan: it reads up to and with the next scan header, or the end of the image.
func (d *decoder) next() (end bool, err error) {
	for {
		if d.marker == 0 {
			if err := d.nextMarker(); err != nil {
				return false, err
			}
		}
		if d.marker == markerEOI {
			return true, nil
		}
		if scan, err := d.segmentOf(); scan || err != nil {
			return false, err
		}
	}
}

// segmentOf deals with d.marker. It reports whether that was a scan header.
func (d *decoder) segmentOf() (scan bool, err error) {
	m := d.marker
	d.marker, d.atWork = 0, m
	switch {
	case m >= markerRST0 && m <= markerRST7, m == markerTEM:
		return false, nil
	case m == markerSOI:
		return false, damaged("second start-of-image marker")
	case m == markerSOF0, m == markerSOF1, m == markerSOF2:
		s, err := d.segment(false)
		if err != nil {
			return false, err
		}
		return false, d.frameHeader(m, s)
	case m == markerDHT, m == markerSOS, m == markerDQT, m == markerDRI, m >= markerAPP0 && m <= markerAPP15,
		m == markerCOM, m == markerDNL, m == markerDAC:
	case m == markerSOF9, m == markerSOF10, m == 0xCB, m >= 0xCD && m <= 0xCF:
		return false, d.otherFrame(m, "arithmetic coding")
	case m == 0xC3:
		return false, d.otherFrame(m, "lossless coding")
	case m >= 0xC5 && m <= 0xC7, m == 0xDE, m == 0xDF:
		return false, d.otherFrame(m, "hierarchical coding")
	default:
		return false, damaged("unknown marker %#02x", m)
	}

	s, err := d.segment(m >= markerAPP0 || m == markerDNL)
	if err != nil {
		return false, err
	}
	if d.application != nil && m >= markerAPP0 && m <= markerAPP15 {
		d.application(m, s)
	}
	switch m {
	case markerDHT:
		return false, d.huffmanTables(s)
	case markerDQT:
		return false, d.quantTables(s)
	case markerDAC:
		return false, conditioning(s)
	case markerDRI:
		if len(s) != 2 {
			return false, damaged("restart interval of %d bytes", len(s))
		}
		d.interval = int(binary.BigEndian.Uint16(s))
	case markerSOS:
		return true, d.scanHeader(s)
	case markerAPP0, markerAPP14:
		return false, d.colourMarker(m, s)
	}
	return false, nil
}

// otherFrame is the error for frames of kinds that are not decoded.
func (d *decoder) otherFrame(m uint8, what string) error {
	if d.frame != 0 {
		return damaged("marker %#02x after the frame header", m)
	}
	return UnsupportedError(what)
}

// colourMarker takes from JFIF (version 1.02) and Adobe (technical note 5116) what they say of colours. Pillow refuses segments of
// theirs that end within the version.
func (d *decoder) colourMarker(m uint8, s []byte) error {
	const version = 7 // end of the version number in both
	switch {
	case m == markerAPP0 && len(s) >= 4 && string(s[:4]) == "JFIF":
		if d.scan == nil && len(s) < version {
			return damaged("JFIF segment of %d bytes", len(s))
		}
		if len(s) >= 14 && s[4] == 0 {
			d.jfif = true
		}
	case m == markerAPP14 && len(s) >= 5 && string(s[:5]) == "Adobe":
		if d.scan == nil && len(s) < version {
			return damaged("Adobe segment of %d bytes", len(s))
		}
		if len(s) >= 12 {
			d.adobe, d.transform = true, s[11]
		}
	}
	return nil
}

// conditioning checks a DAC segment (T.81, B.2.4.3), as libjpeg does even where Huffman codes are used.
func conditioning(s []byte) error {
	for ; len(s) >= 2; s = s[2:] {
		class, n, value := s[0]>>4, s[0]&15, s[1]
		if class > 1 || class == 0 && value&15 > value>>4 {
			return damaged("arithmetic conditioning %d of table %#02x", value, class<<4|n)
		}
	}
	if len(s) != 0 {
		return damaged("arithmetic conditioning is cut short")
	}
	return nil
}

// quantTables reads a DQT segment (T.81, B.2.4.1).
func (d *decoder) quantTables(s []byte) error {
	for len(s) > 0 {
		size := 64
		wide := s[0]>>4 != 0
		if wide {
			size = 128
		}
		n := s[0] & 15
		if n >= 4 {
			return damaged("quantisation table %d", n)
		}
		s = s[1:]
		if len(s) < size {
			return damaged("quantisation table is cut short")
		}
		t := new([64]uint16)
		for i := range t {
			if wide {
				t[zigzag[i]] = binary.BigEndian.Uint16(s[2*i:])
			} else {
				t[zigzag[i]] = uint16(s[i])
			}
		}
		d.quant[n] = t
		s = s[size:]
	}
	return nil
}

// huffmanTables reads a DHT segment (T.81, B.2.4.2).
func (d *decoder) huffmanTables(s []byte) error {
	for len(s) > 16 {
		class, n := s[0]>>4, s[0]&15
		if class > 1 || n >= 4 {
			return damaged("Huffman table %#02x", s[0])
		}
		c := new(codes)
		total := 0
		for i, count := range s[1:17] {
			c.count[i+1] = count
			total += int(count)
		}
		s = s[17:]
		if total > 256 || total > len(s) {
			return damaged("Huffman table is cut short")
		}
		copy(c.symbol[:], s[:total])
		s = s[total:]
		if class == 0 {
			d.dc[n] = c
		} else {
			d.ac[n] = c
		}
	}
	if len(s) != 0 {
		return damaged("Huffman table is cut short")
	}
	return nil
}

// frameHeader reads a frame header (T.81, B.2.2).
func (d *decoder) frameHeader(m uint8, s []byte) error {
	if d.frame != 0 {
		return damaged("second frame header")
	}
	if len(s) < 6 {
		return damaged("frame header of %d bytes", len(s))
	}
	precision, count := s[0], int(s[5])
	if precision != 8 {
		return UnsupportedError("samples of other than 8 bits")
	}
	if count != 1 && count != 3 && count != 4 {
		return UnsupportedError("colours of other than 1, 3 or 4 components")
	}
	d.height, d.width = int(binary.BigEndian.Uint16(s[1:])), int(binary.BigEndian.Uint16(s[3:]))
	if d.height == 0 || d.width == 0 {
		return damaged("size of %d x %d pixels", d.width, d.height)
	}
	if len(s) != 6+3*count {
		return damaged("frame header of %d bytes", len(s))
	}
	d.frame, d.progressive = m, m == markerSOF2
	d.components = make([]component, count)
	d.maxH, d.maxV = 1, 1
	for i := range d.components {
		c := &d.components[i]
		c.id, c.h, c.v, c.table = s[6+3*i], int(s[7+3*i]>>4), int(s[7+3*i]&15), s[8+3*i]
		if c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4 {
			return damaged("sampling factors %d x %d", c.h, c.v)
		}
		d.maxH, d.maxV = max(d.maxH, c.h), max(d.maxV, c.v)
	}
	d.mcusX, d.mcusY = ceil(d.width, 8*d.maxH), ceil(d.height, 8*d.maxV)
	for i := range d.components {
		c := &d.components[i]
		if d.maxH%c.h != 0 || d.maxV%c.v != 0 {
			return UnsupportedError("chroma sampling in a ratio that is not integral")
		}
		c.width, c.height = ceil(d.width*c.h, d.maxH), ceil(d.height*c.v, d.maxV)
		c.blocksWide, c.blocksHigh = ceil(c.width, 8), ceil(c.height, 8)
		c.stride, c.blocksTop = d.mcusX*c.h, d.mcusY*c.v
		for k := range c.bits {
			c.bits[k] = -1
		}
	}
	return nil
}

func ceil(a, b int) int { return (a + b - 1) / b }

// scanHeader reads a scan header (T.81, B.2.3).
func (d *decoder) scanHeader(s []byte) error {
	if d.frame == 0 {
		return damaged("scan before the frame header")
	}
	if len(s) < 1 || s[0] < 1 || s[0] > 4 || len(s) != 4+2*int(s[0]) {
		return damaged("scan header of %d bytes", len(s))
	}
	n := int(s[0])
	scan := make([]scanComponent, n)
	blocks := 0
	for i := range scan {
		id, tables := s[1+2*i], s[2+2*i]
		// Components come in the order of the frame. As with libjpeg, some disorder passes, and identifiers may repeat.
		j := i
		for j < len(d.components) && d.components[j].id != id {
			j++
		}
		if j == len(d.components) {
			return damaged("component %d of the scan is not in the frame, or not in this place", id)
		}
		c := &d.components[j]
		for _, other := range scan[:i] {
			if other.component == c {
				return damaged("component %d is twice in a scan", id)
			}
		}
		blocks += c.h * c.v
		scan[i] = scanComponent{component: c, dcTable: tables >> 4, acTable: tables & 15}
	}
	d.scan = scan
	if n > 1 && blocks > maxMCUBlocks {
		return damaged("%d blocks in a unit of the scan, where 10 may be", blocks)
	}
	tail := s[1+2*n:]
	d.first, d.last, d.highBit, d.lowBit = int(tail[0]), int(tail[1]), uint(tail[2]>>4), uint(tail[2]&15)
	d.nextRestart = 0
	return nil
}
