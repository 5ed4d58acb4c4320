package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/crash"
)

// keep keeps the job as failed with exc.
func (j *job) keep(ctx context.Context, exc *celery.Exception, reason celery.Reason, stage string) error {
	r := failed.Failure(j.message(), j.req, exc, reason)
	r.Worker, r.Stage = j.w.cfg.NodeName, stage
	crash.Point("before-keep")
	if err := j.w.kept.Keep(ctx, r); err != nil {
		return err
	}
	crash.Point("keep-before-ack")
	return nil
}

// killed notes that a run of a redelivered job begins, and returns the failure of one
// that too many processes died of.
func (j *job) killed(ctx context.Context) (*celery.Exception, error) {
	if !j.delivery.Redelivered || j.w.cfg.MaxCrashes == 0 {
		return nil, nil
	}
	run := uuid.NewString()
	j.setRun(run)
	times, err := j.w.marks.CountRun(ctx, j.req.ID, run)
	if err != nil {
		return nil, err
	}
	// The first delivery was not counted, and this one has not begun.
	if times < j.w.cfg.MaxCrashes {
		return nil, nil
	}
	j.setRun("")
	return &celery.Exception{Type: "WorkerLostError", Module: celery.ModuleBilliard, Args: []any{
		fmt.Sprintf("work on the task has begun %d times and did not end: the processes that ran it seem to have died of it", times)}}, nil
}

// outlive sees to it that a job whose session is lost, and which others get therefore,
// does not count as one that this process died of. The caller calls stop when the run
// has ended.
func (j *job) outlive(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	unwatch := context.AfterFunc(j.consumer.session.waits, func() {
		defer close(done)
		if errors.Is(context.Cause(j.consumer.session.waits), errSessionLost) {
			j.uncount(ctx)
		}
	})
	return func() {
		cancel()
		if !unwatch() {
			<-done
		}
	}
}

// uncount takes back that the run began, while ctx lasts. One that stays counted is a
// death too many.
func (j *job) uncount(ctx context.Context) {
	run := j.setRun("")
	if run == "" {
		return
	}
	if err := j.w.marks.NotBegun(ctx, j.req.ID, run); err != nil {
		j.setRun(run)
		j.w.log.Debug("begin of a run not taken back", zap.String("task_id", j.req.ID), zap.Error(err))
	}
}

// uncountSoon is uncount for a run that has ended in good order.
func (j *job) uncountSoon() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	j.uncount(ctx)
}

// setRun changes the name under which the run counts, "" if it does not.
func (j *job) setRun(run string) (before string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	before, j.counted = j.counted, run
	return before
}

// publishKept publishes messages to their queues, over whichever session there is.
func (w *Worker) publishKept(ctx context.Context, create bool, messages ...failed.Message) error {
	if !create {
		s, err := w.outbox.wait(ctx)
		if err != nil {
			return err
		}
		if err := haveRoom(s.conn, messages, nil); err != nil {
			return err
		}
	}
	return w.outbox.publish(ctx, outgoingKept(messages)...)
}

func outgoingKept(messages []failed.Message) []Outgoing {
	out := make([]Outgoing, len(messages))
	for i, m := range messages {
		out[i] = Outgoing{RoutingKey: m.Queue, Publishing: m.Publishing}
	}
	return out
}

// haveRoom is failed.ErrNoQueue if a queue does not exist, and a *failed.FullError if one of
// the topology's has not room for the messages: it would dead-letter others.
// It calls idle, if that is not nil, for those that nobody consumes.
func haveRoom(conn *amqp.Connection, messages []failed.Message, idle func(queue string)) error {
	d := declarer{conn: conn}
	defer d.close()
	coming := map[string]int{}
	for _, m := range messages {
		coming[m.Queue]++
	}
	for queue, n := range coming {
		q, err := d.look(queue)
		if err != nil {
			return err
		}
		if limit, ok := queueNamed(queue).Args["x-max-length"].(int32); ok && q.Messages+n > int(limit)*9/10 {
			return &failed.FullError{Queue: queue, Messages: q.Messages, Limit: int(limit)}
		}
		if q.Consumers == 0 && idle != nil {
			idle(queue)
		}
	}
	return nil
}

// look returns what is known of a queue; failed.ErrNoQueue if it does not exist.
func (d *declarer) look(queue string) (q amqp.Queue, err error) {
	err = d.do("look for queue "+queue, func(ch *amqp.Channel) (err error) {
		q, err = ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err
	})
	if notFound(err) {
		err = fmt.Errorf("%w (%q)", failed.ErrNoQueue, queue)
	}
	return q, err
}

