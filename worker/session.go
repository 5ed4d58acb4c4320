package worker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
)

const (
	dialTimeout  = 10 * time.Second // to connect, and then for the handshake
	heartbeat    = 10 * time.Second
	maxReconnect = 10 * time.Second // longest pause between attempts
	closeTimeout = 2 * time.Second  // for the broker to answer when the session ends
)

// session is what connects us with the broker, from dialling to its loss. A
// delivery is acknowledged on the session it came from, never on a later one.
//
// Publishing has a connection of its own: in a memory or disk alarm RabbitMQ reads
// nothing more from a connection that has published (its documentation of
// connection.blocked), so acknowledgements on it would not arrive, and the queues
// never get shorter.
type session struct {
	conn      *amqp.Connection // consumes, acknowledges and declares
	channel   *amqp.Channel    // of all consumers
	out       *amqp.Connection // publishes
	publisher *Publisher       // on out

	// waits ends when the session does, and with it what only waits to run.
	waits    context.Context
	endWaits context.CancelCauseFunc

	watch     sync.WaitGroup
	readers   sync.WaitGroup
	consumers map[string]*consumer // by queue; used by the goroutine of consume only
	dead      string               // tag of the consumer of dead letters, "" if there is none

	connClosed    chan *amqp.Error
	outClosed     chan *amqp.Error
	channelClosed chan *amqp.Error
	cancelled     chan string // a consumer that the broker cancelled: its queue is gone
	failed        chan error  // a fault found by a job that only a new session mends
}

// consumer is one subscription to a queue.
type consumer struct {
	session  *session
	queue    string
	tag      string
	prefetch int
	held     atomic.Int64 // deliveries that wait for their ETA
}

// Dial connects to the first broker that answers. Besides the AMQP URL forms it
// takes those of Celery. It does not retry.
func Dial(ctx context.Context, name string, urls []string) (*amqp.Connection, error) {
	var lastErr error
	for _, raw := range urls {
		uri, err := parseBrokerURL(raw)
		if err != nil {
			return nil, err
		}
		props := amqp.NewConnectionProperties()
		props.SetClientConnectionName(name)
		conn, err := dialOne(ctx, uri, amqp.Config{
			SASL:       []amqp.Authentication{uri.PlainAuth()},
			Vhost:      uri.Vhost,
			Heartbeat:  heartbeat,
			Properties: props,
		})
		if err == nil {
			return conn, nil
		}
		lastErr = fmt.Errorf("connect to broker %s: %w", redactURL(raw), err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, lastErr
}

// dialOne connects within ctx and dialTimeout, and leaves a deadline for the
// handshake, which the AMQP client clears when it is done.
func dialOne(ctx context.Context, uri amqp.URI, cfg amqp.Config) (*amqp.Connection, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)))
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*amqp.Connection, error) {
		conn.Close() // the first error is the one to show
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return fail(err)
	}
	if uri.Scheme == "amqps" {
		tlsConfig, err := tlsConfigOf(uri)
		if err != nil {
			return fail(err)
		}
		conn = tls.Client(conn, tlsConfig)
	}
	c, err := amqp.Open(newLongIntConn(conn), cfg)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// tlsConfigOf reads the query parameters cacertfile, certfile, keyfile and
