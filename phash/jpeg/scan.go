package jpeg

import (
	"math"
	"math/bits"
)

// startScan prepares for the entropy-coded data after a scan header.
func (d *decoder) startScan() error {
	if d.progressive {
		if err := d.progression(); err != nil {
			return err
		}
	}
	for _, c := range d.scan {
		if c.quant == nil {
			if c.table >= 4 || d.quant[c.table] == nil {
				return damaged("no quantisation table %d", c.table)
			}
			c.quant = d.quant[c.table] // later ones of this number are for other components
		}
	}
	for i := range d.scan {
		c := &d.scan[i]
		var err error
		if !d.progressive || d.first == 0 && d.highBit == 0 {
			if c.dcTable >= 4 {
				return damaged("Huffman table %d", c.dcTable)
			}
			if c.dc, err = d.dc[c.dcTable].forDC(); err != nil {
				return err
			}
		}
		if !d.progressive || d.first != 0 {
			if c.acTable >= 4 {
				return damaged("Huffman table %d", c.acTable)
			}
			if c.ac, err = d.ac[c.acTable].forAC(); err != nil {
				return err
			}
		}
	}
	d.band = 0
	if d.progressive {
		d.band = ^uint64(0) >> (63 - d.last) >> d.first << d.first
	}
	d.entropy.restart()
	d.resetPredictions()
	return nil
}

func (d *decoder) resetPredictions() {
	for i := range d.scan {
		d.scan[i].prediction = 0
	}
	d.untilRestart = d.interval
	d.endOfBands = 0
	d.exhausted = false
}

// progression checks the parameters of a progressive scan (T.81, G.1.1.1) and notes what is known after it. Scans in an order that
// makes no sense pass, as with libjpeg.
func (d *decoder) progression() error {
	bad := d.lowBit > 13 || d.highBit != 0 && d.lowBit != d.highBit-1
	if d.first == 0 {
		bad = bad || d.last != 0
	} else {
		bad = bad || d.first > d.last || d.last > 63 || len(d.scan) != 1
	}
	if bad {
		return damaged("scan of coefficients %d to %d, bits %d to %d", d.first, d.last, d.highBit, d.lowBit)
	}
	for _, c := range d.scan {
		for k := d.first; k <= d.last; k++ {
			c.bits[k] = int8(d.lowBit)
		}
	}
	return nil
}

// beforeMCU deals with restart markers and makes data available.
func (d *decoder) beforeMCU() error {
	if d.interval != 0 {
		if d.untilRestart == 0 {
			if err := d.restart(); err != nil {
				return err
			}
		}
		d.untilRestart--
	}
	return d.fill()
}

// afterMCU notes that data have ended too early. The blocks up to the next restart marker, or the end of the scan, then stay as
// they are.
func (d *decoder) afterMCU() {
	if d.entropy.overrun() {
		d.exhausted = true
	}
}

// restart goes on behind the next restart marker (T.81, E.2.4), or to where libjpeg would go on if that is not the one expected.
func (d *decoder) restart() error {
	if d.marker == 0 {
		if err := d.nextMarker(); err != nil {
			return err
		}
	}
	for d.marker != markerRST0+d.nextRestart {
		const later, earlier = 2, 2 // as many markers are taken for lost, or for left over
		ahead := (d.marker - markerRST0 - d.nextRestart) & 7
		switch {
		case d.marker < markerSOF0: // no marker: go on
		case d.marker < markerRST0 || d.marker > markerRST7, ahead <= later:
			// The marker is kept: nothing is left for this interval. Unless data had ended before, libjpeg finds out only after
			// it has decoded one MCU from zero bits.
			d.nextRestart = (d.nextRestart + 1) & 7
			exhausted := d.exhausted
			d.resetPredictions()
			d.entropy.restart()
			d.entropy.last = true
			clear(d.entropy.buf[:mcuBytes+slack])
			d.exhausted = exhausted
			return nil
		case 8-ahead <= earlier: // go on
		default:
			d.marker = markerRST0 + d.nextRestart
			continue
		}
		if err := d.nextMarker(); err != nil {
			return err
		}
	}
	d.marker = 0
	d.nextRestart = (d.nextRestart + 1) & 7
	d.resetPredictions()
	d.entropy.restart()
	return nil
}

// sequential decodes a block of a sequential scan over what is in b, the DC value wrapped to 16 bits.
func (d *decoder) sequential(c *scanComponent, b *[64]int16) (ac bool, err error) {
	difference, ac := d.entropy.sequential(b, c.dc, c.ac)
	if err := c.predict(difference); err != nil {
		return false, err
	}
	b[0] = int16(c.prediction)
	return ac, nil
}

// predict adds a DC difference to the prediction.
func (c *scanComponent) predict(difference int32) error {
	sum := int64(c.prediction) + int64(difference)
	if sum > math.MaxInt32 || sum < math.MinInt32 {
		return damaged("DC values grow beyond measure")
	}
	c.prediction = int32(sum)
	return nil
}

