package eval

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"image"
	"image/jpeg"
	"io"
	"io/fs"
	"os"

	"golang.org/x/image/draw"
	"golang.org/x/sync/errgroup"

	"onceover/phash"
	"onceover/vision"
)

// Pictures reads files as far as a worker would take them.
type Pictures struct {
	MaxBytes  int64
	MaxPixels int
}

// Load returns a file's content. Its error says why a worker would not take it.
func (p Pictures) Load(path string) ([]byte, error) {
	data, err := p.read(path)
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err // the caller names the file
	}
	if err != nil {
		return nil, err
	}
	info, err := phash.Inspect(data)
	if err != nil {
		return nil, err
	}
	if info.Width*info.Height > p.MaxPixels {
		return nil, fmt.Errorf("has %d x %d pixels: a worker takes at most %d", info.Width, info.Height, p.MaxPixels)
	}
	return data, nil
}

func (p Pictures) read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe would block
		return nil, errors.New("is not a regular file: expected a picture")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, p.MaxBytes+1))
	if err == nil && int64(len(data)) > p.MaxBytes {
		err = fmt.Errorf("has more than %d bytes: a worker would refuse it", p.MaxBytes)
	}
	return data, err
}

// Thumb is a small copy of a picture, as a data URL.
type Thumb struct {
	Data          template.URL
	Width, Height int
}

// thumbSide is the longer side of a small copy, in pixels.
const thumbSide = 160

// Check opens each picture, workers at a time, and sets its Digest. With each, if it is not nil, the content is handed on
// as well; it is called from several goroutines, once for each item. With thumbs the small copies are returned by digest.
// The error is of type Faults and names every picture that a worker could not show to a model, which has no Digest then; it
// is why ctx ended if it did.
func (p Pictures) Check(ctx context.Context, items []Item, workers int, thumbs bool, each func(i int, data []byte) error) (map[string]Thumb, error) {
	wrong, small := make([]error, len(items)), make([]Thumb, len(items))
	var group errgroup.Group
	group.SetLimit(workers)
	for i := range items {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			wrong[i] = p.check(&items[i], &small[i], thumbs, func(data []byte) error {
				if each == nil {
					return nil
				}
				return each(i, data)
			})
			return nil
		})
	}
	_ = group.Wait() // nil: the faults are in wrong
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var faults Faults
	out := map[string]Thumb{}
	for i, it := range items {
		if wrong[i] != nil {
			faults.add("%s: %v", it.where(), wrong[i])
		} else if thumbs {
			out[it.Digest] = small[i]
		}
	}
	return out, faults.err()
}

func (p Pictures) check(it *Item, small *Thumb, thumbs bool, each func([]byte) error) error {
	data, err := p.Load(it.Path)
	if err != nil {
		return err
	}
	preview, err := vision.NewPreview(data)
	if err != nil {
		return err
	}
	if thumbs {
		if *small, err = thumbOf(preview.Image); err != nil {
			return err
		}
	}
	if err := each(data); err != nil {
		return err
	}
	it.Digest = Digest(data)
	return nil
}

// thumbOf draws a small copy.
func thumbOf(img image.Image) (Thumb, error) {
	size := img.Bounds().Size()
	longer := max(size.X, size.Y, thumbSide)
	t := Thumb{Width: max(1, size.X*thumbSide/longer), Height: max(1, size.Y*thumbSide/longer)}
	small := image.NewRGBA(image.Rect(0, 0, t.Width, t.Height))
	draw.CatmullRom.Scale(small, small.Bounds(), img, img.Bounds(), draw.Src, nil)
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, small, &jpeg.Options{Quality: 80}); err != nil {
		return t, fmt.Errorf("draw a small copy: %w", err)
	}
	t.Data = template.URL("data:image/jpeg;base64," + base64.StdEncoding.EncodeToString(buf.Bytes()))
	return t, nil
}
