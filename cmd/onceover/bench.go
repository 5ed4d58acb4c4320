package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"onceover/internal/config"
	"onceover/internal/loadtest"
	"onceover/rabbit"
)

// loadOrder is what bench was asked for.
type loadOrder struct {
	cfg             loadtest.Config
	shape, queue    string
	workers, offset int
	yes, asJSON     bool
	html            string

	settings  *config.Settings
	in        io.Reader
	out, errs io.Writer

	conn    *rabbit.Conn
	pub     *rabbit.Publisher
	results *redis.Client // of a deployment that is measured
}

func newBench() *cobra.Command {
	o := loadOrder{cfg: loadtest.DefaultConfig()}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Put a load on workers, broker and Redis, and measure it",
		Long: `Sends jobs to workers that it starts itself, and reports how many ended in a
second, how long they took, and how they were answered. The broker and the Redis
servers are the configured ones, but nothing of others is touched: the jobs have a
queue of their own, which is deleted at the end, and each role of Redis has another
database (--database-offset), which has to be empty and is emptied at the end. Both
servers have the load, though: others who use them will feel it.
No model is asked: bench plays one that answers after --model-delay.

Kinds of jobs: hash (the producer gives the hash, and the answer is known), file (the
file was seen before), near (a smaller copy of a picture that was seen), miss. Times
are from the sending of a job to the PUBLISH of its result: without --rate most of
that is waiting for the jobs before it.

--queue measures the workers that consume a queue of a deployment instead. They
do what they are configured for: a miss is a call of their model, which may cost money, and
pictures, results and progress of the test stay with them until they expire. So bench says what
will happen and asks first; without a terminal it needs --yes. The workers have to
reach this machine at --pictures-addr, and to be allowed to (image-allow).

Exit code 3 if jobs failed, 4 if not all ended.`,
		Example: `  onceover bench
  onceover bench --jobs 20000 --shape hash
  onceover bench --jobs 600 --shape file:60,miss:40 --rate 10 --model-delay 5s --html report.html
  onceover bench --queue q.ai --jobs 200 --shape hash --pictures-addr 10.0.0.7:9000`,
		Args: noArgs,
	}
	o.settings = config.Bind(cmd.Flags(), "broker-url", "redis-url", "results-url", "cache-url", "progress-url", "limits-url", "failed-url", "concurrency", "cache-radius")
	f := cmd.Flags()
	f.IntVarP(&o.cfg.Jobs, "jobs", "n", o.cfg.Jobs, "jobs to send")
	f.StringVar(&o.shape, "shape", o.cfg.Shape.String(), "`kinds` of jobs with their shares: hash, file, near, miss")
	f.Float64Var(&o.cfg.Rate, "rate", 0, "`jobs` to send in a second; 0: as fast as the broker takes them")
	f.DurationVar(&o.cfg.ModelDelay, "model-delay", o.cfg.ModelDelay, "how long the model takes that bench plays")
	f.IntVar(&o.cfg.Side, "picture-side", o.cfg.Side, "longer side of the pictures, in `pixels`")
	f.IntVar(&o.workers, "workers", 1, "worker processes to start")
	f.IntVar(&o.offset, "database-offset", 8, "a role's database of the test is so many after its own: 8 for results, 9 for the cache, …")
	f.StringVar(&o.queue, "queue", "", "measure those who consume this `queue`, and start no worker")
	f.StringVar(&o.cfg.Listen, "pictures-addr", o.cfg.Listen, "where this machine serves the pictures")
	f.DurationVar(&o.cfg.Stall, "give-up", o.cfg.Stall, "give up when no job has ended for so long")
	f.Uint64Var(&o.cfg.Seed, "seed", 0, "draws the pictures; 0: others at every test")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask, neither before --queue nor before what a killed test left is thrown away")
	f.BoolVar(&o.asJSON, "json", false, "print the report as JSON")
	f.StringVar(&o.html, "html", "", "also write the report with charts, as a page of one file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if err := load(o.settings, cmd.Flags()); err != nil {
			return err
		}
		o.in, o.out, o.errs = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
		if !f.Changed("give-up") {
			o.cfg.Stall = max(o.cfg.Stall, 2*o.cfg.ModelDelay)
		}
		// Whatever ends it, what it has is taken away: a terminal that is closed, or a reader of the report that has gone.
		ends := []os.Signal{syscall.SIGQUIT}
		if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
			ends = append(ends, syscall.SIGHUP)
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), ends...)
		defer stop()
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
		return o.run(ctx)
	}
	return cmd
}

