package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/crash"
)

// maxHold is the longest time that a delivery is held before its ETA; one whose
// time is further away is parked.
const maxHold = 10 * time.Second

// phase is how far a job has come.
type phase int

const (
	reserved  phase = iota // received, waits for a slot
	scheduled              // received, waits for its ETA
	active                 // runs
	settled                // its outcome is decided
)

// job is one delivery on its way to its acknowledgement.
type job struct {
	w        *Worker
	consumer *consumer
	delivery amqp.Delivery
	task     *task
	req      *celery.Request
	received time.Time

	seen bool // delivered before, or published again: another run may be at work, or have been

	mu      sync.Mutex
	counted string // the name under which its run counts among those that may have died of it
	phase   phase
	started time.Time
	acked   bool
	stop    context.CancelCauseFunc // ends the wait, or the run
}

// accept takes a delivery: what cannot be run is refused, the rest gets in line
// for a slot, in the order of arrival. run ends when the worker is to stop, jobs when
// running jobs have to.
func (w *Worker) accept(run, jobs context.Context, c *consumer, d amqp.Delivery) {
	if c.session.waits.Err() != nil {
		_ = d.Nack(false, true) // what was on its way; an error means that it goes back by itself
		return
	}
	req, err := celery.Decode(properties(d), d.Headers, d.Body)
	var t *task
	if err == nil {
		var known bool
		if t, known = w.tasks[req.Task]; !known {
			err = unknownTask(req)
		}
	}
	var refused *celery.MessageError
	if errors.As(err, &refused) {
		w.jobs.Go(func() { w.refuse(jobs, c, d, refused) })
		return
	}
	exchange, key := failed.Route(d)
	req.Delivery = celery.DeliveryInfo{Exchange: exchange, RoutingKey: key, Redelivered: d.Redelivered}
	req.IgnoreResult = req.IgnoreResult || t.IgnoreResult
	j := &job{w: w, consumer: c, delivery: d, task: t, req: req, received: time.Now(), stop: func(error) {}}

	unlock, first := w.running.tryLock(req.ID)
	var place *ticket
	if first && !time.Now().Before(req.ETA) && !t.limiter.limited() {
		place = w.pool.join()
	}
	w.held.add(j)
	w.jobs.Go(func() {
		defer w.held.remove(j)
		err := j.runSafely(jobs, unlock, place)
		if err == nil {
			return
		}
		// Not acknowledged, so the broker gives the job to somebody again: at once
		// when the worker stops or its session is lost, else not so fast that it
		// would go round and round.
		if !errors.Is(err, errStopping) && !errors.Is(err, errSessionLost) {
			w.log.Warn("job goes back to its queue", j.fields(zap.Error(err))...)
			_ = pause(jobs, time.Second+rand.N(time.Second))
		}
		if jobs.Err() != nil && j.phase >= active && !j.hasAcked() {
			w.returned.Add(1)
		}
		j.giveBack()
		w.held.remove(j)
		// Redis may be what the job met with.
		ctx, done := lingering(run, time.Second)
		defer done()
		j.uncount(ctx)
	})
}

// runSafely is run, and survives a panic outside of the handler. The begin of such a
// job stays counted, so that it does not go round for ever.
func (j *job) runSafely(jobs context.Context, unlock func(), place *ticket) (err error) {
	defer func() {
		if p := recover(); p != nil {
			exc := celery.Recovered(p)
			j.setRun("")
			j.w.log.Error("panic outside of the handler", j.fields(zap.String("traceback", exc.Traceback()))...)
			err = exc
		}
	}()
	return j.run(jobs, unlock, place)
}

