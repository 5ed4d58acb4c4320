package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"onceover/failed"
	"onceover/internal/control"
	"onceover/rabbit"
	"onceover/vision"
)

// standing is a queue in which so many messages wait.
func standing(name string, ready int) Queue {
	return Queue{Name: name, State: Part[rabbit.Standing]{Value: rabbit.Standing{Ready: ready}, At: time.Now()}}
}

// noted is how queues stood at a second, when workers had begun so many jobs since their start.
type noted struct {
	second, accepted int
	ready            map[string]int
}

// filled is a ring that has heard of these.
func filled(all []noted) (r *ring, at func(second int) time.Time) {
	began := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	at = func(second int) time.Time { return began.Add(time.Duration(second) * time.Second) }
	r = &ring{}
	for _, n := range all {
		var queues []Queue
		for name, ready := range n.ready {
			queues = append(queues, standing(name, ready))
		}
		r.add(at(n.second), n.accepted, queues)
	}
	return r, at
}

func a(ready int) map[string]int { return map[string]int{"a": ready} }

// TestAge is a table of how long the oldest message has waited at least.
func TestAge(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		before          []noted
		second          int // now
		ready, accepted int
		want            int // seconds
	}{
		"nothing known":                  {nil, 0, 5, 0, 0},
		"nothing waits":                  {[]noted{{0, 0, a(5)}, {10, 0, a(5)}}, 20, 0, 5, 0},
		"nothing is begun":               {[]noted{{0, 7, a(5)}, {10, 7, a(5)}, {20, 7, a(5)}}, 30, 5, 7, 30},
		"some are begun":                 {[]noted{{0, 0, a(5)}, {10, 4, a(5)}}, 20, 1, 4, 20},
		"all of that time are begun":     {[]noted{{0, 0, a(5)}, {10, 5, a(5)}}, 20, 5, 5, 10},
		"all but the latest are begun":   {[]noted{{0, 0, a(5)}, {10, 5, a(5)}, {20, 9, a(5)}}, 30, 5, 9, 20},
		"as many as ever are begun":      {[]noted{{0, 0, a(5)}, {10, 10, a(5)}, {20, 20, a(5)}}, 30, 5, 30, 0},
		"it was empty meanwhile":         {[]noted{{0, 0, a(5)}, {10, 5, a(0)}, {20, 5, a(3)}}, 30, 3, 5, 10},
		"others are begun":               {[]noted{{0, 0, map[string]int{"a": 2, "b": 50}}}, 10, 2, 30, 0},
		"the queue is new":               {[]noted{{0, 0, map[string]int{"b": 1}}, {10, 0, a(3)}}, 20, 3, 0, 10},
		"a worker has gone":              {[]noted{{0, 100, a(5)}, {10, 100, a(5)}, {20, 3, a(5)}}, 30, 5, 3, 10},
		"it did not answer in the midst": {[]noted{{0, 0, a(5)}, {10, 0, nil}, {20, 0, a(5)}}, 30, 5, 0, 10},
	} {
		r, at := filled(tt.before)
		q := standing("a", tt.ready)
		r.age(&q, at(tt.second), tt.accepted)
		if want := time.Duration(tt.want) * time.Second; q.Oldest != want {
			t.Errorf("%s: got %v, want %v at least", name, q.Oldest, want)
		}
	}
	// Of what waited for as long as messages may, none has to be there any more.
	expiring, at := filled([]noted{{0, 0, a(5)}, {10, 0, a(5)}, {20, 0, a(5)}})
	q := standing("a", 5)
	q.TTL = 20 * time.Second
	if expiring.age(&q, at(30), 0); q.Oldest != 10*time.Second {
		t.Errorf("got %v of a queue whose messages expire after %v, want 10 s at least", q.Oldest, q.TTL)
	}
	r, at := filled([]noted{{0, 0, a(5)}})
	away := Queue{Name: "a", State: Part[rabbit.Standing]{Value: rabbit.Standing{Ready: 5}, Err: errors.New("away"), At: time.Now()}}
	if r.age(&away, at(10), 0); away.Oldest != 0 {
		t.Errorf("got %v of a queue that does not answer, want that it is not known", away.Oldest)
	}
}

