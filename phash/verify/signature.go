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

// Image returns the picture as far as the signature has it, 48 x 48 cells whatever the picture's shape. It is for people.
func (s *Signature) Image() *image.YCbCr {
	m := image.NewYCbCr(image.Rect(0, 0, lumaSide, lumaSide), image.YCbCrSubsampleRatio444)
	const scale = lumaSide / chromaSide
	for y := range lumaSide {
		for x := range lumaSide {
			i, cell := y*m.YStride+x, y/scale*chromaSide+x/scale
			m.Y[i], m.Cb[i], m.Cr[i] = s.Luma[y*lumaSide+x], s.Cb[cell], s.Cr[cell]
		}
	}
	return m
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
	kept   *Signature     // but for Hashes
	planes func() *planes // made when it is compared: most pictures never are

	turned [phash.Turns]phash.Hash // turned[0] is Hash
	inner  *View                   // the picture without the uniform bands at its edges; nil if there are none
}

// planes are what is compared of a view.
type planes struct {
	finest func() plane // luma, 384 x 384, made when the picture is found to be there
	fine   plane        // luma, 192 x 192
	coarse plane        // luma, 64 x 64
	rough  plane        // luma, 32 x 32
	chroma [2]plane     // Cb and Cr, 64 x 64
}

const (
	finestSide = 8 * lumaSide
	fineSide   = 4 * lumaSide
	coarseSide = 2 * secondSide
	roughSide  = 2 * firstSide
)

// newPlanes returns the planes whose finest, fine and chroma planes are given.
func newPlanes(finest func() plane, fine, cb, cr plane) *planes {
	coarse := fine.down(coarseSide)
	return &planes{sync.OnceValue(finest), fine, coarse, coarse.down(roughSide), [2]plane{cb, cr}}
}

// turned returns the planes turned, by the numbers of [phash.Turned].
func (p *planes) turned(turn int) *planes {
	return newPlanes(func() plane { return p.finest().turned(turn) }, p.fine.turned(turn), p.chroma[0].turned(turn), p.chroma[1].turned(turn))
}

// Of returns the view of a picture as people see it.
func Of(l *phash.Look) *View {
	m := l.Upright()
	upright := l.UprightTurn()
	v := viewOf(m, m.Rect, &l.Turned[upright], l.Upright)
	for t := range v.turned {
		v.turned[t] = l.Turned[phash.Then(upright, t)]
	}
	if inner := withoutBands(m); inner != m.Rect {
		v.inner = viewOf(m, inner, nil, l.Upright)
	}
	return v
}

// A part is a part of a picture, whose left and upper borders are even.
type part struct {
	luma, cb, cr    []uint8
	stride, cStride int
	w, h, cw, ch    int
}

func partOf(m *image.YCbCr, r image.Rectangle) part {
	c := m.COffset(r.Min.X, r.Min.Y)
	w, h := r.Dx(), r.Dy()
	return part{m.Y[m.YOffset(r.Min.X, r.Min.Y):], m.Cb[c:], m.Cr[c:], m.YStride, m.CStride, w, h, (w + 1) / 2, (h + 1) / 2}
}

func (p part) reduceLuma(out plane) { reduce(out, p.luma, p.stride, p.w, p.h) }

func (p part) reduceChroma(cb, cr plane) {
	reduce(cb, p.cb, p.cStride, p.cw, p.ch)
	reduce(cr, p.cr, p.cStride, p.cw, p.ch)
}

// planes returns what is compared.
func (p part) planes() *planes {
	fine, cb, cr := newPlane(fineSide), newPlane(coarseSide), newPlane(coarseSide)
	p.reduceLuma(fine)
	p.reduceChroma(cb, cr)
	return newPlanes(func() plane {
		finest := newPlane(finestSide)
		p.reduceLuma(finest)
		return finest
	}, fine, cb, cr)
}

// A scratch has what a view is made with.
type scratch struct {
	fine, cb, cr plane
	gray         [fineSide * fineSide]uint8
}

var scratches = sync.Pool{New: func() any {
	return &scratch{fine: newPlane(fineSide), cb: newPlane(coarseSide), cr: newPlane(coarseSide)}
}}

// viewOf returns the view of a part of a picture that has a hash; nil: that of the reduced part is taken. again returns the picture once
// more when it is compared: few are, and one that had to be turned is not held for that.
func viewOf(m *image.YCbCr, r image.Rectangle, hash *phash.Hash, again func() *image.YCbCr) *View {
	p := partOf(m, r)
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	p.reduceLuma(s.fine)
	p.reduceChroma(s.cb, s.cr)
	round(s.gray[:], s.fine)
	v := &View{kept: new(Signature), planes: sync.OnceValue(func() *planes { return partOf(again(), r).planes() })}
	if hash != nil {
		v.Hash = *hash
	} else {
		v.Hash = s.hash(0)
	}
	v.Crops = [2]phash.Hash{s.hash(0.025), s.hash(0.05)}
	round(v.kept.Luma[:], s.fine.down(lumaSide))
	round(v.kept.Cb[:], s.cb.down(chromaSide))
	round(v.kept.Cr[:], s.cr.down(chromaSide))
	return v
}

// hash returns the hash of what is left within a margin, in shares of a side.
func (s *scratch) hash(margin float64) phash.Hash {
	m := int(margin*fineSide + 0.5)
	return phash.OfGray(s.gray[m*fineSide+m:], fineSide, fineSide-2*m, fineSide-2*m)
}

// Signature returns what is to be kept of the picture.
func (v *View) Signature() *Signature {
	s := *v.kept
	s.Hashes = v.Hashes
	return &s
}

// View returns a view of what is kept. It lacks the details that one of the picture has: it will do where the pictures that are
// compared with it are not cropped.
func (s *Signature) View() *View {
	luma, cb, cr := planeOf(s.Luma[:], lumaSide), planeOf(s.Cb[:], chromaSide), planeOf(s.Cr[:], chromaSide)
	const k = coarseSide / chromaSide
	p := newPlanes(func() plane { return luma.up(finestSide / lumaSide) }, luma.up(fineSide/lumaSide), cb.up(k), cr.up(k))
	v := &View{Hashes: s.Hashes, kept: s, planes: func() *planes { return p }}
	v.turned[0] = v.Hash
	return v
}

func round(out []uint8, p plane) {
	for i, x := range p.pix {
		out[i] = uint8(min(max(x+0.5, 0), 255))
	}
}

// reduce sets out to the means of its cells of a plane, whose borders may lie within samples.
func reduce(out plane, pix []uint8, stride, w, h int) {
	across, down := borders(w, out.side), borders(h, out.side)
	column := make([]float32, w) // the means of what the cells of a row cover of each column
	for i, rows := range down {
		clear(column)
		for y := rows.first; y <= rows.last; y++ {
			weight := rows.weightOf(y)
			for x, v := range pix[y*stride:][:w] {
				column[x] += weight * float32(v)
			}
		}
		row := out.pix[i*out.side:][:out.side]
		for x := range across {
			s := &across[x]
			if s.first == s.last {
				row[x] = column[s.first]
				continue
			}
			sum := float32(0)
			for _, v := range column[s.first+1 : s.last] {
				sum += v
			}
			row[x] = s.firstWeight*column[s.first] + s.inner*sum + s.lastWeight*column[s.last]
		}
	}
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

// View returns the view that the way is. One that is turned has no Signature.
func (w Way) View() *View {
	v := w.of
	if w.turn == 0 {
		return v
	}
	return &View{Hashes: w.Hashes, planes: sync.OnceValue(func() *planes { return v.planes().turned(w.turn) })}
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
