package worker_test

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/rabbit"
	"onceover/worker"
)

// expireAtWork cuts a worker off while it runs a job for longer than the messages of its queue
// last, and has another worker get the dead letter, which waits while the job is at work.
func (b *bundle) expireAtWork(g worker.Handler, entered <-chan string) (id string) {
	b.t.Helper()
	const lasts = time.Second
	b.queue("short", amqp.Table{"x-queue-type": "quorum", "x-message-ttl": int32(lasts.Milliseconds())})
	b.cfg.Queues = []string{"short"}
	b.task("t", g)
	proxy := b.startBehindProxy()
	b.until(func() bool { return b.consumers("short") == 1 })
	id = b.sendTo("short", "t", nil)
	sent := time.Now()
	<-entered
	b.start()
	b.until(func() bool { return b.consumers("short") == 2 })
	time.Sleep(time.Until(sent.Add(lasts + 100*time.Millisecond)))
	proxy.Cut()
	b.until(func() bool {
		return b.logs.FilterMessage("dead letter of a job that is at work waits for its end").Len() == 1
	})
	return id
}

// consumers is how many a queue has.
func (b *bundle) consumers(queue string) int {
	b.t.Helper()
	ch := b.channel()
	defer ch.Close()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return q.Consumers
}

// TestMessageExpiresAtWork has the message of a job at work run out after its connection was lost:
// the job has its own end.
func TestMessageExpiresAtWork(t *testing.T) {
	b := setup(t)
	g := newGate()
	id := b.expireAtWork(g, g.entered)
	close(g.release)
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	b.until(func() bool {
		return b.logs.FilterMessage("dead letter of a job that has ended or goes on, dropped").Len() == 1
	})
	if n := b.records(id); n != 0 || g.runs.Load() != 1 || b.state(id) != celery.Success {
		t.Errorf("got %d records, %d runs, %s, want none, one, SUCCESS", n, g.runs.Load(), b.state(id))
	}
}

// TestMessageExpiresAtADeath has the message of a job run out whose process dies at work on it:
// the job is published once more, and runs.
func TestMessageExpiresAtADeath(t *testing.T) {
	b := setup(t)
	g := newGate()
	id := b.expireAtWork(g, g.entered)
	b.dies(id)
	b.until(func() bool { return g.runs.Load() == 2 })
	close(g.release)
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	b.until(func() bool { return len(b.outcomes(id)) == 2 }) // the process was cut off only
	if n := b.records(id); n != 0 || g.runs.Load() != 2 || b.left(rabbit.QueueDeadLetter) != 0 {
		t.Errorf("got %d records, %d runs, %d dead letters, want none, two, none", n, g.runs.Load(), b.left(rabbit.QueueDeadLetter))
	}
}
