package broker

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"
	"strings"
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

// backlog is a heap: higher priorities first, then in the order of publication.
type backlog []*entry

func (l backlog) Len() int      { return len(l) }
func (l backlog) Swap(i, j int) { l[i], l[j] = l[j], l[i] }
func (l backlog) Less(i, j int) bool {
	if l[i].priority != l[j].priority {
		return l[i].priority > l[j].priority
	}
	return l[i].seq < l[j].seq
}
func (l *backlog) Push(e any) { *l = append(*l, e.(*entry)) }
func (l *backlog) Pop() any {
	last := len(*l) - 1
	e := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	return e
}

// consumer is a subscription of a channel to a queue.
type consumer struct {
	tag       string
	channel   *channel
	queue     *queue
	noAck     bool
	exclusive bool
	prefetch  int // most unacknowledged messages at a time; 0: no limit
	unacked   int
}

func (c *consumer) ready() bool {
	ch := c.channel
	return (c.noAck || (c.prefetch == 0 || c.unacked < c.prefetch) && (ch.prefetch == 0 || ch.delivered < ch.prefetch)) &&
		ch.conn.takesDeliveries()
}

type queue struct {
	name                string
	durable, autoDelete bool
	owner               *conn // of an exclusive queue, else nil
	args                table

	// From args; negative durations and limits: none.
	ttl, expires      time.Duration
	maxLen, maxBytes  int64
	overflow          string
	maxPriority       int64
	dlx, dlxKey       string
	hasDLX, hasDLXKey bool

	ready     backlog
	bytes     int64 // of the bodies in ready
	seq       uint64
	unacked   int
	consumers []*consumer
	turn      int       // the consumer served last
	idleSince time.Time // x-expires counts from here
	round     uint64    // the last round of routing that reached it
	deleted   bool
}

// queueArgs are the arguments that a second declaration must repeat, as in RabbitMQ; others may differ.
var queueArgs = []string{
	"x-expires", "x-message-ttl", "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-max-length",
	"x-max-length-bytes", "x-overflow", "x-max-priority", "x-queue-type", "x-queue-mode",
	"x-single-active-consumer", "x-delivery-limit",
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
	text := func(arg string, allowed ...string) (string, bool) {
		v := args.get(arg)
		if v.kind != 0 && v.kind != 'S' {
			invalid(arg, "a string")
		} else if v.kind != 0 && len(allowed) > 0 && !slices.Contains(allowed, v.raw) {
			invalid(arg, strings.Join(allowed, " or "))
		}
		return v.text(), v.kind != 0
	}
	q.ttl = time.Duration(number("x-message-ttl", 0, maxMilliseconds)) * time.Millisecond
	q.expires = time.Duration(number("x-expires", 1, maxMilliseconds)) * time.Millisecond
	q.maxLen = number("x-max-length", 0, math.MaxInt64)
	q.maxBytes = number("x-max-length-bytes", 0, math.MaxInt64)
	q.maxPriority = max(0, number("x-max-priority", 0, math.MaxUint8))
	q.overflow, _ = text("x-overflow", "drop-head", "reject-publish", "reject-publish-dlx")
	q.dlx, q.hasDLX = text("x-dead-letter-exchange")
	q.dlxKey, q.hasDLXKey = text("x-dead-letter-routing-key")
	if kind, _ := text("x-queue-type", "classic", "quorum", "stream"); kind == "stream" {
		err = refuse(notImplemented, "streams")
	}
	if q.hasDLXKey && !q.hasDLX {
		invalid("x-dead-letter-routing-key", "x-dead-letter-exchange as well")
	}
	return q, err
}

// assertSame compares a repeated declaration with the queue as it is.
func (q *queue) assertSame(durable, autoDelete bool, args table) error {
	if durable != q.durable || autoDelete != q.autoDelete {
		return refuse(preconditionFailed, "inequivalent queue '%s' in vhost '/': its durable is %t and its auto_delete %t", q.name, q.durable, q.autoDelete)
	}
	for _, arg := range queueArgs {
		got, have := args.get(arg), q.args.get(arg)
		if n, ok := got.integer(); ok {
			if m, ok := have.integer(); ok && n == m {
				continue // widths may differ
			}
		}
		if arg == "x-queue-type" { // what is not given is classic
			got, have = cmp.Or(got, textValue("classic")), cmp.Or(have, textValue("classic"))
		}
		if got != have {
			return refuse(preconditionFailed, "inequivalent arg '%s' for queue '%s' in vhost '/': received '%s' but current is '%s'", arg, q.name, got, have)
		}
	}
	return nil
}

// overfull tells whether the queue with this many more messages and bytes is beyond its limits.
func (q *queue) overfull(messages int, bytes int64) bool {
	return q.maxLen >= 0 && int64(len(q.ready)+messages) > q.maxLen || q.maxBytes >= 0 && q.bytes+bytes > q.maxBytes
}

func (q *queue) push(e *entry) {
	heap.Push(&q.ready, e)
	q.bytes += int64(len(e.msg.body))
}

func (q *queue) pop() *entry {
	e := heap.Pop(&q.ready).(*entry)
	q.bytes -= int64(len(e.msg.body))
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
