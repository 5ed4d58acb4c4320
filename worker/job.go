package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"onceover/celery"
)

// maxHold is the longest time that a delivery is held before its ETA; then it
// goes back to its queue and comes again. It is well below RabbitMQ's
// consumer_timeout of 30 minutes.
const maxHold = 10 * time.Minute

// job is one delivery on its way to its acknowledgement.
type job struct {
	w        *Worker
	s        *session
	delivery amqp.Delivery
	task     Task
	req      *celery.Request
	start    time.Time
}

// handle takes a delivery to its end: acknowledged, or given back. ctx ends when
// the worker must stop.
func (w *Worker) handle(ctx context.Context, s *session, d amqp.Delivery) {
	start := time.Now()
	props := celery.Properties{
		ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
		CorrelationID: d.CorrelationId, ReplyTo: d.ReplyTo,
	}
	req, err := celery.Decode(props, d.Headers, d.Body)
	var task Task
	if err == nil {
		var known bool
		if task, known = w.tasks[req.Task]; !known {
			err = unknownTask(req)
		}
	}
	var refused *celery.MessageError
	if errors.As(err, &refused) {
		w.refuse(ctx, s, d, refused)
		return
	}
	req.Delivery = celery.DeliveryInfo{Exchange: d.Exchange, RoutingKey: d.RoutingKey, Redelivered: d.Redelivered}

	release, waited, err := w.running.lock(ctx, req.ID)
	if err != nil {
		w.giveBackStarted(ctx, d)
		return
	}
	defer release()
	j := &job{w: w, s: s, delivery: d, task: task, req: req, start: start}
	if err := j.process(ctx, d.Redelivered || waited); err != nil {
		// Not acknowledged, so the broker gives the job to somebody again: at
		// once when the worker stops, else not so fast that it would go round
		// and round.
		if !errors.Is(err, errStopping) {
			w.log.Warn("job goes back to its queue", j.fields(zap.Error(err))...)
			_ = pause(ctx, time.Second+rand.N(time.Second))
		}
		w.giveBackStarted(ctx, d)
	}
}

// giveBackStarted gives back a delivery whose job had begun. If that is because
// the worker stops, Run reports it.
func (w *Worker) giveBackStarted(ctx context.Context, d amqp.Delivery) {
	if ctx.Err() != nil {
		w.returned.Add(1)
	}
	w.giveBack(d)
}

// process returns an error if the delivery must not be acknowledged.
func (j *job) process(ctx context.Context, seen bool) error {
	if seen {
		state, exc, err := j.finishedState(ctx)
		if err != nil {
			return err
		}
		if state != "" {
			// The process that finished it may have died right after storing.
			if err := j.afterReturn(ctx, state, exc); err != nil {
				return err
			}
			j.end(outcomeDuplicate, state)
			return nil
		}
	}
	if j.expired() {
		return j.finish(ctx, celery.Revoked, nil, celery.TaskRevoked("expired"))
	}
	if err := j.waitForETA(ctx); err != nil {
		return err
	}
	for {
		if j.expired() {
			return j.finish(ctx, celery.Revoked, nil, celery.TaskRevoked("expired"))
		}
		if j.w.cfg.TrackStarted {
			started := map[string]any{"pid": os.Getpid(), "hostname": j.w.cfg.NodeName}
			if err := j.store(ctx, celery.Started, started); err != nil {
				return err
			}
		}
		soft, hard := j.w.limitsOf(j.req)
		value, cause, err := runAttempt(ctx, j.task.Handler, j.req, soft, hard)
		switch f := decide(err, cause, j.req.Retries, j.task.MaxRetries); f.state {
		case "":
			return err
		case celery.Retried:
			if err := j.retry(ctx, f); err != nil {
				return err
			}
		default:
			return j.finish(ctx, f.state, value, f.exc)
		}
	}
}

// finishedState looks whether an id that was delivered before has reached its
// end; "" if not.
func (j *job) finishedState(ctx context.Context) (celery.State, *celery.Exception, error) {
	if j.req.IgnoreResult {
		state, err := j.w.marks.Finished(ctx, j.req.ID)
		return state, nil, err
	}
	m, err := j.w.results.Load(ctx, j.req.ID)
	var damaged *celery.MetaError
	switch {
	case errors.As(err, &damaged):
		return "", nil, nil // not Celery's: the job runs and replaces it
	case err != nil || m == nil || !m.Status.Final():
		return "", nil, err
	case m.Status == celery.Success:
		return m.Status, nil, nil
	}
	exc, err := m.Exception()
	if err != nil {
		return "", nil, nil
	}
	return m.Status, exc, nil
}

