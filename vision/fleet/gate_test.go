package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/vision"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(childEnv); url != "" {
		os.Exit(spend(url))
	}
	testenv.Main(m)
}

// bench is a Redis of a test's own, on which gates are as of different processes.
type bench struct {
	t      testing.TB
	server *testenv.RedisServer
	client *redis.Client
	logs   *observer.ObservedLogs
	log    *zap.Logger
}

func newBench(t testing.TB, args ...string) *bench {
	t.Helper()
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
	b := &bench{t: t, server: testenv.Redis(t, args...)}
	core, logs := observer.New(zapcore.InfoLevel)
	b.logs, b.log = logs, zap.New(core)
	b.client = b.connect()
	t.Cleanup(func() {
		for _, key := range b.client.Keys(context.Background(), "*").Val() {
			if b.client.TTL(context.Background(), key).Val() < 0 {
				t.Errorf("%s stays for ever", key)
			}
		}
		b.client.Close()
	})
	return b
}

func (b *bench) connect() *redis.Client {
	opt, err := redisretry.Options(b.server.URL())
	if err != nil {
		b.t.Fatal(err)
	}
	return redis.NewClient(opt)
}

// gate is that of another process.
func (b *bench) gate(cfg Config, minute time.Duration) *Gate {
	b.t.Helper()
	c := b.connect()
	b.t.Cleanup(func() { c.Close() })
	g := New(cfg, c, prometheus.NewRegistry(), b.log)
	g.minute = minute
	return g
}

func aCall() vision.Call {
	return vision.Call{Endpoint: "e", Model: "m", Prompt: "p", Kind: "analysis", Size: "1x1", Timeout: time.Minute, Most: vision.Tokens{Prompt: 1000, Completion: 1000}}
}

var answered = vision.End{Tokens: vision.Tokens{Prompt: 90, Completion: 10}, Paid: true}

func fault(class vision.Class, after time.Duration) vision.End {
	return vision.End{Err: &vision.Error{Class: class, StatusCode: 429, RetryAfter: after, Err: errors.New("boom")}}
}

// enter makes a call begin that has room.
func (b *bench) enter(g *Gate, c vision.Call) vision.Pass {
	b.t.Helper()
	p, err := g.Enter(b.t.Context(), c)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// refused makes a call that has none, and returns why.
func (b *bench) refused(g *Gate, c vision.Call) *vision.Error {
	b.t.Helper()
	p, err := g.Enter(b.t.Context(), c)
	var e *vision.Error
	if !errors.As(err, &e) {
		b.t.Fatalf("got %v, %v, want a *vision.Error", p, err)
	}
	return e
}

// TestRequestsAMinute has gates of four processes make as many calls as they may in several minutes, against a server
// that counts them in the strictest way: in every minute that there is. A call begins as soon as there is room: half of them
// within a twentieth of a minute, which is to use 95 % of the limit. That is said of half of them, as a machine that is busy
// otherwise stands still for longer now and then.
func TestRequestsAMinute(t *testing.T) {
	b := newBench(t)
	const rpm, minute, minutes = 60, 4 * time.Second, 3
	b.enter(b.gate(Config{}, minute), aCall()).Leave(answered) // it is known to be well; its call is in no server's count
	b.client.Del(t.Context(), prefix+"e:log", prefix+"e:tokens")
	var mu sync.Mutex
	var at []time.Time
	over := 0
	ctx, cancel := context.WithTimeout(t.Context(), minutes*minute)
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		g := b.gate(Config{Limits: map[string]Limits{"e": {RPM: rpm}}}, minute)
		for range 25 {
			wg.Go(func() {
				for {
					p, err := g.Enter(ctx, aCall())
					if err != nil {
						return
					}
					mu.Lock()
					now, n := time.Now(), 0
					for _, a := range at {
						if now.Sub(a) < minute {
							n++
						}
					}
					if n >= rpm {
						over++
					}
					at = append(at, now)
					mu.Unlock()
					p.Leave(answered)
				}
			})
		}
	}
	wg.Wait()
	if over*50 > len(at) || len(at) < 2*rpm {
		t.Fatalf("%d calls, %d of them too early: want at least %d and at most 2 %%", len(at), over, 2*rpm)
	}
	var late []time.Duration // since there was room
	for i := rpm; i < len(at); i++ {
		late = append(late, at[i].Sub(at[i-rpm].Add(minute)))
	}
	slices.Sort(late)
	t.Logf("after there was room: half within %v, all within %v", late[len(late)/2], late[len(late)-1])
	if half := late[len(late)/2]; half > minute/20 {
		t.Errorf("half of %d calls began %v or more after there was room (the latest %v): want within %v", len(late), half, late[len(late)-1], minute/20)
	}
}

