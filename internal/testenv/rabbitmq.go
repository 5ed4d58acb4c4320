package testenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
	t       testing.TB // nil under cmd/withservers
	dir     string
	scripts string // the folder of rabbitmq-server and rabbitmqctl
	ports   *ports // the following
	port    int    // AMQP
	epmd    int    // port of epmd
	dist    int    // port of Erlang's distribution, to which rabbitmqctl talks
	ctl     int    // port of rabbitmqctl's own end of it
	api     int    // port of the management API; 0: without the management plugin

	names  *process // epmd
	server *process
}

// Within these a RabbitMQ starts and stops even on a machine with much else to
// do; usual are 5 to 10 seconds and 1.
const (
	rabbitStarts = 2 * time.Minute
	rabbitStops  = time.Minute
)

// RabbitMQ starts a RabbitMQ without plugins for t and stops it when t ends. It
// takes 5 to 10 seconds: it is for tests that stop, kill or configure the server;
// others use [SharedRabbitMQ].
func RabbitMQ(t testing.TB) *Rabbit {
	t.Helper()
	r, err := newRabbit(t.TempDir(), false)
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

func newRabbit(dir string, management bool) (*Rabbit, error) {
	scripts, err := rabbitScripts()
	if err != nil {
		return nil, err
	}
	r := &Rabbit{dir: dir, scripts: scripts}
	if r.ports, err = takePorts(5); err != nil {
		return nil, err
	}
	n := r.ports.numbers
	r.port, r.epmd, r.dist, r.ctl = n[0], n[1], n[2], n[3]
	if management {
		r.api = n[4]
	}
	return r, r.configure()
}

// rabbitScripts returns the folder with RabbitMQ's own scripts. Debian puts
// wrappers into the path that change to the user rabbitmq, and refuse others.
func rabbitScripts() (string, error) {
	const debian = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	for _, name := range []string{debian, "rabbitmq-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Dir(path), nil
		}
	}
	return "", &missingError{"rabbitmq-server", "apt-get install rabbitmq-server"}
}

// configure writes the node's configuration files.
func (r *Rabbit) configure() error {
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
	cmd := exec.CommandContext(r.t.Context(), filepath.Join(r.scripts, "rabbitmqctl"), append([]string{"--quiet"}, args...)...)
	cmd.Env = r.env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("rabbitmqctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *Rabbit) start(ctx context.Context) error {
	if r.server.running() {
		return errors.New("rabbitmq-server is running already")
	}
	if err := r.startNames(ctx); err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(r.scripts, "rabbitmq-server"))
	cmd.Dir = r.dir
	cmd.Env = r.env()
	var err error
	r.server, err = startProcess(cmd, r.path("rabbitmq.log"))
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
	bin, err := exec.LookPath("epmd")
	if err != nil {
		return &missingError{"epmd", "apt-get install erlang-base"}
	}
	cmd := exec.Command(bin, "-address", "127.0.0.1", "-port", strconv.Itoa(r.epmd))
	cmd.Dir = r.dir
	r.names, err = startProcess(cmd, r.path("epmd.log"))
	if err != nil {
		return err
	}
	return r.names.waitReady(ctx, 30*time.Second, func() bool {
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
		// Two schedulers and few I/O threads: tests run beside each other.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 +SDio 2 -start_epmd false" +
			" -kernel inet_dist_use_interface {127,0,0,1}",
		// The script replaces itself by the Erlang machine, so that the process
		// we start, signal and wait for is the server.
		"RUNNING_UNDER_SYSTEMD=true",
	}
}

func (r *Rabbit) path(name string) string { return filepath.Join(r.dir, name) }

// answersAMQP reports whether the server at addr greets a client: it answers the
// protocol header with a method frame (AMQP 0-9-1, section 2.2.4).
func answersAMQP(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(conn, "AMQP\x00\x00\x09\x01"); err != nil {
		return false
	}
	var frame [1]byte
	_, err = io.ReadFull(conn, frame[:])
	return err == nil && frame[0] == 1
}
