package celery_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"onceover/celery"
)

func decodeHeader(key string, value any) (*celery.Request, error) {
	h := map[string]any{"task": "t", "id": "i", key: value}
	return celery.Decode(celery.Properties{ContentType: "application/json"}, h, []byte(`[[],{},{}]`))
}

// TestHeaderTimes has what py-amqp makes of each type of a header, and what Celery then
// does with it. TestParseTimeAsPython has the texts.
func TestHeaderTimes(t *testing.T) {
	want := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, key := range []string{"eta", "expires"} {
		for _, value := range []any{
			"2030-01-02T12:04:05+0900", "20300102t030405z", []byte("2030-01-02T03:04:05"), want, want.In(time.FixedZone("", 9*3600)),
			map[string]any{"__type__": "datetime", "__value__": "2030-01-02T12:04:05+09:00"},
		} {
			req, err := decodeHeader(key, value)
			if err != nil {
				t.Errorf("%s %v: %v", key, value, err)
				continue
			}
			got := req.ETA
			if key == "expires" {
				got = req.Expires
			}
			if !got.Equal(want) || got.Location() != time.UTC {
				t.Errorf("%s %v: got %v, want %v", key, value, got, want)
			}
		}
		for _, value := range []any{int32(5), 1893553445.5, true, false, []any{"2030"}, map[string]any{"a": "b"}, "tomorrow"} {
			_, err := decodeHeader(key, value)
			var me *celery.MessageError
			if !errors.As(err, &me) || me.Reason != celery.ReasonHeader || !strings.Contains(err.Error(), `"`+key+`"`) || !strings.Contains(err.Error(), "2030-01-02T12:04:05+09:00") {
				t.Errorf("%s %v: got %v, want it refused with the name and the form", key, value, err)
			}
		}
	}
	body := `{"task":"t","id":"i","args":[],"eta":{"__type__":"datetime","__value__":"2030-01-02T03:04:05"}}`
	req, err := celery.Decode(celery.Properties{ContentType: "application/json"}, nil, []byte(body))
	if err != nil || !req.ETA.Equal(want) {
		t.Errorf("datetime in protocol 1: got %+v, %v, want %v", req, err, want)
	}
}

func TestHeaderTruth(t *testing.T) {
	for _, tt := range []struct {
		value any
		want  bool
	}{
		{true, true}, {false, false}, {nil, false}, {int8(1), true}, {uint8(0), false}, {int32(0), false}, {int64(2), true}, {0.0, false}, {0.5, true},
		{"", false}, {"false", true}, {[]any{}, false}, {[]any{0}, true}, {map[string]any{}, false}, {[]byte{}, false}, {json.Number("0"), false},
	} {
		if req, err := decodeHeader("ignore_result", tt.value); err != nil || req.IgnoreResult != tt.want {
			t.Errorf("%T %v: got %+v, %v, want %v as in Python", tt.value, tt.value, req, err, tt.want)
		}
	}
}

func TestHeaderIntegers(t *testing.T) {
	for _, tt := range []struct {
		value any
		want  int
	}{
		{int64(3), 3}, {nil, 0}, {"0", 0}, {" 3 ", 3}, {"1.0", 1}, {2.0, 2}, {1.5, 1}, {float32(4), 4}, {true, 1}, {json.Number("7"), 7},
	} {
		if req, err := decodeHeader("retries", tt.value); err != nil || req.Retries != tt.want {
			t.Errorf("%T %v: got %+v, %v, want %d", tt.value, tt.value, req, err, tt.want)
		}
	}
	for _, value := range []any{"x", "", "1e300", "NaN", "inf", []any{}, map[string]any{}, 1e300} {
		if _, err := decodeHeader("retries", value); err == nil || !strings.Contains(err.Error(), `"retries"`) {
			t.Errorf("%T %v: got %v, want it refused by name", value, value, err)
		}
	}
}

// TestOptions applies a callback with each options that Celery passes on.
func TestOptions(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	apply := func(options string) (*celery.Request, error) {
		body := `[[],{},{"callbacks":[{"task":"t","args":[],"kwargs":{},"options":` + options + `}]}]`
		req, err := celery.Decode(celery.Properties{ContentType: "application/json"}, map[string]any{"task": "t", "id": "i"}, []byte(body))
		if err != nil {
			return nil, err
		}
		p := celery.Plan{Parent: req, Now: now}
		if _, err := p.Apply(req.Callbacks[0], nil, celery.Options{}); err != nil {
			return nil, err
		}
		return p.Messages[0].Request, nil
	}
	moment := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for options, ok := range map[string]func(*celery.Request) bool{
		`{"eta": "2030-01-02 12:04:05+0900"}`:                                    func(r *celery.Request) bool { return r.ETA.Equal(moment) },
		`{"eta": {"__type__": "datetime", "__value__": "2030-01-02T03:04:05"}}`:  func(r *celery.Request) bool { return r.ETA.Equal(moment) },
		`{"expires": "20300102T030405z"}`:                                        func(r *celery.Request) bool { return r.Expires.Equal(moment) },
		`{"expires": 2.5}`:                                                       func(r *celery.Request) bool { return r.Expires.Equal(now.Add(2500 * time.Millisecond)) },
		`{"countdown": 2.5, "eta": "2030-01-02"}`:                                func(r *celery.Request) bool { return r.ETA.Equal(now.Add(2500 * time.Millisecond)) },
		`{"retries": "2", "ignore_result": 1}`:                                   func(r *celery.Request) bool { return r.Retries == 2 && r.IgnoreResult },
		`{"retries": 2.0, "ignore_result": 0, "group_index": 1.0}`:               func(r *celery.Request) bool { return r.Retries == 2 && !r.IgnoreResult && *r.GroupIndex == 1 },
		`{"retries": null, "ignore_result": null, "group_index": null}`:          func(r *celery.Request) bool { return r.Retries == 0 && !r.IgnoreResult && r.GroupIndex == nil },
		`{"replaced_task_nesting": "1", "ignore_result": "false", "other": [1]}`: func(r *celery.Request) bool { return r.ReplacedTaskNesting == 1 && r.IgnoreResult },
	} {
		if r, err := apply(options); err != nil || !ok(r) {
			t.Errorf("%s: got %+v, %v", options, r, err)
		}
	}
	for options, word := range map[string]string{
		`{"eta": 5}`:           "option eta: 5 is not a time",
		`{"eta": "tomorrow"}`:  `option eta: "tomorrow" is not an ISO 8601 time`,
		`{"expires": "5"}`:     `option expires: "5" is not an ISO 8601 time`,
		`{"expires": 1e300}`:   "option expires: 1e+300 seconds",
		`{"countdown": -1e12}`: "option countdown: -1e+12 seconds",
		`{"retries": "many"}`:  `"many" is not an integer`,
		`{"group_index": [1]}`: "[1] is not an integer",
		`{"countdown": "5"}`:   "countdown",
		`{"retries": 1e300}`:   "1e300 is not an integer",
	} {
		if r, err := apply(options); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %+v, %v, want an error with %q", options, r, err, word)
		}
	}
}
