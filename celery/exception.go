package celery

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Modules of the exception classes that Celery's clients can import.
const (
	ModuleBuiltins = "builtins"
	ModuleCelery   = "celery.exceptions"
	ModuleBilliard = "billiard.exceptions"
)

// Exception is an error as Celery's result backend stores it and as
// AsyncResult.get() raises it again: Module.Type(*Args). The class should be
// one that a Python client can import; of any other, the client makes a new
// exception class of that name.
type Exception struct {
	Type   string
	Module string
	Args   []any   // JSON values, the arguments of the class
	Frames []Frame // where it happened, outermost call first; may be nil
	Err    error   // the Go error behind it, for logs; may be nil
}

// Frame is one line of a traceback.
type Frame struct {
	File string
	Line int
	Func string
}

// NewException returns the built-in Python exception class of that name with
// one message. err, the cause, may be nil.
func NewException(class, message string, err error) *Exception {
	return &Exception{Type: class, Module: ModuleBuiltins, Args: []any{message}, Err: err}
}

// NotRegistered is what Celery stores for a task that no worker knows.
func NotRegistered(task string) *Exception {
	return &Exception{Type: "NotRegistered", Module: ModuleCelery, Args: []any{task}}
}

// TaskRevoked is what Celery stores for a task that was revoked ("revoked",
// "terminated") or came too late ("expired").
func TaskRevoked(why string) *Exception {
	return &Exception{Type: "TaskRevokedError", Module: ModuleCelery, Args: []any{why}}
}

// SoftTimeLimitExceeded is raised in a task whose soft time limit has passed.
func SoftTimeLimitExceeded() *Exception {
	return &Exception{Type: "SoftTimeLimitExceeded", Module: ModuleBilliard, Args: []any{}}
}

// TimeLimitExceeded is stored for a task that was abandoned at its hard limit.
func TimeLimitExceeded(limit time.Duration) *Exception {
	return &Exception{Type: "TimeLimitExceeded", Module: ModuleBilliard, Args: []any{limit.Seconds()}}
}

// Error is the last line of a Python traceback: Class: message.
func (e *Exception) Error() string {
	name := e.Type
	if e.Module != "" && e.Module != ModuleBuiltins {
		name = e.Module + "." + e.Type
	}
	if len(e.Args) == 0 {
		return name
	}
	return name + ": " + e.Message()
}

// Message is what Python's str(e) says: the argument, or the tuple of several.
func (e *Exception) Message() string {
	switch len(e.Args) {
	case 0:
		return ""
	case 1:
		if s, ok := e.Args[0].(string); ok {
			return s
		}
		return Repr(e.Args[0])
	}
	parts := make([]string, len(e.Args))
	for i, a := range e.Args {
		parts[i] = Repr(a)
	}
	return "(" + strings.Join(parts, ", ") + ")"
}

func (e *Exception) Unwrap() error { return e.Err }

// Traceback is the text that Celery stores beside a failure, in Python's form.
func (e *Exception) Traceback() string {
	var b strings.Builder
	b.WriteString("Traceback (most recent call last):\n")
	for _, f := range e.Frames {
		fmt.Fprintf(&b, "  File %q, line %d, in %s\n", f.File, f.Line, f.Func)
	}
	b.WriteString(e.Error())
	b.WriteByte('\n')
	return b.String()
}

// MarshalJSON writes {"exc_type", "exc_message", "exc_module"}.
func (e *Exception) MarshalJSON() ([]byte, error) {
	args := e.Args
	if args == nil {
		args = []any{}
	}
	return MarshalJSON(struct {
		Type   string `json:"exc_type"`
		Args   []any  `json:"exc_message"`
		Module string `json:"exc_module"`
	}{e.Type, args, e.Module})
}

