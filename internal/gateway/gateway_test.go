package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"onceover/internal/gateway"
	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// worker is a Worker that does what the test says.
type worker struct {
	consuming atomic.Bool
	refused   atomic.Bool // by Redis
	idle      atomic.Int64
}

func (w *worker) Problems() []string {
	if w.refused.Load() {
		return []string{"redis for results: NOPERM: grant it"}
	}
	if w.consuming.Load() {
		return nil
	}
	return []string{"not consuming"}
}
func (w *worker) Idle() time.Duration { return time.Duration(w.idle.Load()) }

type bundle struct {
	worker *worker
	server *gateway.Server
	logs   *observer.ObservedLogs
	client *http.Client
	t      *testing.T
}

func setup(t *testing.T, probes ...gateway.Probe) *bundle {
	t.Helper()
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "test_gauge", Help: "x"}))
	b := &bundle{worker: &worker{}, logs: logs, client: &http.Client{Transport: &http.Transport{}}, t: t}
	b.worker.consuming.Store(true)
	var err error
	if b.server, err = gateway.Listen("127.0.0.1:0", b.worker, probes, func() []string { return []string{"a note"} }, reg, nil, zap.New(core)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.server.Run(ctx) }()
	t.Cleanup(func() {
		b.client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return b
}

func (b *bundle) get(path string) (int, string) {
	b.t.Helper()
	resp, err := b.client.Get("http://" + b.server.Addr() + path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// until polls a path for a status.
func (b *bundle) until(path string, status int) string {
	b.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		got, body := b.get(path)
		if got == status {
			return body
		}
		select {
		case <-deadline:
			b.t.Fatalf("%s answers %d (%s), want %d", path, got, body, status)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestHealthz(t *testing.T) {
	b := setup(t)
	if status, body := b.get("/healthz"); status != 200 || !strings.Contains(body, `"alive":true`) {
		t.Errorf("got %d %s", status, body)
	}
	b.worker.consuming.Store(false) // the broker is away: nothing that a restart would mend
	if status, _ := b.get("/healthz"); status != 200 {
		t.Errorf("broker away: got %d, want 200", status)
	}
	b.worker.idle.Store(int64(2 * time.Minute))
	if status, _ := b.get("/healthz"); status != 503 {
		t.Errorf("loop stands still: got %d, want 503", status)
	}
}

func TestReadyz(t *testing.T) {
	var away atomic.Bool
	b := setup(t, gateway.Probe{Name: "redis for results", Ping: func(context.Context) error {
		if away.Load() {
			return errors.New("connection refused")
		}
		return nil
	}})
	b.until("/readyz", 200)
	away.Store(true)
	if body := b.until("/readyz", 503); !strings.Contains(body, "redis for results does not answer: connection refused") {
		t.Errorf("got %s, want the reason", body)
	}
	b.worker.refused.Store(true)
	if body := b.until("/readyz", 503); !strings.Contains(body, `["redis for results: NOPERM: grant it"]`) {
		t.Errorf("got %s, want what the worker says, once", body)
	}
	b.worker.refused.Store(false)
	away.Store(false)
	b.until("/readyz", 200)
	b.worker.consuming.Store(false)
	if status, body := b.get("/readyz"); status != 503 || !strings.Contains(body, "not consuming") {
		t.Errorf("got %d %s, want 503 and the reason", status, body)
	}
	if n := b.logs.FilterMessage("not ready").Len(); n > 2 {
		t.Errorf("got %d lines 'not ready', want one for each change", n)
	}
}

// TestAnswersWhileAProbeHangs: nobody's silence makes us silent.
func TestAnswersWhileAProbeHangs(t *testing.T) {
	asked := make(chan struct{}, 1)
	b := setup(t, gateway.Probe{Name: "silent", Ping: func(ctx context.Context) error {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return ctx.Err()
	}})
	<-asked
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/metrics": 200} {
		if status, _ := b.get(path); status != want {
			t.Errorf("%s: got %d, want %d", path, status, want)
		}
	}
}

func TestMetrics(t *testing.T) {
	b := setup(t)
	if status, body := b.get("/metrics"); status != 200 || !strings.Contains(body, "test_gauge 0") {
		t.Errorf("got %d %s", status, body)
	}
	if status, _ := b.get("/nothing"); status != 404 {
		t.Errorf("unknown path: got %d, want 404", status)
	}
}

// TestSlowBodies: a client that does not send the body that it has announced is answered, whatever it asks for.
func TestSlowBodies(t *testing.T) {
	b := setup(t)
	for _, request := range []string{"GET /healthz", "POST /nothing", "POST /metrics"} {
		conn, err := net.Dial("tcp", b.server.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, request+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: got no answer: %v", request, err)
			continue
		}
		resp.Body.Close()
	}
}

// TestDrain has a request under way when the server is to end: it is answered, and Run waits for that.
func TestDrain(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}), make(chan struct{})
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-goOn
		io.WriteString(w, "done")
	})
	s, err := gateway.Listen("127.0.0.1:0", &worker{}, nil, func() []string { return nil }, prometheus.NewRegistry(), map[string]http.Handler{"/slow": slow}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	s.Drain = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answered := make(chan string, 1)
	go func() {
		resp, err := client.Get("http://" + s.Addr() + "/slow")
		if err != nil {
			answered <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answered <- string(body)
	}()
	<-begun
	cancel()
	for { // until nobody is let in any more
		resp, err := client.Get("http://" + s.Addr() + "/healthz")
		if err != nil {
			break
		}
		resp.Body.Close()
	}
	select {
	case err := <-ended:
		t.Errorf("Run ended (%v) before the request was answered", err)
	default:
	}
	close(goOn)
	if got := <-answered; got != "done" {
		t.Errorf("got %q, want the answer", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestAddressInUse(t *testing.T) {
	b := setup(t)
	_, err := gateway.Listen(b.server.Addr(), b.worker, nil, func() []string { return nil }, prometheus.NewRegistry(), nil, zap.NewNop())
	if err == nil || !strings.Contains(err.Error(), "--http-addr") {
		t.Errorf("got %v, want an error that names the remedy", err)
	}
}
