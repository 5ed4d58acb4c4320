package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/celery"
	"onceover/failed"
	"onceover/internal/config"
	"onceover/internal/gateway"
	"onceover/internal/source"
	"onceover/progress"
	"onceover/results"
	"onceover/tasks"
	"onceover/vision"
	"onceover/vision/fleet"
	"onceover/worker"
)

func newWorker(s stop) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run the worker against RabbitMQ and Redis",
		Long: `Consumes the queues, runs image.analyze, and stores results and progress.

Every flag has a variable, named in brackets; the flag wins. A secret may stand
in a file: put _FILE after the variable's name and the file's name into it.

SIGTERM or Ctrl-C stops: no new jobs are taken, those in flight have --grace to
finish, what is left goes back to the queue. A second signal returns it at once.`,
		Example: `  onceover worker
  onceover worker --broker-url amqp://user:password@rabbit:5672/vhost --redis-url redis://redis:6379
  ONCEOVER_QUEUES=q.ai,celery ONCEOVER_CONCURRENCY=50 onceover worker`,
		Args: noArgs,
	}
	settings := config.Bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		log, err := newLoggerTo(newJoined(os.Stderr), settings) // svc.close waits for it
		if err != nil {
			return err
		}
		if os.Getenv("GOGC") == "" {
			tuneCollector()
			releaseStart()
		}
		svc, err := newService(settings, log)
		if err != nil {
			return err
		}
		defer svc.close()
		return svc.run(cmd.Context(), s)
	}
	return cmd
}

// service is the worker with everything it needs.
type service struct {
	log      *zap.Logger
	worker   *worker.Worker
	gateway  *gateway.Server // nil without an HTTP address
	cache    *cache.Cache
	results  *results.Store
	progress *progress.Store
	failed   *failed.Store
	metrics  *prometheus.Registry
	fetcher  *source.Fetcher
	gate     *fleet.Gate // nil without a model
	front    *front      // nil unless it serves the gateway's API too
	servers  redisServers
	notes    []string // what the operator should know although all is well
}

// redisServers are the clients of the roles of Redis that a process uses. Its zero value has none.
type redisServers struct {
	clients []*redis.Client
	probes  []gateway.Probe
}

// client makes the client of a role.
func (r *redisServers) client(role, url string, concurrency int) (*redis.Client, error) {
	c, err := openRedis(role, url, concurrency)
	if err != nil {
		return nil, err
	}
	r.clients = append(r.clients, c)
	return c, nil
}

// open makes the client of a role without which the process is not ready.
func (r *redisServers) open(role, url string, concurrency int) (*redis.Client, error) {
	c, err := r.client(role, url, concurrency)
	if err != nil {
		return nil, err
	}
	r.probes = append(r.probes, gateway.Probe{Name: "redis for " + role, Ping: func(ctx context.Context) error { return c.Ping(ctx).Err() }})
	return c, nil
}

func (r *redisServers) close() {
	for _, c := range r.clients {
		c.Close() // its connections are of no more use
	}
}

// cores is how many cores there are for the process. It lets the scheduler run one
// goroutine more than that, so that those which answer health probes and remote
// control do not wait for one that hashes to be preempted: they run beside it, on a
// thread that the kernel prefers (see tasks.onCPU). Measured with both cores of a
// machine hashing: the 99th percentile of a ping, asked
// from the same machine, went from 52 ms to between 19 and 26 ms.
var cores = sync.OnceValue(func() int {
	n := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(n + 1)
	return n
})

