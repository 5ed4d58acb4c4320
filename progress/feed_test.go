package progress_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/progress"
)

// feed runs a feed until the test ends.
func feed(t *testing.T, s *progress.Store) *progress.Feed {
	t.Helper()
	f := progress.NewFeed(s)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return f
}

// show shows a stage and waits for it.
func show(t *testing.T, tr *progress.Tracker, n int) {
	t.Helper()
	if err := tr.Show(t.Context(), n, "stage", fmt.Sprint("m", n)); err != nil {
		t.Fatal(err)
	}
}

// next waits for events.
func next(t *testing.T, l *progress.Listener) []progress.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	events, err := l.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// numbers are the progress of events, with "!" before one of a reset.
func numbers(events []progress.Event) string {
	var out []string
	for _, e := range events {
		mark := ""
		if e.Reset {
			mark = "!"
		}
		out = append(out, fmt.Sprint(mark, e.Progress))
	}
	return strings.Join(out, " ")
}

// TestFeed has listeners of each kind: one that begins, one that comes back, one whose last event is not known any more.
func TestFeed(t *testing.T) {
	s, client := setup(t)
	f := feed(t, s)
	early := f.Listen("j", "")
	defer early.Close()
	if known, err := early.Known(t.Context()); known || err != nil {
		t.Errorf("got %t, %v of a job of which nothing is shown", known, err)
	}
	tr := track(t, s, "j", false)
	show(t, tr, 10)
	first := next(t, early)
	if numbers(first) != "10" || first[0].Message != "m10" || first[0].ID == "" {
		t.Errorf("got %+v, want the first update", first)
	}
	show(t, tr, 20)
	show(t, tr, 30)
	got := numbers(next(t, early))
	for !strings.HasSuffix(got, "30") {
		got += " " + numbers(next(t, early))
	}
	if got != "20 30" {
		t.Errorf("got %s, want both updates in their order", got)
	}
	late := f.Listen("j", "")
	defer late.Close()
	if got := numbers(next(t, late)); got != "30" {
		t.Errorf("got %s, want what is shown at the moment", got)
	}
	again := f.Listen("j", first[0].ID)
	defer again.Close()
	if got := numbers(next(t, again)); got != "20 30" {
		t.Errorf("got %s, want what came after the last that it had", got)
	}
	for _, id := range []string{"1-1", "99999999999999-0"} {
		lost := f.Listen("j", id)
		if got := numbers(next(t, lost)); got != "!30" {
			t.Errorf("got %s of one that had %s, want what is shown, and that something is missing", got, id)
		}
		lost.Close()
	}
	if err := tr.Finish(t.Context(), "done", "m"); err != nil {
		t.Fatal(err)
	}
	end := next(t, again)
	if numbers(end) != "100" || !end[0].Over() || !again.Ended() || early.Ended() {
		t.Errorf("got %+v, ended %t and %t", end, again.Ended(), early.Ended())
	}
	// A replay goes on after the end.
	if err := s.Reset(t.Context(), "j", "queued", "m"); err != nil {
		t.Fatal(err)
	}
	if got := next(t, again); numbers(got) != "0" || got[0].Stage != "queued" {
		t.Errorf("got %+v after a reset", got)
	}
	for _, key := range client.Keys(t.Context(), "*").Val() {
		if ttl := client.TTL(t.Context(), key).Val(); ttl <= 0 || ttl > 24*time.Hour {
			t.Errorf("%s has TTL %v", key, ttl)
		}
	}
	if n := client.XLen(t.Context(), "job:events:{job:j:progress}").Val(); n != 5 {
		t.Errorf("got %d entries, want the 5 updates", n)
	}
}

