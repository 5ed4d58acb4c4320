package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"onceover/celery"
)

// command answers one remote control method. What it returns is the answer, a
// JSON value; an error is answered as Python's repr of the exception.
type command struct {
	run    func(*Remote, arguments) (any, error)
	logged bool // changes something
}

// commands are those of Celery (celery/worker/control.py), by name and alias.
var commands = map[string]command{
	"ping":                      {run: ping},
	"stats":                     {run: stats},
	"active":                    {run: activeJobs},
	"dump_active":               {run: activeJobs},
	"reserved":                  {run: reservedJobs},
	"dump_reserved":             {run: reservedJobs},
	"scheduled":                 {run: scheduledJobs},
	"dump_schedule":             {run: scheduledJobs},
	"revoked":                   {run: revokedIDs},
	"dump_revoked":              {run: revokedIDs},
	"registered":                {run: registered},
	"dump_tasks":                {run: registered},
	"active_queues":             {run: activeQueues},
	"conf":                      {run: conf},
	"dump_conf":                 {run: conf},
	"report":                    {run: report},
	"query_task":                {run: queryTask},
	"clock":                     {run: clock},
	"hello":                     {run: hello},
	"memsample":                 {run: memsample},
	"memdump":                   {run: memdump},
	"objgraph":                  {run: objgraph},
	"revoke":                    {run: revoke, logged: true},
	"terminate":                 {run: terminate, logged: true},
	"revoke_by_stamped_headers": {run: revokeByStamps, logged: true},
	"rate_limit":                {run: rateLimit, logged: true},
	"time_limit":                {run: timeLimit, logged: true},
	"pool_grow":                 {run: poolGrow, logged: true},
	"pool_shrink":               {run: poolShrink, logged: true},
	"pool_restart":              {run: poolRestart},
	"autoscale":                 {run: autoscale, logged: true},
	"add_consumer":              {run: addConsumer, logged: true},
	"cancel_consumer":           {run: cancelConsumer, logged: true},
	"enable_events":             {run: enableEvents},
	"disable_events":            {run: disableEvents},
	"heartbeat":                 {run: heartbeat},
	"election":                  {run: election},
	"shutdown":                  {run: shutdown, logged: true},
}

func ok(text string) any  { return map[string]any{"ok": text} }
func nok(text string) any { return map[string]any{"error": text} }

func ping(*Remote, arguments) (any, error) { return ok("pong"), nil }

func clock(r *Remote, _ arguments) (any, error) {
	return map[string]any{"clock": r.Clock.Value()}, nil
}

func revoke(r *Remote, a arguments) (any, error) {
	if _, given := a.values["task_id"]; !given {
		return nil, a.need("task_id", new(any))
	}
	ids, err := a.texts("task_id")
	if err != nil {
		return nil, err
	}
	var kill bool
	if _, err := a.get("terminate", &kill); err != nil {
		return nil, err
	}
	signal, err := signalOf(a)
	if err != nil {
		return nil, err
	}
	r.Revoked.Add(ids...)
	ran := r.node.Revoke(func(req *celery.Request) bool { return slices.Contains(ids, req.ID) }, kill, signal)
	switch {
	case !kill:
		return ok("tasks " + pythonSet(ids) + " flagged as revoked"), nil
	case len(ran) == 0:
		return ok("terminate: tasks unknown"), nil
	default:
		return ok("terminate: " + strings.Join(ran, ", ")), nil
	}
}

