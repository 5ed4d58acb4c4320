package devbroker

import (
	"encoding/binary"
	"slices"
	"strconv"
	"time"
)

// maxBodyBytes is the largest body taken, RabbitMQ's default as well.
const maxBodyBytes = 128 << 20

// message is a published message. It is shared by the queues that hold it and never changed.
type message struct {
	exchange   string
	key        string
	header     []byte // the property flags and properties as they came
	body       []byte
	priority   uint8
	expiration time.Duration // negative: none
}

// properties holds the encoded value of each property, nil where absent, in the order of the flags from
// bit 15 down (AMQP 0-9-1, class basic).
type properties [14][]byte

const (
	propHeaders    = 2
	propPriority   = 4
	propExpiration = 7
)

// propertyKinds: s short string, F table, o octet, T timestamp.
const propertyKinds = "ssFoossssTssss"

// properties takes all that is left: the flags and the properties they announce.
func (d *decoder) properties() (p properties) {
	flags := d.uint16()
	if flags&3 != 0 {
		d.fail("property flags %#x name properties that do not exist", flags)
	}
	for i, kind := range []byte(propertyKinds) {
		if flags&(1<<(15-i)) == 0 {
			continue
		}
		rest := d.b
		switch kind {
		case 's':
			d.shortstr()
		case 'o':
			d.take(1)
		case 'T':
			d.take(8)
		case 'F':
			d.table() // only whether it is well-formed
		}
		if d.err != nil {
			return properties{}
		}
		p[i] = rest[:len(rest)-len(d.b)]
	}
	return p
}

func (p *properties) shortstr(i int) string {
	return string(p[i][min(1, len(p[i])):])
}

func (p *properties) headers() table {
	d := decoder{b: p[propHeaders]}
	if d.b == nil {
		return nil
	}
	return d.table()
}

func (p *properties) encode() []byte {
	b := []byte{0, 0}
	flags := uint16(0)
	for i, v := range p {
		if v != nil {
			flags |= 1 << (15 - i)
			b = append(b, v...)
		}
	}
	binary.BigEndian.PutUint16(b, flags)
	return b
}

// newMessage makes a message of a content header's properties (the header frame's payload without its first
// 12 octets). It copies header and keeps body.
func newMessage(exchange, key string, header, body []byte) (*message, error) {
	d := decoder{b: header}
	p := d.properties()
	if err := d.end(); err != nil {
		return nil, err
	}
	m := &message{exchange: exchange, key: key, header: slices.Clone(header), body: body, expiration: -1}
	if v := p[propPriority]; v != nil {
		m.priority = v[0]
	}
	if p[propExpiration] != nil {
		ms, err := strconv.ParseUint(p.shortstr(propExpiration), 10, 63)
		if err != nil || ms > maxMilliseconds {
			return nil, refuse(preconditionFailed, "invalid expiration '%s': want an integer from 0 to %d", p.shortstr(propExpiration), int64(maxMilliseconds))
		}
		m.expiration = time.Duration(ms) * time.Millisecond
	}
	return m, nil
}

// properties of a message that newMessage has accepted.
func (m *message) properties() properties {
	d := decoder{b: m.header}
	return d.properties()
}

// Reasons for dead-lettering, as they stand in x-death.
const (
	reasonRejected = "rejected"
	reasonExpired  = "expired"
	reasonMaxLen   = "maxlen"
)

// died returns the message to be published to a dead-letter exchange: without its expiration, and with this
// death at the front of its x-death header. Deaths in the same queue for the same reason are counted in one
// entry. Layout follows RabbitMQ 3.10 (rabbitmq.com/docs/dlx, "Effects on Messages").
func (m *message) died(reason, queue, exchange, key string, now time.Time) *message {
	p := m.properties()
	headers := p.headers()
	death := table{
		{"count", integerValue(1)},
		{"reason", textValue(reason)},
		{"queue", textValue(queue)},
		{"time", timeValue(now.Unix())},
		{"exchange", textValue(m.exchange)},
		{"routing-keys", arrayValue([]value{textValue(m.key)})},
	}
	deaths := headers.get("x-death").array()
	var others []value
	for _, d := range deaths {
		if t := d.table(); t.get("queue").text() == queue && t.get("reason").text() == reason {
			n, _ := t.get("count").integer()
			death = t.with("count", integerValue(n+1))
		} else {
			others = append(others, d)
		}
	}
	headers = headers.with("x-death", arrayValue(append([]value{tableValue(death)}, others...)))
	p[propHeaders] = appendTable(nil, headers)
	p[propExpiration] = nil
	return &message{exchange: exchange, key: key, header: p.encode(), body: m.body, priority: m.priority, expiration: -1}
}

// cycles tells whether delivering m, dead-lettered for the reason, to the queue closes a circle in which no
// client ever rejected it. RabbitMQ drops such messages, and so do we: they would go round for ever.
func (m *message) cycles(reason, queue string) bool {
	if reason == reasonRejected {
		return false
	}
	p := m.properties()
	for _, d := range p.headers().get("x-death").array() {
		t := d.table()
		if t.get("reason").text() == reasonRejected {
			return false
		}
		if t.get("queue").text() == queue {
			return true
		}
	}
	return false
}
