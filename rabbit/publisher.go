package rabbit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// What Publish returns for a message.
var (
	// ErrUnroutable says that the broker took a message and had no queue for it.
	ErrUnroutable = errors.New("the broker has no queue for the message")
	// ErrRefused says that a queue did not take the message, as one with x-overflow
	// reject-publish does while it is full.
	ErrRefused = errors.New("a queue refused the message: it is full, or not available")
	// ErrUnconfirmed says that the broker did not confirm in time. It may have the message.
	ErrUnconfirmed = errors.New("the broker did not confirm the message in time")
	// ErrLost says that the connection ended before the confirm. The broker may have the message.
	ErrLost = errors.New("the connection to the broker ended before it confirmed the message")
)

// UndeliverableError says that a message can never be published where it should go: it cannot
// be encoded, or the broker answers with an error that waiting does not change.
type UndeliverableError struct {
	Exchange, RoutingKey string
	Err                  error
}

func (e *UndeliverableError) Error() string {
	return fmt.Sprintf("publish to exchange %q with key %q: %v", shorten(e.Exchange), shorten(e.RoutingKey), e.Err)
}

func (e *UndeliverableError) Unwrap() error { return e.Err }

// Undeliverable reports whether publishing again would not help.
func Undeliverable(err error) bool {
	var u *UndeliverableError
	return errors.As(err, &u)
}

// Errors are the faults of a list of messages, in their order; nil for those that are in a queue.
type Errors []error

func (e Errors) Error() string { return errors.Join(e...).Error() }

// Unwrap returns the faults, for errors.Is and errors.As.
func (e Errors) Unwrap() []error {
	return slices.DeleteFunc(slices.Clone(e), func(err error) bool { return err == nil })
}

// OrNil returns e as an error, nil if there is no fault.
func (e Errors) OrNil() error {
	if len(e.Unwrap()) == 0 {
		return nil
	}
	return e
}

// Rest publishes those of messages that have no fault, and returns the faults of all.
func (e Errors) Rest(messages []Message, publish func(...Message) error) error {
	var indexes []int
	var rest []Message
	for i, m := range messages {
		if e[i] == nil {
			indexes, rest = append(indexes, i), append(rest, m)
		}
	}
	if len(rest) == 0 {
		return e.OrNil()
	}
	for i, err := range ErrorsOf(publish(rest...), len(rest)) {
		e[indexes[i]] = err
	}
	return e.OrNil()
}

// ErrorsOf returns the fault of each of n messages that were published together.
func ErrorsOf(err error, n int) Errors {
	var each Errors
	if errors.As(err, &each) && len(each) == n {
		return each
	}
	each = make(Errors, n)
	for i := range each {
		each[i] = err
	}
	return each
}

// Publisher publishes with confirms. Any number of callers wait for their confirms at the same
// time, and each destination has a channel of its own: RabbitMQ may confirm nothing on a channel
// while one quorum queue that it publishes to has no majority. Safe for concurrent use.
type Publisher struct {
	conn *amqp.Connection

	lines   sync.WaitGroup // the goroutines of all channels
	mu      sync.Mutex
	closing bool
	lanes   map[destination]*lane
}

// maxLanes is how many destinations keep their channel while nothing is on its way to them.
const maxLanes = 64

// destination is where messages go on one channel. Large ones, over which the broker may close it, have their own.
type destination struct {
	exchange, routingKey string
	large                bool
}

// lane is what goes to one destination.
type lane struct {
	opening chan struct{} // holds an element while somebody opens a channel
	line    *line         // nil before the first message; guarded by Publisher.mu, as is
	used    time.Time
}

// NewPublisher returns a publisher on conn. It opens channels when they are used.
func NewPublisher(conn *amqp.Connection) *Publisher {
	return &Publisher{conn: conn, lanes: map[destination]*lane{}}
}

// Close closes the channels and waits for the goroutines. Messages that are on their way end with
// ErrLost. Close the connection first if the broker may not answer.
func (p *Publisher) Close() {
	p.mu.Lock()
	p.closing = true
	var open []*line
	for _, l := range p.lanes {
		if l.line != nil {
			open = append(open, l.line)
		}
	}
	p.mu.Unlock()
	for _, l := range open {
		l.close()
	}
	p.lines.Wait()
}

// start runs f on a goroutine that Close waits for, unless the publisher is closed.
func (p *Publisher) start(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closing {
		p.lines.Go(f)
	}
	return !p.closing
}

// errClosed says that the publisher is closed.
var errClosed = fmt.Errorf("%w: the publisher is closed", ErrLost)

