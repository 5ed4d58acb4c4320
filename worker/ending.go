package worker

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/crash"
	"onceover/rabbit"
)

// ending is a task on the way from its verdict to its acknowledgement: of a job that has run, or
// of a message that is refused, dead-lettered or revoked and has not.
type ending struct {
	w       *Worker
	message rabbit.Message
	req     *celery.Request
	task    *task
	book    book
	refused *celery.MessageError // why the message cannot be run, else nil: of req only the id and the names are known then

	since   celery.Stored // on record when the run began
	lease   string        // the name under which the task has its id, "" if it has not, or not any more
	again   bool          // what is published may have been published before
	started time.Time     // of the run, zero if there was none

	shortened bool   // the exception was too large for the server, or could not be written
	name      string // among all endings, as the messages that it publishes have it
	perhaps   bool   // the broker did not confirm one of these, which may be in its queue all the same
	recorded  bool   // verdict is on record: settle goes on behind that
	verdict   *verdict
	meta      *celery.Meta // the document of the verdict, made once
}

// newEnding returns the ending of a request. t is nil for a task that is not registered here.
func (w *Worker) newEnding(m rabbit.Message, req *celery.Request, t *task) *ending {
	if t == nil {
		t = &task{Task: Task{Name: req.Task}}
	}
	req.IgnoreResult = req.IgnoreResult || t.IgnoreResult
	return &ending{w: w, message: m, req: req, task: t, book: w.bookOf(req), name: rand.Text()}
}

// newRefusal returns the ending of a message that cannot be run.
func (w *Worker) newRefusal(m rabbit.Message, why *celery.MessageError) *ending {
	e := w.newEnding(m, &celery.Request{ID: why.ID, Task: why.Task, ReplyTo: m.Properties.ReplyTo}, nil)
	e.refused = why
	return e
}

// settle carries out a verdict, all but the acknowledgement, in this order:
//
//	AfterReturn of a retry ─ publish what follows ─ record ─ tell chord, chain and errbacks ─
//	keep ─ mark ─ AfterReturn ─ event
//
// It returns the verdict that holds: that of another run, if Redis says that one has ended the
// task since this run began, or a failure, if the verdict cannot be carried out. After an error
// it may be called again with the returned verdict, and goes on. Once a verdict is on record, it is
// that one whatever v says.
func (e *ending) settle(ctx context.Context, v *verdict) (*verdict, error) {
	if e.recorded {
		v = e.verdict
	}
	if v.state() == "" && v.fate != replace {
		return v, nil
	}
	if !e.recorded {
		var err error
		if v, err = e.record(ctx, v); err != nil {
			return v, err
		}
		e.recorded, e.verdict = true, v
		switch {
		case v.outcome == outcomeDuplicate:
			e.again = true // the other run has begun with the steps behind
		case v.fate == succeed:
			crash.Point("after-store")
		case v.fate == fail:
			crash.Point("after-store-failure")
		}
	}
	if v.fate == retry || v.fate == replace {
		return v, e.mark(ctx, v) // what comes next tells chord and callbacks
	}
	for _, step := range []func(context.Context, *verdict) error{e.tell, e.keep, e.mark, e.afterReturn} {
		if err := step(ctx, v); err != nil {
			return v, err
		}
	}
	return v, nil
}

