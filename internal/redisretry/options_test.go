package redisretry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
)

// python runs testdata/read_urls.py on urls.
func python[T any](t *testing.T, urls []string, args ...string) []T {
	t.Helper()
	in, err := json.Marshal(urls)
	if err != nil {
		t.Fatal(err)
	}
	var complaint bytes.Buffer
	cmd := exec.Command(testenv.Python(t, "celery", "redis"), append([]string{"testdata/read_urls.py"}, args...)...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, complaint.String())
	}
	var all []T
	if err := json.Unmarshal(out, &all); err != nil || len(all) != len(urls) {
		t.Fatalf("got %s, %v, want %d answers", out, err, len(urls))
	}
	return all
}

type reading struct {
	Addr       string
	DB         int
	Username   string
	Password   string
	TLS        bool
	ClientName string `json:"client_name"`
}

func TestOptionsAsPython(t *testing.T) {
	urls := []string{
		"redis://", "redis://h", "redis://h/", "redis:///3", "redis://h:1/2", "redis://h:1//3", "redis://h:1/2/", "redis://h:1/2#note", "redis://[::1]:6380/1",
		"redis://u:p@h/0", "redis://:p@h", "redis://u@h", "redis://u:p%40ss@h/0", `redis://:p^s"s|{}@h:1/0`, "redis://:100%safe@h:1/0", "redis://:a:b@h:1/0", "redis://:a@b@h:1/0", "redis://h?username=u&password=p%26",
		"redis://h:1/2?db=5", "redis://h:1?db=5", "redis://h:1/2?client_name=a+b", "redis+redis://h:1/2", "redis+rediss://h:1/2?ssl_cert_reqs=none",
		"rediss://h:1/2", "rediss://h:1/2?ssl_cert_reqs=required", "rediss://h:1/2?ssl_cert_reqs=optional", "rediss://h:1/2?ssl_cert_reqs=none", "rediss://h:1/2?ssl_cert_reqs=CERT_REQUIRED",
		"rediss://h:1/2?ssl_cert_reqs=CERT_OPTIONAL", "rediss://h:1/2?ssl_cert_reqs=CERT_NONE", "rediss://h:1/2?ssl_cert_reqs=bogus", "rediss://h:1/2?ssl_cert_reqs=REQUIRED", "rediss://h:1/2?ssl_cert_reqs=required&ssl_check_hostname=no",
		"rediss://h:1/2?ssl_cert_reqs=required&ssl_min_version=772", "rediss://h:1/2?ssl_cert_reqs=required&ssl_min_version=TLSv1",
		"redis://h:1/2?ssl_cert_reqs=none", "redis://h:1/2?ssl_check_hostname=false", "redis://h:1/2?ssl_ca_certs=/x",
		"redis://h:1/2?socket_timeout=5&socket_connect_timeout=2.5&socket_keepalive=true&retry_on_timeout=1&health_check_interval=30&max_connections=20&protocol=3&client_name=me",
		"redis://h:1/2?socket_timeout=abc", "redis://h:1/2?socket_timeout=", "redis://h:1/2?protocol=2", "redis://h:1/2?protocol=4", "redis://h:1/2?max_connections=-1", "redis://h:1/2?max_connections=many",
		"redis://h:1/2?decode_responses=True&encoding=utf-8&encoding_errors=strict&retry_on_error=x&socket_read_size=1024&lib_name=x&lib_version=1&legacy_responses=0&socket_keepalive_options=x",
		"redis+socket:///tmp/r.sock?virtual_host=3", "redis+socket:///tmp/r.sock?db=4", "redis+socket:///tmp/r.sock?db=4&virtual_host=3", "redis+socket:///tmp/r.sock", "redis+socket://:pw@/tmp/r.sock?virtual_host=3",
		"redis+socket://u:pw@/tmp/a%20b.sock", "rediss+socket:///tmp/r.sock?virtual_host=3", "redis+socket:///tmp/r.sock?socket_timeout=5&socket_connect_timeout=3",
		"unix:///tmp/r.sock?db=3", "unix://:pw@/tmp/r.sock?db=3", "unix:///tmp/r.sock",
		"socket:///tmp/r.sock", "redis://h:1/2?foo=bar", "redis://h:1/2?timeout=20", "redis://h:1/2?global_keyprefix=x", "REDIS://h:1/2", "redis://h:port/2", "redis://h:1/2?db=x", "http://h:1/2", "redis:h", "",
	}
	for i, want := range python[*reading](t, urls) {
		var got *reading
		opt, err := redisretry.Options(urls[i])
		if err == nil {
			addr := opt.Addr
			if host, port, err := net.SplitHostPort(addr); err == nil {
				addr = host + " " + port
			}
			got = &reading{addr, opt.DB, opt.Username, opt.Password, opt.TLSConfig != nil, opt.ClientName}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %v (-Python's +ours):\n%s", urls[i], err, diff)
		}
	}
}

// TestOptionsRefuse: an error names the parameter, says what was expected, and has no
// password in it. Some of these Python takes and reads otherwise than it says.
func TestOptionsRefuse(t *testing.T) {
	for url, want := range map[string]string{
		"redis://h?foo=hunter2":                                `parameter "foo" is not known: expected one of db virtual_host`,
		"redis://h?socket_timeout=hunter2":                     "parameter socket_timeout: expected a number of seconds",
		"redis://h?socket_timeout=-1":                          "parameter socket_timeout: expected a number of seconds",
		"redis://h?socket_connect_timeout=nan":                 "parameter socket_connect_timeout: expected a number of seconds",
		"redis://h?read_timeout=hunter2":                       "parameter read_timeout: the value cannot be read",
		"redis://h?db=1&db=2":                                  `parameter "db" is given 2 times`,
		"redis://h?db=-1":                                      "parameter db: expected a number",
		"redis://h?virtual_host=3":                             "parameter virtual_host: it names the database of a redis+socket:// URL only",
		"redis://h/abc":                                        "the path is not the number of a database",
		"redis://h/1/2":                                        "the path is not the number of a database",
		"redis://h?ssl_ca_certs=/x":                            "parameter ssl_ca_certs: the URL is not one with TLS: expected rediss://",
		"rediss://h?ssl_cert_reqs=hunter2":                     "parameter ssl_cert_reqs: expected required, optional or none",
		"rediss://h?ssl_ca_certs=/nowhere/ca.pem":              "parameter ssl_ca_certs: open /nowhere/ca.pem",
		"rediss://h?ssl_ca_certs=options_test.go":              "parameter ssl_ca_certs: there is no certificate in PEM in options_test.go",
		"rediss://h?ssl_ca_path=testdata":                      "parameter ssl_ca_path: no file of testdata",
		"rediss://h?ssl_certfile=/nowhere/c.pem":               "parameters ssl_certfile and ssl_keyfile: open /nowhere/c.pem",
		"rediss://h?ssl_keyfile=/nowhere/k.pem":                "parameters ssl_certfile and ssl_keyfile",
		"rediss://h?ssl_password=hunter2":                      "parameter ssl_password: an encrypted key is not accepted",
		"rediss://h?ssl_validate_ocsp=true":                    `parameter "ssl_validate_ocsp" is not known`,
		"redis://u:hunter2@h:x/0":                              "host and port cannot be read",
		"redis://:hun#ter2@h":                                  "host and port cannot be read",
		"redis://:hun/ter2@h":                                  "host and port cannot be read",
		"redis://:p@h?password=%zzhunter2":                     "the parameters cannot be read",
		"redis+socket://:hunter2@/?virtual_host=1":             "no path of a socket",
		"sentinel://:hunter2@h:26379/mymaster":                 "the scheme is not one of Redis",
		"hunter2":                                              "it is not a URL",
		"redis":                                                "it is not a URL",
		"redis://:12?hunter2=1@h:1/0":                          "host and port cannot be read",
		"redis://:12#hunter2@h:1/0":                            "host and port cannot be read",
		"redis://h?" + strings.Repeat("x", 500) + "hunter2=1":  "is not known",
		"redis://u:hunter2@h?max_connections=9999999999":       "parameter max_connections: expected a number",
		"redis+socket:///run/r.sock?ssl_cert_reqs=none&db=1":   "parameter ssl_cert_reqs: the URL is not one with TLS",
		"rediss://h?ssl_cert_reqs=none&ssl_min_version=TLS1.2": "parameter ssl_min_version: expected Python's number",
		"rediss://h?ssl_cert_reqs=none&ssl_ca_data=hunter2":    "parameter ssl_ca_data: there is no certificate",
		"redis://h?protocol=hunter2":                           "parameter protocol: expected 2 or 3",
	} {
		_, err := redisretry.Options(url)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%.80s: got %v, want %q and no password", url, err, want)
		}
	}
}

