package violence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"onceover/internal/testenv"
)

// crashVariable is internal/crash.Variable, which exists only with its build tag.
const crashVariable = "ONCEOVER_TEST_CRASH"

// crew are the worker processes. Each has an owner that starts it again whenever it
// ends.
type crew struct {
	cfg     Config
	servers *servers
	tally   *tally
	slots   []*slot
	owners  sync.WaitGroup

	mu     sync.Mutex
	rng    *rand.Rand
	points []string // crash points that the next starts are armed with
	over   bool     // no more of them
	lives  map[string]*life
}

// slot is the place of one worker: its proxies stay, its processes come and go.
type slot struct {
	crew    *crew
	n       int
	broker  *testenv.Proxy
	redis   *testenv.Proxy
	keeper  *testenv.Proxy
	lives   int           // so far
	changed chan struct{} // has an element when the process was replaced

	mu      sync.Mutex
	proc    *testenv.Program
	life    *life
	armed   string // "" if the process has no crash point
	ending  string // why we end it, "" if we do not
	touched []window
}

func newCrew(cfg Config, s *servers, t *tally, rng *rand.Rand) (*crew, error) {
	c := &crew{cfg: cfg, servers: s, tally: t, rng: rng, lives: map[string]*life{}}
	s.host.kill = func(life string) {
		t.did(actDeadly)
		c.kill(life)
	}
	for n := range cfg.Workers {
		w := &slot{crew: c, n: n, changed: make(chan struct{}, 1)}
		c.slots = append(c.slots, w)
		for _, p := range []struct {
			proxy  **testenv.Proxy
			target string
		}{{&w.broker, s.rabbit.Addr()}, {&w.redis, s.redis.Addr()}, {&w.keeper, s.keeper.Addr()}} {
			var err error
			if *p.proxy, err = testenv.OpenProxy(p.target); err != nil {
				return c, fmt.Errorf("open a proxy: %w", err)
			}
		}
	}
	return c, nil
}

// start starts the owners. They end the processes when ctx ends.
func (c *crew) start(ctx context.Context) {
	for _, w := range c.slots {
		c.owners.Go(func() { w.own(ctx) })
	}
}

// close waits for the owners, whose context has ended, and closes the proxies.
func (c *crew) close() {
	c.owners.Wait()
	for _, w := range c.slots {
		for _, p := range []*testenv.Proxy{w.broker, w.redis, w.keeper} {
			if p != nil {
				p.End()
			}
		}
	}
}

// arm has these points given to the processes that start from now on, one each.
func (c *crew) arm(points []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.points, c.over = points, false
}

// nextPoint takes a point off those to arm; "" if none is left.
func (c *crew) nextPoint() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.points) == 0 {
		return ""
	}
	p := c.points[0]
	c.points = c.points[1:]
	return p
}

// notHit puts a point back, to be the next, whose process ended otherwise.
func (c *crew) notHit(point string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name, _, _ := strings.Cut(point, ":"); !c.over && c.tally.hits(name) == 0 {
		c.points = append([]string{name}, c.points...)
	}
}

// any returns a slot at random.
func (c *crew) any() *slot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slots[c.rng.IntN(len(c.slots))]
}

// own keeps a process running until ctx ends.
func (w *slot) own(ctx context.Context) {
	for ctx.Err() == nil {
		point := w.crew.nextPoint()
		proc, l, err := w.open(point)
		if err != nil {
			w.crew.tally.fault("worker %d: %v", w.n, err)
			return
		}
		w.mu.Lock()
		w.proc, w.life, w.armed, w.ending = proc, l, point, ""
		w.mu.Unlock()
		select {
		case w.changed <- struct{}{}:
		default:
		}
		select {
		case <-proc.Ended():
			w.judge(proc, l, point)
		case <-ctx.Done():
			w.end("the end", syscall.SIGTERM)
			select {
			case <-proc.Ended():
				w.judge(proc, l, point)
			case <-time.After(40 * time.Second):
				w.crew.tally.fault("worker %d did not end within 40 s of SIGTERM", w.n)
				proc.Kill()
			}
		}
	}
}

