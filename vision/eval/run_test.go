package eval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/text/unicode/norm"

	"onceover/vision"
)

// TestRun asks two models about pictures of every kind.
func TestRun(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t)
	items := testItems(t, t.TempDir(), 3, map[string]color.RGBA{"red": red, "green": green, "blue": blue, "black": black, "white": white, "grey": grey})
	path := filepath.Join(t.TempDir(), "results.jsonl")
	r := openResults(t, path, false)
	models := []Model{testModel(t, e.URL, "cheap"), testModel(t, e.URL, "dear")}
	models[1].Price = nil
	var last Progress
	steps := 0
	cfg := Config{Models: models[:1], Items: items, Pictures: testPictures, Results: r, Concurrency: 3, Progress: func(p Progress) { last = p; steps++ }}
	if err := Run(t.Context(), t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	// Broken answers are asked for once more, and so is what got HTTP 429.
	if all, most := e.total(); all != 18+3+3 || most != 2 || e.busy > 3 {
		t.Errorf("got %d calls, %d at most for one picture, %d at once; want 24, 2 and at most 3", all, most, e.busy)
	}
	if steps != 18 || last.Done != 18 || last.Total != 18 || last.Right != 6 || last.CostMicroUSD != 21*callCost {
		t.Errorf("got %d steps, the last %+v", steps, last)
	}
	if got := outcomes(r, items, models[0]); got[Answered] != 12 || got[Refused] != 3 || got[Broken] != 3 {
		t.Errorf("got %v, want 12 answered, 3 refused, 3 broken", got)
	}
	for _, it := range items {
		v, _ := r.Verdict(it.Digest, "cheap")
		if v.ID != it.ID || v.Gold != it.Label || v.MS <= 0 || v.PromptVersion != models[0].Analyzer.PromptVersion("en") {
			t.Errorf("got %+v", v)
		}
		if it.Label == "green" && (v.Answer != "green" || *v.Confidence != 0.8 || *v.CostMicroUSD != callCost || v.AnsweredBy != "model-2026" || v.Uncounted != 0) {
			t.Errorf("got %+v", v)
		}
		if it.Label == "white" && (v.PromptTokens != 2000 || v.Paid != 2 || v.Error == "") {
			t.Errorf("got %+v", v)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}

	// Again, with a second model: the first is not asked again.
	r = openResults(t, path, true)
	cfg.Results, cfg.Models, steps = r, models, 0
	if err := Run(t.Context(), t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if all, _ := e.total(); all != 24+18+3 || steps != 18 {
		t.Errorf("got %d calls and %d steps, want 45 and 18", all, steps)
	}
	if got, cost := outcomes(r, items, models...), r.Cost("dear"); got[Answered] != 24 || cost.MicroUSD != 0 || cost.PromptTokens != 21_000 {
		t.Errorf("got %v, %+v", got, cost)
	}
	if got := r.Spent(); got != 21*callCost {
		t.Errorf("spent: got %d, want what the priced model took", got)
	}
}

// TestIntentComesFirst looks into the file while calls are in flight.
func TestIntentComesFirst(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t)
	items := testItems(t, t.TempDir(), 8, map[string]color.RGBA{"red": red})
	path := filepath.Join(t.TempDir(), "results.jsonl")
	r := openResults(t, path, false)
	e.holdCalls(func(n int) {
		doc, err := os.ReadFile(path)
		intents, verdicts := strings.Count(string(doc), `"type":"intent"`), strings.Count(string(doc), `"type":"verdict"`)
		if err != nil || intents < n || verdicts < n-2 {
			t.Errorf("at call %d: got %d intents and %d verdicts on disk, %v, want at least %d and %d", n, intents, verdicts, err, n, n-2)
		}
	})
	if err := Run(t.Context(), t.Context(), Config{Models: []Model{testModel(t, e.URL, "m")}, Items: items, Pictures: testPictures, Results: r, Concurrency: 2}); err != nil {
		t.Fatal(err)
	}
}

// TestStop: when begin ends, what is in flight is finished and nothing more is begun; when calls ends, it is lost.
func TestStop(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 10, map[string]color.RGBA{"red": red})
	for _, abort := range []bool{false, true} {
		e := newEndpoint(t)
		release, arrived := make(chan struct{}), make(chan struct{}, 2)
		e.holdCalls(func(n int) {
			if n == 3 || n == 4 {
				arrived <- struct{}{}
				<-release
			}
		})
		path := filepath.Join(t.TempDir(), "results.jsonl")
		r := openResults(t, path, false)
		begin, stop := context.WithCancel(t.Context())
		calls, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		m := testModel(t, e.URL, "m")
		cfg := Config{Models: []Model{m}, Items: items, Pictures: testPictures, Results: r, Concurrency: 2, MaxCost: 1_000_000}
		go func() { done <- Run(begin, calls, cfg) }()
		<-arrived
		<-arrived
		stop()
		if abort {
			end()
		} else {
			close(release)
		}
		err := <-done
		if abort {
			close(release)
		}
		end()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("abort %v: got %v, want context canceled", abort, err)
		}
		want := map[Outcome]int{Answered: 4, "": 6}
		if abort {
			want = map[Outcome]int{Answered: 2, Lost: 2, "": 6}
		}
		if got := outcomes(r, items, m); got[Answered] != want[Answered] || got[Lost] != want[Lost] || got[""] != want[""] {
			t.Errorf("abort %v: got %v, want %v", abort, got, want)
		}
		if c := r.Cost("m"); abort != (c.AssumedMicroUSD > 0) {
			t.Errorf("abort %v: got %+v", abort, c)
		}

		// Gone on with, all the others are asked once; with RetryLost the lost ones too.
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		e.holdCalls(nil)
		for _, retry := range []bool{false, true} {
			r = openResults(t, path, true)
			cfg.Results, cfg.RetryLost = r, retry
			if err := Run(t.Context(), t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			all, most := e.total()
			wantAll, wantMost := 10, 1
			if abort && retry {
				wantAll, wantMost = 12, 2
			}
			if all != wantAll || most != wantMost {
				t.Errorf("abort %v, retry %v: got %d calls, %d for one picture, want %d and %d", abort, retry, all, most, wantAll, wantMost)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// script plays a model that gives scripted results, in order, the last one for ever.
func script(steps ...any) func(context.Context, *vision.Preview, vision.Options) (vision.Answer, vision.Usage, error) {
	var mu sync.Mutex
	n := 0
	return func(context.Context, *vision.Preview, vision.Options) (vision.Answer, vision.Usage, error) {
		mu.Lock()
		defer mu.Unlock()
		s := steps[min(n, len(steps)-1)]
		n++
		switch s := s.(type) {
		case *vision.Error:
			s.Err = fmt.Errorf("class %s", s.Class)
			usage := vision.Usage{Calls: 1}
			if s.Class == vision.Unreachable {
				usage.Paid, usage.Uncounted = 1, 1
			}
			return vision.Answer{}, usage, s
		case string:
			return vision.Answer{Fields: json.RawMessage(s), Model: "fake", PromptVersion: testPrompt}, vision.Usage{Calls: 1, Paid: 1, PromptTokens: 1000, CompletionTokens: 100}, nil
		}
		panic("a step of another kind")
	}
}

const redAnswer = `{"category":"red","confidence":0.9}`

// TestPatience waits as long as the endpoint asks, with all slots, and not for ever.
func TestPatience(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 6, map[string]color.RGBA{"red": red})
	limited := func(wait time.Duration) *vision.Error {
		return &vision.Error{Class: vision.RateLimited, RetryAfter: wait}
	}
	for _, tt := range []struct {
		name     string
		steps    []any
		took     time.Duration
		err      string
		answered int
		lost     int
	}{
		{"no wait", []any{redAnswer}, 0, "", 6, 0},
		{"two waits", []any{limited(40 * time.Second), limited(30 * time.Second), redAnswer}, 70 * time.Second, "", 6, 0},
		{"a wait after answers", []any{redAnswer, redAnswer, limited(time.Minute), redAnswer}, time.Minute, "", 6, 0},
		{"too long a wait", []any{redAnswer, limited(time.Hour), redAnswer}, 0, "asks to wait for 1h0m0s", 1, 0},
		{"no money", []any{redAnswer, &vision.Error{Class: vision.Quota}}, 0, "class quota", 1, 0},
		{"a wrong key", []any{&vision.Error{Class: vision.Denied}}, 0, "class denied", 0, 0},
		{"no such model", []any{&vision.Error{Class: vision.NotFound}}, 0, "class notfound", 0, 0},
		{"a request that is refused", []any{&vision.Error{Class: vision.Invalid}}, 0, "5 pictures in a row got no answer", 0, 0},
		{"one picture that is refused", []any{&vision.Error{Class: vision.Invalid}, redAnswer}, 0, "", 5, 0},
		{"a time-out", []any{&vision.Error{Class: vision.Unreachable, RetryAfter: time.Second}, redAnswer}, time.Second, "", 6, 0},
		{"two time-outs", []any{&vision.Error{Class: vision.Unreachable, RetryAfter: time.Second}, &vision.Error{Class: vision.Unreachable}, redAnswer}, time.Second, "", 5, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := openResults(t, filepath.Join(t.TempDir(), "r"), false)
			m := fakeModel("m", script(tt.steps...))
			m.Price = PerMillion(1_000_000, 10_000_000)
			began := time.Now()
			err := Run(t.Context(), t.Context(), Config{Models: []Model{m}, Items: items, Pictures: testPictures, Results: r, Concurrency: 1})
			if text := fmt.Sprint(err); err == nil && tt.err != "" || err != nil && (tt.err == "" || !strings.Contains(text, tt.err)) {
				t.Errorf("%s: got %v, want %q", tt.name, err, tt.err)
			}
			if took := time.Since(began); took != tt.took {
				t.Errorf("%s: took %v, want %v", tt.name, took, tt.took)
			}
			if got := outcomes(r, items, m); got[Answered] != tt.answered || got[Lost] != tt.lost {
				t.Errorf("%s: got %v, want %d answered and %d lost", tt.name, got, tt.answered, tt.lost)
			}
		})
	}
}

// TestLimitWithoutRetryAfter: an endpoint takes a call a minute and does not say how long to wait. The run goes on at that
// pace, and ends when there has been no room for a long time.
func TestLimitWithoutRetryAfter(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 6, map[string]color.RGBA{"red": red, "green": green})
	for _, tt := range []struct {
		every time.Duration
		err   string
		most  time.Duration
	}{{time.Minute, "", 25 * time.Minute}, {24 * time.Hour, "the endpoint has had no room for 15m0s", 17 * time.Minute}} {
		synctest.Test(t, func(t *testing.T) {
			r := openResults(t, filepath.Join(t.TempDir(), "r"), false)
			var mu sync.Mutex
			var last time.Time
			calls := 0
			m := fakeModel("m", func(context.Context, *vision.Preview, vision.Options) (vision.Answer, vision.Usage, error) {
				mu.Lock()
				defer mu.Unlock()
				if calls++; time.Since(last) < tt.every {
					return vision.Answer{}, vision.Usage{Calls: 1}, &vision.Error{Class: vision.RateLimited, Err: errors.New("slow down")}
				}
				last = time.Now()
				return vision.Answer{Fields: json.RawMessage(redAnswer), PromptVersion: testPrompt}, vision.Usage{Calls: 1, Paid: 1, PromptTokens: 1}, nil
			})
			began := time.Now()
			err := Run(t.Context(), t.Context(), Config{Models: []Model{m}, Items: items, Pictures: testPictures, Results: r, Concurrency: 4})
			took, got := time.Since(began), outcomes(r, items, m)
			if tt.err == "" && (err != nil || got[Answered] != len(items)) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || took > tt.most {
				t.Errorf("a call each %v: got %v, %v after %v and %d calls, want %q within %v", tt.every, err, got, took, calls, tt.err, tt.most)
			}
		})
	}
}

// TestPaidIsPassedOn: a second attempt knows what the first has paid for.
func TestPaidIsPassedOn(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 1, map[string]color.RGBA{"red": red})
	synctest.Test(t, func(t *testing.T) {
		r := openResults(t, filepath.Join(t.TempDir(), "r"), false)
		answer := script(&vision.Error{Class: vision.Unreachable}, redAnswer)
		var paid []int
		m := fakeModel("m", func(ctx context.Context, p *vision.Preview, opt vision.Options) (vision.Answer, vision.Usage, error) {
			paid = append(paid, opt.Paid)
			return answer(ctx, p, opt)
		})
		if err := Run(t.Context(), t.Context(), Config{Models: []Model{m}, Items: items, Pictures: testPictures, Results: r, Concurrency: 1}); err != nil {
			t.Fatal(err)
		}
		// The repair of a broken answer breaks off: its tokens are not known.
		n := fakeModel("n", func(context.Context, *vision.Preview, vision.Options) (vision.Answer, vision.Usage, error) {
			return vision.Answer{}, vision.Usage{Calls: 2, Paid: 2, Uncounted: 1, PromptTokens: 1000}, &vision.Error{Class: vision.Unreachable, Err: errors.New("time-out")}
		})
		n.Price = PerMillion(1_000_000, 1_000_000)
		if err := Run(t.Context(), t.Context(), Config{Models: []Model{n}, Items: items, Pictures: testPictures, Results: r, Concurrency: 1}); err != nil {
			t.Fatal(err)
		}
		if v, c := mustVerdict(t, r, items[0], "n"), r.Cost("n"); v.Outcome != Lost || c != (Cost{MicroUSD: 1000, AssumedMicroUSD: 2000, Uncounted: 1, PromptTokens: 1000}) {
			t.Errorf("got %+v, %+v, want a lost picture of one call that was counted and one that was not", v, c)
		}
		if v := mustVerdict(t, r, items[0], "m"); fmt.Sprint(paid) != "[0 1]" || v.Outcome != Answered || v.Paid != 2 || v.Uncounted != 1 {
			t.Errorf("got %v and %+v, want the second attempt to know of one paid call", paid, v)
		}
	})
}

