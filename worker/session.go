package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/rabbit"
)

const (
	maxReconnect = 10 * time.Second // longest pause between attempts to connect
	closeTimeout = 2 * time.Second  // for the broker to answer when the session ends
	retryFaults  = 10 * time.Second // between attempts at what the broker does not let us do
	retryRights  = 30 * time.Second // the same where others may have done it, and all may be well
	publishTrial = time.Second      // for the broker to answer before jobs are taken
)

// session is what connects us with the broker, from dialling to its loss. A
// delivery is acknowledged on the channel it came from, never on a later one.
//
// Publishing has a connection of its own: in a memory or disk alarm RabbitMQ reads
// nothing more from a connection that has published (its documentation of
// connection.blocked), so acknowledgements on it would not arrive, and the queues
// never get shorter.
type session struct {
	conn      *rabbit.Conn // consumes, acknowledges and declares
	out       *rabbit.Conn // publishes
	publisher *rabbit.Publisher
	blocked   atomic.Bool  // the broker takes no messages
	unblocked atomic.Int64 // Unix nanoseconds of when it last took messages again

	// waits ends when the session does, and with it what only waits to run.
	waits    context.Context
	endWaits context.CancelCauseFunc

	watch     sync.WaitGroup
	readers   sync.WaitGroup
	consumers map[string]*consumer // by queue; used by the goroutine of consume only
	refused   map[string]time.Time // when the broker did not let us consume a queue; likewise
	declared  time.Time            // when the broker was last asked for queues that it had not let us have
	unbound   bool                 // a queue was there that we may not bind

	connClosed chan *amqp.Error
	outClosed  chan *amqp.Error
	ended      chan *consumer // a consumer that has ended though nobody here wanted it
	failed     chan error     // a fault found by a job that only a new session mends
}

// connect opens a session, trying again with growing pauses until ctx ends. An
// error is logged when it first occurs and when it changes.
func (w *Worker) connect(ctx context.Context) (*session, error) {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 100 * time.Millisecond
	b.MaxInterval = maxReconnect
	start, attempts := time.Now(), 0
	s, err := backoff.Retry(ctx, func() (*session, error) {
		w.beat()
		attempts++
		s, err := w.open(ctx)
		if ctx.Err() == nil {
			w.faults.set(faultBroker, err)
		}
		return s, err
	}, backoff.WithBackOff(b), backoff.WithMaxElapsedTime(0))
	if err != nil {
		return nil, err
	}
	w.log.Info("broker connected", zap.Strings("queues", names(w.queues.list())),
		zap.Int("attempts", attempts), zap.Float64("duration_seconds", time.Since(start).Seconds()))
	return s, nil
}

func names(queues []rabbit.Queue) []string {
	out := []string{}
	for _, q := range queues {
		out = append(out, q.Name)
	}
	return out
}