// TestRates is a table of jobs a second.
func TestRates(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		before          []noted
		second          int // now
		ready, accepted int
		want            Rates
	}{
		"nothing known":           {nil, 0, 5, 0, Rates{}},
		"not for long enough":     {[]noted{{0, 0, a(5)}, {10, 0, a(5)}}, 29, 5, 100, Rates{}},
		"nothing happens":         {[]noted{{0, 9, a(5)}}, 30, 5, 9, Rates{Known: true}},
		"as many come as go":      {[]noted{{0, 0, a(60)}}, 30, 60, 60, Rates{Known: true, In: 2, Out: 2}},
		"more go":                 {[]noted{{0, 0, a(120)}}, 30, 60, 90, Rates{Known: true, In: 1, Out: 3, Empties: 30 * time.Second}},
		"more come":               {[]noted{{0, 0, a(0)}}, 40, 80, 40, Rates{Known: true, In: 3, Out: 1}},
		"only go":                 {[]noted{{0, 0, a(60)}}, 30, 0, 60, Rates{Known: true, In: 0, Out: 2}},
		"somebody takes them out": {[]noted{{0, 0, a(60)}}, 30, 0, 30, Rates{Known: true, In: 0, Out: 1}},
		"the latest that counts":  {[]noted{{0, 0, a(0)}, {10, 0, a(0)}, {20, 30, a(0)}, {45, 60, a(0)}}, 50, 0, 90, Rates{Known: true, In: 2, Out: 2}},
		"a worker has gone":       {[]noted{{0, 100, a(5)}, {35, 3, a(5)}}, 40, 5, 3, Rates{}},
		"a queue is new":          {[]noted{{0, 0, map[string]int{"a": 1, "b": 2}}}, 40, 5, 3, Rates{}},
	} {
		r, at := filled(tt.before)
		if got := r.rates([]Queue{standing("a", tt.ready)}, at(tt.second), tt.accepted, time.Time{}); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tt.want)
		}
	}
}

// TestRing remembers an hour, in its own room, and no two samples within five seconds.
func TestRing(t *testing.T) {
	t.Parallel()
	var all []noted
	for second := range 3 * 3600 {
		all = append(all, noted{second, 0, a(5)})
	}
	r, at := filled(all)
	q := standing("a", 5)
	r.age(&q, at(3*3600), 0)
	if q.Oldest < time.Hour-2*spacing || q.Oldest > time.Hour+2*spacing || r.n != 3*3600/5 {
		t.Errorf("got %v, %d samples, want an hour", q.Oldest, r.n)
	}
}

// perGathering is how many commands a gathering asks Redis, with the hours, and perCause how many more for each cause. It is 27 for the
// causes, 24 each for the hours of failures and of the cache, and some for each other part.
const (
	mostPerGathering = 130
	perCause         = 2
)

// gatherings returns how many commands a gathering asks, measured by some of them.
func (b *bundle) gatherings(n int) (commands int) {
	b.t.Helper()
	before := b.counter.total()
	for range n {
		b.console.gather(b.t.Context(), nil)
	}
	return (b.counter.total() - before) / n
}

// TestCommands counts the commands of a gathering: as many with 2,000 failed jobs as with 10.
func TestCommands(t *testing.T) {
	b := setup(t)
	b.jobs(10, nil)
	b.gatherings(1) // scripts and connections are made once
	few := b.gatherings(3)
	if few < 80 || few > mostPerGathering {
		t.Errorf("got %d commands with 10 failed jobs and a cause, want %d at most", few, mostPerGathering)
	}
	b.jobs(2000, func(i int, r *failed.Record) { r.ID += "-more"; r.Message.Headers["id"] = r.ID })
	if many := b.gatherings(3); many != few {
		t.Errorf("got %d commands with 2,010 failed jobs, want %d as with 10", many, few)
	}
	b.jobs(5, func(i int, r *failed.Record) {
		r.ID += "-other"
		r.Message.Headers["id"], r.Error = r.ID, fmt.Sprintf("Other%cError", 'A'+i)
	})
	if causes := b.gatherings(3); causes != few+5*perCause {
		t.Errorf("got %d commands with five more causes, want %d", causes, few+5*perCause)
	}
}

