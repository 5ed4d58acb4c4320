package cache_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/phash"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const good = "d339859858ce338dd339859858ce338d2cc67a67a731cc722cc67a67a731cc72" // popcount 128

func hash(t *testing.T, s string) phash.Hash {
	t.Helper()
	h, err := phash.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func setup(t *testing.T) (*cache.Cache, *redis.Client) {
	t.Helper()
	t.Parallel()
	opt, err := redisretry.Options(testenv.Redis(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	c := cache.New(client, zap.NewNop())
	t.Cleanup(func() { c.Close(); client.Close() })
	return c, client
}

var bottle = cache.Entry{
	WasteType: "plastic", Confidence: 0.93, Feedback: "라벨을 떼고 <b>헹궈서</b> 버리세요", Category: "plastic_bottle",
	Recyclable: true, AnalyzedAt: "2026-11-21T00:44:25", Model: "m", PromptVersion: "0a1b2c3d",
}

func TestKey(t *testing.T) {
	h := hash(t, good)
	for _, tt := range []struct {
		v    cache.Variant
		want string
	}{
		{cache.Variant{}, "cache:image:hash:" + good},
		{cache.Variant{Lang: "en"}, "cache:image:hash:" + good + ":lang=en"},
		{cache.Variant{Lang: "en", Model: "big"}, "cache:image:hash:" + good + ":lang=en:model=big"},
	} {
		if got := cache.Key(h, tt.v); got != tt.want {
			t.Errorf("got key %q, want %q", got, tt.want)
		}
	}
	for _, degenerate := range []string{
		strings.Repeat("0", 64), "8" + strings.Repeat("0", 63), "9" + good[1:63] + "f",
	} {
		if got := cache.Key(hash(t, degenerate), cache.Variant{}); got != "" {
			t.Errorf("degenerate hash %s: got key %q, want none", degenerate, got)
		}
	}
}

func TestSetAndGet(t *testing.T) {
	c, client := setup(t)
	ctx := t.Context()
	key := cache.Key(hash(t, good), cache.Variant{})
	if e, err := c.Get(ctx, key); e != nil || err != nil {
		t.Fatalf("empty cache: got %v, %v", e, err)
	}
	if err := c.Set(ctx, key, bottle); err != nil {
		t.Fatal(err)
	}
	raw, err := client.Get(ctx, key).Result()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"waste_type":"plastic","confidence":0.93,"feedback":"라벨을 떼고 <b>헹궈서</b> 버리세요","category":"plastic_bottle","recyclable":true,"analyzed_at":"2026-11-21T00:44:25","model":"m","prompt_version":"0a1b2c3d"}`
	if raw != want {
		t.Errorf("stored %s, want %s", raw, want)
	}
	if ttl := client.TTL(ctx, key).Val(); ttl <= 7*24*time.Hour-time.Minute || ttl > 7*24*time.Hour {
		t.Errorf("got TTL %v, want 7 days", ttl)
	}
	e, err := c.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&bottle, e); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
}

// TestGetWhatPythonWrote reads json.dumps output, escaped and not, and refuses
// what is no analysis.
func TestGetWhatPythonWrote(t *testing.T) {
	c, client := setup(t)
	six := cache.Entry{WasteType: "can", Confidence: 1, Feedback: "찌그러뜨려", Category: "metal", Recyclable: true, AnalyzedAt: "2026-11-20T10:00:00"}
	tests := []struct {
		name, raw string
		want      *cache.Entry
	}{
		{"ensure_ascii", `{"waste_type": "can", "confidence": 1, "feedback": "\ucc0c\uadf8\ub7ec\ub728\ub824", "category": "metal", "recyclable": true, "analyzed_at": "2026-11-20T10:00:00"}`, &six},
		{"readable", `{"waste_type": "can", "confidence": 1.0, "feedback": "찌그러뜨려", "category": "metal", "recyclable": true, "analyzed_at": "2026-11-20T10:00:00"}`, &six},
		{"unknown fields", `{"waste_type": "can", "confidence": 1.0, "feedback": "찌그러뜨려", "category": "metal", "recyclable": true, "analyzed_at": "2026-11-20T10:00:00", "extra": [1]}`, &six},
		{"truncated", `{"waste_type": "can", "conf`, nil},
		{"not an analysis", `{"hello": "world"}`, nil},
		{"not an object", `"plastic"`, nil},
		{"empty", ``, nil},
	}
	for _, tt := range tests {
		client.Set(t.Context(), "k", tt.raw, time.Minute)
		got, err := c.Get(t.Context(), "k")
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: entry (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestDegenerateIsNeitherReadNorWritten(t *testing.T) {
	c, client := setup(t)
	ctx := t.Context()
	if err := c.Set(ctx, "", bottle); err != nil {
		t.Fatal(err)
	}
	if e, err := c.Get(ctx, ""); e != nil || err != nil {
		t.Errorf("got %v, %v, want nil, nil", e, err)
	}
	calls := 0
	for range 2 {
		if _, shared, err := c.Fill(ctx, "", func(context.Context) (cache.Entry, error) { calls++; return bottle, nil }, nil); shared || err != nil {
			t.Errorf("got shared %v, %v", shared, err)
		}
	}
	if calls != 2 {
		t.Errorf("got %d computations, want 2", calls)
	}
	if n := client.DBSize(ctx).Val(); n != 0 {
		t.Errorf("got %d keys, want none", n)
	}
}

// TestFillOnce lets 50 callers miss at once: one computes, and the entry is
// stored before any of them returns.
func TestFillOnce(t *testing.T) {
	c, client := setup(t)
	const callers = 50
	var computed, leaders, waiting atomic.Int32
	allWait := make(chan struct{})
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			e, shared, err := c.Fill(t.Context(), "k", func(context.Context) (cache.Entry, error) {
				computed.Add(1)
				<-allWait
				return bottle, nil
			}, func() {
				if waiting.Add(1) == callers-1 {
					close(allWait)
				}
			})
			if err != nil || e != bottle {
				t.Errorf("got %v, %v", e, err)
			}
			if !shared {
				leaders.Add(1)
			}
			if client.Exists(t.Context(), "k").Val() != 1 {
				t.Error("returned before the entry was stored")
			}
		})
	}
	wg.Wait()
	if computed.Load() != 1 || leaders.Load() != 1 {
		t.Errorf("got %d computations and %d leaders, want 1 and 1", computed.Load(), leaders.Load())
	}
}

func TestFillErrorsAreNotCached(t *testing.T) {
	c, client := setup(t)
	boom := errors.New("boom")
	for range 2 {
		_, _, err := c.Fill(t.Context(), "k", func(context.Context) (cache.Entry, error) { return cache.Entry{}, boom }, nil)
		if !errors.Is(err, boom) {
			t.Errorf("got %v, want %v", err, boom)
		}
	}
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("got %d keys, want none", n)
	}
}

func TestFillPanicBecomesAnError(t *testing.T) {
	c, _ := setup(t)
	_, _, err := c.Fill(t.Context(), "k", func(context.Context) (cache.Entry, error) { panic("boom") }, nil)
	var exc *celery.Exception
	if !errors.As(err, &exc) || exc.Type != "RuntimeError" || len(exc.Frames) == 0 {
		t.Errorf("got %v, want a RuntimeError with the stack", err)
	}
}

// TestFillOutlivesItsFirstCaller cancels the caller that started the
// computation: the others still get its answer.
func TestFillOutlivesItsFirstCaller(t *testing.T) {
	c, _ := setup(t)
	started, release := make(chan struct{}), make(chan struct{})
	compute := func(ctx context.Context) (cache.Entry, error) {
		close(started)
		select {
		case <-release:
			return bottle, nil
		case <-ctx.Done():
			return cache.Entry{}, context.Cause(ctx)
		}
	}
	gone := errors.New("first caller has gone")
	first, cancel := context.WithCancelCause(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, _, err := c.Fill(first, "k", compute, nil); !errors.Is(err, gone) {
			t.Errorf("first caller: got %v, want %v", err, gone)
		}
	})
	<-started
	joined := make(chan struct{})
	wg.Go(func() {
		e, shared, err := c.Fill(t.Context(), "k", compute, func() { close(joined) })
		if err != nil || !shared || e != bottle {
			t.Errorf("second caller: got %v, %v, %v", e, shared, err)
		}
	})
	<-joined
	cancel(gone)
	// Only once the first has left is it shown that the second does not depend
	// on it; Fill of the first returns before release.
	close(release)
	wg.Wait()
}

