package rabbit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/internal/testenv"
)

// TestReturnsAreMatched publishes a list of which two messages have no queue: the error names
// these, and the others are in their queue once.
func TestReturnsAreMatched(t *testing.T) {
	b := setup(t)
	b.queue("q", nil)
	var list []Message
	for i := range 50 {
		m := to("q", fmt.Sprint(i))
		if i == 7 || i == 31 {
			m.RoutingKey = "nowhere"
		}
		list = append(list, m)
	}
	err := b.pub.Publish(b.within(), list...)
	for i, err := range ErrorsOf(err, len(list)) {
		if lost := i == 7 || i == 31; errors.Is(err, ErrUnroutable) != lost || (err == nil) == lost {
			t.Errorf("message %d: got %v", i, err)
		}
	}
	if !Undeliverable(err) {
		t.Errorf("got %v, want it undeliverable", err)
	}
	if n := b.left("q"); n != 48 {
		t.Errorf("got %d messages in the queue, want 48", n)
	}
}

// TestLikeDestinations publishes to an exchange that is not there, whose name and key are together like those of a queue that is.
func TestLikeDestinations(t *testing.T) {
	b := setup(t)
	b.queue("q", nil)
	large := to("q", "large")
	large.Body = make([]byte, largeBody+1)
	bad := to("\x00q", "a")
	bad.Exchange = "large"
	split := to("b\x00q", "a")
	split.Exchange = "a"
	err := b.pub.Publish(b.within(), bad, large, split, to("q", "small"))
	for i, err := range ErrorsOf(err, 4) {
		if refused := i == 0 || i == 2; Undeliverable(err) != refused || (err == nil) == refused {
			t.Errorf("message %d: got %v", i, err)
		}
	}
}

