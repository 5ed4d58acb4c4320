package jpeg

// Pillow gives libjpeg-turbo a file in pieces and stops as soon as it has all rows. So a file without its end may pass: it does
// if the last unit was decoded before libjpeg-turbo asked for more than there is. It reads ahead, by up to eight bytes, and asks
// for them whether it needs them or not, so that a few bytes of anything after the picture decide. This file computes when it
// asks (jdhuff.c of libjpeg-turbo 2.1 and 3.x on 64-bit machines, in which both ways to decode a unit end in the same rows).

const (
	pieceBytes = 1 << 16 // ImageFile.MAXBLOCK, by which Pillow reads
	fastBytes  = 512     // that must be there for each block of a unit that is decoded without looking for the end
	fullBits   = 57      // that the careful way fills its buffer up to
	fastFill   = 16      // bits from which on the fast way adds six bytes
	lookAhead  = 8       // bits of the codes that are looked up at once
)

// asPillow decides about a file whose rows are all decoded, but in which something is wrong after them: fault. It returns nil if
// Pillow does not get as far as that.
func (d *decoder) asPillow(fault error) error {
	w := walker{d: d, data: d.data, at: d.scanStart, end: min(pieceBytes, len(d.data)), restarts: d.interval}
	for _, c := range d.scan {
		if len(d.scan) == 1 {
			w.blocks = 1
		} else {
			w.blocks += c.h * c.v
		}
	}
	units := d.mcusX * d.mcusY
	if len(d.scan) == 1 {
		units = d.scan[0].blocksWide * d.scan[0].blocksHigh
	}
	for range units {
		for !w.unit() {
			if w.disorder || w.end == len(w.data) {
				return fault
			}
			w.end = min(w.end+pieceBytes, len(w.data))
		}
	}
	// It looks for the end in what it has by now, and is content not to find it.
	rest := decoder{data: d.data[:w.end], pos: w.at, marker: w.marker, frame: d.frame, scan: d.scan, components: d.components}
	end, err := rest.next()
	switch {
	case err == nil && end, err == errTruncated && !rest.refusesAtOnce():
		return nil
	case err == errTruncated:
		return fault
	case err == nil:
		return errSecondScan
	}
	return err
}

// refusesAtOnce reports whether libjpeg-turbo refuses the segment at d.pos, of which only the beginning is there, by that alone.
func (d *decoder) refusesAtOnce() bool {
	s := d.data[d.pos:]
	switch d.atWork {
	case markerSOF0, markerSOF1, markerSOF2: // a second one
		return true
	case markerDRI:
		return len(s) >= 2 && int(s[0])<<8|int(s[1]) != 4
	}
	if len(s) < 3 {
		return false
	}
	length, first := int(s[0])<<8|int(s[1]), int(s[2])
	switch d.atWork {
	case markerSOS:
		return first < 1 || first > 4 || length != 6+2*first
	case markerDQT:
		return first&15 >= 4
	case markerDAC:
		pairs := s[2:min(len(s), max(length, 2))]
		return conditioning(pairs[:len(pairs)&^1]) != nil
	case markerDHT:
		const head = 2 + 1 + 16
		if len(s) < head || length < head {
			return false
		}
		count := 0
		for _, n := range s[3:head] {
			count += int(n)
		}
		return count > 256 || count > length-head
	}
	return false
}

// A walker goes through the entropy-coded data of a scan as libjpeg-turbo does, and keeps nothing of what it decodes.
type walker struct {
	d        *decoder
	data     []byte
	at, end  int // next byte, and how far Pillow has read
	blocks   int // of a unit
	bits     uint64
	left     int   // bits in the buffer
	marker   uint8 // that was met, or 0
	starved  bool  // bits were made up: units are left out until the next restart
	restarts int   // units until the next one
	number   uint8 // of that restart marker
	disorder bool  // another marker came in its place, which is not followed here
}

// unit decodes the next unit. It returns false, and stays where it was, if it needs more than there is.
func (w *walker) unit() bool {
	before := *w
	if w.step() {
		return true
	}
	disorder := w.disorder
	*w = before
	w.disorder = disorder
	return false
}

func (w *walker) step() bool {
	fast := w.d.interval == 0
	if w.d.interval != 0 {
		if w.restarts == 0 && !w.restart() {
			return false
		}
		w.restarts--
	}
	if w.starved {
		return true
	}
	if fast && w.end-w.at >= fastBytes*w.blocks && w.marker == 0 {
		before := *w
		if w.decode(true) && w.marker == 0 {
			return true
		}
		*w = before
	}
	return w.decode(false)
}

