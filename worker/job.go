package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
	"onceover/rabbit"
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

// job is one delivery of a task on its way to its acknowledgement.
type job struct {
	*ending
	consumer *consumer
	delivery *rabbit.Delivery
	received time.Time
	place    *place

	watching    func()                  // ends the watch for the loss of the session; nil before the first run
	stopWaiting context.CancelCauseFunc // ends the wait for a slot

	death *rabbit.Death // of a dead letter, else nil

	admitted bool          // by the rate limit of its task
	delayed  bool          // something that the job needs was away, and the log says so
	looks    int           // how often another run had the id
	seen     bool          // delivered before, or published again: another run may be at work, or have been
	twice    bool          // the message may have been published twice
	looked   bool          // past is known
	past     celery.Stored // on record when the job was first looked up

	turn  bool   // it has the turn of the suspicious jobs
	first string // the name of the first run that it met
	had   bool   // it has had its id
	name  string // under which it asks for its id, and has it: a claim or a release that failed may have been done

	mu      sync.Mutex
	counted string // the name under which its run counts among those that may have died of it
	run     string // the name under which it has its id in the book, "" if it has not
	phase   phase
	began   time.Time
	acked   bool

	settling time.Time // when its verdict began to be carried out; zero: it is not
	slow     bool      // that has taken a second, and the job counts as held

	stop context.CancelCauseFunc // ends the wait, or the run
}

// accept takes a delivery, which gets in line for a slot in the order of arrival. The caller's
// goroutine reads the consumer: all else is done on another. jobs ends when running jobs have to.
func (w *Worker) accept(jobs context.Context, c *consumer, raw amqp.Delivery) {
	d := rabbit.Of(raw, c.queue.Name)
	if c.waits.Err() != nil {
		_ = d.Requeue() // it was on its way; an error means that it goes back by itself
		return
	}
	w.hold(c, d)
	place := w.pool.place()
	w.jobs.Add(1)
	w.crew.run(func() {
		defer w.jobs.Done()
		defer w.letGo(c, d)
		defer place.leave()
		w.handle(jobs, c, d, place)
	})
}

// hold counts a delivery that has come, and has the consumers looked at if the next ones have to
// be fewer, or may be more.
func (w *Worker) hold(c *consumer, d *rabbit.Delivery) {
	c.taken()
	if w.bodies.take(len(d.Body)) {
		w.queues.touch()
	}
}

// letGo takes a delivery off that is settled.
func (w *Worker) letGo(c *consumer, d *rabbit.Delivery) {
	w.bodies.give(len(d.Body))
	c.settled()
}

// newJob returns the job of a delivery, and why its message cannot be read, nil if it can.
func (w *Worker) newJob(c *consumer, d *rabbit.Delivery) (j *job, why *celery.MessageError) {
	j = &job{consumer: c, delivery: d, received: time.Now(), place: &place{}, stop: func(error) {}}
	j.twice = d.Own.Again
	j.seen = d.Redelivered || j.twice
	req, err := d.Request()
	if errors.As(err, &why) {
		j.ending = w.newRefusal(d.Message, why)
	} else {
		j.ending = w.newEnding(d.Message, req, w.tasks[req.Task])
	}
	return j, why
}

// newTaskJob is newJob for a task that is to be run here: one that is not known here is refused.
func (w *Worker) newTaskJob(c *consumer, d *rabbit.Delivery) (j *job, why *celery.MessageError) {
	if j, why = w.newJob(c, d); why != nil {
		return j, why
	}
	if _, known := w.tasks[j.req.Task]; !known {
		why = unknownTask(j.req)
		j.ending = w.newRefusal(d.Message, why)
		return j, why
	}
	j.req.Delivery = celery.DeliveryInfo{Exchange: d.Exchange, RoutingKey: d.RoutingKey, Redelivered: d.Redelivered || d.Own.Again}
	return j, nil
}

// handle takes a delivery to its acknowledgement, or gives it back. A run may take long, and many do at once: what is on
// the stack under it is kept small.
func (w *Worker) handle(jobs context.Context, c *consumer, d *rabbit.Delivery, place *place) {
	j, refused := w.newTaskJob(c, d)
	j.place = place
	run := func() error { return j.travel(jobs) }
	if refused != nil {
		place.leave()
		run = func() error { return j.conclude(jobs, verdictOnRefusal(refused)) }
	} else {
		w.held.add(j)
		defer w.held.remove(j)
	}
	if err := j.persist(run); err != nil {
		j.returned(jobs, err)
	}
}

