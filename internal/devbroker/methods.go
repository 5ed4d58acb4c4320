package devbroker

import (
	"cmp"
	"crypto/rand"
	"slices"
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
	channelClose, channelCloseOk methodID = 20<<16 | 40, 20<<16 | 41

	exchangeDeclare, exchangeDeclareOk methodID = 40<<16 | 10, 40<<16 | 11
	exchangeDelete, exchangeDeleteOk   methodID = 40<<16 | 20, 40<<16 | 21
	exchangeBind, exchangeBindOk       methodID = 40<<16 | 30, 40<<16 | 31

	queueDeclare, queueDeclareOk methodID = 50<<16 | 10, 50<<16 | 11
	queueBind, queueBindOk       methodID = 50<<16 | 20, 50<<16 | 21
	queuePurge, queuePurgeOk     methodID = 50<<16 | 30, 50<<16 | 31
	queueDelete, queueDeleteOk   methodID = 50<<16 | 40, 50<<16 | 41

	basicQos, basicQosOk             methodID = 60<<16 | 10, 60<<16 | 11
	basicConsume, basicConsumeOk     methodID = 60<<16 | 20, 60<<16 | 21
	basicCancel, basicCancelOk       methodID = 60<<16 | 30, 60<<16 | 31
	basicPublish, basicReturn        methodID = 60<<16 | 40, 60<<16 | 50
	basicDeliver, basicGet           methodID = 60<<16 | 60, 60<<16 | 70
	basicGetOk, basicGetEmpty        methodID = 60<<16 | 71, 60<<16 | 72
	basicAck, basicReject, basicNack methodID = 60<<16 | 80, 60<<16 | 90, 60<<16 | 120
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
	exchangeDeclare: "-xyba", exchangeDelete: "-xb", exchangeBind: "-dxkba",
	queueDeclare: "-qba", queueBind: "-qxkba", queuePurge: "-qb", queueDelete: "-qb",
	basicQos: "znb", basicConsume: "-qcba", basicCancel: "cb", basicCancelOk: "c", basicPublish: "-xkb", basicGet: "-qb",
	basicAck: "tb", basicReject: "tb", basicNack: "tb", confirmSelect: "b",
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
	case basicCancelOk: // the answer to what we sent without waiting
	case exchangeDeclare:
		return ch.exchangeDeclare(a)
	case exchangeDelete:
		return ch.exchangeDelete(a)
	case exchangeBind, queueBind:
		return ch.bind(id, a)
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
	x, err := b.exchange(a.exchange)
	switch {
	case passive && err != nil:
		return err
	case passive:
	case a.exchange == "":
		return errDefaultExchange()
	case internal:
		return refuse(notImplemented, "internal=true")
	case !slices.Contains([]string{"direct", "fanout", "topic"}, a.kind):
		return refuse(notImplemented, "exchange type '%s'", a.kind)
	case x == nil:
		b.exchanges[a.exchange] = &exchange{name: a.exchange, kind: a.kind, durable: durable, autoDelete: autoDelete}
	case a.kind != x.kind || durable != x.durable || autoDelete != x.autoDelete:
		return refuse(preconditionFailed, "inequivalent exchange '%s' in vhost '/': it is of type %s, durable %t, auto_delete %t",
			x.name, x.kind, x.durable, x.autoDelete)
	}
	ch.answer(noWait, exchangeDeclareOk)
	return nil
}

func errDefaultExchange() error {
	return refuse(accessRefused, "operation not permitted on the default exchange")
}

func (ch *channel) exchangeDelete(a arguments) error {
	ifUnused, noWait := a.bits[0], a.bits[1]
	switch x := ch.conn.broker.exchanges[a.exchange]; {
	case a.exchange == "":
		return errDefaultExchange()
	case ifUnused:
		return refuse(notImplemented, "if_unused=true")
	case x != nil: // what is not there is as good as deleted
		ch.conn.broker.deleteExchange(x)
	}
	ch.answer(noWait, exchangeDeleteOk)
	return nil
}

// bind binds a queue or an exchange to an exchange.
func (ch *channel) bind(id methodID, a arguments) error {
	b := ch.conn.broker
	x, err := b.exchange(a.exchange)
	if err != nil {
		return err
	}
	bd := &binding{key: a.key, pattern: words(a.key)}
	if id == queueBind {
		bd.queue, err = ch.queue(a.queue)
	} else {
		bd.to, err = b.exchange(a.destination)
	}
	if err != nil {
		return err
	}
	if defaultExchange := b.exchanges[""]; x == defaultExchange || bd.to == defaultExchange {
		return errDefaultExchange()
	}
	if !slices.ContainsFunc(x.bindings, bd.same) {
		x.bindings = append(x.bindings, bd)
	}
	ch.answer(a.bits[0], id+1)
	return nil
}

// queue finds a queue that the client may use.
func (ch *channel) queue(name string) (*queue, error) {
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
	case passive && q == nil:
		return refuse(notFound, "no queue '%s' in vhost '/'", a.queue)
	case q != nil:
		if _, err := ch.queue(a.queue); err != nil {
			return err
		}
		if passive {
			break
		}
		if err := q.assertSame(durable, exclusive, autoDelete, a.table); err != nil {
			return err
		}
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
	ch.answer(noWait, queueDeclareOk, q.name, uint32(len(q.ready)), uint32(len(q.consumers)))
	return nil
}

func (ch *channel) queuePurge(a arguments) error {
	q, err := ch.queue(a.queue)
	if err != nil {
		return err
	}
	ch.answer(a.bits[0], queuePurgeOk, uint32(len(q.ready)))
	q.ready = nil
	return nil
}

func (ch *channel) queueDelete(a arguments) error {
	ifUnused, ifEmpty, noWait := a.bits[0], a.bits[1], a.bits[2]
	b := ch.conn.broker
	if ifUnused || ifEmpty {
		return refuse(notImplemented, "if_unused=%t, if_empty=%t", ifUnused, ifEmpty)
	}
	ready := uint32(0)
	if b.queues[a.queue] != nil { // what is not there is as good as deleted
		q, err := ch.queue(a.queue)
		if err != nil {
			return err
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
