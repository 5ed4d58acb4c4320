package worker

import (
	"context"
	"maps"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
)

// Headers that a dead letter of ours carries besides the message's own.
const (
	headerReason     = "x-onceover-reason"      // a celery.Reason
	headerError      = "x-onceover-error"       // the same in a sentence
	headerExchange   = "x-onceover-exchange"    // where the message was published
	headerRoutingKey = "x-onceover-routing-key" // with which key
	headerNode       = "x-onceover-node"        // the worker that refused it
	headerTime       = "x-onceover-time"        // when, RFC 3339
)

// refuse keeps a message that cannot be run: it goes to the dead-letter exchange
// with the reason, FAILURE is stored if the message has an id, and then it is
// acknowledged. (Python drops such messages, or rejects them into whatever the
// queue has been given, which may be nothing.)
func (w *Worker) refuse(jobs context.Context, s *session, d amqp.Delivery, reason *celery.MessageError) {
	ctx, cancel := lingering(jobs, lastWrites)
	defer cancel()
	log := w.log.With(
		zap.String("task_id", reason.ID), zap.String("task_name", reason.Task),
		zap.String("routing_key", d.RoutingKey), zap.String("reason", string(reason.Reason)))

	if err := s.publisher.Publish(ctx, deadLetter(d, reason, w.cfg.NodeName)); err != nil {
		// A new session declares the dead-letter queue if it has gone, and the
		// message comes again.
		log.Warn("dead letter not kept, trying again", zap.Error(err))
		s.fail(err)
		return
	}
	if reason.ID != "" {
		exc := refusal(reason)
		m, err := celery.NewMeta(&celery.Request{ID: reason.ID, Task: reason.Task}, celery.Failure, exc, time.Now())
		if err == nil {
			err = w.results.Save(ctx, m)
		}
		if err != nil {
			log.Warn("refused message given back to its queue", zap.Error(err))
			if jobs.Err() != nil {
				w.returned.Add(1)
			}
			_ = d.Nack(false, true) // an error means that its session is gone
			return
		}
	}
	if reason.Reason == celery.ReasonUnknownTask && w.remote.TaskEvents() {
		w.remote.TaskEvent("task-failed", map[string]any{"uuid": reason.ID, "exception": refusal(reason).Repr()})
	}
	ackErr := d.Ack(false)
	w.metrics.jobs.WithLabelValues(taskLabel(w, d), outcomeRefused).Inc()
	log.Error("message refused and kept as a dead letter",
		zap.String("queue", QueueDeadLetter), zap.Error(reason), zap.Bool("ack_lost", ackErr != nil))
}

// deadLetter is the message as it goes to the dead-letter exchange: body,
// properties and headers as they came, and why it was refused.
func deadLetter(d amqp.Delivery, reason *celery.MessageError, node string) Outgoing {
	headers := amqp.Table{}
	maps.Copy(headers, d.Headers)
	// RabbitMQ would send copies to the queues that CC names.
	if cc, ok := headers["CC"]; ok {
		delete(headers, "CC")
		headers["x-onceover-cc"] = cc
	}
	headers[headerReason] = string(reason.Reason)
	headers[headerError] = reason.Err.Error()
	headers[headerExchange] = d.Exchange
	headers[headerRoutingKey] = d.RoutingKey
	headers[headerNode] = node
	headers[headerTime] = time.Now().UTC().Format(time.RFC3339)
	return Outgoing{Exchange: ExchangeDeadLetter, RoutingKey: keyDeadLetter, Publishing: amqp.Publishing{
		Headers:         headers,
		ContentType:     d.ContentType,
		ContentEncoding: d.ContentEncoding,
		DeliveryMode:    amqp.Persistent,
		Priority:        d.Priority,
		CorrelationId:   d.CorrelationId,
		ReplyTo:         d.ReplyTo,
		// No Expiration: it is kept until somebody looks at it. No UserId: the
		// broker takes only our own.
		MessageId: d.MessageId,
		Timestamp: d.Timestamp,
		Type:      d.Type,
		AppId:     d.AppId,
		Body:      d.Body,
	}}
}

// keepRejected keeps the message of a task that rejected it.
func (j *job) keepRejected(ctx context.Context, exc *celery.Exception) error {
	out := deadLetter(j.delivery, &celery.MessageError{Reason: reasonRejected, Err: exc}, j.w.cfg.NodeName)
	return j.w.outbox.publish(ctx, out)
}

// reasonRejected is the reason of a dead letter whose task rejected it.
const reasonRejected celery.Reason = "rejected"
