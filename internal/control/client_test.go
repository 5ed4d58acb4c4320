package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/rabbit"
)

// TestRequest is what kombu's mailbox sends, and where.
func TestRequest(t *testing.T) {
	t.Parallel()
	url := broker(t)
	p, c := play(t, url), client(t, url)
	began := time.Now()
	all := ask(t.Context(), c, "ping", "a@h")
	got := p.next()
	if diff := cmp.Diff(map[string]any{}, got.Arguments); got.Method != "ping" || diff != "" || !cmp.Equal(got.Destination, []string{"a@h"}) || len(got.Ticket) != 36 {
		t.Errorf("got the request %s", got.Body)
	}
	expires, _ := got.Headers["expires"].(float64)
	if left := time.UnixMilli(int64(expires * 1000)).Sub(began); left < patience-time.Second || left > patience+5*time.Second {
		t.Errorf("got a request that expires %v after it was made, want %v", left, patience)
	}
	if got.Headers["clock"] != int64(1) || got.ContentType != "application/json" || got.ContentEncoding != "utf-8" || got.DeliveryMode != amqp.Transient {
		t.Errorf("got headers %v, content %s %s, delivery mode %d", got.Headers, got.ContentType, got.ContentEncoding, got.DeliveryMode)
	}
	p.reply(got, `{"a@h":{"ok":"pong"}}`, nil)
	a := wait(t, "answers", all)
	if a.want(t, `{"a@h":{"ok":"pong"}}`); a.err != nil {
		t.Error(a.err)
	}

	if err := c.Tell(t.Context(), "revoke", map[string]any{"task_id": "x"}, nil); err != nil {
		t.Error(err)
	}
	got = p.next()
	const want = `{"arguments":{"task_id":"x"},"destination":null,"matcher":null,"method":"revoke","pattern":null}`
	if string(got.Body) != want {
		t.Errorf("got the request %s, want %s", got.Body, want)
	}
	if got.Headers["clock"] != int64(9) { // the reply was sent at 7 and received at 8
		t.Errorf("got the clock %v, want 9", got.Headers["clock"])
	}
}

// TestReplies has others reply what makes no sense, or what was not asked, before the two that were asked do.
func TestReplies(t *testing.T) {
	t.Parallel()
	ticket := func(v any) func(*amqp.Publishing) {
		return func(m *amqp.Publishing) { m.Headers["ticket"] = v }
	}
	for name, tt := range map[string]struct {
		body   string
		change func(*amqp.Publishing)
	}{
		"nothing":                   {},
		"no JSON":                   {body: "\x00\xff{"},
		"no object":                 {body: `["a@h"]`},
		"null":                      {body: `null`},
		"no node":                   {body: `{}`},
		"empty node":                {body: `{"":{"ok":1}}`},
		"name too long":             {body: `{"` + strings.Repeat("n", 256) + `":{"ok":1}}`},
		"cut off":                   {body: `{"a@h":{"ok":`},
		"pickle":                    {body: `{"a@h":1}`, change: func(m *amqp.Publishing) { m.ContentType = "application/x-python-serialize" }},
		"no content type":           {body: `{"a@h":1}`, change: func(m *amqp.Publishing) { m.ContentType = "" }},
		"ticket of others":          {body: `{"a@h":1}`, change: ticket("other")},
		"no ticket":                 {body: `{"a@h":1}`, change: ticket(nil)},
		"ticket that is a number":   {body: `{"a@h":1}`, change: ticket(int32(1))},
		"no headers":                {body: `{"a@h":1}`, change: func(m *amqp.Publishing) { m.Headers = nil }},
		"a node that was not asked": {body: `{"c@h":1}`},
		"huge without a name":       {body: `[` + strings.Repeat(" ", maxReply) + `]`},
		"huge name":                 {body: `{"` + strings.Repeat("n", maxReply) + `":1}`},
		"clock that is a text":      {body: `x`, change: func(m *amqp.Publishing) { m.Headers["clock"] = "9" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := broker(t)
			p, c := play(t, url), client(t, url)
			all := ask(t.Context(), c, "ping", "a@h", "b@h")
			q := p.next()
			p.reply(q, tt.body, tt.change)
			p.reply(q, `{"a@h":{"ok":"pong"}}`, nil)
			p.reply(q, `{"b@h":{"error":"KeyError('ping')"}}`, nil)
			a := wait(t, "answers", all)
			if a.want(t, `{"a@h":{"ok":"pong"},"b@h":{"error":"KeyError('ping')"}}`); a.err != nil {
				t.Error(a.err)
			}
			if got := Refusal(a.replies["b@h"]); got != "KeyError('ping')" {
				t.Errorf("got the refusal %q", got)
			}
		})
	}
}

