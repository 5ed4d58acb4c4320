package testenv

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// freePort returns a loopback TCP port on which nothing listens now.
//
// It lies below the ranges from which Linux and macOS choose the ports of
// outgoing connections. From within such a range, a client that dials again and
// again while a server restarts can be given the server's port, and so either
// keep it from coming back or be connected to itself.
func freePort() (int, error) {
	const first, last = 20000, 32000
	for range 100 {
		port := first + rand.IntN(last-first)
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, errors.New("find a free port: none of 100 tried is free")
}

// freePorts sets each of ports to another free port.
func freePorts(ports ...*int) error {
	taken := make(map[int]bool)
	for _, p := range ports {
		for *p == 0 || taken[*p] {
			port, err := freePort()
			if err != nil {
				return err
			}
			*p = port
		}
		taken[*p] = true
	}
	return nil
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// FreePort returns a port of the loopback address that nobody listens on, for a
// program that cannot choose one itself.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := freePort()
	check(t, err)
	return port
}