// newService builds the worker; nothing is connected yet.
func newService(s *config.Settings, log *zap.Logger) (_ *service, err error) {
	svc := &service{log: log, metrics: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			svc.close()
		}
	}()
	s.Tasks.Cores = cores()
	svc.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if len(s.Models) == 0 && !s.Offline {
		svc.notes = append(svc.notes, "no vision model is configured: pictures are measured, not analysed; set vision-url and vision-model, or models, or offline if that is wished for")
	}
	if svc.fetcher, err = source.New(s.Image); err != nil {
		return nil, err
	}
	open := func(role, url string) (*redis.Client, error) {
		return svc.servers.open(role, url, s.Worker.Concurrency)
	}
	resultsClient, err := open("results", s.ResultsURL)
	if err != nil {
		return nil, err
	}
	cacheClient, err := open("cache", s.CacheURL)
	if err != nil {
		return nil, err
	}
	progressClient, err := open("progress", s.ProgressURL)
	if err != nil {
		return nil, err
	}
	failedClient, err := open("failed", s.FailedURL)
	if err != nil {
		return nil, err
	}
	analyzer, err := svc.newAnalyzer(s, open)
	if err != nil {
		return nil, err
	}
	svc.results = results.New(resultsClient, log.Named("results"))
	svc.cache = cache.New(s.Cache, cacheClient, svc.metrics, log.Named("cache"))
	s.Worker.Needs = append(s.Worker.Needs, svc.cache)
	if svc.gate != nil {
		s.Worker.Needs = append(s.Worker.Needs, svc.gate)
	}
	svc.progress = progress.New(progressClient, log.Named("progress"))
	s.Failed.BeforeReplay = tasks.ResetProgress(svc.progress, s.Tasks)
	svc.failed = failed.New(s.Failed, failedClient, svc.results, svc.progress, svc.metrics, log.Named("failed"))
	if svc.worker, err = worker.New(s.Worker, svc.results, svc.progress, svc.failed, svc.metrics, log.Named("worker")); err != nil {
		return nil, err
	}
	s.Tasks.StepAside, s.Tasks.SoftTimeLimit = worker.StepAside, s.Worker.SoftTimeLimit
	analyze := worker.Task{
		Name:       tasks.NameAnalyze,
		Handler:    tasks.NewImageAnalyze(s.Tasks, svc.fetcher, svc.cache, svc.progress, analyzer, svc.metrics, log.Named("tasks")),
		MaxRetries: tasks.AnalyzeRetries,
	}
	if err := svc.worker.Register(append(svc.upkeep(), analyze)...); err != nil {
		return nil, err
	}
	if s.HTTPAddr != "" {
		pages := map[string]http.Handler{}
		if s.ServeAPI {
			var st *stores
			if s.Ops {
				st = &stores{failed: svc.failed, kept: failedClient, progress: svc.progress, cache: svc.cache, gate: svc.gate}
			}
			if svc.front, err = newFront(s, &svc.servers, st, svc.results, svc.progress, svc.metrics, log); err != nil {
				return nil, err
			}
			maps.Copy(pages, svc.front.pages())
		}
		probes := append(svc.servers.probes, gateway.Probe{Name: "the store of failed jobs", Ping: svc.failed.Ready})
		if svc.gateway, err = gateway.Listen(s.HTTPAddr, svc.worker, probes, svc.tell, svc.metrics, pages, log.Named("http")); err != nil {
			return nil, err
		}
	}
	return svc, nil
}

// upkeep schedules what is done now and then, once for all workers, and returns the
// same as tasks, so that Celery Beat or an operator can call it.
func (svc *service) upkeep() []worker.Task {
	work := []struct {
		name  string
		every time.Duration
		run   func(context.Context) (any, error)
	}{
		{"cleanup.cache", 24 * time.Hour, func(ctx context.Context) (any, error) { return svc.cache.Cleanup(ctx) }},
		{"cleanup.failed", time.Hour, func(ctx context.Context) (any, error) {
			n, err := svc.failed.Expire(ctx)
			return map[string]int{"discarded": n}, err
		}},
		{"rollup.failures", time.Hour, func(ctx context.Context) (any, error) { return nil, svc.failed.RollUp(ctx) }},
	}
	var out []worker.Task
	for _, w := range work {
		svc.failed.Schedule(failed.Periodic{Name: w.name, Every: w.every, Run: func(ctx context.Context) error {
			_, err := w.run(ctx)
			return err
		}})
		out = append(out, worker.Task{Name: w.name, Handler: worker.HandlerFunc(
			func(ctx context.Context, _ *celery.Request) (any, error) { return w.run(ctx) })})
	}
	return out
}

// newAnalyzer returns what looks at pictures: the endpoints in their order, whose calls pass the gate of the fleet,
// or the offline describer.
func (svc *service) newAnalyzer(s *config.Settings, open func(role, url string) (*redis.Client, error)) (vision.Analyzer, error) {
	if len(s.Models) == 0 {
		return vision.NewOffline(), nil
	}
	client, err := open("limits", s.LimitsURL)
	if err != nil {
		return nil, err
	}
	gate := fleet.New(s.Fleet, client, svc.metrics, svc.log.Named("vision"))
	svc.gate = gate
	var all []*vision.OpenAI
	for _, e := range s.Models {
		e.Gate = gate
		o, err := vision.NewOpenAI(e.OpenAIConfig)
		if err != nil {
			return nil, usageError(err)
		}
		all = append(all, o)
	}
	return vision.NewChain(s.Cascade, all[0], all[1:]...), nil
}

// redisBuffer is that of a connection, in bytes, twice: most of what we say fits, and the default is 32 KiB.
const redisBuffer = 4 << 10