// persist has f try again while it fails for a reason that only somebody else can mend, such as a
// key of another type in Redis. The delivery is held: the broker would count its returns. Only a
// run that panicked outside of its handler comes again, since these are counted.
func (j *job) persist(f func() error) error {
	for wait, logged := settlePause, ""; ; wait = min(2*wait, maxSettlePause) {
		err := j.safely(f)
		if err == nil || errors.Is(err, errStopping) || errors.Is(err, errSessionLost) || errors.Is(err, errPanicked) && !j.started.IsZero() {
			return err
		}
		if logged != err.Error() {
			logged = err.Error()
			j.tellStuck(err)
		}
		if err := j.wait(j.consumer.waits, wait); err != nil {
			return err
		}
	}
}

func (j *job) tellStuck(err error) {
	j.w.log.Error("a job cannot go on, trying again", j.fields(zap.Error(err))...)
}

// wait holds the job for a time, outside of the slots.
func (j *job) wait(waits context.Context, d time.Duration) error {
	j.place.leave()
	defer j.inTheWay()()
	return pause(waits, d)
}

// errPanicked says that the worker's own code panicked.
var errPanicked = errors.New("panic outside of the handler")

// safely calls f, survives a panic in it, and gives back what the job has. The begin of a run
// that panicked stays counted, so that it does not go round for ever.
func (j *job) safely(f func() error) (err error) {
	defer func() {
		if j.watching != nil {
			j.watching()
			j.watching = nil
		}
		v := &verdict{}
		if j.recorded && j.death == nil { // a dead letter is buried from the beginning again, as its reason is not on record
			v = j.verdict
		}
		j.release(v, false)
	}()
	defer func() {
		if p := recover(); p != nil {
			exc := celery.Recovered(p)
			j.setCounted("")
			j.w.log.Error("panic outside of the handler", j.fields(zap.String("traceback", exc.Traceback()))...)
			err = fmt.Errorf("%w: %w", errPanicked, exc)
		}
	}()
	return f()
}

// travel takes the job to its end. It returns an error if the delivery must not be
// acknowledged.
func (j *job) travel(jobs context.Context) error {
	// Waiting ends with the consumer, running with jobs.
	waits, stopWaiting := context.WithCancelCause(j.consumer.waits)
	defer stopWaiting(nil)
	j.stopWaiting = stopWaiting
	j.mu.Lock()
	j.stop = stopWaiting
	j.mu.Unlock()

	unlock, err := j.lock(waits)
	if err == nil {
		defer unlock()
		defer j.giveTurn()
		err = j.rounds(jobs, waits)
	}
	if err == nil {
		return nil
	}
	switch cause := context.Cause(waits); {
	case errors.Is(cause, errRevoked):
		return j.conclude(jobs, revoked("revoked", revocation{}))
	case cause != nil && j.phase < active:
		return cause // whatever the wait was for
	}
	return err
}

// rounds takes the job from its place in the line to its end.
func (j *job) rounds(jobs, waits context.Context) error {
	if done, err := j.endedBefore(jobs, waits); done || err != nil {
		return err
	}
	if j.delivery.Redelivered {
		if done, err := j.claim(jobs, waits); done || err != nil {
			return err
		}
	}
	if v, unwanted := j.unwanted(false); unwanted {
		return j.conclude(jobs, v)
	}
	j.event("task-received", j.receivedFields)
	if parked, err := j.waitForETA(jobs, waits); parked || err != nil {
		return err
	}
	for {
		again, err := j.round(jobs, waits)
		switch {
		case err != nil && j.hasAcked():
			return j.conclude(jobs, j.givenUp(&verdict{}, err))
		case !again || err != nil:
			return err
		case j.hasAcked():
			waits = jobs // the broker does not have it any more
		}
	}
}

// lock keeps another delivery of the same id from running in this process. A producer that
// publishes once more because it did not see the confirm makes one; a task acknowledged early
// does not mind, nor would Celery.
func (j *job) lock(waits context.Context) (unlock func(), err error) {
	if unlock, ok := j.w.running.tryLock(j.req.ID); ok {
		return unlock, nil
	}
	j.place.leave()
	defer j.inTheWay()()
	if !j.task.AckEarly {
		now, err := j.book.Look(waits, j.req.ID)
		if err != nil {
			return nil, err
		}
		j.meets("", now)
	}
	return j.w.running.lock(waits, j.req.ID)
}

