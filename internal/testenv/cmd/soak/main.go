// Command soak has one worker process work for an hour, under a load that changes and on servers that fail, and looks whether anything of it
// grows: memory, goroutines, open files, connections to the servers, keys in Redis.
//
// A cycle is a steady load, and then a burst in the middle of which something happens: the broker or Redis restarts, or all connections are cut.
// After each cycle every job has to have ended as it was meant to; then the stores are emptied of what their TTLs would take away in a day, and once
// the worker has nothing to do its sizes are noted. After the first quarter, in which caches and pools fill, they have to stay as they are.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/internal/chart"
	"onceover/internal/loadtest"
	"onceover/internal/testenv"
	"onceover/rabbit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

const queue = "soak"

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	fs := flag.NewFlagSet("soak", flag.ExitOnError)
	last := fs.Duration("for", time.Hour, "how long")
	seed := fs.Uint64("seed", uint64(time.Now().UnixNano()), "draws loads and faults")
	only := fs.String("only", "", "only faults that have this in their name, such as broker")
	plot := fs.String("plot", "", "SVG file for what was measured")
	_ = fs.Parse(args) // it exits
	dir, err := os.MkdirTemp("", "onceover-soak-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%w\nseed %d; the worker's log: %s", err, *seed, filepath.Join(dir, "worker.log"))
		}
	}()
	s := &soak{dir: dir, out: out, rng: rand.New(rand.NewPCG(*seed, 0))}
	defer s.close()
	if err := s.open(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "seed %d\n%8s %-14s %6s %8s %8s %10s %6s %6s %6s\n", *seed, "", "fault", "jobs", "jobs/s", "RSS MB", "goroutines", "files", "conns", "keys")
	s.began = time.Now()
	some := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return !strings.Contains(f.name, *only) })
	if len(some) == 0 {
		return fmt.Errorf("-only is %q: no fault has that in its name", *only)
	}
	for cycle := 0; time.Since(s.began) < *last; cycle++ {
		if err := s.cycle(ctx, some[cycle%len(some)]); err != nil {
			return fmt.Errorf("cycle %d: %w", cycle+1, err)
		}
	}
	if *plot != "" {
		if err := s.draw(*plot); err != nil {
			return err
		}
	}
	return s.verdict()
}

// soak has the servers and the worker.
type soak struct {
	dir    string
	out    io.Writer
	rng    *rand.Rand
	rabbit *testenv.Rabbit
	redis  *testenv.RedisServer
	admin  *redis.Client
	worker *testenv.Program
	http   string // where the worker tells its metrics
	model  string // where pictures and the model are
	began  time.Time
	sizes  []sizes
}

// sizes are those of a worker that has nothing to do.
type sizes struct {
	at                                        time.Duration
	rss, goroutines, files, connections, keys float64
}

func (s *soak) open(ctx context.Context) (err error) {
	for _, name := range []string{"rabbitmq", "redis"} {
		if err := os.Mkdir(filepath.Join(s.dir, name), 0o700); err != nil {
			return err
		}
	}
	program := filepath.Join(s.dir, "onceover")
	if text, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", program, "onceover/cmd/onceover").CombinedOutput(); err != nil {
		return fmt.Errorf("build the worker: %w\n%s", err, text)
	}
	if s.redis, err = testenv.OpenRedis(ctx, filepath.Join(s.dir, "redis")); err != nil {
		return err
	}
	if s.rabbit, err = testenv.OpenRabbitMQ(ctx, filepath.Join(s.dir, "rabbitmq")); err != nil {
		return err
	}
	s.admin = redis.NewClient(&redis.Options{Addr: s.redis.Addr()})
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.model = listen.Addr().String()
	if err := listen.Close(); err != nil {
		return err
	}
	cmd := exec.Command(program, "worker")
	cmd.Dir = s.dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "ONCEOVER_") || strings.HasPrefix(kv, "CELERY_")
	}), "ONCEOVER_BROKER_URL="+s.rabbit.URL(), "ONCEOVER_REDIS_URL=redis://"+s.redis.Addr(), "ONCEOVER_QUEUES="+queue,
		"ONCEOVER_HTTP_ADDR=127.0.0.1:0", "ONCEOVER_LOG_FORMAT=json", "ONCEOVER_IMAGE_ALLOW=127.0.0.1", "ONCEOVER_VISION_URL=http://"+s.model+"/v1", "ONCEOVER_VISION_MODEL=soak")
	log := filepath.Join(s.dir, "worker.log")
	if s.worker, err = testenv.OpenProgram(cmd, log); err != nil {
		return err
	}
	up := regexp.MustCompile(`"HTTP is up"[^\n]*"addr":"([^"]+)"`)
	for s.http == "" {
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		if m := up.FindSubmatch(text); m != nil {
			s.http = string(m[1])
			break
		}
		if err := s.pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) close() {
	if s.worker != nil {
		s.worker.Kill()
	}
	if s.admin != nil {
		_ = s.admin.Close()
	}
	if s.rabbit != nil {
		s.rabbit.End()
	}
	if s.redis != nil {
		s.redis.Kill()
	}
}