// check completes and checks what was asked for.
func (o *loadOrder) check() error {
	var faults []error
	var err error
	if o.cfg.Shape, err = loadtest.ParseShape(o.shape); err != nil {
		faults = append(faults, fmt.Errorf("--shape: %w", err))
	}
	if o.workers < 1 || o.workers > 64 {
		faults = append(faults, fmt.Errorf("--workers is %d: expected 1 to 64", o.workers))
	}
	if o.offset < 6 {
		faults = append(faults, fmt.Errorf("--database-offset is %d: expected 6 or more, as the roles have databases 0 to 5", o.offset))
	}
	if o.settings.Worker.RPCResults {
		faults = append(faults, errors.New("results-url is rpc://: expected a redis:// URL, as bench hears of results by Redis"))
	}
	o.cfg.Radius = o.settings.Cache.Radius
	if o.cfg.Radius == 0 { // near hits are off: copies are misses, which the report shows
		o.cfg.Radius = loadtest.DefaultConfig().Radius
	}
	if o.cfg.Seed == 0 {
		o.cfg.Seed = uint64(time.Now().UnixNano())
	}
	if o.workers > 1 || o.queue != "" {
		o.cfg.Settle = 6 * time.Second // a worker looks every five what the others have seen
	}
	if o.queue != "" {
		o.cfg.Shared, o.cfg.Window = true, othersWindow
		if host, _, err := net.SplitHostPort(o.cfg.Listen); err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
			faults = append(faults, fmt.Errorf("--pictures-addr is %s: expected an address of this machine that the workers reach, such as 10.0.0.7:9000", o.cfg.Listen))
		}
	}
	if len(faults) == 0 {
		faults = append(faults, o.cfg.Validate())
	}
	if err := errors.Join(faults...); err != nil {
		return usageError(err)
	}
	return nil
}

// othersWindow is how many jobs of a test wait at most in a queue that is others' too.
const othersWindow = 500

func (o *loadOrder) run(ctx context.Context) error {
	if err := o.check(); err != nil {
		return err
	}
	report, err := o.test(ctx)
	return o.outcome(report, err)
}

// outcome prints the report, if there is one, and returns how the program ends.
func (o *loadOrder) outcome(report *loadtest.Report, err error) error {
	var stalled *loadtest.StalledError
	if errors.As(err, &stalled) {
		err = &exitCodeError{exitNotFinished, err}
	}
	if report == nil {
		return err
	}
	printed := o.print(report)
	if err == nil && report.All.Failed > 0 {
		return &exitCodeError{exitJobFailed, printed}
	}
	return errors.Join(printed, err)
}

// also adds to an error what the user has to know too. Where it was he who has interrupted the test, the error is not shown.
func (o *loadOrder) also(err, more error) error {
	if more != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(o.errs, "onceover:", more)
		return err
	}
	return errors.Join(err, more)
}