// inTheWay has another delivery be fetched in the job's place, until done is called.
func (j *job) inTheWay() (done func()) {
	j.w.holdMore(j.consumer)
	return func() { j.consumer.held.Add(-1) }
}

// round waits for a slot and runs the job once. It reports whether the job has to go round once
// more: another run has its id, or something that it needs is away.
func (j *job) round(jobs, waits context.Context) (again bool, err error) {
	if err := j.waitForSlot(waits); err != nil {
		return false, err
	}
	if len(j.req.StampedHeaders) > 0 {
		j.w.remote.CatchUp(waits) // it may have been revoked by a stamp just before it was sent
	}
	if v, unwanted := j.unwanted(true); unwanted {
		return false, j.conclude(jobs, v)
	}
	check := j.claim
	if j.hasRun() {
		check = j.endedSince
	}
	if p, ok := j.task.Handler.(Preparer); ok && j.req.Memo == nil {
		j.prepare(p)
	}
	if done, err := check(jobs, waits); done || err != nil {
		return false, err
	}
	if j.place.t == nil {
		return true, nil // it waited for another run, without its slot
	}
	v, err := j.attempt(jobs, waits)
	j.place.leave()
	if errors.Is(err, errSuspect) {
		j.reserve()
		return true, j.waitForTurn(waits)
	}
	if err != nil {
		return false, err
	}
	switch v.fate {
	case giveBack:
	case postpone:
		return j.postpone(jobs, waits, v)
	default:
		return false, j.conclude(jobs, v)
	}
	j.backInLine(v)
	if j.hasAcked() {
		waits = jobs // the broker does not have it any more
	}
	return true, j.w.obstacleOver(waits)
}

// prepare calls the handler's Prepare.
func (j *job) prepare(p Preparer) {
	defer func() {
		if p := recover(); p != nil {
			j.w.log.Error("Prepare panicked", j.fields(zap.String("traceback", celery.Recovered(p).Traceback()))...)
		}
	}()
	p.Prepare(j.req)
}

// hasBeenAtWork has the handler and those who inspect see that this is not the job's first run.
func (j *job) hasBeenAtWork() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.req.Delivery.Redelivered = true
}

// backInLine undoes what a run has begun that met an obstacle.
func (j *job) backInLine(v *verdict) {
	j.release(&verdict{}, false)
	j.goesRound()
	j.hasBeenAtWork()
	j.again = true // what it has started it may start once more
	j.reserve()
	if !j.delayed {
		j.delayed = true
		j.w.log.Warn("task waits until it can run again", j.fields(zap.Error(v.err))...)
	}
}

// reserve notes that the job waits, and what ends that.
func (j *job) reserve() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.phase, j.stop = reserved, j.stopWaiting
}

// waitForSlot waits for the task's rate limit, and for a slot. A job that waits for a rate limit
// does not stand in the line: others would wait, too.
func (j *job) waitForSlot(waits context.Context) error {
	if !j.admitted && j.task.limiter.limited() {
		j.place.leave()
	}
	if !j.admitted {
		if err := j.task.limiter.wait(waits); err != nil {
			return err
		}
		j.admitted = true
	}
	if err := j.place.wait(waits); err != nil {
		return err
	}
	return context.Cause(waits) // both at once: somebody else gets the job
}

// unwanted returns the verdict for a job that need not be run. As in Celery, stamps count when
// it is about to run: until then a job that is revoked by stamp keeps its place among the
// deliveries sent ahead.
func (j *job) unwanted(stamps bool) (*verdict, bool) {
	if !j.req.Expires.IsZero() && time.Now().After(j.req.Expires) {
		j.w.remote.Revoked.Add(j.req.ID)
		return revoked("expired", revocation{expired: true}), true
	}
	// A replay counts more than a revocation before it.
	since, byID := j.w.remote.Revoked.Since(j.req.ID)
	byID = byID && !since.Before(j.message.Own.Replayed)
	if byID || j.message.Own.Revoked || stamps && j.w.remote.Revoked.Match("", j.req.StampedHeaders, j.req.Stamps) {
		return revoked("revoked", revocation{}), true
	}
	return nil, false
}

