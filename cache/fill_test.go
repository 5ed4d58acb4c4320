package cache

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/internal/testenv"
)

// fills calls Fill in a goroutine and hands over what came of it.
func fills(ctx context.Context, c *Cache, q Query, compute func(context.Context) (Entry, error), waiting func()) <-chan filled {
	out := make(chan filled, 1)
	go func() {
		a, err := c.Fill(ctx, &q, compute, waiting)
		out <- filled{a, err}
	}()
	return out
}

type filled struct {
	*Answer
	err error
}

// result waits, but not for ever.
func result[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(30 * time.Second):
		buf := make([]byte, 1<<20)
		t.Fatalf("got nothing within 30 s\n%s", buf[:runtime.Stack(buf, true)])
		panic("unreachable")
	}
}

func never(context.Context) (Entry, error) { return Entry{}, errors.New("computed, want that not") }

// TestFillOncePerFleet has many callers in several processes miss at once.
func TestFillOncePerFleet(t *testing.T) {
	c, client := setup(t)
	const processes, callers = 5, 50
	all := []*Cache{c}
	sent := []*commands{}
	for len(all) < processes {
		other, its := join(t, client.Options().Addr)
		all, sent = append(all, other), append(sent, count(its))
	}
	q := Query{Picture: picture(hash(t, good))}
	var computed, fresh, waiting, left atomic.Int32
	allWait := make(chan struct{})
	compute := func(context.Context) (Entry, error) {
		computed.Add(1)
		<-allWait
		return bottle, nil
	}
	var wg sync.WaitGroup
	began := make(chan struct{})
	for i, c := range all {
		for range callers {
			wg.Go(func() {
				if i > 0 {
					<-began // so that the first process computes
				}
				a, err := c.Fill(t.Context(), &q, func(ctx context.Context) (Entry, error) { close(began); return compute(ctx) }, func() { waiting.Add(1) })
				if a.Kind == Fresh {
					fresh.Add(1)
				}
				if err != nil || a.WasteType != bottle.WasteType || a.Kind != Fresh && a.Kind != Shared {
					t.Errorf("got %+v, %v, want the answer", a, err)
				}
				if client.Exists(t.Context(), q.Key(q.Variant)).Val() != 1 {
					t.Error("returned before the entry was stored")
				}
				left.Add(1)
			})
		}
	}
	result(t, began)
	for _, s := range sent {
		s.asleep(t, 1)
	}
	if left.Load() != 0 {
		t.Error("some returned before the computation ended")
	}
	start := time.Now()
	close(allWait)
	wg.Wait()
	if took := time.Since(start); took > lease/2 {
		t.Errorf("got %v until the last was answered, want them woken, long before a lease of %v ends", took, lease)
	}
	if computed.Load() != 1 || fresh.Load() != 1 || waiting.Load() != processes*callers-1 {
		t.Errorf("got %d computations, %d answers of one's own and %d callers that waited, want 1, 1 and all others", computed.Load(), fresh.Load(), waiting.Load())
	}
	for _, s := range sent {
		if _, names := s.take(); names["getrange"] > 6 {
			t.Errorf("got %d GETs of a process that waited, want 6: of the hash and of the file, at first, when it hears and when woken", names["getrange"])
		}
	}
	for i, c := range all {
		if n, want := counted(t, c.metrics.waits), min(i, 1); n != float64(want) {
			t.Errorf("process %d: got %v waits counted, want %d", i, n, want)
		}
	}
	if n := client.Exists(t.Context(), lockPrefix+q.Key(q.Variant)).Val(); n != 0 {
		t.Error("the lock is still there")
	}
}

