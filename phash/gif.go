package phash

import (
	"compress/lzw"
	"image"
	"io"
)

// A gifFrame is the first frame of a GIF and where it lies on the screen.
type gifFrame struct {
	width, height int // of the screen, which grows to hold the frame
	bounds        image.Rectangle
	interlaced    bool
	colours       colourTable
	transparent   int      // index, or -1
	fill          [3]uint8 // colour of the screen around the frame
	pixels        pieces   // from the byte before the LZW data on
}

// readGIF walks the blocks before the first frame's pixels.
func readGIF(data []byte) (gifFrame, error) {
	const interlaceFlag, tableFlag = 0x40, 0x80
	short := damaged("ends before the first frame")
	r := pieces{rest: data}
	var f gifFrame
	header, ok := r.next(13)
	if !ok {
		return f, short
	}
	f.width, f.height = le16(header[6:]), le16(header[8:])
	f.colours = gifPalette(nil)
	if flags := header[10]; flags&tableFlag != 0 {
		table, ok := r.next(3 << (flags&7 + 1))
		if !ok {
			return f, short
		}
		f.colours = gifPalette(table)
	}

	f.transparent = -1
	for {
		introducer, ok := r.next(1)
		if !ok {
			return f, short
		}
		switch introducer[0] {
		case 0x21: // extension
			label, _ := r.next(1)
			first, ok := r.block()
			if !ok {
				return f, short
			}
			if label[0] == 0xf9 && len(first) >= 4 && first[0]&1 != 0 {
				f.transparent = int(first[3])
			}
			if len(first) == 0 && label[0] != 0xfe { // Pillow goes on with what follows as if it belonged to it
				return f, unsupported("an empty extension %#x", label[0])
			}
			for block := first; len(block) > 0; {
				if block, ok = r.block(); !ok {
					return f, short
				}
			}
		case 0x2c: // image descriptor
			d, ok := r.next(9)
			if !ok {
				return f, short
			}
			x, y := le16(d), le16(d[2:])
			f.bounds = image.Rect(x, y, x+le16(d[4:]), y+le16(d[6:]))
			f.interlaced = d[8]&interlaceFlag != 0
			if d[8]&tableFlag != 0 {
				table, ok := r.next(3 << (d[8]&7 + 1))
				if !ok {
					return f, short
				}
				global := f.colours
				if f.colours = gifPalette(table); isRamp(f.colours) && !isRamp(global) {
					// Pillow then resamples indices, without a filter.
					return f, unsupported("a gray frame under a global palette of colours")
				}
			}
			if f.bounds.Empty() {
				return f, damaged("empty frame")
			}
			f.width, f.height = max(f.width, f.bounds.Max.X), max(f.height, f.bounds.Max.Y)
			f.fill = f.colours[max(f.transparent, 0)] // as Pillow fills the screen
			f.pixels = r
			return f, nil
		case 0x3b: // trailer
			return f, damaged("no frame")
		} // Pillow skips other bytes
	}
}

// gifPalette returns the colours by index. Pillow has no use for a palette in which every entry is its own index, nor for one
// that is missing: the indices are gray values then, also those past the end, which are black otherwise.
func gifPalette(table []byte) (p colourTable) {
	ramp := true
	for i := range len(table) / 3 {
		copy(p[i][:], table[3*i:])
		ramp = ramp && p[i] == grayLevel(i)
	}
	if ramp {
		for i := range p {
			p[i] = grayLevel(i)
		}
	}
	return p
}

func grayLevel(i int) [3]uint8 { return [3]uint8{uint8(i), uint8(i), uint8(i)} }

// isRamp reports whether every entry is its own index.
func isRamp(p colourTable) bool {
	for i := range p {
		if p[i] != grayLevel(i) {
			return false
		}
	}
	return true
}

func sizeGIF(data []byte) (width, height int, err error) {
	f, err := readGIF(data)
	return f.width, f.height, err
}

func decodeGIF(data []byte) (picture, error) {
	const lzwRatio = 4096 // at most a table's worth of pixels for a code of over a byte
	f, err := readGIF(data)
	if err != nil {
		return picture{}, err
	}
	w, h := f.bounds.Dx(), f.bounds.Dy()
	if err := plausible(f.pixels.rest, h, 8*w, lzwRatio); err != nil {
		return picture{}, err
	}

	size, ok := f.pixels.next(1)
	if !ok || size[0] < 2 || size[0] > 8 {
		return picture{}, damaged("no code size of 2 to 8 bits")
	}
	indices := make([]uint8, w*h)
	if _, err := io.ReadFull(lzw.NewReader(&gifBlocks{pieces: f.pixels}, lzw.LSB, int(size[0])), indices); err != nil {
		return picture{}, err
	}
	at := make([]int, h) // where each row lies
	if n := 0; f.interlaced {
		for _, pass := range [4][2]int{{0, 8}, {4, 8}, {2, 4}, {1, 2}} { // first row, and from row to row
			for y := pass[0]; y < h; y += pass[1] {
				at[y], n = n, n+w
			}
		}
	} else {
		for y := range at {
			at[y] = y * w
		}
	}
	frame := picture{width: w, height: h, rgb: func(y int, rgb []uint8) { f.colours.row(rgb, indices[at[y]:][:w]) }}
	if f.transparent >= 0 {
		frame.alpha = func(y int, alpha []uint8) {
			for x, i := range indices[at[y]:][:w] {
				alpha[x] = 255
				if int(i) == f.transparent {
					alpha[x] = 0
				}
			}
		}
	}
	return framed(frame, f.width, f.height, f.bounds.Min, f.fill), nil
}

// gifBlocks reads the contents of data sub-blocks, one after another.
type gifBlocks struct {
	pieces
	block []byte
}

func (r *gifBlocks) Read(p []byte) (int, error) {
	for len(r.block) == 0 {
		var ok bool
		if r.block, ok = r.pieces.block(); !ok || len(r.block) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
	}
	n := copy(p, r.block)
	r.block = r.block[n:]
	return n, nil
}

// block returns the content of a data sub-block, empty for the last one.
func (r *pieces) block() (b []byte, ok bool) {
	n, ok := r.next(1)
	if !ok {
		return nil, false
	}
	return r.next(int(n[0]))
}