func (j *job) expired() bool {
	return !j.req.Expires.IsZero() && time.Now().After(j.req.Expires)
}

// waitForETA holds the job until its time has come.
func (j *job) waitForETA(ctx context.Context) error {
	wait := time.Until(j.req.ETA)
	if wait > maxHold {
		if err := pause(ctx, maxHold); err != nil {
			return err
		}
		return fmt.Errorf("eta is %s away", time.Until(j.req.ETA).Round(time.Second))
	}
	return pause(ctx, wait)
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

// retry stores RETRY and waits for the next attempt.
func (j *job) retry(ctx context.Context, f fate) error {
	if err := j.store(ctx, celery.Retried, f.exc); err != nil {
		return err
	}
	if err := j.afterReturn(ctx, celery.Retried, f.exc); err != nil {
		return err
	}
	j.w.metrics.jobs.WithLabelValues(j.task.Name, outcomeRetry).Inc()
	j.w.log.Warn("task will be retried", j.fields(
		zap.Error(f.exc), zap.Float64("wait_seconds", f.wait.Seconds()))...)
	if err := pause(ctx, f.wait); err != nil {
		return err
	}
	j.req.Retries++
	return nil
}

// finish stores the final state, reports it and acknowledges the delivery: in
// this order, so that whoever sees the end of the job finds its result.
func (j *job) finish(ctx context.Context, state celery.State, value any, exc *celery.Exception) error {
	// The work is done: its outcome is still stored when the worker stops.
	ctx, cancel := lingering(ctx, lastWrites)
	defer cancel()
	result := value
	if exc != nil {
		result = exc
	}
	err := j.store(ctx, state, result)
	var notJSON *celery.MetaError
	if errors.As(err, &notJSON) && exc == nil {
		// As Celery does when a result cannot be serialised.
		return j.finish(ctx, celery.Failure, nil, celery.NewException("TypeError", err.Error(), err))
	}
	if err != nil {
		return err
	}
	if j.req.IgnoreResult {
		if err := j.w.marks.MarkFinished(ctx, j.req.ID, state); err != nil {
			return err
		}
	}
	if err := j.afterReturn(ctx, state, exc); err != nil {
		return err
	}
	extra := []zap.Field{}
	if exc != nil {
		extra = append(extra, zap.Error(exc))
	}
	if m, ok := value.(zapcore.ObjectMarshaler); ok {
		extra = append(extra, zap.Inline(m))
	}
	j.end(outcomeOf(state), state, extra...)
	return nil
}

// store saves a state in DB0, unless the producer does not want results. The
// error is a *celery.MetaError if result is no JSON value.
func (j *job) store(ctx context.Context, state celery.State, result any) error {
	if j.req.IgnoreResult {
		return nil
	}
	m, err := celery.NewMeta(j.req, state, result, time.Now())
	if err != nil {
		return err
	}
	if j.w.cfg.ResultExtended {
		m.Extended = celery.NewExtended(j.req, j.w.cfg.NodeName)
	}
	return j.w.results.Save(ctx, m)
}

func (j *job) afterReturn(ctx context.Context, state celery.State, exc *celery.Exception) error {
	if h, ok := j.task.Handler.(AfterReturner); ok {
		return h.AfterReturn(ctx, j.req, state, exc)
	}
	return nil
}

// end acknowledges, counts and logs: the one line of the job's outcome.
func (j *job) end(outcome string, state celery.State, extra ...zap.Field) {
	// An error means that the session is gone. The broker will deliver the job
	// again, and it will be recognised as finished.
	if err := j.delivery.Ack(false); err != nil {
		extra = append(extra, zap.Bool("ack_lost", true))
	}
	took := time.Since(j.start)
	j.w.metrics.jobs.WithLabelValues(j.task.Name, outcome).Inc()
	j.w.metrics.duration.WithLabelValues(j.task.Name).Observe(took.Seconds())
	fields := j.fields(zap.String("state", string(state)), zap.Float64("duration_seconds", took.Seconds()))
	j.w.log.Info("task finished", append(append(fields, zap.Bool("duplicate", outcome == outcomeDuplicate)), extra...)...)
}

func (j *job) fields(extra ...zap.Field) []zap.Field {
	return append([]zap.Field{
		zap.String("task_id", j.req.ID),
		zap.String("task_name", j.req.Name()),
		zap.String("routing_key", j.delivery.RoutingKey),
		zap.Int("attempt", j.req.Retries+1),
		zap.Bool("redelivered", j.delivery.Redelivered),
	}, extra...)
}

func outcomeOf(state celery.State) string {
	switch state {
	case celery.Success:
		return outcomeSuccess
	case celery.Revoked:
		return outcomeRevoked
	default:
		return outcomeFailure
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
