package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/worker"
)

// module is the Python module of the tasks and of their exceptions.
const module = "t.integration.tasks"

// call is the signature of one of the tasks.
func call(name string, args ...any) *celery.Signature {
	return celery.NewSignature(module+"."+name, args...)
}

// raised is an exception of the tests' own module.
func raised(class string, args ...any) error {
	return &celery.Exception{Type: class, Module: module, Args: args}
}

type (
	none struct{}
	any1 struct {
		X any `celery:"x"`
	}
	rest struct {
		Args []any `celery:"*args"`
	}
)

// all returns every task. own is the client for the keys that some of them
// write.
func all(own *redis.Client) []worker.Task {
	tasks := plain()
	tasks = append(tasks, redisTasks(own)...)
	tasks = append(tasks, failing()...)
	tasks = append(tasks, spawning()...)
	tasks = append(tasks, signatures()...)
	for i := range tasks {
		tasks[i].Name = module + "." + tasks[i].Name
		if tasks[i].MaxRetries == 0 {
			tasks[i].MaxRetries = 3 // Celery's default
		}
		// As Celery does by default, and as the tests expect of all but one. Leave it
		// out where a job must survive the end of its worker.
		tasks[i].AckEarly = tasks[i].Name != module+".reject_then_succeed"
	}
	return append(tasks,
		worker.Task{Name: "celery.ping", Handler: worker.Func(func(context.Context, none) (string, error) { return "pong", nil })},
		worker.Task{
			Name: "auto_retry_class_task", MaxRetries: 1,
			AutoRetry: func(error) bool { return true },
			Handler: worker.HandlerFunc(func(_ context.Context, req *celery.Request) (any, error) {
				if req.Retries > 0 {
					return req.Retries, nil
				}
				return nil, &celery.Exception{Type: "ValueError", Module: celery.ModuleBuiltins}
			}),
		})
}

type addArgs struct {
	X any `celery:"x"`
	Y any `celery:"y"`
	Z any `celery:"z,optional"`
}

type pairArgs struct {
	X any `celery:"x"`
	Y any `celery:"y"`
}

type pauseArgs struct {
	Numbers   []any   `celery:"numbers"`
	PauseTime float64 `celery:"pause_time" default:"1"`
}

