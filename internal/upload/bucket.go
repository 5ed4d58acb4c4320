package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/minio/minio-go/v7"

	"onceover/internal/source"
)

// bucketTimeout is how long S3 may take over one picture that has arrived here.
const bucketTimeout = time.Minute

// bucket keeps pictures in S3, named by random UUIDs.
type bucket struct {
	name, prefix string
	client       *minio.Core
	transport    *http.Transport
}

func openBucket(place string, cfg source.S3Config) (*bucket, error) {
	name, prefix, _ := strings.Cut(place, "/")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	// Not when the first picture comes: in a container there may be no place for it.
	probe, _, err := spool(context.Background(), strings.NewReader(""))
	if err != nil {
		return nil, fmt.Errorf("uploads to %s wait in a temporary file, and none can be made: %w: expected a folder that can be written, /tmp or what TMPDIR names", name, err)
	}
	probe.Close()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	client, err := cfg.Client(transport)
	if err != nil {
		return nil, fmt.Errorf("uploads to %s: %w", name, err)
	}
	return &bucket{name, prefix, client, transport}, nil
}

func (b *bucket) Put(ctx context.Context, r io.Reader) (string, error) {
	file, size, err := spool(ctx, r)
	if err != nil {
		return "", fmt.Errorf("keep an upload: %w", err)
	}
	defer file.Close()
	key := b.prefix + uuid.NewString()
	url := "s3://" + b.name + "/" + key
	putCtx, cancel := context.WithTimeout(ctx, bucketTimeout)
	defer cancel()
	if _, err := b.client.Client.PutObject(putCtx, b.name, key, file, size, minio.PutObjectOptions{DisableMultipart: true}); err != nil {
		var reply minio.ErrorResponse
		if !errors.As(err, &reply) || reply.StatusCode < 400 || reply.StatusCode >= 500 {
			_ = b.Remove(context.WithoutCancel(ctx), url) // it may be there; the error that matters is the first
		}
		return "", fmt.Errorf("keep an upload in s3://%s: %w", b.name, plain(err))
	}
	return url, nil
}

// spool keeps what r holds in a temporary file without a name, which is gone with this process.
func spool(ctx context.Context, r io.Reader) (file *os.File, size int64, err error) {
	if file, err = os.CreateTemp("", "onceover-upload-"); err != nil {
		return nil, 0, err
	}
	_ = os.Remove(file.Name()) // where an open file cannot be removed, it stays
	if size, err = io.Copy(file, contextReader{ctx, r}); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		file.Close() // the first error is the one to show
		return nil, 0, err
	}
	return file, size, nil
}

// plain is an error of the client without the URL of the request, which is signed.
func plain(err error) error {
	var reply minio.ErrorResponse
	if errors.As(err, &reply) && reply.StatusCode != 0 {
		return fmt.Errorf("S3 answered %s", reply.Code)
	}
	var wrapped interface{ Unwrap() error }
	if errors.As(err, &wrapped) && wrapped.Unwrap() != nil {
		return wrapped.Unwrap()
	}
	return err
}

func (b *bucket) Remove(ctx context.Context, url string) error {
	key, ok := strings.CutPrefix(url, "s3://"+b.name+"/")
	if !ok || !strings.HasPrefix(key, b.prefix) {
		return fmt.Errorf("remove an upload: %w", errForeign)
	}
	ctx, cancel := context.WithTimeout(ctx, bucketTimeout)
	defer cancel()
	if err := b.client.RemoveObject(ctx, b.name, key, minio.RemoveObjectOptions{}); err != nil {
		return fmt.Errorf("remove an upload from s3://%s: %w", b.name, plain(err))
	}
	return nil
}

func (b *bucket) Sweep(context.Context, time.Duration) (int, error) { return 0, nil }

func (b *bucket) Close() { b.transport.CloseIdleConnections() }
