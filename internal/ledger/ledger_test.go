package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/progress"
	"onceover/results"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// keeper is what both stores are.
type keeper interface {
	Look(ctx context.Context, taskID string) (celery.Stored, error)
	Begin(ctx context.Context, taskID, run, from, earlier string) (stored celery.Stored, holder string, err error)
	Renew(ctx context.Context, runs map[string]string) error
	Release(ctx context.Context, taskID, run string) error
	Holder(ctx context.Context, taskID string) (string, error)
	Alive(ctx context.Context, taskID, run string) (named string, err error)
	Ended(ctx context.Context, taskID, run string) error
	Past(ctx context.Context, taskID string, again bool, since string) (stored celery.Stored, over bool, err error)
	Record(ctx context.Context, m celery.Meta, since celery.Stored) (theirs celery.Stored, err error)
}

// kind is one of the two ledgers, with the names of its keys.
type kind struct {
	open     func(redis.UniversalClient, *zap.Logger) keeper
	document string
	lease    string
	// texts of a document by state, as others write it
	foreign func(celery.State) string
}

var kinds = map[string]kind{
	"results": {
		open:     func(c redis.UniversalClient, log *zap.Logger) keeper { return results.New(c, log) },
		document: "celery-task-meta-", lease: "onceover:run:",
		foreign: func(s celery.State) string {
			return fmt.Sprintf(`{"task_id": "t", "status": "%s", "result": null}`, s)
		},
	},
	"progress": {
		open:     func(c redis.UniversalClient, log *zap.Logger) keeper { return progress.New(c, log) },
		document: "job:", lease: "job:",
		foreign: func(s celery.State) string { return string(s) + " 7" },
	},
}

func (k kind) documentKey(id string) string {
	if k.document == "job:" {
		return "job:" + id + ":finished"
	}
	return k.document + id
}

func (k kind) leaseKey(id string) string {
	if k.lease == "job:" {
		return "job:" + id + ":run"
	}
	return k.lease + id
}

// each runs f with each kind of ledger on a server of its own.
func each(t *testing.T, f func(t *testing.T, k kind, l keeper, c *redis.Client)) {
	t.Parallel()
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := client(t, testenv.Redis(t).URL(), nil)
			f(t, k, k.open(c, zap.NewNop()), c)
			keysExpire(t, c)
		})
	}
}

func client(t testing.TB, url string, set func(*redis.Options)) *redis.Client {
	t.Helper()
	opt, err := redisretry.Options(url)
	if err != nil {
		t.Fatal(err)
	}
	if set != nil {
		set(opt)
	}
	c := redis.NewClient(opt)
	t.Cleanup(func() { c.Close() })
	return c
}

func keysExpire(t *testing.T, c *redis.Client) {
	t.Helper()
	for _, key := range c.Keys(t.Context(), "*").Val() {
		if ttl := c.TTL(t.Context(), key).Val(); ttl <= 0 || ttl > 24*time.Hour {
			t.Errorf("got TTL %v of key %s, want one of at most a day", ttl, key)
		}
	}
}

// moment is a clock that goes on with each document, so that no two are equal.
var moment atomic.Int64

