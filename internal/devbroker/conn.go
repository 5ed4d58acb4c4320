package devbroker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	protocolHeader   = "AMQP\x00\x00\x09\x01"
	channelMax       = 2047
	heartbeatSeconds = 60 // what we propose

	handshakeTimeout = 10 * time.Second
	closeTimeout     = 2 * time.Second // for a client to answer connection.close, and for the last octets to leave
)

// errEnded says that a connection has ended as it should.
var errEnded = errors.New("connection ended")

// conn is a client's connection: serve reads from it, write writes to it.
type conn struct {
	broker *broker
	log    *zap.Logger
	nc     net.Conn
	frames frameReader

	// Set by the handshake.
	frameMax int
	tick     time.Duration // half the heartbeat interval; 0: no heartbeats
	patience int           // a client that is silent for more ticks than this is gone

	channels map[uint16]*channel // guarded by broker.mu

	mu      sync.Mutex // may be locked with broker.mu held, not the other way round
	changed sync.Cond  // something below has changed
	out     []byte     // to be written
	ended   bool       // write ends once out is empty
	failed  bool       // write has given up; nothing more can be sent
	closing bool       // the deadlines are the last ones
}

func newConn(b *broker, nc net.Conn, log *zap.Logger) *conn {
	c := &conn{broker: b, log: log, nc: nc, frameMax: frameMaxMax, channels: make(map[uint16]*channel), tick: handshakeTimeout}
	c.changed.L = &c.mu
	c.frames = frameReader{r: bufio.NewReaderSize(&clientReader{c: c}, 64<<10), max: frameMaxMax}
	return c
}

// serve runs the connection to its end.
func (c *conn) serve() {
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	err := c.handshake()
	for err == nil {
		err = c.step()
	}
	c.broker.release(c)
	var pe *protocolError
	if errors.As(err, &pe) {
		c.log.Warn("connection closed for a protocol error", zap.Error(pe))
		c.close(pe)
		io.Copy(io.Discard, c.frames.r) // until the client has taken note and ends the connection
	} else {
		c.log.Debug("connection ended", zap.Error(err))
	}
	c.mu.Lock()
	c.ended = true
	c.lastDeadlines()
	c.changed.Broadcast()
	c.mu.Unlock()
	<-written
	c.nc.Close()
}

// clientReader reads from the connection, and sends the heartbeats: only here both directions' time is known.
type clientReader struct {
	c    *conn
	beat time.Time // of the last heartbeat sent
}