// TestAnnounced is a job that waits: shown, told, and not shown in the place of anything else.
func TestAnnounced(t *testing.T) {
	s, _ := setup(t)
	f := feed(t, s)
	l := f.Listen("j", "")
	defer l.Close()
	if err := s.Announce(t.Context(), "j", "queued", "m"); err != nil {
		t.Fatal(err)
	}
	if got := next(t, l); numbers(got) != "0" || got[0].Stage != "queued" {
		t.Errorf("got %+v", got)
	}
	show(t, track(t, s, "j", false), 10)
	if err := s.Announce(t.Context(), "j", "queued", "m"); err != nil {
		t.Fatal(err)
	}
	if got := numbers(next(t, l)); got != "10" || load(t, s, "j").Progress != 10 {
		t.Errorf("got %s, and %+v is shown", got, load(t, s, "j"))
	}
	if err := s.Reset(t.Context(), "unknown", "queued", "m"); err != nil {
		t.Fatal(err)
	}
	if u, err := s.Load(t.Context(), "unknown"); u != nil || err != nil {
		t.Errorf("got %+v, %v of a job that was never shown", u, err)
	}
}

// TestStreamIsCapped has a job with more updates than are kept, and two listeners: one that was there all the time, and one that slept.
func TestStreamIsCapped(t *testing.T) {
	s, client := setup(t)
	f := feed(t, s)
	awake, asleep := f.Listen("j", ""), f.Listen("j", "")
	defer awake.Close()
	defer asleep.Close()
	tr := track(t, s, "j", false)
	show(t, tr, 1)
	for _, l := range []*progress.Listener{awake, asleep} {
		if got := numbers(next(t, l)); got != "1" {
			t.Errorf("got %s", got)
		}
	}
	seen := 0
	for n := range 300 {
		if err := tr.Show(t.Context(), n/4, "stage", fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
		if n%10 == 9 { // it is never behind by more than are kept
			for last := -1; last != n; {
				for _, e := range next(t, awake) {
					if e.Reset {
						t.Errorf("got a reset at %s", e.Message)
					}
					fmt.Sscan(e.Message, &last)
					seen++
				}
			}
		}
	}
	if seen != 300 {
		t.Errorf("got %d events, want all 300", seen)
	}
	if n := client.XLen(t.Context(), "job:events:{job:j:progress}").Val(); n != 64 {
		t.Errorf("got %d entries, want the newest 64", n)
	}
	if got := next(t, asleep); len(got) != 1 || !got[0].Reset || got[0].Message != "299" {
		t.Errorf("got %+v, want the newest, and that others are missing", got)
	}
}

// TestOldWriters shows jobs of workers that write no stream, and of a Redis user who may write none.
func TestOldWriters(t *testing.T) {
	s, client := setup(t)
	f := feed(t, s)
	l := f.Listen("j", "1-1")
	defer l.Close()
	doc := `{"progress": %d, "message": "m", "stage": "hash", "updated_at": "2026-11-21T00:44:20"}`
	client.Set(t.Context(), "job:j:progress", fmt.Sprintf(doc, 10), time.Hour)
	if got := next(t, l); numbers(got) != "!10" || got[0].ID != "" {
		t.Errorf("got %+v", got)
	}
	client.Set(t.Context(), "job:j:progress", fmt.Sprintf(doc, 20), time.Hour)
	if got := numbers(next(t, l)); got != "20" {
		t.Errorf("got %s", got)
	}
	show(t, track(t, s, "j", true), 30)
	if got := next(t, l); numbers(got) != "30" || got[0].ID == "" {
		t.Errorf("got %+v", got)
	}

	if err := client.Do(t.Context(), "ACL", "SETUSER", "u", "on", ">p", "~job:*", "&nothing", "+@all", "-xadd", "-expire").Err(); err != nil {
		t.Fatal(err)
	}
	opt := *client.Options()
	opt.Username, opt.Password = "u", "p"
	restricted := redis.NewClient(&opt)
	defer restricted.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := track(t, progress.New(restricted, zap.NewNop()), "r", false).Show(ctx, 50, "stage", "m"); err != nil {
		t.Fatalf("got %v: what only streams need must not hold a job up", err)
	}
	other := f.Listen("r", "")
	defer other.Close()
	if got := numbers(next(t, other)); got != "50" {
		t.Errorf("got %s", got)
	}
	// The right to the channel alone is missing, as where an older list of rights is in use: nobody is told, and it is looked at.
	if err := client.Do(t.Context(), "ACL", "SETUSER", "u", "+xadd", "+expire").Err(); err != nil {
		t.Fatal(err)
	}
	silent := f.Listen("s", "")
	defer silent.Close()
	tr := track(t, progress.New(restricted, zap.NewNop()), "s", false)
	for n := 10; n <= 30; n += 10 {
		show(t, tr, n)
		if got := numbers(next(t, silent)); got != fmt.Sprint(n) {
			t.Errorf("got %s, want %d", got, n)
		}
	}
}

// TestManyListeners has 5,000 of them on two connections, who all hear of each end; when all have gone, nothing is left of them.
func TestManyListeners(t *testing.T) {
	s, client := setup(t)
	opt := *client.Options()
	opt.ClientName, opt.PoolSize = "the-feed", 1
	own := redis.NewClient(&opt)
	t.Cleanup(func() { own.Close() })
	f := feed(t, progress.New(own, zap.NewNop()))
	const jobs, each = 500, 10
	var all sync.WaitGroup
	for j := range jobs {
		for range each {
			l := f.Listen(fmt.Sprint("j", j), "")
			all.Go(func() {
				defer l.Close()
				for {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					events, err := l.Next(ctx)
					cancel()
					if err != nil {
						t.Error(err)
						return
					}
					if events[len(events)-1].Over() {
						return
					}
				}
			})
		}
	}
	subscribed := func() int {
		n := 0
		for _, name := range client.PubSubChannels(t.Context(), "job:events:*").Val() {
			if strings.HasPrefix(name, "job:events:{job:j") {
				n++
			}
		}
		return n
	}
	for subscribed() != jobs {
		time.Sleep(time.Millisecond)
	}
	for j := range jobs {
		tr := track(t, s, fmt.Sprint("j", j), false)
		post(t, tr, 10)
		if err := tr.Finish(t.Context(), "done", "m"); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(client.ClientList(t.Context()).Val(), "name=the-feed"); n > 2 {
		t.Errorf("got %d connections, want 2 at most", n)
	}
	all.Wait()
	for subscribed() != 0 {
		time.Sleep(time.Millisecond)
	}
}

// TestLostMessages cuts the connections again and again while a job goes on: each event is heard once, in its order.
func TestLostMessages(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	proxy := testenv.NewProxy(t, server.Addr())
	open := func(addr string) *redis.Client {
		opt, err := redisretry.Options("redis://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		c := redis.NewClient(opt)
		t.Cleanup(func() { c.Close() })
		return c
	}
	s := progress.New(open(server.Addr()), zap.NewNop())
	f := feed(t, progress.New(open(proxy.Addr()), zap.NewNop()))
	l := f.Listen("j", "")
	defer l.Close()
	heard := make(chan string, 1)
	go func() {
		var got []progress.Event
		for len(got) == 0 || !got[len(got)-1].Over() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			events, err := l.Next(ctx)
			cancel()
			if err != nil {
				t.Error(err)
				break
			}
			got = append(got, events...)
		}
		heard <- numbers(got)
	}()
	tr := track(t, s, "j", false)
	var want []string
	for n := 1; n <= 50; n++ {
		show(t, tr, n)
		want = append(want, fmt.Sprint(n))
		if rand.IntN(5) == 0 {
			proxy.Cut()
			proxy.Restore()
		}
	}
	if err := tr.Finish(t.Context(), "done", "m"); err != nil {
		t.Fatal(err)
	}
	got := <-heard
	// The first one that it heard is whatever was shown then.
	if whole := strings.Join(want, " ") + " 100"; !strings.HasSuffix(" "+whole, " "+got) {
		t.Errorf("got %s, want an end of %s", got, whole)
	}
}
