package suite

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"onceover/internal/testenv"
)

// TestMixedFleet has chords worked off by a Python worker and by ours at the same
// time: each counts its parts of the header, and either may be the one to send
// the body. Producer, reader and Python worker are the newest Celery, and 5.2.
func TestMixedFleet(t *testing.T) {
	for _, python := range []string{"", "old"} {
		t.Run("celery "+python, func(t *testing.T) {
			t.Parallel()
			if python == "" {
				mixedFleet(t, testenv.Python(t, "celery", "redis"))
			} else {
				mixedFleet(t, testenv.OldPython(t))
			}
		})
	}
}

func mixedFleet(t *testing.T, python string) {
	broker, store := testenv.SharedRabbitMQ(t), testenv.Redis(t)
	env := append(os.Environ(), "TEST_BROKER="+broker, "TEST_BACKEND="+store.URL()+"/0", "PYTHONDONTWRITEBYTECODE=1")

	other := exec.Command(python, "mixed.py", "worker")
	other.Env = env
	ready := &waiter{}
	other.Stdout, other.Stderr = ready, ready
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		other.Process.Signal(syscall.SIGTERM)
		force := time.AfterFunc(20*time.Second, func() { other.Process.Kill() })
		defer force.Stop()
		_ = other.Wait() // it has done its part
	})
	ready.wait(t, " ready.")
	startWorker(t, t.TempDir(), []string{"ONCEOVER_BROKER_URL=" + broker, "ONCEOVER_REDIS_URL=" + store.URL(),
		"ONCEOVER_NODE_NAME=" + node, "ONCEOVER_QUEUES=celery", "ONCEOVER_CONCURRENCY=2", "ONCEOVER_RESULT_EXTENDED=true",
		"ONCEOVER_MINGLE=false"})

	const chords, size = 20, 10
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "mixed.py", "client", "20", "10")
	cmd.Env = env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("client: %v\n%s", err, stderr.String())
	}
	var got struct {
		Sums     []int
		Failures []string
		Ran      map[string]int
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(got.Sums) != 2*chords || len(got.Failures) != chords {
		t.Fatalf("got %d sums and %d failures, want %d and %d", len(got.Sums), len(got.Failures), 2*chords, chords)
	}
	for i := range chords {
		if want := i*size + size*(size-1)/2; got.Sums[i] != want {
			t.Errorf("chord %d: got %d, want %d", i, got.Sums[i], want)
		}
		if want := 6 + i + 1 + 100; got.Sums[chords+i] != want {
			t.Errorf("nested chord %d: got %d, want %d", i, got.Sums[chords+i], want)
		}
		// Where the header's own failure was seen first, that is raised.
		if f := got.Failures[i]; f != "ChordError" && f != "ValueError" && f != "ExpectedException" {
			t.Errorf("failing chord %d: got %s raised", i, f)
		}
	}
	if got.Ran["python@mixed"] == 0 || got.Ran[node] == 0 || got.Ran["python@mixed"]+got.Ran[node] != chords*size {
		t.Errorf("got parts run by %v, want some by either worker, %d in all", got.Ran, chords*size)
	}
	if keys := leftovers(t, store.URL()); len(keys) > 0 {
		t.Errorf("keys without a TTL: %v", keys)
	}
}

// TestRPCResults has clients of both versions wait for results by message.
func TestRPCResults(t *testing.T) {
	t.Parallel()
	broker, store := testenv.SharedRabbitMQ(t), testenv.Redis(t)
	startWorker(t, t.TempDir(), []string{"ONCEOVER_BROKER_URL=" + broker, "ONCEOVER_REDIS_URL=" + store.URL(), "CELERY_RESULT_BACKEND=rpc://",
		"ONCEOVER_NODE_NAME=" + node, "ONCEOVER_QUEUES=celery", "ONCEOVER_MINGLE=false"})
	for _, python := range []string{testenv.Python(t, "celery"), testenv.OldPython(t)} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		cmd := exec.CommandContext(ctx, python, "mixed.py", "rpc")
		cmd.Env = append(os.Environ(), "TEST_BROKER="+broker, "TEST_BACKEND=rpc://", "PYTHONDONTWRITEBYTECODE=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		cancel()
		if got, want := strings.TrimSpace(string(out)), `[5, 13, "ExpectedException"]`; err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s\n%s", python, got, err, want, stderr.String())
		}
	}
}

