// Package upload keeps uploaded pictures until the worker has fetched them: in a folder, or in a bucket of S3.
//
// Start with [Open]. No picture is held in memory: one that goes to S3 waits in a temporary file until it has arrived, as only then its
// length is known. The URL that [Store.Put] returns goes into the job; a worker fetches it as it does any other (ONCEOVER_IMAGE_ROOT for a folder).
package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"onceover/internal/source"
)

// Store keeps pictures. Safe for concurrent use.
type Store interface {
	// Put keeps what r holds, and returns the URL by which a worker fetches it: file:// or s3://. Once it returns, the picture
	// survives a crash of this machine. After an error, also of r, nothing is kept.
	Put(ctx context.Context, r io.Reader) (url string, err error)
	// Remove removes a picture by the URL that Put returned. It is no error if there is none.
	Remove(ctx context.Context, url string) error
	// Sweep removes pictures that are older, and what a crash has left of uploads; it returns how many. In a bucket it does nothing: that
	// is for a lifecycle rule.
	Sweep(ctx context.Context, older time.Duration) (int, error)
	// Close releases connections.
	Close()
}

// Open returns the store that target names: the absolute path of a folder, which is created if it is missing, or s3://BUCKET or
// s3://BUCKET/PREFIX at the endpoint of s3.
func Open(target string, s3 source.S3Config) (Store, error) {
	if err := Check(target); err != nil {
		return nil, err
	}
	if place, ok := strings.CutPrefix(target, "s3://"); ok {
		b, err := openBucket(place, s3)
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	f, err := openFolder(target)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Check reports whether target is of a form that [Open] takes.
func Check(target string) error {
	place, isBucket := strings.CutPrefix(target, "s3://")
	if bucket, _, _ := strings.Cut(place, "/"); isBucket && bucket != "" || !isBucket && filepath.IsAbs(target) {
		return nil
	}
	return fmt.Errorf("%q is no place for uploads: expected the absolute path of a folder, or s3://BUCKET/PREFIX", target)
}

// errForeign says that a URL is not one of the store's.
var errForeign = errors.New("the URL names no upload of this store")