// TestPatienceOfAll: what one picture is told holds the others back.
func TestPatienceOfAll(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 9, map[string]color.RGBA{"red": red})
	synctest.Test(t, func(t *testing.T) {
		r := openResults(t, filepath.Join(t.TempDir(), "r"), false)
		began := time.Now()
		var mu sync.Mutex
		early, n := 0, 0
		answer := script(redAnswer)
		m := fakeModel("m", func(ctx context.Context, p *vision.Preview, opt vision.Options) (vision.Answer, vision.Usage, error) {
			mu.Lock()
			n++
			first := n == 1
			if time.Since(began) < time.Minute {
				early++
			}
			mu.Unlock()
			if first {
				return vision.Answer{}, vision.Usage{Calls: 1}, &vision.Error{Class: vision.RateLimited, RetryAfter: time.Minute, Err: errors.New("slow down")}
			}
			time.Sleep(time.Second) // of the bubble's own time: the others are in flight when the first is told to wait
			return answer(ctx, p, opt)
		})
		if err := Run(t.Context(), t.Context(), Config{Models: []Model{m}, Items: items, Pictures: testPictures, Results: r, Concurrency: 3}); err != nil {
			t.Fatal(err)
		}
		if early > 3 || n != 10 {
			t.Errorf("got %d calls of %d within the minute, want at most one of each slot", early, n)
		}
	})
}

