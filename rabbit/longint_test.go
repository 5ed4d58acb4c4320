package rabbit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/iotest"
	"time"
)

// frame builds an AMQP frame.
func frame(kind byte, payload []byte) []byte {
	b := []byte{kind, 0, 1}
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(append(b, payload...), 0xCE)
}

// headerPayload builds a content header with content type and a table.
func headerPayload(table []byte) []byte {
	b := make([]byte, 12)
	b[1] = 60
	b = append(b, 0xA0, 0) // content-type and headers
	b = append(b, 4, 't', 'e', 'x', 't')
	b = binary.BigEndian.AppendUint32(b, uint32(len(table)))
	return append(b, table...)
}

func field(name string, kind byte, value ...byte) []byte {
	return append(append(append([]byte{byte(len(name))}, name...), kind), value...)
}

func part(content ...byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(content))), content...)
}

var eight = []byte{0, 0, 1, 0, 0, 0, 0, 0}

// rewritable returns a table in which every L stands where a value's type does,
// and the same with l. An L in a text, a name or a number stays.
func rewritable() (in, want []byte) {
	build := func(long byte) []byte {
		return bytes.Join([][]byte{
			field("LL", 'S', part('L', 'L')...),
			field("big", long, eight...),
			field("n", 'V'), field("t", 't', 'L'), field("s", 's', 'L', 'L'), field("i", 'I', 'L', 'L', 'L', 'L'),
			field("d", 'D', 1, 'L', 'L', 'L', 'L'),
			field("list", 'A', part(append([]byte{long}, eight...)...)...),
			field("table", 'F', part(field("deep", 'F', part(field("x", long, eight...)...)...)...)...),
			field("last", long, eight...),
		}, nil)
	}
	return build('L'), build('l')
}

type pipeConn struct {
	net.Conn
	r io.Reader
}

func (c pipeConn) Read(p []byte) (int, error) { return c.r.Read(p) }
func (c pipeConn) Close() error               { return nil }

// TestFailedReadEndsWrites has a peer that takes nothing any more: once reading has failed, a write that is under way ends.
func TestFailedReadEndsWrites(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c := newLongIntConn(raw)
	ended := make(chan error, 1)
	go func() {
		for chunk := make([]byte, 1<<20); ; {
			if _, err := c.Write(chunk); err != nil {
				ended <- err
				return
			}
		}
	}()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the write goes on although reading has failed")
	}
}

func TestLongIntConn(t *testing.T) {
	in, want := rewritable()
	body := frame(3, bytes.Repeat([]byte{'L'}, 5000))
	stream := func(table []byte) []byte {
		return bytes.Join([][]byte{frame(1, []byte{0, 60, 0, 60, 'L'}), frame(2, headerPayload(table)), body, frame(8, nil)}, nil)
	}
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "halves": iotest.HalfReader, "data and EOF": iotest.DataErrReader,
	} {
		c := newLongIntConn(pipeConn{r: wrap(bytes.NewReader(stream(in)))})
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, stream(want)) {
			t.Errorf("%s: got %d bytes, %v, want the stream with L as l", name, len(got), err)
		}
	}
	// Cut anywhere, what came is handed on and nothing more.
	whole := stream(want)
	for n := range len(whole) {
		got, err := io.ReadAll(newLongIntConn(pipeConn{r: bytes.NewReader(stream(in)[:n])}))
		if err != nil || len(got) != n {
			t.Fatalf("cut at %d: got %d bytes, %v", n, len(got), err)
		}
	}
}

func FuzzRewriteContentHeader(f *testing.F) {
	in, _ := rewritable()
	f.Add(headerPayload(in))
	f.Add([]byte{0, 60})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		rewriteContentHeader(b)
		for i := range b {
			if b[i] != before[i] && (before[i] != 'L' || b[i] != 'l') {
				t.Fatalf("byte %d: %q became %q", i, before[i], b[i])
			}
		}
	})
}
