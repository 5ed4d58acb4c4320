package worker

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
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
// published. What has been done is taken off the plan; its children stay.
func (j *job) flush(ctx context.Context, p *celery.Plan, again bool) error {
	for _, c := range p.ChordSizes {
		if err := j.w.results.BeginChord(ctx, c); err != nil {
			return err
		}
	}
	for _, g := range p.Groups {
		if err := j.w.results.SaveGroup(ctx, g); err != nil {
			return err
		}
	}
	messages := make([]Outgoing, 0, len(p.Messages))
	for _, m := range p.Messages {
		out, err := j.w.outgoing(m, again)
		if err != nil {
			return err
		}
		messages = append(messages, out)
	}
	p.ChordSizes, p.Groups, p.Messages = nil, nil, nil
	return j.w.outbox.publish(ctx, messages...)
}

// chordPart counts req, which has ended in state, for the chord in whose header
// it is, and dispatches the chord's body if req was the last part. req is the
// job's request, or stands for a step that will not run any more.
func (j *job) chordPart(ctx context.Context, req *celery.Request, state celery.State, result json.RawMessage, again bool) error {
	return j.countPart(ctx, req, state, result, nil, again)
}

// countPart is chordPart for a failure about which the errbacks in called know.
func (j *job) countPart(ctx context.Context, req *celery.Request, state celery.State, result json.RawMessage, called celery.Signatures, again bool) error {
	if req.Chord == nil || req.Group == "" {
		return nil
	}
	complete, err := j.w.results.CountPart(ctx, results.Part{
		TaskID: req.ID, Group: req.Group, Index: req.GroupIndex, State: state, Result: result,
	})
	if err != nil || !complete {
		return err
	}
	header, err := j.w.results.Header(ctx, req.Group)
	var exc *celery.Exception
	if err == nil {
		p := celery.Plan{Parent: req, Salt: "chord", Now: time.Now(), Origin: j.w.origin}
		if _, planErr := p.Apply(req.Chord, []json.RawMessage{header}, celery.Options{}); planErr != nil {
			exc = &celery.Exception{Type: "ChordError", Module: celery.ModuleCelery,
				Args: []any{"Callback error: " + planErr.Error()}, Err: planErr}
		} else if err := j.flush(ctx, &p, again); err == nil {
			return j.w.results.ChordDone(ctx, req.Group)
		} else if !undeliverable(err) {
			return err
		} else {
			exc = &celery.Exception{Type: "ChordError", Module: celery.ModuleCelery,
				Args: []any{"Callback error: " + err.Error()}, Err: err}
		}
	} else if !errors.As(err, &exc) {
		return err
	}
	if err := j.failBody(ctx, req.Chord, exc, called, again); err != nil {
		return err
	}
	return j.w.results.ChordFailed(ctx, req.Group)
}

// afterFailure hands a failure on: to the chord, to the steps that would have
// followed, to the errbacks (celery/backends/base.py, mark_as_failure).
func (j *job) afterFailure(ctx context.Context, exc *celery.Exception, again bool) error {
	raw, err := celery.MarshalJSON(exc)
	if err != nil {
		return err
	}
	if err := j.chordPart(ctx, j.req, celery.Failure, raw, again); err != nil {
		return err
	}
	if err := j.failChain(ctx, j.req.Chain, exc, again); err != nil {
		return err
	}
	_, err = j.errbacks(ctx, j.req, j.req.Errbacks, exc, again)
	return err
}

// failChain fails the steps of a chain, which stand backwards.
func (j *job) failChain(ctx context.Context, chain celery.Signatures, exc *celery.Exception, again bool) error {
	for _, step := range slices.Backward(chain) {
		if err := j.failStep(ctx, step, exc, nil, nil, again); err != nil {
			return err
		}
	}
	return nil
}

