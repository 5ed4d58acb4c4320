package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/rabbit"
)

// Errors of a Client. That there is no connection is a [rabbit.ErrNoConnection].
var (
	// ErrLost says that the connection ended before all was said. A command may have been carried out.
	ErrLost = errors.New("the connection to the broker was lost while workers were asked: ask again")
	// ErrUnconfirmed says that the broker did not take a command in time. It may take it yet.
	ErrUnconfirmed = errors.New("the broker did not take the command in time: it may be short of memory or disk, see its log")
)

// BlockedError says that the broker takes no messages while it has an alarm (connection.blocked). Workers cannot answer then: it takes
// none of theirs either. It is an [ErrUnconfirmed].
type BlockedError struct{ Reason string } // such as "low on disk"

func (e *BlockedError) Error() string {
	return fmt.Sprintf("the broker takes no messages, as it is %s: free memory or disk there, see rabbitmq-diagnostics alarms", e.Reason)
}

// Unwrap returns [ErrUnconfirmed].
func (e *BlockedError) Unwrap() error { return ErrUnconfirmed }

const (
	defaultWait = time.Second      // as celery inspect waits
	openTime    = 10 * time.Second // to connect and declare
	closeTime   = time.Second      // to say goodbye to the broker
	dialPause   = time.Second      // how long an attempt that failed stands for those that follow
)

// Client asks and tells workers. It connects when it is used, and again after the connection was lost. Safe for concurrent use. Create
// it with New.
type Client struct {
	// Wait is how long Ask gathers replies, and how long Tell waits for the broker; 0: a second. It must not change once the client is used.
	Wait time.Duration

	name  string
	urls  []string
	clock celery.Clock

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup // attempts to connect, and the goroutines of links

	mu    sync.Mutex
	dials chan struct{} // closed when the attempt that is under way has ended; nil without one
	link  *link         // nil before the first connection
	fault error         // of the last attempt, nil if it succeeded
	tried time.Time     // when it ended
}

// New returns a client that connects to one of the brokers, which lists the connection as name.
func New(name string, urls []string) *Client {
	c := &Client{name: name, urls: urls}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// Close closes the connection and waits for the client's goroutines. Questions that are under way end with an error.
func (c *Client) Close() {
	c.mu.Lock()
	c.stop()
	l := c.link
	c.mu.Unlock()
	if l != nil {
		l.end()
	}
	c.work.Wait()
}

// Ask has the nodes of destination, or all if it is empty, carry out a command, and returns their replies by node: those that came
// within [Client.Wait] of the request or before ctx ended. It returns as soon as all nodes of destination have answered. The reply of
// a node that refused is {"error": …}, see [Refusal]; that of one which said too much is one, too.
//
// The error is a [rabbit.ErrNoConnection], [ErrLost], with the replies that came before, or [ErrUnconfirmed], with a *[BlockedError] where
// the broker says so. That ctx ended before the request was sent is an error, too.
func (c *Client) Ask(ctx context.Context, command string, args map[string]any, destination []string) (map[string]json.RawMessage, error) {
	l, err := c.connected(ctx)
	if err != nil {
		return nil, err
	}
	ticket := uuid.NewString()
	request, err := c.request(command, args, destination, &replyTo{l.oid, ticket})
	if err != nil {
		return nil, err
	}
	g := newGathering(destination)
	l.expect(ticket, g)
	defer l.forget(ticket)
	limited, cancel := context.WithTimeoutCause(ctx, c.wait(), ErrUnconfirmed)
	defer cancel()
	taken, err := l.publish(limited, request)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", command, err)
	}
	select {
	case <-g.complete:
	case <-l.lost:
		err = ErrLost
	case <-limited.Done():
		if ctx.Err() == nil && !taken.Acked() {
			err = l.cause(limited)
		}
	}
	whole := g.isComplete()
	replies := g.replies()
	// Who has answered has heard it, whatever the broker says.
	if err == nil || whole || errors.Is(err, ErrUnconfirmed) && len(replies) > 0 {
		return replies, nil
	}
	return replies, fmt.Errorf("ask %s: %w", command, err)
}

// Tell has the nodes of destination, or all if it is empty, carry out a command. It returns when the broker has the request; whether
// anybody heard it is not known. The error is as that of Ask.
func (c *Client) Tell(ctx context.Context, command string, args map[string]any, destination []string) error {
	l, err := c.connected(ctx)
	if err != nil {
		return err
	}
	request, err := c.request(command, args, destination, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.wait(), ErrUnconfirmed)
	defer cancel()
	taken, err := l.publish(ctx, request)
	if err == nil {
		select {
		case <-taken.Done():
			if !taken.Acked() { // the client says so of what was under way when the connection ended
				err = l.awaitLost(ctx)
			}
		case <-l.lost:
			err = ErrLost
		case <-ctx.Done():
			err = l.cause(ctx)
		}
	}
	if err != nil {
		return fmt.Errorf("tell %s: %w", command, err)
	}
	return nil
}

