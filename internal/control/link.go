package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/rabbit"
)

// Exchanges of remote control (kombu/pidbox.py, Mailbox, of the namespace "celery").
const (
	controlExchange = "celery.pidbox"
	replyExchange   = "reply.celery.pidbox"
)

// replyQueueExpires is how long the broker keeps a reply queue that nobody consumes, in milliseconds (kombu's reply_queue_expires).
const replyQueueExpires = 10_000

// link is one connection, with a queue for replies. It has three goroutines: one takes replies, one sends requests, one hears of alarms.
type link struct {
	c        *Client
	conn     *rabbit.Conn
	oid      string // names the reply queue
	replies  <-chan amqp.Delivery
	requests *amqp.Channel
	refused  chan *amqp.Error // has an element, or is closed, when the broker has closed the channel of the requests
	out      chan outgoing
	lost     chan struct{} // closed when the link is of no use any more
	alarms   <-chan amqp.Blocking
	alarm    atomic.Pointer[BlockedError] // nil while the broker takes messages

	mu      sync.Mutex
	waiting map[string]*gathering // by ticket
}

// outgoing is a request on its way to the sender.
type outgoing struct {
	request amqp.Publishing
	sent    chan<- sent // with room for one
}

type sent struct {
	taken *amqp.DeferredConfirmation
	err   error
}

// open connects and declares what kombu's mailbox has. The link does nothing before start.
func (c *Client) open() (_ *link, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, openTime)
	defer cancel()
	conn, err := rabbit.Dial(ctx, c.name, c.urls)
	if err != nil {
		return nil, err
	}
	// A broker that has stopped answering does not keep us from ending.
	stop := context.AfterFunc(ctx, func() { conn.CloseDeadline(time.Now()) })
	defer stop()
	defer func() {
		if err != nil {
			conn.CloseDeadline(time.Now().Add(closeTime)) // the first error is the one to show
		}
	}()
	for name, kind := range map[string]string{controlExchange: amqp.ExchangeFanout, replyExchange: amqp.ExchangeDirect} {
		if err := declareExchange(conn, name, kind); err != nil {
			return nil, fmt.Errorf("declare exchange %s: %w", name, err)
		}
	}
	l := &link{c: c, conn: conn, oid: uuid.NewString(), out: make(chan outgoing), lost: make(chan struct{}), waiting: map[string]*gathering{}}
	if l.replies, err = l.consume(); err != nil {
		return nil, fmt.Errorf("consume replies of remote control: %w", err)
	}
	if l.requests, err = conn.Channel(); err != nil {
		return nil, fmt.Errorf("open channel for remote control: %w", err)
	}
	l.refused = l.requests.NotifyClose(make(chan *amqp.Error, 1))
	if err := l.requests.Confirm(false); err != nil {
		return nil, fmt.Errorf("ask for confirms of remote control: %w", err)
	}
	l.alarms = conn.NotifyBlocked(make(chan amqp.Blocking, 1))
	return l, nil
}

// declareExchange takes an exchange as it stands, or creates it: other programs may have declared it with whatever flags. One of another
// type is a fault, as no worker would hear us.
func declareExchange(conn *rabbit.Conn, name, kind string) error {
	declare := func(passive bool) error {
		ch, err := conn.Channel()
		if err != nil {
			return err
		}
		defer ch.Close() // the broker may have closed it
		f := ch.ExchangeDeclare
		if passive {
			f = ch.ExchangeDeclarePassive
		}
		return f(name, kind, false, false, false, false, nil)
	}
	found := declare(true)
	exists := found == nil
	if code(found) == amqp.AccessRefused {
		return nil // RabbitMQ 4.3 lets nobody look who may not declare
	}
	if !exists && code(found) != amqp.NotFound {
		return found
	}
	err := declare(false)
	// Passively, the broker does not look at the type.
	if exists && !rabbit.OtherType(err) {
		return nil
	}
	return err
}

// code is that of the broker's refusal, 0 for other errors.
func code(err error) int {
	var fault *amqp.Error
	if errors.As(err, &fault) {
		return fault.Code
	}
	return 0
}

