package phash

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/png"
)

// deflateRatio is the most that deflate can expand a byte to.
const deflateRatio = 1032

// plausible refuses a picture that needs more bytes than the file can hold, before anything is allocated for it: rows of rowBits
// bits, with ratio the compression's best.
func plausible(data []byte, height, rowBits, ratio int) error {
	if need := height * ((rowBits + 7) / 8); need/ratio > len(data) {
		return damaged("%d bytes are too few for the size that the header claims", len(data))
	}
	return nil
}

// Little-endian numbers at the beginning of b.
func le16(b []byte) int { return int(binary.LittleEndian.Uint16(b)) }
func le24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }
func le32(b []byte) int { return int(binary.LittleEndian.Uint32(b)) }

// A pieces cuts pieces off the front of a file.
type pieces struct{ rest []byte }

// next returns n bytes; ok is false if there are fewer.
func (r *pieces) next(n int) (b []byte, ok bool) {
	if len(r.rest) < n {
		return nil, false
	}
	b, r.rest = r.rest[:n], r.rest[n:]
	return b, true
}

// pngHeader is the IHDR chunk.
type pngHeader struct {
	width, height int
	depth, colour uint8 // bits per sample; colour type
}

func readPNGHeader(data []byte) (pngHeader, error) {
	const length = 8 + 8 + 13 // signature, chunk header, chunk
	if len(data) < length {
		return pngHeader{}, damaged("no complete header")
	}
	if string(data[12:16]) != "IHDR" {
		return pngHeader{}, damaged("does not begin with the chunk IHDR")
	}
	w, h := binary.BigEndian.Uint32(data[16:]), binary.BigEndian.Uint32(data[20:])
	if w > 1<<31-1 || h > 1<<31-1 {
		return pngHeader{}, damaged("side of more than 2^31-1 pixels")
	}
	return pngHeader{int(w), int(h), data[24], data[25]}, nil
}

func sizePNG(data []byte) (width, height int, err error) {
	h, err := readPNGHeader(data)
	return h.width, h.height, err
}

func decodePNG(data []byte) (picture, error) {
	h, err := readPNGHeader(data)
	if err != nil {
		return picture{}, err
	}
	samples := 1
	switch h.colour {
	case 2:
		samples = 3
	case 4:
		samples = 2
	case 6:
		samples = 4
	}
	if err := plausible(data, h.height, h.width*samples*int(h.depth), deflateRatio); err != nil {
		return picture{}, err
	}
	m, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		return picture{}, err
	}
	if m, ok := m.(*image.NRGBA64); ok && h.colour == 0 {
		// 16-bit gray with a transparent value is made colour by image/png, but remains gray, and clipped, in Pillow.
		return picture{width: h.width, height: h.height, row: clipped(m.Pix, m.Stride, 8)}, nil
	}
	return newPicture(m, nil)
}
