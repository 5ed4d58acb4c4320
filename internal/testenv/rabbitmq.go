package testenv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Rabbit is a RabbitMQ of one test: a node and an epmd (Erlang's name server) of
// its own. Its methods fail the test when they cannot do what they say; call
// them from the test's own goroutine, one at a time.
type Rabbit struct {
	t        testing.TB // nil under cmd/withservers
	dir      string
	programs programs
	scripts  string // the folder of rabbitmq-server and rabbitmqctl
	ports    *ports // the following
	port     int    // AMQP
	epmd     int    // port of epmd
	dist     int    // port of Erlang's distribution, to which rabbitmqctl talks
	ctl      int    // port of rabbitmqctl's own end of it
	api      int    // port of the management API; 0: without the management plugin
	late     bool   // a consumer time-out of seconds is configured

	names  *process // epmd
	server *process
}

// Within these a RabbitMQ starts and stops even on a machine with much else to
// do; usual are 5 to 10 seconds and 1.
const (
	rabbitStarts = 2 * time.Minute
	rabbitStops  = time.Minute
)

// RabbitMQ starts a RabbitMQ without plugins for t and stops it when t ends. conf are
// lines that are added to its rabbitmq.conf, such as "consumer_timeout = 3000". It
// takes 5 to 10 seconds: it is for tests that stop, kill or configure the server;
// others use [SharedRabbitMQ]. Its release is the one of ONCEOVER_TEST_RABBITMQ.
func RabbitMQ(t testing.TB, conf ...string) *Rabbit {
	t.Helper()
	return RabbitMQRelease(t, os.Getenv(rabbitReleaseEnv), conf...)
}

// RabbitMQRelease starts a server as [RabbitMQ] does, of a release such as "4.3", or
// of the "newest" that scripts/servers has built, whatever the environment says. t is
// skipped or fails, as everywhere here, where scripts/servers has not built it.
func RabbitMQRelease(t testing.TB, release string, conf ...string) *Rabbit {
	t.Helper()
	r, err := newRabbit(t.TempDir(), rabbitOptions{release: release, conf: conf})
	check(t, err)
	r.t = t
	t.Cleanup(func() {
		r.end()
		if t.Failed() && r.server != nil {
			t.Logf("the end of RabbitMQ's log:\n%s", r.server.logTail())
		}
	})
	check(t, r.start(t.Context()))
	return r
}

type rabbitOptions struct {
	release    string // such as "4.3"; "": the machine's
	management bool
	conf       []string // further lines of rabbitmq.conf
}

func newRabbit(dir string, opt rabbitOptions) (*Rabbit, error) {
	r := &Rabbit{dir: dir, scripts: debianScripts}
	var err error
	if r.programs, err = findPrograms("rabbitmq", opt.release); err != nil {
		return nil, err
	}
	if r.programs.root == "" {
		if r.scripts, err = rabbitScripts(); err != nil {
			return nil, err
		}
	}
	if r.ports, err = takePorts(5); err != nil {
		return nil, err
	}
	n := r.ports.numbers
	r.port, r.epmd, r.dist, r.ctl = n[0], n[1], n[2], n[3]
	if opt.management {
		r.api = n[4]
	}
	r.late = strings.Contains(strings.Join(opt.conf, "\n"), "consumer_timeout")
	return r, r.configure(opt.conf)
}

// debianScripts is the folder of RabbitMQ's own scripts on Debian. The path has
// wrappers that change to the user rabbitmq, and refuse others.
const debianScripts = "/usr/lib/rabbitmq/bin"

// rabbitScripts returns the folder of the machine's RabbitMQ scripts.
func rabbitScripts() (string, error) {
	for _, name := range []string{debianScripts + "/rabbitmq-server", "rabbitmq-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Dir(path), nil
		}
	}
	return "", &missingError{what: "rabbitmq-server", hint: "apt-get install rabbitmq-server"}
}