// plain are tasks that only return a value.
func plain() []worker.Task {
	addTwo := worker.Func(func(_ context.Context, a pairArgs) (any, error) { return add(a.X, a.Y) })
	limits := worker.HandlerFunc(func(_ context.Context, req *celery.Request) (any, error) {
		seconds := func(d time.Duration) any {
			if d == 0 {
				return nil
			}
			return d.Seconds()
		}
		return map[string]any{"time_limit": seconds(req.TimeLimit), "soft_time_limit": seconds(req.SoftTimeLimit)}, nil
	})
	return []worker.Task{
		{Name: "identity", Handler: worker.Func(func(_ context.Context, a any1) (any, error) { return a.X, nil })},
		{Name: "add", Handler: worker.Func(func(_ context.Context, a addArgs) (any, error) {
			if truthy(a.Z) {
				return add(a.X, a.Y, a.Z)
			}
			return add(a.X, a.Y)
		})},
		{Name: "add_not_typed", Handler: addTwo},
		{Name: "add_ignore_result", Handler: addTwo, IgnoreResult: true},
		{Name: "mul", Handler: worker.Func(func(_ context.Context, a struct {
			X float64 `celery:"x"`
			Y float64 `celery:"y"`
		}) (float64, error) {
			return a.X * a.Y, nil
		})},
		{Name: "tsum", Handler: worker.Func(func(_ context.Context, a struct {
			Nums []any `celery:"nums"`
		}) (any, error) {
			return sum(a.Nums)
		})},
		{Name: "xsum", Handler: worker.Func(func(_ context.Context, a struct {
			Nums []any `celery:"nums"`
		}) (any, error) {
			var flat []any
			for _, n := range a.Nums {
				if list, ok := n.([]any); ok {
					flat = append(flat, list...)
				} else {
					flat = append(flat, n)
				}
			}
			return sum(flat)
		})},
		{Name: "delayed_sum", Handler: worker.Func(func(ctx context.Context, a pauseArgs) (any, error) {
			if err := sleep(ctx, a.PauseTime); err != nil {
				return nil, err
			}
			return sum(a.Numbers)
		})},
		{Name: "delayed_sum_with_soft_guard", Handler: worker.Func(func(ctx context.Context, a pauseArgs) (any, error) {
			if sleep(ctx, a.PauseTime) != nil {
				return 0, nil // the soft time limit
			}
			return sum(a.Numbers)
		})},
		{Name: "sleeping", Handler: worker.Func(func(ctx context.Context, a struct {
			Seconds float64        `celery:"i"`
			Others  map[string]any `celery:"**kwargs"`
		}) (any, error) {
			return nil, sleep(ctx, a.Seconds)
		})},
		{Name: "return_exception", Handler: worker.Func(func(_ context.Context, a struct {
			E any `celery:"e"`
		}) (any, error) {
			return []any{a.E, true}, nil
		})},
		{Name: "print_unicode", Handler: worker.Func(func(_ context.Context, a struct {
			Log   string `celery:"log_message" default:"håå®ƒ valmuefrø"`
			Print string `celery:"print_message" default:"hiöäüß"`
		}) (any, error) {
			fmt.Fprintln(os.Stderr, a.Log)
			fmt.Println(a.Print)
			return nil, nil
		})},
		{Name: "write_to_file_and_return_int", Handler: worker.Func(func(_ context.Context, a struct {
			File string `celery:"file_name"`
			I    any    `celery:"i"`
		}) (any, error) {
			f, err := os.OpenFile(a.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
			if err != nil {
				return nil, err
			}
			_, err = fmt.Fprintf(f, "%v\n", a.I)
			if closeErr := f.Close(); err == nil {
				err = closeErr
			}
			return a.I, err
		})},
		{Name: "replaced_with_me", Handler: worker.Func(func(context.Context, none) (bool, error) { return true, nil })},
		{Name: "ids", Handler: worker.Func(func(ctx context.Context, a struct {
			I any `celery:"i"`
		}) (any, error) {
			return idsOf(ctx, a.I), nil
		})},
		{Name: "collect_ids", Handler: worker.Func(func(ctx context.Context, a struct {
			Res any `celery:"res"`
			I   any `celery:"i"`
		}) (any, error) {
			return []any{a.Res, idsOf(ctx, a.I)}, nil
		})},
		{Name: "return_priority", Handler: worker.HandlerFunc(func(_ context.Context, req *celery.Request) (any, error) {
			if p := req.Priority(); p != nil {
				return fmt.Sprintf("Priority: %d", *p), nil
			}
			return "Priority: None", nil
		})},
		{Name: "return_properties", Handler: worker.HandlerFunc(func(_ context.Context, req *celery.Request) (any, error) {
			p := req.Properties
			return map[string]any{
				"content_type": p.ContentType, "content_encoding": p.ContentEncoding, "correlation_id": p.CorrelationID,
				"reply_to": p.ReplyTo, "priority": p.Priority, "delivery_mode": p.DeliveryMode, "app_id": p.AppID,
				"message_id": p.MessageID, "type": p.Type, "expiration": p.Expiration,
			}, nil
		})},
		{Name: "return_request_time_limits", Handler: limits},
		{Name: "task_with_declared_time_limits", Handler: limits, TimeLimit: 60 * time.Second, SoftTimeLimit: 45 * time.Second},
		{Name: "soft_time_limit_must_exceed_time_limit", Handler: limits, TimeLimit: time.Second, SoftTimeLimit: 2 * time.Second},
	}
}

// idsOf is the request's root and parent beside i.
func idsOf(ctx context.Context, i any) []any {
	req := worker.RequestFrom(ctx)
	var parent any
	if req.ParentID != "" {
		parent = req.ParentID
	}
	return []any{req.RootID, parent, i}
}

// redisTasks write to Redis, so that the tests see that they ran.
func redisTasks(own *redis.Client) []worker.Task {
	push := func(ctx context.Context, key, value string) error { return own.RPush(ctx, key, value).Err() }
	// replaceTwice tells about its two visits; between them it is replaced.
	replaceTwice := func(in, out string, middle func() *celery.Signature, name string) worker.Handler {
		return worker.Func(func(ctx context.Context, a struct {
			State any `celery:"state" default:"false"`
		}) (any, error) {
			if truthy(a.State) {
				return nil, push(ctx, "redis-echo", out)
			}
			if err := push(ctx, "redis-echo", in); err != nil {
				return nil, err
			}
			return nil, worker.Replace(celery.Chain(middle(), call(name).SetKwarg("state", true).SetImmutable()))
		})
	}
	return []worker.Task{
		{Name: "redis_echo", Handler: worker.Func(func(ctx context.Context, a struct {
			Message json.RawMessage `celery:"message"`
			Key     string          `celery:"redis_key" default:"redis-echo"`
		}) (any, error) {
			text, ok := celery.Text(a.Message)
			if !ok {
				text = celery.ReprRaw(a.Message)
			}
			return nil, push(ctx, a.Key, text)
		})},
		{Name: "redis_echo_group_id", Handler: worker.Func(func(ctx context.Context, a struct {
			Ignored any    `celery:"_"`
			Key     string `celery:"redis_key" default:"redis-group-ids"`
		}) (any, error) {
			return nil, push(ctx, a.Key, worker.RequestFrom(ctx).Group)
		})},
		{Name: "redis_count", Handler: worker.Func(func(ctx context.Context, a struct {
			Key string `celery:"redis_key" default:"redis-count"`
		}) (any, error) {
			return nil, own.Incr(ctx, a.Key).Err()
		})},
		{Name: "errback_old_style", Handler: worker.Func(func(ctx context.Context, a struct {
			ID string `celery:"request_id"`
		}) (any, error) {
			return a.ID, own.Incr(ctx, a.ID).Err()
		})},
		{Name: "errback_new_style", Errback: func(ctx context.Context, failed *celery.Request, _ *celery.Exception) error {
			return own.Incr(ctx, failed.ID).Err()
		}},
		{Name: "second_order_replace1", Handler: replaceTwice("In A", "Out A",
			func() *celery.Signature { return call("second_order_replace2") }, "second_order_replace1")},
		{Name: "second_order_replace2", Handler: replaceTwice("In B", "Out B",
			func() *celery.Signature { return call("redis_echo", "In/Out C") }, "second_order_replace2")},
	}
}

type retryArgs struct {
	Args       []any    `celery:"*args"`
	Expires    *float64 `celery:"expires,keyword"`
	MaxRetries *int     `celery:"max_retries,keyword" default:"1"`
	Countdown  float64  `celery:"countdown,keyword" default:"0.1"`
}

// once retries the first time, and then returns what then makes of the request.
func once(then func(*celery.Request) any) worker.Handler {
	return worker.Func(func(ctx context.Context, a retryArgs) (any, error) {
		if req := worker.RequestFrom(ctx); req.Retries > 0 {
			return then(req), nil
		}
		again := &celery.Retry{After: seconds(a.Countdown), MaxRetries: a.MaxRetries}
		if a.Expires != nil {
			again.Expires = time.Now().Add(seconds(*a.Expires))
		}
		return nil, again
	})
}

// failing are tasks that fail, retry or reject.
func failing() []worker.Task {
	var attempts atomic.Int64
	unpickleable := func(foo any) error { return raised("UnpickleableException", foo) }
	return []worker.Task{
		{Name: "fail", Handler: worker.Func(func(_ context.Context, a rest) (any, error) {
			return nil, raised("ExpectedException", append([]any{"Task expected to fail"}, a.Args...)...)
		})},
		{Name: "raise_error", Handler: worker.Func(func(context.Context, rest) (any, error) {
			return nil, celery.NewException("ValueError", "deliberate error", nil)
		})},
		{Name: "fail_unpickleable", Handler: worker.Func(func(_ context.Context, a struct {
			Foo any `celery:"foo"`
			Bar any `celery:"bar"`
		}) (any, error) {
			return nil, unpickleable(a.Foo)
		})},
		{Name: "retry_unpickleable", Handler: worker.Func(func(_ context.Context, a struct {
			Foo   any `celery:"foo"`
			Bar   any `celery:"bar"`
			Retry struct {
				Countdown  float64 `json:"countdown"`
				MaxRetries *int    `json:"max_retries"`
			} `celery:"retry_kwargs,keyword"`
		}) (any, error) {
			return nil, &celery.Retry{Err: unpickleable(a.Foo), After: seconds(a.Retry.Countdown), MaxRetries: a.Retry.MaxRetries}
		})},
		{Name: "retry", Handler: worker.Func(func(_ context.Context, a struct {
			Value any `celery:"return_value,optional"`
		}) (any, error) {
			if truthy(a.Value) && attempts.Add(1) > 3 {
				attempts.Store(0)
				return a.Value, nil
			}
			return nil, worker.Retry(raised("ExpectedException"), 5*time.Second)
		})},
		{Name: "retry_once", MaxRetries: 1, Handler: once(func(req *celery.Request) any { return req.Retries })},
		{Name: "retry_once_priority", MaxRetries: 1, Handler: once(func(req *celery.Request) any { return req.Priority() })},
		{Name: "retry_once_headers", MaxRetries: 1, Handler: once(func(req *celery.Request) any { return req.Headers })},
		{Name: "reject_then_succeed", Handler: worker.HandlerFunc(func(_ context.Context, req *celery.Request) (any, error) {
			if !req.Delivery.Redelivered {
				return nil, worker.Reject("first pass", true)
			}
			return "second-pass", nil
		})},
		{Name: "reject_without_requeue", Handler: worker.Func(func(context.Context, none) (any, error) {
			return nil, worker.Reject("rejected", false)
		})},
	}
}

type linkArgs struct {
	Args []json.RawMessage `celery:"*args"`
	Msg  json.RawMessage   `celery:"link_msg,keyword"`
}

// echo is a callback that tells msg, or the result where msg is nil.
func (a linkArgs) echo() *celery.Signature {
	if a.Msg == nil || string(a.Msg) == "null" {
		return call("redis_echo")
	}
	return call("redis_echo", a.Msg).SetImmutable()
}

type numbersArgs struct {
	Nums []any `celery:"nums"`
	Val  any   `celery:"val"`
}

// adds are the calls that add val to each number.
func (a numbersArgs) adds() []*celery.Signature {
	var out []*celery.Signature
	for _, n := range a.Nums {
		out = append(out, call("add", n, a.Val))
	}
	return out
}

// spawning are tasks that start others, or become others.
func spawning() []worker.Task {
	replaceWith := func(s func(linkArgs) *celery.Signature) worker.Handler {
		return worker.Func(func(_ context.Context, a linkArgs) (any, error) { return nil, worker.Replace(s(a)) })
	}
	identity := func(args []json.RawMessage) *celery.Signature {
		s := call("identity")
		s.Args = args
		return s
	}
	return []worker.Task{
		{Name: "chain_add", Handler: worker.Func(func(ctx context.Context, a pairArgs) (any, error) {
			_, err := worker.Send(ctx, celery.Chain(call("add", a.X, a.X), call("add", a.Y)))
			return nil, err
		})},
		{Name: "chord_add", Handler: worker.Func(func(ctx context.Context, a pairArgs) (any, error) {
			_, err := worker.Send(ctx, celery.Chord([]*celery.Signature{call("add", a.X, a.X)}, call("add", a.Y)))
			return nil, err
		})},
		{Name: "build_chain_inside_task", Handler: worker.Func(func(ctx context.Context, _ none) (any, error) {
			return worker.Send(ctx, celery.Chain(call("add", 1, 1), call("add", 2),
				celery.Group(call("add", 3), call("add", 4)), call("add", 5)))
		})},
		{Name: "add_replaced", Handler: worker.Func(func(_ context.Context, a pairArgs) (any, error) {
			return nil, worker.Replace(call("add", a.X, a.Y))
		})},
		{Name: "replace_with_chain", Handler: replaceWith(func(a linkArgs) *celery.Signature {
			c := celery.Chain(identity(a.Args), call("identity"))
			c.LinkSuccess(a.echo())
			return c
		})},
		{Name: "replace_with_chain_which_raises", Handler: replaceWith(func(a linkArgs) *celery.Signature {
			c := celery.Chain(identity(a.Args), call("raise_error"))
			c.LinkFailure(a.echo())
			return c
		})},
		{Name: "replace_with_empty_chain", Handler: replaceWith(func(linkArgs) *celery.Signature { return celery.Chain() })},
		{Name: "fail_replaced", Handler: replaceWith(func(a linkArgs) *celery.Signature {
			s := call("fail").SetImmutable()
			s.Args = a.Args
			return s
		})},
		{Name: "add_to_all", Handler: worker.Func(func(_ context.Context, a numbersArgs) (any, error) {
			return nil, worker.Replace(celery.Group(a.adds()...))
		})},
		{Name: "add_to_all_to_chord", Handler: worker.Func(func(ctx context.Context, a numbersArgs) (any, error) {
			for _, s := range a.adds() {
				if _, err := worker.AddToChord(ctx, s); err != nil {
					return nil, err
				}
			}
			return 0, nil
		})},
		{Name: "add_chord_to_chord", Handler: worker.Func(func(ctx context.Context, a numbersArgs) (any, error) {
			_, err := worker.AddToChord(ctx, celery.Chord(a.adds(), call("tsum")))
			return 0, err
		})},
		{Name: "replace_with_stamped_task", Handler: worker.Func(func(_ context.Context, a struct {
			With *celery.Signature `celery:"replace_with,optional"`
		}) (any, error) {
			if a.With == nil {
				a.With = call("replaced_with_me")
			}
			return nil, &celery.Replace{Signature: a.With, Stamps: map[string]any{"StampOnReplace": "This is the replaced task"}}
		})},
	}
}

// signatures are tasks whose values are signatures.
func signatures() []worker.Task {
	one := func() *celery.Signature { return call("add") }
	chord := func() *celery.Signature { return celery.Chord([]*celery.Signature{one()}, one()) }
	values := map[string]func() *celery.Signature{
		"chain_chain": func() *celery.Signature { return celery.Chain(celery.Chain(one())) },
		"chain_group": func() *celery.Signature { return celery.Chain(celery.Group(one())) },
		"chain_chord": func() *celery.Signature { return celery.Chain(chord()) },
		"group_chain": func() *celery.Signature { return celery.Group(celery.Chain(one())) },
		"group_group": func() *celery.Signature { return celery.Group(one()) },
		"group_chord": func() *celery.Signature { return celery.Group(chord()) },
		"chord_chain": chord,
		"chord_group": chord,
		"chord_chord": func() *celery.Signature { return celery.Chord([]*celery.Signature{chord()}, one()) },
	}
	var tasks []worker.Task
	for name, value := range values {
		tasks = append(tasks, worker.Task{Name: "return_nested_signature_" + name, Handler: worker.Func(
			func(context.Context, none) (*celery.Signature, error) { return value(), nil })})
	}
	return append(tasks, worker.Task{Name: "rebuild_signature", Handler: worker.Func(func(_ context.Context, a struct {
		Doc json.RawMessage `celery:"sig_dict"`
	}) (any, error) {
		var s celery.Signature
		if err := json.Unmarshal(a.Doc, &s); err != nil {
			return nil, celery.NewException("TypeError", err.Error(), err)
		}
		return nil, nil
	})})
}
