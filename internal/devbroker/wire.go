package devbroker

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Frame types and sizes, AMQP 0-9-1 section 2.3.5.
const (
	frameMethod    = 1
	frameHeader    = 2
	frameBody      = 3
	frameHeartbeat = 8
	frameEnd       = 0xCE

	frameOverhead = 8      // type, channel and size before the payload, frame end after it
	frameMaxMin   = 4096   // the smallest frame-max a client may ask for
	frameMaxMax   = 131072 // what we propose, as RabbitMQ does
)

// reply is a reply code with the name that RabbitMQ puts before its texts.
type reply struct {
	code uint16
	name string
}

// Replies, AMQP 0-9-1 section 1.2 (constants) and RabbitMQ's use of them.
var (
	noRoute            = reply{312, "NO_ROUTE"}
	connectionForced   = reply{320, "CONNECTION_FORCED"}
	accessRefused      = reply{403, "ACCESS_REFUSED"}
	notFound           = reply{404, "NOT_FOUND"}
	resourceLocked     = reply{405, "RESOURCE_LOCKED"}
	preconditionFailed = reply{406, "PRECONDITION_FAILED"}
	frameError         = reply{501, "FRAME_ERROR"}
	syntaxError        = reply{502, "SYNTAX_ERROR"}
	commandInvalid     = reply{503, "COMMAND_INVALID"}
	channelError       = reply{504, "CHANNEL_ERROR"}
	unexpectedFrame    = reply{505, "UNEXPECTED_FRAME"}
	notAllowed         = reply{530, "NOT_ALLOWED"}
	notImplemented     = reply{540, "NOT_IMPLEMENTED"}
)

// protocolError is what a client did wrong, told to it by closing its channel or its connection.
type protocolError struct {
	reply
	text   string
	method methodID // the method at fault, 0 if none
}

func refuse(r reply, format string, args ...any) *protocolError {
	return &protocolError{reply: r, text: fmt.Sprintf(format, args...)}
}

func (e *protocolError) Error() string { return e.name + " - " + e.text }

// closesConnection tells the spec's hard errors, which end the connection, from its soft errors, which end
// the channel.
func (e *protocolError) closesConnection() bool { return e.code >= 500 || e.reply == connectionForced }

type frame struct {
	kind    byte
	channel uint16
	payload []byte
}

type frameReader struct {
	r   *bufio.Reader
	max int // the largest frame allowed, overhead included
}

// next reads one frame. The error is a *protocolError for a frame that breaks the rules, else the reader's.
func (fr *frameReader) next() (frame, error) {
	var head [7]byte
	if _, err := io.ReadFull(fr.r, head[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: head[0], channel: binary.BigEndian.Uint16(head[1:])}
	size := int64(binary.BigEndian.Uint32(head[3:]))
	if size > int64(fr.max-frameOverhead) {
		return frame{}, refuse(frameError, "frame of %d octets is larger than the negotiated maximum of %d", size+frameOverhead, fr.max)
	}
	buf := make([]byte, size+1)
	if _, err := io.ReadFull(fr.r, buf); err != nil {
		return frame{}, err
	}
	if buf[size] != frameEnd {
		return frame{}, refuse(frameError, "frame ends with octet %#x instead of %#x", buf[size], frameEnd)
	}
	f.payload = buf[:size]
	return f, nil
}

// decoder takes fields off the front of a payload. The first fault sticks; fields after it read as zero.
type decoder struct {
	b   []byte
	err *protocolError
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = refuse(syntaxError, format, args...)
	}
	d.b = nil
}

// take returns the next n octets, or nil and a fault if there are fewer.
func (d *decoder) take(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.b)) {
		d.fail("a field is longer than what holds it")
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) uint(octets uint64) (v uint64) {
	for _, o := range d.take(octets) {
		v = v<<8 | uint64(o)
	}
	return v
}

func (d *decoder) uint8() uint8   { return uint8(d.uint(1)) }
func (d *decoder) uint16() uint16 { return uint16(d.uint(2)) }
func (d *decoder) uint32() uint32 { return uint32(d.uint(4)) }
func (d *decoder) uint64() uint64 { return d.uint(8) }

func (d *decoder) shortstr() string { return string(d.take(d.uint(1))) }
func (d *decoder) longstr() string  { return string(d.take(d.uint(4))) }

// bits reads an octet of packed booleans, lowest bit first.
func (d *decoder) bits() (b [5]bool) {
	v := d.uint8()
	for i := range b {
		b[i] = v&(1<<i) != 0
	}
	return b
}

// end reports what went wrong, octets left over included.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d octets too many", len(d.b))
	}
	if d.err != nil {
		return d.err
	}
	return nil
}

// beginFrame and endFrame enclose a payload; the frame starts at the length of b before beginFrame.
func beginFrame(b []byte, kind byte, channel uint16) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, channel)
	return append(b, 0, 0, 0, 0)
}

func endFrame(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start+3:], uint32(len(b)-start-7))
	return append(b, frameEnd)
}

func appendFrame(b []byte, kind byte, channel uint16, payload []byte) []byte {
	start := len(b)
	b = beginFrame(b, kind, channel)
	b = append(b, payload...)
	return endFrame(b, start)
}

// longstr marks a method argument to be written as a long string; a plain string is a short one.
type longstr string

// appendMethod writes a method frame. args are the method's fields in order, by their Go types.
func appendMethod(b []byte, channel uint16, id methodID, args ...any) []byte {
	start := len(b)
	b = beginFrame(b, frameMethod, channel)
	b = binary.BigEndian.AppendUint32(b, uint32(id))
	for _, a := range args {
		switch a := a.(type) {
		case bool:
			b = appendBool(b, a)
		case uint8:
			b = append(b, a)
		case uint16:
			b = binary.BigEndian.AppendUint16(b, a)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, a)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, a)
		case string:
			b = appendShortstr(b, a)
		case longstr:
			b = appendLongstr(b, string(a))
		case table:
			b = appendTable(b, a)
		default:
			panic(fmt.Sprintf("broker: no encoding for a method argument of type %T", a)) // ours, never a client's
		}
	}
	return endFrame(b, start)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendShortstr cuts s at 255 octets; only our own error texts can be longer.
func appendShortstr(b []byte, s string) []byte {
	s = s[:min(len(s), math.MaxUint8)]
	b = append(b, byte(len(s)))
	return append(b, s...)
}

func appendLongstr(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
