package phash

import (
	"encoding/binary"
	"image"
	"image/color"
	"math"
)

// A conversion brings the colours of an ICC profile to sRGB: to light by a curve for each of R, G and B, to the light of sRGB by a
// matrix, and back by sRGB's own curve (ICC.1:2022, 8.3.3 and annex E, three-component matrix-based profiles).
type conversion struct {
	curve  [3][256]float32 // light of each value of R, G, B, 0 to 1
	matrix [3][3]float32
}

// fromXYZ makes sRGB's light of XYZ relative to D50, the white of ICC profiles: the inverse of the primaries of IEC 61966-2-1,
// adapted by Bradford's method.
var fromXYZ = [3][3]float64{
	{3.1338561, -1.6168667, -0.4906146},
	{-0.9787684, 1.9161415, 0.0334540},
	{0.0719453, -0.2289914, 1.4052427},
}

// parseICC returns the conversion of a profile, nil for one that is sRGB's, of another kind than R, G, B by matrix, or damaged: then
// colours stay as they are.
func parseICC(profile []byte) *conversion {
	const header, entry = 128, 12
	if len(profile) < header+4 || string(profile[16:20]) != "RGB " || string(profile[20:24]) != "XYZ " {
		return nil
	}
	tags := map[string][]byte{}
	r := pieces{rest: profile[header+4:]}
	for range min(binary.BigEndian.Uint32(profile[header:]), 100) {
		e, ok := r.next(entry)
		if !ok {
			return nil
		}
		start, size := uint64(binary.BigEndian.Uint32(e[4:])), uint64(binary.BigEndian.Uint32(e[8:]))
		if start+size > uint64(len(profile)) {
			return nil
		}
		tags[string(e[:4])] = profile[start : start+size]
	}
	if tags["A2B0"] != nil { // by tables, which say more than the matrix
		return nil
	}
	c := new(conversion)
	var toXYZ [3][3]float64
	for i, name := range []string{"r", "g", "b"} {
		xyz, ok := xyzOf(tags[name+"XYZ"])
		if !ok || !curveOf(tags[name+"TRC"], &c.curve[i]) {
			return nil
		}
		for row := range 3 {
			toXYZ[row][i] = xyz[row]
		}
	}
	for i := range 3 {
		for j := range 3 {
			sum := 0.0
			for k := range 3 {
				sum += fromXYZ[i][k] * toXYZ[k][j]
			}
			c.matrix[i][j] = float32(sum)
		}
	}
	if c.isSRGB() {
		return nil
	}
	return c
}

// xyzOf reads the type XYZType: three fixed-point numbers.
func xyzOf(tag []byte) (v [3]float64, ok bool) {
	if len(tag) < 20 || string(tag[:4]) != "XYZ " {
		return v, false
	}
	for i := range v {
		v[i] = fixed(tag[8+4*i:])
	}
	return v, true
}

// fixed reads a number of the type s15Fixed16.
func fixed(b []byte) float64 { return float64(int32(binary.BigEndian.Uint32(b))) / (1 << 16) }

// curveOf reads a curve (curveType, parametricCurveType) at the 256 values of a sample.
func curveOf(tag []byte, out *[256]float32) bool {
	if len(tag) < 12 {
		return false
	}
	var f func(x float64) float64
	switch string(tag[:4]) {
	case "curv":
		n := int(min(binary.BigEndian.Uint32(tag[8:]), 1<<16))
		if len(tag) < 12+2*n {
			return false
		}
		at := func(i int) float64 { return float64(binary.BigEndian.Uint16(tag[12+2*i:])) }
		switch n {
		case 0:
			f = func(x float64) float64 { return x }
		case 1:
			gamma := at(0) / 256
			f = func(x float64) float64 { return math.Pow(x, gamma) }
		default:
			f = func(x float64) float64 {
				pos := x * float64(n-1)
				i := min(int(pos), n-2)
				return (at(i) + (at(i+1)-at(i))*(pos-float64(i))) / 65535
			}
		}
	case "para":
		kind := int(binary.BigEndian.Uint16(tag[8:]))
		counts := []int{1, 3, 4, 5, 7}
		if kind >= len(counts) || len(tag) < 12+4*counts[kind] {
			return false
		}
		var p [7]float64 // g a b c d e f
		for i := range counts[kind] {
			p[i] = fixed(tag[12+4*i:])
		}
		f = parametric(kind, p)
	default:
		return false
	}
	for i := range out {
		v := f(float64(i) / 255)
		if math.IsNaN(v) {
			return false
		}
		out[i] = float32(min(max(v, 0), 1))
	}
	return true
}

// parametric is one of the functions of the type parametricCurveType (ICC.1:2022, table 68), of parameters g a b c d e f.
func parametric(kind int, p [7]float64) func(x float64) float64 {
	g, a, b, c, d, e, f := p[0], p[1], p[2], p[3], p[4], p[5], p[6]
	return func(x float64) float64 {
		switch kind {
		case 0:
			return math.Pow(x, g)
		case 1:
			if x >= -b/a {
				return math.Pow(a*x+b, g)
			}
			return 0
		case 2:
			if x >= -b/a {
				return math.Pow(a*x+b, g) + c
			}
			return c
		case 3:
			if x >= d {
				return math.Pow(a*x+b, g)
			}
			return c * x
		}
		if x >= d {
			return math.Pow(a*x+b, g) + e
		}
		return c*x + f
	}
}

// sRGB's curve, and its inverse at lightSteps steps of light.
var (
	srgbLight = func() (t [256]float32) {
		for i := range t {
			x := float64(i) / 255
			if x <= 0.04045 {
				t[i] = float32(x / 12.92)
			} else {
				t[i] = float32(math.Pow((x+0.055)/1.055, 2.4))
			}
		}
		return t
	}()
	srgbValue = func() (t [lightSteps + 1]uint8) {
		for i := range t {
			x := float64(i) / lightSteps
			if x <= 0.0031308 {
				x *= 12.92
			} else {
				x = 1.055*math.Pow(x, 1/2.4) - 0.055
			}
			t[i] = uint8(x*255 + 0.5)
		}
		return t
	}()
)

const lightSteps = 1 << 14

// isSRGB reports whether colours hardly change.
func (c *conversion) isSRGB() bool {
	for i := range 3 {
		for v, light := range c.curve[i] {
			if d := light - srgbLight[v]; d > 0.005 || d < -0.005 {
				return false
			}
		}
		for j := range 3 {
			want := float32(0)
			if i == j {
				want = 1
			}
			if d := c.matrix[i][j] - want; d > 0.01 || d < -0.01 {
				return false
			}
		}
	}
	return true
}

// convert changes an image in place. Colours that sRGB does not have are cut off.
func (c *conversion) convert(m *image.YCbCr) {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	rgb := make([]uint8, 3*w*h)
	for y := range h {
		for x := range w {
			p := rgb[3*(y*w+x):][:3]
			at := y/2*m.CStride + x/2
			r, g, b := color.YCbCrToRGB(m.Y[y*m.YStride+x], m.Cb[at], m.Cr[at])
			light := [3]float32{c.curve[0][r], c.curve[1][g], c.curve[2][b]}
			for i, row := range c.matrix {
				v := row[0]*light[0] + row[1]*light[1] + row[2]*light[2]
				p[i] = srgbValue[int(min(max(v, 0), 1)*lightSteps+0.5)]
			}
		}
	}
	fromRGB(m, rgb)
}
