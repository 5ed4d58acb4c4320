package broker

import (
	"cmp"
	"crypto/rand"
	"slices"
	"strings"
	"time"
)

// methodID is a class in the upper half and a method of it in the lower.
type methodID uint32

const classBasic = 60

const (
	connectionStart, connectionStartOk methodID = 10<<16 | 10, 10<<16 | 11
	connectionTune, connectionTuneOk   methodID = 10<<16 | 30, 10<<16 | 31
	connectionOpen, connectionOpenOk   methodID = 10<<16 | 40, 10<<16 | 41
	connectionClose, connectionCloseOk methodID = 10<<16 | 50, 10<<16 | 51

	channelOpen, channelOpenOk   methodID = 20<<16 | 10, 20<<16 | 11
	channelFlow, channelFlowOk   methodID = 20<<16 | 20, 20<<16 | 21
	channelClose, channelCloseOk methodID = 20<<16 | 40, 20<<16 | 41

	exchangeDeclare, exchangeDeclareOk methodID = 40<<16 | 10, 40<<16 | 11
	exchangeDelete, exchangeDeleteOk   methodID = 40<<16 | 20, 40<<16 | 21
	exchangeBind, exchangeBindOk       methodID = 40<<16 | 30, 40<<16 | 31
	exchangeUnbind, exchangeUnbindOk   methodID = 40<<16 | 40, 40<<16 | 51

	queueDeclare, queueDeclareOk methodID = 50<<16 | 10, 50<<16 | 11
	queueBind, queueBindOk       methodID = 50<<16 | 20, 50<<16 | 21
	queuePurge, queuePurgeOk     methodID = 50<<16 | 30, 50<<16 | 31
	queueDelete, queueDeleteOk   methodID = 50<<16 | 40, 50<<16 | 41
	queueUnbind, queueUnbindOk   methodID = 50<<16 | 50, 50<<16 | 51

	basicQos, basicQosOk             methodID = 60<<16 | 10, 60<<16 | 11
	basicConsume, basicConsumeOk     methodID = 60<<16 | 20, 60<<16 | 21
	basicCancel, basicCancelOk       methodID = 60<<16 | 30, 60<<16 | 31
	basicPublish, basicReturn        methodID = 60<<16 | 40, 60<<16 | 50
	basicDeliver, basicGet           methodID = 60<<16 | 60, 60<<16 | 70
	basicGetOk, basicGetEmpty        methodID = 60<<16 | 71, 60<<16 | 72
	basicAck, basicReject, basicNack methodID = 60<<16 | 80, 60<<16 | 90, 60<<16 | 120
	basicRecoverAsync                methodID = 60<<16 | 100
	basicRecover, basicRecoverOk     methodID = 60<<16 | 110, 60<<16 | 111
	confirmSelect, confirmSelectOk   methodID = 85<<16 | 10, 85<<16 | 11
)

// arguments are the fields of a method sent to a channel. Those it does not have are zero.
type arguments struct {
	queue, exchange, destination, key, kind, consumer string

	tag   uint64
	size  uint32
	count uint16
	bits  [5]bool
	table table
}

// layouts gives the fields of each method that a client may send to an open channel, in order, by the letters
// of decodeMethod.
var layouts = map[methodID]string{
	channelOpen: "c", channelFlow: "b", channelFlowOk: "b",
	exchangeDeclare: "-xyba", exchangeDelete: "-xb", exchangeBind: "-dxkba", exchangeUnbind: "-dxkba",
	queueDeclare: "-qba", queueBind: "-qxkba", queueUnbind: "-qxka", queuePurge: "-qb", queueDelete: "-qb",
	basicQos: "znb", basicConsume: "-qcba", basicCancel: "cb", basicCancelOk: "c", basicPublish: "-xkb", basicGet: "-qb",
	basicAck: "tb", basicReject: "tb", basicNack: "tb", basicRecover: "b", basicRecoverAsync: "b",
	confirmSelect: "b",
}