func (c *Client) wait() time.Duration {
	if c.Wait > 0 {
		return c.Wait
	}
	return defaultWait
}

// replyTo is where a reply goes.
type replyTo struct{ oid, ticket string }

// request is a message of kombu's mailbox (kombu/pidbox.py, Mailbox._publish). Replies are wanted if to is not nil.
func (c *Client) request(command string, args map[string]any, destination []string, to *replyTo) (amqp.Publishing, error) {
	if args == nil {
		args = map[string]any{}
	}
	m := map[string]any{"method": command, "arguments": args, "destination": nil, "pattern": nil, "matcher": nil}
	if len(destination) > 0 {
		m["destination"] = destination
	}
	if to != nil {
		m["ticket"] = to.ticket
		m["reply_to"] = map[string]string{"exchange": replyExchange, "routing_key": to.oid}
	}
	body, err := celery.MarshalJSON(m)
	if err != nil {
		return amqp.Publishing{}, fmt.Errorf("arguments of %s: %w", command, err)
	}
	expires := float64(time.Now().Add(c.wait()).UnixMilli()) / 1000 // Unix seconds
	return amqp.Publishing{
		ContentType: celery.ContentTypeJSON, ContentEncoding: "utf-8", DeliveryMode: amqp.Transient,
		Headers: amqp.Table{"clock": c.clock.Forward(), "expires": expires}, Body: body,
	}, nil
}

// connected returns a link that is not known to be lost.
func (c *Client) connected(ctx context.Context) (*link, error) {
	for {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", rabbit.ErrNoConnection, context.Cause(ctx))
		}
		l, dials, err := c.held()
		if l != nil || err != nil {
			return l, err
		}
		select {
		case <-dials:
		case <-ctx.Done():
		}
	}
}

// held returns a link, or why there is none, or the end of an attempt to connect, which goes on whoever waits for it.
func (c *Client) held() (*link, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ctx.Err() != nil:
		return nil, nil, fmt.Errorf("%w: the client of remote control is closed", rabbit.ErrNoConnection)
	case c.link != nil && !c.link.isLost():
		return c.link, nil, nil
	case c.dials != nil:
		return nil, c.dials, nil
	case c.fault != nil && time.Since(c.tried) < dialPause:
		return nil, nil, c.fault
	}
	dials := make(chan struct{})
	c.dials, c.link = dials, nil
	c.work.Go(func() {
		l, err := c.open()
		c.mu.Lock()
		defer close(dials)
		defer c.mu.Unlock()
		c.dials, c.tried, c.fault = nil, time.Now(), nil
		switch {
		case err != nil:
			c.fault = fmt.Errorf("%w: %w", rabbit.ErrNoConnection, err)
		default:
			c.link = l
			l.start(c.ctx.Err() != nil)
		}
	})
	return nil, dials, nil
}

// A gathering is the replies to one question, as they come.
type gathering struct {
	complete chan struct{} // closed when all that were asked have answered

	mu      sync.Mutex
	asked   []string        // nil: everybody
	wanted  map[string]bool // of them, those that have not answered
	answers map[string]json.RawMessage
	size    int // bytes of all answers
}

func newGathering(destination []string) *gathering {
	g := &gathering{complete: make(chan struct{}), asked: destination, wanted: map[string]bool{}, answers: map[string]json.RawMessage{}}
	for _, node := range destination {
		g.wanted[node] = true
	}
	return g
}

// take notes what a node answers, once for each, within the bounds.
func (g *gathering) take(node string, answer json.RawMessage) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, again := g.answers[node]; again || len(g.answers) >= maxNodes || len(g.asked) > 0 && !slices.Contains(g.asked, node) {
		return
	}
	if g.size+len(answer) > maxReplies {
		answer = tooMuch(fmt.Sprintf("the replies of all nodes have more than %d bytes", maxReplies))
	}
	g.answers[node] = answer
	g.size += len(answer)
	if g.wanted[node] {
		if delete(g.wanted, node); len(g.wanted) == 0 {
			close(g.complete)
		}
	}
}

func (g *gathering) isComplete() bool {
	select {
	case <-g.complete:
		return true
	default:
		return false
	}
}

// replies returns what has come. What comes later is not added to it.
func (g *gathering) replies() map[string]json.RawMessage {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.answers
	g.answers = map[string]json.RawMessage{}
	return out
}
