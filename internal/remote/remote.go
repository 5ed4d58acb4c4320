package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
)

// Node is the worker as remote control and events see it. All methods are safe
// for concurrent use. All but Parked, RevokeParked and AddConsumer return at once: none
// waits for a job, for Redis or for the broker.
type Node interface {
	// Jobs is a view of what the worker holds at one moment.
	Jobs() Jobs
	// Parked are the jobs that no worker holds, as they are due much later, if this
	// node is the one to tell of them. It may wait for Redis.
	Parked() []Job
	// RevokeParked revokes the jobs of these ids that are parked, or will be. It may wait
	// for Redis.
	RevokeParked(ids []string)
	// Totals says how often each task has been accepted, by task name.
	Totals() map[string]int
	// Tasks lists the registered tasks, in any order.
	Tasks() []Task
	// Queues lists the queues consumed, in any order.
	Queues() []Queue
	Pool() Pool
	// Settings are Celery's names of the settings and their values, without
	// secrets. They are JSON values.
	Settings() map[string]any
	Broker() Broker

	// Resize changes the pool by n slots. It fails with ErrAutoscaled, or if
	// nothing would be left.
	Resize(n int) error
	// Autoscale bounds the pool; max 0 keeps the bound as it is, and so does min.
	// It returns the bounds that hold now.
	Autoscale(max, min int) (nowMax, nowMin int, err error)
	// RateLimit sets a task's limit in runs a second, 0 for none. It fails with
	// ErrUnknownTask.
	RateLimit(task string, perSecond float64) error
	// TimeLimits sets a task's limits, 0 for none. It fails with ErrUnknownTask.
	TimeLimits(task string, hard, soft time.Duration) error
	// AddConsumer consumes one more queue; q has a name, the rest may be empty. It may
	// wait for the broker, two seconds at most. Its error is answered: as it is if it is
	// a *celery.Exception, else as a ValueError with its text.
	AddConsumer(q Queue) error
	// CancelConsumer stops consuming a queue.
	CancelConsumer(queue string)
	// Revoke ends the jobs that match: those that wait, and if terminate is set
	// those that run. It returns the ids of the jobs that ran.
	Revoke(match func(*celery.Request) bool, terminate bool, signal int) []string
	// Shutdown begins a warm shutdown.
	Shutdown()
	// Problems says why jobs cannot be run as they should, nothing if all is well.
	Problems() []string
}

// Errors of Node's methods.
var (
	ErrUnknownTask = errors.New("unknown task")
	ErrAutoscaled  = errors.New("not supported with autoscale")
)

// Jobs is what the worker holds.
type Jobs struct {
	Active    []Job // running
	Reserved  []Job // received, waiting for a slot or their task's rate limit
	Scheduled []Job // received, waiting for their ETA
}

// Job is one request that the worker holds.
type Job struct {
	Request      *celery.Request
	Redelivered  bool
	Started      time.Time // zero unless running
	Acknowledged bool
}

// Task is a registered task with those of Celery's task attributes that it has
// (rate_limit, time_limit, soft_time_limit, max_retries, acks_late, ignore_result,
// serializer, …), as JSON values; nil for those that are not set.
type Task struct {
	Name       string
	Attributes map[string]any
}

// Queue is a queue that is consumed.
type Queue struct {
	Name         string
	Exchange     string
	ExchangeType string
	RoutingKey   string
	Arguments    map[string]any // of the queue; nil when none
}

// Pool is how many jobs may run at once.
type Pool struct {
	Size          int
	Prefetch      int // deliveries that the broker may send ahead, over all queues
	SoftTimeLimit time.Duration
	TimeLimit     time.Duration
	Autoscaled    bool
	Max, Min      int // bounds, when autoscaled
}

// Broker is the connection, for stats.
type Broker struct {
	Host, User, VirtualHost string
	Port                    int
	TLS                     bool
	Heartbeat               time.Duration
}

// Config says who we are.
type Config struct {
	NodeName   string
	TaskEvents bool // task events from the start, as celery worker -E
	Mingle     bool // learn revoked ids from the other workers at the start
	// Dial opens the connection, which is used for nothing else.
	Dial func(context.Context) (*amqp.Connection, error)
}