// TestFillAsksWhatIsThere finds what another process stored meanwhile, under the
// hash or a near one.
func TestFillAsksWhatIsThere(t *testing.T) {
	c, client := setup(t)
	other, _ := join(t, client.Options().Addr)
	r := random()
	h := randomHash(r)
	store(t, other, picture(h), named("a"))
	if a, err := c.Fill(t.Context(), &Query{Picture: picture(h)}, never, nil); err != nil || a.Kind != Exact || a.Expiring {
		t.Errorf("got %+v, %v, want the entry", a, err)
	}
	if a, err := c.Fill(t.Context(), &Query{Picture: picture(away(r, h, 4))}, never, nil); err != nil || a.Kind != Near || a.Near != 4 {
		t.Errorf("got %+v, %v, want the near one", a, err)
	}
	flat := Query{Picture: picture([4]uint64{})}
	for _, want := range []Kind{Fresh, Exact} {
		a, err := c.Fill(t.Context(), &flat, func(context.Context) (Entry, error) { return bottle, nil }, nil)
		if err != nil || a.Kind != want {
			t.Errorf("a flat picture: got %+v, %v, want it %s", a, err, want)
		}
	}
}

// TestFillReplacesStale makes an entry anew that is there.
func TestFillReplacesStale(t *testing.T) {
	c, client := setup(t)
	h := hash(t, good)
	store(t, c, picture(h), named("old"))
	client.Expire(t.Context(), Key(h, Variant{}), time.Minute)
	old, err := c.Get(t.Context(), Key(h, Variant{}))
	check(t, err)
	q := Query{Picture: picture(h), Stale: old}
	computing := make(chan struct{})
	go1 := fills(t.Context(), c, q, func(context.Context) (Entry, error) {
		close(computing)
		return named("new"), nil
	}, nil)
	result(t, computing)
	if a := result(t, go1); a.err != nil || a.Kind != Fresh || a.WasteType != "new" {
		t.Errorf("got %+v, want it made anew", a)
	}
	lives(t, client, Key(h, Variant{}), TTL)
	// Another one that was told so finds the new one.
	other, _ := join(t, client.Options().Addr)
	if a, err := other.Fill(t.Context(), &q, never, nil); err != nil || a.Kind != Exact || a.WasteType != "new" {
		t.Errorf("got %+v, %v, want what the first one stored", a, err)
	}
	// A correction made meanwhile is the answer.
	a := result(t, fills(t.Context(), c, Query{Picture: picture(h), Stale: mustGet(t, c, h)}, func(ctx context.Context) (Entry, error) {
		_, err := c.Correct(ctx, hashOnly(h), Variant{}, Correction{WasteType: new("right")}, false)
		return named("wrong"), err
	}, nil))
	if a.err != nil || a.WasteType != "right" || a.Model != Person || mustGet(t, c, h).WasteType != "right" {
		t.Errorf("got %+v, want the correction", a)
	}
}

func mustGet(t testing.TB, c *Cache, h [4]uint64) *Entry {
	t.Helper()
	e, err := c.Get(context.Background(), Key(h, Variant{}))
	check(t, err)
	if e == nil {
		t.Fatalf("%x: got no entry, want one", h)
	}
	return e
}

// TestFillFailure lets one process fail: exactly one other tries next.
func TestFillFailure(t *testing.T) {
	c, client := setup(t)
	const others = 4
	q := Query{Picture: picture(hash(t, good))}
	boom := errors.New("boom")
	began, fail := make(chan struct{}), make(chan struct{})
	first := fills(t.Context(), c, q, func(context.Context) (Entry, error) { close(began); <-fail; return Entry{}, boom }, nil)
	result(t, began)
	var computed atomic.Int32
	var waiters []<-chan filled
	var sent []*commands
	for range others {
		other, its := join(t, client.Options().Addr)
		sent = append(sent, count(its))
		waiters = append(waiters, fills(t.Context(), other, q, func(context.Context) (Entry, error) { computed.Add(1); return bottle, nil }, nil))
	}
	for _, s := range sent {
		s.asleep(t, 1)
	}
	start := time.Now()
	close(fail)
	if a := result(t, first); !errors.Is(a.err, boom) {
		t.Errorf("got %+v, want %v", a, boom)
	}
	kinds := map[Kind]int{}
	for _, w := range waiters {
		a := result(t, w)
		if a.err != nil {
			t.Error(a.err)
		}
		kinds[a.Kind]++
	}
	if computed.Load() != 1 || kinds[Fresh] != 1 || kinds[Shared] != others-1 {
		t.Errorf("got %d computations and kinds %v, want one of the others to try", computed.Load(), kinds)
	}
	if took := time.Since(start); took > lease/2 {
		t.Errorf("got %v, want the others woken long before a lease of %v ends", took, lease)
	}
}

