package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/internal/loadtest"
	"onceover/rabbit"
)

// benchCrew is what a load test has for itself: databases, a queue, and the workers.
type benchCrew struct {
	order   *loadOrder
	queue   string
	urls    map[string]string // by role of Redis
	clients []*redis.Client
	results *redis.Client
	space   *loadtest.Space

	declared    bool // there may be the queue
	keeping     sync.WaitGroup
	stopKeeping context.CancelFunc
	workers     []*benchWorker
}

// benchWorker is a worker process.
type benchWorker struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it has, and err is set
	err   error
	up    chan struct{} // closed once addr is set

	mu   sync.Mutex
	addr string   // of its HTTP side
	tail []string // the last lines that it wrote
}

// benchTail is how many lines of a worker that failed are shown.
const benchTail = 20

// start starts the workers; fail is called if one ends before it is stopped.
func (c *benchCrew) start(ctx context.Context, t *loadtest.Test, n int, fail context.CancelCauseFunc) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(t.Addr())
	if err != nil {
		return err
	}
	s, delay := c.order.settings, c.order.cfg.ModelDelay
	for i := range n {
		w := &benchWorker{cmd: exec.Command(self, "worker"), ended: make(chan struct{}), up: make(chan struct{})}
		w.cmd.Env = environ(os.Environ(), map[string]string{
			"ONCEOVER_BROKER_URL":            strings.Join(s.Worker.BrokerURLs, ";"),
			"ONCEOVER_RESULTS_URL":           c.urls["results"],
			"ONCEOVER_CACHE_URL":             c.urls["cache"],
			"ONCEOVER_PROGRESS_URL":          c.urls["progress"],
			"ONCEOVER_LIMITS_URL":            c.urls["limits"],
			"ONCEOVER_FAILED_URL":            c.urls["failed"],
			"ONCEOVER_QUEUES":                c.queue,
			"ONCEOVER_CONCURRENCY":           strconv.Itoa(s.Worker.Concurrency),
			"ONCEOVER_NODE_NAME":             fmt.Sprintf("%s-%d@bench", c.queue, i+1),
			"ONCEOVER_DRAIN_DEAD_LETTERS":    "false", // they are others'
			"ONCEOVER_FAILED_ALLOW_EVICTION": "true",  // nothing of it is kept
			"ONCEOVER_HTTP_ADDR":             "127.0.0.1:0",
			"ONCEOVER_LOG_LEVEL":             "info",
			"ONCEOVER_LOG_FORMAT":            "json",
			"ONCEOVER_IMAGE_ALLOW":           strings.Join(append(append([]string{}, s.Image.Allow...), host), ","),
			"ONCEOVER_CACHE_RADIUS":          strconv.Itoa(s.Cache.Radius),
			"ONCEOVER_VISION_URL":            t.ModelURL(),
			"ONCEOVER_VISION_MODEL":          "bench",
			"ONCEOVER_VISION_API_KEY":        "bench",
			"ONCEOVER_VISION_TIMEOUT":        (delay + 2*time.Minute).String(),
			"ONCEOVER_SOFT_TIME_LIMIT":       (delay + 4*time.Minute).String(),
			"ONCEOVER_TIME_LIMIT":            (delay + 5*time.Minute).String(),
			"ONCEOVER_VISION_RPM":            "",
			"ONCEOVER_VISION_TPM":            "",
			"ONCEOVER_MODELS":                "",
			"ONCEOVER_BUDGET":                "",
			"ONCEOVER_VISION_FORMAT":         "",      // the model that is played is asked by schema
			"ONCEOVER_REMOTE_CONTROL":        "false", // what is told to all workers is not for the test's
			"ONCEOVER_OFFLINE":               "",
		})
		logs, err := w.cmd.StderrPipe()
		if err != nil {
			return err
		}
		w.cmd.SysProcAttr = endsWithParent()
		started := make(chan error)
		go func() { // leave waits for it
			// Linux ends the worker when the thread that started it does.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			err := w.cmd.Start()
			if started <- err; err != nil {
				return
			}
			w.read(logs)
			w.err = w.cmd.Wait()
			close(w.ended)
			fail(fmt.Errorf("worker %d ended: %v; the last that it wrote:\n%s", i+1, w.err, w.last()))
		}()
		if err := <-started; err != nil {
			return fmt.Errorf("start a worker: %w", err)
		}
		c.workers = append(c.workers, w)
	}
	for _, w := range c.workers {
		select {
		case <-w.up:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// environ returns an environment with other values; "" takes a variable away. So are the files in which a value may stand.
func environ(old []string, values map[string]string) (out []string) {
	for _, kv := range old {
		name, _, _ := strings.Cut(kv, "=")
		if _, ok := values[strings.TrimSuffix(name, "_FILE")]; !ok {
			out = append(out, kv)
		}
	}
	for name, value := range values {
		if value != "" {
			out = append(out, name+"="+value)
		}
	}
	return out
}

// read reads the log of a worker to its end.
func (w *benchWorker) read(logs io.Reader) {
	lines := bufio.NewScanner(logs)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var entry struct{ Msg, Addr string }
		text := lines.Text()
		w.mu.Lock()
		if w.tail = append(w.tail, text); len(w.tail) > benchTail {
			w.tail = w.tail[1:]
		}
		if w.addr == "" && json.Unmarshal([]byte(text), &entry) == nil && entry.Addr != "" {
			w.addr = entry.Addr
			close(w.up)
		}
		w.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, logs) // a line that is too long
}

func (w *benchWorker) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.tail, "\n")
}

