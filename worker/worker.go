package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/redisretry"
	"onceover/internal/remote"
	"onceover/rabbit"
	"onceover/results"
)

// Store is a database whose faults are known: cache.Cache and fleet.Gate, and those below.
type Store interface {
	Fault() *redisretry.Fault
}

// Results is where ends are recorded and chords counted: results.Store.
type Results interface {
	Ledger
	Load(ctx context.Context, taskID string) (*celery.Meta, error)
	SaveGroup(ctx context.Context, g *celery.Result) error
	BeginChord(ctx context.Context, c celery.ChordSize, again bool) error
	GrowChord(ctx context.Context, groupID, memberID string) error
	CountPart(ctx context.Context, p results.Part) (complete bool, err error)
	Header(ctx context.Context, groupID string) (json.RawMessage, error)
	ChordDone(ctx context.Context, groupID string) error
	ChordFailed(ctx context.Context, groupID string) error
	Fault() *redisretry.Fault
}

// Marks remembers the end of attempts whose result is not stored, and counts the runs of
// redelivered jobs: progress.Store.
type Marks interface {
	Ledger
	CountRun(ctx context.Context, taskID, run string) (times int, err error)
	NotBegun(ctx context.Context, taskID, run string) error
	Fault() *redisretry.Fault
}

// Kept is where jobs wait that are due later, and where failed ones are kept:
// failed.Store.
type Kept interface {
	Park(ctx context.Context, m rabbit.Message, req *celery.Request, due time.Time, exc *celery.Exception) error
	Keep(ctx context.Context, r failed.Record) error
	Run(ctx context.Context, publish failed.Publish)
	Revoke(ctx context.Context, ids []string) error
	First(ctx context.Context) (bool, error)
	Parked(ctx context.Context, limit int) ([]rabbit.Message, error)
	Probe(ctx context.Context) error
	Fault() *redisretry.Fault
}

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
	kept    Kept
	log     *zap.Logger
	metrics *metrics
	tasks   map[string]*task
	remote  *remote.Remote
	origin  string // "gen<pid>@<host>", of what the worker publishes

	pool   pool
	queues *queues
	faults *faults

	created  map[string]bool // queues that this process has created; only declare's goroutine uses it
	bodies   *bodies
	outbox   *outbox
	held     held // jobs that run, or will
	settling held // jobs, refusals and dead letters whose verdict is carried out
	leased   held // jobs, refusals and dead letters that have their ids
	scale    scale
	tags     atomic.Int64 // consumer tags given so far

	jobs            sync.WaitGroup
	writing         context.Context // ends lastWrites after jobs have to end; set by Run
	crew            crew
	running         running
	suspects        chan struct{} // has an element while a suspicious job runs
	consuming       atomic.Bool
	consumesNothing bool         // paused; of the goroutine of consume
	lastBeat        atomic.Int64 // Unix nanoseconds
	abort           chan struct{}
	abortOnce       sync.Once
	shutdown        chan struct{} // closed by the remote command of this name
	downOnce        sync.Once
	returned        atomic.Int64 // jobs given back because the worker stopped
}

// New returns a worker whose metrics are registered with reg. It fails if cfg is
// not valid.
func New(cfg Config, results Results, marks Marks, kept Kept, reg prometheus.Registerer, log *zap.Logger) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("worker configuration: %w", err)
	}
	_, host, _ := strings.Cut(cfg.NodeName, "@")
	faults := newFaults(log)
	w := &Worker{
		cfg:      cfg,
		results:  results,
		marks:    marks,
		kept:     kept,
		log:      log,
		tasks:    map[string]*task{},
		origin:   fmt.Sprintf("gen%d@%s", os.Getpid(), host),
		pool:     pool{size: cfg.Concurrency},
		queues:   newQueues(cfg.Queues),
		faults:   faults,
		created:  map[string]bool{},
		bodies:   newBodies(),
		outbox:   newOutbox(log, faults),
		abort:    make(chan struct{}),
		shutdown: make(chan struct{}),
		suspects: make(chan struct{}, 1),
	}
	w.remote = remote.New(remote.Config{
		NodeName: cfg.NodeName, TaskEvents: cfg.TaskEvents && cfg.RemoteControl, Mingle: cfg.Mingle,
		Dial: func(ctx context.Context) (*rabbit.Conn, error) {
			return rabbit.Dial(ctx, cfg.NodeName+" (remote control)", cfg.BrokerURLs)
		},
	}, (*node)(w), log.Named("remote"))
	w.metrics = newMetrics(reg,
		func() float64 { return float64(w.inFlight()) },
		func() float64 { return float64(w.held.scheduled()) },
		func() float64 { return float64(w.remote.Dropped()) })
	if err := w.Register(builtins()...); err != nil {
		return nil, err
	}
	w.beat()
	return w, nil
}