// TestTwice has a node answer twice: the first answer counts, and the other node is waited for.
func TestTwice(t *testing.T) {
	t.Parallel()
	url := broker(t)
	p, c := play(t, url), client(t, url)
	all := ask(t.Context(), c, "ping", "a@h", "b@h")
	q := p.next()
	for _, body := range []string{`{"a@h":1}`, `{"a@h":2}`, `{"b@h":3}`} {
		p.reply(q, body, nil)
	}
	a := wait(t, "answers", all)
	if a.want(t, `{"a@h":1,"b@h":3}`); a.err != nil {
		t.Error(a.err)
	}
}

// TestHuge has a node say too much at once, and several too much together.
func TestHuge(t *testing.T) {
	t.Parallel()
	url := broker(t)
	p, c := play(t, url), client(t, url)
	all := ask(t.Context(), c, "active", "a@h")
	p.reply(p.next(), `{"a@h":"`+strings.Repeat("x", maxReply)+`"}`, nil)
	a := wait(t, "answers", all)
	a.want(t, fmt.Sprintf(`{"a@h":{"error":"the reply has %d bytes: expected at most %d"}}`, maxReply+10, maxReply))

	g := newGathering(nil)
	body := []byte(`"` + strings.Repeat("x", maxReply-10) + `"`)
	for i := range maxNodes + 5 {
		g.take(fmt.Sprint(i), body)
	}
	size, refused := 0, 0
	replies := g.replies()
	for _, answer := range replies {
		size += len(answer)
		if Refusal(answer) != "" {
			refused++
		}
	}
	if size > maxReplies+maxNodes*100 || len(replies) != maxNodes || refused != maxNodes-maxReplies/len(body) {
		t.Errorf("got %d nodes, %d of which are refused, with %d bytes, want %d nodes and at most %d bytes", len(replies), refused, size, maxNodes, maxReplies)
	}
}

// TestLate has the reply to a question come during the next one.
func TestLate(t *testing.T) {
	t.Parallel()
	url := broker(t)
	p, c := play(t, url), client(t, url)
	ctx, give := context.WithCancel(t.Context())
	first := ask(ctx, c, "ping", "a@h", "b@h")
	late := p.next()
	p.reply(late, `{"b@h":{"ok":1}}`, nil)
	second := ask(t.Context(), c, "ping", "b@h") // its reply has come behind that of the first question
	p.reply(p.next(), `{"b@h":1}`, nil)
	wait(t, "answers", second)
	give()
	a := wait(t, "answers of a question that was given up", first)
	if a.want(t, `{"b@h":{"ok":1}}`); a.err != nil {
		t.Error(a.err)
	}
	third := ask(t.Context(), c, "stats", "a@h")
	q := p.next()
	p.reply(late, `{"a@h":"late"}`, nil)
	p.reply(q, `{"a@h":"in time"}`, nil)
	wait(t, "answers", third).want(t, `{"a@h":"in time"}`)
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if n := len(c.link.waiting); n != 0 {
		t.Errorf("got %d questions that nobody waits for any more, want none kept", n)
	}
}

// TestNobody asks where there is no worker, for as long as it says.
func TestNobody(t *testing.T) {
	t.Parallel()
	c := client(t, broker(t))
	c.Wait = 50 * time.Millisecond
	began := time.Now()
	a := wait(t, "answers", ask(t.Context(), c, "ping"))
	if a.want(t, `{}`); a.err != nil {
		t.Error(a.err)
	}
	if took := time.Since(began); took < c.Wait {
		t.Errorf("got an answer after %v, want what comes in %v", took, c.Wait)
	}
	workers, err := c.Workers(t.Context())
	if err != nil || workers == nil || len(workers) != 0 {
		t.Errorf("got %v, %v, want no workers", workers, err)
	}
}

