package ratelimit_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/ratelimit"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const endpoint = "/api/v1/waste/analyze"

var someone = netip.MustParseAddr("192.0.2.7")

func TestParseRule(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ratelimit.Rule{
		"60/60s":    {Limit: 60, Window: time.Minute},
		" 5 / 1.5s": {Limit: 5, Window: 1500 * time.Millisecond},
		"1000/24h":  {Limit: 1000, Window: 24 * time.Hour},
		"off":       {},
	} {
		got, err := ratelimit.ParseRule(text)
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v, want %+v", text, got, err, want)
		}
		if again, err := ratelimit.ParseRule(got.String()); err != nil || again != want {
			t.Errorf("%q is written as %q, which is read as %+v, %v", text, got.String(), again, err)
		}
	}
	for _, text := range []string{"", "60", "60/", "/60s", "60/60", "0/60s", "-1/60s", "60/0s", "60/999ms", "60/25h", "60/1.0001s", "9999999/1s", "60/60s/1", "none"} {
		if got, err := ratelimit.ParseRule(text); err == nil || !strings.Contains(err.Error(), "60/60s") {
			t.Errorf("%q: got %+v, %v, want an error that shows the form", text, got, err)
		}
	}
}

// limited returns a limiter on a Redis of its own, and a client of that.
func limited(t *testing.T, rule ratelimit.Rule) (*ratelimit.Limiter, *redis.Client, *testenv.RedisServer) {
	t.Helper()
	t.Parallel()
	s := testenv.Redis(t)
	open := func() *redis.Client {
		opt, err := redisretry.Options(s.URL())
		if err != nil {
			t.Fatal(err)
		}
		return redis.NewClient(opt)
	}
	own, c := open(), open()
	l := ratelimit.New(rule, own, zap.NewNop())
	t.Cleanup(func() {
		own.Close()
		l.Wait()
		c.Close()
	})
	return l, c, s
}