// decodeScan decodes a scan to the buffers of coefficients.
func (d *decoder) decodeScan() error {
	if err := d.startScan(); err != nil {
		return err
	}
	if len(d.scan) == 1 { // not interleaved: no padding to MCUs
		c := &d.scan[0]
		if err := d.visit(c.blocksWide * c.blocksHigh); err != nil {
			return err
		}
		for y := range c.blocksHigh {
			for i := y * c.stride; i < y*c.stride+c.blocksWide; i++ {
				if err := d.beforeMCU(); err != nil {
					return err
				}
				if err := d.block(c, i); err != nil {
					return err
				}
				d.afterMCU()
			}
		}
		return nil
	}
	blocks := 0
	for _, c := range d.scan {
		blocks += c.h * c.v
	}
	if err := d.visit(blocks * d.mcusX * d.mcusY); err != nil {
		return err
	}
	for my := range d.mcusY {
		for mx := range d.mcusX {
			if err := d.beforeMCU(); err != nil {
				return err
			}
			for i := range d.scan {
				c := &d.scan[i]
				for v := range c.v {
					first := (my*c.v+v)*c.stride + mx*c.h
					for h := range c.h {
						if err := d.block(c, first+h); err != nil {
							return err
						}
					}
				}
			}
			d.afterMCU()
		}
	}
	return nil
}

// visit bounds the time that scans of almost no data can take: real files have about ten for each component.
func (d *decoder) visit(blocks int) error {
	d.visited += blocks
	if d.visited > d.mostVisits {
		return UnsupportedError("hundreds of scans")
	}
	return nil
}

// block decodes what the scan has of block i.
func (d *decoder) block(c *scanComponent, i int) error {
	if d.exhausted {
		return nil
	}
	r := &d.entropy
	b := &c.coefs[i]
	switch {
	case !d.progressive:
		_, err := d.sequential(c, b)
		return err
	case d.first == 0 && d.highBit == 0:
		if err := c.predict(r.difference(c.dc)); err != nil {
			return err
		}
		b[0] = int16(c.prediction << d.lowBit)
	case d.first == 0:
		if r.take1() != 0 {
			b[0] |= 1 << d.lowBit
		}
	case d.endOfBands > 0 && c.known[i]&d.band == 0:
		d.endOfBands--
	case d.highBit == 0:
		d.bandFirst(c.ac, b, &c.known[i])
	default:
		d.bandNext(c.ac, b, &c.known[i])
	}
	return nil
}

// store stores a coefficient, and whether it is not 0.
func store(b *[64]int16, known *uint64, k int, v int16) {
	bit := uint64(1) << min(k, 63)
	*known |= bit
	if v == 0 { // cut off by the shift, in corrupt data
		*known &^= bit
	}
	b[zigzag[k&127]&63] = v
}

// bandFirst decodes the first bits of a band of AC coefficients (T.81, G.1.2.2).
func (d *decoder) bandFirst(t *table, b *[64]int16, known *uint64) {
	if d.endOfBands > 0 {
		d.endOfBands--
		return
	}
	r := &d.entropy
	for k := d.first; k <= d.last; k++ {
		e := t.value[r.peek(lookBits)]
		if e>>16 != 0 {
			length := e & 31
			r.bits <<= length
			r.count -= int(length)
			k += int(e >> 8 & 15)
			store(b, known, k, int16(int32(e)>>16<<d.lowBit))
			continue
		}
		s := r.symbol(t)
		run, size := int(s>>4), uint(s&15)
		switch {
		case size != 0:
			k += run
			store(b, known, k, int16(r.value(size)<<d.lowBit))
		case run == 15:
			k += 15
		default:
			d.endOfBands = r.bandRun(run) - 1
			return
		}
	}
}

// bandRun reads the length of an end-of-band run.
func (r *reader) bandRun(bits int) int {
	n := 1 << bits
	if bits > 0 {
		n += int(r.take(uint(bits)))
	}
	return n
}

// bandNext decodes a further bit of a band of AC coefficients (T.81, G.1.2.3).
func (d *decoder) bandNext(t *table, b *[64]int16, known *uint64) {
	r := &d.entropy
	k := d.first
	for d.endOfBands == 0 && k <= d.last {
		run, value := 0, int16(0)
		if e := t.value[r.peek(lookBits)]; e>>16 != 0 && e>>12&15 == 1 {
			length := e & 31
			r.bits <<= length
			r.count -= int(length)
			run, value = int(e>>8&15), int16(e>>16)<<d.lowBit
		} else {
			s := r.symbol(t)
			run = int(s >> 4)
			switch {
			case s&15 != 0: // should be 1
				value = -1 << d.lowBit
				if r.take1() != 0 {
					value = 1 << d.lowBit
				}
			case run != 15:
				d.endOfBands = r.bandRun(run)
			}
			if d.endOfBands > 0 {
				break
			}
		}
		k = d.refine(b, *known, k, run)
		if value != 0 {
			*known |= 1 << min(k, 63)
			b[zigzag[k&127]&63] = value
		}
		k++
	}
	if d.endOfBands > 0 {
		d.refine(b, *known, k, 64)
		d.endOfBands--
	}
}

// refine reads a further bit for each coefficient from k on that is not 0, up to the end of the band or to the zero after skipping
// run of them, where it stops.
func (d *decoder) refine(b *[64]int16, known uint64, k, run int) int {
	known = known & d.band >> k << k
	if known == 0 {
		return min(k+run, d.last+1)
	}
	r := &d.entropy
	data, count := r.bits, r.count
	for known != 0 {
		next := bits.TrailingZeros64(known)
		if run < next-k {
			break
		}
		run -= next - k
		k = next + 1
		known &= known - 1
		if count == 0 {
			r.bits, r.count = data, count
			r.need()
			data, count = r.bits, r.count
		}
		if int64(data) < 0 {
			p := &b[zigzag[next&127]&63]
			sign := *p >> 15
			// A bit that is set already does not occur but in corrupt data, and stays.
			if bit := int16(1) << d.lowBit; *p&bit == 0 {
				*p += bit&^sign - bit&sign
			}
		}
		data <<= 1
		count--
	}
	r.bits, r.count = data, count
	return min(k+run, d.last+1)
}
