package control

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
)

// TestPauseAndResume has two workers of ours, of which one consumes the queue.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	url := broker(t)
	a, b := start(t, url, "a@h", "q.ai", "mine"), start(t, url, "b@h", "q.batch")
	c := client(t, url)
	c.Wait = aWhile
	for _, queue := range []string{"q.ai", "mine"} {
		told, err := c.Pause(t.Context(), queue)
		if diff := cmp.Diff(Told{Nodes: []string{"a@h", "b@h"}, Refused: map[string]string{}}, told); diff != "" || err != nil {
			t.Errorf("pause: %v, got (+) other than (-)\n%s", err, diff)
		}
		told, err = c.Resume(t.Context(), queue, "a@h")
		if diff := cmp.Diff(Told{Nodes: []string{"a@h"}, Refused: map[string]string{}}, told); diff != "" || err != nil {
			t.Errorf("resume: %v, got (+) other than (-)\n%s", err, diff)
		}
	}
	if got, want := a.told(), []string{"cancel q.ai", "add q.ai tasks topic ai.*", "cancel mine", "add mine   "}; !slices.Equal(got, want) {
		t.Errorf("one worker was told %q, want %q", got, want)
	}
	if got, want := b.told(), []string{"cancel q.ai", "cancel mine"}; !slices.Equal(got, want) {
		t.Errorf("the other was told %q, want %q", got, want)
	}
	told, err := c.Resume(t.Context(), "amq.x")
	if len(told.Nodes) != 0 || len(told.Refused) != 2 || !strings.Contains(told.Refused["a@h"], "amq.") || err != nil {
		t.Errorf("got %+v, %v, want both to refuse", told, err)
	}
	for _, name := range []string{"", strings.Repeat("q", 256)} {
		if _, err := c.Pause(t.Context(), name); err == nil || !strings.Contains(err.Error(), "expected 1 to 255") {
			t.Errorf("got %v, want an error about the name", err)
		}
	}
}

// redisURL starts a Redis.
func redisURL(t *testing.T) string {
	t.Helper()
	return testenv.Redis(t, "--appendfsync", "no").URL()
}

// connect returns a client of DB5.
func connect(t *testing.T, url string) *redis.Client {
	t.Helper()
	opt, err := redisretry.Options(url)
	if err != nil {
		t.Fatal(err)
	}
	opt.DB = 5
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	return client
}

// pauses are on a Redis of the test's own.
func pauses(t *testing.T) (*Pauses, *redis.Client) {
	t.Helper()
	client := connect(t, redisURL(t))
	return NewPauses(client), client
}

// all are the pauses.
func all(t *testing.T, p *Pauses) map[string]Pause {
	t.Helper()
	got, err := p.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPauses(t *testing.T) {
	t.Parallel()
	p, client := pauses(t)
	at := time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)
	set := func(queue string, pause Pause) {
		t.Helper()
		if err := p.Set(t.Context(), queue, pause); err != nil {
			t.Fatal(err)
		}
	}
	set("q.ai", Pause{By: "me@h", Since: at, Why: "the model is away", Nodes: []string{"b@h", "a@h"}})
	set("other", Pause{By: "you@h", Since: at})
	if doc := client.HGet(t.Context(), pausedKey, "other").Val(); doc != `{"by":"you@h","since":"2026-12-01T09:00:00Z","why":""}` {
		t.Errorf("got the note %s", doc)
	}
	// It is paused again, and nobody consumes it then.
	set("q.ai", Pause{By: "you@h", Since: at.Add(time.Hour), Nodes: []string{"c@h"}})
	for queue, want := range map[string]bool{"q.ai": true, "none": false} {
		if is, err := p.had(t.Context(), queue, []string{"d@h", "a@h"}); is != want || err != nil {
			t.Errorf("%s: got paused: %t, %v, want %t", queue, is, err, want)
		}
	}
	again := Pause{By: "you@h", Since: at.Add(time.Hour), Nodes: []string{"a@h", "b@h", "c@h", "d@h"}}
	if diff := cmp.Diff(map[string]Pause{"q.ai": again, "other": {By: "you@h", Since: at}}, all(t, p)); diff != "" {
		t.Errorf("got (+) other pauses than (-)\n%s", diff)
	}
	got, was, err := p.Clear(t.Context(), "q.ai")
	if diff := cmp.Diff(again, got); diff != "" || !was || err != nil {
		t.Errorf("%t, %v, got (+) another pause than (-)\n%s", was, err, diff)
	}
	if got, was, err := p.Clear(t.Context(), "q.ai"); was || err != nil {
		t.Errorf("got %v, %t, %v, want that there was no pause any more", got, was, err)
	}
	if err := client.HSet(t.Context(), pausedKey, "q.ai", "x").Err(); err != nil {
		t.Fatal(err)
	}
	if got := all(t, p)["q.ai"]; !strings.Contains(got.Why, "cannot be read") {
		t.Errorf("got %+v, want a pause with a note that cannot be read", got)
	}
	if err := p.Set(t.Context(), "", Pause{}); err == nil {
		t.Error("got a pause of no queue")
	}
}

