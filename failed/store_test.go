package failed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
	"onceover/rabbit"
)

func TestKeepIsIdempotent(t *testing.T) {
	b := setup(t)
	r := failure(t, "a")
	for range 3 {
		b.keep(r)
	}
	if all := b.entries(); len(all) != 1 {
		t.Fatalf("got %d records before they are archived, want 1", len(all))
	}
	b.run(b.store, b.out.publish)
	b.archived(ref("a"))
	b.keep(r)
	if err := b.newStore(Config{}).Keep(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	all := b.entries()
	if len(all) != 1 {
		t.Fatalf("got %d records, want 1", len(all))
	}
	e := all[0]
	if e.Ref != ref("a") || e.ID != "a" || e.Task != "t" || e.Error != "ValueError" || e.Text != "boom" || e.Note != "" ||
		e.Args != "('a',)" || e.Queue != "q.ai" || !e.First.Equal(r.First) || !e.Last.Equal(r.Last) {
		t.Errorf("got %+v", e)
	}
	if got := b.info(ref("a")).LastErr; got != "kept: ValueError: boom" {
		t.Errorf("asynq shows %q, want the error", got)
	}
	if hours, err := b.store.Hours(t.Context(), 2); err != nil || hours[0].Total()+hours[1].Total() != 1 {
		t.Errorf("got counts %v, %v, want 1 failure", hours, err)
	}
}

// sized is a failed job whose message has a body of n bytes, and the same name
// whatever its content is.
func sized(t testing.TB, id string, n int, fill string) Record {
	t.Helper()
	req := request(id)
	req.Args = []json.RawMessage{json.RawMessage(`"` + strings.Repeat(fill, n) + `"`)}
	return Failure(message(t, req), req, boom, ReasonFailed)
}

// TestLargeMessages keeps, parks and publishes messages over 48 KiB.
func TestLargeMessages(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	for _, n := range []int{40 << 10, 60 << 10, 64 << 10, 300 << 10} {
		id := fmt.Sprint("kept-", n)
		r := sized(t, id, n, "é")
		b.keep(r)
		b.archived(ref(id))
		if got := b.get(ref(id)); !bytes.Equal(got.Message.Body, r.Message.Body) ||
			!cmp.Equal(got.Message.Headers, r.Message.Headers) {
			t.Errorf("%d bytes: got another message back", n)
		}
		if info := b.info(ref(id)); len(info.Payload) > 2*pieceSize {
			t.Errorf("%d bytes: the task holds %d bytes, want the message beside it", n, len(info.Payload))
		}
		pieces := b.client.HGetAll(t.Context(), b.pieces(id+":0")).Val()
		for name, piece := range pieces {
			if len(piece) > pieceSize {
				t.Errorf("%d bytes: piece %s has %d bytes, want %d at most", n, name, len(piece), pieceSize)
			}
		}
		if n > pieceSize && len(pieces) == 0 {
			t.Errorf("%d bytes: got no pieces", n)
		}
		b.runTask(ref(id))
		b.until("the record is deleted", func() bool { return b.info(ref(id)) == nil })
		parked := sized(t, fmt.Sprint("parked-", n), n, "ü")
		if err := b.store.Park(t.Context(), parked.Message, requestOf(t, parked.Message), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		b.until("the parked job is published", func() bool { return b.out.counts()[parked.ID] > 0 })
		for _, m := range b.out.messages() {
			want := r
			if m.Headers["id"] == parked.ID {
				want = parked
			} else if m.Headers["id"] != r.ID {
				continue
			}
			if !bytes.Equal(m.Body, want.Message.Body) {
				t.Errorf("%s: another body was published", want.ID)
			}
		}
	}
	b.until("the pieces expire", func() bool {
		for _, key := range b.client.Keys(t.Context(), "onceover:message:*").Val() {
			if ttl := b.client.TTL(t.Context(), key).Val(); ttl <= 0 || ttl > usedPieces {
				return false
			}
		}
		return true
	})
}

// TestKeepLargeTwice keeps two messages under one id and number of replays, as a
// producer can that uses an id twice: the first stays as it is.
func TestKeepLargeTwice(t *testing.T) {
	b := setup(t)
	for i, sizes := range [][2]int{{100 << 10, 300 << 10}, {300 << 10, 100 << 10}, {100 << 10, 100 << 10}} {
		id := fmt.Sprint("job-", i)
		first := sized(t, id, sizes[0], "x")
		b.keep(first)
		b.keep(sized(t, id, sizes[1], "y"))
		got, err := b.store.Get(t.Context(), ref(id))
		if err != nil {
			t.Errorf("sizes %v: %v", sizes, err)
		} else if !bytes.Equal(got.Message.Body, first.Message.Body) {
			t.Errorf("sizes %v: got another body than that of the record", sizes)
		}
	}
}

// TestPiecesOfRecordStay runs the sweep beside a record whose pieces were given an
// expiry: by a sweep that came between pieces and task, or by a replay that crashed
// before its task was deleted.
func TestPiecesOfRecordStay(t *testing.T) {
	b := setup(t)
	b.keep(sized(t, "a", 200<<10, "x"))
	key := b.pieces("a:0")
	if err := b.client.Expire(t.Context(), key, usedPieces).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ttl := b.client.TTL(t.Context(), key).Val(); ttl != -1 {
		t.Errorf("the message of a record expires in %v, want never", ttl)
	}
}

// TestLeftPiecesGo deletes a task by other means than ours.
func TestLeftPiecesGo(t *testing.T) {
	b := setup(t)
	b.keep(sized(t, "a", 200<<10, "x"))
	b.keep(sized(t, "b", 200<<10, "x"))
	if err := b.store.inspector.DeleteTask(QueueFailed, "a:0"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ttl := b.client.TTL(t.Context(), b.pieces("a:0")).Val(); ttl <= 0 || ttl > usedPieces {
		t.Errorf("left pieces expire in %v, want within %v", ttl, usedPieces)
	}
	if ttl := b.client.TTL(t.Context(), b.pieces("b:0")).Val(); ttl != -1 {
		t.Errorf("the message of a record expires in %v, want never", ttl)
	}
	b.get(ref("b"))
}

// TestPark parks a job from two processes, and delivers it once.
func TestPark(t *testing.T) {
	b := setup(t)
	other := b.newStore(Config{})
	req := request("a")
	req.Retries = 2
	m := message(t, req)
	due := time.Now().Add(2 * time.Second)
	for range 3 {
		for _, s := range []*Store{b.store, other} {
			if err := s.Park(t.Context(), m, requestOf(t, m), due); err != nil {
				t.Fatal(err)
			}
		}
	}
	if m.Own.Again {
		t.Error("Park changed the headers of the caller's message")
	}
	parked, err := b.store.Parked(t.Context(), 10)
	if err != nil || len(parked) != 1 {
		t.Fatalf("got %v, %v, want 1 parked job", parked, err)
	}
	var at time.Time
	var once sync.Once
	publish := func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		once.Do(func() { at = time.Now() })
		if !create {
			t.Error("the queue of a job that is due is not to be created, want it created")
		}
		return b.out.publish(ctx, create, messages...)
	}
	stop, stopOther := b.run(b.store, publish), b.run(other, publish)
	b.until("the job is due", func() bool {
		n, err := b.client.ZCard(t.Context(), "asynq:{delay}:scheduled").Result()
		return err == nil && n == 0 && len(b.out.messages()) > 0 && b.info(Ref{QueueDelay, "a:0:2:0"}) == nil
	})
	stop()
	stopOther()
	if early := due.Sub(at); early > time.Second {
		t.Errorf("delivered %v before it is due, want a second at most", early)
	}
	got := b.out.messages()
	if len(got) != 1 {
		t.Fatalf("delivered %d times, want once", len(got))
	}
	h := got[0].Headers
	if got[0].Queue != "q.ai" || h["retries"] != int32(2) || !got[0].Own.Again || got[0].Own.Parks != 1 || got[0].Own.Revoked {
		t.Errorf("got %+v", got[0])
	}
	// Parked once more in the same attempt, it is another task.
	again := rabbit.Of(amqp.Delivery{Headers: got[0].Publishing().Headers, RoutingKey: "q.ai", Body: got[0].Body, ContentType: "application/json", ContentEncoding: "utf-8"}, "q.ai").Message
	if again.Exchange != "tasks" || again.RoutingKey != "ai.test" {
		t.Errorf("got route %q %q, want that of the producer", again.Exchange, again.RoutingKey)
	}
	if err := b.store.Park(t.Context(), again, requestOf(t, again), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if b.info(Ref{QueueDelay, "a:0:2:1"}) == nil {
		t.Error("the job is not parked a second time")
	}
}

// TestParkedForOtherTimes parks calls to which a producer has given one id and the same arguments:
// each time is a call of its own. An attempt that is retried, of which two runs have computed the
// time, is one.
func TestParkedForOtherTimes(t *testing.T) {
	b := setup(t)
	park := func(id string, retries int, eta time.Time) {
		t.Helper()
		req := request(id)
		req.Retries, req.ETA = retries, eta
		m := message(t, req)
		if err := b.store.Park(t.Context(), m, requestOf(t, m), eta); err != nil {
			t.Fatal(err)
		}
	}
	first := time.Now().Add(time.Hour).Truncate(time.Second)
	times := []time.Time{first, first.Add(-30 * time.Minute), first.Add(time.Second), first, first.In(time.FixedZone("", 9*3600))}
	for _, eta := range times {
		park("call", 0, eta)
		park("attempt", 1, eta)
	}
	parked, err := b.store.Parked(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]time.Time{}
	for _, m := range parked {
		req := requestOf(t, m)
		got[req.ID] = append(got[req.ID], req.ETA)
	}
	slices.SortFunc(got["call"], time.Time.Compare)
	if !slices.EqualFunc(got["call"], []time.Time{times[1], times[0], times[2]}, time.Time.Equal) {
		t.Errorf("got calls parked until %v, want each of three times once", got["call"])
	}
	if len(got["attempt"]) != 1 || !got["attempt"][0].Equal(first) {
		t.Errorf("got an attempt parked until %v, want it once, until %v", got["attempt"], first)
	}
}

// TestParkedWaitForBroker has jobs fall due while the broker is away.
func TestParkedWaitForBroker(t *testing.T) {
	b := setup(t)
	b.out.refuse(func(rabbit.Message) error { return errAway })
	for _, id := range ids(3) {
		if err := b.store.Park(t.Context(), message(t, request(id)), request(id), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	b.run(b.store, b.out.publish)
	b.until("all were tried", func() bool {
		n, err := b.client.ZCard(t.Context(), "asynq:{delay}:retry").Result()
		return err == nil && n == 3
	})
	b.out.refuse(nil)
	b.until("all are published", func() bool { return len(b.out.messages()) == 3 })
	wantOnce(t, b.out.counts(), ids(3))
}

func TestRevokeParked(t *testing.T) {
	b := setup(t)
	for _, id := range []string{"revoked", "left"} {
		if err := b.store.Park(t.Context(), message(t, request(id)), request(id), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.store.Revoke(t.Context(), []string{"revoked", "unknown"}); err != nil {
		t.Fatal(err)
	}
	b.run(b.store, b.out.publish)
	b.until("the revoked job comes at once", func() bool { return len(b.out.messages()) > 0 })
	got := b.out.messages()
	if len(got) != 1 || got[0].Headers["id"] != "revoked" || !got[0].Own.Revoked {
		t.Errorf("got %+v, want the revoked job, marked", got)
	}
}

func TestDiscard(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	b.keep(sized(t, "a", 200<<10, "x"))
	b.archived(ref("a"))
	for range 2 {
		if err := b.store.Discard(t.Context(), ref("a")); err != nil {
			t.Errorf("got %v, want it gone, or gone before", err)
		}
	}
	if err := b.store.Discard(t.Context(), Ref{"failed-7", "a:0"}); err != nil {
		t.Errorf("of a queue that is not there: got %v", err)
	}
	if n := b.client.Exists(t.Context(), b.pieces("a:0")).Val(); n != 0 || len(b.entries()) != 0 || len(b.out.messages()) != 0 {
		t.Errorf("got %d pieces, records %v, messages %v: want nothing", n, b.entries(), b.out.messages())
	}
	if r, err := b.store.Get(t.Context(), ref("a")); r != nil || err != nil {
		t.Errorf("got %v, %v, want no record", r, err)
	}
}

func TestFind(t *testing.T) {
	b := setup(t)
	replayed := func(id string, replays int) Record {
		r := failure(t, id)
		r.Replays = replays
		return r
	}
	for _, r := range []Record{
		replayed("11aa", 0), replayed("11ab", 0), replayed("22", 0), replayed("22", 1), replayed("33", 7), replayed("44", 9), replayed("444", 0),
	} {
		b.keep(r)
	}
	tests := []struct {
		name string
		want []string
		err  string
	}{
		{"11aa", []string{"11aa:0"}, ""},
		{"11aa:0", []string{"11aa:0"}, ""},
		{"11ab", []string{"11ab:0"}, ""},
		{"11a", nil, "such as 11a"},
		{"11", nil, "such as 11a"},
		{"22", []string{"22:0", "22:1"}, ""},
		{"2", []string{"22:0", "22:1"}, ""},
		{"33", []string{"33:7"}, ""},
		{"33:7", []string{"33:7"}, ""},
		{"3", []string{"33:7"}, ""},
		{"44", []string{"44:9"}, ""}, // not 444, whose beginning it is
		{"44:9", []string{"44:9"}, ""},
		{"none", nil, ""},
	}
	for _, tt := range tests {
		refs, err := b.store.Find(t.Context(), tt.name)
		if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got error %v, want %q", tt.name, err, tt.err)
		}
		if err != nil && strings.Contains(err.Error(), ": and") {
			t.Errorf("%s: got error %v, want the ids alone", tt.name, err)
		}
		var keys []string
		for _, r := range refs {
			keys = append(keys, r.Key)
		}
		slices.Sort(keys)
		if !slices.Equal(keys, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, keys, tt.want)
		}
	}
}

// TestEachInOrder lists more than a page, the newest first, as far as it is wanted.
func TestEachInOrder(t *testing.T) {
	b := setup(t)
	all := ids(pageSize + 100)
	for i, id := range all {
		r := failure(t, id)
		r.Last = r.Last.Add(time.Duration(i) * time.Millisecond)
		b.keep(r)
	}
	var got []string
	for _, e := range b.entries() {
		got = append(got, e.ID)
	}
	slices.Reverse(all)
	for i, id := range got {
		if len(got) != len(all) || id != all[i] {
			t.Fatalf("got %d records, number %d is %s; want %d, %s", len(got), i, id, len(all), all[i])
		}
	}
	if two := b.list(Filter{Text: "JOB-000"}); len(two) != 10 {
		t.Errorf("got %d records of a filter, want 10", len(two))
	}
	n := 0
	if err := b.store.Each(t.Context(), Filter{}, func(Entry) bool { n++; return n < 3 }); err != nil || n != 3 {
		t.Errorf("got %d records, %v, want it to end after 3", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.store.Each(ctx, Filter{}, func(Entry) bool { return true }); err == nil {
		t.Error("got no error of a context that has ended")
	}
}

// TestForeignTask lists a task in our queue that is not ours.
func TestForeignTask(t *testing.T) {
	b := setup(t)
	b.foreign(QueueFailed, "x", []byte("not JSON"))
	b.run(b.store, b.out.publish)
	b.archived(Ref{QueueFailed, "x"})
	all := b.entries()
	if len(all) != 1 || all[0].ID != "x" || !strings.Contains(all[0].Text, "not a job of onceover") {
		t.Errorf("got %+v", all)
	}
	if _, err := b.store.Find(t.Context(), "no"); err != nil {
		t.Error(err)
	}
	if err := b.store.Discard(t.Context(), all[0].Ref); err != nil || len(b.entries()) != 0 {
		t.Errorf("got %v, %v, want it gone", err, b.entries())
	}
}

// TestKeepAnything keeps what no producer should send. It must not hang: the job
// would come again and again.
func TestKeepAnything(t *testing.T) {
	b := setup(t)
	tests := []struct{ name, id, task, queue string }{
		{"no name", "a", "", "q.ai"},
		{"blank name", "b", " ", "q.ai"},
		{"name in Latin-1", "c", "caf\xe9", "q.ai"},
		{"id in Latin-1", "\xe9t\xe9", "t", "q.ai"},
		{"NUL", "d\x00", "t\x00", "q.ai"},
		{"blank id", " ", "t", "q.ai"},
		{"long id", strings.Repeat("e", 100<<10), "t", "q.ai"},
	}
	b.run(b.store, b.out.publish)
	for i, tt := range tests {
		r := failure(t, tt.id)
		r.Task = tt.task
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		err := b.store.Keep(ctx, r)
		if err == nil {
			err = b.store.Park(ctx, r.Message, requestOf(t, r.Message), time.Now().Add(time.Hour))
		}
		if ctx.Err() != nil {
			t.Errorf("%s: Keep waits for ever: %v", tt.name, err)
		} else if err != nil {
			t.Errorf("%s: got %v, want it kept", tt.name, err)
		} else if n := len(b.entries()); n == 0 {
			t.Errorf("%s: got no record, want number %d", tt.name, i)
		}
		cancel()
	}
}

// TestFlushed loses the whole database, such as with a server that keeps nothing:
// what is kept afterwards is listed and archived.
func TestFlushed(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	b.keep(failure(t, "a"))
	b.archived(ref("a"))
	if err := b.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	b.keep(failure(t, "b"))
	if all := b.entries(); len(all) != 1 || all[0].ID != "b" {
		t.Fatalf("got %v, want the job that was kept after the loss", all)
	}
	b.archived(ref("b"))
}

// TestQueueDeleted deletes the empty queue, as Asynqmon can.
func TestQueueDeleted(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	b.keep(failure(t, "a"))
	b.archived(ref("a"))
	other := b.newStore(Config{})
	if err := other.Discard(t.Context(), ref("a")); err != nil {
		t.Fatal(err)
	}
	if err := other.inspector.DeleteQueue(QueueFailed, false); err != nil {
		t.Fatal(err)
	}
	b.keep(failure(t, "b"))
	if all := b.entries(); len(all) != 1 || all[0].ID != "b" {
		t.Fatalf("got %v, want the job that was kept after that", all)
	}
	b.archived(ref("b"))
}

// TestKeepRidesOutRestart keeps jobs while Redis restarts.
func TestKeepRidesOutRestart(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	b.keep(failure(t, "before"))
	b.archived(ref("before"))
	b.server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := b.store.Keep(ctx, failure(t, "gone")); err == nil {
		t.Error("got no error while Redis is away")
	}
	kept := make(chan error, 1)
	go func() { kept <- b.store.Keep(t.Context(), failure(t, "during")) }()
	b.server.Start()
	if err := <-kept; err != nil {
		t.Fatal(err)
	}
	b.archived(ref("before"), ref("during"))
}

// TestKeepHeedsItsContext keeps many jobs at once while Redis accepts connections
// and does not answer: none waits for longer than its context and one time-out.
func TestKeepHeedsItsContext(t *testing.T) {
	b := setup(t)
	opt, err := redisretry.Options(b.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	opt.DB, opt.ReadTimeout = 5, time.Second
	client := redis.NewClient(opt)
	defer client.Close()
	s := New(Config{}, client, b.results, b.marks, nil, zap.NewNop())
	if err := b.client.Do(t.Context(), "CLIENT", "PAUSE", 60_000, "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var wg sync.WaitGroup
	for _, id := range ids(15) {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if err := s.Keep(ctx, failure(t, id)); err == nil {
				t.Error("got no error while Redis does not answer")
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("15 jobs with half a second each took %v together", took)
	}
}

// TestRunWhileRedisIsAway counts what the servers of asynq ask of a Redis that is
// away.
func TestRunWhileRedisIsAway(t *testing.T) {
	b := setup(t)
	var count commandCount
	b.client.AddHook(&count)
	s := New(Config{}, b.client, b.results, b.marks, nil, zap.NewNop())
	b.run(s, b.out.publish)
	if err := s.Keep(t.Context(), failure(t, "a")); err != nil {
		t.Fatal(err)
	}
	b.archived(ref("a"))
	b.server.Kill()
	// Three seconds of an outage; nothing tells when enough was asked.
	count.reset()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	<-ctx.Done()
	if n := count.reset(); n > 1000 {
		t.Errorf("got %d commands in 3 s of an outage, want a few each second", n)
	}
	b.server.Start()
	b.archived(ref("a"))
}

type commandCount struct {
	mu sync.Mutex
	n  int
}

func (c *commandCount) read() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *commandCount) reset() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = 0
	return n
}

func (c *commandCount) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *commandCount) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.mu.Lock()
		c.n++
		c.mu.Unlock()
		return next(ctx, cmd)
	}
}
func (c *commandCount) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestRunEnds ends Run while a broker does not answer.
func TestRunEnds(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	entered := make(chan struct{})
	var once sync.Once
	stop := b.run(b.store, func(ctx context.Context, _ bool, _ ...rabbit.Message) error {
		once.Do(func() { close(entered) })
		<-ctx.Done()
		return context.Cause(ctx)
	})
	b.archived(ref("a"))
	b.runTask(ref("a"))
	<-entered
	began := time.Now()
	stop()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("Run took %v to end", took)
	}
	// The job is where it was, or on its way.
	if b.info(ref("a")) == nil {
		t.Error("the record is gone, want it left")
	}
	b.out = &outbox{}
	b.run(b.newStore(Config{}), b.out.publish)
	b.until("the job is archived, or run", func() bool {
		info := b.info(ref("a"))
		return info == nil || info.State.String() == "archived"
	})
}

// TestFirst has a process that runs the store be listed while a job is parked: else there is nothing to answer for.
func TestFirst(t *testing.T) {
	b := setup(t)
	if err := b.store.Park(t.Context(), message(t, request("a")), request("a"), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	b.run(b.store, b.out.publish)
	b.until("this process is listed", func() bool {
		first, err := b.store.First(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return first
	})
}

// TestIdleStore counts what a store asks Redis that has nothing to do. What comes then is done, whoever has put it there.
func TestIdleStore(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	asked := func() (n int) {
		for line := range strings.Lines(b.client.Info(t.Context(), "commandstats").Val()) {
			if _, rest, ok := strings.Cut(line, ":calls="); ok && !strings.HasPrefix(line, "cmdstat_info") {
				count, _, _ := strings.Cut(rest, ",")
				c, _ := strconv.Atoi(count)
				n += c
			}
		}
		return n
	}
	other := b.newStore(Config{})
	for n, keeper := range []*Store{b.store, other} {
		id := fmt.Sprint(n)
		if err := keeper.Keep(t.Context(), failure(t, id)); err != nil {
			t.Fatal(err)
		}
		b.archived(ref(id))
	}
	// The servers of asynq end a while after the last job.
	b.until("it asks Redis at most five times a second", func() bool {
		before := asked()
		time.Sleep(2 * time.Second) // which are counted
		return asked()-before <= 2*5
	})
}
