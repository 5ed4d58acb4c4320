package testenv

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// TestNewestRabbitMQ runs the RabbitMQ of a root as TestRabbitMQKeepsConfirmedMessages
// runs the machine's.
func TestNewestRabbitMQ(t *testing.T) {
	t.Parallel()
	r := RabbitMQRelease(t, "newest", "consumer_timeout = 123456")
	if v := r.Version(); v != r.programs.version || !v.AtLeast(4, 3) {
		t.Errorf("version: got %s, want %s and no older than 4.3", v, r.programs.version)
	}
	if got := r.Ctl("environment"); !strings.Contains(got, "{consumer_timeout,123456}") {
		t.Errorf("environment: got %q, want the line of rabbitmq.conf in it", got)
	}
	addr := r.Addr()
	publish(t, r.URL(), "q", "quorum")
	r.Restart()
	if got := peek(t, r.URL(), "q"); got != "hello" || r.Addr() != addr {
		t.Errorf("after a restart: got %q at %s, want %q at %s", got, r.Addr(), "hello", addr)
	}
	r.Kill()
	r.Start()
	if got := peek(t, r.URL(), "q"); got != "hello" {
		t.Errorf("after kill -9: got %q, want %q", got, "hello")
	}
	expectNoMounts(t, r.programs.root)
	r.end()
	for _, port := range r.ports.numbers {
		if listens(port) {
			t.Errorf("port %d: got a listener after the end, want none", port)
		}
	}
}

func TestNewestRedis(t *testing.T) {
	t.Parallel()
	for _, release := range []string{"redis-newest", "valkey-newest"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			r := RedisRelease(t, release, "--maxmemory", "8mb")
			client := redis.NewClient(&redis.Options{Addr: r.Addr()})
			defer client.Close()
			product, version, _ := strings.Cut(r.Version(), " ")
			info, err := client.Info(t.Context(), "server").Result()
			if err != nil || !strings.Contains(info, product+"_version:"+version+"\r\n") {
				t.Errorf("INFO: got %q, %v, want %s_version:%s", info, err, product, version)
			}
			if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
				t.Fatal(err)
			}
			r.Kill()
			r.Start()
			if got, err := client.Get(t.Context(), "k").Result(); got != "v" || err != nil {
				t.Errorf("after kill -9: got %q, %v, want %q", got, err, "v")
			}
			r.Restart()
			expectNoMounts(t, r.programs.root)
		})
	}
}

// expectNoMounts looks that nothing is mounted below root for this process.
func expectNoMounts(t *testing.T, root string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), root+"/") {
		t.Errorf("mounts: got one below %s, want none:\n%s", root, mounts)
	}
}

func TestFindPrograms(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(rootsEnv, dir)
	for suite, list := range map[string]string{
		"trixie": "rabbitmq 4.0.5\nredis 8.0.2\nvalkey 8.1.1\n",
		"forky":  "rabbitmq 4.30.6\nvalkey 9.1.2\n",
	} {
		if err := errors.Join(
			os.Mkdir(filepath.Join(dir, suite), 0o700),
			os.WriteFile(filepath.Join(dir, suite, "releases"), []byte(list), 0o600),
		); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "without-list"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ product, release, root, version string }{
		{"rabbitmq", "4.0", "trixie", "4.0.5"},
		{"rabbitmq", "4.0.5", "trixie", "4.0.5"},
		{"rabbitmq", "4.30", "forky", "4.30.6"},
		{"valkey", "9", "forky", "9.1.2"},
		{"redis", "8.0", "trixie", "8.0.2"},
		{"rabbitmq", "newest", "forky", "4.30.6"},
		{"valkey", "newest", "forky", "9.1.2"},
		{"redis", "newest", "trixie", "8.0.2"},
	} {
		got, err := findPrograms(c.product, c.release)
		if err != nil || filepath.Base(got.root) != c.root || got.version != Version(c.version) {
			t.Errorf("%s %s: got %v, %v, want %s in %s", c.product, c.release, got, err, c.version, c.root)
		}
	}
	for _, c := range [][2]string{{"rabbitmq", "4.3"}, {"valkey", "7"}, {"rabbitmq", "4."}} {
		_, err := findPrograms(c[0], c[1])
		var missing *missingError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s %s: got %v, want it named as missing", c[0], c[1], err)
		}
	}
	t.Setenv(rootsEnv, t.TempDir())
	if got, err := findPrograms("redis", "newest"); err == nil {
		t.Errorf("newest without any root: got %v, want it missing", got)
	}
	if got, err := findPrograms("rabbitmq", ""); got.root != "" || err != nil {
		t.Errorf("no release: got %v, %v, want the machine's", got, err)
	}
}

// TestMachineVersion compares what the files say with what the servers say.
func TestMachineVersion(t *testing.T) {
	t.Parallel()
	r := RedisRelease(t, "")
	client := redis.NewClient(&redis.Options{Addr: r.Addr()})
	defer client.Close()
	info, err := client.Info(t.Context(), "server").Result()
	version := machineVersion("redis")
	if err != nil || !strings.Contains(info, "redis_version:"+string(version)+"\r\n") {
		t.Errorf("INFO: got %q, %v, want redis_version:%s", info, err, version)
	}
	if url := os.Getenv(amqpEnv); url != "" && os.Getenv(rabbitReleaseEnv) == "" {
		if got, want := machineVersion("rabbitmq"), RabbitMQVersion(t, url); got != want {
			t.Errorf("RabbitMQ: got %s, want %s as the server says", got, want)
		}
	}
	if p, err := findPrograms("redis", string(version)); err != nil || p.root != "" {
		t.Errorf("redis %s: got %v, %v, want the machine's", version, p, err)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version      Version
		major, minor int
		want         bool
	}{
		{"3.10.8", 3, 10, true}, {"3.10.8", 3, 9, true}, {"3.10.8", 3, 11, false}, {"3.10.8", 4, 0, false},
		{"4.0.5", 3, 12, true}, {"4.0.5", 4, 0, true}, {"4.0.5", 4, 3, false}, {"4.10.1", 4, 9, true}, {"", 0, 0, false}, {"x", 0, 0, false},
	} {
		if got := c.version.AtLeast(c.major, c.minor); got != c.want {
			t.Errorf("%q at least %d.%d: got %v, want %v", c.version, c.major, c.minor, got, c.want)
		}
	}
}

func TestSplitRedis(t *testing.T) {
	t.Parallel()
	for release, want := range map[string][2]string{
		"": {"redis", ""}, "redis-8.0": {"redis", "8.0"}, "valkey-9": {"valkey", "9"},
	} {
		product, version, err := splitRedis(release)
		if got := [2]string{product, version}; got != want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", release, got, err, want)
		}
	}
	for _, release := range []string{"8.0", "valkey", "valkey-", "keydb-6"} {
		if _, _, err := splitRedis(release); err == nil || !strings.Contains(err.Error(), release) {
			t.Errorf("%q: got %v, want it refused by name", release, err)
		}
	}
}