// Publish sends messages, in order to each destination, and waits until the broker has each in a
// queue, or ctx ends. The error is an [Errors] with one element for each message: an
// *[UndeliverableError] (also for [ErrUnroutable]), [ErrRefused], [ErrUnconfirmed] or [ErrLost].
func (p *Publisher) Publish(ctx context.Context, messages ...Message) error {
	faults := make(Errors, len(messages))
	batches := map[destination][]*parcel{}
	for i, m := range messages {
		pc, err := p.wrap(m)
		if err != nil {
			faults[i] = err
			continue
		}
		pc.index = i
		batches[pc.destination()] = append(batches[pc.destination()], pc)
	}
	var all sync.WaitGroup
	for to, batch := range batches {
		work := func() {
			for i, err := range p.publish(ctx, to, batch) {
				faults[batch[i].index] = err
			}
		}
		if len(batches) == 1 {
			work()
			break
		}
		all.Go(work)
	}
	all.Wait()
	return faults.OrNil()
}

// publish sends a batch to one destination.
func (p *Publisher) publish(ctx context.Context, to destination, batch []*parcel) []error {
	faults := make([]error, len(batch))
	l, err := p.open(ctx, to)
	if err == nil {
		l.send(ctx, batch)
	}
	for i, pc := range batch {
		if faults[i] = err; err == nil {
			faults[i] = p.settle(ctx, l, pc)
		}
	}
	return faults
}

// Encodable returns an *[UndeliverableError] for a message that the connection cannot carry.
func (p *Publisher) Encodable(m Message) error {
	_, err := p.wrap(m)
	return err
}

// parcel is a message on its way.
type parcel struct {
	index                int
	exchange, routingKey string
	mandatory            bool
	publishing           amqp.Publishing

	sent      chan struct{} // closed once confirm or fault is set
	confirm   *amqp.DeferredConfirmation
	fault     error
	abandoned atomic.Bool  // nobody waits any more
	returned  *amqp.Return // guarded by line.mu
}

// largeBody is the size from which the broker may close the channel over a message, in bytes:
// RabbitMQ's smallest usual max_message_size is 16 MiB.
const largeBody = 1 << 20

func (pc *parcel) destination() destination {
	return destination{pc.exchange, pc.routingKey, len(pc.publishing.Body) > largeBody}
}

// wrap encodes m, and refuses one that the connection could not carry.
func (p *Publisher) wrap(m Message) (*parcel, error) {
	pc := &parcel{mandatory: !m.Optional, publishing: m.Publishing(), sent: make(chan struct{})}
	pc.exchange, pc.routingKey = m.target()
	limit := p.conn.Config.FrameSize
	if err := encodable(pc, limit); err != nil {
		// The marks may be what is too much: they are cut down to those that matter.
		if pc.publishing.Headers = m.lean(); encodable(pc, limit) != nil {
			return nil, pc.undeliverable(err)
		}
	}
	return pc, nil
}

func (pc *parcel) undeliverable(err error) error {
	return &UndeliverableError{pc.exchange, pc.routingKey, err}
}

// markAgain says that the broker may have the message, if there is room for that.
func (pc *parcel) markAgain(frameSize int) {
	pc.publishing.Headers[headerAgain] = true
	if encodable(pc, frameSize) != nil {
		delete(pc.publishing.Headers, headerAgain)
	}
}

func (pc *parcel) wrapped(err error) error {
	return fmt.Errorf("publish to exchange %q with key %q: %w", shorten(pc.exchange), shorten(pc.routingKey), err)
}