// TestViewers has five people look at the overview at once, again and again: what is asked of Redis is what the gatherings ask, and
// there is one every two seconds at most.
func TestViewers(t *testing.T) {
	b := setup(t)
	b.jobs(10, nil)
	b.gatherings(1)
	whole := b.gatherings(1)
	b.run()
	b.reader().get(Base) // waits for the first
	// The one that is under way ends.
	b.until("a gathering has ended", func() bool { return b.console.latest(t.Context()) != nil })
	before, pinged, began := b.counter.total(), b.pings.Load(), time.Now()
	var viewers sync.WaitGroup
	for range 5 {
		viewers.Go(func() {
			read := b.reader()
			for range 20 {
				read.get(Base)
			}
		})
	}
	viewers.Wait()
	took := time.Since(began)
	// The commands of one that had begun before, or has not ended, count too.
	gathered := int(b.pings.Load()-pinged) + 1
	if most := 2 + int(took/fresh); gathered > most+1 {
		t.Errorf("got %d gatherings in %v, want one every %v: %d at most", gathered, took, fresh, most)
	}
	if got := b.counter.total() - before; got > gathered*whole {
		t.Errorf("100 overviews asked %d commands in %d gatherings of %d at most", got, gathered, whole)
	}
}

// TestNobodyLooks gathers rarely while nobody looks, and at once for the first who does.
func TestNobodyLooks(t *testing.T) {
	b := setup(t)
	b.run()
	b.until("the first", func() bool {
		b.console.mu.Lock()
		defer b.console.mu.Unlock()
		return b.console.now != nil
	})
	n := b.pings.Load()
	b.until("some seconds have gone", func() bool {
		b.console.mu.Lock()
		defer b.console.mu.Unlock()
		return time.Since(b.console.now.At) > 2*fresh
	})
	if got := b.pings.Load(); got != n {
		t.Errorf("got %d gatherings while nobody looked, want none after the first", got-n)
	}
	b.console.mu.Lock()
	old := b.console.now.At
	b.console.mu.Unlock()
	b.reader().get(Base) // once: servers that are slow have the page show what is old, and be renewed
	b.until("it was looked anew", func() bool {
		b.console.mu.Lock()
		defer b.console.mu.Unlock()
		return b.console.now.At.After(old)
	})
	if took := time.Since(old); took >= idle {
		t.Errorf("that was %v after the first, want it at once, not in its turn", took)
	}
}

// TestRedisAway kills Redis: the overview answers all the same, with what is known, and says what does not answer.
func TestRedisAway(t *testing.T) {
	b := setup(t)
	b.jobs(3, nil)
	b.run()
	read := b.reader()
	if a := read.get(Base); !strings.Contains(a.text(), "✓ Redis DB5") || !strings.Contains(a.text(), "ValueError boom") {
		t.Fatalf("got %s", a.text())
	}
	b.server.Kill()
	var a *answer
	b.until("the overview says so", func() bool {
		a = read.do(http.MethodGet, Base, nil)
		if a.status != http.StatusOK {
			t.Fatalf("got %d, %s, want what is known", a.status, a.text())
		}
		return strings.Contains(a.text(), "✕ Redis DB5 does not answer")
	})
	if !strings.Contains(a.text(), "✓ RabbitMQ") || !strings.Contains(a.text(), "Not known:") || !strings.Contains(a.text(), "q.ai 0") {
		t.Errorf("got %s, want what RabbitMQ says", a.text())
	}
	for _, path := range []string{"failed", "failed/job-000:0", "bulk", "bulk/new?action=replay", "parked", "changes"} {
		if a := read.do(http.MethodGet, Base+path, nil); a.status != http.StatusServiceUnavailable || !strings.Contains(a.text(), "A server does not answer as it should") {
			t.Errorf("%s: got %d, %s", path, a.status, a.text())
		}
	}
	if a := read.do(http.MethodPost, Base+"failed/job-000:0/replay", map[string][]string{}); a.status != http.StatusServiceUnavailable {
		t.Errorf("got %d for a replay, want 503", a.status)
	}
	b.server.Start()
	b.until("all is well again", func() bool {
		a = read.do(http.MethodGet, Base, nil)
		return strings.Contains(a.text(), "✓ Redis DB5") && strings.Contains(a.text(), "ValueError boom") && !strings.Contains(a.text(), "Not known:")
	})
	if !b.has("job-000:0") || len(b.out.messages()) != 0 {
		t.Error("want the job kept, and not published")
	}
}

