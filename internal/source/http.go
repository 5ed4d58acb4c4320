package source

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"onceover/internal/redact"
)

const (
	maxRedirects = 5
	// maxRetryAfter bounds what a server can ask for: beyond it the job has long expired.
	maxRetryAfter = 24 * time.Hour
)

// getHTTP fetches u and follows redirects. It does so itself, not through http.Client, because the client sets a Referer, reads
// the bodies of redirects without a time-out, and wraps errors in the whole URL.
func (f *Fetcher) getHTTP(ctx context.Context, u *url.URL) ([]byte, error) {
	for redirects := 0; ; redirects++ {
		data, next, err := f.getOnce(ctx, u)
		if err != nil && redirects > 0 {
			e := classify(err, f.cfg)
			e.Msg = fmt.Sprintf("redirected to %s: %s", redact.URL(u.String()), e.Msg)
			return nil, e
		}
		if err != nil || next == nil {
			return data, err
		}
		if redirects == maxRedirects {
			return nil, &Error{Kind: Unusable, Msg: fmt.Sprintf("more than %d redirects", maxRedirects)}
		}
		u = next
	}
}

// getOnce makes one request. It returns the body, or where the server redirects to.
func (f *Fetcher) getOnce(ctx context.Context, u *url.URL) (data []byte, next *url.URL, err error) {
	req, err := newRequest(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	resp, err := bodyTimeout{f.http, f.cfg.BodyTimeout}.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	// Closing before the end drops the connection. That is cheaper than to wait for the rest of a body nobody needs.
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNonAuthoritativeInfo:
		data, err = f.readBody(resp)
		return data, nil, err
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		next, err = redirect(u, resp.Header.Get("Location"))
		return nil, next, err
	}
	return nil, nil, statusError(resp.StatusCode, resp.Header)
}

// readBody reads what a response carries, as much of it as may be, decoded.
func (f *Fetcher) readBody(resp *http.Response) ([]byte, error) {
	body, size, err := decoded(resp, f.cfg.MaxBytes)
	if err != nil {
		return nil, err
	}
	data, err := readAll(body, size, f.cfg.MaxBytes)
	if err != nil && size < 0 && resp.Header.Get("Content-Encoding") != "" {
		err = codingError(err)
	}
	return data, err
}

func newRequest(ctx context.Context, u *url.URL) (*http.Request, error) {
	if u.Hostname() == "" {
		return nil, &Error{Kind: BadURL, Msg: "no host"}
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, &Error{Kind: BadURL, Msg: "port out of range, want 1 to 65535"}
		}
	}
	target := *u
	target.User = nil
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, &Error{Kind: BadURL, Msg: "not a valid URL"}
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept", "*/*")
	req.Header.Set("Accept-Encoding", "identity")
	if u.User != nil {
		password, _ := u.User.Password()
		req.SetBasicAuth(u.User.Username(), password)
	}
	return req, nil
}

// redirect returns the URL that a redirect from u leads to. What may be followed is decided here but for the address, which is
// checked when it is dialled.
func redirect(u *url.URL, location string) (*url.URL, error) {
	if location == "" {
		return nil, &Error{Kind: Unusable, Msg: "redirect without a Location"}
	}
	next, err := u.Parse(requote(location))
	if err != nil {
		return nil, &Error{Kind: Unusable, Msg: "redirect to a malformed URL"}
	}
	switch {
	case next.Scheme != "https" && next.Scheme != "http":
		return nil, &Error{Kind: Forbidden, Msg: "redirect to " + redact.URL(next.String()) + ", which is neither https nor http"}
	case u.Scheme == "https" && next.Scheme == "http":
		// Whoever asked for https wants neither the request readable nor the picture replaceable on its way.
		return nil, &Error{Kind: Forbidden, Msg: "redirect from https to " + redact.URL(next.String())}
	}
	// Credentials stay with the origin they were given for, and are never taken from a server.
	next.User = nil
	if next.Scheme == u.Scheme && strings.EqualFold(next.Host, u.Host) {
		next.User = u.User
	}
	return next, nil
}

// statusError gives a status other than success or redirect its Kind. Anything not known to pass is taken to stay.
func statusError(status int, header http.Header) *Error {
	e := &Error{Msg: "the server answered " + strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))}
	switch status {
	case http.StatusNotFound, http.StatusGone:
		e.Kind = NotFound
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusUnavailableForLegalReasons:
		e.Kind = Forbidden
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		e.Kind = Transient
	default:
		if status >= 500 {
			e.Kind = Transient
		}
	}
	if e.Kind == Transient {
		e.RetryAfter = parseRetryAfter(header.Get("Retry-After"), time.Now())
	}
	return e
}

// parseRetryAfter reads a Retry-After header (RFC 9110, section 10.2.3), seconds or a date. It returns 0 for none, for the past and
// for nonsense, and at most maxRetryAfter.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		wait = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}
