// Package api is what clients ask over HTTP where there is no API in Python: it takes pictures, puts their jobs on RabbitMQ as a Celery producer
// does, and says how they are.
//
// Start with [API]. Paths, keys and bodies are those of the FastAPI service that it stands in for; the document that is served at
// /openapi.json describes each answer. A job that was accepted is in its queue, and its id is that of its Celery task. Errors are problem
// details (RFC 9457), whose detail is where FastAPI has it.
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/ratelimit"
	"onceover/internal/token"
	"onceover/internal/upload"
	"onceover/progress"
	"onceover/results"
)

// Config says how jobs are made.
type Config struct {
	Domain     string // in the paths: /api/v1/{Domain}/analyze
	Task       string // name of the task
	Exchange   string // where its messages are published
	RoutingKey string
	MaxBytes   int64 // of a picture
	Queued     func(lang string) (stage, message string)

	Heartbeat time.Duration // how often a stream says something; 0 for 15 s: proxies close what is silent, most after 60 s

	// RefuseUncounted answers 503 while requests cannot be counted; else they are admitted.
	RefuseUncounted bool
}

// Needs are what an API works with.
type Needs struct {
	Publish  func(context.Context, celery.Message) error // returns once the message is in a queue, as rabbit.Producer does
	Progress *progress.Store
	Feed     *progress.Feed // of Progress; the caller runs it
	Results  *results.Store
	Uploads  upload.Store       // nil: no uploads are taken
	Keys     *Keys              // of requests that may be repeated
	Limiter  *ratelimit.Limiter // nil: nothing is limited
	Proxies  ratelimit.Proxies
	Tokens   *token.Verifier // nil: no token is asked for
	Metrics  prometheus.Registerer
}

// API answers clients. Safe for concurrent use.
type API struct {
	cfg Config
	Needs
	log  *zap.Logger
	doc  []byte                   // the OpenAPI description
	took *prometheus.HistogramVec // by route and code

	listening atomic.Int64 // streams
	draining  context.Context
	drain     context.CancelFunc
}

// New returns an API.
func New(cfg Config, needs Needs, log *zap.Logger) *API {
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "onceover_http_request_duration_seconds", Help: "Requests of clients, by route.",
		Buckets: []float64{.002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120},
	}, []string{"route", "code"})
	needs.Metrics.MustRegister(took)
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, 15*time.Second)
	a := &API{cfg: cfg, Needs: needs, log: log, doc: describe(cfg.Domain), took: took}
	a.draining, a.drain = context.WithCancel(context.Background())
	streams := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "onceover_http_streams", Help: "Streams of events that are open."},
		func() float64 { return float64(a.listening.Load()) })
	needs.Metrics.MustRegister(streams)
	return a
}

const (
	// smallBody bounds what is not a picture, in bytes.
	smallBody = 64 << 10
	// patience is how long a request waits for Redis, and publishing for the broker.
	patience, publishing = 2 * time.Second, 15 * time.Second
	// uploading is how long a client may take to send a picture. What is small has the time that the server allows.
	uploading = 2 * time.Minute
	// keeping is how long the store of uploads may take once a picture has arrived.
	keeping = 2 * time.Minute
)

// Handler returns the handler of all routes. It takes whole paths.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	base := "/api/v1/" + a.cfg.Domain
	a.route(mux, http.MethodPost, base+"/analyze", a.limited(base+"/analyze", a.signedIn(a.analyze)))
	a.route(mux, http.MethodGet, base+"/status/{job_id}", a.signedIn(a.status))
	a.route(mux, http.MethodGet, "/status/{job_id}", a.signedIn(a.status))
	a.route(mux, http.MethodGet, base+"/result/{job_id}", a.signedIn(a.result))
	a.route(mux, http.MethodGet, base+"/events/{job_id}", a.ticketed(a.events))
	if a.Tokens != nil {
		a.route(mux, http.MethodPost, "/api/v1/auth/ticket", a.limited("/api/v1/auth/ticket", a.signedIn(a.ticket)))
		a.route(mux, http.MethodPost, "/api/v1/auth/logout", a.limited("/api/v1/auth/logout", a.signedIn(a.logout)))
	}
	a.route(mux, http.MethodGet, "/openapi.json", a.openAPI)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, problem{Status: http.StatusNotFound, Detail: "there is nothing at this path: see /openapi.json"})
	})
	if a.Tokens == nil {
		return Guard(mux, true)
	}
	return mux
}

