package rabbit

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
)

// headerValues has a value of each type that amqp091-go reads from a field table,
// and of those that it writes besides.
var headerValues = []struct {
	name string
	v    any
	want any // nil: v
}{
	{"nil", nil, nil},
	{"true", true, nil},
	{"false", false, nil},
	{"byte", byte(255), nil},
	{"int8", int8(-128), nil},
	{"int16", int16(-32768), nil},
	{"int32", int32(math.MinInt32), nil},
	{"int64", int64(math.MaxInt64), nil},
	{"int64 beyond float64", int64(1)<<53 + 1, nil},
	{"uint16", uint16(65535), nil},
	{"uint32", uint32(math.MaxUint32), nil},
	{"int", 3, int64(3)},
	{"float32", float32(0.1), nil},
	{"float32 that is whole", float32(2), nil},
	{"float64", 0.1, nil},
	{"float64 that is whole", 2.0, nil},
	{"float64, the smallest", math.SmallestNonzeroFloat64, nil},
	{"float64, the largest", math.MaxFloat64, nil},
	{"negative zero", math.Copysign(0, -1), nil},
	{"NaN", math.NaN(), nil},
	{"NaN32", float32(math.NaN()), nil},
	{"Inf", math.Inf(1), nil},
	{"-Inf", math.Inf(-1), nil},
	{"-Inf32", float32(math.Inf(-1)), nil},
	{"decimal", amqp.Decimal{Scale: 2, Value: 12345}, nil},
	{"negative decimal", amqp.Decimal{Scale: 255, Value: math.MinInt32}, nil},
	{"string", "안녕 \"<&>\u2028\x00", nil},
	{"empty string", "", nil},
	{"string in Latin-1", "caf\xe9\xff", nil},
	{"half a rune", "\xec\x95", nil},
	{"bytes", []byte{0, 255, 'a'}, nil},
	{"no bytes", []byte{}, nil},
	{"time", time.Unix(1_700_000_000, 0), nil},
	{"time before 1970", time.Unix(-1, 0), nil},
	{"time that Python sends for max", time.Unix(math.MaxInt32*100, 0), nil},
	{"list", []any{nil, int8(1), "a", []any{uint32(2)}, amqp.Table{"n": int16(3)}}, nil},
	{"empty list", []any{}, nil},
	{"table", amqp.Table{"a": amqp.Table{"b": amqp.Table{"c": []byte("x"), "d": nil}}}, nil},
	{"empty table", amqp.Table{}, nil},
	{"table that looks like a type", amqp.Table{"int32": "7"}, nil},
	{"table that looks like a table", amqp.Table{"table": amqp.Table{"int64": "x"}}, nil},
	{"map", map[string]any{"n": int32(1)}, amqp.Table{"n": int32(1)}},
	{"list of tables that look like types", []any{amqp.Table{"bytes": "!"}, "int32"}, nil},
}

// TestHeadersKeepTheirTypes writes messages as JSON and reads them again.
func TestHeadersKeepTheirTypes(t *testing.T) {
	t.Parallel()
	for _, tt := range headerValues {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if want == nil {
				want = tt.v
			}
			doc, err := json.Marshal(Message{Headers: amqp.Table{"h": tt.v, "안녕": "k"}})
			if err != nil {
				t.Fatal(err)
			}
			var m Message
			if err := json.Unmarshal(doc, &m); err != nil {
				t.Fatalf("%s: %v", doc, err)
			}
			got := m.Headers["h"]
			if reflect.TypeOf(got) != reflect.TypeOf(want) {
				t.Errorf("got a %T, want a %T: %s", got, want, doc)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateNaNs()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if f, ok := want.(float64); ok && math.Signbit(f) != math.Signbit(got.(float64)) {
				t.Error("the sign of zero is lost")
			}
			if len(m.Headers) != 2 || m.Headers["안녕"] != "k" {
				t.Errorf("got headers %v", m.Headers)
			}
		})
	}
}

// TestHeaderNamesKeepTheirBytes has header names that are no UTF-8.
func TestHeaderNamesKeepTheirBytes(t *testing.T) {
	t.Parallel()
	in := amqp.Table{"caf\xe9": "a", "caf\xe8": "b", "t": amqp.Table{"\xff": int32(1)}}
	if got := roundTrip(t, Message{Headers: in}).Headers; !cmp.Equal(got, in) {
		t.Errorf("got %q, want %q", got, in)
	}
}

