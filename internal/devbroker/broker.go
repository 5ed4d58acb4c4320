package devbroker

import (
	"slices"
	"sync"
	"time"
)

// broker is the state that clients share. Its methods want mu held, except where they say that they take it.
// Nothing blocks while mu is held: what is sent to a client is put into its connection's buffer.
type broker struct {
	mu        sync.Mutex
	exchanges map[string]*exchange
	queues    map[string]*queue
	conns     map[*conn]struct{}

	dead []deadLetter // to be published before mu is released
}

type deadLetter struct {
	msg    *message
	reason string
}

func newBroker() *broker {
	b := &broker{
		exchanges: make(map[string]*exchange),
		queues:    make(map[string]*queue),
		conns:     make(map[*conn]struct{}),
	}
	for name, kind := range map[string]string{"": "direct", "amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic"} {
		b.exchanges[name] = &exchange{name: name, kind: kind, durable: true}
	}
	return b
}

// unlock publishes the dead letters that have come up and releases mu. Dead letters may beget others, but no
// circles, see message.cycles.
func (b *broker) unlock() {
	for now := time.Now(); len(b.dead) > 0; {
		d := b.dead[0]
		b.dead[0] = deadLetter{}
		b.dead = b.dead[1:]
		if x := b.exchanges[d.msg.exchange]; x != nil {
			for _, q := range b.route(x, d.msg) {
				if !d.msg.cycles(d.reason, q.name) {
					b.enqueue(q, d.msg, now)
				}
			}
		}
	}
	b.mu.Unlock()
}

func (b *broker) enqueue(q *queue, m *message, now time.Time) {
	q.push(q.newEntry(m, now))
	b.advance(q, now)
}

// advance does everything that q can do now: deliver, expire, drop what is too much.
func (b *broker) advance(q *queue, now time.Time) {
	for len(q.ready) > 0 {
		if q.headExpired(now) {
			b.deadLetter(q, q.pop().msg, reasonExpired, now)
			continue
		}
		c := q.nextConsumer()
		if c == nil {
			break
		}
		c.channel.deliver(c, q.pop())
	}
	for q.maxLen >= 0 && int64(len(q.ready)) > q.maxLen {
		b.deadLetter(q, q.pop().msg, reasonMaxLen, now)
	}
}

// requeue puts entries, all taken from their channel already, back to where they were.
func (b *broker) requeue(entries []*entry, now time.Time) {
	for _, e := range entries {
		if !e.queue.deleted {
			e.redelivered = true
			e.consumer = nil
			e.queue.push(e)
		}
	}
	for _, e := range entries {
		b.advance(e.queue, now)
	}
}

// deadLetter passes on a message that q has lost. A deleted queue passes on nothing.
func (b *broker) deadLetter(q *queue, m *message, reason string, now time.Time) {
	if q.dlx.kind == 0 || q.deleted {
		return
	}
	key := m.key
	if q.dlxKey.kind != 0 {
		key = q.dlxKey.text()
	}
	b.dead = append(b.dead, deadLetter{m.died(reason, q.name, q.dlx.text(), key, now), reason})
}

func (b *broker) deleteQueue(q *queue) {
	q.deleted = true
	delete(b.queues, q.name)
	for _, c := range q.consumers {
		delete(c.channel.consumers, c.tag)
		c.channel.send(basicCancel, c.tag, true)
	}
	q.consumers, q.ready = nil, nil
	b.unbind(func(_ *exchange, bd *binding) bool { return bd.queue == q })
}

func (b *broker) deleteExchange(x *exchange) {
	delete(b.exchanges, x.name)
	b.unbind(func(_ *exchange, bd *binding) bool { return bd.to == x })
}

// unbind removes the bindings that match, and auto-delete exchanges that lose their last one by it.
func (b *broker) unbind(match func(*exchange, *binding) bool) {
	for _, x := range b.exchanges {
		before := len(x.bindings)
		x.bindings = slices.DeleteFunc(x.bindings, func(bd *binding) bool { return match(x, bd) })
		if x.autoDelete && len(x.bindings) == 0 && before > 0 {
			b.deleteExchange(x)
		}
	}
}

// removeConsumer deletes an auto-delete queue with its last consumer.
func (b *broker) removeConsumer(c *consumer, now time.Time) {
	q := c.queue
	delete(c.channel.consumers, c.tag)
	q.consumers = slices.DeleteFunc(q.consumers, func(o *consumer) bool { return o == c })
	q.idleSince = now
	if q.autoDelete && len(q.consumers) == 0 {
		b.deleteQueue(q)
	}
}

// sweep expires the messages and queues whose time has come.
func (b *broker) sweep(now time.Time) {
	for _, q := range b.queues {
		if q.expires > 0 && len(q.consumers) == 0 && now.Sub(q.idleSince) >= q.expires {
			b.deleteQueue(q)
		}
		b.advance(q, now)
	}
}

// expireUntil sweeps until done is closed. To look at all queues a hundred times a second is simpler than to
// keep their deadlines in order, and next to nothing for the few that a trial has. It takes mu.
func (b *broker) expireUntil(done <-chan struct{}) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-tick.C:
			b.mu.Lock()
			b.sweep(now)
			b.unlock()
		}
	}
}

// release takes from a connection that has ended all it held. It takes mu.
func (b *broker) release(c *conn) {
	b.mu.Lock()
	defer b.unlock()
	now := time.Now()
	delete(b.conns, c)
	var unacked []*entry
	for _, ch := range c.channels {
		unacked = append(unacked, ch.abandon(now)...)
	}
	clear(c.channels)
	for _, q := range b.queues {
		if q.owner == c {
			b.deleteQueue(q)
		}
	}
	b.requeue(unacked, now)
}