// configure writes the node's configuration files.
func (r *Rabbit) configure(more []string) error {
	conf := fmt.Sprintf(`listeners.tcp.1 = %s
num_acceptors.tcp = 2
log.file = false
log.console = true
# A nearly full disk on a developer's machine must not block publishers.
disk_free_limit.absolute = 1MB
# The default, 512 MB, is a good part of a small machine's memory.
raft.wal_max_size_bytes = 8388608
`, loopback(r.port))
	plugins := "[]."
	if r.api != 0 {
		conf += fmt.Sprintf("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %d\n", r.api)
		plugins = "[rabbitmq_management]."
	}
	for _, line := range more {
		conf += line + "\n"
	}
	return errors.Join(
		os.WriteFile(r.path("rabbitmq.conf"), []byte(conf), 0o600),
		os.WriteFile(r.path("enabled_plugins"), []byte(plugins), 0o600),
		os.WriteFile(r.path("rabbitmq-env.conf"), nil, 0o600),
	)
}

// URL returns amqp://guest:guest@127.0.0.1:PORT//, the default virtual host, in the
// form that both Celery and Go's client read.
func (r *Rabbit) URL() string { return "amqp://guest:guest@" + r.Addr() + "//" }

// Addr returns 127.0.0.1:PORT. It stays the same over restarts.
func (r *Rabbit) Addr() string { return loopback(r.port) }

// Start starts the server again after [Rabbit.Stop] or [Rabbit.Kill], with the
// same ports and data, and returns when it accepts AMQP.
func (r *Rabbit) Start() { r.t.Helper(); check(r.t, r.start(r.t.Context())) }

// Stop shuts the server down in an orderly way (SIGTERM).
func (r *Rabbit) Stop() { r.t.Helper(); check(r.t, r.server.terminate(rabbitStops)) }

// Restart is Stop and Start.
func (r *Rabbit) Restart() { r.t.Helper(); r.Stop(); r.Start() }

// Kill ends the server with SIGKILL. Its data stays: persistent messages that it
// had confirmed are there after [Rabbit.Start].
func (r *Rabbit) Kill() { r.server.kill() }

// Ctl runs rabbitmqctl with args, such as "close_all_connections", "test", and
// returns its output without the headings. It takes about a second.
func (r *Rabbit) Ctl(args ...string) string {
	r.t.Helper()
	out, err := r.Control(r.t.Context(), args...)
	check(r.t, err)
	return out
}

// Version asks the running server for its version.
func (r *Rabbit) Version() Version { r.t.Helper(); return RabbitMQVersion(r.t, r.URL()) }

// RabbitMQVersion asks the server at an AMQP URL for its version, so that a test can
// expect what that release does.
func RabbitMQVersion(t testing.TB, amqpURL string) Version {
	t.Helper()
	u, err := url.Parse(amqpURL)
	check(t, err)
	v, err := rabbitVersion(u.Host)
	check(t, err)
	return v
}

func (r *Rabbit) start(ctx context.Context) error {
	if r.server.running() {
		return errors.New("rabbitmq-server is running already")
	}
	if err := r.startNames(ctx); err != nil {
		return err
	}
	cmd := r.programs.command(context.Background(), r.dir, r.env(), filepath.Join(r.scripts, "rabbitmq-server"))
	var err error
	r.server, err = startProcess("rabbitmq-server", cmd, r.path("rabbitmq.log"))
	if err != nil {
		return err
	}
	return r.server.waitReady(ctx, rabbitStarts, func() bool { return answersAMQP(r.Addr()) })
}

