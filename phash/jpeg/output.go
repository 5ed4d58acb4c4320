package jpeg

import "encoding/binary"

func putUint64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }

// Margins of the rows of a plane. The sample before the first and the one after the last repeat them, for interpolation; the
// rest is there for kernels that take many samples at once.
const (
	marginLeft  = 32
	marginRight = 64
)

// A plane holds the last two MCU rows of the samples of a component.
type plane struct {
	rows   int // how many there are room for
	stride int // bytes
	pix    []uint8
}

func newPlane(c *component) plane {
	p := plane{rows: 2 * 8 * c.v, stride: marginLeft + 8*c.stride + marginRight}
	p.pix = make([]uint8, p.rows*p.stride)
	return p
}

// row returns row y, with margins.
func (p *plane) row(y int) []uint8 { return p.pix[y%p.rows*p.stride:][:p.stride] }

// block returns the place for a block, from its first sample on.
func (p *plane) block(x, y int) []uint8 { return p.pix[8*y%p.rows*p.stride+marginLeft+8*x:] }

// decodeStreaming decodes a file whose first scan has everything. libjpeg then refuses a second one.
func (d *decoder) decodeStreaming() error {
	if err := d.startScan(); err != nil {
		return err
	}
	d.scanStart = d.pos
	for i := range d.components {
		d.components[i].samples = newPlane(&d.components[i])
	}
	o := newOutput(d)
	var err error
	if len(d.scan) == 1 {
		err = d.streamOne(o)
	} else {
		err = d.streamMCUs(o)
	}
	if err != nil {
		return err
	}
	scan := d.scan
	end, err := d.next()
	if err == nil && !end {
		err = errSecondScan
	}
	if err != nil {
		d.scan = scan // not a second one
		return d.asPillow(err)
	}
	return nil
}

func (d *decoder) streamMCUs(o *output) error {
	for my := range d.mcusY {
		for mx := range d.mcusX {
			if err := d.beforeMCU(); err != nil {
				return err
			}
			for i := range d.scan {
				c := &d.scan[i]
				for v := range c.v {
					for h := range c.h {
						if err := d.streamBlock(c, mx*c.h+h, my*c.v+v); err != nil {
							return err
						}
					}
				}
			}
			d.afterMCU()
		}
		o.mcuRow(my)
	}
	return nil
}

// streamOne decodes a scan of one component, which has blocks in place of MCUs.
func (d *decoder) streamOne(o *output) error {
	c := &d.scan[0]
	for y := range c.blocksHigh {
		for x := range c.blocksWide {
			if err := d.beforeMCU(); err != nil {
				return err
			}
			if err := d.streamBlock(c, x, y); err != nil {
				return err
			}
			d.afterMCU()
		}
		if y%c.v == c.v-1 || y == c.blocksHigh-1 {
			o.mcuRow(y / c.v)
		}
	}
	return nil
}

func (d *decoder) streamBlock(c *scanComponent, x, y int) error {
	dst := c.samples.block(x, y)
	if d.exhausted {
		flat(dst, c.samples.stride, 0, 0)
		return nil
	}
	var b [64]int16
	ac, err := d.sequential(c, &b)
	if err != nil {
		return err
	}
	if ac {
		idct(dst, c.samples.stride, &b, c.quant)
	} else {
		flat(dst, c.samples.stride, b[0], c.quant[0])
	}
	return nil
}

// decodeBuffered decodes a file of several scans.
func (d *decoder) decodeBuffered() error {
	const enough = 1 << 20 // blocks, for small pictures of many scans
	blocks := 0
	for i := range d.components {
		c := &d.components[i]
		c.coefs = make([][64]int16, c.stride*c.blocksTop)
		if d.progressive {
			c.known = make([]uint64, len(c.coefs))
		}
		blocks += len(c.coefs)
	}
	d.mostVisits = max(enough, 64*blocks)
	for {
		if err := d.decodeScan(); err != nil {
			return err
		}
		end, err := d.next()
		if err != nil {
			return err
		}
		if end {
			break
		}
	}
	if d.smoothed() {
		return errSmoothed
	}
	var none [64]uint16
	for i := range d.components {
		c := &d.components[i]
		c.samples = newPlane(c)
		if c.quant == nil { // no scan had it
			c.quant = &none
		}
	}
	o := newOutput(d)
	for my := range d.mcusY {
		for i := range d.components {
			c := &d.components[i]
			for y := my * c.v; y < min((my+1)*c.v, c.blocksHigh); y++ {
				row := c.coefs[y*c.stride:][:c.blocksWide]
				for x := range row {
					idct(c.samples.block(x, y), c.samples.stride, &row[x], c.quant)
				}
			}
		}
		o.mcuRow(my)
	}
	return nil
}

