package redisretry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
)

// TestKinds has each kind of reply: the ones an operator mends are waited for and told with a
// remedy, outages are waited for, and the others are returned.
func TestKinds(t *testing.T) {
	t.Parallel()
	const refused = "refused"
	for text, want := range map[string]string{
		"LOADING Redis is loading the dataset in memory":                                                                 "",
		"TRYAGAIN Multiple keys request during rehashing of slot":                                                        "",
		"BUSY Redis is busy running a script.":                                                                           "",
		"ERR max number of clients reached":                                                                              "",
		"OOM command not allowed when used memory > 'maxmemory'. script: f00, on @user_script:1.":                        "",
		"ERR Error running script (call to f_0123): @user_script:1: @user_script: 1: -OOM command not allowed":           "",
		"ERR Error running script (call to f_0123): @user_script:1: @user_script: 1: -WRONGTYPE Operation against a key": refused,
		"NOAUTH Authentication required.":                                                                                "asks for a password",
		"ERR Protocol error: unauthenticated multibulk length":                                                           "asks for a password",
		"ERR Protocol error: unauthenticated bulk length":                                                                "asks for a password",
		"WRONGPASS invalid username-password pair or user is disabled.":                                                  "password is wrong",
		"ERR invalid password": "password is wrong",
		"ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration?": "has no password",
		"ERR Client sent AUTH, but no password is set":                                                           "has no password",
		"NOPERM this user has no permissions to run the 'set' command":                                           "command 'set'",
		"NOPERM User u has no permissions to run the 'set' command":                                              "command 'set'",
		"NOPERM this user has no permissions to access one of the keys used as arguments":                        "grant the keys",
		"NOPERM this user has no permissions to access one of the channels used as arguments":                    "grant the channels",
		"ERR The user executing the script can't run this command or subcommand script: f00, on @user_script:1.": "command that a script uses",
		"ERR The user executing the script can't publish to the channel mentioned in the command script: f00":    "grant the channels",
		"ERR ACL failure in script: User u has no permissions to run the 'publish' command script: f00":          "command 'publish'",
		"ERR DB index is out of range":                                                 "no database of this number",
		"ERR SELECT is not allowed in cluster mode":                                    "database 0 only",
		"DENIED Redis is running in protected mode because protected mode is enabled":  "protected mode",
		"WRONGTYPE Operation against a key holding the wrong kind of value":            refused,
		"ERR string exceeds maximum allowed size (proto-max-bulk-len)":                 refused,
		"ERR Protocol error: invalid bulk length":                                      refused,
		"ERR unknown command 'EVALSHA', with args beginning with: ":                    "needed'EVALSHA'",
		"ERR Unknown Redis command called from script script: f00, on @user_script:1.": "does not have a command",
		"ERR syntax error": refused,
		"ERR user_script:1: boom script: f00, on @user_script:1.": refused,
		"CROSSSLOT Keys in request don't hash to the same slot":   refused,
	} {
		synctest.Test(t, func(t *testing.T) {
			log, logs := observed()
			g := redisretry.New("results", log)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := g.Do(ctx, func(context.Context) error { return reply(text) })
			var away *redisretry.UnavailableError
			var no *redisretry.RefusedError
			if want == refused {
				if !errors.As(err, &no) || !no.Refused() || no.Role != "results" || g.Fault() != nil || logs.Len() != 0 {
					t.Errorf("%s: got %v, fault %+v, %d lines, want it refused at once", text, err, g.Fault(), logs.Len())
				}
				return
			}
			kind, level := redisretry.Rights, zap.ErrorLevel
			if want == "" {
				kind, level = redisretry.Outage, zap.WarnLevel
			}
			f := g.Fault()
			if !errors.As(err, &away) || f == nil || f.Kind != kind || f.Role != "results" || !strings.Contains(f.Remedy, want) || (f.Remedy == "") != (want == "") || strings.Contains(f.Remedy, "%") {
				t.Fatalf("%s: got %v, %+v, want %s with remedy %q", text, err, f, kind, want)
			}
			if since := time.Since(f.Since); since != time.Minute {
				t.Errorf("%s: got since %v ago, want 1m", text, since)
			}
			if logs.Len() != 1 || logs.All()[0].Level != level {
				t.Errorf("%s: got %v, want one line of level %v", text, logs.All(), level)
			}
			if err := g.Do(t.Context(), func(context.Context) error { return nil }); err != nil || g.Fault() != nil {
				t.Errorf("%s: got %v, %+v afterwards", text, err, g.Fault())
			}
			if n := logs.FilterMessage("redis is back").Len(); n != 1 {
				t.Errorf("%s: got %d lines that it is over, want 1", text, n)
			}
		})
	}
}

