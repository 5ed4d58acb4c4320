package vision

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	_ "image/gif" // the formats that NewPreview accepts
	"image/jpeg"
	_ "image/png"

	_ "golang.org/x/image/bmp"
	_ "golang.org/x/image/tiff"
	_ "golang.org/x/image/webp"

	"onceover/phash"
)

const (
	// MaxPreviewSide is the longer side of a preview at most, in pixels.
	MaxPreviewSide = 1024
	jpegQuality    = 85
)

// Preview is a picture as a model sees it: upright by its EXIF orientation, on white where it was transparent, at most
// MaxPreviewSide pixels on its longer side, and without any metadata of the original file, such as GPS coordinates.
// It is not changed after NewPreview and safe for concurrent use.
type Preview struct {
	Image *image.RGBA // opaque, its bounds begin at 0,0
	JPEG  []byte      // the same picture as a JPEG file

	size string // sizeClass, where Image is not kept
}

// NewPreview decodes a picture file and prepares what may leave of it. It takes JPEG, PNG, WebP and TIFF, turned upright
// by their EXIF orientation, GIF (the first frame) and BMP; colour profiles are not applied. Of files that the usual
// decoders refuse, those that package phash can hash are taken too, without transparency.
//
// It decodes whatever size the file claims: the caller has checked the number of pixels. It returns an error that
// wraps image.ErrFormat if the file is none of these formats, or the decoder's error if it is damaged.
func NewPreview(data []byte) (*Preview, error) {
	src, canvas, err := decode(data)
	turn := orientation(data)
	if err != nil {
		// What can be hashed can be looked at.
		own, ownErr := phash.Image(data)
		if ownErr != nil {
			return nil, err
		}
		src, canvas = own, own.Bounds()
		if info, err := phash.Inspect(data); err == nil && info.Format == "tiff" {
			turn = 1 // Pillow has turned it, and so has package phash
		}
	}
	w, h := fit(canvas.Dx(), canvas.Dy(), MaxPreviewSide)
	// Turned last: a quarter turn of a megapixel is cheap, that of 12 is not.
	return previewOf(upright(flatten(src, canvas, w, h), turn))
}

// previewOf encodes what leaves of a picture.
func previewOf(img *image.RGBA) (*Preview, error) {
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, img, &jpeg.Options{Quality: jpegQuality}); err != nil {
		return nil, fmt.Errorf("encode preview: %w", err)
	}
	return &Preview{Image: img, JPEG: buf.Bytes()}, nil
}

// decode returns a picture and the canvas that it is on.
func decode(data []byte) (image.Image, image.Rectangle, error) {
	header, _, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, image.Rectangle{}, fmt.Errorf("read picture header: %w", err)
	}
	src, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, image.Rectangle{}, fmt.Errorf("decode picture: %w", err)
	}
	// The frame of a GIF may cover a part of its canvas; every other format decodes to the size of its header.
	canvas := src.Bounds().Union(image.Rect(0, 0, header.Width, header.Height))
	if canvas.Empty() {
		return nil, image.Rectangle{}, errors.New("decode picture: it has no pixels")
	}
	return src, canvas, nil
}

// upright turns and mirrors img so that what EXIF orientation o (1 to 8) describes stands upright.
// Meaning of the values: EXIF 2.32 section 4.6.4, tag Orientation.
func upright(img *image.RGBA, o int) *image.RGBA {
	if o <= 1 || o > 8 {
		return img
	}
	w, h := img.Rect.Dx(), img.Rect.Dy()
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if o >= 5 { // stored on its side
		out = image.NewRGBA(image.Rect(0, 0, h, w))
	}
	for y := range out.Rect.Dy() {
		for x := range out.Rect.Dx() {
			sx, sy := x, y
			switch o {
			case 2: // mirrored
				sx = w - 1 - x
			case 3: // upside down
				sx, sy = w-1-x, h-1-y
			case 4: // upside down and mirrored
				sy = h - 1 - y
			case 5: // mirrored along the main diagonal
				sx, sy = y, x
			case 6: // to be turned a quarter clockwise
				sx, sy = y, h-1-x
			case 7: // mirrored along the other diagonal
				sx, sy = w-1-y, h-1-x
			case 8: // to be turned a quarter anticlockwise
				sx, sy = w-1-y, x
			}
			copy(out.Pix[out.PixOffset(x, y):][:4], img.Pix[img.PixOffset(sx, sy):][:4])
		}
	}
	return out
}