// Paths are the patterns below which the handler has something to say.
func (a *API) Paths() []string { return []string{"/api/", "/status/", "/openapi.json"} }

// route answers a method of a path, and refuses the others.
func (a *API) route(mux *http.ServeMux, method, path string, h http.HandlerFunc) {
	mux.Handle(method+" "+path, promhttp.InstrumentHandlerDuration(a.took.MustCurryWith(prometheus.Labels{"route": path}), h))
	allow := method
	if method == http.MethodGet {
		allow = "GET, HEAD"
	}
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		fail(w, problem{Status: http.StatusMethodNotAllowed, Detail: r.Method + " is not answered here: expected " + allow})
	})
}

func (a *API) openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(a.doc) // the client has gone
}

// problem is an error for a client, RFC 9457.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail"`
	Violated []string `json:"violated-policies,omitempty"` // of a rate limit

	retry time.Duration // when to come again, 0 if that changes nothing
	cause error         // for the log
}

// fail answers with a problem.
func fail(w http.ResponseWriter, p problem) {
	if p.Type == "" {
		p.Type = "about:blank"
	}
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	if p.retry > 0 {
		w.Header().Set("Retry-After", wholeSeconds(p.retry))
	}
	send(w, p.Status, "application/problem+json", p)
}

// send answers with JSON, as Python's services write it.
func send(w http.ResponseWriter, status int, contentType string, body any) {
	doc, err := celery.MarshalJSON(body)
	if err != nil {
		// Of values that were read from JSON; never seen.
		status, contentType, doc = http.StatusInternalServerError, "application/problem+json", []byte(`{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"the answer cannot be written"}`)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(doc, '\n')) // the client has gone
}

// away answers that something that the request needs does not answer, and has the log say so.
func (a *API) away(w http.ResponseWriter, r *http.Request, what string, err error) {
	if r.Context().Err() == nil { // else the client has gone
		a.log.Warn("a request cannot be answered", zap.String("path", r.URL.Path), zap.String("reason", what), zap.Error(err))
	}
	fail(w, problem{Status: http.StatusServiceUnavailable, Detail: what + " at the moment: try again later", retry: 5 * time.Second})
}

// broken answers that this program is at fault, or what it reads.
func (a *API) broken(w http.ResponseWriter, r *http.Request, what string, err error) {
	a.log.Error("a request cannot be answered", zap.String("path", r.URL.Path), zap.String("reason", what), zap.Error(err))
	fail(w, problem{Status: http.StatusInternalServerError, Detail: what})
}

// outage reports whether an error says that something did not answer, and not what it answered.
func outage(err error) bool {
	var u interface{ Unavailable() bool }
	return errors.As(err, &u) && u.Unavailable() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errOutage)
}

// decode reads a small JSON object.
func decode(w http.ResponseWriter, r *http.Request, into any) *problem {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, smallBody))
	err := dec.Decode(into)
	if err == nil && dec.More() {
		err = errors.New("more than one JSON value")
	}
	var tooLarge *http.MaxBytesError
	var network net.Error
	switch {
	case errors.As(err, &network):
		return &problem{Status: http.StatusRequestTimeout, Detail: "the body did not arrive in time"}
	case errors.As(err, &tooLarge):
		return &problem{Status: http.StatusRequestEntityTooLarge, Detail: "the body is larger than 64 KiB, the most that is read of JSON; a picture goes into the field file of multipart/form-data"}
	case err != nil:
		return &problem{Status: http.StatusUnprocessableEntity, Detail: "the body is not the JSON object that is expected: " + jsonFault(err)}
	}
	return nil
}

// jsonFault says what is wrong with JSON to those who do not know Go.
func jsonFault(err error) string {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF):
		return "it is empty"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends in the middle"
	case errors.As(err, &syntax):
		return fmt.Sprintf("it is no JSON from byte %d on", syntax.Offset)
	case !errors.As(err, &kind):
		return err.Error()
	}
	found := map[string]string{"bool": "true or false", "array": "a list", "object": "an object", "string": "a string"}[kind.Value]
	if found == "" {
		found = "a number"
	}
	if kind.Field == "" {
		return "it is " + found
	}
	return kind.Field + " is " + found + ": expected a string"
}