// open starts a process.
func (w *slot) open(point string) (*testenv.Program, *life, error) {
	cfg, s := w.crew.cfg, w.crew.servers
	w.lives++
	l := &life{slot: w, began: time.Now(), name: fmt.Sprintf("%d-%03d", w.n, w.lives)}
	l.log = filepath.Join(cfg.Dir, "log", "worker"+l.name+".log")
	cmd := exec.Command(s.program, "worker")
	cmd.Env = append(s.environment(w.broker.Addr(), w.redis.Addr(), w.keeper.Addr()),
		fmt.Sprintf("ONCEOVER_NODE_NAME=celery@violence%d", w.n),
		fmt.Sprintf("ONCEOVER_CONCURRENCY=%d", cfg.Concurrency),
		"ONCEOVER_QUEUES="+queue+","+briefQueue,
		fmt.Sprintf("ONCEOVER_MAX_CRASHES=%d", maxCrashes),
		"ONCEOVER_IMAGE_ALLOW=127.0.0.1/32",
		"ONCEOVER_VISION_URL="+s.host.modelOf(l.name), "ONCEOVER_VISION_MODEL=violence",
		// The key by which the life is known to the picture host.
		"AWS_ENDPOINT_URL_S3="+s.host.url, "AWS_ACCESS_KEY_ID="+l.name, "AWS_SECRET_ACCESS_KEY=violence",
		"ONCEOVER_HTTP_ADDR=off", "ONCEOVER_LOG_FORMAT=json",
		// 28 queues that nothing here uses.
		"ONCEOVER_DELAYED_DELIVERY=false",
	)
	if point != "" {
		cmd.Env = append(cmd.Env, crashVariable+"="+point)
	}
	proc, err := testenv.OpenProgram(cmd, l.log)
	if err != nil {
		return nil, nil, err
	}
	w.crew.mu.Lock()
	defer w.crew.mu.Unlock()
	w.crew.lives[l.name] = l
	return proc, l, nil
}

// environment leads the program to the servers at these addresses, and nowhere else.
func (s *servers) environment(broker, redis, keeper string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(),
		"GORACE=halt_on_error=0",
		"ONCEOVER_BROKER_URL=amqp://guest:guest@" + broker + "//",
		"ONCEOVER_REDIS_URL=redis://" + redis,
		"ONCEOVER_FAILED_URL=redis://" + keeper + "/5",
	}
}

// judge notes how a process ended. One that ends by itself is a fault.
func (w *slot) judge(proc *testenv.Program, l *life, point string) {
	text, err := os.ReadFile(l.log)
	if err != nil {
		w.crew.tally.fault("worker %d: %v", w.n, err)
	}
	for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if i := bytes.Index(text, []byte(bad)); i >= 0 {
			w.crew.tally.fault("worker %d: %s, see %s:\n%s", w.n, bad, filepath.Base(l.log), text[i:min(len(text), i+2000)])
		}
	}
	w.mu.Lock()
	ending := w.ending
	w.mu.Unlock()
	name, _, _ := strings.Cut(point, ":")
	crashed := name != "" && bytes.Contains(text, []byte("crash point "+name+"\n"))
	w.crew.mu.Lock()
	l.ended, l.killed = time.Now(), crashed || ending == killed || !cleanExit(proc.Err())
	w.crew.mu.Unlock()
	if crashed {
		w.crew.tally.hit(name)
		w.crew.tally.say("worker %d died at %s", w.n, point)
		return
	}
	if point != "" {
		w.crew.notHit(point)
	}
	switch {
	case ending == "":
		w.crew.tally.fault("worker %d ended by itself: %v, see %s:\n%s", w.n, proc.Err(), filepath.Base(l.log), text[max(0, len(text)-1500):])
	case ending != killed && !cleanExit(proc.Err()) && bytes.Contains(text, []byte(`"msg":"starting"`)):
		// Before that it does not take the signal yet.
		w.crew.tally.fault("worker %d ended with %v after SIGTERM, see %s:\n%s", w.n, proc.Err(), filepath.Base(l.log), text[max(0, len(text)-1500):])
	}
}

// killed is why a process ends that gets SIGKILL.
const killed = "kill -9"

// maxCrashes is how many processes may die of a job: so many that it happens by chance to
// hardly any.
const maxCrashes = 8

// cleanExit tells the exit codes of a stop: 0, and 5 if jobs were given back.
func cleanExit(err error) bool {
	var exit *exec.ExitError
	return err == nil || errors.As(err, &exit) && exit.ExitCode() == 5
}

// end signals the process.
func (w *slot) end(why string, s syscall.Signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.proc != nil {
		w.ending = why
		w.proc.Signal(s)
	}
}

// isArmed tells whether the process has a crash point.
func (w *slot) isArmed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.armed != ""
}

// disarm replaces the processes that still have a crash point, in an orderly way.
func (c *crew) disarm(ctx context.Context) error {
	c.mu.Lock()
	c.points, c.over = nil, true
	c.mu.Unlock()
	for _, w := range c.slots {
		if !w.isArmed() {
			continue
		}
		select {
		case <-w.changed:
		default:
		}
		w.end("SIGTERM", syscall.SIGTERM)
		for w.isArmed() {
			select {
			case <-w.changed:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}
