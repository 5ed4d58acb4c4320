package results_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/results"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

func TestSave(t *testing.T) {
	t.Parallel()
	client := open(t, testenv.Redis(t).URL())
	store := results.New(client, zap.NewNop())
	ctx := t.Context()

	sub := client.Subscribe(ctx, results.Key("a"))
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Save(ctx, meta(t, "a", celery.Success, map[string]string{"feedback": "병"})); err != nil {
		t.Fatal(err)
	}
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

// TestSaveIsOneTransaction watches the commands that the server sees.
func TestSaveIsOneTransaction(t *testing.T) {
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
	client := open(t, server.URL())
	if _, err := results.New(client, zap.NewNop()).Save(t.Context(), meta(t, "tx", celery.Success, 1)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) == 0 || got[len(got)-1] != "exec" {
		if !lines.Scan() {
			t.Fatalf("MONITOR ended: %v", lines.Err())
		}
		_, command, _ := strings.Cut(lines.Text(), "] ")
		name := strings.ToLower(strings.Trim(strings.Fields(command)[0], `"`))
		if slices.Contains([]string{"get", "multi", "set", "publish", "exec"}, name) {
			got = append(got, name)
		}
	}
	if want := "get multi set publish exec"; strings.Join(got, " ") != want {
		t.Errorf("got commands %v, want %s", got, want)
	}
}

func TestSaveNeverOverwritesSuccess(t *testing.T) {
	t.Parallel()
	client := open(t, testenv.Redis(t).URL())
	store := results.New(client, zap.NewNop())
	ctx := t.Context()
	exc := celery.NewException("ValueError", "late", nil)
	steps := []struct {
		state  celery.State
		result any
		want   celery.State
	}{
		{celery.Started, nil, celery.Started},
		{celery.Retried, exc, celery.Retried},
		{celery.Failure, exc, celery.Failure},
		{celery.Success, 1, celery.Success}, // a replay may succeed
		{celery.Failure, exc, celery.Success},
		{celery.Started, nil, celery.Success},
		{celery.Success, 2, celery.Success},
	}
	for _, s := range steps {
		if _, err := store.Save(ctx, meta(t, "a", s.state, s.result)); err != nil {
			t.Fatal(err)
		}
		m, err := store.Load(ctx, "a")
		if err != nil || m.Status != s.want {
			t.Errorf("after saving %s: got %+v, %v, want %s", s.state, m, err, s.want)
		}
	}
	if m, _ := store.Load(ctx, "a"); string(m.Result) != "1" {
		t.Errorf("got result %s, want the first success 1", m.Result)
	}
}

// TestSaveRace lets many writers store failures while one stores the success:
// whatever the order, the success must be there in the end.
func TestSaveRace(t *testing.T) {
	t.Parallel()
	client := open(t, testenv.Redis(t).URL())
	store := results.New(client, zap.NewNop())
	for range 20 {
		var writers sync.WaitGroup
		failure := meta(t, "race", celery.Failure, celery.NewException("ValueError", "x", nil))
		success := meta(t, "race", celery.Success, 1)
		for i := range 8 {
			m := failure
			if i == 4 {
				m = success
			}
			writers.Go(func() {
				if _, err := store.Save(t.Context(), m); err != nil {
					t.Error(err)
				}
			})
		}
		writers.Wait()
		if m, err := store.Load(t.Context(), "race"); err != nil || m.Status != celery.Success {
			t.Fatalf("got %+v, %v, want SUCCESS", m, err)
		}
		client.Del(t.Context(), results.Key("race"))
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

// TestSaveIf asks before it replaces anything, and replaces no SUCCESS even if it may.
func TestSaveIf(t *testing.T) {
	t.Parallel()
	client := open(t, testenv.Redis(t).URL())
	store := results.New(client, zap.NewNop())
	for _, tt := range []struct {
		before celery.State // "": nothing
		may    bool
		saved  bool
	}{{"", true, true}, {"", false, false}, {celery.Failure, true, true}, {celery.Failure, false, false}, {celery.Success, true, false}} {
		id := fmt.Sprintf("%s %t", tt.before, tt.may)
		if tt.before != "" {
			if _, err := store.Save(t.Context(), meta(t, id, tt.before, nil)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := store.Stored(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		saved, err := store.SaveIf(t.Context(), meta(t, id, celery.Success, 1), func(stored []byte) bool {
			if !bytes.Equal(stored, want) {
				t.Errorf("%s: asked about %s, want %s", id, stored, want)
			}
			return tt.may
		})
		if err != nil || saved != tt.saved {
			t.Errorf("%s: got %t, %v, want %t", id, saved, err, tt.saved)
		}
		got, err := store.Stored(t.Context(), id)
		if err != nil || bytes.Equal(got, want) == tt.saved {
			t.Errorf("%s: got %s, %v, and before it was %s", id, got, err, want)
		}
	}
}

// TestSaveRidesOutARestart stops Redis, saves, and starts it again.
func TestSaveRidesOutARestart(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	core, logs := observer.New(zap.InfoLevel)
	store := results.New(open(t, server.URL()), zap.New(core))
	server.Stop()
	m := meta(t, "a", celery.Success, json.RawMessage(`1`))
	saved := make(chan error, 1)
	go func() {
		_, err := store.Save(t.Context(), m)
		saved <- err
	}()
	for logs.FilterMessage("redis lost, waiting for it").Len() == 0 {
		select {
		case err := <-saved:
			t.Fatalf("saved without a server: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	server.Start()
	if err := <-saved; err != nil {
		t.Fatal(err)
	}
	if got, err := store.Load(t.Context(), "a"); err != nil || got.Status != celery.Success {
		t.Errorf("got %+v, %v", got, err)
	}
	if n := logs.FilterMessage("redis is back").Len(); n != 1 || logs.Len() != 2 {
		t.Errorf("got %d log lines, %d of them 'redis is back', want 2 and 1", logs.Len(), n)
	}
}

func TestSaveGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	store := results.New(open(t, server.URL()), zap.NewNop())
	server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := store.Save(ctx, meta(t, "a", celery.Success, 1))
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
		if _, err := store.Save(ctx, meta(t, id, state, result)); err != nil {
			t.Fatal(err)
		}
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
	if _, err := store.Save(ctx, meta(t, "revoked", celery.Success, 1)); err != nil {
		t.Fatal(err)
	}
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