// pause waits, unless the worker or ctx ends.
func (s *soak) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-s.worker.Ended():
		return fmt.Errorf("the worker ended: %v", s.worker.Err())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A fault happens in the middle of a burst.
type fault struct {
	name string
	do   func(context.Context, *soak) error
}

var faults = []fault{
	{"none", func(context.Context, *soak) error { return nil }},
	{"cut off", func(ctx context.Context, s *soak) error {
		_, err := s.rabbit.Control(ctx, "close_all_connections", "soak")
		return errors.Join(err, s.admin.ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes").Err())
	}},
	{"redis restart", func(ctx context.Context, s *soak) error {
		if err := s.redis.Down(); err != nil {
			return err
		}
		return s.redis.Up(ctx)
	}},
	{"broker restart", func(ctx context.Context, s *soak) error {
		if err := s.rabbit.Down(); err != nil {
			return err
		}
		return s.rabbit.Up(ctx)
	}},
}

// cycle is a steady load, a burst with a fault, and quiet.
func (s *soak) cycle(ctx context.Context, f fault) error {
	steady := loadtest.DefaultConfig()
	steady.Rate = float64(20 + s.rng.IntN(180))
	steady.Jobs = int(steady.Rate * float64(10+s.rng.IntN(10)))
	steady.Shape, steady.ModelDelay = s.shape(), time.Duration(200+s.rng.IntN(1500))*time.Millisecond
	if _, err := s.load(ctx, steady, nil); err != nil {
		return fmt.Errorf("steady load of %v jobs a second: %w", steady.Rate, err)
	}
	burst := steady
	burst.Rate, burst.Jobs, burst.Shape = 0, 1000+s.rng.IntN(3000), s.shape()
	burst.ModelDelay = 3 * time.Second // it lasts until something has happened
	report, err := s.load(ctx, burst, f.do)
	if err != nil {
		return fmt.Errorf("burst of %d jobs, with fault %q: %w", burst.Jobs, f.name, err)
	}
	if err := s.settled(ctx); err != nil {
		return err
	}
	// What a day would take away: results, pictures, progress and marks.
	for _, db := range []int{0, 1, 2} {
		c := redis.NewClient(&redis.Options{Addr: s.redis.Addr(), DB: db})
		err := c.FlushDB(ctx).Err()
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	if err := s.pause(ctx, 15*time.Second); err != nil { // connections that nobody needs are closed
		return err
	}
	now, err := s.measure(ctx)
	if err != nil {
		return err
	}
	s.sizes = append(s.sizes, now)
	fmt.Fprintf(s.out, "%8s %-14s %6d %8.0f %8.1f %10.0f %6.0f %6.0f %6.0f\n", now.at.Round(time.Second), f.name, steady.Jobs+burst.Jobs, report.All.PerSecond,
		now.rss/1e6, now.goroutines, now.files, now.connections, now.keys)
	if first := s.sizes[0].keys; now.keys > first+10 {
		return s.tellKeys(ctx)
	}
	return nil
}

// settled waits until no delivery is left: of one that came twice nobody would know any more that it has ended.
func (s *soak) settled(ctx context.Context) error {
	for {
		list, err := s.rabbit.Control(ctx, "list_queues", "--quiet", "--no-table-headers", "name", "messages")
		if err != nil {
			return err
		}
		for line := range strings.Lines(list) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == queue && f[1] == "0" {
				return nil
			}
		}
		if err := s.pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// tellKeys prints what kinds of keys without a TTL there are, by their names without ids.
func (s *soak) tellKeys(ctx context.Context) error {
	kinds := map[string]int{}
	for db := range 6 {
		c := redis.NewClient(&redis.Options{Addr: s.redis.Addr(), DB: db})
		keys := c.Scan(ctx, 0, "*", 1000).Iterator()
		for keys.Next(ctx) {
			if c.TTL(ctx, keys.Val()).Val() == -1 {
				kinds[fmt.Sprintf("%d %s", db, anID.ReplaceAllString(keys.Val(), "…"))]++
			}
		}
		if err := errors.Join(keys.Err(), c.Close()); err != nil {
			return err
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(s.out, "%8s %d of %s\n", "", kinds[kind], kind)
	}
	return nil
}

var anID = regexp.MustCompile(`[0-9a-f]{8}[0-9a-f-]*|\d+`)

func (s *soak) shape() loadtest.Shape {
	return loadtest.Shape{{Kind: loadtest.Hash, Share: 40 + s.rng.IntN(40)}, {Kind: loadtest.File, Share: 5 + s.rng.IntN(20)},
		{Kind: loadtest.Near, Share: 1 + s.rng.IntN(5)}, {Kind: loadtest.Miss, Share: 5 + s.rng.IntN(20)}}
}

// load makes a load test, and has a fault happen once all jobs are sent.
func (s *soak) load(ctx context.Context, cfg loadtest.Config, f func(context.Context, *soak) error) (*loadtest.Report, error) {
	cfg.Listen, cfg.Seed, cfg.Side, cfg.Stall = s.model, s.rng.Uint64(), 320, 2*time.Minute
	conn, err := rabbit.Dial(ctx, "soak", []string{s.rabbit.URL()})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	pub := rabbit.NewPublisher(conn)
	defer pub.Close()
	test, err := loadtest.New(ctx, cfg, func(int, int) {})
	if err != nil {
		return nil, err
	}
	defer test.Close()
	at := loadtest.Place{Conn: conn, Publisher: pub, Queue: queue, Results: s.admin}
	if err := test.Prepare(ctx, at, func(loadtest.Now) {}); err != nil {
		return nil, err
	}
	happened := make(chan error, 1)
	begun := false
	report, err := test.Run(ctx, at, func(n loadtest.Now) {
		if f != nil && !begun && n.Sent == n.Jobs && n.Ended < n.Jobs {
			begun = true
			go func() { happened <- f(ctx, s) }()
		}
	})
	if begun {
		err = errors.Join(err, <-happened)
	} else if f != nil && err == nil {
		err = errors.New("the burst was over before anything could happen")
	}
	if err != nil {
		return nil, err
	}
	if report.All.Failed > 0 {
		return nil, fmt.Errorf("%d jobs failed, want none: %+v", report.All.Failed, report.Failures)
	}
	return report, nil
}

// keyspace are the numbers of keys of a database, and of those that expire, which do not grow for ever.
var keyspace = regexp.MustCompile(`keys=(\d+),expires=(\d+)`)

func (s *soak) measure(ctx context.Context) (sizes, error) {
	now := sizes{at: time.Since(s.began)}
	m, err := loadtest.Metrics(ctx, s.http)
	if err != nil {
		return now, err
	}
	now.rss, now.goroutines, now.files = m["process_resident_memory_bytes"], m["go_goroutines"], m["process_open_fds"]
	if now.rss == 0 || now.goroutines == 0 {
		return now, errors.New("the worker's metrics do not have its memory and its goroutines")
	}
	list, err := s.admin.ClientList(ctx).Result()
	if err != nil {
		return now, err
	}
	now.connections = float64(strings.Count(list, "name=onceover-"))
	for _, m := range keyspace.FindAllStringSubmatch(s.admin.Info(ctx, "keyspace").Val(), -1) {
		all, _ := strconv.ParseFloat(m[1], 64)
		expiring, _ := strconv.ParseFloat(m[2], 64)
		now.keys += all - expiring
	}
	return now, nil
}

// each names what is looked at, and how much more it may be in the middle of the last quarter than at most in the second one. A pool has as many
// connections as it needed lately: up to 25 for each role of Redis.
var each = []struct {
	name  string
	of    func(sizes) float64
	share float64 // of what there was
	more  float64
}{
	{"memory, MB", func(s sizes) float64 { return s.rss / 1e6 }, 0.1, 5},
	{"goroutines", func(s sizes) float64 { return s.goroutines }, 0, 5},
	{"open files", func(s sizes) float64 { return s.files }, 0, 10},
	{"connections to Redis", func(s sizes) float64 { return s.connections }, 0, 10},
	{"keys without a TTL", func(s sizes) float64 { return s.keys }, 0, 10},
}

// verdict compares the last quarter with the second one: what grows is more in the middle of the last than ever in the second.
func (s *soak) verdict() error {
	n := len(s.sizes)
	if n < 8 {
		return fmt.Errorf("got %d cycles, want 8 or more to see whether anything grows: name a longer time", n)
	}
	var grown []error
	for _, e := range each {
		early, late := slices.Max(valuesOf(s.sizes[n/4:n/2], e.of)), median(s.sizes[n-n/4:], e.of)
		fmt.Fprintf(s.out, "%s: at most %.1f in the second quarter, %.1f in the middle of the last\n", e.name, early, late)
		if late > early*(1+e.share)+e.more {
			grown = append(grown, fmt.Errorf("%s: from %.1f to %.1f", e.name, early, late))
		}
	}
	if err := errors.Join(grown...); err != nil {
		return fmt.Errorf("the worker grows: %w", err)
	}
	return nil
}

// draw plots everything, each in relation to the most that there was.
func (s *soak) draw(path string) error {
	c := chart.Chart{Title: "A worker under changing load and faults, between its cycles", X: "minutes", Y: "of the most"}
	for _, e := range each {
		most := 0.0
		for _, now := range s.sizes {
			most = max(most, e.of(now))
		}
		line := chart.Series{Name: fmt.Sprintf("%s, at most %.0f", e.name, most)}
		for _, now := range s.sizes {
			line.Points = append(line.Points, chart.Point{X: now.at.Minutes(), Y: e.of(now) / max(most, 1)})
		}
		c.Series = append(c.Series, line)
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(c.Write(file), file.Close())
}

func valuesOf(all []sizes, of func(sizes) float64) (values []float64) {
	for _, s := range all {
		values = append(values, of(s))
	}
	return values
}

func median(all []sizes, of func(sizes) float64) float64 {
	values := slices.Sorted(slices.Values(valuesOf(all, of)))
	return values[len(values)/2]
}
