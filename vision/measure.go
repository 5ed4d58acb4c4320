package vision

import (
	"cmp"
	"image"
	"slices"
)

// colour is a plain colour name; a pixel has exactly one.
type colour int

const (
	black colour = iota
	grey
	white
	red
	orange
	brown
	yellow
	green
	cyan
	blue
	purple
	pink
	colourCount
)

const (
	maxDominant = 3  // colours that are named at most
	minDominant = 10 // percent that a colour must have to be named, unless it is the first
)

// properties are the measured properties of a picture.
type properties struct {
	width, height int
	colours       [colourCount]int // pixels of each colour
	brightness    float64          // mean luma, 0 to 1
	sharpness     float64          // variance of the Laplacian of the luma (0 to 255)
}

// measure looks at every pixel of an opaque picture that has at least one.
func measure(img *image.RGBA) properties {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	m := properties{width: w, height: h}
	luma := make([]uint8, w*h)
	var sum uint64
	for y := range h {
		row := img.Pix[y*img.Stride:][:4*w]
		for x := range w {
			r, g, b := int(row[4*x]), int(row[4*x+1]), int(row[4*x+2])
			l := (299*r + 587*g + 114*b + 500) / 1000 // Rec. 601
			luma[y*w+x] = uint8(l)
			sum += uint64(l)
			m.colours[colourOf(r, g, b)]++
		}
	}
	m.brightness = float64(sum) / float64(w*h) / 255
	m.sharpness = laplacianVariance(luma, w, h)
	return m
}

// laplacianVariance is the variance of the 4-neighbour Laplacian over all inner pixels: high where there are fine edges.
// It is 0 for a picture without inner pixels.
func laplacianVariance(luma []uint8, w, h int) float64 {
	if w < 3 || h < 3 {
		return 0
	}
	var sum, squares int64 // at most 1024 * 1024 * 1020², far from overflow
	for y := 1; y < h-1; y++ {
		for i := y*w + 1; i < y*w+w-1; i++ {
			d := int64(luma[i-1]) + int64(luma[i+1]) + int64(luma[i-w]) + int64(luma[i+w]) - 4*int64(luma[i])
			sum += d
			squares += d * d
		}
	}
	n := float64((w - 2) * (h - 2))
	mean := float64(sum) / n
	return float64(squares)/n - mean*mean
}

// colourOf names a colour by lightness, saturation and hue; channels are 0 to 255.
func colourOf(r, g, b int) colour {
	high, low := max(r, g, b), min(r, g, b)
	spread := high - low
	switch {
	case high < 50:
		return black
	case spread*100 < high*18: // hardly any colour
		if low > 200 {
			return white
		}
		return grey
	}

	var hue int // degrees
	switch high {
	case r:
		hue = (360 + 60*(g-b)/spread) % 360
	case g:
		hue = 120 + 60*(b-r)/spread
	default:
		hue = 240 + 60*(r-g)/spread
	}
	switch {
	case hue < 15 || hue >= 345:
		if low > 120 { // pale red
			return pink
		}
		return red
	case hue < 45:
		if high < 170 { // dark orange
			return brown
		}
		return orange
	case hue < 70:
		return yellow
	case hue < 165:
		return green
	case hue < 195:
		return cyan
	case hue < 260:
		return blue
	case hue < 300:
		return purple
	default:
		return pink
	}
}

// percent is the share of a colour, rounded.
func (m properties) percent(c colour) int {
	all := m.width * m.height
	return (m.colours[c]*100 + all/2) / all
}

// dominant returns the most frequent colours, the first one first.
func (m properties) dominant() []colour {
	order := make([]colour, colourCount)
	for i := range order {
		order[i] = colour(i)
	}
	slices.SortStableFunc(order, func(a, b colour) int { return cmp.Compare(m.colours[b], m.colours[a]) })
	n := 1
	for n < maxDominant && m.percent(order[n]) >= minDominant {
		n++
	}
	return order[:n]
}