// TestRightsAreToldOnce has callers that may run one command and not another: the log hears of
// each remedy once, and that it is over when it is for all.
func TestRightsAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := observed()
		g := redisretry.New("results", log)
		var publish, set atomic.Bool
		may := func(command string, granted *atomic.Bool) func(context.Context) error {
			return func(context.Context) error {
				if granted.Load() {
					return nil
				}
				return reply("NOPERM this user has no permissions to run the '" + command + "' command")
			}
		}
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() { _ = g.Do(t.Context(), may("publish", &publish)) })
			callers.Go(func() { _ = g.Do(t.Context(), may("set", &set)) })
		}
		for range 100 { // others work all the time
			time.Sleep(time.Second)
			if err := g.Do(t.Context(), func(context.Context) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		publish.Store(true)
		time.Sleep(10 * time.Second)
		if logs.Len() != 2 || logs.FilterLevelExact(zap.ErrorLevel).Len() != 2 {
			t.Errorf("got %d lines, want one for each remedy: %v", logs.Len(), logs.All())
		}
		if f := g.Fault(); f == nil || !strings.Contains(f.Remedy, "'set'") {
			t.Errorf("got fault %+v, want what is still missing", f)
		}
		set.Store(true)
		callers.Wait()
		if last := logs.All()[logs.Len()-1]; logs.Len() != 3 || last.Message != "redis is back" || last.Level != zap.InfoLevel || g.Fault() != nil {
			t.Errorf("got %v, fault %+v, want that it is over", logs.All(), g.Fault())
		}
	})
}

// TestFlakyEnd has an outage that ends for one connection before another: what was on its way
// before fails late, and a relapse is short. The log has one line for its begin and one for its end.
func TestFlakyEnd(t *testing.T) {
	for name, caller := range map[string]func(started time.Time) error{
		"at the same time": func(time.Time) error { return nil },
		"one by one":       func(started time.Time) error { return odd(started) },
	} {
		synctest.Test(t, func(t *testing.T) {
			log, logs := observed()
			g := redisretry.New("results", log)
			over := time.Now().Add(20 * time.Second)
			var callers sync.WaitGroup
			for i := range 50 {
				callers.Go(func() {
					time.Sleep(time.Duration(i) * 10 * time.Millisecond)
					_ = g.Do(t.Context(), func(context.Context) error {
						started := time.Now()
						time.Sleep(time.Duration(i) * time.Millisecond)
						if started.Before(over) {
							return io.EOF
						}
						return caller(started)
					})
				})
			}
			callers.Wait()
			// An old connection of a caller that slept over all of it.
			_ = g.Do(t.Context(), func() func(context.Context) error {
				first := io.EOF
				return func(context.Context) error { defer func() { first = nil }(); return first }
			}())
			check(t, name, logs, 1)

			// The next outage is told, however soon it begins.
			over = time.Now().Add(20 * time.Second)
			_ = g.Do(t.Context(), func(context.Context) error {
				if time.Now().Before(over) {
					return io.EOF
				}
				return nil
			})
			check(t, name+", again", logs, 2)
		})
	}
}

// odd fails at every other millisecond.
func odd(at time.Time) error {
	if at.UnixMilli()%2 == 1 {
		return io.EOF
	}
	return nil
}

func check(t *testing.T, name string, logs *observer.ObservedLogs, want int) {
	t.Helper()
	lost, back := logs.FilterMessage("redis lost, waiting for it").Len(), logs.FilterMessage("redis is back").Len()
	if lost != want || back != want {
		t.Errorf("%s: got %d lines 'lost' and %d 'back', want %d each", name, lost, back, want)
	}
}

