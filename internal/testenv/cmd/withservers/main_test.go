package main

import (
	"bufio"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"onceover/internal/testenv"
)

// mainEnv makes the test binary behave as the command itself.
const mainEnv = "ONCEOVER_WITHSERVERS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) == "1" {
		main()
	}
	os.Exit(m.Run())
}

// TestRun lets a shell print the addresses, sends SIGTERM, which the shell answers
// by its own exit code, and looks that nothing is left.
func TestRun(t *testing.T) {
	t.Parallel()
	testenv.RequireServers(t)
	dir := t.TempDir()
	const script = `trap 'exit 7' TERM
		sleep 1000 & echo $! $ONCEOVER_TEST_AMQP_URL $ONCEOVER_TEST_RABBITMQ_API_URL $ONCEOVER_TEST_REDIS_URL
		wait`
	cmd := exec.Command(os.Args[0], "sh", "-c", script)
	cmd.Env = append(os.Environ(), mainEnv+"=1", "TMPDIR="+dir)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	lines.Scan()
	fields := strings.Fields(lines.Text())
	if len(fields) != 4 {
		t.Errorf("got %q, want a process id and three URLs", lines.Text())
	}
	var addrs []string
	for _, raw := range fields[min(1, len(fields)):] {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if !accepts(u.Host) {
			t.Errorf("%s: got no server, want one", raw)
		}
		addrs = append(addrs, u.Host)
	}

	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	if got, want := cmd.ProcessState.ExitCode(), 7; got != want {
		t.Errorf("exit code: got %d, want %d", got, want)
	}
	for _, addr := range addrs {
		if accepts(addr) {
			t.Errorf("%s: got a server after the end, want none", addr)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("folders left: got %q, want none", left)
	}
}

func TestRunEndsBySignalWhileStarting(t *testing.T) {
	t.Parallel()
	testenv.RequireServers(t)
	dir := t.TempDir()
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	servers, err := start(dir, signals)
	servers.Stop()
	if err == nil || !strings.Contains(err.Error(), "stopped by signal: terminated") {
		t.Errorf("got %v, want stopped by signal", err)
	}
}

func accepts(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
