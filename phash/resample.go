package phash

import (
	"math"
	"sync/atomic"
)

// side is the width and height of the picture that the DCT sees: hash_size 16 times highfreq_factor 4 of imagehash.
const side = 64

// Pillow resamples 8-bit pictures with integer coefficients of 22 fraction bits, rounding after each of the two passes.
const fractionBits = 22

// A filter holds, for each of the 64 output positions along one axis, the input positions it reads and their weights.
type filter struct {
	start  [side]int
	weight [side][]int32
}

// kept has what was computed for the sides of small pictures, which come again and again: OfGray is asked for the same few. All of them
// take some MB.
type kept[T any] [maxKept + 1]atomic.Pointer[T]

const maxKept = 256

// of returns what compute returns for a side.
func (k *kept[T]) of(n int, compute func(n int) *T) *T {
	if n > maxKept {
		return compute(n)
	}
	v := k[n].Load()
	if v == nil {
		v = compute(n)
		k[n].Store(v)
	}
	return v
}

var keptFilters kept[filter]

// lanczos returns the filter that brings n positions to 64 as Pillow's resize does with Image.LANCZOS, or nil where Pillow
// leaves the pass out because n is 64 already. It may not be changed.
func lanczos(n int) *filter { return keptFilters.of(n, newLanczos) }

// newLanczos computes a filter. The explicit float64 conversions keep compilers from fusing a product and a sum
// into one rounding, which arm64 would do.
func newLanczos(n int) *filter {
	if n == side {
		return nil
	}
	scale := float64(n) / side
	stretch := max(scale, 1) // shrinking widens the kernel, enlarging does not narrow it
	support := 3 * stretch
	inverse := 1 / stretch

	f := new(filter)
	exact := make([]float64, 0, 2*int(math.Ceil(support))+1)
	for i := range f.weight {
		centre := float64((float64(i) + 0.5) * scale)
		first := max(int(centre-support+0.5), 0)
		end := min(int(centre+support+0.5), n)
		exact = exact[:0]
		sum := 0.0
		for x := first; x < end; x++ {
			w := lanczos3((float64(x) - centre + 0.5) * inverse)
			exact = append(exact, w)
			sum += w
		}
		f.start[i] = first
		f.weight[i] = make([]int32, len(exact))
		for j, w := range exact {
			if sum != 0 {
				w /= sum
			}
			f.weight[i][j] = int32(math.Copysign(0.5, w) + float64(w*(1<<fractionBits))) // half away from zero
		}
	}
	return f
}

// lanczos3 is the Lanczos kernel with three lobes on each side.
func lanczos3(x float64) float64 {
	if x < -3 || x >= 3 {
		return 0
	}
	return float64(sinc(x) * sinc(x/3))
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	x *= math.Pi
	return math.Sin(x) / x
}

// round turns a weighted sum back into a pixel.
func round(sum int32) uint8 {
	return uint8(min(max((sum+1<<(fractionBits-1))>>fractionBits, 0), 255))
}

// A column is the other pass: it is given the rows of a picture from top to bottom and keeps 64 rows of sums instead of the rows.
// Integer sums come out the same in any order.
type column struct {
	filter *filter
	width  int
	sums   []int32 // 64 rows of width
	next   int     // first output row that further input rows can reach
}

func newColumn(f *filter, width int) *column {
	return &column{filter: f, width: width, sums: make([]int32, side*width)}
}

// add takes input row y; rows must come in order.
func (c *column) add(y int, row []uint8) {
	f := c.filter
	for c.next < side && y >= f.start[c.next]+len(f.weight[c.next]) {
		c.next++
	}
	for i := c.next; i < side && f.start[i] <= y; i++ {
		w := f.weight[i][y-f.start[i]]
		sums := c.sums[i*c.width:][:len(row)]
		for x, v := range row {
			sums[x] += w * int32(v)
		}
	}
}

// row writes output row i to dst once all rows were added.
func (c *column) row(i int, dst []uint8) {
	for x, sum := range c.sums[i*c.width:][:len(dst)] {
		dst[x] = round(sum)
	}
}

// thumbnail resamples p to 64 x 64, and has v, if it is not nil, take the rows that go by.
func thumbnail(p picture, downFirst bool, v *viewer) (*[side][side]uint8, error) {
	out := new([side][side]uint8)
	tall := lanczos(p.height)
	var take func(y int, row []uint8) // of the row's pixels, in order
	var finish func()
	y := 0 // of the rows that wide gives out
	switch {
	case tall == nil || downFirst:
		wide := newNarrower(p.width, func(row *[side]uint8) {
			out[y] = *row
			y++
		})
		if tall == nil {
			take, finish = func(_ int, row []uint8) { wide.take(row) }, wide.finish
			break
		}
		c := newColumn(tall, p.width)
		take = c.add
		finish = func() {
			row := make([]uint8, p.width)
			for i := range side {
				c.row(i, row)
				wide.take(row)
			}
			wide.finish()
		}
	default:
		c := newColumn(tall, side)
		wide := newNarrower(p.width, func(row *[side]uint8) {
			c.add(y, row[:])
			y++
		})
		take = func(_ int, row []uint8) { wide.take(row) }
		finish = func() {
			wide.finish()
			for i := range out {
				c.row(i, out[i][:])
			}
		}
	}

	if err := p.rows(take, v); err != nil {
		return nil, err
	}
	finish()
	return out, nil
}

// rows calls row for each row of gray pixels from top to bottom, and has v, if it is not nil, take what people see.
func (p picture) rows(row func(y int, gray []uint8), v *viewer) error {
	if p.stream != nil {
		return p.stream(&rowSink{row: row, viewer: v})
	}
	gray := make([]uint8, p.width)
	var alpha, pixels []uint8
	if p.alpha != nil && v != nil {
		alpha = make([]uint8, p.width)
	}
	if p.row == nil {
		pixels = make([]uint8, 3*p.width)
	}
	cb, cr := make([]uint8, p.width), make([]uint8, p.width)
	for y := range p.height {
		switch {
		case p.row != nil:
			p.row(y, gray)
		case p.rgb != nil:
			p.rgb(y, pixels)
			lumas(gray, pixels)
		default:
			p.ycc(y, pixels)
			for x := range gray {
				gray[x], cb[x], cr[x] = pixels[3*x], pixels[3*x+1], pixels[3*x+2]
			}
		}
		row(y, gray)
		if v == nil {
			continue
		}
		if alpha != nil {
			p.alpha(y, alpha)
		}
		switch {
		case p.row != nil:
			if p.seen != nil {
				p.seen(y, gray)
			}
			overWhite(gray, alpha, 1)
			v.addGray(y, gray)
		case p.rgb != nil:
			overWhite(pixels, alpha, 3)
			v.addRGB(y, pixels)
		default:
			v.addGray(y, gray)
			v.addChroma(0, p.width, p.height, y, cb)
			v.addChroma(1, p.width, p.height, y, cr)
		}
	}
	return nil
}