// open returns the channel of a destination, or opens one.
func (p *Publisher) open(ctx context.Context, to destination) (*line, error) {
	lane, l := p.laneOf(to)
	if l != nil {
		return l, nil
	}
	select {
	case lane.opening <- struct{}{}:
		defer func() { <-lane.opening }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: open channel for publishing: %w", ErrUnconfirmed, context.Cause(ctx))
	}
	if lane, l = p.laneOf(to); l != nil {
		return l, nil
	}
	l, err := p.newLineWithin(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	lane.line = l
	return l, nil
}

// laneOf returns the lane of a destination, with its channel if that is open.
func (p *Publisher) laneOf(to destination) (*lane, *line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, known := p.lanes[to]
	if !known {
		p.retire()
		l = &lane{opening: make(chan struct{}, 1)}
		p.lanes[to] = l
	}
	l.used = time.Now()
	if l.line == nil || l.line.ch.IsClosed() {
		return l, nil
	}
	return l, l.line
}

// retire closes the channels that were not used for the longest time, if there are too many. p.mu
// is held.
func (p *Publisher) retire() {
	for len(p.lanes) >= maxLanes && p.retireOne() {
	}
}

func (p *Publisher) retireOne() bool {
	var oldest *lane
	var of destination
	for to, l := range p.lanes {
		idle := len(l.opening) == 0 && (l.line == nil || !l.line.busy())
		if idle && time.Since(l.used) > time.Second && (oldest == nil || l.used.Before(oldest.used)) {
			oldest, of = l, to
		}
	}
	if oldest == nil {
		return false
	}
	if l := oldest.line; l != nil && !p.closing {
		p.lines.Go(l.close)
	}
	delete(p.lanes, of)
	return true
}

// newLineWithin opens a line within ctx. A broker that reads nothing, as in an alarm, does not
// answer: the line is closed when it comes too late.
func (p *Publisher) newLineWithin(ctx context.Context) (*line, error) {
	type answer struct {
		line *line
		err  error
	}
	got := make(chan answer)
	started := p.start(func() {
		l, err := p.newLine()
		select {
		case got <- answer{l, err}:
		case <-ctx.Done():
			if err == nil {
				l.close()
			}
		}
	})
	if !started {
		return nil, errClosed
	}
	select {
	case a := <-got:
		switch {
		case a.err == nil:
			return a.line, nil
		case errors.Is(a.err, amqp.ErrChannelMax):
			return nil, fmt.Errorf("%w: open channel for publishing: %w", ErrRefused, a.err)
		}
		return nil, fmt.Errorf("%w: open channel for publishing: %w", ErrLost, a.err)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: open channel for publishing: %w", ErrUnconfirmed, context.Cause(ctx))
	}
}

// settle waits for what becomes of a message. When the broker closes the channel because of the
// exchange, every message to it is at fault; else it is over one of them, and those that were on
// their way are sent once more, each alone: the one that is at fault has that channel closed, too.
func (p *Publisher) settle(ctx context.Context, l *line, pc *parcel) error {
	err := l.wait(ctx, pc)
	if !errors.Is(err, ErrLost) || p.conn.IsClosed() {
		return err
	}
	if why := l.reason(); answerCode(why) == amqp.NotFound || answerCode(why) == amqp.AccessRefused {
		return pc.undeliverable(fmt.Errorf("the broker does not take it: %w", why))
	}
	pc.markAgain(p.conn.Config.FrameSize)
	return p.alone(ctx, &parcel{exchange: pc.exchange, routingKey: pc.routingKey, mandatory: pc.mandatory,
		publishing: pc.publishing, sent: make(chan struct{})})
}

// alone publishes a message on a channel of its own. If the broker closes that, it is the
// message's fault.
func (p *Publisher) alone(ctx context.Context, pc *parcel) error {
	l, err := p.newLineWithin(ctx)
	if err != nil {
		return pc.wrapped(err)
	}
	l.send(ctx, []*parcel{pc})
	err = l.wait(ctx, pc)
	if !l.ch.IsClosed() {
		p.start(l.close)
	}
	if errors.Is(err, ErrLost) && !p.conn.IsClosed() && Refused(l.reason()) {
		return pc.undeliverable(fmt.Errorf("the broker does not take it: %w", l.reason()))
	}
	return err
}

// window is how many messages may be unconfirmed on one channel. RabbitMQ stops reading from the
// whole connection when a channel that does not go on has a few hundred (its credit flow).
const window = 128

// line is one channel in confirm mode. One goroutine writes to it, so that nobody waits for a
// connection that the broker does not read longer than its context lasts; another one takes what
// is returned.
type line struct {
	ch      *amqp.Channel
	queue   chan []*parcel
	closing chan *amqp.Error // has the reason once ch is closed by the broker
	done    chan struct{}    // closed when ch is
	barrier chan struct{}    // taken by the goroutine of the returns between two of them
	window  chan struct{}    // holds an element for each message that is not confirmed
	start   func(func()) bool

	mu  sync.Mutex
	why error
	out map[string][]*parcel // unsettled, by what a return shows of them
}

func (p *Publisher) newLine() (*line, error) {
	ch, err := p.conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.Confirm(false); err != nil {
		return nil, fmt.Errorf("ask for publisher confirms: %w", err)
	}
	l := &line{
		ch: ch, start: p.start, queue: make(chan []*parcel), done: make(chan struct{}), barrier: make(chan struct{}), window: make(chan struct{}, window),
		closing: ch.NotifyClose(make(chan *amqp.Error, 1)), out: map[string][]*parcel{},
	}
	// Unbuffered: the client hands a return over before it looks at the confirm that follows it.
	returns := ch.NotifyReturn(make(chan amqp.Return))
	if !p.start(func() { l.takeReturns(returns) }) {
		l.close()
		return nil, errClosed
	}
	p.start(l.write)
	return l, nil
}

// close ends a line that nobody uses.
func (l *line) close() { _ = l.ch.Close() } // an error means that it is closed

// busy reports whether messages are on their way.
func (l *line) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.out) > 0
}

// reason is why the broker closed the channel.
func (l *line) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case e := <-l.closing:
		if e != nil {
			l.why = e
		}
	default:
	}
	if l.why == nil {
		return amqp.ErrClosed
	}
	return l.why
}