// test makes the test, and takes away what that had. There may be a report with an error, too.
func (o *loadOrder) test(ctx context.Context) (report *loadtest.Report, err error) {
	if o.conn, err = rabbit.Dial(ctx, "onceover bench", o.settings.Worker.BrokerURLs); err != nil {
		return nil, err
	}
	o.pub = rabbit.NewPublisher(o.conn)
	defer func() {
		_ = o.conn.CloseDeadline(time.Now().Add(benchClose)) // a broker that reads nothing does not answer
		o.pub.Close()
	}()
	if o.queue != "" {
		sure, err := o.askOthers(ctx)
		if o.results != nil {
			defer o.results.Close()
		}
		if err != nil || !sure {
			return nil, err
		}
		report, err := o.measure(ctx, nil)
		if err != nil {
			err = o.also(err, fmt.Errorf("jobs of the test that are still in queue %s will fail, as their pictures are gone", o.queue))
		}
		return report, err
	}
	crew, err := o.ownCrew(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = o.also(err, crew.leave()) }()
	return o.measure(ctx, crew)
}

// benchExpires is how long the broker keeps the queue of a test that was killed.
const benchExpires = time.Hour

// benchClose is how long the broker may take to close a connection.
const benchClose = 5 * time.Second

func (o *loadOrder) print(r *loadtest.Report) error {
	print := r.Print
	if o.asJSON {
		print = func(out io.Writer) error { return printJSON(out, r) }
	}
	err := print(o.out)
	if o.html != "" {
		err = errors.Join(err, replaceFile(o.html, r.WriteHTML))
	}
	return err
}

// askOthers says what will happen to workers that are not the test's.
func (o *loadOrder) askOthers(ctx context.Context) (bool, error) {
	standing, err := rabbit.Look(o.conn, o.queue)
	if err != nil {
		return false, err
	}
	if standing.Consumers == 0 {
		return false, fmt.Errorf("nobody consumes queue %s: start a worker, or let bench start one by leaving out --queue", o.queue)
	}
	if err := connectRedis(ctx, "results-url", o.settings.ResultsURL); err != nil {
		return false, err
	}
	if o.results, err = openRedis("results", o.settings.ResultsURL, 1); err != nil {
		return false, err
	}
	fmt.Fprintf(o.errs, `Queue %s of the broker at %s has %s and %s waiting, which others may need.
%s go there, %d at a time; their results go to redis at %s. The model of the workers is asked about %s, which it may
want money for. The workers get the pictures from this machine, at %s.
`, o.queue, o.conn.RemoteAddr(), count(standing.Consumers, "consumer", "consumers"), count(standing.Ready, "message", "messages"),
		count(o.cfg.Jobs+o.cfg.Prepared(), "job", "jobs"), othersWindow, serverOf(o.settings.ResultsURL), count(o.cfg.ModelCalls(), "picture", "pictures"), strings.TrimSuffix(o.cfg.Listen, ":0"))
	if o.yes {
		return true, nil
	}
	sure, err := confirm(ctx, o.in, o.errs, "Go on?")
	if err == nil && !sure {
		fmt.Fprintln(o.out, "nothing sent")
	}
	return sure, err
}