// record publishes what follows from a verdict, and records it, unless another run has ended the
// task.
func (e *ending) record(ctx context.Context, v *verdict) (*verdict, error) {
	follow, v := e.follow(v)
	if follow != nil {
		now, err := e.look(ctx, v)
		if err != nil {
			return v, err
		}
		switch {
		case e.isMine(now):
			follow = func(context.Context) error { return nil } // it was published before that
		case e.overtaken(e.since, now):
			return verdictOn(now.Meta), nil
		}
		if v.fate == retry {
			e.since = now // another run may record an end as soon as the next attempt is published
			if err := e.afterReturn(ctx, v); err != nil {
				return v, err
			}
		}
		if err := follow(ctx); err != nil {
			if exc := unpublishable(err); exc != nil {
				e.perhaps = errors.Is(err, rabbit.ErrUnconfirmed)
				return e.record(ctx, v.instead(exc))
			}
			return v, err
		}
	}
	if v.state() == "" || e.req.ID == "" {
		return v, nil
	}
	if _, last := e.book.(marked); last && e.again && follow == nil { // what another run has marked would be seen too late
		now, err := e.look(ctx, v)
		if err != nil {
			return v, err
		}
		if !e.isMine(now) && e.overtaken(e.since, now) {
			return verdictOn(now.Meta), nil
		}
	}
	crash.Point("before-store")
	m, err := e.document(v)
	switch {
	case err == nil:
	case v.fate == retry:
		return v, nil // the next attempt is on its way; RETRY is for those who look
	case v.exc != nil && !e.shortened: // what it was raised with is no JSON value
		e.shorten(v)
		return e.record(ctx, v)
	default:
		return v, err
	}
	run := ""
	if v.fate == succeed && e.req.Chord == nil {
		run = e.lease // nothing is left but what another run may do too
	}
	theirs, released, err := e.book.Result(ctx, run, *m, e.since, e.req.ReplyTo)
	if released {
		e.lease = ""
	}
	if exc := unstorable(err); exc != nil {
		switch {
		case v.fate == succeed:
			return e.record(ctx, v.instead(exc))
		case v.fate == retry:
			err = nil // the next attempt is on its way; RETRY is for those who look
		case v.exc != nil && !e.shortened:
			e.shorten(v)
			return e.record(ctx, v)
		}
	}
	if err == nil && theirs.Meta != nil && v.fate != retry {
		if theirs.Meta.Status == celery.Retried && theirs.Meta.Attempt() < e.req.Attempt() {
			e.since = theirs // of the attempt before, which was slow to record it
			return e.record(ctx, v)
		}
		v = verdictOn(theirs.Meta)
	}
	return v, err
}

// shorten replaces the exception of a verdict that cannot be stored as it is.
func (e *ending) shorten(v *verdict) {
	e.shortened, e.meta = true, nil
	v.exc = shortened(v.exc)
}

// look returns what is on record before what follows from a verdict is published. Nobody else can
// have ended a task whose id this run has had all the time, so that this is not asked.
func (e *ending) look(ctx context.Context, v *verdict) (celery.Stored, error) {
	if !e.again && v.fate != retry {
		return e.since, nil
	}
	return e.book.Look(ctx, e.req.ID)
}

// overtaken reports whether an end is on record now that was not before.
func (e *ending) overtaken(before, now celery.Stored) bool {
	return now.Ended() && now.Raw != before.Raw
}

// isMine reports whether the end on record is the one that this run tried to record.
func (e *ending) isMine(now celery.Stored) bool {
	m := now.Meta
	return now.Ended() && e.meta != nil && m.Status == e.meta.Status && m.DateDone != nil && e.meta.DateDone != nil && *m.DateDone == *e.meta.DateDone
}

// document returns what is recorded of a verdict. It is the same however often it is asked for,
// as the book knows by it that it has recorded it already.
func (e *ending) document(v *verdict) (*celery.Meta, error) {
	if e.meta != nil && e.meta.Status == v.state() {
		return e.meta, nil
	}
	var result any
	if v.raw != nil {
		result = v.raw
	} else if v.exc != nil {
		result = v.exc
	}
	m, err := e.metaOf(v.state(), result, slices.Concat(v.children, v.followers))
	if err != nil {
		return nil, err
	}
	if e.perhaps { // see isNone
		m.Unconfirmed = e.name
	}
	e.meta = &m
	return e.meta, nil
}

// metaOf is the document of a state of the task. result is any JSON value.
func (e *ending) metaOf(state celery.State, result any, children []*celery.Result) (celery.Meta, error) {
	m, err := celery.NewMeta(e.req, state, result, time.Now())
	if err != nil {
		return m, err
	}
	if len(children) > 0 {
		if m.Children, err = celery.MarshalJSON(children); err != nil {
			return m, err
		}
	}
	if e.w.cfg.ResultExtended {
		m.Extend(e.req, e.w.cfg.NodeName)
	}
	return m, nil
}

// follow returns what publishes the tasks that follow from a verdict, nil if there are none. The
// verdict is completed by that, or becomes a failure if nothing sensible can be published.
func (e *ending) follow(v *verdict) (func(context.Context) error, *verdict) {
	switch v.fate {
	case succeed:
		return e.followSuccess(v)
	case retry:
		return e.followRetry(v)
	case replace:
		return e.followReplace(v)
	}
	return nil, v
}

