package celery_test

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"onceover/celery"
)

// captured is a message as a real Celery producer published it.
type captured struct {
	Properties struct {
		ContentType string `json:"content_type"`
		ReplyTo     string `json:"reply_to"`
	} `json:"properties"`
	Headers map[string]any `json:"headers"`
	Body    string         `json:"body_base64"`
}

func loadCaptured(t testing.TB) map[string]captured {
	t.Helper()
	data, err := os.ReadFile("testdata/producer.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]captured
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func (c captured) decode(t testing.TB) (*celery.Request, error) {
	t.Helper()
	body, err := base64.StdEncoding.DecodeString(c.Body)
	if err != nil {
		t.Fatal(err)
	}
	return celery.Decode(celery.Properties{ContentType: c.Properties.ContentType, ReplyTo: c.Properties.ReplyTo}, c.Headers, body)
}

// TestDecodeCaptured decodes every kind of message that Celery 5.6 publishes. All
// but pickle are understood, in either protocol, with any serialiser and
// compression.
func TestDecodeCaptured(t *testing.T) {
	follows := map[string]string{ // callbacks, errbacks, chain, chord
		"link": "1 0 0 false", "link_two": "2 0 0 false", "link_error": "0 1 0 false",
		"chain": "0 0 2 false", "chord": "0 0 0 true",
	}
	for name, c := range loadCaptured(t) {
		t.Run(name, func(t *testing.T) {
			req, err := c.decode(t)
			if name == "serializer_pickle" {
				var me *celery.MessageError
				if !errors.As(err, &me) || me.Reason != celery.ReasonContentType || !strings.Contains(err.Error(), "pickle") || me.ID == "" {
					t.Errorf("got %v, want pickle refused by name", err)
				}
				return
			}
			if err != nil {
				t.Fatalf("Decode: %v", err)
			}
			if req.ID == "" || req.Task == "" || req.RootID == "" || len(req.Args)+len(req.Kwargs) == 0 {
				t.Errorf("incomplete request: %+v", req)
			}
			want := cmp.Or(follows[name], "0 0 0 false")
			if got := fmt.Sprint(len(req.Callbacks), len(req.Errbacks), len(req.Chain), req.Chord != nil); got != want {
				t.Errorf("got callbacks, errbacks, chain, chord: %s, want %s", got, want)
			}
		})
	}
}

func TestDecodeFields(t *testing.T) {
	all := loadCaptured(t)
	decode := func(name string) *celery.Request {
		t.Helper()
		req, err := all[name].decode(t)
		if err != nil {
			t.Fatalf("decode %s: %v", name, err)
		}
		return req
	}
	if r := decode("timelimits"); r.TimeLimit <= r.SoftTimeLimit || r.SoftTimeLimit <= 0 {
		t.Errorf("got hard %v soft %v, want the hard limit first and longer", r.TimeLimit, r.SoftTimeLimit)
	}
	if r := decode("ignore_result"); !r.IgnoreResult {
		t.Error("got ignore_result false, want true")
	}
	if r := decode("eta_kst"); r.ETA.IsZero() || r.ETA.Location() != time.UTC {
		t.Errorf("got ETA %v, want a time in UTC", r.ETA)
	}
	if r := decode("expires_seconds"); r.Expires.IsZero() {
		t.Error("got no expiry, want one")
	}
	if r := decode("shadow"); r.Name() == r.Task {
		t.Errorf("got name %q, want the shadow name", r.Name())
	}
	if r := decode("group"); r.Group == "" {
		t.Error("got no group id, want one")
	}
	if r := decode("korean"); !gocmp.Equal(celery.ReprArgs(r.Args), all["korean"].Headers["argsrepr"]) {
		t.Errorf("got argsrepr %s, want %v", celery.ReprArgs(r.Args), all["korean"].Headers["argsrepr"])
	}
}

func TestDecodeRefuses(t *testing.T) {
	headers := func(change func(map[string]any)) map[string]any {
		h := map[string]any{"task": "t", "id": "i", "retries": int32(0), "timelimit": []any{nil, nil}}
		change(h)
		return h
	}
	same := func(map[string]any) {}
	tests := []struct {
		name    string
		headers map[string]any
		body    string
		want    celery.Reason
	}{
		{"no headers", nil, `[[],{},{}]`, celery.ReasonNotATask},
		{"id is a number", headers(func(h map[string]any) { h["id"] = int32(7) }), `[[],{},{}]`, celery.ReasonHeader},
		{"id empty", headers(func(h map[string]any) { h["id"] = nil }), `[[],{},{}]`, celery.ReasonHeader},
		{"retries text", headers(func(h map[string]any) { h["retries"] = "many" }), `[[],{},{}]`, celery.ReasonHeader},
		{"eta nonsense", headers(func(h map[string]any) { h["eta"] = "tomorrow" }), `[[],{},{}]`, celery.ReasonHeader},
		{"timelimit short", headers(func(h map[string]any) { h["timelimit"] = []any{nil} }), `[[],{},{}]`, celery.ReasonHeader},
		{"timelimit negative", headers(func(h map[string]any) { h["timelimit"] = []any{-1.0, nil} }), `[[],{},{}]`, celery.ReasonHeader},
		{"not JSON", headers(same), `{"a"`, celery.ReasonBody},
		{"empty", headers(same), ``, celery.ReasonBody},
		{"object", headers(same), `{}`, celery.ReasonBody},
		{"one element", headers(same), `[[]]`, celery.ReasonBody},
		{"args object", headers(same), `[{},{},{}]`, celery.ReasonBody},
		{"kwargs list", headers(same), `[[],[1],{}]`, celery.ReasonBody},
		{"embed list", headers(same), `[[],{},[1]]`, celery.ReasonBody},
		{"chord of nothing", headers(same), `[[],{},{"chord":{"args":[]}}]`, celery.ReasonCanvas},
		{"chain of null", headers(same), `[[],{},{"chain":[null]}]`, celery.ReasonCanvas},
		{"chord without body", headers(same), `[[],{},{"chain":[{"task":"celery.chord","subtask_type":"chord","kwargs":{"header":[]}}]}]`, celery.ReasonCanvas},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := celery.Decode(celery.Properties{ContentType: "application/json"}, tt.headers, []byte(tt.body))
			var me *celery.MessageError
			if !errors.As(err, &me) || me.Reason != tt.want {
				t.Fatalf("got %+v, %v, want reason %q", req, err, tt.want)
			}
		})
	}
}

