package failed

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/rabbit"
)

func TestShorten(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   string
		max  int
		want string
	}{
		{"", 3, ""},
		{"abc", 3, "abc"},
		{"abcd", 3, "abc… (1 bytes more)"},
		{"한글한글", 4, "한… (9 bytes more)"},
		{"한글", 2, "… (6 bytes more)"},
		{strings.Repeat("\x80", 10), 5, "… (10 bytes more)"},
	}
	for _, tt := range tests {
		if got := shorten(tt.in, tt.max); got != tt.want {
			t.Errorf("%q, %d: got %q, want %q", tt.in, tt.max, got, tt.want)
		}
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	r := Record{
		ID: "Id-1", Task: "image.analyze", Error: "ValueError", Queue: "q.ai", Reason: ReasonFailed, Last: at,
		Text: "No such file", Args: "('A.jpg',)", Kwargs: "{'tenant': 7}", Stage: "Upload", User: "user-7",
	}
	tests := []struct {
		f    Filter
		want bool
	}{
		{Filter{}, true},
		{Filter{Task: "image.analyze", Error: "ValueError", Queue: "q.ai", Reason: "failed"}, true},
		{Filter{Task: "image"}, false},
		{Filter{Error: "valueerror"}, false},
		{Filter{Queue: "q.other"}, false},
		{Filter{User: "user-7"}, true},
		{Filter{User: "user-70"}, false},
		{Filter{Reason: "expired"}, false},
		{Filter{Task: "image.analyze", Error: "KeyError"}, false},
		{Filter{Text: "such FILE"}, true},
		{Filter{Text: "id-1"}, true},
		{Filter{Text: "a.JPG"}, true},
		{Filter{Text: "TENANT"}, true},
		{Filter{Text: "upload"}, true},
		{Filter{Text: "value"}, true},
		{Filter{Text: "elsewhere"}, false},
		{Filter{After: at.Add(-time.Second), Before: at.Add(time.Second)}, true},
		{Filter{After: at, Before: at}, true},
		{Filter{After: at.Add(time.Second)}, false},
		{Filter{Before: at.Add(-time.Second)}, false},
		{Filter{Cause: "any"}, true}, // a record does not say it
	}
	for _, tt := range tests {
		if got := tt.f.Match(&r); got != tt.want {
			t.Errorf("%+v: got %v, want %v", tt.f, got, tt.want)
		}
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	m := message(t, request("a"))
	r := Record{ID: "a", Replays: 3, Message: m}
	if r.key() != "a:3" || r.Name() != "a" {
		t.Errorf("got %q, %q", r.key(), r.Name())
	}
	colons := Record{ID: "a:b:1"}
	if colons.key() != "a:b:1:0" || colons.Name() != "a:b:1" {
		t.Errorf("got %q, %q", colons.key(), colons.Name())
	}
	// Without an id it is known by queue, message id and body, and by nothing else.
	var seen []Key
	for _, change := range []func(*rabbit.Message){
		func(*rabbit.Message) {},
		func(m *rabbit.Message) { m.Queue = "q.other" },
		func(m *rabbit.Message) { m.Properties.MessageID = "m" },
		func(m *rabbit.Message) { m.Body = []byte("other") },
		func(m *rabbit.Message) { m.Body = nil },
	} {
		m := m.Clone()
		change(&m)
		r := Record{Message: m}
		key := r.key()
		if !strings.HasPrefix(string(key), "message-") || !strings.HasSuffix(string(key), ":0") || string(key) != r.Name()+":0" {
			t.Errorf("got %q", key)
		}
		if slices.Contains(seen, key) {
			t.Errorf("got key %s twice", key)
		}
		seen = append(seen, key)
		m.Headers["x-death"] = []any{}
		m.RoutingKey = "other"
		if same := (&Record{Message: m}).key(); same != key {
			t.Errorf("got %s and %s for one message", key, same)
		}
	}
}

// TestUser is a table of whose job a failed job is said to be.
func TestUser(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`"user-7"`: "user-7", `"안녕"`: "안녕", `7`: "7", `12345678901234567890123`: "12345678901234567890123", `""`: "", `null`: "", `true`: "", `{"id": 7}`: "", `[7]`: "",
		`"` + strings.Repeat("u", 300) + `"`: shorten(strings.Repeat("u", 300), 200),
	} {
		req := request("a")
		req.Kwargs = map[string]json.RawMessage{"user_id": json.RawMessage(raw)}
		if got := Failure(message(t, req), req, boom, ReasonFailed).User; got != want {
			t.Errorf("%.40s: got %q, want %q", raw, got, want)
		}
	}
	req := request("a")
	if got := Failure(message(t, req), req, boom, ReasonFailed).User; got != "" {
		t.Errorf("got %q without the argument", got)
	}
}

