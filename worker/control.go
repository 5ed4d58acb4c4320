package worker

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/remote"
	"onceover/rabbit"
)

// node is the worker as remote control sees it.
type node Worker

func (n *node) worker() *Worker { return (*Worker)(n) }

// scale is how far autoscaling may go, once it is asked for. A slot that is not
// used costs nothing, so the pool simply has its greatest size.
type scale struct {
	mu       sync.Mutex
	on       bool
	max, min int
}

// sentAhead is how many deliveries the broker may send ahead for one queue, if their bodies are
// not too large.
func (w *Worker) sentAhead() int {
	_, size := w.pool.inUse()
	return min(size*w.cfg.PrefetchMultiplier, 65535)
}

// prefetch is how many deliveries of a queue the broker may send ahead.
func (w *Worker) prefetch(q rabbit.Queue) int {
	if w.isDead(q) {
		return deadPrefetch
	}
	return w.bodies.window(w.sentAhead(), w.cfg.HeldBytes/int64(w.queues.count()))
}

func (n *node) Jobs() remote.Jobs {
	var out remote.Jobs
	for _, j := range n.held.list() {
		j.mu.Lock()
		entry := remote.Job{Request: j.req, Redelivered: j.req.Delivery.Redelivered, Acknowledged: j.acked}
		switch j.phase {
		case active:
			entry.Started = j.began
			out.Active = append(out.Active, entry)
		case scheduled:
			out.Scheduled = append(out.Scheduled, entry)
		case reserved:
			out.Reserved = append(out.Reserved, entry)
		}
		j.mu.Unlock()
	}
	byStart := func(a, b remote.Job) int { return a.Started.Compare(b.Started) }
	byETA := func(a, b remote.Job) int { return a.Request.ETA.Compare(b.Request.ETA) }
	slices.SortFunc(out.Active, byStart)
	slices.SortFunc(out.Scheduled, byETA)
	return out
}

// askKept is how long remote control waits for Redis.
const askKept = 500 * time.Millisecond

// maxParkedShown is how many parked jobs inspect scheduled shows.
const maxParkedShown = 1000

func (n *node) Parked() []remote.Job {
	ctx, cancel := context.WithTimeout(context.Background(), askKept)
	defer cancel()
	if first, err := n.kept.First(ctx); err != nil || !first {
		return nil
	}
	messages, err := n.kept.Parked(ctx, maxParkedShown)
	if err != nil {
		n.log.Warn("parked jobs not listed", zap.Error(err))
		return nil
	}
	out := make([]remote.Job, 0, len(messages))
	for _, m := range messages {
		req, err := m.Request()
		if err != nil {
			continue // it was readable when it was parked
		}
		req.Delivery = celery.DeliveryInfo{Exchange: m.Exchange, RoutingKey: m.RoutingKey}
		out = append(out, remote.Job{Request: req, Acknowledged: true})
	}
	return out
}

func (n *node) RevokeParked(ids []string) {
	ctx, cancel := context.WithTimeout(context.Background(), askKept)
	defer cancel()
	if err := n.kept.Revoke(ctx, ids); err != nil {
		n.log.Warn("parked jobs not revoked", zap.Strings("task_ids", ids), zap.Error(err))
	}
}

func (n *node) Totals() map[string]int {
	out := map[string]int{}
	for name, t := range n.tasks {
		if runs := t.runs.Load(); runs > 0 {
			out[name] = int(runs)
		}
	}
	return out
}

func (n *node) Tasks() []remote.Task {
	out := make([]remote.Task, 0, len(n.tasks))
	for _, name := range slices.Sorted(maps.Keys(n.tasks)) {
		t := n.tasks[name]
		seconds := func(nanos int64) any {
			if nanos == 0 {
				return nil
			}
			return time.Duration(nanos).Seconds()
		}
		attributes := map[string]any{
			"serializer": "json", "max_retries": t.MaxRetries, "acks_late": !t.AckEarly,
			"ignore_result": t.IgnoreResult, "track_started": t.TrackStarted || n.cfg.TrackStarted,
			"soft_time_limit": seconds(t.soft.Load()), "time_limit": seconds(t.hard.Load()),
			"rate_limit": nil,
		}
		if text := t.limiter.text(); text != "" {
			attributes["rate_limit"] = text
		}
		out = append(out, remote.Task{Name: name, Attributes: attributes})
	}
	return out
}

func (n *node) Queues() []remote.Queue {
	var out []remote.Queue
	for _, q := range n.queues.list() {
		out = append(out, remote.Queue{
			Name: q.Name, Exchange: q.Exchange, ExchangeType: q.ExchangeKind(), RoutingKey: q.BindingKey, Arguments: q.Args,
		})
	}
	return out
}

func (n *node) Pool() remote.Pool {
	_, size := n.pool.inUse()
	n.scale.mu.Lock()
	defer n.scale.mu.Unlock()
	return remote.Pool{
		Size: size, Prefetch: n.worker().sentAhead(),
		SoftTimeLimit: n.cfg.SoftTimeLimit, TimeLimit: n.cfg.TimeLimit,
		Autoscaled: n.scale.on, Max: n.scale.max, Min: n.scale.min,
	}
}

