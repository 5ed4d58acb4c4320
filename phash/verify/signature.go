package verify

import (
	"encoding/base64"
	"fmt"
	"image"
	"strings"
	"sync"

	"onceover/phash"
)

const (
	lumaSide   = 48 // cells of luma along a side
	chromaSide = 16 // cells of Cb and Cr
)

// A Signature is what is kept of a picture. It is comparable.
type Signature struct {
	Hashes
	Luma   [lumaSide * lumaSide]uint8 // means of cells, row by row
	Cb, Cr [chromaSide * chromaSide]uint8
}

// size is that of a signature in bytes.
const size = HashesSize + lumaSide*lumaSide + 2*chromaSide*chromaSide

// append appends the signature to b: the hashes, luma, Cb, Cr.
func (s *Signature) append(b []byte) []byte {
	b = s.Hashes.Append(b)
	b = append(b, s.Luma[:]...)
	b = append(b, s.Cb[:]...)
	return append(b, s.Cr[:]...)
}

// String returns 3,883 characters of base64 (RFC 4648, unpadded).
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
	s := &Signature{Hashes: ReadHashes(b)}
	b = b[HashesSize:]
	b = b[copy(s.Luma[:], b):]
	b = b[copy(s.Cb[:], b):]
	copy(s.Cr[:], b)
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
	Hashes
	finest func() plane // luma, 384 x 384, made when it is compared: most pictures never are
	fine   plane        // luma, 192 x 192
	coarse plane        // luma, 64 x 64
	rough  plane        // luma, 32 x 32
	chroma [2]plane     // Cb and Cr, 64 x 64

	turned [phash.Turns]phash.Hash // turned[0] is Hash
	inner  *View                   // the picture without the uniform bands at its edges; nil if there are none
}

const (
	finestSide = 8 * lumaSide
	fineSide   = 4 * lumaSide
	coarseSide = 2 * secondSide
	roughSide  = 2 * firstSide
)

// Of returns the view of a picture as people see it.
func Of(l *phash.Look) *View {
	m := l.Upright()
	v := viewOf(m, m.Rect)
	upright := l.UprightTurn()
	for t := range v.turned {
		v.turned[t] = l.Turned[phash.Then(upright, t)]
	}
	v.Hash = v.turned[0]
	if inner := withoutBands(m); inner != m.Rect {
		v.inner = viewOf(m, inner)
		v.inner.Hash = v.inner.fine.hashes(0)[0]
	}
	return v
}

// viewOf returns the view of a part of a picture, whose left and upper borders are even, without its own hash.
func viewOf(m *image.YCbCr, part image.Rectangle) *View {
	w, h := part.Dx(), part.Dy()
	cw, ch := (w+1)/2, (h+1)/2
	c := m.COffset(part.Min.X, part.Min.Y)
	luma := m.Y[m.YOffset(part.Min.X, part.Min.Y):]
	v := &View{fine: reduced(luma, m.YStride, w, h, fineSide)}
	v.finest = sync.OnceValue(func() plane { return reduced(luma, m.YStride, w, h, finestSide) })
	v.coarse = v.fine.down(coarseSide)
	v.rough = v.coarse.down(roughSide)
	v.chroma = [2]plane{reduced(m.Cb[c:], m.CStride, cw, ch, coarseSide), reduced(m.Cr[c:], m.CStride, cw, ch, coarseSide)}
	v.Crops = [2]phash.Hash(v.fine.hashes(0.025, 0.05))
	return v
}

// hashes returns the hashes of what is left of a plane within margins, in shares of a side.
func (p plane) hashes(margins ...float64) []phash.Hash {
	b := make([]uint8, len(p.pix))
	round(b, p)
	out := make([]phash.Hash, len(margins))
	for i, margin := range margins {
		m := int(margin*float64(p.side) + 0.5)
		out[i] = phash.OfGray(b[m*p.side+m:], p.side, p.side-2*m, p.side-2*m)
	}
	return out
}

