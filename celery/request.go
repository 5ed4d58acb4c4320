package celery

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Properties are the AMQP basic properties that Celery reads and writes.
type Properties struct {
	ContentType     string
	ContentEncoding string
	CorrelationID   string // the task id
	ReplyTo         string
}

// Request is one execution request: a task message, protocol 2, decoded.
type Request struct {
	ID       string // task id; any string, normally a UUID
	Task     string // registered task name
	RootID   string // id of the first task of the workflow; ID when there is none
	ParentID string // "" when none
	Group    string // group id, "" when none
	Shadow   string // display name, "" when none
	Origin   string // "gen<pid>@<host>" of the producer
	ReplyTo  string

	Args   []json.RawMessage          // positional arguments, one JSON value each
	Kwargs map[string]json.RawMessage // keyword arguments, one JSON value each

	Retries       int           // how often the task has been retried so far
	ETA           time.Time     // not before; zero when none
	Expires       time.Time     // not after; zero when none
	TimeLimit     time.Duration // hard limit; 0 when the message sets none
	SoftTimeLimit time.Duration // soft limit; 0 when the message sets none
	IgnoreResult  bool

	Delivery DeliveryInfo
}

// DeliveryInfo is how the message came, Celery's request.delivery_info. Decode
// leaves it empty: it is known to the consumer only.
type DeliveryInfo struct {
	Exchange    string
	RoutingKey  string
	Redelivered bool
}

// Name is the name that people see: the shadow name if the producer gave one.
func (r *Request) Name() string {
	if r.Shadow != "" {
		return r.Shadow
	}
	return r.Task
}

// Reason says in one word why a message cannot be run. It is written into the
// header of the dead letter, so that operators can filter by it.
type Reason string

const (
	ReasonNotATask    Reason = "not-a-task"   // no task header: not a Celery message, or protocol 1
	ReasonContentType Reason = "content-type" // serialiser or compression that is not accepted
	ReasonBody        Reason = "body"         // the body is not [args, kwargs, embed]
	ReasonHeader      Reason = "header"       // a header has a value of the wrong type or form
	ReasonCanvas      Reason = "canvas"       // carries links, a chain or a chord
	ReasonUnknownTask Reason = "unknown-task" // no task of this name is registered
)

// MessageError says why a message cannot be run. ID and Task are what could
// still be read of the headers, "" if nothing could.
type MessageError struct {
	ID, Task string
	Reason   Reason
	Err      error
}

func (e *MessageError) Error() string { return fmt.Sprintf("%s: %v", e.Reason, e.Err) }
func (e *MessageError) Unwrap() error { return e.Err }

// Decode reads a task message. headers is the AMQP header table with its
// values as the AMQP client gives them (strings, integers, nil, nested slices
// and maps). Every error is a [*MessageError].
func Decode(p Properties, headers map[string]any, body []byte) (*Request, error) {
	h := headerReader{table: headers}
	r := &Request{
		ID:       h.text("id"),
		Task:     h.text("task"),
		RootID:   h.text("root_id"),
		ParentID: h.text("parent_id"),
		Group:    h.text("group"),
		Shadow:   h.text("shadow"),
		Origin:   h.text("origin"),
		ReplyTo:  p.ReplyTo,
	}
	refuse := func(reason Reason, err error) (*Request, error) {
		return nil, &MessageError{ID: r.ID, Task: r.Task, Reason: reason, Err: err}
	}
	if _, ok := headers["task"]; !ok {
		return refuse(ReasonNotATask, errors.New(
			"there is no \"task\" header: expected a Celery message of protocol 2 (task_protocol = 2, the default since Celery 4)"))
	}
	r.Retries = h.integer("retries")
	r.IgnoreResult = h.boolean("ignore_result")
	r.ETA = h.time("eta")
	r.Expires = h.time("expires")
	r.TimeLimit, r.SoftTimeLimit = h.limits("timelimit")
	compression := h.text("compression")
	if h.err != nil {
		return refuse(ReasonHeader, h.err)
	}
	switch {
	case r.ID == "":
		return refuse(ReasonHeader, errors.New("header \"id\" is empty: expected the task id"))
	case r.Task == "":
		return refuse(ReasonHeader, errors.New("header \"task\" is empty: expected the task name"))
	}
	if r.RootID == "" {
		r.RootID = r.ID
	}
	if mediaType(p.ContentType) != ContentTypeJSON {
		return refuse(ReasonContentType, fmt.Errorf(
			"content type %q is not accepted: expected %s (set task_serializer = \"json\")", p.ContentType, ContentTypeJSON))
	}
	if compression != "" {
		return refuse(ReasonContentType, fmt.Errorf(
			"compression %q is not accepted: expected an uncompressed body (leave task_compression unset)", compression))
	}
	embed, err := r.decodeBody(body)
	if err != nil {
		return refuse(ReasonBody, err)
	}
	if part := embed.canvas(); part != "" {
		return refuse(ReasonCanvas, fmt.Errorf(
			"the message carries a %s, which is not run yet: send the task by itself", part))
	}
	return r, nil
}

