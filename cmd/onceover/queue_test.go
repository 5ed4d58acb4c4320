package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/config"
	"onceover/internal/control"
	"onceover/internal/embedded"
	"onceover/rabbit"
)

// servers starts a broker and a Redis in this process, and has commands go there.
func servers(t *testing.T) *embedded.Servers {
	t.Helper()
	s, err := embedded.Start(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	t.Setenv("ONCEOVER_BROKER_URL", s.BrokerURL())
	t.Setenv("ONCEOVER_REDIS_URL", s.RedisURL())
	t.Setenv("USER", "tester")
	return s
}

// command runs a command, and returns what it prints and its exit code.
func command(t *testing.T, args ...string) (out string, code int, fault string) {
	t.Helper()
	var printed bytes.Buffer
	root := newRoot(stop{})
	root.SetArgs(args)
	root.SetOut(&printed)
	err := root.ExecuteContext(t.Context())
	var coded *exitCodeError
	switch {
	case errors.As(err, &coded):
		code, fault = coded.code, err.Error()
	case err != nil:
		code, fault = exitError, err.Error()
	}
	for line := range strings.Lines(printed.String()) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 && !slices.Contains(args, "--json") {
			t.Errorf("%v printed a line of %d columns, want at most 80: %s", args, n, line)
		}
	}
	return printed.String(), code, fault
}

// want runs a command, which has to print all of these, in any order of columns' widths.
func want(t *testing.T, code int, args []string, texts ...string) {
	t.Helper()
	out, got, fault := command(t, args...)
	if got != code {
		t.Errorf("%v: exit code %d, want %d: %s", args, got, code, fault)
	}
	all := strings.Join(strings.Fields(out+fault), " ")
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("%v printed\n%s%s\nwant %q", args, out, fault, text)
		}
	}
}

// celeryWorker is a worker that the test plays.
type celeryWorker struct {
	mu       sync.Mutex
	queues   map[string]bool
	stubborn bool // it does not stop
}

