package phash

import (
	"image"
	"image/color"
)

// MaxSide is the longer side of Look.Image at most, in pixels.
const MaxSide = 1024

// A Look is what one pass over the pixels of a picture gives.
type Look struct {
	Fingerprint
	// Image is the picture as it is stored, on white where it is transparent, reduced to MaxSide pixels on its longer side. Each
	// of its pixels is the mean of the area that it covers.
	Image  *image.YCbCr
	Turned Turned // Turned[0] is Hash
	// Orientation says how Image has to be turned to stand upright, by EXIF's values: 1 to 8, 1 for not at all. See Upright.
	Orientation int
}

// LookAt decodes a picture once: the hash as [Of] computes it, the colours, and what people see. The error is a [*FormatError].
//
// Transparency is a matter of what is seen. The hash ignores it, as Python does, so that pictures that differ in it alone have the
// same hash and other colours.
func LookAt(data []byte, order Order) (*Look, error) {
	p, format, err := open(data)
	if err != nil {
		return nil, err
	}
	v := newViewer(p.width, p.height)
	small, err := thumbnail(p, order.downFirst(p.width, p.height), v)
	if err != nil {
		return nil, formatError(format, err)
	}
	meta := readMetadata(format, data)
	s := spectrumOf(small)
	l := &Look{Fingerprint: Fingerprint{Hash: s.hash()}, Image: v.finish(), Orientation: meta.orientation()}
	for turn := range l.Turned {
		t := s.turned(turn)
		l.Turned[turn] = t.hash()
	}
	l.Colour = colourOf(l.Image)
	if to := parseICC(meta.icc); to != nil {
		to.convert(l.Image)
	}
	return l, nil
}

// fit returns w and h reduced, in proportion, so that neither exceeds limit; never enlarged, never below 1.
func fit(w, h, limit int) (int, int) {
	longer := max(w, h)
	if longer <= limit {
		return w, h
	}
	reduce := func(n int) int { return max(1, (n*limit+longer/2)/longer) }
	return reduce(w), reduce(h)
}

// A viewer makes Look.Image of the rows of a picture, which come in one of three forms.
type viewer struct {
	width, height int // of the picture
	img           *image.YCbCr
	rgb           []uint8 // the reduced picture, where rows have R, G, B

	gray, colours *shrinker
	chroma        [2]*shrinker
}

func newViewer(width, height int) *viewer {
	w, h := fit(width, height, MaxSide)
	return &viewer{width: width, height: height, img: image.NewYCbCr(image.Rect(0, 0, w, h), image.YCbCrSubsampleRatio420)}
}

// addGray takes row y of a picture whose chroma comes by addChroma, or that has none.
func (v *viewer) addGray(y int, row []uint8) {
	if v.gray == nil {
		size := v.img.Rect.Size()
		v.gray = newShrinker(evenly(v.width, size.X), evenly(v.height, size.Y), 1, v.img.Y, v.img.YStride)
	}
	v.gray.add(y, row)
}

// addChroma takes row y of Cb (plane 0) or Cr (plane 1), which have width x height samples.
func (v *viewer) addChroma(plane, width, height, y int, row []uint8) {
	s := v.chroma[plane]
	if s == nil {
		size := v.img.Rect.Size()
		out := v.img.Cb
		if plane == 1 {
			out = v.img.Cr
		}
		s = newShrinker(pairs(v.width, width, size.X), pairs(v.height, height, size.Y), 1, out, v.img.CStride)
		v.chroma[plane] = s
	}
	s.add(y, row)
}

// pairs returns the cells of the chroma samples, one for each two of m pixels, that a side of n pixels is reduced to. stored is how
// many samples there are along it, each for the same number of pixels, but that the last one may have fewer.
func pairs(n, stored, m int) []cell {
	perSample := float64((n + stored - 1) / stored)
	perPixel := float64(n) / float64(m)
	cells := make([]cell, (m+1)/2)
	for i := range cells {
		start, end := float64(2*i)*perPixel, float64(min(2*i+2, m))*perPixel
		cells[i] = cellOf(start/perSample, end/perSample, stored)
	}
	return cells
}