// TestNativeDelayedDelivery has the newest Celery send a task with a countdown to
// a quorum queue: it goes through the delays that our worker declares.
func TestNativeDelayedDelivery(t *testing.T) {
	t.Parallel()
	broker, store := testenv.SharedRabbitMQ(t), testenv.Redis(t)
	log := startWorker(t, t.TempDir(), []string{"ONCEOVER_BROKER_URL=" + broker, "ONCEOVER_REDIS_URL=" + store.URL(),
		"ONCEOVER_NODE_NAME=" + node, "ONCEOVER_QUEUES=q.ai", "ONCEOVER_MINGLE=false", "ONCEOVER_RESULT_EXTENDED=true", "ONCEOVER_DELAYED_DELIVERY=true"}).Stderr.(*waiter)
	log.wait(t, "native delayed delivery declared")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, testenv.Python(t, "celery", "redis"), "mixed.py", "delayed")
	cmd.Env = append(os.Environ(), "TEST_BROKER="+broker, "TEST_BACKEND="+store.URL()+"/0", "PYTHONDONTWRITEBYTECODE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var got struct {
		Value   int
		Seconds float64
		Key     string
	}
	if err != nil || json.Unmarshal(out, &got) != nil {
		t.Fatalf("%v: %s\n%s", err, out, stderr.String())
	}
	// 27 bits and the routing key: 3 seconds are 11 in binary.
	if got.Value != 5 || got.Seconds < 2 || !strings.HasPrefix(got.Key, "0.0.0.") || !strings.HasSuffix(got.Key, ".1.1.ai.add") {
		t.Errorf("got %+v, want 5 after 3 s by a key with the delay in it", got)
	}
}

// TestRevokedBeforeItWasSent has a client revoke by a stamp, and then send a task that
// has it. The two reach the worker over two connections.
func TestRevokedBeforeItWasSent(t *testing.T) {
	t.Parallel()
	broker, store := testenv.SharedRabbitMQ(t), testenv.Redis(t)
	startWorker(t, t.TempDir(), []string{"ONCEOVER_BROKER_URL=" + broker, "ONCEOVER_REDIS_URL=" + store.URL(),
		"ONCEOVER_NODE_NAME=" + node, "ONCEOVER_QUEUES=celery", "ONCEOVER_MINGLE=false", "ONCEOVER_RESULT_EXTENDED=true"})
	const rounds = "400"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, testenv.Python(t, "celery", "redis"), "mixed.py", "revoked", rounds)
	cmd.Env = append(os.Environ(), "TEST_BROKER="+broker, "TEST_BACKEND="+store.URL()+"/0", "PYTHONDONTWRITEBYTECODE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != "0" {
		t.Errorf("got %s of %s tasks run although they had been revoked (%v), want none\n%s", got, rounds, err, stderr.String())
	}
}

// waiter keeps what a process writes and lets a test wait for a part of it. Safe
// for concurrent use.
type waiter struct {
	mu    sync.Mutex
	text  bytes.Buffer
	added chan struct{} // closed and replaced at each write
}

func (w *waiter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.added != nil {
		close(w.added)
		w.added = nil
	}
	return w.text.Write(p)
}

func (w *waiter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func (w *waiter) wait(t *testing.T, want string) {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		w.mu.Lock()
		found := strings.Contains(w.text.String(), want)
		if w.added == nil {
			w.added = make(chan struct{})
		}
		added := w.added
		w.mu.Unlock()
		if found {
			return
		}
		select {
		case <-added:
		case <-timeout:
			t.Fatalf("nothing about %q in\n%s", want, w.String())
		}
	}
}

// leftovers lists keys of database 0 that would stay for ever.
func leftovers(t *testing.T, server string) []string {
	t.Helper()
	const script = `local out, cursor = {}, '0'
repeat
  local page = redis.call('SCAN', cursor)
  cursor = page[1]
  for _, key in ipairs(page[2]) do if redis.call('TTL', key) == -1 then out[#out + 1] = key end end
until cursor == '0'
return out`
	out, err := exec.Command("redis-cli", "-u", server+"/0", "eval", script, "0").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}