// TestOptional publishes to a queue that has gone.
func TestOptional(t *testing.T) {
	b := setup(t)
	m := to("nowhere", "a")
	m.Optional = true
	if err := b.pub.Publish(b.within(), m); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

// TestNoConfirm has one queue that does not confirm: only those that publish to it wait, and only
// as long as their contexts last.
func TestNoConfirm(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := connect(t, server.URL())
	b.queue("stuck", nil)
	b.queue("q", nil)
	suspend(server, "suspend", "stuck")

	ctx, cancel := context.WithCancelCause(t.Context())
	var waiting sync.WaitGroup
	for i := range 20 {
		waiting.Go(func() {
			if err := b.pub.Publish(ctx, to("stuck", fmt.Sprint("s", i)), to("q", fmt.Sprint("t", i))); !errors.Is(err, ErrUnconfirmed) {
				t.Errorf("got %v, want ErrUnconfirmed", err)
			} else if each := ErrorsOf(err, 2); each[1] != nil {
				t.Errorf("the message to the other queue: got %v", each[1])
			}
		})
	}
	for i := range 200 {
		if err := b.pub.Publish(b.within(), to("q", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	cancel(errors.New("long enough"))
	waiting.Wait()

	suspend(server, "resume", "stuck")
	if err := b.pub.Publish(b.within(), to("stuck", "last")); err != nil {
		t.Error(err)
	}
}

// suspend stops the process of a classic queue, or lets it go on.
func suspend(server *testenv.Rabbit, what, queue string) {
	server.Ctl("eval", fmt.Sprintf(`{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"%s">>)), sys:%s(amqqueue:get_pid(Q)).`, queue, what))
}

// TestRefusedByQueue publishes to a queue that is full and says so.
func TestRefusedByQueue(t *testing.T) {
	b := setup(t)
	b.queue("full", amqp.Table{"x-max-length": int32(1), "x-overflow": "reject-publish"})
	b.queue("q", nil)
	for range 2 {
		_ = b.pub.Publish(b.within(), to("full", "x"))
	}
	err := b.pub.Publish(b.within(), to("q", "a"), to("full", "b"), to("q", "c"))
	each := ErrorsOf(err, 3)
	if each[0] != nil || !errors.Is(each[1], ErrRefused) || each[2] != nil || Undeliverable(err) {
		t.Errorf("got %v, want the second refused, for the time being", err)
	}
}

// TestOneAtFault publishes messages that have the broker close the channel, while many callers
// publish others: only these fail.
func TestOneAtFault(t *testing.T) {
	b := setup(t)
	b.queue("q", nil)
	bad := map[string]Message{
		"no exchange":     {Exchange: "no such exchange", RoutingKey: "k"},
		"internal":        {Exchange: "amq.rabbitmq.trace", RoutingKey: "k"},
		"bad expiration":  {RoutingKey: "q", Properties: celery.Properties{Expiration: "soon"}},
		"bad carbon copy": {RoutingKey: "q", Headers: amqp.Table{"CC": "not a list"}},
		"bad copies":      {RoutingKey: "q", Headers: amqp.Table{"BCC": []any{int32(1)}}},
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 25 {
				if err := b.pub.Publish(b.within(), to("q", fmt.Sprint(i, ".", j))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for name, m := range bad {
		all.Go(func() {
			if err := b.pub.Publish(b.within(), to("q", name+" before"), m, to("q", name+" after")); !Undeliverable(err) {
				t.Errorf("%s: got %v, want it undeliverable", name, err)
			} else if each := ErrorsOf(err, 3); each[0] != nil || each[1] == nil || each[2] != nil {
				t.Errorf("%s: got %v, want the second alone to fail", name, each)
			}
		})
	}
	all.Wait()
	if b.conn.IsClosed() {
		t.Error("the connection is closed")
	}
	if n := b.left("q"); n != 8*25+2*len(bad) {
		t.Errorf("got %d messages in the queue, want all %d once", n, 8*25+2*len(bad))
	}
}

// TestCannotBeEncoded publishes what AMQP cannot carry: it is refused, and the connection stays.
func TestCannotBeEncoded(t *testing.T) {
	b := setup(t)
	b.queue("q", nil)
	long := strings.Repeat("q", 256)
	for name, change := range map[string]func(*Message){
		"queue":          func(m *Message) { m.Queue = long },
		"routing key":    func(m *Message) { m.RoutingKey = long },
		"exchange":       func(m *Message) { m.Exchange = long },
		"correlation id": func(m *Message) { m.Properties.CorrelationID = long },
		"reply-to":       func(m *Message) { m.Properties.ReplyTo = long },
		"header name":    func(m *Message) { m.Headers = amqp.Table{long: "x"} },
		"nested name":    func(m *Message) { m.Headers = amqp.Table{"t": amqp.Table{"l": []any{amqp.Table{long: 1}}}} },
		"headers":        func(m *Message) { m.Headers = amqp.Table{"x": strings.Repeat("x", 200_000)} },
		"unknown type":   func(m *Message) { m.Headers = amqp.Table{"x": struct{}{}} },
	} {
		m := to("q", name)
		change(&m)
		err := b.pub.Publish(b.within(), to("q", "before"), m)
		if each := ErrorsOf(err, 2); each[0] != nil || !Undeliverable(each[1]) || len(err.Error()) > 500 {
			t.Errorf("%s: got %v, want it refused in a few words", name, err)
		}
	}
	if b.conn.IsClosed() {
		t.Error("the connection is closed")
	}
}

// TestLargestHeaders publishes the largest headers that fit into a frame, which the broker takes;
// one byte more would have it end the connection.
func TestLargestHeaders(t *testing.T) {
	b := setup(t)
	b.queue("q", nil)
	fits := func(n int) Message {
		m := to("q", "a")
		m.Headers = amqp.Table{"x": strings.Repeat("x", n), "n": int64(1), "f": 1.5, "i": 3, "b": true, "none": nil, "l": []any{int8(1), uint16(2)}}
		return m
	}
	least, most := 1000, 200_000
	for least+1 < most {
		if n := (least + most) / 2; b.pub.Encodable(fits(n)) == nil {
			least = n
		} else {
			most = n
		}
	}
	if err := b.pub.Publish(b.within(), fits(least)); err != nil || b.conn.IsClosed() {
		t.Fatalf("headers of %d bytes: got %v", least, err)
	}
	// The bound is not far below the broker's.
	ch := b.channel()
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	if err := ch.PublishWithContext(t.Context(), "", "q", false, false, fits(least+30).Publishing()); err == nil {
		if err := <-closed; err == nil || err.Code != amqp.FrameError {
			t.Errorf("30 bytes more: got %v, want a frame error", err)
		}
	}
}

// TestMarksMakeRoom has marks of ours that make headers too large which fit without them.
func TestMarksMakeRoom(t *testing.T) {
	b := setup(t)
	b.queue("q", nil)
	m := to("q", "a")
	m.Queue, m.Own = "q", Own{Again: true, Replays: 1, Previous: strings.Repeat("p", 300)}
	m.Headers = amqp.Table{"argsrepr": strings.Repeat("a", 1000), "x": strings.Repeat("x", 131_072-1_700)}
	if err := b.pub.Publish(b.within(), m); err != nil {
		t.Fatal(err)
	}
	raw, ok, err := b.channel().Get("q", true)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if got := Of(raw, "q"); !got.Own.Again || got.Own.Replays != 1 || len(got.Headers["x"].(string)) != 131_072-1_700 {
		t.Errorf("got marks %+v", got.Own)
	}
}

// TestConnectionLost cuts the connection while messages are on their way.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := connect(t, server.URL())
	b.queue("stuck", nil)
	for range 2 { // the first proves the exchange, the second opens the channel
		if err := b.pub.Publish(b.within(), to("stuck", "before")); err != nil {
			t.Fatal(err)
		}
	}
	suspend(server, "suspend", "stuck")
	done := make(chan error, 1)
	go func() { done <- b.pub.Publish(b.within(), to("stuck", "a")) }()
	for end := time.Now().Add(20 * time.Second); !b.pub.busy() && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // until it is on its way
	}
	server.Kill()
	if err := <-done; !errors.Is(err, ErrLost) {
		t.Errorf("got %v, want ErrLost", err)
	}
	if err := b.pub.Publish(b.within(), to("stuck", "b")); !errors.Is(err, ErrLost) {
		t.Errorf("after that: got %v, want ErrLost", err)
	}
}

// busy reports whether anything is on its way.
func (p *Publisher) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lanes {
		if l.line != nil && l.line.busy() {
			return true
		}
	}
	return false
}

// TestNoMajority has a quorum queue without a majority from the start: RabbitMQ confirms nothing on
// a channel whose first message to such a queue waits, whatever else is published on it.
func TestNoMajority(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := connect(t, server.URL())
	b.queue("stuck", amqp.Table{"x-queue-type": "quorum"})
	b.queue("q", nil)
	server.Ctl("eval", "sys:suspend('%2F_stuck').")
	ctx, cancel := context.WithCancelCause(t.Context())
	var waiting sync.WaitGroup
	for i := range 300 { // more than RabbitMQ takes from one connection for a channel that does not go on
		waiting.Go(func() {
			if err := b.pub.Publish(ctx, to("stuck", fmt.Sprint("s", i))); !errors.Is(err, ErrUnconfirmed) {
				t.Errorf("got %v, want ErrUnconfirmed", err)
			}
		})
	}
	for end := time.Now().Add(20 * time.Second); !b.pub.busy() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for i := range 300 {
		if err := b.pub.Publish(b.within(), to("q", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	cancel(errors.New("long enough"))
	waiting.Wait()
	server.Ctl("eval", "sys:resume('%2F_stuck').")
	if err := b.pub.Publish(b.within(), to("stuck", "last")); err != nil {
		t.Error(err)
	}
}

// TestManyDestinations publishes to more destinations than keep their channels.
func TestManyDestinations(t *testing.T) {
	b := setup(t)
	var list []Message
	for i := range 3 * maxLanes {
		name := fmt.Sprint("q", i)
		b.queue(name, amqp.Table{"x-expires": int32(60000)})
		list = append(list, to(name, "a"))
	}
	for range 2 {
		if err := b.pub.Publish(b.within(), list...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTooLarge publishes a body that the broker does not take, while others publish.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	server.Ctl("eval", "application:set_env(rabbit, max_message_size, 2000000), persistent_term:put(max_message_size, 2000000).")
	b := connect(t, server.URL())
	b.queue("q", nil)
	var all sync.WaitGroup
	all.Go(func() {
		for i := range 100 {
			if err := b.pub.Publish(b.within(), to("q", fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		}
	})
	for range 5 {
		m := to("q", "large")
		m.Body = make([]byte, 3_000_000)
		if err := b.pub.Publish(b.within(), m); !Undeliverable(err) || !strings.Contains(err.Error(), "larger than") {
			t.Errorf("got %v, want it undeliverable, and why", err)
		}
	}
	all.Wait()
	if n := b.left("q"); n != 100 {
		t.Errorf("got %d messages in the queue, want 100, each once", n)
	}
}
