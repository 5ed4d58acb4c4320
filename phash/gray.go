package phash

import (
	"image"
	"image/color"
)

// luma is Pillow's conversion of stored R, G, B to gray (ITU-R 601-2 weights, 16 fraction bits).
func luma(r, g, b uint8) uint8 {
	return uint8((19595*uint32(r) + 38470*uint32(g) + 7471*uint32(b) + 1<<15) >> 16)
}

// grayRows returns the function that writes the rows of m as Pillow's convert("L") has them: on the values as they are stored in
// the file: alpha ignored even where it is 0, the high byte of 16-bit colours, 16-bit gray clipped instead of scaled. An image of
// type RGBA is opaque, or from a TIFF that stores colours multiplied by alpha; Pillow undoes that when it reads the file.
func grayRows(m image.Image) (func(y int, gray []uint8), error) {
	switch m := m.(type) {
	case *image.Gray:
		return func(y int, gray []uint8) { copy(gray, m.Pix[y*m.Stride:]) }, nil
	case *image.Gray16:
		return func(y int, gray []uint8) {
			pix := m.Pix[y*m.Stride:]
			for x := range gray {
				gray[x] = clip16(pix[2*x], pix[2*x+1])
			}
		}, nil
	case *image.Paletted:
		table := paletteGray(m.Palette)
		return func(y int, gray []uint8) {
			for x, index := range m.Pix[y*m.Stride:][:len(gray)] {
				gray[x] = table[index]
			}
		}, nil
	case *image.NRGBA:
		return func(y int, gray []uint8) {
			pix := m.Pix[y*m.Stride:][:4*len(gray)]
			for x := range gray {
				p := pix[4*x : 4*x+4 : 4*x+4]
				gray[x] = luma(p[0], p[1], p[2])
			}
		}, nil
	case *image.NRGBA64:
		return func(y int, gray []uint8) {
			pix := m.Pix[y*m.Stride:][:8*len(gray)]
			for x := range gray {
				p := pix[8*x : 8*x+8 : 8*x+8]
				gray[x] = luma(p[0], p[2], p[4])
			}
		}, nil
	case *image.RGBA:
		return func(y int, gray []uint8) {
			pix := m.Pix[y*m.Stride:][:4*len(gray)]
			for x := range gray {
				p := pix[4*x : 4*x+4 : 4*x+4]
				if p[3] == 255 {
					gray[x] = luma(p[0], p[1], p[2])
				} else {
					gray[x] = premultiplied(p[0], p[1], p[2], p[3])
				}
			}
		}, nil
	case *image.RGBA64:
		return func(y int, gray []uint8) {
			pix := m.Pix[y*m.Stride:][:8*len(gray)]
			for x := range gray {
				p := pix[8*x : 8*x+8 : 8*x+8]
				if p[6] == 255 {
					gray[x] = luma(p[0], p[2], p[4])
				} else {
					gray[x] = premultiplied(p[0], p[2], p[4], p[6])
				}
			}
		}, nil
	case *image.CMYK:
		return func(y int, gray []uint8) {
			pix := m.Pix[y*m.Stride:][:4*len(gray)]
			for x := range gray {
				p := pix[4*x : 4*x+4 : 4*x+4]
				light := 255 - p[3]
				gray[x] = luma(ink(p[0], light), ink(p[1], light), ink(p[2], light))
			}
		}, nil
	case *image.YCbCr:
		return ycbcrRows(m), nil
	case *image.NYCbCrA:
		return ycbcrRows(&m.YCbCr), nil
	}
	return nil, unsupported("pixels of type %T", m)
}

// ycbcrRows leaves the conversion to R, G, B to image/color, which rounds otherwise than libjpeg-turbo and libwebp, and repeats
// subsampled chroma where they interpolate.
func ycbcrRows(m *image.YCbCr) func(y int, gray []uint8) {
	shift := 0 // log2 of the pixels that share a chroma sample, horizontally
	switch m.SubsampleRatio {
	case image.YCbCrSubsampleRatio422, image.YCbCrSubsampleRatio420:
		shift = 1
	case image.YCbCrSubsampleRatio411, image.YCbCrSubsampleRatio410:
		shift = 2
	}
	return func(y int, gray []uint8) {
		luminance := m.Y[y*m.YStride:][:len(gray)]
		chroma := m.COffset(0, y) // decoders put the first pixel at 0, 0
		cb, cr := m.Cb[chroma:], m.Cr[chroma:]
		for x, l := range luminance {
			gray[x] = luma(color.YCbCrToRGB(l, cb[x>>shift], cr[x>>shift]))
		}
	}
}

// clip16 is Pillow's conversion of 16-bit gray: what is above 255 is white.
func clip16(high, low uint8) uint8 {
	if high != 0 {
		return 255
	}
	return low
}

// premultiplied is luma of a colour that was multiplied by its alpha, divided by it again in the way of Pillow.
func premultiplied(r, g, b, a uint8) uint8 {
	if a == 0 {
		return 0
	}
	divide := func(v uint8) uint8 { return uint8(min(255*uint(v)/uint(a), 255)) }
	return luma(divide(r), divide(g), divide(b))
}

// ink is Pillow's conversion of one of C, M, Y to R, G, B, light being 255 less the black.
func ink(c, light uint8) uint8 {
	t := uint(c)*uint(light) + 128
	return uint8(max(int(light)-int((t+t>>8)>>8), 0))
}

// paletteGray returns the gray value of each palette index. Indices past the end are black in Pillow.
func paletteGray(palette color.Palette) (table [256]uint8) {
	for i, c := range palette[:min(len(palette), len(table))] {
		switch c := c.(type) {
		case color.RGBA:
			table[i] = luma(c.R, c.G, c.B)
		case color.NRGBA:
			table[i] = luma(c.R, c.G, c.B)
		case color.RGBA64:
			table[i] = luma(uint8(c.R>>8), uint8(c.G>>8), uint8(c.B>>8))
		}
	}
	return table
}
