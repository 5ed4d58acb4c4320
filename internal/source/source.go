package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"onceover/internal/redact"
)

// userAgent names us to servers. Some refuse clients without a name.
const userAgent = "onceover/image-fetch"

// Fetcher gets pictures. Make it with [New]; it is safe for concurrent use.
type Fetcher struct {
	cfg  Config
	http *http.Transport // guarded against addresses that are not public
	s3   *s3Reader
}

// New returns a Fetcher for cfg, or every fault that Config.Validate finds, or says that cfg.Root is not a folder.
// It opens no connection.
func New(cfg Config) (*Fetcher, error) { return newFetcher(cfg, hooks{}) }

func newFetcher(cfg Config, h hooks) (*Fetcher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Root != "" {
		if err := checkRoot(cfg.Root); err != nil {
			return nil, fmt.Errorf("source: Root: %w", err)
		}
	}
	allow, err := parseAllow(cfg.Allow)
	if err != nil {
		return nil, err
	}
	s3, err := newS3Reader(cfg, h)
	if err != nil {
		return nil, fmt.Errorf("source: S3: %w", err)
	}
	return &Fetcher{cfg: cfg, http: newTransport(cfg, guardedDial(cfg, allow, h), h), s3: s3}, nil
}

// Close closes idle connections. Fetches under way are not disturbed; end them through their contexts and wait for them first.
func (f *Fetcher) Close() {
	f.http.CloseIdleConnections()
	f.s3.close()
}

// Fetch returns the bytes that rawURL stands for: 1 to Config.MaxBytes of them, whatever they contain. It blocks until all have
// arrived, a time-out strikes or ctx ends. The schemes are
//
//   - https and http: one GET, at most 5 redirects, but none from https to http. Credentials in the URL are sent as Basic
//     authentication. White space, characters beyond ASCII and a "%" that begins no escape are encoded; a body that is coded by gzip or deflate is decoded.
//   - s3://BUCKET/KEY: the key is taken as it stands, as the AWS command line does; "%", "?" and "#" mean themselves.
//   - data: by RFC 2397, base64 or percent-encoded. The media type is not believed and may be missing. White space in base64 is
//     ignored, and its padding may be missing.
//   - file:///PATH, an absolute path below Config.Root as configured there. Links are followed only within the root.
//
// The error is an [*Error], whose Kind decides what to do; or, once ctx has ended, an error that wraps context.Cause(ctx). Time-outs
// of our own are an Error of Kind Transient.
func (f *Fetcher) Fetch(ctx context.Context, rawURL string) ([]byte, error) {
	if scheme, _, _ := strings.Cut(strings.TrimSpace(rawURL), ":"); strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https") {
		rawURL = requote(rawURL)
	}
	data, err := f.fetch(ctx, rawURL)
	if err == nil {
		return data, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("fetch %s: %w", redact.URL(rawURL), context.Cause(ctx))
	}
	e := classify(err, f.cfg)
	e.Msg = fmt.Sprintf("fetch %s: %s", redact.URL(rawURL), e.Msg)
	return nil, e
}

// fetch returns an *Error whose Msg lacks the URL, or the plain error of the network for classify to judge.
func (f *Fetcher) fetch(ctx context.Context, rawURL string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Before url.Parse: data URLs are large, and a percent sign in an S3 key is no escape.
	if rest, ok := redact.CutScheme(rawURL, "data:"); ok {
		return decodeData(rest, f.cfg.MaxBytes)
	}
	if rest, ok := redact.CutScheme(rawURL, "s3://"); ok {
		return f.s3.get(ctx, rest)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		// The parser's error quotes the URL; a password taken for a port number would be in it.
		return nil, &Error{Kind: BadURL, Msg: "not a valid URL"}
	}
	switch u.Scheme {
	case "https", "http":
		return f.getHTTP(ctx, u)
	case "file":
		return readFile(f.cfg.Root, u, f.cfg.MaxBytes)
	case "":
		return nil, &Error{Kind: BadURL, Msg: "no scheme, want https://, http://, s3://, data: or file://"}
	case "s3":
		return nil, &Error{Kind: BadURL, Msg: "not of the form s3://BUCKET/KEY"}
	}
	return nil, &Error{Kind: Forbidden, Msg: "scheme not supported, want https://, http://, s3://, data: or file://"}
}

// errTooLarge returns the error for more than maxBytes bytes.
func errTooLarge(maxBytes int64) error {
	return &Error{Kind: TooLarge, Msg: fmt.Sprintf("larger than %d bytes, the most a picture may have", maxBytes)}
}

// errEmpty is the error for a source without a single byte.
func errEmpty() error { return &Error{Kind: Unusable, Msg: "empty, want a picture"} }

// asError returns the *Error in err's chain, or nil.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}