// consume makes the reply queue (kombu/pidbox.py, Mailbox.get_reply_queue).
func (l *link) consume() (<-chan amqp.Delivery, error) {
	ch, err := l.conn.Channel()
	if err != nil {
		return nil, err
	}
	const durable, autoDelete, exclusive = false, true, true
	q, err := ch.QueueDeclare(l.oid+"."+replyExchange, durable, autoDelete, exclusive, false, amqp.Table{"x-expires": int32(replyQueueExpires)})
	if err != nil {
		return nil, err
	}
	if err := ch.QueueBind(q.Name, l.oid, replyExchange, false, nil); err != nil {
		return nil, err
	}
	const noAck = true
	return ch.Consume(q.Name, "", noAck, false, false, false, nil) // nobody else can: the queue is ours
}

// start runs the link's goroutines, of which the client is the owner. If over is set they end at once.
func (l *link) start(over bool) {
	if over {
		l.c.work.Go(l.end)
	}
	l.c.work.Go(l.receive)
	l.c.work.Go(l.send)
	l.c.work.Go(l.watch)
}

// end closes the connection, upon which the goroutines end.
func (l *link) end() { l.conn.CloseDeadline(time.Now().Add(closeTime)) } // it may be closed already

func (l *link) isLost() bool {
	select {
	case <-l.lost:
		return true
	default:
		return l.conn.IsClosed()
	}
}

// awaitLost returns [ErrLost] once everybody can see that the link is lost, so that who asks again does not get it. The AMQP client
// closes a channel before it says so.
func (l *link) awaitLost(ctx context.Context) error {
	select {
	case <-l.lost:
	case <-ctx.Done():
	}
	return ErrLost
}

// receive passes replies on to whoever asked, until the connection or one of the channels ends. Then nobody waits any more.
func (l *link) receive() {
	defer l.end()
	defer close(l.lost)
	for {
		select {
		case d, ok := <-l.replies:
			if !ok {
				return
			}
			l.reply(d)
		case <-l.refused:
			return
		}
	}
}

// reply passes one reply on. Those that nobody waits for, or that make no sense, are passed over.
func (l *link) reply(d amqp.Delivery) {
	l.c.clock.AdjustTo(d.Headers["clock"])
	ticket, _ := d.Headers["ticket"].(string)
	l.mu.Lock()
	g := l.waiting[ticket]
	l.mu.Unlock()
	if g == nil {
		return
	}
	answers, err := parseReply(d.ContentType, d.Body)
	if err != nil {
		return
	}
	for node, answer := range answers {
		g.take(node, answer)
	}
}

func (l *link) expect(ticket string, g *gathering) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting[ticket] = g
}

func (l *link) forget(ticket string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, ticket)
}

// watch notes whether the broker takes messages, until the connection ends.
func (l *link) watch() {
	for b := range l.alarms {
		var alarm *BlockedError
		if b.Active {
			alarm = &BlockedError{b.Reason}
		}
		l.alarm.Store(alarm)
	}
}

// cause is why a wait has ended.
func (l *link) cause(ctx context.Context) error {
	err := context.Cause(ctx)
	if alarm := l.alarm.Load(); alarm != nil && errors.Is(err, ErrUnconfirmed) {
		return alarm
	}
	return err
}

// publish has the sender send a request, and returns when it is sent: writing to a connection that takes nothing waits for nobody's
// context. Nothing is sent during an alarm: it would be old when the broker reads it.
func (l *link) publish(ctx context.Context, request amqp.Publishing) (*amqp.DeferredConfirmation, error) {
	if alarm := l.alarm.Load(); alarm != nil {
		return nil, alarm
	}
	done := make(chan sent, 1)
	select {
	case l.out <- outgoing{request, done}:
	case <-l.lost:
		return nil, ErrLost
	case <-ctx.Done():
		return nil, l.cause(ctx)
	}
	select {
	case s := <-done:
		if s.err != nil {
			return nil, fmt.Errorf("%w: %w", l.awaitLost(ctx), s.err)
		}
		return s.taken, nil
	case <-l.lost:
		return nil, ErrLost
	case <-ctx.Done():
		return nil, l.cause(ctx)
	}
}

// send sends requests until the link is lost.
func (l *link) send() {
	for {
		select {
		case o := <-l.out:
			taken, err := l.requests.PublishWithDeferredConfirm(controlExchange, "", false, false, o.request)
			o.sent <- sent{taken, err}
		case <-l.lost:
			return
		}
	}
}
