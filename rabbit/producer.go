package rabbit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrNoConnection says that there is no connection to a broker, so that the message was not sent.
var ErrNoConnection = errors.New("there is no connection to the broker")

// dialPause is how long an attempt to connect that failed stands for those that follow.
const dialPause = time.Second

// Producer publishes on a connection that it makes when it is needed, and makes again when it was lost. Safe for concurrent use.
type Producer struct {
	name   string
	urls   []string
	queues []Queue

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup // attempts to connect

	mu    sync.Mutex
	dials chan struct{} // closed when the attempt that is under way has ended; nil without one
	conn  *Conn         // nil before the first connection
	pub   *Publisher    // on conn
	fault error         // of the last attempt, nil if it succeeded
	tried time.Time     // when it ended
}

// NewProducer returns a producer that connects to one of the brokers, which lists the connection as name. Once it is connected it
// creates those of queues that are missing, if it may: whether a message has a queue is known when it is published. It connects when
// it publishes, or by [Producer.Connect].
func NewProducer(name string, urls []string, queues ...Queue) *Producer {
	p := &Producer{name: name, urls: urls, queues: queues}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

// Connect connects unless there is a connection. The error is an [ErrNoConnection], and a *[ConfigError] where that is why.
func (p *Producer) Connect(ctx context.Context) error {
	_, err := p.publisher(ctx)
	return err
}

// Conn returns a connection that is not known to be lost, which the producer keeps. The error is as that of Connect.
func (p *Producer) Conn(ctx context.Context) (*Conn, error) {
	if _, err := p.publisher(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		return nil, ErrNoConnection // it was lost just now
	}
	return p.conn, nil
}

// Publish sends messages as [Publisher.Publish] does. The error is an [ErrNoConnection] if none was sent.
func (p *Producer) Publish(ctx context.Context, messages ...Message) error {
	pub, err := p.publisher(ctx)
	if err != nil {
		return err
	}
	return pub.Publish(ctx, messages...)
}

// Close closes the connection. Messages that are on their way end with [ErrLost].
func (p *Producer) Close() {
	p.mu.Lock()
	p.stop()
	conn, pub := p.conn, p.pub
	p.mu.Unlock()
	if conn != nil {
		HangUp(conn)
		pub.Close()
	}
	p.work.Wait()
}

// publisher returns one on a connection that is not known to be lost.
func (p *Producer) publisher(ctx context.Context) (*Publisher, error) {
	for {
		pub, dials, err := p.held()
		if pub != nil || err != nil {
			return pub, err
		}
		select {
		case <-dials:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrNoConnection, context.Cause(ctx))
		}
	}
}

// held returns a publisher, or why there is none, or the end of an attempt to connect, which goes on whoever waits for it.
func (p *Producer) held() (*Publisher, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ctx.Err() != nil:
		return nil, nil, fmt.Errorf("%w: the producer is closed", ErrNoConnection)
	case p.conn != nil && !p.conn.IsClosed():
		return p.pub, nil, nil
	case p.dials != nil:
		return nil, p.dials, nil
	case p.fault != nil && time.Since(p.tried) < dialPause:
		return nil, nil, p.fault
	}
	dials, lost := make(chan struct{}), p.pub
	p.dials, p.conn, p.pub = dials, nil, nil
	p.work.Go(func() {
		if lost != nil {
			lost.Close()
		}
		conn, err := p.dial()
		p.mu.Lock()
		defer p.mu.Unlock()
		defer close(dials)
		p.dials, p.tried, p.fault = nil, time.Now(), nil
		switch {
		case err != nil:
			p.fault = fmt.Errorf("%w: %w", ErrNoConnection, err)
		case p.ctx.Err() != nil:
			HangUp(conn) // nobody wants it any more
		default:
			p.conn, p.pub = conn, NewPublisher(conn)
		}
	})
	return nil, dials, nil
}

// dial connects and looks for the queues.
func (p *Producer) dial() (*Conn, error) {
	conn, err := Dial(p.ctx, p.name, p.urls)
	if err != nil || len(p.queues) == 0 {
		return conn, err
	}
	if _, err := Declare(p.ctx, conn, p.queues...); err != nil {
		HangUp(conn)
		return nil, err
	}
	return conn, nil
}
