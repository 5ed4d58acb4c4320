package testenv

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// holdPort makes port the caller's until Close or the end of this process, however it
// ends; errTaken says that it has an owner. The lock is a Unix socket of an abstract
// name: such names are separate for each network namespace, just as the ports are,
// and leave no file behind.
func holdPort(port int) (io.Closer, error) {
	l, err := net.Listen("unix", fmt.Sprintf("@onceover-test-port-%d", port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, errTaken
	}
	if err != nil {
		return nil, fmt.Errorf("hold port %d: %w", port, err)
	}
	return l, nil
}