// TestLimitIsFoundOut has an endpoint take 20 calls in any minute, of which nobody knows: after the first 429s few calls
// are refused. In each of the minutes one more is tried.
func TestLimitIsFoundOut(t *testing.T) {
	b := newBench(t)
	const rpm, minute = 20, 2 * time.Second
	g := b.gate(Config{}, minute)
	var at []time.Time
	refused := map[bool]int{}
	taken := 0
	began := time.Now()
	for time.Since(began) < 5*minute {
		p, err := g.Enter(t.Context(), aCall())
		if err != nil {
			t.Fatal(err)
		}
		now, n := time.Now(), 0
		for _, a := range at {
			if now.Sub(a) < minute {
				n++
			}
		}
		late := now.Sub(began) > minute
		if n >= rpm {
			refused[late]++
			p.Leave(fault(vision.RateLimited, minute/4))
			continue
		}
		if late {
			taken++
		}
		at = append(at, now)
		p.Leave(answered)
	}
	if taken < 4*rpm*8/10 || refused[true] > 8 {
		t.Errorf("in four minutes %d were taken and %d refused: want at least %d and few", taken, refused[true], 4*rpm*8/10)
	}
}

// TestTokensAMinute has calls of which the server counts other tokens than were expected.
func TestTokensAMinute(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Limits: map[string]Limits{"e": {TPM: 3000}}, MaxWait: 100 * time.Millisecond}, time.Minute)
	for range 20 { // 100 tokens each: the first is taken for 2,000 until it has ended
		b.enter(g, aCall()).Leave(answered)
	}
	for range 10 {
		b.enter(g, aCall()).Leave(answered)
	}
	if e := b.refused(g, aCall()); e.Class != vision.RateLimited || e.RetryAfter < 30*time.Second {
		t.Errorf("got %+v, want to come again when the minute is over", e)
	}
	if n := b.client.HGet(t.Context(), prefix+"e", "tokens").Val(); n != "3000" {
		t.Errorf("%s tokens are counted, want 3000", n)
	}
}

// TestNotBefore has two calls in flight told to wait for different times: the longer one counts, in all processes, at
// once; and what is in flight together is one episode for the limit of calls in flight.
func TestNotBefore(t *testing.T) {
	b := newBench(t)
	cfg := Config{MaxWait: 50 * time.Millisecond}
	g, other := b.gate(cfg, time.Minute), b.gate(cfg, time.Minute)
	b.enter(g, aCall()).Leave(answered) // the endpoint is known to be well
	var passes []vision.Pass
	for range 10 {
		passes = append(passes, b.enter(g, aCall()))
	}
	passes[0].Leave(fault(vision.RateLimited, 30*time.Second))
	passes[1].Leave(fault(vision.RateLimited, 3*time.Second))
	began := time.Now()
	if e := b.refused(other, aCall()); e.Class != vision.RateLimited || e.RetryAfter < 29*time.Second || e.RetryAfter > 35*time.Second || time.Since(began) > 5*time.Second {
		t.Errorf("got %+v after %v, want the longer wait", e, time.Since(began))
	}
	if got := b.client.HGet(t.Context(), prefix+"e", "limit").Val(); got != "8000" {
		t.Errorf("limit %s, want 8 calls, four fifths of the 10 that were in flight", got)
	}
	b.client.HDel(t.Context(), prefix+"e", "not_before", "rpm") // the limit a minute is another test's
	if e := b.refused(other, aCall()); e.Class != vision.RateLimited {
		t.Errorf("got %+v, want no ninth call", e)
	}
	for _, p := range passes[2:] {
		p.Leave(answered)
	}
	b.enter(other, aCall()).Leave(answered)
}

