package phash

import (
	"encoding/base64"
	"fmt"
	"image"
	"math"
	"strings"
)

// gridSide is the number of cells along each side of the grid that a Colour is taken on.
const gridSide = 8

// A Colour is a small signature of a picture's colours, which the hash does not see: mean Cb and Cr (JFIF 1.02: 0 to 255, gray is
// 128) in each cell of an 8 x 8 grid, row by row, Cb before Cr. It is comparable. A gray picture has 128 throughout. Docs:
// near-duplicates.md.
type Colour [2 * gridSide * gridSide]uint8

// String returns 171 characters of base64 (RFC 4648, unpadded).
func (c Colour) String() string { return base64.RawStdEncoding.EncodeToString(c[:]) }

// ParseColour reads what [Colour.String] writes.
func ParseColour(s string) (Colour, error) {
	var c Colour
	want := base64.RawStdEncoding.EncodedLen(len(c))
	if len(s) != want || strings.ContainsAny(s, "\r\n") { // which base64 passes over
		return c, fmt.Errorf("parse colour signature: got %d characters, want %d of base64", len(s), want)
	}
	if _, err := base64.RawStdEncoding.Strict().Decode(c[:], []byte(s)); err != nil {
		return Colour{}, fmt.Errorf("parse colour signature: want base64: %w", err)
	}
	return c, nil
}

// SameDistance is the largest Distance of colours that count as the same; docs/near-duplicates.md says how it was chosen.
const SameDistance = 8

// Distance returns how far c and o are apart in the cell where they differ most: the Euclidean distance of Cb and Cr, less what
// vivid colours may move (a sixteenth of their own squared distances from gray is taken off its square), rounded up, 0 to 355. Copies of a
// picture that leave its colours alone are within 8, as a rule.
func (c Colour) Distance(o Colour) int {
	const leniency = 16
	most := 0
	for i := 0; i < len(c); i += 2 {
		cb, cr, ocb, ocr := int(c[i])-128, int(c[i+1])-128, int(o[i])-128, int(o[i+1])-128
		apart := (cb-ocb)*(cb-ocb) + (cr-ocr)*(cr-ocr)
		vivid := cb*cb + cr*cr + ocb*ocb + ocr*ocr
		most = max(most, leniency*apart-vivid)
	}
	d := int(math.Sqrt(float64(most) / leniency))
	if leniency*d*d < most {
		d++
	}
	return d
}

// Same reports whether two pictures that look the same without colours have the same colours too.
func (c Colour) Same(o Colour) bool { return c.Distance(o) <= SameDistance }

// colourOf returns the colours of an image as people see it.
func colourOf(m *image.YCbCr) (c Colour) {
	w, h := (m.Rect.Dx()+1)/2, (m.Rect.Dy()+1)/2
	for i, plane := range [][]uint8{m.Cb, m.Cr} {
		var means [gridSide * gridSide]uint8
		s := newShrinker(evenly(w, gridSide), evenly(h, gridSide), 1, means[:], gridSide)
		for y := range h {
			s.add(y, plane[y*m.CStride:][:w])
		}
		for cell, mean := range means {
			c[2*cell+i] = mean
		}
	}
	return c
}
