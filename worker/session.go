package worker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
)

const (
	dialTimeout  = 10 * time.Second // to connect, and then for the handshake
	heartbeat    = 10 * time.Second
	maxReconnect = 10 * time.Second // longest pause between attempts
)

// session is one connection to the broker, from dialling to its loss. A
// delivery is acknowledged on the session it came from, never on a later one.
type session struct {
	conn       *amqp.Connection
	consumer   *amqp.Channel
	publisher  *Publisher
	deliveries map[string]<-chan amqp.Delivery // by consumer tag

	connClosed    chan *amqp.Error
	channelClosed chan *amqp.Error
	cancelled     chan string // a consumer that the broker cancelled: its queue is gone
	failed        chan error  // a fault found by a job that only a new session mends
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
	w.log.Info("broker connected", zap.Strings("queues", w.cfg.Queues),
		zap.Int("attempts", attempts), zap.Float64("duration_seconds", time.Since(start).Seconds()))
	return s, nil
}

// open dials, declares what is missing and prepares the channels.
func (w *Worker) open(ctx context.Context) (_ *session, err error) {
	conn, err := Dial(ctx, w.cfg.NodeName, w.cfg.BrokerURLs)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	created, err := Declare(ctx, conn, w.cfg.Queues)
	if err != nil {
		return nil, err
	}
	if len(created) > 0 {
		w.log.Info("queues created", zap.Strings("queues", created))
	}
	s := &session{conn: conn, deliveries: map[string]<-chan amqp.Delivery{}, failed: make(chan error, 1)}
	if s.publisher, err = NewPublisher(conn); err != nil {
		return nil, err
	}
	if s.consumer, err = conn.Channel(); err != nil {
		return nil, fmt.Errorf("open channel for consuming: %w", err)
	}
	// Per consumer: quorum queues refuse the global flag.
	prefetch := w.cfg.Concurrency * w.cfg.PrefetchMultiplier
	if err := s.consumer.Qos(prefetch, 0, false); err != nil {
		return nil, fmt.Errorf("set prefetch %d: %w", prefetch, err)
	}
	s.connClosed = conn.NotifyClose(make(chan *amqp.Error, 1))
	s.channelClosed = s.consumer.NotifyClose(make(chan *amqp.Error, 1))
	s.cancelled = s.consumer.NotifyCancel(make(chan string, len(w.cfg.Queues)))
	for _, queue := range w.cfg.Queues {
		tag := queue + "/" + w.cfg.NodeName
		if s.deliveries[tag], err = s.consumer.Consume(queue, tag, false, false, false, false, nil); err != nil {
			return nil, fmt.Errorf("consume from %s: %w", queue, err)
		}
	}
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
		s.conn.Close() // an error means that it was closed before
	}
}

// consume runs the session: it hands deliveries to handle, each in a goroutine
// of its own within the worker's slots, until the session is lost or ctx ends.
// When ctx ends, deliveries that have not begun go back to their queues. It
// returns why the session was lost, nil when ctx ended.
func (w *Worker) consume(ctx context.Context, s *session, handle func(amqp.Delivery)) error {
	stop := make(chan struct{})
	var readers sync.WaitGroup
	defer readers.Wait()
	defer close(stop)
	for _, deliveries := range s.deliveries {
		readers.Go(func() { w.read(ctx, stop, deliveries, handle) })
	}
	w.consuming.Store(true)
	defer w.consuming.Store(false)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.beat()
		case <-ctx.Done():
			for tag := range s.deliveries {
				// After this, what the client has received still comes out of
				// deliveries, which then closes. An error means that the
				// connection is gone, and everything is back in its queue.
				if err := s.consumer.Cancel(tag, false); err != nil {
					return nil
				}
			}
			readers.Wait()
			return nil
		case err := <-s.connClosed:
			return lostError("connection closed", err)
		case err := <-s.channelClosed:
			return lostError("channel closed", err)
		case tag := <-s.cancelled:
			return fmt.Errorf("the broker cancelled consumer %s: its queue was deleted or moved", tag)
		case err := <-s.failed:
			return err
		}
	}
}

func lostError(what string, err *amqp.Error) error {
	if err == nil {
		return fmt.Errorf("%s", what)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// read starts a job for each delivery as slots come free.
func (w *Worker) read(ctx context.Context, stop <-chan struct{}, deliveries <-chan amqp.Delivery, handle func(amqp.Delivery)) {
	for {
		var d amqp.Delivery
		var ok bool
		select {
		case d, ok = <-deliveries:
			if !ok {
				return
			}
		case <-stop: // the session is lost
			return
		}
		if ctx.Err() == nil {
			select {
			case w.slots <- struct{}{}:
				w.jobs.Go(func() {
					defer func() { <-w.slots }()
					handle(d)
				})
				continue
			case <-ctx.Done():
			case <-stop:
				return
			}
		}
		w.giveBack(d)
	}
}

// giveBack returns a delivery to its queue, to run elsewhere or later. An error
// means that its session is gone, and the broker has done so itself.
func (w *Worker) giveBack(d amqp.Delivery) {
	if err := d.Nack(false, true); err == nil {
		w.metrics.jobs.WithLabelValues(taskLabel(w, d), outcomeReturned).Inc()
	}
}