func TestFillErrorsAreNotCached(t *testing.T) {
	c, client := setup(t)
	boom := errors.New("boom")
	for range 2 {
		if _, err := c.Fill(t.Context(), &Query{Picture: picture(hash(t, good))}, func(context.Context) (Entry, error) { return bottle, boom }, nil); !errors.Is(err, boom) {
			t.Errorf("got %v, want %v", err, boom)
		}
	}
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("got %d keys, want none", n)
	}
}

func TestFillPanicBecomesAnError(t *testing.T) {
	c, client := setup(t)
	_, err := c.Fill(t.Context(), &Query{Picture: picture(hash(t, good))}, func(context.Context) (Entry, error) { panic("boom") }, nil)
	var exc *celery.Exception
	if !errors.As(err, &exc) || exc.Type != "RuntimeError" || len(exc.Frames) == 0 {
		t.Errorf("got %v, want a RuntimeError with the stack", err)
	}
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("got %d keys, want the lock given back", n)
	}
}

// TestHolderCrashed waits for the lease of a process that is no more.
func TestHolderCrashed(t *testing.T) {
	c, client := setup(t)
	other, _ := join(t, client.Options().Addr)
	q := Query{Picture: picture(hash(t, good))}
	const left = time.Second
	check(t, client.Set(t.Context(), lockPrefix+q.Key(q.Variant), "dead", left).Err())
	start := time.Now()
	var computed atomic.Int32
	compute := func(context.Context) (Entry, error) { computed.Add(1); return bottle, nil }
	a, b := fills(t.Context(), c, q, compute, nil), fills(t.Context(), other, q, compute, nil)
	for _, w := range []<-chan filled{a, b} {
		if a := result(t, w); a.err != nil {
			t.Error(a.err)
		}
	}
	if took := time.Since(start); took < left/2 || took > left+3*time.Second || computed.Load() != 1 {
		t.Errorf("got %d computations after %v, want 1 after %v", computed.Load(), took, left)
	}
}

// TestLockLost takes the lock away while it is held: both compute, the last
// answer stays, and it is counted.
func TestLockLost(t *testing.T) {
	for name, lose := range map[string]func(context.Context, *redis.Client, string) error{
		"evicted": func(ctx context.Context, r *redis.Client, key string) error { return r.Del(ctx, key).Err() },
		"overwritten": func(ctx context.Context, r *redis.Client, key string) error {
			return r.Set(ctx, key, "x", 50*time.Millisecond).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, client := setup(t)
			other, _ := join(t, client.Options().Addr)
			// The other takes the lock before the first renewal, 3 s later, or not at all.
			c.lease, other.lease = 9*time.Second, 10*time.Second
			q := Query{Picture: picture(hash(t, good))}
			key := lockPrefix + q.Key(q.Variant)
			began, second, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
			first := fills(t.Context(), c, q, func(context.Context) (Entry, error) { close(began); <-release; return named("first"), nil }, nil)
			result(t, began)
			check(t, lose(t.Context(), client, key))
			last := fills(t.Context(), other, q, func(context.Context) (Entry, error) { close(second); <-release; return named("second"), nil }, nil)
			result(t, second)
			for end := time.Now().Add(10 * time.Second); counted(t, c.metrics.lost) == 0 && time.Now().Before(end); {
				time.Sleep(5 * time.Millisecond) // until the renewal that fails
			}
			if n := counted(t, c.metrics.lost); n != 1 {
				t.Errorf("got %v lost locks counted, want 1", n)
			}
			if client.PTTL(t.Context(), key).Val() < time.Second {
				t.Error("the lock is not the other's, want it untouched")
			}
			close(release)
			for _, w := range []<-chan filled{first, last} {
				if a := result(t, w); a.err != nil || a.Kind != Fresh {
					t.Errorf("got %+v, want both to have an answer", a)
				}
			}
			if e := mustGet(t, c, q.Hash); e.WasteType != "first" && e.WasteType != "second" {
				t.Errorf("got %+v stored, want one of the answers", e)
			}
		})
	}
}