// Remote answers remote control and sends events. Create it with New.
type Remote struct {
	Clock   *celery.Clock
	Revoked *Revoked

	cfg     Config
	node    Node
	log     *zap.Logger
	events  *events
	parked  lane                 // for commands that wait for Redis
	queues  lane                 // for commands that wait for the broker to declare
	link    atomic.Pointer[link] // nil without a connection
	started time.Time
	ready   chan struct{}
	once    sync.Once // closes ready
}

// New returns a Remote that asks node.
func New(cfg Config, node Node, log *zap.Logger) *Remote {
	r := &Remote{
		Clock: &celery.Clock{}, Revoked: newRevoked(),
		cfg: cfg, node: node, log: log, started: time.Now(), ready: make(chan struct{}),
		parked: newLane(), queues: newLane(),
	}
	r.events = newEvents(r)
	return r
}

// Ready is closed once the first connection listens and has mingled.
func (r *Remote) Ready() <-chan struct{} { return r.ready }

// TaskEvent sends a task event if task events are on. It never blocks: when the
// broker is slower than the events, they are dropped and counted. fields are
// JSON values; type, hostname, clock, timestamp, … are added. kind begins with
// "task-".
func (r *Remote) TaskEvent(kind string, fields map[string]any) {
	if r.events.tasks.Load() {
		r.events.add(kind, fields)
	}
}

// TaskEvents reports whether task events are on, so that nobody has to make up
// fields in vain.
func (r *Remote) TaskEvents() bool { return r.events.tasks.Load() }

// Dropped is how many events were dropped so far.
func (r *Remote) Dropped() int64 { return r.events.dropped.Load() }

const (
	firstPause   = 500 * time.Millisecond // after a connection is lost
	longestPause = 10 * time.Second
	healthyTime  = time.Minute // a connection that held so long was a good one
	offlineTime  = time.Second // to say worker-offline
	helloTime    = time.Second // to wait for the other workers' hello

	// answersApart is how long one more worker may take to answer our hello than the one before: all were asked at once, and most know the same.
	answersApart = 100 * time.Millisecond
)

// Run connects and serves until ctx ends, reconnecting whenever the broker is
// lost. At its end it sends the task events that still wait, and worker-offline,
// for which it takes a second at most. It waits for those methods of Node that may
// wait, and have been called.
func (r *Remote) Run(ctx context.Context) {
	// The lanes end after the last request has been taken.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	var lanes sync.WaitGroup
	defer lanes.Wait()
	defer stopWork()
	lanes.Go(func() { r.parked.run(work) })
	lanes.Go(func() { r.queues.run(work) })
	lost, pause := false, firstPause
	for ctx.Err() == nil {
		l, failed, err := r.connect(ctx)
		if err != nil {
			return // ctx has ended
		}
		if lost || failed {
			r.log.Info("remote control connected")
		}
		began := time.Now()
		err = l.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		lost = true
		r.log.Warn("remote control lost, reconnecting", zap.Error(err))
		// One that is lost as soon as it is there is not tried again and again.
		if pause = min(2*pause, longestPause); time.Since(began) > healthyTime {
			pause = firstPause
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
		}
	}
}

// randomNames are parts of queue names that differ in each attempt.
var randomNames = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)

// connect tries until there is a connection, and says whether that was not the
// first try. Its error is that ctx has ended. Each reason is logged once.
func (r *Remote) connect(ctx context.Context) (_ *link, failed bool, err error) {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 100*time.Millisecond, longestPause
	logged := ""
	l, err := backoff.Retry(ctx, func() (*link, error) {
		l, err := r.open(ctx)
		if reason := randomNames.ReplaceAllString(fmt.Sprint(err), "…"); err != nil && ctx.Err() == nil && reason != logged {
			logged = reason
			level := zap.WarnLevel
			if errors.Is(err, errNodeName) {
				level = zap.ErrorLevel
			}
			r.log.Log(level, "remote control not connected, trying again", zap.Error(err))
		}
		return l, err
	}, backoff.WithBackOff(b), backoff.WithMaxElapsedTime(0))
	return l, logged != "", err
}
