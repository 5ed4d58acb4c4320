// Package suite runs Celery's own integration tests against examples/integration.
// The tests are those of the source distribution of the Celery that the tests
// use; nothing of them is stored here but their names.
package suite

import (
	"context"
	"encoding/xml"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"onceover/internal/testenv"
)

// node is the worker's name.
const node = "suite@onceover"

// report is pytest's, in JUnit's form.
type report struct {
	Suites []struct {
		Cases []struct {
			Class    string  `xml:"classname,attr"`
			Name     string  `xml:"name,attr"`
			Seconds  float64 `xml:"time,attr"`
			Failures []fault `xml:"failure"`
			Errors   []fault `xml:"error"`
			Skipped  []fault `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

type fault struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// TestCeleryIntegration runs the tests named in some.txt; with
// ONCEOVER_TEST_SUITE=all those in all.txt, which takes about ten minutes.
func TestCeleryIntegration(t *testing.T) {
	t.Parallel()
	sources := os.Getenv("ONCEOVER_TEST_CELERY_SOURCE")
	if sources == "" {
		t.Fatal("ONCEOVER_TEST_CELERY_SOURCE is not set: run the tests by scripts/test, which has Celery's source from PyPI")
	}
	list, limit := "some.txt", 4*time.Minute
	if os.Getenv("ONCEOVER_TEST_SUITE") == "all" {
		list, limit = "all.txt", 25*time.Minute
	}
	list, err := filepath.Abs(list)
	if err != nil {
		t.Fatal(err)
	}
	plugin, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	broker, store := testenv.SharedRabbitMQ(t), testenv.Redis(t)
	host, port, err := net.SplitHostPort(mustParse(t, store.URL()).Host)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	redisEnv := []string{"REDIS_HOST=" + host, "REDIS_PORT=" + port}
	worker := startWorker(t, dir, append(redisEnv,
		"ONCEOVER_BROKER_URL="+broker, "ONCEOVER_REDIS_URL="+store.URL(), "ONCEOVER_NODE_NAME="+node,
		"ONCEOVER_QUEUES=celery", "ONCEOVER_CONCURRENCY=1", "ONCEOVER_PREFETCH_MULTIPLIER=4", "ONCEOVER_RESULT_EXTENDED=true"))

	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	sent, junit := filepath.Join(dir, "sent"), filepath.Join(dir, "junit.xml")
	python := testenv.Python(t, "celery", "redis", "pytest", "pytest_timeout", "pydantic")
	ids := lines(t, list)
	args := []string{"-m", "pytest", "-p", "celery.contrib.pytest", "-p", "plugin",
		"-p", "no:cacheprovider", "-q", "-W", "ignore", "--tb=short", "--junitxml=" + junit, "-o", "timeout=100"}
	for _, id := range ids {
		if file, _, _ := strings.Cut(id, "::"); !slices.Contains(args, file) {
			args = append(args, file)
		}
	}
	cmd := exec.CommandContext(ctx, python, args...)
	cmd.Dir = sources
	cmd.Env = append(append(os.Environ(), redisEnv...),
		"TEST_BROKER="+broker, "TEST_BACKEND="+store.URL()+"/0", "PYTHONPATH="+plugin, "PYTHONDONTWRITEBYTECODE=1",
		"SUITE_NODE="+node, "SUITE_PID="+strconv.Itoa(worker.Process.Pid), "SUITE_TESTS="+list, "SUITE_SENT="+sent)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) } // it still writes its report
	cmd.WaitDelay = 10 * time.Second
	out, runErr := cmd.CombinedOutput()

	var r report
	doc, err := os.ReadFile(junit)
	if err == nil {
		err = xml.Unmarshal(doc, &r)
	}
	if err != nil || len(r.Suites) == 0 {
		t.Fatalf("pytest: %v, its report: %v\n%s", runErr, err, out)
	}
	passed := 0
	for _, c := range r.Suites[0].Cases {
		t.Run(c.Class+"::"+c.Name, func(t *testing.T) {
			for _, f := range append(append(c.Failures, c.Errors...), c.Skipped...) {
				t.Errorf("%s\n%s", f.Message, f.Text)
			}
		})
		passed++
	}
	if passed < len(ids) {
		t.Errorf("got %d tests run, want %d (pytest: %v)\n%s", passed, len(ids), runErr, tail(out))
	}
	if n := len(lines(t, sent)); n < passed/2 {
		t.Errorf("got %d tasks sent by %d tests: they do not ask the worker", n, passed)
	}
}

func mustParse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// startWorker builds and starts the example, and stops it at the test's end.
func startWorker(t testing.TB, dir string, env []string) *exec.Cmd {
	t.Helper()
	program := filepath.Join(dir, "integration")
	if out, err := exec.Command("go", "build", "-race", "-buildvcs=false", "-o", program, "onceover/examples/integration").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	log := &waiter{}
	cmd := exec.Command(program)
	cmd.Env = append(append(os.Environ(), "ONCEOVER_DELAYED_DELIVERY=false"), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		force := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
		defer force.Stop()
		_ = cmd.Wait() // not 0 when jobs were left, as some tests do
		if strings.Contains(log.String(), "DATA RACE") || t.Failed() {
			t.Logf("the worker's log:\n%s", tail([]byte(log.String())))
		}
		if strings.Contains(log.String(), "DATA RACE") {
			t.Error("data race in the worker")
		}
	})
	return cmd
}

// lines are those of a file that say something.
func lines(t *testing.T, name string) (out []string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func tail(out []byte) []byte { return out[max(0, len(out)-8000):] }