// waitForETA holds the job until its time has come, outside of the slots, or parks
// it if that is far: then it is over.
func (j *job) waitForETA(jobs, waits context.Context) (parked bool, err error) {
	wait := time.Until(j.req.ETA)
	if wait <= 0 {
		return false, nil
	}
	if wait <= maxHold {
		return false, j.holdFor(waits, wait)
	}
	j.place.leave()
	m := j.message
	if m.Own.Since == "" {
		now, err := j.book.Look(waits, j.req.ID)
		if err != nil {
			return false, err
		}
		m.Own.Since = now.Digest() // of an earlier message with the id
	}
	err = j.park(waits, m, j.req, nil)
	if exc := unpublishable(err); exc != nil {
		return true, j.conclude(jobs, failure(exc, failed.ReasonFailed))
	}
	if err != nil {
		return false, err
	}
	j.parked(j.req.ETA)
	return true, nil
}

// holdFor holds the job for a time, outside of the slots.
func (j *job) holdFor(waits context.Context, wait time.Duration) error {
	j.enter(scheduled)
	defer j.enter(reserved)
	return j.wait(waits, wait)
}

// attempt runs the handler once and returns the verdict. An error means that the job has to go
// back. waits ended if the job was revoked in the last moment.
func (j *job) attempt(jobs, waits context.Context) (*verdict, error) {
	ctx, cancel := context.WithCancelCause(jobs)
	defer cancel(nil)
	j.started = time.Now()
	j.mu.Lock()
	j.stop, j.phase, j.began = cancel, active, j.started
	j.mu.Unlock()
	if errors.Is(context.Cause(waits), errRevoked) {
		return revoked("revoked", revocation{}), nil
	}
	if fatal, err := j.killed(ctx); err != nil || fatal != nil {
		if fatal == nil {
			return nil, err
		}
		return failure(fatal, failed.ReasonPoison), nil
	}
	if j.watching == nil {
		j.watching = j.outlive(jobs)
	}
	j.task.runs.Add(1)
	if j.task.AckEarly {
		j.ack()
	}
	if err := j.recordStarted(ctx); err != nil {
		return nil, err
	}
	j.event("task-started", nil)

	a := j.newAttempt()
	soft, hard := j.limits()
	j.req.Delivery.AfterEnd = j.since.Ended()
	value, cause, err := runAttempt(context.WithValue(ctx, attemptKey{}, a), j.w.crew.run, j.task.Handler, j.req, soft, hard)
	j.enter(settled)
	a.end()
	v := decide(j.task, err, cause, j.req, j.message.Own)
	v.value, v.stage, v.children = value, stageOf(err), a.plan.Children
	if (v.fate == giveBack && errors.Is(cause, errStopping) || v.fate == requeue) && j.hasAcked() {
		return j.givenUp(v, err), nil
	}
	if v.fate == giveBack && errors.Is(cause, errStopping) {
		return v, errStopping
	}
	return v, nil
}

// newAttempt returns what the handler of the next attempt may do.
func (j *job) newAttempt() *attempt {
	j.again = j.again || j.seen
	return &attempt{job: j, again: j.again, plan: j.plan(fmt.Sprintf("send/%d", j.req.Retries))}
}

// recordStarted records STARTED, if that is wanted.
func (j *job) recordStarted(ctx context.Context) error {
	if !j.w.cfg.TrackStarted && !j.task.TrackStarted {
		return nil
	}
	m, err := j.metaOf(celery.Started, map[string]any{"pid": os.Getpid(), "hostname": j.w.cfg.NodeName}, nil)
	if err != nil {
		return err
	}
	m.Retries, m.Nesting = &j.req.Retries, j.req.ReplacedTaskNesting // for a redelivery of the attempt before
	_, _, err = j.book.Result(ctx, "", m, j.since, j.req.ReplyTo)
	return err
}

func (j *job) enter(p phase) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.phase = p
}

func (j *job) receivedFields() map[string]any {
	optional := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	moment := func(t time.Time) any {
		if t.IsZero() {
			return nil
		}
		return celery.ISOTime(t)
	}
	return map[string]any{
		"name": j.req.Name(), "args": j.req.ArgsText(), "kwargs": j.req.KwargsText(),
		"root_id": j.req.RootID, "parent_id": optional(j.req.ParentID), "retries": j.req.Retries,
		"eta": moment(j.req.ETA), "expires": moment(j.req.Expires),
	}
}

// stageOf is how far the handler says that it had come when it failed.
func stageOf(err error) (stage string) {
	defer func() { _ = recover() }() // then it does not say
	var staged interface{ Stage() string }
	if errors.As(err, &staged) {
		return staged.Stage()
	}
	return ""
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