func meta(t testing.TB, id string, state celery.State) celery.Meta {
	t.Helper()
	var result any = celery.NewException("ValueError", "x", nil)
	if state == celery.Success || state == celery.Started {
		result = moment.Load()
	}
	m, err := celery.NewMeta(&celery.Request{ID: id}, state, result, time.UnixMicro(1e15+moment.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func look(t *testing.T, l keeper, id string) celery.Stored {
	t.Helper()
	s, err := l.Look(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRecord has each row of the rule: what is on record, what was when the run began, what the
// run wants to record, and who has the end.
func TestRecord(t *testing.T) {
	const (
		ours   = "ours"            // stored
		stays  = "ours, not there" // counts as stored, and the earlier document stays
		theirs = "theirs"
	)
	damaged := map[string]string{
		"no JSON": "{", "empty": "", "no state": `{"status":7}`, "a list": `["SUCCESS"]`, "null": "null", "a number": "7",
		"deep, no JSON": strings.Repeat("[", 2000),
	}
	each(t, func(t *testing.T, k kind, l keeper, c *redis.Client) {
		type row struct {
			name   string
			stored string // "-" for nothing
			same   bool   // since is what is stored
			since  string // else: what it is, "" for nothing
			state  celery.State
			want   string
		}
		rows := []row{
			{"nothing", "-", false, "", celery.Success, ours},
			{"nothing, failed", "-", false, "", celery.Failure, ours},
			{"nothing, started", "-", false, "", celery.Started, ours},
			{"nothing any more", "-", false, k.foreign(celery.Failure), celery.Success, ours},
			{"nothing, retried", "-", false, "", celery.Retried, ours},
			{"gone, retried", "-", false, k.foreign(celery.Failure), celery.Retried, stays},
		}
		for _, was := range []celery.State{celery.Started, celery.Retried} {
			for _, s := range []celery.State{celery.Success, celery.Failure, celery.Revoked, celery.Started} {
				want := ours
				if was == celery.Retried && (s == celery.Failure || s == celery.Revoked) {
					want = theirs // another run has retried the task, which goes on
				}
				rows = append(rows,
					row{fmt.Sprintf("%s, then %s", was, s), k.foreign(was), false, "", s, want},
					row{fmt.Sprintf("%s untouched, then %s", was, s), k.foreign(was), true, "", s, ours})
			}
			rows = append(rows,
				row{string(was) + " untouched, retried", k.foreign(was), true, "", celery.Retried, ours},
				row{string(was) + " since, retried", k.foreign(was), false, "", celery.Retried, theirs})
		}
		for _, s := range []celery.State{celery.Success, celery.Failure, celery.Revoked, celery.Started, celery.Retried} {
			for _, was := range []celery.State{celery.Success, celery.Failure, celery.Revoked} {
				earlier := ours
				if was == celery.Success {
					earlier = stays
				}
				rows = append(rows,
					row{fmt.Sprintf("%s of an earlier life, then %s", was, s), k.foreign(was), true, "", s, earlier},
					row{fmt.Sprintf("%s since, %s", was, s), k.foreign(was), false, "", s, theirs},
					row{fmt.Sprintf("%s since %s, %s", was, k.foreign(celery.Started), s), k.foreign(was), false, k.foreign(celery.Started), s, theirs})
			}
		}
		for name, doc := range damaged {
			rows = append(rows,
				row{name, doc, false, "", celery.Success, ours}, row{name + ", same", doc, true, "", celery.Failure, ours},
				row{name + ", retried", doc, true, "", celery.Retried, ours})
		}
		for _, r := range rows {
			id := "t"
			c.FlushDB(t.Context())
			since := celery.Stored{}
			if r.since != "" {
				c.Set(t.Context(), k.documentKey(id), r.since, time.Minute)
				since = look(t, l, id)
				c.Del(t.Context(), k.documentKey(id))
			}
			if r.stored != "-" {
				c.Set(t.Context(), k.documentKey(id), r.stored, time.Minute)
			}
			before := look(t, l, id)
			if r.same {
				since = before
			}
			m := meta(t, id, r.state)
			other, err := l.Record(t.Context(), m, since)
			if err != nil {
				t.Fatalf("%s: %v", r.name, err)
			}
			if want := map[string]string{theirs: before.Raw}[r.want]; other.Raw != want {
				t.Errorf("%s: got theirs %q, want %q", r.name, other.Raw, want)
			}
			after := look(t, l, id)
			if changed := after.Raw != before.Raw; changed != (r.want == ours) {
				t.Errorf("%s: got %q, before it was %q; want it %s", r.name, after.Raw, before.Raw, r.want)
			}
			if r.want != ours {
				continue
			}
			if after.Meta == nil || after.Meta.Status != r.state || after.Meta.TaskID != id || after.Ended() != r.state.Final() {
				t.Errorf("%s: got %+v on record, want %s", r.name, after.Meta, r.state)
			}
			if ttl := c.TTL(t.Context(), k.documentKey(id)).Val(); ttl <= 23*time.Hour {
				t.Errorf("%s: got TTL %v, want a day", r.name, ttl)
			}
			// The same write once more, as if the answer had been lost.
			if other, err := l.Record(t.Context(), m, since); err != nil || other.Raw != "" || look(t, l, id).Raw != after.Raw {
				t.Errorf("%s, once more: got %q, %v, want ours", r.name, other.Raw, err)
			}
		}
	})
}

// TestDeepResult has the end of another run nested more deeply than Lua can read.
func TestDeepResult(t *testing.T) {
	t.Parallel()
	c := client(t, testenv.Redis(t).URL(), nil)
	l := results.New(c, zap.NewNop())
	for _, tt := range []struct {
		state       celery.State
		ours, ended bool
	}{{celery.Success, false, true}, {celery.Retried, false, false}, {celery.Started, true, false}} {
		m := meta(t, "t", tt.state)
		m.Result = json.RawMessage(strings.Repeat("[", 3000) + strings.Repeat("]", 3000))
		c.FlushDB(t.Context())
		if _, err := l.Record(t.Context(), m, celery.Stored{}); err != nil {
			t.Fatal(err)
		}
		theirs, err := l.Record(t.Context(), meta(t, "t", celery.Failure), celery.Stored{})
		if err != nil || (theirs.Raw == "") != tt.ours || theirs.Ended() != tt.ended {
			t.Errorf("%s: got ended %t, %v, want ours %t", tt.state, theirs.Ended(), err, tt.ours)
		}
	}
}

// TestRecordRace lets many runs record at once: one has the end, and the others get its document.
func TestRecordRace(t *testing.T) {
	each(t, func(t *testing.T, k kind, l keeper, c *redis.Client) {
		for _, since := range []string{"-", "no JSON", k.foreign(celery.Started), k.foreign(celery.Retried), k.foreign(celery.Failure)} {
			for range 10 {
				c.Del(t.Context(), k.documentKey("t"))
				if since != "-" {
					c.Set(t.Context(), k.documentKey("t"), since, time.Minute)
				}
				race(t, l)
			}
		}
	})
}

func race(t *testing.T, l keeper) {
	t.Helper()
	since := look(t, l, "t")
	var runs sync.WaitGroup
	var ours atomic.Int32
	theirs := make([]string, 16)
	for i := range theirs {
		m := meta(t, "t", []celery.State{celery.Success, celery.Failure, celery.Revoked}[i%3])
		runs.Go(func() {
			s, err := l.Record(t.Context(), m, since)
			if err != nil {
				t.Error(err)
			}
			if theirs[i] = s.Raw; s.Raw == "" {
				ours.Add(1)
			}
		})
	}
	runs.Wait()
	if ours.Load() != 1 {
		t.Errorf("%d of %d runs have the end, want 1", ours.Load(), len(theirs))
	}
	end := look(t, l, "t").Raw
	for _, raw := range theirs {
		if raw != "" && raw != end {
			t.Errorf("a run was told of %s, and %s is on record", raw, end)
		}
	}
}

// lossy is a connection to the real server that breaks instead of the next answer.
type lossy struct {
	net.Conn
	lose *atomic.Bool
}

func (l lossy) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if err == nil && l.lose.CompareAndSwap(true, false) {
		_ = l.Conn.Close()
		return 0, errors.New("connection reset by the test")
	}
	return n, err
}

// losing returns a client that loses the answer after lose is set.
func losing(t *testing.T, url string) (c *redis.Client, lose *atomic.Bool) {
	t.Helper()
	lose = new(atomic.Bool)
	return client(t, url, func(o *redis.Options) {
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return lossy{conn, lose}, err
		}
	}), lose
}

// TestLostAnswers loses the answer to each call that writes, which the server has carried out.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, lose := losing(t, testenv.Redis(t).URL())
			l := k.open(c, zap.NewNop())
			do := func(name string, f func() error) {
				t.Helper()
				c.Ping(t.Context()) // so that the connection is there
				lose.Store(true)
				if err := f(); err != nil || lose.Load() {
					t.Errorf("%s: got %v, answer lost %t", name, err, !lose.Load())
				}
			}
			do("begin", func() error {
				_, holder, err := l.Begin(t.Context(), "t", "run", "", celery.AnyEnd)
				if holder != "run" {
					t.Error("begin: not taken, although no other run has the id")
				}
				return err
			})
			do("record", func() error {
				theirs, err := l.Record(t.Context(), meta(t, "t", celery.Success), celery.Stored{})
				if theirs.Raw != "" {
					t.Errorf("record: got %q, want the end to be this run's", theirs.Raw)
				}
				return err
			})
			do("renew", func() error { return l.Renew(t.Context(), map[string]string{"t": "run", "u": "run"}) })
			do("release", func() error { return l.Release(t.Context(), "t", "run") })
			if holder, err := l.Holder(t.Context(), "t"); holder != "" || err != nil {
				t.Errorf("got holder %q, %v after the release", holder, err)
			}
		})
	}
}