func roundTrip(t *testing.T, m Message) Message {
	t.Helper()
	doc, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var out Message
	if err := json.Unmarshal(doc, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMessageRoundTrip(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]Message{
		"empty": {Headers: amqp.Table{}, Properties: celery.Properties{Priority: new(uint8)}},
		"full": {Queue: "q.ai", Exchange: "tasks", RoutingKey: "ai.test", Headers: amqp.Table{"id": "a"}, Properties: celery.Properties{
			ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: 2, Priority: new(uint8),
			CorrelationID: "c", ReplyTo: "r", Expiration: "60000", MessageID: "m", Timestamp: time.Unix(1_700_000_000, 0), Type: "t", AppID: "app",
		}, Body: []byte{0, 1, 255}, Own: Own{
			Again: true, Revoked: true, Replays: 2, Parks: 3, Previous: "ValueError: x", Since: "0123",
			Replayed: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), First: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Routed: true,
		}},
	} {
		if diff := cmp.Diff(in, roundTrip(t, in)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestMessageOf takes a delivery as it is, and does not forget where it was first
// published.
func TestMessageOf(t *testing.T) {
	t.Parallel()
	d := amqp.Delivery{
		Headers: amqp.Table{"id": "a"}, Body: []byte("b"), Exchange: "tasks", RoutingKey: "ai.test", UserId: "somebody", Redelivered: true,
		CorrelationId: "a", Priority: 4, DeliveryMode: 2,
	}
	m := Of(d, "q.ai").Message
	m.Headers["new"] = "x"
	if none := Of(amqp.Delivery{}, "q.ai"); none.Headers == nil { // which are written to
		t.Error("got no headers of a delivery without any, want a table")
	}
	if m.Publishing().UserId != "" || m.Publishing().Priority != 4 || m.Queue != "q.ai" || m.Exchange != "tasks" || m.RoutingKey != "ai.test" {
		t.Errorf("got %+v", m)
	}
	back := Of(amqp.Delivery{Headers: m.Publishing().Headers, RoutingKey: "q.ai"}, "q.ai")
	if back.Exchange != "tasks" || back.RoutingKey != "ai.test" {
		t.Errorf("got route %q %q, want that of the producer", back.Exchange, back.RoutingKey)
	}
	// Published to the default exchange by its producer.
	d = amqp.Delivery{Headers: amqp.Table{headerRoutingKey: "q.x", headerExchange: ""}, RoutingKey: "q.ai"}
	if back := Of(d, "q.ai"); back.Exchange != "" || back.RoutingKey != "q.x" {
		t.Errorf("got route %q %q", back.Exchange, back.RoutingKey)
	}
}

// TestCountsInHeaders reads counts of ours that went through another client, which
// has its own idea of integers.
func TestCountsInHeaders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		v    any
		want int
	}{
		{nil, 0}, {int32(3), 3}, {int32(-3), 0}, {"3", 0},
		{int64(3), 3}, {int16(3), 3}, {int8(3), 3}, {byte(3), 3}, {uint16(3), 3}, {uint32(3), 3},
	} {
		m := Of(amqp.Delivery{Headers: amqp.Table{headerReplays: tt.v}}, "q")
		if got := m.Own.Replays; got != tt.want {
			t.Errorf("%T %v: got %d, want %d", tt.v, tt.v, got, tt.want)
		}
	}
}

// TestMessageRefused reads JSON that no message of ours is.
func TestMessageRefused(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]string{
		`{"headers": {"a": 1}}`:                             "a: 1 is no header value",
		`{"headers": {"a": {"int32": "x"}}}`:                "is no int32",
		`{"headers": {"a": {"int32": 3}}}`:                  "expected a string",
		`{"headers": {"a": {"int8": "128"}}}`:               "out of range",
		`{"headers": {"a": {"uint16": "-1"}}}`:              "is no uint16",
		`{"headers": {"a": {"complex": "1"}}}`:              "is no type of a header value",
		`{"headers": {"a": {"int32": "1", "int64": "1"}}}`:  "is no header value",
		`{"headers": {"a": {}}}`:                            "is no header value",
		`{"headers": {"a": {"table": []}}}`:                 "expected an object",
		`{"headers": {"a": {"table": {"b": [{"x": ""}]}}}}`: "is no type",
		`{"headers": {"a": {"bytes": "!"}}}`:                "is no bytes",
		`{"headers": {"a": {"decimal": "1"}}}`:              "is no decimal",
		`{"headers": {"a": {"float64": "1e999"}}}`:          "is no float64",
		`{"body": "!"}`:                                     "illegal base64",
		`{"priority": 256}`:                                 "cannot unmarshal",
		`[]`:                                                "cannot unmarshal",
	} {
		var m Message
		if err := json.Unmarshal([]byte(doc), &m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", doc, err, want)
		}
	}
}

// FuzzMessage reads any JSON: what is a message comes out the same when it is
// written and read once more.
func FuzzMessage(f *testing.F) {
	for _, v := range headerValues {
		doc, err := json.Marshal(Message{Queue: "q", Headers: amqp.Table{"h": v.v}, Body: []byte("b"), Properties: celery.Properties{Timestamp: time.Unix(1, 0)}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(doc)
	}
	f.Add([]byte(`{"headers": {"a": {"decimal": "1e-2x"}, "b": {"float32": "0x1p-2"}, "c": {"text": "t"}}}`))
	f.Add([]byte(`{"headers": {"a": [[[[{"table": {"": null}}]]]]}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		var first, second Message
		if json.Unmarshal(doc, &first) != nil {
			return
		}
		again, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("%q was read, but is not written: %v", doc, err)
		}
		if err := json.Unmarshal(again, &second); err != nil {
			t.Fatalf("%q is not read: %v", again, err)
		}
		if diff := cmp.Diff(first, second, cmpopts.EquateNaNs(), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-first +second):\n%s", doc, diff)
		}
	})
}
