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

// A rowSink hands on what the JPEG decoder gives out.
type rowSink struct {
	row    func(y int, gray []uint8)
	viewer *viewer // or nil
	y      int
}

func (s *rowSink) Gray(row []uint8) {
	s.row(s.y, row)
	if s.viewer != nil {
		s.viewer.addGray(s.y, row)
	}
	s.y++
}

func (s *rowSink) Chroma(plane, width, height, y int, row []uint8) {
	if s.viewer != nil {
		s.viewer.addChroma(plane, width, height, y, row)
	}
}