// play answers remote control as a worker that consumes queues.
func play(t *testing.T, url, name string, queues ...string) *celeryWorker {
	t.Helper()
	w := &celeryWorker{queues: map[string]bool{}}
	for _, q := range queues {
		w.queues[q] = true
	}
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare("celery.pidbox", "fanout", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	q, err := ch.QueueDeclare(name+".celery.pidbox", false, true, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(q.Name, "", "celery.pidbox", false, nil); err != nil {
		t.Fatal(err)
	}
	requests, err := ch.Consume(q.Name, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var answering sync.WaitGroup
	answering.Go(func() {
		for d := range requests {
			var r struct {
				Method      string
				Arguments   struct{ Queue string }
				Destination []string
				Ticket      string
				To          struct {
					Exchange string
					Key      string `json:"routing_key"`
				} `json:"reply_to"`
			}
			if err := json.Unmarshal(d.Body, &r); err != nil || r.To.Exchange == "" || len(r.Destination) > 0 && !strings.Contains(strings.Join(r.Destination, " "), name) {
				continue
			}
			body, err := json.Marshal(map[string]any{name: w.answer(r.Method, r.Arguments.Queue)})
			if err != nil {
				t.Error(err)
			}
			m := amqp.Publishing{ContentType: "application/json", Headers: amqp.Table{"ticket": r.Ticket}, Body: body}
			if err := ch.Publish(r.To.Exchange, r.To.Key, false, false, m); err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		answering.Wait()
	})
	return w
}

func (w *celeryWorker) answer(method, queue string) any {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch method {
	case "stats":
		return map[string]any{"pid": 1, "pool": map[string]any{"max-concurrency": 2}}
	case "active":
		return []any{}
	case "active_queues":
		all := []map[string]string{}
		for q := range w.queues {
			all = append(all, map[string]string{"name": q})
		}
		return all
	case "cancel_consumer":
		if !w.stubborn {
			delete(w.queues, queue)
		}
		return map[string]string{"ok": "no longer consuming from " + queue}
	case "add_consumer":
		w.queues[queue] = true
		return map[string]string{"ok": "add consumer " + queue}
	}
	return map[string]string{"error": "KeyError('" + method + "')"}
}

func (w *celeryWorker) has(queue string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queues[queue]
}

// TestQueueCommands pauses and resumes a queue of two workers, of which one has it.
func TestQueueCommands(t *testing.T) {
	s := servers(t)
	conn, err := rabbit.Dial(t.Context(), "test", []string{s.BrokerURL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := rabbit.Declare(t.Context(), conn, rabbit.Names("q.ai", "q.batch", "mine")...); err != nil {
		t.Fatal(err)
	}
	a, b := play(t, s.BrokerURL(), "a@h", "q.ai", "mine"), play(t, s.BrokerURL(), "b@h", "q.batch")

	want(t, exitOK, []string{"queue", "list"}, "QUEUE READY CONSUMERS WORKERS PAUSED", "q.ai 0 0 1 -", "q.batch 0 0 1 -", "q.api missing - 0 -", "mine 0 0 1 -", "2 workers answered")
	want(t, exitError, []string{"queue", "pause", "q.aj"}, `there is no queue "q.aj"`)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want(t, exitOK, []string{"queue", "pause", "q.ai", "--why", "slow"}, "queue q.ai is paused: 2 workers answered, 1 consumed it and none does any more",
		"for more than 5m0s expire", "by a gateway, while one runs")
	if a.has("q.ai") || !a.has("mine") || !b.has("q.batch") {
		t.Errorf("the workers consume %v and %v", a.queues, b.queues)
	}
	out, _, _ := command(t, "queue", "list", "--json")
	var row queueRow
	if err := json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &row); err != nil {
		t.Fatal(err)
	}
	if row.Queue != "q.ai" || row.Paused == nil || row.Paused.By != "tester@"+host || row.Paused.Why != "slow" || time.Since(row.Paused.Since) > time.Minute || strings.Join(row.Paused.Nodes, " ") != "a@h" {
		t.Errorf("got %+v, paused %+v", row, row.Paused)
	}
	want(t, exitOK, []string{"queue", "resume", "q.ai"}, "queue q.ai is not paused any more: 2 workers answered, 1 consume it")
	if !a.has("q.ai") || b.has("q.ai") {
		t.Errorf("the workers consume %v and %v, want only the one that did to consume it again", a.queues, b.queues)
	}
	want(t, exitNotFinished, []string{"queue", "resume", "q.ai"}, "is not paused", "give --all")
	want(t, exitOK, []string{"queue", "resume", "q.ai", "--all"}, "2 consume it")

	a.mu.Lock()
	a.stubborn = true
	a.mu.Unlock()
	want(t, exitError, []string{"queue", "pause", "q.ai"}, "1 still consume it", "still consumed by a@h: repeat the command")
}

// TestParkedCommands lists, runs and discards jobs.
func TestParkedCommands(t *testing.T) {
	s := servers(t)
	want(t, exitOK, []string{"parked", "list"}, "no parked jobs")
	var settings config.Settings
	settings.FailedURL, settings.ResultsURL, settings.ProgressURL = s.RedisURL()+"/5", s.RedisURL()+"/0", s.RedisURL()+"/2"
	settings.LogLevel, settings.LogFormat = "info", "json"
	store, closeStore, err := openFailed(t.Context(), &settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeStore)
	ids := []string{"6f1c4a9e-0000-4000-8000-000000000001", "6f1c4a9e-0000-4000-8000-000000000002", "7a000000-0000-4000-8000-000000000003"}
	for i, id := range ids {
		due := time.Now().Add(time.Duration(i+1) * time.Hour)
		req := &celery.Request{ID: id, Task: "image.analyze", ETA: due, Retries: i, Kwargs: map[string]json.RawMessage{"n": json.RawMessage("1")}}
		m, err := rabbit.New(celery.Message{Request: req, Exchange: "tasks", RoutingKey: "ai.analyze"})
		if err != nil {
			t.Fatal(err)
		}
		m.Queue = "q.ai"
		var exc *celery.Exception
		if i > 0 {
			exc = celery.NewException("RateLimitError", "no room", nil)
		}
		if err := store.Park(t.Context(), m, req, due, exc); err != nil {
			t.Fatal(err)
		}
	}
	want(t, exitOK, []string{"parked", "list"}, "ID DUE STATE WHY TASK", ids[0]+" in 59m waiting eta image.analyze", ids[2]+" in 2h waiting retry 2 image.analyze")
	want(t, exitOK, []string{"parked", "list", "--limit", "2"}, ids[1], "1 more: --page 2")
	want(t, exitOK, []string{"parked", "list", "--limit", "2", "--page", "3"}, "nothing is on page 3")
	out, _, _ := command(t, "parked", "list", "--json", "--limit", "0")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var job map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &job); err != nil || len(lines) != 3 {
		t.Fatalf("got %d lines, %v:\n%s", len(lines), err, out)
	}
	if _, has := job["message"]; has || job["id"] != ids[0] || job["state"] != failed.ParkedWaiting || job["key"] != ids[0]+":0:0:0" {
		t.Errorf("got %s", lines[0])
	}
	if !strings.Contains(lines[2], `"why":"retry 2"`) || !strings.Contains(lines[2], `"RateLimitError"`) || !strings.Contains(lines[2], `"no room"`) {
		t.Errorf("got %s, want what its last attempt failed of", lines[2])
	}
	for _, do := range []string{"run", "discard"} {
		want(t, exitError, []string{"parked", do, "6f1c"}, "beginning of several ids")
		want(t, exitNotFinished, []string{"parked", do, "none"}, "no job none is parked", "see onceover parked list")
	}
	want(t, exitUsage, []string{"parked", "discard", "7a"}, "expected --yes")
	want(t, exitOK, []string{"parked", "discard", "7a", ids[2], "--yes"}, "1 parked job discarded")
	want(t, exitOK, []string{"parked", "run", ids[0], ids[1]}, "2 parked jobs due now")
	want(t, exitOK, []string{"parked", "list"}, ids[0]+" in 59m due eta", ids[1]+" in 1h due retry 1")
}

// TestQueueTable keeps what workers and operators have written to one line.
func TestQueueTable(t *testing.T) {
	var out bytes.Buffer
	err := drawQueues(&out, []queueRow{
		{Queue: strings.Repeat("q", 200), Paused: &control.Pause{By: "me@h", Since: time.Now().Add(-time.Hour), Why: "a\nb\x1b[2J" + strings.Repeat("w", 100)}},
		{Queue: "denied", Fault: "look for queue denied: no permission"},
		{Queue: "old", Paused: &control.Pause{}},
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{"… 0 0 0 1h by me@h: a b [2Jw", "denied ? ? 0 -", "old 0 0 0 by unknown", "1 worker answered", "no permission"} {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%s\nwant %q", out.String(), want)
		}
	}
	if n := strings.Count(out.String(), "\n"); n != 7 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("got %d lines:\n%s", n, out.String())
	}
}