func TestEncodeDecode(t *testing.T) {
	in := &celery.Request{
		ID: "4e7c", Task: "image.analyze", Origin: "gen1@host", Retries: 2,
		Args:    []json.RawMessage{json.RawMessage(`"사진<1>"`)},
		Kwargs:  map[string]json.RawMessage{"lang": json.RawMessage(`"ko"`)},
		ETA:     time.Date(2030, 1, 2, 3, 4, 5, 600000000, time.UTC),
		Expires: time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC), TimeLimit: 30 * time.Second, IgnoreResult: true,
	}
	p, h, body, err := in.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := celery.Decode(p, h, body)
	if err != nil {
		t.Fatal(err)
	}
	want := *in
	want.RootID, want.ArgsRepr, want.KwargsRepr = in.ID, "('사진<1>',)", "{'lang': 'ko'}"
	want.Properties = out.Properties // Encode's
	if p := out.Properties; p.CorrelationID != in.ID || p.Expiration == "" || p.DeliveryMode != 2 {
		t.Errorf("got properties %+v", p)
	}
	if diff := gocmp.Diff(&want, out); diff != "" {
		t.Errorf("request changed on its way (-want +got):\n%s", diff)
	}
	if got := h["argsrepr"]; got != "('사진<1>',)" {
		t.Errorf("got argsrepr %v", got)
	}
}

func TestParseTime(t *testing.T) {
	tests := map[string]string{
		"2030-01-02T12:04:05+09:00":        "2030-01-02T03:04:05Z",
		"2030-01-02T12:04:05.000123+00:00": "2030-01-02T12:04:05.000123Z",
		"2030-01-02T12:04:05":              "2030-01-02T12:04:05Z",
		"2030-01-02T12:04:05Z":             "2030-01-02T12:04:05Z",
		"2030-01-02 12:04:05.5-03:30":      "2030-01-02T15:34:05.5Z",
	}
	for in, want := range tests {
		got, err := celery.ParseTime(in)
		if err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("ParseTime(%q): got %v, %v, want %s", in, got.Format(time.RFC3339Nano), err, want)
		}
	}
	if _, err := celery.ParseTime("12:00"); err == nil {
		t.Error("ParseTime of a bare clock time: got no error")
	}
}