// run takes the job to its end. It returns an error if the delivery must not be
// acknowledged. unlock is nil if another delivery of the same id is at work.
func (j *job) run(jobs context.Context, unlock func(), place *ticket) error {
	// Waiting ends with the session, running with jobs.
	waits, stopWaiting := context.WithCancelCause(j.consumer.session.waits)
	defer stopWaiting(nil)
	j.mu.Lock()
	j.stop = stopWaiting
	j.mu.Unlock()

	j.seen = j.delivery.Redelivered || j.delivery.Headers[headerAgain] == true
	if unlock == nil {
		var err error
		if unlock, err = j.w.running.lock(waits, j.req.ID); err != nil {
			return j.waitEnded(jobs, err)
		}
		// A producer that publishes once more because it did not see the confirm. A
		// task acknowledged early does not mind, nor would Celery.
		j.seen = j.seen || !j.task.AckEarly
	}
	defer unlock()
	if place == nil {
		place = &ticket{} // of no line
	}
	defer func() { place.leave() }()

	if j.seen {
		if over, err := j.finished(jobs); over || err != nil {
			return err
		}
	}
	if exc, why := j.unwanted(false); exc != nil {
		return j.revoked(jobs, exc, why)
	}
	j.event("task-received", j.receivedFields)
	if wait := time.Until(j.req.ETA); wait > 0 {
		if over, err := j.waitForETA(waits, wait); over || err != nil {
			return j.waitEnded(jobs, err)
		}
	}
	// Who waits for a rate limit does not stand in the line: others would wait, too.
	if err := j.task.limiter.wait(waits); err != nil {
		return j.waitEnded(jobs, err)
	}
	if place.p == nil {
		place = j.w.pool.join()
	}
	if err := place.wait(waits); err != nil {
		return j.waitEnded(jobs, err)
	}
	if err := context.Cause(waits); err != nil { // both at once: somebody else gets the job
		return j.waitEnded(jobs, err)
	}
	if exc, why := j.unwanted(true); exc != nil {
		return j.revoked(jobs, exc, why)
	}
	if j.seen { // what ran elsewhere may have ended while this waited
		if over, err := j.finished(jobs); over || err != nil {
			return err
		}
	}
	return j.attempt(jobs)
}

// waitEnded is what becomes of a job whose wait was ended by err.
func (j *job) waitEnded(jobs context.Context, err error) error {
	if errors.Is(err, errRevoked) {
		return j.revoked(jobs, celery.TaskRevoked("revoked"), revocation{})
	}
	return err
}

// revocation is the part of a task-revoked event that says how.
type revocation struct {
	expired    bool
	terminated bool
	signal     int
}

// unwanted says why the job need not be run, nil if it has to be. As in Celery,
// stamps count when it is about to run: until then a job that is revoked by
// stamp keeps its place among the deliveries sent ahead.
func (j *job) unwanted(stamps bool) (*celery.Exception, revocation) {
	if !j.req.Expires.IsZero() && time.Now().After(j.req.Expires) {
		j.w.remote.Revoked.Add(j.req.ID)
		return celery.TaskRevoked("expired"), revocation{expired: true}
	}
	// A replay counts more than a revocation before it.
	since, byID := j.w.remote.Revoked.Since(j.req.ID)
	byID = byID && !since.Before(failed.ReplayedAt(j.delivery.Headers))
	if byID || j.delivery.Headers[failed.HeaderRevoked] == true || stamps && j.w.remote.Revoked.Match("", j.req.StampedHeaders, j.req.Stamps) {
		return celery.TaskRevoked("revoked"), revocation{}
	}
	return nil, revocation{}
}

// waitForETA holds the job until its time has come, outside of the slots, or parks
// it if that is far: then it is over.
func (j *job) waitForETA(waits context.Context, wait time.Duration) (over bool, err error) {
	if wait <= maxHold {
		j.enter(scheduled)
		j.w.holdMore(j.consumer)
		defer j.consumer.held.Add(-1)
		defer j.enter(reserved)
		return false, pause(waits, wait)
	}
	if err := j.w.kept.Park(waits, j.message(), j.req.ETA); err != nil {
		return false, err
	}
	crash.Point("park-before-ack")
	j.enter(settled)
	ackErr := j.ack()
	j.w.metrics.jobs.WithLabelValues(j.task.Name, outcomeParked).Inc()
	j.w.log.Info("task parked", j.fields(zap.Time("eta", j.req.ETA), zap.Bool("ack_lost", ackErr != nil))...)
	return true, nil
}

