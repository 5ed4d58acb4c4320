package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/celery"
	"onceover/failed"
	"onceover/internal/api"
	"onceover/internal/config"
	"onceover/internal/console"
	"onceover/internal/control"
	"onceover/internal/gateway"
	"onceover/internal/source"
	"onceover/internal/token"
	"onceover/phash"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
	"onceover/tasks"
	"onceover/vision"
	"onceover/vision/fleet"
)

// ops is the operators' page with what it needs besides the stores of jobs.
type ops struct {
	console *console.Console
	sender  *resender
	looker  *rabbit.Producer // never publishes: a broker that is short of memory or disk still answers on its connection
	control *control.Client
	fetcher *source.Fetcher
	looks   sync.WaitGroup // under way, at the broker
}

// stores are those that the page looks at.
type stores struct {
	failed   *failed.Store
	kept     redis.UniversalClient // the database of failed
	progress *progress.Store
	cache    *cache.Cache
	gate     *fleet.Gate
	probes   []gateway.Probe // of servers that are not among those of the process's readiness
}

// openStoresOf opens what the page looks at, for a process that is no worker.
func openStoresOf(s *config.Settings, servers *redisServers, rs *results.Store, ps *progress.Store, metrics prometheus.Registerer, log *zap.Logger) (*stores, error) {
	before := len(servers.probes)
	kept, err := servers.open("failed", s.FailedURL, frontConcurrency)
	if err != nil {
		return nil, usageError(err)
	}
	cached, err := servers.open("cache", s.CacheURL, frontConcurrency)
	if err != nil {
		return nil, usageError(err)
	}
	limits, err := servers.open("limits", s.LimitsURL, frontConcurrency)
	if err != nil {
		return nil, usageError(err)
	}
	// A gateway takes pictures without these servers: its readiness does not ask them.
	probes := slices.Clone(servers.probes[before:])
	servers.probes = servers.probes[:before]
	s.Failed.BeforeReplay = tasks.ResetProgress(ps, s.Tasks)
	return &stores{
		failed: failed.New(s.Failed, kept, rs, ps, metrics, log.Named("failed")), kept: kept, progress: ps,
		cache: cache.New(s.Cache, cached, metrics, log.Named("cache")),
		gate:  fleet.New(s.Fleet, limits, metrics, log.Named("vision")), probes: probes,
	}, nil
}

// newOps builds the page; nothing is connected yet. The caller closes producer before it.
func newOps(s *config.Settings, st stores, clients http.Handler, producer *rabbit.Producer, probes []gateway.Probe, tokens *token.Verifier, log *zap.Logger) (*ops, error) {
	fetcher, err := source.New(s.Image)
	if err != nil {
		return nil, err
	}
	o := &ops{sender: &resender{producer: producer}, looker: rabbit.NewProducer("onceover operators", s.Worker.BrokerURLs), control: control.New("onceover operators", s.Worker.BrokerURLs), fetcher: fetcher}
	pictures := newOpsPictures(s, st.cache, fetcher)
	servers := []console.Server{{Name: "RabbitMQ", Ping: o.looker.Connect}}
	for _, p := range append(slices.Clone(probes), st.probes...) {
		if !slices.ContainsFunc(servers, func(s console.Server) bool { return s.Name == p.Name }) {
			servers = append(servers, console.Server{Name: p.Name, Ping: p.Ping})
		}
	}
	o.console = console.New(console.Config{ReadScope: s.OpsReadScope, AdminScope: s.OpsAdminScope}, console.Needs{
		Failed: st.failed, Publish: o.sender.send, Progress: st.progress, Cache: st.cache, Gate: st.gate,
		Workers: o.control, Pauses: control.NewPauses(st.kept), Look: o.look, Queues: s.Worker.Queues,
		Servers: servers, Picture: previews(pictures), Pictures: pictures, Tokens: tokens, API: clients, Domain: s.Domain, Uploads: s.Uploads != "",
	}, log.Named("ops"))
	return o, nil
}

// handler answers below console.Base.
func (o *ops) handler() http.Handler { return o.console.Handler() }

// close releases what newOps opened, after the requests have ended.
func (o *ops) close() {
	o.looker.Close()
	o.looks.Wait()
	o.sender.close()
	o.control.Close()
	o.fetcher.Close()
}

// picturesAtOnce is how many pictures the page decodes at once: it must not take the memory of the requests beside it.
const picturesAtOnce = 2

// previews returns what makes a small JPEG file of the picture of a job.
func previews(p *opsPictures) func(context.Context, *celery.Request) ([]byte, error) {
	slots := make(chan struct{}, picturesAtOnce)
	return func(ctx context.Context, req *celery.Request) ([]byte, error) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		data, err := p.File(ctx, req)
		if err != nil {
			return nil, err
		}
		small, err := vision.NewPreview(data)
		if err != nil {
			return nil, err
		}
		return small.JPEG, nil
	}
}

// checkPixels refuses a picture that is too large to be decoded.
func checkPixels(data []byte, most int) error {
	info, err := phash.Inspect(data)
	if err == nil && info.Width*info.Height > most {
		err = fmt.Errorf("it has %d x %d pixels: at most %d are decoded", info.Width, info.Height, most)
	}
	return err
}

// resender publishes failed jobs anew, on the connection that a producer has.
type resender struct {
	producer *rabbit.Producer

	mu     sync.Mutex
	conn   *rabbit.Conn
	sender *rabbit.Sender
}

// on returns a sender on a connection that is not known to be lost.
func (r *resender) on(ctx context.Context) (*rabbit.Sender, error) {
	conn, err := r.producer.Conn(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	old := r.sender
	if r.conn == conn || r.sender != nil && conn.IsClosed() { // what is older than another caller's sends no more
		r.mu.Unlock()
		return old, nil
	}
	sender := &rabbit.Sender{Conn: conn, Waiting: func(*rabbit.FullError) {}, Idle: func(string, time.Duration) {}}
	r.conn, r.sender = conn, sender
	r.mu.Unlock()
	if old != nil {
		old.Close() // its connection is lost: nothing is waited for
	}
	return sender, nil
}

func (r *resender) send(ctx context.Context, _ bool, messages ...rabbit.Message) error {
	sender, err := r.on(ctx)
	if err != nil {
		return err
	}
	return sender.Send(ctx, messages...)
}

// look returns how a queue stands. What waits for a broker that does not answer ends with the connection.
func (o *ops) look(ctx context.Context, queue string) (rabbit.Standing, error) {
	conn, err := o.looker.Conn(ctx)
	if err != nil {
		return rabbit.Standing{}, err
	}
	type answer struct {
		standing rabbit.Standing
		err      error
	}
	done := make(chan answer, 1)
	o.looks.Go(func() {
		standing, err := rabbit.Look(conn, queue)
		done <- answer{standing, err}
	})
	select {
	case a := <-done:
		return a.standing, a.err
	case <-ctx.Done():
		return rabbit.Standing{}, errors.Join(errors.New("the broker does not answer"), context.Cause(ctx))
	}
}

// close waits for what was begun, once the producer was closed.
func (r *resender) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sender != nil {
		r.sender.Close()
	}
}

// isLoopback reports whether only this machine can reach an address to listen on.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && api.IsLocalName(host)
}