// TestLockIsRenewed computes for several leases, once with the lock evicted in
// between and nobody there to take it: it stays with its holder.
func TestLockIsRenewed(t *testing.T) {
	c, client := setup(t)
	other, its := join(t, client.Options().Addr)
	sent := count(its)
	c.lease, other.lease = time.Second, time.Second
	q := Query{Picture: picture(hash(t, good))}
	began, release := make(chan struct{}), make(chan struct{})
	first := fills(t.Context(), c, q, func(context.Context) (Entry, error) { close(began); <-release; return named("first"), nil }, nil)
	result(t, began)
	waiter := fills(t.Context(), other, q, never, nil)
	sent.asleep(t, 1)
	holder := client.Get(t.Context(), lockPrefix+q.Key(q.Variant)).Val()
	for i := range 3 {
		time.Sleep(c.lease) // nothing else shows that it did not run out
		if got := client.Get(t.Context(), lockPrefix+q.Key(q.Variant)).Val(); got != holder {
			t.Fatalf("lease %d: got the lock held by %q, want %q", i, got, holder)
		}
	}
	close(release)
	if a := result(t, first); a.err != nil || a.Kind != Fresh {
		t.Errorf("got %+v, want an answer", a)
	}
	if a := result(t, waiter); a.err != nil || a.Kind != Shared || a.WasteType != "first" {
		t.Errorf("got %+v, want the holder's answer", a)
	}
	if n := counted(t, c.metrics.lost); n != 0 {
		t.Errorf("got %v lost locks counted, want none", n)
	}
}

// TestFillOutlivesItsFirstCaller cancels the caller that started the
// computation: the others still get its answer.
func TestFillOutlivesItsFirstCaller(t *testing.T) {
	c, client := setup(t)
	q := Query{Picture: picture(hash(t, good))}
	started, release := make(chan struct{}), make(chan struct{})
	compute := func(ctx context.Context) (Entry, error) {
		close(started)
		select {
		case <-release:
			return bottle, nil
		case <-ctx.Done():
			return Entry{}, context.Cause(ctx)
		}
	}
	gone := errors.New("first caller has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	first := fills(ctx, c, q, compute, nil)
	result(t, started)
	joined := make(chan struct{})
	second := fills(t.Context(), c, q, never, func() { close(joined) })
	result(t, joined)
	other, its := join(t, client.Options().Addr)
	sent := count(its)
	third := fills(t.Context(), other, q, never, nil)
	sent.asleep(t, 1)
	cancel(gone)
	if a := result(t, first); !errors.Is(a.err, gone) {
		t.Errorf("first caller: got %+v, want %v", a, gone)
	}
	close(release)
	for _, w := range []<-chan filled{second, third} {
		if a := result(t, w); a.err != nil || a.Kind != Shared || a.WasteType != bottle.WasteType {
			t.Errorf("got %+v, want the answer", a)
		}
	}
}

// TestFillEndsWithItsLastCaller gives the lock back, so that another process goes on.
func TestFillEndsWithItsLastCaller(t *testing.T) {
	c, client := setup(t)
	other, its := join(t, client.Options().Addr)
	sent := count(its)
	q := Query{Picture: picture(hash(t, good))}
	ctx, cancel := context.WithCancel(t.Context())
	began, ended := make(chan struct{}), make(chan error, 1)
	first := fills(ctx, c, q, func(ctx context.Context) (Entry, error) {
		close(began)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return Entry{}, ctx.Err()
	}, nil)
	result(t, began)
	next := fills(t.Context(), other, q, func(context.Context) (Entry, error) { return bottle, nil }, nil)
	sent.asleep(t, 1)
	cancel()
	if a := result(t, first); !errors.Is(a.err, context.Canceled) {
		t.Errorf("got %+v, want that it was cancelled", a)
	}
	if err := result(t, ended); !errors.Is(err, errAbandoned) {
		t.Errorf("got %v, want that nobody waits any more", err)
	}
	if a := result(t, next); a.err != nil || a.Kind != Fresh {
		t.Errorf("got %+v, want the other process to compute", a)
	}
}

// before holds up the command that follows a failed lock.
type before struct {
	once          sync.Once
	reached, goOn chan struct{}
}

func (b *before) DialHook(next redis.DialHook) redis.DialHook { return next }

func (b *before) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" {
			b.once.Do(func() { close(b.reached); <-b.goOn })
		}
		return next(ctx, cmd)
	}
}

