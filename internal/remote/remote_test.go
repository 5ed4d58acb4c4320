package remote

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"onceover/celery"
)

// still is a node that holds jobs and does what it is told.
type still struct {
	jobs    Jobs
	said    []string
	autoErr error
}

func (s *still) Jobs() Jobs             { return s.jobs }
func (s *still) Totals() map[string]int { return map[string]int{"t": 3} }
func (s *still) Tasks() []Task {
	return []Task{{Name: "t", Attributes: map[string]any{"rate_limit": "10/m", "max_retries": 3}}, {Name: "celery.map"}}
}
func (s *still) Queues() []Queue {
	return []Queue{{Name: "q", Exchange: "x", ExchangeType: "topic", RoutingKey: "k"}}
}
func (s *still) Pool() Pool {
	return Pool{Size: 2, Prefetch: 8, Autoscaled: s.autoErr != nil, Max: 4, Min: 1}
}
func (s *still) Settings() map[string]any { return map[string]any{"timezone": "UTC"} }
func (s *still) Broker() Broker           { return Broker{Host: "h", Port: 1} }
func (s *still) Resize(n int) error       { s.note("resize", n); return s.autoErr }
func (s *still) Autoscale(most, least int) (int, int, error) {
	s.note("autoscale", most, least)
	return most, least, nil
}
func (s *still) RateLimit(task string, perSecond float64) error {
	s.note("rate", task, perSecond)
	return known(task)
}
func (s *still) TimeLimits(task string, hard, soft time.Duration) error {
	s.note("limits", task, hard, soft)
	return known(task)
}
func (s *still) AddConsumer(q Queue)         { s.note("add", q.Name, q.Exchange, q.RoutingKey) }
func (s *still) CancelConsumer(queue string) { s.note("cancel", queue) }
func (s *still) Shutdown()                   { s.note("shutdown") }
func (s *still) Revoke(match func(*celery.Request) bool, terminate bool, signal int) (ran []string) {
	s.note("revoke", terminate, signal)
	for _, j := range s.jobs.Active {
		if terminate && match(j.Request) {
			ran = append(ran, j.Request.ID)
		}
	}
	return ran
}

func known(task string) error {
	if task != "t" {
		return ErrUnknownTask
	}
	return nil
}

func (s *still) note(v ...any) { s.said = append(s.said, strings.TrimSpace(fmt.Sprintln(v...))) }

func newStill() (*Remote, *still) {
	s := &still{jobs: Jobs{Active: []Job{{
		Request: &celery.Request{
			ID: "running", Task: "t", Args: []json.RawMessage{json.RawMessage(`"안녕"`)},
			StampedHeaders: []string{"who"}, Stamps: map[string]json.RawMessage{"who": json.RawMessage(`["me", 7]`)},
		},
		Started: time.Unix(1700000000, 0), Acknowledged: true,
	}}}}
	return New(Config{NodeName: "n@h"}, s, zap.NewNop()), s
}

