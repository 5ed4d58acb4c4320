package phash

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/png"

	"golang.org/x/image/bmp"
	"golang.org/x/image/webp"
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
		return picture{width: h.width, height: h.height, row: func(y int, gray []uint8) {
			pix := m.Pix[y*m.Stride:]
			for x := range gray {
				gray[x] = clip16(pix[8*x], pix[8*x+1])
			}
		}}, nil
	}
	return newPicture(m, nil)
}

func sizeBMP(data []byte) (width, height int, err error) {
	c, err := bmp.DecodeConfig(bytes.NewReader(data))
	return c.Width, c.Height, err
}

func decodeBMP(data []byte) (picture, error) {
	c, err := bmp.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return picture{}, err
	}
	bitsPerPixel := int(binary.LittleEndian.Uint16(data[28:]))
	if err := plausible(data, c.Height, c.Width*bitsPerPixel, 1); err != nil {
		return picture{}, err
	}
	return newPicture(bmp.Decode(bytes.NewReader(data)))
}

func sizeWebP(data []byte) (width, height int, err error) {
	const animation = 1 << 1
	if len(data) > 20 && string(data[12:16]) == "VP8X" && data[20]&animation != 0 {
		return 0, 0, unsupported("animated")
	}
	c, err := webp.DecodeConfig(bytes.NewReader(data))
	return c.Width, c.Height, err
}

func decodeWebP(data []byte) (picture, error) {
	return newPicture(webp.Decode(bytes.NewReader(data)))
}
