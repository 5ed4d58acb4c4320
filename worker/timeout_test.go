package worker_test

import (
	"slices"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap/zaptest/observer"

	"onceover/celery"
	"onceover/internal/testenv"
)

// consumerTimeout is what the servers of these tests are configured with. It is longer than it
// takes to recognise a job that is delivered once more.
const consumerTimeout = "consumer_timeout = 3000"

// TestConsumerTimeout has a job take longer than the broker's consumer time-out, over which
// RabbitMQ before 4.3 closes the channel.
func TestConsumerTimeout(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t, consumerTimeout)
	// It looks once a minute by default.
	server.Ctl("eval", "application:set_env(rabbit, channel_tick_interval, 500).")
	outlastConsumerTimeout(t, server)
}

// TestNewestConsumerTimeout is TestConsumerTimeout on a release that cancels the consumer.
func TestNewestConsumerTimeout(t *testing.T) {
	t.Parallel()
	outlastConsumerTimeout(t, testenv.RabbitMQRelease(t, "newest", consumerTimeout))
}

// outlastConsumerTimeout has a job outlast the time-out: the consumer of the other queue goes on,
// the log says why the one of this queue ended, and the job's end stands, with one run.
func outlastConsumerTimeout(t *testing.T, server *testenv.Rabbit) {
	b := setupOn(t, server.URL())
	for _, queue := range []string{"slow", "quick"} {
		b.queue(queue, amqp.Table{"x-queue-type": "quorum"})
	}
	b.cfg.Queues = []string{"slow", "quick"}
	g := newGate()
	b.task("slow", g)
	b.task("t", value(1))
	w, _ := b.start()
	id := b.sendTo("slow", "slow", nil)
	<-g.entered
	var ended *observer.ObservedLogs
	b.until(func() bool {
		b.wait(b.sendTo("quick", "t", nil))
		ended = b.logs.FilterMessageSnippet("the broker has ended a consumer")
		return ended.Len() > 0
	})
	if line := ended.All()[0]; line.ContextMap()["queue"] != "slow" || !strings.Contains(line.Message, "consumer time-out") {
		t.Errorf("got line %q, %v, want queue slow, and that it may be a consumer time-out", line.Message, line.ContextMap())
	}
	// The delivery comes again, to the same worker. (4.3 counts the consumer that timed out, too.)
	b.until(func() bool { return b.consumers("slow") > 0 && b.left("slow") == 0 })
	close(g.release)
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	b.until(func() bool { return len(b.outcomes(id)) > 1 }) // the run, and the duplicate
	if got := b.outcomes(id); got[0] || slices.Contains(got[1:], false) || g.runs.Load() != 1 {
		t.Errorf("got %d runs, and deliveries that were duplicates: %v, want one run, and the first alone to end", g.runs.Load(), got)
	}
	if m := b.wait(b.sendTo("slow", "t", nil)); m.Status != celery.Success {
		t.Errorf("the next job of the queue: got %s, want SUCCESS", m.Status)
	}
	if n := b.logs.FilterMessage("broker lost, reconnecting").Len(); n != 0 || len(w.Problems()) != 0 {
		t.Errorf("the session was lost %d times, and there are problems %v", n, w.Problems())
	}
}