// addRGB takes row y of a picture of 3 bytes a pixel.
func (v *viewer) addRGB(y int, row []uint8) {
	if v.colours == nil {
		size := v.img.Rect.Size()
		v.rgb = make([]uint8, 3*size.X*size.Y)
		v.colours = newShrinker(evenly(v.width, size.X), evenly(v.height, size.Y), 3, v.rgb, 3*size.X)
	}
	v.colours.add(y, row)
}

// finish returns the image once all rows are there.
func (v *viewer) finish() *image.YCbCr {
	switch {
	case v.rgb != nil:
		fromRGB(v.img, v.rgb)
		v.rgb = nil
	case v.chroma[0] == nil:
		fill(v.img.Cb, 128)
		fill(v.img.Cr, 128)
	}
	return v.img
}

// fromRGB sets m to pixels of 3 bytes.
func fromRGB(m *image.YCbCr, rgb []uint8) {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	for y := range h {
		lumas(m.Y[y*m.YStride:][:w], rgb[3*y*w:])
	}
	for cy := range (h + 1) / 2 {
		for cx := range (w + 1) / 2 {
			var sum [3]int
			n := 0
			for y := 2 * cy; y < min(2*cy+2, h); y++ {
				for x := 2 * cx; x < min(2*cx+2, w); x++ {
					p := rgb[3*(y*w+x):][:3]
					sum[0], sum[1], sum[2] = sum[0]+int(p[0]), sum[1]+int(p[1]), sum[2]+int(p[2])
					n++
				}
			}
			_, cb, cr := color.RGBToYCbCr(uint8((sum[0]+n/2)/n), uint8((sum[1]+n/2)/n), uint8((sum[2]+n/2)/n))
			m.Cb[cy*m.CStride+cx], m.Cr[cy*m.CStride+cx] = cb, cr
		}
	}
}

// Upright returns Image as it is looked at.
func (l *Look) Upright() *image.YCbCr {
	m := l.Image
	w, h := m.Rect.Dx(), m.Rect.Dy()
	if l.Orientation <= 1 {
		return m
	}
	size := image.Rect(0, 0, w, h)
	if l.Orientation >= 5 {
		size = image.Rect(0, 0, h, w)
	}
	out := image.NewYCbCr(size, image.YCbCrSubsampleRatio420)
	cw, ch := (w+1)/2, (h+1)/2
	turnPlane(out.Y, m.Y, w, h, l.Orientation)
	turnPlane(out.Cb, m.Cb, cw, ch, l.Orientation)
	turnPlane(out.Cr, m.Cr, cw, ch, l.Orientation)
	return out
}

// UprightTurn is the turn of [Turned] by which Image stands upright.
func (l *Look) UprightTurn() int {
	return [...]int{0, 0, 1, 3, 2, 4, 6, 7, 5}[max(l.Orientation, 0)]
}

// turnPlane turns and mirrors a plane of w x h samples.
func turnPlane(dst, src []uint8, w, h, orientation int) {
	at, w, h := turning(orientation, w, h)
	for y := range h {
		from := at.origin + y*at.down
		for x := range w {
			dst[y*w+x] = src[from]
			from += at.right
		}
	}
}

// A turn is where the sample of row 0 and column 0 comes from, and the steps to its neighbours.
type turn struct{ origin, right, down int }

// turning returns how a plane of w x h samples is turned and mirrored by an orientation (1 to 8, TIFF 6.0 page 36), and its size
// after that.
func turning(orientation, w, h int) (t turn, _, _ int) {
	switch orientation {
	case 2:
		return turn{w - 1, -1, w}, w, h
	case 3:
		return turn{w*h - 1, -1, -w}, w, h
	case 4:
		return turn{w * (h - 1), 1, -w}, w, h
	case 5:
		return turn{0, w, 1}, h, w
	case 6:
		return turn{w * (h - 1), -w, 1}, h, w
	case 7:
		return turn{w*h - 1, -w, -1}, h, w
	case 8:
		return turn{w - 1, w, -1}, h, w
	}
	return turn{0, 1, w}, w, h
}

// overWhite puts a row of colours, channels bytes a pixel, on white.
func overWhite(row, alpha []uint8, channels int) {
	for x, a := range alpha {
		if a == 255 {
			continue
		}
		for i := range channels {
			v := &row[channels*x+i]
			*v = 255 - uint8((uint32(255-*v)*uint32(a)+127)/255)
		}
	}
}