func (r *clientReader) Read(p []byte) (int, error) {
	c := r.c
	for silent := 0; ; silent++ {
		now := time.Now()
		if c.patience > 0 && now.Sub(r.beat) >= c.tick {
			r.beat = now
			c.append(func(b []byte) []byte { return appendFrame(b, frameHeartbeat, 0, nil) })
		}
		c.mu.Lock()
		last := c.closing
		if !last {
			var deadline time.Time
			if c.tick > 0 {
				deadline = now.Add(c.tick)
			}
			c.nc.SetReadDeadline(deadline)
		}
		c.mu.Unlock()
		n, err := c.nc.Read(p)
		if last || silent >= c.patience || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// handshake agrees with the client on the connection's parameters. What cannot be decoded reads as zero, and
// zero is refused where it matters.
func (c *conn) handshake() error {
	var header [len(protocolHeader)]byte
	if _, err := io.ReadFull(c.frames.r, header[:]); err != nil {
		return err
	}
	if string(header[:]) != protocolHeader {
		c.append(func(b []byte) []byte { return append(b, protocolHeader...) })
		return fmt.Errorf("protocol header %q", header)
	}
	// Clients go by product and version: kombu sets the global bit of basic.qos, and so can raise the prefetch
	// while consuming, for RabbitMQ 3.3 up to 3.x only.
	c.send(0, connectionStart, uint8(0), uint8(9), table{
		{"capabilities", tableValue(table{
			{"publisher_confirms", boolValue(true)},
			{"exchange_exchange_bindings", boolValue(true)},
			{"basic.nack", boolValue(true)},
			{"consumer_cancel_notify", boolValue(true)},
		})},
		{"product", textValue("RabbitMQ")},
		{"version", textValue("3.10.0")},
		{"platform", textValue("Onceover embedded broker")},
	}, longstr("PLAIN"), longstr("en_US"))

	d, err := c.expect(connectionStartOk)
	if err != nil {
		return err
	}
	_, mechanism, _, _ := d.table(), d.shortstr(), d.longstr(), d.shortstr()
	if mechanism != "PLAIN" { // with any name and password
		return refuse(notImplemented, "authentication mechanism '%s'", mechanism)
	}

	c.send(0, connectionTune, uint16(channelMax), uint32(frameMaxMax), uint16(heartbeatSeconds))
	if d, err = c.expect(connectionTuneOk); err != nil {
		return err
	}
	_, frames, seconds := d.uint16(), d.uint32(), d.uint16() // the first is channel-max
	if frames < frameMaxMin || frames > frameMaxMax {
		return refuse(notAllowed, "negotiated frame_max = %d is not between %d and %d", frames, frameMaxMin, frameMaxMax)
	}
	c.frameMax, c.frames.max = int(frames), int(frames)

	if d, err = c.expect(connectionOpen); err != nil {
		return err
	}
	vhost, _, _ := d.shortstr(), d.shortstr(), d.bits()
	if vhost != "/" {
		return refuse(notAllowed, "vhost %s not found; this broker has only /", vhost)
	}
	c.tick = time.Duration(seconds) * time.Second / 2
	if c.tick > 0 {
		c.patience = 3 // gone after two intervals, as the specification has it
	}
	c.send(0, connectionOpenOk, "")
	return nil
}

// expect reads the handshake's next method. Clients send no heartbeats before it is over.
func (c *conn) expect(id methodID) (*decoder, error) {
	f, err := c.frames.next()
	if err != nil {
		return nil, err
	}
	d := &decoder{b: f.payload}
	if got := methodID(d.uint32()); f.kind == frameMethod && f.channel == 0 && got == id {
		return d, nil
	}
	return nil, c.connectionMethod(f)
}

// step reads and carries out one frame.
func (c *conn) step() error {
	f, err := c.frames.next()
	if err != nil {
		return err
	}
	c.broker.mu.Lock()
	defer c.broker.unlock()
	return c.frame(f, time.Now())
}

// frame carries out a frame. broker.mu is held.
func (c *conn) frame(f frame, now time.Time) error {
	if f.kind == frameHeartbeat {
		return nil
	}
	if f.channel == 0 {
		return c.connectionMethod(f)
	}
	id := basicPublish // what other frames than methods are about
	if f.kind == frameMethod {
		id = methodID((&decoder{b: f.payload}).uint32())
	}
	ch := c.channels[f.channel]
	switch {
	case ch == nil && id == channelOpen:
		c.channels[f.channel] = &channel{conn: c, id: f.channel, consumers: make(map[string]*consumer)}
		c.send(f.channel, channelOpenOk, longstr(""))
		return nil
	case id == channelClose && ch != nil:
		delete(c.channels, f.channel)
		c.broker.requeue(ch.abandon(now), now)
		c.send(f.channel, channelCloseOk)
		return nil
	case id == channelCloseOk && (ch == nil || ch.closing):
		delete(c.channels, f.channel)
		return nil
	case ch == nil:
		return refuse(channelError, "expected 'channel.open' on channel %d", f.channel)
	case ch.closing:
		return nil // sent before the client could know
	}
	err := ch.frame(f, now)
	pe, ok := err.(*protocolError)
	if !ok {
		return err
	}
	pe.method = id
	if !pe.closesConnection() {
		c.log.Debug("channel closed for an error", zap.Uint16("channel", ch.id), zap.Error(pe))
		ch.fail(pe, now)
		return nil
	}
	return err
}

// connectionMethod carries out what may come on channel 0 besides the handshake.
func (c *conn) connectionMethod(f frame) error {
	d := &decoder{b: f.payload}
	id := methodID(d.uint32())
	switch {
	case f.kind != frameMethod:
		return refuse(unexpectedFrame, "frame of type %d out of place on channel %d", f.kind, f.channel)
	case f.channel == 0 && id == connectionClose:
		c.send(0, connectionCloseOk)
		return errEnded
	case f.channel == 0 && id == connectionCloseOk:
		return errEnded
	}
	pe := refuse(commandInvalid, "class %d method %d out of place on channel %d", id>>16, id&0xFFFF, f.channel)
	pe.method = id
	return pe
}

// close asks the client to end the connection; both sides have closeTimeout for it.
func (c *conn) close(pe *protocolError) {
	c.send(0, connectionClose, pe.code, pe.Error(), uint32(pe.method))
	c.mu.Lock()
	c.lastDeadlines()
	c.mu.Unlock()
}

// lastDeadlines sets the time by which all reading and writing ends. c.mu is held.
func (c *conn) lastDeadlines() {
	if !c.closing {
		c.closing = true
		c.nc.SetDeadline(time.Now().Add(closeTimeout))
	}
}

// send queues a method to be written. It never blocks.
func (c *conn) send(channel uint16, id methodID, args ...any) {
	c.append(func(b []byte) []byte { return appendMethod(b, channel, id, args...) })
}

// sendContent queues a method with its content to be written. It never blocks.
func (c *conn) sendContent(channel uint16, m *message, id methodID, args ...any) {
	c.append(func(b []byte) []byte { return appendContent(b, channel, c.frameMax, m, id, args...) })
}

func (c *conn) append(add func([]byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.failed {
		c.out = add(c.out)
		c.changed.Broadcast()
	}
}

// write writes what send queues until the connection has ended or breaks.
func (c *conn) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.out) == 0 && !c.ended {
			c.changed.Wait()
		}
		if len(c.out) == 0 {
			return
		}
		buf := c.out
		c.out = nil
		c.mu.Unlock()
		_, err := c.nc.Write(buf)
		c.mu.Lock()
		if err != nil {
			c.failed, c.out = true, nil
			c.nc.Close() // so that serve notices
			return
		}
	}
}