// TestCommands checks answers against those that a Python worker gave, or the
// wording of celery/worker/control.py.
func TestCommands(t *testing.T) {
	tests := []struct {
		method, arguments string
		want              string // JSON; "" for no answer
		said              string // last thing the node was told
	}{
		{"ping", `{}`, `{"ok":"pong"}`, ""},
		{"clock", `{}`, `{"clock":0}`, ""},
		{"no such", `{}`, `{"error":"KeyError('no such')"}`, ""},
		{"active", `{"safe":true}`, `[{"acknowledged":true,"args":"('안녕',)","delivery_info":{"exchange":"","priority":null,"redelivered":false,"routing_key":""},"hostname":"n@h","id":"running","kwargs":"{}","name":"t","time_start":1700000000,"type":"t","worker_pid":0}]`, ""},
		{"reserved", `{}`, `[]`, ""},
		{"scheduled", `null`, `[]`, ""},
		{"query_task", `{"ids":"other"}`, `{}`, ""},
		{"registered", `{}`, `["t [rate_limit=10/m]"]`, ""},
		{"dump_tasks", `{"taskinfoitems":["max_retries"],"builtins":true}`, `["celery.map","t [max_retries=3]"]`, ""},
		{"conf", `{}`, `{"timezone":"UTC"}`, ""},
		{"report", `{"x":1}`, `{"error":"TypeError(\"report() got an unexpected keyword argument 'x'\")"}`, ""},
		{"revoke", `{"task_id":"a"}`, `{"ok":"tasks {'a'} flagged as revoked"}`, "revoke false 15"},
		{"revoke", `{"task_id":["running"],"terminate":true,"signal":"KILL"}`, `{"ok":"terminate: running"}`, "revoke true 9"},
		{"revoke", `{"task_id":"a","terminate":true}`, `{"ok":"terminate: tasks unknown"}`, "revoke true 15"},
		{"revoke", `{"task_id":"a","signal":"NOPE"}`, `{"error":"ValueError('unknown signal NOPE')"}`, ""},
		{"revoke", `{}`, `{"error":"TypeError(\"revoke() missing 1 required positional argument: 'task_id'\")"}`, ""},
		{"terminate", `{"task_id":"running","signal":"SIGTERM"}`, `{"ok":"terminate: running"}`, "revoke true 15"},
		{"revoke_by_stamped_headers", `{"headers":{"who":["me"]}}`, `{"ok":"headers {'who': ['me']} flagged as revoked, but not terminated"}`, "revoke false 15"},
		{"revoke_by_stamped_headers", `{"headers":["who=me"],"terminate":true}`, `{"ok":"headers {'who': 'me'} revoked"}`, "revoke true 15"},
		{"revoke_by_stamped_headers", `{"headers":{"who":"7"},"terminate":true}`, `{"ok":"headers {'who': '7'} were not terminated"}`, "revoke true 15"},
		{"rate_limit", `{"task_name":"t","rate_limit":"30/m"}`, `{"ok":"new rate limit set successfully"}`, "rate t 0.5"},
		{"rate_limit", `{"task_name":"t","rate_limit":0}`, `{"ok":"rate limit disabled successfully"}`, "rate t 0"},
		{"rate_limit", `{"task_name":"u","rate_limit":"1/s"}`, `{"error":"unknown task"}`, ""},
		{"time_limit", `{"task_name":"t","hard":2,"soft":1.5}`, `{"ok":"time limits set successfully"}`, "limits t 2s 1.5s"},
		{"time_limit", `{"task_name":"u"}`, `{"error":"unknown task"}`, ""},
		{"pool_grow", `{}`, `{"ok":"pool will grow"}`, "resize 1"},
		{"pool_shrink", `{"n":"3"}`, `{"ok":"pool will shrink"}`, "resize -3"},
		{"pool_restart", `{}`, `{"error":"ValueError('Pool restarts not enabled')"}`, ""},
		{"autoscale", `{"max":4,"min":1}`, `{"ok":"autoscale now max=4 min=1"}`, "autoscale 4 1"},
		{"add_consumer", `{"queue":"q2","exchange":"x","routing_key":"k"}`, `{"ok":"add consumer q2"}`, "add q2 x k"},
		{"cancel_consumer", `{"queue":"q2"}`, `{"ok":"no longer consuming from q2"}`, "cancel q2"},
		{"enable_events", `{}`, `{"ok":"task events enabled"}`, ""},
		{"disable_events", `{}`, `{"ok":"task events already disabled"}`, ""},
		{"heartbeat", `{}`, `null`, ""},
		{"election", `{"id":"1","topic":"t"}`, `null`, ""},
		{"objgraph", `{}`, `{"error":"ImportError('Requires the objgraph library')"}`, ""},
		{"hello", `{"from_node":"n@h"}`, `null`, ""},
		{"hello", `{"from_node":"other@h","revoked":{"x":[1.5,"x"]}}`, "", ""}, // checked in TestHello
		{"shutdown", `{}`, "", "shutdown"},
	}
	for _, tt := range tests {
		r, node := newStill()
		m, err := parseRequest("application/json; charset=utf-8", fmt.Appendf(nil, `{"method":%q,"arguments":%s}`, tt.method, tt.arguments))
		if err != nil {
			t.Fatal(err)
		}
		value, answered := r.run(m)
		if jobs, ok := value.([]any); ok && tt.method == "active" {
			jobs[0].(map[string]any)["worker_pid"] = 0
		}
		got, err := celery.MarshalJSON(value)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case tt.method == "hello" && tt.want == "":
		case tt.want == "" && answered:
			t.Errorf("%s: got the answer %s, want none", tt.method, got)
		case tt.want != "" && string(got) != tt.want:
			t.Errorf("%s(%s):\ngot  %s\nwant %s", tt.method, tt.arguments, got, tt.want)
		}
		if tt.said != "" && (len(node.said) == 0 || node.said[len(node.said)-1] != tt.said) {
			t.Errorf("%s(%s): the node was told %q, want %q", tt.method, tt.arguments, node.said, tt.said)
		}
	}
}

