package celery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"
)

// Encode makes the message, protocol 2, with which Python would have sent r:
// properties, headers and the JSON body. The header table holds only types that
// AMQP field tables know.
func (r *Request) Encode() (Properties, map[string]any, []byte, error) {
	args, kwargs := r.Args, r.Kwargs
	if args == nil {
		args = []json.RawMessage{}
	}
	if kwargs == nil {
		kwargs = map[string]json.RawMessage{}
	}
	body, err := MarshalJSON([]any{args, kwargs, embed{r.Callbacks, r.Errbacks, r.Chain, r.Chord}})
	if err != nil {
		return Properties{}, nil, nil, fmt.Errorf("encode body of task %s: %w", r.ID, err)
	}
	root := r.RootID
	if root == "" {
		root = r.ID
	}
	headers := map[string]any{}
	maps.Copy(headers, r.Headers)
	maps.Copy(headers, map[string]any{
		"lang":                  "py",
		"task":                  r.Task,
		"id":                    r.ID,
		"shadow":                nullable(r.Shadow),
		"eta":                   nullableTime(r.ETA),
		"expires":               nullableTime(r.Expires),
		"group":                 nullable(r.Group),
		"group_index":           nil,
		"retries":               int32(r.Retries),
		"timelimit":             []any{seconds(r.TimeLimit), seconds(r.SoftTimeLimit)},
		"root_id":               root,
		"parent_id":             nullable(r.ParentID),
		"argsrepr":              r.ArgsText(),
		"kwargsrepr":            r.KwargsText(),
		"origin":                r.Origin,
		"ignore_result":         r.IgnoreResult,
		"replaced_task_nesting": int32(r.ReplacedTaskNesting),
		"stamped_headers":       nil,
	})
	if r.GroupIndex != nil {
		headers["group_index"] = int32(*r.GroupIndex)
	}
	stamps := map[string]any{}
	if len(r.StampedHeaders) > 0 {
		names := make([]any, len(r.StampedHeaders))
		for i, name := range r.StampedHeaders {
			names[i] = name
			stamps[name] = tableValue(r.Stamps[name])
		}
		headers["stamped_headers"] = names
	}
	headers["stamps"] = stamps
	p := r.Properties
	p.ContentType, p.ContentEncoding = ContentTypeJSON, "utf-8"
	p.CorrelationID, p.ReplyTo = r.ID, r.ReplyTo
	p.DeliveryMode = 2
	if p.Expiration = ""; !r.Expires.IsZero() {
		// As Celery does, so that the broker drops what nobody wants any more.
		p.Expiration = strconv.FormatInt(max(0, time.Until(r.Expires).Milliseconds()), 10)
	}
	return p, headers, body, nil
}

// tableValue is a JSON value as AMQP field tables know it.
func tableValue(raw json.RawMessage) any {
	v, err := anyOf(raw)
	if err != nil {
		return nil
	}
	return numbersOf(v)
}

func numbersOf(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64() // ±Inf beyond the range, as Python reads it
		return f
	case []any:
		for i := range v {
			v[i] = numbersOf(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbersOf(v[k])
		}
	}
	return v
}

// MarshalJSON is json.Marshal without the escaping of <, > and & and without a
// final newline: text of any language stays readable UTF-8.
func MarshalJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func nullableTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return ISOTime(t)
}

// ISOTime writes t as Python's datetime.isoformat does: a fraction has six digits,
// which older Pythons insist on, or is left out.
func ISOTime(t time.Time) string {
	if t.UTC().Nanosecond() < 1000 {
		return t.UTC().Format("2006-01-02T15:04:05-07:00")
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000-07:00")
}

func seconds(d time.Duration) any {
	if d == 0 {
		return nil
	}
	return d.Seconds()
}