func take(t *testing.T, l *ratelimit.Limiter) ratelimit.Decision {
	t.Helper()
	d, err := l.Take(t.Context(), someone, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestFixedWindow has the contract of the key: a decimal number of the admitted requests, with what is left of the window as its
// TTL, which no later request moves.
func TestFixedWindow(t *testing.T) {
	l, c, _ := limited(t, ratelimit.Rule{Limit: 3, Window: time.Minute})
	key := "ratelimit:ip:192.0.2.7:/api/v1/waste/analyze"
	var last time.Duration
	for i, want := range []ratelimit.Decision{{Admitted: true, Remaining: 2}, {Admitted: true, Remaining: 1}, {Admitted: true}, {}, {}} {
		got := take(t, l)
		if got.Reset <= 0 || got.Reset > time.Minute || last != 0 && got.Reset > last {
			t.Errorf("request %d: got %v until the end, %v before it", i+1, got.Reset, last)
		}
		last, got.Reset = got.Reset, 0
		if got != want {
			t.Errorf("request %d: got %+v, want %+v", i+1, got, want)
		}
	}
	if n, err := c.Get(t.Context(), key).Result(); err != nil || n != "3" {
		t.Errorf("got %s = %q, %v, want 3: refused requests are not counted", key, n, err)
	}
	if ttl := c.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("got TTL %v, want what is left of a minute", ttl)
	}

	// Python counts in the same key.
	c.Set(t.Context(), key, 2, 30*time.Second)
	if d := take(t, l); !d.Admitted || d.Remaining != 0 || d.Reset > 30*time.Second {
		t.Errorf("got %+v after two requests elsewhere, want the last one of a window of 30s", d)
	}
	c.PExpire(t.Context(), key, time.Millisecond)
	for c.Exists(t.Context(), key).Val() == 1 {
	}
	if d := take(t, l); !d.Admitted || d.Remaining != 2 {
		t.Errorf("got %+v in the next window", d)
	}
	// A counter that never ends would shut somebody out for ever.
	for _, broken := range []any{99, "x", "-5"} {
		c.Set(t.Context(), key, broken, 0)
		if d := take(t, l); !d.Admitted || d.Remaining != 2 || c.PTTL(t.Context(), key).Val() <= 0 {
			t.Errorf("got %+v, TTL %v after a counter %v without a TTL", d, c.PTTL(t.Context(), key).Val(), broken)
		}
	}
}

// TestKeys keeps apart what has to be counted apart.
func TestKeys(t *testing.T) {
	l, _, _ := limited(t, ratelimit.Rule{Limit: 1, Window: time.Minute})
	for _, ip := range []string{"192.0.2.7", "192.0.2.70", "2001:db8::1", ""} {
		addr, _ := netip.ParseAddr(ip)
		for _, path := range []string{endpoint, "/api/v1/auth/logout"} {
			if d, err := l.Take(t.Context(), addr, path); err != nil || !d.Admitted {
				t.Errorf("%q to %s: got %+v, %v", ip, path, d, err)
			}
			if d, err := l.Take(t.Context(), addr, path); err != nil || d.Admitted {
				t.Errorf("%q to %s, second request: got %+v, %v", ip, path, d, err)
			}
		}
	}
}

// TestNetwork counts the addresses of a network of IPv6 as one, and those of IPv4 and of another network by themselves.
func TestNetwork(t *testing.T) {
	l, _, _ := limited(t, ratelimit.Rule{Limit: 1, Window: time.Minute, IPv6Prefix: 64})
	for _, tt := range []struct {
		ip   string
		want bool
	}{
		{"2001:db8::1", true}, {"2001:db8::2:0:0:1", false}, {"2001:db8:0:1::1", true},
		{"192.0.2.7", true}, {"192.0.2.8", true}, {"192.0.2.7", false}, {"", true}, {"", false},
	} {
		addr, _ := netip.ParseAddr(tt.ip)
		if d, err := l.Take(t.Context(), addr, endpoint); err != nil || d.Admitted != tt.want {
			t.Errorf("%q: got %+v, %v, want admitted %v", tt.ip, d, err, tt.want)
		}
	}
}

func TestSlidingWindow(t *testing.T) {
	l, c, _ := limited(t, ratelimit.Rule{Limit: 2, Window: time.Minute, Sliding: true})
	key := "ratelimit:ip:192.0.2.7:/api/v1/waste/analyze:sliding"
	for i, want := range []ratelimit.Decision{{Admitted: true, Remaining: 1}, {Admitted: true}, {}} {
		got := take(t, l)
		if got.Reset <= 0 || got.Reset > time.Minute {
			t.Errorf("request %d: got %v until the oldest leaves", i+1, got.Reset)
		}
		if got.Reset = 0; got != want {
			t.Errorf("request %d: got %+v, want %+v", i+1, got, want)
		}
	}
	// The older of the two was 59.9 s ago.
	all, err := c.ZRangeWithScores(t.Context(), key, 0, -1).Result()
	if err != nil || len(all) != 2 {
		t.Fatalf("got %v, %v, want the two that were admitted", all, err)
	}
	c.ZAdd(t.Context(), key, redis.Z{Member: all[0].Member, Score: all[0].Score - 59_900_000})
	if d := take(t, l); d.Admitted || d.Reset > 100*time.Millisecond {
		t.Errorf("got %+v, want it refused for 100 ms", d)
	}
	c.ZAdd(t.Context(), key, redis.Z{Member: all[0].Member, Score: all[0].Score - 60_000_001})
	if d := take(t, l); !d.Admitted || d.Remaining != 0 {
		t.Errorf("got %+v, want it admitted in the place of the one that left", d)
	}
	if ttl := c.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("got TTL %v", ttl)
	}
}

// TestConcurrent has 200 clients at once, as a Python service and a gateway would be.
func TestConcurrent(t *testing.T) {
	l, _, _ := limited(t, ratelimit.Rule{Limit: 60, Window: time.Minute})
	var admitted atomic.Int64
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			d, err := l.Take(t.Context(), someone, endpoint)
			if err != nil {
				t.Error(err)
			}
			if d.Admitted {
				admitted.Add(1)
			}
		})
	}
	all.Wait()
	if n := admitted.Load(); n != 60 {
		t.Errorf("got %d admitted, want 60", n)
	}
}

// TestOutage has an answer at once while Redis is known to be away, and counts again after it.
func TestOutage(t *testing.T) {
	l, _, s := limited(t, ratelimit.Rule{Limit: 60, Window: time.Minute})
	take(t, l)
	s.Stop()
	if _, err := l.Take(t.Context(), someone, endpoint); err == nil {
		t.Fatal("got no error without a server")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nothing waits
	for range 50 {
		if _, err := l.Take(ctx, someone, endpoint); err == nil || errors.Is(err, context.Canceled) {
			t.Fatalf("got %v while the server is known to be away", err)
		}
	}
	s.Start()
	for {
		if d, err := l.Take(t.Context(), someone, endpoint); err == nil && d.Admitted {
			break
		}
		time.Sleep(time.Millisecond)
	}
}