// stop ends the worker.
func (w *benchWorker) stop() {
	_ = w.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-w.ended:
	case <-time.After(5 * time.Second): // with jobs in flight, which nobody waits for
		_ = w.cmd.Process.Kill()
		<-w.ended
	}
}

// leave ends the workers and takes away what the test had.
func (c *benchCrew) leave() error {
	var all sync.WaitGroup
	for _, w := range c.workers {
		all.Go(w.stop)
	}
	all.Wait()
	// Whatever ended the test, what it had is to go.
	var faults []error
	within := func(f func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		faults = append(faults, f(ctx))
	}
	if c.stopKeeping != nil {
		c.stopKeeping()
		c.keeping.Wait()
	}
	if c.space != nil {
		within(c.space.Leave)
	}
	for _, client := range c.clients {
		_ = client.Close()
	}
	if c.declared {
		within(c.deleteQueue)
	}
	return errors.Join(faults...)
}

// deleteQueue deletes the queue, on a connection of its own: the other one may be lost, or the broker does not read from it.
func (c *benchCrew) deleteQueue(ctx context.Context) error {
	later := func(err error) error {
		return fmt.Errorf("%w; the broker deletes queue %s by itself once nobody has used it for %v", err, c.queue, benchExpires)
	}
	conn, err := rabbit.Dial(ctx, "onceover bench", c.order.settings.Worker.BrokerURLs)
	if err != nil {
		return later(err)
	}
	closing := func() { _ = conn.CloseDeadline(time.Now().Add(benchClose)) }
	defer closing()
	defer context.AfterFunc(ctx, closing)()
	if err := rabbit.Delete(conn, c.queue); err != nil {
		return later(err)
	}
	return nil
}

// benchMeter measures what the workers take, from [benchCrew.meter] to end.
type benchMeter struct {
	crew   *benchCrew
	cpu    float64 // seconds, before
	memory float64 // bytes, at the largest
	err    error   // why it is not known
	stop   context.CancelFunc
	done   sync.WaitGroup
}

func (c *benchCrew) meter(ctx context.Context) *benchMeter {
	ctx, stop := context.WithCancel(ctx)
	m := &benchMeter{crew: c, stop: stop}
	m.cpu, m.memory, m.err = c.takes(ctx)
	m.done.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if _, memory, err := c.takes(ctx); err == nil { // the last one counts
					m.memory = max(m.memory, memory)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return m
}

// end returns what they took, nil if they do not say.
func (m *benchMeter) end() *loadtest.Cost {
	m.stop()
	m.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cpu, memory, err := m.crew.takes(ctx)
	if err = cmp.Or(m.err, err); err != nil || cpu == 0 { // not every system tells
		return nil
	}
	return &loadtest.Cost{CPU: cpu - m.cpu, Memory: max(m.memory, memory)}
}

// takes returns what the workers have taken, by their metrics.
func (c *benchCrew) takes(ctx context.Context) (cpu, memory float64, err error) {
	for _, w := range c.workers {
		m, err := loadtest.Metrics(ctx, w.addr)
		if err != nil {
			return 0, 0, err
		}
		cpu += m["process_cpu_seconds_total"]
		memory += m["process_resident_memory_bytes"]
	}
	return cpu, memory, nil
}
