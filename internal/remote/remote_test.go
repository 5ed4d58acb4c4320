package remote

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
)

// TestCommands checks answers against those that a Python worker gave, or the
// wording of celery/worker/control.py.
func TestCommands(t *testing.T) {
	tests := []struct {
		method, arguments string
		want              string // JSON; "" for no answer
		said              string // what the node was told; "" for nothing, or for what does not matter
	}{
		{"ping", `{}`, `{"ok":"pong"}`, ""},
		{"clock", `{}`, `{"clock":0}`, ""},
		{"no such", `{}`, `{"error":"KeyError('no such')"}`, ""},
		{"active", `{"safe":true}`, `[{"acknowledged":true,"args":"('안녕',)","delivery_info":{"exchange":"","priority":0,"redelivered":false,"routing_key":"celery"},"hostname":"n@h","id":"running","kwargs":"{'who': 'me'}","name":"t","time_start":1700000000.5,"type":"t","worker_pid":0}]`, ""},
		{"query_task", `{"ids":"other"}`, `{}`, ""},
		{"registered", `{}`, `["t [rate_limit=10/m]"]`, ""},
		{"dump_tasks", `{"taskinfoitems":["max_retries"],"builtins":true}`, `["celery.map","t [max_retries=3]"]`, ""},
		{"conf", `{}`, `{"timezone":"UTC"}`, ""},
		{"report", `{"x":1}`, `{"error":"TypeError(\"report() got an unexpected keyword argument 'x'\")"}`, ""},
		{"revoke", `{"task_id":"a"}`, `{"ok":"tasks {'a'} flagged as revoked"}`, "revoke false 15; revoke-parked [a]"},
		{"revoke", `{"task_id":["running"],"terminate":true,"signal":"KILL"}`, `{"ok":"terminate: running"}`, "revoke true 9; revoke-parked [running]"},
		{"revoke", `{"task_id":"a","terminate":true}`, `{"ok":"terminate: tasks unknown"}`, "revoke true 15; revoke-parked [a]"},
		{"revoke", `{"task_id":"a","signal":"NOPE"}`, `{"ok":"tasks {'a'} flagged as revoked"}`, "revoke false 15; revoke-parked [a]"},
		{"revoke", `{"task_id":"a","terminate":true,"signal":"NOPE"}`, `{"error":"AttributeError(\"module 'signal' has no attribute 'SIGNOPE'\")"}`, ""},
		{"revoke", `{}`, `{"error":"TypeError(\"revoke() missing 1 required positional argument: 'task_id'\")"}`, ""},
		{"terminate", `{"task_id":"running","signal":"SIGTERM"}`, `{"ok":"terminate: running"}`, "revoke true 15; revoke-parked [running]"},
		{"revoke_by_stamped_headers", `{"headers":{"who":["me"]}}`, `{"ok":"headers {'who': ['me']} flagged as revoked, but not terminated"}`, "revoke false 15"},
		{"revoke_by_stamped_headers", `{"headers":["who=me"],"terminate":true}`, `{"ok":"headers defaultdict(<class 'set'>, {'who': {'me'}}) revoked"}`, "revoke true 15"},
		{"revoke_by_stamped_headers", `{"headers":{"who":"7"},"terminate":true}`, `{"ok":"headers {'who': '7'} were not terminated"}`, "revoke true 15"},
		{"rate_limit", `{"task_name":"t","rate_limit":"30/m"}`, `{"ok":"new rate limit set successfully"}`, "rate t 0.5"},
		{"rate_limit", `{"task_name":"t","rate_limit":0}`, `{"ok":"rate limit disabled successfully"}`, "rate t 0"},
		{"rate_limit", `{"task_name":"u","rate_limit":"1/s"}`, `{"error":"unknown task"}`, ""},
		{"time_limit", `{"task_name":"t","hard":2,"soft":1.5}`, `{"ok":"time limits set successfully"}`, "limits t 2s 1.5s"},
		{"time_limit", `{"task_name":"u"}`, `{"error":"unknown task"}`, ""},
		{"pool_grow", `{}`, `{"ok":"pool will grow"}`, "resize 1"},
		{"pool_shrink", `{"n":"3"}`, `{"ok":"pool will shrink"}`, "resize -3"},
		{"pool_restart", `{}`, `{"error":"ValueError('Pool restarts not enabled')"}`, ""},
		{"autoscale", `{"max":4,"min":1}`, `{"error":"ValueError('Autoscale not enabled')"}`, "autoscale 4 1"},
		{"add_consumer", `{"queue":"q2","exchange":"x","routing_key":"k"}`, `{"ok":"add consumer q2"}`, "add q2 x k"},
		{"add_consumer", `{"queue":"q2","exchange":"amq.topic","exchange_type":"x-delayed-message"}`, `{"ok":"add consumer q2"}`, "add q2 amq.topic"},
		{"add_consumer", `{"queue":"amq.x"}`, `{"error":"ValueError(\"queue amq.x: names that begin with amq. are the broker's own, choose another\")"}`, ""},
		{"add_consumer", `{"queue":"q","exchange_type":"bogus"}`, `{"error":"ValueError(\"exchange type 'bogus': expected direct, topic, fanout, headers, or one of a plugin, which begins with x-\")"}`, ""},
		{"add_consumer", `{"queue":""}`, `{"error":"ValueError('the name of the queue is empty: expected 1 to 255 bytes')"}`, ""},
		{"add_consumer", `{"queue":"` + strings.Repeat("큐", 86) + `"}`, `{"error":"ValueError('the name of the queue has 258 bytes: expected 255 at most')"}`, ""},
		{"add_consumer", `{"queue":"q","exchange":"` + strings.Repeat("x", 256) + `"}`, `{"error":"ValueError('the name of the exchange has 256 bytes: expected 255 at most')"}`, ""},
		{"add_consumer", `{"queue":"q","exchange_type":"x-` + strings.Repeat("x", 254) + `"}`, `{"error":"ValueError('the name of the exchange type has 256 bytes: expected 255 at most')"}`, ""},
		{"add_consumer", `{"queue":"q","routing_key":"` + strings.Repeat("x", 256) + `"}`, `{"error":"ValueError('the name of the routing key has 256 bytes: expected 255 at most')"}`, ""},
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
		value, answered := answerTo(r, m)
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
		said := strings.Join(node.said, "; ")
		if said != tt.said && (tt.said != "" || tt.method == "add_consumer") {
			t.Errorf("%s(%s): the node was told %q, want %q", tt.method, tt.arguments, said, tt.said)
		}
	}
}

