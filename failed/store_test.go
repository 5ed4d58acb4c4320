package failed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	if err := b.newStore(Config{}).Keep(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	all := b.entries()
	if len(all) != 1 {
		t.Fatalf("got %d records, want 1", len(all))
	}
	e := all[0]
	if e.Key != key("a") || e.ID != "a" || e.Task != "t" || e.Error != "ValueError" || e.Text != "boom" || e.Note != "" ||
		e.Args != "('a',)" || e.Queue != "q.ai" || !e.First.Equal(r.First) || !e.Last.Equal(r.Last) {
		t.Errorf("got %+v", e)
	}
	if c, err := b.store.Count(t.Context()); err != nil || c != (Counts{Failed: 1}) {
		t.Errorf("got %+v, %v, want 1 failed job", c, err)
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
		if got := b.get(key(id)); !bytes.Equal(got.Message.Body, r.Message.Body) ||
			!cmp.Equal(got.Message.Headers, r.Message.Headers) {
			t.Errorf("%d bytes: got another message back", n)
		}
		for field, value := range b.client.HGetAll(t.Context(), recordKey(key(id))).Val() {
			if len(value) > pieceSize {
				t.Errorf("%d bytes: field %s of the record has %d bytes, want the message beside it", n, field, len(value))
			}
		}
		pieces := b.client.HGetAll(t.Context(), b.pieces(key(id))).Val()
		for name, piece := range pieces {
			if len(piece) > pieceSize {
				t.Errorf("%d bytes: piece %s has %d bytes, want %d at most", n, name, len(piece), pieceSize)
			}
		}
		if n > pieceSize && len(pieces) == 0 {
			t.Errorf("%d bytes: got no pieces", n)
		}
		b.replay(key(id))
		if left := b.keys("onceover:*" + id + "*"); len(left) > 0 {
			t.Errorf("%d bytes: got %v left after the replay, want nothing", n, left)
		}
		parked := sized(t, fmt.Sprint("parked-", n), n, "ü")
		if err := b.store.Park(t.Context(), parked.Message, requestOf(t, parked.Message), time.Now().Add(time.Second), nil); err != nil {
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
	b.until("the pieces of parked jobs expire", func() bool {
		keys := b.keys("onceover:message:*")
		for _, key := range keys {
			if ttl := b.client.TTL(t.Context(), key).Val(); ttl <= 0 || ttl > unusedPieces {
				return false
			}
		}
		return len(keys) > 0
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
		got, err := b.store.Get(t.Context(), key(id))
		if err != nil {
			t.Errorf("sizes %v: %v", sizes, err)
		} else if !bytes.Equal(got.Message.Body, first.Message.Body) {
			t.Errorf("sizes %v: got another body than that of the record", sizes)
		}
	}
}

// TestPiecesOfRecordStay keeps a record again whose message is long, and runs the sweep: nothing of
// it expires, whoever comes with the message and whatever dies on the way.
func TestPiecesOfRecordStay(t *testing.T) {
	b := setup(t)
	r := sized(t, "a", 200<<10, "x")
	other := b.newStore(Config{})
	forever := func(after string) {
		t.Helper()
		if ttl := b.client.TTL(t.Context(), b.pieces(key("a"))).Val(); ttl != -1 {
			t.Errorf("%s: the message of a record expires in %v, want never", after, ttl)
		}
	}
	b.keep(r)
	forever("kept")
	for _, s := range []*Store{b.store, other} {
		if err := s.Keep(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		forever("kept again")
	}
	if isNew, err := other.Import(t.Context(), r); isNew || err != nil {
		t.Errorf("got %v, %v, want it there", isNew, err)
	}
	forever("imported")
	// A process that dies, or loses Redis, between the pieces and the record.
	stopped := errors.New("stopped")
	client := b.connect(5)
	client.AddHook(&refuseScripts{err: stopped})
	dying := New(Config{}, client, b.results, b.marks, nil, zap.NewNop())
	message, err := json.Marshal(r.Message)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dying.add(t.Context(), key("a"), &r, message, true); !errors.Is(err, stopped) {
		t.Fatalf("got %v, want that the record could not be kept: the test shows nothing", err)
	}
	forever("died")
	if _, err := b.store.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	forever("swept")
	// Pieces without a record do expire.
	r.ID, r.Message = "b", r.Message.Clone()
	if _, err := dying.add(t.Context(), key("b"), &r, message, true); !errors.Is(err, stopped) {
		t.Fatal(err)
	}
	if ttl := b.client.TTL(t.Context(), b.pieces(key("b"))).Val(); ttl <= 0 || ttl > unusedPieces {
		t.Errorf("pieces without a record expire in %v, want within %v", ttl, unusedPieces)
	}
	// Kept after all, they stay.
	if _, err := b.store.add(t.Context(), key("b"), &r, message, true); err != nil {
		t.Fatal(err)
	}
	if ttl := b.client.TTL(t.Context(), b.pieces(key("b"))).Val(); ttl != -1 {
		t.Errorf("the message of a record that came late expires in %v, want never", ttl)
	}
}

// refuseScripts answers every script that is called by itself with an error.
type refuseScripts struct{ err error }

func (*refuseScripts) DialHook(next redis.DialHook) redis.DialHook { return next }
func (*refuseScripts) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h *refuseScripts) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.HasPrefix(cmd.Name(), "eval") {
			cmd.SetErr(h.err)
			return h.err
		}
		return next(ctx, cmd)
	}
}

// TestPiecesOfTaskStay runs the sweep beside a parked job whose pieces were given an expiry: by a
// sweep that came between pieces and task, or by a delivery that crashed before its task was
// deleted.
func TestPiecesOfTaskStay(t *testing.T) {
	b := setup(t)
	b.parkLong("a")
	pieces := b.parkedPieces("a:0:0:0")
	if err := b.client.Expire(t.Context(), pieces, unusedPieces).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ttl := b.client.TTL(t.Context(), pieces).Val(); ttl != -1 {
		t.Errorf("the message of a parked job expires in %v, want never", ttl)
	}
}

// TestLeftPiecesGo deletes a task by other means than ours.
func TestLeftPiecesGo(t *testing.T) {
	b := setup(t)
	b.parkLong("a")
	b.parkLong("b")
	if err := b.store.inspector.DeleteTask(QueueDelay, "a:0:0:0"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ttl := b.client.TTL(t.Context(), b.parkedPieces("a:0:0:0")).Val(); ttl <= 0 || ttl > unusedPieces {
		t.Errorf("left pieces expire in %v, want within %v", ttl, unusedPieces)
	}
	if ttl := b.client.TTL(t.Context(), b.parkedPieces("b:0:0:0")).Val(); ttl != -1 {
		t.Errorf("the message of a parked job expires in %v, want never", ttl)
	}
	parked, err := b.store.Parked(t.Context(), 10)
	if err != nil || len(parked) != 1 || parked[0].Headers["id"] != "b" {
		t.Errorf("got %v, %v, want the job that is left", parked, err)
	}
}

// parkLong parks a job whose message is kept in pieces.
func (b *bundle) parkLong(id string) {
	b.t.Helper()
	r := sized(b.t, id, 200<<10, "x")
	if err := b.store.Park(b.t.Context(), r.Message, requestOf(b.t, r.Message), time.Now().Add(time.Hour), nil); err != nil {
		b.t.Fatal(err)
	}
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
			if err := s.Park(t.Context(), m, requestOf(t, m), due, nil); err != nil {
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
		return err == nil && n == 0 && len(b.out.messages()) > 0 && b.info(QueueDelay, "a:0:2:0") == nil
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
	if err := b.store.Park(t.Context(), again, requestOf(t, again), time.Now().Add(time.Hour), nil); err != nil {
		t.Fatal(err)
	}
	if b.info(QueueDelay, "a:0:2:1") == nil {
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
		if err := b.store.Park(t.Context(), m, requestOf(t, m), eta, nil); err != nil {
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
		if err := b.store.Park(t.Context(), message(t, request(id)), request(id), time.Now(), nil); err != nil {
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
		if err := b.store.Park(t.Context(), message(t, request(id)), request(id), time.Now().Add(time.Hour), nil); err != nil {
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
	for range 2 {
		if err := b.store.Discard(t.Context(), key("a")); err != nil {
			t.Errorf("got %v, want it gone, or gone before", err)
		}
	}
	if err := b.store.Discard(t.Context(), "never:0"); err != nil {
		t.Errorf("of a record that never was: got %v", err)
	}
	if n := b.client.Exists(t.Context(), b.pieces(key("a"))).Val(); n != 0 || len(b.entries()) != 0 || len(b.out.messages()) != 0 {
		t.Errorf("got %d pieces, records %v, messages %v: want nothing", n, b.entries(), b.out.messages())
	}
	if r, err := b.store.Get(t.Context(), key("a")); r != nil || err != nil {
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
		replayed("55", 0), replayed("55", 7), replayed("a", 0), replayed("a-b", 0), replayed("a:b", 0), replayed("a.b", 0),
	} {
		b.keep(r)
	}
	tests := []struct {
		name string
		want []Key
		err  string
	}{
		{"11aa", []Key{"11aa:0"}, ""},
		{"11aa:0", []Key{"11aa:0"}, ""},
		{"11ab", []Key{"11ab:0"}, ""},
		{"11a", nil, "such as 11a"},
		{"11", nil, "such as 11a"},
		{"22", []Key{"22:0", "22:1"}, ""},
		{"2", []Key{"22:0", "22:1"}, ""},
		{"33", []Key{"33:7"}, ""},
		{"33:7", []Key{"33:7"}, ""},
		{"3", []Key{"33:7"}, ""},
		{"44", []Key{"44:9"}, ""}, // not 444, whose beginning it is
		{"44:9", []Key{"44:9"}, ""},
		{"none", nil, ""},
		{"", nil, ""},
		{"55", []Key{"55:0", "55:7"}, ""},
		{"a", []Key{"a:0"}, ""},
		{"a:", nil, "such as a"},
		{"a:b", []Key{"a:b:0"}, ""},
		{"a-", []Key{"a-b:0"}, ""},
	}
	for _, tt := range tests {
		keys, err := b.store.Find(t.Context(), tt.name)
		if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got error %v, want %q", tt.name, err, tt.err)
		}
		if err != nil && strings.Contains(err.Error(), ": and") {
			t.Errorf("%s: got error %v, want the ids alone", tt.name, err)
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

// TestUnreadableRecord damages the hash of a record: it is listed with what is wrong with it, is not
// replayed, and can be discarded.
func TestUnreadableRecord(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "x"))
	b.keep(sized(t, "long", 200<<10, "x"))
	if err := b.client.HSet(t.Context(), recordKey(key("x")), fieldRecord, "not JSON").Err(); err != nil {
		t.Fatal(err)
	}
	if err := b.client.Del(t.Context(), b.pieces(key("long"))).Err(); err != nil {
		t.Fatal(err)
	}
	all := b.entries()
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.ID, b.ID) })
	if len(all) != 2 || all[1].ID != "x" || !strings.Contains(all[1].Text, "can only be discarded") {
		t.Fatalf("got %+v", all)
	}
	if _, err := b.store.Find(t.Context(), "no"); err != nil {
		t.Error(err)
	}
	out, err := b.store.Replay(t.Context(), []Key{all[0].Key, all[1].Key}, b.out.publish, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range out {
		if o.Done || o.Over || !strings.Contains(o.Why, "can only be discarded") {
			t.Errorf("got %+v, want it not replayed, and why", o)
		}
	}
	for _, e := range b.entries() {
		if !strings.Contains(e.Note, "can only be discarded") {
			t.Errorf("got %s with note %q, want why it is not replayed", e.Key, e.Note)
		}
		if err := b.store.Discard(t.Context(), e.Key); err != nil {
			t.Error(err)
		}
	}
	if all := b.entries(); len(all) != 0 || len(b.out.messages()) != 0 {
		t.Errorf("got records %v, messages %v, want both gone", all, b.out.messages())
	}
}

// TestForeignTask finds a task among the parked jobs that is not ours.
func TestForeignTask(t *testing.T) {
	b := setup(t)
	b.foreign(QueueDelay, "x", []byte("not JSON"))
	b.run(b.store, b.out.publish)
	b.archived(QueueDelay, "x")
	if got := b.info(QueueDelay, "x").LastErr; !strings.Contains(got, "not a job of onceover") {
		t.Errorf("got %q, want what is wrong with it", got)
	}
	if n := len(b.out.messages()); n != 0 {
		t.Errorf("got %d messages, want none", n)
	}
}

// TestRecordHasGone has Redis lose the hash of one record, such as by eviction: the others do not
// suffer, and it can be kept again.
func TestRecordHasGone(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "gone"))
	b.keep(failure(t, "a"))
	if err := b.client.Del(t.Context(), recordKey(key("gone"))).Err(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := b.newStore(Config{}).Keep(ctx, failure(t, "b")); err != nil {
		t.Fatal(err)
	}
	listed := func() (ids []string) {
		for _, e := range b.entries() {
			ids = append(ids, e.ID)
		}
		slices.Sort(ids)
		return ids
	}
	if got := listed(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v listed, want a and b", got)
	}
	out, err := b.store.Replay(t.Context(), []Key{key("gone"), key("a")}, b.out.publish, nil)
	if err != nil || out[0].Done || !out[0].Over || !out[1].Done {
		t.Errorf("got %+v, %v, want the one replayed that is there", out, err)
	}
	b.keep(failure(t, "gone"))
	if got := listed(); !slices.Equal(got, []string{"b", "gone"}) {
		t.Errorf("got %v listed, want b, and what was kept again", got)
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
			err = b.store.Park(ctx, r.Message, requestOf(t, r.Message), time.Now().Add(time.Hour), nil)
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
// what is kept afterwards is listed and replayed, and what is parked is published.
func TestFlushed(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	b.keep(failure(t, "a"))
	park := func(id string) {
		t.Helper()
		if err := b.store.Park(t.Context(), message(t, request(id)), request(id), time.Now(), nil); err != nil {
			t.Fatal(err)
		}
		b.until("the parked job is published", func() bool { return b.out.counts()[id] > 0 })
	}
	park("parked")
	if err := b.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	b.keep(failure(t, "b"))
	if all := b.entries(); len(all) != 1 || all[0].ID != "b" {
		t.Fatalf("got %v, want the job that was kept after the loss", all)
	}
	if causes, err := b.store.Causes(t.Context()); err != nil || len(causes) != 1 || causes[0].Kept != 1 {
		t.Errorf("got causes %+v, %v, want that of the job", causes, err)
	}
	b.replay(key("b"))
	park("parked later")
}

// TestQueueDeleted deletes the empty queue of parked jobs, as tools of asynq can.
func TestQueueDeleted(t *testing.T) {
	b := setup(t)
	park := func(id string, due time.Time) {
		t.Helper()
		if err := b.store.Park(t.Context(), message(t, request(id)), request(id), due, nil); err != nil {
			t.Fatal(err)
		}
	}
	park("a", time.Now().Add(time.Hour))
	other := b.newStore(Config{})
	if err := other.inspector.DeleteTask(QueueDelay, "a:0:0:0"); err != nil {
		t.Fatal(err)
	}
	if err := other.inspector.DeleteQueue(QueueDelay, false); err != nil {
		t.Fatal(err)
	}
	park("b", time.Now().Add(time.Hour))
	if parked, err := b.store.Parked(t.Context(), 10); err != nil || len(parked) != 1 || parked[0].Headers["id"] != "b" {
		t.Fatalf("got %v, %v, want the job that was parked after that", parked, err)
	}
	b.run(b.store, b.out.publish)
	park("c", time.Now())
	b.until("the job is published", func() bool { return b.out.counts()["c"] == 1 })
}

// TestKeepRidesOutRestart keeps jobs while Redis restarts.
func TestKeepRidesOutRestart(t *testing.T) {
	b := setup(t)
	b.run(b.store, b.out.publish)
	b.keep(failure(t, "before"))
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
	b.replay(key("before"), key("during"))
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
	if err := s.Park(t.Context(), message(t, request("a")), request("a"), time.Now().Add(time.Hour), nil); err != nil {
		t.Fatal(err)
	}
	b.until("asynq serves", func() bool { return len(b.keys("asynq:servers")) == 1 })
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
	if err := s.Park(t.Context(), message(t, request("b")), request("b"), time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	b.until("a parked job is published", func() bool { return b.out.counts()["b"] == 1 })
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
	if err := b.store.Park(t.Context(), message(t, request("a")), request("a"), time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	entered := make(chan struct{})
	var once sync.Once
	stop := b.run(b.store, func(ctx context.Context, _ bool, _ ...rabbit.Message) error {
		once.Do(func() { close(entered) })
		<-ctx.Done()
		return context.Cause(ctx)
	})
	<-entered
	began := time.Now()
	stop()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("Run took %v to end", took)
	}
	// The job is where it was, or on its way.
	if b.info(QueueDelay, "a:0:0:0") == nil {
		t.Error("the parked job is gone, want it left")
	}
	b.run(b.newStore(Config{}), b.out.publish)
	b.until("the job is published", func() bool { return b.out.counts()["a"] == 1 })
}

// TestFirst has a process that runs the store be listed while a job is parked: else there is nothing to answer for.
func TestFirst(t *testing.T) {
	b := setup(t)
	if err := b.store.Park(t.Context(), message(t, request("a")), request("a"), time.Now().Add(time.Hour), nil); err != nil {
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
	other := b.newStore(Config{})
	for n, s := range []*Store{b.store, other} {
		id := fmt.Sprint(n)
		if err := s.Keep(t.Context(), failure(t, id)); err != nil {
			t.Fatal(err)
		}
		if err := s.Park(t.Context(), message(t, request(id)), request(id), time.Now(), nil); err != nil {
			t.Fatal(err)
		}
		b.until("the parked job is published", func() bool { return b.out.counts()[id] == 1 })
	}
	// The servers of asynq end a while after the last job.
	b.until("it asks Redis at most five times a second", func() bool {
		before := b.asked()
		time.Sleep(2 * time.Second) // which are counted
		return b.asked()-before <= 2*5
	})
}
