package failed

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
)

// successor is a replica of a server, over a link that can be held up, with a replica of its own.
type successor struct {
	t      *testing.T
	link   *testenv.Proxy
	client *redis.Client
	addr   string
}

func newSuccessor(b *bundle) *successor {
	b.t.Helper()
	link := testenv.NewProxy(b.t, b.server.Addr())
	s := &successor{t: b.t, link: link}
	second := replicaOf(b.t, link.Addr())
	s.addr = second.Addr()
	s.client = redis.NewClient(&redis.Options{Addr: s.addr, DB: 5})
	b.t.Cleanup(func() { s.client.Close() })
	third := redis.NewClient(&redis.Options{Addr: replicaOf(b.t, s.addr).Addr()})
	b.t.Cleanup(func() { third.Close() })
	for _, c := range []*redis.Client{s.client, third} {
		b.until("the replica follows", func() bool {
			return infoField(c.Info(b.t.Context(), "replication").Val(), "master_link_status") == "up"
		})
	}
	return s
}

func replicaOf(t *testing.T, addr string) *testenv.RedisServer {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return testenv.Redis(t, "--replicaof", host, port, "--repl-diskless-sync-delay", "0")
}

// takeOver makes the replica a server that is written to.
func (s *successor) takeOver() {
	s.t.Helper()
	if err := s.client.ReplicaOf(context.Background(), "NO", "ONE").Err(); err != nil {
		s.t.Error(err)
	}
}

// jobs is how many of a failed job and a parked one are there.
func (s *successor) jobs() int64 {
	return s.client.Exists(s.t.Context(), recordKey("a:0"), taskKey(QueueDelay, "a:0:0:0")).Val()
}

// TestFailover has a replica take over that is behind: a job which was kept or parked is there if
// replicas were asked for. Without that it is lost, as Redis answers before it replicates.
func TestFailover(t *testing.T) {
	b := setup(t)
	s := newSuccessor(b)
	put := func(cfg Config) chan error {
		store := b.newStore(cfg)
		done := make(chan error, 1)
		go func() {
			err := store.Keep(t.Context(), failure(t, "a"))
			if err == nil {
				err = store.Park(t.Context(), message(t, request("a")), request("a"), time.Now().Add(time.Hour), nil)
			}
			done <- err
		}()
		return done
	}
	s.link.Pause()
	if err := <-put(Config{}); err != nil {
		t.Fatal(err)
	}
	if n := s.jobs(); n != 0 {
		t.Fatalf("got %d jobs at a replica that is held up, want none: the test shows nothing", n)
	}
	// The jobs are there already, of an earlier delivery: they are waited for all the same.
	done := put(Config{Replicas: 1})
	select {
	case err := <-done:
		t.Errorf("got kept, %v, before a replica had it", err)
	case <-time.After(2 * replicationTime):
	}
	s.link.Restore()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.takeOver()
	if n := s.jobs(); n != 2 {
		t.Errorf("got %d jobs where the replica took over, want both", n)
	}
}

// TestFailoverWhileWaiting has a replica without the job take over after the job was written.
func TestFailoverWhileWaiting(t *testing.T) {
	b := setup(t)
	s := newSuccessor(b)
	opt, err := redisretry.Options(b.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	var addr atomic.Value
	addr.Store(b.server.Addr())
	opt.DB = 5
	opt.Dialer = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr.Load().(string))
	}
	client := redis.NewClient(opt)
	defer client.Close()
	failover := &beforeWait{f: func() {
		s.takeOver()
		addr.Store(s.addr)
		b.server.Kill()
	}}
	client.AddHook(failover)
	core, logs := observer.New(zap.InfoLevel)
	store := New(Config{Replicas: 1}, client, b.results, b.marks, nil, zap.New(core))
	s.link.Pause()
	if err := store.Keep(t.Context(), failure(t, "a")); err != nil {
		t.Fatal(err)
	}
	if n := s.jobs(); n != 1 || failover.n.Load() == 0 {
		t.Errorf("got %d jobs at the new server, want the job (%v)", n, logs.All())
	}
}

// beforeWait counts each WAIT, and calls f before the first one.
type beforeWait struct {
	f func()
	n atomic.Int32
}

func (*beforeWait) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*beforeWait) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (h *beforeWait) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, c := range cmds {
			if c.Name() == "wait" && h.n.Add(1) == 1 && h.f != nil {
				h.f()
			}
		}
		return next(ctx, cmds)
	}
}

// TestParkedWhileReplicasAreMissing has a parked job become due while it waits for a replica. It may
// be published, or lost with the server that had it: it is published twice, and no more.
func TestParkedWhileReplicasAreMissing(t *testing.T) {
	b := setup(t)
	client := b.connect(5)
	tries := &beforeWait{}
	client.AddHook(tries)
	store := New(Config{Replicas: 1}, client, b.results, b.marks, nil, zap.NewNop())
	b.run(store, b.out.publish)
	done := make(chan error, 1)
	go func() {
		done <- store.Park(t.Context(), message(t, request("a")), request("a"), time.Now().Add(time.Second), nil)
	}()
	b.until("the job is published twice", func() bool { return b.out.counts()["a"] > 1 })
	seen := tries.n.Load()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := b.out.counts()["a"]; n != 2 || tries.n.Load() > seen+3 {
		t.Errorf("published %d times, %d tries, want twice", n, tries.n.Load())
	}
}

// TestTooFewReplicas warns at the start, and says which setting a job waits for.
func TestTooFewReplicas(t *testing.T) {
	b := setup(t)
	core, logs := observer.New(zap.InfoLevel)
	store := New(Config{Replicas: 1}, b.connect(5), b.results, b.marks, nil, zap.New(core))
	warnings, err := store.Check(t.Context())
	if got := strings.Join(warnings, "\n"); err != nil || !strings.Contains(got, "0 replicas") || !strings.Contains(got, "ONCEOVER_FAILED_REPLICAS") {
		t.Errorf("got %q, %v, want a warning", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*replicationTime/2)
	defer cancel()
	if err := store.Keep(ctx, failure(t, "a")); err == nil {
		t.Error("got kept, want that it waits")
	}
	lines := logs.All()
	if len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0].ContextMap()["error"]), "ONCEOVER_FAILED_REPLICAS") {
		t.Errorf("got %v, want one line with what is missing", lines)
	}
}

// TestDiscardedWhileWaiting discards a job that is listed while a replica that should have it is behind: it does not come back.
func TestDiscardedWhileWaiting(t *testing.T) {
	b := setup(t)
	s := newSuccessor(b)
	s.link.Pause()
	store := b.newStore(Config{Replicas: 1})
	waits := &beforeWait{}
	store.client.AddHook(waits)
	kept := make(chan error, 1)
	go func() { kept <- store.Keep(t.Context(), failure(t, "a")) }()
	b.until("the job is listed", func() bool { return len(b.entries()) == 1 })
	if err := store.Discard(t.Context(), key("a")); err != nil {
		t.Fatal(err)
	}
	before := waits.n.Load()
	b.until("it looks again, or is kept", func() bool { return waits.n.Load() >= before+2 || len(kept) > 0 })
	s.link.Restore()
	if err := <-kept; err != nil {
		t.Error(err)
	}
	if all := b.entries(); len(all) != 0 {
		t.Errorf("got %v, want the job discarded", all)
	}
	// Another job of its id is kept as any is.
	if err := store.Keep(t.Context(), failure(t, "a")); err != nil || len(b.entries()) != 1 {
		t.Errorf("got %v, %v, want the job kept", err, b.entries())
	}
}