// TestLimitGrows has more calls than the limit end well: it grows by about one each time that all have answered. It
// does not while they are fewer, nor after faults of the server.
func TestLimitGrows(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	limit := func() float64 {
		f, err := b.client.HGet(t.Context(), prefix+"e", "limit").Float64()
		if err != nil {
			t.Fatal(err)
		}
		return f / 1000
	}
	b.client.HSet(t.Context(), prefix+"e", "limit", 10_000)
	round := func(n int, end vision.End) {
		var all []vision.Pass
		for range n {
			all = append(all, b.enter(g, aCall()))
		}
		for _, p := range all {
			p.Leave(end)
		}
	}
	round(10, answered)
	if l := limit(); l < 10.2 || l > 11.1 {
		t.Errorf("after a round at the limit: %v, want more", l)
	}
	before := limit()
	round(5, answered)
	if l := limit(); l != before {
		t.Errorf("after a round of half of it: %v, want %v", l, before)
	}
	round(1, fault(vision.Overloaded, 0))
	round(10, answered)
	if l := limit(); l != before {
		t.Errorf("after a fault of the server: %v, want %v", l, before)
	}
}

// TestBreaker has an endpoint fail, be asked once a minute, and get well.
func TestBreaker(t *testing.T) {
	b := newBench(t)
	const minute = 2 * time.Second
	g, other := b.gate(Config{}, minute), b.gate(Config{}, minute)
	for range 10 {
		b.enter(g, aCall()).Leave(fault(vision.Overloaded, 0))
	}
	e := b.refused(other, aCall())
	if !e.Closed || e.Class != vision.Overloaded || !strings.Contains(e.Error(), "boom") || e.RetryAfter <= 0 {
		t.Errorf("got %+v, want the endpoint closed with its fault", e)
	}
	if n := b.logs.FilterMessageSnippet("fails").Len(); n != 1 {
		t.Errorf("%d lines of the log tell of it, want 1", n)
	}
	if f := other.Failing(); len(f) != 1 || !strings.Contains(f[0], "endpoint e fails") || !strings.Contains(f[0], "boom") {
		t.Errorf("what fails: got %q", f)
	}
	states, err := other.States(t.Context())
	if err != nil || len(states) != 1 {
		t.Fatalf("got %+v, %v, want one endpoint", states, err)
	}
	if s := states[0]; s.Endpoint != "e" || s.Open.IsZero() || s.InFlight != 0 || s.Begun != 10 || s.Fails != 10 || s.Class == "" || !strings.Contains(s.Text, "boom") {
		t.Errorf("got %+v, want the breaker open after 10 calls, and why", s)
	}
	if ago := b.client.Time(t.Context()).Val().Sub(states[0].Opened); ago < 0 || ago > time.Minute {
		t.Errorf("opened %v ago, want just now", ago)
	}
	probes := func() (n int) {
		for range 20 {
			if p, err := other.Enter(t.Context(), aCall()); err == nil {
				n++
				defer p.Leave(fault(vision.Overloaded, 0))
			}
		}
		return n
	}
	time.Sleep(minute + 50*time.Millisecond) // the clock of Redis, which no event tells of
	if n := probes(); n != 1 {
		t.Errorf("%d calls probe the endpoint, want 1", n)
	}
	time.Sleep(minute + 50*time.Millisecond)
	b.enter(g, aCall()).Leave(answered)
	b.enter(other, aCall()).Leave(answered)
	if f := other.Failing(); len(f) != 0 {
		t.Errorf("what fails when it is well: got %q", f)
	}
	held := b.enter(g, aCall())
	if states, err := other.States(t.Context()); err != nil || len(states) != 1 || !states[0].Open.IsZero() || !states[0].Opened.IsZero() || states[0].InFlight != 1 || states[0].Class != "" {
		t.Errorf("got %+v, %v, want the breaker closed and a call in flight", states, err)
	}
	held.Leave(answered)
	if n := b.logs.FilterMessageSnippet("well again").Len(); n != 1 {
		t.Errorf("%d lines of the log tell of the end, want 1", n)
	}
}

