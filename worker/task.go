package worker

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"onceover/celery"
	"onceover/internal/remote"
)

// Task is a task that the worker runs. Name and Handler are all it needs; the
// rest are Celery's options of the same names. Zero values mean the defaults.
type Task struct {
	Name    string
	Handler Handler

	// MaxRetries is how often a retry is granted: by Retry, and of the errors that
	// AutoRetry names. Zero grants none.
	MaxRetries int
	// AutoRetry tells which errors are retried without the handler's asking, as
	// Celery's autoretry_for; nil: none.
	AutoRetry func(error) bool
	// Backoff is how long to wait before a retry.
	Backoff Backoff

	// AckEarly acknowledges the delivery before the task runs (acks_late = False),
	// so that a job which kills its worker is lost rather than run again. By
	// default a delivery is acknowledged when everything is stored.
	AckEarly bool

	SoftTimeLimit time.Duration // ends the context; 0: Config's. The message's own wins
	TimeLimit     time.Duration // abandons the handler; 0: Config's. The message's own wins
	RateLimit     string        // runs in this worker, "10/s", "100/m", "5/h"; "": no limit
	IgnoreResult  bool          // store no result, whatever the message says
	TrackStarted  bool          // store STARTED, even if Config does not

	// Errback makes the task an error callback that runs in the worker where the
	// other task failed, without a message, as Celery runs tasks with the
	// parameters (request, exc, traceback). Such a task needs no Handler.
	Errback func(ctx context.Context, failed *celery.Request, exc *celery.Exception) error
}

// Backoff is an exponential backoff: Base, doubling with each retry, capped at
// Cap, spread by full jitter unless Exact. The zero value is 1 s up to 600 s
// (Celery's retry_backoff, retry_backoff_max and retry_jitter).
type Backoff struct {
	Base  time.Duration
	Cap   time.Duration
	Exact bool
}

// Handler does the work of a task.
type Handler interface {
	// Run makes one attempt. What it returns is stored as the task's result
	// and has to be a JSON value. The error may be one of [Retry], [ErrIgnore],
	// [Reject] and [Replace]; a *celery.Exception is stored as it is, any other
	// error as a RuntimeError. ctx ends at the soft time limit, when the task is
	// revoked with terminate, and when the worker has to stop.
	Run(ctx context.Context, req *celery.Request) (any, error)
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, req *celery.Request) (any, error)

// Run calls f.
func (f HandlerFunc) Run(ctx context.Context, req *celery.Request) (any, error) { return f(ctx, req) }

// Func makes a Handler of a function whose arguments are the fields of a struct,
// mapped as [celery.Request.Bind] says; a call that does not fit them fails with
// the TypeError that Python would raise. It panics if A is not a struct.
func Func[A, R any](f func(ctx context.Context, args A) (R, error)) Handler {
	if t := reflect.TypeFor[A](); t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("worker: the arguments of a task are a %s: expected a struct", t))
	}
	return HandlerFunc(func(ctx context.Context, req *celery.Request) (any, error) {
		var args A
		if err := req.Bind(&args); err != nil {
			return nil, err
		}
		return f(ctx, args)
	})
}

// Retry asks for another attempt because of err, which may be nil, not before
// delay has passed; with delay 0 the task's backoff decides. When no retry is
// left, err is what the task fails with.
func Retry(err error, delay time.Duration) error { return &celery.Retry{Err: err, After: delay} }

// ErrIgnore asks for nothing to be stored: no state, no callbacks.
var ErrIgnore = celery.ErrIgnore

// Reject refuses the message: it goes back to its queue, or is kept as a dead
// letter.
func Reject(reason string, requeue bool) error {
	return &celery.Reject{Reason: reason, Requeue: requeue}
}

// Replace lets s take the place of the task: whoever waits for the task gets the
// result of s.
func Replace(s *celery.Signature) error { return &celery.Replace{Signature: s} }

// Preparer is a Handler that can begin to read what a run needs while the worker takes the task's id.
type Preparer interface {
	// Prepare is called before it is certain that the task runs, unless req.Memo is set, in which it may leave what it has begun. It must
	// neither wait nor write.
	Prepare(req *celery.Request)
}

// Detailer is a Handler that knows what the log should have of its jobs that fail, such as whose
// they are. The fields must not have secrets.
type Detailer interface {
	LogFields(req *celery.Request) []zap.Field
}

// AfterReturner is a Handler that wants to know what was stored, like Celery's
// Task.after_return.
type AfterReturner interface {
	// AfterReturn is called once the final state is stored and before the delivery
	// is acknowledged; with RETRY before the next attempt is published, which may
	// overtake everything after. exc is nil on SUCCESS. After a crash it is called
	// again on redelivery, so it must be safe to repeat. An error keeps the delivery
	// unacknowledged.
	AfterReturn(ctx context.Context, req *celery.Request, state celery.State, exc *celery.Exception) error
}

type attemptKey struct{}

// attempt is what a handler's context carries.
type attempt struct {
	job   *job
	plan  celery.Plan
	again bool // the job may have run before, and started the same

	mu   sync.Mutex // of plan, while the handler runs
	over bool
}

// end lets a handler that is left behind start nothing any more.
func (a *attempt) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
}

// start applies s and publishes it, unless the attempt is over.
func (a *attempt) start(ctx context.Context, s *celery.Signature, over celery.Options) (*celery.Result, error) {
	r, todo, err := a.apply(s, over)
	if err != nil {
		return nil, err
	}
	return r, a.job.flush(ctx, todo, a.again)
}

