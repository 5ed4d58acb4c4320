// Command withservers runs a command beside a private RabbitMQ and a private Redis,
// to which these variables lead:
//
//	ONCEOVER_TEST_AMQP_URL          amqp://guest:guest@127.0.0.1:PORT//
//	ONCEOVER_TEST_RABBITMQ_API_URL  http://guest:guest@127.0.0.1:PORT, the management API
//	ONCEOVER_TEST_REDIS_URL         redis://127.0.0.1:PORT
//
// It passes SIGINT, SIGTERM and SIGHUP on to the command and everything that
// the command has started, exits as the command does (128 + the number of the
// signal where one ended it), and leaves nothing running.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"onceover/internal/testenv"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: withservers COMMAND [ARGUMENT...]")
		os.Exit(2)
	}
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "withservers:", err)
	}
	os.Exit(code)
}

// run returns the exit code of the command, or 1 with the reason why there is none.
func run(args []string) (code int, err error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)

	dir, err := os.MkdirTemp("", "onceover-servers-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	servers, err := start(dir, signals)
	defer servers.Stop()
	if err != nil {
		return 1, err
	}

	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), servers.Env()...)
	// A group of its own, so that a signal reaches all of it, and once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	return wait(cmd, signals)
}

// start starts the servers; a signal ends the attempt.
func start(dir string, signals <-chan os.Signal) (*testenv.Servers, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type started struct {
		servers *testenv.Servers
		err     error
	}
	done := make(chan started)
	go func() {
		servers, err := testenv.StartServers(ctx, dir)
		done <- started{servers, err}
	}()
	select {
	case s := <-done:
		return s.servers, s.err
	case sig := <-signals:
		cancel()
		s := <-done
		return s.servers, errors.Join(fmt.Errorf("stopped by signal: %v", sig), s.err)
	}
}

// wait passes signals on until the command has ended, and then ends what it has
// left running in its group.
func wait(cmd *exec.Cmd, signals <-chan os.Signal) (int, error) {
	group := -cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			_ = syscall.Kill(group, sig.(syscall.Signal))
		case err := <-ended:
			_ = syscall.Kill(group, syscall.SIGKILL)
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 1, err
			}
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return cmd.ProcessState.ExitCode(), nil
		}
	}
}