// TestRedisHangs stops Redis, which keeps its connections: the overview answers all the same, and says so.
func TestRedisHangs(t *testing.T) {
	b := setup(t)
	b.jobs(3, nil)
	b.run()
	read := b.reader()
	read.get(Base)
	var pid int
	for line := range strings.Lines(b.client.Info(t.Context(), "server").Val()) {
		if text, ok := strings.CutPrefix(line, "process_id:"); ok {
			pid, _ = strconv.Atoi(strings.TrimSpace(text)) // 0 if it is none
		}
	}
	if pid == 0 {
		t.Fatal("the server does not say what its process is")
	}
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	t.Cleanup(func() { signal(syscall.SIGCONT) })
	b.until("the overview says so", func() bool {
		a := read.do(http.MethodGet, Base, nil)
		if a.status != http.StatusOK {
			t.Fatalf("got %d, %s, want what is known", a.status, a.text())
		}
		return strings.Contains(a.text(), "✕ Redis DB5 does not answer") && strings.Contains(a.text(), "✓ RabbitMQ")
	})
	if a := read.do(http.MethodGet, Base+"failed", nil); a.status != http.StatusServiceUnavailable {
		t.Errorf("got %d for the list, want 503", a.status)
	}
	signal(syscall.SIGCONT)
	b.until("all is well again", func() bool { return strings.Contains(read.get(Base).text(), "✓ Redis DB5") })
}

// TestWantedOnce has a reader come while the first gathering is under way: it is his, and the next one comes when it is due.
func TestWantedOnce(t *testing.T) {
	var mu sync.Mutex
	var begun []time.Time
	inside, goOn := make(chan struct{}, 10), make(chan struct{})
	b := setup(t, func(_ *Config, n *Needs) {
		n.Servers = []Server{{"slow", func(context.Context) error {
			mu.Lock()
			begun = append(begun, time.Now())
			mu.Unlock()
			inside <- struct{}{}
			<-goOn
			return nil
		}}}
	})
	b.run()
	<-inside
	answered := make(chan int, 1)
	go func() { answered <- b.reader().do(http.MethodGet, Base, nil).status }()
	b.until("the reader waits", func() bool { return len(b.console.want) == 1 })
	ended := time.Now()
	close(goOn)
	if status := <-answered; status != http.StatusOK {
		t.Errorf("got %d", status)
	}
	<-inside
	mu.Lock()
	defer mu.Unlock()
	if early := begun[1].Sub(ended); early < fresh {
		t.Errorf("got the second gathering %v after the first, want it after %v", early, fresh)
	}
}

// TestNothingKnown has nobody gather: a reader is told so, after a while.
func TestNothingKnown(t *testing.T) {
	b := setup(t)
	if gathering >= patience || patience > 6*time.Second {
		t.Errorf("got %v for a page and %v for a gathering, want a page within six seconds", patience, gathering)
	}
	began := time.Now()
	a := b.reader().do(http.MethodGet, Base, nil) // nobody gathers
	if a.status != http.StatusServiceUnavailable || !strings.Contains(a.text(), "Nothing is known yet") {
		t.Errorf("got %d, %s", a.status, a.text())
	}
	if took := time.Since(began); took < gathering {
		t.Errorf("got the answer after %v, want it to wait %v for news", took, gathering)
	}
}

