package devbroker

import (
	"crypto/rand"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// brokerURLVariable names a real RabbitMQ that the conformance table is to be run against as well.
const brokerURLVariable = "ONCEOVER_TEST_AMQP_URL"

// conformance is what an AMQP broker must do for us. Every check runs against the embedded broker and, where
// there is one, against RabbitMQ: what RabbitMQ does is right.
var conformance = []struct {
	name  string
	check func(*testing.T, *bench)
}{
	{"default exchange routes by queue name", checkDefaultExchange},
	{"direct exchange", checkDirectExchange},
	{"fanout exchange", checkFanoutExchange},
	{"topic exchange", checkTopicExchange},
	{"two matching bindings deliver once", checkDeliveredOnce},
	{"exchange to exchange", checkExchangeToExchange},
	{"server-named queue", checkServerNamedQueue},
	{"passive declaration", checkPassive},
	{"declaration with other arguments is 406", checkInequivalent},
	{"declaration with invalid arguments is 406", checkInvalidArguments},
	{"exclusive queue", checkExclusiveQueue},
	{"exclusive consumer", checkExclusiveConsumer},
	{"auto-delete queue", checkAutoDeleteQueue},
	{"auto-delete exchange", checkAutoDeleteExchange},
	{"queue.delete", checkQueueDelete},
	{"exchange.delete", checkExchangeDelete},
	{"queue.purge", checkPurge},
	{"what is missing is 404", checkMissing},
	{"unknown delivery tag is 406", checkUnknownTag},
	{"consumer tag in use is 530", checkConsumerTag},
	{"a channel error leaves other channels alone", checkChannelsApart},
	{"what is not implemented is 540", checkNotImplemented},
	{"unknown virtual host is 530", checkVhost},
	{"confirms", checkConfirms},
	{"mandatory return comes before the confirm", checkMandatory},
	{"properties and headers arrive as sent", checkProperties},
	{"empty and large bodies", checkBodies},
	{"basic.get", checkGet},
	{"no-ack consumer", checkNoAck},
	{"nack requeues to the original position", checkRequeueOrder},
	{"multiple ack and nack", checkMultiple},
	{"closing the channel requeues", checkChannelClose},
	{"losing the connection requeues", checkConnectionLoss},
	{"cancel keeps what was delivered", checkCancel},
	{"consumers take turns", checkTurns},
	{"prefetch for each consumer", checkPrefetch},
	{"prefetch for the channel, raised while consuming", checkGlobalPrefetch},
	{"consumer is told when its queue goes", checkCancelNotify},
	{"queue TTL dead-letters as expired", checkQueueTTL},
	{"message expiration dead-letters as expired", checkExpiration},
	{"reject dead-letters, and x-death counts", checkRejected},
	{"a full queue drops its head", checkMaxLength},
	{"a circle of expiries is broken", checkDeathCycle},
	{"x-expires deletes an unused queue", checkQueueExpires},
	{"priorities", checkPriorities},
	{"heartbeats", checkHeartbeats},
	{"a silent client is disconnected", checkSilentClient},
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	s := listen(t)
	t.Run("conformance", func(t *testing.T) { runConformance(t, s.URL()) })
	waitFor(t, "every connection and every exclusive or deleted queue to go", func() bool { return s.Stats() == Stats{} })
}

func TestRabbitMQ(t *testing.T) {
	t.Parallel()
	url := os.Getenv(brokerURLVariable)
	if url == "" {
		t.Skip(brokerURLVariable + " names no RabbitMQ to compare with")
	}
	runConformance(t, url)
}

func runConformance(t *testing.T, url string) {
	for _, c := range conformance {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.check(t, newBench(t, url))
		})
	}
}