// QueueExists is failed.ErrNoQueue if the queue does not exist.
func QueueExists(conn *amqp.Connection, queue string) error {
	d := declarer{conn: conn}
	defer d.close()
	_, err := d.look(queue)
	return err
}

// PublishKept returns what publishes kept messages over a connection of the
// caller's, for commands. It creates no queues. While a queue is full it waits, and
// calls waiting each second; it calls idle once for each queue that nobody consumes,
// with the time after which that drops messages, 0 if it does not or is not ours.
func PublishKept(conn *amqp.Connection, waiting func(*failed.FullError), idle func(queue string, ttl time.Duration)) (failed.Publish, error) {
	p, err := NewPublisher(conn)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	told := map[string]bool{}
	tell := func(queue string) {
		mu.Lock()
		defer mu.Unlock()
		if !told[queue] {
			told[queue] = true
			ttl, _ := queueNamed(queue).Args["x-message-ttl"].(int32)
			idle(queue, time.Duration(ttl)*time.Millisecond)
		}
	}
	return func(ctx context.Context, _ bool, messages ...failed.Message) error {
		for {
			err := haveRoom(conn, messages, tell)
			var full *failed.FullError
			if err == nil {
				return p.Publish(ctx, outgoingKept(messages)...)
			}
			if !errors.As(err, &full) {
				return err
			}
			waiting(full)
			if err := pause(ctx, time.Second); err != nil {
				return fmt.Errorf("%w: %w", err, full)
			}
		}
	}, nil
}

// deadPrefetch is how many dead letters are worked on at once.
const deadPrefetch = 20

// death is why and where RabbitMQ dead-lettered a message (its documentation of
// dead letter exchanges, "Effects on Messages").
type death struct {
	reason               celery.Reason
	queue                string
	exchange, routingKey string
}

// deathOf reads x-death, whose first entry is the latest death. A message without
// has been published to the queue by somebody.
func deathOf(d amqp.Delivery) death {
	out := death{reason: failed.ReasonRejected, exchange: d.Exchange, routingKey: d.RoutingKey}
	entries, _ := d.Headers["x-death"].([]any)
	if len(entries) == 0 {
		return out
	}
	last, _ := entries[0].(amqp.Table)
	if reason, ok := last["reason"].(string); ok {
		out.reason = celery.Reason(reason)
	}
	out.queue, _ = last["queue"].(string)
	out.exchange, _ = last["exchange"].(string)
	if keys, _ := last["routing-keys"].([]any); len(keys) > 0 {
		out.routingKey, _ = keys[0].(string)
	}
	return out
}

// exception is how Python sees the death.
func (d death) exception() *celery.Exception {
	switch d.reason {
	case failed.ReasonExpired:
		return celery.TaskRevoked("expired")
	case failed.ReasonMaxLength:
		return &celery.Exception{Type: "LimitExceeded", Module: "kombu.exceptions",
			Args: []any{fmt.Sprintf("queue %s was full: the message was dropped from it", d.queue)}}
	case failed.ReasonDeliveryLimit:
		return &celery.Exception{Type: "WorkerLostError", Module: celery.ModuleBilliard,
			Args: []any{fmt.Sprintf("the message was delivered from queue %s more often than its delivery limit allows", d.queue)}}
	default:
		return (&celery.Reject{Reason: fmt.Sprintf("the message was rejected from queue %s", d.queue)}).Exception()
	}
}

// buryLater buries a dead letter, unless the session is ending.
func (w *Worker) buryLater(jobs context.Context, s *session, d amqp.Delivery) {
	if s.waits.Err() != nil {
		_ = d.Nack(false, true) // an error means that it goes back by itself
		return
	}
	w.jobs.Go(func() { w.bury(jobs, s, d) })
}

