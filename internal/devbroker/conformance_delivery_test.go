package devbroker

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	amqp "github.com/rabbitmq/amqp091-go"
)

// The checks of the conformance table on publishing, consuming and dead-lettering.

func checkConfirms(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.confirms()
	const n = 200
	confirms := b.ch.NotifyPublish(make(chan amqp.Confirmation, n))
	for i := range n {
		b.must(b.ch.Publish("", q, false, false, amqp.Publishing{Body: fmt.Append(nil, i)}))
	}
	for i := range uint64(n) {
		c := receive(t, confirms, "a confirm")
		if !c.Ack || c.DeliveryTag != i+1 {
			t.Fatalf("confirm %d: got %+v, want an ack", i+1, c)
		}
	}
	b.wantReady(q, n)
}

func checkMandatory(t *testing.T, b *bench) {
	p := dialRaw(t, b.url) // amqp091-go hands on returns and confirms in no order
	p.open(1)
	p.method(1, confirmSelect, false)
	p.want(1, confirmSelectOk)
	p.publish(1, "", b.prefix+"nobody", 1, "m")
	d := p.want(1, basicReturn)
	if code, _, exchange, key := d.uint16(), d.shortstr(), d.shortstr(), d.shortstr(); code != noRoute.code || exchange != "" || key != b.prefix+"nobody" {
		t.Errorf("basic.return: got %d, exchange %q, key %q", code, exchange, key)
	}
	if f := p.next(); f.kind != frameHeader {
		t.Errorf("got frame of type %d, want the content header", f.kind)
	}
	if f := p.next(); f.kind != frameBody || string(f.payload) != "m" {
		t.Errorf("got frame of type %d, %q, want the body", f.kind, f.payload)
	}
	if tag := p.want(1, basicAck).uint64(); tag != 1 {
		t.Errorf("basic.ack: got tag %d, want 1", tag)
	}
	q := b.queue("q", nil)
	p.publish(1, "", q, 1, "m") // a message that finds a queue does not come back
	p.want(1, basicAck)
}

func checkProperties(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	want := amqp.Publishing{
		Headers: amqp.Table{
			"nil": nil, "bool": true, "int8": int8(-8), "uint8": uint8(8), "int16": int16(-16), "uint16": uint16(16),
			"int32": int32(-32), "uint32": uint32(32), "int64": int64(-64), "float32": float32(0.5), "float64": 0.25,
			"decimal": amqp.Decimal{Scale: 2, Value: 314}, "string": "한국어", "bytes": []byte{0, 255},
			"time":  time.Unix(1_700_000_000, 0),
			"array": []any{int32(1), "two", nil, []any{"deep"}},
			"table": amqp.Table{"stamps": amqp.Table{"deep": []any{amqp.Table{"er": true}}}},
		},
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent, Priority: 3,
		CorrelationId: "correlation", ReplyTo: "reply", Expiration: "3600000", MessageId: "id",
		Timestamp: time.Unix(1_700_000_001, 0), Type: "type", AppId: "app", Body: []byte("body"),
	}
	b.send("", q, want)
	d, _, err := b.ch.Get(q, true)
	b.must(err)
	got := amqp.Publishing{
		Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode,
		Priority: d.Priority, CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageId: d.MessageId,
		Timestamp: d.Timestamp, Type: d.Type, AppId: d.AppId, Body: d.Body,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("message (-sent +got):\n%s", diff)
	}
	if d.Exchange != "" || d.RoutingKey != q || d.Redelivered {
		t.Errorf("got exchange %q, key %q, redelivered %t", d.Exchange, d.RoutingKey, d.Redelivered)
	}

	b.send("", q, amqp.Publishing{}) // nothing at all
	d, ok, err := b.ch.Get(q, true)
	b.must(err)
	if !ok || len(d.Headers) > 0 || d.ContentType != "" || d.DeliveryMode > 1 || len(d.Body) > 0 {
		t.Errorf("got %+v, want an empty message", d)
	}
}

