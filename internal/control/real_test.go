package control

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"onceover/internal/testenv"
)

// pythonWorker starts a worker of real Celery, that of the tests of internal/remote, and waits until it is ready.
func pythonWorker(t *testing.T, interpreter, url, name string) {
	t.Helper()
	cmd := exec.Command(interpreter, "testdata/peer.py", "worker", name)
	cmd.Dir = "../remote"
	cmd.Env = append(os.Environ(), "TEST_BROKER="+url, "PYTHONDONTWRITEBYTECODE=1", "C_FORCE_ROOT=1")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, read := make(chan struct{}), make(chan struct{})
	var log []string
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			log = append(log, lines.Text())
			if strings.HasSuffix(lines.Text(), " ready.") {
				close(ready)
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGQUIT) // its jobs would take a minute
		<-read
		_ = cmd.Wait() // it was told to end
		if t.Failed() {
			t.Logf("the worker's log:\n%s", strings.Join(log, "\n"))
		}
	})
	wait(t, "Python worker", ready)
}

// TestRealWorkers asks a worker of Celery and one of ours on a real broker, and pauses their queue.
func TestRealWorkers(t *testing.T) {
	t.Parallel()
	url, interpreter := testenv.SharedRabbitMQ(t), testenv.Python(t, "celery")
	pythonWorker(t, interpreter, url, "py@h")
	ours := start(t, url, "go@h", "celery")
	ours.problems = []string{"redis refuses commands"}
	send := exec.Command(interpreter, "testdata/peer.py", "send")
	send.Dir = "../remote"
	send.Env = append(os.Environ(), "TEST_BROKER="+url, "PYTHONDONTWRITEBYTECODE=1")
	if out, err := send.CombinedOutput(); err != nil {
		t.Fatalf("peer.py send: %v\n%s", err, out)
	}
	c := client(t, url)
	c.Wait = 2 * time.Second
	var py Worker
	for range 20 { // until the job runs
		workers, err := c.Workers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(workers, func(w Worker) bool { return w.Node == "py@h" }); i >= 0 && workers[i].Active > 0 {
			py = workers[i]
			break
		}
	}
	if py.Software != "celery" || py.PID == 0 || py.Slots != 1 || py.Active != 1 || py.Accepted == 0 || py.Prefetch == 0 || py.Fault != "" || !slices.Equal(py.Queues, []string{"celery"}) {
		t.Errorf("got the worker %+v", py)
	}
	if len(py.Jobs) != 1 || py.Jobs[0].Task != "sleep" || py.Jobs[0].Kwargs != "{'who': '안녕'}" || len(py.Jobs[0].ID) != 36 ||
		time.Since(py.Jobs[0].Started) > 10*time.Minute || time.Since(py.Jobs[0].Started) < -time.Minute {
		t.Errorf("got the jobs %+v", py.Jobs)
	}

	workers, err := c.Workers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(workers, func(w Worker) bool { return w.Node == "go@h" }); i < 0 || !slices.Equal(workers[i].Problems, ours.problems) {
		t.Errorf("got %+v, want the problems of our worker", workers)
	}

	consume := func(want ...string) {
		t.Helper()
		var got []string
		for range 20 { // a Python worker says that it does before it does
			workers, err := c.Workers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got = Consumers(workers, "celery"); slices.Equal(got, want) {
				return
			}
		}
		t.Errorf("got %v who consume the queue, want %v", got, want)
	}
	consume("go@h", "py@h")
	told, err := c.Pause(t.Context(), "celery")
	if err != nil || !slices.Equal(told.Nodes, []string{"go@h", "py@h"}) {
		t.Errorf("pause: got %+v, %v", told, err)
	}
	consume()
	if told, err = c.Resume(t.Context(), "celery", "py@h"); err != nil || !slices.Equal(told.Nodes, []string{"py@h"}) {
		t.Errorf("resume: got %+v, %v", told, err)
	}
	consume("py@h")
	if got := ours.told(); !slices.Equal(got, []string{"cancel celery"}) {
		t.Errorf("our worker was told %q", got)
	}
}

// TestRealOtherExchange has an exchange of another type, through which no worker would hear anything.
func TestRealOtherExchange(t *testing.T) {
	t.Parallel()
	url := testenv.SharedRabbitMQ(t)
	if err := channel(t, url).ExchangeDeclare(controlExchange, "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	_, err := client(t, url).Ask(t.Context(), "ping", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "declare exchange "+controlExchange) {
		t.Errorf("got %v, want that the exchange cannot be had", err)
	}
}

// TestRealAlarm has RabbitMQ take no messages for a while.
func TestRealAlarm(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	start(t, server.URL(), "go@h")
	c := client(t, server.URL())
	if a := wait(t, "answers", ask(t.Context(), c, "ping", "go@h")); a.err != nil {
		t.Fatal(a.err)
	}
	server.Ctl("set_vm_memory_high_watermark", "absolute", "1")
	c.Wait = 100 * time.Millisecond
	var blocked *BlockedError
	for deadline := time.Now().Add(patience); blocked == nil; { // RabbitMQ says so once something is published
		if time.Now().After(deadline) {
			t.Fatal("the client does not hear of the alarm")
		}
		a := wait(t, "answers", ask(t.Context(), c, "ping", "go@h"))
		errors.As(a.err, &blocked)
	}
	if blocked.Reason != "low on memory" || !errors.Is(blocked, ErrUnconfirmed) {
		t.Errorf("got the reason %q", blocked.Reason)
	}
	c.Wait = patience // nobody waits for what cannot be sent
	if err := c.Tell(t.Context(), "heartbeat", nil, nil); !errors.As(err, &blocked) {
		t.Errorf("Tell: got %v, want a BlockedError", err)
	}

	server.Ctl("set_vm_memory_high_watermark", "0.6")
	for deadline := time.Now().Add(patience); ; {
		a := wait(t, "answers", ask(t.Context(), c, "ping", "go@h"))
		if a.err == nil {
			a.want(t, `{"go@h":{"ok":"pong"}}`)
			return
		}
		if !errors.As(a.err, &blocked) || time.Now().After(deadline) {
			t.Fatalf("after the alarm: %v", a.err)
		}
		wait(t, "tick", time.After(10*time.Millisecond))
	}
}