func TestAutoscaledPoolIsNotResized(t *testing.T) {
	r, node := newStill()
	node.autoErr = ErrAutoscaled
	value, _ := r.run(&request{Method: "pool_grow"})
	if got, _ := json.Marshal(value); string(got) != `{"error":"pool_grow is not supported with autoscale. Adjust autoscale range instead."}` {
		t.Errorf("got %s", got)
	}
}

func TestHello(t *testing.T) {
	r, _ := newStill()
	r.Revoked.Add("mine")
	value, _ := r.run(&request{Method: "hello", Arguments: map[string]json.RawMessage{
		"from_node": json.RawMessage(`"other@h"`), "revoked": json.RawMessage(`{"theirs":[1.5,"theirs"]}`),
	}})
	if !r.Revoked.Has("theirs") {
		t.Error("what the other worker revoked is not known")
	}
	doc, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var reply struct {
		Revoked map[string][2]json.RawMessage
		Clock   int64
	}
	if err := json.Unmarshal(doc, &reply); err != nil || reply.Clock != 1 {
		t.Fatalf("got %s, %v", doc, err)
	}
	// Python skips a time that is an int, and complains.
	if at := string(reply.Revoked["mine"][0]); len(at) < 3 || !json.Valid([]byte(at)) || at[len(at)-7] != '.' {
		t.Errorf("got the time %s, want a float with a fraction", at)
	}
}

func TestPanicInACommandIsAnswered(t *testing.T) {
	r, _ := newStill()
	r.node = nil
	value, answered := r.run(&request{Method: "stats"})
	if got, _ := json.Marshal(value); !answered || string(got[:24]) != `{"error":"RuntimeError('` {
		t.Errorf("got %s, want the panic as an error", got)
	}
}

func TestIsFor(t *testing.T) {
	for _, tt := range []struct {
		m    request
		want bool
		bad  bool
	}{
		{request{}, true, false},
		{request{Destination: []string{"a@h", "n@h"}}, true, false},
		{request{Destination: []string{"a@h"}}, false, false},
		{request{Pattern: "n@*", Matcher: "glob"}, true, false},
		{request{Pattern: "[!n]@*"}, false, false},
		{request{Pattern: "n@.+", Matcher: "pcre"}, true, false},
		{request{Pattern: "@h", Matcher: "pcre"}, false, false}, // from the start
		{request{Pattern: "(", Matcher: "pcre"}, false, true},
		{request{Pattern: "n", Matcher: "soundex"}, false, true},
	} {
		got, err := tt.m.isFor("n@h")
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%+v: got %v, %v, want %v", tt.m, got, err, tt.want)
		}
	}
}