func (b *before) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestWaiterGivesUp ends a wait for another process, by its context and by Close.
// After that nothing of the caller's is touched.
func TestWaiterGivesUp(t *testing.T) {
	c, client := setup(t)
	other, its := join(t, client.Options().Addr)
	q := Query{Picture: picture(hash(t, good))}
	began, release := make(chan struct{}), make(chan struct{})
	holder := fills(t.Context(), c, q, func(context.Context) (Entry, error) { close(began); <-release; return bottle, nil }, nil)
	result(t, began)
	// The caller goes between the failed lock and the wait, of which it hears nothing.
	hook := &before{reached: make(chan struct{}), goOn: make(chan struct{})}
	its.AddHook(hook)
	ctx, cancel := context.WithCancel(t.Context())
	called := false
	gone := fills(ctx, other, q, never, func() { called = true })
	result(t, hook.reached)
	cancel()
	if a := result(t, gone); !errors.Is(a.err, context.Canceled) {
		t.Errorf("got %+v, want that it was cancelled", a)
	}
	close(hook.goOn)
	other.Close()
	if called {
		t.Error("got a call after the caller had gone, want none")
	}

	other, its = join(t, client.Options().Addr)
	sent := count(its)
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := other.Fill(ctx, &q, never, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	sent.take()
	waiter := fills(t.Context(), other, q, never, nil)
	sent.asleep(t, 1)
	other.Close()
	if a := result(t, waiter); !errors.Is(a.err, errClosed) {
		t.Errorf("got %+v, want that the cache is closing", a)
	}
	close(release)
	if a := result(t, holder); a.err != nil {
		t.Error(a.err)
	}
}

func TestCloseEndsComputations(t *testing.T) {
	c, client := setup(t)
	q := Query{Picture: picture(hash(t, good))}
	began := make(chan struct{})
	running := fills(t.Context(), c, q, func(ctx context.Context) (Entry, error) {
		close(began)
		<-ctx.Done()
		return Entry{}, context.Cause(ctx)
	}, nil)
	result(t, began)
	c.Close()
	if a := result(t, running); !errors.Is(a.err, errClosed) {
		t.Errorf("got %+v, want that the cache is closing", a)
	}
	if _, err := c.Fill(t.Context(), &q, never, nil); !errors.Is(err, errClosed) {
		t.Errorf("got %v, want that the cache is closing", err)
	}
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("got %d keys, want the lock given back", n)
	}
}

// TestRedisRestarts stops the server while one process computes and one waits.
func TestRedisRestarts(t *testing.T) {
	c, _, server := setupServer(t)
	other, its := join(t, server.Addr())
	q := Query{Picture: picture(hash(t, good))}
	began, release := make(chan struct{}), make(chan struct{})
	first := fills(t.Context(), c, q, func(context.Context) (Entry, error) { close(began); <-release; return named("first"), nil }, nil)
	result(t, began)
	sent := count(its)
	waiter := fills(t.Context(), other, q, never, nil)
	sent.asleep(t, 1)
	server.Stop()
	server.Start()
	sent.asleep(t, 2)
	start := time.Now()
	close(release)
	for want, w := range map[Kind]<-chan filled{Fresh: first, Shared: waiter} {
		if a := result(t, w); a.err != nil || a.Kind != want || a.WasteType != "first" {
			t.Errorf("got %+v, want a %s answer", a, want)
		}
	}
	if took := time.Since(start); took > lease/2 {
		t.Errorf("got %v, want the waiter woken", took)
	}
}