func TestAutoscaledPool(t *testing.T) {
	r, node := newStill()
	node.autoErr = ErrAutoscaled
	for method, want := range map[string]string{
		"pool_grow": `{"error":"pool_grow is not supported with autoscale. Adjust autoscale range instead."}`,
		"autoscale": `{"ok":"autoscale now max=0 min=0"}`,
	} {
		value, _ := answerTo(r, &request{Method: method})
		if got, _ := json.Marshal(value); string(got) != want {
			t.Errorf("%s: got %s, want %s", method, got, want)
		}
	}
	value, _ := answerTo(r, &request{Method: "stats"})
	if got, _ := json.Marshal(value.(map[string]any)["autoscaler"]); string(got) != `{"current":1,"max":4,"min":1,"qty":1}` {
		t.Errorf("stats: got autoscaler %s", got)
	}
}

// TestHello reads what each Celery says: newer ones lists, older ones dicts.
func TestHello(t *testing.T) {
	for _, theirs := range []string{`["theirs"]`, `{"theirs":[1.5,"theirs"]}`} {
		r, _ := newStill()
		r.Revoked.Add("mine")
		value, _ := answerTo(r, &request{Method: "hello", Arguments: map[string]json.RawMessage{
			"from_node": json.RawMessage(`"other@h"`), "revoked": json.RawMessage(theirs),
		}})
		if got, _ := json.Marshal(value); string(got) != `{"clock":1,"revoked":["mine","theirs"]}` {
			t.Errorf("%s: got %s", theirs, got)
		}
	}
	r, _ := newStill()
	for _, reply := range []string{`{"a@h":null,"b@h":{"revoked":{"x":[2.0,"x"]},"clock":7}}`, `{"c@h":{"revoked":["y"],"clock":3}}`, `{`, `{"n@h":{"revoked":["z"]}}`} {
		r.greeted([]byte(reply))
	}
	if got := r.Revoked.IDs(); !slices.Equal(got, []string{"x", "y"}) || r.Clock.Value() != 9 {
		t.Errorf("got %v revoked and clock %d, want x and y, and 9", got, r.Clock.Value())
	}
}