func TestRevokedIsBounded(t *testing.T) {
	r := newRevoked()
	now := time.Unix(0, 0)
	r.now = func() time.Time { return now }
	for i := range revokedMax + 10 {
		r.Add(fmt.Sprint(i))
	}
	if n := len(r.IDs()); n != revokedMax || r.Has("9") || !r.Has("10") {
		t.Errorf("got %d ids, want the newest %d", n, revokedMax)
	}
	now = now.Add(revokedTTL + time.Second)
	if r.Has("10") || len(r.IDs()) != 0 {
		t.Error("ids are kept beyond their time")
	}
}

func TestStampsMatchAsInPython(t *testing.T) {
	r := newRevoked()
	r.AddStamps(map[string][]any{"id": {json.Number("4242"), "text", true}})
	for stamp, want := range map[string]bool{
		`4242`: true, `4242.0`: true, `"4242"`: false, `"text"`: true, `["x","text"]`: true, `1`: true, `null`: false, `{`: false, `0`: false,
	} {
		if got := r.Match("some id", []string{"other", "id"}, map[string]json.RawMessage{"id": json.RawMessage(stamp)}); got != want {
			t.Errorf("stamp %s: got %v, want %v", stamp, got, want)
		}
	}
	if r.Match("some id", nil, map[string]json.RawMessage{"id": json.RawMessage(`4242`)}) {
		t.Error("a stamp that is not named counts")
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]float64{"": 0, "0": 0, "10": 10, "10/s": 10, "30/m": 0.5, "3600/h": 1, "0.5/s": 0.5} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"x", "10/d", "-1/s", "NaN", "/s"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestClock(t *testing.T) {
	var c Clock
	c.Forward()
	c.Adjust(10)
	if c.Value() != 11 {
		t.Errorf("got %d after 1 and 10, want 11", c.Value())
	}
	c.Adjust(3)
	if c.Forward() != 13 {
		t.Errorf("got %d, want 13: it never goes back", c.Value())
	}
}

// TestEventsNeverBlock sends more than the buffer holds, with nobody to take it.
func TestEventsNeverBlock(t *testing.T) {
	r, _ := newStill()
	r.events.enable(true)
	for range eventBuffer + 5 {
		r.TaskEvent("task-started", map[string]any{"uuid": "x"})
	}
	if r.Dropped() != 5 || len(r.events.queue) != eventBuffer {
		t.Errorf("got %d dropped and %d kept, want 5 and %d", r.Dropped(), len(r.events.queue), eventBuffer)
	}
	first, second := <-r.events.queue, <-r.events.queue
	if first["clock"].(int64) >= second["clock"].(int64) || first["hostname"] != "n@h" || first["type"] != "task-started" {
		t.Errorf("got %v before %v", first, second)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"method":"revoke","arguments":{"task_id":["a"],"terminate":true},"destination":null,"pattern":null,"matcher":null,"ticket":"t","reply_to":{"exchange":"e","routing_key":"k"}}`))
	f.Add([]byte(`{"method":"rate_limit","arguments":{"task_name":"t","rate_limit":"1/s"},"pattern":"n*","matcher":"glob"}`))
	f.Add([]byte(`{"method":"revoke_by_stamped_headers","arguments":{"headers":{"a":[1]}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parseRequest("application/json", body)
		if err != nil {
			return
		}
		r, _ := newStill()
		if _, err := m.isFor("n@h"); err != nil {
			return
		}
		value, answered := r.run(m)
		if !answered {
			return
		}
		doc, err := celery.MarshalJSON(value)
		if err != nil {
			t.Fatalf("the answer is not JSON: %v", err)
		}
		if json.Valid(doc) && len(doc) > 24 && string(doc[:24]) == `{"error":"RuntimeError('` {
			t.Fatalf("a panic: %s", doc)
		}
	})
}