// TestDeadKey has 500 jobs in four processes begin at once with a key that the endpoint does not know.
func TestDeadKey(t *testing.T) {
	b := newBench(t)
	var calls, told atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		g := b.gate(Config{}, time.Minute)
		for range 125 {
			wg.Go(func() {
				p, err := g.Enter(t.Context(), aCall())
				var e *vision.Error
				switch {
				case err == nil:
					calls.Add(1)
					p.Leave(fault(vision.Denied, 0))
				case errors.As(err, &e) && e.Closed && e.Class == vision.Denied:
					told.Add(1)
				default:
					t.Errorf("got %v", err)
				}
			})
		}
	}
	wg.Wait()
	if calls.Load() > 10 || calls.Load()+told.Load() != 500 {
		t.Errorf("%d calls, %d were told: want at most 10 calls", calls.Load(), told.Load())
	}
	if lines := b.logs.FilterLevelExact(zap.ErrorLevel).Len(); lines != 1 {
		t.Errorf("%d lines of the log, want 1 at level error", lines)
	}
}

// TestModelOfAJob has jobs name a model that the endpoint does not have: that is their fault, and nobody else's.
func TestModelOfAJob(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	c := aCall()
	c.Named, c.Model = true, "none"
	for range 10 {
		b.enter(g, c).Leave(fault(vision.NotFound, 0))
	}
	b.enter(g, aCall()).Leave(answered)

	// That the key is dead is not, and such a job says nothing of an endpoint that fails.
	dead := vision.End{Err: &vision.Error{Class: vision.Denied, StatusCode: 401, Err: errors.New("boom")}}
	b.enter(g, c).Leave(dead)
	if e := b.refused(g, c); !e.Closed {
		t.Errorf("with a dead key: got %+v", e)
	}
	b.client.HSet(t.Context(), prefix+"e", "open_until", 1)
	b.enter(g, c).Leave(fault(vision.NotFound, 0))
	if e := b.refused(g, aCall()); !e.Closed {
		t.Errorf("after a probe that says nothing: got %+v", e)
	}
}

// TestDeadLeaseAfterALimit has a process die with a call in flight before the endpoint has no room: that keeps nobody from
// asking again.
func TestDeadLeaseAfterALimit(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{MaxWait: time.Second}, time.Minute)
	b.enter(g, aCall()) // and it dies
	b.enter(g, aCall()).Leave(fault(vision.RateLimited, time.Millisecond))
	p := b.enter(g, aCall())
	if e := b.refused(g, aCall()); e.Class != vision.RateLimited {
		t.Errorf("a second before the first has an answer: got %+v", e)
	}
	p.Leave(answered)
	b.enter(g, aCall()).Leave(answered)
}

// TestLongUnavailable has a server ask for hours, which is that job's matter; when it has ten faults in a row it is asked
// again in ten minutes.
func TestLongUnavailable(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	for range 10 {
		b.enter(g, aCall()).Leave(fault(vision.Overloaded, 5*time.Hour))
	}
	if e := b.refused(g, aCall()); !e.Closed || e.RetryAfter < 5*time.Minute || e.RetryAfter > 12*time.Minute {
		t.Errorf("got %+v", e)
	}
}

