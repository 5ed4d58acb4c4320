package control

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestWorkersOfOurs asks two of our workers.
func TestWorkersOfOurs(t *testing.T) {
	t.Parallel()
	url := broker(t)
	start(t, url, "b@h", "q.ai")
	start(t, url, "a@h", "q.batch", "q.ai")
	c := client(t, url)
	c.Wait = aWhile
	workers, err := c.Workers(t.Context())
	for i := range workers {
		if workers[i].PID == 0 {
			t.Errorf("worker %s has no PID", workers[i].Node)
		}
		workers[i].PID = 0
	}
	job := Job{ID: "running", Task: "image.analyze", Kwargs: "{'image_url': 'https://h/안녕.jpg'}", Started: time.Unix(1700000000, 5e8).UTC()}
	want := []Worker{
		{Node: "a@h", Software: "onceover", Slots: 4, Active: 1, Accepted: 5, Prefetch: 8, Jobs: []Job{job}, Queues: []string{"q.ai", "q.batch"}},
		{Node: "b@h", Software: "onceover", Slots: 4, Active: 1, Accepted: 5, Prefetch: 8, Jobs: []Job{job}, Queues: []string{"q.ai"}},
	}
	want[0].Jobs[0].Node = "a@h"
	job.Node = "b@h"
	want[1].Jobs = []Job{job}
	if diff := cmp.Diff(want, workers); diff != "" || err != nil {
		t.Errorf("%v, got (+) other workers than (-)\n%s", err, diff)
	}
}

// TestQuestions is what workers are asked: for texts instead of values, which may be long.
func TestQuestions(t *testing.T) {
	t.Parallel()
	url := broker(t)
	p, c := play(t, url), client(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Workers(ctx) // nobody answers
	}()
	got := map[string]map[string]any{}
	for range 3 {
		q := p.next()
		got[q.Method] = q.Arguments
	}
	want := map[string]map[string]any{"stats": {}, "active": {"safe": true}, "active_queues": {}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("got (+) other questions than (-)\n%s", diff)
	}
	cancel()
	wait(t, "end of the questions", done)
}

// pythonStats, pythonActive and pythonQueues are replies of Celery 5.7 with prefork, shortened.
const (
	pythonStats = `{"total": {"sleep": 1, "t": 2}, "pid": 4711, "clock": "12", "uptime": 3, "pool": {"implementation": "celery.concurrency.prefork:TaskPool",
		"max-concurrency": 2, "processes": [4712, 4713], "max-tasks-per-child": "N/A", "put-guarded-by-semaphore": false, "timeouts": [0, 0],
		"writes": {"total": 1, "avg": "1.00", "all": "1", "raw": "1", "strategy": "fair", "inqueues": {"total": 2, "active": 0}}},
		"broker": {"hostname": "127.0.0.1", "heartbeat": 120.0}, "prefetch_count": 8, "rusage": {"utime": 0.3, "maxrss": 1}}`
	pythonActive = `[{"id": "x", "name": "sleep", "args": "(60,)", "kwargs": "{'who': '안녕'}", "type": "sleep", "hostname": "py@h",
		"time_start": 1700000000.5, "acknowledged": true, "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": false},
		"worker_pid": 4712}]`
	pythonQueues = `[{"name": "celery", "exchange": {"name": "celery", "type": "direct", "arguments": null, "durable": true}, "routing_key": "celery",
		"queue_arguments": null, "alias": null, "bindings": [], "no_declare": null}]`
)