// server_name_indication of RabbitMQ's URIs.
func tlsConfigOf(uri amqp.URI) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: uri.ServerName}
	if cfg.ServerName == "" {
		cfg.ServerName = uri.Host
	}
	if uri.CACertFile != "" {
		pem, err := os.ReadFile(uri.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("cacertfile: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cacertfile %s holds no certificate in PEM form", uri.CACertFile)
		}
	}
	if uri.CertFile != "" || uri.KeyFile != "" {
		cert, err := tls.LoadX509KeyPair(uri.CertFile, uri.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certfile and keyfile: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// connect opens a session, trying again with growing pauses until ctx ends. An
// error is logged when it first occurs and when it changes.
func (w *Worker) connect(ctx context.Context) (*session, error) {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 100 * time.Millisecond
	b.MaxInterval = maxReconnect
	var logged string
	start, attempts := time.Now(), 0
	s, err := backoff.Retry(ctx, func() (*session, error) {
		w.beat()
		attempts++
		s, err := w.open(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != logged {
			logged = err.Error()
			w.log.Warn("broker not reachable, trying again", zap.Error(err))
		}
		return s, err
	}, backoff.WithBackOff(b), backoff.WithMaxElapsedTime(0))
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, q := range w.queues.list() {
		names = append(names, q.Name)
	}
	w.log.Info("broker connected", zap.Strings("queues", names),
		zap.Int("attempts", attempts), zap.Float64("duration_seconds", time.Since(start).Seconds()))
	return s, nil
}

// open dials, declares what is missing and prepares the channels.
func (w *Worker) open(ctx context.Context) (_ *session, err error) {
	conn, err := Dial(ctx, w.cfg.NodeName, w.cfg.BrokerURLs)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, consumers: map[string]*consumer{}, failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			s.hangUp()
		}
	}()
	queues := w.queues.list()
	created, err := declare(ctx, conn, queues)
	if err != nil {
		return nil, err
	}
	if len(created) > 0 {
		w.log.Info("queues created", zap.Strings("queues", created))
	}
	if s.out, err = Dial(ctx, w.cfg.NodeName+" (publishing)", w.cfg.BrokerURLs); err != nil {
		return nil, err
	}
	if s.publisher, err = NewPublisher(s.out); err != nil {
		return nil, err
	}
	if s.channel, err = conn.Channel(); err != nil {
		return nil, fmt.Errorf("open channel for consuming: %w", err)
	}
	s.connClosed = conn.NotifyClose(make(chan *amqp.Error, 1))
	s.outClosed = s.out.NotifyClose(make(chan *amqp.Error, 1))
	blocked := s.out.NotifyBlocked(make(chan amqp.Blocking))
	s.watch.Go(func() { w.watchBlocked(blocked) })
	s.channelClosed = s.channel.NotifyClose(make(chan *amqp.Error, 1))
	s.cancelled = s.channel.NotifyCancel(make(chan string, 16))
	s.waits, s.endWaits = context.WithCancelCause(context.WithoutCancel(ctx))
	return s, nil
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
	if s != nil {
		s.endWaits(errSessionLost)
		s.hangUp()
		s.readers.Wait()
		s.watch.Wait()
	}
}

// closed reports whether either connection is gone.
func (s *session) closed() bool { return s.conn.IsClosed() || s.out.IsClosed() }

// hangUp closes the connections.
func (s *session) hangUp() {
	var both sync.WaitGroup
	for _, conn := range []*amqp.Connection{s.conn, s.out} {
		if conn != nil {
			// An error means that it was closed before.
			both.Go(func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) })
		}
	}
	both.Wait()
}

