package vision

import (
	"image"
	"image/draw"
)

// bandRows is how many rows of the source are turned into RGBA at a time, so that a 50-megapixel picture
// never exists as a 200 MB RGBA image.
const bandRows = 16

// fit returns w and h reduced, in proportion, so that neither exceeds limit; never enlarged, never below 1.
func fit(w, h, limit int) (int, int) {
	longer := max(w, h)
	if longer <= limit {
		return w, h
	}
	reduce := func(n int) int { return max(1, (n*limit+longer/2)/longer) }
	return reduce(w), reduce(h)
}

// flatten returns the part r of src on white, reduced to w by h pixels, neither more than r has. Every pixel of
// the result is the mean of the area of r that it covers; what src leaves uncovered is white.
//
// The kernels of golang.org/x/image/draw either skip pixels or need 100 MB for a phone's photo: see BenchmarkDownscale.
func flatten(src image.Image, r image.Rectangle, w, h int) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if r.Dx() == w && r.Dy() == h {
		drawOnWhite(out, src, r.Min)
		return out
	}

	columns, rows := spans(r.Dx(), w), spans(r.Dy(), h)
	area := uint64(r.Dx()) * uint64(r.Dy())
	band := image.NewRGBA(image.Rect(0, 0, r.Dx(), min(bandRows, r.Dy())))
	narrow := make([]uint64, 3*w) // one source row, reduced to w columns
	sum := make([]uint64, 3*w)    // the source rows of output row y, weighted

	y := 0
	for at := range r.Dy() {
		i := at % bandRows
		if i == 0 {
			drawOnWhite(band, src, image.Pt(r.Min.X, r.Min.Y+at))
		}
		narrowRow(narrow, band.Pix[i*band.Stride:], columns, uint64(w))
		addRow(sum, narrow, rows[y].weight(at, uint64(h)))
		if at < rows[y].last {
			continue
		}
		storeRow(out.Pix[y*out.Stride:], sum, area)
		clear(sum)
		y++
		if y < h && rows[y].first == at { // the row lies across the border of two output rows
			addRow(sum, narrow, rows[y].weight(at, uint64(h)))
		}
	}
	return out
}

// span is the stretch of source pixels that one output pixel covers, ends included. Weights are counted in parts of
// a source pixel, of which there are as many as output pixels, so that they are whole numbers.
type span struct {
	first, last             int
	firstWeight, lastWeight uint64 // lastWeight is 0 where first and last are the same pixel
}

// spans divides from source pixels among to output pixels, to <= from.
func spans(from, to int) []span {
	s := make([]span, to)
	for i := range s {
		lo, hi := i*from, (i+1)*from
		s[i].first, s[i].last = lo/to, (hi-1)/to
		if s[i].first == s[i].last {
			s[i].firstWeight = uint64(hi - lo)
			continue
		}
		s[i].firstWeight = uint64((s[i].first+1)*to - lo)
		s[i].lastWeight = uint64(hi - s[i].last*to)
	}
	return s
}

// weight is that of source pixel at, which lies in the span; full is the weight of a whole pixel.
func (s span) weight(at int, full uint64) uint64 {
	switch at {
	case s.first:
		return s.firstWeight
	case s.last:
		return s.lastWeight
	default:
		return full
	}
}

// narrowRow sums the RGBA pixels of a row over columns into three channels; full is the weight of a whole pixel.
func narrowRow(dst []uint64, row []uint8, columns []span, full uint64) {
	for x, c := range columns {
		var r, g, b uint64
		for p := row[4*(c.first+1) : 4*max(c.first+1, c.last)]; len(p) >= 4; p = p[4:] {
			r += uint64(p[0])
			g += uint64(p[1])
			b += uint64(p[2])
		}
		f, l := row[4*c.first:4*c.first+4], row[4*c.last:4*c.last+4]
		d := dst[3*x : 3*x+3]
		d[0] = full*r + c.firstWeight*uint64(f[0]) + c.lastWeight*uint64(l[0])
		d[1] = full*g + c.firstWeight*uint64(f[1]) + c.lastWeight*uint64(l[1])
		d[2] = full*b + c.firstWeight*uint64(f[2]) + c.lastWeight*uint64(l[2])
	}
}

func addRow(sum, row []uint64, weight uint64) {
	for i, v := range row {
		sum[i] += weight * v
	}
}

func storeRow(dst []uint8, sum []uint64, area uint64) {
	for x := 0; 3*x < len(sum); x++ {
		for c := range 3 {
			dst[4*x+c] = uint8((sum[3*x+c] + area/2) / area)
		}
		dst[4*x+3] = 0xff
	}
}

// drawOnWhite fills dst with white and draws src over it, src's point sp at dst's corner.
func drawOnWhite(dst *image.RGBA, src image.Image, sp image.Point) {
	draw.Draw(dst, dst.Bounds(), image.White, image.Point{}, draw.Src)
	draw.Draw(dst, dst.Bounds(), src, sp, draw.Over)
}
