package source

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const loopback = "127.0.0.0/8"

var local = [4]byte{127, 0, 0, 1}

// newTestFetcher returns a Fetcher that may fetch from loopback addresses, with the changes that change makes.
func newTestFetcher(t testing.TB, h hooks, change func(*Config)) *Fetcher {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Allow = []string{loopback}
	if change != nil {
		change(&cfg)
	}
	f, err := newFetcher(cfg, h)
	if err != nil {
		t.Fatalf("newFetcher: %v", err)
	}
	t.Cleanup(f.Close)
	return f
}

// serve starts a server and closes it, with its connections, at the end of the test.
func serve(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := newServer(t, handler)
	s.Start()
	return s
}

// serveTLS is serve with TLS, and the pool with which its certificate is trusted.
func serveTLS(t testing.TB, handler http.HandlerFunc) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	s := newServer(t, handler)
	s.StartTLS()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s, pool
}

func newServer(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are part of the tests
	t.Cleanup(s.Close)
	return s
}

// port returns ":PORT" of the server.
func port(s *httptest.Server) string {
	return s.URL[strings.LastIndexByte(s.URL, ':'):]
}

// hang blocks a handler until its client has gone.
func hang(r *http.Request) { <-r.Context().Done() }

// wantKind fails the test unless err is an *Error of kind whose text contains text.
func wantKind(t testing.TB, err error, kind Kind, text string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v (%T), want an *Error of kind %v", err, err, kind)
	}
	if e.Kind != kind {
		t.Errorf("got kind %v, want %v (error: %v)", e.Kind, kind, e)
	}
	if !strings.Contains(e.Error(), text) {
		t.Errorf("got error %q, want one with %q", e, text)
	}
	return e
}

func fetch(t testing.TB, f *Fetcher, rawURL string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return f.Fetch(ctx, rawURL)
}

// resolveAll is a resolver that answers every name with addr, as a hostile name server or a lenient getaddrinfo would.
func resolveAll(addr [4]byte) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go answerDNS(server, addr)
		return client, nil
	}}
}

// answerDNS answers the questions of one connection, in the framing of DNS over TCP, until it closes.
func answerDNS(conn net.Conn, addr [4]byte) {
	defer conn.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		packet := make([]byte, int(size[0])<<8|int(size[1]))
		if _, err := io.ReadFull(conn, packet); err != nil {
			return
		}
		var msg dnsmessage.Message
		if err := msg.Unpack(packet); err != nil || len(msg.Questions) != 1 {
			return
		}
		question := msg.Questions[0]
		reply := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: msg.ID, Response: true, RecursionAvailable: true},
			Questions: msg.Questions,
		}
		if question.Type == dnsmessage.TypeA {
			reply.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class},
				Body:   &dnsmessage.AResource{A: addr},
			}}
		}
		packed, err := reply.Pack()
		if err != nil {
			return
		}
		if _, err := conn.Write(append([]byte{byte(len(packed) >> 8), byte(len(packed))}, packed...)); err != nil {
			return
		}
	}
}