// watchBlocked says when the broker stops taking messages, and when it takes them
// again.
func (w *Worker) watchBlocked(blocked <-chan amqp.Blocking) {
	defer w.metrics.blocked.Set(0)
	for b := range blocked {
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
// or ctx ends. When ctx ends, what has not begun goes back to its queue. It
// returns why the session was lost, nil when ctx ended.
func (w *Worker) consume(ctx context.Context, s *session, accept func(*consumer, amqp.Delivery), bury func(amqp.Delivery)) error {
	w.outbox.set(s)
	defer w.outbox.set(nil)
	if w.cfg.DelayedDelivery {
		s.readers.Go(func() { w.prepareDelays(s) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := w.subscribe(ctx, s, accept); err != nil {
			return err
		}
		if err := w.subscribeDead(s, bury); err != nil {
			return err
		}
		w.consuming.Store(true)
		select {
		case <-tick.C:
			w.beat()
		case <-w.queues.changed: // as is what they are consumed with
		case <-ctx.Done():
			w.consuming.Store(false)
			s.endWaits(errStopping)
			w.cancelConsumers(s)
			return nil
		case err := <-s.connClosed:
			return w.lost("connection closed", err)
		case err := <-s.outClosed:
			return w.lost("connection for publishing closed", err)
		case err := <-s.channelClosed:
			return w.lost("channel closed", err)
		case tag := <-s.cancelled:
			w.consuming.Store(false)
			return fmt.Errorf("the broker cancelled consumer %s: its queue was deleted or moved", tag)
		case err := <-s.failed:
			w.consuming.Store(false)
			return err
		}
	}
}

// cancelConsumers waits until nothing is delivered any more. A broker that reads
// nothing, as in a memory alarm, does not answer: then what comes still goes back
// (see accept), and the session's close ends the wait.
func (w *Worker) cancelConsumers(s *session) {
	tags := []string{s.dead}
	for _, c := range s.consumers {
		tags = append(tags, c.tag)
	}
	done := make(chan struct{})
	s.readers.Go(func() {
		for _, tag := range tags {
			// After this, what the client has received still comes out of the
			// deliveries, which then end. An error means that the connection is
			// gone, and everything is back in its queue.
			if tag != "" && s.channel.Cancel(tag, false) != nil {
				return
			}
		}
	})
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
// not know such queues may close it.
func (w *Worker) prepareDelays(s *session) {
	queues := w.queues.list()
	if !wantsDelays(queues) {
		return
	}
	began := time.Now()
	var created bool
	conn, err := Dial(s.waits, w.cfg.NodeName+" (delayed delivery)", w.cfg.BrokerURLs)
	if err == nil {
		created, err = declareDelays(s.waits, conn, queues)
		conn.Close() // it may be closed already
	}
	switch {
	case err != nil && s.waits.Err() == nil:
		w.log.Warn("native delayed delivery is not available", zap.Error(err))
	case created:
		w.log.Info("native delayed delivery declared", zap.Float64("duration_seconds", time.Since(began).Seconds()))
	}
}

func (w *Worker) lost(what string, err *amqp.Error) error {
	w.consuming.Store(false)
	if err == nil {
		return fmt.Errorf("%s", what)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// subscribe makes the consumers those that are wanted: of these queues, with
// this prefetch, and with room in it. A consumer of which half the prefetch is
// held back for an ETA is replaced; what it holds stays with the channel and does
// not count for the new one. (Celery raises the prefetch count instead, which
// quorum queues do not allow.)
func (w *Worker) subscribe(ctx context.Context, s *session, accept func(*consumer, amqp.Delivery)) error {
	wanted := w.queues.list()
	prefetch := w.prefetch()
	for name, c := range s.consumers {
		if !slices.ContainsFunc(wanted, func(q Queue) bool { return q.Name == name }) {
			delete(s.consumers, name)
			if err := s.channel.Cancel(c.tag, false); err != nil {
				return fmt.Errorf("stop consuming from %s: %w", name, err)
			}
			w.log.Info("no longer consuming", zap.String("queue", name))
		}
	}
	for _, q := range wanted {
		old := s.consumers[q.Name]
		if old != nil && old.prefetch == prefetch && (2*old.held.Load() <= int64(prefetch) || w.held.scheduled() > maxScheduled) {
			continue
		}
		if old == nil {
			if _, err := declare(ctx, s.conn, []Queue{q}); err != nil {
				return err
			}
		}
		c := &consumer{session: s, queue: q.Name, prefetch: prefetch, tag: fmt.Sprintf("%s/%s/%d", q.Name, w.cfg.NodeName, w.tags.Add(1))}
		// Per consumer: quorum queues refuse the global flag.
		if err := s.channel.Qos(prefetch, 0, false); err != nil {
			return fmt.Errorf("set prefetch %d: %w", prefetch, err)
		}
		deliveries, err := s.channel.Consume(q.Name, c.tag, false, false, false, false, nil)
		if err != nil {
			return fmt.Errorf("consume from %s: %w", q.Name, err)
		}
		s.consumers[q.Name] = c
		s.readers.Go(func() {
			for d := range deliveries {
				accept(c, d)
			}
		})
		if old != nil {
			if err := s.channel.Cancel(old.tag, false); err != nil {
				return fmt.Errorf("replace the consumer of %s: %w", q.Name, err)
			}
		}
	}
	return nil
}

// subscribeDead consumes dead letters, once.
func (w *Worker) subscribeDead(s *session, bury func(amqp.Delivery)) error {
	if s.dead != "" || !w.cfg.DrainDeadLetters || slices.ContainsFunc(w.queues.list(), func(q Queue) bool { return q.Name == QueueDeadLetter }) {
		return nil
	}
	if err := s.channel.Qos(deadPrefetch, 0, false); err != nil {
		return fmt.Errorf("set prefetch %d: %w", deadPrefetch, err)
	}
	tag := fmt.Sprintf("%s/%s/%d", QueueDeadLetter, w.cfg.NodeName, w.tags.Add(1))
	deliveries, err := s.channel.Consume(QueueDeadLetter, tag, false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume from %s: %w", QueueDeadLetter, err)
	}
	s.dead = tag
	s.readers.Go(func() {
		for d := range deliveries {
			bury(d)
		}
	})
	return nil
}

// maxScheduled bounds the deliveries that are held for their ETA; beyond it the
// broker keeps the rest.
const maxScheduled = 10000

// holdMore notes that a delivery of c waits for its ETA, and has c replaced when
// too many do. The caller takes it off c.held when it does not wait any more.
func (w *Worker) holdMore(c *consumer) {
	if 2*c.held.Add(1) > int64(c.prefetch) {
		w.queues.touch()
	}
}

// queues are the queues that are consumed, which remote control may change.
type queues struct {
	mu      sync.Mutex
	all     []Queue
	changed chan struct{} // has an element when the consumers have to be looked at
}

func newQueues(names []string) *queues {
	q := &queues{changed: make(chan struct{}, 1)}
	for _, name := range names {
		q.all = append(q.all, queueNamed(name))
	}
	return q
}

func (q *queues) list() []Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.all)
}

// touch has the consumers looked at.
func (q *queues) touch() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

func (q *queues) add(n Queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.ContainsFunc(q.all, func(o Queue) bool { return o.Name == n.Name }) {
		q.all = append(q.all, n)
	}
	q.touch()
}

func (q *queues) remove(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all = slices.DeleteFunc(q.all, func(o Queue) bool { return o.Name == name })
	q.touch()
}
