package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"onceover/celery"
	"onceover/internal/testenv"
	"onceover/rabbit"
	"onceover/worker"
)

// TestExchangeOfAnotherType has the exchange of the producers be of a type through which nothing
// would arrive: that is a problem with a remedy, said once, and over when the exchange is deleted,
// without a restart. It takes up to retryFaults, 10 s, to be seen.
func TestExchangeOfAnotherType(t *testing.T) {
	b := setup(t)
	b.task("t", value(1))
	ch := b.channel()
	if err := ch.ExchangeDelete(rabbit.ExchangeTasks, false, false); err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare(rabbit.ExchangeTasks, amqp.ExchangeDirect, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	w, _ := b.start()
	b.until(func() bool { return strings.Contains(fmt.Sprint(w.Problems()), "has to be of type topic") })
	id := b.sendTo("q.ai", "t", nil) // what is in the queue can be run
	if m := b.wait(id); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	if err := ch.ExchangeDelete(rabbit.ExchangeTasks, false, false); err != nil {
		t.Fatal(err)
	}
	b.until(func() bool { return len(w.Problems()) == 0 })
	if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
		t.Errorf("through the exchange: got %s, want SUCCESS", m.Status)
	}
	if n := b.logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 1 {
		t.Errorf("got %d lines at level error, want 1: %v", n, b.logs.FilterLevelExact(zap.ErrorLevel).All())
	}
}

// TestDelaysOfAnotherType has an exchange of native delayed delivery be of a type that loses what
// Celery delays through it: that is said loudly, and over when the exchange is deleted. It takes
// up to retryFaults, 10 s, to be seen.
func TestDelaysOfAnotherType(t *testing.T) {
	b := setup(t)
	b.cfg.DelayedDelivery = true
	ch := b.channel()
	if err := ch.ExchangeDeclare("celery_delayed_27", amqp.ExchangeDirect, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.until(func() bool { return b.logs.FilterLevelExact(zap.ErrorLevel).Len() > 0 })
	said := b.logs.FilterLevelExact(zap.ErrorLevel).All()[0]
	if !strings.Contains(fmt.Sprint(said.ContextMap()), "celery_delayed_27 has to be of type topic") {
		t.Errorf("got %v", said)
	}
	if err := ch.ExchangeDelete("celery_delayed_27", false, false); err != nil {
		t.Fatal(err)
	}
	b.until(func() bool { return b.logs.FilterMessage("native delayed delivery declared").Len() > 0 })
}

// TestAddConsumerOfWhatCannotBe asks for queues that the broker does not let the worker have: each
// is answered with an error, and the worker's own queue goes on.
func TestAddConsumerOfWhatCannotBe(t *testing.T) {
	b := setup(t)
	b.task("t", value(1))
	other, err := rabbit.Dial(t.Context(), "another", []string{b.url})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	theirs, err := other.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.QueueDeclare("exclusive", true, false, true, false, nil); err != nil {
		t.Fatal(err)
	}
	w, _ := b.start()
	b.wait(b.send("t", nil))
	for name, arguments := range map[string]map[string]any{
		"name of the broker's":      {"queue": "amq.x"},
		"no such type":              {"queue": "new", "exchange": "new", "exchange_type": "bogus"},
		"no such type of a plugin":  {"queue": "new", "exchange": "new", "exchange_type": "x-bogus"},
		"exchange of the broker's":  {"queue": "new", "exchange": "amq.new", "exchange_type": "direct"},
		"exclusive to somebody":     {"queue": "exclusive"},
		"exclusive, and own a type": {"queue": "exclusive", "exchange": "e", "exchange_type": "direct"},
	} {
		reply := string(b.control("add_consumer", arguments))
		if !strings.HasPrefix(reply, `{"error"`) {
			t.Errorf("%s: got %s, want an error", name, reply)
		}
		if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
			t.Errorf("%s: the configured queue: got %s, want SUCCESS", name, m.Status)
		}
	}
	if reply := string(b.control("add_consumer", map[string]any{"queue": "fine"})); !strings.HasPrefix(reply, `{"ok"`) {
		t.Errorf("a queue that can be declared: got %s, want ok", reply)
	}
	if m := b.wait(b.sendTo("fine", "t", nil)); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS", m.Status)
	}
	if n := b.logs.FilterMessage("broker lost, reconnecting").Len(); n != 0 || len(w.Problems()) != 0 {
		t.Errorf("the session was lost %d times, and there are problems %v", n, w.Problems())
	}
}

