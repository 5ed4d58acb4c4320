package testenv

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports come from this range, which lies below those from which Linux and macOS
// choose the ports of outgoing connections. From within such a range, a client that
// dials again and again while a server restarts can be given the server's port, and
// so either keep it from coming back or be connected to itself.
const firstPort, endOfPorts = 20000, 32000

// ports are loopback TCP ports that belong to one owner: on Linux no other test on
// the machine, of this process or another, is given them before release or the end
// of this process, whether a server listens on them or not.
type ports struct {
	numbers []int
	once    sync.Once
	held    []io.Closer
}

// takePorts takes n ports on which nothing listens. Whatever it returns, release it.
func takePorts(n int) (*ports, error) {
	p := &ports{}
	for range n {
		if err := p.take(); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p *ports) take() error {
	const tries = 1000
	for range tries {
		port := firstPort + rand.IntN(endOfPorts-firstPort)
		held, err := takePort(port)
		if errors.Is(err, errTaken) {
			continue
		}
		if err != nil {
			return err
		}
		p.numbers, p.held = append(p.numbers, port), append(p.held, held)
		return nil
	}
	return errors.New("find a free port: none of " + strconv.Itoa(tries) + " tried is free")
}

// errTaken says that a port belongs to another owner.
var errTaken = errors.New("port is taken")

// takePort makes port the caller's until Close. errTaken says that another owner has
// it, or a program that knows nothing of owners listens on it.
func takePort(port int) (io.Closer, error) {
	held, err := holdPort(port)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		_ = held.Close()
		return nil, errTaken
	}
	return held, l.Close()
}

// release gives the ports back, once the servers on them have ended.
func (p *ports) release() {
	p.once.Do(func() {
		for _, h := range p.held {
			_ = h.Close()
		}
	})
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// FreePort returns a port of the loopback address that nobody listens on, for a
// program that cannot choose one itself. It is t's until t ends.
func FreePort(t testing.TB) int {
	t.Helper()
	p, err := takePorts(1)
	t.Cleanup(p.release)
	check(t, err)
	return p.numbers[0]
}
