package phash

import (
	"bytes"
	"encoding/binary"
	"image"
	"io"
	"sync"

	"golang.org/x/image/vp8"
	"golang.org/x/image/vp8l"
)

// A webpFrame is the first frame of a WebP and where it lies on the canvas.
type webpFrame struct {
	width, height int // of the canvas
	bounds        image.Rectangle
	lossy         bool
	data          []byte // VP8 if lossy, else VP8L
	alpha         []byte // content of ALPH, of a lossy frame, or nil
}

// readWebP walks the chunks before the first frame's pixels (RFC 9649, section 2). Alpha is in chunks of its own or ignored, as the
// colours below it count.
func readWebP(data []byte) (webpFrame, error) {
	const header = 12 // "RIFF", size, "WEBP"
	var f webpFrame
	r := pieces{rest: data}
	b, ok := r.next(header)
	if !ok {
		return f, damaged("no complete header")
	}
	size := le32(b[4:])
	if size < header-8 || size-(header-8) > len(r.rest) {
		return f, damaged("%d bytes are fewer than the header claims", len(data))
	}
	r.rest = r.rest[:size-(header-8)]

	name, chunk, err := r.chunk()
	if err != nil {
		return f, err
	}
	if name != "VP8X" {
		if err := f.take(name, chunk); err != nil {
			return f, err
		}
		if f.data == nil {
			return f, damaged("begins with the chunk %q", name)
		}
		f.width, f.height = f.bounds.Max.X, f.bounds.Max.Y
		return f, nil
	}

	const animation = 1 << 1
	if len(chunk) < 10 {
		return f, damaged("no complete header")
	}
	f.width, f.height = le24(chunk[4:])+1, le24(chunk[7:])+1
	var frame image.Rectangle
	if chunk[0]&animation != 0 {
		if frame, err = r.enter(); err != nil {
			return f, err
		}
	} else {
		frame = image.Rect(0, 0, f.width, f.height)
	}
	for f.data == nil {
		if name, chunk, err = r.chunk(); err != nil {
			return f, err
		}
		if err := f.take(name, chunk); err != nil {
			return f, err
		}
	}
	if f.bounds.Size() != frame.Size() || !frame.In(image.Rect(0, 0, f.width, f.height)) {
		return f, damaged("frame of %v in a place of %v on a canvas of %d x %d", f.bounds.Max, frame, f.width, f.height)
	}
	f.bounds = frame
	return f, nil
}

// take keeps a chunk that holds pixels and ignores others.
func (f *webpFrame) take(name string, chunk []byte) error {
	var w, h int
	switch name {
	case "ALPH":
		f.alpha = chunk
		return nil
	case "VP8 ":
		if len(chunk) < 10 || string(chunk[3:6]) != "\x9d\x01\x2a" {
			return damaged("no complete VP8 header")
		}
		w, h = le16(chunk[6:])&0x3fff, le16(chunk[8:])&0x3fff
		f.lossy = true
	case "VP8L":
		if len(chunk) < 5 || chunk[0] != 0x2f {
			return damaged("no complete VP8L header")
		}
		bits := le32(chunk[1:])
		w, h = bits&0x3fff+1, bits>>14&0x3fff+1
	default:
		return nil
	}
	f.bounds, f.data = image.Rect(0, 0, w, h), chunk
	return nil
}

// chunk returns the next chunk of a RIFF file.
func (r *pieces) chunk() (name string, chunk []byte, err error) {
	header, ok := r.next(8)
	if !ok {
		return "", nil, damaged("ends before the first frame")
	}
	n := le32(header[4:])
	if chunk, ok = r.next(n); !ok {
		return "", nil, damaged("ends within the chunk %q", header[:4])
	}
	r.next(n & 1) // padding
	return string(header[:4]), chunk, nil
}

// enter goes to the chunks of the first frame of an animation, and tells where the frame lies.
func (r *pieces) enter() (image.Rectangle, error) {
	const header = 16
	for {
		name, chunk, err := r.chunk()
		if err != nil {
			return image.Rectangle{}, err
		}
		if name != "ANMF" {
			continue
		}
		if len(chunk) < header {
			return image.Rectangle{}, damaged("no complete frame header")
		}
		x, y := 2*le24(chunk), 2*le24(chunk[3:])
		w, h := le24(chunk[6:])+1, le24(chunk[9:])+1
		r.rest = chunk[header:]
		return image.Rect(x, y, x+w, y+h), nil
	}
}

func sizeWebP(data []byte) (width, height int, err error) {
	f, err := readWebP(data)
	return f.width, f.height, err
}

// decodeWebP puts the first frame on a transparent black canvas, whose black counts.
func decodeWebP(data []byte) (picture, error) {
	f, err := readWebP(data)
	if err != nil {
		return picture{}, err
	}
	var pixels picture
	if f.lossy {
		if pixels, err = decodeVP8(f); err == nil && f.alpha != nil {
			pixels.alpha = f.alphaRows()
		}
	} else {
		pixels, err = decodeVP8L(f)
	}
	if err != nil {
		return picture{}, err
	}
	if size := f.bounds.Size(); pixels.width != size.X || pixels.height != size.Y {
		return picture{}, damaged("frame of %d x %d pixels in a place of %v", pixels.width, pixels.height, size)
	}
	return framed(pixels, f.width, f.height, f.bounds.Min, [3]uint8{}), nil
}

func decodeVP8L(f webpFrame) (picture, error) {
	decoded, err := vp8l.Decode(bytes.NewReader(f.data))
	if err != nil {
		return picture{}, err
	}
	m, ok := decoded.(*image.NRGBA)
	if !ok {
		return picture{}, unsupported("pixels of type %T", decoded)
	}
	return picture{
		width: m.Rect.Dx(), height: m.Rect.Dy(),
		rgb: everyNth(m.Pix, m.Stride, 4, 1), alpha: everySample(m.Pix, m.Stride, 4, 3),
	}, nil
}

