package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	amazonEndpoint = "s3.amazonaws.com"
	// defaultRegion is what services other than Amazon's sign for when nobody configured a region. Naming it spares one request
	// for each bucket.
	defaultRegion = "us-east-1"
)

// s3Reader reads objects from the operator's S3 endpoint.
type s3Reader struct {
	cfg       Config
	client    *minio.Core
	transport *http.Transport
}

// newS3Reader returns a reader for cfg.S3.
func newS3Reader(cfg Config, h hooks) (*s3Reader, error) {
	transport := newTransport(cfg, openDial(cfg, h).DialContext, h)
	client, err := cfg.S3.Client(keepRetryAfter{bodyTimeout{transport, cfg.BodyTimeout}})
	if err != nil {
		return nil, err
	}
	client.SetAppInfo("onceover", "image-fetch")
	return &s3Reader{cfg: cfg, client: client, transport: transport}, nil
}

// Client returns a client of the S3 service that makes one attempt of each request, through transport. An object's path is BUCKET/KEY,
// except at the endpoints that want BUCKET.HOST (Amazon, Google, Alibaba).
func (c S3Config) Client(transport http.RoundTripper) (*minio.Core, error) {
	endpoint, secure, region := amazonEndpoint, true, c.Region
	if c.Endpoint != "" {
		u, err := c.endpointURL()
		if err != nil {
			return nil, err
		}
		endpoint, secure = u.Host, u.Scheme == "https"
		if region == "" && !strings.HasSuffix(strings.ToLower(u.Hostname()), ".amazonaws.com") {
			region = defaultRegion
		}
	}
	client, err := minio.NewCore(endpoint, &minio.Options{
		// Static credentials that are empty are anonymous.
		Creds:      credentials.NewStaticV4(c.AccessKeyID, c.SecretAccessKey, c.SessionToken),
		Secure:     secure,
		Region:     region,
		Transport:  transport,
		MaxRetries: 1, // that is one attempt: retries are the caller's
	})
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client, nil
}

func (s *s3Reader) close() { s.transport.CloseIdleConnections() }

// get returns the object that path, BUCKET/KEY, names.
func (s *s3Reader) get(ctx context.Context, path string) ([]byte, error) {
	bucket, key, _ := strings.Cut(path, "/")
	if bucket == "" || key == "" {
		return nil, &Error{Kind: BadURL, Msg: "not of the form s3://BUCKET/KEY"}
	}
	// The key becomes part of a path at the endpoint, where a server or proxy in front may resolve dots.
	if segments := strings.Split(key, "/"); slices.Contains(segments, ".") || slices.Contains(segments, "..") {
		return nil, &Error{Kind: BadURL, Msg: `S3 key with a "." or ".." between slashes`}
	}
	var retryAfter time.Duration
	ctx = context.WithValue(ctx, retryAfterKey{}, &retryAfter)
	// Core.GetObject makes one request. Client.GetObject would start a goroutine and may ask again for each part.
	body, info, _, err := s.client.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, s3Error(err, retryAfter)
	}
	defer body.Close()
	return readAll(body, info.Size, s.cfg.MaxBytes)
}

// s3Error gives a reply of the S3 service its Kind, by its code and else by its status; other errors are for classify. Of the reply
// only the code is repeated: messages can quote the request.
func s3Error(err error, retryAfter time.Duration) error {
	var reply minio.ErrorResponse
	if !errors.As(err, &reply) {
		// Without the client's *url.Error, whose text is the whole URL.
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			return wrapped.Err
		}
		return err
	}
	if reply.StatusCode == 0 {
		// Not a reply but the client's own complaint, under the code of an internal error.
		return &Error{Kind: Unusable, Msg: "S3 answered without the headers of an object (Last-Modified, Content-Length)"}
	}
	e := statusError(reply.StatusCode, nil)
	switch reply.Code {
	case minio.NoSuchKey, minio.NoSuchBucket, "NoSuchVersion":
		e.Kind = NotFound
	case minio.AccessDenied, "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidObjectState":
		e.Kind = Forbidden
	case "SlowDown", "SlowDownRead", "RequestTimeout", "Throttling", "InternalError", "ServiceUnavailable":
		e.Kind = Transient
	case minio.InvalidBucketName, minio.XMinioInvalidObjectName, "KeyTooLongError":
		e.Kind = BadURL
	}
	if isS3Code(reply.Code) {
		e.Msg = "S3 answered " + reply.Code
	}
	if e.Kind == Transient {
		e.RetryAfter = retryAfter
	}
	return e
}

// isS3Code says whether code is a name, as S3's are, and not free text.
func isS3Code(code string) bool {
	return code != "" && len(code) <= 64 && strings.IndexFunc(code, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9')
	}) < 0
}

// retryAfterKey is the context key of a *time.Duration, into which keepRetryAfter writes.
type retryAfterKey struct{}

// keepRetryAfter is a RoundTripper that hands the Retry-After of a reply to whoever made the context: the S3 client's errors do not
// carry headers.
type keepRetryAfter struct{ next http.RoundTripper }

func (t keepRetryAfter) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if d, ok := req.Context().Value(retryAfterKey{}).(*time.Duration); ok {
		*d = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	return resp, nil
}