// TestFailure looks at what is noted of a failed job, which many people see.
func TestFailure(t *testing.T) {
	t.Parallel()
	req := request("a")
	req.Retries = 2
	req.Args = []json.RawMessage{json.RawMessage(`"https://s.example/a?secret"`)}
	req.Kwargs = map[string]json.RawMessage{"u": json.RawMessage(`"https://u:secret@s.example/"`)}
	m := message(t, req)
	m.Own.First, m.Own.Replays = time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC), 2
	exc := celery.NewException("ValueError", "get https://s.example/a?secret: "+strings.Repeat("x", 10_000), nil)
	r := Failure(m, req, exc, ReasonFailed)
	if r.Attempts != 3 || r.Replays != 2 || !r.First.Equal(time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)) || time.Since(r.Last) > time.Minute {
		t.Errorf("got %+v", r)
	}
	if len(r.Text) > 5000 {
		t.Errorf("got a text of %d bytes", len(r.Text))
	}
	doc, err := json.Marshal(Record{ID: r.ID, Text: r.Text, Traceback: r.Traceback, Args: r.Args, Kwargs: r.Kwargs})
	if err != nil || strings.Contains(string(doc), "secret") {
		t.Errorf("got %s, %v, want no secret", doc, err)
	}
	message, err := json.Marshal(r.Message)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(job{Record: r, Message: message}) // of a parked job
	if err != nil || strings.Contains(string(payload), "secret") {
		t.Errorf("got payload %s, %v, want no secret in plain text", payload, err)
	}

	unreadable := Failure(m, nil, nil, celery.ReasonBody)
	if unreadable.ID != "" || unreadable.Attempts != 1 || unreadable.Error != "" {
		t.Errorf("got %+v", unreadable)
	}
	m.Own.First = time.Time{}
	if r := Failure(m, req, exc, ReasonFailed); !r.First.Equal(r.Last) {
		t.Errorf("got first %v, want that of this failure", r.First)
	}
}

// TestAgain looks at the message with which a job is run once more.
func TestAgain(t *testing.T) {
	t.Parallel()
	req := request("a")
	req.Retries, req.ETA, req.Expires = 3, time.Now().Add(time.Hour), time.Now().Add(time.Minute)
	req.Headers = map[string]any{"tenant": int64(1) << 40}
	m := message(t, req)
	m.Properties.Expiration = "60000"
	h := m.Headers
	for name, v := range map[string]any{
		"x-death": []any{amqp.Table{"count": int64(1)}}, "x-first-death-queue": "q", "x-first-death-reason": "rejected", "x-last-death-queue": "q",
		"x-delivery-count": int64(3), "x-acquired-count": int64(3),
	} {
		h[name] = v
	}
	m.Own.Parks, m.Own.Revoked = 2, true
	before := len(h)
	first := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	r := Record{ID: "a", Replays: 4, First: first, Message: m}
	got, gotReq, err := again(&r, time.Now())
	if err != nil || gotReq == nil || gotReq.ID != "a" {
		t.Fatalf("got %v, %v", gotReq, err)
	}
	want := map[string]any{
		"retries": int32(0), "eta": nil, "expires": nil, "tenant": int64(1) << 40, "task": "t", "id": "a",
		"x-onceover-replays": int32(5), "x-onceover-first": "2026-01-02T03:04:05.006Z", "x-onceover-again": true,
		"x-onceover-exchange": "tasks", "x-onceover-routing-key": "ai.test",
	}
	sent := got.Publishing().Headers
	for name, v := range want {
		if value, ok := sent[name]; !ok || value != v {
			t.Errorf("header %s: got %#v, %v, want %#v", name, value, ok, v)
		}
	}
	if at := got.Own.Replayed; time.Since(at) > time.Minute {
		t.Errorf("got replayed at %v, want now", at)
	}
	want["x-onceover-replayed"], want["x-onceover-previous"] = true, true // when, and the error before
	for name := range sent {
		if strings.HasPrefix(name, "x-") && want[name] == nil {
			t.Errorf("got header %s, want it taken out", name)
		}
	}
	if got.Properties.Expiration != "" || got.Queue != "q.ai" || string(got.Body) != string(m.Body) {
		t.Errorf("got %+v", got)
	}
	if len(h) != before || h["retries"] != int32(3) {
		t.Error("the record's own headers changed")
	}
	next := failedAgain(t, got)
	if next.key() != "a:5" || !next.First.Equal(first) || next.Attempts != 1 {
		t.Errorf("failed again it is %+v", next)
	}
}