// message is the delivery as it is kept or parked.
func (j *job) message() failed.Message { return failed.MessageOf(j.delivery, j.consumer.queue) }

// attempt runs the handler once and does what follows from the outcome.
func (j *job) attempt(jobs context.Context) error {
	ctx, cancel := context.WithCancelCause(jobs)
	defer cancel(nil)
	j.mu.Lock()
	j.stop, j.phase, j.started = cancel, active, time.Now()
	j.mu.Unlock()
	if fatal, err := j.killed(ctx); err != nil {
		return err
	} else if fatal != nil {
		j.enter(settled)
		ctx, done := lingering(jobs, lastWrites)
		defer done()
		return j.fail(ctx, fatal, failed.ReasonPoison, &attempt{job: j})
	}
	defer j.outlive(ctx)()
	j.task.runs.Add(1)
	if j.task.AckEarly {
		j.ack()
	}
	if j.w.cfg.TrackStarted || j.task.TrackStarted {
		started := map[string]any{"pid": os.Getpid(), "hostname": j.w.cfg.NodeName}
		if _, err := j.store(ctx, celery.Started, started, nil); err != nil {
			return err
		}
	}
	j.event("task-started", nil)

	a := &attempt{job: j, plan: j.plan(fmt.Sprintf("send/%d", j.req.Retries))}
	a.again = j.seen
	soft, hard := j.limits()
	value, cause, err := runAttempt(context.WithValue(ctx, attemptKey{}, a), j.task.Handler, j.req, soft, hard)
	j.enter(settled)
	a.end()
	a.stage = stageOf(err)

	f := decide(j.task, err, cause, j.req)
	if f.fate == giveBack && !j.hasAcked() {
		if errors.Is(cause, errStopping) {
			return errStopping
		}
		return err
	}
	// The work is done: its outcome is still stored when the worker stops.
	ctx, done := lingering(jobs, lastWrites)
	defer done()
	if (f.fate == giveBack || f.fate == requeue) && j.hasAcked() {
		// Acknowledged early, so that there is nothing to give back.
		lost := &celery.Exception{Type: "WorkerLostError", Module: celery.ModuleBilliard, Args: []any{
			fmt.Sprintf("the task did not end, and its message had been acknowledged before it began: %v", err)}, Err: err}
		return j.fail(ctx, lost, failed.ReasonFailed, a)
	}
	if j.contested() {
		if over, err := j.overtaken(ctx); over || err != nil {
			return j.superseded(ctx, err)
		}
	}
	switch f.fate {
	case succeed:
		return j.succeed(ctx, value, a)
	case retry:
		return j.retry(ctx, f, a)
	case replace:
		return j.replace(ctx, f.replace, a)
	case ignore:
		j.end(outcomeIgnored, "")
		return nil
	case requeue:
		j.event("task-rejected", func() map[string]any { return map[string]any{"requeue": true} })
		j.giveBack()
		return nil
	case revoke:
		return j.revoked(ctx, f.exc, f.why)
	case reject:
		j.event("task-rejected", func() map[string]any { return map[string]any{"requeue": false} })
		return j.fail(ctx, f.exc, failed.ReasonRejected, a)
	default:
		return j.fail(ctx, f.exc, failed.ReasonFailed, a)
	}
}

