package remote

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"onceover/celery"
)

// info is a request as inspect shows it (celery/worker/request.py, info). With
// safe, the arguments are texts.
func (r *Remote) info(j Job, safe bool) map[string]any {
	req := j.Request
	var args, kwargs any = req.ArgsText(), req.KwargsText()
	if !safe {
		list, table := []any{}, map[string]any{}
		for _, v := range req.Args {
			list = append(list, jsonValue(v))
		}
		for name, v := range req.Kwargs {
			table[name] = jsonValue(v)
		}
		args, kwargs = list, table
	}
	var started, pid any
	if !j.Started.IsZero() {
		started, pid = unixSeconds(j.Started), os.Getpid()
	}
	return map[string]any{
		"id": req.ID, "name": req.Name(), "type": req.Task, "args": args, "kwargs": kwargs,
		"hostname": r.cfg.NodeName, "time_start": started, "acknowledged": j.Acknowledged, "worker_pid": pid,
		"delivery_info": map[string]any{
			"exchange": req.Delivery.Exchange, "routing_key": req.Delivery.RoutingKey,
			"priority": req.Priority(), "redelivered": j.Redelivered,
		},
	}
}

// jsonValue is an argument as it came, or its repr where it cannot be written
// again: Python's JSON knows NaN.
func jsonValue(raw json.RawMessage) any {
	if !json.Valid(raw) {
		return celery.ReprRaw(raw)
	}
	return raw
}

func (r *Remote) infos(jobs []Job, safe bool) []any {
	out := make([]any, len(jobs))
	for i, j := range jobs {
		out[i] = r.info(j, safe)
	}
	return out
}

func activeJobs(r *Remote, a arguments) (any, error) {
	var safe bool
	if err := a.get("safe", &safe); err != nil {
		return nil, err
	}
	return r.infos(r.node.Jobs().Active, safe), nil
}

func reservedJobs(r *Remote, _ arguments) (any, error) {
	return r.infos(r.node.Jobs().Reserved, false), nil
}

func scheduledJobs(r *Remote, _ arguments) (any, error) {
	return later{r.parked, func() (any, error) {
		jobs := append(r.node.Jobs().Scheduled, r.node.Parked()...)
		out := make([]any, len(jobs))
		for i, j := range jobs {
			out[i] = map[string]any{
				"eta":      celery.ISOTime(j.Request.ETA),
				"priority": 6, "request": r.info(j, false),
			}
		}
		return out, nil
	}}, nil
}

func revokedIDs(r *Remote, _ arguments) (any, error) { return r.Revoked.IDs(), nil }

func queryTask(r *Remote, a arguments) (any, error) {
	ids, err := a.texts("ids")
	if err != nil {
		return nil, err
	}
	named := make(map[string]bool, len(ids))
	for _, id := range ids {
		named[id] = true
	}
	jobs := r.node.Jobs()
	out := map[string]any{}
	for state, list := range map[string][]Job{"active": jobs.Active, "reserved": jobs.Reserved, "scheduled": jobs.Scheduled} {
		for _, j := range list {
			if named[j.Request.ID] {
				out[j.Request.ID] = []any{state, r.info(j, false)}
			}
		}
	}
	return out, nil
}

func registered(r *Remote, a arguments) (any, error) {
	items, err := a.texts("taskinfoitems")
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		items = []string{"exchange", "routing_key", "rate_limit"}
	}
	var builtins bool
	if err := a.get("builtins", &builtins); err != nil {
		return nil, err
	}
	out := []string{}
	for _, t := range r.node.Tasks() {
		if strings.HasPrefix(t.Name, "celery.") && !builtins {
			continue
		}
		var attributes []string
		for _, item := range items {
			if strings.HasPrefix(item, "_") {
				continue
			}
			value := t.Attributes[item]
			if item == "name" {
				value = t.Name
			}
			if value == nil {
				continue
			}
			text, isText := value.(string)
			if !isText {
				text = celery.Repr(value)
			}
			attributes = append(attributes, item+"="+text)
		}
		if len(attributes) == 0 {
			out = append(out, t.Name)
		} else {
			out = append(out, fmt.Sprintf("%s [%s]", t.Name, strings.Join(attributes, " ")))
		}
	}
	slices.Sort(out)
	return out, nil
}

// activeQueues shows queues as kombu's Queue.as_dict does.
func activeQueues(r *Remote, _ arguments) (any, error) {
	out := []any{}
	for _, q := range r.node.Queues() {
		var args any
		if len(q.Arguments) > 0 {
			args = q.Arguments
		}
		out = append(out, map[string]any{
			"name": q.Name, "routing_key": q.RoutingKey, "queue_arguments": args,
			"exchange": map[string]any{
				"name": q.Exchange, "type": q.ExchangeType, "arguments": nil, "durable": true, "passive": false,
				"auto_delete": false, "delivery_mode": nil, "no_declare": false,
			},
			"binding_arguments": nil, "consumer_arguments": nil, "durable": true, "exclusive": false,
			"auto_delete": false, "no_ack": false, "alias": nil, "bindings": []any{}, "no_declare": nil,
			"expires": nil, "message_ttl": nil, "max_length": nil, "max_length_bytes": nil, "max_priority": nil,
		})
	}
	return out, nil
}

func conf(r *Remote, _ arguments) (any, error) { return r.node.Settings(), nil }

// stats has everything that Flower and celery-exporter look for.
func stats(r *Remote, _ arguments) (any, error) {
	p, b := r.node.Pool(), r.node.Broker()
	total := r.node.Totals()
	runs := 0
	for _, n := range total {
		runs += n
	}
	pids := make([]int, p.Size)
	for i := range pids {
		pids[i] = os.Getpid()
	}
	out := map[string]any{
		"total": total, "pid": os.Getpid(), "clock": strconv.FormatInt(r.Clock.Value(), 10),
		"uptime": max(1, int(time.Since(r.started).Seconds())), "prefetch_count": p.Prefetch,
		"pool": map[string]any{
			"implementation": "onceover:goroutines", "max-concurrency": p.Size, "processes": pids,
			"max-tasks-per-child": "N/A", "put-guarded-by-semaphore": false,
			"timeouts": []float64{p.SoftTimeLimit.Seconds(), p.TimeLimit.Seconds()},
			"writes":   map[string]any{"total": runs, "avg": "0.00", "all": "", "raw": "", "strategy": nil, "inqueues": map[string]int{"total": 0, "active": 0}},
		},
		"broker": map[string]any{
			"hostname": b.Host, "port": b.Port, "userid": b.User, "virtual_host": b.VirtualHost, "ssl": b.TLS,
			"insist": false, "transport": "amqp", "connect_timeout": 4, "transport_options": map[string]any{},
			"login_method": "PLAIN", "uri_prefix": nil, "heartbeat": b.Heartbeat.Seconds(), "failover_strategy": "round-robin",
			"alternates": []any{}, "credential_provider": nil,
		},
		"rusage": usage(),
	}
	if problems := r.node.Problems(); len(problems) > 0 { // Celery has no such thing
		out["problems"] = problems
	}
	if p.Autoscaled {
		active := len(r.node.Jobs().Active)
		out["autoscaler"] = map[string]any{"max": p.Max, "min": p.Min, "current": max(p.Min, active), "qty": active}
	}
	return out, nil
}