// TestWithoutConfigureRight runs a worker whose user may declare nothing, where all is declared.
func TestWithoutConfigureRight(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := setupOn(t, server.URL())
	b.task("t", value(1))
	_, stop := b.start() // declares what remote control needs
	b.wait(b.send("t", nil))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	server.Ctl("add_user", "w", "w")
	b.cfg.BrokerURLs = []string{strings.Replace(server.URL(), "guest:guest", "w:w", 1)}
	for name, write := range map[string]string{
		"may bind":     ".*",
		"may not bind": "^(tasks|dlx|amq\\.default|celery.*)$", // which takes the right to write to the queue
	} {
		server.Ctl("set_permissions", "w", "^$", write, ".*")
		before := b.logs.Len()
		w, stop := b.start()
		b.until(func() bool { return len(w.Problems()) == 0 })
		if m := b.wait(b.send("t", callback("q.ai", nil))); m.Status != celery.Success {
			t.Errorf("%s: got %s, want SUCCESS", name, m.Status)
		}
		b.until(func() bool { return b.left("q.ai") == 0 })
		for _, e := range b.logs.All()[before:] {
			if e.Level >= zap.ErrorLevel {
				t.Errorf("%s: got %s %v at level %s, want a warning at most", name, e.Message, e.ContextMap(), e.Level)
			}
		}
		if p := w.Problems(); len(p) != 0 {
			t.Errorf("%s: got problems %v, want none", name, p)
		}
		_ = stop() // the next one is to be alone
	}
}

// debug has the workers that start from here on log at level debug.
func (b *bundle) debug() {
	var core zapcore.Core
	core, b.logs = observer.New(zap.DebugLevel)
	b.log = zap.New(core)
}

// TestWithoutWriteRight takes the right to write to the default exchange away, before the start and
// while jobs run: they wait in their queue, or are held, until it is granted. Each look takes up to
// retryFaults, 10 s.
func TestWithoutWriteRight(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := setupOn(t, server.URL())
	b.debug()
	b.task("t", value(1))
	var runs atomic.Int32
	b.task("again", worker.HandlerFunc(func(context.Context, *celery.Request) (any, error) {
		if runs.Add(1)%2 == 1 {
			return nil, worker.Retry(errors.New("busy"), 100*time.Millisecond)
		}
		return 1, nil
	}))
	// Both jobs that send are at work before either is refused, which pauses consuming.
	atWork := make(chan struct{})
	b.task("calls back", worker.HandlerFunc(func(ctx context.Context, _ *celery.Request) (any, error) {
		select {
		case <-atWork:
		case <-ctx.Done():
		}
		return 1, nil
	}))
	var begun sync.Once
	b.task("sends", worker.HandlerFunc(func(ctx context.Context, _ *celery.Request) (any, error) {
		begun.Do(func() { close(atWork) })
		s := celery.NewSignature("t")
		s.Options.Queue = "elsewhere"
		_, err := worker.Send(ctx, s)
		return 1, err
	}))
	server.Ctl("add_user", "w", "w")
	b.cfg.BrokerURLs = []string{strings.Replace(server.URL(), "guest:guest", "w:w", 1)}
	may := func(write string) { server.Ctl("set_permissions", "w", ".*", write, ".*") }
	const without = "^(tasks|dlx|q\\..*|celery.*)$"
	may(without)
	first := b.send("again", nil)
	w, _ := b.start()
	told := func(n int) {
		t.Helper()
		b.until(func() bool {
			return b.logs.FilterMessage("the broker does not let us work").FilterLevelExact(zap.ErrorLevel).Len() == n &&
				b.logs.FilterMessage("consuming is paused: the jobs stay in their queues").Len() == n
		})
		if p := w.Problems(); len(p) != 1 || !strings.Contains(p[0], "set_permissions") {
			t.Errorf("got problems %q, want one with the remedy", p)
		}
	}
	told(1)
	if n := b.left("q.ai"); n != 1 || runs.Load() != 0 {
		t.Errorf("got %d jobs in the queue and %d runs, want the job there", n, runs.Load())
	}
	may(".*")
	if m := b.wait(first); m.Status != celery.Success {
		t.Errorf("got %s, want SUCCESS once it may publish", m.Status)
	}

	// A channel in use may remember what its user might do: to a new destination goes a new one.
	may(without)
	second := b.send("calls back", callback("elsewhere", nil))
	sends := b.send("sends", func(r *celery.Request) { r.SoftTimeLimit = time.Second })
	told(2)
	third := b.send("t", nil)
	trials := func() int { return b.logs.FilterMessage("tried whether we may publish to queues").Len() }
	before := trials()
	b.until(func() bool { return trials() > before }) // which must not take it for granted
	if n := b.logs.FilterMessage("what was wrong with the broker's configuration is mended").Len(); n != 1 {
		t.Errorf("got %d lines that it is mended, want one, of the first time", n)
	}
	told(2)
	for _, id := range []string{second, sends} {
		if s := b.state(id); s.Final() {
			t.Errorf("got %s, want that the job waits", s)
		}
	}
	if n := b.left("q.ai"); n != 1 {
		t.Errorf("got %d jobs in the queue, want the third", n)
	}
	may(".*")
	for _, id := range []string{second, sends, third} {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("got %s, want SUCCESS once it may publish", m.Status)
		}
	}
	if n := b.left("elsewhere"); n != 2 || runs.Load() != 2 {
		t.Errorf("got %d tasks sent and %d runs of the first, want 2 and 2", n, runs.Load())
	}
	b.until(func() bool { return len(w.Problems()) == 0 })
}

