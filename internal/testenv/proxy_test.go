package testenv

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

func TestProxyPassesBytes(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, echoServer(t))
	conn := dial(t, p.Addr())
	if got, err := roundTrip(conn, "ping"); got != "ping" || err != nil {
		t.Fatalf("got %q, %v, want %q", got, err, "ping")
	}
	// The end of the stream is passed on too, and the answer to it back.
	if _, err := conn.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "last" || err != nil {
		t.Errorf("after the end of the stream: got %q, %v, want %q", got, err, "last")
	}
	if got, want := p.URL("amqp://u:p@example.org:5672//"), "amqp://u:p@"+p.Addr()+"//"; got != want {
		t.Errorf("URL: got %s, want %s", got, want)
	}
}

func TestProxyCutAndRestore(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, echoServer(t))
	conn := dial(t, p.Addr())
	if _, err := roundTrip(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after Cut: got %v, want a reset", err)
	}
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		_ = c.Close()
		t.Error("dial after Cut: got a connection, want refused")
	}
	p.Cut() // twice is once
	p.Restore()
	if got, err := roundTrip(dial(t, p.Addr()), "again"); got != "again" || err != nil {
		t.Errorf("after Restore: got %q, %v, want %q", got, err, "again")
	}
}

func TestProxyPauseAndRestore(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, echoServer(t))
	conn := dial(t, p.Addr())
	if _, err := roundTrip(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	p.Pause()
	p.Pause() // twice is once
	if _, err := conn.Write([]byte("held")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read while paused: got %d bytes, %v, want a time-out", n, err)
	}
	late := dial(t, p.Addr()) // accepted, silent
	p.Restore()
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); string(got) != "held" || err != nil {
		t.Errorf("after Restore: got %q, %v, want %q", got, err, "held")
	}
	if got, err := roundTrip(late, "late"); got != "late" || err != nil {
		t.Errorf("connection made while paused: got %q, %v, want %q", got, err, "late")
	}
}

func TestProxyEndsWhilePaused(t *testing.T) {
	t.Parallel()
	t.Run("paused", func(t *testing.T) { // its cleanup must not hang
		p := NewProxy(t, echoServer(t))
		conn := dial(t, p.Addr())
		p.Pause()
		if _, err := conn.Write([]byte("held")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestProxyWithoutTarget(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, loopback(FreePort(t)))
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return // reset at once
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the connection ended", err)
	}
}

// echoServer returns the address of a server that sends back what it gets.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

func roundTrip(conn net.Conn, text string) (string, error) {
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	got := make([]byte, len(text))
	_, err := io.ReadFull(conn, got)
	return string(got), err
}

// TestRestoreBesidePrograms cuts and restores a proxy while programs are started, each of which holds the closed listener for a moment.
func TestRestoreBesidePrograms(t *testing.T) {
	p := NewProxy(t, "127.0.0.1:1")
	done := make(chan struct{})
	var programs sync.WaitGroup
	for range 4 {
		programs.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := exec.CommandContext(t.Context(), "true").Run(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2000 {
		p.Cut()
		p.Restore()
		if t.Failed() {
			break
		}
	}
	close(done)
	programs.Wait()
}
