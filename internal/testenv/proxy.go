package testenv

import (
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"
)

// inheritedTime is how long a program may take to start.
const inheritedTime = 5 * time.Second

// Proxy passes TCP connections on to a server and can interrupt them, as a
// network does. Its methods are safe for concurrent use.
type Proxy struct {
	t      testing.TB
	target string
	ports  *ports         // one
	wg     sync.WaitGroup // accept loop and pumps

	mu       sync.Mutex
	listener net.Listener // nil while cut
	links    map[*link]bool
	flow     chan struct{} // closed while bytes flow; open while paused
}

// link is one connection of a client and its counterpart to the target.
type link struct {
	client, server net.Conn
	closed         chan struct{}
	once           sync.Once
}

// NewProxy starts a proxy to target (host:port) on a free loopback port. It ends,
// with its connections, when t ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p, err := newProxy(target)
	check(t, err)
	p.t = t
	t.Cleanup(p.End)
	p.Restore()
	return p
}

func newProxy(target string) (*Proxy, error) {
	p := &Proxy{target: target, links: make(map[*link]bool), flow: make(chan struct{})}
	close(p.flow)
	var err error
	p.ports, err = takePorts(1)
	return p, err
}

// Addr returns 127.0.0.1:PORT. It stays the same over Cut and Restore.
func (p *Proxy) Addr() string { return loopback(p.ports.numbers[0]) }

// URL returns rawURL with the proxy's address in place of its host and port.
func (p *Proxy) URL(rawURL string) string {
	p.t.Helper()
	u, err := url.Parse(rawURL)
	check(p.t, err)
	u.Host = p.Addr()
	return u.String()
}

// Cut resets every connection, losing the bytes under way, and refuses new ones.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	for l := range p.links {
		l.cut()
	}
}

// Pause keeps every connection open and accepts new ones, but lets no byte
// through in either direction until Restore: a network that drops packets. What
// was read before may wait in the proxy and is passed on then.
func (p *Proxy) Pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flow:
		p.flow = make(chan struct{})
	default: // paused already
	}
}

// Restore undoes Cut and Pause. Connections that were cut stay so.
func (p *Proxy) Restore() {
	p.t.Helper()
	if err := p.restore(); err != nil {
		p.t.Errorf("proxy: %v", err)
	}
}

func (p *Proxy) restore() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flow:
	default:
		close(p.flow)
	}
	if p.listener != nil {
		return nil
	}
	l, err := p.listen()
	if err != nil {
		return err
	}
	p.listener = l
	p.wg.Go(func() { p.accept(l) })
	return nil
}

// listen takes the proxy's port, which nobody else is given. A process that the test started a moment ago holds what was open then until
// it has become another program: the listener that Cut closed, too.
func (p *Proxy) listen() (net.Listener, error) {
	for end := time.Now().Add(inheritedTime); ; time.Sleep(time.Millisecond) {
		l, err := net.Listen("tcp", p.Addr())
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
	}
}

func (p *Proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return // cut
		}
		p.wg.Go(func() { p.serve(listener, client) })
	}
}

// serve passes bytes between client and target until either closes or is cut.
func (p *Proxy) serve(listener net.Listener, client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = reset(client)
		return
	}
	l := &link{client: client, server: server, closed: make(chan struct{})}
	p.mu.Lock()
	if p.listener == listener {
		p.links[l] = true
	} else {
		l.cut() // cut while the target was dialled
	}
	p.mu.Unlock()

	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(l, server, client) })
	pumps.Go(func() { p.pump(l, client, server) })
	pumps.Wait()
	l.end(net.Conn.Close)

	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pump copies from src to dst and then passes the end of the stream on.
func (p *Proxy) pump(l *link, dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if !p.waitFlow(l) {
			return
		}
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				l.cut()
				return
			}
		}
		if err == io.EOF {
			_ = dst.(*net.TCPConn).CloseWrite()
			return
		}
		if err != nil {
			l.cut()
			return
		}
	}
}

// waitFlow blocks while the proxy is paused. It reports false once l is closed.
func (p *Proxy) waitFlow(l *link) bool {
	p.mu.Lock()
	flow := p.flow
	p.mu.Unlock()
	select {
	case <-flow:
		return true
	case <-l.closed:
		return false
	}
}

// cut resets both sides.
func (l *link) cut() { l.end(reset) }

// end ends both sides by closeConn, unless that was done before.
func (l *link) end(closeConn func(net.Conn) error) {
	l.once.Do(func() {
		close(l.closed)
		_ = closeConn(l.client)
		_ = closeConn(l.server)
	})
}

// reset closes conn by RST in place of FIN: the peer learns of a broken
// connection, not of an orderly end, and what was under way is lost.
func reset(conn net.Conn) error {
	_ = conn.(*net.TCPConn).SetLinger(0)
	return conn.Close()
}
