package devbroker

import (
	"bufio"
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// peer is a client that sends what the test says, right or wrong, where amqp091-go would do it properly.
type peer struct {
	t testing.TB
	net.Conn
	frames frameReader
}

// dialRaw returns a peer after a proper handshake, without heartbeats.
func dialRaw(t testing.TB, url string) *peer {
	t.Helper()
	return handshakeRaw(t, url, "/", 0)
}

func dialRawVhost(t testing.TB, url, vhost string) *peer {
	t.Helper()
	return handshakeRaw(t, url, vhost, 0)
}

func dialRawHeartbeat(t testing.TB, url string, seconds uint16) *peer {
	t.Helper()
	return handshakeRaw(t, url, "/", seconds)
}

// connectRaw returns a peer that has said nothing yet.
func connectRaw(t testing.TB, url string) *peer {
	t.Helper()
	uri, err := amqp.ParseURI(url)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return &peer{t: t, Conn: nc, frames: frameReader{r: bufio.NewReader(nc), max: frameMaxMax}}
}

func handshakeRaw(t testing.TB, url, vhost string, heartbeat uint16) *peer {
	t.Helper()
	uri, err := amqp.ParseURI(url)
	if err != nil {
		t.Fatal(err)
	}
	p := connectRaw(t, url)
	p.write([]byte(protocolHeader))
	p.want(0, connectionStart)
	p.method(0, connectionStartOk, table{}, "PLAIN", longstr("\x00"+uri.Username+"\x00"+uri.Password), "en_US")
	p.want(0, connectionTune)
	p.method(0, connectionTuneOk, uint16(channelMax), uint32(frameMaxMax), heartbeat)
	p.method(0, connectionOpen, vhost, "", uint8(0))
	if vhost == "/" {
		p.want(0, connectionOpenOk)
	}
	return p
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) method(channel uint16, id methodID, args ...any) {
	p.t.Helper()
	p.write(appendMethod(nil, channel, id, args...))
}

func (p *peer) open(channel uint16) {
	p.t.Helper()
	p.method(channel, channelOpen, "")
	p.want(channel, channelOpenOk)
}

func (p *peer) next() frame {
	p.t.Helper()
	f, err := p.frames.next()
	if err != nil {
		p.t.Fatalf("read frame: %v", err)
	}
	return f
}

// want reads the method that must come next, heartbeats aside, and returns its fields.
func (p *peer) want(channel uint16, id methodID) *decoder {
	p.t.Helper()
	f := p.next()
	for f.kind == frameHeartbeat {
		f = p.next()
	}
	d := &decoder{b: f.payload}
	if got := methodID(d.uint32()); f.kind != frameMethod || f.channel != channel || got != id {
		p.t.Fatalf("got frame of type %d on channel %d, method %d.%d %q; want method %d.%d on channel %d",
			f.kind, f.channel, got>>16, got&0xFFFF, d.b, id>>16, id&0xFFFF, channel)
	}
	return d
}

// wantClosed wants connection.close with the code next, agrees, and wants the connection to end.
func (p *peer) wantClosed(want reply) {
	p.t.Helper()
	d := p.want(0, connectionClose)
	if got, text := d.uint16(), d.shortstr(); got != want.code {
		p.t.Errorf("got %d %s, want %d", got, text, want.code)
	}
	p.Write(appendMethod(nil, 0, connectionCloseOk)) // the broker may not wait for it
	p.wantEnd()
}

// wantEnd wants nothing more and the connection to end.
func (p *peer) wantEnd() {
	p.t.Helper()
	f, err := p.frames.next()
	var ne net.Error
	if err == nil {
		p.t.Errorf("got frame %+v, want the connection to end", f)
	} else if errors.As(err, &ne) && ne.Timeout() {
		p.t.Error("the connection has not ended")
	}
}

// publish sends a message in three frames; bits are basic.publish's.
func (p *peer) publish(channel uint16, exchange, key string, bits uint8, body string) {
	p.t.Helper()
	p.method(channel, basicPublish, uint16(0), exchange, key, bits)
	p.header(channel, uint64(len(body)), "\x00\x00")
	p.write(appendFrame(nil, frameBody, channel, []byte(body)))
}

// wantDelivery reads a delivery whose body is one frame.
func (p *peer) wantDelivery(channel uint16, body string, redelivered bool) {
	p.t.Helper()
	d := p.want(channel, basicDeliver)
	_, _, again := d.shortstr(), d.uint64(), d.bits()[0]
	p.next()
	if f := p.next(); f.kind != frameBody || string(f.payload) != body || again != redelivered {
		p.t.Errorf("delivery: got frame of type %d, %q, redelivered %t; want body %q, %t", f.kind, f.payload, again, body, redelivered)
	}
}

// header sends a content header with encoded properties.
func (p *peer) header(channel uint16, size uint64, properties string) {
	p.t.Helper()
	start := []byte{0, classBasic, 0, 0}
	for i := 7; i >= 0; i-- {
		start = append(start, byte(size>>(8*i)))
	}
	p.write(appendFrame(nil, frameHeader, channel, append(start, properties...)))
}