// Settings are the settings that have a name in Celery, and hold here.
func (n *node) Settings() map[string]any {
	queues := []string{}
	for _, q := range n.queues.list() {
		queues = append(queues, q.Name)
	}
	return map[string]any{
		"accept_content":             []string{"json", "yaml", "msgpack"},
		"broker_heartbeat":           rabbit.Heartbeat.Seconds(),
		"broker_url":                 rabbit.RedactURL(n.cfg.BrokerURLs[0]),
		"deprecated_settings":        nil,
		"enable_utc":                 true,
		"include":                    []string{},
		"result_backend":             "redis",
		"result_expires":             86400,
		"result_extended":            n.cfg.ResultExtended,
		"result_serializer":          "json",
		"task_acks_late":             true,
		"task_default_queue":         n.cfg.DefaultQueue,
		"task_queues":                queues,
		"task_reject_on_worker_lost": true,
		"task_serializer":            "json",
		"task_soft_time_limit":       n.cfg.SoftTimeLimit.Seconds(),
		"task_time_limit":            n.cfg.TimeLimit.Seconds(),
		"task_track_started":         n.cfg.TrackStarted,
		"timezone":                   "UTC",
		"worker_concurrency":         n.cfg.Concurrency,
		"worker_hijack_root_logger":  false,
		"worker_log_color":           false,
		"worker_prefetch_multiplier": n.cfg.PrefetchMultiplier,
		"worker_send_task_events":    n.cfg.TaskEvents,
	}
}

func (n *node) Broker() remote.Broker {
	uri, err := rabbit.ParseURL(n.cfg.BrokerURLs[0])
	if err != nil {
		return remote.Broker{} // New has checked it
	}
	return remote.Broker{
		Host: uri.Host, Port: uri.Port, User: uri.Username, VirtualHost: cmp.Or(uri.Vhost, "/"),
		TLS: uri.Scheme == "amqps", Heartbeat: rabbit.Heartbeat,
	}
}

func (n *node) Resize(delta int) error {
	n.scale.mu.Lock()
	defer n.scale.mu.Unlock()
	if n.scale.on {
		return remote.ErrAutoscaled
	}
	_, size := n.pool.inUse()
	if size+delta < 1 {
		return errors.New("at least one slot has to stay")
	}
	n.setSize(size + delta)
	return nil
}

// setSize makes the pool size slots, and the prefetch accordingly.
func (n *node) setSize(size int) {
	n.pool.resize(min(size, maxConcurrency))
	n.queues.touch()
}

func (n *node) Autoscale(most, least int) (nowMax, nowMin int, err error) {
	n.scale.mu.Lock()
	defer n.scale.mu.Unlock()
	s := &n.scale
	if !s.on {
		_, s.max = n.pool.inUse()
		s.min = 1
	}
	nextMax, nextMin := s.max, s.min
	if most > 0 {
		nextMax = most
	}
	if least > 0 {
		nextMin = least
	}
	if nextMin > nextMax || nextMax > maxConcurrency {
		return s.max, s.min, errors.New("expected 1 <= min <= max <= 10000")
	}
	s.on, s.max, s.min = true, nextMax, nextMin
	n.setSize(nextMax)
	return s.max, s.min, nil
}

func (n *node) RateLimit(name string, perSecond float64) error {
	t, ok := n.tasks[name]
	if !ok {
		return remote.ErrUnknownTask
	}
	t.limiter.set(perSecond)
	return nil
}

func (n *node) TimeLimits(name string, hard, soft time.Duration) error {
	t, ok := n.tasks[name]
	if !ok {
		return remote.ErrUnknownTask
	}
	t.hard.Store(int64(hard))
	t.soft.Store(int64(soft))
	return nil
}

// declareTime is how long remote control waits for the broker.
const declareTime = 2 * time.Second

// AddConsumer consumes one more queue, unless the broker does not let us have it. While the broker
// is away, or does not answer in time, that is found out later.
func (n *node) AddConsumer(q remote.Queue) error {
	add := rabbit.QueueNamed(q.Name)
	if add.Args == nil {
		add.Exchange = cmp.Or(q.Exchange, add.Exchange)
		add.Kind = q.ExchangeType
		add.BindingKey = cmp.Or(q.RoutingKey, add.BindingKey)
	}
	if s, _ := n.outbox.get(); s != nil {
		answer := make(chan error, 1)
		s.watch.Go(func() { answer <- n.worker().declarable(s.waits, s, add) })
		var fault *rabbit.ConfigError
		select {
		case err := <-answer:
			if errors.As(err, &fault) {
				return fault
			}
		case <-time.After(declareTime):
		}
	}
	n.queues.add(add)
	return nil
}

func (n *node) CancelConsumer(queue string) {
	n.queues.remove(queue)
	n.faults.forget(faultQueue + queue)
	n.faults.forget(faultConsume + queue)
}

func (n *node) Revoke(match func(*celery.Request) bool, terminate bool, signal int) (ran []string) {
	for _, j := range n.held.list() {
		if !match(j.req) {
			continue
		}
		j.mu.Lock()
		switch {
		case j.phase < active:
			j.stop(errRevoked)
		case j.phase == active && terminate:
			j.stop(&terminated{signal: signal})
			ran = append(ran, j.req.ID)
		}
		j.mu.Unlock()
	}
	return ran
}

func (n *node) Problems() []string { return n.worker().Problems() }

func (n *node) Shutdown() { n.downOnce.Do(func() { close(n.shutdown) }) }
