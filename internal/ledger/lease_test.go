package ledger_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/results"
)

// begin begins a run and compares whether it has got the id.
func begin(t *testing.T, l keeper, id, run string, steal, want bool) celery.Stored {
	t.Helper()
	stored, holder, err := l.Begin(t.Context(), id, run, "", "")
	if steal && err == nil && holder != run {
		stored, holder, err = l.Begin(t.Context(), id, run, holder, "")
	}
	if err != nil || (holder == run) != want {
		t.Errorf("run %s: got holder %s, %v, want it taken: %t", run, holder, err, want)
	}
	return stored
}

func held(t *testing.T, l keeper, id string, want bool) {
	t.Helper()
	if got, err := l.Holder(t.Context(), id); (got != "") != want || err != nil {
		t.Errorf("got holder %q, %v, want one: %t", got, err, want)
	}
}

func TestLease(t *testing.T) {
	each(t, func(t *testing.T, k kind, l keeper, c *redis.Client) {
		ctx := t.Context()
		renew := func(run string) {
			t.Helper()
			if err := l.Renew(ctx, map[string]string{"t": run}); err != nil {
				t.Fatal(err)
			}
		}
		release := func(run string) {
			t.Helper()
			if err := l.Release(ctx, "t", run); err != nil {
				t.Fatal(err)
			}
		}
		has := func(want string) {
			t.Helper()
			if got := c.Get(ctx, k.leaseKey("t")).Val(); got != want {
				t.Errorf("got run %q, want %q", got, want)
			}
		}
		held(t, l, "t", false)
		if s := begin(t, l, "t", "a", false, true); s.Raw != "" || s.Meta != nil {
			t.Errorf("got %+v on record, want nothing", s)
		}
		held(t, l, "t", true)
		begin(t, l, "t", "a", false, true) // once more
		begin(t, l, "t", "b", false, false)
		has("a")
		release("b")
		has("a")
		begin(t, l, "t", "b", true, true)
		has("b")
		release("a")
		has("b")

		c.Expire(ctx, k.leaseKey("t"), time.Second)
		renew("a") // it is another's
		if ttl := c.TTL(ctx, k.leaseKey("t")).Val(); ttl > time.Second {
			t.Errorf("got TTL %v: a run renewed the lease of another", ttl)
		}
		has("b")
		renew("b")
		if ttl := c.TTL(ctx, k.leaseKey("t")).Val(); ttl != time.Minute {
			t.Errorf("got TTL %v, want a minute", ttl)
		}
		if err := l.Renew(ctx, nil); err != nil {
			t.Error(err)
		}

		// Whoever gets the id next sees what was recorded before the release.
		if _, err := l.Record(ctx, meta(t, "t", celery.Success), celery.Stored{}); err != nil {
			t.Fatal(err)
		}
		release("b")
		renew("b") // it was on its way when the run was released
		held(t, l, "t", false)
		if s := begin(t, l, "t", "c", false, true); !s.Ended() || s.Meta.Status != celery.Success {
			t.Errorf("got %+v on record, want SUCCESS", s)
		}
	})
}

// TestAlive has another run say that the holder of an id is alive: nobody takes the id from that,
// which does not know of it and goes on as before.
func TestAlive(t *testing.T) {
	each(t, func(t *testing.T, k kind, l keeper, c *redis.Client) {
		ctx := t.Context()
		begin(t, l, "t", "a", false, true)
		if named, err := l.Alive(ctx, "t", "a"); named != "alive a" || err != nil {
			t.Fatal(named, err)
		}
		begin(t, l, "t", "b", true, false)
		if _, holder, err := l.Begin(ctx, "t", "a", "", ""); holder != "alive a" || err != nil {
			t.Errorf("the run again: got %q, %v, want it to have its id", holder, err)
		}
		c.Expire(ctx, k.leaseKey("t"), time.Second)
		if err := l.Renew(ctx, map[string]string{"t": "a"}); err != nil {
			t.Fatal(err)
		}
		if ttl := c.TTL(ctx, k.leaseKey("t")).Val(); ttl != time.Minute {
			t.Errorf("got TTL %v, want it renewed", ttl)
		}
		if err := l.Ended(ctx, "t", "a"); err != nil {
			t.Fatal(err)
		}
		held(t, l, "t", false)

		// The message of that end may come again, and must not take the id from the next run.
		if _, holder, err := l.Begin(ctx, "t", "c", "", ""); holder != "alive c" || err != nil {
			t.Errorf("after an end: got %q, %v, want it alive", holder, err)
		}
		begin(t, l, "t", "d", true, false)
		if err := l.Release(ctx, "t", "c"); err != nil {
			t.Fatal(err)
		}
		held(t, l, "t", false)
	})
}

// TestEarlierEnd has an end of an earlier message on record when a run begins: the lease says so in
// the same step, so that a redelivery after the death of the run is not taken for ended.
func TestEarlierEnd(t *testing.T) {
	each(t, func(t *testing.T, _ kind, l keeper, _ *redis.Client) { testEarlierEnd(t, l) })
}