func checkBodies(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	deliveries := b.consume(b.ch, q)
	for _, size := range []int{0, 1, frameMaxMax - frameOverhead - 1, frameMaxMax - frameOverhead, frameMaxMax - frameOverhead + 1, 3 << 20} {
		body := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
		b.send("", q, amqp.Publishing{Body: body})
		if d := b.next(deliveries); !bytes.Equal(d.Body, body) {
			t.Errorf("body of %d bytes: got another of %d bytes", size, len(d.Body))
		}
	}
}

func checkGet(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.publish("", q, "1", "2", "3")
	for i, want := range []string{"1", "2", "3"} {
		d, ok, err := b.ch.Get(q, false)
		b.must(err)
		if !ok || string(d.Body) != want || d.MessageCount != uint32(2-i) || d.DeliveryTag != uint64(i+1) {
			t.Errorf("basic.get: got %q, tag %d, %d left; want %q", d.Body, d.DeliveryTag, d.MessageCount, want)
		}
	}
	if _, ok, err := b.ch.Get(q, false); ok || err != nil {
		t.Errorf("basic.get on an empty queue: got %t, %v", ok, err)
	}
	b.must(b.ch.Ack(2, true))
	b.must(b.ch.Reject(3, true))
	b.wantReady(q, 1)
	d, _, err := b.ch.Get(q, true)
	b.must(err)
	if string(d.Body) != "3" || !d.Redelivered {
		t.Errorf("got %q, redelivered %t, want 3, true", d.Body, d.Redelivered)
	}
}

func checkNoAck(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.must(b.ch.Qos(1, 0, false)) // does not count without acknowledgements
	ch := b.channel(b.conn)
	deliveries, err := ch.Consume(q, "", true, false, false, false, nil)
	b.must(err)
	b.publish("", q, "1", "2", "3")
	b.wantNext(deliveries, "1", "2", "3")
	b.must(ch.Close())
	b.wantReady(q, 0)
}

func checkRequeueOrder(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.publish("", q, "1", "2", "3", "4", "5")
	var got []amqp.Delivery
	for range 4 {
		d, _, err := b.ch.Get(q, false)
		b.must(err)
		got = append(got, d)
	}
	for _, i := range []int{2, 0, 3} {
		b.must(got[i].Nack(false, true))
	}
	b.wantReady(q, 4)
	for _, want := range []struct {
		body        string
		redelivered bool
	}{{"1", true}, {"3", true}, {"4", true}, {"5", false}} {
		d, _, err := b.ch.Get(q, true)
		b.must(err)
		if string(d.Body) != want.body || d.Redelivered != want.redelivered {
			t.Errorf("got %q, redelivered %t, want %+v", d.Body, d.Redelivered, want)
		}
	}
}

func checkMultiple(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.publish("", q, "1", "2", "3", "4", "5", "6")
	ch := b.channel(b.conn)
	got := b.wantNext(b.consume(ch, q), "1", "2", "3", "4", "5", "6")
	b.must(got[1].Ack(false))
	b.must(got[2].Ack(true))         // 1 and 3
	b.must(got[4].Nack(true, false)) // 4 and 5, with no dead-letter exchange
	b.must(ch.Close())
	b.wantReady(q, 1)
	b.wantDrained(q, "6")

	b.publish("", q, "7", "8", "9")
	ch = b.channel(b.conn)
	b.must(ch.Qos(3, 0, false))
	deliveries := b.consume(ch, q)
	b.wantNext(deliveries, "7", "8", "9")
	b.must(ch.Nack(0, true, true)) // 0: all there are
	b.wantNext(deliveries, "7", "8", "9")
	b.must(ch.Ack(0, true))
	b.must(ch.Close())
	b.wantDrained(q)
}

func checkChannelClose(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.publish("", q, "1", "2", "3", "4")
	ch := b.channel(b.conn)
	b.must(ch.Qos(3, 0, false))
	got := b.wantNext(b.consume(ch, q), "1", "2", "3")
	b.must(got[1].Ack(false))
	b.must(ch.Close())
	b.wantReady(q, 3)
	for _, d := range b.wantNext(b.consume(b.ch, q), "1", "3", "4") {
		if !d.Redelivered && string(d.Body) != "4" { // 4 had left if the acknowledgement was quick
			t.Errorf("delivery %s: redelivered false, want true", d.Body)
		}
	}
}