// succeed publishes what follows, stores the result, and counts it for the
// chord: in this order, so that the result names all its children.
func (j *job) succeed(ctx context.Context, value any, a *attempt) error {
	raw, err := celery.MarshalJSON(value)
	if err != nil {
		// As Celery does when a result cannot be serialised.
		return j.fail(ctx, celery.NewException("TypeError", "the result is not a JSON value: "+err.Error(), err), failed.ReasonFailed, a)
	}
	next := j.plan("next")
	if err := followers(&next, j.req, raw); err != nil {
		return j.fail(ctx, exceptionOf(err), failed.ReasonFailed, a)
	}
	if err := j.flush(ctx, &next, j.contested()); err != nil {
		if undeliverable(err) {
			return j.fail(ctx, operationalError(err), failed.ReasonFailed, a)
		}
		return err
	}
	crash.Point("before-store")
	children := append(a.plan.Children, next.Children...)
	if saved, err := j.store(ctx, celery.Success, json.RawMessage(raw), children); err != nil || !saved {
		return j.superseded(ctx, err)
	}
	crash.Point("after-store")
	if err := j.chordPart(ctx, j.req, celery.Success, raw, j.contested()); err != nil {
		return err
	}
	if err := j.markFinished(ctx, celery.Success); err != nil {
		return err
	}
	j.event("task-succeeded", func() map[string]any {
		return map[string]any{"result": celery.ReprRaw(raw), "runtime": time.Since(j.started).Seconds()}
	})
	if err := j.afterReturn(ctx, celery.Success, nil); err != nil {
		return err
	}
	var extra []zap.Field
	if m, ok := value.(zapcore.ObjectMarshaler); ok {
		extra = append(extra, zap.Inline(m))
	}
	j.end(outcomeSuccess, celery.Success, extra...)
	return nil
}

// fail stores the failure and hands it on: to the chord, to what would have
// followed, to the errbacks. The job is kept.
func (j *job) fail(ctx context.Context, exc *celery.Exception, reason celery.Reason, a *attempt) error {
	if saved, err := j.store(ctx, celery.Failure, exc, a.plan.Children); err != nil || !saved {
		return j.superseded(ctx, err)
	}
	crash.Point("after-store-failure")
	if err := j.afterFailure(ctx, exc, j.contested()); err != nil {
		return err
	}
	if err := j.keep(ctx, exc, reason, a.stage); err != nil {
		return err
	}
	if err := j.markFinished(ctx, celery.Failure); err != nil {
		return err
	}
	j.event("task-failed", func() map[string]any {
		return map[string]any{"exception": exc.Repr(), "traceback": exc.Traceback()}
	})
	if err := j.afterReturn(ctx, celery.Failure, exc); err != nil {
		return err
	}
	j.end(outcomeFailure, celery.Failure, zap.Error(exc))
	return nil
}

// revoked ends a job that is not wanted any more.
func (j *job) revoked(jobs context.Context, exc *celery.Exception, why revocation) error {
	ctx, done := lingering(jobs, lastWrites)
	defer done()
	j.enter(settled)
	if saved, err := j.store(ctx, celery.Revoked, exc, nil); err != nil || !saved {
		return j.superseded(ctx, err)
	}
	raw, err := celery.MarshalJSON(exc)
	if err != nil {
		return err
	}
	if err := j.chordPart(ctx, j.req, celery.Revoked, raw, true); err != nil {
		return err
	}
	if err := j.markFinished(ctx, celery.Revoked); err != nil {
		return err
	}
	j.event("task-revoked", func() map[string]any {
		var signal any
		if why.terminated {
			signal = why.signal
		}
		return map[string]any{"terminated": why.terminated, "signum": signal, "expired": why.expired}
	})
	if err := j.afterReturn(ctx, celery.Revoked, exc); err != nil {
		return err
	}
	j.end(outcomeRevoked, celery.Revoked, zap.Error(exc))
	return nil
}

// superseded ends a run of a job that has ended in another run meanwhile, unless err
// is not nil.
func (j *job) superseded(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	over, err := j.finished(ctx)
	if err == nil && !over {
		err = errors.New("the job has ended in another run, and nothing is stored of that any more")
	}
	return err
}

