package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"code.dny.dev/ssrf"
)

// classify returns err as an *Error: itself if it is one, else by what the network said. What is not known to stay is Transient.
// Texts of the error are repeated only where they are known to hold nothing but addresses and names.
func classify(err error, cfg Config) *Error {
	if e := asError(err); e != nil {
		return e
	}
	var (
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		notTLS      tls.RecordHeaderError
		op          *net.OpError
		timeout     net.Error
	)
	e := &Error{Kind: Transient, Err: err}
	switch {
	case errors.Is(err, ssrf.ErrProhibitedIP), errors.Is(err, ssrf.ErrProhibitedNetwork), errors.Is(err, ssrf.ErrInvalidHostPort):
		// The address stays out of the text: producers see it, and need not learn what internal names resolve to.
		e.Kind = Forbidden
		e.Msg = "the host's address is not public; to fetch from it, list the host or its CIDR in ONCEOVER_IMAGE_ALLOW"
	case errors.Is(err, errBodyTimeout):
		e.Msg = fmt.Sprintf("the body did not arrive within %v", cfg.BodyTimeout)
	case errors.As(err, &dns) && dns.IsNotFound:
		e.Kind, e.Msg = NotFound, "no such host"
	case errors.As(err, &dns):
		e.Msg = "the host's name could not be resolved for now"
	case errors.As(err, &certificate):
		e.Kind, e.Msg = Unusable, "the server's certificate could not be verified: "+certificate.Err.Error()
	case errors.As(err, &notTLS):
		e.Kind, e.Msg = Unusable, "no TLS connection could be agreed on with the server"
	case errors.As(err, &op):
		e.Msg = op.Op + ": " + op.Err.Error() // not op itself, which adds our own address
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		e.Msg = fmt.Sprintf("the server did not answer in time (connect and TLS %v each, header %v)", cfg.ConnectTimeout, cfg.HeaderTimeout)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		e.Msg = "the connection closed before all had arrived"
	default:
		e.Msg = "the server's answer could not be read"
	}
	return e
}