// measure makes the test, on the crew's workers or, if that is nil, on those of others.
func (o *loadOrder) measure(ctx context.Context, crew *benchCrew) (*loadtest.Report, error) {
	p := newLoadProgress(o.errs)
	defer p.close()
	test, err := loadtest.New(ctx, o.cfg, func(drawn, of int) { p.show("drawing pictures", drawn, of, "") })
	if err != nil {
		return nil, err
	}
	defer test.Close()
	at := loadtest.Place{Conn: o.conn, Publisher: o.pub, Queue: o.queue, Results: o.results}
	workers := fmt.Sprintf("the consumers of queue %s", o.queue)
	if crew != nil {
		at.Queue, at.Results, workers = crew.queue, crew.results, count(o.workers, "worker", "workers")+fmt.Sprintf(" with %d jobs in flight each", o.settings.Worker.Concurrency)
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		defer cancel(nil)
		if err := crew.start(ctx, test, o.workers, cancel); err != nil {
			return nil, err
		}
	}
	step := func(phase string) func(loadtest.Now) {
		return func(n loadtest.Now) {
			text := fmt.Sprintf("%s a second, p50 %s, p99 %s", loadtest.Figure(n.PerSecond), loadtest.Time(n.P50.Seconds()), loadtest.Time(n.P99.Seconds()))
			if n.Failed > 0 {
				text += fmt.Sprintf(", %s failed", number(n.Failed))
			}
			p.show(phase, n.Ended, n.Jobs, text)
		}
	}
	if err := test.Prepare(ctx, at, step("pictures to be known")); err != nil {
		return nil, err
	}
	var meter *benchMeter
	if crew != nil {
		meter = crew.meter(ctx)
	}
	report, err := test.Run(ctx, at, step("jobs"))
	if report == nil {
		return nil, err
	}
	if meter != nil {
		report.Cost = meter.end()
	}
	report.Program, report.Workers = "onceover "+version, workers
	report.Machine = fmt.Sprintf("%s/%s, %s, %s", runtime.GOOS, runtime.GOARCH, count(runtime.NumCPU(), "CPU", "CPUs"), runtime.Version())
	report.Servers = o.servers(ctx, at.Results)
	return report, err
}

// servers names the servers with their versions.
func (o *loadOrder) servers(ctx context.Context, r *redis.Client) []string {
	product, _ := o.conn.Properties["product"].(string)
	release, _ := o.conn.Properties["version"].(string)
	out := []string{strings.TrimSpace(product + " " + release)}
	info := r.Info(ctx, "server").Val() // "" if it may not be asked
	for _, key := range []string{"valkey_version", "redis_version"} {
		if m := regexp.MustCompile(key + `:(\S+)`).FindStringSubmatch(info); m != nil {
			name, _, _ := strings.Cut(key, "_")
			return append(out, strings.ToUpper(name[:1])+name[1:]+" "+m[1])
		}
	}
	return out
}

// ownCrew takes what the test has for itself: databases and a queue.
func (o *loadOrder) ownCrew(ctx context.Context) (_ *benchCrew, err error) {
	c := &benchCrew{order: o, queue: "onceover-bench-" + uuid.NewString()[:8], urls: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.leave())
		}
	}()
	roles := []struct{ name, url string }{
		{"results", o.settings.ResultsURL}, {"cache", o.settings.CacheURL}, {"progress", o.settings.ProgressURL},
		{"limits", o.settings.LimitsURL}, {"failed", o.settings.FailedURL},
	}
	others := map[string]string{}
	for _, role := range roles {
		others[serverOf(role.url)] = role.name
	}
	seen := map[string]bool{}
	var claimed []*redis.Client
	for _, role := range roles {
		moved, err := config.MoveRedis(role.name+"-url", role.url, o.offset)
		if err != nil {
			return nil, usageError(err)
		}
		at := serverOf(moved)
		if other := others[at]; other != "" {
			return nil, usageError(fmt.Errorf("--database-offset is %d: the test's database for %s would be that of %s (%s); expected another offset", o.offset, role.name, other, at))
		}
		c.urls[role.name] = moved
		client, err := openRedis(role.name, moved, 1)
		if err != nil {
			return nil, usageError(err)
		}
		c.clients = append(c.clients, client)
		if role.name == "results" {
			c.results = client
		}
		if !seen[at] {
			seen[at] = true
			claimed = append(claimed, client)
		}
	}
	c.space, err = loadtest.Claim(ctx, o.yes, claimed...)
	switch {
	case errors.Is(err, loadtest.ErrLeft):
		return nil, fmt.Errorf("%w: --yes throws that away, --database-offset names other databases", err)
	case errors.Is(err, loadtest.ErrUsed):
		return nil, fmt.Errorf("%w: --database-offset names others", err)
	case noDatabase(err):
		return nil, fmt.Errorf("%w: expected a server with %d databases or more; name one with --redis-url, or measure a deployment with --queue", err, o.offset+6)
	case err != nil:
		return nil, err
	}
	if err := o.haveMemory(ctx, c.results); err != nil {
		return nil, err
	}
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stopKeeping = stop
	c.keeping.Go(func() { c.space.Keep(keeping) })
	c.declared = true
	declared, err := rabbit.Declare(ctx, o.conn, rabbit.Passing(c.queue, benchExpires))
	if err == nil {
		err = declared.Err()
	}
	return c, err
}

