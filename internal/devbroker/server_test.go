package devbroker

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	amqp "github.com/rabbitmq/amqp091-go"
)

// What only the embedded broker promises, or what would be unkind to do to a shared one.

func TestURL(t *testing.T) {
	t.Parallel()
	s := listen(t)
	if !strings.HasPrefix(s.URL(), "amqp://guest:guest@127.0.0.1:") || !strings.HasSuffix(s.URL(), "//") {
		t.Errorf("URL: got %s, want amqp://guest:guest@127.0.0.1:PORT//", s.URL())
	}
	uri, err := amqp.ParseURI(s.URL())
	if err != nil || uri.Vhost != "/" {
		t.Errorf("amqp091-go reads %s as vhost %q, %v; want /", s.URL(), uri.Vhost, err)
	}
	conn, err := amqp.DialConfig(s.URL(), amqp.Config{SASL: []amqp.Authentication{&amqp.PlainAuth{Username: "anybody", Password: "anything"}}})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestStats(t *testing.T) {
	t.Parallel()
	s := listen(t)
	b := newBench(t, s.URL())
	q := b.queue("q", nil)
	b.publish("", q, "1", "2", "3")
	if _, _, err := b.ch.Get(q, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Stats{Queues: 1, Messages: 2, Unacked: 1, Connections: 1}, s.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	b.conn.Close()
	want := Stats{Queues: 1, Messages: 3}
	waitFor(t, "the connection to be gone", func() bool { return s.Stats() == want })
}

func TestCloseTellsClients(t *testing.T) {
	t.Parallel()
	s := listen(t)
	conn, err := amqp.Dial(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	deaf := dialRaw(t, s.URL()) // will not answer
	connectRaw(t, s.URL())      // will not even begin
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := receive(t, closed, "the reason"); err.Code != int(connectionForced.code) {
		t.Errorf("got %v, want code %d", err, connectionForced.code)
	}
	if code := deaf.want(0, connectionClose).uint16(); code != connectionForced.code {
		t.Errorf("got code %d, want %d", code, connectionForced.code)
	}
	deaf.wantEnd()
}

// TestCloseWhileConnecting closes the broker under clients that are just arriving: none may keep it from ending.
func TestCloseWhileConnecting(t *testing.T) {
	t.Parallel()
	for range 10 {
		s := listen(t)
		var dialing sync.WaitGroup
		for range 8 {
			dialing.Go(func() {
				if nc, err := net.Dial("tcp", s.listener.Addr().String()); err == nil {
					nc.Write([]byte(protocolHeader))
					io.Copy(io.Discard, nc) // ends with the connection
					nc.Close()
				}
			})
		}
		s.Close()
		dialing.Wait()
	}
}

// TestMalformed sends what no client may, or what only RabbitMQ can do. Each time the connection must be closed with the code, and the
// broker go on.
func TestMalformed(t *testing.T) {
	t.Parallel()
	s := listen(t)
	method := func(id methodID, args ...any) []byte { return appendMethod(nil, 1, id, args...) }
	publish := method(basicPublish, uint16(0), "", "q", uint8(0))
	header := func(class byte, size byte) []byte {
		return appendFrame(nil, frameHeader, 1, []byte{0, class, 0, 0, 0, 0, 0, 0, 0, 0, 0, size, 0, 0})
	}
	body := appendFrame(nil, frameBody, 1, []byte("ab"))
	for _, c := range []struct {
		name string
		send []byte
		want reply
	}{
		{"frame type", []byte{7, 0, 1, 0, 0, 0, 0, frameEnd}, unexpectedFrame},
		{"frame end", []byte{frameMethod, 0, 1, 0, 0, 0, 0, 0}, frameError},
		{"frame size", []byte{frameMethod, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF}, frameError},
		{"frame just too large", []byte{frameMethod, 0, 1, 0, 1, 0xFF, 0xF9}, frameError},
		{"method without id", appendFrame(nil, frameMethod, 1, []byte{0, 60}), syntaxError},
		{"method cut off", appendFrame(nil, frameMethod, 1, []byte{0, 50, 0, 10, 0, 0, 200, 'q'}), syntaxError},
		{"method with more behind", method(basicGet, uint16(0), "q", uint8(0), "more"), syntaxError},
		{"table longer than frame", method(queueDeclare, uint16(0), "q", uint8(0), uint32(9)), syntaxError},
		{"table field type", method(queueDeclare, uint16(0), "q", uint8(0), table{{"x", value{'?', ""}}}), syntaxError},
		{"unknown method", method(60<<16 | 999), notImplemented},
		{"unknown class", method(1 << 16), notImplemented},
		{"tx", method(90<<16 | 10), notImplemented},
		{"connection method on a channel", method(connectionTuneOk), notImplemented},
		{"handshake again", appendMethod(nil, 0, connectionOpen, "/", "", uint8(0)), commandInvalid},
		{"body without publish", body, unexpectedFrame},
		{"header without publish", header(classBasic, 2), unexpectedFrame},
		{"body without header", append(publish[:len(publish):len(publish)], body...), unexpectedFrame},
		{"method instead of header", append(publish[:len(publish):len(publish)], publish...), unexpectedFrame},
		{"header of another class", append(publish[:len(publish):len(publish)], header(50, 2)...), unexpectedFrame},
		{"body too long", bytes.Join([][]byte{publish, header(classBasic, 1), body}, nil), frameError},
		{"header cut off", append(publish[:len(publish):len(publish)], appendFrame(nil, frameHeader, 1, []byte{0, 60, 0})...), syntaxError},
		{"properties cut off", bytes.Join([][]byte{publish, appendFrame(nil, frameHeader, 1, []byte{0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 9}), nil}, nil), syntaxError},
		{"content on channel 0", appendFrame(nil, frameBody, 0, []byte("ab")), unexpectedFrame},
		{"channel not open", appendMethod(nil, 2, basicQos, uint32(0), uint16(0), false), channelError},
		{"channel opened twice", method(channelOpen, ""), notImplemented},
		{"headers exchange", method(exchangeDeclare, uint16(0), "x", "headers", uint8(0), table{}), notImplemented},
		{"internal exchange", method(exchangeDeclare, uint16(0), "x", "fanout", uint8(1<<3), table{}), notImplemented},
		{"exchange.delete if-unused", method(exchangeDelete, uint16(0), "x", uint8(1)), notImplemented},
		{"exchange.unbind", method(40<<16|40, uint16(0), "x", "amq.topic", "#", uint8(0), table{}), notImplemented},
		{"queue.unbind", method(50<<16|50, uint16(0), "q", "amq.topic", "#", table{}), notImplemented},
		{"queue.delete if-unused", method(queueDelete, uint16(0), "q", uint8(1)), notImplemented},
		{"queue.delete if-empty", method(queueDelete, uint16(0), "q", uint8(2)), notImplemented},
		{"x-overflow", method(queueDeclare, uint16(0), "q", uint8(0), table{{"x-overflow", textValue("reject-publish")}}), notImplemented},
		{"x-max-length-bytes", method(queueDeclare, uint16(0), "q", uint8(0), table{{"x-max-length-bytes", integerValue(1)}}), notImplemented},
		{"stream", method(queueDeclare, uint16(0), "q", uint8(0), table{{"x-queue-type", textValue("stream")}}), notImplemented},
		{"basic.recover", method(60<<16|110, true), notImplemented},
		{"channel.flow", method(20<<16|20, false), notImplemented},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := dialRaw(t, s.URL())
			p.open(1)
			p.write(c.send)
			p.wantClosed(c.want)
		})
	}
}

func TestHandshakeRefused(t *testing.T) {
	t.Parallel()
	s := listen(t)

	p := connectRaw(t, s.URL())
	p.write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if got, err := io.ReadAll(p); string(got) != protocolHeader {
		t.Errorf("answer to another protocol: got %q, %v, want the protocol header", got, err)
	}
	start := func() *peer {
		p := connectRaw(t, s.URL())
		p.write([]byte(protocolHeader))
		p.want(0, connectionStart)
		return p
	}
	for _, c := range []struct {
		mechanism, response string
		want                reply
	}{
		{"EXTERNAL", "", notImplemented},
		{"AMQPLAIN", "\x05LOGINS\x00\x00\x00\x05guest", notImplemented},
	} {
		p := start()
		p.method(0, connectionStartOk, table{}, c.mechanism, longstr(c.response), "en_US")
		p.wantClosed(c.want)
	}
	for _, frames := range []uint32{0, frameMaxMin - 1, frameMaxMax + 1} {
		p := start()
		p.method(0, connectionStartOk, table{}, "PLAIN", longstr("\x00guest\x00guest"), "en_US")
		p.want(0, connectionTune)
		p.method(0, connectionTuneOk, uint16(1), frames, uint16(0))
		p.wantClosed(notAllowed)
	}
	p = start()
	p.method(0, connectionOpen, "/", "", uint8(0))
	p.wantClosed(commandInvalid)
}

func TestBodyTooLarge(t *testing.T) {
	t.Parallel()
	p := dialRaw(t, listen(t).URL())
	p.open(1)
	p.method(1, basicPublish, uint16(0), "", "q", uint8(0))
	p.header(1, maxBodyBytes+1, "\x00\x00")
	p.write(appendFrame(nil, frameBody, 1, []byte("on its way"))) // is ignored
	if code := p.want(1, channelClose).uint16(); code != preconditionFailed.code {
		t.Errorf("got code %d, want %d", code, preconditionFailed.code)
	}
	p.method(1, channelCloseOk)
	p.open(1)
}

// TestFrameMax negotiates small frames: both the frames sent and those taken keep to it.
func TestFrameMax(t *testing.T) {
	t.Parallel()
	s := listen(t)
	conn, err := amqp.DialConfig(s.URL(), amqp.Config{FrameSize: frameMaxMin})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := newBench(t, s.URL())
	ch := b.channel(conn)
	q, body := b.queue("q", nil), bytes.Repeat([]byte("x"), 3*frameMaxMin)
	b.must(ch.Publish("", q, false, false, amqp.Publishing{Body: body}))
	if d := b.next(b.consume(ch, q)); !bytes.Equal(d.Body, body) { // amqp091-go refuses larger frames
		t.Errorf("got %d bytes, want %d", len(d.Body), len(body))
	}
}

// TestContentIsNotParted has messages delivered while the channel is asked things: no answer may come between
// a delivery's frames.
func TestContentIsNotParted(t *testing.T) {
	t.Parallel()
	s := listen(t)
	b := newBench(t, s.URL())
	q := b.queue("q", nil)
	p := dialRaw(t, s.URL())
	p.open(1)
	p.method(1, basicConsume, uint16(0), q, "tag", uint8(2), table{}) // bit 1: no-ack
	const messages, frames = 50, 3
	body := make([]byte, 2*(frameMaxMax-frameOverhead)+1)
	go func() {
		for range messages {
			p.Write(appendMethod(nil, 1, basicQos, uint32(0), uint16(10), false))
		}
	}()
	go func() {
		for range messages {
			b.ch.Publish("", q, false, false, amqp.Publishing{Body: body})
		}
	}()
	p.want(1, basicConsumeOk)
	for delivered, answered := 0, 0; delivered < messages || answered < messages; {
		d := decoder{b: p.next().payload}
		switch id := methodID(d.uint32()); id {
		case basicQosOk:
			answered++
		case basicDeliver:
			delivered++
			if f := p.next(); f.kind != frameHeader {
				t.Fatalf("got frame of type %d, want the content header", f.kind)
			}
			for range frames {
				if f := p.next(); f.kind != frameBody {
					t.Fatalf("got frame of type %d, want a body frame", f.kind)
				}
			}
		default:
			t.Fatalf("got method %d.%d", id>>16, id&0xFFFF)
		}
	}
}