func checkConnectionLoss(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.publish("", q, "1", "2", "3")
	p := dialRaw(t, b.url)
	p.open(1)
	p.method(1, basicConsume, uint16(0), q, "tag", uint8(0), table{})
	p.want(1, basicConsumeOk)
	p.wantDelivery(1, "1", false)
	p.wantDelivery(1, "2", false)
	p.Close()
	b.wantReady(q, 3)
	deliveries := b.consume(b.ch, q)
	for _, d := range b.wantNext(deliveries, "1", "2", "3") {
		if !d.Redelivered && string(d.Body) != "3" { // 3 may have left as well
			t.Errorf("delivery %s: redelivered false, want true", d.Body)
		}
	}
}

func checkCancel(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	deliveries, err := b.ch.Consume(q, "tag", false, false, false, false, nil)
	b.must(err)
	b.publish("", q, "1", "2")
	got := b.wantNext(deliveries, "1", "2")
	b.must(b.ch.Cancel("tag", false))
	b.must(b.ch.Cancel("no such tag", false))
	b.publish("", q, "3")
	b.wantReady(q, 1)
	b.must(got[0].Ack(false))
	b.must(got[1].Nack(false, true))
	b.wantReady(q, 2)
	b.wantDrained(q, "2", "3")
}

func checkTurns(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	first, second := b.consume(b.channel(b.conn), q), b.consume(b.channel(b.dial()), q)
	for i := range 10 {
		b.publish("", q, fmt.Sprint(i))
	}
	for range 5 {
		b.next(first)
		b.next(second)
	}
}

func checkPrefetch(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	b.publish("", q, "1", "2", "3", "4", "5")
	b.must(b.ch.Qos(2, 0, false))
	first := b.consume(b.ch, q)
	got := b.wantNext(first, "1", "2")
	b.wantReady(q, 3)
	b.must(b.ch.Qos(1, 0, false)) // for the consumers to come
	second := b.consume(b.ch, q)
	b.wantNext(second, "3")
	b.wantReady(q, 2)
	b.must(got[0].Ack(false))
	b.wantNext(first, "4")
	b.wantReady(q, 1)
	b.must(got[1].Nack(false, false))
	b.wantNext(first, "5")
}

func checkGlobalPrefetch(t *testing.T, b *bench) {
	q, other := b.queue("q", nil), b.queue("other", nil)
	b.must(b.ch.Qos(2, 0, true))
	deliveries := b.consume(b.ch, q)
	b.consume(b.ch, other)
	b.publish("", q, "1", "2", "3", "4", "5")
	got := b.wantNext(deliveries, "1", "2")
	b.publish("", other, "not yet") // the limit is the channel's
	b.wantReady(q, 3)
	b.wantReady(other, 1)
	_, err := b.ch.QueuePurge(other, false)
	b.must(err)
	b.must(b.ch.Qos(4, 0, true)) // what Celery does when a task's ETA is far away
	got = append(got, b.wantNext(deliveries, "3", "4")...)
	b.wantReady(q, 1)
	b.must(b.ch.Qos(1, 0, true))
	for _, d := range got[:3] {
		b.must(d.Ack(false))
	}
	b.wantReady(q, 1)
	b.must(got[3].Ack(false))
	b.wantNext(deliveries, "5")
}

func checkCancelNotify(t *testing.T, b *bench) {
	q := b.queue("q", nil)
	ch := b.channel(b.dial())
	cancelled := ch.NotifyCancel(make(chan string, 1))
	_, err := ch.Consume(q, "tag", false, false, false, false, nil)
	b.must(err)
	_, err = b.ch.QueueDelete(q, false, false, false)
	b.must(err)
	if tag := receive(t, cancelled, "basic.cancel"); tag != "tag" {
		t.Errorf("basic.cancel: got tag %q, want %q", tag, "tag")
	}
}

