package devbroker

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Server is a running broker. Its methods are safe for concurrent use.
type Server struct {
	log      *zap.Logger
	listener net.Listener
	broker   *broker
	done     chan struct{} // closed by Close
	closing  sync.Once
	closed   error // what closing the listener returned
	running  sync.WaitGroup
}

// Listen starts a broker on a free port of 127.0.0.1. It logs connections and clients' faults to log, at
// levels Debug and Warn. The caller must call [Server.Close].
func Listen(log *zap.Logger) (*Server, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the embedded broker: %w", err)
	}
	s := &Server{log: log, listener: l, broker: newBroker(), done: make(chan struct{})}
	s.running.Go(s.accept)
	s.running.Go(func() { s.broker.expireUntil(s.done) })
	return s, nil
}

// URL is where clients connect: "amqp://guest:guest@127.0.0.1:PORT//". The path is the virtual host "/", as
// both Celery and amqp091-go read it.
func (s *Server) URL() string {
	return fmt.Sprintf("amqp://guest:guest@%s//", s.listener.Addr())
}

// Stats counts what a broker holds.
type Stats struct {
	Queues      int
	Messages    int // ready to be delivered, in all queues; one message in two queues counts twice
	Unacked     int // delivered and not acknowledged; not among Messages
	Connections int
}

// Stats returns the present state. Messages and Unacked together are what would be lost by [Server.Close];
// they still count after it, except those of exclusive and auto-delete queues, and none are Unacked then.
func (s *Server) Stats() Stats {
	b := s.broker
	b.mu.Lock()
	defer b.unlock()
	st := Stats{Queues: len(b.queues), Connections: len(b.conns)}
	for _, q := range b.queues {
		st.Messages += len(q.ready)
		st.Unacked += q.unacked
	}
	return st
}

// Close stops listening, tells the clients that their connections are closed (320 CONNECTION_FORCED), gives
// them two seconds to agree, and returns when every goroutine of the broker has ended. All messages are gone
// then. The error is that of closing the listener, the same for later calls.
func (s *Server) Close() error {
	s.closing.Do(func() {
		close(s.done)
		s.closed = s.listener.Close()
		s.broker.mu.Lock()
		for c := range s.broker.conns {
			c.close(shuttingDown())
		}
		s.broker.unlock()
	})
	s.running.Wait()
	return s.closed
}

func shuttingDown() *protocolError {
	return refuse(connectionForced, "the embedded broker is shutting down")
}

func (s *Server) accept() {
	for {
		nc, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // most likely out of file descriptors
			s.log.Warn("accept connection", zap.Error(err))
			select {
			case <-s.done:
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		c := newConn(s.broker, nc, s.log.With(zap.Stringer("client", nc.RemoteAddr())))
		s.broker.mu.Lock()
		s.broker.conns[c] = struct{}{}
		select {
		case <-s.done: // Close may not have seen this one
			c.close(shuttingDown())
		default:
		}
		s.broker.unlock()
		s.running.Go(c.serve)
	}
}