func decodeMethod(payload []byte) (id methodID, a arguments, err error) {
	d := &decoder{b: payload}
	id = methodID(d.uint32())
	layout, ok := layouts[id]
	if !ok && d.err == nil {
		return id, a, refuse(notImplemented, "class %d method %d", id>>16, id&0xFFFF)
	}
	for _, letter := range layout {
		switch letter {
		case '-':
			d.uint16() // reserved
		case 'q':
			a.queue = d.shortstr()
		case 'x':
			a.exchange = d.shortstr()
		case 'd':
			a.destination = d.shortstr()
		case 'k':
			a.key = d.shortstr()
		case 'y':
			a.kind = d.shortstr()
		case 'c':
			a.consumer = d.shortstr()
		case 't':
			a.tag = d.uint64()
		case 'z':
			a.size = d.uint32()
		case 'n':
			a.count = d.uint16()
		case 'b':
			a.bits = d.bits()
		case 'a':
			a.table = d.table()
		}
	}
	return id, a, d.end()
}

// method carries out a method.
func (ch *channel) method(id methodID, a arguments, now time.Time) error {
	b := ch.conn.broker
	switch id {
	case channelOpen:
		return refuse(channelError, "second 'channel.open' seen")
	case channelFlow:
		if !a.bits[0] {
			return refuse(notImplemented, "active=false")
		}
		ch.send(channelFlowOk, true)
	case channelFlowOk, basicCancelOk: // answers to what we sent without waiting
	case exchangeDeclare:
		return ch.exchangeDeclare(a)
	case exchangeDelete:
		return ch.exchangeDelete(a)
	case exchangeBind, queueBind:
		return ch.bind(id, a)
	case exchangeUnbind, queueUnbind:
		return ch.unbind(id, a)
	case queueDeclare:
		return ch.queueDeclare(a, now)
	case queuePurge:
		return ch.queuePurge(a)
	case queueDelete:
		return ch.queueDelete(a)
	case basicQos:
		return ch.basicQos(a, now)
	case basicConsume:
		return ch.basicConsume(a, now)
	case basicCancel:
		if c := ch.consumers[a.consumer]; c != nil {
			b.removeConsumer(c, now)
		}
		ch.answer(a.bits[0], basicCancelOk, a.consumer)
	case basicPublish:
		if a.bits[1] {
			return refuse(notImplemented, "immediate=true")
		}
		ch.content = &publishing{exchange: a.exchange, key: a.key, mandatory: a.bits[0]}
	case basicGet:
		return ch.basicGet(a, now)
	case basicAck:
		if _, err := ch.take(a.tag, a.bits[0]); err != nil {
			return err
		}
		ch.advance(now)
	case basicReject:
		return ch.reject(a.tag, false, a.bits[0], now)
	case basicNack:
		return ch.reject(a.tag, a.bits[0], a.bits[1], now)
	case basicRecover, basicRecoverAsync:
		if !a.bits[0] {
			return refuse(notImplemented, "requeue=false")
		}
		ch.answer(id == basicRecoverAsync, basicRecoverOk)
		return ch.reject(0, true, true, now)
	case confirmSelect:
		ch.confirms = true
		ch.answer(a.bits[0], confirmSelectOk)
	}
	return nil
}

// answer sends a method unless the client does not wait for it.
func (ch *channel) answer(noWait bool, id methodID, args ...any) {
	if !noWait {
		ch.send(id, args...)
	}
}

func (ch *channel) exchangeDeclare(a arguments) error {
	passive, durable, autoDelete, internal, noWait := a.bits[0], a.bits[1], a.bits[2], a.bits[3], a.bits[4]
	b := ch.conn.broker
	x := b.exchanges[a.exchange]
	switch {
	case passive && x == nil:
		return refuse(notFound, "no exchange '%s' in vhost '/'", a.exchange)
	case passive:
	case a.exchange == "":
		return refuse(accessRefused, "operation not permitted on the default exchange")
	case !slices.Contains([]string{"direct", "fanout", "topic", "headers"}, a.kind):
		return refuse(commandInvalid, "unknown exchange type '%s'", a.kind)
	case x == nil && strings.HasPrefix(a.exchange, "amq."):
		return refuse(accessRefused, "exchange name '%s' contains reserved prefix 'amq.*'", a.exchange)
	case x == nil:
		b.exchanges[a.exchange] = &exchange{name: a.exchange, kind: a.kind, durable: durable, autoDelete: autoDelete, internal: internal}
	case a.kind != x.kind || durable != x.durable || autoDelete != x.autoDelete || internal != x.internal:
		return refuse(preconditionFailed, "inequivalent exchange '%s' in vhost '/': it is of type %s, durable %t, auto_delete %t, internal %t",
			x.name, x.kind, x.durable, x.autoDelete, x.internal)
	}
	ch.answer(noWait, exchangeDeclareOk)
	return nil
}