// TestAgainInBody runs jobs whose message has its ETA and expiry in the body: of
// protocol 1, and such as others send with headers and the body of protocol 1.
func TestAgainInBody(t *testing.T) {
	t.Parallel()
	past := "2020-01-01T00:00:00+00:00"
	body := fmt.Sprintf(`{"id": "a", "task": "t", "args": [1, "b"], "kwargs": {"k": [1.5, null]}, "retries": 2, "eta": "%s", "expires": "%s",
		"utc": true, "callbacks": null, "errbacks": null, "timelimit": [null, 7], "taskset": null, "chord": null}`, past, past)
	for name, headers := range map[string]amqp.Table{
		"protocol 1":                   {},
		"protocol 1 with headers":      {"tenant": int32(7), "big": int64(1) << 60},
		"headers and a dict":           {"task": "t", "id": "a"},
		"headers with ETA, and a dict": {"task": "t", "id": "a", "eta": past, "expires": past, "retries": int32(1)},
	} {
		m := rabbit.Of(amqp.Delivery{
			Exchange: "tasks", RoutingKey: "k",
			Headers: headers, ContentType: "application/json", ContentEncoding: "utf-8", CorrelationId: "a", ReplyTo: "r", Priority: 5, Body: []byte(body),
		}, "q.ai").Message
		r := Record{ID: "a", Message: m, First: time.Now()}
		got, _, err := again(&r, time.Now())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		req, err := got.Request()
		if err != nil {
			t.Errorf("%s: the message is not read: %v", name, err)
			continue
		}
		if req.ID != "a" || req.Task != "t" || req.Retries != 0 || !req.ETA.IsZero() || !req.Expires.IsZero() {
			t.Errorf("%s: got retries %d, ETA %v, expiry %v; want none", name, req.Retries, req.ETA, req.Expires)
		}
		if len(req.Args) != 2 || string(req.Args[1]) != `"b"` || string(req.Kwargs["k"]) != "[1.5, null]" && string(req.Kwargs["k"]) != "[1.5,null]" ||
			req.SoftTimeLimit != 7*time.Second || *got.Properties.Priority != 5 || got.Properties.ReplyTo != "r" {
			t.Errorf("%s: got %+v", name, req)
		}
		for header, v := range headers {
			if header == "tenant" || header == "big" {
				if got.Headers[header] != v {
					t.Errorf("%s: header %s is %#v, want %#v", name, header, got.Headers[header], v)
				}
			}
		}
		if got.Own.Replays != 1 {
			t.Errorf("%s: got %d replays, want 1", name, got.Own.Replays)
		}
	}
}

// TestAgainUnreadable publishes what cannot be read as it is.
func TestAgainUnreadable(t *testing.T) {
	t.Parallel()
	m := rabbit.Of(amqp.Delivery{Headers: amqp.Table{"x": int32(1)}, ContentType: "text/plain", Body: []byte("\xff")}, "q.ai").Message
	got, req, err := again(&Record{Message: m}, time.Now())
	if err != nil || req != nil || string(got.Body) != "\xff" || got.Headers["x"] != int32(1) || got.Own.Replays != 1 {
		t.Errorf("got %+v, %v, %v", got, req, err)
	}
}

