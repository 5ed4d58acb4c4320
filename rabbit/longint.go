package rabbit

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"slices"
)

// longIntConn lets messages through that the AMQP client cannot read: py-amqp
// writes integers of more than 32 bits in a header table with the type L, which
// RabbitMQ hands on as it is and amqp091-go 1.16 does not know. Without this,
// one such message (a time in milliseconds in a custom header will do) closes
// the connection, returns to its queue, and does so again for ever.
//
// It rewrites L to l, amqp091-go's name of the same eight bytes, in the header
// frames that are read. See RabbitMQ's errata of the AMQP 0-9-1 field types.
type longIntConn struct {
	net.Conn
	r     *bufio.Reader
	frame []byte // room for the frame that is rewritten
	ready []byte // what of it is not yet read
	pass  int    // bytes to hand on as they come
}

func newLongIntConn(c net.Conn) *longIntConn {
	return &longIntConn{Conn: c, r: bufio.NewReaderSize(c, 32<<10)}
}

// ConnectionState is that of TLS, zero without.
func (c *longIntConn) ConnectionState() tls.ConnectionState {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.ConnectionState()
	}
	return tls.ConnectionState{}
}

// Frames, AMQP 0-9-1 section 2.3: type, channel, size, payload, end octet.
const (
	frameHeaderSize  = 7
	contentHeader    = 2        // frame type
	maxContentHeader = 1 << 20  // larger frames are handed on as they are
	mostKept         = 64 << 10 // room that is kept for the next frame
)

// Read reads what the peer sends. An error is the end of the connection, which Read closes: the AMQP client would wait for a write that is
// under way before it does, and a peer that takes nothing any more lets no write end.
func (c *longIntConn) Read(p []byte) (int, error) {
	n, err := c.read(p)
	if err != nil {
		c.Conn.Close() // the error to show is that of reading
	}
	return n, err
}

func (c *longIntConn) read(p []byte) (int, error) {
	for {
		switch {
		case len(c.ready) > 0:
			n := copy(p, c.ready)
			c.ready = c.ready[n:]
			return n, nil
		case c.pass > 0:
			n, err := c.r.Read(p[:min(len(p), c.pass)])
			c.pass -= n
			return n, err
		}
		if err := c.nextFrame(); err != nil {
			return 0, err
		}
	}
}

func (c *longIntConn) nextFrame() error {
	if cap(c.frame) == 0 || cap(c.frame) > mostKept {
		c.frame = make([]byte, 0, 1<<10)
	}
	head := c.frame[:frameHeaderSize]
	if n, err := io.ReadFull(c.r, head); err != nil {
		if n == 0 {
			return err
		}
		c.ready = head[:n] // the end of the stream comes with the next read
		return nil
	}
	size := binary.BigEndian.Uint32(head[3:])
	if head[0] != contentHeader || size > maxContentHeader {
		c.ready, c.pass = head, int(size)+1
		return nil
	}
	frame := slices.Grow(head, int(size)+1)[:frameHeaderSize+int(size)+1]
	c.frame = frame[:0]
	n, err := io.ReadFull(c.r, frame[frameHeaderSize:])
	if err == nil {
		rewriteContentHeader(frame[frameHeaderSize : len(frame)-1])
	}
	c.ready = frame[:frameHeaderSize+n]
	return nil
}

// rewriteContentHeader finds the header table: class, weight, body size, flags,
// then the properties whose flags are set, of which the table is the third.
func rewriteContentHeader(b []byte) {
	const fixed = 2 + 2 + 8
	if len(b) < fixed+2 {
		return
	}
	flags := binary.BigEndian.Uint16(b[fixed:])
	b = b[fixed+2:]
	for _, shortString := range []uint16{1 << 15, 1 << 14} { // content-type, content-encoding
		if flags&shortString == 0 {
			continue
		}
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return
		}
		b = b[1+int(b[0]):]
	}
	if flags&(1<<13) != 0 {
		rewriteFields(sized(b), true)
	}
}

// sized returns the content of a length-prefixed part, nil if it is cut off.
func sized(b []byte) []byte {
	if len(b) < 4 {
		return nil
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil
	}
	return b[4 : 4+n]
}

// rewriteFields walks the values of a table (named) or an array. It stops at
// what it does not know: the client will say what is wrong with it.
func rewriteFields(b []byte, named bool) {
	for len(b) > 0 {
		if named {
			if len(b) < 1+int(b[0])+1 {
				return
			}
			b = b[1+int(b[0]):]
		}
		kind := b[0]
		var width int
		switch kind {
		case 'V':
			width = 0
		case 't', 'b', 'B':
			width = 1
		case 's', 'u':
			width = 2
		case 'I', 'i', 'f':
			width = 4
		case 'D':
			width = 5
		case 'l', 'd', 'T':
			width = 8
		case 'L':
			b[0], width = 'l', 8
		case 'S', 'x', 'A', 'F':
			part := sized(b[1:])
			if part == nil {
				return
			}
			if kind == 'A' || kind == 'F' {
				rewriteFields(part, kind == 'F')
			}
			width = 4 + len(part)
		default:
			return
		}
		if len(b) < 1+width {
			return
		}
		b = b[1+width:]
	}
}