func TestPanicInACommandIsAnswered(t *testing.T) {
	r, _ := newStill()
	r.node = nil
	value, answered := answerTo(r, &request{Method: "stats"})
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
		{request{Pattern: "m@*", Matcher: "glob"}, false, false},
		{request{Pattern: "m@*"}, true, false}, // nothing without a matcher
		{request{Destination: []string{"a@h"}, Pattern: "n@*", Matcher: "glob"}, false, false},
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

// TestGlob has what Python 3.11's fnmatch says.
func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		glob, text string
		want       bool
	}{
		{"*", "", true}, {"w*@h", "w1@h", true}, {"w*@h", "w1@host", false}, {"w?@h", "w@h", false}, {"a*", "a/b\n", true},
		{"[ab]@h", "b@h", true}, {"[!ab]@h", "c@h", true}, {"[!ab]@h", "a@h", false}, {"[a-c]", "b", true}, {"[c-a]", "b", false}, {"[!c-a]", "b", true},
		{"[]]", "]", true}, {"[!]]", "]", false}, {"[!]]", "a", true}, {"[a-]", "-", true}, {"[^a]", "^", true}, {"[^a]", "b", false},
		{"[ab", "[ab", true}, {"[!]", "[!]", true}, {"a\\b", `a\b`, true}, {"a.b", "axb", false}, {"안*", "안녕", true}, {"[가-힣]", "녕", true}, {"(", "(", true},
	} {
		m := request{Pattern: tt.glob, Matcher: "glob"}
		if got, err := m.isFor(tt.text); err != nil || got != tt.want {
			t.Errorf("%q of %q: got %v, %v, want %v", tt.glob, tt.text, got, err, tt.want)
		}
	}
}

func TestScheduledTimesAsPythonWritesThem(t *testing.T) {
	for _, tt := range []struct {
		nanos int64
		want  string
	}{{500_000_000, "1970-01-01T00:00:00.500000+00:00"}, {0, "1970-01-01T00:00:00+00:00"}, {900, "1970-01-01T00:00:00+00:00"}, {123_456_789, "1970-01-01T00:00:00.123456+00:00"}} {
		if got := celery.ISOTime(time.Unix(0, tt.nanos).UTC()); got != tt.want {
			t.Errorf("%d ns: got %s, want %s", tt.nanos, got, tt.want)
		}
	}
}