// TestMaxCost spends at random, up to what is to be expected, and never comes over the limit, over several runs together.
func TestMaxCost(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 9, map[string]color.RGBA{"red": red, "green": green})
	stopped := 0
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 7))
		limit := int64(7000 + rng.IntN(60_000)) // the first picture, of which nothing is known, takes less
		var mu sync.Mutex
		var spent int64
		flying, known := 0, map[string]bool{}
		model := func(name string, price int64) Model {
			m := fakeModel(name, func(_ context.Context, _ *vision.Preview, opt vision.Options) (vision.Answer, vision.Usage, error) {
				mu.Lock()
				flying++
				if !known[name] && flying > 1 {
					t.Errorf("seed %d: a picture of which nothing is known does not go alone", seed)
				}
				mu.Unlock()
				runtime.Gosched()
				mu.Lock()
				defer mu.Unlock()
				flying--
				u := vision.Usage{Calls: 1, Paid: 1}
				tokens := 500 + rng.IntN(500) // at most twice what any other call took
				if opt.Paid >= vision.MaxPaid {
					return vision.Answer{}, vision.Usage{}, &vision.Error{Class: vision.Exhausted, Err: errors.New("enough")}
				}
				if opt.Paid == 0 && rng.IntN(10) == 0 {
					u.Calls, u.Paid, tokens = 2, 2, 2*tokens
				}
				spent += int64(tokens) * price
				if rng.IntN(4) == 0 { // it is paid for, and nobody says how much
					u.Uncounted = u.Paid
					return vision.Answer{}, u, &vision.Error{Class: vision.Unreachable, Err: errors.New("time-out"), RetryAfter: time.Microsecond}
				}
				u.PromptTokens, known[name] = tokens, true
				return vision.Answer{Fields: json.RawMessage(redAnswer), PromptVersion: testPrompt}, u, nil
			})
			m.Price = PerMillion(price*1_000_000, price*1_000_000)
			return m
		}
		cfg := Config{Models: []Model{model("a", 1), model("b", 3)}, Items: items, Pictures: testPictures, Concurrency: 1 + rng.IntN(6), MaxCost: limit}
		path := filepath.Join(t.TempDir(), "r")
		for range 3 {
			cfg.Results = openResults(t, path, true)
			cfg.RetryLost = rng.IntN(2) == 0
			err := Run(t.Context(), t.Context(), cfg)
			if kept := cfg.Results.Spent(); spent > limit || kept < spent {
				t.Fatalf("seed %d: spent %d of %d, the file says %d", seed, spent, limit, kept)
			}
			if errors.Is(err, ErrMaxCost) {
				stopped++
			} else if err != nil && !strings.Contains(err.Error(), "in a row") {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if err := cfg.Results.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if stopped < 10 {
		t.Errorf("only %d of 60 runs came to the limit", stopped)
	}
}

// TestMaxCostIsUsed: the run goes on as long as the next picture cannot exceed the limit.
func TestMaxCostIsUsed(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 10, map[string]color.RGBA{"red": red})
	for _, concurrency := range []int{1, 4} {
		e := newEndpoint(t)
		r := openResults(t, filepath.Join(t.TempDir(), "r"), false)
		cfg := Config{Models: []Model{testModel(t, e.URL, "m")}, Items: items, Pictures: testPictures, Results: r, Concurrency: concurrency, MaxCost: 10 * callCost}
		err := Run(t.Context(), t.Context(), cfg)
		// The next one may take two calls, each twice as dear: with seven there are three left.
		if all, _ := e.total(); !errors.Is(err, ErrMaxCost) || all != 7 || r.Spent() != 7*callCost {
			t.Errorf("%d at once: got %v after %d calls for %d, want 7 calls", concurrency, err, all, r.Spent())
		}
	}
}

