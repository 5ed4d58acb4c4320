package eval

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sync/errgroup"

	"onceover/internal/page"
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
	data, err := p.load(path)
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err // the caller names the file
	}
	return data, err
}

func (p Pictures) load(path string) ([]byte, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() { // to open a pipe would block
		return nil, errIrregular
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return p.Read(file)
}

var errIrregular = errors.New("is not a regular file: expected a picture")

// Read returns the content of an open file. Its error says why a worker would not take it.
func (p Pictures) Read(file fs.File) ([]byte, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errIrregular
	}
	data, err := io.ReadAll(io.LimitReader(file, p.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > p.MaxBytes {
		return nil, fmt.Errorf("has more than %d bytes: a worker would refuse it", p.MaxBytes)
	}
	size, err := phash.Inspect(data)
	if err != nil {
		return nil, err
	}
	if size.Width*size.Height > p.MaxPixels {
		return nil, fmt.Errorf("has %d x %d pixels: a worker takes at most %d", size.Width, size.Height, p.MaxPixels)
	}
	return data, nil
}

// thumbSide is the longer side of a small copy, in pixels.
const thumbSide = 160

// Thumb draws a small copy of a picture that was checked. There is none if the file has changed since.
func (p Pictures) Thumb(it Item) page.Thumb {
	data, err := p.Load(it.Path)
	if err != nil || Digest(data) != it.Digest {
		return page.Thumb{}
	}
	preview, err := vision.NewPreview(data)
	if err != nil {
		return page.Thumb{}
	}
	t, err := page.Draw(preview.Image, thumbSide)
	if err != nil {
		return page.Thumb{}
	}
	return t
}

// Check opens each picture, workers at a time, and sets its Digest. With each, if it is not nil, the content is handed on
// as well; it is called from several goroutines, once for each item. The error is of type Faults and names every picture
// that a worker could not show to a model, which has no Digest then; it is why ctx ended if it did.
func (p Pictures) Check(ctx context.Context, items []Item, workers int, each func(i int, data []byte) error) error {
	wrong := make([]error, len(items))
	var group errgroup.Group
	group.SetLimit(workers)
	for i := range items {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			wrong[i] = p.check(&items[i], func(data []byte) error {
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
		return err
	}
	var faults Faults
	for i, it := range items {
		if wrong[i] != nil {
			faults.add("%s: %v", it.where(), wrong[i])
		}
	}
	return faults.err()
}

func (p Pictures) check(it *Item, each func([]byte) error) error {
	data, err := p.Load(it.Path)
	if err != nil {
		return err
	}
	if _, err := vision.NewPreview(data); err != nil {
		return err
	}
	if err := each(data); err != nil {
		return err
	}
	it.Digest = Digest(data)
	return nil
}
