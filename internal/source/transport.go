package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"code.dny.dev/ssrf"
)

const (
	// idleConns is how many idle connections are kept, in all and to one host: as many as fetches usually run at once, since the
	// pictures of one deployment mostly come from one host.
	idleConns = 100
	// idleTimeout is less than the keep-alive of common servers, so that mostly we, and not they, close a connection first.
	idleTimeout = 50 * time.Second
	// maxHeaderBytes is far more than any server needs, and far less than the 10 MB that net/http would take.
	maxHeaderBytes = 64 << 10
)

// azureVirtualIP is a public address that Azure answers itself inside every virtual machine (metadata, credentials), so no
// registry of special addresses lists it.
var azureVirtualIP = netip.MustParsePrefix("168.63.129.16/32")

// errBodyTimeout is the cause of a cancellation by Config.BodyTimeout.
var errBodyTimeout = errors.New("body time-out")

// hooks are what tests put in the place of the system's own. The zero value changes nothing.
type hooks struct {
	rootCAs  *x509.CertPool
	resolver *net.Resolver
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// openDial dials any address. Its time-out includes name resolution.
func openDial(cfg Config, h hooks) *net.Dialer {
	return &net.Dialer{Timeout: cfg.ConnectTimeout, Resolver: h.resolver}
}

// newGuard returns the check of an address that is about to be connected to: public, or permitted by allow. Its table follows the
// IANA registries of special-purpose addresses; of IPv6 it lets pass only what is global unicast and embeds no IPv4.
func newGuard(allow allowList) *ssrf.Guardian {
	return ssrf.New(
		ssrf.WithAnyPort(),
		ssrf.WithAllowedV4Prefixes(allow.v4...),
		ssrf.WithAllowedV6Prefixes(allow.v6...),
		ssrf.WithDeniedV4Prefixes(azureVirtualIP),
	)
}

// guardedDial dials public addresses and what allow names. The guard runs after name resolution, on each address that is tried, so
// it sees neither spellings nor names, and a name that changes its address between check and use (DNS rebinding) gains nothing.
func guardedDial(cfg Config, allow allowList, h hooks) dialFunc {
	open, guarded := openDial(cfg, h), openDial(cfg, h)
	guarded.Control = newGuard(allow).Safe
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		// The transport never lends one host's connection to another, so permission by name cannot leak.
		if host, _, err := net.SplitHostPort(addr); err == nil && allow.hosts[strings.ToLower(host)] {
			return open.DialContext(ctx, network, addr)
		}
		return guarded.DialContext(ctx, network, addr)
	}
}

// newTransport returns a pool of HTTP/1.1 connections made by dial. HTTP/2 is left out on purpose: with it all pictures of a host
// would share one connection, and one lost packet would hold up all of them.
func newTransport(cfg Config, dial dialFunc, h hooks) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // not ProxyFromEnvironment: a proxy would dial for us, past the guard
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{RootCAs: h.rootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    cfg.ConnectTimeout,
		ResponseHeaderTimeout:  cfg.HeaderTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true, // so that MaxBytes holds for what is read, too
		MaxIdleConns:           idleConns,
		MaxIdleConnsPerHost:    idleConns,
		IdleConnTimeout:        idleTimeout,
	}
}

// bodyTimeout is a RoundTripper that gives each response's body a time-out, from the header to the last byte. The transport's own
// time-outs end at the header.
type bodyTimeout struct {
	next    http.RoundTripper
	timeout time.Duration
}

func (t bodyTimeout) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	timer := time.AfterFunc(t.timeout, func() { cancel(errBodyTimeout) })
	resp.Body = &timedBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, timer: timer}
	return resp, nil
}

type timedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errBodyTimeout {
		err = errBodyTimeout
	}
	return n, err
}

func (b *timedBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