// ContentTypeJSON is the content type of Celery's JSON serialiser.
const ContentTypeJSON = "application/json"

func mediaType(contentType string) string {
	base, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(base))
}

// embed is the third element of a body: what follows from the task.
type embed struct {
	Callbacks json.RawMessage `json:"callbacks"`
	Errbacks  json.RawMessage `json:"errbacks"`
	Chain     json.RawMessage `json:"chain"`
	Chord     json.RawMessage `json:"chord"`
}

// canvas names the first part of the embed that asks for anything.
func (e embed) canvas() string {
	for _, part := range []struct {
		name string
		raw  json.RawMessage
	}{
		{"link", e.Callbacks}, {"link_error", e.Errbacks}, {"chain", e.Chain}, {"chord", e.Chord},
	} {
		switch strings.TrimSpace(string(part.raw)) {
		case "", "null", "[]", "{}":
		default:
			return part.name
		}
	}
	return ""
}

func (r *Request) decodeBody(body []byte) (embed, error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(body, &parts); err != nil {
		return embed{}, fmt.Errorf("the body is not a JSON list [args, kwargs, embed]: %w", err)
	}
	if len(parts) < 2 || len(parts) > 3 {
		return embed{}, fmt.Errorf("the body has %d elements: expected [args, kwargs, embed]", len(parts))
	}
	if err := json.Unmarshal(parts[0], &r.Args); err != nil {
		return embed{}, errors.New("args is not a JSON list")
	}
	if err := json.Unmarshal(parts[1], &r.Kwargs); err != nil {
		return embed{}, errors.New("kwargs is not a JSON object")
	}
	var e embed
	if len(parts) == 3 {
		if err := json.Unmarshal(parts[2], &e); err != nil {
			return embed{}, errors.New("embed is not a JSON object")
		}
	}
	return e, nil
}

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

func (h *headerReader) boolean(key string) bool {
	switch v := h.table[key].(type) {
	case nil:
		return false
	case bool:
		return v
	default:
		h.fault(key, v, "a boolean")
		return false
	}
}

func (h *headerReader) integer(key string) int {
	f, ok := number(h.table[key])
	if !ok || f != math.Trunc(f) || math.Abs(f) > math.MaxInt32 {
		h.fault(key, h.table[key], "an integer")
		return 0
	}
	return int(f)
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

func (h *headerReader) time(key string) time.Time {
	s := h.text(key)
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
	}
	return 0, false
}

// timeLayouts are the forms of Python's datetime.isoformat. Fractions of a
// second are accepted by time.Parse without being named.
var timeLayouts = [...]string{
	"2006-01-02T15:04:05Z07:00",
	"2006-01-02T15:04:05",
	"2006-01-02 15:04:05Z07:00",
	"2006-01-02 15:04:05",
}

// ParseTime reads an ISO 8601 time as Celery sends it, with or without a
// fraction and an offset. A time without offset is UTC, as in Celery. The
// result is in UTC.
func ParseTime(s string) (time.Time, error) {
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not an ISO 8601 time: expected a form like 2030-01-02T12:04:05+09:00", clip(s, 64))
}

// clip shortens s to at most n bytes without cutting a rune in two.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
