package source

import "time"

// Kind says what went wrong, as far as a caller decides on it. Only Transient is worth another try with the same URL.
type Kind uint8

const (
	// Unusable: the source answered, but not with what could be a picture: an empty body, a status other than 200 or those named
	// below, too many redirects, a certificate that cannot be verified. It is the zero Kind.
	Unusable Kind = iota
	// NotFound: 404 or 410, no such object, bucket, file or host.
	NotFound
	// Forbidden: an address that is not public, a file outside the root or not regular, a scheme that is refused, a redirect from
	// https to http, 401, 403, 407, 451, or an object or file that we may not read.
	Forbidden
	// TooLarge: more than Config.MaxBytes.
	TooLarge
	// BadURL: the URL, or the data URL's content, is malformed.
	BadURL
	// Transient: a time-out, a lost or refused connection, a temporary DNS fault, a body cut short, 408, 425, 429 or 5xx.
	Transient
)

// String returns the kind in snake case, fit for a log field or a metric label.
func (k Kind) String() string {
	switch k {
	case Unusable:
		return "unusable"
	case NotFound:
		return "not_found"
	case Forbidden:
		return "forbidden"
	case TooLarge:
		return "too_large"
	case BadURL:
		return "bad_url"
	case Transient:
		return "transient"
	}
	return "unknown"
}

// Error is what [Fetcher.Fetch] returns for everything but the cancellation of its context.
type Error struct {
	Kind Kind

	// Msg says what was fetched (redacted, see [Redact]) and what was wrong. It is all that Error prints.
	Msg string

	// RetryAfter is the server's Retry-After, at most 24 h; 0 where it gave none or the Kind is not Transient.
	RetryAfter time.Duration

	// Err is the cause, for errors.Is and errors.As, or nil. Its text is not redacted: it may quote the server and must not be
	// printed.
	Err error
}

// Error returns Msg.
func (e *Error) Error() string { return e.Msg }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }
