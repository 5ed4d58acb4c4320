package devbroker

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// The checks of the conformance table on exchanges, queues and refusals.

func checkDefaultExchange(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.queue("other", nil)
	b.publish("", q, "one", "two")
	b.publish("", b.name("nobody"), "lost")
	b.wantDrained(q, "one", "two")
	b.wantDrained(b.name("other"))
}

func checkDirectExchange(t *testing.T, b *bench) {
	x, red, both := b.exchange("x", "direct"), b.queue("red", nil), b.queue("both", nil)
	b.bind(red, "red", x, nil)
	b.bind(both, "red", x, nil)
	b.bind(both, "blue", x, nil)
	b.publish(x, "red", "1")
	b.publish(x, "blue", "2")
	b.publish(x, "re", "3")
	b.publish(x, "", "4")
	b.wantDrained(red, "1")
	b.wantDrained(both, "1", "2")
}

func checkFanoutExchange(t *testing.T, b *bench) {
	x, q1, q2, q3 := b.exchange("x", "fanout"), b.queue("1", nil), b.queue("2", nil), b.queue("3", nil)
	b.bind(q1, "", x, nil)
	b.bind(q2, "key", x, nil)
	b.publish(x, "any", "m")
	b.wantDrained(q1, "m")
	b.wantDrained(q2, "m")
	b.wantDrained(q3)
}

func checkTopicExchange(t *testing.T, b *bench) {
	x := b.exchange("x", "topic")
	keys := []string{"", "a", "b", "a.b", "a.b.c", "a.", ".", "a..b", "b.a", "a.x.y.b", "*", "#"}
	for pattern, want := range map[string]string{
		"":        "||",
		"#":       "||a|b|a.b|a.b.c|a.|.|a..b|b.a|a.x.y.b|*|#|",
		"*":       "|a|b|*|#|",
		"a":       "|a|",
		"a.*":     "|a.b|a.|",
		"a.#":     "|a|a.b|a.b.c|a.|a..b|a.x.y.b|",
		"#.b":     "|b|a.b|a..b|a.x.y.b|",
		"a.#.b":   "|a.b|a..b|a.x.y.b|",
		"*.*":     "|a.b|a.|.|b.a|",
		"#.#":     "||a|b|a.b|a.b.c|a.|.|a..b|b.a|a.x.y.b|*|#|",
		"*.#.b.*": "|a.b.c|",
		"#.a":     "|a|b.a|",
		"a..b":    "|a..b|",
		"#.*.#.*": "|a.b|a.b.c|a.|.|a..b|b.a|a.x.y.b|",
	} {
		q := b.queue("pattern "+pattern, nil)
		b.bind(q, pattern, x, nil)
		defer func() {
			var got strings.Builder
			for _, body := range b.drain(q) {
				got.WriteString("|" + body)
			}
			if got.WriteString("|"); got.String() != want {
				t.Errorf("pattern %q: got keys %s, want %s", pattern, got.String(), want)
			}
		}()
	}
	b.publish(x, "", "")
	for _, key := range keys[1:] {
		b.publish(x, key, key)
	}
}

func checkDeliveredOnce(t *testing.T, b *bench) {
	x, q := b.exchange("x", "topic"), b.queue("q", nil)
	b.bind(q, "a.*", x, nil)
	b.bind(q, "*.b", x, nil)
	b.bind(q, "a.*", x, nil) // again
	b.publish(x, "a.b", "m")
	b.wantDrained(q, "m")
}

func checkExchangeToExchange(t *testing.T, b *bench) {
	first, second, q := b.exchange("first", "topic"), b.exchange("second", "direct"), b.queue("q", nil)
	b.must(b.ch.ExchangeBind(second, "jobs.*", first, false, nil))
	b.must(b.ch.ExchangeBind(first, "jobs.1", second, false, nil)) // a circle
	b.bind(q, "jobs.1", second, nil)
	b.publish(first, "jobs.1", "1")
	b.publish(first, "jobs.2", "2")
	b.publish(first, "other", "3")
	b.wantDrained(q, "1")
}

func checkServerNamedQueue(t *testing.T, b *bench) {
	q, err := b.ch.QueueDeclare("", false, false, true, false, nil)
	b.must(err)
	if !strings.HasPrefix(q.Name, "amq.gen-") {
		t.Errorf("name: got %q, want amq.gen-...", q.Name)
	}
	b.publish("", q.Name, "m")
	b.wantDrained(q.Name, "m")
	b.refused(404, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive("", false, false, true, false, nil)
		return err
	})
}

func checkPassive(t *testing.T, b *bench) {
	q := b.queue("q", amqp.Table{"x-max-length": int32(10)})
	b.publish("", q, "1", "2")
	b.consume(b.ch, b.queue("other", nil))
	got, err := b.ch.QueueDeclarePassive(q, false, true, false, false, nil) // the flags do not count
	b.must(err)
	if got.Name != q || got.Messages != 2 || got.Consumers != 0 {
		t.Errorf("got %+v, want 2 messages and no consumer", got)
	}
	got, err = b.ch.QueueDeclarePassive(b.name("other"), false, false, false, false, nil)
	b.must(err)
	if got.Messages != 0 || got.Consumers != 1 {
		t.Errorf("got %+v, want no message and 1 consumer", got)
	}
	b.must(b.ch.ExchangeDeclarePassive("amq.topic", "direct", false, false, false, false, nil))
	b.refused(404, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(b.prefix+"missing", true, false, false, false, nil)
		return err
	})
	b.refused(404, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(b.prefix+"missing", "direct", true, false, false, false, nil)
	})
}

func checkInequivalent(t *testing.T, b *bench) {
	args := amqp.Table{"x-message-ttl": int32(300000), "x-dead-letter-exchange": "dlx", "ours": "a"}
	q := b.queue("q", args)
	b.queue("q", args)
	b.queue("q", amqp.Table{"x-message-ttl": int64(300000), "x-dead-letter-exchange": "dlx", "ours": "b"})
	for _, other := range []struct {
		durable, autoDelete bool
		args                amqp.Table
	}{
		{false, false, args},
		{true, true, args},
		{true, false, nil},
		{true, false, amqp.Table{"x-message-ttl": int32(300001), "x-dead-letter-exchange": "dlx"}},
		{true, false, amqp.Table{"x-message-ttl": int32(300000), "x-dead-letter-exchange": "other"}},
		{true, false, amqp.Table{"x-message-ttl": int32(300000), "x-dead-letter-exchange": "dlx", "x-max-length": int32(1)}},
		{true, false, amqp.Table{"x-message-ttl": int32(300000), "x-dead-letter-exchange": "dlx", "x-max-priority": int32(1)}},
	} {
		b.refused(406, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(q, other.durable, other.autoDelete, false, false, other.args)
			return err
		})
	}
	x := b.exchange("x", "direct")
	b.refused(406, func(ch *amqp.Channel) error { return ch.ExchangeDeclare(x, "topic", true, false, false, false, nil) })
	b.refused(406, func(ch *amqp.Channel) error { return ch.ExchangeDeclare(x, "direct", false, false, false, false, nil) })
	b.refused(406, func(ch *amqp.Channel) error { return ch.ExchangeDeclare(x, "direct", true, true, false, false, nil) })
}

func checkInvalidArguments(t *testing.T, b *bench) {
	const tenYears = 10 * 365 * 24 * 3600 * 1000 // in milliseconds, the most that RabbitMQ takes
	b.queue("ten years", amqp.Table{"x-message-ttl": int64(tenYears), "x-expires": int64(tenYears)})
	b.send("", "nobody", amqp.Publishing{Expiration: fmt.Sprint(tenYears)})
	for _, args := range []amqp.Table{
		{"x-message-ttl": int64(tenYears + 1)},
		{"x-expires": int64(tenYears + 1)},
		{"x-message-ttl": "soon"},
		{"x-message-ttl": int32(-1)},
		{"x-expires": int32(0)},
		{"x-max-length": int32(-1)},
		{"x-max-priority": int32(256)},
		{"x-dead-letter-exchange": int32(1)},
	} {
		b.refused(406, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(b.name("q"), true, false, false, false, args)
			return err
		})
	}
	for _, expiration := range []string{"soon", "-1", "", fmt.Sprint(tenYears + 1)} {
		p := dialRaw(t, b.url) // amqp091-go leaves out the empty one
		p.open(1)
		properties := properties{propExpiration: appendShortstr(nil, expiration)}
		p.method(1, basicPublish, uint16(0), "", "nobody", uint8(0))
		p.header(1, 0, string(properties.encode()))
		if code := p.want(1, channelClose).uint16(); code != preconditionFailed.code {
			t.Errorf("expiration %q: got code %d, want %d", expiration, code, preconditionFailed.code)
		}
	}
}

func checkExclusiveQueue(t *testing.T, b *bench) {
	owner := b.dial()
	ch := b.channel(owner)
	name := b.name("q")
	declare := func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, false, false, true, false, nil)
		return err
	}
	b.must(declare(ch))
	b.must(declare(ch))
	b.publish("", name, "from another connection")
	for _, do := range []func(*amqp.Channel) error{
		declare,
		func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive(name, false, false, false, false, nil)
			return err
		},
		func(ch *amqp.Channel) error { return ch.QueueBind(name, "", "amq.fanout", false, nil) },
		func(ch *amqp.Channel) error {
			_, err := ch.Consume(name, "", true, false, false, false, nil)
			return err
		},
		func(ch *amqp.Channel) error { _, _, err := ch.Get(name, true); return err },
		func(ch *amqp.Channel) error { _, err := ch.QueuePurge(name, false); return err },
		func(ch *amqp.Channel) error { _, err := ch.QueueDelete(name, false, false, false); return err },
	} {
		b.refused(405, do)
	}
	if _, ok, err := ch.Get(name, true); !ok || err != nil {
		t.Errorf("the owner gets: %t, %v, want the message", ok, err)
	}
	b.must(owner.Close())
	waitFor(t, "the queue to go with its connection", func() bool {
		ch := b.channel(b.conn)
		defer ch.Close()
		_, err := ch.QueueDeclare(name, true, false, false, false, nil)
		return err == nil
	})
}

func checkAutoDeleteQueue(t *testing.T, b *bench) {
	name := b.name("q")
	_, err := b.ch.QueueDeclare(name, false, true, false, false, nil)
	b.must(err)
	for _, tag := range []string{"1", "2"} {
		_, err = b.ch.Consume(name, tag, false, false, false, false, nil)
		b.must(err)
	}
	b.must(b.ch.Cancel("1", false))
	_, err = b.ch.QueueDeclarePassive(name, false, true, false, false, nil)
	b.must(err)
	b.must(b.ch.Cancel("2", false))
	b.refused(404, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(name, false, true, false, false, nil)
		return err
	})
}

func checkAutoDeleteExchange(t *testing.T, b *bench) {
	x, q := b.name("x"), b.queue("q", nil)
	b.must(b.ch.ExchangeDeclare(x, "fanout", false, true, false, false, nil))
	b.bind(q, "1", x, nil)
	b.bind(q, "2", x, nil)
	b.must(b.ch.ExchangeDeclarePassive(x, "fanout", false, true, false, false, nil))
	_, err := b.ch.QueueDelete(q, false, false, false)
	b.must(err)
	b.refused(404, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(x, "fanout", false, true, false, false, nil)
	})
}

func checkQueueDelete(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.publish("", q, "1", "2")
	for _, want := range []int{2, 0} { // deleting what is not there is no fault
		n, err := b.ch.QueueDelete(q, false, false, false)
		b.must(err)
		if n != want {
			t.Errorf("queue.delete: got %d messages, want %d", n, want)
		}
	}
}

func checkExchangeDelete(t *testing.T, b *bench) {
	x, q := b.exchange("x", "fanout"), b.queue("q", nil)
	b.bind(q, "", x, nil)
	b.must(b.ch.ExchangeDelete(x, false, false))
	b.must(b.ch.ExchangeDelete(x, false, false)) // deleting what is not there is no fault
	b.refused(403, func(ch *amqp.Channel) error { return ch.ExchangeDelete("", false, false) })
	b.refused(404, func(ch *amqp.Channel) error { return ch.Publish(x, "", false, false, amqp.Publishing{}) })
}

func checkPurge(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.publish("", q, "1", "2", "3")
	d, _, err := b.ch.Get(q, false)
	b.must(err)
	n, err := b.ch.QueuePurge(q, false)
	b.must(err)
	if n != 2 {
		t.Errorf("queue.purge: got %d, want 2: what is unacknowledged stays", n)
	}
	b.must(d.Reject(true))
	b.wantReady(q, 1)
	b.wantDrained(q, "1")
}