// TestRightsOfTheTopologyAreGranted starts a worker on an empty broker whose user may bind nothing and
// not declare what delays tasks. Once that is granted its queues are bound, within retryFaults, 10 s, and
// the delays declared, within retryRights, 30 s.
func TestRightsOfTheTopologyAreGranted(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := setupOn(t, server.URL())
	b.debug()
	b.cfg.DelayedDelivery = true
	b.task("t", value(1))
	ch := b.channel()
	for _, queue := range []string{"q.ai", rabbit.QueueDeadLetter} {
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			t.Fatal(err)
		}
	}
	server.Ctl("add_user", "w", "w")
	b.cfg.BrokerURLs = []string{strings.Replace(server.URL(), "guest:guest", "w:w", 1)}
	server.Ctl("set_permissions", "w", "^(?!celery_delayed).*", ".*", "^(q\\..*|celery.*)$")
	w, _ := b.start()
	unbound := func() int { return strings.Count(fmt.Sprint(w.Problems()), "bind queue") }
	b.until(func() bool { return unbound() > 0 })
	declares := func() int { return b.logs.FilterMessage("the broker does not let us work").Len() }
	said := declares()
	b.until(func() bool { return b.logs.FilterMessage("native delayed delivery is not available").Len() == 1 })
	looks := func() int { return b.logs.FilterMessage("looked which queues we may have").Len() }
	first := looks()
	b.until(func() bool { return looks() > first })
	if n := unbound(); n != said || declares() != said { // that the queues are there now says nothing
		t.Errorf("got %d problems with bindings and %d lines after a second look, want %d", n, declares(), said)
	}
	server.Ctl("set_permissions", "w", ".*", ".*", ".*")
	b.until(func() bool { return len(w.Problems()) == 0 })
	if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
		t.Errorf("through the exchange: got %s, want SUCCESS", m.Status)
	}
	b.until(func() bool { return b.logs.FilterMessage("native delayed delivery declared").Len() == 1 })
}

// TestWithoutRightToTheTasks takes the right to write to the exchange of the tasks away: a job whose
// next step goes there waits until it is granted, and others run. That it is granted shows within two
// times retryFaults, 20 s.
func TestWithoutRightToTheTasks(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	b := setupOn(t, server.URL())
	b.task("t", value(1))
	server.Ctl("add_user", "w", "w")
	b.cfg.BrokerURLs = []string{strings.Replace(server.URL(), "guest:guest", "w:w", 1)}
	server.Ctl("set_permissions", "w", ".*", "^(?!tasks$).*", ".*")
	w, _ := b.start()
	next := celery.NewSignature("t")
	next.Options.Exchange, next.Options.RoutingKey, next.Options.TaskID = rabbit.ExchangeTasks, "ai.next", "next"
	waits := b.send("t", func(r *celery.Request) { r.Chain = celery.Signatures{next} })
	b.until(func() bool { return strings.Contains(fmt.Sprint(w.Problems()), "publish to exchange tasks") })
	if m := b.wait(b.send("t", nil)); m.Status != celery.Success {
		t.Errorf("another job: got %s, want SUCCESS", m.Status)
	}
	if s := b.state(waits); s.Final() {
		t.Errorf("got %s, want that the job waits", s)
	}
	server.Ctl("set_permissions", "w", ".*", ".*", ".*")
	for _, id := range []string{waits, "next"} {
		if m := b.wait(id); m.Status != celery.Success {
			t.Errorf("%s: got %s, want SUCCESS once it may publish", id, m.Status)
		}
	}
	b.until(func() bool { return len(w.Problems()) == 0 })
	if n := b.logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 1 {
		t.Errorf("got %d lines at level error, want one", n)
	}
}
