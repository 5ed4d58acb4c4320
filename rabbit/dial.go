package rabbit

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/internal/redact"
)

const dialTimeout = 10 * time.Second // to connect, and then for the handshake

// Heartbeat is the heartbeat interval that is proposed to the broker.
const Heartbeat = 10 * time.Second

// Conn is a connection to RabbitMQ.
type Conn = amqp.Connection

// goodbye is how long a broker may take to say goodbye.
const goodbye = 2 * time.Second

// HangUp closes a connection, which may be lost already. A broker that does not answer, as one does that has an alarm, is not waited for.
func HangUp(conn *Conn) { _ = conn.CloseDeadline(time.Now().Add(goodbye)) }

// Dial connects to one of the brokers, which are tried in an order drawn at random: after the
// restart of one node of a cluster the clients spread over all of them again. name is what the
// broker lists the connection as. Dial does not retry. The error is a *[ConfigError] where the
// broker answers that the URL is wrong.
func Dial(ctx context.Context, name string, urls []string) (*Conn, error) {
	var lastErr error
	for _, i := range rand.Perm(len(urls)) {
		conn, err := dial(ctx, name, urls[i])
		if err == nil {
			return conn, nil
		}
		// A fault of the configuration is worth more than that another node is down.
		if refused := (*ConfigError)(nil); lastErr == nil || !errors.As(lastErr, &refused) {
			lastErr = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, lastErr
}

func dial(ctx context.Context, name, raw string) (*Conn, error) {
	uri, err := ParseURL(raw)
	if err != nil {
		return nil, err
	}
	props := amqp.NewConnectionProperties()
	props.SetClientConnectionName(name)
	conn, err := dialOne(ctx, uri, amqp.Config{
		SASL: mechanisms(uri), Vhost: uri.Vhost, Heartbeat: Heartbeat, Properties: props,
	})
	if err != nil {
		return nil, refusedLogin(raw, uri, err)
	}
	return conn, nil
}

// mechanisms are how a client says who it is: auth_mechanism=external leaves it to the client's
// certificate (RabbitMQ's URI query parameters).
func mechanisms(uri amqp.URI) []amqp.Authentication {
	if slices.ContainsFunc(uri.AuthMechanism, func(m string) bool { return strings.EqualFold(m, "external") }) {
		return []amqp.Authentication{&amqp.ExternalAuth{}}
	}
	return []amqp.Authentication{uri.PlainAuth()}
}

// refusedLogin describes why there is no connection. The broker's answers name the virtual host
// as it was asked for, in which a whole URL with its password may stand.
func refusedLogin(raw string, uri amqp.URI, err error) error {
	doing := "connect to broker " + RedactURL(raw)
	switch answer := answerCode(err); {
	// The client does not ask RabbitMQ to say so: it closes the connection at this step.
	case answer == amqp.AccessRefused, errors.Is(err, amqp.ErrCredentials):
		return &ConfigError{doing, redacted(err), fmt.Sprintf("check user %q and its password in the broker URL", uri.Username)}
	case answer == amqp.NotAllowed:
		return &ConfigError{doing, redacted(err), fmt.Sprintf(
			"create the virtual host %q, give user %q permissions in it, or name another at the end of the broker URL", redact.Text(cmp.Or(uri.Vhost, "/")), uri.Username)}
	case errors.Is(err, amqp.ErrSASL):
		return &ConfigError{doing, redacted(err), "use an authentication mechanism that the broker offers"}
	}
	var unknown x509.UnknownAuthorityError
	var wrongHost x509.HostnameError
	if errors.As(err, &unknown) || errors.As(err, &wrongHost) {
		return &ConfigError{doing, redacted(err), "check cacertfile and server_name_indication in the broker URL"}
	}
	return fmt.Errorf("%s: %w", doing, redacted(err))
}

// redactedError is an error whose text has no secrets.
type redactedError struct{ err error }

func redacted(err error) error { return &redactedError{err} }

func (e *redactedError) Error() string { return redact.Text(e.err.Error()) }
func (e *redactedError) Unwrap() error { return e.err }

// dialOne connects within ctx and dialTimeout, and leaves a deadline for the handshake, which the
// AMQP client clears when it is done.
func dialOne(ctx context.Context, uri amqp.URI, cfg amqp.Config) (*Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	raw, err := d.DialContext(ctx, "tcp", net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)))
	if err != nil {
		return nil, err
	}
	conn := raw
	fail := func(err error) (*Conn, error) {
		conn.Close() // the first error is the one to show
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return fail(err)
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() }) // the handshake ends with ctx too
	defer stop()
	if uri.Scheme == "amqps" {
		tlsConfig, err := tlsConfigOf(uri)
		if err != nil {
			return fail(err)
		}
		conn = tls.Client(conn, tlsConfig)
	}
	c, err := amqp.Open(newLongIntConn(conn), cfg)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// tlsConfigOf reads the query parameters cacertfile, certfile, keyfile and
// server_name_indication of RabbitMQ's URIs.
func tlsConfigOf(uri amqp.URI) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(uri.ServerName, uri.Host)}
	if uri.CACertFile != "" {
		pem, err := os.ReadFile(uri.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("cacertfile: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cacertfile %s holds no certificate in PEM form", uri.CACertFile)
		}
	}
	if uri.CertFile != "" || uri.KeyFile != "" {
		cert, err := tls.LoadX509KeyPair(uri.CertFile, uri.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certfile and keyfile: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// ParseURL accepts the URLs that RabbitMQ clients and Celery use. An error never shows the
// password.
func ParseURL(raw string) (amqp.URI, error) {
	// py-amqp's name of the same protocol.
	if rest, ok := strings.CutPrefix(raw, "pyamqp://"); ok {
		raw = "amqp://" + rest
	}
	uri, err := amqp.ParseURI(raw)
	if err != nil {
		return amqp.URI{}, fmt.Errorf("broker URL %s is not valid: expected amqp://user:password@host:5672/vhost, "+
			"with special characters in the password percent-encoded", RedactURL(raw))
	}
	return uri, nil
}

// nextURL finds where a list of URLs goes on after a comma. A comma elsewhere belongs to a
// password or a virtual host.
var nextURL = regexp.MustCompile(`,\s*([a-z]+://)`)

// SplitURLs takes a list of broker URLs apart: by semicolons, as Celery writes brokers for
// failover (kombu/connection.py), or by commas.
func SplitURLs(list string) []string {
	var out []string
	for u := range strings.SplitSeq(nextURL.ReplaceAllString(list, ";$1"), ";") {
		if u = strings.TrimSpace(u); u != "" {
			out = append(out, u)
		}
	}
	return out
}

// RedactURL keeps the scheme, the host and the virtual host of a broker URL.
func RedactURL(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return "(not a URL)"
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = "…@" + rest[i+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return scheme + "://" + rest
}
