package verify

import "image"

// What counts as a uniform band at an edge, as letterboxes and frames are.
const (
	bandTone   = 14    // levels that its samples may differ from the median of the outermost row
	bandShare  = 0.995 // of the samples: a small digit in a band makes it none
	mostBand   = 0.45  // of a side
	leastInner = 40    // samples that must be left
	bandSoft   = 0.006
)

// withoutBands returns what is left of a picture without the uniform bands at its edges, all of it where there are none. Its left
// and upper borders are even.
func withoutBands(m *image.YCbCr) image.Rectangle {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	across := func(y int) func(i int) uint8 { return func(i int) uint8 { return m.Y[y*m.YStride+i] } }
	down := func(x int) func(i int) uint8 { return func(i int) uint8 { return m.Y[i*m.YStride+x] } }
	top := band(h, w, across)
	bottom := band(h, w, func(y int) func(int) uint8 { return across(h - 1 - y) })
	left := band(w, h, down)
	right := band(w, h, func(x int) func(int) uint8 { return down(w - 1 - x) })
	if top+bottom <= 1 && left+right <= 1 || w-left-right <= leastInner || h-top-bottom <= leastInner {
		return m.Rect
	}
	soft := max(1, int(bandSoft*float64(max(w, h))+0.5)) // where the band passes into the picture
	inner := func(band, most int) int {
		if band == 0 {
			return 0
		}
		return min(band+soft, most)
	}
	r := image.Rect(inner(left, w/3), inner(top, h/3), w-inner(right, w/3), h-inner(bottom, h/3))
	r.Min.X, r.Min.Y = (r.Min.X+1)&^1, (r.Min.Y+1)&^1
	return r
}

// band returns how many of n rows, from the edge on, are uniform. row returns the samples of a row, which are length many.
func band(n, length int, row func(i int) func(at int) uint8) int {
	var tones [256]int
	edge := row(0)
	for i := range length {
		tones[edge(i)]++
	}
	median, below := 0, tones[0]
	for 2*below < length {
		median++
		below += tones[median]
	}
	most := int(mostBand * float64(n))
	for i := range most {
		others := 0
		at := row(i)
		for j := range length {
			if d := int(at(j)) - median; d > bandTone || d < -bandTone {
				others++
			}
		}
		if float64(others) > (1-bandShare)*float64(length) {
			return i
		}
	}
	return most
}
