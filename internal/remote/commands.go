package remote

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"onceover/celery"
)

// command answers one remote control method.
type command struct {
	name     string // of the method, and of Celery's function
	alias    string // of older clients
	required []string
	optional []string // only where closed
	closed   bool     // takes no other arguments; most ignore them
	logged   bool     // changes something
	// run returns the answer, a JSON value, or a later; an error is answered as
	// Python's repr of the exception.
	run func(*Remote, arguments) (any, error)
}

// commands are those of Celery (celery/worker/control.py).
func commands() []command {
	return []command{
		{name: "ping", run: ping},
		{name: "clock", run: clock},
		{name: "stats", run: stats},
		{name: "report", closed: true, run: report},
		{name: "conf", alias: "dump_conf", run: conf},
		{name: "memsample", run: memsample},
		{name: "memdump", run: memdump},
		{name: "objgraph", optional: []string{"num", "max_depth", "type"}, closed: true, run: objgraph},

		{name: "active", alias: "dump_active", run: activeJobs},
		{name: "reserved", alias: "dump_reserved", run: reservedJobs},
		{name: "scheduled", alias: "dump_schedule", run: scheduledJobs},
		{name: "revoked", alias: "dump_revoked", run: revokedIDs},
		{name: "registered", alias: "dump_tasks", run: registered},
		{name: "active_queues", closed: true, run: activeQueues},
		{name: "query_task", required: []string{"ids"}, run: queryTask},

		{name: "revoke", required: []string{"task_id"}, logged: true, run: revoke},
		{name: "terminate", required: []string{"signal", "task_id"}, logged: true, run: terminate},
		{name: "revoke_by_stamped_headers", required: []string{"headers"}, logged: true, run: revokeByStamps},
		{name: "rate_limit", required: []string{"task_name", "rate_limit"}, logged: true, run: rateLimit},
		{name: "time_limit", logged: true, run: timeLimit},

		{name: "pool_grow", logged: true, run: poolGrow},
		{name: "pool_shrink", logged: true, run: poolShrink},
		{name: "pool_restart", run: poolRestart},
		{name: "autoscale", optional: []string{"max", "min"}, closed: true, logged: true, run: autoscale},
		{name: "add_consumer", required: []string{"queue"}, logged: true, run: addConsumer},
		{name: "cancel_consumer", required: []string{"queue"}, logged: true, run: cancelConsumer},

		{name: "enable_events", closed: true, run: enableEvents},
		{name: "disable_events", closed: true, run: disableEvents},
		{name: "heartbeat", closed: true, run: heartbeat},
		{name: "hello", required: []string{"from_node"}, run: hello},
		{name: "election", required: []string{"id", "topic"}, run: election},
		{name: "shutdown", logged: true, run: shutdown},
	}
}

// lookUp finds a command by its name or alias.
func lookUp(method string) (command, bool) {
	for _, c := range commands() {
		if method == c.name || c.alias != "" && method == c.alias {
			return c, true
		}
	}
	return command{}, false
}

func ok(text string) any  { return map[string]any{"ok": text} }
func nok(text string) any { return map[string]any{"error": text} }

func ping(*Remote, arguments) (any, error) { return ok("pong"), nil }

func clock(r *Remote, _ arguments) (any, error) {
	return map[string]any{"clock": r.Clock.Value()}, nil
}

func poolGrow(r *Remote, a arguments) (any, error) { return resize(r, a, 1, "pool will grow") }

func poolShrink(r *Remote, a arguments) (any, error) { return resize(r, a, -1, "pool will shrink") }

func resize(r *Remote, a arguments, sign int, done string) (any, error) {
	n, err := a.integer("n", 1)
	if err != nil {
		return nil, err
	}
	err = r.node.Resize(sign * n)
	switch {
	case errors.Is(err, ErrAutoscaled):
		return nok(a.command.name + " is not supported with autoscale. Adjust autoscale range instead."), nil
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
	most, err := a.integer("max", 0)
	if err != nil {
		return nil, err
	}
	least, err := a.integer("min", 0)
	if err != nil {
		return nil, err
	}
	most, least, err = r.node.Autoscale(most, least)
	if err != nil {
		return nil, err
	}
	return ok(fmt.Sprintf("autoscale now max=%d min=%d", most, least)), nil
}

func enableEvents(r *Remote, _ arguments) (any, error) {
	if r.events.enable(true) {
		r.log.Info("task events enabled by remote control")
		return ok("task events enabled"), nil
	}
	return ok("task events already enabled"), nil
}

func disableEvents(r *Remote, _ arguments) (any, error) {
	if r.events.enable(false) {
		r.log.Info("task events disabled by remote control")
		return ok("task events disabled"), nil
	}
	return ok("task events already disabled"), nil
}

func heartbeat(r *Remote, _ arguments) (any, error) {
	fields := software()
	fields["freq"] = 5
	r.events.add("worker-heartbeat", fields)
	return nil, nil
}

// hello exchanges what workers tell each other at their start.
func hello(r *Remote, a arguments) (any, error) {
	var from string
	if err := a.get("from_node", &from); err != nil {
		return nil, err
	}
	if from == r.cfg.NodeName {
		return nil, nil
	}
	r.mergeRevoked(a.values["revoked"])
	r.log.Info("another worker has started", zap.String("node", from))
	return map[string]any{"revoked": r.Revoked.IDs(), "clock": r.Clock.Forward()}, nil
}

// electionHandicap is added to the clock of our worker-elect. The worker whose
// clock is lowest wins and does what the election is about, and that we cannot
// do; but without our voice a Python worker that is alone fails (kombu,
// LamportClock.sort_heap).
const electionHandicap = 1 << 16

// election takes part in an election that a Python worker is to win.
func election(r *Remote, a arguments) (any, error) {
	var id, topic, action any
	for name, dst := range map[string]*any{"id": &id, "topic": &topic, "action": &action} {
		if err := a.get(name, dst); err != nil {
			return nil, err
		}
	}
	r.events.add("worker-elect", map[string]any{
		"id": id, "topic": topic, "action": action, "cver": 1, "clock": r.Clock.Value() + electionHandicap,
	})
	return nil, nil
}

func shutdown(r *Remote, _ arguments) (any, error) {
	r.log.Warn("shutdown asked for by remote control")
	r.node.Shutdown()
	return nil, errNoAnswer
}

func report(r *Remote, _ arguments) (any, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "\nsoftware -> celery:%s (onceover)\n", celeryVersion)
	fmt.Fprintf(&b, "node -> %s, pid %d, up %d s\n\n", r.cfg.NodeName, os.Getpid(), int(time.Since(r.started).Seconds()))
	settings := r.node.Settings()
	for _, name := range sortedKeys(settings) {
		fmt.Fprintf(&b, "%s: %v\n", name, settings[name])
	}
	return ok(b.String()), nil
}
