package testenv

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"
)

// childEnv makes TestChild start a Redis, say where and wait to be killed.
const childEnv = "ONCEOVER_TESTENV_CHILD"

func TestMain(m *testing.M) { Main(m) }

func TestRabbitMQKeepsConfirmedMessages(t *testing.T) {
	t.Parallel()
	r := RabbitMQ(t)
	url, addr := r.URL(), r.Addr()
	// No quorum queue: RabbitMQ 3.10 and 4.0 do not find one again that they
	// declared only moments before kill -9.
	publish(t, url, "q", "classic")
	// Mnesia, which holds the declarations before 4.3, has its log written within two
	// seconds: kill -9 before that loses a queue just declared, not only its messages.
	if !r.Version().AtLeast(4, 3) {
		if got := r.Ctl("eval", "mnesia:sync_log()."); strings.TrimSpace(got) != "ok" {
			t.Fatalf("mnesia:sync_log(): got %q, want ok", got)
		}
	}

	r.Kill()
	r.Start()
	if r.URL() != url || r.Addr() != addr {
		t.Fatalf("after kill -9 and start: got %s, want the same address %s", r.URL(), url)
	}
	if got := peek(t, url, "q"); got != "hello" {
		t.Errorf("after kill -9 and start: got %q, want %q", got, "hello")
	}
	if got := r.Ctl("list_vhosts"); !strings.Contains(got, "/") {
		t.Errorf("rabbitmqctl list_vhosts: got %q, want /", got)
	}
	for _, p := range []*process{r.server, r.names} {
		if !p.running() {
			t.Errorf("%s: got ended, want running", p.name)
		}
	}
	r.Stop()
	r.end()
	for _, port := range r.ports.numbers {
		if listens(port) {
			t.Errorf("port %d: got a listener after the end, want none", port)
		}
	}
}

func TestVirtualHostsAreSeparate(t *testing.T) {
	t.Parallel()
	amqpURL, apiURL := os.Getenv(amqpEnv), os.Getenv(apiEnv)
	if apiURL == "" {
		s, err := StartServers(t.Context(), t.TempDir())
		t.Cleanup(s.Stop)
		check(t, err)
		for _, e := range s.Env() {
			switch name, value, _ := strings.Cut(e, "="); name {
			case amqpEnv:
				amqpURL = value
			case apiEnv:
				apiURL = value
			}
		}
	}
	var first string
	t.Run("owner", func(t *testing.T) {
		first = newVirtualHost(t, amqpURL, apiURL)
		second := newVirtualHost(t, amqpURL, apiURL)
		if first == second {
			t.Fatalf("virtual hosts: got %s twice, want two", first)
		}
		publish(t, first, "q", "quorum")
		ch := channel(t, second)
		if _, err := ch.QueueDeclarePassive("q", true, false, false, false, nil); err == nil {
			t.Error("queue of the other virtual host: got it, want not found")
		}
	})
	conn, err := amqp.Dial(first)
	if err == nil {
		_ = conn.Close()
		t.Error("virtual host after its test: got a connection, want refused")
	}
}

func TestRedisKeepsDataWhenKilled(t *testing.T) {
	t.Parallel()
	r := Redis(t)
	client := redis.NewClient(&redis.Options{Addr: r.Addr(), DB: 15, MaxRetries: -1})
	defer client.Close()
	ctx := t.Context()
	if err := client.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}

	r.Kill()
	if listens(r.ports.numbers[0]) {
		t.Error("after kill -9: got a listener, want none")
	}
	r.Start()
	if got, err := client.Get(ctx, "k").Result(); got != "v" || err != nil {
		t.Errorf("after kill -9: got %q, %v, want %q", got, err, "v")
	}
	r.Restart()
	if got, err := client.Get(ctx, "k").Result(); got != "v" || err != nil {
		t.Errorf("after restart: got %q, %v, want %q", got, err, "v")
	}
	if !strings.HasPrefix(r.URL(), "redis://127.0.0.1:") {
		t.Errorf("URL: got %s, want redis://127.0.0.1:PORT", r.URL())
	}
}

func TestRedisTakesOptions(t *testing.T) {
	t.Parallel()
	r := Redis(t, "--maxmemory-policy", "allkeys-lru", "--appendonly", "no")
	client := redis.NewClient(&redis.Options{Addr: r.Addr()})
	defer client.Close()
	got, err := client.ConfigGet(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for option, want := range map[string]string{
		"maxmemory-policy": "allkeys-lru", "appendonly": "no", "databases": "16", "save": "", "bind": "127.0.0.1",
	} {
		if got[option] != want {
			t.Errorf("%s: got %q, want %q", option, got[option], want)
		}
	}
}

// TestServerEndsWithKilledTest kills a test binary that has started a Redis and
// looks whether the Redis ends too.
func TestServerEndsWithKilledTest(t *testing.T) {
	t.Parallel()
	endsWithKilledTest(t, "")
}

func TestNewestServerEndsWithKilledTest(t *testing.T) {
	t.Parallel()
	check(t, (&RedisServer{}).findProgram("valkey-newest"))
	endsWithKilledTest(t, "valkey-newest")
}

func TestChild(t *testing.T) {
	if os.Getenv(childEnv) != "1" {
		return
	}
	r := Redis(t)
	_, _ = os.Stdout.WriteString("redis at " + r.Addr() + "\n")
	<-t.Context().Done() // until killed
}

func endsWithKilledTest(t *testing.T, release string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Log("not Linux: no parent-death signal to test")
		return
	}
	dir := t.TempDir() // the killed child cannot remove its own
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"=1", "TMPDIR="+dir, redisReleaseEnv+"="+release)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := ""
	for lines := bufio.NewScanner(stdout); addr == "" && lines.Scan(); {
		_, addr, _ = strings.Cut(lines.Text(), "redis at ")
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("child's Redis at %q: %v", addr, err)
	}
	defer conn.Close()

	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("Redis after the test was killed: got %v, want the connection closed", err)
	}
}

func TestProcessThatEndsEarlyShowsItsLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := newRedis(dir, "", "--no-such-option", "yes")
	check(t, err)
	err = r.start(t.Context())
	if err == nil {
		r.kill()
		t.Fatal("got no error, want one")
	}
	if !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("got %v, want the server's own message", err)
	}
}

func TestMissing(t *testing.T) {
	missing := &missingError{what: "redis-server", hint: "apt-get install redis-server"}
	if got, want := missing.Error(), "redis-server not found; run scripts/setup, or: apt-get install redis-server"; got != want {
		t.Errorf("message: got %q, want %q", got, want)
	}
	release := &missingError{what: "rabbitmq 4.3 (there is: 3.10.8)", hint: "scripts/servers forky", release: true}
	if got, want := release.Error(), "rabbitmq 4.3 (there is: 3.10.8) not found; run scripts/servers forky"; got != want {
		t.Errorf("message: got %q, want %q", got, want)
	}
	for _, c := range []struct {
		err         error
		require     string
		notCompared string
		want        string
	}{
		{missing, "", "", "skip"},
		{missing, "1", "", "fail"},
		{missing, "1", newerServers, "fail"},
		{release, "", "", "skip"},
		{release, "1", "imagehash", "fail"},
		{release, "1", "imagehash," + newerServers, "skip: " + NotCompared + release.Error()},
	} {
		t.Setenv(requireEnv, c.require)
		t.Setenv(notComparedEnv, c.notCompared)
		tb := &recorder{TB: t}
		check(tb, c.err)
		if tb.got != c.want {
			t.Errorf("%v with %s=%q, %s=%q: got %q, want %q", c.err, requireEnv, c.require, notComparedEnv, c.notCompared, tb.got, c.want)
		}
	}
}

func TestPython(t *testing.T) {
	t.Run("path", func(t *testing.T) {
		python := Python(t, "celery", "redis")
		out, err := exec.Command(python, "-c", "import celery; print(celery.__version__)").CombinedOutput()
		if err != nil {
			t.Errorf("import celery: %v\n%s", err, out)
		}
	})
	t.Run("missing module", func(t *testing.T) {
		python, err := exec.LookPath("python3")
		if err != nil {
			check(t, &missingError{what: "python3", hint: "apt-get install python3"})
		}
		err = hasModules(python, []string{"json", "onceover_no_such_module"})
		if err == nil || !strings.HasPrefix(err.Error(), "Python module onceover_no_such_module not found") {
			t.Errorf("got %v, want onceover_no_such_module not found", err)
		}
	})
	t.Run("not compared", func(t *testing.T) {
		t.Setenv(notComparedEnv, "imagehash,msgpack")
		for module, want := range map[string]bool{"imagehash": true, "msgpack": true, "celery": false, "": false} {
			if got := notCompared(module); got != want {
				t.Errorf("%q: got %v, want %v", module, got, want)
			}
		}
	})
}

func TestModuleRoot(t *testing.T) {
	t.Parallel()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "internal", "testenv", "doc.go")); err != nil {
		t.Errorf("got %s, want the folder of this module", root)
	}
}

// recorder notes how a test would have ended.
type recorder struct {
	testing.TB
	got string
}

func (r *recorder) Helper() {}
func (r *recorder) Skip(...any) {
	if r.got == "" {
		r.got = "skip"
	}
}
func (r *recorder) Skipf(format string, args ...any) {
	if r.got == "" {
		r.got = "skip: " + fmt.Sprintf(format, args...)
	}
}
func (r *recorder) Fatal(...any) {
	if r.got == "" {
		r.got = "fail"
	}
}

// channel dials url and returns a channel; both end with t.
func channel(t *testing.T, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// publish declares a durable queue of kind and leaves one persistent, confirmed message.
func publish(t *testing.T, url, queue, kind string) {
	t.Helper()
	ch := channel(t, url)
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": kind}); err != nil {
		t.Fatal(err)
	}
	confirm, err := ch.PublishWithDeferredConfirm("", queue, true, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte("hello")})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := confirm.WaitContext(t.Context()); !ok || err != nil {
		t.Fatalf("confirm: got %v, %v, want an ack", ok, err)
	}
}

// peek returns the first message of queue and leaves it there. It waits for the
// message: a quorum queue first elects its leader and takes back what a
// connection before the restart had not acknowledged.
func peek(t *testing.T, url, queue string) string {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // returns the message
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-deliveries:
		return string(d.Body)
	case <-time.After(time.Minute):
		return ""
	}
}

func listens(port int) bool {
	conn, err := net.Dial("tcp", loopback(port))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
