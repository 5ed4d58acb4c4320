package suite

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/internal/testenv"
	"onceover/rabbit"
)

// BenchmarkPing measures a ping of remote control, from the request to the reply
// on an open connection, while every slot of the worker is busy and 10,000
// messages wait: ours, and a Python worker (prefork) with as many slots.
//
//	go test -run - -bench Ping -benchtime 1000x ./e2e/suite   beside the test servers
func BenchmarkPing(b *testing.B) {
	const slots, waiting = 4, 10000
	for _, kind := range []string{"onceover", "python"} {
		b.Run(kind, func(b *testing.B) {
			broker, store := testenv.SharedRabbitMQ(b), testenv.Redis(b)
			switch kind {
			case "onceover":
				startWorker(b, b.TempDir(), []string{"ONCEOVER_BROKER_URL=" + broker, "ONCEOVER_REDIS_URL=" + store.URL(), "ONCEOVER_GRACE=0s",
					"ONCEOVER_NODE_NAME=" + node, "ONCEOVER_QUEUES=celery", fmt.Sprintf("ONCEOVER_CONCURRENCY=%d", slots)})
			case "python":
				cmd := exec.Command(testenv.Python(b, "celery", "redis"), "mixed.py", "worker")
				cmd.Env = append(os.Environ(), "TEST_BROKER="+broker, "TEST_BACKEND="+store.URL()+"/0", fmt.Sprintf("MIXED_CONCURRENCY=%d", slots))
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() {
					cmd.Process.Signal(syscall.SIGQUIT)
					_ = cmd.Wait() // its jobs have not ended
				})
			}
			conn, err := rabbit.Dial(b.Context(), "ping", []string{broker})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { conn.Close() })
			ch, err := conn.Channel()
			if err != nil {
				b.Fatal(err)
			}
			q, err := ch.QueueDeclare("", false, true, true, false, nil)
			if err != nil {
				b.Fatal(err)
			}
			replies, err := ch.Consume(q.Name, "", true, true, false, false, nil)
			if err != nil {
				b.Fatal(err)
			}
			if err := ch.ExchangeDeclare("celery.pidbox", amqp.ExchangeFanout, false, false, false, false, nil); err != nil {
				b.Fatal(err)
			}
			ask := func(method string) (json.RawMessage, bool) {
				body, err := json.Marshal(map[string]any{"method": method, "arguments": map[string]any{}, "ticket": "1",
					"reply_to": map[string]string{"exchange": "", "routing_key": q.Name}})
				if err != nil {
					b.Fatal(err)
				}
				err = ch.PublishWithContext(b.Context(), "celery.pidbox", "", false, false, amqp.Publishing{
					ContentType: "application/json", ContentEncoding: "utf-8", Body: body, Headers: amqp.Table{"clock": int64(1)}})
				if err != nil {
					b.Fatal(err)
				}
				select {
				case d := <-replies:
					return d.Body, true
				case <-time.After(2 * time.Second):
					return nil, false
				}
			}
			for up := false; !up; {
				_, up = ask("ping")
			}
			pub := rabbit.NewPublisher(conn)
			b.Cleanup(pub.Close)
			messages := make([]rabbit.Message, slots+waiting)
			for i := range messages {
				messages[i] = rabbit.Message{
					RoutingKey: "celery", Body: []byte(`[[600],{},{}]`),
					Properties: celery.Properties{ContentType: "application/json", ContentEncoding: "utf-8"},
					Headers:    amqp.Table{"task": "t.integration.tasks.sleeping", "id": fmt.Sprint("sleep-", i), "lang": "py"},
				}
			}
			if err := pub.Publish(b.Context(), messages...); err != nil {
				b.Fatal(err)
			}
			for busy := 0; busy < slots; {
				doc, _ := ask("active")
				var active map[string][]any
				if json.Unmarshal(doc, &active) == nil {
					for _, jobs := range active {
						busy = len(jobs)
					}
				}
			}
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, ok := ask("ping"); !ok {
					b.Fatal("a ping was not answered in 2 s")
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
		})
	}
}