// TestTogether asks many things at the same time over one connection.
func TestTogether(t *testing.T) {
	t.Parallel()
	url := broker(t)
	p, c := play(t, url), client(t, url)
	const n = 50
	var all []<-chan answers
	for i := range n {
		all = append(all, ask(t.Context(), c, fmt.Sprint("command", i), "a@h"))
	}
	for range n {
		q := p.next()
		p.reply(q, fmt.Sprintf(`{"a@h":%q}`, q.Method), nil)
	}
	for i, answers := range all {
		wait(t, "answers", answers).want(t, fmt.Sprintf(`{"a@h":"command%d"}`, i))
	}
}

// TestConnectionLost cuts the connection while one of two workers has answered. The next question connects again.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	direct := broker(t)
	proxy, url := proxied(t, direct)
	p, c := play(t, direct), client(t, url)
	first := ask(t.Context(), c, "ping", "a@h", "b@h")
	q := p.next()
	p.reply(q, `{"a@h":1}`, nil)
	other := ask(t.Context(), c, "ping", "a@h") // its reply has come behind that
	p.reply(p.next(), `{"a@h":2}`, nil)
	wait(t, "answers", other)
	proxy.Cut()
	a := wait(t, "answers", first)
	if a.want(t, `{"a@h":1}`); !errors.Is(a.err, ErrLost) {
		t.Errorf("got %v, want %v", a.err, ErrLost)
	}
	proxy.Restore()
	again := ask(t.Context(), c, "ping", "a@h")
	p.reply(p.next(), `{"a@h":3}`, nil)
	a = wait(t, "answers", again)
	if a.want(t, `{"a@h":3}`); a.err != nil {
		t.Error(a.err)
	}
}