// followSuccess plans the callbacks and the next step of the chain. The result names all of its
// children.
func (e *ending) followSuccess(v *verdict) (func(context.Context) error, *verdict) {
	if v.raw == nil {
		raw, err := marshal(v.value)
		if err != nil {
			// As Celery does when a result cannot be serialised.
			return nil, v.instead(celery.NewException("TypeError", "the result is not a JSON value: "+err.Error(), err))
		}
		v.raw = raw
	}
	p := e.plan("next")
	if err := followers(&p, e.req, v.raw); err != nil {
		return nil, v.instead(exceptionOf(err))
	}
	if len(p.Messages) == 0 {
		return nil, v
	}
	v.followers = p.Children
	return func(ctx context.Context) error { return e.flush(ctx, &p, e.again) }, v
}

// marshal encodes the value that a handler has returned, whose own code may panic in it.
func marshal(value any) (raw json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = celery.Recovered(p)
		}
	}()
	return celery.MarshalJSON(value)
}

// followReplace plans the signature that takes the task's place.
func (e *ending) followReplace(v *verdict) (func(context.Context) error, *verdict) {
	s, err := e.req.Replacement(v.replace.Signature)
	if err != nil {
		return nil, v.instead(exceptionOf(err))
	}
	for name, value := range v.replace.Stamps {
		s.Stamp(name, value)
	}
	p := e.plan(fmt.Sprintf("replace/%d", e.req.Retries))
	if _, err := p.Apply(s, nil, celery.Options{}); err != nil {
		return nil, v.instead(exceptionOf(err))
	}
	return func(ctx context.Context) error { return e.flush(ctx, &p, e.again) }, v
}

// followRetry makes the next attempt, which is published at once and waits in the worker that
// gets it, or is parked if its time is far away.
func (e *ending) followRetry(v *verdict) (func(context.Context) error, *verdict) {
	next := *e.req
	next.Retries++
	next.ETA = time.Now().Add(v.wait)
	next.Origin = e.w.origin
	if next.ParentID == "" {
		next.ParentID = e.req.ID // as Celery does
	}
	if !v.expires.IsZero() {
		next.Expires = v.expires
	}
	m := e.message.Clone()
	if err := m.SetRequest(&next); err != nil {
		return nil, v.instead(exceptionOf(err))
	}
	m.Own.Again, m.Own.Trying, m.Own.Timed, m.Own.From = e.again, v.trying, v.timed, e.name
	return func(ctx context.Context) (err error) {
		m.Own.Since = e.since.Digest()
		if v.wait > maxHold {
			err = e.park(ctx, m, &next, v.exc)
		} else {
			err = e.publish(ctx, m)
		}
		if err == nil {
			crash.Point("after-retry")
		}
		return err
	}, v
}

// park puts a message away that is due later, if it can be published then.
func (e *ending) park(ctx context.Context, m rabbit.Message, req *celery.Request, exc *celery.Exception) error {
	if err := e.w.outbox.encodable(m); err != nil {
		return err
	}
	return e.w.kept.Park(ctx, m, req, req.ETA, exc)
}

// publish sends messages within what is left of the task's own time limit.
func (e *ending) publish(ctx context.Context, messages ...rabbit.Message) error {
	limit := confirmLimit
	if _, hard := e.limits(); hard > 0 {
		if limit = hard; !e.started.IsZero() {
			limit -= time.Since(e.started)
		}
	}
	return e.w.outbox.publish(ctx, max(limit, leastConfirm), messages...)
}

// tell hands an end on: to the chord, to the steps that would have followed, to the errbacks.
func (e *ending) tell(ctx context.Context, v *verdict) error {
	switch {
	case v.exc == nil && v.raw == nil:
		return nil // what a mark says: all of it was done before the mark was set
	case e.refused != nil:
		return nil // as in Celery (worker/consumer/consumer.py, on_unknown_task)
	case v.fate == succeed:
		return e.chordPart(ctx, e.req, celery.Success, v.raw)
	case v.fate == fail, v.outcome == outcomeDead:
		return e.afterFailure(ctx, v.exc)
	}
	raw, err := celery.MarshalJSON(v.exc)
	if err != nil {
		return err
	}
	return e.chordPart(ctx, e.req, celery.Revoked, raw)
}

