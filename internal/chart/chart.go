package chart

import (
	"bytes"
	_ "embed" // the drawing
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A Point is a place on a line.
type Point struct{ X, Y float64 }

// A Series is one line.
type Series struct {
	Name   string
	Points []Point // in the order of X
}

// A Chart is some lines over the same axes.
type Chart struct {
	Title string
	X, Y  string // what the axes count, with the unit
	// LogX and LogY make an axis logarithmic. What is not above 0 is not drawn on it.
	LogX, LogY bool
	Series     []Series
}

// Sizes in pixels of a drawing, and of the place of the lines in it.
const (
	width, height = 640, 320
	left, right   = 70, 16
	top, bottom   = 34, 70
	keyStep       = 18 // between lines of the key
)

// lines are how lines look, in their order; more lines begin again.
var lines = []struct{ colour, dashes string }{
	{"#0072b2", "none"}, {"#d55e00", "7 3"}, {"#009e73", "2 3"}, {"#cc79a7", "9 3 2 3"}, {"#e69f00", "4 2"}, {"#56b4e9", "1 2"},
}

//go:embed chart.svg
var drawing string

var drawn = template.Must(template.New("chart").Parse(drawing))

// mark is a tick of an axis, and a line of the key.
type mark struct {
	At   string
	Text string
}

type line struct {
	Name, Colour, Dashes string
	Path                 string // "M x,y L x,y …"; "" if there is nothing to draw
	Dot                  *[2]string
	KeyX, KeyY           int
}

// HTML returns the drawing as a part of a page.
func (c Chart) HTML() (template.HTML, error) {
	var out bytes.Buffer
	err := c.Write(&out)
	return template.HTML(out.String()), err //nolint:gosec // by html/template
}

// Write writes the drawing as a file of its own.
func (c Chart) Write(w io.Writer) error {
	x, y := axisOf(c.LogX, c.each(func(p Point) float64 { return p.X })), axisOf(c.LogY, c.each(func(p Point) float64 { return p.Y }))
	if !c.LogY {
		y = axisOf(false, append(c.each(func(p Point) float64 { return p.Y }), 0)) // what is twice as much looks so
	}
	data := struct {
		Chart
		Width, Height            int
		Left, Right, Top, Bottom int // edges of the lines' place
		Middle                   int // of that place, on the vertical
		Below                    int
		XMarks, YMarks           []mark
		Lines                    []line
		Words                    string
	}{Chart: c, Width: width, Height: height, Left: left, Right: width - right, Top: top, Bottom: height - bottom,
		Middle: (top + height - bottom) / 2, Below: height - bottom + 34, Words: c.words()}
	placeX := func(v float64) string { return number(left + x.at(v)*(width-left-right)) }
	placeY := func(v float64) string { return number(height - bottom - y.at(v)*(height-top-bottom)) }
	for _, v := range x.marks() {
		data.XMarks = append(data.XMarks, mark{placeX(v), Short(v)})
	}
	for _, v := range y.marks() {
		data.YMarks = append(data.YMarks, mark{placeY(v), Short(v)})
	}
	keyX, keyY := left, height-14
	for i, s := range c.Series {
		look := lines[i%len(lines)]
		wide := 44 + 7*len([]rune(s.Name))
		if keyX > left && keyX+wide > width {
			keyX, keyY = left, keyY+keyStep
		}
		l := line{Name: s.Name, Colour: look.colour, Dashes: look.dashes, KeyX: keyX, KeyY: keyY}
		keyX += wide
		var path []string
		for _, p := range s.Points {
			if x.has(p.X) && y.has(p.Y) {
				path = append(path, placeX(p.X)+","+placeY(p.Y))
			}
		}
		switch len(path) {
		case 0:
		case 1:
			cx, cy, _ := strings.Cut(path[0], ",")
			l.Dot = &[2]string{cx, cy}
		default:
			l.Path = "M" + strings.Join(path, " L")
		}
		data.Lines = append(data.Lines, l)
	}
	data.Height = keyY + 14
	if err := drawn.Execute(w, data); err != nil {
		return fmt.Errorf("draw chart %q: %w", c.Title, err)
	}
	return nil
}

// each returns a coordinate of all points.
func (c Chart) each(of func(Point) float64) (all []float64) {
	for _, s := range c.Series {
		for _, p := range s.Points {
			all = append(all, of(p))
		}
	}
	return all
}

// words say what the chart shows, for those who do not see it.
func (c Chart) words() string {
	parts := []string{c.Title + "; " + c.Y + " by " + c.X}
	for _, s := range c.Series {
		if n := len(s.Points); n > 0 {
			parts = append(parts, fmt.Sprintf("%s: from %s to %s", s.Name, Short(s.Points[0].Y), Short(s.Points[n-1].Y)))
		}
	}
	return strings.Join(parts, ". ")
}

// An axis has a least and a largest value.
type axis struct {
	log      bool
	from, to float64 // powers of ten where it is logarithmic, as their exponents
	step     float64
}

func axisOf(log bool, values []float64) axis {
	a := axis{log: log}
	values = slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return !a.has(v) })
	if len(values) == 0 {
		return axis{log: log, from: 0, to: 1, step: 1}
	}
	lo, hi := slices.Min(values), slices.Max(values)
	if log {
		a.from, a.to, a.step = math.Floor(math.Log10(lo)), math.Ceil(math.Log10(hi)), 1
		if a.from == a.to {
			a.to++
		}
		return a
	}
	if lo == hi {
		hi = lo + max(1, math.Abs(lo))
	}
	a.step = stepOf((hi - lo) / 5)
	a.from, a.to = math.Floor(lo/a.step)*a.step, math.Ceil(hi/a.step)*a.step
	return a
}

// stepOf returns the next 1, 2 or 5 times a power of ten.
func stepOf(least float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(least)))
	for _, f := range []float64{1, 2, 5} {
		if f*power >= least {
			return f * power
		}
	}
	return 10 * power
}

// has reports whether a value can be drawn.
func (a axis) has(v float64) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0) && (!a.log || v > 0)
}

// at is where a value is, from 0 to 1.
func (a axis) at(v float64) float64 {
	if a.log {
		v = math.Log10(v)
	}
	return (v - a.from) / (a.to - a.from)
}

func (a axis) marks() (all []float64) {
	for i := 0.0; a.from+i*a.step <= a.to+a.step/1e6; i++ {
		v := a.from + i*a.step
		if a.log {
			v = math.Pow(10, v)
		}
		all = append(all, v)
	}
	return all
}

// number is a place in the drawing.
func number(v float64) string {
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

// Short writes a value with three digits at most: 1.5, 20, 3k, 1.2M.
func Short(v float64) string {
	unit := ""
	for _, u := range []struct {
		of   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= u.of {
			v, unit = v/u.of, u.name
			break
		}
	}
	if v == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + unit
}
