package worker

import (
	"context"
	"encoding/json"
	"time"

	"onceover/celery"
)

// builtins are the tasks that every worker of Celery has (celery/app/builtins.py).
// Those of canvas run what they are called with: clients send them for parts of a
// canvas that they do not take apart themselves.
func builtins() []Task {
	return []Task{
		{Name: "celery.accumulate", Handler: HandlerFunc(accumulate)},
		{Name: "celery.backend_cleanup", Handler: HandlerFunc(noCleanup)},
		{Name: "celery.map", Handler: Func(runMap)},
		{Name: "celery.starmap", Handler: Func(runStarmap)},
		{Name: "celery.chunks", Handler: Func(runChunks)},
		{Name: "celery.chain", Handler: canvas(celery.KindChain)},
		{Name: "celery.group", Handler: canvas(celery.KindGroup)},
		{Name: "celery.chord", Handler: canvas(celery.KindChord)},
		{Name: "celery.chord_unlock", Handler: Func(unlockChord), MaxRetries: 1 << 30, IgnoreResult: true},
	}
}

// accumulate returns its arguments as a list, or the one with the number index.
func accumulate(_ context.Context, req *celery.Request) (any, error) {
	raw, given := req.Kwargs["index"]
	if !given || string(raw) == "null" {
		if req.Args == nil {
			return []any{}, nil
		}
		return req.Args, nil
	}
	var index int
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, celery.NewException("TypeError", "list indices must be integers", err)
	}
	if index < 0 {
		index += len(req.Args)
	}
	if index < 0 || index >= len(req.Args) {
		return nil, celery.NewException("IndexError", "tuple index out of range", nil)
	}
	return req.Args[index], nil
}

// noCleanup has nothing to do: every key has a TTL.
func noCleanup(context.Context, *celery.Request) (any, error) { return nil, nil }

type mapArgs struct {
	Task *celery.Signature `celery:"task"`
	It   []json.RawMessage `celery:"it"`
}

// runMap calls a task of this worker with each item, one after the other.
func runMap(ctx context.Context, a mapArgs) (any, error) {
	return each(ctx, a.Task, a.It, func(item json.RawMessage) ([]json.RawMessage, error) {
		return []json.RawMessage{item}, nil
	})
}

// runStarmap is runMap with items that are lists of arguments.
func runStarmap(ctx context.Context, a mapArgs) (any, error) {
	return each(ctx, a.Task, a.It, func(item json.RawMessage) (args []json.RawMessage, err error) {
		if err := json.Unmarshal(item, &args); err != nil {
			return nil, celery.NewException("TypeError", "argument after * must be an iterable", err)
		}
		return args, nil
	})
}

func each(ctx context.Context, s *celery.Signature, items []json.RawMessage, argsOf func(json.RawMessage) ([]json.RawMessage, error)) (any, error) {
	a := ctx.Value(attemptKey{}).(*attempt)
	t, known := a.job.w.tasks[s.Task]
	if !known {
		return nil, celery.NotRegistered(s.Task)
	}
	out := make([]any, 0, len(items))
	for _, item := range items {
		args, err := argsOf(item)
		if err != nil {
			return nil, err
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		call := *a.job.req
		call.Task, call.Args, call.Kwargs = s.Task, append(args, s.Args...), s.Kwargs
		value, err := t.Handler.Run(ctx, &call)
		if err != nil {
			return nil, err
		}
		out = append(out, value)
	}
	return out, nil
}

type chunksArgs struct {
	Task *celery.Signature `celery:"task"`
	It   []json.RawMessage `celery:"it"`
	N    int               `celery:"n"`
}

// runChunks starts a group of starmaps of n items each and returns its result
// tuple.
func runChunks(ctx context.Context, a chunksArgs) (any, error) {
	if a.N < 1 {
		return nil, celery.NewException("ValueError", "n must be at least one", nil)
	}
	var parts []*celery.Signature
	for len(a.It) > 0 {
		n := min(a.N, len(a.It))
		parts = append(parts, celery.NewSignature("celery.starmap").SetKwarg("task", a.Task).SetKwarg("it", a.It[:n]))
		a.It = a.It[n:]
	}
	return Send(ctx, celery.Group(parts...))
}

// canvas starts the canvas whose signature the message is.
func canvas(kind string) Handler {
	return HandlerFunc(func(ctx context.Context, req *celery.Request) (any, error) {
		doc, err := celery.MarshalJSON(map[string]any{
			"task": req.Task, "args": []any{}, "kwargs": req.Kwargs, "options": map[string]any{}, "subtask_type": kind,
		})
		if err != nil {
			return nil, err
		}
		var s celery.Signature
		if err := json.Unmarshal(doc, &s); err != nil {
			return nil, celery.NewException("TypeError", err.Error(), err)
		}
		s.Args = req.Args
		return Send(ctx, &s)
	})
}

type unlockArgs struct {
	GroupID    string            `celery:"group_id"`
	Callback   *celery.Signature `celery:"callback"`
	Interval   *float64          `celery:"interval,optional"`
	MaxRetries *int              `celery:"max_retries,optional"`
	Result     []*celery.Result  `celery:"result,optional"`
}

// unlockChord is how backends without counting finish a chord: it looks whether
// the header is there, and comes again if it is not.
func unlockChord(ctx context.Context, a unlockArgs) (any, error) {
	j := ctx.Value(attemptKey{}).(*attempt).job
	values := make([]json.RawMessage, len(a.Result))
	for i, r := range a.Result {
		m, err := j.w.results.Load(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		switch {
		case m == nil || !m.Status.Final():
			interval := time.Second
			if a.Interval != nil {
				interval = time.Duration(*a.Interval * float64(time.Second))
			}
			return nil, &celery.Retry{After: interval, MaxRetries: a.MaxRetries}
		case m.Status != celery.Success:
			exc, err := m.Exception()
			if err != nil {
				return nil, err
			}
			return nil, j.failBody(ctx, a.Callback, celery.ChordError(r.ID, exc), nil)
		}
		values[i] = m.Result
	}
	list, err := celery.MarshalJSON(values)
	if err != nil {
		return nil, err
	}
	at := ctx.Value(attemptKey{}).(*attempt)
	if _, err := at.plan.Apply(a.Callback, []json.RawMessage{list}, celery.Options{}); err != nil {
		return nil, err
	}
	return nil, j.flush(ctx, &at.plan, at.again)
}
