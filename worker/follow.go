package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"onceover/celery"
	"onceover/rabbit"
	"onceover/results"
)

// followers plans what a finished task starts: its callbacks and the next step
// of its chain, each with the result before its own arguments
// (celery/app/trace.py).
func followers(p *celery.Plan, req *celery.Request, result json.RawMessage) error {
	args := []json.RawMessage{result}
	start := func(s *celery.Signature, over celery.Options) error {
		_, err := p.Apply(s, args, over)
		return err
	}
	callbacks := req.Callbacks
	if len(callbacks) > 1 {
		// Groups by themselves, the others together as one group.
		var tasks []*celery.Signature
		for _, s := range callbacks {
			if s.Kind != celery.KindGroup {
				tasks = append(tasks, s)
			} else if err := start(s, celery.Options{}); err != nil {
				return err
			}
		}
		callbacks = nil
		if len(tasks) > 0 {
			callbacks = celery.Signatures{celery.Group(tasks...)}
		}
	}
	for _, s := range callbacks {
		if err := start(s, celery.Options{}); err != nil {
			return err
		}
	}
	if n := len(req.Chain); n > 0 {
		return start(req.Chain[n-1], celery.Options{Chain: req.Chain[:n-1]})
	}
	return nil
}

// flush carries out a plan: chords are begun before any task of their headers is
// published.
func (e *ending) flush(ctx context.Context, p *celery.Plan, again bool) error {
	for _, c := range p.ChordSizes {
		if err := e.w.results.BeginChord(ctx, c, again); err != nil {
			return err
		}
	}
	for _, g := range p.Groups {
		if err := e.w.results.SaveGroup(ctx, g); err != nil {
			return err
		}
	}
	messages := make([]rabbit.Message, len(p.Messages))
	for i, m := range p.Messages {
		if m.Exchange == "" && m.Queue == "" && m.RoutingKey == "" {
			m.Queue = e.w.cfg.DefaultQueue
		}
		var err error
		if messages[i], err = rabbit.New(m); err != nil { // as of a signature with what is no JSON
			return &rabbit.UndeliverableError{Exchange: m.Exchange, RoutingKey: cmp.Or(m.RoutingKey, m.Queue), Err: err}
		}
		messages[i].Own.Again, messages[i].Own.From = again, e.name
	}
	return e.publish(ctx, messages...)
}

// chordPart counts req, which has ended in state, for the chord in whose header
// it is, and dispatches the chord's body if req was the last part. req is the
// task's request, or stands for a step that will not run any more.
func (e *ending) chordPart(ctx context.Context, req *celery.Request, state celery.State, result json.RawMessage) error {
	return e.countPart(ctx, req, state, result, nil)
}

// countPart is chordPart for a failure about which the errbacks in called know.
func (e *ending) countPart(ctx context.Context, req *celery.Request, state celery.State, result json.RawMessage, called celery.Signatures) error {
	if req.Chord == nil || req.Group == "" {
		return nil
	}
	part := results.Part{TaskID: req.ID, Group: req.Group, Index: req.GroupIndex, State: state, Result: result}
	complete, err := e.w.results.CountPart(ctx, part)
	if exc := unstorable(err); exc != nil {
		if part.Result, err = celery.MarshalJSON(shortened(exc)); err != nil {
			return err
		}
		part.State = celery.Failure
		complete, err = e.w.results.CountPart(ctx, part)
	}
	if err != nil || !complete {
		return err
	}
	header, err := e.w.results.Header(ctx, req.Group)
	var exc *celery.Exception
	if err == nil {
		p := celery.Plan{Parent: req, Salt: "chord", Now: time.Now(), Origin: e.w.origin}
		if _, planErr := p.Apply(req.Chord, []json.RawMessage{header}, celery.Options{}); planErr != nil {
			exc = &celery.Exception{Type: "ChordError", Module: celery.ModuleCelery,
				Args: []any{"Callback error: " + planErr.Error()}, Err: planErr}
		} else if err := e.flush(ctx, &p, e.again); err == nil {
			return e.w.results.ChordDone(ctx, req.Group)
		} else if unpublishable(err) == nil {
			return err
		} else {
			exc = &celery.Exception{Type: "ChordError", Module: celery.ModuleCelery,
				Args: []any{"Callback error: " + err.Error()}, Err: err}
			e.perhaps = errors.Is(err, rabbit.ErrUnconfirmed)
		}
	} else if !errors.As(err, &exc) {
		return err
	}
	if err := e.failBody(ctx, req.Chord, exc, called); err != nil {
		return err
	}
	return e.w.results.ChordFailed(ctx, req.Group)
}

// afterFailure hands a failure on: to the chord, to the steps that would have
// followed, to the errbacks (celery/backends/base.py, mark_as_failure).
func (e *ending) afterFailure(ctx context.Context, exc *celery.Exception) error {
	raw, err := celery.MarshalJSON(exc)
	if err != nil {
		return err
	}
	if err := e.chordPart(ctx, e.req, celery.Failure, raw); err != nil {
		return err
	}
	if err := e.failChain(ctx, e.req.Chain, exc); err != nil {
		return err
	}
	_, err = e.errbacks(ctx, e.req, e.req.Errbacks, exc)
	return err
}

