package celery

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// headerReader reads typed values from a header table and keeps the first
// error, so that a decoder reads all headers and asks once.
type headerReader struct {
	table map[string]any
	err   error
}

func (h *headerReader) fault(key string, v any, want string) {
	if h.err == nil {
		h.err = fmt.Errorf("header %q is a %T: expected %s", key, v, want)
	}
}

func (h *headerReader) text(key string) string {
	switch v := h.table[key].(type) {
	case nil:
		return ""
	case string:
		return v
	case []byte:
		return string(v)
	default:
		h.fault(key, v, "a string")
		return ""
	}
}

// boolean is what Python makes of the header as a condition, since Celery only asks
// whether it is true.
func (h *headerReader) boolean(key string) bool { return truth(h.table[key]) }

// truth is Python's bool(v): false for nil, false, 0 and what is empty.
func truth(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	}
	if f, ok := number(v); ok {
		return f != 0
	}
	switch rv := reflect.ValueOf(v); rv.Kind() {
	case reflect.String, reflect.Slice, reflect.Map:
		return rv.Len() > 0
	}
	return true
}

func (h *headerReader) integer(key string) int {
	n, ok := whole(h.table[key])
	if !ok {
		h.fault(key, h.table[key], "an integer")
	}
	return n
}

// whole is v as an integer: a number without its fraction, or a text of one, which
// Celery passes on without looking at it. nil counts as 0.
func whole(v any) (n int, ok bool) {
	f, ok := number(v)
	switch v := v.(type) {
	case bool:
		if ok = true; v {
			f = 1
		}
	case string:
		parsed, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
		f, ok = parsed, err == nil
	}
	if !ok || !(math.Abs(f) <= math.MaxInt32) {
		return 0, false
	}
	return int(f), true
}

// stamps reads the names of the stamps, and their values.
func (h *headerReader) stamps() (names []string, values map[string]json.RawMessage) {
	list, _ := h.table["stamped_headers"].([]any)
	for _, v := range list {
		if name, ok := v.(string); ok {
			names = append(names, name)
		}
	}
	table := asTable(h.table["stamps"])
	for _, name := range names {
		if raw, err := MarshalJSON(table[name]); err == nil && table[name] != nil {
			if values == nil {
				values = map[string]json.RawMessage{}
			}
			values[name] = raw
		}
	}
	return names, values
}

// asTable is v as a table, whatever map type the AMQP client has for it; nil if
// it is none.
func asTable(v any) map[string]any {
	if m, ok := v.(map[string]any); ok {
		return m
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Map {
		if m, ok := rv.Convert(reflect.TypeFor[map[string]any]()).Interface().(map[string]any); ok {
			return m
		}
	}
	return nil
}

// limits reads timelimit: [hard, soft], seconds or null each.
func (h *headerReader) limits(key string) (hard, soft time.Duration) {
	v := h.table[key]
	if v == nil {
		return 0, 0
	}
	pair, ok := v.([]any)
	if !ok || len(pair) != 2 {
		h.fault(key, v, "[hard, soft] in seconds")
		return 0, 0
	}
	var out [2]time.Duration
	for i, limit := range pair {
		f, ok := number(limit)
		if !ok || f < 0 || f > math.MaxInt32 {
			h.fault(key, limit, "a number of seconds")
			return 0, 0
		}
		out[i] = time.Duration(f * float64(time.Second))
	}
	return out[0], out[1]
}

// time reads a text in ISO 8601, or a timestamp, which py-amqp gives to Celery as a
// datetime in UTC, as do YAML and newer JSON in a body of protocol 1. A number is
// refused as by Celery.
func (h *headerReader) time(key string) time.Time {
	v := h.table[key]
	if t, ok := v.(time.Time); ok {
		return t.UTC()
	}
	if m := asTable(v); m["__type__"] == "datetime" {
		v = m["__value__"]
	}
	var s string
	switch v := v.(type) {
	case nil:
	case string:
		s = v
	case []byte:
		s = string(v)
	default:
		h.fault(key, v, "a time in ISO 8601, such as 2030-01-02T12:04:05+09:00")
	}
	if s == "" {
		return time.Time{}
	}
	t, err := ParseTime(s)
	if err != nil && h.err == nil {
		h.err = fmt.Errorf("header %q: %w", key, err)
	}
	return t
}

// number converts any of the AMQP client's number types; nil counts as 0.
func number(v any) (float64, bool) {
	switch n := v.(type) {
	case nil:
		return 0, true
	case int8:
		return float64(n), true
	case uint8:
		return float64(n), true
	case int16:
		return float64(n), true
	case uint16:
		return float64(n), true
	case int32:
		return float64(n), true
	case uint32:
		return float64(n), true
	case int64:
		return float64(n), true
	case int:
		return float64(n), true
	case float32:
		return float64(n), !math.IsNaN(float64(n))
	case float64:
		return n, !math.IsNaN(n)
	case json.Number: // protocol 1
		f, err := n.Float64()
		return f, err == nil
	}
	return 0, false
}
