package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"onceover/internal/api"
	"onceover/internal/token"
	"onceover/progress"
)

// event is a server-sent event.
type event struct {
	kind, id string
	data     map[string]any
}

func (e event) String() string {
	return fmt.Sprint(e.kind, " ", e.data["status"], " ", e.data["progress"])
}

// listening is a stream of events. It is read without the validating client, which reads bodies to their end.
type listening struct {
	t     *testing.T
	resp  *http.Response
	lines *bufio.Scanner
	retry string // the last one that was said
}

func (b *bundle) listen(ctx context.Context, path, after string) *listening {
	b.t.Helper()
	r := b.request(http.MethodGet, path, "", nil).WithContext(ctx)
	if after != "" {
		r.Header.Set("Last-Event-ID", after)
	}
	resp, err := b.client.Transport.(*described).next.RoundTrip(r)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("X-Accel-Buffering") != "no" {
		text, _ := io.ReadAll(resp.Body)
		b.t.Fatalf("got %s %v %s", resp.Status, resp.Header, text)
	}
	return &listening{t: b.t, resp: resp, lines: bufio.NewScanner(resp.Body)}
}

// next returns the next event, false at the end of the stream.
func (l *listening) next() (e event, ok bool) {
	l.t.Helper()
	for l.lines.Scan() {
		name, value, _ := strings.Cut(l.lines.Text(), ": ")
		switch name {
		case "event":
			e.kind = value
		case "id":
			e.id = value
		case "retry":
			l.retry = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.data); err != nil {
				l.t.Errorf("got data %s: %v", value, err)
			}
		case "":
			if e.kind != "" {
				return e, true
			}
		}
	}
	return e, false
}

func (l *listening) rest() (all []string) {
	for e, ok := l.next(); ok; e, ok = l.next() {
		all = append(all, e.String())
	}
	return all
}

