package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
)

// folder keeps each picture in a file of its own, named by a random UUID.
type folder struct {
	root *os.Root
	path string
}

func openFolder(path string) (*folder, error) {
	// The worker may run as another user.
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of uploads: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open the folder of uploads: %w", err)
	}
	// By the name that it was given: the worker compares it with that of its own folder.
	return &folder{root, filepath.Clean(path)}, nil
}

func (f *folder) Put(ctx context.Context, r io.Reader) (string, error) {
	name := uuid.NewString()
	file, err := f.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return "", fmt.Errorf("keep an upload: %w", err)
	}
	_, err = io.Copy(file, contextReader{ctx, r})
	if err == nil {
		err = file.Sync() // the job must not outlive its picture
	}
	if err = errors.Join(err, file.Close()); err != nil {
		_ = f.root.Remove(name) // the error that matters is the first
		return "", fmt.Errorf("keep an upload: %w", err)
	}
	return (&url.URL{Scheme: "file", Path: filepath.Join(f.path, name)}).String(), nil
}

func (f *folder) Remove(_ context.Context, rawURL string) error {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "file" || filepath.Dir(u.Path) != f.path {
		return fmt.Errorf("remove an upload: %w", errForeign)
	}
	if err := f.root.Remove(filepath.Base(u.Path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove an upload: %w", err)
	}
	return nil
}

func (f *folder) Sweep(ctx context.Context, older time.Duration) (int, error) {
	before, removed := time.Now().Add(-older), 0
	entries, err := fs.ReadDir(f.root.FS(), ".")
	if err != nil {
		return 0, fmt.Errorf("look for old uploads: %w", err)
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		// Only what we have written.
		if _, err := uuid.Parse(e.Name()); err != nil || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil || info.ModTime().After(before) {
			continue // another gateway may have removed it
		}
		if err := f.root.Remove(e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("remove old uploads: %w", err)
		}
		removed++
	}
	return removed, nil
}

func (f *folder) Close() { f.root.Close() }

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
