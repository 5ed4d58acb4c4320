package celery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Properties are the AMQP basic properties of a task message.
type Properties struct {
	ContentType     string
	ContentEncoding string
	CorrelationID   string // the task id
	ReplyTo         string
	Expiration      string // milliseconds
	MessageID       string
	Type            string
	UserID          string
	AppID           string
	DeliveryMode    uint8
	Priority        *uint8 // nil when the message has none
	Timestamp       time.Time
}

// Request is one execution request: a task message, decoded. Of a message in
// protocol 1 it has what protocol 2 would have had.
type Request struct {
	ID         string // task id; any string, normally a UUID
	Task       string // registered task name
	RootID     string // id of the first task of the workflow; ID when there is none
	ParentID   string // "" when none
	Group      string // group id, "" when none
	GroupIndex *int   // place in the group, nil when none
	Shadow     string // display name, "" when none
	Origin     string // "gen<pid>@<host>" of the producer
	ReplyTo    string // queue of the client, for rpc:// results; "" when none

	// The arguments, one JSON value each. In a request from [Decode] they are parts of
	// the body, and keep it in memory. Nobody may write into them or into the body, which
	// json.Unmarshal into one of them would do; setting another value is fine.
	Args   []json.RawMessage          // positional
	Kwargs map[string]json.RawMessage // keyword

	Callbacks Signatures // called with the result
	Errbacks  Signatures // called with the id of this task when it fails
	Chain     Signatures // what follows, the next one LAST, as on the wire
	Chord     *Signature // body of the chord in whose header this task is

	Retries       int           // how often the task has been retried so far
	ETA           time.Time     // not before; zero when none
	Expires       time.Time     // not after; zero when none
	TimeLimit     time.Duration // hard limit; 0 when the message sets none
	SoftTimeLimit time.Duration // soft limit; 0 when the message sets none
	IgnoreResult  bool          // nobody will ask for the result

	ReplacedTaskNesting int                        // how often the task was replaced to become this one
	StampedHeaders      []string                   // names of the stamps
	Stamps              map[string]json.RawMessage // name to value or list of values

	ArgsRepr   string         // Python's repr of Args as the producer shortened it, "" when it sent none
	KwargsRepr string         // the same of Kwargs
	Headers    map[string]any // the headers that are not Celery's own, as the AMQP client gives them; nil when none
	Properties Properties
	Delivery   DeliveryInfo

	// Memo is the handler's own, from one call about this request to the next.
	Memo any
}

// DeliveryInfo is how the message came, Celery's request.delivery_info. Decode
// leaves it empty: it is known to the consumer only.
type DeliveryInfo struct {
	Exchange    string
	RoutingKey  string
	Redelivered bool
	// AfterEnd says that an end of an earlier task with this id was on record when the run began. Celery has no such thing.
	AfterEnd bool
}

// Priority is the priority of the message, nil when it has none.
func (r *Request) Priority() *uint8 { return r.Properties.Priority }

// ArgsText and KwargsText are the arguments as people see them.
func (r *Request) ArgsText() string {
	if r.ArgsRepr != "" {
		return r.ArgsRepr
	}
	return clip(ReprArgs(r.Args), maxRepr)
}

// KwargsText is the keyword arguments as people see them.
func (r *Request) KwargsText() string {
	if r.KwargsRepr != "" {
		return r.KwargsRepr
	}
	return clip(ReprKwargs(r.Kwargs), maxRepr)
}

// SetArgument replaces an argument of the call, by keyword, or where the call has
// it by position: parameters are the names of the task's arguments, the positional
// ones first, nil if they are not known. A number as the name is a position. value is
// any JSON, nil to leave a keyword out. A name that neither the task nor the call has
// is refused.
func (r *Request) SetArgument(name string, value json.RawMessage, parameters []string) error {
	if _, has := r.Kwargs[name]; value == nil {
		if !has {
			return fmt.Errorf("task %s has no keyword argument %q in its call", r.ID, name)
		}
		r.Kwargs = maps.Clone(r.Kwargs)
		delete(r.Kwargs, name)
		r.ArgsRepr, r.KwargsRepr = "", ""
		return nil
	}
	if !json.Valid(value) {
		return fmt.Errorf("argument %s of task %s: the value is not JSON", name, r.ID)
	}
	at := slices.Index(parameters, name)
	if n, err := strconv.Atoi(name); err == nil {
		if n < 0 || n >= len(r.Args) {
			return fmt.Errorf("argument %d of task %s: the call has %d positional arguments, counted from 0", n, r.ID, len(r.Args))
		}
		at = n
	}
	if at >= 0 && at < len(r.Args) {
		r.Args = slices.Clone(r.Args)
		r.Args[at], r.ArgsRepr = value, ""
		return nil
	}
	if _, has := r.Kwargs[name]; !has && at < 0 {
		known := parameters
		if known == nil {
			known = slices.Sorted(maps.Keys(r.Kwargs))
		}
		return fmt.Errorf("task %s takes no argument %q: expected one of %v, or a position", r.ID, name, known)
	}
	r.KwargsRepr = ""
	r.Kwargs = maps.Clone(r.Kwargs)
	if r.Kwargs == nil {
		r.Kwargs = map[string]json.RawMessage{}
	}
	r.Kwargs[name] = value
	return nil
}

