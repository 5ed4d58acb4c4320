package remote

import (
	"errors"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
)

// replies sends replies. Those to Celery's own exchange or the default one, and
// those to wherever else a client asks for, have a channel each: the broker closes the channel of a
// reply to an exchange that is not there, with all that follows on it. Safe for
// concurrent use.
type replies struct {
	r    *Remote
	conn *amqp.Connection

	mu             sync.Mutex
	usual, unusual replyChannel
}

// replyChannel is a channel that is opened when it is needed.
type replyChannel struct {
	ch     *amqp.Channel
	closed chan *amqp.Error
}

func newReplies(r *Remote, conn *amqp.Connection) *replies { return &replies{r: r, conn: conn} }

// send publishes a reply. An error means that the connection is lost.
func (s *replies) send(r *reply) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.usual
	if r.to.Exchange != replyExchange && r.to.Exchange != "" {
		c = &s.unusual
	}
	headers := amqp.Table{"ticket": r.ticket, "clock": s.r.Clock.Forward()}
	for {
		if c.ch == nil || c.ch.IsClosed() {
			if err := s.open(c); err != nil {
				return err
			}
		}
		err := c.ch.Publish(r.to.Exchange, r.to.RoutingKey, false, false, amqp.Publishing{
			ContentType: celery.ContentTypeJSON, ContentEncoding: "utf-8", DeliveryMode: amqp.Transient,
			Headers: headers, Body: r.body,
		})
		if !errors.Is(err, amqp.ErrClosed) || s.conn.IsClosed() {
			return err
		}
	}
}

// open opens a channel, a new one if the broker has closed the last.
func (s *replies) open(c *replyChannel) error {
	if c.closed != nil {
		if fault := <-c.closed; fault != nil {
			s.r.log.Warn("a remote control reply was refused", zap.Error(fault))
		}
	}
	ch, err := s.conn.Channel()
	if err != nil {
		return err
	}
	c.ch, c.closed = ch, ch.NotifyClose(make(chan *amqp.Error, 1))
	return nil
}
