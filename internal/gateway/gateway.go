// Package gateway is the HTTP side of a worker: liveness, readiness and metrics.
//
// Start with [Server]. It promises to answer at once whatever the jobs do: it
// asks nobody while a request waits. Readiness is what a loop of its own found
// out within the last second or two; liveness looks at this process only, so
// that a broker's or Redis's outage never has healthy workers restarted.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

const (
	probeEvery   = time.Second     // while something is wrong
	probeWell    = 5 * time.Second // while all is well: what jobs meet with is known at once
	probeTimeout = 2 * time.Second
	// stalledAfter is how long the worker's loop, which turns every second, may
	// stand still. Dialling a broker takes up to 20 s of one turn.
	stalledAfter = 60 * time.Second
)

// Worker is what is asked about the worker itself.
type Worker interface {
	Problems() []string  // why it does not run jobs as it should; nothing if all is well
	Idle() time.Duration // since its loop last turned
}

// Probe asks whether something that jobs need answers.
type Probe struct {
	Name string
	Ping func(context.Context) error
}

// Server serves /healthz, /readyz and /metrics.
type Server struct {
	listener net.Listener
	worker   Worker
	probes   []Probe
	notes    func() []string
	log      *zap.Logger
	http     *http.Server

	handlers sync.WaitGroup // at work

	// Drain is how long requests under way have once Run's context has ended.
	Drain time.Duration

	mu     sync.Mutex
	faults []string // of the last round, of each probe, "" if it answers
	probed bool
	ready  bool // the last answer, to log changes
}

// Listen opens addr. The server answers once Run is called. pages are further
// handlers, by pattern; notes stand in the body of /readyz when all is well.
func Listen(addr string, w Worker, probes []Probe, notes func() []string, metrics prometheus.Gatherer, pages map[string]http.Handler, log *zap.Logger) (*Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on the HTTP address %s: %w; choose another with --http-addr or ONCEOVER_HTTP_ADDR, \"off\" for none", addr, err)
	}
	s := &Server{listener: listener, worker: w, probes: probes, notes: notes, log: log, Drain: time.Second}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	for pattern, handler := range pages {
		mux.Handle(pattern, handler)
	}
	s.http = &http.Server{
		Handler: s.counted(hurried(mux)), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 1 << 16, ErrorLog: zap.NewStdLog(log),
	}
	return s, nil
}

// Addr is the address that is listened on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends and the requests under way are answered, or Drain has passed.
func (s *Server) Run(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	var loops sync.WaitGroup
	loops.Go(func() { s.probe(ctx) })
	down := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(down)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Drain)
		defer cancel()
		if s.http.Shutdown(last) != nil {
			s.http.Close()
		}
	})
	err := s.http.Serve(s.listener)
	if !stop() {
		<-down // Serve returns as soon as nobody is let in any more
	}
	end()
	loops.Wait()
	s.handlers.Wait() // of connections that were closed: what they use is closed next
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve HTTP: %w", err)
}

// counted lets Run wait for next.
func (s *Server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handlers.Add(1)
		defer s.handlers.Done()
		next.ServeHTTP(w, r)
	})
}

const (
	bodyTime  = 10 * time.Second // for a body, unless its handler sets another read deadline
	afterward = time.Second      // for what is left of a body that is not read, as its request was refused
)

// hurried bounds how long a client may take to send a body.
func hurried(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			next.ServeHTTP(w, r)
			return
		}
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(bodyTime)) // every connection of a server has one
		next.ServeHTTP(w, r)
		_ = control.SetReadDeadline(time.Now().Add(afterward))
	})
}

// probe asks all probes at the same time, now and then.
func (s *Server) probe(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	<-next.C
	for {
		results := make([]string, len(s.probes))
		var round sync.WaitGroup
		for i, p := range s.probes {
			round.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, probeTimeout)
				defer cancel()
				if err := p.Ping(ctx); err != nil {
					results[i] = p.Name + " does not answer: " + err.Error()
				}
			})
		}
		round.Wait()
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.faults, s.probed = results, true
		s.mu.Unlock()
		s.logChange()
		next.Reset(probeWell)
		if len(s.reasons()) > 0 {
			next.Reset(probeEvery)
		}
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
	}
}

// reasons says why jobs cannot be run at the moment, nil if they can. What the worker says of a
// probe's server, "NAME: …", stands for what the probe says, since it may name the remedy.
func (s *Server) reasons() []string {
	out := s.worker.Problems()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.probed {
		out = append(out, "not probed yet")
	}
	for i, p := range s.probes {
		said := func(problem string) bool { return strings.HasPrefix(problem, p.Name+": ") }
		if i < len(s.faults) && s.faults[i] != "" && !slices.ContainsFunc(out, said) {
			out = append(out, s.faults[i])
		}
	}
	return out
}

func (s *Server) logChange() {
	reasons := s.reasons()
	ready := len(reasons) == 0
	s.mu.Lock()
	changed := ready != s.ready
	s.ready = ready
	s.mu.Unlock()
	switch {
	case changed && ready:
		s.log.Info("ready")
	case changed:
		s.log.Warn("not ready", zap.Strings("reasons", reasons))
	}
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	idle := s.worker.Idle()
	status := http.StatusOK
	if idle > stalledAfter {
		status = http.StatusServiceUnavailable
	}
	reply(w, status, map[string]any{"alive": status == http.StatusOK, "loop_idle_seconds": idle.Seconds()})
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	reasons := s.reasons()
	if len(reasons) > 0 {
		reply(w, http.StatusServiceUnavailable, map[string]any{"ready": false, "reasons": reasons})
		return
	}
	body := map[string]any{"ready": true}
	if notes := s.notes(); len(notes) > 0 {
		body["notes"] = notes
	}
	reply(w, http.StatusOK, body)
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone
}
