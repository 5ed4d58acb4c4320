package celery

import (
	"encoding/json"
	"fmt"
	"time"
)

// State is one of Celery's task states.
type State string

const (
	Pending State = "PENDING" // nothing is stored
	Started State = "STARTED"
	Retried State = "RETRY"
	Success State = "SUCCESS"
	Failure State = "FAILURE"
	Revoked State = "REVOKED"
)

// Final reports whether a task in this state is over, so that a client stops
// waiting (celery.states.READY_STATES).
func (s State) Final() bool { return s == Success || s == Failure || s == Revoked }

// Meta is the document that Celery's result backend keeps for a task, with its
// keys in the order in which Python writes them. Layout follows
// celery/backends/base.py, _get_result_meta.
type Meta struct {
	Status    State           `json:"status"`
	Result    json.RawMessage `json:"result"` // the value, or an encoded Exception
	Traceback *string         `json:"traceback"`
	Children  json.RawMessage `json:"children"`
	DateDone  *string         `json:"date_done"` // only in a final state
	GroupID   string          `json:"group_id,omitempty"`
	ParentID  string          `json:"parent_id,omitempty"`
	// Retries is the retry number of the attempt. It is there in the state RETRY,
	// by which a redelivered attempt that is over is recognised, and with Extended.
	Retries *int `json:"retries,omitempty"`
	// Nesting is how often the task had been replaced, beside Retries in the state
	// RETRY. The key is ours.
	Nesting int `json:"replaced_task_nesting,omitempty"`
	// Unconfirmed names who has recorded FAILURE because the broker did not confirm the
	// task's message, which may be in its queue all the same. The key is ours.
	Unconfirmed string `json:"unconfirmed,omitempty"`
	*Extended
	TaskID string `json:"task_id"`
}

type plainMeta Meta

// MarshalJSON writes the document with the values of the stamps beside the
// other keys.
func (m Meta) MarshalJSON() ([]byte, error) {
	doc, err := MarshalJSON(plainMeta(m))
	if err != nil || m.Extended == nil || len(m.stamps) == 0 {
		return doc, err
	}
	stamps, err := MarshalJSON(m.stamps)
	if err != nil {
		return nil, err
	}
	return append(append(doc[:len(doc)-1], ','), stamps[1:]...), nil
}

// Extended is what result_extended = True adds to a Meta.
type Extended struct {
	Name   string                     `json:"name"`
	Args   []json.RawMessage          `json:"args"`
	Kwargs map[string]json.RawMessage `json:"kwargs"`
	Worker string                     `json:"worker"`
	Queue  string                     `json:"queue"` // the routing key of the delivery

	StampedHeaders []string `json:"stamped_headers,omitempty"`
	stamps         map[string]json.RawMessage
}

// NewMeta returns the document for a task that is now in state. result is any
// JSON value, one that is encoded already if it is a json.RawMessage; for RETRY, FAILURE and REVOKED it is the *Exception, whose
// traceback is taken along except for REVOKED and for exceptions of the worker
// itself, as in Celery. now becomes date_done if the state is final. The error
// is a [*MetaError].
func NewMeta(r *Request, state State, result any, now time.Time) (Meta, error) {
	raw, made := result.(json.RawMessage) // by MarshalJSON, or read from a document
	var err error
	if !made || raw == nil {
		raw, err = MarshalJSON(result)
	}
	if err != nil {
		return Meta{}, &MetaError{TaskID: r.ID, Err: fmt.Errorf("the result is not a JSON value: %w", err)}
	}
	m := Meta{
		Status:   state,
		Result:   raw,
		Children: json.RawMessage("[]"),
		GroupID:  r.Group,
		ParentID: r.ParentID,
		TaskID:   r.ID,
	}
	if state == Retried {
		m.Retries, m.Nesting = &r.Retries, r.ReplacedTaskNesting
	}
	if exc, ok := result.(*Exception); ok && exc != nil && state != Revoked && exc.hasTraceback() {
		text := exc.Traceback()
		m.Traceback = &text
	}
	if state.Final() {
		done := now.UTC().Format("2006-01-02T15:04:05.000000+00:00")
		m.DateDone = &done
	}
	return m, nil
}

// hasTraceback is false for what did not happen inside a task: Celery stores
// null for these.
func (e *Exception) hasTraceback() bool {
	return e.Type != "NotRegistered" && e.Type != "TimeLimitExceeded"
}

// MetaError says that a document cannot be written or read as a Meta, which
// waiting will not mend.
type MetaError struct {
	TaskID string
	Err    error
}

func (e *MetaError) Error() string { return "meta of task " + e.TaskID + ": " + e.Err.Error() }
func (e *MetaError) Unwrap() error { return e.Err }

// DecodeMeta reads a stored document. The error is a [*MetaError].
func DecodeMeta(taskID string, doc []byte) (*Meta, error) {
	var m Meta
	if err := json.Unmarshal(doc, &m); err != nil {
		return nil, &MetaError{TaskID: taskID, Err: fmt.Errorf("the stored value is not a result of Celery: %w", err)}
	}
	return &m, nil
}

// Exception decodes the result of a failed, retried or revoked task.
func (m *Meta) Exception() (*Exception, error) {
	var e Exception
	if err := json.Unmarshal(m.Result, &e); err != nil {
		return nil, &MetaError{TaskID: m.TaskID, Err: fmt.Errorf("the stored exception is not one of Celery's: %w", err)}
	}
	return &e, nil
}

// Extend adds what result_extended adds for r, run by the node worker.
func (m *Meta) Extend(r *Request, worker string) {
	e := &Extended{
		Name: r.Task, Args: r.Args, Kwargs: r.Kwargs,
		Worker: worker, Queue: r.Delivery.RoutingKey,
		StampedHeaders: r.StampedHeaders, stamps: r.Stamps,
	}
	m.Extended, m.Retries = e, &r.Retries
	if e.Args == nil {
		e.Args = []json.RawMessage{}
	}
	if e.Kwargs == nil {
		e.Kwargs = map[string]json.RawMessage{}
	}
}