func TestOptionsAreApplied(t *testing.T) {
	opt, err := redisretry.Options("redis://h:1/2?socket_timeout=5&socket_connect_timeout=2.5&max_connections=20&protocol=2&min_idle_conns=3")
	if err != nil {
		t.Fatal(err)
	}
	if opt.ReadTimeout != 5*time.Second || opt.WriteTimeout != 5*time.Second || opt.DialTimeout != 2500*time.Millisecond || opt.PoolSize != 20 || opt.Protocol != 2 || opt.MinIdleConns != 3 {
		t.Errorf("got %+v", opt)
	}
	if opt.MaxRetries != -1 || opt.DialerRetries != 1 || !opt.ContextTimeoutEnabled {
		t.Errorf("got retries %d and %d, deadlines %v, want none behind a guard", opt.MaxRetries, opt.DialerRetries, opt.ContextTimeoutEnabled)
	}
}

func TestOnDB(t *testing.T) {
	for url, want := range map[string]string{
		"redis://h:1":                                "redis://h:1/7",
		"rediss://u:p%40@h:1/":                       "rediss://u:p%40@h:1/7",
		"redis://:p|@h/0":                            "redis://:p|@h/7",
		"redis://:7@h/7#x":                           "redis://:7@h/7",
		"redis://h/3?db=4&socket_timeout=5":          "redis://h/7?socket_timeout=5",
		"redis+socket:///run/r.sock":                 "redis+socket:///run/r.sock?db=7",
		"redis+socket:///run/r.sock?virtual_host=2":  "redis+socket:///run/r.sock?db=7",
		"unix:///run/r.sock?db=1&socket_timeout=1.5": "unix:///run/r.sock?db=7&socket_timeout=1.5",
	} {
		got, err := redisretry.OnDB(url, 7)
		if err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", url, got, err, want)
			continue
		}
		if opt, err := redisretry.Options(got); err != nil || opt.DB != 7 {
			t.Errorf("%s: got %+v, %v, want database 7", got, opt, err)
		}
	}
	if _, err := redisretry.OnDB("redis://h?foo=1", 7); err == nil {
		t.Error("an unknown parameter: got no error")
	}
}