// TestRedisAwayAtTheEnd stops the server before the answer comes: it is used, though
// it cannot be stored; who waits elsewhere hears nothing, and goes on when the server
// is back.
func TestRedisAwayAtTheEnd(t *testing.T) {
	c, _, server := setupServer(t)
	other, its := join(t, server.Addr())
	sent := count(its)
	c.lease, other.lease = 2*time.Second, 2*time.Second
	q := Query{Picture: picture(hash(t, good))}
	began, release := make(chan struct{}), make(chan struct{})
	first := fills(t.Context(), c, q, func(context.Context) (Entry, error) { close(began); <-release; return named("first"), nil }, nil)
	result(t, began)
	waiter := fills(t.Context(), other, q, func(context.Context) (Entry, error) { return named("second"), nil }, nil)
	sent.asleep(t, 1)
	server.Stop()
	close(release)
	if a := result(t, first); a.err != nil || a.Kind != Fresh || a.WasteType != "first" {
		t.Errorf("got %+v, want the answer that was paid for", a)
	}
	server.Start()
	if a := result(t, waiter); a.err != nil || a.Kind != Fresh || a.WasteType != "second" {
		t.Errorf("got %+v, want the other process to compute", a)
	}
	if e := mustGet(t, c, q.Hash); e.WasteType != "second" {
		t.Errorf("got %+v, want the answer that could be stored", e)
	}
}

// TestAnnouncementLost cuts the connection of who waits while the computation
// ends: it looks as soon as it hears again.
func TestAnnouncementLost(t *testing.T) {
	c, _, server := setupServer(t)
	proxy := testenv.NewProxy(t, server.Addr())
	far, its := join(t, proxy.Addr())
	sent := count(its)
	q := Query{Picture: picture(hash(t, good))}
	began, release := make(chan struct{}), make(chan struct{})
	first := fills(t.Context(), c, q, func(context.Context) (Entry, error) { close(began); <-release; return named("first"), nil }, nil)
	result(t, began)
	waiter := fills(t.Context(), far, q, never, nil)
	sent.asleep(t, 1)
	proxy.Cut()
	close(release)
	if a := result(t, first); a.err != nil {
		t.Error(a.err)
	}
	start := time.Now()
	proxy.Restore()
	if a := result(t, waiter); a.err != nil || a.Kind != Shared || a.WasteType != "first" {
		t.Errorf("got %+v, want the other's answer", a)
	}
	if took := time.Since(start); took > lease/2 {
		t.Errorf("got %v, want no wait for the lease", took)
	}
}

// stall calls then when a process has failed to take a lock and has connected again,
// to listen.
type stall struct {
	armed atomic.Bool
	then  func()
}

func (s *stall) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *stall) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "eval" { // gives back what it has not got
			s.armed.Store(true)
		}
		return err
	}
}

func (s *stall) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if cmds[0].Name() == "client" && s.armed.CompareAndSwap(true, false) {
			s.then()
		}
		return err
	}
}

// TestNetworkStalls lets no byte through from the moment that one begins to listen:
// its context still ends the wait, and Close returns.
func TestNetworkStalls(t *testing.T) {
	_, client, server := setupServer(t)
	q := Query{Picture: picture(hash(t, good))}
	check(t, client.Set(t.Context(), lockPrefix+q.Key(q.Variant), "somebody's", time.Hour).Err())
	proxy := testenv.NewProxy(t, server.Addr())
	far, its := join(t, proxy.Addr()+"?read_timeout=200ms")
	stalled := make(chan struct{})
	its.AddHook(&stall{then: func() { proxy.Pause(); close(stalled) }})
	ctx, cancel := context.WithCancel(t.Context())
	waiter := fills(ctx, far, q, never, nil)
	result(t, stalled)
	time.Sleep(100 * time.Millisecond) // for a mistake to get stuck
	cancel()
	if a := result(t, waiter); !errors.Is(a.err, context.Canceled) {
		t.Errorf("got %+v, want that it was cancelled", a)
	}
	closed := make(chan struct{})
	go func() { far.Close(); close(closed) }()
	result(t, closed)
}