// TestProbes has an endpoint fail for longer and longer: it is asked once a minute, and sooner while that is new.
func TestProbes(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	state := prefix + "e"
	for range 10 {
		b.enter(g, aCall()).Leave(fault(vision.Overloaded, 0))
	}
	for _, c := range []struct{ lasted, want time.Duration }{{0, 5 * time.Second}, {20 * time.Second, 20 * time.Second}, {time.Hour, time.Minute}} {
		now := b.client.Time(t.Context()).Val()
		b.client.HSet(t.Context(), state, "opened", now.Add(-c.lasted).UnixMicro(), "open_until", now.UnixMicro())
		b.enter(g, aCall()).Leave(fault(vision.Overloaded, 0))
		if e := b.refused(g, aCall()); !e.Closed || e.RetryAfter < c.want-time.Second || e.RetryAfter > c.want+c.want/10+time.Second {
			t.Errorf("after %v: got %v and a wait of %v, want %v", c.lasted, e, e.RetryAfter, c.want)
		}
	}
}

// losing is a connection that loses the answer of the next script, and whose caller gives up then.
type losing struct{ giveUp func() }

func (l *losing) DialHook(next redis.DialHook) redis.DialHook { return next }
func (l *losing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (l *losing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if l.giveUp != nil && strings.HasPrefix(cmd.Name(), "eval") && err == nil {
			l.giveUp()
			l.giveUp = nil
			cmd.SetErr(context.Canceled)
			return context.Canceled
		}
		return err
	}
}

// TestCallThatNobodyKnowsOf has a caller give up when its call may begin, and before it has heard of it.
func TestCallThatNobodyKnowsOf(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Budgets: []Budget{{1_000_000, time.Hour}}}, time.Minute)
	c := aCall()
	c.Prices = vision.Prices{In: 1_000_000, Out: 1_000_000}
	b.enter(g, c).Leave(answered) // the script is there
	ctx, cancel := context.WithCancel(t.Context())
	g.client.(*redis.Client).AddHook(&losing{cancel})
	if p, err := g.Enter(ctx, c); err == nil {
		t.Fatalf("got %v", p)
	}
	if n := b.client.ZCard(t.Context(), prefix+"e:leases").Val(); n != 0 {
		t.Errorf("%d calls are in flight", n)
	}
	if s, err := g.Spending(t.Context()); err != nil || s[0].Reserved != 0 || s[0].Spent != 100 {
		t.Errorf("got %+v, %v", s, err)
	}
}

// TestUsersOfOneLine has hundreds of calls of one user wait, of whom one may be at work: another user's call is not
// behind them.
func TestUsersOfOneLine(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{PerUser: 1, MaxWait: 4 * time.Second}, time.Minute)
	c := aCall()
	c.User = "greedy"
	first := b.enter(g, c)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 600 {
		wg.Go(func() { _, _ = g.Enter(ctx, c) })
	}
	for g.line("e").len() != 600 {
		time.Sleep(time.Millisecond)
	}
	modest := aCall()
	modest.User = "modest"
	modest.Wait = 2 * time.Second
	b.enter(g, modest).Leave(answered)
	cancel()
	wg.Wait()
	first.Leave(answered)
}

// TestPriority has calls wait that begin in the order of their priority, the earlier first.
func TestPriority(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Limits: map[string]Limits{"e": {InFlight: 1}}}, time.Minute)
	first := b.enter(g, aCall())
	began := make(chan int, 6)
	for i, priority := range []uint8{0, 3, 0, 9, 3} {
		c := aCall()
		c.Priority = priority
		go func() {
			p, err := g.Enter(t.Context(), c)
			if err != nil {
				t.Error(err)
				return
			}
			began <- i
			p.Leave(answered)
		}()
		for g.line("e").len() != i+1 {
			time.Sleep(time.Millisecond)
		}
	}
	first.Leave(answered)
	var got []int
	for range 5 {
		got = append(got, <-began)
	}
	if want := "[3 1 4 0 2]"; fmt.Sprint(got) != want {
		t.Errorf("they begin in the order %v, want %v", got, want)
	}
}