// server is a real Redis with a guard, and a client that may do all.
func server(t *testing.T, url string, args ...string) (*redisretry.Guard, *redis.Client, *redis.Client, *observer.ObservedLogs) {
	t.Helper()
	s := testenv.Redis(t, args...)
	log, logs := observed()
	admin, c := open(t, s.URL()), open(t, strings.Replace(url, "ADDR", s.Addr(), 1))
	return redisretry.New("results", log).On(c), c, admin, logs
}

func open(t *testing.T, url string) *redis.Client {
	t.Helper()
	opt, err := redisretry.Options(url)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(opt)
	t.Cleanup(func() { c.Close() })
	return c
}

// TestStaleConnection breaks a command as often as a pool may hold connections that the server has
// closed, and once more: only that is an outage.
func TestStaleConnection(t *testing.T) {
	t.Parallel()
	for breaks, lines := range map[int]int{1: 0, 2: 2} {
		synctest.Test(t, func(t *testing.T) {
			log, logs := observed()
			n := 0
			if err := redisretry.New("results", log).Do(t.Context(), func(context.Context) error {
				if n++; n <= breaks {
					return fmt.Errorf("read: %w", io.EOF)
				}
				return nil
			}); err != nil || logs.Len() != lines {
				t.Errorf("%d breaks: got %v, %v, want %d lines", breaks, err, logs.All(), lines)
			}
		})
	}
}

// TestValueTooLarge stores values that a real Redis does not take, for which it closes the
// connection, mostly without a word. It is no outage, and is not logged as one.
func TestValueTooLarge(t *testing.T) {
	t.Parallel()
	for _, limit := range []string{"--proto-max-bulk-len", "--client-query-buffer-limit"} {
		for _, size := range []int{2 << 20, 20 << 20} {
			g, c, _, logs := server(t, "redis://ADDR", limit, "1mb")
			big := strings.Repeat("x", size)
			for name, op := range map[string]func(context.Context) error{
				"set": func(ctx context.Context) error { return c.Set(ctx, "k", big, 0).Err() },
				"script": func(ctx context.Context) error {
					return redis.NewScript(`return redis.call('SET', KEYS[1], ARGV[1])`).Run(ctx, c, []string{"k"}, big).Err()
				},
				"multi": func(ctx context.Context) error {
					_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
						p.Set(ctx, "k", []byte(big), 0)
						p.Publish(ctx, "k", "x")
						return nil
					})
					return err
				},
			} {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				var refused *redisretry.RefusedError
				if err := g.Do(ctx, op); !errors.As(err, &refused) {
					t.Errorf("%s of %d bytes, %s: got %v, want it refused", name, size, limit, err)
				}
				cancel()
				if err := g.Do(t.Context(), func(ctx context.Context) error { return c.Set(ctx, "k", "small", 0).Err() }); err != nil {
					t.Error(err)
				}
			}
			if logs.Len() != 0 || g.Fault() != nil {
				t.Errorf("%s: got %v, fault %+v, want no line", limit, logs.All(), g.Fault())
			}
		}
	}
}

// TestLargeValueInAnOutage breaks the connections of a large command by real outages: that is
// none of its doing.
func TestLargeValueInAnOutage(t *testing.T) {
	t.Parallel()
	s := testenv.Redis(t)
	log, logs := observed()
	c := open(t, s.URL())
	g := redisretry.New("results", log).On(c)
	s.Stop()
	done := make(chan error, 1)
	go func() {
		done <- g.Do(t.Context(), func(ctx context.Context) error { return c.Set(ctx, "k", strings.Repeat("x", 2<<20), 0).Err() })
	}()
	for logs.FilterMessage("redis lost, waiting for it").Len() == 0 || failedAttempts(g) < 6 {
		select {
		case err := <-done:
			t.Fatalf("got %v without a server", err)
		case <-time.After(time.Millisecond):
		}
	}
	s.Start()
	if err := <-done; err != nil {
		t.Error(err)
	}
	check(t, "large", logs, 1)
}

// failedAttempts is how long the fault lasts, in tries of the shortest pauses.
func failedAttempts(g *redisretry.Guard) int {
	if f := g.Fault(); f != nil {
		return int(time.Since(f.Since) / (100 * time.Millisecond))
	}
	return 0
}

