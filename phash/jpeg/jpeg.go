// Package jpeg decodes JPEG files (ITU-T T.81) to gray rows: those that Pillow's
//
//	Image.open(f).convert("L")
//
// has, to the last bit. Pillow decodes with libjpeg-turbo, so that the inverse DCT (its "islow"), the interpolation of subsampled
// chroma, the conversion to R, G, B and what becomes of corrupt data are as they are there. T.81 leaves all of that open, for
// which reason other decoders, image/jpeg among them, give other pixels.
//
// It decodes baseline, extended sequential and progressive files of 8 bits with Huffman codes: gray, YCbCr, RGB, CMYK and YCCK, any
// integral sampling. A file of one scan is decoded row by row, in memory that does not depend on its height; one of several scans
// takes two bytes for each sample.
//
// A file that ends within its picture is damaged. One of a single scan without its end (the marker EOI) is not if Pillow has all
// rows before it asks for more, for which a few bytes of anything after the picture do. Corrupt entropy-coded data before the end
// is not damage either, because libjpeg-turbo goes on after it, and so does this package, with the same pixels.
package jpeg

import "fmt"

// A Config is what the header says.
type Config struct {
	Width, Height int // pixels, at least 1
}

// A Sink takes what Decode decodes.
type Sink interface {
	// Gray takes the next row, from top to bottom. It may keep nothing of it.
	Gray(row []uint8)

	// Chroma takes row y of Cb (plane 0) or Cr (plane 1), both of which have the given size: that of the picture or, if chroma is
	// subsampled, less. Rows come in order within their plane. Gray pictures have none.
	Chroma(plane, width, height, y int, row []uint8)
}

// An UnsupportedError says which feature of the file this package does not decode.
type UnsupportedError string

func (e UnsupportedError) Error() string { return string(e) }

// A DamagedError says what is wrong with a file that is truncated, corrupt or contradictory.
type DamagedError string

func (e DamagedError) Error() string { return string(e) }

func damaged(format string, args ...any) error { return DamagedError(fmt.Sprintf(format, args...)) }

const (
	errTruncated  = DamagedError("ends before the end-of-image marker")
	errSecondScan = DamagedError("second scan after one that has all components")
	errSmoothed   = UnsupportedError("progressive scans are missing")
)

// DecodeConfig reads the header as far as the frame header. Success does not mean that the rest is intact. The error is an
// [UnsupportedError] or a [DamagedError].
func DecodeConfig(data []byte) (Config, error) {
	d := decoder{data: data}
	if err := d.header(true); err != nil {
		return Config{}, err
	}
	return Config{d.width, d.height}, nil
}

// Application calls take for the application segments (APP0 to APP15) before the first scan. The error is an [UnsupportedError] or
// a [DamagedError], of a header that ends before the first scan.
func Application(data []byte, take func(marker uint8, content []byte)) error {
	d := decoder{data: data, application: take}
	return d.header(false)
}

// Decode decodes a picture. After an error, which is an [UnsupportedError] or a [DamagedError], what sink was given is void.
func Decode(data []byte, sink Sink) error {
	d := decoder{data: data}
	if err := d.header(false); err != nil {
		return err
	}
	if err := d.plausible(); err != nil {
		return err
	}
	d.installStandardTables()
	d.sink = sink
	if !d.progressive && len(d.scan) == len(d.components) {
		return d.decodeStreaming()
	}
	return d.decodeBuffered()
}

// plausible refuses a picture that libjpeg thinks too large, or that has more blocks than the file has bits, before anything is allocated for it.
func (d *decoder) plausible() error {
	if d.height > maxSide || d.width > maxSide {
		return UnsupportedError("side of more than 65500 pixels")
	}
	blocks := 0
	for i := range d.components {
		c := &d.components[i]
		blocks += c.blocksWide * c.blocksHigh
	}
	if blocks/8 > len(d.data) {
		return damaged("%d bytes are too few for %d x %d pixels", len(d.data), d.width, d.height)
	}
	return nil
}