// open dials and declares what is missing.
func (w *Worker) open(ctx context.Context) (_ *session, err error) {
	s := &session{consumers: map[string]*consumer{}, refused: map[string]time.Time{}, ended: make(chan *consumer), failed: make(chan error, 1)}
	s.waits, s.endWaits = context.WithCancelCause(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.conn, err = rabbit.Dial(ctx, w.cfg.NodeName, w.cfg.BrokerURLs); err != nil {
		return nil, err
	}
	if err := w.declare(ctx, s); err != nil {
		return nil, err
	}
	if s.out, err = rabbit.Dial(ctx, w.cfg.NodeName+" (publishing)", w.cfg.BrokerURLs); err != nil {
		return nil, err
	}
	s.publisher = rabbit.NewPublisher(s.out)
	s.connClosed = s.conn.NotifyClose(make(chan *amqp.Error, 1))
	s.outClosed = s.out.NotifyClose(make(chan *amqp.Error, 1))
	blocked := s.out.NotifyBlocked(make(chan amqp.Blocking))
	s.watch.Go(func() { w.watchBlocked(s, blocked) })
	return s, nil
}

// declare creates what is missing, and notes what the broker does not let us have: the other
// queues are consumed all the same.
func (w *Worker) declare(ctx context.Context, s *session) error {
	queues := slices.DeleteFunc(w.queues.list(), func(q rabbit.Queue) bool { return q.Kind != "" }) // see mayConsume
	d, err := rabbit.Declare(ctx, s.conn, queues...)
	if err != nil {
		return err
	}
	s.declared = time.Now()
	if len(d.Created) > 0 {
		w.log.Info("queues created", zap.Strings("queues", d.Created))
	}
	for _, name := range d.Created {
		w.created[name] = true
	}
	all := append(queues, rabbit.QueueNamed(rabbit.QueueDeadLetter))
	for _, q := range all {
		why := d.Unbound[q.Name]
		var fault *rabbit.ConfigError
		if w.created[q.Name] && errors.As(why, &fault) { // nobody else has bound it
			d.Faults[q.Name] = fault
			delete(d.Unbound, q.Name)
			why = nil
		}
		w.faults.unbound(q.Name, why)
	}
	s.unbound = len(d.Unbound) > 0
	for _, q := range append(all, rabbit.Queue{}) {
		var fault error
		if f := d.Faults[q.Name]; f != nil {
			fault = f
		}
		w.faults.set(faultQueue+q.Name, fault)
	}
	w.log.Debug("looked which queues we may have", zap.Int("faults", len(d.Faults)), zap.Int("unbound", len(d.Unbound)))
	return nil
}

// fail ends the session because of a fault that a job met.
func (s *session) fail(err error) {
	select {
	case s.failed <- err:
	default: // it is ending already
	}
}

// close ends the session. The broker returns what is unacknowledged to its
// queue.
func (s *session) close() {
	if s == nil {
		return
	}
	s.endWaits(errSessionLost)
	s.hangUp()
	if s.publisher != nil {
		s.publisher.Close()
	}
	s.readers.Wait()
	s.watch.Wait()
}

// closed reports whether either connection is gone.
func (s *session) closed() bool { return s.conn.IsClosed() || s.out.IsClosed() }

// hangUp closes the connections.
func (s *session) hangUp() {
	var both sync.WaitGroup
	for _, conn := range []*rabbit.Conn{s.conn, s.out} {
		if conn != nil {
			// An error means that it was closed before.
			both.Go(func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) })
		}
	}
	both.Wait()
}

// watchBlocked says when the broker stops taking messages, and when it takes them
// again.
func (w *Worker) watchBlocked(s *session, blocked <-chan amqp.Blocking) {
	defer w.metrics.blocked.Set(0)
	for b := range blocked {
		if s.blocked.Store(b.Active); !b.Active {
			s.unblocked.Store(time.Now().UnixNano())
		}
		if b.Active {
			w.metrics.blocked.Set(1)
			w.log.Error("the broker takes no messages, what publishes waits: free memory or disk there", zap.String("reason", b.Reason))
		} else {
			w.metrics.blocked.Set(0)
			w.log.Info("the broker takes messages again")
		}
	}
}

// consume runs the session: deliveries are accepted, until the session is lost
// or ctx ends. It returns why the session was lost, nil when ctx ended.
func (w *Worker) consume(ctx, jobs context.Context, s *session) error {
	w.outbox.set(s)
	defer w.outbox.set(nil)
	defer w.consuming.Store(false)
	if w.cfg.DelayedDelivery {
		s.watch.Go(func() { w.prepareDelays(s) })
	}
	w.tryPublish(s, publishTrial) // before jobs are taken
	s.watch.Go(func() { w.watchPublish(s) })
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := w.subscribe(ctx, jobs, s); err != nil {
			return err
		}
		select {
		case <-tick.C:
			w.beat()
			w.holdSlow()
		case <-w.queues.changed: // as is what they are consumed with
		case <-ctx.Done():
			return nil
		case err := <-s.connClosed:
			return lost("connection closed", err)
		case err := <-s.outClosed:
			return lost("connection for publishing closed", err)
		case c := <-s.ended:
			w.consumerEnded(ctx, s, c)
		case err := <-s.failed:
			return err
		}
	}
}

