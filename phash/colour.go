package phash

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// gridSide is the number of cells along each side of the grid that a Colour is taken on.
const gridSide = 8

// A Colour is a small signature of a picture's colours, which the hash does not see: mean Cb and Cr (JFIF 1.02: 0 to 255, gray is
// 128) in each cell of an 8 x 8 grid, row by row, Cb before Cr. It is comparable. A gray picture has 128 throughout. Docs:
// near-duplicates.md.
type Colour [2 * gridSide * gridSide]uint8

// grayColour is the Colour of pictures without colours.
var grayColour = func() (c Colour) {
	for i := range c {
		c[i] = 128
	}
	return c
}()

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

// A grid takes the means of one plane of samples, whose rows go by in any order. Every cell has a sample at least, so that in
// planes narrower or lower than the grid neighbouring cells share samples.
type grid struct {
	width, height int
	sum           [gridSide * gridSide]uint64
	count         [gridSide * gridSide]uint64
}

// span returns the samples of cell i along a side of n samples.
func span(i, n int) (start, end int) {
	start = i * n / gridSide
	return start, max((i+1)*n/gridSide, start+1)
}

// add takes row y, of width samples that lie step bytes apart.
func (g *grid) add(y int, row []uint8, step int) {
	for down := range gridSide {
		if top, bottom := span(down, g.height); y < top || y >= bottom {
			continue
		}
		for across := range gridSide {
			left, right := span(across, g.width)
			sum := uint64(0)
			if step == 1 {
				sum = total(row[left:right])
			} else {
				for i := left * step; i < right*step; i += step {
					sum += uint64(row[i])
				}
			}
			cell := down*gridSide + across
			g.sum[cell] += sum
			g.count[cell] += uint64(right - left)
		}
	}
}

// total adds up bytes, eight at a time: pairs of them in the four parts of a number, each of which has room for 128 pairs.
func total(b []uint8) (sum uint64) {
	const odd, low = 0x00ff00ff00ff00ff, 0x0000ffff0000ffff
	for len(b) >= 8 {
		part := b[:min(len(b)&^7, 8*128)]
		b = b[len(part):]
		pairs := uint64(0)
		for ; len(part) >= 8; part = part[8:] {
			v := binary.LittleEndian.Uint64(part)
			pairs += v&odd + v>>8&odd
		}
		pairs = pairs&low + pairs>>16&low
		sum += pairs>>32 + pairs&(1<<32-1)
	}
	for _, v := range b {
		sum += uint64(v)
	}
	return sum
}

// colourOf puts the means of the two chroma planes together.
func colourOf(cb, cr *grid) (c Colour) {
	mean := func(g *grid, cell int) uint8 { return uint8((g.sum[cell] + g.count[cell]/2) / g.count[cell]) }
	for cell := range gridSide * gridSide {
		c[2*cell], c[2*cell+1] = mean(cb, cell), mean(cr, cell)
	}
	return c
}

// An rgbGrid is a grid of R, G and B, from whose means those of Cb and Cr follow, so that pixels need not be converted.
type rgbGrid struct {
	width, height int
	sum           [gridSide * gridSide][3]uint64
	count         [gridSide * gridSide]uint64
}

// add takes row y, of 3 bytes a pixel.
func (g *rgbGrid) add(y int, row []uint8) {
	var sum [gridSide][3]uint64
	for across := range sum {
		left, right := span(across, g.width)
		var r, gr, b uint64
		for pixels := row[3*left : 3*right]; len(pixels) >= 3; pixels = pixels[3:] {
			r += uint64(pixels[0])
			gr += uint64(pixels[1])
			b += uint64(pixels[2])
		}
		sum[across] = [3]uint64{r, gr, b}
	}
	for down := range gridSide {
		if top, bottom := span(down, g.height); y < top || y >= bottom {
			continue
		}
		for across := range sum {
			cell := down*gridSide + across
			left, right := span(across, g.width)
			g.count[cell] += uint64(right - left)
			for i, v := range sum[across] {
				g.sum[cell][i] += v
			}
		}
	}
}

// colour converts the means as JFIF 1.02 does, with 16 fraction bits. The weights of Cb, as those of Cr, add up to nothing, so that
// gray is 128 exactly.
func (g *rgbGrid) colour() (c Colour) {
	const fraction = 1 << 16
	for cell, sum := range g.sum {
		red, green, blue, n := int64(sum[0]), int64(sum[1]), int64(sum[2]), int64(g.count[cell])
		chroma := func(weighted int64) uint8 {
			v := (128*fraction*n + weighted + fraction/2*n) / (fraction * n)
			return uint8(min(max(v, 0), 255))
		}
		c[2*cell] = chroma(-11056*red - 21712*green + 32768*blue)
		c[2*cell+1] = chroma(32768*red - 27440*green - 5328*blue)
	}
	return c
}