func TestMeta(t *testing.T) {
	req := &celery.Request{ID: "id-1", Task: "image.analyze", Group: "g", ParentID: "p"}
	now := time.Date(2026, 11, 20, 23, 51, 29, 157447000, time.UTC)
	tests := []struct {
		name   string
		state  celery.State
		result any
		want   string
	}{
		{"success", celery.Success, map[string]string{"feedback": "좋아요 <b>"},
			`{"status":"SUCCESS","result":{"feedback":"좋아요 <b>"},"traceback":null,"children":[],"date_done":"2026-11-20T23:51:29.157447+00:00","group_id":"g","parent_id":"p","task_id":"id-1"}`},
		{"started", celery.Started, map[string]any{"pid": 1},
			`{"status":"STARTED","result":{"pid":1},"traceback":null,"children":[],"date_done":null,"group_id":"g","parent_id":"p","task_id":"id-1"}`},
		{"failure", celery.Failure, celery.NewException("ValueError", "boom", nil),
			`{"status":"FAILURE","result":{"exc_type":"ValueError","exc_message":["boom"],"exc_module":"builtins"},"traceback":"Traceback (most recent call last):\nValueError: boom\n","children":[],"date_done":"2026-11-20T23:51:29.157447+00:00","group_id":"g","parent_id":"p","task_id":"id-1"}`},
		{"revoked", celery.Revoked, celery.TaskRevoked("expired"),
			`{"status":"REVOKED","result":{"exc_type":"TaskRevokedError","exc_message":["expired"],"exc_module":"celery.exceptions"},"traceback":null,"children":[],"date_done":"2026-11-20T23:51:29.157447+00:00","group_id":"g","parent_id":"p","task_id":"id-1"}`},
		{"hard limit", celery.Failure, celery.TimeLimitExceeded(90 * time.Second),
			`{"status":"FAILURE","result":{"exc_type":"TimeLimitExceeded","exc_message":[90],"exc_module":"billiard.exceptions"},"traceback":null,"children":[],"date_done":"2026-11-20T23:51:29.157447+00:00","group_id":"g","parent_id":"p","task_id":"id-1"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := celery.NewMeta(req, tt.state, tt.result, now)
			if err != nil {
				t.Fatal(err)
			}
			got, err := celery.MarshalJSON(m)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("meta (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("extended", func(t *testing.T) {
		m, err := celery.NewMeta(&celery.Request{ID: "i", Task: "t"}, celery.Success, 1, now)
		if err != nil {
			t.Fatal(err)
		}
		m.Extend(&celery.Request{
			Task: "t", Delivery: celery.DeliveryInfo{RoutingKey: "q"},
			StampedHeaders: []string{"who"}, Stamps: map[string]json.RawMessage{"who": json.RawMessage(`["me"]`)},
		}, "celery@h")
		got, _ := celery.MarshalJSON(m)
		want := `{"status":"SUCCESS","result":1,"traceback":null,"children":[],"date_done":"2026-11-20T23:51:29.157447+00:00","retries":0,"name":"t","args":[],"kwargs":{},"worker":"celery@h","queue":"q","stamped_headers":["who"],"task_id":"i","who":["me"]}`
		if string(got) != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("a result that is not JSON is an error", func(t *testing.T) {
		if _, err := celery.NewMeta(req, celery.Success, func() {}, now); err == nil {
			t.Error("got no error")
		}
	})
}

func TestExceptionRoundTrip(t *testing.T) {
	for in, want := range map[string]string{
		`{"exc_type":"ValueError","exc_message":["boom",7],"exc_module":"builtins"}`:               "ValueError: ('boom', 7)",
		`{"exc_type":"ValueError","exc_message":"boom","exc_module":null}`:                         "ValueError: boom",
		`{"exc_type":"SoftTimeLimitExceeded","exc_message":[],"exc_module":"billiard.exceptions"}`: "billiard.exceptions.SoftTimeLimitExceeded",
		`{"exc_type":"KeyError","exc_message":[null],"exc_module":"builtins"}`:                     "KeyError: None",
	} {
		var e celery.Exception
		if err := json.Unmarshal([]byte(in), &e); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if e.Error() != want {
			t.Errorf("got %q, want %q", e.Error(), want)
		}
	}
	var e celery.Exception
	if err := json.Unmarshal([]byte(`{"a":1}`), &e); err == nil {
		t.Error("an object without exc_type: got no error")
	}
}

func TestRepr(t *testing.T) {
	for in, want := range map[string]string{
		`[]`:                           "()",
		`["a"]`:                        "('a',)",
		`["it's", 1.5]`:                `("it's", 1.5)`,
		`["it's \"x\""]`:               `('it\'s "x"',)`,
		`["\n\t\\", true, null]`:       `('\n\t\\', True, None)`,
		`["\u0007\u00ad\ue000"]`:       `('\x07\xad\ue000',)`,
		`[[1, {"b": [], "a": false}]]`: "([1, {'a': False, 'b': []}],)",
		`[12345678901234567890123]`:    "(12345678901234567890123,)",
	} {
		var args []json.RawMessage
		if err := json.Unmarshal([]byte(in), &args); err != nil {
			t.Fatal(err)
		}
		if got := celery.ReprArgs(args); got != want {
			t.Errorf("ReprArgs(%s): got %s, want %s", in, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range loadCaptured(f) {
		body, _ := base64.StdEncoding.DecodeString(c.Body)
		headers, _ := json.Marshal(c.Headers)
		f.Add(c.Properties.ContentType, headers, body)
	}
	f.Add("application/json", []byte(`{"task":"t","id":"i","retries":"0","ignore_result":1,"eta":"20300102t1204z","expires":"2030-W01-3"}`), []byte(`[[NaN,"\u00e9"],{"a\u0062":1,"a":2},{"callbacks":[{"task":"t","options":{"retries":1.0,"ignore_result":0}}]}]`))
	f.Add("application/json", []byte(`{}`), []byte(`{"task":"t","id":"i","args":[1],"eta":{"__type__":"datetime","__value__":"2030-01-02"}}`))
	f.Fuzz(func(t *testing.T, contentType string, headers, body []byte) {
		var h map[string]any
		if json.Unmarshal(headers, &h) != nil {
			return
		}
		req, err := celery.Decode(celery.Properties{ContentType: contentType}, h, body)
		if err != nil {
			var me *celery.MessageError
			if !errors.As(err, &me) || me.Reason == "" {
				t.Fatalf("got %v, want a MessageError with a reason", err)
			}
			return
		}
		p, h2, body2, err := req.Encode()
		if err != nil {
			t.Fatalf("encode what was decoded: %v", err)
		}
		if _, err := celery.Decode(p, h2, body2); err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{
		"2030-01-02T12:04:05.000123+09:00", "2030-01-02", "2030", "2030-01", "20300102t1204z", "2030-W01-3T12", "2030W013", "2030-002", "2030002T24:00", "2030-01-02T120405,5-0330",
		"2030-01-02T12:04:05+09:00:30.5", "9999-12-31T23:59:59.999999-09:00", "0001-01-01T00:00+09:00", "2030-01-02한12",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := celery.ParseTime(s)
		if err != nil {
			return
		}
		if got.Location() != time.UTC || got.Year() < 1 || got.Year() > 9999 || got.Nanosecond()%1000 != 0 {
			t.Errorf("ParseTime(%q) is %v: expected whole microseconds of UTC in the years 1 to 9999", s, got)
		}
		if again, err := celery.ParseTime(celery.ISOTime(got)); err != nil || !again.Equal(got) {
			t.Errorf("ParseTime(%q) is %v, which is written as %s and read as %v, %v", s, got, celery.ISOTime(got), again, err)
		}
	})
}

func TestRecovered(t *testing.T) {
	var exc *celery.Exception
	func() {
		defer func() { exc = celery.Recovered(recover()) }()
		explode()
	}()
	if exc.Error() != "RuntimeError: panic: boom" {
		t.Errorf("got %q", exc.Error())
	}
	last := exc.Frames[len(exc.Frames)-1]
	if !strings.HasSuffix(last.Func, ".explode") {
		t.Errorf("got innermost frame %+v, want the function that panicked", last)
	}
	if !strings.HasPrefix(exc.Traceback(), "Traceback (most recent call last):\n  File ") {
		t.Errorf("got traceback %q", exc.Traceback())
	}
}

//go:noinline
func explode() { panic("boom") }