// apply returns what is to be published; the children stay with the plan.
func (a *attempt) apply(s *celery.Signature, over celery.Options) (*celery.Result, *celery.Plan, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return nil, nil, errOver
	}
	r, err := a.plan.Apply(s, nil, over)
	todo := &celery.Plan{ChordSizes: a.plan.ChordSizes, Groups: a.plan.Groups, Messages: a.plan.Messages}
	a.plan.ChordSizes, a.plan.Groups, a.plan.Messages = nil, nil, nil
	return r, todo, err
}

var errOver = errors.New("the task is over: it starts nothing any more")

// RequestFrom returns the request that the handler with this context runs, nil
// if there is none.
func RequestFrom(ctx context.Context) *celery.Request {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		return a.job.req
	}
	return nil
}

var errNoTask = errors.New("the context is not that of a task's handler")

// Send starts s as a child of the task whose handler has this context: with its
// root, itself as parent, and among the children of its result. It returns when
// the broker has the messages. Its ids derive from the task's: a handler that is
// run again after a crash sends the same ids, and they do not run twice here. A
// handler calls it from one goroutine at a time.
func Send(ctx context.Context, s *celery.Signature) (*celery.Result, error) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return nil, errNoTask
	}
	return a.start(ctx, s, celery.Options{})
}

// AddToChord starts s as one more task of the header in which the task is, so
// that the body waits for it, too.
func AddToChord(ctx context.Context, s *celery.Signature) (*celery.Result, error) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return nil, errNoTask
	}
	req := a.job.req
	if req.Chord == nil {
		return nil, celery.NewException("ValueError", "Current task is not member of any chord", nil)
	}
	r, todo, err := a.apply(s, celery.Options{
		GroupID: req.Group, GroupIndex: req.GroupIndex, Chord: req.Chord, RootID: req.RootID,
	})
	if err != nil {
		return nil, err
	}
	// A run after a crash adds the same task, which is counted once.
	if err := a.job.w.results.GrowChord(ctx, req.Group, r.ID); err != nil {
		return nil, err
	}
	return r, a.job.flush(ctx, todo, a.again)
}

// task is a registered task with what remote control may change.
type task struct {
	Task
	limiter *limiter
	soft    atomic.Int64 // time limits in nanoseconds, 0 for none of its own
	hard    atomic.Int64
	runs    atomic.Int64 // accepted so far
}

// autoRetries tells whether the task wants to be retried after err. One that panics
// over it does not.
func (t *task) autoRetries(err error) (again bool) {
	defer func() { _ = recover() }()
	return t.AutoRetry != nil && t.AutoRetry(err)
}

func newTask(t Task) (*task, error) {
	switch {
	case t.Name == "":
		return nil, errors.New("register task: its name is empty")
	case t.Handler == nil && t.Errback == nil:
		return nil, fmt.Errorf("register task %s: it has neither Handler nor Errback", t.Name)
	case t.MaxRetries < 0:
		return nil, fmt.Errorf("register task %s: MaxRetries is %d: expected 0 or more", t.Name, t.MaxRetries)
	}
	perSecond, err := remote.ParseRate(t.RateLimit)
	if err != nil {
		return nil, fmt.Errorf("register task %s: %w", t.Name, err)
	}
	if t.Handler == nil {
		t.Handler = errbackOnly(t.Name)
	}
	out := &task{Task: t, limiter: newLimiter(perSecond)}
	out.soft.Store(int64(t.SoftTimeLimit))
	out.hard.Store(int64(t.TimeLimit))
	return out, nil
}

// errbackOnly answers messages to a task that only runs inline.
func errbackOnly(name string) Handler {
	return HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		return nil, celery.NewException("TypeError", name+"() is an error callback and takes (request, exc, traceback)", nil)
	})
}

// limiter holds runs of a task back to a rate, in their order.
type limiter struct {
	r       *rate.Limiter
	changed chan chan struct{} // one element: closed and replaced when the rate changes
}

func newLimiter(perSecond float64) *limiter {
	l := &limiter{r: rate.NewLimiter(rate.Inf, 1), changed: make(chan chan struct{}, 1)}
	l.changed <- make(chan struct{})
	l.set(perSecond)
	return l
}

// set changes the rate, 0 for no limit; who waits begins to wait anew.
func (l *limiter) set(perSecond float64) {
	limit := rate.Inf
	if perSecond > 0 {
		limit = rate.Limit(perSecond)
	}
	l.r.SetLimit(limit)
	close(<-l.changed)
	l.changed <- make(chan struct{})
}

// limited reports whether there is a limit.
func (l *limiter) limited() bool { return l.r.Limit() != rate.Inf }

// text is the limit as Celery shows it, "" for none.
func (l *limiter) text() string {
	limit := l.r.Limit()
	switch {
	case limit == rate.Inf:
		return ""
	case limit >= 1:
		return fmt.Sprintf("%g/s", float64(limit))
	case limit*60 >= 1:
		return fmt.Sprintf("%g/m", float64(limit)*60)
	default:
		return fmt.Sprintf("%g/h", float64(limit)*3600)
	}
}

// wait waits for the next run, or returns why ctx ended.
func (l *limiter) wait(ctx context.Context) error {
	for l.limited() {
		changed := <-l.changed
		l.changed <- changed
		r := l.r.Reserve()
		timer := time.NewTimer(r.Delay())
		select {
		case <-timer.C:
			return nil
		case <-changed:
			timer.Stop()
			r.Cancel()
		case <-ctx.Done():
			timer.Stop()
			r.Cancel()
			return context.Cause(ctx)
		}
	}
	return context.Cause(ctx)
}