func checkMissing(t *testing.T, b *bench) {
	x, q, missing := b.exchange("x", "direct"), b.queue("q", nil), b.prefix+"missing"
	for _, do := range []func(*amqp.Channel) error{
		func(ch *amqp.Channel) error { return ch.Publish(missing, "", false, false, amqp.Publishing{}) },
		func(ch *amqp.Channel) error { return ch.QueueBind(q, "", missing, false, nil) },
		func(ch *amqp.Channel) error { return ch.QueueBind(missing, "", x, false, nil) },
		func(ch *amqp.Channel) error { return ch.ExchangeBind(x, "", missing, false, nil) },
		func(ch *amqp.Channel) error { return ch.ExchangeBind(missing, "", x, false, nil) },
		func(ch *amqp.Channel) error { _, _, err := ch.Get(missing, true); return err },
		func(ch *amqp.Channel) error { _, err := ch.QueuePurge(missing, false); return err },
		func(ch *amqp.Channel) error {
			_, err := ch.Consume(missing, "", true, false, false, false, nil)
			return err
		},
	} {
		b.refused(404, do)
	}
}

func checkUnknownTag(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.publish("", q, "m")
	b.refused(406, func(ch *amqp.Channel) error { return ch.Ack(1, false) })
	b.refused(406, func(ch *amqp.Channel) error { return ch.Nack(7, true, true) })
	b.refused(406, func(ch *amqp.Channel) error { // acknowledged twice
		d, _, err := ch.Get(q, false)
		b.must(err)
		b.must(d.Ack(false))
		return d.Ack(false)
	})
}

func checkExclusiveConsumer(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	consume := func(ch *amqp.Channel, exclusive bool) error {
		_, err := ch.Consume(q, "", true, exclusive, false, false, nil)
		return err
	}
	first := b.channel(b.conn)
	b.must(consume(first, true))
	b.refused(403, func(ch *amqp.Channel) error { return consume(ch, false) })
	b.refused(403, func(ch *amqp.Channel) error { return consume(ch, true) })
	b.must(first.Close())
	second := b.channel(b.conn)
	b.must(consume(second, false))
	b.refused(403, func(ch *amqp.Channel) error { return consume(ch, true) })
	b.must(consume(b.channel(b.conn), false))
}

func checkConsumerTag(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	p := dialRaw(t, b.url) // amqp091-go refuses by itself
	p.open(1)
	p.method(1, basicConsume, uint16(0), q, "tag", uint8(0), table{})
	p.want(1, basicConsumeOk)
	p.method(1, basicConsume, uint16(0), q, "tag", uint8(0), table{})
	p.wantClosed(notAllowed)
}

func checkChannelsApart(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	deliveries := b.consume(b.ch, q)
	other := b.channel(b.conn)
	if _, err := other.QueueDeclarePassive(b.prefix+"missing", true, false, false, false, nil); err == nil {
		t.Error("passive declaration of a missing queue: got no error, want 404")
	}
	b.publish("", q, "m")
	b.wantNext(deliveries, "m")
}

func checkNotImplemented(t *testing.T, b *bench) {
	b.refused(540, func(ch *amqp.Channel) error { return ch.Publish("", "q", false, true, amqp.Publishing{}) })
	p := dialRaw(t, b.url)
	p.open(1)
	p.method(1, basicQos, uint32(1), uint16(0), false) // a prefetch size
	p.wantClosed(notImplemented)
}

func checkVhost(t *testing.T, b *bench) {
	p := dialRawVhost(t, b.url, b.prefix+"missing")
	p.wantClosed(notAllowed)
}

func checkHeartbeats(t *testing.T, b *bench) {
	p := dialRawHeartbeat(t, b.url, 1)
	for f := p.next(); f.kind != frameHeartbeat; f = p.next() {
	}
}

func checkSilentClient(t *testing.T, b *bench) {
	p := dialRawHeartbeat(t, b.url, 1)
	start := time.Now()
	for {
		_, err := p.frames.next()
		if err == nil {
			continue // heartbeats of the broker
		}
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatal("still connected")
		}
		break
	}
	if d := time.Since(start); d < time.Second {
		t.Errorf("disconnected after %s, want at least one interval of a second", d)
	}
}