// maxRepr is how long Celery lets argsrepr and kwargsrepr be.
const maxRepr = 1024

// Attempt numbers the runs of an id: what takes the place of a task has its id, and
// begins with no retries.
func (r *Request) Attempt() int { return attempt(r.ReplacedTaskNesting, r.Retries) }

// Attempt is that of the request in whose run m was stored, in the state RETRY; -1 if it
// does not say.
func (m *Meta) Attempt() int {
	if m.Retries == nil {
		return -1
	}
	return attempt(m.Nesting, *m.Retries)
}

func attempt(nesting, retries int) int { return nesting<<20 + retries }

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
	ReasonNotATask    Reason = "not-a-task"   // not a Celery message
	ReasonContentType Reason = "content-type" // serialiser or compression that is not accepted
	ReasonBody        Reason = "body"         // the body is not [args, kwargs, embed]
	ReasonHeader      Reason = "header"       // a header has a value of the wrong type or form
	ReasonCanvas      Reason = "canvas"       // a link, chain or chord that is no signature
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

// Decode reads a task message of protocol 2, or 1. headers is the AMQP header
// table with its values as the AMQP client gives them (strings, integers, nil,
// nested slices and maps). The body, if it is JSON and not compressed, becomes part of the
// request and must not be changed afterwards. Every error is a [*MessageError].
func Decode(p Properties, headers map[string]any, body []byte) (*Request, error) {
	h := headerReader{table: headers}
	r := &Request{ID: h.text("id"), Task: h.text("task"), ReplyTo: p.ReplyTo, Properties: p}
	refuse := func(reason Reason, err error) (*Request, error) {
		return nil, &MessageError{ID: r.ID, Task: r.Task, Reason: reason, Err: err}
	}
	_, named := headers["task"]
	compression := h.text("compression")
	content, reason, err := decodeContent(p.ContentType, p.ContentEncoding, compression, body)
	if err != nil {
		if !named {
			reason = ReasonNotATask
		}
		return refuse(reason, err)
	}
	content = bytes.TrimSpace(content)
	// A dict with the arguments is protocol 1, by whatever headers it comes
	// (celery/worker/strategy.py, hybrid_to_proto2).
	if v1, ok := decodeV1(content); ok {
		for key, value := range headers {
			v1[key] = value
		}
		h.table = v1
		r.ID, r.Task = h.text("id"), h.text("task")
		if r.ID == "" {
			r.ID = h.text("correlation_id")
		}
	} else if !named {
		return refuse(ReasonNotATask, errors.New(
			"there is neither a \"task\" header nor a body of message protocol 1: expected a task message of Celery"))
	}
	r.header(&h)
	switch {
	case h.err != nil:
		return refuse(ReasonHeader, h.err)
	case r.ID == "":
		return refuse(ReasonHeader, errors.New("header \"id\" is empty: expected the task id"))
	case r.Task == "":
		return refuse(ReasonHeader, errors.New("header \"task\" is empty: expected the task name"))
	}
	if r.RootID == "" {
		r.RootID = r.ID
	}
	rest, err := r.body(content)
	if err != nil {
		return refuse(ReasonBody, err)
	}
	if err := r.follow(rest); err != nil {
		return refuse(ReasonCanvas, err)
	}
	return r, nil
}