// TestFillEndsWithItsLastCaller needs no server: nothing is stored.
func TestFillEndsWithItsLastCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cache.New(nil, zap.NewNop())
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ended := make(chan error, 1)
		_, _, err := c.Fill(ctx, "k", func(ctx context.Context) (cache.Entry, error) {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return cache.Entry{}, ctx.Err()
		}, nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline", err)
		}
		if err := <-ended; err == nil {
			t.Error("the computation went on without anybody waiting")
		}
	})
}

func TestCloseEndsComputations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cache.New(nil, zap.NewNop())
		done := make(chan error, 1)
		go func() {
			_, _, err := c.Fill(t.Context(), "k", func(ctx context.Context) (cache.Entry, error) {
				<-ctx.Done()
				return cache.Entry{}, context.Cause(ctx)
			}, nil)
			done <- err
		}()
		synctest.Wait()
		c.Close()
		if err := <-done; err == nil {
			t.Error("got no error, want that the cache is closing")
		}
		if _, _, err := c.Fill(t.Context(), "k", nil, nil); err == nil {
			t.Error("a closed cache: got no error")
		}
	})
}

// TestCleanup finds entries that have no TTL and values that are no analyses.
func TestCleanup(t *testing.T) {
	c, client := setup(t)
	ctx := t.Context()
	kept, undated, damaged := cache.Key(hash(t, good), cache.Variant{}), "cache:image:hash:of-python", "cache:image:hash:damaged"
	if err := c.Set(ctx, kept, bottle); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{undated: `{"waste_type":"can"}`, damaged: `"text"`, "other": "of somebody else"} {
		if err := client.Set(ctx, key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.LPush(ctx, "cache:image:hash:list", 1).Err(); err != nil {
		t.Fatal(err)
	}
	for range 1200 { // more than a step of the scan
		if err := c.Set(ctx, "cache:image:hash:"+uuid.NewString(), bottle); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.Cleanup(ctx)
	if want := (cache.Cleaned{Scanned: 1203, Dated: 1, Removed: 1}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if ttl := client.TTL(ctx, undated).Val(); ttl <= 0 || ttl > cache.TTL {
		t.Errorf("got TTL %v, want %v", ttl, cache.TTL)
	}
	if n := client.Exists(ctx, kept, damaged, "other").Val(); n != 2 {
		t.Errorf("got %d of the three keys, want all but the damaged one", n)
	}
}
