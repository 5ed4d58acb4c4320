package verify

import (
	"encoding/base64"
	"fmt"
	"image"
	"strings"

	"onceover/phash"
)

const (
	lumaSide   = 48 // cells of luma along a side
	chromaSide = 16 // cells of Cb and Cr
)

// A Signature is what is kept of a picture. It is comparable.
type Signature struct {
	Luma   [lumaSide * lumaSide]uint8 // means of cells, row by row
	Cb, Cr [chromaSide * chromaSide]uint8
	Crops  [2]phash.Hash // hashes of the picture without 2.5 and 5 % at each side
}

// size is that of a signature in bytes.
const size = lumaSide*lumaSide + 2*chromaSide*chromaSide + 2*32

// append appends the signature to b: luma, Cb, Cr, and the hashes as they are written in hex.
func (s *Signature) append(b []byte) []byte {
	b = append(b, s.Luma[:]...)
	b = append(b, s.Cb[:]...)
	b = append(b, s.Cr[:]...)
	for _, h := range s.Crops {
		for _, v := range h {
			for shift := 56; shift >= 0; shift -= 8 {
				b = append(b, uint8(v>>shift))
			}
		}
	}
	return b
}

// String returns 3,840 characters of base64 (RFC 4648, unpadded).
func (s *Signature) String() string {
	return base64.RawStdEncoding.EncodeToString(s.append(make([]byte, 0, size)))
}

// Parse reads what [Signature.String] writes.
func Parse(text string) (*Signature, error) {
	if want := base64.RawStdEncoding.EncodedLen(size); len(text) != want || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("parse signature: got %d characters, want %d of base64", len(text), want)
	}
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("parse signature: want base64: %w", err)
	}
	s := new(Signature)
	b = b[copy(s.Luma[:], b):]
	b = b[copy(s.Cb[:], b):]
	b = b[copy(s.Cr[:], b):]
	for i := range s.Crops {
		for j := range s.Crops[i] {
			for range 8 {
				s.Crops[i][j] = s.Crops[i][j]<<8 | uint64(b[0])
				b = b[1:]
			}
		}
	}
	return s, nil
}

// A plane is a square of values.
type plane struct {
	side int
	pix  []float32
}

func newPlane(side int) plane { return plane{side, make([]float32, side*side)} }

// A View is a picture that is compared with signatures. It is not changed by that, and safe for concurrent use.
type View struct {
	fine   plane    // luma, 192 x 192
	coarse plane    // luma, 64 x 64
	chroma [2]plane // Cb and Cr, 64 x 64
}

const (
	fineSide   = 4 * lumaSide
	coarseSide = 64
)

// Of returns the view of a picture as people see it.
func Of(m *image.YCbCr) *View {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	cw, ch := (w+1)/2, (h+1)/2
	v := &View{fine: reduced(m.Y, m.YStride, w, h, fineSide)}
	v.coarse = v.fine.down(coarseSide)
	v.chroma = [2]plane{reduced(m.Cb, m.CStride, cw, ch, coarseSide), reduced(m.Cr, m.CStride, cw, ch, coarseSide)}
	return v
}

// Signature returns what is to be kept of the picture. crops are the hashes of the picture cropped.
func (v *View) Signature(crops [2]phash.Hash) *Signature {
	s := &Signature{Crops: crops}
	round(s.Luma[:], v.fine.down(lumaSide))
	round(s.Cb[:], v.chroma[0].down(chromaSide))
	round(s.Cr[:], v.chroma[1].down(chromaSide))
	return s
}

func round(out []uint8, p plane) {
	for i, x := range p.pix {
		out[i] = uint8(min(max(x+0.5, 0), 255))
	}
}

// reduced returns the means of side x side cells of a plane, whose borders may lie within samples.
func reduced(pix []uint8, stride, w, h, side int) plane {
	out := newPlane(side)
	across, down := borders(w, side), borders(h, side)
	row := make([]float32, side)
	for y := range h {
		line := pix[y*stride:][:w]
		for i := range row {
			row[i] = mean(line, across[i])
		}
		for i := range side {
			if weight := down[i].weightOf(y); weight > 0 {
				for x, v := range row {
					out.pix[i*side+x] += weight * v
				}
			}
		}
	}
	return out
}

// A stretch is the samples first to last, of which the first and the last count in part; all weights together are 1.
type stretch struct {
	first, last                    int
	firstWeight, inner, lastWeight float32
}

func (s stretch) weightOf(i int) float32 {
	switch {
	case i < s.first || i > s.last:
		return 0
	case i == s.first:
		return s.firstWeight
	case i == s.last:
		return s.lastWeight
	}
	return s.inner
}

// borders divides n samples among cells.
func borders(n, cells int) []stretch {
	out := make([]stretch, cells)
	length := float64(n) / float64(cells)
	for i := range out {
		start, end := float64(i)*length, float64(i+1)*length
		s := stretch{first: min(int(start), n-1), last: min(int(end), n-1)}
		if float64(s.last) >= end && s.last > s.first {
			s.last--
		}
		if s.first == s.last {
			s.firstWeight = 1
		} else {
			s.firstWeight = float32((float64(s.first+1) - start) / length)
			s.inner = float32(1 / length)
			s.lastWeight = float32((end - float64(s.last)) / length)
		}
		out[i] = s
	}
	return out
}

func mean(line []uint8, s stretch) float32 {
	if s.first == s.last {
		return float32(line[s.first])
	}
	sum := 0
	for _, v := range line[s.first+1 : s.last] {
		sum += int(v)
	}
	return s.firstWeight*float32(line[s.first]) + s.inner*float32(sum) + s.lastWeight*float32(line[s.last])
}

// down returns a plane of fewer cells, whose number divides the side or not.
func (p plane) down(side int) plane {
	if side == p.side {
		return p
	}
	out := newPlane(side)
	cells := borders(p.side, side)
	row := make([]float32, side)
	for y := range p.side {
		line := p.pix[y*p.side:][:p.side]
		for i, s := range cells {
			sum := float32(0)
			for x := s.first; x <= s.last; x++ {
				sum += s.weightOf(x) * line[x]
			}
			row[i] = sum
		}
		for i, s := range cells {
			if weight := s.weightOf(y); weight > 0 {
				for x, v := range row {
					out.pix[i*side+x] += weight * v
				}
			}
		}
	}
	return out
}

// planeOf returns values of bytes.
func planeOf(b []uint8, side int) plane {
	out := newPlane(side)
	for i, v := range b {
		out.pix[i] = float32(v)
	}
	return out
}

// Turned returns the view turned and mirrored: 0 to 7, 0 as it is, by the numbers of [Turns].
func (v *View) Turned(turn int) *View {
	if turn == 0 {
		return v
	}
	return &View{v.fine.turned(turn), v.coarse.turned(turn), [2]plane{v.chroma[0].turned(turn), v.chroma[1].turned(turn)}}
}

// Turns is how many ways there are to turn and mirror a picture: as it is, mirrored, upside down and mirrored, turned by 180 degrees,
// and each of these with rows and columns exchanged.
const Turns = 8

func (p plane) turned(turn int) plane {
	out, n := newPlane(p.side), p.side
	for y := range n {
		for x := range n {
			sx, sy := x, y
			if turn&4 != 0 {
				sx, sy = y, x
			}
			if turn&1 != 0 {
				sx = n - 1 - sx
			}
			if turn&2 != 0 {
				sy = n - 1 - sy
			}
			out.pix[y*n+x] = p.pix[sy*n+sx]
		}
	}
	return out
}