// TestPausesTogether notes nodes from several processes at once: none is lost.
func TestPausesTogether(t *testing.T) {
	t.Parallel()
	p, _ := pauses(t)
	if err := p.Set(t.Context(), "q", Pause{By: "me@h"}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 4)
	nodes := []string{"a", "b", "c", "d"}
	for _, n := range nodes {
		go func() {
			_, err := p.had(t.Context(), "q", []string{n})
			done <- err
		}()
	}
	for range nodes {
		if err := wait(t, "note", done); err != nil {
			t.Error(err)
		}
	}
	if got := all(t, p)["q"].Nodes; !slices.Equal(got, nodes) {
		t.Errorf("got the nodes %v, want %v", got, nodes)
	}
}

// TestEnforce has a worker that was started after the pause, and one that does not consume the queue.
func TestEnforce(t *testing.T) {
	t.Parallel()
	url := broker(t)
	p, _ := pauses(t)
	a, b := start(t, url, "a@h", "q.ai", "q.batch"), start(t, url, "b@h", "q.batch")
	if err := p.Set(t.Context(), "q.ai", Pause{By: "me@h", Nodes: []string{"gone@h"}}); err != nil {
		t.Fatal(err)
	}
	c := client(t, url)
	c.Wait = aWhile
	workers, err := c.Workers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time with what is known of before, as another process has it
		if err := c.Enforce(t.Context(), p, workers); err != nil {
			t.Error(err)
		}
	}
	if got := all(t, p)["q.ai"].Nodes; !slices.Equal(got, []string{"a@h", "gone@h"}) {
		t.Errorf("got the nodes %v, want those that consumed the queue", got)
	}
	if workers, err = c.Workers(t.Context()); err != nil { // behind what they were told
		t.Fatal(err)
	}
	if got := Consumers(workers, "q.ai"); len(workers) != 2 || len(got) != 0 {
		t.Errorf("got %v, of whom %v consume the paused queue", workers, got)
	}
	if got := Consumers(workers, "q.batch"); !slices.Equal(got, []string{"a@h", "b@h"}) {
		t.Errorf("got %v who consume the other queue, want both", got)
	}
	if err := c.Enforce(t.Context(), p, workers); err != nil {
		t.Error(err)
	}
	if got := a.told(); !slices.Equal(got, []string{"cancel q.ai", "cancel q.ai"}) || len(b.told()) != 0 {
		t.Errorf("the workers were told %q and %q", got, b.told())
	}
}

// TestEnforceLate has a pause end at each moment of Enforce.
func TestEnforceLate(t *testing.T) {
	t.Parallel()
	workers := []Worker{{Node: "a@h", Queues: []string{"q.ai"}}}
	for _, when := range []string{"before it has begun", "before it notes who had the queue", "after it has told them", "never"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			url := broker(t)
			server := redisURL(t)
			p := NewPauses(connect(t, server))
			a, c := start(t, url, "a@h", "q.ai"), client(t, url)
			if err := p.Set(t.Context(), "q.ai", Pause{By: "me@h"}); err != nil {
				t.Fatal(err)
			}
			h := &ending{end: func() {
				if _, was, err := p.Clear(context.Background(), "q.ai"); !was || err != nil {
					t.Errorf("got %t, %v, want the pause ended", was, err)
				}
			}}
			h.at = map[string]int{"before it has begun": 0, "before it notes who had the queue": 1, "after it has told them": 2, "never": 99}[when]
			hooked := connect(t, server)
			hooked.AddHook(h)
			if err := c.Enforce(t.Context(), NewPauses(hooked), workers); err != nil {
				t.Error(err)
			}
			if _, err := c.Ask(t.Context(), "ping", nil, []string{"a@h"}); err != nil { // behind what it was told
				t.Fatal(err)
			}
			want := map[string][]string{"after it has told them": {"cancel q.ai", "add q.ai tasks topic ai.*"}, "never": {"cancel q.ai"}}[when]
			if got := a.told(); !slices.Equal(got, want) {
				t.Errorf("the worker was told %q, want %q", got, want)
			}
		})
	}
}

// ending calls end before a client reads the pauses for the time after at many: All, the note, and All again.
type ending struct {
	at, reads int
	end       func()
}

func (e *ending) DialHook(next redis.DialHook) redis.DialHook { return next }
func (e *ending) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (e *ending) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if name := cmd.Name(); name == "hgetall" || name == "watch" {
			if e.reads == e.at {
				e.end()
			}
			e.reads++
		}
		return next(ctx, cmd)
	}
}

// TestNoRedis tells what could not be looked up.
func TestNoRedis(t *testing.T) {
	t.Parallel()
	p, client := pauses(t)
	client.Close()
	c := New("test", nil)
	t.Cleanup(c.Close)
	if err := c.Enforce(t.Context(), p, nil); err == nil || !strings.Contains(err.Error(), "which queues are paused") {
		t.Errorf("got %v, want an error about the pauses", err)
	}
	if _, _, err := p.Clear(t.Context(), "q"); err == nil {
		t.Error("got a pause ended without Redis")
	}
}
