package devbroker

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// celeryHeaders are headers as a Celery producer sends them.
var celeryHeaders = table{
	{"lang", textValue("py")},
	{"task", textValue("image.analyze")},
	{"id", textValue("a3b9a1f4-8f3e-4f5c-9a53-4a5a6c1f0d11")},
	{"eta", value{kind: 'V'}},
	{"timelimit", arrayValue([]value{{kind: 'V'}, {kind: 'V'}})},
	{"retries", value{'I', "\x00\x00\x00\x00"}},
	{"ignore_result", boolValue(false)},
	{"stamps", tableValue(table{{"n", value{'L', "\x00\x00\x01\x00\x00\x00\x00\x00"}}})},
}

func FuzzFrameReader(f *testing.F) {
	f.Add(appendMethod(nil, 1, queueDeclare, uint16(0), "q", uint8(0), celeryHeaders), uint32(frameMaxMax))
	f.Add(appendContent(nil, 1, frameMaxMin, &message{header: []byte{0, 0}, body: make([]byte, 2*frameMaxMin)}, basicReturn), uint32(frameMaxMin))
	f.Add(appendFrame(nil, frameHeartbeat, 0, nil), uint32(frameMaxMin))
	f.Add([]byte{1, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0}, uint32(frameMaxMax))
	f.Add([]byte{1, 0, 1, 0, 0, 0, 1, 0, 0}, uint32(frameMaxMax))
	f.Fuzz(func(t *testing.T, in []byte, size uint32) {
		fr := frameReader{r: bufio.NewReader(bytes.NewReader(in)), max: int(min(max(size, frameMaxMin), frameMaxMax))}
		var again []byte
		for {
			fm, err := fr.next()
			var pe *protocolError
			if errors.As(err, &pe) {
				if pe.reply != frameError {
					t.Errorf("got %v, want code %d", pe, frameError.code)
				}
				break
			}
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF {
					t.Errorf("got %v, want the end of the input", err)
				}
				break
			}
			if len(fm.payload) > fr.max-frameOverhead {
				t.Errorf("got a payload of %d octets, more than fits %d", len(fm.payload), fr.max)
			}
			again = appendFrame(again, fm.kind, fm.channel, fm.payload)
		}
		if !bytes.HasPrefix(in, again) {
			t.Error("frames written again are not what was read")
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add(appendTable(nil, celeryHeaders))
	f.Add(appendTable(nil, table{{"", arrayValue([]value{tableValue(table{{"x", arrayValue(nil)}})})}}))
	m := &message{header: []byte{0, 0}}
	f.Add(func() []byte {
		p := m.died(reasonExpired, "q", "x", "k", time.Unix(0, 0)).properties()
		return p[propHeaders]
	}())
	f.Add([]byte{0, 0, 0, 6, 1, 'x', 'F', 0, 0, 0})
	f.Add([]byte{0xFF, 0xFF, 0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, in []byte) {
		d := decoder{b: in}
		got := d.table()
		if d.err != nil {
			if d.err.reply != syntaxError {
				t.Errorf("got %v, want code %d", d.err, syntaxError.code)
			}
			return
		}
		if again := append(appendTable(nil, got), d.b...); !bytes.Equal(again, in) {
			t.Errorf("encoded again: got %x, want %x", again, in)
		}
		for _, fd := range got { // whatever was accepted can be looked into
			v := fd.value
			v.table().get("queue")
			v.array()
			_, _ = v.text(), v.String()
			v.integer()
		}
	})
}

func FuzzContentHeader(f *testing.F) {
	p := properties{propHeaders: appendTable(nil, celeryHeaders), propPriority: {9}, propExpiration: []byte("\x0560000")}
	f.Add(p.encode())
	f.Add([]byte{0xFF, 0xFC})
	f.Add([]byte{0, 1})
	m, err := newMessage("x", "k", p.encode(), nil)
	if err != nil {
		f.Fatal(err)
	}
	m = m.died(reasonRejected, "q", "dlx", "k", time.Unix(0, 0))
	f.Add(m.header)
	f.Add(m.died(reasonRejected, "q", "dlx", "k", time.Unix(0, 0)).header)
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := newMessage("x", "k", in, nil)
		if err != nil {
			var pe *protocolError
			if !errors.As(err, &pe) || pe.reply != syntaxError && pe.reply != preconditionFailed {
				t.Errorf("got %v, want a refusal", err)
			}
			return
		}
		p := m.properties()
		if again := p.encode(); !bytes.Equal(again, in) {
			t.Errorf("encoded again: got %x, want %x", again, in)
		}
		// Whatever was accepted can die, and what comes of it is sound and counts its deaths.
		m.cycles(reasonExpired, "q")
		for n := int64(1); n <= 2; n++ {
			if m, err = newMessage("dlx", "k", m.died(reasonRejected, "onceover.fuzz", "dlx", "k", time.Unix(0, 0)).header, nil); err != nil {
				t.Fatalf("dead letter: %v", err)
			}
			p := m.properties()
			got := p.headers().get("x-death").array()[0].table()
			if count, _ := got.get("count").integer(); got.get("queue").text() != "onceover.fuzz" || n == 2 && count < 2 {
				t.Errorf("death %d: got %v", n, got)
			}
		}
	})
}