// UnmarshalJSON reads what MarshalJSON or Celery wrote; exc_message may be a
// list or a plain string, exc_module may be null.
func (e *Exception) UnmarshalJSON(data []byte) error {
	var doc struct {
		Type   *string `json:"exc_type"`
		Args   any     `json:"exc_message"`
		Module string  `json:"exc_module"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	if doc.Type == nil {
		return errors.New("exception has no exc_type")
	}
	*e = Exception{Type: *doc.Type, Module: doc.Module}
	switch a := doc.Args.(type) {
	case nil:
	case []any:
		e.Args = a
	default:
		e.Args = []any{a}
	}
	return nil
}

// Repr is the exception as Python writes it in code: ValueError('boom', 7).
func (e *Exception) Repr() string {
	parts := make([]string, len(e.Args))
	for i, a := range e.Args {
		parts[i] = Repr(a)
	}
	return e.Type + "(" + strings.Join(parts, ", ") + ")"
}

// ChordError is what a chord's body fails with when a task of its header did.
func ChordError(taskID string, exc *Exception) *Exception {
	return &Exception{Type: "ChordError", Module: ModuleCelery,
		Args: []any{"Dependency " + taskID + " raised " + exc.Repr()}, Err: exc}
}

// Retry is returned by a task that wants to be run again. When no retry is
// left, Err decides what is stored, and without it MaxRetriesExceededError.
type Retry struct {
	Err        error         // what went wrong; may be nil
	After      time.Duration // wait at least this long; 0: the worker's backoff decides
	MaxRetries *int          // in place of the task's own; nil: the task's own
	Quiet      bool          // the log has the reason already: this job's line is at level debug
	For        time.Duration // retries go on until this long after the first one, however many, with pauses of a thirtieth of it at most; 0: a number of them
	Expires    time.Time     // in place of the message's own; zero: the message's own
}

func (r *Retry) Error() string {
	if r.Err == nil {
		return "to be retried"
	}
	return r.Err.Error()
}

func (r *Retry) Unwrap() error { return r.Err }

// Postpone is returned by a task that has not begun what it was called for, as somebody else had no room for
// it: it is run again later. That is no retry: it is not counted, nor is RETRY stored. Celery has nothing like it.
type Postpone struct {
	Err   error         // why; may be nil
	After time.Duration // wait at least this long
}

func (p *Postpone) Error() string {
	if p.Err == nil {
		return "postponed"
	}
	return p.Err.Error()
}

func (p *Postpone) Unwrap() error { return p.Err }

// ErrIgnore is returned by a task whose outcome is not to be stored: no state,
// no callbacks, no chord part (celery.exceptions.Ignore).
var ErrIgnore = errors.New("the outcome is ignored")

// Reject is returned by a task that does not want its message
// (celery.exceptions.Reject). Requeued, it is delivered again; else it is kept
// as a dead letter, and FAILURE is stored.
type Reject struct {
	Reason  string
	Requeue bool
}

func (r *Reject) Error() string { return "rejected: " + r.Reason }

// Exception is what is stored for a message that is not requeued.
func (r *Reject) Exception() *Exception {
	return &Exception{Type: "Reject", Module: ModuleCelery, Args: []any{r.Reason, r.Requeue}, Err: r}
}

// Replace is returned by a task that lets a signature take its place, with its
// id, its links, its group and what follows it (celery/app/task.py, replace).
type Replace struct {
	Signature *Signature
	Stamps    map[string]any // for all of the replacement, by name; JSON values
}

func (r *Replace) Error() string { return "replaced by " + r.Signature.Task }

// Recovered makes an Exception of a recovered panic, with the stack at which it
// happened. It must be called by the deferred function that recovered.
func Recovered(value any) *Exception {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	e := NewException("RuntimeError", fmt.Sprintf("panic: %v", value), nil)
	// What ran above the panic, the deferred call and the runtime's own frames,
	// is of no interest.
	panicked := false
	for {
		f, more := frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			e.Frames, panicked = nil, true
		case strings.HasPrefix(f.Function, "runtime."):
		default:
			e.Frames = append(e.Frames, Frame{File: f.File, Line: f.Line, Func: f.Function})
		}
		if !more {
			break
		}
	}
	if !panicked {
		e.Frames = nil
	}
	slices.Reverse(e.Frames) // Python prints the outermost call first
	return e
}