// deadLetters declares a dead-letter exchange with a queue, and a queue of arguments args besides that
// dead-letters there.
func (b *bench) deadLetters(args amqp.Table) (q, dlq string, dead <-chan amqp.Delivery) {
	b.t.Helper()
	x, dlq := b.exchange("dlx", "direct"), b.queue("dlq", nil)
	b.bind(dlq, "dlq", x, nil)
	full := amqp.Table{"x-dead-letter-exchange": x, "x-dead-letter-routing-key": "dlq"}
	for k, v := range args {
		full[k] = v
	}
	return b.queue("q", full), dlq, b.consume(b.channel(b.conn), dlq)
}

// wantDeath compares the delivery's only x-death entry, and its time with the clock.
func (b *bench) wantDeath(d amqp.Delivery, want amqp.Table) {
	b.t.Helper()
	deaths, _ := d.Headers["x-death"].([]any)
	if len(deaths) != 1 {
		b.t.Fatalf("x-death: got %v, want one entry", d.Headers["x-death"])
	}
	if diff := cmp.Diff(want, deaths[0], cmpopts.IgnoreMapEntries(func(k string, _ any) bool {
		return k == "time" || k == "original-expiration" // the latter is RabbitMQ's only
	})); diff != "" {
		b.t.Errorf("x-death (-want +got):\n%s", diff)
	}
	when, _ := deaths[0].(amqp.Table)["time"].(time.Time)
	if age := time.Since(when); age < -time.Minute || age > time.Minute {
		b.t.Errorf("x-death: got time %v, want about now", when)
	}
}

func checkQueueTTL(t *testing.T, b *bench) {
	q, _, dead := b.deadLetters(amqp.Table{"x-message-ttl": int32(50)})
	b.send("", q, amqp.Publishing{Body: []byte("m"), Headers: amqp.Table{"id": "1"}})
	d := b.next(dead)
	b.wantDeath(d, amqp.Table{"count": int64(1), "reason": "expired", "queue": q, "exchange": "", "routing-keys": []any{q}})
	if string(d.Body) != "m" || d.Headers["id"] != "1" || d.Exchange != b.name("dlx") || d.RoutingKey != "dlq" || d.Redelivered {
		t.Errorf("got %q, headers %v, exchange %q, key %q, redelivered %t", d.Body, d.Headers, d.Exchange, d.RoutingKey, d.Redelivered)
	}
	b.wantDrained(q)
}

func checkExpiration(t *testing.T, b *bench) {
	q, _, dead := b.deadLetters(amqp.Table{"x-message-ttl": int32(3600000)})
	b.send("", q, amqp.Publishing{Body: []byte("m"), Expiration: "50"})
	d := b.next(dead)
	b.wantDeath(d, amqp.Table{"count": int64(1), "reason": "expired", "queue": q, "exchange": "", "routing-keys": []any{q}})
	if d.Expiration != "" {
		t.Errorf("expiration of the dead letter: got %q, want none", d.Expiration)
	}
	short := b.queue("short", amqp.Table{"x-message-ttl": int32(50), "x-dead-letter-exchange": b.name("dlx"), "x-dead-letter-routing-key": "dlq"})
	b.send("", short, amqp.Publishing{Body: []byte("n"), Expiration: "3600000"})
	b.wantNext(dead, "n")
}

func checkRejected(t *testing.T, b *bench) {
	x := b.exchange("dlx", "fanout")
	work, retry := b.queue("work", amqp.Table{"x-dead-letter-exchange": x}), b.queue("retry", nil)
	b.bind(retry, "", x, nil)
	jobs := b.exchange("jobs", "topic")
	b.bind(work, "job.#", jobs, nil)
	retries := b.consume(b.ch, retry)
	deliveries := b.consume(b.ch, work)
	b.publish(jobs, "job.1", "m")
	b.must(b.next(deliveries).Reject(false))
	d := b.next(retries)
	first := amqp.Table{"count": int64(1), "reason": "rejected", "queue": work, "exchange": jobs, "routing-keys": []any{"job.1"}}
	b.wantDeath(d, first)
	if d.RoutingKey != "job.1" {
		t.Errorf("key of the dead letter: got %q, want its own, job.1", d.RoutingKey)
	}
	// Around once more, and the same death is counted. A client that publishes again must hand on the headers.
	b.send("", work, amqp.Publishing{Body: d.Body, Headers: d.Headers})
	b.must(b.next(deliveries).Nack(false, false))
	first["count"] = int64(2)
	b.wantDeath(b.next(retries), first)

	// Another death comes before the first.
	other := b.queue("other", amqp.Table{"x-dead-letter-exchange": x, "x-message-ttl": int32(1)})
	b.send("", other, amqp.Publishing{Headers: d.Headers})
	deaths := b.next(retries).Headers["x-death"].([]any)
	if len(deaths) != 2 || deaths[0].(amqp.Table)["queue"] != other || deaths[1].(amqp.Table)["queue"] != work {
		t.Errorf("x-death: got %v, want %s before %s", deaths, other, work)
	}
}