// openRedis makes the client of a role; it connects when it is used.
func openRedis(role, url string, concurrency int) (*redis.Client, error) {
	opt, err := config.ParseRedisURL(role+"-url", url)
	if err != nil {
		return nil, err
	}
	opt.PoolSize = cmp.Or(opt.PoolSize, min(max(concurrency/4, 8), 64))
	opt.ClientName = cmp.Or(opt.ClientName, "onceover-"+role)
	opt.ReadBufferSize, opt.WriteBufferSize = redisBuffer, redisBuffer
	return redis.NewClient(opt), nil
}

// run works until ctx ends and the jobs in flight are done.
func (svc *service) run(ctx context.Context, s stop) error {
	svc.log.Info("starting", zap.String("version", version))
	for _, note := range svc.notes {
		svc.log.Warn(note)
	}
	if svc.gateway != nil {
		svc.log.Info("HTTP is up", zap.String("addr", svc.gateway.Addr()))
	}
	if err := svc.checkStores(ctx); err != nil {
		return err
	}
	// The HTTP side outlives ctx: it answers while the jobs in flight finish.
	httpCtx, stopHTTP := context.WithCancel(context.WithoutCancel(ctx))
	httpDone := make(chan error, 1)
	workCtx, stopWork := context.WithCancel(ctx)
	defer stopWork()
	go func() {
		var err error
		if svc.gateway != nil {
			serve := func() error { return svc.gateway.Run(httpCtx) }
			if svc.front != nil {
				serve = func() error { return svc.front.during(httpCtx, func() error { return svc.gateway.Run(httpCtx) }) }
			}
			if err = serve(); err != nil {
				stopWork() // without health checks nobody would see us
			}
		}
		httpDone <- err
	}()
	upkeep := make(chan struct{})
	go func() {
		defer close(upkeep)
		svc.cache.Run(httpCtx)
	}()
	aborted := make(chan struct{})
	go func() {
		defer close(aborted)
		select {
		case <-s.again:
			svc.worker.Abort()
		case <-httpCtx.Done():
		}
	}()
	err := svc.worker.Run(workCtx)
	stopHTTP()
	<-aborted
	<-upkeep
	return errors.Join(err, <-httpDone)
}

// checkStores refuses a Redis that would lose what it is to keep: failed jobs, and what was spent. One that does not
// answer is looked at again while the worker runs.
func (svc *service) checkStores(ctx context.Context) error {
	checks := []func(context.Context) ([]string, error){svc.failed.Check}
	if svc.gate != nil {
		checks = append(checks, svc.gate.Check)
	}
	for _, check := range checks {
		if err := svc.checkStore(ctx, check); err != nil {
			return err
		}
	}
	return nil
}

func (svc *service) checkStore(ctx context.Context, check func(context.Context) ([]string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	warnings, err := check(ctx)
	var evicts interface{ Evicts() string }
	if errors.As(err, &evicts) {
		return err
	}
	if err != nil {
		warnings = append(warnings, err.Error())
	}
	for _, text := range warnings {
		svc.log.Warn(text)
	}
	return nil
}

// tell is what the operator should know although jobs are taken.
func (svc *service) tell() []string {
	if svc.gate == nil {
		return svc.notes
	}
	return append(slices.Clone(svc.notes), svc.gate.Failing()...)
}

// close releases what newService opened, after run.
func (svc *service) close() {
	if svc.cache != nil {
		svc.cache.Close()
	}
	if svc.fetcher != nil {
		svc.fetcher.Close()
	}
	if svc.front != nil {
		svc.front.close()
	}
	svc.servers.close()
	if svc.front != nil {
		svc.front.wait()
	}
	if svc.results != nil {
		svc.results.Wait()
	}
	if svc.cache != nil {
		svc.cache.Wait()
	}
	if svc.progress != nil {
		svc.progress.Wait()
	}
	_ = svc.log.Sync() // fails on terminals
}

// clients opens the stores that the commands for people read.
func openStores(s *config.Settings) (*results.Store, *progress.Store, func(), error) {
	r, err := openRedis("results", s.ResultsURL, 1)
	if err != nil {
		return nil, nil, nil, usageError(err)
	}
	p, err := openRedis("progress", s.ProgressURL, 1)
	if err != nil {
		r.Close()
		return nil, nil, nil, usageError(err)
	}
	closeBoth := func() { r.Close(); p.Close() }
	return results.New(r, zap.NewNop()), progress.New(p, zap.NewNop()), closeBoth, nil
}

// connectRedis fails with a clear message where a store would wait.
func connectRedis(ctx context.Context, setting, url string) error {
	opt, err := config.ParseRedisURL(setting, url)
	if err != nil {
		return usageError(err)
	}
	c := redis.NewClient(opt)
	defer c.Close()
	if err := c.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redis at %s (%s) does not answer: %w", opt.Addr, setting, err)
	}
	return nil
}
