package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/internal/testenv"
	"onceover/rabbit"
)

const (
	queue         = "bench"
	callbackQueue = "bench.callbacks" // that nobody consumes
	// picture is a hash that is in the cache, of which half of the bits are set.
	picture = "d339859858ce338dd339859858ce338d2cc67a67a731cc722cc67a67a731cc72"
	entry   = `{"waste_type":"plastic","confidence":0.93,"feedback":"rinse it","category":"plastic_bottle","recyclable":true,"analyzed_at":"2026-11-21T00:44:25"}`
)

// limit is how long a worker may take for anything.
const limit = 2 * time.Minute

// A candidate is a worker as it is started.
type candidate struct {
	name    string
	args    []string
	env     []string // more than all have
	profile string   // file for its CPU profile, "" for none
	control bool     // it does all that Celery's does: remote control, callbacks, chords
	rate    float64  // jobs a second, once they were measured
}

// bench has the servers.
type bench struct {
	dir     string
	about   string
	rabbit  *testenv.Rabbit
	redis   *testenv.RedisServer
	results *redis.Client
	conn    *rabbit.Conn
	pub     *rabbit.Publisher
	env     []string
	http    string // where a worker serves its profile
	python  string // "" where there is none

	bare, ours, waiter *candidate
	candidates         []*candidate // that are measured beside each other, the bare consumer first
}

// open starts the servers. Whatever it returns, call close.
func open(ctx context.Context, dir string) (b *bench, err error) {
	b = &bench{dir: dir}
	for _, name := range []string{"rabbitmq", "redis"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return b, err
		}
	}
	if b.redis, err = testenv.OpenRedis(ctx, filepath.Join(dir, "redis")); err != nil {
		return b, err
	}
	if b.rabbit, err = testenv.OpenRabbitMQ(ctx, filepath.Join(dir, "rabbitmq")); err != nil {
		return b, err
	}
	b.results = redis.NewClient(&redis.Options{Addr: b.redis.Addr()})
	if b.conn, err = rabbit.Dial(ctx, "bench", []string{b.rabbit.URL()}); err != nil {
		return b, err
	}
	if _, err := rabbit.Declare(ctx, b.conn, rabbit.Names(queue, callbackQueue)...); err != nil {
		return b, err
	}
	b.pub = rabbit.NewPublisher(b.conn)
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return b, err
	}
	b.http = listen.Addr().String()
	_ = listen.Close()
	b.env = append(os.Environ(), "ONCEOVER_BROKER_URL="+b.rabbit.URL(), "ONCEOVER_REDIS_URL=redis://"+b.redis.Addr(), "ONCEOVER_QUEUES="+queue,
		"ONCEOVER_HTTP_ADDR=127.0.0.1:0", "ONCEOVER_PROFILE_ADDR="+b.http, "BENCH_BROKER="+b.rabbit.URL(), "BENCH_REDIS="+b.redis.Addr())
	_, info, _ := strings.Cut(b.results.Info(ctx, "server").Val(), "redis_version:")
	release, _, _ := strings.Cut(info, "\r")
	version, err := b.rabbit.Release()
	b.about = fmt.Sprintf("%s, %d CPUs, %s, RabbitMQ %s, Redis %s", cpuModel(), runtime.NumCPU(), runtime.Version(), version, release)
	return b, err
}

func (b *bench) close() {
	if b.pub != nil {
		b.pub.Close()
	}
	if b.conn != nil {
		_ = b.conn.Close()
	}
	if b.results != nil {
		_ = b.results.Close()
	}
	if b.rabbit != nil {
		b.rabbit.End()
	}
	if b.redis != nil {
		b.redis.Kill()
	}
}

// load is what a queue holds.
type load struct {
	jobs     int
	callback bool                        // each has one
	workers  int                         // processes; 0: one
	profiled bool                        // if the candidate wants it
	before   func(context.Context) error // puts more into Redis and the broker
}

// fill empties Redis, puts the answer into the cache, and jobs into the queue.
func (b *bench) fill(ctx context.Context, l load) error {
	if err := b.results.FlushAll(ctx).Err(); err != nil {
		return err
	}
	cache := redis.NewClient(&redis.Options{Addr: b.redis.Addr(), DB: 1})
	defer cache.Close()
	if err := cache.Set(ctx, "cache:image:hash:"+picture, entry, time.Hour).Err(); err != nil {
		return err
	}
	if l.before != nil {
		if err := l.before(ctx); err != nil {
			return err
		}
	}
	for sent := 0; sent < l.jobs; sent += 1000 {
		_, batch, err := jobsOf(min(l.jobs-sent, 1000), l.callback)
		if err != nil {
			return err
		}
		if err := b.pub.Publish(ctx, batch...); err != nil {
			return err
		}
	}
	return b.results.ConfigResetStat(ctx).Err()
}