// BenchmarkEnter has 1,000 calls begin that may all begin. One of them asks Redis at once, or as many as the line lets.
func BenchmarkEnter(b *testing.B) {
	for _, asking := range []int{1, mostAsking} {
		b.Run(fmt.Sprint("asking=", asking), func(b *testing.B) {
			bench := newBench(b)
			g := bench.gate(Config{}, time.Minute)
			g.asking = asking
			bench.enter(g, aCall()).Leave(answered) // the endpoint is known
			for b.Loop() {
				var wg sync.WaitGroup
				passes := make([]vision.Pass, 1000)
				for i := range passes {
					wg.Go(func() { passes[i] = bench.enter(g, aCall()) })
				}
				wg.Wait()
				b.StopTimer()
				for _, p := range passes {
					wg.Go(func() { p.Leave(answered) })
				}
				wg.Wait()
				b.StartTimer()
			}
		})
	}
}

// TestPerUser has one user's calls wait for each other, in all processes, and nobody else's for them.
func TestPerUser(t *testing.T) {
	b := newBench(t)
	cfg := Config{PerUser: 2, MaxWait: 300 * time.Millisecond}
	g, other := b.gate(cfg, time.Minute), b.gate(cfg, time.Minute)
	c := aCall()
	c.User = "greedy"
	p, q := b.enter(g, c), b.enter(other, c)
	refused := make(chan error, 1)
	go func() {
		_, err := g.Enter(t.Context(), c)
		refused <- err
	}()
	for g.line("e").len() != 1 {
		time.Sleep(time.Millisecond)
	}
	modest := aCall()
	modest.User = "modest"
	b.enter(g, modest).Leave(answered)
	if err := <-refused; err == nil {
		t.Error("the third call of a user began, want two at once")
	}
	p.Leave(answered)
	q.Leave(answered)
	b.enter(g, c).Leave(answered)
}

// TestExpired has a job's time run out while it waits.
func TestExpired(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Limits: map[string]Limits{"e": {InFlight: 1}}}, time.Minute)
	first := b.enter(g, aCall())
	c := aCall()
	c.Wait = 50 * time.Millisecond
	if e := b.refused(g, c); e.Class != vision.RateLimited || e.RetryAfter < leastAgain {
		t.Errorf("a call that may not wait for long: got %+v", e)
	}
	c.Wait, c.Expires = 0, time.Now().Add(50*time.Millisecond)
	if e := b.refused(g, c); !strings.Contains(e.Error(), "expired") {
		t.Errorf("got %v", e)
	}
	// Nor does one wait for its turn that is behind another one.
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); g.Enter(ctx, aCall()) }()
	for g.line("e").len() != 1 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	c.Expires = began.Add(50 * time.Millisecond)
	if e := b.refused(g, c); !strings.Contains(e.Error(), "expired") || time.Since(began) > defaultWait/2 {
		t.Errorf("got %v after %v, want that it has expired, and at once", e, time.Since(began))
	}
	cancel()
	<-ended
	first.Leave(answered)
}

