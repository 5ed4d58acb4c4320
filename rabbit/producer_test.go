package rabbit

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"onceover/internal/testenv"
)

// TestProducer publishes over the restart of its broker, and says at once when there is none.
func TestProducer(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	p := NewProducer("producer test", []string{server.URL()}, QueueNamed("q.ai"))
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m := to("", "a")
	m.Exchange, m.RoutingKey = ExchangeTasks, "ai.analyze"
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := p.Publish(ctx, m); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	connections := func() int {
		return strings.Count(server.Ctl("-q", "list_connections", "client_properties"), "producer test")
	}
	if n := connections(); n != 1 {
		t.Errorf("got %d connections, want one for all", n)
	}
	conn, err := p.Conn(ctx)
	if err != nil || conn.IsClosed() {
		t.Fatalf("got %v, %v, want the connection", conn, err)
	}
	if s, err := Look(conn, "q.ai"); err != nil || s.Ready != 50 || connections() != 1 {
		t.Errorf("got %+v, %v over %d connections, want what was published, over the same", s, err, connections())
	}
	m.RoutingKey = "nobody"
	if err := p.Publish(ctx, m); !errors.Is(err, ErrUnroutable) || errors.Is(err, ErrNoConnection) {
		t.Errorf("got %v for a message without a queue", err)
	}
	m.RoutingKey = "ai.analyze"
	server.Stop()
	for { // the connection may not be known to be lost yet
		err := p.Publish(ctx, m)
		if errors.Is(err, ErrNoConnection) {
			break
		}
		if err == nil || ctx.Err() != nil {
			t.Fatalf("got %v without a broker", err)
		}
	}
	server.Start()
	for p.Connect(ctx) != nil {
		time.Sleep(10 * time.Millisecond)
	}
	if err := p.Publish(ctx, m); err != nil {
		t.Errorf("got %v after the restart", err)
	}
	if n := connections(); n != 1 {
		t.Errorf("got %d connections after the restart, want 1", n)
	}
	p.Close()
	if err := p.Publish(ctx, m); !errors.Is(err, ErrNoConnection) {
		t.Errorf("got %v after Close", err)
	}
}

// TestProducerWithoutABroker tells an outage from a wrong configuration, and ends with its callers.
func TestProducerWithoutABroker(t *testing.T) {
	t.Parallel()
	away := NewProducer("away", []string{"amqp://127.0.0.1:1//"})
	defer away.Close()
	var config *ConfigError
	if err := away.Connect(t.Context()); !errors.Is(err, ErrNoConnection) || errors.As(err, &config) {
		t.Errorf("got %v, want an outage", err)
	}
	wrong := NewProducer("wrong", []string{strings.Replace(testenv.SharedRabbitMQ(t), "guest:guest", "guest:wrong", 1)})
	defer wrong.Close()
	if err := wrong.Connect(t.Context()); !errors.Is(err, ErrNoConnection) || !errors.As(err, &config) {
		t.Errorf("got %v, want a wrong password", err)
	}
	// One that takes connections and says nothing: neither the caller nor Close waits for it.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	silent := NewProducer("silent", []string{"amqp://" + listener.Addr().String() + "//"})
	ctx, cancel := context.WithCancelCause(t.Context())
	waited := make(chan error, 1)
	go func() { waited <- silent.Connect(ctx) }()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	gone := errors.New("the client went away")
	cancel(gone)
	if err := <-waited; !errors.Is(err, ErrNoConnection) || !errors.Is(err, gone) {
		t.Errorf("got %v, want why the caller does not wait", err)
	}
	began := time.Now()
	silent.Close()
	if took := time.Since(began); took > dialTimeout/2 {
		t.Errorf("Close took %v, want it not to wait for the handshake", took)
	}
}

// TestCloseInAnAlarm closes a producer whose broker takes no messages, and says no goodbye.
func TestCloseInAnAlarm(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	p := NewProducer("producer test", []string{server.URL()}, QueueNamed("q.ai"))
	if err := p.Publish(t.Context(), to("q.ai", "before")); err != nil {
		t.Fatal(err)
	}
	server.Ctl("set_vm_memory_high_watermark", "absolute", "1")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := p.Publish(ctx, to("q.ai", "during")); !errors.Is(err, ErrUnconfirmed) {
		t.Errorf("got %v, want that it is not confirmed", err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		p.Close()
	}()
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Error("Close goes on after 30 s")
		server.Ctl("set_vm_memory_high_watermark", "0.6")
		<-closed
	}
}
