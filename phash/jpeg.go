package phash

import "onceover/phash/jpeg"

func sizeJPEG(data []byte) (width, height int, err error) {
	c, err := jpeg.DecodeConfig(data)
	return c.Width, c.Height, err
}

func decodeJPEG(data []byte) (picture, error) {
	const pixelsPerByte = 8 * 64 // each block of 8 x 8 takes a bit at least
	w, h, err := sizeJPEG(data)
	if err == nil {
		err = plausible(data, h, 8*w, pixelsPerByte)
	}
	return picture{width: w, height: h, stream: func(s jpeg.Sink) error { return jpeg.Decode(data, s) }}, err
}

// A meanSink takes rows from the JPEG decoder, and the means of its chroma planes.
type meanSink struct {
	row  func(gray []uint8)
	mean [2]*grid
}

func (s *meanSink) Gray(row []uint8) { s.row(row) }

func (s *meanSink) Chroma(plane, width, height, y int, row []uint8) {
	if s.mean[plane] == nil {
		s.mean[plane] = &grid{width: width, height: height}
	}
	s.mean[plane].add(y, row, 1)
}

func (s *meanSink) colour() Colour {
	if s.mean[0] == nil {
		return grayColour
	}
	return colourOf(s.mean[0], s.mean[1])
}