// retry publishes the next attempt, stores RETRY and ends this one. The next attempt
// may be over before RETRY is stored: then it is not.
func (j *job) retry(ctx context.Context, f outcome, a *attempt) error {
	next := *j.req
	next.Retries++
	next.ETA = time.Now().Add(f.wait)
	next.Origin = j.w.origin
	if next.ParentID == "" {
		next.ParentID = j.req.ID // as Celery does
	}
	if !f.expires.IsZero() {
		next.Expires = f.expires
	}
	out, err := j.w.outgoing(celery.Message{Request: &next, Queue: j.consumer.queue}, j.contested())
	if err != nil {
		return err
	}
	var before []byte
	if !j.unstored() {
		if before, err = j.w.results.Stored(ctx, j.req.ID); err != nil {
			return err
		}
		if j.endedMeanwhile(before) {
			return j.superseded(ctx, nil)
		}
	}
	if err := j.afterReturn(ctx, celery.Retried, f.exc); err != nil {
		return err
	}
	m := j.message()
	m.Publishing = out.Publishing
	if f.wait > maxHold {
		err = j.w.kept.Park(ctx, m, next.ETA)
	} else {
		m.SetRoute()
		err = j.w.outbox.publish(ctx, outgoingKept([]failed.Message{m})...)
	}
	if undeliverable(err) {
		return j.fail(ctx, operationalError(err), failed.ReasonFailed, a)
	}
	if err != nil {
		return err
	}
	crash.Point("after-retry")
	untouched := func(stored []byte) bool { return bytes.Equal(stored, before) }
	if _, err := j.storeIf(ctx, untouched, celery.Retried, f.exc, nil); err != nil {
		return err
	}
	if err := j.markFinished(ctx, celery.Retried); err != nil {
		return err
	}
	j.event("task-retried", func() map[string]any {
		if f.exc == nil {
			return map[string]any{"exception": "None", "traceback": nil}
		}
		return map[string]any{"exception": f.exc.Repr(), "traceback": f.exc.Traceback()}
	})
	j.uncountSoon()
	ackErr := j.ack()
	j.w.metrics.jobs.WithLabelValues(j.task.Name, outcomeRetry).Inc()
	j.w.log.Warn("task will be retried", j.fields(
		zap.Error(f.err), zap.Float64("wait_seconds", f.wait.Seconds()), zap.Bool("ack_lost", ackErr != nil))...)
	return nil
}

// contested tells whether another run of the job may be at work, or have been since this
// one began: the broker gives it to somebody else when its session is lost.
func (j *job) contested() bool { return j.seen || j.consumer.session.closed() }

// overtaken tells whether another run has ended the job since this one began.
func (j *job) overtaken(ctx context.Context) (bool, error) {
	if j.unstored() {
		m, err := j.w.marks.Finished(ctx, j.req.ID)
		return j.endedSince(m.State, m.At), err
	}
	doc, err := j.w.results.Stored(ctx, j.req.ID)
	return j.endedMeanwhile(doc), err
}

// mine allows what is stored to be replaced, unless another run has ended the job with it.
func (j *job) mine(stored []byte) bool { return !j.contested() || !j.endedMeanwhile(stored) }

// endedMeanwhile is overtaken for what is stored, nil if nothing is.
func (j *job) endedMeanwhile(doc []byte) bool {
	if doc == nil {
		return false
	}
	m, err := celery.DecodeMeta(j.req.ID, doc)
	if err != nil || m.DateDone == nil {
		return false
	}
	done, err := celery.ParseTime(*m.DateDone)
	return err == nil && j.endedSince(m.Status, done)
}

// endedSince tells whether a state is the end of another run since this one began. One
// that has been seen had not ended then, whatever the clocks of the hosts say.
func (j *job) endedSince(state celery.State, at time.Time) bool {
	return state.Final() && (j.seen || !at.Before(j.started))
}

// replace starts the signature that takes the task's place.
func (j *job) replace(ctx context.Context, r *celery.Replace, a *attempt) error {
	s, err := j.req.Replacement(r.Signature)
	if err != nil {
		return j.fail(ctx, exceptionOf(err), failed.ReasonFailed, a)
	}
	for name, value := range r.Stamps {
		s.Stamp(name, value)
	}
	p := j.plan(fmt.Sprintf("replace/%d", j.req.Retries))
	if _, err := p.Apply(s, nil, celery.Options{}); err != nil {
		return j.fail(ctx, exceptionOf(err), failed.ReasonFailed, a)
	}
	if err := j.flush(ctx, &p, j.contested()); err != nil {
		if undeliverable(err) {
			return j.fail(ctx, operationalError(err), failed.ReasonFailed, a)
		}
		return err
	}
	j.end(outcomeReplaced, "")
	return nil
}