// TestCrash has a process die with calls in flight: their places are free and their money is booked when the leases
// have run out, once.
func TestCrash(t *testing.T) {
	b := newBench(t)
	budget := []Budget{{1_000_000, 24 * time.Hour}}
	g := b.gate(Config{Budgets: budget, Limits: map[string]Limits{"e": {InFlight: 3}}, MaxWait: 50 * time.Millisecond}, time.Minute)
	c := aCall()
	c.Prices = vision.Prices{In: 1_000_000, Out: 1_000_000}
	c.User = "u"
	var dead vision.Pass
	for range 3 {
		dead = b.enter(g, c)
	}
	b.refused(g, c)
	b.client.ZAdd(t.Context(), prefix+"e:leases", redis.Z{Score: 1, Member: dead.(*pass).id}) // long ago
	b.enter(g, c).Leave(answered)
	spent, err := g.Spending(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The two that live, the dead one, and the last.
	if s := spent[0]; s.Spent != 2000+100 || s.Reserved != 4000 || s.Left() != 1_000_000-6100 {
		t.Errorf("got %+v, want the reservation of the dead call spent", s)
	}
	if charged := dead.Leave(answered); charged != 100 {
		t.Errorf("a call that was taken for dead is charged %d, want what it says", charged)
	}
	if again, err := g.Spending(t.Context()); err != nil || again[0].Spent != 2100 {
		t.Errorf("after its end came late: %+v, %v, want nothing booked twice", again[0], err)
	}
}

// TestBudget has eight processes spend as fast as they can, at random prices, with processes that die in mid-call and
// a Redis that is restarted: what they were billed is never more than the budget, and what is booked is that, and the
// reservations of the dead.
func TestBudget(t *testing.T) {
	b := newBench(t, "--appendonly", "yes", "--appendfsync", "always")
	const amount, mean = 60_000, 500
	budgets := []Budget{{amount, 366 * 24 * time.Hour}, {10 * amount, 365 * 24 * time.Hour}}
	c := aCall()
	c.Prices = vision.Prices{In: 1_000_000, Out: 1_000_000}
	c.Most = vision.Tokens{Prompt: 50_000, Completion: 50_000}
	var billed, booked, killed, over, calls atomic.Int64
	halfway := make(chan struct{})
	var wg sync.WaitGroup
	dead := make(chan string, 1000)
	for range 8 {
		g := b.gate(Config{Budgets: budgets, MaxWait: 10 * time.Second}, time.Minute)
		for range 4 {
			wg.Go(func() {
				for {
					p, err := g.Enter(t.Context(), c)
					var e *vision.Error
					if errors.As(err, &e) && e.Class == vision.Spent {
						over.Add(1)
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					cost := 100 + rand.N(int64(801))
					billed.Add(cost)
					// The process dies; of the first calls one takes all of the budget with it, as nothing is known yet.
					if calls.Load() > 10 && rand.N(60) == 0 {
						killed.Add(p.(*pass).money)
						p.(*pass).line.ended()
						dead <- p.(*pass).id
						continue
					}
					if calls.Add(1) == 40 {
						close(halfway)
					}
					booked.Add(p.Leave(vision.End{Paid: true, Tokens: vision.Tokens{Prompt: int(cost) - 10, Completion: 10}}))
				}
			})
		}
	}
	for done := waited(&wg); done != nil || halfway != nil; {
		select {
		case <-done:
			done = nil
		case <-halfway:
			halfway = nil
			b.server.Restart()
		case id := <-dead: // its lease runs out: the others wait for that
			b.client.ZAddXX(t.Context(), prefix+"e:leases", redis.Z{Score: 1, Member: id})
		}
	}
	if over.Load() != 32 {
		t.Errorf("%d of 32 were told that the budget is spent", over.Load())
	}
	if billed.Load() > amount || billed.Load() < amount*7/10-killed.Load() {
		t.Errorf("billed %d of a budget of %d, %d of it lost with the dead", billed.Load(), amount, killed.Load())
	}
	spent, err := b.gate(Config{Budgets: budgets}, time.Minute).Spending(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range spent {
		if s.Reserved != 0 || s.Spent != booked.Load()+killed.Load() {
			t.Errorf("%v: %d spent and %d reserved, want %d and the %d of the dead", s.Budget, s.Spent, s.Reserved, booked.Load(), killed.Load())
		}
		var sum int64
		for _, by := range s.By {
			sum += by.MicroUSD
		}
		if sum != s.Spent {
			t.Errorf("%v: the parts are %d, want %d", s.Budget, sum, s.Spent)
		}
	}
}

// waited is closed when the group is done.
func waited(wg *sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	return done
}

// TestOverBudget says when to come again, or not to.
func TestOverBudget(t *testing.T) {
	b := newBench(t)
	c := aCall()
	c.Prices = vision.Prices{In: 1_000_000, Out: 1_000_000}
	budgets := []Budget{{100, time.Minute}}
	g := b.gate(Config{Budgets: budgets}, time.Minute)
	now := b.client.Time(t.Context()).Val()
	if left := time.Minute - now.Sub(now.Truncate(time.Minute)); left < 5*time.Second {
		time.Sleep(left) // the window would end meanwhile
	}
	b.enter(g, c).Leave(answered)
	const most = time.Minute + 10*time.Millisecond + time.Second // a window, the first place behind it, and a second for the clocks
	if e := b.refused(g, c); e.Class != vision.Spent || e.RetryAfter <= 0 || e.RetryAfter > most || !strings.Contains(e.Error(), "0.0001usd/1m") {
		t.Errorf("got %+v %v, want to come again in the next window", e, e)
	}
	for range 500 { // each comes a hundredth of a second behind the one before
		b.refused(g, c)
	}
	if e := b.refused(g, c); e.RetryAfter < 6*time.Second {
		t.Errorf("after 500 others: got %v, want to come again behind them", e.RetryAfter)
	}
	if e := b.refused(b.gate(Config{Budgets: budgets, Refuse: true}, time.Minute), c); e.Class != vision.Spent || e.RetryAfter != 0 {
		t.Errorf("got %+v, want it to fail", e)
	}
	if e := b.refused(g, aCall()); e.Class != vision.Invalid || !strings.Contains(e.Error(), "price") {
		t.Errorf("without a price: got %v", e)
	}
}

// TestRedisAway has no call begin while Redis is away.
func TestRedisAway(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{}, time.Minute)
	b.enter(g, aCall()).Leave(answered)
	b.server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := g.Enter(ctx, aCall())
	var away *redisretry.UnavailableError
	if !errors.As(err, &away) {
		t.Errorf("got %v, want that Redis is away", err)
	}
	b.server.Start()
	b.enter(g, aCall()).Leave(answered)
}

func TestParseBudgets(t *testing.T) {
	t.Parallel()
	got, err := ParseBudgets("5usd/1d, 100usd/30d,0.25usd/12h,1.000001usd/30m")
	if want := "[5usd/1d 100usd/30d 0.25usd/12h 1.000001usd/30m]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"5", "5usd", "5usd/", "5eur/1d", "5usd/1w", "0usd/1d", "5usd/0d", "5usd/367d", "-5usd/1d", "5usd/1d,6usd/24h", "1.0000001usd/1d", "5usd/1d,", "9999999999usd/1d"} {
		if b, err := ParseBudgets(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, b)
		} else if !strings.Contains(err.Error(), "expected") {
			t.Errorf("%q: %v does not say what was expected", bad, err)
		}
	}
}

