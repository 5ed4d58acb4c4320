package phash

import "image"

// luma is Pillow's conversion of stored R, G, B to gray (ITU-R 601-2 weights, 16 fraction bits).
func luma(r, g, b uint8) uint8 {
	return uint8((19595*uint32(r) + 38470*uint32(g) + 7471*uint32(b) + 1<<15) >> 16)
}

// lumas is luma of a row of 3 bytes a pixel.
func lumas(gray, rgb []uint8) {
	rgb = rgb[:3*len(gray)]
	for x := range gray {
		p := rgb[3*x : 3*x+3 : 3*x+3]
		gray[x] = luma(p[0], p[1], p[2])
	}
}

// A colourTable holds R, G, B by index. Indices past the end of a file's palette are black in Pillow since 10.4.
type colourTable [256][3]uint8

// row writes the colours of a row of indices.
func (p *colourTable) row(rgb, indices []uint8) {
	for x, i := range indices {
		copy(rgb[3*x:3*x+3], p[i][:])
	}
}

// clipped returns the rows of big-endian 16-bit gray as Pillow makes 8 bits of them: what is above 255 is white.
func clipped(pix []uint8, stride int) func(y int, gray []uint8) {
	return func(y int, gray []uint8) {
		row := pix[y*stride:]
		for x := range gray {
			gray[x] = row[2*x+1]
			if row[2*x] != 0 {
				gray[x] = 255
			}
		}
	}
}

// everyNth returns the rows of pixels that lie pixel bytes apart, with R, G and B sample bytes apart, high bytes first.
func everyNth(pix []uint8, stride, pixel, sample int) func(y int, rgb []uint8) {
	return func(y int, rgb []uint8) {
		width := len(rgb) / 3
		row := pix[y*stride:][:pixel*width]
		for x := range width {
			from, to := row[pixel*x:][:2*sample+1], rgb[3*x:3*x+3:3*x+3]
			to[0], to[1], to[2] = from[0], from[sample], from[2*sample]
		}
	}
}

// everySample returns the rows of one sample of pixels that lie pixel bytes apart.
func everySample(pix []uint8, stride, pixel, sample int) func(y int, row []uint8) {
	return func(y int, row []uint8) {
		from := pix[y*stride+sample:]
		if pixel == 1 {
			copy(row, from)
			return
		}
		for x := range row {
			row[x] = from[pixel*x]
		}
	}
}

// inverted returns rows of which black and white have changed places.
func inverted(rows func(y int, gray []uint8)) func(y int, gray []uint8) {
	return func(y int, gray []uint8) {
		rows(y, gray)
		for x := range gray {
			gray[x] = ^gray[x]
		}
	}
}

// cmykToRGB converts a row of C, M, Y, K as Pillow does.
func cmykToRGB(rgb, cmyk []uint8) {
	for x := range len(rgb) / 3 {
		from, to := cmyk[4*x:4*x+4:4*x+4], rgb[3*x:3*x+3:3*x+3]
		light := 255 - from[3]
		to[0], to[1], to[2] = ink(from[0], light), ink(from[1], light), ink(from[2], light)
	}
}

// ink is Pillow's conversion of one of C, M, Y to R, G, B, light being 255 less the black.
func ink(c, light uint8) uint8 {
	t := uint(c)*uint(light) + 128
	return uint8(max(int(light)-int((t+t>>8)>>8), 0))
}

// unmultiply divides a row of R, G, B that were multiplied by the alpha that follows them, in the way of Pillow.
func unmultiply(rgb, rgba []uint8) {
	for x := range len(rgb) / 3 {
		a := int(rgba[4*x+3])
		for i, v := range rgba[4*x : 4*x+3] {
			switch a {
			case 0:
				v = 0
			case 255:
			default:
				v = uint8(min(int(v)*255/a, 255))
			}
			rgb[3*x+i] = v
		}
	}
}

// framed puts p, which has rgb, on a larger canvas of one colour, transparent around it; p must lie within it.
func framed(p picture, width, height int, at image.Point, around [3]uint8) picture {
	if p.width == width && p.height == height {
		return p
	}
	out := picture{width: width, height: height}
	out.rgb = func(y int, rgb []uint8) {
		for i := range rgb {
			rgb[i] = around[i%3]
		}
		if y >= at.Y && y < at.Y+p.height {
			p.rgb(y-at.Y, rgb[3*at.X:3*(at.X+p.width)])
		}
	}
	out.alpha = func(y int, alpha []uint8) {
		clear(alpha)
		if y < at.Y || y >= at.Y+p.height {
			return
		}
		if frame := alpha[at.X : at.X+p.width]; p.alpha != nil {
			p.alpha(y-at.Y, frame)
		} else {
			fill(frame, 255)
		}
	}
	return out
}