// finished looks whether an id that was delivered before has reached its end,
// and if so does again what follows the storing of a result: the process that
// stored it may have died right after.
func (j *job) finished(jobs context.Context) (over bool, err error) {
	ctx, done := lingering(jobs, lastWrites)
	defer done()
	m, err := j.ended(ctx)
	if err != nil || m == nil {
		return false, err
	}
	j.enter(settled)
	j.end(outcomeDuplicate, m.Status)
	return true, nil
}

// ended does the steps of finished before the acknowledgement. It returns what is
// stored of the end, nil if the job has not ended.
func (j *job) ended(ctx context.Context) (*celery.Meta, error) {
	m, err := j.stored(ctx)
	if err != nil || m == nil {
		return nil, err
	}
	var exc *celery.Exception
	if m.Status != celery.Success {
		exc, _ = m.Exception() // none for a mark
	}
	switch m.Status {
	case celery.Retried:
		if m.Attempt() < j.req.Attempt() {
			return nil, nil
		}
		// The next attempt has been published.
	case celery.Success, celery.Revoked, celery.Failure:
		if j.unstored() {
			break // all of it was done before the mark was set
		}
		if err := j.afterEnd(ctx, m, exc); err != nil {
			return nil, err
		}
		if m.Status == celery.Failure && exc != nil {
			if err := j.keep(ctx, exc, failed.ReasonFailed, ""); err != nil {
				return nil, err
			}
		}
	default:
		return nil, nil
	}
	if m.Status != celery.Retried { // was done before the next attempt was published
		if err := j.afterReturn(ctx, m.Status, exc); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// afterEnd does what follows the storing of m, once more.
func (j *job) afterEnd(ctx context.Context, m *celery.Meta, exc *celery.Exception) error {
	if m.Status == celery.Failure && exc != nil {
		return j.afterFailure(ctx, exc, true)
	}
	return j.chordPart(ctx, j.req, m.Status, m.Result, true)
}

// limits returns the limits of a job: the message's own, else the task's, else
// the worker's.
func (j *job) limits() (soft, hard time.Duration) {
	soft, hard = j.w.cfg.SoftTimeLimit, j.w.cfg.TimeLimit
	if own := j.task.soft.Load(); own > 0 {
		soft = time.Duration(own)
	}
	if own := j.task.hard.Load(); own > 0 {
		hard = time.Duration(own)
	}
	if j.req.SoftTimeLimit > 0 {
		soft = j.req.SoftTimeLimit
	}
	if j.req.TimeLimit > 0 {
		hard = j.req.TimeLimit
	}
	return soft, hard
}

// plan returns a plan for what the job starts.
func (j *job) plan(salt string) celery.Plan {
	return celery.Plan{Parent: j.req, Salt: j.salt(salt), Now: time.Now(), Origin: j.w.origin}
}

// salt makes what a replayed job starts other tasks than those that it started before.
func (j *job) salt(base string) string {
	if n := failed.Replays(j.delivery.Headers); n > 0 {
		return fmt.Sprintf("%s/replay/%d", base, n)
	}
	return base
}

func (j *job) enter(p phase) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.phase = p
}

// ack acknowledges the delivery, once. An error means that the session is gone:
// the broker will deliver the job again, and it will be recognised.
func (j *job) ack() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.acked {
		return nil
	}
	j.acked = true
	return j.delivery.Ack(false)
}

// giveBack returns the delivery to its queue, to run elsewhere or later. An
// error means that its session is gone, and the broker has done so itself.
func (j *job) giveBack() {
	j.uncountSoon()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.acked {
		return
	}
	j.acked = true
	if err := j.delivery.Nack(false, true); err == nil {
		j.w.metrics.jobs.WithLabelValues(j.task.Name, outcomeReturned).Inc()
	}
}

func (j *job) hasAcked() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.acked
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lingering returns a context that ends d after ctx does, with ctx's cause.
func lingering(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if pause(out, d) == nil {
			cancel(context.Cause(ctx))
		}
	})
	return out, func() { stop(); cancel(nil) }
}