// FuzzMethods hands frames to a connection as they are: whatever a client sends must end in an answer or in a
// refusal by one of the specification's codes.
func FuzzMethods(f *testing.F) {
	open := appendMethod(nil, 1, channelOpen, "")
	add := func(frames ...[]byte) { f.Add(bytes.Join(append([][]byte{open}, frames...), nil)) }
	method := func(id methodID, args ...any) []byte { return appendMethod(nil, 1, id, args...) }
	declare := method(queueDeclare, uint16(0), "q", uint8(0), table{{"x-max-length", integerValue(1)},
		{"x-dead-letter-exchange", textValue("")}, {"x-dead-letter-routing-key", textValue("q2")}, {"x-message-ttl", integerValue(0)}})
	publish := appendContent(nil, 1, frameMaxMin, &message{header: []byte{0, 0}, body: []byte("m")}, basicPublish, uint16(0), "", "q", uint8(1))
	consume := method(basicConsume, uint16(0), "q", "tag", uint8(0), table{})
	add(declare, publish, publish, method(basicGet, uint16(0), "q", uint8(0)), method(basicNack, uint64(1), uint8(0)))
	add(declare, consume, publish, method(basicNack, uint64(1), uint8(3)), method(basicAck, uint64(0), uint8(1)))
	add(declare, consume, method(basicQos, uint32(0), uint16(1), true), method(basicCancel, "tag", uint8(0)), method(queueDelete, uint16(0), "q", uint8(0)))
	add(method(exchangeDeclare, uint16(0), "x", "topic", uint8(4), table{}), method(exchangeBind, uint16(0), "x", "amq.topic", "#", uint8(0), table{}),
		method(exchangeDelete, uint16(0), "x", uint8(0)))
	add(declare, method(queueBind, uint16(0), "q", "amq.fanout", "", uint8(0), table{}), method(confirmSelect, false), publish, method(queuePurge, uint16(0), "q", uint8(0)))
	add(method(channelClose, uint16(200), "", uint32(0)), appendMethod(nil, 0, connectionClose, uint16(200), "", uint32(0)))
	f.Fuzz(func(t *testing.T, in []byte) {
		b := newBroker()
		c := newConn(b, nil, zap.NewNop())
		fr := frameReader{r: bufio.NewReader(bytes.NewReader(in)), max: frameMaxMin}
		now := time.Unix(1_700_000_000, 0)
		for {
			fm, err := fr.next()
			if err != nil {
				break
			}
			b.mu.Lock()
			err = c.frame(fm, now)
			b.sweep(now)
			b.unlock()
			now = now.Add(time.Millisecond)
			var pe *protocolError
			if errors.As(err, &pe) && (!pe.closesConnection() || pe.name == "") {
				t.Fatalf("got %d %v, want a code that closes the connection", pe.code, pe)
			}
			if err != nil {
				break
			}
		}
		b.release(c)
		for name, q := range b.queues {
			if q.unacked != 0 || len(q.consumers) != 0 || q.owner != nil {
				t.Errorf("queue %q after its only client has gone: %d unacknowledged, %d consumers, exclusive %t", name, q.unacked, len(q.consumers), q.owner != nil)
			}
		}
	})
}

func FuzzTopicMatches(f *testing.F) {
	for _, s := range [][2]string{{"a.*.#", "a.b.c"}, {"#.#.a", "b.a.a"}, {"", ""}, {"*", ""}, {"#.a.#.b.#", "a.x.b.a"}, {"a..b", "a..b"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, key string) {
		if strings.Count(pattern, "#") > 6 || len(key) > 40 {
			return // the reference takes exponential time
		}
		if got, want := topicMatches(words(pattern), words(key)), slowMatch(words(pattern), words(key)); got != want {
			t.Errorf("pattern %q, key %q: got %t, want %t", pattern, key, got, want)
		}
	})
}

// slowMatch is the definition of topic matching, without a thought for speed.
func slowMatch(pattern, key []string) bool {
	if len(pattern) == 0 {
		return len(key) == 0
	}
	if pattern[0] == "#" {
		return slowMatch(pattern[1:], key) || len(key) > 0 && slowMatch(pattern, key[1:])
	}
	return len(key) > 0 && (pattern[0] == "*" || pattern[0] == key[0]) && slowMatch(pattern[1:], key[1:])
}

// TestTopicMatchesQuickly has a pattern that takes a naive matcher for ever.
func TestTopicMatchesQuickly(t *testing.T) {
	t.Parallel()
	pattern := strings.Repeat("#.a.", 25) + "b"
	key := strings.TrimSuffix(strings.Repeat("a.", 120), ".")
	done := make(chan bool, 1)
	go func() { done <- topicMatches(words(pattern), words(key)) }()
	if receive(t, done, "an answer") {
		t.Errorf("got a match, want none")
	}
}
