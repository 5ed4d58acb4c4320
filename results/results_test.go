package results_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/results"
)

func TestMain(m *testing.M) { testenv.Main(m) }

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

func meta(t *testing.T, id string, state celery.State, result any) celery.Meta {
	t.Helper()
	m, err := celery.NewMeta(&celery.Request{ID: id, Task: "image.analyze"}, state, result, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// record stores m for the first run of its task.
func record(t *testing.T, s *results.Store, m celery.Meta) {
	t.Helper()
	if theirs, err := s.Record(t.Context(), m, celery.Stored{}); err != nil || theirs.Raw != "" {
		t.Fatalf("got %q, %v, want the end of task %s to be ours", theirs.Raw, err, m.TaskID)
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	client := open(t, testenv.Redis(t).URL())
	store := results.New(client, zap.NewNop())
	ctx := t.Context()

	sub := client.Subscribe(ctx, results.Key("a"))
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	record(t, store, meta(t, "a", celery.Success, map[string]string{"feedback": "병"}))
	msg, err := sub.ReceiveMessage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := client.Get(ctx, "celery-task-meta-a").Result()
	if err != nil {
		t.Fatal(err)
	}
	if msg.Payload != stored {
		t.Errorf("published %q, want the stored bytes %q", msg.Payload, stored)
	}
	if !strings.Contains(stored, `"feedback":"병"`) {
		t.Errorf("stored %q, want readable Korean", stored)
	}
	if ttl := client.TTL(ctx, "celery-task-meta-a").Val(); ttl <= 23*time.Hour || ttl > 24*time.Hour {
		t.Errorf("got TTL %v, want 24 h", ttl)
	}
	m, err := store.Load(ctx, "a")
	if err != nil || m.Status != celery.Success || m.TaskID != "a" {
		t.Errorf("loaded %+v, %v", m, err)
	}
}

// TestRecordIsOneStep watches the commands that the server sees: a script runs them as one step.
func TestRecordIsOneStep(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	monitor, err := net.Dial("tcp", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	fmt.Fprint(monitor, "MONITOR\r\n")
	lines := bufio.NewScanner(monitor)
	if !lines.Scan() || lines.Text() != "+OK" {
		t.Fatalf("MONITOR: got %q", lines.Text())
	}
	record(t, results.New(open(t, server.URL()), zap.NewNop()), meta(t, "a", celery.Success, 1))
	var got []string
	for len(got) == 0 || !strings.HasSuffix(got[len(got)-1], " publish") {
		if !lines.Scan() {
			t.Fatalf("MONITOR ended after %q: %v", got, lines.Err())
		}
		from, command, _ := strings.Cut(lines.Text(), "] ")
		name := strings.ToLower(strings.Trim(strings.Fields(command)[0], `"`))
		if slices.Contains([]string{"get", "set", "publish"}, name) {
			got = append(got, from[strings.LastIndex(from, " ")+1:]+" "+name)
		}
	}
	if want := []string{"lua get", "lua set", "lua publish"}; !slices.Equal(got, want) {
		t.Errorf("got commands %q, want %q", got, want)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	client := open(t, testenv.Redis(t).URL())
	store := results.New(client, zap.NewNop())
	if m, err := store.Load(t.Context(), "none"); m != nil || err != nil {
		t.Errorf("got %+v, %v, want nil, nil", m, err)
	}
	client.Set(t.Context(), results.Key("bad"), "{", time.Minute)
	var damaged *celery.MetaError
	if _, err := store.Load(t.Context(), "bad"); !errors.As(err, &damaged) {
		t.Errorf("got %v, want a MetaError", err)
	}
	// As Celery 5.2 writes it: naive date, null children.
	old := `{"status": "FAILURE", "result": {"exc_type": "Boom", "exc_message": ["x"], "exc_module": "app"}, "traceback": null, "children": null, "date_done": "2026-11-20T23:48:12.214994", "task_id": "old"}`
	client.Set(t.Context(), results.Key("old"), old, time.Minute)
	m, err := store.Load(t.Context(), "old")
	if err != nil {
		t.Fatal(err)
	}
	if exc, err := m.Exception(); err != nil || exc.Error() != "app.Boom: x" {
		t.Errorf("got %v, %v", exc, err)
	}
}

// TestRecordRidesOutARestart stops Redis, records an end, and starts it again.
// TestAwait is told of an end when it is stored, and not before; one that is stored already is returned at once.
func TestAwait(t *testing.T) {
	t.Parallel()
	c := open(t, testenv.Redis(t).URL())
	s := results.New(c, zap.NewNop())
	got := make(chan *celery.Meta, 1)
	go func() {
		m, err := s.Await(t.Context(), "a")
		if err != nil {
			t.Error(err)
		}
		got <- m
	}()
	for c.PubSubNumSub(t.Context(), results.Key("a")).Val()[results.Key("a")] == 0 {
		time.Sleep(time.Millisecond)
	}
	c.Publish(t.Context(), results.Key("a"), "not an end")
	record(t, s, meta(t, "b", celery.Success, 1))
	select {
	case m := <-got:
		t.Fatalf("got %+v before the task has ended", m)
	case <-time.After(50 * time.Millisecond):
	}
	began := time.Now()
	record(t, s, meta(t, "a", celery.Success, 2))
	if m := <-got; m == nil || m.Status != celery.Success || string(m.Result) != "2" {
		t.Errorf("got %+v", m)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v: the message was not heard", took)
	}
	if m, err := s.Await(t.Context(), "a"); err != nil || m.Status != celery.Success {
		t.Errorf("got %+v, %v of what is there", m, err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if m, err := s.Await(ctx, "c"); !errors.Is(err, gone) {
		t.Errorf("got %+v, %v, want why the context ended", m, err)
	}
}

func TestRecordRidesOutARestart(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	core, logs := observer.New(zap.InfoLevel)
	store := results.New(open(t, server.URL()), zap.New(core))
	server.Stop()
	m := meta(t, "a", celery.Success, json.RawMessage(`1`))
	recorded := make(chan error, 1)
	go func() {
		_, err := store.Record(t.Context(), m, celery.Stored{})
		recorded <- err
	}()
	for logs.FilterMessage("redis lost, waiting for it").Len() == 0 {
		select {
		case err := <-recorded:
			t.Fatalf("recorded without a server: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	server.Start()
	if err := <-recorded; err != nil {
		t.Fatal(err)
	}
	if got, err := store.Load(t.Context(), "a"); err != nil || got.Status != celery.Success {
		t.Errorf("got %+v, %v", got, err)
	}
	if n := logs.FilterMessage("redis is back").Len(); n != 1 || logs.Len() != 2 {
		t.Errorf("got %d log lines, %d of them 'redis is back', want 2 and 1", logs.Len(), n)
	}
}

func TestRecordGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	store := results.New(open(t, server.URL()), zap.NewNop())
	server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := store.Record(ctx, meta(t, "a", celery.Success, 1), celery.Stored{})
	var away interface{ Unavailable() bool }
	if !errors.As(err, &away) || !strings.Contains(err.Error(), "task a") {
		t.Errorf("got %v, want an outage that names the task", err)
	}
}

// TestReset makes failures PENDING and leaves everything else.
func TestReset(t *testing.T) {
	t.Parallel()
	client := open(t, testenv.Redis(t).URL())
	store := results.New(client, zap.NewNop())
	ctx := t.Context()
	ids := []string{"failed", "revoked", "done", "retried", "foreign", "none"}
	for id, state := range map[string]celery.State{
		"failed": celery.Failure, "revoked": celery.Revoked, "done": celery.Success, "retried": celery.Retried,
	} {
		var result any = celery.NewException("ValueError", "x", nil)
		if state == celery.Success {
			result = 1
		}
		record(t, store, meta(t, id, state, result))
	}
	if err := client.Set(ctx, results.Key("foreign"), "[1,", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	states := func() string {
		t.Helper()
		got, err := store.States(ctx, ids)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(got)
	}
	if got, want := states(), "[FAILURE REVOKED SUCCESS RETRY  ]"; got != want {
		t.Errorf("before: got %s, want %s", got, want)
	}
	var was []celery.State
	deleted := map[string][]byte{}
	for _, id := range ids {
		state, doc, err := store.Reset(ctx, id)
		if err != nil || (doc != nil) != (state == celery.Failure || state == celery.Revoked) {
			t.Fatalf("%s: got %q, %q, %v", id, state, doc, err)
		}
		was, deleted[id] = append(was, state), doc
	}
	if want := []celery.State{celery.Failure, celery.Revoked, celery.Success, celery.Retried, "?", ""}; !slices.Equal(was, want) {
		t.Errorf("got %q, want %q", was, want)
	}
	if got, want := states(), "[  SUCCESS RETRY  ]"; got != want {
		t.Errorf("after: got %s, want %s", got, want)
	}
	if n := client.Exists(ctx, results.Key("foreign")).Val(); n != 1 {
		t.Error("somebody else's value is gone")
	}
	// And back, unless something is stored since.
	record(t, store, meta(t, "revoked", celery.Success, 1))
	for _, id := range []string{"failed", "revoked"} {
		if err := store.PutBack(ctx, id, deleted[id]); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := states(), "[FAILURE SUCCESS SUCCESS RETRY  ]"; got != want {
		t.Errorf("put back: got %s, want %s", got, want)
	}
	if got, err := store.States(ctx, nil); got != nil || err != nil {
		t.Errorf("of no ids: got %v, %v", got, err)
	}
}