// smoothed reports whether libjpeg would guess coefficients, because the scans that a progressive file ends with leave some of the
// first ones unknown or not precise. That is not done here.
func (d *decoder) smoothed() bool {
	const guessed = 10 // how many coefficients libjpeg looks at
	if !d.progressive {
		return false
	}
	lacking := false
	for i := range d.components {
		c := &d.components[i]
		if c.quant == nil || c.bits[0] < 0 {
			return false // it does not then
		}
		for _, bit := range c.bits[1:guessed] {
			lacking = lacking || bit != 0
		}
	}
	return lacking
}

// An output turns samples into rows of gray.
type output struct {
	d        *decoder
	y        int // next row of pixels
	up       []upsampler
	gray     []uint8
	rgb      bool
	chroma   [2]int // next row of each plane
	cbs, crs []uint8
}

func newOutput(d *decoder) *output {
	o := &output{d: d, gray: make([]uint8, d.width+marginRight)}
	o.up = make([]upsampler, len(d.components))
	for i := range o.up {
		o.up[i] = newUpsampler(d, &d.components[i])
	}
	switch {
	case len(d.components) == 4:
		o.rgb = true
	case len(d.components) == 3:
		o.rgb = d.colours() == coloursRGB
	}
	if o.rgb {
		o.cbs, o.crs = make([]uint8, d.width), make([]uint8, d.width)
	}
	return o
}

// Kinds of colours.
const (
	coloursYCbCr = iota
	coloursRGB
	coloursCMYK
	coloursYCCK
)

// colours tells what three or four components mean, by libjpeg's rules.
func (d *decoder) colours() int {
	if len(d.components) == 4 {
		if d.adobe && d.transform != 0 {
			return coloursYCCK
		}
		return coloursCMYK
	}
	c := d.components
	switch {
	case d.jfif:
	case d.adobe:
		if d.transform == 0 {
			return coloursRGB
		}
	case c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B':
		return coloursRGB
	}
	return coloursYCbCr
}

// mcuRow gives out the rows of pixels that can be computed once MCU row my is there.
func (o *output) mcuRow(my int) {
	d := o.d
	last := my == d.mcusY-1
	bottom := d.height // where to stop
	for i := range d.components {
		c := &d.components[i]
		ready := (my + 1) * 8 * c.v // rows of samples
		for y := my * 8 * c.v; y < min(ready, c.height); y++ {
			row := c.samples.row(y)
			row[marginLeft-1] = row[marginLeft]
			row[marginLeft+c.width] = row[marginLeft+c.width-1]
		}
		if !last {
			bottom = min(bottom, o.up[i].ready(ready))
		}
		if plane := i - 1; plane >= 0 && len(d.components) == 3 && !o.rgb {
			for ; o.chroma[plane] < min(ready, c.height); o.chroma[plane]++ {
				y := o.chroma[plane]
				d.sink.Chroma(plane, c.width, c.height, y, c.samples.row(y)[marginLeft:][:c.width])
			}
		}
	}
	for ; o.y < bottom; o.y++ {
		o.row(o.y)
	}
}

func (o *output) row(y int) {
	d := o.d
	var in [4][]uint8
	for i := range o.up {
		in[i] = o.up[i].row(y)
	}
	if len(d.components) == 1 {
		d.sink.Gray(in[0][:d.width])
		return
	}
	if !o.rgb {
		ycc(o.gray, in[0], in[1], in[2], d.width)
		d.sink.Gray(o.gray[:d.width])
		return
	}
	colours := d.colours()
	for x := range d.width {
		r, g, b := in[0][x], in[1][x], in[2][x]
		if colours == coloursYCCK {
			r, g, b = toRGB(r, g, b)
			r, g, b = 255-r, 255-g, 255-b // ink
		}
		if colours != coloursRGB {
			// Pillow inverts all four, and takes them as amounts of ink.
			light := in[3][x]
			r, g, b = ink(255-r, light), ink(255-g, light), ink(255-b, light)
		}
		o.gray[x] = luma(r, g, b)
		o.cbs[x], o.crs[x] = toChroma(r, g, b)
	}
	d.sink.Gray(o.gray[:d.width])
	d.sink.Chroma(0, d.width, d.height, y, o.cbs)
	d.sink.Chroma(1, d.width, d.height, y, o.crs)
}