// pythonSet is the repr of a set of strings.
func pythonSet(ids []string) string {
	if len(ids) == 0 {
		return "set()"
	}
	parts := make([]string, len(ids))
	for i, id := range ids {
		parts[i] = celery.Repr(id)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func terminate(r *Remote, a arguments) (any, error) {
	values := map[string]json.RawMessage{"terminate": json.RawMessage("true")}
	for _, name := range []string{"task_id", "signal"} {
		if raw, given := a.values[name]; given {
			values[name] = raw
		}
	}
	return revoke(r, arguments{method: a.method, values: values})
}

// signalOf is the number of the signal that is asked for, SIGTERM by default.
// There is no process to get it: it is told in the event.
func signalOf(a arguments) (int, error) {
	raw, given := a.values["signal"]
	if !given || string(raw) == "null" {
		return int(syscall.SIGTERM), nil
	}
	var number int
	if json.Unmarshal(raw, &number) == nil {
		return number, nil
	}
	var name string
	if _, err := a.get("signal", &name); err != nil {
		return 0, err
	}
	name = strings.ToUpper(name)
	if number, known := signals["SIG"+strings.TrimPrefix(name, "SIG")]; known {
		return int(number), nil
	}
	return 0, celery.NewException("ValueError", "unknown signal "+name, nil)
}

// signals are those that make sense for ending a task.
var signals = map[string]syscall.Signal{
	"SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL, "SIGINT": syscall.SIGINT, "SIGQUIT": syscall.SIGQUIT,
	"SIGHUP": syscall.SIGHUP, "SIGUSR1": syscall.SIGUSR1, "SIGUSR2": syscall.SIGUSR2, "SIGABRT": syscall.SIGABRT,
}

func revokeByStamps(r *Remote, a arguments) (any, error) {
	raw, given := a.values["headers"]
	if !given {
		return nil, a.need("headers", new(any))
	}
	value, err := decode(raw)
	if err != nil {
		return nil, err
	}
	stamps := map[string][]any{}
	shown := value
	switch headers := value.(type) {
	case map[string]any:
		for name, v := range headers {
			if list, isList := v.([]any); isList {
				stamps[name] = list
			} else {
				stamps[name] = []any{v}
			}
		}
	case []any:
		pairs := map[string]any{}
		for _, h := range headers {
			text, _ := h.(string)
			name, v, found := strings.Cut(text, "=")
			if !found {
				return nil, celery.NewException("ValueError", "expected headers as name=value", nil)
			}
			stamps[name], pairs[name] = append(stamps[name], v), v
		}
		shown = pairs
	default:
		return nil, celery.NewException("TypeError", "headers is neither a mapping nor a list of name=value", nil)
	}
	var kill bool
	if _, err := a.get("terminate", &kill); err != nil {
		return nil, err
	}
	signal, err := signalOf(a)
	if err != nil {
		return nil, err
	}
	r.Revoked.AddStamps(stamps)
	ran := r.node.Revoke(func(req *celery.Request) bool {
		return matchStamps(stamps, req.StampedHeaders, req.Stamps)
	}, kill, signal)
	switch {
	case !kill:
		return ok("headers " + celery.Repr(shown) + " flagged as revoked, but not terminated"), nil
	case len(ran) == 0:
		return ok("headers " + celery.Repr(shown) + " were not terminated"), nil
	default:
		return ok("headers " + celery.Repr(shown) + " revoked"), nil
	}
}

func rateLimit(r *Remote, a arguments) (any, error) {
	var task string
	if err := a.need("task_name", &task); err != nil {
		return nil, err
	}
	raw, given := a.values["rate_limit"]
	if !given {
		return nil, a.need("rate_limit", new(any))
	}
	var text string
	var number float64
	switch {
	case string(raw) == "null":
	case json.Unmarshal(raw, &text) == nil:
	case json.Unmarshal(raw, &number) == nil:
		text = strconv.FormatFloat(number, 'g', -1, 64)
	default:
		return nok("Invalid rate limit string: " + celery.ReprRaw(raw)), nil
	}
	perSecond, err := ParseRate(text)
	if err != nil {
		return nok("Invalid rate limit string: " + celery.NewException("ValueError", err.Error(), err).Repr()), nil
	}
	if err := r.node.RateLimit(task, perSecond); err != nil {
		return unknownTask(err)
	}
	if perSecond == 0 {
		return ok("rate limit disabled successfully"), nil
	}
	return ok("new rate limit set successfully"), nil
}

func unknownTask(err error) (any, error) {
	if errors.Is(err, ErrUnknownTask) {
		return nok("unknown task"), nil
	}
	return nil, err
}

func timeLimit(r *Remote, a arguments) (any, error) {
	var task string
	if err := a.need("task_name", &task); err != nil {
		return nil, err
	}
	var hard, soft float64
	if _, err := a.get("hard", &hard); err != nil {
		return nil, err
	}
	if _, err := a.get("soft", &soft); err != nil {
		return nil, err
	}
	seconds := func(f float64) time.Duration { return time.Duration(max(f, 0) * float64(time.Second)) }
	if err := r.node.TimeLimits(task, seconds(hard), seconds(soft)); err != nil {
		return unknownTask(err)
	}
	return ok("time limits set successfully"), nil
}

func poolGrow(r *Remote, a arguments) (any, error) { return resize(r, a, 1, "pool will grow") }

func poolShrink(r *Remote, a arguments) (any, error) { return resize(r, a, -1, "pool will shrink") }

func resize(r *Remote, a arguments, sign int, done string) (any, error) {
	n, err := a.number("n", 1)
	if err != nil {
		return nil, err
	}
	err = r.node.Resize(sign * n)
	switch {
	case errors.Is(err, ErrAutoscaled):
		return nok(a.method + " is not supported with autoscale. Adjust autoscale range instead."), nil
	case err != nil:
		return nil, err
	}
	return ok(done), nil
}

// poolRestart has nothing to restart: Python does it to load code anew.
func poolRestart(*Remote, arguments) (any, error) {
	return nil, celery.NewException("ValueError", "Pool restarts not enabled", nil)
}

func autoscale(r *Remote, a arguments) (any, error) {
	if err := a.only("max", "min"); err != nil {
		return nil, err
	}
	most, err := a.number("max", 0)
	if err != nil {
		return nil, err
	}
	least, err := a.number("min", 0)
	if err != nil {
		return nil, err
	}
	most, least, err = r.node.Autoscale(most, least)
	if err != nil {
		return nil, err
	}
	return ok(fmt.Sprintf("autoscale now max=%d min=%d", most, least)), nil
}

func addConsumer(r *Remote, a arguments) (any, error) {
	var q Queue
	if err := a.need("queue", &q.Name); err != nil {
		return nil, err
	}
	for name, dst := range map[string]*string{"exchange": &q.Exchange, "exchange_type": &q.ExchangeType, "routing_key": &q.RoutingKey} {
		if _, err := a.get(name, dst); err != nil {
			return nil, err
		}
	}
	if q.Name == "" || len(q.Name) > 255 {
		return nil, celery.NewException("ValueError", "a queue name has 1 to 255 bytes", nil)
	}
	r.node.AddConsumer(q)
	return ok("add consumer " + q.Name), nil
}

func cancelConsumer(r *Remote, a arguments) (any, error) {
	var queue string
	if err := a.need("queue", &queue); err != nil {
		return nil, err
	}
	r.node.CancelConsumer(queue)
	return ok("no longer consuming from " + queue), nil
}

func enableEvents(r *Remote, a arguments) (any, error) {
	if err := a.only(); err != nil {
		return nil, err
	}
	if r.events.enable(true) {
		r.log.Info("task events enabled by remote control")
		return ok("task events enabled"), nil
	}
	return ok("task events already enabled"), nil
}

func disableEvents(r *Remote, a arguments) (any, error) {
	if err := a.only(); err != nil {
		return nil, err
	}
	if r.events.enable(false) {
		r.log.Info("task events disabled by remote control")
		return ok("task events disabled"), nil
	}
	return ok("task events already disabled"), nil
}

func heartbeat(r *Remote, a arguments) (any, error) {
	if err := a.only(); err != nil {
		return nil, err
	}
	fields := map[string]any{"freq": 5}
	for k, v := range software {
		fields[k] = v
	}
	r.events.add("worker-heartbeat", fields)
	return nil, nil
}

// election says that we know of the election. (We never stand for one.)
func election(r *Remote, a arguments) (any, error) {
	var id, topic string
	var action any
	if err := a.need("id", &id); err != nil {
		return nil, err
	}
	if err := a.need("topic", &topic); err != nil {
		return nil, err
	}
	if _, err := a.get("action", &action); err != nil {
		return nil, err
	}
	r.events.add("worker-elect", map[string]any{"id": id, "topic": topic, "action": action, "cver": 1})
	return nil, nil
}

func shutdown(r *Remote, _ arguments) (any, error) {
	r.log.Warn("shutdown asked for by remote control")
	r.node.Shutdown()
	return nil, errNoAnswer
}

// hello exchanges what workers tell each other at their start.
func hello(r *Remote, a arguments) (any, error) {
	var from string
	if err := a.need("from_node", &from); err != nil {
		return nil, err
	}
	if from == r.cfg.NodeName {
		return nil, nil
	}
	if raw, given := a.values["revoked"]; given {
		r.mergeRevoked(raw)
	}
	r.log.Info("another worker has started", zap.String("node", from))
	return map[string]any{"revoked": r.revokedTable(), "clock": r.Clock.Forward()}, nil
}

func report(r *Remote, a arguments) (any, error) {
	if err := a.only(); err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nsoftware -> celery:%s (onceover)\n", software["sw_ver"])
	fmt.Fprintf(&b, "node -> %s, pid %d, up %d s\n\n", r.cfg.NodeName, os.Getpid(), int(time.Since(r.started).Seconds()))
	settings := r.node.Settings()
	for _, name := range sortedKeys(settings) {
		fmt.Fprintf(&b, "%s: %v\n", name, settings[name])
	}
	return ok(b.String()), nil
}