// noDatabase reports whether the server has fewer databases, or is of a cluster.
func noDatabase(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "DB index is out of range") || strings.Contains(err.Error(), "SELECT is not allowed"))
}

// bytesAJob is what a job takes in Redis until the test ends, for its result, its progress and its marks: 2 KB were measured.
const bytesAJob = 4 << 10

// haveMemory refuses a test that would have Redis evict what is others', or refuse it.
func (o *loadOrder) haveMemory(ctx context.Context, r *redis.Client) error {
	info := r.Info(ctx, "memory").Val() // "" if it may not be asked
	figure := func(name string) int64 {
		m := regexp.MustCompile(`(?m)^` + name + `:(\d+)`).FindStringSubmatch(info)
		if m == nil {
			return 0
		}
		n, _ := strconv.ParseInt(m[1], 10, 64)
		return n
	}
	most, used := figure("maxmemory"), figure("used_memory")
	if wanted := int64(o.cfg.Jobs) * bytesAJob; most > 0 && used+wanted > most {
		return fmt.Errorf("redis at %s has %d of %d MB (maxmemory) left, and %d jobs take up to %d MB until the test ends: expected fewer --jobs, or another --redis-url",
			r.Options().Addr, max(0, most-used)>>20, most>>20, o.cfg.Jobs, wanted>>20)
	}
	return nil
}

// loadProgress shows the phases of a test: a bar on a terminal, else a line now and then. Safe for concurrent use.
type loadProgress struct {
	out  io.Writer
	bars *mpb.Progress // nil when not on a terminal

	mu    sync.Mutex
	phase string
	bar   *loadBar
	told  time.Time
}

// loadBar is a phase. Its text is read by the goroutine of the bar.
type loadBar struct {
	*mpb.Bar
	text atomic.Pointer[string]
}

func newLoadProgress(out io.Writer) *loadProgress {
	p := &loadProgress{out: out}
	if file, ok := out.(*os.File); ok && isTerminal(file) {
		p.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(30), mpb.WithRefreshRate(100*time.Millisecond))
	}
	return p
}

// show draws how far a phase is.
func (p *loadProgress) show(phase string, done, of int, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	isNew := phase != p.phase
	p.phase = phase
	if p.bars != nil {
		if isNew {
			p.begin(phase, of)
		}
		p.bar.text.Store(&text)
		p.bar.SetCurrent(int64(done))
		return
	}
	if now := time.Now(); isNew || done == of || now.Sub(p.told) >= 5*time.Second {
		p.told = now
		if text != "" {
			text = ": " + text
		}
		fmt.Fprintf(p.out, "%s: %s of %s%s\n", phase, number(done), number(of), text)
	}
}

// begin draws the bar of a phase, in place of the one before.
func (p *loadProgress) begin(phase string, of int) {
	if p.bar != nil {
		p.bar.Abort(false)
	}
	b := &loadBar{}
	b.text.Store(new(string))
	b.Bar = p.bars.AddBar(int64(of), mpb.PrependDecorators(decor.Name(phase, decor.WC{W: 22, C: decor.DindentRight}), decor.CountersNoUnit("%d / %d ")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return "  " + *b.text.Load() })))
	p.bar = b
}

// close takes the bars away.
func (p *loadProgress) close() {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	if p.bar != nil {
		p.bar.Abort(false)
	}
	p.mu.Unlock()
	p.bars.Wait()
}