func checkMaxLength(t *testing.T, b *bench) {
	q, _, dead := b.deadLetters(amqp.Table{"x-max-length": int32(2)})
	b.publish("", q, "1", "2", "3", "4")
	d := b.wantNext(dead, "1", "2")[0]
	b.wantDeath(d, amqp.Table{"count": int64(1), "reason": "maxlen", "queue": q, "exchange": "", "routing-keys": []any{q}})
	b.wantDrained(q, "3", "4")
}

func checkDeathCycle(t *testing.T, b *bench) {
	q := b.name("q")
	b.queue("q", amqp.Table{"x-message-ttl": int32(20), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": q})
	b.publish("", q, "m")
	b.wantReady(q, 0)

	// Two queues in a circle, and a way out for what dies in the second.
	out, x := b.queue("out", nil), b.exchange("x", "fanout")
	first, second := b.name("first"), b.name("second")
	b.queue("first", amqp.Table{"x-message-ttl": int32(20), "x-dead-letter-exchange": "", "x-dead-letter-routing-key": second})
	b.queue("second", amqp.Table{"x-message-ttl": int32(20), "x-dead-letter-exchange": x})
	b.bind(first, "", x, nil)
	b.bind(out, "", x, nil)
	deliveries := b.consume(b.ch, out)
	b.publish("", first, "n")
	d := b.wantNext(deliveries, "n")[0]
	if deaths, _ := d.Headers["x-death"].([]any); len(deaths) != 2 {
		t.Errorf("x-death: got %v, want two entries", deaths)
	}
	b.wantReady(first, 0)
	b.publish("", first, "o")
	b.wantNext(deliveries, "o") // and not n once more
}

func checkQueueExpires(t *testing.T, b *bench) {
	args := amqp.Table{"x-expires": int32(1000)} // within this the consumer has to be there
	used, unused := b.queue("used", args), b.queue("unused", args)
	b.consume(b.ch, used)
	b.publish("", unused, "does not count as use")
	waitFor(t, "the queue to expire", func() bool {
		ch := b.channel(b.conn)
		defer ch.Close()
		return ch.QueueBind(unused, "", "amq.fanout", false, nil) != nil // a declaration would count as use
	})
	_, err := b.ch.QueueDeclarePassive(used, true, false, false, false, nil)
	b.must(err)
}

func checkPriorities(t *testing.T, b *bench) {
	q := b.queue("q", amqp.Table{"x-max-priority": int32(5)})
	for _, m := range []struct {
		body     string
		priority uint8
	}{{"0a", 0}, {"5a", 5}, {"3a", 3}, {"9", 9}, {"0b", 0}, {"3b", 3}, {"5b", 5}} {
		b.send("", q, amqp.Publishing{Body: []byte(m.body), Priority: m.priority})
	}
	d, _, err := b.ch.Get(q, false)
	b.must(err)
	b.must(d.Nack(false, true))
	b.wantReady(q, 7)
	b.wantDrained(q, "5a", "9", "5b", "3a", "3b", "0a", "0b")

	plain := b.queue("plain", nil)
	b.send("", plain, amqp.Publishing{Body: []byte("low"), Priority: 1})
	b.send("", plain, amqp.Publishing{Body: []byte("high"), Priority: 9})
	b.wantDrained(plain, "low", "high")
}