// Register adds tasks. It must not be called after Run. A task of the same name
// is replaced. The error says what is wrong with a task.
func (w *Worker) Register(tasks ...Task) error {
	for _, t := range tasks {
		registered, err := newTask(t)
		if err != nil {
			return err
		}
		w.tasks[t.Name] = registered
	}
	return nil
}

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
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// Jobs outlive ctx by the grace period, remote control outlives the jobs.
	jobs, stopJobs := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopJobs(errStopping)
	writing, stopWriting := lingering(jobs, lastWrites)
	defer stopWriting()
	w.writing = writing
	control, stopControl := context.WithCancel(context.WithoutCancel(ctx))
	var others sync.WaitGroup
	defer w.crew.end()
	defer others.Wait()
	defer stopControl()
	controlled := w.remote.Ready()
	if w.cfg.RemoteControl {
		others.Go(func() { w.remote.Run(control) })
	} else {
		controlled = closed
	}
	others.Go(func() { w.kept.Run(ctx, w.publishKept) })
	others.Go(func() { w.renewLeases(control) })
	others.Go(func() {
		select {
		case <-w.shutdown:
			stop()
		case <-ctx.Done():
		}
	})

	asked, mingling := make(chan struct{}), time.After(mingleTime)
	others.Go(func() {
		defer close(asked)
		w.askStores(ctx)
	})
	var s *session
	for ctx.Err() == nil {
		next, err := w.connect(ctx)
		if err != nil {
			break // ctx has ended
		}
		s = next
		<-asked // it takes a second at most
		// What was revoked before is known before the first job is taken.
		select {
		case <-controlled:
		case <-mingling:
			controlled = closed
		case <-ctx.Done():
		}
		err = w.consume(ctx, jobs, s)
		if ctx.Err() != nil {
			break
		}
		s.close()
		w.metrics.brokerLost.Inc()
		w.log.Warn("broker lost, reconnecting", zap.Error(err), zap.Int("jobs_in_flight", w.inFlight()))
		_ = pause(ctx, reconnectPause/2+rand.N(reconnectPause)) // ends early when ctx does
	}
	return w.drain(s, stopJobs)
}

// closed is a channel of what is long over.
var closed = func() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}()

// mingleTime is how long the start waits for remote control to be there.
const mingleTime = 2 * time.Second

func (w *Worker) inFlight() int {
	used, _ := w.pool.inUse()
	return used
}

// Abort ends the grace period at once: the second signal.
func (w *Worker) Abort() { w.abortOnce.Do(func() { close(w.abort) }) }

// drain takes no more deliveries, returns those that have not begun, and waits for the jobs in
// flight. The connection stays open until then, so that they can be acknowledged.
func (w *Worker) drain(s *session, stopJobs context.CancelCauseFunc) error {
	defer s.close()
	if s != nil {
		w.outbox.set(s) // what the last jobs start is still published
		defer w.outbox.set(nil)
		w.cancelConsumers(s)
		s.endWaits(errStopping)
	}
	inFlight := w.inFlight()
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
		w.returned.Add(int64(w.held.unacknowledged()))
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

// publishKept publishes messages that were kept or parked to their queues, over whichever session
// there is. A parked message that can never be published ends here, as its job would wait for
// ever.
func (w *Worker) publishKept(ctx context.Context, create bool, messages ...rabbit.Message) error {
	if !create {
		s, err := w.outbox.wait(ctx)
		if err != nil {
			return err
		}
		room := rabbit.ErrorsOf(rabbit.HaveRoom(s.conn, messages, nil), len(messages))
		return room.Rest(messages, func(m ...rabbit.Message) error { return w.outbox.publish(ctx, confirmLimit, m...) })
	}
	faults := rabbit.ErrorsOf(w.outbox.publish(ctx, confirmLimit, messages...), len(messages))
	for i, err := range faults {
		if rabbit.Undeliverable(err) {
			faults[i] = w.failParked(ctx, messages[i], err)
		}
	}
	return faults.OrNil()
}

// failParked ends a parked job as failed, as it can never be published.
func (w *Worker) failParked(ctx context.Context, m rabbit.Message, why error) error {
	req, err := m.Request()
	if err != nil {
		return err // it was readable when it was parked
	}
	e := w.newEnding(m, req, w.tasks[req.Task])
	e.again = true
	if e.since, err = e.book.Look(ctx, req.ID); err != nil {
		return err
	}
	v, err := e.settle(ctx, failure(operationalError(why), failed.ReasonFailed))
	if err != nil {
		return err
	}
	w.metrics.jobs.WithLabelValues(w.taskLabel(req.Task), v.outcome).Inc()
	w.log.Error("parked job is due and can never be published, kept as failed", e.fields(zap.Error(why))...)
	return nil
}

// askStores finds out whether the stores answer, before jobs are taken: one that is taken in vain
// is returned when the worker stops, which the broker counts.
func (w *Worker) askStores(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var all sync.WaitGroup
	for _, ask := range []func() error{
		func() error { _, err := w.results.Holder(ctx, w.cfg.NodeName); return err },
		func() error { _, err := w.marks.Holder(ctx, w.cfg.NodeName); return err },
		func() error { return w.kept.Probe(ctx) },
	} {
		all.Go(func() { _ = ask() }) // the stores' Fault says what is wrong
	}
	all.Wait()
}

// obstacleOver waits until nothing is known to keep a job from running, at least a moment.
func (w *Worker) obstacleOver(ctx context.Context) error {
	for {
		if err := pause(ctx, time.Second+rand.N(time.Second)); err != nil {
			return err
		}
		if w.obstacle() == nil {
			return nil
		}
	}
}
