package testenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// What follows is for programs that are not tests: it returns errors where the
// rest of the package ends the test.

// OpenRabbitMQ starts a RabbitMQ without plugins, of the release that
// ONCEOVER_TEST_RABBITMQ names, that keeps its files in dir, an
// empty folder, with the lines conf in its rabbitmq.conf. Use only Open's own methods
// on it: Up, Down, End, Control and Release.
func OpenRabbitMQ(ctx context.Context, dir string, conf ...string) (*Rabbit, error) {
	r, err := newRabbit(dir, rabbitOptions{release: os.Getenv(rabbitReleaseEnv), conf: conf})
	if err != nil {
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		r.end()
		return nil, err
	}
	return r, nil
}

// Release asks the running server for its version.
func (r *Rabbit) Release() (Version, error) { return rabbitVersion(r.Addr()) }

// Up starts the server again, with the same port and data.
func (r *Rabbit) Up(ctx context.Context) error { return r.start(ctx) }

// Down shuts the server down in an orderly way.
func (r *Rabbit) Down() error { return r.server.terminate(rabbitStops) }

// End kills the server and its epmd, waits until they are gone and gives its ports
// back.
func (r *Rabbit) End() { r.end() }

// Control runs rabbitmqctl, as Ctl does.
func (r *Rabbit) Control(ctx context.Context, args ...string) (string, error) {
	cmd := r.programs.command(ctx, r.dir, r.env(), filepath.Join(r.scripts, "rabbitmqctl"), append([]string{"--quiet"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("rabbitmqctl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// OpenRedis starts a Redis or Valkey, of the release that ONCEOVER_TEST_REDIS names,
// that keeps its files in dir, with the options of [Redis]. Use only Up, Down and
// Kill on it.
func OpenRedis(ctx context.Context, dir string, args ...string) (*RedisServer, error) {
	r, err := newRedis(dir, os.Getenv(redisReleaseEnv), args...)
	if err != nil {
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		r.end()
		return nil, err
	}
	return r, nil
}

// Up starts the server again, with the same port and data.
func (r *RedisServer) Up(ctx context.Context) error { return r.start(ctx) }

// Down shuts the server down in an orderly way.
func (r *RedisServer) Down() error { return r.server.terminate(redisStops) }

// OpenProxy starts a proxy to target (host:port). Use Cut, Pause, Mend and End.
func OpenProxy(target string) (*Proxy, error) {
	p, err := newProxy(target)
	if err != nil {
		return nil, err
	}
	return p, p.restore()
}

// Mend undoes Cut and Pause, as Restore does.
func (p *Proxy) Mend() error { return p.restore() }

// End closes the proxy and its connections.
func (p *Proxy) End() {
	p.Cut()
	p.wg.Wait()
	p.ports.release()
}

// Program is a process that, on Linux, is killed when this one dies.
type Program struct{ p *process }

// OpenProgram starts cmd and appends its output to logFile.
func OpenProgram(cmd *exec.Cmd, logFile string) (*Program, error) {
	p, err := startProcess(filepath.Base(cmd.Path), cmd, logFile)
	if err != nil {
		return nil, err
	}
	return &Program{p}, nil
}

// WaitReady blocks until ready reports true. It returns an error, with the end of the log, when the program ends first or the time is up.
func (g *Program) WaitReady(ctx context.Context, limit time.Duration, ready func() bool) error {
	return g.p.waitReady(ctx, limit, ready)
}

// Ended is closed once the process is gone.
func (g *Program) Ended() <-chan struct{} { return g.p.ended }

// Err is how it ended, nil for exit code 0; call it only after Ended.
func (g *Program) Err() error { return g.p.state }

// Signal sends a signal to the process, if it is still there.
func (g *Program) Signal(s syscall.Signal) {
	if g.p.running() {
		_ = syscall.Kill(g.p.pid, s)
	}
}

// Kill ends the process at once (SIGKILL) and waits until it is gone.
func (g *Program) Kill() { g.p.kill() }
