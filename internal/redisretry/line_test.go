package redisretry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
)

// flushes notes the pipelines of a client, and holds the first one back.
type flushes struct {
	begun, goOn chan struct{}
	once        sync.Once
	mu          sync.Mutex
	names       []string // of the commands of each pipeline
}

func (f *flushes) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (f *flushes) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (f *flushes) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		f.once.Do(func() {
			close(f.begun)
			<-f.goOn
		})
		var names []string
		for _, cmd := range cmds {
			names = append(names, cmd.Name())
		}
		if names[0] != "client" { // else a connection is made
			f.mu.Lock()
			f.names = append(f.names, strings.Join(names, " "))
			f.mu.Unlock()
		}
		return next(ctx, cmds)
	}
}

// group returns a guard whose first pipeline is on its way until goOn is closed.
func group(t *testing.T) (*redisretry.Guard, *redis.Client, *flushes) {
	t.Helper()
	t.Parallel()
	opt, err := redisretry.Options(testenv.Redis(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	f := &flushes{begun: make(chan struct{}), goOn: make(chan struct{})}
	client.AddHook(f)
	g := redisretry.New("test", zap.NewNop()).On(client)
	go func() { _ = g.Send(t.Context(), redis.NewStatusCmd(t.Context(), "ping")) }()
	<-f.begun
	return g, client, f
}

// TestSentTogether has callers ask while a pipeline is on its way: they share the next one, and each gets its own answer and its own error.
func TestSentTogether(t *testing.T) {
	g, client, f := group(t)
	const callers = 20
	var all, asked sync.WaitGroup
	asked.Add(callers)
	for n := range callers {
		all.Go(func() {
			key := fmt.Sprint("key", n)
			set, get := redis.NewStatusCmd(t.Context(), "set", key, n), redis.NewIntCmd(t.Context(), "incr", key)
			cmds := []redis.Cmder{set, get}
			if n == 3 { // refused, and nobody else's fault
				cmds = []redis.Cmder{set, redis.NewIntCmd(t.Context(), "lpush", key, "x")}
			}
			ctx := asking{t.Context(), &asked}
			err := g.Send(ctx, cmds...)
			var refused *redisretry.RefusedError
			if errors.As(err, &refused) != (n == 3) || n != 3 && (err != nil || get.Val() != int64(n+1)) {
				t.Errorf("caller %d: got %d, %v", n, get.Val(), err)
			}
		})
	}
	asked.Wait()
	close(f.goOn)
	all.Wait()
	if err := client.Get(t.Context(), "key3").Err(); err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.names) != 2 {
		t.Errorf("got %d pipelines for %d callers: %q", len(f.names), callers, f.names)
	}
}

// asking says that a caller is about to wait: Send has asked for its context's end.
type asking struct {
	context.Context
	asked *sync.WaitGroup
}

func (a asking) Done() <-chan struct{} {
	a.asked.Done()
	return a.Context.Done()
}

// TestLargeGoesAlone has a command of many bytes between small ones: it has a pipeline of its own, in its place.
func TestLargeGoesAlone(t *testing.T) {
	g, client, f := group(t)
	var all, asked sync.WaitGroup
	for i, value := range []string{"small", strings.Repeat("x", 100_000), "last"} {
		asked.Add(1)
		all.Go(func() {
			if err := g.Send(asking{t.Context(), &asked}, redis.NewStatusCmd(t.Context(), "set", "key", value)); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
		asked.Wait() // in this order
	}
	close(f.goOn)
	all.Wait()
	if got := client.Get(t.Context(), "key").Val(); got != "last" {
		t.Errorf("got %.20q, want the last one", got)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if want := []string{"ping", "set", "set", "set"}; fmt.Sprint(f.names) != fmt.Sprint(want) {
		t.Errorf("got the pipelines %q, want %q", f.names, want)
	}
}

// TestSenderLeaves has a caller's context end while its command waits: it does not wait for Redis, and the others have their answers.
func TestSenderLeaves(t *testing.T) {
	g, _, f := group(t)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { left <- g.Send(ctx, redis.NewStatusCmd(ctx, "set", "key", "x")) }()
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	close(f.goOn)
	if err := g.Send(t.Context(), redis.NewStatusCmd(t.Context(), "ping")); err != nil {
		t.Error(err)
	}
}

// TestRunWithoutScript has the server not know a script, as after a restart.
func TestRunWithoutScript(t *testing.T) {
	g, client, f := group(t)
	close(f.goOn)
	script := redis.NewScript(`return {KEYS[1], ARGV[1]}`)
	for range 2 {
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		answer, err := g.Run(t.Context(), script, []string{"k"}, "a")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := answer.StringSlice(); err != nil || fmt.Sprint(got) != "[k a]" {
			t.Errorf("got %v, %v", got, err)
		}
	}
}

// BenchmarkSend compares callers that share pipelines with callers that each wait for a round trip of their own.
func BenchmarkSend(b *testing.B) {
	opt, err := redisretry.Options(testenv.Redis(b).URL())
	if err != nil {
		b.Fatal(err)
	}
	client := redis.NewClient(opt)
	b.Cleanup(func() { client.Close() })
	g := redisretry.New("test", zap.NewNop()).On(client)
	for name, set := range map[string]func(ctx context.Context) error{
		"alone":    func(ctx context.Context) error { return client.Set(ctx, "key", "value", 0).Err() },
		"together": func(ctx context.Context) error { return g.Send(ctx, redis.NewStatusCmd(ctx, "set", "key", "value")) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetParallelism(32)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if err := set(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