// TestUncountedCalls: a server may ask money for an answer that it does not let pass, and say nothing of tokens. The call
// counts in full although the one after it, for the same picture, is counted.
func TestUncountedCalls(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 1, map[string]color.RGBA{"red": red})
	e := newEndpoint(t)
	e.refuseFirst = true
	r := openResults(t, filepath.Join(t.TempDir(), "r"), false)
	cfg := Config{Models: []Model{testModel(t, e.URL, "m")}, Items: items, Pictures: testPictures, Results: r, Concurrency: 1, MaxCost: 100 * callCost}
	if err := Run(t.Context(), t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if v := mustVerdict(t, r, items[0], "m"); v.Outcome != Answered || v.Paid != 2 || v.Uncounted != 1 {
		t.Errorf("got %+v, want an answer after two paid calls, one of them uncounted", v)
	}
	if got := r.Spent(); got != callCost+margin*callCost {
		t.Errorf("spent: got %d, want %d: what was counted, and what the other call may have taken", got, callCost+margin*callCost)
	}
}

func TestMaxCostNeedsCounts(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 5, map[string]color.RGBA{"red": red})
	r := openResults(t, filepath.Join(t.TempDir(), "r"), false)
	calls := 0
	m := fakeModel("m", func(context.Context, *vision.Preview, vision.Options) (vision.Answer, vision.Usage, error) {
		calls++
		return vision.Answer{Fields: json.RawMessage(redAnswer), PromptVersion: testPrompt}, vision.Usage{Calls: 1, Paid: 1, Uncounted: 1}, nil
	})
	cfg := Config{Models: []Model{m}, Items: items, Pictures: testPictures, Results: r, Concurrency: 4, MaxCost: 1000}
	if err := Run(t.Context(), t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no price for m") {
		t.Errorf("got %v, want no price", err)
	}
	cfg.Models[0].Price = PerMillion(1, 1)
	if err := Run(t.Context(), t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "does not count tokens") || calls != 1 {
		t.Errorf("got %v after %d calls, want an end after the first", err, calls)
	}
	if got := r.Spent(); got != 1000 {
		t.Errorf("spent: got %d, want all that was reserved", got)
	}
}

