package phash

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// gridSide is the number of cells along each side of the grid that a Colour is taken on.
const gridSide = 4

// A Colour is a small signature of a picture's colours, which the hash does not see: mean Cb and Cr (JFIF 1.02: 0 to 255, gray is
// 128) in each cell of a 4 x 4 grid, row by row, Cb before Cr. It is comparable. A gray picture has 128 throughout.
type Colour [2 * gridSide * gridSide]uint8

// gray is the Colour of pictures without colours.
var grayColour = func() (c Colour) {
	for i := range c {
		c[i] = 128
	}
	return c
}()

// String returns 64 hex digits.
func (c Colour) String() string { return hex.EncodeToString(c[:]) }

// ParseColour reads what [Colour.String] writes.
func ParseColour(s string) (Colour, error) {
	var c Colour
	if len(s) != hex.EncodedLen(len(c)) {
		return c, fmt.Errorf("parse colour signature: got %d characters, want %d hex digits", len(s), hex.EncodedLen(len(c)))
	}
	if _, err := hex.Decode(c[:], []byte(s)); err != nil {
		return Colour{}, fmt.Errorf("parse colour signature: want hex digits: %w", err)
	}
	return c, nil
}

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