// bury keeps a dead letter as a failed job, and stores its end, since otherwise
// whoever asks for its result would wait for ever.
func (w *Worker) bury(jobs context.Context, s *session, d amqp.Delivery) {
	ctx, cancel := lingering(jobs, lastWrites)
	defer cancel()
	why := deathOf(d)
	queue := why.queue
	if queue == "" {
		queue = w.cfg.DefaultQueue
	}
	m := failed.MessageOf(d, queue)
	if exchange, key := failed.Route(d); exchange == d.Exchange && key == d.RoutingKey {
		m.Exchange, m.RoutingKey = why.exchange, why.routingKey
	}
	log := w.log.With(zap.String("queue", why.queue), zap.String("reason", string(why.reason)))
	outcome := outcomeDead
	id, name, err := w.buryMessage(ctx, s, d, m, why)
	log = log.With(zap.String("task_id", id), zap.String("task_name", name))
	switch {
	case errors.Is(err, errFinished):
		outcome = outcomeDuplicate
	case err != nil:
		log.Warn("dead letter goes back to its queue", zap.Error(err))
		if jobs.Err() == nil {
			_ = pause(jobs, time.Second)
		}
		_ = d.Nack(false, true) // an error means that its session is gone
		return
	}
	ackErr := d.Ack(false)
	w.metrics.jobs.WithLabelValues(taskLabel(w, d), outcome).Inc()
	if outcome == outcomeDuplicate {
		log.Info("dead letter of a job that has ended or goes on, dropped", zap.Bool("ack_lost", ackErr != nil))
		return
	}
	log.Error("dead letter kept as a failed job", zap.Bool("ack_lost", ackErr != nil))
}

// errFinished says that a dead letter's job has ended, or that its next attempt has
// been published.
var errFinished = errors.New("the job has ended, or goes on")

func (w *Worker) buryMessage(ctx context.Context, s *session, d amqp.Delivery, m failed.Message, why death) (id, name string, err error) {
	exc := why.exception()
	req, err := celery.Decode(properties(d), d.Headers, d.Body)
	if err != nil {
		var unreadable *celery.MessageError
		if !errors.As(err, &unreadable) {
			return "", "", err
		}
		return unreadable.ID, unreadable.Task, w.keepUnreadable(ctx, m, unreadable, why.reason)
	}
	unlock, err := w.running.lock(ctx, req.ID) // until a run of ours has ended
	if err != nil {
		return req.ID, req.Task, err
	}
	defer unlock()
	t, known := w.tasks[req.Task]
	if !known {
		t = &task{Task: Task{Name: req.Task}}
	}
	req.IgnoreResult = req.IgnoreResult || t.IgnoreResult
	d.Exchange, d.RoutingKey = m.Exchange, m.RoutingKey // where it had been published
	j := &job{w: w, consumer: &consumer{session: s, queue: m.Queue}, delivery: d, task: t, req: req, received: time.Now()}
	before, err := j.ended(ctx)
	if err != nil {
		return req.ID, req.Task, err
	}
	if before != nil {
		return req.ID, req.Task, errFinished
	}
	state := celery.Failure
	if why.reason == failed.ReasonExpired {
		state = celery.Revoked
	}
	if saved, err := j.store(ctx, state, exc, nil); err != nil {
		return req.ID, req.Task, err
	} else if !saved {
		return req.ID, req.Task, errFinished
	}
	if err := j.afterFailure(ctx, exc, true); err != nil {
		return req.ID, req.Task, err
	}
	// What ran out because its producer wanted it so is not kept, here or elsewhere.
	if why.reason != failed.ReasonExpired || req.Expires.IsZero() || time.Now().Before(req.Expires) {
		r := failed.Failure(m, req, exc, why.reason)
		r.State, r.Worker = state, w.cfg.NodeName
		if err := w.kept.Keep(ctx, r); err != nil {
			return req.ID, req.Task, err
		}
	}
	if err := j.markFinished(ctx, state); err != nil {
		return req.ID, req.Task, err
	}
	return req.ID, req.Task, j.afterReturn(ctx, state, exc)
}

// keepUnreadable keeps a message that cannot be run, and stores FAILURE if it has an
// id.
func (w *Worker) keepUnreadable(ctx context.Context, m failed.Message, fault *celery.MessageError, reason celery.Reason) error {
	exc := refusal(fault)
	// A task that is not known can be read all the same.
	req, err := m.Request()
	if err != nil {
		req = nil
	}
	r := failed.Failure(m, req, exc, reason)
	r.ID, r.Task, r.Worker = fault.ID, fault.Task, w.cfg.NodeName
	if fault.ID != "" {
		meta, err := celery.NewMeta(&celery.Request{ID: fault.ID, Task: fault.Task}, celery.Failure, exc, time.Now())
		if err == nil {
			j := &job{w: w, req: &celery.Request{ID: fault.ID, Task: fault.Task}}
			_, err = j.save(ctx, meta, m.Publishing.ReplyTo, nil)
		}
		if err != nil {
			return err
		}
	}
	return w.kept.Keep(ctx, r)
}