func TestHoursWest(t *testing.T) {
	for hours, want := range map[float64]int{9: -9, 0: 0, 5.5: -6, -3.5: 3, -8: 8} {
		if got := hoursWest(time.Unix(0, 0).In(time.FixedZone("", int(hours*3600)))); got != want {
			t.Errorf("%v h east: got %d, want %d", hours, got, want)
		}
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[float64]string{12: "12B", 2048: "2KB", 50876907: "48.52MB", 3 << 30: "3GB"} {
		if got := humanBytes(n); got != want {
			t.Errorf("%v: got %s, want %s", n, got, want)
		}
	}
}

// TestUnwritableArguments are shown all the same: Python's JSON knows NaN.
func TestUnwritableArguments(t *testing.T) {
	r, node := newStill()
	node.jobs.Active[0].Request.Args = []json.RawMessage{json.RawMessage(`NaN`)}
	var got *reply
	d := amqp.Delivery{ContentType: "application/json", Body: []byte(`{"method":"active","reply_to":{}}`)}
	r.handle(d, func(r *reply) { got = r })
	if got == nil || !strings.Contains(string(got.body), `"args":["NaN"]`) {
		t.Errorf("got %+v, want args NaN", got)
	}
}

func TestRevokedIsBounded(t *testing.T) {
	r := newRevoked()
	now := time.Unix(0, 0)
	r.now = func() time.Time { return now }
	for i := range revokedMax + 10 {
		r.Add(fmt.Sprint(i))
	}
	if ids := r.IDs(); len(ids) != revokedMax || ids[0] != "10" {
		t.Errorf("got %d ids, the oldest %s, want the newest %d", len(ids), ids[0], revokedMax)
	}
	now = now.Add(revokedTTL + time.Second)
	if _, known := r.Since("10"); known || len(r.IDs()) != 0 {
		t.Error("ids are kept beyond their time")
	}
}

func TestRevokedElsewhereIsNotKeptForEver(t *testing.T) {
	r := newRevoked()
	now := time.Unix(0, 0)
	r.now = func() time.Time { return now }
	r.Add("a")
	for range 4 { // workers that start and say what they know
		now = now.Add(revokedTTL / 3)
		r.merge([]string{"a"})
	}
	now = now.Add(time.Second)
	now = now.Add(-revokedTTL / 3)
	if _, known := r.Since("a"); !known {
		t.Error("the id is forgotten although it came again after its time")
	}
}

// TestStampsMatchAsInPython compares by ==.
func TestStampsMatchAsInPython(t *testing.T) {
	r := newRevoked()
	r.AddStamps(map[string][]any{"id": {json.Number("4242"), "text", true, json.Number("0.5"), json.Number("9007199254740993"), nil, []any{json.Number("2")}}})
	for stamp, want := range map[string]bool{
		`4242`: true, `4242.0`: true, `4.242e3`: true, `"4242"`: false, `"text"`: true, `["x","text"]`: true, `1`: true, `1.0`: true, `true`: true,
		`0.5`: true, `5e-1`: true, `0.50001`: false, `9007199254740993`: true, `9007199254740992`: false, `9007199254740992.0`: false,
		`null`: true, `{`: false, `0`: false, `false`: false, `-1`: false, `1e999`: false, `[[2.0]]`: true, `[[3]]`: false, `{"a":1}`: false,
	} {
		if got := r.Match("some id", []string{"other", "id"}, map[string]json.RawMessage{"id": json.RawMessage(stamp)}); got != want {
			t.Errorf("stamp %s: got %v, want %v", stamp, got, want)
		}
	}
	if r.Match("some id", nil, map[string]json.RawMessage{"id": json.RawMessage(`4242`)}) {
		t.Error("a stamp that is not named counts")
	}
	r.Add("revoked")
	if !r.Match("revoked", nil, nil) {
		t.Error("a revoked id does not match")
	}
}

func TestStampsAreBounded(t *testing.T) {
	r := newRevoked()
	for i := range revokedMax + 10 {
		r.AddStamps(map[string][]any{"n": {i}})
	}
	match := func(stamp string) bool {
		return r.Match("", []string{"n"}, map[string]json.RawMessage{"n": json.RawMessage(stamp)})
	}
	if match("9") || !match("10") {
		t.Error("got other stamps than the newest")
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

// TestEventsNeverBlock sends more than the buffer holds, with nobody to take it.
func TestEventsNeverBlock(t *testing.T) {
	r, _ := newStill()
	r.events.enable(true)
	for range eventBuffer + 5 {
		r.TaskEvent("task-started", map[string]any{"uuid": "x"})
	}
	r.events.add("worker-elect-ack", nil) // has a place of its own
	if r.Dropped() != 5 || len(r.events.queue) != eventBuffer || len(r.events.others) != 1 {
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
	f.Add([]byte(`{"method":"add_consumer","arguments":{"queue":"q","exchange":"e","exchange_type":"x-t","routing_key":"k"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parseRequest("application/json", body)
		if err != nil {
			return
		}
		r, _ := newStill()
		if _, err := m.isFor("n@h"); err != nil {
			return
		}
		value, answered := answerTo(r, m)
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
