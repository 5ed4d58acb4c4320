package worker_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
	"onceover/internal/testenv"
	"onceover/rabbit"
)

// suspend stops the process of a classic queue, which confirms nothing then, or resumes it.
func suspend(server *testenv.Rabbit, what, queue string) {
	server.Ctl("eval", fmt.Sprintf(`{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"%s">>)), sys:%s(amqqueue:get_pid(Q)).`, queue, what))
}

// callback has the task called t called in a queue when a job has succeeded.
func callback(queue string, change func(*celery.Request)) func(*celery.Request) {
	return func(r *celery.Request) {
		s := celery.NewSignature("t")
		s.Options.Queue = queue
		r.Callbacks = celery.Signatures{s}
		if change != nil {
			change(r)
		}
	}
}

// TestDestinationWithoutConfirms has more jobs than there are slots call back into a queue that
// does not confirm: the others go on. One of them ends within its time limit, the rest when the
// queue confirms again.
func TestDestinationWithoutConfirms(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := setupOn(t, server.URL())
	b.queue("stuck", amqp.Table{})
	b.cfg.Concurrency = 2
	b.task("t", value(1))
	b.start()
	b.wait(b.send("t", callback("stuck", nil)))
	b.get("stuck")
	suspend(server, "suspend", "stuck")
	var patient []string
	for range 3 {
		patient = append(patient, b.send("t", callback("stuck", nil)))
	}
	// More than there are slots wait, and nothing ends them: that the others succeed shows that they do not wait.
	var others []string
	for range 20 {
		others = append(others, b.send("t", callback("q.ai", nil)))
	}
	for _, id := range others {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("a job with another destination: got %s, want SUCCESS", m.Status)
		}
	}
	const limit = 3 * time.Second
	began := time.Now()
	step := celery.NewSignature("t")
	step.Options.Queue, step.Options.TaskID = "stuck", uuid.NewString()
	limited := b.send("t", callback("stuck", func(r *celery.Request) { r.TimeLimit, r.Chain = limit, celery.Signatures{step} }))
	if exc, err := b.wait(limited).Exception(); err != nil || exc == nil || exc.Type != "OperationalError" {
		t.Errorf("the job with a time limit: got %v, %v, want OperationalError", exc, err)
	}
	if took := time.Since(began); took > limit+5*time.Second {
		t.Errorf("the job with a time limit of %v took %v", limit, took)
	}
	told := func() int {
		n := 0
		for _, e := range b.logs.FilterMessageSnippet("does not confirm messages").All() {
			if e.ContextMap()["destination"] == (rabbit.Message{RoutingKey: "stuck"}).Destination() {
				n++
			}
		}
		return n
	}
	b.until(func() bool { return told() > 0 })
	for _, id := range patient {
		if s := b.state(id); s != "" {
			t.Errorf("a job without a time limit: got %s while the queue does not confirm, want nothing", s)
		}
	}
	suspend(server, "resume", "stuck")
	for _, id := range patient {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("a job without a time limit: got %s, want SUCCESS", m.Status)
		}
	}
	if n := told(); n != 1 {
		t.Errorf("got %d lines that name the destination, want 1", n)
	}
	// The next step of the job with a time limit has failed with it, although its message was taken in the end: it does not run.
	for range 20 {
		d := b.get("stuck")
		if d.Headers["id"] != step.Options.TaskID {
			continue
		}
		err := b.publishTo("", "q.ai", amqp.Publishing{Headers: d.Headers, Body: d.Body, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, CorrelationId: d.CorrelationId})
		if err != nil {
			t.Fatal(err)
		}
		b.until(func() bool { return len(b.outcomes(step.Options.TaskID)) == 1 })
		if b.state(step.Options.TaskID) != celery.Failure || !b.outcomes(step.Options.TaskID)[0] {
			t.Errorf("got %s, duplicate %v, want the step's FAILURE to stand", b.state(step.Options.TaskID), b.outcomes(step.Options.TaskID))
		}
		// The chain is applied once more, with the same ids: that is another message, which runs.
		delete(d.Headers, "x-onceover-from")
		err = b.publishTo("", "q.ai", amqp.Publishing{Headers: d.Headers, Body: d.Body, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, CorrelationId: d.CorrelationId})
		if err != nil {
			t.Fatal(err)
		}
		b.until(func() bool { return len(b.outcomes(step.Options.TaskID)) == 2 })
		if s := b.state(step.Options.TaskID); s != celery.Success {
			t.Errorf("got %s of another message of the step, want that it runs", s)
		}
		return
	}
	t.Error("the message of the next step is not in its queue")
}

// TestFullDestination has a job call back into a queue that is full and refuses messages: the job
// does not run again, and succeeds when there is room. The pause is as long as it took the code
// that gave the job back to run it again.
func TestFullDestination(t *testing.T) {
	b := setup(t)
	b.queue("full", amqp.Table{"x-max-length": int32(1), "x-overflow": "reject-publish"})
	var refused error
	for i := 0; i < 5 && refused == nil; i++ {
		refused = b.publishTo("", "full", amqp.Publishing{Body: []byte("filler")})
	}
	if !errors.Is(refused, rabbit.ErrRefused) {
		t.Fatalf("got %v, want the queue full", refused)
	}
	g := newGate()
	close(g.release)
	b.task("t", g)
	b.start()
	id := b.send("t", callback("full", nil))
	<-g.entered
	began := time.Now()
	b.until(func() bool { return time.Since(began) > 2500*time.Millisecond }) // for a few refusals
	if s := b.state(id); s != "" {
		t.Errorf("got %s while the queue is full, want nothing", s)
	}
	ch := b.channel()
	defer ch.Close()
	if _, err := ch.QueuePurge("full", false); err != nil {
		t.Fatal(err)
	}
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	if d := b.get("full"); d.Headers["parent_id"] != id {
		t.Errorf("got headers %v, want the callback of %s", d.Headers, id)
	}
	if n := g.runs.Load(); n != 1 {
		t.Errorf("got %d runs, want 1", n)
	}
}
