package testenv

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// RedisServer is a Redis or a Valkey of one test. Its methods fail the test when
// they cannot do what they say; call them from the test's own goroutine, one at
// a time.
type RedisServer struct {
	t        testing.TB // nil under cmd/withservers
	dir      string
	programs programs
	program  string // redis-server or valkey-server
	ports    *ports // of clients, and of a cluster's bus
	args     []string
	server   *process
}

// Within these it starts, with little in its file, and stops even on a machine with
// much else to do; usual are 20 ms.
const (
	redisStarts = 2 * time.Minute
	redisStops  = time.Minute
)

// Redis starts a redis-server, or what ONCEOVER_TEST_REDIS names, for t and stops it
// when t ends: 16 databases, an append-only file (fsync every second), no snapshots.
// args are options of the server that are added to these or replace them, such as
// "--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru".
func Redis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	return RedisRelease(t, os.Getenv(redisReleaseEnv), args...)
}

// RedisRelease starts a server as [Redis] does, of a release such as "redis-8.0" or
// "valkey-newest", whatever the environment says. t is skipped or fails, as everywhere
// here, where scripts/servers has not built it.
func RedisRelease(t testing.TB, release string, args ...string) *RedisServer {
	t.Helper()
	r, err := newRedis(t.TempDir(), release, args...)
	check(t, err)
	r.t = t
	t.Cleanup(r.end)
	check(t, r.start(t.Context()))
	return r
}

func newRedis(dir, release string, args ...string) (*RedisServer, error) {
	r := &RedisServer{dir: dir, args: args}
	if err := r.findProgram(release); err != nil {
		return nil, err
	}
	bus := slices.Contains(args, "--cluster-enabled")
	n := 1
	if bus {
		n++
	}
	var err error
	if r.ports, err = takePorts(n); err != nil {
		return nil, err
	}
	if bus { // by default 10,000 above the other, where another server may be
		r.args = append(slices.Clone(args), "--cluster-port", strconv.Itoa(r.ports.numbers[1]))
	}
	return r, nil
}

// findProgram looks up the server of a release such as "valkey-9".
func (r *RedisServer) findProgram(release string) error {
	product, version, err := splitRedis(release)
	if err != nil {
		return err
	}
	r.program = product + "-server"
	if r.programs, err = findPrograms(product, version); err != nil || r.programs.root != "" {
		return err
	}
	if _, err := exec.LookPath(r.program); err != nil {
		return &missingError{what: r.program, hint: "apt-get install " + r.program}
	}
	return nil
}

// Version returns the name and version of the server, such as "redis 7.0.15" or
// "valkey 9.1.2".
func (r *RedisServer) Version() string {
	name := strings.TrimSuffix(r.program, "-server")
	if r.programs.version == "" {
		return name + " " + string(machineVersion(name))
	}
	return name + " " + string(r.programs.version)
}

// URL returns redis://127.0.0.1:PORT, without a database.
func (r *RedisServer) URL() string { return "redis://" + r.Addr() }

// Addr returns 127.0.0.1:PORT. It stays the same over restarts.
func (r *RedisServer) Addr() string { return loopback(r.ports.numbers[0]) }

// Start starts the server again after [RedisServer.Stop] or [RedisServer.Kill],
// with the same port and data, and returns when it answers.
func (r *RedisServer) Start() { r.t.Helper(); check(r.t, r.start(r.t.Context())) }

// Stop shuts the server down in an orderly way (SIGTERM).
func (r *RedisServer) Stop() { r.t.Helper(); check(r.t, r.server.terminate(redisStops)) }

// Restart is Stop and Start.
func (r *RedisServer) Restart() { r.t.Helper(); r.Stop(); r.Start() }

// Kill ends the server with SIGKILL. What it had answered is in the append-only
// file all the same: only a crash of the machine loses the last second.
func (r *RedisServer) Kill() { r.kill() }

func (r *RedisServer) start(ctx context.Context) error {
	if r.server.running() {
		return errors.New(r.program + " is running already")
	}
	args := append([]string{
		"--port", strconv.Itoa(r.ports.numbers[0]), "--bind", "127.0.0.1", "--dir", r.dir,
		"--databases", "16", "--appendonly", "yes", "--save", "",
	}, r.args...)
	cmd := r.programs.command(context.Background(), r.dir, append(os.Environ(), "TZ=UTC"), r.program, args...)
	var err error
	r.server, err = startProcess(r.program, cmd, filepath.Join(r.dir, "redis.log"))
	if err != nil {
		return err
	}
	return r.server.waitReady(ctx, redisStarts, func() bool { return answersRedis(r.Addr()) })
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