// status is that of the answer to who has had an event.
func (b *bundle) status(path, after string) int {
	b.t.Helper()
	r := b.request(http.MethodGet, path, "", nil)
	r.Header.Set("Last-Event-ID", after)
	resp, err := b.client.Transport.(*described).next.RoundTrip(r)
	if err != nil {
		b.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func (b *bundle) track(job string) *progress.Tracker {
	b.t.Helper()
	tr, err := b.needs.Progress.Track(b.t.Context(), job, job, false)
	if err != nil {
		b.t.Fatal(err)
	}
	return tr
}

func (b *bundle) show(tr *progress.Tracker, n int) {
	b.t.Helper()
	if err := tr.Show(b.t.Context(), n, "stage", "m"); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) finish(job string, tr *progress.Tracker) {
	b.t.Helper()
	meta := fmt.Sprintf(`{"status": "SUCCESS", "result": {"category": "플라스틱"}, "traceback": null, "children": [], "date_done": "2026-11-21T00:44:25+00:00", "task_id": %q}`, job)
	b.db(0).Set(b.t.Context(), "celery-task-meta-"+job, meta, time.Hour)
	if err := tr.Finish(b.t.Context(), "done", "m"); err != nil {
		b.t.Fatal(err)
	}
}

const eventsOf = "/api/v1/waste/events/"

// TestEvents follows a job from its acceptance to its result.
func TestEvents(t *testing.T) {
	b := setup(t, func(_ *api.Config, b *bundle) { b.writeTimeout = 2 * time.Second })
	job := b.post(`{"image_url": "https://x/y"}`).text("job_id")
	l := b.listen(t.Context(), eventsOf+job, "")
	if e, ok := l.next(); !ok || e.String() != "progress pending 0" || e.id == "" || l.retry != "1000" {
		t.Errorf("got %v, retry %s, want it waiting", e, l.retry)
	}
	tr := b.track(job)
	time.Sleep(b.writeTimeout + time.Second/2) // which cuts no stream
	b.show(tr, 30)
	if e, ok := l.next(); !ok || e.String() != "progress processing 30" {
		t.Errorf("got %v", e)
	}
	b.finish(job, tr)
	e, ok := l.next()
	if result, _ := e.data["result"].(map[string]any); !ok || e.String() != "progress completed 100" || result["category"] != "플라스틱" || e.data["job_id"] != job {
		t.Errorf("got %v %v, want the end with the result", e, e.data)
	}
	if more := l.rest(); len(more) != 0 {
		t.Errorf("got %v after the end", more)
	}
	// Whoever has had the end is told not to come back; who has not gets it.
	if status := b.status(eventsOf+job, e.id); status != http.StatusNoContent {
		t.Errorf("got %d, want 204", status)
	}
	if got := fmt.Sprint(b.listen(t.Context(), eventsOf+job, "").rest()); got != "[progress completed 100]" {
		t.Errorf("got %s afterwards", got)
	}
	if got := fmt.Sprint(b.listen(t.Context(), eventsOf+job+"?last_event_id=1-1", "").rest()); got != "[reset completed 100]" {
		t.Errorf("got %s of one whose last event is not known any more", got)
	}
	// Nothing but the result is left.
	b.db(2).FlushDB(t.Context())
	gone := b.listen(t.Context(), eventsOf+job, "")
	if e, ok = gone.next(); !ok || e.String() != "progress completed 100" || len(gone.rest()) != 0 {
		t.Errorf("got %v when the progress has run out", e)
	}
	if status := b.status(eventsOf+job, e.id); status != http.StatusNoContent {
		t.Errorf("got %d for who has had that, want 204", status)
	}
	if a := b.do(b.request(http.MethodHead, eventsOf+job, "", nil)); a.status != 405 {
		t.Errorf("HEAD: got %+v", a)
	}
	for path, status := range map[string]int{eventsOf + "unknown": 404, eventsOf + strings.Repeat("x", 513): 404, eventsOf + job + "?last_event_id=x": 400} {
		if a := b.get(path); a.status != status {
			t.Errorf("%s: got %+v, want %d", path, a, status)
		}
	}
}

// TestEventsOverCuts has a client whose connection is cut at random, and who names its last event each time it comes back: each event comes
// once, in order.
func TestEventsOverCuts(t *testing.T) {
	b := setup(t)
	tr := b.track("j")
	b.show(tr, 1)
	l := b.listen(t.Context(), eventsOf+"j", "")
	e, ok := l.next()
	if !ok || e.String() != "progress processing 1" {
		t.Fatalf("got %v", e)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		for n := 2; n <= 60; n++ {
			if err := tr.Show(t.Context(), n, "stage", "m"); err != nil {
				t.Error(err)
				return
			}
		}
		if err := tr.Finish(t.Context(), "done", "m"); err != nil {
			t.Error(err)
		}
	}()
	want, last, cuts := 2, e.id, 0
	for over := false; !over; {
		ctx, cut := context.WithCancel(t.Context())
		l := b.listen(ctx, eventsOf+"j", last)
		for range 1 + rand.IntN(5) {
			e, ok := l.next()
			if !ok {
				t.Fatalf("the stream ended after %d", want-1)
			}
			if want > 60 {
				want = 100
			}
			if e.kind != "progress" || e.data["progress"] != float64(want) {
				t.Fatalf("got %v, want %d", e, want)
			}
			want, last = want+1, e.id
			if over = e.data["progress"] == 100.0; over {
				break
			}
		}
		cut()
		cuts++
	}
	<-written
	if cuts < 5 {
		t.Errorf("got %d cuts", cuts)
	}
}

// TestDrain ends streams with when to come back, and the server with them.
func TestDrain(t *testing.T) {
	b := setup(t)
	b.show(b.track("j"), 10)
	l := b.listen(t.Context(), eventsOf+"j", "")
	if _, ok := l.next(); !ok {
		t.Fatal("no event")
	}
	b.api.Drain()
	if e, ok := l.next(); ok {
		t.Errorf("got %v", e)
	}
	var ms int
	if _, err := fmt.Sscan(l.retry, &ms); err != nil || ms < 1000 || ms >= 5000 {
		t.Errorf("got retry %q, want 1 to 5 seconds", l.retry)
	}
}

// TestTickets: a stream takes a ticket once, and none of a token that was revoked since.
func TestTickets(t *testing.T) {
	b := setup(t, func(cfg *api.Config, b *bundle) {
		cfg.Heartbeat = 50 * time.Millisecond
		b.needs.Tokens = token.New(token.Config{Secret: secret}, b.db(4), zap.NewNop())
		b.t.Cleanup(b.needs.Tokens.Wait)
	})
	b.show(b.track("j"), 10)
	b.token = signed(t, "user-7")
	ticket := func() string {
		t.Helper()
		a := b.do(b.request(http.MethodPost, "/api/v1/auth/ticket", "", nil))
		if a.status != 200 || a.text("expires_in") != "60" || a.text("ticket") == "" {
			t.Fatalf("got %+v", a)
		}
		return a.text("ticket")
	}
	one, two := ticket(), ticket()
	if one == two || strings.Contains(fmt.Sprint(b.db(4).Keys(t.Context(), "*").Val()), one) {
		t.Error("a ticket stands in Redis as it is, or twice")
	}
	if e, ok := b.listen(t.Context(), eventsOf+"j?ticket="+one, "").next(); !ok || e.String() != "progress processing 10" {
		t.Errorf("got %v", e)
	}
	open := b.listen(t.Context(), eventsOf+"j?ticket="+ticket(), "")
	logout := b.request(http.MethodPost, "/api/v1/auth/logout", "", nil)
	if a := b.do(logout); a.status != 200 {
		t.Fatalf("got %+v", a)
	}
	open.rest() // ends
	b.token = ""
	for name, tt := range map[string]struct{ path, detail string }{
		"used":           {eventsOf + "j?ticket=" + one, "ticket was used"},
		"never issued":   {eventsOf + "j?ticket=x", "ticket was used"},
		"of a revoked":   {eventsOf + "j?ticket=" + two, "Token has been revoked"},
		"none":           {eventsOf + "j", "Not authenticated"},
		"of another use": {"/status/j?ticket=" + two, "Not authenticated"},
	} {
		if a := b.get(tt.path); a.status != 401 || !strings.Contains(a.text("detail"), tt.detail) {
			t.Errorf("%s: got %+v, want %q", name, a, tt.detail)
		}
	}
	for _, key := range b.db(4).Keys(t.Context(), "*").Val() {
		if b.db(4).TTL(t.Context(), key).Val() <= 0 {
			t.Errorf("%s has no TTL", key)
		}
	}
}

// TestEventsEnd has all that is known of a job run out while a client listens: its stream ends, and it is told that there is no such job
// when it comes back.
func TestEventsEnd(t *testing.T) {
	b := setup(t, func(cfg *api.Config, _ *bundle) { cfg.Heartbeat = 50 * time.Millisecond })
	b.show(b.track("j"), 10)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l := b.listen(ctx, eventsOf+"j", "")
	if _, ok := l.next(); !ok {
		t.Fatal("no event")
	}
	b.db(2).FlushDB(t.Context())
	if more := l.rest(); len(more) != 0 || ctx.Err() != nil { // once the job is read again, which is after 15 s
		t.Errorf("got %v, %v, want the end of the stream", more, ctx.Err())
	}
	if a := b.get(eventsOf + "j"); a.status != http.StatusNotFound {
		t.Errorf("got %+v, want 404", a)
	}
}

// TestManyStreams has 500 clients follow 50 jobs over HTTP, or 5,000 with ONCEOVER_TEST_FULL=1: each hears of its job's end, and Redis has
// no more connections for them than for one.
func TestManyStreams(t *testing.T) {
	const jobs = 50
	each := 10
	if os.Getenv("ONCEOVER_TEST_FULL") == "1" {
		each = 100
	}
	b := setup(t)
	connections := func() int { return strings.Count(b.db(0).ClientList(t.Context()).Val(), "\n") }
	trackers := make([]*progress.Tracker, jobs)
	for j := range trackers {
		trackers[j] = b.track(fmt.Sprint("j", j))
		b.show(trackers[j], 10)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, ok := b.listen(ctx, eventsOf+"j0", "").next(); !ok {
		t.Fatal("got no event")
	}
	before := connections()
	began := time.Now()
	streams := make([]*listening, jobs*each)
	for i := range streams {
		streams[i] = b.listen(ctx, fmt.Sprint(eventsOf, "j", i%jobs), "")
		if e, ok := streams[i].next(); !ok || e.String() != "progress processing 10" {
			t.Fatalf("stream %d: got %v", i, e)
		}
	}
	// The client of connections is one more.
	if n := connections(); n > before+1 {
		t.Errorf("got %d connections to Redis for %d streams, and %d for one", n-1, len(streams), before)
	}
	opened := time.Since(began)
	for j, tr := range trackers {
		b.finish(fmt.Sprint("j", j), tr)
	}
	var all sync.WaitGroup
	for i, l := range streams {
		all.Go(func() {
			e, ok := l.next()
			if result, _ := e.data["result"].(map[string]any); !ok || e.String() != "progress completed 100" || result["category"] != "플라스틱" || e.data["job_id"] != fmt.Sprint("j", i%jobs) {
				t.Errorf("stream %d: got %v %v, want the end with the result", i, e, e.data)
			}
			if more := l.rest(); len(more) > 0 {
				t.Errorf("stream %d: got %v after the end", i, more)
			}
		})
	}
	all.Wait()
	t.Logf("%d streams: opened in %v, all told in %v more", len(streams), opened.Round(time.Millisecond), (time.Since(began) - opened).Round(time.Millisecond))
}
