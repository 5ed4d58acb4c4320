package devbroker

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"
)

// channel is one channel of a connection. broker.mu guards it.
type channel struct {
	conn      *conn
	id        uint16
	consumers map[string]*consumer
	unacked   []*entry // by ascending delivery tag
	lastTag   uint64
	delivered int // of the unacked, those that consumers got

	prefetch         int // for all consumers together (basic.qos with global set); 0: no limit
	consumerPrefetch int // for each consumer to come (without global)

	confirms  bool
	published uint64      // since confirms were asked for
	content   *publishing // the basic.publish whose content is on its way
	closing   bool        // we closed it and wait for close-ok; nothing else counts
}

// publishing is a basic.publish until its content is complete.
type publishing struct {
	exchange, key string
	mandatory     bool
	header        []byte // the property flags and properties; nil until the content header is there
	size          uint64
	body          []byte
}

func (ch *channel) send(id methodID, args ...any) { ch.conn.send(ch.id, id, args...) }

// frame carries out a frame of this channel. A *protocolError is to be told to the client.
func (ch *channel) frame(f frame, now time.Time) error {
	p := ch.content
	switch {
	case f.kind == frameMethod && p == nil:
		id, a, err := decodeMethod(f.payload)
		if err != nil {
			return err
		}
		return ch.method(id, a, now)
	case f.kind == frameHeader && p != nil && p.header == nil:
		d := &decoder{b: f.payload}
		class, _, size := d.uint16(), d.uint16(), d.uint64()
		if d.err != nil {
			return d.err
		}
		if class != classBasic {
			return refuse(unexpectedFrame, "content header for class %d instead of %d", class, classBasic)
		}
		if size > maxBodyBytes {
			return refuse(preconditionFailed, "message size %d is larger than configured max size %d", size, maxBodyBytes)
		}
		p.header, p.size = append([]byte{}, d.b...), size
	case f.kind == frameBody && p != nil && p.header != nil:
		if uint64(len(p.body)+len(f.payload)) > p.size {
			return refuse(frameError, "content body is longer than the %d octets announced", p.size)
		}
		p.body = append(p.body, f.payload...)
	default:
		return refuse(unexpectedFrame, "frame of type %d out of place on channel %d", f.kind, ch.id)
	}
	if uint64(len(p.body)) < p.size {
		return nil
	}
	ch.content = nil
	return ch.publish(p, now)
}

// publish routes a message whose content is complete, and returns and confirms it as asked.
func (ch *channel) publish(p *publishing, now time.Time) error {
	b := ch.conn.broker
	x, err := b.exchange(p.exchange)
	if err != nil {
		return err
	}
	m, err := newMessage(p.exchange, p.key, p.header, p.body)
	if err != nil {
		return err
	}
	queues := b.route(x, m)
	for _, q := range queues {
		b.enqueue(q, m, now)
	}
	if len(queues) == 0 && p.mandatory {
		ch.conn.sendContent(ch.id, m, basicReturn, noRoute.code, noRoute.name, m.exchange, m.key)
	}
	if ch.confirms {
		ch.published++
		ch.send(basicAck, ch.published, false)
	}
	return nil
}

// deliver sends e, which its queue has given up, to the consumer.
func (ch *channel) deliver(c *consumer, e *entry) {
	ch.lastTag++
	ch.conn.sendContent(ch.id, e.msg, basicDeliver, c.tag, ch.lastTag, e.redelivered, e.msg.exchange, e.msg.key)
	if !c.noAck {
		e.consumer = c
		c.unacked++
		ch.delivered++
		ch.hold(e)
	}
}

// hold keeps e, sent with lastTag, until it is acknowledged.
func (ch *channel) hold(e *entry) {
	e.tag = ch.lastTag
	e.queue.unacked++
	ch.unacked = append(ch.unacked, e)
}

// take removes the entry with the delivery tag, or with multiple also all before it, from those
// unacknowledged. Tag 0 with multiple takes all there are.
func (ch *channel) take(tag uint64, multiple bool) ([]*entry, error) {
	from, to := 0, len(ch.unacked)
	if tag != 0 || !multiple {
		i, found := slices.BinarySearchFunc(ch.unacked, tag, func(e *entry, tag uint64) int {
			return cmp.Compare(e.tag, tag)
		})
		if !found {
			return nil, refuse(preconditionFailed, "unknown delivery tag %d", tag)
		}
		to = i + 1
		if !multiple {
			from = i
		}
	}
	taken := slices.Clone(ch.unacked[from:to])
	ch.unacked = slices.Delete(ch.unacked, from, to)
	for _, e := range taken {
		e.queue.unacked--
		if e.consumer != nil {
			e.consumer.unacked--
			ch.delivered--
		}
	}
	return taken, nil
}

// reject requeues what take returns for tag and multiple, or dead-letters it.
func (ch *channel) reject(tag uint64, multiple, requeue bool, now time.Time) error {
	taken, err := ch.take(tag, multiple)
	if err != nil {
		return err
	}
	b := ch.conn.broker
	if requeue {
		b.requeue(taken, now)
	} else {
		for _, e := range taken {
			b.deadLetter(e.queue, e.msg, reasonRejected, now)
		}
	}
	ch.advance(now)
	return nil
}

// advance delivers what this channel's consumers can take now.
func (ch *channel) advance(now time.Time) {
	for _, c := range ch.consumers {
		if len(c.queue.ready) > 0 {
			ch.conn.broker.advance(c.queue, now)
		}
	}
}

// abandon ends the consumers and returns what was not acknowledged, to be requeued.
func (ch *channel) abandon(now time.Time) []*entry {
	ch.content = nil
	for _, c := range ch.consumers {
		ch.conn.broker.removeConsumer(c, now)
	}
	unacked, _ := ch.take(0, true)
	return unacked
}

// fail closes the channel for the client's fault.
func (ch *channel) fail(pe *protocolError, now time.Time) {
	ch.closing = true
	ch.conn.broker.requeue(ch.abandon(now), now)
	ch.send(channelClose, pe.code, pe.Error(), uint32(pe.method))
}

// appendContent writes a method with a message as its content: the method frame, the content header, and
// body frames of at most frameMax octets. They must not be parted by other frames of the channel.
func appendContent(b []byte, channel uint16, frameMax int, m *message, id methodID, args ...any) []byte {
	b = appendMethod(b, channel, id, args...)
	start := len(b)
	b = beginFrame(b, frameHeader, channel)
	b = binary.BigEndian.AppendUint16(b, classBasic)
	b = binary.BigEndian.AppendUint16(b, 0) // weight, unused
	b = binary.BigEndian.AppendUint64(b, uint64(len(m.body)))
	b = append(b, m.header...)
	b = endFrame(b, start)
	for part := range slices.Chunk(m.body, frameMax-frameOverhead) {
		b = appendFrame(b, frameBody, channel, part)
	}
	return b
}
