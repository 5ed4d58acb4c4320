package worker

import (
	"context"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
)

// refuse keeps a message that cannot be run as a failed job with the reason, and
// stores FAILURE if it has an id. (Python drops such messages, or rejects them into
// whatever the queue has been given, which may be nothing.)
func (w *Worker) refuse(jobs context.Context, c *consumer, d amqp.Delivery, reason *celery.MessageError) {
	ctx, cancel := lingering(jobs, lastWrites)
	defer cancel()
	log := w.log.With(
		zap.String("task_id", reason.ID), zap.String("task_name", reason.Task),
		zap.String("routing_key", d.RoutingKey), zap.String("reason", string(reason.Reason)))

	if err := w.keepUnreadable(ctx, failed.MessageOf(d, c.queue), reason, reason.Reason); err != nil {
		log.Warn("refused message given back to its queue", zap.Error(err))
		if jobs.Err() != nil {
			w.returned.Add(1)
		} else {
			_ = pause(jobs, time.Second)
		}
		_ = d.Nack(false, true) // an error means that its session is gone
		return
	}
	if reason.Reason == celery.ReasonUnknownTask && w.remote.TaskEvents() {
		w.remote.TaskEvent("task-failed", map[string]any{"uuid": reason.ID, "exception": refusal(reason).Repr()})
	}
	ackErr := d.Ack(false)
	w.metrics.jobs.WithLabelValues(taskLabel(w, d), outcomeRefused).Inc()
	log.Error("message refused and kept as a failed job", zap.Error(reason), zap.Bool("ack_lost", ackErr != nil))
}
