package jpeg

import (
	"bytes"
	"encoding/binary"
)

const (
	readerBuffer = 1 << 15
	// mcuBytes is more than the entropy-coded data of one MCU can take: each of its coefficients a code of 17 bits, which is
	// what it takes to find that a code does not exist, and a value of 15.
	mcuBytes = maxMCUBlocks * 64 * (17 + 15) / 8
	slack    = 16 // bytes of read-ahead
)

// A reader reads bits from the entropy-coded data up to a marker. It works on a copy without the stuffed zeros, which is made in
// pieces, so that the decoding loops need not look for markers. Past the data are zero bits, any number of them.
type reader struct {
	bits  uint64 // the next bits, from the most significant one
	count int    // how many of them were counted; below them may be some more of the same data
	at    int    // next byte of buf
	end   int    // end of the data in buf
	last  bool   // a marker follows, or nothing
	cut   bool   // nothing follows
	buf   [readerBuffer + mcuBytes + slack]byte
}

// restart empties the reader, for data that begin at d.pos.
func (r *reader) restart() {
	r.bits, r.count, r.at, r.end, r.last, r.cut = 0, 0, 0, 0, false, false
}

// overrun reports whether more bits were read than there are before the marker.
func (r *reader) overrun() bool { return r.last && 8*r.at-r.count > 8*r.end }

// fill makes sure that there is enough to decode an MCU. A file that has no marker after the data is truncated once they are
// used up.
func (d *decoder) fill() error {
	r := &d.entropy
	if r.cut && r.overrun() {
		return errTruncated
	}
	if r.last || r.end-r.at >= mcuBytes {
		return nil
	}
	r.end = copy(r.buf[:], r.buf[r.at:r.end])
	r.at = 0
	for r.end < readerBuffer {
		rest := d.data[d.pos:]
		rest = rest[:min(len(rest), readerBuffer-r.end)]
		n := bytes.IndexByte(rest, 0xFF)
		if n < 0 {
			r.end += copy(r.buf[r.end:], rest)
			d.pos += len(rest)
			if d.pos == len(d.data) {
				r.endsHere()
				return nil
			}
			continue
		}
		r.end += copy(r.buf[r.end:], rest[:n])
		d.pos += n
		for d.pos < len(d.data) && d.data[d.pos] == 0xFF { // more than one of them counts as one
			d.pos++
		}
		if d.pos == len(d.data) {
			r.endsHere()
			return nil
		}
		m := d.data[d.pos]
		d.pos++
		if m != 0 {
			d.marker, r.last = m, true
			r.clear()
			return nil
		}
		r.buf[r.end] = 0xFF
		r.end++
	}
	return nil
}

// endsHere notes that the data end with the file.
func (r *reader) endsHere() {
	r.last, r.cut = true, true
	r.clear()
}

// clear puts zeros behind the data.
func (r *reader) clear() { clear(r.buf[r.end : r.end+mcuBytes+slack]) }

// need brings the count to at least 48 bits.
func (r *reader) need() {
	r.bits |= binary.BigEndian.Uint64(r.buf[r.at:]) >> r.count
	n := (63 - r.count) >> 3
	r.at += n
	r.count += 8 * n
}

// take returns the next n bits, 1 to 16; need comes first.
func (r *reader) take(n uint) uint32 {
	v := uint32(r.bits >> (64 - n))
	r.bits <<= n
	r.count -= int(n)
	return v
}

// take1 is take(1) with need.
func (r *reader) take1() uint32 {
	if r.count == 0 {
		r.need()
	}
	return r.take(1)
}

// symbol decodes a Huffman code, of up to 17 bits: that many are read before a code is known not to exist, which counts as 0.
func (r *reader) symbol(t *table) uint8 {
	e := t.value[r.peek(lookBits)]
	if length := e & 31; length != 0 {
		if e>>16 != 0 {
			length -= e >> 12 & 15
		}
		r.bits <<= length
		r.count -= int(length)
		return uint8(e>>8&15<<4 | e>>12&15)
	}
	return r.longSymbol(t)
}

func (r *reader) longSymbol(t *table) uint8 {
	length := lookBits + 1
	for int32(r.bits>>(64-length)) > t.maxCode[length] {
		length++
	}
	code := int32(r.bits >> (64 - length))
	r.bits <<= length
	r.count -= length
	if length > 16 {
		return 0
	}
	return t.symbol[uint8(code+t.offset[length])]
}

// difference decodes a DC difference (T.81, F.2.2.1).
func (r *reader) difference(t *table) int32 {
	e := t.value[r.peek(lookBits)]
	if e>>16 != 0 {
		length := e & 31
		r.bits <<= length
		r.count -= int(length)
		return int32(e) >> 16
	}
	size := uint(r.symbol(t))
	if size == 0 {
		return 0
	}
	return r.value(size)
}

// value returns the value of size bits that is next.
func (r *reader) value(size uint) int32 {
	v := extend(r.bits, size)
	r.bits <<= size
	r.count -= int(size)
	return v
}

// peek returns the next n bits, after making sure that a code and a value of any size are there.
func (r *reader) peek(n int) uint64 {
	if r.count < 32 {
		r.need()
	}
	return r.bits >> (64 - n)
}

// sequential decodes a block of a sequential scan (T.81, F.2.1.2): the difference to the DC value before, and the AC coefficients
// other than 0, which it stores. It reports whether there were any of these.
func (r *reader) sequential(b *[64]int16, dc, ac *table) (difference int32, any bool) {
	difference = r.difference(dc)
	bits, count, at := r.bits, r.count, r.at
	k := 1
	for k < 64 {
		if count < 32 {
			bits |= binary.BigEndian.Uint64(r.buf[at:]) >> (count & 63)
			n := (63 - count) >> 3
			at += n
			count += 8 * n
		}
		e := ac.value[bits>>(64-lookBits)]
		if e>>16 != 0 {
			length := e & 31
			bits <<= length
			count -= int(length)
			k += int(e >> 8 & 15)
			b[zigzag[k&127]&63] = int16(e >> 16)
			k++
			continue
		}
		run, size := e>>8&15, uint(e>>12&15)
		if length := e & 31; length != 0 {
			bits <<= length
			count -= int(length)
		} else {
			r.bits, r.count = bits, count
			s := r.longSymbol(ac)
			bits, count = r.bits, r.count
			run, size = uint32(s>>4), uint(s&15)
		}
		if size == 0 {
			if run != 15 {
				break
			}
			k += 16
			continue
		}
		k += int(run)
		v := extend(bits, size)
		bits <<= size & 63
		count -= int(size)
		b[zigzag[k&127]&63] = int16(v)
		k++
	}
	r.bits, r.count, r.at = bits, count, at
	return difference, k > 1
}
