package devbroker

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// entry is one message in one queue: ready there, or delivered and not yet acknowledged.
type entry struct {
	msg         *message
	queue       *queue
	seq         uint64 // its place among messages of equal priority, kept when it is requeued
	priority    uint8
	redelivered bool
	deadline    time.Time // when it expires; zero: never

	tag      uint64    // while unacknowledged: the delivery tag
	consumer *consumer // while unacknowledged: who got it; nil for basic.get
}

// compare orders entries: higher priorities first, then in the order of publication.
func (e *entry) compare(other *entry) int {
	return cmp.Or(cmp.Compare(other.priority, e.priority), cmp.Compare(e.seq, other.seq))
}

// consumer is a subscription of a channel to a queue.
type consumer struct {
	tag       string
	channel   *channel
	queue     *queue
	noAck     bool
	exclusive bool // the queue has no other consumer
	prefetch  int  // most unacknowledged messages at a time; 0: no limit
	unacked   int
}

func (c *consumer) ready() bool {
	ch := c.channel
	return c.noAck || (c.prefetch == 0 || c.unacked < c.prefetch) && (ch.prefetch == 0 || ch.delivered < ch.prefetch)
}

type queue struct {
	name                string
	durable, autoDelete bool
	owner               *conn // of an exclusive queue, else nil
	args                table

	// From args; negative durations and limits: none.
	ttl, expires time.Duration
	maxLen       int64
	maxPriority  int64
	dlx, dlxKey  value // strings

	ready     []*entry // ordered by entry.compare
	seq       uint64
	unacked   int
	consumers []*consumer
	turn      int       // the consumer served last
	idleSince time.Time // x-expires counts from here
	deleted   bool
}

// queueArgs are the arguments that a second declaration must repeat, as in RabbitMQ; others may differ.
var queueArgs = []string{
	"x-expires", "x-message-ttl", "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-max-length",
	"x-overflow", "x-max-priority", "x-queue-type", "x-queue-mode", "x-delivery-limit",
}

// implemented gives for the arguments that ask for more than this broker can do the values that do not.
var implemented = map[string][]string{
	"x-max-length-bytes": nil,
	"x-overflow":         {"drop-head"},
	"x-queue-type":       {"classic", "quorum"},
}

// maxMilliseconds is RabbitMQ's bound for times: ten years. Celery's native delayed delivery needs four of them.
const maxMilliseconds = 10 * 365 * 24 * 3600 * 1000

func newQueue(name string, args table, now time.Time) (*queue, error) {
	q := &queue{name: name, args: args, idleSince: now}
	var err error
	invalid := func(arg, want string) {
		if err == nil {
			err = refuse(preconditionFailed, "invalid arg '%s' for queue '%s' in vhost '/': want %s, got %s", arg, name, want, args.get(arg))
		}
	}
	number := func(arg string, low, high int64) int64 {
		v := args.get(arg)
		if v.kind == 0 {
			return -1
		}
		n, ok := v.integer()
		if !ok || n < low || n > high {
			invalid(arg, fmt.Sprintf("an integer from %d to %d", low, high))
		}
		return n
	}
	text := func(arg string) value {
		v := args.get(arg)
		if v.kind != 0 && v.kind != 'S' {
			invalid(arg, "a string")
		}
		return v
	}
	q.ttl = time.Duration(number("x-message-ttl", 0, maxMilliseconds)) * time.Millisecond
	q.expires = time.Duration(number("x-expires", 1, maxMilliseconds)) * time.Millisecond
	q.maxLen = number("x-max-length", 0, math.MaxInt64)
	q.maxPriority = max(0, number("x-max-priority", 0, math.MaxUint8))
	q.dlx = text("x-dead-letter-exchange")
	q.dlxKey = text("x-dead-letter-routing-key")
	for arg, can := range implemented {
		if v := args.get(arg); v.kind != 0 && !slices.Contains(can, v.text()) {
			err = refuse(notImplemented, "arg '%s' for queue '%s' in vhost '/' with value '%s'", arg, name, v)
		}
	}
	return q, err
}

// assertSame compares a repeated declaration with the queue as it is.
func (q *queue) assertSame(durable, exclusive, autoDelete bool, args table) error {
	if durable != q.durable || exclusive != (q.owner != nil) || autoDelete != q.autoDelete {
		return refuse(preconditionFailed, "inequivalent queue '%s' in vhost '/': it is declared with durable %t, exclusive %t and auto_delete %t",
			q.name, q.durable, q.owner != nil, q.autoDelete)
	}
	for _, arg := range queueArgs {
		got, have := args.get(arg), q.args.get(arg)
		if arg == "x-queue-type" { // what is not given is classic
			got, have = cmp.Or(got, textValue("classic")), cmp.Or(have, textValue("classic"))
		}
		if got.String() != have.String() { // integers may be of other widths
			return refuse(preconditionFailed, "inequivalent arg '%s' for queue '%s' in vhost '/': received '%s' but current is '%s'", arg, q.name, got, have)
		}
	}
	return nil
}

func (q *queue) push(e *entry) {
	i, _ := slices.BinarySearchFunc(q.ready, e, (*entry).compare)
	q.ready = slices.Insert(q.ready, i, e)
}

func (q *queue) pop() *entry {
	e := q.ready[0]
	q.ready[0] = nil
	q.ready = q.ready[1:]
	return e
}

// headExpired tells whether the message at the head expired before now. Those behind it wait for it, as in
// RabbitMQ's classic queues.
func (q *queue) headExpired(now time.Time) bool {
	return len(q.ready) > 0 && !q.ready[0].deadline.IsZero() && q.ready[0].deadline.Before(now)
}

// nextConsumer returns the next in turn that can take a message, nil if none can.
func (q *queue) nextConsumer() *consumer {
	for range q.consumers {
		q.turn = (q.turn + 1) % len(q.consumers)
		if c := q.consumers[q.turn]; c.ready() {
			return c
		}
	}
	return nil
}

// newEntry gives m its place at the end of the queue and its time to live there.
func (q *queue) newEntry(m *message, now time.Time) *entry {
	q.seq++
	e := &entry{msg: m, queue: q, seq: q.seq, priority: uint8(min(int64(m.priority), q.maxPriority))}
	ttl := q.ttl
	if m.expiration >= 0 && (ttl < 0 || m.expiration < ttl) {
		ttl = m.expiration
	}
	if ttl >= 0 {
		e.deadline = now.Add(ttl)
	}
	return e
}
