package worker

import (
	"context"
	"time"

	"go.uber.org/zap"

	"onceover/celery"
)

// end acknowledges, counts and logs: the one line of the job's outcome.
func (j *job) end(outcome string, state celery.State, extra ...zap.Field) {
	if err := j.ack(); err != nil {
		extra = append(extra, zap.Bool("ack_lost", true))
	}
	took := time.Since(j.received)
	j.w.metrics.jobs.WithLabelValues(j.task.Name, outcome).Inc()
	j.w.metrics.duration.WithLabelValues(j.task.Name).Observe(took.Seconds())
	fields := j.fields(zap.String("state", string(state)), zap.Float64("duration_seconds", took.Seconds()))
	j.w.log.Info("task finished", append(append(fields, zap.Bool("duplicate", outcome == outcomeDuplicate)), extra...)...)
}

func (j *job) afterReturn(ctx context.Context, state celery.State, exc *celery.Exception) error {
	if h, ok := j.task.Handler.(AfterReturner); ok {
		return h.AfterReturn(ctx, j.req, state, exc)
	}
	return nil
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

// event sends a task event with the job's id, if task events are on.
func (j *job) event(kind string, fields func() map[string]any) {
	if !j.w.remote.TaskEvents() {
		return
	}
	var f map[string]any
	if fields != nil {
		f = fields()
	}
	if f == nil {
		f = map[string]any{}
	}
	f["uuid"] = j.req.ID
	j.w.remote.TaskEvent(kind, f)
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
