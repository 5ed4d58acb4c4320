package phash

import (
	"image"
	"image/color"
)

// Image decodes a picture to look at: what [Of] hashes, in its colours as stored and without its alpha. It is for files that other
// decoders refuse. Colours are near to Pillow's, not the same. The error is a [*FormatError].
//
// It takes 1 to 3 bytes a pixel. The result is slow to read pixel by pixel, and not to be changed.
func Image(data []byte) (image.Image, error) {
	p, format, err := open(data)
	if err != nil {
		return nil, err
	}
	m := &planes{width: p.width, height: p.height}
	if err := m.fill(p); err != nil {
		return nil, formatError(format, err)
	}
	return m, nil
}

// planes are a picture in gray and, if it has colours, Cb and Cr, which may be subsampled in any way.
type planes struct {
	width, height int
	gray          []uint8
	chroma        [2]struct {
		width, height int
		pix           []uint8
	}
}

func (m *planes) ColorModel() color.Model { return color.YCbCrModel }
func (m *planes) Bounds() image.Rectangle { return image.Rect(0, 0, m.width, m.height) }

func (m *planes) At(x, y int) color.Color {
	if !(image.Point{X: x, Y: y}).In(m.Bounds()) {
		return color.YCbCr{}
	}
	c := color.YCbCr{Y: m.gray[y*m.width+x], Cb: 128, Cr: 128}
	for i, to := range []*uint8{&c.Cb, &c.Cr} {
		if p := &m.chroma[i]; p.pix != nil {
			*to = p.pix[y*p.height/m.height*p.width+x*p.width/m.width]
		}
	}
	return c
}

func (m *planes) fill(p picture) error {
	if p.stream != nil {
		return p.stream(m)
	}
	m.gray = make([]uint8, p.width*p.height)
	if p.row != nil {
		for y := range p.height {
			p.row(y, m.gray[y*p.width:][:p.width])
		}
		return nil
	}
	ycc, next := make([]uint8, 3*p.width), p.ycc
	if p.rgb != nil {
		next = func(y int, row []uint8) {
			p.rgb(y, row)
			for ; len(row) >= 3; row = row[3:] {
				row[0], row[1], row[2] = color.RGBToYCbCr(row[0], row[1], row[2])
			}
		}
	}
	cb, cr := make([]uint8, p.width), make([]uint8, p.width)
	for y := range p.height {
		next(y, ycc)
		gray := m.gray[y*p.width:][:p.width]
		for x := range gray {
			gray[x], cb[x], cr[x] = ycc[3*x], ycc[3*x+1], ycc[3*x+2]
		}
		m.Chroma(0, p.width, p.height, y, cb)
		m.Chroma(1, p.width, p.height, y, cr)
	}
	return nil
}

// Gray and Chroma make it a jpeg.Sink.
func (m *planes) Gray(row []uint8) {
	if m.gray == nil {
		m.gray = make([]uint8, 0, m.width*m.height)
	}
	m.gray = append(m.gray, row...)
}

func (m *planes) Chroma(plane, width, height, y int, row []uint8) {
	p := &m.chroma[plane]
	if p.pix == nil {
		p.width, p.height, p.pix = width, height, make([]uint8, width*height)
	}
	copy(p.pix[y*width:], row)
}
