package devbroker

import (
	"testing"

	"go.uber.org/zap"

	amqp "github.com/rabbitmq/amqp091-go"
)

// BenchmarkPublishConsume has one connection publish 600 bytes with a confirm and another consume and
// acknowledge them, as fast as amqp091-go does both. Client and broker share the processor.
func BenchmarkPublishConsume(b *testing.B) {
	s, err := Listen(zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	channel := func() *amqp.Channel {
		conn, err := amqp.Dial(s.URL())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
		ch, err := conn.Channel()
		if err != nil {
			b.Fatal(err)
		}
		return ch
	}
	in, out := channel(), channel()
	q, err := out.QueueDeclare("q", true, false, false, false, nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := out.Qos(100, 0, false); err != nil {
		b.Fatal(err)
	}
	deliveries, err := out.Consume(q.Name, "", false, false, false, false, nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := in.Confirm(false); err != nil {
		b.Fatal(err)
	}
	confirms := in.NotifyPublish(make(chan amqp.Confirmation, 1000))
	body := make([]byte, 600)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	b.ResetTimer()
	published := make(chan error, 1)
	go func() {
		unconfirmed := 0
		for range b.N {
			if err := in.Publish("", q.Name, false, false, amqp.Publishing{Body: body}); err != nil {
				published <- err
				return
			}
			for unconfirmed++; unconfirmed >= 500; unconfirmed-- {
				<-confirms
			}
		}
		for ; unconfirmed > 0; unconfirmed-- {
			<-confirms
		}
		published <- nil
	}()
	for range b.N {
		d := <-deliveries
		if err := d.Ack(false); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-published; err != nil {
		b.Fatal(err)
	}
}