// TestReading reads what workers say in other forms: older ones, other pools, and nonsense.
func TestReading(t *testing.T) {
	t.Parallel()
	whole := Worker{
		Node: "n", Software: "celery", PID: 4711, Slots: 2, Active: 1, Accepted: 3, Prefetch: 8, Queues: []string{"celery"},
		Jobs: []Job{{ID: "x", Task: "sleep", Kwargs: "{'who': '안녕'}", Started: time.Unix(1700000000, 5e8).UTC(), Node: "n"}},
	}
	change := func(f func(*Worker)) Worker {
		w := whole
		w.Jobs = slices.Clone(w.Jobs)
		f(&w)
		return w
	}
	long := strings.Repeat("ㄱ", maxText)
	for name, tt := range map[string]struct {
		stats, active, queues string // "" for no answer, "=" for that of Celery 5.7
		want                  Worker
	}{
		"Celery 5.7":             {"=", "=", "=", whole},
		"threads":                {`{"total": {"a": 3}, "pid": 4711, "prefetch_count": 8, "pool": {"implementation": "celery.concurrency.thread:TaskPool", "max-concurrency": 2, "threads": 1}}`, "=", "=", whole},
		"a pool without a bound": {`{"total": {"a": 3}, "pid": 4711, "prefetch_count": 8, "pool": {"implementation": "celery.concurrency.x:P", "max-concurrency": null, "processes": [1, 2]}}`, "=", "=", whole},
		"no pool":                {`{"total": {"a": 3}, "pid": 4711, "prefetch_count": 8, "pool": "N/A"}`, "=", "=", change(func(w *Worker) { w.Software, w.Slots = "", 0 })},
		"stats of other types": {`{"pid": "4711", "prefetch_count": [1], "pool": {"implementation": 3, "max-concurrency": -4, "processes": 9}, "total": {"a": "x", "b": -1, "c": 1e300}}`, "=", "=",
			change(func(w *Worker) { w.Software, w.Slots, w.PID, w.Prefetch, w.Accepted = "", 0, 0, 0, 0 })},
		"problems":                {`{"problems": ["redis refuses commands", "` + long + `"],` + pythonStats[1:], "=", "=", change(func(w *Worker) { w.Problems = []string{"redis refuses commands", long[:maxText/3*3] + "…"} })},
		"problems of other types": {`{"problems": [7, "x"],` + pythonStats[1:], "=", "=", whole},
		"many problems":           {`{"problems": ["x"` + strings.Repeat(`, "x"`, 50) + `],` + pythonStats[1:], "=", "=", change(func(w *Worker) { w.Problems = slices.Repeat([]string{"x"}, maxProblems) })},
		"values instead of texts": {"=", `[{"id": "x", "type": "sleep", "kwargs": {"who": "안녕"}, "time_start": 1700000000.5}]`, "=", whole},
		"no type":                 {"=", `[{"id": "x", "name": "sleep", "kwargs": "{'who': '안녕'}", "time_start": 1700000000.5}]`, "=", whole},
		"not started":             {"=", `[{"id": "x", "type": "sleep", "kwargs": "{'who': '안녕'}", "time_start": null}]`, "=", change(func(w *Worker) { w.Jobs[0].Started = time.Time{} })},
		"a monotonic clock":       {"=", `[{"id": "x", "type": "sleep", "kwargs": "{'who': '안녕'}", "time_start": 86400.5}]`, "=", change(func(w *Worker) { w.Jobs[0].Started = time.Time{} })},
		"a job of other types":    {"=", `[{"id": 1, "type": [], "kwargs": 3, "time_start": "now"}]`, "=", change(func(w *Worker) { w.Jobs[0] = Job{Node: "n"} })},
		"a job that is none":      {"=", `["x"]`, "=", change(func(w *Worker) { w.Jobs = []Job{} })},
		"long arguments":          {"=", `[{"id": "x", "type": "sleep", "kwargs": "` + long + `", "time_start": 1700000000.5}]`, "=", change(func(w *Worker) { w.Jobs[0].Kwargs = long[:maxText/3*3] + "…" })},
		"no queues":               {"=", "=", `[]`, change(func(w *Worker) { w.Queues = []string{} })},
		"odd queues":              {"=", "=", `[{"name": "celery"}, {"name": "celery"}, {"name": 1}, 7, {"name": ""}]`, whole},
		"stats alone": {"=", "", "", change(func(w *Worker) {
			w.Active, w.Jobs, w.Queues, w.Fault = 0, nil, nil, "active: no answer in time; active_queues: no answer in time"
		})},
		"refused":       {"=", `{"error": "KeyError('active')"}`, "=", change(func(w *Worker) { w.Active, w.Jobs, w.Fault = 0, nil, "active: KeyError('active')" })},
		"refused oddly": {"=", `{"error": {"a": 1}}`, "=", change(func(w *Worker) { w.Active, w.Jobs, w.Fault = 0, nil, `active: {"a": 1}` })},
		"no list": {"=", "=", `7`, change(func(w *Worker) {
			w.Queues, w.Fault = nil, "active_queues: expected a list: json: cannot unmarshal number into Go value of type []json.RawMessage"
		})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var answers []map[string]json.RawMessage
			for i, body := range []string{tt.stats, tt.active, tt.queues} {
				if body == "=" {
					body = []string{pythonStats, pythonActive, pythonQueues}[i]
				}
				if body == "" {
					answers = append(answers, nil)
					continue
				}
				replies, err := parseReply("application/json", []byte(`{"n":`+body+`}`))
				if err != nil {
					t.Fatal(err)
				}
				answers = append(answers, replies)
			}
			if diff := cmp.Diff([]Worker{tt.want}, workersOf(questions(), answers)); diff != "" {
				t.Errorf("got (+) another worker than (-)\n%s", diff)
			}
		})
	}
}

// FuzzReply reads any reply as that to each question.
func FuzzReply(f *testing.F) {
	for _, body := range []string{pythonStats, pythonActive, pythonQueues, `{"error":"x"}`, `null`, `[{"time_start":1e999}]`, `{"pool":{"max-concurrency":1e300}}`} {
		f.Add([]byte(`{"n":`+body+`}`), true)
	}
	f.Add([]byte(`{"a":1,"a":2,"":3}`), true)
	f.Add([]byte(`{"n":1}`), false)
	f.Add(append([]byte(`{"n":"`), make([]byte, maxReply)...), true)
	f.Fuzz(func(t *testing.T, body []byte, typed bool) {
		contentType := ""
		if typed {
			contentType = "application/json"
		}
		replies, err := parseReply(contentType, body)
		if (err == nil) != (len(replies) > 0) {
			t.Fatalf("got %d replies and the error %v", len(replies), err)
		}
		all := questions()
		for i := range all {
			answers := make([]map[string]json.RawMessage, len(all))
			answers[i] = replies
			for _, w := range workersOf(all, answers) {
				if replies[w.Node] == nil || w.Node == "" || len(w.Node) > maxName || w.Slots < 0 || w.PID < 0 || w.Prefetch < 0 || w.Accepted < 0 || w.Fault == "" {
					t.Errorf("got the worker %+v", w)
				}
				for _, j := range w.Jobs {
					if len(j.Kwargs) > maxText+len("…") || len(j.ID) > maxText+len("…") {
						t.Errorf("got a job with %d bytes of arguments and %d of id", len(j.Kwargs), len(j.ID))
					}
				}
				if _, err := json.Marshal(w); err != nil {
					t.Errorf("worker %+v: %v", w, err)
				}
			}
		}
	})
}