// TestMissingRights takes rights away on a real Redis: by command, channel, in a MULTI, in a
// script, and by password. Callers wait, and go on when they are granted.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	publish := redis.NewScript(`redis.call('SET', KEYS[1], 'x') return redis.call('PUBLISH', KEYS[1], 'x')`)
	for name, tt := range map[string]struct {
		before, after string // of the user, over what it may
		remedy        string
		op            func(ctx context.Context, c *redis.Client) error
	}{
		"command": {"-set", "+set", "command 'set'", func(ctx context.Context, c *redis.Client) error { return c.Set(ctx, "k", 1, 0).Err() }},
		"key":     {"resetkeys", "~*", "grant the keys", func(ctx context.Context, c *redis.Client) error { return c.Set(ctx, "k", 1, 0).Err() }},
		"multi": {"resetchannels", "&*", "grant the channels", func(ctx context.Context, c *redis.Client) error {
			_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Set(ctx, "k", 1, 0)
				p.Publish(ctx, "k", "x")
				return nil
			})
			return err
		}},
		"watch": {"-expire", "+expire", "command 'expire'", func(ctx context.Context, c *redis.Client) error {
			return c.Watch(ctx, func(tx *redis.Tx) error {
				_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
					p.Set(ctx, "k", 1, 0)
					p.Expire(ctx, "k", time.Minute)
					return nil
				})
				return err
			}, "k")
		}},
		"script":         {"resetchannels", "&*", "grant the channels", func(ctx context.Context, c *redis.Client) error { return publish.Run(ctx, c, []string{"k"}).Err() }},
		"script command": {"-publish", "+publish", "script uses", func(ctx context.Context, c *redis.Client) error { return publish.Run(ctx, c, []string{"k"}).Err() }},
		"password":       {"<p", ">p", "password is wrong", func(ctx context.Context, c *redis.Client) error { return c.Set(ctx, "k", 1, 0).Err() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, c, admin, logs := server(t, "redis://u:p@ADDR")
			rights := func(change string) {
				t.Helper()
				if err := admin.Do(t.Context(), "ACL", "SETUSER", "u", change).Err(); err != nil {
					t.Fatal(err)
				}
			}
			for _, r := range []string{"on", ">p", "~*", "&*", "+@all", tt.before} {
				rights(r)
			}
			done := make(chan error, 1)
			go func() { done <- g.Do(t.Context(), func(ctx context.Context) error { return tt.op(ctx, c) }) }()
			for logs.Len() == 0 {
				select {
				case err := <-done:
					t.Fatalf("got %v without the right", err)
				case <-time.After(time.Millisecond):
				}
			}
			if f := g.Fault(); f == nil || f.Kind != redisretry.Rights || !strings.Contains(f.Remedy, tt.remedy) {
				t.Errorf("got %+v, want the remedy %q", f, tt.remedy)
			}
			rights(tt.after)
			if err := <-done; err != nil || g.Fault() != nil {
				t.Errorf("got %v, %+v", err, g.Fault())
			}
			var levels []zapcore.Level
			for _, l := range logs.All() {
				levels = append(levels, l.Level)
			}
			if got := fmt.Sprint(levels); got != "[error info]" {
				t.Errorf("got lines of levels %s, want [error info]", got)
			}
		})
	}
}

// TestFaultEndsWithoutCallers has the last caller give up: whoever looks at the fault finds that
// the server is back all the same.
func TestFaultEndsWithoutCallers(t *testing.T) {
	t.Parallel()
	s := testenv.Redis(t)
	log, logs := observed()
	c := open(t, s.URL())
	g := redisretry.New("results", log).On(c)
	s.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := g.Do(ctx, func(ctx context.Context) error { return c.Ping(ctx).Err() }); err == nil || g.Fault() == nil {
		t.Fatalf("got %v, fault %+v without a server", err, g.Fault())
	}
	s.Start()
	deadline := time.Now().Add(20 * time.Second)
	for g.Fault() != nil {
		if time.Now().After(deadline) {
			t.Fatal("the fault lasts although the server is back")
		}
		time.Sleep(time.Millisecond)
	}
	check(t, "no callers", logs, 1)
}
