package testenv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// portsEnv makes the test binary take so many ports, print them and keep them until
// its input ends.
const portsEnv = "ONCEOVER_TESTENV_PORTS"

// TestPortsDifferBetweenProcesses has several processes take ports at once: so many
// that, drawn without regard to each other, some would be the same.
func TestPortsDifferBetweenProcesses(t *testing.T) {
	if n, _ := strconv.Atoi(os.Getenv(portsEnv)); n > 0 {
		holdPorts(t, n)
		return
	}
	if runtime.GOOS != "linux" {
		t.Log("not Linux: ports are not held")
		return
	}
	const processes, each = 4, 400
	var children []*portHolder
	for range processes {
		children = append(children, startPortHolder(t, each))
	}
	owner := make(map[int]int)
	for i, c := range children {
		for _, port := range c.read(t, each) {
			if port < firstPort || port >= endOfPorts {
				t.Errorf("got port %d, want one from %d to %d", port, firstPort, endOfPorts-1)
			}
			if other, twice := owner[port]; twice {
				t.Errorf("port %d: got it in processes %d and %d, want it in one", port, other, i)
			}
			owner[port] = i
		}
	}

	// This process gets none of them either, until their owner ends, by kill -9 too.
	first := 0
	for port, i := range owner {
		if i == 0 {
			first = port
		}
	}
	if held, err := holdPort(first); err == nil {
		_ = held.Close()
		t.Errorf("port %d of another process: got it, want it held", first)
	}
	_ = children[0].cmd.Process.Kill()
	_ = children[0].cmd.Wait()
	held, err := holdPort(first)
	if err != nil {
		t.Fatalf("port %d after its owner's end: got %v, want it", first, err)
	}
	_ = held.Close()
}

func TestPortsAreGivenBack(t *testing.T) {
	p, err := takePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	port := p.numbers[0]
	if held, err := holdPort(port); err == nil && runtime.GOOS == "linux" {
		_ = held.Close()
		t.Errorf("port %d: got it twice, want it held", port)
	}
	p.release()
	p.release()
	held, err := holdPort(port)
	if err != nil {
		t.Fatalf("port %d after release: got %v, want it", port, err)
	}
	_ = held.Close()
}

// TestListenersAreNoFreePorts has a program listen that knows nothing of this package.
func TestListenersAreNoFreePorts(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	for range 2 { // the first try holds nothing afterwards
		if _, err := takePort(port); !errors.Is(err, errTaken) {
			t.Errorf("port %d, on which a program listens: got %v, want %v", port, err, errTaken)
		}
	}
	held, err := holdPort(port)
	for end := time.Now().Add(inheritedTime); errors.Is(err, errTaken) && time.Now().Before(end); held, err = holdPort(port) {
		time.Sleep(time.Millisecond) // a program that another test is starting holds what was open then
	}
	if err != nil {
		t.Fatalf("port %d: got %v, want it held by nobody", port, err)
	}
	_ = held.Close()
}

// holdPorts is the other process.
func holdPorts(t *testing.T, n int) {
	p, err := takePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("ports", strings.Trim(fmt.Sprint(p.numbers), "[]"))
	_, _ = io.Copy(io.Discard, os.Stdin)
	p.release()
}

// portHolder is a process that holds ports.
type portHolder struct {
	cmd    *exec.Cmd
	stdout io.Reader
}

func startPortHolder(t *testing.T, n int) *portHolder {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestPortsDifferBetweenProcesses$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", portsEnv, n))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	return &portHolder{cmd: cmd, stdout: stdout}
}

func (h *portHolder) read(t *testing.T, n int) []int {
	t.Helper()
	line, err := bufio.NewReader(h.stdout).ReadString('\n')
	fields := strings.Fields(line)
	if err != nil || len(fields) != n+1 || fields[0] != "ports" {
		t.Fatalf("other process: got %d words, %v, want %d ports: %.300s", len(fields), err, n, line)
	}
	var ports []int
	for _, f := range fields[1:] {
		port, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}