func (l *line) takeReturns(returns <-chan amqp.Return) {
	defer close(l.done)
	for {
		select {
		case r, open := <-returns:
			if !open {
				return
			}
			l.returned(r)
		case <-l.barrier:
		}
	}
}

// key is what tells messages apart when one comes back.
func key(exchange, routingKey, messageID, correlationID string) string {
	return exchange + "\x00" + routingKey + "\x00" + messageID + "\x00" + correlationID
}

func (pc *parcel) key() string {
	return key(pc.exchange, pc.routingKey, pc.publishing.MessageId, pc.publishing.CorrelationId)
}

// returned notes which message came back: the first of those that look like it.
func (l *line) returned(r amqp.Return) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, pc := range l.out[key(r.Exchange, r.RoutingKey, r.MessageId, r.CorrelationId)] {
		if pc.returned == nil {
			pc.returned = &r
			return
		}
	}
}

// write publishes what is put into the queue, until the channel is closed.
func (l *line) write() {
	for {
		select {
		case parcels := <-l.queue:
			for _, pc := range parcels {
				l.publish(pc)
			}
		case <-l.done:
			return
		}
	}
}

// publish sends a parcel when there is room in the window.
func (l *line) publish(pc *parcel) {
	defer close(pc.sent)
	select {
	case l.window <- struct{}{}:
	case <-l.done:
		pc.fault = ErrLost
		return
	}
	if pc.abandoned.Load() {
		pc.fault = ErrUnconfirmed
	} else {
		pc.confirm, pc.fault = l.ch.PublishWithDeferredConfirm(pc.exchange, pc.routingKey, pc.mandatory, false, pc.publishing)
	}
	if pc.fault != nil {
		<-l.window
	}
}

// send hands parcels to the writer.
func (l *line) send(ctx context.Context, parcels []*parcel) {
	l.mu.Lock()
	for _, pc := range parcels {
		l.out[pc.key()] = append(l.out[pc.key()], pc)
	}
	l.mu.Unlock()
	var fault error
	select {
	case l.queue <- parcels:
		return
	case <-l.done:
		fault = ErrLost
	case <-ctx.Done():
		fault = fmt.Errorf("%w: %w", ErrUnconfirmed, context.Cause(ctx))
	}
	for _, pc := range parcels {
		pc.fault = fault
		close(pc.sent)
	}
}

// forget takes a parcel off those that may come back, and returns what came back of it.
func (l *line) forget(pc *parcel) *amqp.Return {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := pc.key()
	if l.out[k] = slices.DeleteFunc(l.out[k], func(o *parcel) bool { return o == pc }); len(l.out[k]) == 0 {
		delete(l.out, k)
	}
	return pc.returned
}

// wait returns what became of a parcel.
func (l *line) wait(ctx context.Context, pc *parcel) error {
	err := l.confirmed(ctx, pc)
	if back := l.forget(pc); err == nil && back != nil {
		return pc.undeliverable(fmt.Errorf("%w (%d %s)", ErrUnroutable, back.ReplyCode, back.ReplyText))
	}
	if err != nil {
		return pc.wrapped(err)
	}
	return nil
}

func (l *line) confirmed(ctx context.Context, pc *parcel) error {
	timedOut := func() error {
		pc.abandoned.Store(true)
		l.start(func() { // its place in the window is free when the confirm comes, or the channel ends
			if <-pc.sent; pc.confirm != nil {
				<-pc.confirm.Done()
				<-l.window
			}
		})
		return fmt.Errorf("%w: %w", ErrUnconfirmed, context.Cause(ctx))
	}
	if !closed(ctx, pc.sent) {
		return timedOut()
	}
	switch {
	case errors.Is(pc.fault, ErrUnconfirmed):
		return pc.fault
	case pc.fault != nil && l.ch.IsClosed():
		return fmt.Errorf("%w: %w", ErrLost, l.reason())
	case pc.fault != nil: // the connection is about to be found closed
		return fmt.Errorf("%w: %w", ErrLost, pc.fault)
	}
	if !closed(ctx, pc.confirm.Done()) {
		return timedOut()
	}
	<-l.window
	switch {
	case pc.confirm.Acked():
		// RabbitMQ sends basic.return before the confirm of the same message: it has been handed
		// over, and is noted once the goroutine of the returns takes the barrier.
		select {
		case l.barrier <- struct{}{}:
		case <-l.done:
		}
		return nil
	case l.ch.IsClosed():
		return fmt.Errorf("%w: %w", ErrLost, l.reason())
	default:
		return ErrRefused
	}
}

// closed waits until done is closed, or ctx ends, and reports whether done was closed: also if
// that was before, while the caller waited for something else.
func closed(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-ctx.Done():
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}
