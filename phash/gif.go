package phash

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/gif"
	"io"
)

// A gifFrame is the first frame of a GIF and where it lies on the screen.
type gifFrame struct {
	width, height int // of the screen, which grows to hold the frame
	bounds        image.Rectangle
	interlaced    bool
	colours       colourTable
	fill          [3]uint8 // colour of the screen around the frame
	data          []byte   // from the byte before the LZW data on
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

	transparent := uint8(0) // Pillow fills the screen with this index, or 0
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
				transparent = first[3]
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
			f.fill = f.colours[transparent]
			f.data = r.rest
			return f, nil
		default:
			return f, damaged("no frame where one is expected")
		}
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
	if err := plausible(f.data, h, 8*w, lzwRatio); err != nil {
		return picture{}, err
	}

	// image/gif would put black in place of the transparent index's colour, which counts here, and refuse what Pillow accepts: a
	// frame beyond the screen, an index beyond the palette, an unknown extension. So it is given a file that has the frame alone.
	alone := []byte("GIF89a")
	alone = binary.LittleEndian.AppendUint16(alone, uint16(w))
	alone = binary.LittleEndian.AppendUint16(alone, uint16(h))
	alone = append(alone, 0x80|7, 0, 0) // 256 colours
	alone = append(alone, make([]byte, 3*256)...)
	alone = append(alone, 0x2c, 0, 0, 0, 0)
	alone = binary.LittleEndian.AppendUint16(alone, uint16(w))
	alone = binary.LittleEndian.AppendUint16(alone, uint16(h))
	flags := byte(0)
	if f.interlaced {
		flags = 0x40
	}
	alone = append(alone, flags)
	m, err := gif.Decode(io.MultiReader(bytes.NewReader(alone), bytes.NewReader(f.data)))
	if err != nil {
		return picture{}, err
	}
	index := m.(*image.Paletted)
	frame := picture{width: w, height: h, rgb: func(y int, rgb []uint8) { f.colours.row(rgb, index.Pix[y*index.Stride:][:w]) }}
	return framed(frame, f.width, f.height, f.bounds.Min, f.fill), nil
}

// block returns the content of a data sub-block, empty for the last one.
func (r *pieces) block() (b []byte, ok bool) {
	n, ok := r.next(1)
	if !ok {
		return nil, false
	}
	return r.next(int(n[0]))
}