// failChain fails the steps of a chain, which stand backwards.
func (e *ending) failChain(ctx context.Context, chain celery.Signatures, exc *celery.Exception) error {
	for _, step := range slices.Backward(chain) {
		if err := e.failStep(ctx, step, exc, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// failStep stores the failure for a step that will not run, so that nobody waits
// for it, and counts it for its chord. children are what was started on its
// behalf, called the errbacks that know of the failure.
func (e *ending) failStep(ctx context.Context, s *celery.Signature, exc *celery.Exception, children []*celery.Result, called celery.Signatures) error {
	o := s.Options
	if o.TaskID != "" {
		if err := e.failID(ctx, o.TaskID, exc, children); err != nil {
			return err
		}
	}
	if o.Chord != nil && o.TaskID != "" {
		raw, err := celery.MarshalJSON(exc)
		if err != nil {
			return err
		}
		part := &celery.Request{ID: o.TaskID, Group: o.GroupID, GroupIndex: o.GroupIndex, Chord: o.Chord, RootID: e.req.RootID}
		if err := e.countPart(ctx, part, celery.Failure, raw, called); err != nil {
			return err
		}
	}
	switch s.Kind {
	case celery.KindChord:
		return e.failStep(ctx, s.Body, exc, nil, called)
	case celery.KindGroup, celery.KindChain:
		for _, t := range s.Tasks {
			if err := e.failStep(ctx, t, exc, nil, called); err != nil {
				return err
			}
		}
	}
	return nil
}

// failBody fails the body of a chord whose header failed, and calls its errbacks
// (celery/backends/base.py, chord_error_from_stack). If the chord is in the
// header of another one, that one fails, too: Celery lets it wait for ever. An
// errback of both, as link_error of the outer one makes it, is called once.
func (e *ending) failBody(ctx context.Context, body *celery.Signature, exc *celery.Exception, called celery.Signatures) error {
	failWith := func(s *celery.Signature, exc *celery.Exception) error {
		failed := &celery.Request{
			ID: s.Options.TaskID, Task: s.Task, RootID: e.req.RootID, ParentID: e.req.ID,
			Group: s.Options.GroupID, Args: s.Args, Kwargs: s.Kwargs, ReplyTo: e.req.ReplyTo,
		}
		errbacks := s.Options.LinkError.Without(called)
		children, err := e.errbacks(ctx, failed, errbacks, exc)
		if err != nil {
			return err
		}
		return e.failStep(ctx, s, exc, children, append(errbacks, called...))
	}
	if body.Kind == celery.KindGroup {
		// Each member fails with what really went wrong.
		var cause *celery.Exception
		if errors.As(exc.Err, &cause) {
			exc = cause
		}
		for _, t := range body.Tasks {
			t = t.Clone()
			t.Options.LinkError = append(t.Options.LinkError, body.Options.LinkError...)
			if err := failWith(t, exc); err != nil {
				return err
			}
		}
		if err := e.failID(ctx, body.Options.TaskID, exc, nil); err != nil {
			return err
		}
	} else if err := failWith(body, exc); err != nil {
		return err
	}
	return e.failChain(ctx, body.Options.Chain, exc)
}

// errbacks calls the error callbacks of a failed task: those registered here as
// Errback at once, the others by message, as one group. It returns what it
// started.
func (e *ending) errbacks(ctx context.Context, failed *celery.Request, list celery.Signatures, exc *celery.Exception) ([]*celery.Result, error) {
	var others []*celery.Signature
	for _, s := range list {
		t, known := e.w.tasks[s.Task]
		if !known || t.Errback == nil {
			others = append(others, s)
			continue
		}
		if err := runErrback(ctx, t, failed, exc); err != nil {
			e.w.log.Warn("error callback failed", zap.String("task_id", failed.ID), zap.String("errback", s.Task), zap.Error(err))
		}
	}
	if len(others) == 0 {
		return nil, nil
	}
	id, err := celery.MarshalJSON(failed.ID)
	if err != nil {
		return nil, err
	}
	p := e.planFor(failed, "errback")
	if _, err := p.Apply(celery.Group(others...), []json.RawMessage{id}, celery.Options{}); err != nil {
		e.w.log.Warn("error callbacks not sent", zap.String("task_id", failed.ID), zap.Error(err))
		return nil, nil
	}
	err = e.flush(ctx, &p, e.again)
	if unpublishable(err) != nil {
		e.w.log.Warn("error callbacks not sent", zap.String("task_id", failed.ID), zap.Error(err))
		return nil, nil
	}
	return p.Children, err
}

func runErrback(ctx context.Context, t *task, failed *celery.Request, exc *celery.Exception) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = celery.Recovered(p)
		}
	}()
	return t.Errback(ctx, failed, exc)
}

// failID stores a failure for a task that did not run.
func (e *ending) failID(ctx context.Context, id string, exc *celery.Exception, children []*celery.Result) error {
	other := &celery.Request{ID: id}
	m, err := celery.NewMeta(other, celery.Failure, exc, time.Now())
	if err != nil {
		return err
	}
	if len(children) > 0 {
		if m.Children, err = celery.MarshalJSON(children); err != nil {
			return err
		}
	}
	if e.perhaps { // see isNone
		m.Unconfirmed = e.name
	}
	_, _, err = e.w.bookOf(other).Result(ctx, "", m, celery.Stored{}, e.req.ReplyTo)
	return err
}