// restart goes behind the next restart marker.
func (w *walker) restart() bool {
	w.left, w.bits = 0, 0
	for w.marker == 0 {
		for w.at < w.end && w.data[w.at] != 0xFF {
			w.at++
		}
		for w.at < w.end && w.data[w.at] == 0xFF {
			w.at++
		}
		if w.at >= w.end {
			return false
		}
		w.marker = w.data[w.at]
		w.at++
	}
	if w.marker != markerRST0+w.number {
		w.disorder = true
		return false
	}
	w.marker, w.starved = 0, false
	w.number = (w.number + 1) & 7
	w.restarts = w.d.interval
	return true
}

// decode goes over the blocks of a unit.
func (w *walker) decode(fast bool) bool {
	for i := range w.d.scan {
		c := &w.d.scan[i]
		n := c.h * c.v
		if len(w.d.scan) == 1 {
			n = 1
		}
		for range n {
			if !w.block(c, fast) {
				return false
			}
		}
	}
	return true
}

func (w *walker) block(c *scanComponent, fast bool) bool {
	size, ok := w.symbol(c.dc, fast)
	if !ok || !w.drop(int(size), fast) {
		return false
	}
	for k := 1; k < 64; k++ {
		s, ok := w.symbol(c.ac, fast)
		if !ok {
			return false
		}
		run, size := int(s>>4), int(s&15)
		switch {
		case size > 0:
			k += run
			if !w.drop(size, fast) {
				return false
			}
		case run != 15:
			return true
		default:
			k += 15
		}
	}
	return true
}

// symbol decodes a symbol.
func (w *walker) symbol(t *table, fast bool) (uint8, bool) {
	length := 1
	switch {
	case fast:
		w.fillFast()
		length = w.short(t)
	case w.left < lookAhead:
		if !w.fill(0) {
			return 0, false
		}
		if w.left >= lookAhead {
			length = w.short(t)
		}
	default:
		length = w.short(t)
	}
	// Bits are taken one by one behind the first ones, as the buffer is filled when it is empty.
	if !fast && w.left < length && !w.fill(length) {
		return 0, false
	}
	code := int32(w.take(length))
	for ; code > t.maxCode[length]; length++ {
		if !fast && w.left == 0 && !w.fill(1) {
			return 0, false
		}
		code = code<<1 | int32(w.take(1))
	}
	if length > 16 {
		return 0, true
	}
	return t.symbol[uint8(code+t.offset[length])], true
}

// short returns the length of the next code if it is one that is looked up, else one more than these have.
func (w *walker) short(t *table) int {
	for length := 1; length <= lookAhead; length++ {
		if int32(w.peek(length)) <= t.maxCode[length] {
			return length
		}
	}
	return lookAhead + 1
}

// peek returns the next n bits.
func (w *walker) peek(n int) uint64 {
	if n > w.left { // the fast way may read zeros past the buffer in a corrupt file
		return w.bits << (n - w.left) & (1<<n - 1)
	}
	return w.bits >> (w.left - n) & (1<<n - 1)
}

// take is peek, and goes over the bits.
func (w *walker) take(n int) uint64 {
	v := w.peek(n)
	w.left = max(w.left-n, 0)
	return v
}

// drop goes over a value of n bits.
func (w *walker) drop(n int, fast bool) bool {
	switch {
	case n == 0:
		return true
	case fast:
		w.fillFast()
	case w.left < n && !w.fill(n):
		return false
	}
	w.take(n)
	return true
}

// fill fills the buffer, or returns false if there is not enough to do so, whether it is needed or not. After a marker it makes up
// bits if fewer than need are there.
func (w *walker) fill(need int) bool {
	for w.marker == 0 && w.left < fullBits {
		if w.at >= w.end {
			return false
		}
		c := w.data[w.at]
		w.at++
		if c == 0xFF {
			for c == 0xFF {
				if w.at >= w.end {
					return false
				}
				c = w.data[w.at]
				w.at++
			}
			if c != 0 {
				w.marker = c
				break
			}
			c = 0xFF
		}
		w.bits, w.left = w.bits<<8|uint64(c), w.left+8
	}
	if need > w.left {
		w.starved = true
		w.bits <<= fullBits - w.left
		w.left = fullBits
	}
	return true
}

// fillFast adds six bytes to a buffer that has few. A marker in them is noted, and read again by the careful way.
func (w *walker) fillFast() {
	if w.left > fastFill {
		return
	}
	for range 6 {
		c := w.data[w.at]
		w.at++
		if c == 0xFF {
			if w.data[w.at] != 0 {
				w.marker = w.data[w.at]
				w.at--
				c = 0
			} else {
				w.at++
			}
		}
		w.bits, w.left = w.bits<<8|uint64(c), w.left+8
	}
}