// TestSocket connects as Celery does to a socket, with a password.
func TestSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "r.sock")
	testenv.Redis(t, "--unixsocket", socket, "--requirepass", "p^s s")
	urls := []string{"redis+socket://:p^s%20s@" + socket + "?virtual_host=3", "redis+socket://" + socket}
	want := python[bool](t, urls, "--connect")
	if !want[0] || want[1] {
		t.Fatalf("Celery connects: %v", want)
	}
	for i, url := range urls {
		if err := ping(t, url); (err == nil) != want[i] {
			t.Errorf("%s: got %v, Celery connects: %v", url, err, want[i])
		}
	}
}

func ping(t *testing.T, url string) error {
	t.Helper()
	opt, err := redisretry.Options(url)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	defer client.Close()
	return client.Ping(t.Context()).Err()
}

// TestMaxConnections counts the connections of a client that is asked by many at once.
func TestMaxConnections(t *testing.T) {
	server := testenv.Redis(t)
	opt, err := redisretry.Options(server.URL() + "?max_connections=2")
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	defer client.Close()
	before := opened(t, client) // by the test's server, and the first of the client
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 20 {
				if _, err := client.Pipelined(t.Context(), func(p redis.Pipeliner) error { p.Ping(context.Background()); return nil }); err != nil {
					t.Error(err)
				}
				if err := client.Ping(t.Context()).Err(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if more := opened(t, client) - before; more > 1 {
		t.Errorf("the client has opened %d connections, want at most 2", 1+more)
	}
}

// opened is how many connections the server has taken since it started.
func opened(t *testing.T, client *redis.Client) int {
	t.Helper()
	info, err := client.Info(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "total_connections_received:")
	digits, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