// alphaRows returns the rows of the alpha of a lossy frame, which is decoded when the first one is asked for.
func (f webpFrame) alphaRows() func(y int, alpha []uint8) {
	w := f.bounds.Dx()
	plane := sync.OnceValue(f.alphaPlane)
	return func(y int, alpha []uint8) {
		if p := plane(); p != nil {
			copy(alpha, p[y*w:])
		} else {
			fill(alpha, 255)
		}
	}
}

// alphaPlane decodes the alpha of a lossy frame (RFC 9649, section 2.7.1.2). It is nil, for opaque, where it is corrupt: the hash
// does not depend on it.
func (f webpFrame) alphaPlane() []uint8 {
	const raw, lossless = 0, 1
	w, h := f.bounds.Dx(), f.bounds.Dy()
	if len(f.alpha) == 0 {
		return nil
	}
	head, body := f.alpha[0], f.alpha[1:]
	var plane []uint8
	switch head & 3 {
	case raw:
		if len(body) < w*h {
			return nil
		}
		plane = bytes.Clone(body[:w*h])
	case lossless:
		// A stream without the header of its own, whose alpha is in green.
		size := uint32(w-1) | uint32(h-1)<<14
		header := binary.LittleEndian.AppendUint32([]byte{0x2f}, size)
		decoded, err := vp8l.Decode(io.MultiReader(bytes.NewReader(header), bytes.NewReader(body)))
		if err != nil {
			return nil
		}
		m, ok := decoded.(*image.NRGBA)
		if !ok || m.Rect.Dx() != w || m.Rect.Dy() != h {
			return nil
		}
		plane = make([]uint8, w*h)
		for i := range plane {
			plane[i] = m.Pix[4*i+1]
		}
	default:
		return nil
	}
	unfilterALPH(plane, w, head>>2&3)
	return plane
}

// unfilterALPH undoes the filter of an alpha plane: 0 none, 1 from the left, 2 from above, 3 from both and the corner.
func unfilterALPH(plane []uint8, w int, filter uint8) {
	if filter == 0 {
		return
	}
	for i := range plane {
		x := i % w
		switch {
		case i == 0:
		case i < w:
			plane[i] += plane[i-1]
		case x == 0 || filter == 2:
			plane[i] += plane[i-w]
		case filter == 1:
			plane[i] += plane[i-1]
		default:
			plane[i] += uint8(min(max(int(plane[i-1])+int(plane[i-w])-int(plane[i-w-1]), 0), 255))
		}
	}
}

func decodeVP8(f webpFrame) (picture, error) {
	const pixelsPerByte = 1024 // a macroblock of 16 x 16 takes three bits or so at least, for its modes
	w, h := f.bounds.Dx(), f.bounds.Dy()
	if err := plausible(f.data, h, 8*w, pixelsPerByte); err != nil {
		return picture{}, err
	}
	d := vp8.NewDecoder()
	d.Init(bytes.NewReader(f.data), len(f.data))
	if _, err := d.DecodeFrameHeader(); err != nil {
		return picture{}, err
	}
	m, err := d.DecodeFrame()
	if err != nil {
		return picture{}, err
	}
	cb, cr := newUpsampler(w, h), newUpsampler(w, h)
	return picture{width: m.Rect.Dx(), height: m.Rect.Dy(), rgb: func(y int, rgb []uint8) {
		u, v := cb.row(m.Cb, m.CStride, y), cr.row(m.Cr, m.CStride, y)
		for x, l := range m.Y[y*m.YStride:][:w] {
			p := rgb[3*x : 3*x+3 : 3*x+3]
			p[0], p[1], p[2] = yuvToRGB(int(l), u.at(x), v.at(x))
		}
	}}, nil
}

// An upsampler doubles a plane of chroma in both directions as libwebp does: the nearest of four samples counts 9/16, its
// neighbours in the row and the column 3/16, the one across 1/16, and beyond the edge the sample at the edge is repeated.
type upsampler struct {
	height int      // of the plane
	column []uint16 // sums of two rows, 3 + 1 parts, with one more sample before and after
}

func newUpsampler(width, height int) *upsampler {
	return &upsampler{(height + 1) / 2, make([]uint16, (width+1)/2+2)}
}

// row prepares row y of the doubled plane.
func (u *upsampler) row(plane []uint8, stride, y int) *upsampler {
	near := y / 2
	far := min(max(near-1+2*(y&1), 0), u.height-1)
	inner := u.column[1 : len(u.column)-1]
	a, b := plane[near*stride:][:len(inner)], plane[far*stride:][:len(inner)]
	for i := range inner {
		inner[i] = 3*uint16(a[i]) + uint16(b[i])
	}
	u.column[0], u.column[len(u.column)-1] = inner[0], inner[len(inner)-1]
	return u
}

// at returns the sample at x of the row.
func (u *upsampler) at(x int) int {
	near := x/2 + 1
	far := near - 1 + 2*(x&1)
	return int((3*u.column[near] + u.column[far] + 8) >> 4)
}

// yuvToRGB is libwebp's conversion (ITU-R BT.601, 6 fraction bits), with the same roundings.
func yuvToRGB(y, u, v int) (r, g, b uint8) {
	clip := func(v int) uint8 { return uint8(min(max(v>>6, 0), 255)) }
	y = y * 19077 >> 8
	return clip(y + (v * 26149 >> 8) - 14234), clip(y - (u * 6419 >> 8) - (v * 13320 >> 8) + 8708), clip(y + (u * 33050 >> 8) - 17685)
}