// TestResults goes on with files that fit, and with no others.
func TestResults(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "r")
	r := openResults(t, path, false)
	cost := int64(100)
	v := Verdict{ID: "a", Digest: "d", Model: "m", PromptVersion: testPrompt, Outcome: Answered, CostMicroUSD: &cost, Paid: 1}
	lost := Verdict{ID: "b", Digest: "e", Model: "m", PromptVersion: testPrompt, ReservedMicroUSD: 300}
	if err := errors.Join(r.intend(v), r.settle(v), r.intend(lost)); err != nil {
		t.Fatal(err)
	}
	fault := func(what string, h Header, resume bool, want string) {
		t.Helper()
		again, err := OpenResults(path, h, resume)
		if err == nil {
			_ = again.Close()
		}
		if !errors.Is(err, ErrResults) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", what, err, want)
		}
	}
	fault("in use", testHeader, true, "in use by another process")
	fault("there already", testHeader, false, "expected --resume")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	other := testHeader
	other.Field = "recyclable"
	fault("another field", other, true, "of another run (version 1, field category")

	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Half a line at the end, as a process that was killed leaves it, is no verdict.
	half := string(doc) + `{"type":"verdict","id":"b","digest":"e","model":"m","outco`
	write(t, path, half)
	r = openResults(t, path, true)
	if left, err := os.ReadFile(path); err != nil || string(left) != string(doc) {
		t.Errorf("got %q, %v, want the file without its half line", left, err)
	}
	if got, _ := r.Verdict("e", "m"); got.Outcome != Lost || got.Error == "" {
		t.Errorf("an intent without a verdict: got %+v, want it lost", got)
	}
	if got := r.Cost("m"); got.MicroUSD != 100 || got.AssumedMicroUSD != 300 || got.Uncounted != vision.MaxPaid || r.Spent() != 400 {
		t.Errorf("got %+v", got)
	}
	if err := r.CheckModel(Model{Name: "m", Analyzer: otherPrompt{}}); !errors.Is(err, ErrResults) || !strings.Contains(err.Error(), "to prompt version") {
		t.Errorf("another prompt: got %v", err)
	}
	dearer := lost
	dearer.ReservedMicroUSD = 1000 // more than two calls can have taken, as is known by now
	if err := errors.Join(r.CheckModel(fakeModel("m", nil)), r.CheckModel(Model{Name: "n", Analyzer: otherPrompt{}}), r.intend(dearer), r.settle(v), r.Close()); err != nil {
		t.Fatal(err)
	}
	r = openResults(t, path, true)
	if got := r.Cost("m"); got.MicroUSD != 200 || got.AssumedMicroUSD != 300+2*margin*100 {
		t.Errorf("lost twice: got %+v, want what both may have taken", got)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"nonsense":                  "nonsense\n",
		"a file of one line":        "not even a line",
		"half a file of lines":      "{\"picture\": \"a\"}\n{\"pict",
		"an unknown outcome":        string(doc) + "{\"type\":\"verdict\",\"digest\":\"d\",\"model\":\"m\",\"outcome\":\"right\"}\n",
		"a confidence of 2":         string(doc) + "{\"type\":\"verdict\",\"digest\":\"d\",\"model\":\"m\",\"outcome\":\"answered\",\"confidence\":2}\n",
		"a cost below 0":            string(doc) + "{\"type\":\"verdict\",\"digest\":\"d\",\"model\":\"m\",\"outcome\":\"answered\",\"cost_microusd\":-1}\n",
		"another file":              "{\"picture\": \"a\"}\n",
		"a damaged line":            string(doc) + "{\n",
		"a verdict without a model": string(doc) + "{\"type\":\"verdict\",\"digest\":\"d\"}\n",
	} {
		write(t, path, text)
		want := "not of onceover eval"
		if strings.HasPrefix(text, string(doc)) {
			want = "line 5 is damaged"
		}
		fault(what, testHeader, true, want)
		if left, _ := os.ReadFile(path); string(left) != text {
			t.Errorf("%s: the file was changed", what)
		}
	}
	// A whole line whose end an editor left out is a verdict, and what is written next begins on a line of its own.
	write(t, path, strings.TrimSuffix(string(doc), "\n")+"\n{\"type\":\"verdict\",\"digest\":\"e\",\"model\":\"m\",\"outcome\":\"refused\"}")
	r = openResults(t, path, true)
	if got, _ := r.Verdict("e", "m"); got.Outcome != Refused {
		t.Errorf("no end of line: got %+v", got)
	}
	if err := errors.Join(r.settle(v), r.Close()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadFile(path); strings.Count(string(left), "\n") != strings.Count(string(doc), "\n")+2 {
		t.Errorf("got %q", left)
	}
	// A line of a later version is left alone, and so is a file without a whole line.
	write(t, path, string(doc)+"{\"type\":\"later\",\"digest\":\"d\",\"model\":\"m\"}\n")
	r = openResults(t, path, true)
	if got, _ := r.Verdict("d", "m"); got.Outcome != Answered {
		t.Errorf("got %+v", got)
	}
	_ = r.Close()
	write(t, path, `{"type":"ev`)
	r = openResults(t, path, true)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadFile(path); !strings.HasPrefix(string(left), `{"type":"eval","version":1,`) {
		t.Errorf("got %q, want a header", left)
	}
}

