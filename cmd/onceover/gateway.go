package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/api"
	"onceover/internal/config"
	"onceover/internal/console"
	"onceover/internal/gateway"
	"onceover/internal/ratelimit"
	"onceover/internal/token"
	"onceover/internal/upload"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
	"onceover/tasks"
)

// gatewayFlags are the settings that mean something to the gateway.
var gatewayFlags = []string{
	"broker-url", "redis-url", "results-url", "cache-url", "progress-url", "limits-url", "blacklist-url", "failed-url", "failed-replicas", "queues",
	"image-allow", "image-root", "image-max-bytes", "image-max-pixels", "prompts", "lang", "budget",
	"cache-radius", "cache-turned", "cache-corner", "cache-any-prompt", "pillow", "vision-url", "vision-model",
	"http-addr", "ops", "ops-read-scope", "ops-admin-scope", "domain", "uploads", "uploads-keep", "rate-limit", "rate-limit-sliding", "rate-limit-ipv6-prefix", "rate-limit-outage", "trusted-proxies",
	"jwt-secret", "jwt-jwks-url", "jwt-audience", "jwt-issuer", "grace", "log-level", "log-format",
}

func newGateway() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "Serve an HTTP API that takes pictures and tells how their jobs are",
		Long: `For clients where there is no API in Python: takes pictures, puts their jobs on
RabbitMQ as a Celery producer does, and answers with their progress and results.
/openapi.json describes it, and docs/gateway.md says how to run it. Any number of
gateways may run; they share their limits in Redis.

Without tokens (--jwt-secret or --jwt-jwks-url) only a loopback address is served.`,
		Example: `  onceover gateway --uploads /var/lib/onceover/uploads
  curl -F file=@photo.jpg http://127.0.0.1:8080/api/v1/waste/analyze`,
		Args: noArgs,
	}
	settings := config.Bind(cmd.Flags(), gatewayFlags...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		log, err := newLogger(settings)
		if err != nil {
			return err
		}
		return runGateway(cmd.Context(), settings, log)
	}
	return cmd
}

// runGateway serves until ctx ends and the requests under way are answered.
func runGateway(ctx context.Context, s *config.Settings, log *zap.Logger) error {
	if s.HTTPAddr == "" {
		return usageError(errors.New("http-addr is off: expected an address, as the gateway does nothing else"))
	}
	var servers redisServers
	defer func() { _ = log.Sync() }() // fails on terminals
	defer servers.close()
	resultsClient, err := servers.open("results", s.ResultsURL, frontConcurrency)
	if err != nil {
		return usageError(err)
	}
	progressClient, err := servers.open("progress", s.ProgressURL, frontConcurrency)
	if err != nil {
		return usageError(err)
	}
	rs, ps := results.New(resultsClient, log.Named("results")), progress.New(progressClient, log.Named("progress"))
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var st *stores
	if s.Ops {
		if st, err = openStoresOf(s, &servers, rs, ps, metrics, log); err != nil {
			return err
		}
	}
	f, err := newFront(s, &servers, st, rs, ps, metrics, log)
	if err != nil {
		return err
	}
	defer func() {
		f.close()
		if st != nil {
			st.cache.Close()
		}
		servers.close()
		f.wait()
		if st != nil {
			st.cache.Wait()
		}
		rs.Wait()
		ps.Wait()
	}()
	server, err := gateway.Listen(s.HTTPAddr, f, append(servers.probes, f.broker()), f.notes, metrics, f.pages(), log.Named("http"))
	if err != nil {
		return err
	}
	server.Drain = s.Worker.Grace
	log.Info("starting", zap.String("version", version), zap.String("api", "/api/v1/"+s.Domain+"/"),
		zap.Stringer("rate_limit", s.RateLimit), zap.Bool("tokens", s.Tokens.Enabled()), zap.Bool("uploads", f.uploads != nil))
	log.Info("HTTP is up", zap.String("addr", server.Addr()))
	for _, note := range f.notes() {
		log.Warn(note)
	}
	return f.during(ctx, func() error { return server.Run(ctx) })
}

// during does the gateway's upkeep while serve runs. When ctx ends, streams end, and no new requests should come.
func (f *front) during(ctx context.Context, serve func() error) error {
	stop := context.AfterFunc(ctx, func() {
		f.stopping.Store(true)
		f.api.Drain()
	})
	defer stop()
	upkeepCtx, end := context.WithCancel(context.WithoutCancel(ctx))
	var upkeep sync.WaitGroup
	upkeep.Go(func() { f.sweep(upkeepCtx) })
	upkeep.Go(func() { f.feed.Run(upkeepCtx) })
	if f.ops != nil {
		upkeep.Go(func() { f.ops.console.Run(upkeepCtx) })
	}
	err := serve()
	end()
	upkeep.Wait()
	return err
}

// frontConcurrency is how many requests the connections to Redis are for; those of one pipeline share one.
const frontConcurrency = 32

// front is the API for clients with what it needs besides the stores of jobs.
type front struct {
	api      *api.API
	settings *config.Settings
	log      *zap.Logger
	feed     *progress.Feed
	producer *rabbit.Producer
	keys     *api.Keys
	uploads  upload.Store       // nil if none are taken
	limiter  *ratelimit.Limiter // nil if nothing is limited
	tokens   *token.Verifier    // nil if none are asked for
	ops      *ops               // nil if there is no operators' page
	stopping atomic.Bool
}