// TestExchangeGone has somebody delete the exchange of the requests. The broker closes the channel over the next one.
func TestExchangeGone(t *testing.T) {
	t.Parallel()
	url := broker(t)
	c := client(t, url)
	if err := c.Tell(t.Context(), "heartbeat", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := channel(t, url).ExchangeDelete(controlExchange, false, false); err != nil {
		t.Fatal(err)
	}
	if err := c.Tell(t.Context(), "heartbeat", nil, nil); !errors.Is(err, ErrLost) {
		t.Errorf("got %v, want %v", err, ErrLost)
	}
	if err := c.Tell(t.Context(), "heartbeat", nil, nil); err != nil {
		t.Errorf("got %v, want a new connection that declares the exchange", err)
	}
}

// TestReplyQueueGone has the reply queue deleted while somebody waits for replies in it: the question ends, and the next connects again.
func TestReplyQueueGone(t *testing.T) {
	t.Parallel()
	url := broker(t)
	p, c := play(t, url), client(t, url)
	all := ask(t.Context(), c, "ping", "a@h")
	p.next()
	l, err := c.connected(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closed := l.conn.NotifyClose(make(chan *amqp.Error, 1))
	ch, err := l.conn.Channel() // the queue is exclusive to this connection
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDelete(l.oid+"."+replyExchange, false, false, false); err != nil {
		t.Fatal(err)
	}
	if a := wait(t, "answers", all); a.err == nil {
		t.Error("got no error, want that the connection is of no use any more")
	}
	wait(t, "end of the connection", closed)
	again := ask(t.Context(), c, "ping", "a@h")
	p.reply(p.next(), `{"a@h":1}`, nil)
	wait(t, "answers", again).want(t, `{"a@h":1}`)
}

// TestSilentBroker has a broker that does not answer any more.
func TestSilentBroker(t *testing.T) {
	t.Parallel()
	proxy, url := proxied(t, broker(t))
	c := client(t, url)
	if err := c.Tell(t.Context(), "heartbeat", nil, nil); err != nil {
		t.Fatal(err)
	}
	proxy.Pause()
	c.Wait = 50 * time.Millisecond
	if err := c.Tell(t.Context(), "heartbeat", nil, nil); !errors.Is(err, ErrUnconfirmed) {
		t.Errorf("Tell: got %v, want %v", err, ErrUnconfirmed)
	}
	if a := wait(t, "answers", ask(t.Context(), c, "ping")); !errors.Is(a.err, ErrUnconfirmed) {
		t.Errorf("Ask: got %v, want %v", a.err, ErrUnconfirmed)
	}
	began := time.Now()
	c.Close()
	if took := time.Since(began); took > closeTime+5*time.Second {
		t.Errorf("Close took %v, want it not to wait for a broker that is silent", took)
	}
}

// TestSilentHandshake has a broker that takes connections and says nothing: a question waits as long as its context, and Close not for it.
func TestSilentHandshake(t *testing.T) {
	t.Parallel()
	proxy, url := proxied(t, broker(t))
	proxy.Pause()
	c := client(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	all := ask(ctx, c, "ping")
	cancel()
	if a := wait(t, "answers", all); !errors.Is(a.err, rabbit.ErrNoConnection) || !errors.Is(a.err, context.Canceled) {
		t.Errorf("got %v, want %v as the context was cancelled", a.err, rabbit.ErrNoConnection)
	}
	began := time.Now()
	c.Close()
	if took := time.Since(began); took > openTime/2 {
		t.Errorf("Close took %v, want it to end the attempt to connect", took)
	}
}

// TestSilentDeclare has a broker that does not answer what is declared: Close does not wait for it.
func TestSilentDeclare(t *testing.T) {
	t.Parallel()
	declared := make(chan struct{}, 10)
	url := through(t, broker(t), func(method []byte) bool {
		if bytes.HasPrefix(method, []byte{0, 40, 0, 10}) { // exchange.declare
			declared <- struct{}{}
			return false
		}
		return true
	})
	c := client(t, url)
	all := ask(t.Context(), c, "ping")
	wait(t, "declaration", declared)
	began := time.Now()
	c.Close()
	if took := time.Since(began); took > openTime/2 {
		t.Errorf("Close took %v, want it to end the attempt to connect", took)
	}
	if a := wait(t, "answers", all); !errors.Is(a.err, rabbit.ErrNoConnection) {
		t.Errorf("got %v, want %v", a.err, rabbit.ErrNoConnection)
	}
}

// TestNoBroker says why there is no connection, without the password, and does not try again at once.
func TestNoBroker(t *testing.T) {
	t.Parallel()
	proxy, url := proxied(t, broker(t))
	proxy.Cut()
	c := client(t, strings.Replace(url, "guest:guest", "guest:secret", 1))
	_, err := c.Ask(t.Context(), "ping", nil, nil)
	if !errors.Is(err, rabbit.ErrNoConnection) || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), proxy.Addr()) {
		t.Errorf("got %v, want %v with the address and without the password", err, rabbit.ErrNoConnection)
	}
	tried := c.tried
	if err := c.Tell(t.Context(), "ping", nil, nil); !errors.Is(err, rabbit.ErrNoConnection) {
		t.Errorf("got %v, want %v", err, rabbit.ErrNoConnection)
	}
	if time.Since(tried) < dialPause && c.tried != tried {
		t.Error("the broker was tried again at once")
	}
	c.Close()
	if _, err := c.Workers(t.Context()); !errors.Is(err, rabbit.ErrNoConnection) || !strings.Contains(err.Error(), "closed") {
		t.Errorf("got %v, want that the client is closed", err)
	}
}

// TestForeignFlags has exchanges that others have declared as durable.
func TestForeignFlags(t *testing.T) {
	t.Parallel()
	url := broker(t)
	ch := channel(t, url)
	for name, kind := range map[string]string{controlExchange: "fanout", replyExchange: "direct"} {
		if err := ch.ExchangeDeclare(name, kind, true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := client(t, url).Tell(t.Context(), "ping", nil, nil); err != nil {
		t.Error(err)
	}
}

// TestClose ends what is under way, from several goroutines.
func TestClose(t *testing.T) {
	t.Parallel()
	url := broker(t)
	p, c := play(t, url), client(t, url)
	all := ask(t.Context(), c, "ping", "a@h")
	p.next()
	var closing sync.WaitGroup
	for range 4 {
		closing.Go(c.Close)
	}
	closing.Wait()
	if a := wait(t, "answers", all); !errors.Is(a.err, ErrLost) {
		t.Errorf("got %v, want %v", a.err, ErrLost)
	}
}

// TestUnwritable has arguments that JSON does not have.
func TestUnwritable(t *testing.T) {
	t.Parallel()
	c := client(t, broker(t))
	if err := c.Tell(t.Context(), "x", map[string]any{"f": func() {}}, nil); err == nil || !strings.Contains(err.Error(), "arguments of x") {
		t.Errorf("got %v, want an error about the arguments", err)
	}
}
