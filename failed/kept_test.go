package failed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"onceover/celery"
	"onceover/rabbit"
)

// TestKeepTogether keeps each record from two processes at once, small and large ones.
func TestKeepTogether(t *testing.T) {
	b := setup(t)
	other := b.newStore(Config{})
	const n = 60
	records := make([]Record, n)
	for i := range records {
		records[i] = failure(t, fmt.Sprintf("job-%02d", i))
		if i%4 == 0 {
			records[i] = sized(t, fmt.Sprintf("job-%02d", i), 100<<10, "x")
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	isNew := 0
	for _, r := range records {
		start := make(chan struct{})
		for _, s := range []*Store{b.store, other} {
			wg.Go(func() {
				<-start
				first, err := s.keep(t.Context(), r, true)
				if err != nil {
					t.Error(err)
				}
				if first {
					s.count(t.Context(), &r)
					mu.Lock()
					isNew++
					mu.Unlock()
				}
			})
		}
		close(start)
		wg.Wait()
	}
	if isNew != n {
		t.Errorf("%d of %d records were new to one of the two processes, want each once", isNew, n)
	}
	if all := b.entries(); len(all) != n {
		t.Errorf("got %d records, want %d", len(all), n)
	}
	for _, c := range b.causes() {
		if c.Kept != n || c.Day != n {
			t.Errorf("got %+v, want %d, each counted once", c, n)
		}
	}
	total := 0
	hours, err := b.store.Hours(t.Context(), 2)
	for _, h := range hours {
		total += h.Total()
	}
	if err != nil || total != n {
		t.Errorf("got counts %v, %v, want %d failures", hours, err, n)
	}
	for _, r := range records {
		if got := b.get(r.key()); string(got.Message.Body) != string(r.Message.Body) {
			t.Errorf("%s: got another message", r.ID)
		}
	}
	for _, pieces := range b.keys(prefix + "message:*") {
		if ttl := b.client.TTL(t.Context(), pieces).Val(); ttl != -1 {
			t.Errorf("%s expires in %v, want never", pieces, ttl)
		}
	}
}

// TestKeepAnotherCall keeps two calls to which a producer has given one id: both are listed, found,
// replayed, and neither disturbs the other.
func TestKeepAnotherCall(t *testing.T) {
	b := setup(t)
	for _, size := range []int{1, 100 << 10} {
		id := fmt.Sprint("job-", size)
		first, second := sized(t, id, size, "x"), sized(t, id, size, "y")
		twin := key(id) + Key("~"+second.callSum())
		for range 3 {
			b.keep(first)
			b.keep(second)
		}
		var listed []Key
		for _, e := range b.entries() {
			if e.ID != id || e.Key.Name() != id {
				t.Errorf("got %s of job %s, called %s; want %s", e.Key, e.ID, e.Key.Name(), id)
			}
			listed = append(listed, e.Key)
		}
		slices.Sort(listed)
		if !slices.Equal(listed, []Key{key(id), twin}) {
			t.Fatalf("got %v listed, want both", listed)
		}
		for k, want := range map[Key]Record{key(id): first, twin: second} {
			if found, err := b.store.Find(t.Context(), string(k)); err != nil || !slices.Equal(found, []Key{k}) {
				t.Errorf("got %v, %v by key, want %s", found, err, k)
			}
			if got := b.get(k); string(got.Message.Body) != string(want.Message.Body) {
				t.Errorf("%s: got another message", k)
			}
		}
		if found, err := b.store.Find(t.Context(), id); err != nil || len(found) == 0 || found[0] != key(id) {
			t.Errorf("got %v, %v by id", found, err)
		}
		b.replay(key(id))
		if found, err := b.store.Find(t.Context(), id); err != nil || !slices.Equal(found, []Key{twin}) {
			t.Errorf("got %v, %v by id, want what is left, %s", found, err, twin)
		}
		if got := b.get(twin); string(got.Message.Body) != string(second.Message.Body) {
			t.Errorf("%s: got another message after the replay of the first", twin)
		}
		b.replay(twin)
		var bodies []string
		for _, m := range b.out.messages() {
			if m.Headers["id"] == id {
				bodies = append(bodies, string(m.Body))
			}
		}
		if !slices.Equal(bodies, []string{string(first.Message.Body), string(second.Message.Body)}) {
			t.Errorf("got %d messages published, want that of each", len(bodies))
		}
		if all := b.entries(); len(all) != 0 {
			t.Errorf("got %v left", all)
		}
	}
	// A third call with the name of the second, as far as the sum tells, is refused, not taken for it.
	r := failure(t, "b")
	b.keep(r)
	req := request("b")
	req.Args = append(req.Args, json.RawMessage("2"))
	another := Failure(message(t, req), req, boom, ReasonFailed)
	occupied := key("b") + Key("~"+another.callSum())
	doc, err := json.Marshal(r.Message)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.add(t.Context(), occupied, &r, doc, false); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Keep(t.Context(), another); err == nil || !strings.Contains(err.Error(), "another call's") {
		t.Errorf("got %v, want that its key is another call's", err)
	}
}

// TestSameCall has calls of one id that differ in what the body does not say, or in what follows: none is taken for another one. One that
// is written anew is.
func TestSameCall(t *testing.T) {
	t.Parallel()
	of := func(change func(*celery.Request)) *Record {
		req := request("a")
		change(req)
		r := Failure(message(t, req), req, boom, ReasonFailed)
		return &r
	}
	next := func(task string) celery.Signatures { return celery.Signatures{celery.NewSignature(task)} }
	calls := map[string]*Record{
		"plain":        of(func(*celery.Request) {}),
		"another task": of(func(r *celery.Request) { r.Task = "ship" }),
		"an argument":  of(func(r *celery.Request) { r.Kwargs = map[string]json.RawMessage{"n": json.RawMessage("1")} }),
		"a link":       of(func(r *celery.Request) { r.Callbacks = next("x") }),
		"another link": of(func(r *celery.Request) { r.Callbacks = next("y") }),
		"an errback":   of(func(r *celery.Request) { r.Errbacks = next("x") }),
		"a chain":      of(func(r *celery.Request) { r.Chain = next("x") }),
		"a chord":      of(func(r *celery.Request) { r.Chord = celery.NewSignature("x") }),
		"another time": of(func(r *celery.Request) { r.ETA = time.Unix(1800000000, 0) }),
	}
	sums := map[string]string{}
	for name, r := range calls {
		if other, there := sums[r.callSum()]; there {
			t.Errorf("%s has the sum of %s", name, other)
		}
		sums[r.callSum()] = name
		for of, other := range calls {
			if got := sameCall(r, other); got != (name == of) {
				t.Errorf("%s and %s: got %v", name, of, got)
			}
		}
		again := *r
		again.Message.Body = append([]byte(" "), r.Message.Body...)
		if !sameCall(r, &again) {
			t.Errorf("%s: written in another form it is taken for another call", name)
		}
	}
}

// TestKeepAnotherTask keeps two calls that have one id and one body, and differ in their task.
func TestKeepAnotherTask(t *testing.T) {
	b := setup(t)
	charge, ship := request("order-7"), request("order-7")
	charge.Task, ship.Task = "charge", "ship"
	for _, req := range []*celery.Request{charge, ship, charge, ship} {
		b.keep(Failure(message(t, req), req, boom, ReasonFailed))
	}
	var kept []string
	for _, e := range b.entries() {
		kept = append(kept, e.Task)
	}
	slices.Sort(kept)
	if !slices.Equal(kept, []string{"charge", "ship"}) {
		t.Errorf("got %v kept, want both", kept)
	}
}

// TestNothingIsLeft keeps records and has them go: nothing of them stays in Redis but what is known
// of their causes.
func TestNothingIsLeft(t *testing.T) {
	b := setup(t)
	gone := map[string]func(Key){
		"discarded": func(k Key) {
			if err := b.store.Discard(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		},
		"replayed": func(k Key) { b.replay(k) },
		"refused, then replayed": func(k Key) {
			b.out.refuse(func(rabbit.Message) error { return &rabbit.UndeliverableError{Err: errors.New("no")} })
			if _, err := b.store.Replay(t.Context(), []Key{k}, b.out.publish, nil); err != nil {
				t.Fatal(err)
			}
			b.out.refuse(nil)
			b.replay(k)
		},
		"expired": func(Key) {
			s := b.newStore(Config{Retention: time.Nanosecond})
			if n, err := s.Expire(t.Context()); n != 1 || err != nil {
				t.Fatalf("got %d, %v, want the record gone", n, err)
			}
		},
	}
	for how, end := range gone {
		for _, size := range []int{10, 300 << 10} {
			r := sized(t, fmt.Sprintf("%s-%d", how, size), size, "é")
			r.Last = dawn
			for range 2 {
				b.keep(r)
			}
			before := b.keys(prefix + "*")
			if len(before) < 6 {
				t.Fatalf("%s: got keys %v of a record: the test shows nothing", how, before)
			}
			end(r.key())
			for _, k := range b.keys(prefix + "*") {
				if k != causesKey && k != seenKey && k != firstKey && !strings.HasPrefix(k, prefix+"met:") {
					t.Errorf("%s, %d bytes: key %s is left", how, size, k)
				}
			}
			if locks := b.keys("onceover:replaying:*"); len(locks) != 0 {
				t.Errorf("%s: got locks %v left", how, locks)
			}
		}
	}
	for _, k := range b.keys(prefix + "met:*") {
		if ttl := b.client.TTL(t.Context(), k).Val(); ttl <= 0 || ttl > metTTL {
			t.Errorf("%s expires in %v, want within %v", k, ttl, metTTL)
		}
	}
}

// TestLostHash has the server lose the hash of a record: discarded, it is nowhere any more.
func TestLostHash(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	b.keep(failure(t, "b"))
	if err := b.client.Del(t.Context(), recordKey(key("a"))).Err(); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Discard(t.Context(), key("a")); err != nil {
		t.Fatal(err)
	}
	causes, err := b.store.Causes(t.Context())
	if err != nil || len(causes) != 1 || causes[0].Kept != 1 || causes[0].Newest != key("b") {
		t.Errorf("got %+v, %v, want one job of one cause", causes, err)
	}
	if c, err := b.store.Count(t.Context()); err != nil || c.Failed != 1 {
		t.Errorf("got %+v, %v, want one failed job", c, err)
	}
	if found, err := b.store.Find(t.Context(), "a"); err != nil || len(found) != 0 {
		t.Errorf("got %v, %v found", found, err)
	}
}

// TestPiecesGoBeforeTheirRecord has the server evict the pieces of a long message before the record is there: they are written again.
func TestPiecesGoBeforeTheirRecord(t *testing.T) {
	b := setup(t)
	r := sized(t, "a", 300<<10, "x")
	b.store.client.AddHook(&beforeScript{f: func() {
		if err := b.client.Del(t.Context(), b.keys(longKey(key("a"), "*"))...).Err(); err != nil {
			t.Error(err)
		}
	}})
	b.keep(r)
	if got := b.get(key("a")); !bytes.Equal(got.Message.Body, r.Message.Body) {
		t.Error("got another message back")
	}
}

// TestKeepAfterHalf has Redis refuse one of the commands by which a record is kept: once that is mended, the record is found by all that
// finds records.
func TestKeepAfterHalf(t *testing.T) {
	b := setup(t)
	if err := b.client.Set(t.Context(), firstKey, "of another type", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Keep(t.Context(), failure(t, "a")); err == nil {
		t.Fatal("got kept, want an error")
	}
	if err := b.client.Del(t.Context(), firstKey).Err(); err != nil {
		t.Fatal(err)
	}
	b.keep(failure(t, "a"))
	found, err := b.store.Find(t.Context(), "a")
	causes := b.causes()
	if all := b.entries(); len(all) != 1 || err != nil || len(found) != 1 || len(causes) != 1 || causes["boom"].Kept != 1 {
		t.Errorf("got %v, %v, %v, %+v, want the job", all, found, err, causes)
	}
}