// header reads everything but the arguments.
func (r *Request) header(h *headerReader) {
	r.RootID, r.ParentID = h.text("root_id"), h.text("parent_id")
	r.Shadow, r.Origin = h.text("shadow"), h.text("origin")
	r.ArgsRepr, r.KwargsRepr = h.text("argsrepr"), h.text("kwargsrepr")
	if r.Group = h.text("group"); r.Group == "" {
		r.Group = h.text("taskset") // protocol 1
	}
	if h.table["group_index"] != nil {
		index := h.integer("group_index")
		r.GroupIndex = &index
	}
	r.Retries = h.integer("retries")
	r.ReplacedTaskNesting = h.integer("replaced_task_nesting")
	r.IgnoreResult = h.boolean("ignore_result")
	r.ETA = h.time("eta")
	r.Expires = h.time("expires")
	r.TimeLimit, r.SoftTimeLimit = h.limits("timelimit")
	r.StampedHeaders, r.Stamps = h.stamps()
	for key, value := range h.table {
		if !ownHeader(key) {
			if r.Headers == nil {
				r.Headers = map[string]any{}
			}
			r.Headers[key] = value
		}
	}
}

// ownHeader tells the headers of the protocol from those that users add.
func ownHeader(key string) bool {
	switch key {
	case "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit",
		"root_id", "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting",
		"stamped_headers", "stamps", "compression",
		"args", "kwargs", "utc", "callbacks", "errbacks", "chord", "chain", "taskset": // protocol 1
		return true
	}
	return key == "x-death" || strings.HasPrefix(key, "x-first-death-") || strings.HasPrefix(key, "x-last-death-")
}

// ContentTypeJSON is the content type of Celery's JSON serialiser.
const ContentTypeJSON = "application/json"

func mediaType(contentType string) string {
	base, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(base))
}

// embed is the third element of a body: what follows from the task.
type embed struct {
	Callbacks Signatures `json:"callbacks"`
	Errbacks  Signatures `json:"errbacks"`
	Chain     Signatures `json:"chain"`
	Chord     *Signature `json:"chord"`
}

// decodeV1 reads the body of protocol 1, a dict with the arguments.
func decodeV1(content json.RawMessage) (map[string]any, bool) {
	if content[0] != '{' {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.UseNumber()
	var dict map[string]any
	if dec.Decode(&dict) != nil {
		return nil, false
	}
	_, ok := dict["args"]
	return dict, ok
}

// parts are the three elements of a body, of which a dict has the first two by
// name and is the third itself. What is missing is null.
func parts(content json.RawMessage) (args, kwargs, embed json.RawMessage, err error) {
	null := json.RawMessage("null")
	if content[0] == '{' {
		v1, _ := members(content)
		if args = v1["args"]; args == nil {
			return nil, nil, nil, errors.New("the body is neither a list [args, kwargs, embed] nor a dict of protocol 1, with args")
		}
		if kwargs = v1["kwargs"]; kwargs == nil {
			kwargs = null
		}
		return args, kwargs, content, nil
	}
	list, ok := elements(content)
	switch {
	case !ok || list == nil:
		return nil, nil, nil, errors.New("the body is not a list [args, kwargs, embed]")
	case len(list) == 2:
		return list[0], list[1], null, nil
	case len(list) == 3:
		return list[0], list[1], list[2], nil
	}
	return nil, nil, nil, fmt.Errorf("the body has %d elements: expected [args, kwargs, embed]", len(list))
}

// body reads the arguments, and returns what says what follows.
func (r *Request) body(content json.RawMessage) (rest json.RawMessage, err error) {
	args, kwargs, rest, err := parts(content)
	if err != nil {
		return nil, err
	}
	var ok bool
	if r.Args, ok = elements(args); !ok {
		return nil, errors.New("args is not a list")
	}
	if r.Kwargs, ok = members(kwargs); !ok {
		return nil, errors.New("kwargs is not a mapping")
	}
	if rest[0] != '{' && string(rest) != "null" {
		return nil, errors.New("embed is not a mapping")
	}
	return rest, nil
}

// nothing is how Celery writes that nothing follows from a task.
const nothing = `{"callbacks": null, "errbacks": null, "chain": null, "chord": null}`

// follow reads what follows from the task.
func (r *Request) follow(rest json.RawMessage) error {
	if string(rest) == nothing {
		return nil
	}
	var e embed
	if err := json.Unmarshal(rest, &e); err != nil {
		return fmt.Errorf("callbacks, errbacks, chain or chord: %w", err)
	}
	r.Callbacks, r.Errbacks, r.Chain, r.Chord = e.Callbacks, e.Errbacks, e.Chain, e.Chord
	return nil
}

// clip shortens s to at most n bytes without cutting a rune in two.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