// jobsOf returns n jobs, and their ids.
func jobsOf(n int, callback bool) (ids []string, messages []rabbit.Message, err error) {
	for range n {
		id := uuid.NewString()
		req := &celery.Request{ID: id, RootID: id, Task: "image.analyze", Origin: "gen1@bench", Kwargs: map[string]json.RawMessage{
			"image_url": json.RawMessage(`"https://pictures.invalid/a.jpg"`), "phash": json.RawMessage(`"` + picture + `"`)}}
		if callback {
			s := celery.NewSignature("bench.done")
			s.Options.Queue = callbackQueue
			req.Callbacks = celery.Signatures{s}
		}
		m, err := rabbit.New(celery.Message{Request: req, Queue: queue})
		if err != nil {
			return nil, nil, err
		}
		ids, messages = append(ids, id), append(messages, m)
	}
	return ids, messages, nil
}

// ended returns how many results were published. An update of progress is published too, once it is in its stream.
func (b *bench) ended(ctx context.Context) (int, error) {
	stats, err := b.results.Info(ctx, "commandstats").Result()
	return calls(stats, "publish") - calls(stats, "xadd"), err
}

// calls returns how often a command was called.
func calls(stats, command string) int {
	_, rest, _ := strings.Cut(stats, "cmdstat_"+command+":calls=")
	n, _, _ := strings.Cut(rest, ",")
	count, _ := strconv.Atoi(n)
	return count
}

// commands returns how many commands Redis has executed, those of scripts included.
func (b *bench) commands(ctx context.Context) (n int) {
	for line := range strings.Lines(b.results.Info(ctx, "commandstats").Val()) {
		if _, rest, ok := strings.Cut(line, ":calls="); ok && !strings.HasPrefix(line, "cmdstat_info") {
			count, _, _ := strings.Cut(rest, ",")
			c, _ := strconv.Atoi(count)
			n += c
		}
	}
	return n
}

// A worker is a candidate that runs.
type worker struct {
	*testenv.Program
	pid int
	log string
}

func (b *bench) launch(c *candidate) (*worker, error) { return b.launchAs(c, "worker") }

// launchAs starts a candidate with a name of its own.
func (b *bench) launchAs(c *candidate, name string) (*worker, error) {
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Dir, cmd.Env = b.dir, slices.Concat(b.env, c.env, []string{"ONCEOVER_NODE_NAME=" + name + "@bench"})
	w := &worker{log: filepath.Join(b.dir, name+".log")}
	_ = os.Remove(w.log)
	var err error
	if w.Program, err = testenv.OpenProgram(cmd, w.log); err != nil {
		return nil, err
	}
	w.pid = cmd.Process.Pid
	return w, nil
}

// stop ends the worker, and returns how long that took.
func (w *worker) stop() (time.Duration, error) {
	began := time.Now()
	w.Signal(syscall.SIGTERM)
	select {
	case <-w.Ended():
		return time.Since(began), nil
	case <-time.After(time.Minute):
		w.Kill()
		return 0, fmt.Errorf("it did not end within a minute of SIGTERM; its log: %s", w.log)
	}
}

// until waits for so many results.
func (b *bench) until(ctx context.Context, w *worker, results int, every time.Duration) (n int, at time.Time, err error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	end := time.After(limit)
	log := func() string {
		text, _ := os.ReadFile(w.log)
		return string(text[max(0, len(text)-2000):])
	}
	for {
		if n, err = b.ended(ctx); err != nil || n >= results {
			return n, time.Now(), err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return n, time.Time{}, context.Cause(ctx)
		case <-w.Ended():
			return n, time.Time{}, fmt.Errorf("it ended: %v\n%s", w.Err(), log())
		case <-end:
			return n, time.Time{}, fmt.Errorf("got %d results within %v, want %d\n%s", n, limit, results, log())
		}
	}
}