type otherPrompt struct{ fakeAnalyzer }

func (otherPrompt) PromptVersion(string) string { return "other" }

// TestAnotherModel: the name of an endpoint may come to stand for another model, whose answers are not mixed with those
// that are there.
func TestAnotherModel(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 2, map[string]color.RGBA{"red": red})
	path := filepath.Join(t.TempDir(), "r")
	m := fakeModel("near", script(redAnswer))
	m.Endpoint = "gpu:8000 small"
	for _, tt := range []struct{ endpoint, want string }{
		{"gpu:8000 small", ""}, // nothing is there
		{"gpu:8000 small", ""},
		{"gpu:8000 large", "answers of near that are of gpu:8000 small, which is gpu:8000 large now"},
		{"gpu:8000 small flex", "of gpu:8000 small, which is gpu:8000 small flex now"},
	} {
		r := openResults(t, path, true)
		m.Endpoint = tt.endpoint
		err := r.CheckModel(m)
		if text := fmt.Sprint(err); tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrResults) || !strings.Contains(text, tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.endpoint, err, tt.want)
		}
		if err == nil {
			err = Run(t.Context(), t.Context(), Config{Models: []Model{m}, Items: items, Pictures: testPictures, Results: r, Concurrency: 1})
		}
		if closeErr := r.Close(); closeErr != nil || tt.want == "" && err != nil {
			t.Fatal(err, closeErr)
		}
	}
}