func TestSetArgument(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, value string
		parameters  []string
		args        string
		kwargs      map[string]string
		err         string
	}{
		{"k", `"new"`, nil, `["a",2]`, map[string]string{"k": `"new"`}, ""},
		{"other", `{"n": 1}`, []string{"url", "n", "k", "other"}, `["a",2]`, map[string]string{"k": "1", "other": `{"n":1}`}, ""},
		{"othre", `1`, []string{"url", "n", "k", "other"}, "", nil, "takes no argument"},
		{"other", `1`, nil, "", nil, "takes no argument"},
		{"1", `12345678901234567890`, nil, `["a",12345678901234567890]`, map[string]string{"k": "1"}, ""},
		{"url", `"https://s.example/?secret"`, []string{"url", "n", "k"}, `["https://s.example/?secret",2]`, map[string]string{"k": "1"}, ""},
		{"n", `null`, []string{"url", "n", "k"}, `["a",null]`, map[string]string{"k": "1"}, ""},
		{"k", `5`, []string{"url", "n", "k"}, `["a",2]`, map[string]string{"k": "5"}, ""},
		{"2", `1`, nil, "", nil, "positional"},
		{"-1", `1`, nil, "", nil, "positional"},
		{"k", `nonsense`, nil, "", nil, "not JSON"},
	}
	for _, tt := range tests {
		req := request("a")
		req.Args = append(req.Args, json.RawMessage("2"))
		req.Kwargs = map[string]json.RawMessage{"k": json.RawMessage("1")}
		req.Headers = map[string]any{"tenant": int64(7), "deep": map[string]any{"x": int16(1)}}
		r := Failure(message(t, req), req, boom, ReasonFailed)
		r.Message.Own.Replays = 2
		before := roundTrip(t, r.Message)
		err := r.SetArgument(tt.name, []byte(tt.value), tt.parameters)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || !cmp.Equal(before, roundTrip(t, r.Message)) {
				t.Errorf("%s: got %v, want %q and no change", tt.name, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got, err := r.Request()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		args, err := json.Marshal(got.Args)
		if err != nil || string(args) != tt.args {
			t.Errorf("%s: got arguments %s, %v, want %s", tt.name, args, err, tt.args)
		}
		kwargs := map[string]string{}
		for k, v := range got.Kwargs {
			kwargs[k] = string(v)
		}
		if diff := cmp.Diff(tt.kwargs, kwargs); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", tt.name, diff)
		}
		if strings.Contains(r.Args+r.Kwargs, "secret") {
			t.Errorf("%s: got %s %s, want no secret", tt.name, r.Args, r.Kwargs)
		}
		h := r.Message.Headers
		if h["tenant"] != int64(7) || h["id"] != "a" || r.Message.Own.Replays != 2 || *r.Message.Properties.Priority != 3 || !cmp.Equal(h["deep"], amqp.Table{"x": int16(1)}) {
			t.Errorf("%s: got headers %#v", tt.name, h)
		}
		if before.Headers["argsrepr"] == h["argsrepr"] && before.Headers["kwargsrepr"] == h["kwargsrepr"] {
			t.Errorf("%s: the message still shows the old arguments, %v %v", tt.name, h["argsrepr"], h["kwargsrepr"])
		}
	}
	unreadable := Record{ID: "a", Message: rabbit.Of(amqp.Delivery{ContentType: "text/plain", Body: []byte("x")}, "").Message}
	if err := unreadable.SetArgument("k", []byte("1"), nil); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("got %v of a message that cannot be read", err)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := failure(t, "a")
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Record){
		"message.queue":       func(r *Record) { r.Message.Queue = "" },
		"message.body":        func(r *Record) { r.ID, r.Message.Body = "", nil },
		"replays or attempts": func(r *Record) { r.Replays = -1 },
		"last: expected":      func(r *Record) { r.Last = time.Time{} },
		"or attempts":         func(r *Record) { r.Attempts = 1 << 40 },
		"in RFC 3339":         func(r *Record) { r.Last = time.Now().Add(48 * time.Hour) },
		"state is":            func(r *Record) { r.State = celery.Success },
		"reason is":           func(r *Record) { r.Reason = "bogus" },
		"expected the same":   func(r *Record) { r.ID = "another" },
	} {
		r := good
		change(&r)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func roundTrip(t *testing.T, m rabbit.Message) rabbit.Message {
	t.Helper()
	doc, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var out rabbit.Message
	if err := json.Unmarshal(doc, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// FuzzRecord reads any payload of a task.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"id": "a", "first": "2026-11-21T00:00:00Z", "message": "e30="}`))
	f.Add([]byte(`{"id": "a", "message": {"queue": "q"}, "replays": -1}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		j, err := decodeJob(payload)
		if err != nil {
			return
		}
		_ = j.key()
		_ = j.Name()
		_ = causeOf(&j.Record)
		_ = Filter{Text: "x"}.Match(&j.Record)
		if json.Unmarshal(j.Message, &j.Record.Message) != nil {
			return
		}
		// A message that cannot be read is published again as it is.
		if _, _, err := again(&j.Record, time.Now()); err != nil {
			t.Logf("%q: %v", payload, err)
		}
	})
}
