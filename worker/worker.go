package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
)

// Handler does the work of a task.
type Handler interface {
	// Run makes one attempt. What it returns is stored as the task's result
	// and has to be a JSON value. A *celery.Retry asks for another attempt, a
	// *celery.Exception is stored as it is, any other error as a RuntimeError.
	// ctx ends at the soft time limit, and when the worker has to stop.
	Run(ctx context.Context, req *celery.Request) (any, error)
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, req *celery.Request) (any, error)

// Run calls f.
func (f HandlerFunc) Run(ctx context.Context, req *celery.Request) (any, error) { return f(ctx, req) }

// AfterReturner is a Handler that wants to know what was stored, like Celery's
// Task.after_return.
type AfterReturner interface {
	// AfterReturn is called once the state is stored (RETRY or a final state)
	// and before the delivery is acknowledged. exc is nil on SUCCESS. After a
	// crash it is called again on redelivery, so it must be safe to repeat. An
	// error keeps the delivery unacknowledged.
	AfterReturn(ctx context.Context, req *celery.Request, state celery.State, exc *celery.Exception) error
}

// Task is what the worker knows of a task.
type Task struct {
	Name       string
	Handler    Handler
	MaxRetries int // how often a *celery.Retry is granted
}

// Results is where states are stored: results.Store.
type Results interface {
	Save(ctx context.Context, m celery.Meta) error
	Load(ctx context.Context, taskID string) (*celery.Meta, error)
}

// Marks remembers the end of tasks whose result is not stored: progress.Store.
type Marks interface {
	MarkFinished(ctx context.Context, taskID string, state celery.State) error
	Finished(ctx context.Context, taskID string) (celery.State, error)
}

// errStopping is the cause with which jobs end that outlast the grace period.
var errStopping = errors.New("the worker is stopping")

// reconnectPause keeps a session that is lost as soon as it is made from being
// made again without end.
const reconnectPause = 500 * time.Millisecond

// lastWrites is how long a job may still store its outcome after it was told to
// stop.
const lastWrites = 5 * time.Second

// Worker consumes queues and runs jobs. Create it with New.
type Worker struct {
	cfg     Config
	results Results
	marks   Marks
	log     *zap.Logger
	metrics *metrics
	tasks   map[string]Task

	slots     chan struct{} // one token a job in flight
	jobs      sync.WaitGroup
	running   running
	consuming atomic.Bool
	lastBeat  atomic.Int64 // Unix nanoseconds
	abort     chan struct{}
	abortOnce sync.Once
	returned  atomic.Int64 // jobs given back because the worker stopped
}

// New returns a worker whose metrics are registered with reg. It fails if cfg is
// not valid.
func New(cfg Config, results Results, marks Marks, reg prometheus.Registerer, log *zap.Logger) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("worker configuration: %w", err)
	}
	w := &Worker{
		cfg:     cfg,
		results: results,
		marks:   marks,
		log:     log,
		tasks:   map[string]Task{},
		slots:   make(chan struct{}, cfg.Concurrency),
		abort:   make(chan struct{}),
	}
	w.metrics = newMetrics(reg, func() float64 { return float64(len(w.slots)) })
	w.beat()
	return w, nil
}

// Register adds a task. It must not be called after Run.
func (w *Worker) Register(t Task) { w.tasks[t.Name] = t }

// Consuming reports whether the broker is connected and every queue consumed.
func (w *Worker) Consuming() bool { return w.consuming.Load() }

// Idle is the time since the worker's own loop last turned. It turns every
// second, unless it is connecting to the broker.
func (w *Worker) Idle() time.Duration { return time.Since(time.Unix(0, w.lastBeat.Load())) }

func (w *Worker) beat() { w.lastBeat.Store(time.Now().UnixNano()) }

// ReturnedError says that Run stopped before all jobs had finished; the rest
// went back to the queue, where nothing is lost.
type ReturnedError struct{ Jobs int }

func (e *ReturnedError) Error() string {
	return fmt.Sprintf("stopped before %d jobs had finished; they are back in the queue", e.Jobs)
}

// Run consumes until ctx ends, and reconnects whenever the broker is lost. Then
// it takes no more deliveries, returns those that have not begun, and waits
// for the others for Config.Grace, or until Abort; what is left then is
// cancelled and returned to its queue, which Run reports as a *ReturnedError.
func (w *Worker) Run(ctx context.Context) error {
	// Jobs outlive ctx by the grace period.
	jobs, stopJobs := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopJobs(errStopping)

	var s *session
	for ctx.Err() == nil {
		next, err := w.connect(ctx)
		if err != nil {
			break // ctx has ended
		}
		s = next
		err = w.consume(ctx, s, func(d amqp.Delivery) { w.handle(jobs, s, d) })
		if ctx.Err() != nil {
			break
		}
		s.close()
		w.metrics.brokerLost.Inc()
		w.log.Warn("broker lost, reconnecting", zap.Error(err), zap.Int("jobs_in_flight", len(w.slots)))
		_ = pause(ctx, reconnectPause/2+rand.N(reconnectPause)) // ends early when ctx does
	}
	return w.drain(s, stopJobs)
}

// Abort ends the grace period at once: the second signal.
func (w *Worker) Abort() { w.abortOnce.Do(func() { close(w.abort) }) }

// drain waits for the jobs in flight. The connection stays open meanwhile, so
// that they can be acknowledged.
func (w *Worker) drain(s *session, stopJobs context.CancelCauseFunc) error {
	defer s.close()
	inFlight := len(w.slots)
	w.log.Info("stopping", zap.Int("jobs_in_flight", inFlight), zap.Duration("grace", w.cfg.Grace))

	done := make(chan struct{})
	go func() {
		w.jobs.Wait()
		close(done)
	}()
	grace := time.NewTimer(w.cfg.Grace)
	defer grace.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-done:
			w.log.Info("stopped", zap.Int("jobs_finished", inFlight-int(w.returned.Load())))
			return w.stopError()
		case <-tick.C:
			w.beat()
		case <-grace.C:
			waiting = false
		case <-w.abort:
			waiting = false
		}
	}
	stopJobs(errStopping)
	// Jobs that heed their context are gone in a moment. One that does not is
	// left behind: closing the connection returns its delivery all the same.
	last := time.NewTimer(lastWrites + time.Second)
	defer last.Stop()
	select {
	case <-done:
	case <-last.C:
		w.returned.Add(int64(len(w.slots)))
	}
	w.log.Warn("stopped before all jobs had finished", zap.Int64("jobs_returned", w.returned.Load()))
	return w.stopError()
}

func (w *Worker) stopError() error {
	if n := int(w.returned.Load()); n > 0 {
		return &ReturnedError{Jobs: n}
	}
	return nil
}