func (ch *channel) exchangeDelete(a arguments) error {
	ifUnused, noWait := a.bits[0], a.bits[1]
	x := ch.conn.broker.exchanges[a.exchange]
	switch {
	case a.exchange == "" || strings.HasPrefix(a.exchange, "amq."):
		return refuse(accessRefused, "exchange '%s' in vhost '/' is predefined and stays", a.exchange)
	case x == nil: // as good as deleted
	case ifUnused && len(x.bindings) > 0:
		return refuse(preconditionFailed, "exchange '%s' in vhost '/' in use", a.exchange)
	default:
		ch.conn.broker.deleteExchange(x)
	}
	ch.answer(noWait, exchangeDeleteOk)
	return nil
}

// binding returns what bind and unbind are about.
func (ch *channel) binding(id methodID, a arguments) (*exchange, *binding, error) {
	b := ch.conn.broker
	bd := &binding{key: a.key, args: a.table}
	toQueue := id == queueBind || id == queueUnbind
	if toQueue {
		q, err := ch.queue(a.queue)
		if err != nil {
			return nil, nil, err
		}
		bd.queue = q
		if a.queue == "" && a.key == "" { // the queue declared last, by its name
			bd.key = q.name
		}
	}
	if a.exchange == "" || !toQueue && a.destination == "" {
		return nil, nil, refuse(accessRefused, "operation not permitted on the default exchange")
	}
	x := b.exchanges[a.exchange]
	if x == nil {
		return nil, nil, refuse(notFound, "no exchange '%s' in vhost '/'", a.exchange)
	}
	if bd.to = b.exchanges[a.destination]; !toQueue && bd.to == nil {
		return nil, nil, refuse(notFound, "no exchange '%s' in vhost '/'", a.destination)
	}
	if toQueue {
		bd.to = nil
	}
	bd.pattern = words(bd.key)
	return x, bd, nil
}

func (ch *channel) bind(id methodID, a arguments) error {
	x, bd, err := ch.binding(id, a)
	if err != nil {
		return err
	}
	if mode := bd.args.get("x-match"); x.kind == "headers" && mode.kind != 0 &&
		!slices.Contains([]string{"all", "any", "all-with-x", "any-with-x"}, mode.text()) {
		return refuse(preconditionFailed, "invalid x-match field value %s; expected all or any", mode)
	}
	if !slices.ContainsFunc(x.bindings, bd.same) {
		x.bindings = append(x.bindings, bd)
	}
	ch.answer(a.bits[0], id+1)
	return nil
}

func (ch *channel) unbind(id methodID, a arguments) error {
	x, bd, err := ch.binding(id, a)
	if err != nil {
		return err
	}
	ch.conn.broker.unbind(func(source *exchange, have *binding) bool { return source == x && have.same(bd) })
	ok := queueUnbindOk
	if id == exchangeUnbind {
		ok = exchangeUnbindOk
	}
	ch.answer(a.bits[0], ok) // queue.unbind has no such bit: it is always answered
	return nil
}

// queue finds a queue that the client may use. The empty name means the one declared last.
func (ch *channel) queue(name string) (*queue, error) {
	name = cmp.Or(name, ch.lastQueue)
	q := ch.conn.broker.queues[name]
	if q == nil {
		return nil, refuse(notFound, "no queue '%s' in vhost '/'", name)
	}
	if q.owner != nil && q.owner != ch.conn {
		return nil, refuse(resourceLocked, "cannot obtain exclusive access to locked queue '%s' in vhost '/'", name)
	}
	return q, nil
}