func lost(what string, err *amqp.Error) error {
	if err == nil {
		return errors.New(what)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// consumerEnded notes that the broker has ended a consumer: its queue is gone or has moved, or a
// delivery was not acknowledged within the broker's consumer time-out. The broker has taken back
// what the consumer had; the other consumers go on.
func (w *Worker) consumerEnded(ctx context.Context, s *session, c *consumer) {
	if s.consumers[c.queue.Name] == c {
		delete(s.consumers, c.queue.Name)
	}
	if s.closed() {
		return
	}
	w.log.Warn("the broker has ended a consumer, consuming again: its queue was deleted or moved, or a job took longer than the consumer time-out of the broker",
		zap.String("queue", c.queue.Name), zap.Error(c.reason()))
	w.metrics.consumersLost.Inc()
	_ = pause(ctx, reconnectPause) // ends early when ctx does
}

// cancelConsumers waits until nothing is delivered any more. A broker that reads
// nothing, as in a memory alarm, does not answer: then what comes still goes back
// (see accept), and the session's close ends the wait.
func (w *Worker) cancelConsumers(s *session) {
	done := make(chan struct{})
	for _, c := range s.consumers {
		// After this, what the client has received still comes out of the
		// deliveries, which then end. An error means that the channel is
		// gone, and everything is back in its queue.
		s.readers.Go(func() { _ = c.cancel() })
	}
	go func() {
		s.readers.Wait()
		close(done)
	}()
	limit := time.NewTimer(closeTimeout)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		w.log.Warn("the broker does not answer, stopping all the same")
	}
}

// prepareDelays makes native delayed delivery work, beside the consuming, as 28
// queues take their time, and on a connection of its own, as a broker that does
// not know such queues may close it. An error of the broker's own, as RabbitMQ has when two clients declare
// one queue at once, passes: it is tried again a few times.
func (w *Worker) prepareDelays(s *session) {
	queues := w.queues.list()
	if !rabbit.WantsDelays(queues) {
		return
	}
	for said, tries := "", 0; ; {
		began := time.Now()
		created, err := w.declareDelays(s, queues)
		if s.waits.Err() != nil {
			return
		}
		if err == nil {
			if created || said != "" {
				w.log.Info("native delayed delivery declared", zap.Float64("duration_seconds", time.Since(began).Seconds()))
			}
			return
		}
		wait, say := retryRights, w.log.Warn
		message := "native delayed delivery is not available"
		if rabbit.OtherType(err) {
			wait, say = retryFaults, w.log.Error
			message = "tasks with an ETA may be lost: native delayed delivery is not as it has to be"
		}
		if said != err.Error() {
			said = err.Error()
			say(message, zap.Error(err))
		}
		if !rabbit.Denied(err) && !rabbit.OtherType(err) {
			if tries++; tries > delayTries {
				return
			}
			wait = min(time.Second<<tries, retryFaults)
		}
		if pause(s.waits, wait) != nil {
			return
		}
	}
}

// delayTries is how often native delayed delivery is tried again that the broker has not refused for a known reason.
const delayTries = 8

// declareDelays declares native delayed delivery on a connection of its own.
func (w *Worker) declareDelays(s *session, queues []rabbit.Queue) (created bool, err error) {
	conn, err := rabbit.Dial(s.waits, w.cfg.NodeName+" (delayed delivery)", w.cfg.BrokerURLs)
	if err != nil {
		return false, err
	}
	defer conn.Close() // it may be closed already
	// A broker that does not answer does not keep the session from ending.
	defer context.AfterFunc(s.waits, func() { _ = conn.CloseDeadline(time.Now()) })()
	return rabbit.DeclareDelays(s.waits, conn, queues)
}

// tryPublish looks whether we may publish to queues, by a message to one that does not exist.
// A channel in use may remember what its user might do before: the destination is new, and so is
// its channel.
func (w *Worker) tryPublish(s *session, limit time.Duration) {
	ctx, cancel := context.WithTimeout(s.waits, limit)
	defer cancel()
	m := rabbit.Message{RoutingKey: w.cfg.NodeName + ".nowhere." + uuid.NewString()}
	err := s.publisher.Publish(ctx, m)
	if !w.outbox.forbidden(m, err) && errors.Is(err, rabbit.ErrUnroutable) {
		w.faults.set(faultPublish, nil)
	}
	w.log.Debug("tried whether we may publish to queues", zap.Error(err))
}

// watchPublish tries to publish to queues as long as it is known that we may not. To the exchange of
// the tasks nothing can be published that nobody gets: there the jobs that wait try it, and when none
// was refused any more the fault is over.
func (w *Worker) watchPublish(s *session) {
	for pause(s.waits, retryFaults) == nil {
		if w.faults.has(faultPublish) {
			w.tryPublish(s, confirmLimit)
		}
		if w.faults.has(faultTasks) && w.outbox.sinceForbidden() > retryFaults {
			w.faults.set(faultTasks, nil)
		}
	}
}

// wanted returns what is to be consumed at the moment: nothing while something is in the way of
// every job's end. The jobs stay in their queues, and those that were delivered are held.
func (w *Worker) wanted(inTheWay error) []rabbit.Queue {
	if inTheWay != nil {
		return nil
	}
	queues := w.queues.list()
	dead := rabbit.QueueNamed(rabbit.QueueDeadLetter)
	if w.cfg.DrainDeadLetters && !slices.ContainsFunc(queues, func(q rabbit.Queue) bool { return q.Name == dead.Name }) {
		queues = append(queues, dead)
	}
	return queues
}

// subscribe makes the consumers those that are wanted: of these queues, with
// this prefetch, and with room in it. A consumer of which half the prefetch is
// held back for an ETA is replaced; what it holds stays with its channel and does
// not count for the new one. (Celery raises the prefetch count instead, which
// quorum queues do not allow.)
func (w *Worker) subscribe(ctx, jobs context.Context, s *session) error {
	inTheWay := w.obstacle()
	wanted := w.wanted(inTheWay)
	for name, c := range s.consumers {
		if slices.ContainsFunc(wanted, func(q rabbit.Queue) bool { return q.Name == name }) {
			continue
		}
		delete(s.consumers, name)
		if err := c.cancel(); err != nil {
			return fmt.Errorf("stop consuming from %s: %w", name, err)
		}
		if inTheWay == nil {
			w.log.Info("no longer consuming", zap.String("queue", name))
		}
	}
	w.tellPaused(inTheWay) // when nothing is delivered any more
	since := time.Since(s.declared)
	if len(w.faults.queues()) > 0 && since > retryFaults || s.unbound && since > retryRights {
		if err := w.declare(ctx, s); err != nil {
			return err
		}
	}
	for _, q := range wanted {
		if err := w.subscribeTo(ctx, jobs, s, q); err != nil {
			return err
		}
	}
	w.consuming.Store(len(wanted) > 0)
	return nil
}

func (w *Worker) subscribeTo(ctx, jobs context.Context, s *session, q rabbit.Queue) error {
	prefetch, accept := w.prefetch(q), w.accept
	if w.isDead(q) {
		accept = w.acceptDead
	}
	old := s.consumers[q.Name]
	if old != nil && old.prefetch == prefetch && (2*old.held.Load() <= int64(prefetch) || !w.mayHoldMore()) {
		return nil
	}
	if old == nil && !w.mayConsume(ctx, s, q) {
		return nil
	}
	c, err := s.newConsumer(old, q, prefetch, fmt.Sprintf("%s/%d", w.cfg.NodeName, w.tags.Add(1)))
	if rabbit.Refused(err) {
		s.refused[q.Name] = time.Now()
		w.faults.set(faultConsume+q.Name, rabbit.NewConfigError("consume from queue "+q.Name, err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("consume from %s: %w", q.Name, err)
	}
	w.faults.set(faultConsume+q.Name, nil)
	s.consumers[q.Name] = c
	s.readers.Go(func() { c.read(s, func(d amqp.Delivery) { accept(jobs, c, d) }) })
	if old != nil {
		if err := old.cancel(); err != nil {
			return fmt.Errorf("replace the consumer of %s: %w", q.Name, err)
		}
	}
	return nil
}

// mayConsume reports whether a queue is there, and creates it if it is not. A queue that the
// broker does not let us have is left until declare is called again.
func (w *Worker) mayConsume(ctx context.Context, s *session, q rabbit.Queue) bool {
	if time.Since(s.refused[q.Name]) < retryFaults || q.Kind == "" && w.faults.has(faultQueue+q.Name) {
		return false
	}
	err := w.declarable(ctx, s, q)
	var fault *rabbit.ConfigError
	switch {
	case errors.As(err, &fault):
		w.faults.set(faultQueue+q.Name, fault)
		s.refused[q.Name] = time.Now()
	case err != nil:
		s.fail(err)
	default:
		w.faults.set(faultQueue+q.Name, nil)
	}
	return err == nil
}

// declarable creates a queue where it is missing. A *rabbit.ConfigError says why the broker does
// not let us have it. A queue with an exchange of somebody's choice is declared on a connection
// that may be lost over it: RabbitMQ closes one over a type of exchange that it does not know.
func (w *Worker) declarable(ctx context.Context, s *session, q rabbit.Queue) error {
	conn := s.conn
	if q.Kind != "" {
		own, err := rabbit.Dial(ctx, w.cfg.NodeName+" (declaring)", w.cfg.BrokerURLs)
		if err != nil {
			return err
		}
		defer own.CloseDeadline(time.Now().Add(closeTimeout))
		conn = own
	}
	d, err := rabbit.Declare(ctx, conn, q)
	if fault := d.Faults[q.Name]; fault != nil {
		return fault
	}
	return err
}

// isDead reports whether a queue is consumed for the dead letters in it.
func (w *Worker) isDead(q rabbit.Queue) bool {
	return q.Name == rabbit.QueueDeadLetter && !w.queues.has(q.Name)
}

// maxScheduled bounds the deliveries that are held outside of the slots: for their ETA, for another run, for room at
// the model, or for a destination that does not confirm. Beyond it the broker keeps the rest.
const maxScheduled = 10000

// mayHoldMore reports whether a consumer whose deliveries wait may be replaced by one that brings
// others.
func (w *Worker) mayHoldMore() bool {
	used, _ := w.pool.inUse()
	return w.held.count()-used <= maxScheduled+w.cfg.Concurrency*w.cfg.PrefetchMultiplier*w.queues.count() && w.bodies.bytes() < w.cfg.HeldBytes
}

// holdMore notes that a delivery of c waits for a time, and has c replaced when
// too many do. The caller takes it off c.held when it does not wait any more.
func (w *Worker) holdMore(c *consumer) {
	if 2*c.held.Add(1) > int64(c.prefetch) {
		w.queues.touch()
	}
}

// queues are the queues that are consumed, which remote control may change.
type queues struct {
	mu      sync.Mutex
	all     []rabbit.Queue
	changed chan struct{} // has an element when the consumers have to be looked at
}

func newQueues(names []string) *queues {
	return &queues{changed: make(chan struct{}, 1), all: rabbit.Names(names...)}
}

func (q *queues) list() []rabbit.Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.all)
}

// count is the number of queues, at least one.
func (q *queues) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return max(len(q.all), 1)
}

func (q *queues) has(name string) bool {
	return slices.ContainsFunc(q.list(), func(o rabbit.Queue) bool { return o.Name == name })
}

// touch makes consume reconcile its consumers with the wanted queues.
func (q *queues) touch() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

func (q *queues) add(n rabbit.Queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.ContainsFunc(q.all, func(o rabbit.Queue) bool { return o.Name == n.Name }) {
		q.all = append(q.all, n)
	}
	q.touch()
}

func (q *queues) remove(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all = slices.DeleteFunc(q.all, func(o rabbit.Queue) bool { return o.Name == name })
	q.touch()
}