// listen starts a broker for the length of the test.
func listen(t testing.TB) *Server {
	t.Helper()
	s, err := Listen(zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// patience is how long a test waits for what must come. Nothing passes by it running out.
const patience = time.Minute

// waitFor polls a state that announces itself by no event.
func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

// bench is one check's connection to a broker that it may share, with names of its own.
type bench struct {
	t      *testing.T
	url    string
	conn   *amqp.Connection
	ch     *amqp.Channel
	prefix string
	names  []string // of queues and exchanges to be removed
}

func newBench(t *testing.T, url string) *bench {
	t.Helper()
	b := &bench{t: t, url: url, prefix: "onceover.test." + strings.ToLower(rand.Text()) + "."}
	b.conn = b.dial()
	b.ch = b.channel(b.conn)
	t.Cleanup(b.remove)
	return b
}

func (b *bench) dial() *amqp.Connection {
	b.t.Helper()
	conn, err := amqp.Dial(b.url)
	if err != nil {
		b.t.Fatalf("dial: %v", err)
	}
	b.t.Cleanup(func() { conn.Close() })
	return conn
}

func (b *bench) channel(conn *amqp.Connection) *amqp.Channel {
	b.t.Helper()
	ch, err := conn.Channel()
	if err != nil {
		b.t.Fatalf("open channel: %v", err)
	}
	return ch
}

// remove deletes what the check made, with a connection of its own since the check may have closed all.
func (b *bench) remove() {
	b.conn.Close()
	conn, err := amqp.Dial(b.url)
	if err != nil {
		b.t.Errorf("clean up: %v", err)
		return
	}
	defer conn.Close()
	for _, name := range b.names {
		ch := b.channel(conn)
		if _, err := ch.QueueDelete(name, false, false, false); err != nil {
			ch = b.channel(conn)
		}
		if err := ch.ExchangeDelete(name, false, false); err != nil {
			ch = b.channel(conn)
		}
		ch.Close()
	}
}

// name returns a name of the check's own, to be removed in the end.
func (b *bench) name(suffix string) string {
	name := b.prefix + suffix
	if !slices.Contains(b.names, name) {
		b.names = append(b.names, name)
	}
	return name
}

// queue declares a durable queue and returns its name.
func (b *bench) queue(suffix string, args amqp.Table) string {
	b.t.Helper()
	q, err := b.ch.QueueDeclare(b.name(suffix), true, false, false, false, args)
	b.must(err)
	return q.Name
}

func (b *bench) exchange(suffix, kind string) string {
	b.t.Helper()
	name := b.name(suffix)
	b.must(b.ch.ExchangeDeclare(name, kind, true, false, false, false, nil))
	return name
}

func (b *bench) bind(queue, key, exchange string, args amqp.Table) {
	b.t.Helper()
	b.must(b.ch.QueueBind(queue, key, exchange, false, args))
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) confirms() {
	b.t.Helper()
	b.must(b.ch.Confirm(false))
}

// publish publishes texts with confirms, one after the other.
func (b *bench) publish(exchange, key string, bodies ...string) {
	b.t.Helper()
	for _, body := range bodies {
		if !b.send(exchange, key, amqp.Publishing{Body: []byte(body)}) {
			b.t.Fatalf("publish %q: got a nack, want an ack", body)
		}
	}
}

// send publishes with a confirm and tells whether it was positive.
func (b *bench) send(exchange, key string, m amqp.Publishing) bool {
	b.t.Helper()
	b.confirms()
	confirm, err := b.ch.PublishWithDeferredConfirm(exchange, key, false, false, m)
	b.must(err)
	select {
	case <-confirm.Done():
		return confirm.Acked()
	case <-time.After(patience):
		b.t.Fatal("no confirm")
		return false
	}
}

func (b *bench) consume(ch *amqp.Channel, queue string) <-chan amqp.Delivery {
	b.t.Helper()
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	b.must(err)
	return deliveries
}

func (b *bench) next(deliveries <-chan amqp.Delivery) amqp.Delivery {
	b.t.Helper()
	return receive(b.t, deliveries, "a delivery")
}

// wantNext takes deliveries and compares their bodies.
func (b *bench) wantNext(deliveries <-chan amqp.Delivery, bodies ...string) (got []amqp.Delivery) {
	b.t.Helper()
	for _, want := range bodies {
		d := b.next(deliveries)
		if string(d.Body) != want {
			b.t.Fatalf("delivery: got %q, want %q", d.Body, want)
		}
		got = append(got, d)
	}
	return got
}

// wantReady waits until the queue holds n messages ready to be delivered.
func (b *bench) wantReady(queue string, n int) {
	b.t.Helper()
	waitFor(b.t, "the queue's length", func() bool {
		q, err := b.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		b.must(err)
		return q.Messages == n
	})
}

// drain gets all messages of the queue, in order.
func (b *bench) drain(queue string) (bodies []string) {
	b.t.Helper()
	for {
		d, ok, err := b.ch.Get(queue, true)
		b.must(err)
		if !ok {
			return bodies
		}
		bodies = append(bodies, string(d.Body))
	}
}

func (b *bench) wantDrained(queue string, want ...string) {
	b.t.Helper()
	if got := b.drain(queue); !slices.Equal(got, want) {
		b.t.Errorf("messages in %s: got %q, want %q", strings.TrimPrefix(queue, b.prefix), got, want)
	}
}

// receive takes a value that must come.
func receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v, ok := <-from:
		if !ok {
			t.Fatalf("got a closed channel, want %s", what)
		}
		return v
	case <-time.After(patience):
		t.Fatalf("waited %s in vain for %s", patience, what)
		panic("unreachable")
	}
}

// refused runs do on a channel of its own, which must close with the code, and the connection with it only
// if the code is a hard error's. The broker may answer do by closing, or close afterwards.
func (b *bench) refused(code int, do func(*amqp.Channel) error) {
	b.t.Helper()
	conn := b.dial()
	ch := b.channel(conn)
	channelClosed := ch.NotifyClose(make(chan *amqp.Error, 1))
	connectionClosed := conn.NotifyClose(make(chan *amqp.Error, 1))
	err := do(ch)
	var got *amqp.Error
	if hard := code >= 500; hard {
		got = receive(b.t, connectionClosed, "the connection to be closed")
	} else {
		got = receive(b.t, channelClosed, "the channel to be closed")
		if conn.IsClosed() {
			b.t.Errorf("the connection was closed, want the channel only (%v)", got)
		} else {
			b.channel(conn).Close()
		}
	}
	if got.Code != code {
		b.t.Errorf("got %d %s (and from the method %v), want code %d", got.Code, got.Reason, err, code)
	}
}
