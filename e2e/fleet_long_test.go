//go:build long

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/internal/testenv"
)

// These tests take minutes, as the limits that they look at do: make fleet runs them. The last two measure: make measure.

// alone is setup for a test that measures: beside no other, and with a program that was built without the race detector.
func alone(t *testing.T) *bundle {
	t.Helper()
	out := filepath.Join(t.TempDir(), "onceover")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", out, "onceover/cmd/onceover")
	build.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	before := program
	program = out
	t.Cleanup(func() { program = before })
	return setupOn(t, testenv.SharedRabbitMQ(t))
}

// endpoint is a model that takes a hard number of requests in any minute, is away at times, and takes its time.
type endpoint struct {
	rpm     int // 0: any
	headers bool
	takes   time.Duration
	away    atomic.Bool

	mu               sync.Mutex
	at               []time.Time // accepted
	limited, refused int
	inFlight, most   int
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	e.mu.Lock()
	now := time.Now()
	recent := 0
	for _, a := range slices.Backward(e.at) {
		if now.Sub(a) >= time.Minute {
			break
		}
		recent++
	}
	switch {
	case e.away.Load():
		e.refused++
		e.mu.Unlock()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case e.rpm > 0 && recent >= e.rpm:
		e.limited++
		wait := time.Minute - now.Sub(e.at[len(e.at)-e.rpm])
		e.mu.Unlock()
		if e.headers {
			w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
		}
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"error":{"message":"Rate limit reached","code":"rate_limit_exceeded"}}`)
		return
	}
	e.at = append(e.at, now)
	e.inFlight++
	e.most = max(e.most, e.inFlight)
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.inFlight--
		e.mu.Unlock()
	}()
	select {
	case <-time.After(e.takes):
	case <-r.Context().Done():
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"id": "c", "object": "chat.completion", "created": 1, "model": "test-model",
		"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": wasteAnswer}}},
		"usage":   map[string]any{"prompt_tokens": 900, "completion_tokens": 50, "total_tokens": 950},
	})
}

func (e *endpoint) counts() (accepted, limited, refused int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.at), e.limited, e.refused
}

// start serves the endpoint to the workers that start from here on.
func (b *bundle) serve(e *endpoint) {
	server := httptest.NewServer(e)
	b.t.Cleanup(server.Close)
	b.env = append(b.env, "ONCEOVER_VISION_URL="+server.URL+"/v1")
}

// states counts the states on record of jobs, "" for none.
func (b *bundle) states(results *redis.Client, sent []outcome) map[string]int {
	out := map[string]int{}
	for _, o := range sent {
		out[b.status(results, o.ID)]++
	}
	return out
}

// TestLongLimits has four workers of 25 slots meet an endpoint that takes 60 requests in any minute: four minutes of
// that with Retry-After, and four without. The workers know the limit. Then they do not.
func TestLongLimits(t *testing.T) {
	for _, tt := range []struct {
		headers bool
		rpm     string
	}{{true, "60"}, {false, "60"}, {true, "0"}, {false, "0"}} {
		t.Run(fmt.Sprintf("headers %v, limit known %s", tt.headers, tt.rpm), func(t *testing.T) {
			b := setup(t)
			e := &endpoint{rpm: 60, headers: tt.headers, takes: time.Second}
			b.serve(e)
			for i := range 4 {
				w := b.worker("ONCEOVER_CONCURRENCY=25", "ONCEOVER_VISION_RPM="+tt.rpm, fmt.Sprintf("ONCEOVER_NODE_NAME=w%d@host", i))
				defer w.tellRetries()
			}
			const minutes = 4
			sent := b.client("send", b.misses(0, 60*minutes+60)...)
			began := time.Now()
			time.Sleep(minutes * time.Minute)
			accepted, limited, _ := e.counts()
			t.Logf("after %v: %d accepted, %d of %d refused; states %v", time.Since(began), accepted, limited, accepted+limited, b.states(b.db(0), sent))
			if tt.rpm != "0" && (limited*50 > accepted+limited || accepted*100 < 95*60*minutes) {
				t.Errorf("%d calls of %d were refused, %d accepted: want at most 2 %% and at least 95 %% of %d", limited, accepted+limited, accepted, 60*minutes)
			}
			if n := b.states(b.db(0), sent)["FAILURE"]; n != 0 {
				t.Errorf("%d jobs failed", n)
			}
		})
	}
}

// tellRetries shows why jobs were retried.
func (p *process) tellRetries() {
	for line := range strings.Lines(p.log.String()) {
		if strings.Contains(line, "will be retried") || strings.Contains(line, "vision endpoint") {
			p.t.Log(strings.TrimSpace(line))
		}
	}
}

// TestLongOutage sends six jobs a second for seven minutes, in five of which the endpoint is away.
func TestLongOutage(t *testing.T) {
	b := setup(t)
	e := &endpoint{takes: 200 * time.Millisecond}
	b.serve(e)
	for i := range 2 {
		b.worker(fmt.Sprintf("ONCEOVER_NODE_NAME=w%d@host", i))
	}
	results := b.db(0)
	var sent []outcome
	began := time.Now()
	for n := 0; time.Since(began) < 7*time.Minute; n += 12 {
		since := time.Since(began)
		e.away.Store(since > time.Minute && since < 6*time.Minute)
		sent = append(sent, b.client("send", b.misses(n, 12)...)...)
		time.Sleep(time.Until(began.Add(time.Duration(n/12+1) * 2 * time.Second)))
	}
	accepted, _, refused := e.counts()
	t.Logf("%d jobs sent; %d calls accepted, %d refused; states %v", len(sent), accepted, refused, b.states(results, sent))
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
		if s := b.states(results, sent); s["SUCCESS"] == len(sent) {
			break
		}
	}
	s := b.states(results, sent)
	accepted, _, refused = e.counts()
	t.Logf("%v after the outage: %d calls accepted, %d refused; states %v", time.Since(began.Add(6*time.Minute)), accepted, refused, s)
	if s["SUCCESS"] != len(sent) || accepted != len(sent) {
		t.Errorf("%d of %d jobs succeeded in %d calls", s["SUCCESS"], len(sent), accepted)
	}
}

// TestMeasureInFlight has 1,000 calls of two seconds in flight, and says how long that takes, and how much memory.
func TestMeasureInFlight(t *testing.T) {
	b := alone(t)
	e := &endpoint{takes: 2 * time.Second}
	b.serve(e)
	w := b.worker("ONCEOVER_CONCURRENCY=1000")
	peak := func() int {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		kib, _ := strconv.Atoi(regexp.MustCompile(`VmHWM:\s+([0-9]+)`).FindStringSubmatch(string(status))[1])
		return kib / 1024
	}
	idle := peak()
	// The queue fills before it is consumed.
	b.control("cancel_consumer", "q.ai")
	sent := b.client("send", b.misses(0, 1000)...)
	b.control("add_consumer", "q.ai") // answers when it consumes
	began := w.last(`"method":"add_consumer"`)
	results := b.db(0)
	for end := began.Add(time.Minute); strings.Count(w.log.String(), `"msg":"task finished"`) < 1000 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	took := w.last(`"msg":"task finished"`).Sub(began)
	at := func(i int) time.Duration { return e.at[i].Sub(began).Round(time.Millisecond) }
	t.Logf("1000 jobs in %v, %d calls in flight at most, %d MiB at most, %d before; calls began after %v, %v, %v, %v, %v", took, e.most, peak(), idle,
		at(0), at(99), at(499), at(899), at(999))
	if s := b.states(results, sent); s["SUCCESS"] != 1000 {
		t.Errorf("got %v, want 1,000 times SUCCESS", s)
	}
	const mostMemory = 150_000_000 >> 20 // MiB
	if most := 4 * time.Second; took > most || peak() > mostMemory {
		t.Errorf("it took %v and %d MiB: want at most %v and %d MiB", took, peak(), most, mostMemory)
	}
}

// last is the time of the last line of the log that has a text.
func (p *process) last(text string) (at time.Time) {
	p.t.Helper()
	for line := range strings.Lines(p.log.String()) {
		var l struct{ Time time.Time }
		if strings.Contains(line, text) && json.Unmarshal([]byte(line), &l) == nil {
			at = l.Time
		}
	}
	if at.IsZero() {
		p.t.Fatalf("no line of the log has %s", text)
	}
	return at
}

// TestMeasureHits has 1,000 misses wait for a model of two seconds with 100 calls in flight, and says how long hits take
// that come between them.
func TestMeasureHits(t *testing.T) {
	b := alone(t)
	e := &endpoint{takes: 2 * time.Second}
	b.serve(e)
	w := b.worker("ONCEOVER_CONCURRENCY=100")
	if got := b.client("run", analyze("image_url", b.picture("bottle.jpg")))[0]; got.State != "SUCCESS" {
		t.Fatalf("got %+v", got)
	}
	misses := b.client("send", b.misses(0, 1000)...)
	b.until(func() bool { return w.metric("onceover_vision_waiting") > 500 })
	b.script(`
for i in range(200):
    app.send_task("image.analyze", kwargs={"image_url": sys.argv[3]}, exchange="tasks", routing_key="ai.analyze")
    time.sleep(0.05)
`, b.picture("bottle.jpg"))
	var took []float64
	b.until(func() bool { return strings.Count(w.log.String(), `"cache":"exact"`) == 200 })
	for line := range strings.Lines(w.log.String()) {
		var l struct {
			Msg    string  `json:"msg"`
			Cached string  `json:"cache"`
			Took   float64 `json:"duration_seconds"`
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == "task finished" && l.Cached == "exact" {
			took = append(took, l.Took)
		}
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("%d hits: median %.1f ms, p99 %.1f ms, most %.1f ms; %d misses still wait", len(took), 1000*took[len(took)/2], 1000*p99, 1000*took[len(took)-1], int(w.metric("onceover_vision_waiting")))
	if most := 0.05; p99 > most {
		t.Errorf("p99 is %v s, want at most %v s", p99, most)
	}
	if w.metric("onceover_vision_waiting") == 0 {
		t.Error("the hits came after the misses")
	}
	b.results(misses[:1])
}

// control has Celery send a remote command about a queue.
func (b *bundle) control(command, queue string) {
	b.t.Helper()
	b.script(`
app.control.broadcast(sys.argv[3], arguments={"queue": sys.argv[4]}, reply=True, timeout=5)
`, command, queue)
}
