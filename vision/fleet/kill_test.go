package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
	"onceover/vision"
	"onceover/vision/prompt"
)

// childEnv has the test binary be a process that spends: "URL of Redis|URL of the endpoint|millionths of a dollar|time
// of a call|and after which its process is taken for dead".
const childEnv = "ONCEOVER_TEST_SPENDER"

// spenders are the goroutines of a child.
const spenders = 4

// spend asks the endpoint until the budget has no room any more. Its exit code is 0 then.
func spend(plan string) int {
	parts := strings.Split(plan, "|")
	amount, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		panic(err)
	}
	callTime, err := time.ParseDuration(parts[3])
	if err != nil {
		panic(err)
	}
	deathTime, err := time.ParseDuration(parts[4])
	if err != nil {
		panic(err)
	}
	opt, err := redisretry.Options(parts[0])
	if err != nil {
		panic(err)
	}
	client := redis.NewClient(opt)
	defer client.Close()
	g := New(Config{Budgets: []Budget{{amount, 365 * 24 * time.Hour}, {amount * 2, 366 * 24 * time.Hour}}}, client, prometheus.NewRegistry(), zap.NewNop())
	g.late = deathTime
	o, err := vision.NewOpenAI(vision.OpenAIConfig{Name: "e", BaseURL: parts[1], Model: "m", Timeout: callTime, Prompts: prompt.Builtin(),
		Prices: vision.Prices{In: 1_000_000, Out: 1_000_000}, Gate: g})
	if err != nil {
		panic(err)
	}
	img := image.NewGray(image.Rect(0, 0, 8, 8))
	img.SetGray(1, 1, color.Gray{200})
	var file bytes.Buffer
	if err := png.Encode(&file, img); err != nil {
		panic(err)
	}
	preview, err := vision.NewPreview(file.Bytes())
	if err != nil {
		panic(err)
	}
	var wg sync.WaitGroup
	failed := make(chan error, spenders)
	for range spenders {
		wg.Go(func() {
			for {
				_, _, err := o.Analyze(context.Background(), preview, vision.Options{})
				var e *vision.Error
				switch {
				case errors.As(err, &e) && e.Class == vision.Spent:
					return
				case errors.As(err, &e) && (e.Class == vision.RateLimited || e.Class == vision.Unreachable): // money of the dead, or late
				case err != nil:
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		fmt.Fprintln(os.Stderr, err)
		return 1
	default:
		return 0
	}
}

// bank is an endpoint that bills a random price for every request that arrives, whoever waits for the answer.
type bank struct {
	mu       sync.Mutex
	billed   int64
	requests int
	each     func(n int) // called at each request
}

func (b *bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	cost := 100 + rand.Int64N(801)
	b.mu.Lock()
	b.billed += cost
	b.requests++
	n := b.requests
	b.mu.Unlock()
	b.each(n)
	time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // a model takes its time
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"id": "c", "object": "chat.completion", "model": "m",
		"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant",
			"content": `{"waste_type":"캔","confidence":0.9,"feedback":"비우세요","category":"캔류","recyclable":true}`}}},
		"usage": map[string]any{"prompt_tokens": cost - 50, "completion_tokens": 50},
	})
}

// TestBudgetUnderKill has eight processes spend as fast as they can; three of them are killed in the middle of a call, and
// Redis is restarted once. What is billed is never over the budget, nothing stays reserved, and without a death what is
// booked is what was billed. It takes 5 s a run; ONCEOVER_TEST_RUNS has it run 100 times.
func TestBudgetUnderKill(t *testing.T) {
	runs := 10
	if n, err := strconv.Atoi(os.Getenv("ONCEOVER_TEST_RUNS")); err == nil {
		runs = n
	}
	for i := range runs {
		kills := 3
		if i%5 == 4 {
			kills = 0
		}
		t.Run(fmt.Sprintf("run %d", i+1), func(t *testing.T) { spendAndKill(t, kills) })
	}
}

func spendAndKill(t *testing.T, kills int) {
	const amount = 100_000
	b := newBench(t, "--appendonly", "yes", "--appendfsync", "always")
	events := make(chan int, 100_000)
	bk := &bank{each: func(n int) { events <- n }}
	server := httptest.NewServer(bk)
	defer server.Close()
	times := "2s|500ms" // the others wait for what the dead have reserved
	if kills == 0 {
		times = "30s|2m"
	}
	var children []*exec.Cmd
	for range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s/v1|%d|%s", childEnv, b.server.URL(), server.URL, amount, times))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		children = append(children, cmd)
	}
	ends := make(chan error, 8)
	for i, c := range children {
		go func() {
			err := c.Wait()
			if i < kills {
				err = nil // it was killed
			}
			ends <- err
		}()
	}
	for killed, left := 0, len(children); left > 0; {
		select {
		case n := <-events:
			if killed < kills && n == 20+30*killed {
				_ = children[killed].Process.Kill() // it may have ended
				killed++
			}
			if n == 60 {
				b.server.Restart()
			}
		case err := <-ends:
			if err != nil {
				t.Errorf("a process that was not killed: %v", err)
			}
			left--
		case <-time.After(time.Minute):
			t.Fatal("nothing has happened for a minute")
		}
	}
	g := b.gate(Config{Budgets: []Budget{{amount, 365 * 24 * time.Hour}}}, time.Minute)
	spent, err := g.Spending(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := spent[0]
	bk.mu.Lock()
	defer bk.mu.Unlock()
	if bk.billed > amount {
		t.Errorf("%d billed in %d calls, the budget is %d", bk.billed, bk.requests, amount)
	}
	if s.Reserved != 0 || s.Spent < bk.billed || s.Spent > amount || kills == 0 && s.Spent != bk.billed {
		t.Errorf("%d spent and %d reserved, %d billed, with %d deaths", s.Spent, s.Reserved, bk.billed, kills)
	}
	t.Logf("%d of %d billed in %d calls; %d booked", bk.billed, amount, bk.requests, s.Spent)
}
