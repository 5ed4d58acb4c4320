package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/internal/control"
)

// played is a worker that the test plays, as far as remote control goes.
type played struct {
	mu       sync.Mutex
	queues   []string
	job      map[string]string // that runs
	accepted int
}

func (p *played) consumed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.queues)
}

// channel opens a connection of the test's own.
func (b *bundle) channel() *amqp.Channel {
	b.t.Helper()
	conn, err := amqp.Dial(b.broker)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	return ch
}

// work has a worker a@h answer, which runs a job, nil for none, and consumes queues.
func (b *bundle) work(job map[string]string, queues ...string) *played {
	b.t.Helper()
	p := &played{queues: queues, job: job, accepted: 3}
	conn, err := amqp.Dial(b.broker)
	if err != nil {
		b.t.Fatal(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := ch.ExchangeDeclare("celery.pidbox", "fanout", false, false, false, false, nil); err != nil {
		b.t.Fatal(err)
	}
	for _, name := range queues {
		if _, err := ch.QueueDeclare(name, true, false, false, false, nil); err != nil {
			b.t.Fatal(err)
		}
	}
	q, err := ch.QueueDeclare("a@h.celery.pidbox", false, true, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := ch.QueueBind(q.Name, "", "celery.pidbox", false, nil); err != nil {
		b.t.Fatal(err)
	}
	deliveries, err := ch.Consume(q.Name, "", true, false, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for d := range deliveries {
			var asked struct {
				Method      string
				Arguments   struct{ Queue string }
				Destination []string
				Ticket      string
				ReplyTo     struct {
					Exchange   string
					RoutingKey string `json:"routing_key"`
				} `json:"reply_to"`
			}
			if err := json.Unmarshal(d.Body, &asked); err != nil || len(asked.Destination) > 0 && !slices.Contains(asked.Destination, "a@h") {
				continue
			}
			doc, err := json.Marshal(map[string]any{"a@h": p.answer(asked.Method, asked.Arguments.Queue)})
			if err != nil {
				b.t.Error(err)
			}
			if asked.ReplyTo.RoutingKey == "" {
				continue
			}
			ch.Publish(asked.ReplyTo.Exchange, asked.ReplyTo.RoutingKey, false, false, amqp.Publishing{ // it may be closed by now
				ContentType: "application/json", ContentEncoding: "utf-8", Body: doc, Headers: amqp.Table{"ticket": asked.Ticket, "clock": int64(7)},
			})
		}
	})
	b.t.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return p
}

func (p *played) answer(method, queue string) any {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch method {
	case "stats":
		return map[string]any{"total": map[string]int{"image.analyze": p.accepted}, "pid": 4711, "prefetch_count": 8,
			"pool": map[string]any{"implementation": "onceover:Pool", "max-concurrency": 4}}
	case "active":
		out := []map[string]any{}
		if p.job != nil {
			out = append(out, map[string]any{"id": p.job["id"], "type": "image.analyze", "kwargs": p.job["kwargs"], "time_start": 1700000000.5})
		}
		return out
	case "active_queues":
		out := []map[string]any{}
		for _, name := range p.queues {
			out = append(out, map[string]any{"name": name})
		}
		return out
	case "cancel_consumer":
		p.queues = slices.DeleteFunc(p.queues, func(name string) bool { return name == queue })
		return map[string]string{"ok": "no longer consuming from " + queue}
	case "add_consumer":
		if !slices.Contains(p.queues, queue) {
			p.queues = append(p.queues, queue)
		}
		return map[string]string{"ok": "add consumer " + queue}
	}
	return map[string]string{"error": "unknown " + method}
}

// TestPauseAndResume pauses a queue: its worker stops to consume it, who and why are shown, and it is consumed again afterwards.
func TestPauseAndResume(t *testing.T) {
	b := setup(t, withTokens)
	worker := b.work(map[string]string{"id": "r<1>", "kwargs": "{'job_id': 'j'}"}, "q.ai", "q.odd/<b>?")
	b.run()
	read := b.reader()
	read.token = signed(t, "kim", nil, adminScope)
	var queues *answer
	b.until("the worker is shown", func() bool {
		queues = read.get(Base + "queues")
		return strings.Contains(queues.text(), "a@h 1 4 q.ai, q.odd/<b>?")
	})
	const odd = "q.odd/<b>?"
	var action string
	for _, n := range queues.elements("form") {
		if strings.HasSuffix(attr(n, "action"), "/pause") && strings.Contains(attr(n, "action"), "odd") {
			action = attr(n, "action")
		}
	}
	path, page := read.post(action, url.Values{"why": {"  the model <is> away "}})
	if path != Base+"queues" || !strings.HasPrefix(page.said(), "Queue "+odd+" is paused") {
		t.Fatalf("got %q at %s", page.said(), path)
	}
	if got := worker.consumed(); !slices.Equal(got, []string{"q.ai"}) {
		t.Errorf("got the worker to consume %v, want q.ai alone", got)
	}
	noted, err := b.console.Pauses.All(t.Context())
	if p := noted[odd]; err != nil || len(noted) != 1 || p.By != "kim" || p.Why != "the model <is> away" || p.Since.IsZero() || !slices.Equal(p.Nodes, []string{"a@h"}) {
		t.Errorf("got the pauses %+v, %v", noted, err)
	}
	b.until("the pause is shown", func() bool {
		return strings.Contains(read.get(Base+"queues").text(), "paused by kim, ") && strings.Contains(read.get(Base).text(), "the model <is> away")
	})

	// A worker that begins later is told.
	worker.mu.Lock()
	worker.queues = append(worker.queues, odd)
	worker.mu.Unlock()
	b.until("it is told", func() bool {
		read.get(Base + "queues")
		return slices.Equal(worker.consumed(), []string{"q.ai"})
	})

	var resume string
	for _, n := range read.get(Base + "queues").elements("form") {
		if strings.HasSuffix(attr(n, "action"), "/resume") {
			resume = attr(n, "action")
		}
	}
	if _, page = read.post(resume, nil); page.said() != "Queue "+odd+" is not paused any more: 1 of the 1 workers that had consumed it do so again." {
		t.Errorf("got %q", page.said())
	}
	if got := worker.consumed(); !slices.Equal(got, []string{"q.ai", odd}) {
		t.Errorf("got the worker to consume %v, want both again", got)
	}
	if _, page = read.post(resume, nil); page.said() != "Queue "+odd+" was not paused." {
		t.Errorf("got %q for the second time", page.said())
	}
	if a := read.do("POST", Base+"queues/none/pause", url.Values{}); a.status != 404 {
		t.Errorf("got %d for a queue that does not exist, want 404", a.status)
	}
	rows := read.get(Base + "changes").elements("tr")
	if len(rows) != 3 || !strings.Contains(textOf(rows[1]), "kim resume queue "+odd+" resumed, 1 workers of 1 that had consumed it") || !strings.Contains(textOf(rows[2]), "kim pause queue "+odd+" paused, 1 workers told: the model <is> away") {
		t.Errorf("got %d changes: %s", len(rows)-1, read.get(Base+"changes").text())
	}
}

// TestResumeFails has the broker away: the pause stays, as it alone says who consumed the queue.
func TestResumeFails(t *testing.T) {
	b := setup(t, func(_ *Config, n *Needs) {
		n.Workers = control.New("console test", []string{"amqp://127.0.0.1:1"})
		t.Cleanup(n.Workers.Close)
	})
	b.run()
	pause := control.Pause{By: "kim", Why: "x", Since: time.Now().UTC().Truncate(time.Second), Nodes: []string{"a@h"}}
	if err := b.console.Pauses.Set(t.Context(), "q.ai", pause); err != nil {
		t.Fatal(err)
	}
	read := b.reader()
	if a := read.do(http.MethodPost, Base+"queues/q.ai/resume", url.Values{}); a.status != http.StatusServiceUnavailable || !strings.Contains(a.text(), "the queue stays paused") {
		t.Errorf("got %d, %s", a.status, a.text())
	}
	if a := read.do(http.MethodPost, Base+"queues/q.ai/pause", url.Values{"why": {"y"}}); a.status != http.StatusServiceUnavailable {
		t.Errorf("got %d, %s", a.status, a.text())
	}
	noted, err := b.console.Pauses.All(t.Context())
	if p := noted["q.ai"]; err != nil || p.By != "kim" || p.Why != "x" || !slices.Equal(p.Nodes, []string{"a@h"}) {
		t.Errorf("got the pauses %+v, %v, want it as it was, with who consumed the queue", noted, err)
	}
	if a := read.get(Base + "changes"); strings.Contains(a.text(), "q.ai") {
		t.Errorf("got the changes %s, want none", a.text())
	}
	if a := read.get(Base); !strings.Contains(a.text(), "Not known:") {
		t.Errorf("got %s, want that workers cannot be asked", a.text())
	}
}

// TestNobodyWorks shows that no worker answers, that a queue has nobody, and that one does not exist.
func TestNobodyWorks(t *testing.T) {
	b := setup(t, func(_ *Config, n *Needs) { n.Queues = []string{"q.ai", "q.none"} })
	b.run()
	read := b.reader()
	if a := read.get(Base); !strings.Contains(a.text(), "No worker answers.") || !strings.Contains(a.text(), "q.none – – – does not exist") || !strings.Contains(a.text(), "q.ai 0 – 0") {
		t.Errorf("got %s", a.text())
	}
	if a := read.get(Base + "running"); !strings.Contains(a.text(), "No job runs at the moment.") {
		t.Errorf("got %s", a.text())
	}
	for _, n := range read.get(Base + "queues").elements("form") {
		if strings.Contains(attr(n, "action"), "q.none") {
			t.Error("a queue that does not exist can be paused")
		}
	}
}

// TestProblems shows what workers say of themselves, each once.
func TestProblems(t *testing.T) {
	b := setup(t)
	now := time.Now()
	b.console.now = &Snapshot{At: now, Workers: Part[[]control.Worker]{At: now, Value: []control.Worker{
		{Node: "a@h", Problems: []string{"redis refuses commands: redis://u:secret@h/0"}}, {Node: "b@h", Problems: []string{"redis refuses commands: redis://u:secret@h/0", "no queue"}},
	}}}
	a := b.reader().get(Base)
	for _, want := range []string{"2 workers: redis refuses commands", "b@h: no queue"} {
		if text := a.text(); strings.Count(text, want) != 1 || strings.Contains(text, "secret") {
			t.Errorf("got no %q in %s", want, text)
		}
	}
}

// TestQueuesStay shows a queue whose workers have gone, and the dead letters, until they do not exist any more.
func TestQueuesStay(t *testing.T) {
	b := setup(t)
	ch := b.channel()
	if _, err := ch.QueueDeclare("q.batch", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("own", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	names := func(s *Snapshot) (out []string) {
		for _, q := range s.Queues {
			out = append(out, q.Name)
		}
		return out
	}
	s := &Snapshot{Workers: Part[[]control.Worker]{Value: []control.Worker{{Node: "a@h", Queues: []string{"own"}}}}}
	b.console.lookAtQueues(t.Context(), s, nil)
	if got := names(s); !slices.Equal(got, []string{"own", "q.ai", "q.batch", "q.dlq"}) {
		t.Errorf("got the queues %q", got)
	}
	next := &Snapshot{}
	b.console.lookAtQueues(t.Context(), next, s)
	if got := names(next); !slices.Equal(got, []string{"own", "q.ai", "q.batch", "q.dlq"}) {
		t.Errorf("without workers: got the queues %q, want them all", got)
	}
	if _, err := ch.QueueDelete("own", false, false, false); err != nil {
		t.Fatal(err)
	}
	last := &Snapshot{}
	b.console.lookAtQueues(t.Context(), last, next)
	if got := names(last); slices.Contains(got, "own") {
		t.Errorf("got the queues %q, want none that does not exist", got)
	}
}

// TestAlarm shows that the broker takes no messages, in place of the workers that cannot be asked.
func TestAlarm(t *testing.T) {
	b := setup(t)
	now := time.Now()
	b.console.now = &Snapshot{At: now, Workers: Part[[]control.Worker]{Err: fmt.Errorf("ask stats: %w", &control.BlockedError{Reason: "low on disk"}), At: now}}
	a := b.reader().get(Base)
	if text := a.text(); !strings.Contains(text, "RabbitMQ takes no messages: low on disk. Producers wait") || strings.Contains(text, "Not known: ask stats") {
		t.Errorf("got %s", text)
	}
}

// TestSubjectless has a token that names nobody.
func TestSubjectless(t *testing.T) {
	b := setup(t, withTokens)
	b.jobs(1, nil)
	b.run()
	read := b.reader()
	read.token = signed(t, "", jwt.MapClaims{"sub": ""}, adminScope)
	read.post(Base+"failed/job-000:0/replay", nil)
	if a := read.get(Base + "changes"); !strings.Contains(a.text(), "a token without a subject replay job-000:0 replayed") {
		t.Errorf("got %s", a.text())
	}
}