// TestManyFailedJobs looks at many failed jobs, and says how long each page takes: 3,000, or with ONCEOVER_TEST_FULL=1 100,000, of which
// no command may take Redis 5 ms.
func TestManyFailedJobs(t *testing.T) {
	n, full := 3_000, os.Getenv("ONCEOVER_TEST_FULL") == "1"
	if full {
		n = 100_000
	}
	b := setup(t)
	b.jobs(n, func(i int, r *failed.Record) {
		if i%3 == 0 {
			r.Error = "KeyError"
		}
	})
	b.run()
	b.client.ConfigSet(t.Context(), "slowlog-log-slower-than", "5000")
	b.client.Do(t.Context(), "SLOWLOG", "RESET")
	read := b.reader()
	cause := read.get(Base).link("KeyError")
	for _, path := range []string{
		Base, cause, Base + "failed", Base + "failed?error=KeyError", Base + "failed?text=job-000", Base + "failed?text=nothing+has+this", Base + "failed/job-000:0",
		Base + "bulk/new?action=replay", Base + "bulk/new?action=replay&text=boom", Base + "parked", Base + "changes",
	} {
		began := time.Now()
		a := read.do(http.MethodGet, path, nil)
		t.Logf("%8v %d %s", time.Since(began).Round(100*time.Microsecond), a.status, path)
		if a.status != http.StatusOK {
			t.Errorf("%s: got %d, %s", path, a.status, a.text())
		}
	}
	// A count that does not look at all of them may come out otherwise when it is done again.
	plan := read.get(Base + "bulk/new?action=discard&text=boom")
	action, fields := plan.form(t, "/bulk")
	if counted := fields.Get("counted"); counted == "" {
		t.Logf("the machine has counted all in time: %s", plan.text())
	} else {
		fields.Set("typed", counted)
		path, _ := read.post(action, fields)
		b.until("the bulk has begun", func() bool { return !strings.Contains(read.get(path).text(), "discard: 0 /") })
		stop, _ := read.get(path).form(t, "/stop")
		read.post(stop, nil)
	}
	if !full { // the machine is busy with other tests
		return
	}
	for _, slow := range b.client.SlowLogGet(t.Context(), 100).Val() {
		if name := strings.ToLower(slow.Args[0]); name != "bgrewriteaof" && name != "hello" && name != "client" {
			t.Errorf("Redis took %v for %.200q", slow.Duration, slow.Args)
		}
	}
}

// TestTally counts what workers have begun, as they start, fall silent, come back, start again and go.
func TestTally(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 12, 1, 3, 0, 0, 0, time.UTC)
	say := func(accepted ...int) Part[[]control.Worker] { // of a, b, …; -1: silent, -2: it does not say all
		p := Part[[]control.Worker]{At: began}
		for i, n := range accepted {
			w := control.Worker{Node: string(rune('a' + i)), Accepted: n}
			switch n {
			case -1:
				continue
			case -2:
				w.Accepted, w.Fault = 0, "stats: no answer in time"
			}
			p.Value = append(p.Value, w)
		}
		return p
	}
	var c tally
	for _, step := range []struct {
		second int
		heard  Part[[]control.Worker]
		total  int
		sure   bool
		lost   bool
	}{
		{0, say(1000), 1000, true, false},
		{5, say(1010, 7), 1017, true, false}, // one more
		{10, say(1020, -1), 1027, false, false},
		{15, say(1030, 9), 1039, true, false}, // it is back
		{20, say(1030, -2), 1039, false, false},
		{25, Part[[]control.Worker]{Err: errors.New("no broker")}, 1039, false, false},
		{30, say(3, 9), 1042, true, false}, // started again
		{40, say(3, -1), 1042, false, false},
		{100, say(4, -1), 1043, true, true}, // it has gone
		{105, say(5, -1), 1044, true, true},
	} {
		total, sure := c.count(step.heard, began.Add(time.Duration(step.second)*time.Second))
		if total != step.total || sure != step.sure || c.lost != step.lost {
			t.Errorf("after %d s: got %d, sure %v, lost %v, want %d, %v, %v", step.second, total, sure, c.lost, step.total, step.sure, step.lost)
		}
	}
	if want := began.Add(5 * time.Second); !c.jumped.Equal(want) {
		t.Errorf("a worker was first heard of at %v, want %v", c.jumped, want)
	}
}

// TestEndpointFails has the breaker of a model open: the overview says it with the servers, and since when.
func TestEndpointFails(t *testing.T) {
	b := setup(t)
	call := vision.Call{Endpoint: "https://model.test", Model: "m", Prompt: "p", Kind: "analysis", Size: "1x1", Timeout: time.Minute}
	for range 10 {
		pass, err := b.console.Gate.Enter(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		pass.Leave(vision.End{Err: &vision.Error{Class: vision.Overloaded, StatusCode: http.StatusServiceUnavailable, Err: errors.New("bo<b>om")}})
	}
	b.run()
	var said []string
	for _, li := range b.reader().get(Base).elements("li") {
		if attr(li, "class") == "bad" {
			said = append(said, textOf(li))
		}
	}
	if len(said) != 1 || !strings.Contains(said[0], "Vision model https://model.test is not asked since") || !strings.Contains(said[0], "bo<b>om") {
		t.Errorf("the overview lists %q among what does not answer, want the model and why", said)
	}
}
