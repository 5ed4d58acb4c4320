package celery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// Encode makes the message, protocol 2, with which a Python producer would
// have sent r: properties, headers and the JSON body. The header table holds
// only types that AMQP field tables know.
func (r *Request) Encode() (Properties, map[string]any, []byte, error) {
	args, kwargs := r.Args, r.Kwargs
	if args == nil {
		args = []json.RawMessage{}
	}
	if kwargs == nil {
		kwargs = map[string]json.RawMessage{}
	}
	body, err := MarshalJSON([]any{args, kwargs, map[string]any{
		"callbacks": nil, "errbacks": nil, "chain": nil, "chord": nil,
	}})
	if err != nil {
		return Properties{}, nil, nil, fmt.Errorf("encode body of task %s: %w", r.ID, err)
	}
	root := r.RootID
	if root == "" {
		root = r.ID
	}
	headers := map[string]any{
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
		"argsrepr":              clip(ReprArgs(args), 1024),
		"kwargsrepr":            clip(ReprKwargs(kwargs), 1024),
		"origin":                r.Origin,
		"ignore_result":         r.IgnoreResult,
		"replaced_task_nesting": int32(0),
		"stamped_headers":       nil,
		"stamps":                map[string]any{},
	}
	p := Properties{
		ContentType:     ContentTypeJSON,
		ContentEncoding: "utf-8",
		CorrelationID:   r.ID,
		ReplyTo:         r.ReplyTo,
	}
	return p, headers, body, nil
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
	return t.UTC().Format("2006-01-02T15:04:05.999999-07:00")
}

func seconds(d time.Duration) any {
	if d == 0 {
		return nil
	}
	return d.Seconds()
}
