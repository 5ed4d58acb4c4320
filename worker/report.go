package worker

import (
	"context"
	"errors"
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
	h, ok := j.task.Handler.(AfterReturner)
	if !ok {
		return nil
	}
	// A panic in it must not have the job, which is over, come again.
	defer func() {
		if p := recover(); p != nil {
			j.w.log.Error("AfterReturn panicked", j.fields(zap.String("traceback", celery.Recovered(p).Traceback()))...)
		}
	}()
	return h.AfterReturn(ctx, j.req, state, exc)
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
