package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"onceover/celery"
	"onceover/failed"
	"onceover/rabbit"
)

// fate is how a job ends, or goes on.
type fate int

const (
	none     fate = iota // not decided
	fail                 // with an exception
	succeed              // with a value
	retry                // the next attempt is published or parked
	revoke               // expired, revoked or terminated
	ignore               // by the task's own wish: nothing is recorded
	replace              // another signature takes its place
	requeue              // back to its queue, because the task wants it so
	postpone             // not an end: there was no room for the job elsewhere, it runs again after a time
	giveBack             // not an end: nothing is wrong with the job, it runs again later
)

// verdict is how a job ends, with all that is needed to end it. A run, a refusal, a dead letter,
// a revocation and a redelivery of what has ended each come to one; ending.settle carries it out.
type verdict struct {
	fate
	value     any               // of a success, or nil and
	raw       json.RawMessage   // the value in JSON
	exc       *celery.Exception // why; nil on success, and for a retry without a reason
	err       error             // the Go error, for the log
	reason    celery.Reason     // why the job is kept as a failed one; "": it is not kept
	stage     string            // how far the handler had come when it failed, "" if it does not say
	children  []*celery.Result  // of a run: the tasks that the handler has started
	followers []*celery.Result  // of a success: those that come after it
	wait      time.Duration     // before the next attempt
	quiet     bool              // the log has the reason of the retry already
	trying    time.Time         // when the first retry was decided of those that go on for a time; zero: they are counted
	timed     int               // how many went on for a time
	expires   time.Time         // of the next attempt; zero: as before
	replace   *celery.Replace
	why       revocation
	outcome   string // as it is counted and logged
	rejected  bool   // by the task itself
}

// revocation is the part of a task-revoked event that says how.
type revocation struct {
	expired    bool
	terminated bool
	signal     int
}

// failure is the verdict for a job that fails with exc and is kept for reason.
func failure(exc *celery.Exception, reason celery.Reason) *verdict {
	return &verdict{fate: fail, exc: exc, reason: reason, outcome: outcomeFailure}
}

// revoked is the verdict for a job that nobody wants any more.
func revoked(message string, why revocation) *verdict {
	return &verdict{fate: revoke, exc: celery.TaskRevoked(message), why: why, outcome: outcomeRevoked}
}

// instead returns a failure in place of a verdict that could not be carried out.
func (v *verdict) instead(exc *celery.Exception) *verdict {
	out := failure(exc, failed.ReasonFailed)
	out.children, out.stage, out.err = v.children, v.stage, v.err
	return out
}

// state is what the verdict records, "" for nothing.
func (v *verdict) state() celery.State {
	switch v.fate {
	case succeed:
		return celery.Success
	case fail:
		return celery.Failure
	case retry:
		return celery.Retried
	case revoke:
		return celery.Revoked
	default:
		return ""
	}
}

// verdictOn is the verdict of another run, of which m is on record.
func verdictOn(m *celery.Meta) *verdict {
	v := &verdict{outcome: outcomeDuplicate, raw: m.Result}
	switch m.Status {
	case celery.Success:
		v.fate = succeed
	case celery.Failure:
		v.fate = fail
		if v.exc, _ = m.Exception(); v.exc != nil { // there is none for a mark
			v.reason = failed.ReasonFailed
		}
	case celery.Revoked:
		v.fate = revoke
		v.exc, _ = m.Exception()
	default: // RETRY, or STARTED of the next attempt: that has an end of its own
		v.fate = retry
	}
	return v
}

// verdictOnDeath is the verdict for a message that the broker has dead-lettered. One that ran out
// because its producer wanted it so is no failure, and is not kept.
func verdictOnDeath(d rabbit.Death, req *celery.Request) *verdict {
	v := failure(deathException(d), d.Reason)
	if d.Reason == rabbit.Expired {
		v.fate, v.why = revoke, revocation{expired: true}
		if !req.Expires.IsZero() && time.Now().After(req.Expires) {
			v.reason = ""
		}
	}
	v.outcome = outcomeDead
	return v
}

// deathException is how Python sees a death.
func deathException(d rabbit.Death) *celery.Exception {
	switch d.Reason {
	case rabbit.Expired:
		return celery.TaskRevoked("expired")
	case rabbit.MaxLength:
		return &celery.Exception{Type: "LimitExceeded", Module: "kombu.exceptions",
			Args: []any{fmt.Sprintf("queue %s was full: the message was dropped from it", d.Queue)}}
	case rabbit.DeliveryLimit:
		return &celery.Exception{Type: "WorkerLostError", Module: celery.ModuleBilliard,
			Args: []any{fmt.Sprintf("the message was delivered from queue %s more often than its delivery limit allows", d.Queue)}}
	default:
		return (&celery.Reject{Reason: fmt.Sprintf("the message was rejected from queue %s", d.Queue)}).Exception()
	}
}

// verdictOnRefusal is the verdict for a message that cannot be run. Python drops such messages, or
// rejects them into whatever the queue has been given, which may be nothing.
func verdictOnRefusal(e *celery.MessageError) *verdict {
	v := failure(refusal(e), e.Reason)
	v.err, v.outcome = e, outcomeRefused
	return v
}

// refusal is how Python sees a message that cannot be run.
func refusal(e *celery.MessageError) *celery.Exception {
	exc := func(class, module string) *celery.Exception {
		return &celery.Exception{Type: class, Module: module, Args: []any{e.Err.Error()}, Err: e}
	}
	switch e.Reason {
	case celery.ReasonUnknownTask:
		return celery.NotRegistered(e.Task)
	case celery.ReasonContentType:
		return exc("ContentDisallowed", "kombu.exceptions")
	default:
		return exc("DecodeError", "kombu.exceptions")
	}
}

func unknownTask(req *celery.Request) *celery.MessageError {
	return &celery.MessageError{ID: req.ID, Task: req.Task, Reason: celery.ReasonUnknownTask,
		Err: fmt.Errorf("task %q is not registered with this worker", req.Task)}
}

// unstorable is the exception of a job whose end the server of a store does not take, nil if err
// is something else.
func unstorable(err error) *celery.Exception {
	var refused interface{ Refused() bool }
	if errors.As(err, &refused) && refused.Refused() {
		return celery.NewException("RuntimeError", "what the task returned cannot be stored: "+err.Error(), err)
	}
	return nil
}

// unpublishable is the exception with which Celery fails a task whose successors could not be
// sent, nil if err is something else: an outage, or that the worker stops.
func unpublishable(err error) *celery.Exception {
	for _, final := range []error{rabbit.ErrUnroutable, rabbit.ErrRefused, rabbit.ErrUnconfirmed} {
		if errors.Is(err, final) && !errors.Is(err, errStopping) {
			return operationalError(err)
		}
	}
	if rabbit.Undeliverable(err) {
		return operationalError(err)
	}
	return nil
}

// maxExceptionText bounds what is stored of an exception that was too large for the server, in
// bytes.
const maxExceptionText = 4 << 10

// shortened is exc with its message cut, and without the place where it happened.
func shortened(exc *celery.Exception) *celery.Exception {
	text := exc.Message()
	if len(text) > maxExceptionText {
		text = strings.ToValidUTF8(text[:maxExceptionText], "") + "…"
	}
	return &celery.Exception{Type: exc.Type, Module: exc.Module, Args: []any{text}, Err: exc.Err}
}

func operationalError(err error) *celery.Exception {
	return &celery.Exception{Type: "OperationalError", Module: "kombu.exceptions", Args: []any{err.Error()}, Err: err}
}