// failStep stores the failure for a step that will not run, so that nobody waits
// for it, and counts it for its chord. children are what was started on its
// behalf, called the errbacks that know of the failure.
func (j *job) failStep(ctx context.Context, s *celery.Signature, exc *celery.Exception, children []*celery.Result, called celery.Signatures, again bool) error {
	o := s.Options
	if o.TaskID != "" {
		if err := j.failID(ctx, o.TaskID, exc, children); err != nil {
			return err
		}
	}
	if o.Chord != nil && o.TaskID != "" {
		raw, err := celery.MarshalJSON(exc)
		if err != nil {
			return err
		}
		part := &celery.Request{ID: o.TaskID, Group: o.GroupID, GroupIndex: o.GroupIndex, Chord: o.Chord, RootID: j.req.RootID}
		if err := j.countPart(ctx, part, celery.Failure, raw, called, again); err != nil {
			return err
		}
	}
	switch s.Kind {
	case celery.KindChord:
		return j.failStep(ctx, s.Body, exc, nil, called, again)
	case celery.KindGroup, celery.KindChain:
		for _, t := range s.Tasks {
			if err := j.failStep(ctx, t, exc, nil, called, again); err != nil {
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
func (j *job) failBody(ctx context.Context, body *celery.Signature, exc *celery.Exception, called celery.Signatures, again bool) error {
	failWith := func(s *celery.Signature, exc *celery.Exception) error {
		failed := &celery.Request{
			ID: s.Options.TaskID, Task: s.Task, RootID: j.req.RootID, ParentID: j.req.ID,
			Group: s.Options.GroupID, Args: s.Args, Kwargs: s.Kwargs, ReplyTo: j.req.ReplyTo,
		}
		errbacks := s.Options.LinkError.Without(called)
		children, err := j.errbacks(ctx, failed, errbacks, exc, again)
		if err != nil {
			return err
		}
		return j.failStep(ctx, s, exc, children, append(errbacks, called...), again)
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
		if err := j.failID(ctx, body.Options.TaskID, exc, nil); err != nil {
			return err
		}
	} else if err := failWith(body, exc); err != nil {
		return err
	}
	return j.failChain(ctx, body.Options.Chain, exc, again)
}

// errbacks calls the error callbacks of a failed task: those registered here as
// Errback at once, the others by message, as one group. It returns what it
// started.
func (j *job) errbacks(ctx context.Context, failed *celery.Request, list celery.Signatures, exc *celery.Exception, again bool) ([]*celery.Result, error) {
	var others []*celery.Signature
	for _, s := range list {
		t, known := j.w.tasks[s.Task]
		if !known || t.Errback == nil {
			others = append(others, s)
			continue
		}
		if err := runErrback(ctx, t, failed, exc); err != nil {
			j.w.log.Warn("error callback failed", zap.String("task_id", failed.ID), zap.String("errback", s.Task), zap.Error(err))
		}
	}
	if len(others) == 0 {
		return nil, nil
	}
	id, err := celery.MarshalJSON(failed.ID)
	if err != nil {
		return nil, err
	}
	p := celery.Plan{Parent: failed, Salt: j.salt("errback"), Now: time.Now(), Origin: j.w.origin}
	if _, err := p.Apply(celery.Group(others...), []json.RawMessage{id}, celery.Options{}); err != nil {
		j.w.log.Warn("error callbacks not sent", zap.String("task_id", failed.ID), zap.Error(err))
		return nil, nil
	}
	err = j.flush(ctx, &p, again)
	if undeliverable(err) {
		j.w.log.Warn("error callbacks not sent", zap.String("task_id", failed.ID), zap.Error(err))
		return nil, nil
	}
	return p.Children, err
}

// operationalError is what Celery fails a task with whose successors could not be
// sent.
func operationalError(err error) *celery.Exception {
	return &celery.Exception{Type: "OperationalError", Module: "kombu.exceptions", Args: []any{err.Error()}, Err: err}
}

func runErrback(ctx context.Context, t *task, failed *celery.Request, exc *celery.Exception) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = celery.Recovered(p)
		}
	}()
	return t.Errback(ctx, failed, exc)
}

// store saves a state of the job in DB0, unless nobody wants results. result is
// any JSON value.
// It reports false if the job has ended in another run meanwhile: then that stays.
func (j *job) store(ctx context.Context, state celery.State, result any, children []*celery.Result) (saved bool, err error) {
	return j.storeIf(ctx, j.mine, state, result, children)
}

// storeIf is store if may allows it for what is stored already.
func (j *job) storeIf(ctx context.Context, may func(stored []byte) bool, state celery.State, result any, children []*celery.Result) (saved bool, err error) {
	if j.req.IgnoreResult {
		return true, nil
	}
	m, err := j.meta(state, result, children)
	if err != nil {
		return false, err
	}
	return j.save(ctx, m, j.req.ReplyTo, may)
}

// meta is the document of a state of the job.
func (j *job) meta(state celery.State, result any, children []*celery.Result) (celery.Meta, error) {
	if exc, ok := result.(*celery.Exception); ok && exc == nil {
		result = nil
	}
	m, err := celery.NewMeta(j.req, state, result, time.Now())
	if err != nil {
		return m, err
	}
	if len(children) > 0 {
		if m.Children, err = celery.MarshalJSON(children); err != nil {
			return m, err
		}
	}
	if j.w.cfg.ResultExtended {
		m.Extend(j.req, j.w.cfg.NodeName)
	}
	return m, nil
}

// save stores m, or with rpc:// results sends it to the client's queue, which may
// have gone (celery/backends/rpc.py, store_result).
func (j *job) save(ctx context.Context, m celery.Meta, replyTo string, may func(stored []byte) bool) (saved bool, err error) {
	if !j.w.cfg.RPCResults {
		return j.w.results.SaveIf(ctx, m, may)
	}
	if replyTo == "" {
		return true, nil
	}
	body, err := celery.MarshalJSON(m)
	if err != nil {
		return false, err
	}
	return true, j.w.outbox.publish(ctx, Outgoing{RoutingKey: replyTo, Optional: true, Publishing: amqp.Publishing{
		Headers: amqp.Table{}, ContentType: celery.ContentTypeJSON, ContentEncoding: "utf-8",
		CorrelationId: m.TaskID, DeliveryMode: amqp.Transient, Body: body,
	}})
}

// unstored tells that DB0 will not know of the job's end.
func (j *job) unstored() bool { return j.req.IgnoreResult || j.w.cfg.RPCResults }

// failID stores a failure for a task that did not run.
func (j *job) failID(ctx context.Context, id string, exc *celery.Exception, children []*celery.Result) error {
	m, err := celery.NewMeta(&celery.Request{ID: id}, celery.Failure, exc, time.Now())
	if err != nil {
		return err
	}
	if len(children) > 0 {
		if m.Children, err = celery.MarshalJSON(children); err != nil {
			return err
		}
	}
	_, err = j.save(ctx, m, j.req.ReplyTo, nil)
	return err
}

// stored is what is known of an earlier run of the id; nil if nothing is.
func (j *job) stored(ctx context.Context) (*celery.Meta, error) {
	if j.unstored() {
		m, err := j.w.marks.Finished(ctx, j.req.ID)
		if err != nil || m.State == "" {
			return nil, err
		}
		return &celery.Meta{Status: m.State, TaskID: j.req.ID, Retries: &m.Attempt}, nil
	}
	m, err := j.w.results.Load(ctx, j.req.ID)
	var damaged *celery.MetaError
	if errors.As(err, &damaged) {
		return nil, nil // not Celery's: the job runs and replaces it
	}
	return m, err
}

// markFinished remembers the end of an attempt whose result is not stored. What
// follows from it has been done by then.
func (j *job) markFinished(ctx context.Context, state celery.State) error {
	if !j.unstored() {
		return nil
	}
	return j.w.marks.MarkFinished(ctx, j.req.ID, state, j.req.Attempt())
}