// TestHalfALine is written over, as the disk may have room again before the calls in flight are answered.
func TestHalfALine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "r")
	r := openResults(t, path, false)
	v := Verdict{ID: "a", Digest: "d", Model: "m", PromptVersion: testPrompt, Outcome: Answered}
	if err := r.settle(v); err != nil {
		t.Fatal(err)
	}
	if _, err := r.file.WriteAt([]byte(`{"type":"verdict","id":"half`), r.size); err != nil { // as a full disk leaves it
		t.Fatal(err)
	}
	v.Digest = "e"
	if err := errors.Join(r.settle(v), r.Close()); err != nil {
		t.Fatal(err)
	}
	r = openResults(t, path, true)
	if got, ok := r.Verdict("e", "m"); !ok || got.Outcome != Answered {
		t.Errorf("got %+v, %v", got, ok)
	}
}

// TestPriceOfEarlierRuns counts towards the limit, though no price was known when the answers came.
func TestPriceOfEarlierRuns(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 10, map[string]color.RGBA{"red": red})
	e := newEndpoint(t)
	path := filepath.Join(t.TempDir(), "r")
	m := testModel(t, e.URL, "m")
	price := m.Price
	m.Price = nil
	r := openResults(t, path, false)
	cfg := Config{Models: []Model{m}, Items: items[:6], Pictures: testPictures, Results: r, Concurrency: 1}
	if err := errors.Join(Run(t.Context(), t.Context(), cfg), r.Close()); err != nil {
		t.Fatal(err)
	}
	cfg.Models[0].Price, cfg.Items, cfg.MaxCost = price, items, 10*callCost
	cfg.Results = openResults(t, path, true)
	err := Run(t.Context(), t.Context(), cfg)
	if all, _ := e.total(); !errors.Is(err, ErrMaxCost) || all != 7 || cfg.Results.Spent() != 7*callCost {
		t.Errorf("got %v after %d calls for %d, want 7 calls", err, all, cfg.Results.Spent())
	}
	for _, n := range []int{10, 3} { // the labels may be fewer than they were
		rep := Score(Setup{Items: items[:n], Models: cfg.Models}, cfg.Results)
		if got := rep.Models[0].CostPerPicture; got == nil || *got != callCost {
			t.Errorf("got %v, want %d for each of %d pictures", got, callCost, n)
		}
	}
}