func (ch *channel) queueDeclare(a arguments, now time.Time) (err error) {
	passive, durable, exclusive, autoDelete, noWait := a.bits[0], a.bits[1], a.bits[2], a.bits[3], a.bits[4]
	b := ch.conn.broker
	q := b.queues[a.queue]
	switch {
	case passive && q == nil: // the empty name as well, here only
		return refuse(notFound, "no queue '%s' in vhost '/'", a.queue)
	case q != nil:
		if _, err := ch.queue(a.queue); err != nil {
			return err
		}
		if passive {
			break
		}
		if exclusive != (q.owner != nil) {
			return refuse(resourceLocked, "queue '%s' in vhost '/' is declared with another value of exclusive", q.name)
		}
		if err := q.assertSame(durable, autoDelete, a.table); err != nil {
			return err
		}
	case strings.HasPrefix(a.queue, "amq."):
		return refuse(accessRefused, "queue name '%s' contains reserved prefix 'amq.*'", a.queue)
	default:
		if q, err = newQueue(cmp.Or(a.queue, "amq.gen-"+rand.Text()), a.table, now); err != nil {
			return err
		}
		q.durable, q.autoDelete = durable, autoDelete
		if exclusive {
			q.owner = ch.conn
		}
		b.queues[q.name] = q
	}
	q.idleSince = now
	ch.lastQueue = q.name
	ch.answer(noWait, queueDeclareOk, q.name, uint32(len(q.ready)), uint32(len(q.consumers)))
	return nil
}

func (ch *channel) queuePurge(a arguments) error {
	q, err := ch.queue(a.queue)
	if err != nil {
		return err
	}
	ch.answer(a.bits[0], queuePurgeOk, uint32(len(q.ready)))
	q.ready, q.bytes = nil, 0
	return nil
}

func (ch *channel) queueDelete(a arguments) error {
	ifUnused, ifEmpty, noWait := a.bits[0], a.bits[1], a.bits[2]
	b := ch.conn.broker
	ready := uint32(0)
	if b.queues[cmp.Or(a.queue, ch.lastQueue)] != nil { // what is not there is as good as deleted
		q, err := ch.queue(a.queue)
		if err != nil {
			return err
		}
		if ifUnused && len(q.consumers) > 0 {
			return refuse(preconditionFailed, "queue '%s' in vhost '/' in use", q.name)
		}
		if ifEmpty && len(q.ready) > 0 {
			return refuse(preconditionFailed, "queue '%s' in vhost '/' not empty", q.name)
		}
		ready = uint32(len(q.ready))
		b.deleteQueue(q)
	}
	ch.answer(noWait, queueDeleteOk, ready)
	return nil
}

// basicQos follows RabbitMQ, not the specification: with global set the limit is the channel's, without it
// each later consumer's own.
func (ch *channel) basicQos(a arguments, now time.Time) error {
	if a.size != 0 {
		return refuse(notImplemented, "prefetch_size!=0 (%d)", a.size)
	}
	if global := a.bits[0]; global {
		ch.prefetch = int(a.count)
	} else {
		ch.consumerPrefetch = int(a.count)
	}
	ch.send(basicQosOk)
	ch.advance(now)
	return nil
}

func (ch *channel) basicConsume(a arguments, now time.Time) error {
	noAck, exclusive, noWait := a.bits[1], a.bits[2], a.bits[3] // the first is no-local, which RabbitMQ ignores too
	q, err := ch.queue(a.queue)
	if err != nil {
		return err
	}
	tag := cmp.Or(a.consumer, "amq.ctag-"+rand.Text())
	if ch.consumers[tag] != nil {
		return refuse(notAllowed, "attempt to reuse consumer tag '%s'", tag)
	}
	if len(q.consumers) > 0 && (exclusive || q.consumers[0].exclusive) {
		return refuse(accessRefused, "queue '%s' in vhost '/' in exclusive use", q.name)
	}
	c := &consumer{tag: tag, channel: ch, queue: q, noAck: noAck, exclusive: exclusive, prefetch: ch.consumerPrefetch}
	ch.consumers[tag] = c
	q.consumers = append(q.consumers, c)
	ch.answer(noWait, basicConsumeOk, tag)
	ch.conn.broker.advance(q, now)
	return nil
}

func (ch *channel) basicGet(a arguments, now time.Time) error {
	q, err := ch.queue(a.queue)
	if err != nil {
		return err
	}
	q.idleSince = now
	ch.conn.broker.advance(q, now) // what has expired is not for us
	if len(q.ready) == 0 {
		ch.send(basicGetEmpty, "")
		return nil
	}
	e := q.pop()
	ch.lastTag++
	ch.conn.sendContent(ch.id, e.msg, basicGetOk, ch.lastTag, e.redelivered, e.msg.exchange, e.msg.key, uint32(len(q.ready)))
	if noAck := a.bits[0]; !noAck {
		ch.hold(e)
	}
	return nil
}
