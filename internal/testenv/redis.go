package testenv

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// RedisServer is a redis-server of one test. Its methods fail the test when
// they cannot do what they say; call them from the test's own goroutine, one at
// a time.
type RedisServer struct {
	t      testing.TB // nil under cmd/withservers
	dir    string
	ports  *ports // one
	args   []string
	server *process
}

// Redis starts a redis-server for t and stops it when t ends: 16 databases, an
// append-only file (fsync every second), no snapshots. args are options of
// redis-server that are added to these or replace them, such as
// "--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru".
func Redis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	r, err := newRedis(t.TempDir(), args...)
	check(t, err)
	r.t = t
	t.Cleanup(r.end)
	check(t, r.start(t.Context()))
	return r
}

func newRedis(dir string, args ...string) (*RedisServer, error) {
	p, err := takePorts(1)
	return &RedisServer{dir: dir, ports: p, args: args}, err
}

// URL returns redis://127.0.0.1:PORT, without a database.
func (r *RedisServer) URL() string { return "redis://" + r.Addr() }

// Addr returns 127.0.0.1:PORT. It stays the same over restarts.
func (r *RedisServer) Addr() string { return loopback(r.ports.numbers[0]) }

// Start starts the server again after [RedisServer.Stop] or [RedisServer.Kill],
// with the same port and data, and returns when it answers.
func (r *RedisServer) Start() { r.t.Helper(); check(r.t, r.start(r.t.Context())) }

// Stop shuts the server down in an orderly way (SIGTERM).
func (r *RedisServer) Stop() { r.t.Helper(); check(r.t, r.server.terminate(10*time.Second)) }

// Restart is Stop and Start.
func (r *RedisServer) Restart() { r.t.Helper(); r.Stop(); r.Start() }

// Kill ends the server with SIGKILL. What it had answered is in the append-only
// file all the same: only a crash of the machine loses the last second.
func (r *RedisServer) Kill() { r.kill() }

func (r *RedisServer) start(ctx context.Context) error {
	if r.server.running() {
		return errors.New("redis-server is running already")
	}
	bin, err := redisProgram()
	if err != nil {
		return err
	}
	args := append([]string{
		"--port", strconv.Itoa(r.ports.numbers[0]), "--bind", "127.0.0.1", "--dir", r.dir,
		"--databases", "16", "--appendonly", "yes", "--save", "",
	}, r.args...)
	cmd := exec.Command(bin, args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "TZ=UTC")
	r.server, err = startProcess(cmd, filepath.Join(r.dir, "redis.log"))
	if err != nil {
		return err
	}
	return r.server.waitReady(ctx, 30*time.Second, func() bool { return answersRedis(r.Addr()) })
}

func redisProgram() (string, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return "", &missingError{"redis-server", "apt-get install redis-server"}
	}
	return bin, nil
}

func (r *RedisServer) kill() {
	if r.server != nil {
		r.server.kill()
	}
}

// end kills the server and gives its port back.
func (r *RedisServer) end() {
	r.kill()
	r.ports.release()
}

// answersRedis reports whether the server at addr serves commands: it neither
// refuses the connection nor is still loading its file.
func answersRedis(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	reply := make([]byte, 64)
	n, err := conn.Read(reply)
	return err == nil && !strings.HasPrefix(string(reply[:n]), "-LOADING")
}