func FuzzParseBudgets(f *testing.F) {
	f.Add("5usd/1d,0.25usd/12h")
	f.Fuzz(func(t *testing.T, s string) {
		all, err := ParseBudgets(s)
		if err != nil {
			return
		}
		for _, b := range all {
			again, err := ParseBudgets(b.String())
			if err != nil || again[0] != b {
				t.Errorf("%q: got %v, %v, want %v", b, again, err, b)
			}
		}
	})
}

// TestCheck looks at servers that would forget what was spent.
func TestCheck(t *testing.T) {
	b := newBench(t)
	g := b.gate(Config{Budgets: []Budget{{1, time.Hour}}}, time.Minute)
	b.client.ConfigSet(t.Context(), "appendonly", "no")
	if warnings, err := g.Check(t.Context()); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "appendonly") {
		t.Errorf("without a file: got %q, %v", warnings, err)
	}
	b.client.ConfigSet(t.Context(), "appendonly", "yes")
	if warnings, err := g.Check(t.Context()); err != nil || len(warnings) != 0 {
		t.Errorf("of a good server: got %q, %v", warnings, err)
	}
	b.client.ConfigSet(t.Context(), "maxmemory", "100mb")
	b.client.ConfigSet(t.Context(), "maxmemory-policy", "volatile-lru")
	var evicts *EvictionError
	if _, err := g.Check(t.Context()); !errors.As(err, &evicts) || evicts.Policy != "volatile-lru" {
		t.Errorf("of one that evicts: got %v", err)
	}
	if _, err := b.gate(Config{}, time.Minute).Check(t.Context()); err != nil {
		t.Errorf("without a budget: got %v", err)
	}
}