// newFront builds the API, and the operators' page if it is given what to look at; nothing is connected yet.
func newFront(s *config.Settings, servers *redisServers, st *stores, rs *results.Store, ps *progress.Store, metrics prometheus.Registerer, log *zap.Logger) (_ *front, err error) {
	if !s.Tokens.Enabled() && !isLoopback(s.HTTPAddr) {
		return nil, usageError(fmt.Errorf("http-addr is %s, and no token is asked for: expected jwt-secret or jwt-jwks-url, or an address of this machine only, such as 127.0.0.1:8080", s.HTTPAddr))
	}
	f := &front{settings: s, log: log, feed: progress.NewFeed(ps)}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	// A gateway that admits requests which cannot be counted is ready without this server.
	open := servers.client
	if s.RefuseUncounted {
		open = servers.open
	}
	limits, err := open("limits", s.LimitsURL, frontConcurrency)
	if err != nil {
		return nil, usageError(err)
	}
	if s.RateLimit.Limit > 0 {
		f.limiter = ratelimit.New(s.RateLimit, limits, log.Named("limits"))
	}
	if s.Tokens.Enabled() {
		blacklist, err := servers.open("blacklist", s.BlacklistURL, frontConcurrency)
		if err != nil {
			return nil, usageError(err)
		}
		f.tokens = token.New(s.Tokens, blacklist, log.Named("tokens"))
	}
	if s.Uploads != "" {
		if f.uploads, err = upload.Open(s.Uploads, s.Image.S3); err != nil {
			return nil, usageError(fmt.Errorf("uploads: %w", err))
		}
	}
	f.keys = api.NewKeys(limits, log.Named("limits"))
	f.producer = rabbit.NewProducer("onceover gateway", s.Worker.BrokerURLs, rabbit.QueueNamed(queueAnalyze))
	f.api = api.New(api.Config{
		Domain: s.Domain, Task: tasks.NameAnalyze, Exchange: rabbit.ExchangeTasks, RoutingKey: keyAnalyze, MaxBytes: s.Image.MaxBytes,
		Queued:          func(lang string) (string, string) { return tasks.Queued(s.Tasks, lang) },
		RefuseUncounted: s.RefuseUncounted,
	}, api.Needs{
		Publish: f.publish, Progress: ps, Feed: f.feed, Results: rs, Uploads: f.uploads, Keys: f.keys,
		Limiter: f.limiter, Proxies: s.Proxies, Tokens: f.tokens, Metrics: metrics,
	}, log.Named("api"))
	if st != nil {
		f.ops, err = newOps(s, *st, f.api.Handler(), f.producer, servers.probes, f.tokens, log)
	}
	return f, err
}

// Where jobs of image.analyze go.
const (
	queueAnalyze = "q.ai"
	keyAnalyze   = "ai.analyze"
)

// publish puts a task into its queue.
func (f *front) publish(ctx context.Context, m celery.Message) error {
	message, err := rabbit.New(m)
	if err != nil {
		return err
	}
	return f.producer.Publish(ctx, message)
}

// pages are the patterns of the API.
func (f *front) pages() map[string]http.Handler {
	handler := f.api.Handler()
	out := map[string]http.Handler{}
	for _, path := range f.api.Paths() {
		out[path] = handler
	}
	if f.ops != nil {
		out[console.Base] = f.ops.handler()
	}
	return out
}

// broker asks whether jobs can be published.
func (f *front) broker() gateway.Probe {
	return gateway.Probe{Name: "the broker", Ping: f.producer.Connect}
}

// Problems is why no requests should come, for the readiness of a process that is nothing but a gateway.
func (f *front) Problems() []string {
	if f.stopping.Load() {
		return []string{"stopping"}
	}
	return nil
}

// Idle is 0: a gateway has no loop that could stand still.
func (f *front) Idle() time.Duration { return 0 }

// notes are what the operator should know although requests are answered.
func (f *front) notes() []string {
	var out []string
	if f.settings.Tokens.Weak() {
		out = append(out, "jwt-secret has fewer than 32 bytes: whoever has seen one token can guess it; set a longer one (RFC 7518, section 3.2)")
	}
	if f.settings.Tokens.Insecure() {
		out = append(out, "jwt-jwks-url is not https: whoever is between here and the issuer can have any token taken")
	}
	if f.ops != nil && f.tokens != nil && f.settings.OpsReadScope == "" {
		out = append(out, "any token may see the operators' page below /ops/, with everybody's jobs: set ops-read-scope where users of the API have tokens of their own, or ops=false")
	}
	if f.uploads == nil {
		out = append(out, "no uploads are taken: set uploads to a folder below the worker's image-root, or to s3://bucket/prefix")
	}
	return out
}

// sweepEvery is how often old uploads are looked for.
const sweepEvery = time.Hour

// sweep removes old uploads until ctx ends.
func (f *front) sweep(ctx context.Context) {
	if f.uploads == nil {
		return
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		n, err := f.uploads.Sweep(ctx, f.settings.UploadsKeep)
		if err != nil && ctx.Err() == nil {
			f.log.Warn("old uploads are not removed", zap.Error(err))
		}
		if n > 0 {
			f.log.Info("removed old uploads", zap.Int("pictures", n))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// close releases what newFront opened, after the requests have ended.
func (f *front) close() {
	if f.producer != nil {
		f.producer.Close()
	}
	if f.ops != nil {
		f.ops.close()
	}
	if f.uploads != nil {
		f.uploads.Close()
	}
	if f.tokens != nil {
		f.tokens.Close()
	}
}

// wait waits until what was sent to Redis was answered, after the clients were closed.
func (f *front) wait() {
	f.keys.Wait()
	if f.limiter != nil {
		f.limiter.Wait()
	}
	if f.tokens != nil {
		f.tokens.Wait()
	}
}