// TestPublish has each document that results store on its channel, also if an earlier try might
// store it and not publish it.
func TestPublish(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t, "--acl-pubsub-default", "resetchannels")
	admin := client(t, server.URL(), nil)
	ctx := t.Context()
	if err := admin.Do(ctx, "ACL", "SETUSER", "u", "on", ">p", "~*", "+@all", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	sub := admin.Subscribe(ctx, results.Key("t"))
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	l := results.New(client(t, "redis://u:p@"+server.Addr(), nil), zap.NewNop())
	m := meta(t, "t", celery.Success)
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := l.Record(short, m, celery.Stored{}); err == nil || !strings.Contains(err.Error(), "channel") {
		t.Fatalf("got %v, want that the user may not publish", err)
	}
	if err := admin.Do(ctx, "ACL", "SETUSER", "u", "allchannels").Err(); err != nil {
		t.Fatal(err)
	}
	if theirs, err := l.Record(ctx, m, celery.Stored{}); theirs.Raw != "" || err != nil {
		t.Fatalf("got %q, %v", theirs.Raw, err)
	}
	message, err := sub.ReceiveTimeout(ctx, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got, raw := message.(*redis.Message).Payload, admin.Get(ctx, results.Key("t")).Val(); got != raw {
		t.Errorf("published %s, want what is stored, %s", got, raw)
	}
}

// TestOldMarks reads marks that an earlier version wrote, and the mark of a retry.
func TestOldMarks(t *testing.T) {
	t.Parallel()
	c := client(t, testenv.Redis(t).URL(), nil)
	l := progress.New(c, zap.NewNop())
	for text, want := range map[string]string{
		"SUCCESS": "SUCCESS 0 true", "FAILURE 2": "FAILURE 2 true", "RETRY 1048579 1764000000000000": "RETRY 1048579 false", "nonsense": "",
	} {
		c.Set(t.Context(), "job:t:finished", text, time.Minute)
		s, got := look(t, l, "t"), ""
		if s.Meta != nil {
			got = fmt.Sprint(s.Meta.Status, " ", s.Meta.Attempt(), " ", s.Ended())
		}
		if s.Raw != text || got != want {
			t.Errorf("%q: got %q and %q, want %q", text, s.Raw, got, want)
		}
	}
	retry := meta(t, "t", celery.Retried)
	*retry.Retries, retry.Nesting = 3, 1
	c.FlushDB(t.Context())
	if _, err := l.Record(t.Context(), retry, celery.Stored{}); err != nil {
		t.Fatal(err)
	}
	if s := look(t, l, "t"); s.Raw != "RETRY 1048579" || s.Meta.Attempt() != retry.Attempt() {
		t.Errorf("got %q, want RETRY of attempt %d", s.Raw, retry.Attempt())
	}
	// The mark of an end has the time of the end.
	failure := meta(t, "t", celery.Failure)
	done, err := celery.ParseTime(*failure.DateDone)
	if err != nil {
		t.Fatal(err)
	}
	c.FlushDB(t.Context())
	if _, err := l.Record(t.Context(), failure, celery.Stored{}); err != nil {
		t.Fatal(err)
	}
	if got, want := look(t, l, "t").Raw, fmt.Sprint("FAILURE 0 ", done.UnixMicro()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