// startNames starts epmd unless it runs. A node that finds none would start
// one that outlives the test.
func (r *Rabbit) startNames(ctx context.Context) error {
	if r.names.running() {
		return nil
	}
	if _, err := exec.LookPath("epmd"); err != nil && r.programs.root == "" {
		return &missingError{what: "epmd", hint: "apt-get install erlang-base"}
	}
	cmd := r.programs.command(context.Background(), r.dir, os.Environ(), "epmd", "-address", "127.0.0.1", "-port", strconv.Itoa(r.epmd))
	var err error
	r.names, err = startProcess("epmd", cmd, r.path("epmd.log"))
	if err != nil {
		return err
	}
	return r.names.waitReady(ctx, rabbitStarts, func() bool {
		conn, err := net.Dial("tcp", loopback(r.epmd))
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

// end kills whatever runs and gives the ports back.
func (r *Rabbit) end() {
	for _, p := range []*process{r.server, r.names} {
		if p != nil {
			p.kill()
		}
	}
	r.ports.release()
}

// env is the whole environment of the node and of rabbitmqctl: nothing that the
// machine has set for another RabbitMQ gets in.
func (r *Rabbit) env() []string {
	// Two schedulers and few I/O threads: tests run beside each other.
	args := "+S 2:2 +SDio 2 -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
	if r.late {
		// Late acknowledgements are looked for each second, instead of each minute.
		args += " -rabbit channel_tick_interval 1000 -rabbit quorum_tick_interval 1000"
	}
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"LANG=C.UTF-8",
		"HOME=" + r.dir, // Erlang's cookie
		"ERL_EPMD_PORT=" + strconv.Itoa(r.epmd),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		fmt.Sprintf("RABBITMQ_NODENAME=onceover%d@localhost", r.port),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(r.dist),
		// By default each rabbitmqctl of the machine takes one of the same eleven.
		"RABBITMQ_CTL_DIST_PORT_MIN=" + strconv.Itoa(r.ctl),
		"RABBITMQ_CTL_DIST_PORT_MAX=" + strconv.Itoa(r.ctl),
		"RABBITMQ_CONF_ENV_FILE=" + r.path("rabbitmq-env.conf"),
		"RABBITMQ_CONFIG_FILE=" + r.path("rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + r.path("enabled_plugins"),
		"RABBITMQ_MNESIA_BASE=" + r.path("data"),
		"RABBITMQ_LOG_BASE=" + r.path("log"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=" + args,
		// The script replaces itself by the Erlang machine, so that the process
		// we start, signal and wait for is the server.
		"RUNNING_UNDER_SYSTEMD=true",
	}
}

func (r *Rabbit) path(name string) string { return filepath.Join(r.dir, name) }

// answersAMQP reports whether the server at addr greets a client.
func answersAMQP(addr string) bool {
	_, err := greeting(addr, 2*time.Second)
	return err == nil
}

// rabbitVersion reads the version of the server at addr from its greeting.
func rabbitVersion(addr string) (Version, error) {
	text, err := greeting(addr, time.Minute)
	if err != nil {
		return "", fmt.Errorf("ask RabbitMQ at %s for its version: %w", addr, err)
	}
	// An entry of the table server-properties: name, type S, length, text.
	const entry = "\x07versionS"
	_, rest, ok := strings.Cut(text, entry)
	if !ok || len(rest) < 4 || len(rest)-4 < int(binary.BigEndian.Uint32([]byte(rest[:4]))) {
		return "", fmt.Errorf("ask RabbitMQ at %s for its version: it says none", addr)
	}
	return Version(rest[4:][:binary.BigEndian.Uint32([]byte(rest[:4]))]), nil
}

// greeting sends the protocol header and returns the payload of the method frame
// with which a broker answers, connection.start (AMQP 0-9-1, section 2.2.4).
func greeting(addr string, limit time.Duration) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, limit)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(limit))
	if _, err := io.WriteString(conn, "AMQP\x00\x00\x09\x01"); err != nil {
		return "", err
	}
	var head [7]byte // type, channel, size
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return "", err
	}
	size := binary.BigEndian.Uint32(head[3:])
	if head[0] != 1 || size > 1<<20 {
		return "", fmt.Errorf("got %q, want a method frame", head)
	}
	payload := make([]byte, size)
	_, err = io.ReadFull(conn, payload)
	return string(payload), err
}