// measured is one round of a candidate.
type measured struct {
	rate     float64 // jobs a second
	cpu      float64 // seconds, of all jobs
	rss      float64 // bytes, at the end
	commands float64 // of Redis for each job
}

func (b *bench) measure(ctx context.Context, c *candidate, l load) (m measured, err error) {
	if err := b.fill(ctx, l); err != nil {
		return m, err
	}
	var all []*worker
	for i := range max(1, l.workers) {
		w, err := b.launchAs(c, fmt.Sprint("worker", i))
		if err != nil {
			return m, err
		}
		defer w.Kill()
		all = append(all, w)
	}
	first, began, err := b.until(ctx, all[0], 1, 2*time.Millisecond)
	if err != nil {
		return m, err
	}
	sum := func(of func(int) float64) (sum float64) {
		for _, w := range all {
			sum += of(w.pid)
		}
		return sum
	}
	before := sum(cpuOf)
	profiled := b.profile(ctx, c, l.profiled)
	_, end, err := b.until(ctx, all[0], l.jobs, 10*time.Millisecond)
	if err != nil {
		return m, err
	}
	share := float64(l.jobs) / float64(l.jobs-first)
	m = measured{rate: float64(l.jobs-first) / end.Sub(began).Seconds(), cpu: (sum(cpuOf) - before) * share, rss: sum(rssOf)}
	m.commands = float64(b.commands(ctx)) / float64(l.jobs)
	if err := <-profiled; err != nil {
		return m, err
	}
	for _, w := range all {
		if _, err := w.stop(); err != nil {
			return m, err
		}
	}
	return m, b.check(ctx, l)
}

// check looks whether each job has its result, and its callback.
func (b *bench) check(ctx context.Context, l load) error {
	good, jobs := 0, l.jobs
	keys := b.results.Scan(ctx, 0, "celery-task-meta-*", 1000).Iterator()
	for keys.Next(ctx) {
		good++
	}
	if err := keys.Err(); err != nil {
		return err
	}
	if good != jobs {
		return fmt.Errorf("got %d results on record, want %d", good, jobs)
	}
	failed := b.results.Eval(ctx, `local n, cursor = 0, '0'
repeat
	local page = redis.call('SCAN', cursor, 'MATCH', 'celery-task-meta-*', 'COUNT', 1000)
	cursor = page[1]
	for _, key in ipairs(page[2]) do
		if not string.find(redis.call('GET', key), '"status": ?"SUCCESS"') then n = n + 1 end
	end
until cursor == '0'
return n`, nil)
	if n, err := failed.Int(); err != nil || n > 0 {
		return fmt.Errorf("%d results are no SUCCESS, want none (%v)", n, err)
	}
	if !l.callback {
		return nil
	}
	called, err := rabbit.Look(b.conn, callbackQueue)
	if err != nil {
		return err
	}
	if called.Ready != jobs {
		return fmt.Errorf("got %d callbacks, want %d", called.Ready, jobs)
	}
	return b.purge(callbackQueue)
}

// purge empties a queue.
func (b *bench) purge(queue string) error {
	ch, err := b.conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	_, err = ch.QueuePurge(queue, false)
	return err
}

// started is how a candidate begins, is idle and ends.
type started struct {
	first    time.Duration // from exec to the first result
	rss      float64       // bytes, idle
	cpu      float64       // share of one, idle
	commands float64       // of Redis a second, idle
	stop     time.Duration // from SIGTERM to exit
}

func (b *bench) start(ctx context.Context, c *candidate, idle time.Duration) (s started, err error) {
	if err := b.fill(ctx, load{jobs: 1}); err != nil {
		return s, err
	}
	began := time.Now()
	w, err := b.launch(c)
	if err != nil {
		return s, err
	}
	defer w.Kill()
	_, at, err := b.until(ctx, w, 1, time.Millisecond)
	if err != nil {
		return s, err
	}
	s.first = at.Sub(began)
	if err := wait(ctx, 12*time.Second); err != nil { // what is done beside the first job and after it
		return s, err
	}
	cpu, commands, from := cpuOf(w.pid), b.commands(ctx), time.Now()
	if err := wait(ctx, idle); err != nil {
		return s, err
	}
	took := time.Since(from).Seconds()
	s.cpu, s.commands, s.rss = (cpuOf(w.pid)-cpu)/took, float64(b.commands(ctx)-commands)/took, rssOf(w.pid)
	s.stop, err = w.stop()
	return s, err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
