package testenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is a server started by a test, in a process group of its own.
type process struct {
	name    string
	logFile string // what it wrote to stdout and stderr
	pid     int
	ended   chan struct{} // closed once the process is gone and reaped
	state   error         // of Wait; read only after ended
}

// startProcess starts cmd and appends its output to logFile; name is for messages.
// On Linux the process is killed when this one dies in any way.
func startProcess(name string, cmd *exec.Cmd, logFile string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own copy
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ownGroup()

	p := &process{name: name, logFile: logFile, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Linux sends the parent-death signal when the thread that started the
		// process ends, so the thread is kept for as long as the process lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.state = cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return p, nil
}

// waitReady blocks until ready reports true. It returns an error, with the end of
// the log, when the process ends first or the time is up.
func (p *process) waitReady(ctx context.Context, limit time.Duration, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if ready() {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended while starting: %v\n%s", p.name, p.state, p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%s not ready within %v: %w\n%s", p.name, limit, ctx.Err(), p.logTail())
		case <-tick.C:
		}
	}
}

// terminate asks the process to end (SIGTERM) and waits. Where it does not end
// in time, it is killed and an error returned.
func (p *process) terminate(limit time.Duration) error {
	if p.running() {
		// Only the server itself: RabbitMQ's helper processes must outlive it.
		_ = syscall.Kill(p.pid, syscall.SIGTERM)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
		p.kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM\n%s", p.name, limit, p.logTail())
	}
}

// kill ends the process and its group at once (SIGKILL) and waits until it is gone.
func (p *process) kill() {
	if p.running() {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	<-p.ended
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// logTail returns the last lines that the process wrote, for error messages.
func (p *process) logTail() string {
	const most = 30
	text, err := os.ReadFile(p.logFile)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}
