package worker

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/rabbit"
)

// deadPrefetch is how many dead letters are worked on at once.
const deadPrefetch = 20

// whileAtWork is how often a dead letter looks whether the run that some process has of it still
// lasts.
const whileAtWork = 2 * time.Second

// acceptDead takes a dead letter, which is kept as a failed job. Its end is stored, since
// otherwise whoever asks for its result would wait for ever.
func (w *Worker) acceptDead(jobs context.Context, c *consumer, raw amqp.Delivery) {
	d := rabbit.Of(raw, c.queue.Name)
	if c.waits.Err() != nil {
		_ = d.Requeue() // an error means that it goes back by itself
		return
	}
	w.hold(c, d)
	w.jobs.Go(func() {
		defer w.letGo(c, d)
		death := d.Death(w.cfg.DefaultQueue) // d is of the queue in which it died from here on
		j, unreadable := w.newJob(c, d)
		j.death = &death
		if err := j.persist(func() error { return j.bury(jobs, unreadable) }); err != nil {
			j.returned(jobs, err)
		}
	})
}

// bury takes a dead letter to its end. unreadable says why its message cannot be read, nil if it
// can.
func (j *job) bury(jobs context.Context, unreadable *celery.MessageError) error {
	if j.delivery.Returned() >= returnedOften {
		if err := j.putBack(); unpublishable(err) == nil {
			return err
		} // else it is buried here and now
	}
	if unreadable != nil {
		v := verdictOnRefusal(unreadable)
		v.reason, v.outcome = j.death.Reason, outcomeDead
		return j.conclude(jobs, v)
	}
	j.again, j.seen = true, true
	unlock, err := j.lock(j.consumer.waits) // until a run in this process has ended
	if err != nil {
		return err
	}
	defer unlock()
	now, err := j.book.Look(j.consumer.waits, j.req.ID)
	if err != nil {
		return errors.Join(context.Cause(j.consumer.waits), err)
	}
	j.look(now)
	// While its run is there, or what it has said of its end, it is known whether an end on record is this message's.
	if done, err := j.endedBefore(jobs, j.consumer.waits); done || err != nil {
		return err
	}
	died, err := j.untilNotAtWork()
	if err != nil {
		return err
	}
	if died && j.death.Reason == rabbit.Expired {
		return j.resume(jobs)
	}
	return j.conclude(jobs, verdictOnDeath(*j.death, j.req))
}

// returnedOften is how often a dead letter may come back to its queue before it is published there
// once more. A quorum queue drops what came back more often than its delivery limit, by default 20
// since RabbitMQ 4.0, and a dead letter has nowhere else to go.
const returnedOften = 2

// putBack publishes a dead letter to the end of its queue, where its returns are not counted yet.
func (j *job) putBack() error {
	waits := j.consumer.waits // nothing is done yet: the delivery may go back
	m := j.delivery.Fresh(j.consumer.queue.Name)
	m.Own.Again = true
	if err := j.publish(waits, m); err != nil {
		return stopped(waits, err)
	}
	j.w.log.Info("dead letter came back to its queue too often, published there once more",
		zap.String("task_id", j.req.ID), zap.Int("returned", j.delivery.Returned()))
	return j.ack()
}

// endOfDeath is the line of a dead letter's end.
func (j *job) endOfDeath(v *verdict, extra []zap.Field) {
	extra = j.fields(append(extra, zap.String("queue", j.death.Queue), zap.String("reason", string(j.death.Reason)))...)
	if v.outcome == outcomeDuplicate {
		j.w.log.Info("dead letter of a job that has ended or goes on, dropped", extra...)
		return
	}
	j.w.log.Error("dead letter kept as a failed job", extra...)
}

// untilNotAtWork waits while some process runs the job: its connection was lost, the broker gave
// the message back to its queue, and there it ran out or was returned too often. The run has an
// end of its own. It reports whether the process has died instead.
func (j *job) untilNotAtWork() (died bool, err error) {
	waits := j.consumer.waits
	for ran, told := false, false; ; told = true {
		holder, err := j.book.Holder(waits, j.req.ID)
		if err != nil {
			return false, errors.Join(context.Cause(waits), err)
		}
		if holder == "" {
			return ran && !j.endedMeanwhile(waits), nil
		}
		ran = ran || !strings.Contains(holder, notRun)
		if !told {
			j.w.log.Info("dead letter of a job that is at work waits for its end", zap.String("task_id", j.req.ID))
			defer j.inTheWay()()
		}
		if err := pause(waits, whileAtWork); err != nil {
			return false, err
		}
	}
}

// endedMeanwhile reports whether an end is on record, or the job goes on in its next attempt.
func (j *job) endedMeanwhile(ctx context.Context) bool {
	now, err := j.book.Look(ctx, j.req.ID)
	return err != nil || now.Ended() || now.Meta != nil && now.Meta.Status == celery.Retried
}

// resume publishes a job once more that was delivered in time, and whose process died: that its
// message has run out since, in its queue, is no wish of its producer.
//
// Until the dead letter is acknowledged it has the id, as a run does that has died: should it come again, it is published once more,
// rather than ending the job whose copy waits in its queue.
func (j *job) resume(jobs context.Context) error {
	ctx := j.w.writing
	run := uuid.NewString()
	if _, _, err := j.book.Begin(ctx, j.req.ID, run, "", ""); err != nil {
		return stopped(ctx, err)
	}
	m := j.delivery.Clone()
	m.ForgetDeaths()
	m.Own.Again = true
	err := j.publish(ctx, m)
	if err != nil && unpublishable(err) == nil {
		return stopped(ctx, err) // its lease runs out
	}
	var ackErr error
	if err == nil {
		ackErr = j.ack()
	}
	if ackErr == nil {
		if err := j.book.Release(ctx, j.req.ID, run); err != nil {
			j.w.log.Debug("id not released", zap.String("task_id", j.req.ID), zap.Error(err))
		}
	}
	if err != nil {
		return j.conclude(jobs, verdictOnDeath(*j.death, j.req))
	}
	j.w.metrics.jobs.WithLabelValues(j.w.taskLabel(j.req.Task), outcomeResumed).Inc()
	j.w.log.Warn("job whose process died is published once more: its message had run out in its queue",
		j.fields(zap.String("queue", j.death.Queue), zap.Bool("ack_lost", ackErr != nil))...)
	return nil
}