// TestProgressCost never falls: what pictures in flight may take is no cost so far.
func TestProgressCost(t *testing.T) {
	t.Parallel()
	items := testItems(t, t.TempDir(), 10, map[string]color.RGBA{"red": red})
	e := newEndpoint(t)
	r := openResults(t, filepath.Join(t.TempDir(), "r"), false)
	var costs []int64
	cfg := Config{Models: []Model{testModel(t, e.URL, "m")}, Items: items, Pictures: testPictures, Results: r, Concurrency: 4,
		Progress: func(p Progress) { costs = append(costs, p.CostMicroUSD) }}
	if err := Run(t.Context(), t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(costs) || costs[len(costs)-1] != 10*callCost || slices.Max(costs) > 10*callCost {
		t.Errorf("got %v, want it to rise to %d", costs, 10*callCost)
	}
}

// TestChangedPicture is not sent, as it is not the one that was checked.
func TestChangedPicture(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t)
	items := testItems(t, t.TempDir(), 2, map[string]color.RGBA{"red": red})
	pictureFile(t, items[0].Path, blue, 1)
	r := openResults(t, filepath.Join(t.TempDir(), "r"), false)
	err := Run(t.Context(), t.Context(), Config{Models: []Model{testModel(t, e.URL, "m")}, Items: items[:1], Pictures: testPictures, Results: r, Concurrency: 1})
	if all, _ := e.total(); err == nil || !strings.Contains(err.Error(), "has changed") || all != 0 {
		t.Errorf("got %v after %d calls", err, all)
	}
	if err := Run(t.Context(), t.Context(), Config{Results: r}); err == nil {
		t.Error("no concurrency: got no error")
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]string{
		`{"category":"a","confidence":0.5}`:     "a 0.5",
		`{"category":true,"confidence":1}`:      "true 1",
		`{"category":[1, 2],"confidence":2}`:    "[1,2] -",
		`{"category":null,"confidence":null}`:   " -",
		`{"confidence":"0.5"}`:                  " -",
		`{"category":1.50,"confidence":-0.1}`:   "1.50 -",
		`[]`:                                    " -",
		`{"category":"유리병","confidence":0}`:     "유리병 0",
		norm.NFD.String(`{"category":"캔"}`):     "캔 -",
		`{"CATEGORY":"x","Confidence":0.25}`:    " -",
		`{"category":{"b": 1},"confidence":""}`: `{"b":1} -`,
	} {
		answer, c := read(json.RawMessage(doc), testHeader)
		got := answer + " -"
		if c != nil {
			got = fmt.Sprintf("%s %v", answer, *c)
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", doc, got, want)
		}
	}
}

// FuzzParseVerdict takes no figure that the limit or the statistics cannot bear, as people edit results files.
func FuzzParseVerdict(f *testing.F) {
	f.Add(`{"type":"verdict","digest":"d","model":"m","outcome":"answered","confidence":0.5,"cost_microusd":1}`)
	f.Add(`{"type":"verdict","digest":"d","model":"m","outcome":"answered","confidence":-1}`)
	f.Add(`{"type":"intent","digest":"d","model":"m","reserved_microusd":-5}`)
	f.Fuzz(func(t *testing.T, line string) {
		v, err := parseVerdict([]byte(line))
		if err != nil {
			return
		}
		if v.Digest == "" || v.Model == "" || v.Confidence != nil && !(*v.Confidence >= 0 && *v.Confidence <= 1) || costOf(v) < 0 || v.ReservedMicroUSD < 0 || v.MS < 0 {
			t.Errorf("took %+v", v)
		}
	})
}