func testEarlierEnd(t *testing.T, l keeper) {
	t.Helper()
	for state, unknown := range map[celery.State]bool{celery.Success: true, celery.Failure: true, celery.Started: false} {
		for _, tt := range []struct {
			earlier string
			over    bool
		}{{celery.AnyEnd, false}, {"its digest", false}, {"another", unknown}, {"", unknown}} {
			id := string(state) + tt.earlier
			if _, err := l.Record(t.Context(), meta(t, id, state), celery.Stored{}); err != nil {
				t.Fatal(err)
			}
			if tt.earlier == "its digest" {
				tt.earlier = look(t, l, id).Digest()
			}
			name := ""
			for range 2 { // as if the first answer had been lost
				_, holder, err := l.Begin(t.Context(), id, "run", "", tt.earlier)
				if err != nil || !strings.HasPrefix(holder, "run") || name != "" && holder != name {
					t.Errorf("%s: got holder %q after %q, %v, want the run", id, holder, name, err)
				}
				name = holder
			}
			if _, over, err := l.Past(t.Context(), id, false, ""); over != tt.over || err != nil {
				t.Errorf("%s: got over %t, %v, want %t", id, over, err, tt.over)
			}
			if err := l.Release(t.Context(), id, name); err != nil {
				t.Fatal(err)
			}
			held(t, l, id, false)
		}
	}
}

// TestBeginRace lets many runs begin at once: one gets the id. The end that it records before it
// releases the id is seen by all that get it later.
func TestBeginRace(t *testing.T) {
	each(t, func(t *testing.T, k kind, l keeper, _ *redis.Client) {
		for round := range 20 {
			id := fmt.Sprint(round)
			var all sync.WaitGroup
			var ran atomic.Int32
			for i := range 16 {
				m := meta(t, id, celery.Success)
				all.Go(func() {
					run := fmt.Sprint(i)
					stored, holder, err := l.Begin(t.Context(), id, run, "", "")
					if err != nil {
						t.Error(err)
					}
					if holder != run || stored.Ended() {
						return
					}
					ran.Add(1)
					if theirs, err := l.Record(t.Context(), m, stored); err != nil || theirs.Raw != "" {
						t.Errorf("got %q, %v", theirs.Raw, err)
					}
					if err := l.Release(t.Context(), id, run); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if n := ran.Load(); n != 1 {
				t.Fatalf("%d runs of one task, want 1", n)
			}
		}
	})
}

// TestManyRenewals renews as many leases as a busy worker has.
func TestManyRenewals(t *testing.T) {
	each(t, func(t *testing.T, k kind, l keeper, c *redis.Client) {
		runs := map[string]string{}
		for i := range 2000 {
			id := fmt.Sprint(i)
			runs[id] = "run-" + id
			begin(t, l, id, runs[id], false, true)
			c.Expire(t.Context(), k.leaseKey(id), 30*time.Second)
		}
		if err := l.Renew(t.Context(), runs); err != nil {
			t.Fatal(err)
		}
		for id := range runs {
			if ttl := c.TTL(t.Context(), k.leaseKey(id)).Val(); ttl <= 30*time.Second {
				t.Fatalf("got TTL %v of the lease of task %s, want it renewed", ttl, id)
			}
		}
	})
}

// TestCluster runs all of it on a cluster, where each command and script may touch one slot only.
func TestCluster(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t, "--cluster-enabled", "yes")
	if err := client(t, server.URL(), nil).Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	opt, err := redisretry.Options(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{opt.Addr}})
	t.Cleanup(func() { c.Close() })
	for name, k := range kinds {
		l := k.open(c, zap.NewNop())
		if s := begin(t, l, "t", "a", false, true); s.Raw != "" {
			t.Errorf("%s: got %q on record", name, s.Raw)
		}
		begin(t, l, "t", "b", false, false)
		if theirs, err := l.Record(t.Context(), meta(t, "t", celery.Success), celery.Stored{}); err != nil || theirs.Raw != "" {
			t.Errorf("%s: got %q, %v", name, theirs.Raw, err)
		}
		if err := l.Renew(t.Context(), map[string]string{"t": "a", "u": "a", "v": "a"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := l.Release(t.Context(), "t", "a"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s := begin(t, l, "t", "b", true, true); !s.Ended() {
			t.Errorf("%s: got %+v, want the end", name, s)
		}
		held(t, l, "t", true)
		testEarlierEnd(t, l)
	}
	store := results.New(c, zap.NewNop())
	if err := store.GrowChord(t.Context(), "g", "m"); err != nil {
		t.Error(err)
	}
	if err := store.BeginChord(t.Context(), celery.ChordSize{Group: "g", Size: 1}, false); err != nil {
		t.Error(err)
	}
}
