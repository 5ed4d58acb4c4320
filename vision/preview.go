package vision

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"

	"onceover/phash"
)

const (
	// MaxPreviewSide is the longer side of a preview at most, in pixels.
	MaxPreviewSide = phash.MaxSide
	jpegQuality    = 85
)

// Preview is a picture as a model sees it: upright by its orientation, on white where it was transparent, in the colours of sRGB,
// at most MaxPreviewSide pixels on its longer side, and without any metadata of the original file, such as GPS coordinates.
// It is not changed after it was made and safe for concurrent use.
type Preview struct {
	Image *image.YCbCr // its bounds begin at 0,0
	JPEG  []byte       // the same picture as a JPEG file

	size string // sizeClass, where Image is not kept
}

// PreviewOf returns what leaves of a picture.
func PreviewOf(l *phash.Look) (*Preview, error) {
	img := l.Upright()
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, img, &jpeg.Options{Quality: jpegQuality}); err != nil {
		return nil, fmt.Errorf("encode preview: %w", err)
	}
	return &Preview{Image: img, JPEG: buf.Bytes()}, nil
}

// NewPreview decodes a picture file, and returns what leaves of it. It decodes whatever size the file claims: the caller has
// checked the number of pixels. The error is a [*phash.FormatError].
func NewPreview(data []byte) (*Preview, error) {
	l, err := phash.LookAt(data, phash.AcrossFirst)
	if err != nil {
		return nil, err
	}
	return PreviewOf(l)
}