// keep keeps the job as failed.
func (e *ending) keep(ctx context.Context, v *verdict) error {
	if v.reason == "" {
		return nil
	}
	req := e.req
	if e.refused != nil {
		req, _ = e.message.Request() // that of an unknown task can be read
	}
	r := failed.Failure(e.message, req, v.exc, v.reason)
	r.ID, r.Task = e.req.ID, e.req.Task
	r.State, r.Worker, r.Stage = v.state(), e.w.cfg.NodeName, v.stage
	crash.Point("before-keep")
	if err := e.w.kept.Keep(ctx, r); err != nil {
		return err
	}
	crash.Point("keep-before-ack")
	return nil
}

// mark notes that nothing is left to be done.
func (e *ending) mark(ctx context.Context, v *verdict) error {
	if e.meta == nil || v.outcome == outcomeDuplicate {
		return nil
	}
	return e.book.Done(ctx, *e.meta, e.since)
}

// afterReturn calls the handler's AfterReturn.
func (e *ending) afterReturn(ctx context.Context, v *verdict) error {
	h, ok := e.task.Handler.(AfterReturner)
	if !ok {
		return nil
	}
	// A panic in it must not have the job, which is over, come again.
	defer func() {
		if p := recover(); p != nil {
			e.w.log.Error("AfterReturn panicked", e.fields(zap.String("traceback", celery.Recovered(p).Traceback()))...)
		}
	}()
	return h.AfterReturn(ctx, e.req, v.state(), v.exc)
}

// limits returns the time limits: the message's own, else the task's, else the worker's.
func (e *ending) limits() (soft, hard time.Duration) {
	soft, hard = e.w.cfg.SoftTimeLimit, e.w.cfg.TimeLimit
	if own := e.task.soft.Load(); own > 0 {
		soft = time.Duration(own)
	}
	if own := e.task.hard.Load(); own > 0 {
		hard = time.Duration(own)
	}
	if e.req.SoftTimeLimit > 0 {
		soft = e.req.SoftTimeLimit
	}
	if e.req.TimeLimit > 0 {
		hard = e.req.TimeLimit
	}
	return soft, hard
}

// plan returns a plan for what the task starts.
func (e *ending) plan(salt string) celery.Plan { return e.planFor(e.req, salt) }

// planFor returns a plan for what is started on behalf of req. A replayed job starts other tasks
// than those that it started before.
func (e *ending) planFor(req *celery.Request, salt string) celery.Plan {
	if n := e.message.Own.Replays; n > 0 {
		salt = fmt.Sprintf("%s/replay/%d", salt, n)
	}
	return celery.Plan{Parent: req, Salt: salt, Now: time.Now(), Origin: e.w.origin}
}

func (e *ending) fields(extra ...zap.Field) []zap.Field {
	return append([]zap.Field{
		zap.String("task_id", e.req.ID),
		zap.String("task_name", e.req.Name()),
		zap.String("routing_key", e.message.RoutingKey),
		zap.Int("attempt", e.req.Retries+1),
	}, extra...)
}

// event sends a task event with the task's id, if task events are on.
func (e *ending) event(kind string, fields func() map[string]any) {
	if !e.w.remote.TaskEvents() {
		return
	}
	f := map[string]any{}
	if fields != nil {
		f = fields()
	}
	f["uuid"] = e.req.ID
	e.w.remote.TaskEvent(kind, f)
}

// tellEnd sends the event of an end.
func (e *ending) tellEnd(v *verdict) {
	exception := func() map[string]any {
		if v.exc == nil {
			return map[string]any{"exception": "None", "traceback": nil}
		}
		return map[string]any{"exception": v.exc.Repr(), "traceback": v.exc.Traceback()}
	}
	switch {
	case v.outcome == outcomeDuplicate || v.outcome == outcomeDead:
	case v.outcome == outcomeRefused && v.reason != celery.ReasonUnknownTask:
	case v.rejected:
		e.event("task-rejected", func() map[string]any { return map[string]any{"requeue": v.fate == requeue} })
	case v.fate == succeed:
		e.event("task-succeeded", func() map[string]any {
			return map[string]any{"result": celery.ReprRaw(v.raw), "runtime": time.Since(e.started).Seconds()}
		})
	case v.fate == retry:
		e.event("task-retried", exception)
	case v.fate == fail:
		e.event("task-failed", exception)
	case v.fate == revoke:
		e.event("task-revoked", func() map[string]any {
			var signal any
			if v.why.terminated {
				signal = v.why.signal
			}
			return map[string]any{"terminated": v.why.terminated, "signum": signal, "expired": v.why.expired}
		})
	}
}