// Signature returns what is to be kept of the picture.
func (v *View) Signature() *Signature {
	s := &Signature{Hashes: v.Hashes}
	round(s.Luma[:], v.fine.down(lumaSide))
	round(s.Cb[:], v.chroma[0].down(chromaSide))
	round(s.Cr[:], v.chroma[1].down(chromaSide))
	return s
}

// View returns a view of what is kept. It lacks the details that one of the picture has: it will do where the pictures that are
// compared with it are not cropped.
func (s *Signature) View() *View {
	luma := planeOf(s.Luma[:], lumaSide)
	v := &View{Hashes: s.Hashes, fine: luma.up(fineSide / lumaSide)}
	v.finest = sync.OnceValue(func() plane { return luma.up(finestSide / lumaSide) })
	v.coarse = v.fine.down(coarseSide)
	v.rough = v.coarse.down(roughSide)
	for i, b := range [2]*[chromaSide * chromaSide]uint8{&s.Cb, &s.Cr} {
		v.chroma[i] = planeOf(b[:], chromaSide).up(coarseSide / chromaSide)
	}
	v.turned[0] = v.Hash
	return v
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
	column := make([]float32, w) // the means of what the cells of a row cover of each column
	for i, rows := range down {
		clear(column)
		for y := rows.first; y <= rows.last; y++ {
			weight := rows.weightOf(y)
			for x, v := range pix[y*stride:][:w] {
				column[x] += weight * float32(v)
			}
		}
		row := out.pix[i*side:][:side]
		for x, s := range across {
			row[x] = s.mean(column)
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

// mean returns the mean of the stretch of samples.
func (s stretch) mean(samples []float32) float32 {
	if s.first == s.last {
		return samples[s.first]
	}
	sum := float32(0)
	for _, v := range samples[s.first+1 : s.last] {
		sum += v
	}
	return s.firstWeight*samples[s.first] + s.inner*sum + s.lastWeight*samples[s.last]
}

// down returns a plane of fewer cells: the means of what each covers.
func (p plane) down(side int) plane {
	if side == p.side {
		return p
	}
	out := newPlane(side)
	if k := p.side / side; k*side == p.side {
		share := 1 / float32(k*k)
		for y := range p.side {
			row := out.pix[y/k*side:][:side]
			line := p.pix[y*p.side:][:p.side]
			for x := range row {
				sum := float32(0)
				for _, v := range line[x*k:][:k] {
					sum += v
				}
				row[x] += share * sum
			}
		}
		return out
	}
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

// up returns a plane of k times as many cells along a side.
func (p plane) up(k int) plane {
	out := newPlane(k * p.side)
	for i := range out.pix {
		out.pix[i] = p.pix[i/out.side/k*p.side+i%out.side/k]
	}
	return out
}

// A Way is a way in which a picture may be that of a signature.
type Way struct {
	Hashes
	of   *View
	turn int
}

// Itself returns the picture as it is.
func (v *View) Itself() Way { return Way{v.Hashes, v, 0} }

// Ways returns the ways to look at a picture but as it is: without the uniform bands at its edges, if it has any, and, if turned is
// set, turned and mirrored.
func (v *View) Ways(turned bool) []Way {
	var out []Way
	if v.inner != nil {
		out = append(out, Way{v.inner.Hashes, v.inner, 0})
	}
	for t := 1; turned && t < len(v.turned); t++ {
		if h := v.turned[t]; h != (phash.Hash{}) {
			out = append(out, Way{Hashes{Hash: h}, v, t})
		}
	}
	return out
}

// Turned reports whether the way turns or mirrors the picture.
func (w Way) Turned() bool { return w.turn != 0 }

// View returns the view that the way is.
func (w Way) View() *View {
	v := w.of
	if w.turn == 0 {
		return v
	}
	out := &View{Hashes: w.Hashes, fine: v.fine.turned(w.turn), coarse: v.coarse.turned(w.turn), rough: v.rough.turned(w.turn), finest: func() plane { return v.finest().turned(w.turn) }}
	out.chroma = [2]plane{v.chroma[0].turned(w.turn), v.chroma[1].turned(w.turn)}
	return out
}

// turned returns the plane turned, by the numbers of [phash.Turned].
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
