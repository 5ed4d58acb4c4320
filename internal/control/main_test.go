package control

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/devbroker"
	"onceover/internal/remote"
	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// patience is how long anything may take that a test waits for.
const patience = 30 * time.Second

// aWhile is how long all workers have to answer, where nothing tells that all have.
const aWhile = 3 * time.Second

// broker starts a broker in this process.
func broker(t *testing.T) string {
	t.Helper()
	s, err := devbroker.Listen(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.URL()
}

// client returns a client that waits for replies as long as a test waits for anything: what ends earlier has a reason.
func client(t *testing.T, urls ...string) *Client {
	t.Helper()
	c := New("test", urls)
	c.Wait = patience
	t.Cleanup(c.Close)
	return c
}

// channel opens a connection of the test's own.
func channel(t *testing.T, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() }) // the test may have closed it
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// wait waits for an event, or fails.
func wait[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			var none T
			return none
		}
		return v
	case <-time.After(patience):
		t.Fatalf("got no %s in %v", what, patience)
		panic("unreachable")
	}
}

// asked is a request as a worker gets it.
type asked struct {
	Method      string          `json:"method"`
	Arguments   map[string]any  `json:"arguments"`
	Destination []string        `json:"destination"`
	Ticket      string          `json:"ticket"`
	ReplyTo     json.RawMessage `json:"reply_to"`
	amqp.Delivery
}

// played are workers that the test plays: it takes their requests and says what they answer.
type played struct {
	t        *testing.T
	ch       *amqp.Channel
	requests chan asked
}

func play(t *testing.T, url string) *played {
	t.Helper()
	p := &played{t, channel(t, url), make(chan asked, 100)}
	if err := p.ch.ExchangeDeclare(controlExchange, "fanout", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	q, err := p.ch.QueueDeclare("played.celery.pidbox", false, true, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.ch.QueueBind(q.Name, "", controlExchange, false, nil); err != nil {
		t.Fatal(err)
	}
	deliveries, err := p.ch.Consume(q.Name, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for d := range deliveries {
			a := asked{Delivery: d}
			if err := json.Unmarshal(d.Body, &a); err != nil {
				t.Errorf("a worker cannot read the request %q: %v", d.Body, err)
			}
			p.requests <- a
		}
	})
	t.Cleanup(func() {
		p.ch.Close()
		reading.Wait()
	})
	return p
}

// next is the next request.
func (p *played) next() asked {
	p.t.Helper()
	return wait(p.t, "request", p.requests)
}

// reply answers a request; change may be nil.
func (p *played) reply(to asked, body string, change func(*amqp.Publishing)) {
	p.t.Helper()
	var at struct {
		Exchange   string `json:"exchange"`
		RoutingKey string `json:"routing_key"`
	}
	if err := json.Unmarshal(to.ReplyTo, &at); err != nil {
		p.t.Fatalf("the request %s wants no reply: %v", to.Body, err)
	}
	m := amqp.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8", Body: []byte(body),
		Headers: amqp.Table{"ticket": to.Ticket, "clock": int64(7)},
	}
	if change != nil {
		change(&m)
	}
	if err := p.ch.Publish(at.Exchange, at.RoutingKey, false, false, m); err != nil {
		p.t.Fatal(err)
	}
}

// answers is what Ask returns.
type answers struct {
	replies map[string]json.RawMessage
	err     error
}

// ask asks while the test goes on.
func ask(ctx context.Context, c *Client, command string, destination ...string) <-chan answers {
	out := make(chan answers, 1)
	go func() {
		replies, err := c.Ask(ctx, command, nil, destination)
		out <- answers{replies, err}
	}()
	return out
}

// want compares replies with JSON.
func (a answers) want(t *testing.T, want string) {
	t.Helper()
	got, err := json.Marshal(a.replies)
	if err != nil || string(got) != want {
		t.Errorf("got the replies %.300s, %v, want %s", got, err, want)
	}
}

// node is one of our workers, which holds a job and consumes queues.
type node struct {
	remote.Node // the methods that no test calls
	problems    []string

	mu     sync.Mutex
	queues map[string]remote.Queue
	said   []string
}

func (n *node) Jobs() remote.Jobs {
	return remote.Jobs{Active: []remote.Job{{Started: time.Unix(1700000000, 5e8), Request: &celery.Request{
		ID: "running", Task: "image.analyze", Kwargs: map[string]json.RawMessage{"image_url": json.RawMessage(`"https://h/안녕.jpg"`)},
	}}}}
}
func (n *node) Problems() []string     { return n.problems }
func (n *node) Totals() map[string]int { return map[string]int{"image.analyze": 4, "x": 1} }
func (n *node) Pool() remote.Pool      { return remote.Pool{Size: 4, Prefetch: 8} }
func (n *node) Broker() remote.Broker  { return remote.Broker{Host: "h", Port: 1} }
func (n *node) Queues() (out []remote.Queue) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, q := range n.queues {
		out = append(out, q)
	}
	return out
}
func (n *node) AddConsumer(q remote.Queue) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queues[q.Name] = q
	n.said = append(n.said, fmt.Sprintf("add %s %s %s %s", q.Name, q.Exchange, q.ExchangeType, q.RoutingKey))
	return nil
}
func (n *node) CancelConsumer(queue string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.queues, queue)
	n.said = append(n.said, "cancel "+queue)
}

func (n *node) told() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.said...)
}

// start runs a worker of ours, as far as remote control goes.
func start(t *testing.T, url, name string, queues ...string) *node {
	t.Helper()
	n := &node{queues: map[string]remote.Queue{}}
	for _, q := range queues {
		n.queues[q] = remote.Queue{Name: q}
	}
	r := remote.New(remote.Config{NodeName: name, Dial: func(context.Context) (*amqp.Connection, error) { return amqp.Dial(url) }}, n, zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	wait(t, "worker "+name, r.Ready())
	return n
}

// proxied is a broker behind a proxy.
func proxied(t *testing.T, direct string) (*testenv.Proxy, string) {
	t.Helper()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	p := testenv.NewProxy(t, u.Host)
	return p, p.URL(direct)
}

// through is the URL of a broker behind something that passes on those methods of a client for which pass returns true, as it has changed
// them.
func through(t *testing.T, direct string, pass func(method []byte) bool) string {
	t.Helper()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	target := u.Host
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // closed
			}
			server, err := net.Dial("tcp4", target)
			if err != nil {
				client.Close()
				continue
			}
			passing.Go(func() {
				defer server.Close()
				passFrames(server, client, pass)
			})
			passing.Go(func() {
				defer client.Close()
				io.Copy(client, server) // ends with the connection
			})
		}
	})
	t.Cleanup(func() { // after the clients have ended
		l.Close()
		passing.Wait()
	})
	u.Host = l.Addr().String()
	return u.String()
}

// passFrames passes on what a client sends, until it ends (AMQP 0-9-1, 4.2.3).
func passFrames(to io.Writer, from io.Reader, pass func(method []byte) bool) {
	buffered := bufio.NewReader(from)
	if _, err := io.CopyN(to, buffered, 8); err != nil { // the protocol header
		return
	}
	for {
		head := make([]byte, 7) // type, channel, size
		if _, err := io.ReadFull(buffered, head); err != nil {
			return
		}
		rest := make([]byte, binary.BigEndian.Uint32(head[3:])+1) // and the end
		if _, err := io.ReadFull(buffered, rest); err != nil {
			return
		}
		if head[0] == 1 && !pass(rest) {
			continue
		}
		if _, err := to.Write(append(head, rest...)); err != nil {
			return
		}
	}
}
