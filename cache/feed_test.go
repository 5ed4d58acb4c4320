package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"onceover/phash"
)

// clock is a cache's time, set by hand.
type clock struct{ at time.Time }

func (k *clock) now() time.Time { return k.at }

// ticking gives caches a common clock that stands in the middle of this hour.
func ticking(caches ...*Cache) *clock {
	k := &clock{time.Now().Truncate(time.Hour).Add(30 * time.Minute)}
	for _, c := range caches {
		c.now = k.now
	}
	return k
}

func has(t testing.TB, c *Cache, h phash.Hash, want bool) {
	t.Helper()
	if got := contains(c.index, h); got != want {
		t.Errorf("got %v whether the index holds %v, want %v", got, h, want)
	}
}

func TestFeed(t *testing.T) {
	c, client := setup(t)
	other, _ := join(t, client.Options().Addr)
	r := random()
	all := []phash.Hash{randomHash(r), randomHash(r), randomHash(r)}
	for i, h := range all {
		from, to := c, other
		if i == 1 {
			from, to = other, c
		}
		load(t, to)
		store(t, from, picture(h), named(fmt.Sprint(i)))
		has(t, to, h, false)
		load(t, to)
		has(t, to, h, true)
		want(t, look(t, to, Query{Picture: picture(away(r, h, 8))}), fmt.Sprintf("near %d 8", i))
	}
	now := hourOf(time.Now())
	key := fmt.Sprintf("phash:log:2:%d", now)
	var bytes []byte
	for _, h := range all {
		raw := make([]byte, 0, 128)
		for range 2 { // of the key, and of the picture
			for _, v := range h {
				for shift := 56; shift >= 0; shift -= 8 {
					raw = append(raw, byte(v>>shift))
				}
			}
		}
		bytes = append(append(bytes, raw...), make([]byte, 64)...) // no crops
	}
	if got := client.Get(t.Context(), key).Val(); got != string(bytes) && hourOf(time.Now()) == now {
		t.Errorf("got log %x, want %x", got, bytes)
	}
	// Nothing new: two commands an hour in one round trip, and nothing is added twice.
	load(t, c)
	commands, n := count(client), c.index.Len()
	load(t, c)
	if trips, names := commands.take(); trips != 1 || names["getrange"] != 3 || names["strlen"] != 3 || c.index.Len() != n {
		t.Errorf("got %d round trips, %v, %d hashes, want 1, two commands for 3 hours, %d", trips, names, c.index.Len(), n)
	}
}

// fillLogs writes hashes to the logs of the last hours.
func fillLogs(t testing.TB, client *redis.Client, now int64, all []phash.Hash) {
	t.Helper()
	p := client.Pipeline()
	hour := now - logHours
	for part := range slices.Chunk(all, (len(all)+int(logHours))/int(logHours+1)) {
		p.Set(t.Context(), logKey(hour), logOf(part...), logTTL)
		hour++
	}
	_, err := p.Exec(t.Context())
	check(t, err)
}

func randomHashes(n int) []phash.Hash {
	r := random()
	all := make([]phash.Hash, n)
	for i := range all {
		all[i] = randomHash(r)
	}
	return all
}

func TestLoadAtStart(t *testing.T) {
	c, client := setup(t)
	ticking(c)
	all := randomHashes(20_000)
	fillLogs(t, client, hourOf(c.now()), all)
	check(t, client.Set(t.Context(), logKey(hourOf(c.now())-logHours-1), logOf(all[0]), logTTL).Err())
	commands := count(client)
	load(t, c)
	if got := c.index.Len(); got != len(all) {
		t.Errorf("got %d hashes, want %d", got, len(all))
	}
	there := held(c.index)
	for _, h := range all {
		if !there[h] {
			t.Fatalf("got an index without %v, want all", h)
		}
	}
	if trips, _ := commands.take(); trips > 8 {
		t.Errorf("got %d round trips, want 8 at most", trips)
	}
}

// TestHours goes through the hours and days, with clocks that differ.
func TestHours(t *testing.T) {
	c, client := setup(t)
	reader, _ := join(t, client.Options().Addr)
	k := ticking(c, reader)
	r := random()
	write := func(ahead time.Duration) phash.Hash {
		t.Helper()
		h := randomHash(r)
		was := k.at
		k.at = k.at.Add(ahead)
		store(t, c, picture(h), bottle)
		k.at = was
		return h
	}
	load(t, reader)
	first := write(0)
	load(t, reader)
	has(t, reader, first, true)
	k.at = k.at.Add(time.Hour)
	late, ahead := write(-time.Hour), write(time.Hour)
	load(t, reader)
	has(t, reader, late, true)
	has(t, reader, ahead, true)
	k.at = k.at.Add(time.Hour)
	last := write(0) // into the log that the one ahead began
	load(t, reader)
	has(t, reader, last, true)
	// A process that slept catches up.
	var all []phash.Hash
	for range 40 {
		k.at = k.at.Add(time.Hour)
		all = append(all, write(0))
	}
	load(t, reader)
	for _, h := range all {
		has(t, reader, h, true)
	}
	// After hours without anything new only three of them are read.
	k.at = k.at.Add(30 * time.Hour)
	load(t, reader)
	commands := count(client)
	c.feed.last = reader.feed.last
	load(t, c)
	if _, names := commands.take(); names["getrange"] != 3 {
		t.Errorf("got %d logs read, want 3", names["getrange"])
	}
	has(t, reader, first, true)
	k.at = k.at.Add(7 * 24 * time.Hour)
	load(t, reader)
	for _, h := range append(all, first, late, ahead, last) {
		has(t, reader, h, false)
	}
	if got := reader.index.Len(); got != 0 || len(reader.feed.read) != 0 {
		t.Errorf("got %d hashes and %d hours after 7 days, want none", got, len(reader.feed.read))
	}
	// A clock that is set back hides nothing that is new.
	k.at = k.at.Add(-3 * time.Hour)
	h := write(0)
	load(t, reader)
	has(t, reader, h, true)
}

// TestGenerations drops each hour when the last entry of it has run out, not before.
func TestGenerations(t *testing.T) {
	c, _ := setup(t)
	k := ticking(c)
	k.at = k.at.Truncate(time.Hour).Add(time.Hour - time.Second)
	h := randomHash(random())
	store(t, c, picture(h), bottle)
	load(t, c)
	k.at = k.at.Add(TTL)
	load(t, c)
	has(t, c, h, true)
	k.at = k.at.Add(time.Second)
	load(t, c)
	has(t, c, h, false)
}

// TestLogsOfAnyForm reads logs that were evicted, cut or written by somebody else.
func TestLogsOfAnyForm(t *testing.T) {
	c, client := setup(t)
	k := ticking(c)
	r := random()
	key := logKey(hourOf(k.at))
	put := func(text string) {
		t.Helper()
		check(t, client.Set(t.Context(), key, text, logTTL).Err())
	}
	a, b, d := randomHash(r), randomHash(r), randomHash(r)
	put(logOf(a, b))
	load(t, c)
	// Evicted and begun anew: read at once.
	put(logOf(d))
	load(t, c)
	has(t, c, d, true)
	// A record of which half is there is read when it is whole.
	e := randomHash(r)
	text := logOf(d, e)
	put(text[:145])
	load(t, c)
	has(t, c, e, false)
	put(text)
	load(t, c)
	has(t, c, e, true)
	// What is no record is no hash, or one that is there no harm.
	for _, text := range []string{"", "x", strings.Repeat("\x00", 1000), strings.Repeat("\xff", 256) + "tail", strings.Repeat("\x55", 128)} {
		put(text)
		load(t, c)
	}
	client.Del(t.Context(), key)
	client.LPush(t.Context(), key, "x")
	load(t, c)
	store(t, c, picture(randomHash(r)), bottle)
	load(t, c)
	client.Del(t.Context(), key)
	h := randomHash(r)
	store(t, c, picture(h), bottle)
	load(t, c)
	has(t, c, h, true)
	// The next hour is whole, whatever this one is.
	put(text[:129])
	h = randomHash(r)
	store(t, c, picture(h), bottle)
	load(t, c)
	k.at = k.at.Add(time.Hour)
	h = randomHash(r)
	store(t, c, picture(h), bottle)
	load(t, c)
	has(t, c, h, true)
}

// TestReconcile adds what Python wrote, and what was logged and is no more, once in the fleet, and nothing else.
func TestReconcile(t *testing.T) {
	c, client := setup(t)
	other, _ := join(t, client.Options().Addr)
	r := random()
	own := randomHash(r)
	store(t, c, picture(own), bottle)
	load(t, c)
	copied := away(r, own, 4)
	want(t, look(t, c, Query{Picture: picture(copied)}), "near plastic 4")
	var python []phash.Hash
	for range 1200 { // more than a step of the scan
		h := randomHash(r)
		python = append(python, h)
		check(t, client.Set(t.Context(), "cache:image:hash:"+h.String(), canByPython, TTL).Err())
	}
	evicted := randomHash(r)
	putSigned(t, client, evicted)
	check(t, client.Set(t.Context(), "cache:image:hash:damaged", canByPython, TTL).Err())
	check(t, client.Set(t.Context(), "cache:image:hash:"+randomHash(r).String(), "damaged", TTL).Err())
	steps := 0
	got, err := c.Reconcile(t.Context(), func(seen int) { steps = seen })
	if want := (Reindexed{Entries: 1204, Added: 1201}); err != nil || got != want || steps != 1205 {
		t.Errorf("got %+v, %v and %d keys seen, want %+v and 1205", got, err, steps, want)
	}
	load(t, c)
	load(t, other)
	for _, c := range []*Cache{c, other} {
		if n := c.index.Len(); n != 2 {
			t.Errorf("got %d pictures, want the 2 that can be compared", n)
		}
	}
	want(t, look(t, other, Query{Picture: picture(away(r, python[0], 6))}), "miss")
	want(t, look(t, other, Query{Picture: picture(away(r, evicted, 6))}), "near can 6")
	if n := client.SCard(t.Context(), Tag{"category", "metal"}.key(hourOf(time.Now()))).Val(); n < 1200 {
		t.Errorf("got %d tagged, want 1200 at least", n)
	}
	commands := count(client)
	for _, c := range []*Cache{c, other, c} {
		if got, err := c.Reconcile(t.Context(), nil); err != nil || got.Added != 0 {
			t.Errorf("got %+v, %v, want nothing added again", got, err)
		}
	}
	if _, names := commands.take(); names["append"] != 0 || names["pttl"] > 6 {
		t.Errorf("got %v, want no record, and no entry read but the damaged one and a copy", names)
	}
}

// TestReconcileBesideWriters lets another process write while the scan goes on.
func TestReconcileBesideWriters(t *testing.T) {
	c, client := setup(t)
	other, _ := join(t, client.Options().Addr)
	ticking(c, other)
	r := random()
	for range 3 * scanCount {
		check(t, client.Set(t.Context(), "cache:image:hash:"+randomHash(r).String(), canByPython, TTL).Err())
	}
	_, err := c.Reconcile(t.Context(), func(int) {
		for range 20 {
			store(t, other, picture(randomHash(r)), bottle)
		}
	})
	check(t, err)
	log := logged(client.Get(t.Context(), logKey(hourOf(c.now()))).Val())
	if n := len(slices.Compact(slices.Clone(log))); n != len(log) {
		t.Errorf("got %d records of %d hashes, want none double", len(log), n)
	}
}

// TestReconcileWithSmallIndex has more entries than the index holds: they are not
// appended again and again.
func TestReconcileWithSmallIndex(t *testing.T) {
	c, client := setup(t)
	c.index = NewIndex(100)
	r := random()
	const n = 100 + 2*chunkSize
	p := client.Pipeline()
	for range n {
		p.Set(t.Context(), "cache:image:hash:"+randomHash(r).String(), canByPython, TTL)
	}
	_, err := p.Exec(t.Context())
	check(t, err)
	for _, want := range []int{n, 0, 0} {
		if got, err := c.Reconcile(t.Context(), nil); err != nil || got.Added != want {
			t.Fatalf("got %+v, %v, want %d added", got, err, want)
		}
	}
	if got := c.index.Len(); got >= n {
		t.Errorf("got %d hashes in the index, want it bounded", got)
	}
}

func TestReconcileInTurn(t *testing.T) {
	c, client := setup(t)
	other, _ := join(t, client.Options().Addr)
	put := func() phash.Hash {
		h := randomHash(random())
		putSigned(t, client, h)
		return h
	}
	h := put()
	check(t, c.reconcileInTurn(t.Context()))
	load(t, c)
	has(t, c, h, true)
	check(t, client.Del(t.Context(), logKey(hourOf(time.Now()))).Err())
	commands := count(client)
	check(t, other.reconcileInTurn(t.Context()))
	check(t, c.reconcileInTurn(t.Context()))
	if _, names := commands.take(); names["scan"] != 0 {
		t.Errorf("got %v, want no scan: it was done a moment ago", names)
	}
	load(t, other)
	has(t, other, h, false)
	lives(t, client, "cache:lock:reconcile", reconcileEvery-pollEvery)
	client.Del(t.Context(), "cache:lock:reconcile")
	check(t, other.reconcileInTurn(t.Context()))
	load(t, other)
	has(t, other, h, true)
}

// TestReindex takes out what is dead or double, in the logs to which nobody appends.
func TestReindex(t *testing.T) {
	c, client := setup(t)
	k := ticking(c)
	all := randomHashes(30)
	now := hourOf(k.at)
	for _, h := range all[:10] {
		putSigned(t, client, h)
	}
	dead := all[10:]
	put := func(hour int64, hashes ...phash.Hash) {
		check(t, client.Set(t.Context(), logKey(hour), logOf(hashes...), 20*time.Hour).Err())
	}
	put(now, all[0], dead[0], all[0])
	put(now-1, all[1], dead[1])
	put(now-2, all[0], all[2], all[2], dead[2], all[3])
	put(now-50, dead[3], dead[4])
	put(now-100, all[1], all[2], all[4])
	check(t, client.Set(t.Context(), logKey(now-101), logOf(all[5]), 0).Err())
	check(t, client.Set(t.Context(), logKey(now-102), "short", 0).Err())
	got, err := c.Reindex(t.Context(), nil)
	// all[0], all[2] and dead[2] of two hours ago, both of the next, all[1] and all[2] of the last.
	if want := (Reindexed{Entries: 10, Added: 4, Removed: 7}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for hour, want := range map[int64][]phash.Hash{
		now - 1: {all[1], dead[1]}, now - 2: {all[2], all[3]}, now - 50: nil, now - 100: {all[4]}, now - 101: {all[5]},
	} {
		log := logged(client.Get(t.Context(), logKey(hour)).Val())
		slices.SortFunc(want, byBits)
		if !slices.Equal(log, want) {
			t.Errorf("%d hours ago: got %v, want %v", now-hour, log, want)
		}
	}
	lives(t, client, logKey(now-2), 20*time.Hour)
	lives(t, client, logKey(now-101), logTTL)
	if n := client.Exists(t.Context(), logKey(now-50)).Val(); n != 0 {
		t.Error("an empty log is still there")
	}
	again, err := c.Reindex(t.Context(), nil)
	if want := (Reindexed{Entries: 10}); err != nil || again != want {
		t.Errorf("got %+v, %v, want %+v", again, err, want)
	}
	fresh, _ := join(t, client.Options().Addr)
	fresh.now = k.now
	load(t, fresh)
	for _, h := range all[:10] {
		has(t, fresh, h, true)
	}
}

// TestRun keeps a process up to date until its context ends.
func TestRun(t *testing.T) {
	c, client := setup(t)
	core, logs := observer.New(zapcore.WarnLevel)
	c.log = zap.New(core)
	writer, _ := join(t, client.Options().Addr)
	r := random()
	evicted, own := randomHash(r), randomHash(r)
	putSigned(t, client, evicted)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("got no %s, want it", what)
			}
		}
	}
	until("entry that no log has", func() bool { return contains(c.index, evicted) })
	store(t, writer, picture(own), bottle)
	c.Record(picture(own), Answer{Entry: bottle, Kind: Exact})
	until("entry of another process", func() bool { return contains(c.index, own) })
	until("statistics", func() bool { return jobs(t, c) == 1 })
	c.Record(picture(own), Answer{Entry: bottle, Kind: Exact})
	cancel()
	result(t, done)
	if n := jobs(t, c); n != 2 {
		t.Errorf("got %d jobs counted, want 2: the last one written at the end", n)
	}
	for _, entry := range logs.All() {
		t.Errorf("got a warning: %s %v", entry.Message, entry.ContextMap())
	}
}

func jobs(t testing.TB, c *Cache) (n int64) {
	t.Helper()
	s, err := c.Stats(context.Background(), 2, 1)
	check(t, err)
	for _, h := range s.Hours {
		n += h.Jobs()
	}
	return n
}

// TestCluster runs all that goes through several keys on a server that refuses
// commands on keys of different slots.
func TestCluster(t *testing.T) {
	_, plain, server := setupServer(t, "--cluster-enabled", "yes")
	ctx := t.Context()
	check(t, plain.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err())
	end := time.Now().Add(20 * time.Second)
	for !strings.Contains(plain.ClusterInfo(ctx).Val(), "cluster_state:ok") {
		if time.Now().After(end) {
			t.Fatal("the cluster is not up after 20 s")
		}
		time.Sleep(10 * time.Millisecond) // the server tells nobody
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{server.Addr()}})
	defer client.Close()
	c := newOn(client)
	defer c.Close()
	r := random()
	for i, h := range randomHashes(30) {
		if i == 0 {
			check(t, client.Set(ctx, Key(h, Variant{}), "damaged", TTL).Err())
			continue
		}
		if i%2 == 0 {
			check(t, client.Set(ctx, Key(h, Variant{}), canByPython, TTL).Err())
			continue
		}
		a, err := c.Fill(ctx, &Query{Picture: picture(h)}, func(context.Context) (Entry, error) { return bottle, nil }, nil)
		if err != nil || a.Kind != Fresh {
			t.Fatalf("got %+v, %v, want an answer", a, err)
		}
		want(t, look(t, c, Query{Picture: picture(away(r, h, 4))}), "miss")
		load(t, c)
		want(t, look(t, c, Query{Picture: picture(away(r, h, 4))}), "near plastic 4")
	}
	if got, err := c.Reindex(ctx, nil); err != nil || got.Entries != 45 || got.Added != 14 {
		t.Errorf("got %+v, %v, want 45 entries, 14 added", got, err)
	}
	if got, err := c.Cleanup(ctx); err != nil || got.Removed != 1 {
		t.Errorf("got %+v, %v, want 1 removed", got, err)
	}
	c.Record(picture(randomHash(r)), Answer{Entry: bottle, Kind: Exact})
	check(t, c.Flush(ctx))
	if n := jobs(t, c); n != 1 {
		t.Errorf("got %d jobs counted, want 1", n)
	}
	if got, err := c.Invalidate(ctx, Selection{Tags: []Tag{{"category", "metal"}}}, nil); err != nil || got.Entries != 14 {
		t.Errorf("got %+v, %v, want 14 removed", got, err)
	}
	if got, err := c.Invalidate(ctx, Selection{OlderThan: time.Hour}, nil); err != nil || got.Entries == 0 {
		t.Errorf("got %+v, %v, want some removed", got, err)
	}
}

// FuzzRecords reads a log of any form; what is written is read back.
func FuzzRecords(f *testing.F) {
	f.Add("")
	f.Add(strings.Repeat("\x55", 257))
	f.Fuzz(func(t *testing.T, log string) {
		read := recordsOf(log)
		if len(read) != len(log)/recordSize {
			t.Fatalf("got %d records of %d bytes, want %d", len(read), len(log), len(log)/recordSize)
		}
		if again := encodeRecords(read); again != log[:len(again)] {
			t.Fatalf("got %x, want %x", again, log)
		}
		x := NewIndex(10)
		x.Add(1, read...)
		for _, r := range read {
			x.Near(MaxRadius, 1<<20, r.Hashes)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	c, client := setup(b)
	fillLogs(b, client, hourOf(time.Now()), randomHashes(100_000))
	for b.Loop() {
		c.index, c.feed.last, c.feed.read = NewIndex(1_000_000), 0, map[int64]int64{}
		load(b, c)
	}
	if n := c.index.Len(); n != 100_000 {
		b.Fatalf("got %d hashes, want 100,000", n)
	}
}

// TestLoadsAreShared has somebody wait while others read: a reading that began after it asked is as good as its own, and one that began
// before, or failed, is not.
func TestLoadsAreShared(t *testing.T) {
	c, client := setup(t)
	writer, _ := join(t, client.Options().Addr)
	load(t, c)
	commands := count(client)
	for _, tt := range []struct{ begun, done, trips int64 }{{7, 8, 0}, {7, 7, 1}, {8, 3, 1}} {
		h := randomHash(random())
		store(t, writer, picture(h), bottle)
		c.feed.begun.Store(tt.begun)
		c.feed.done = tt.done
		commands.take()
		load(t, c)
		if trips, _ := commands.take(); int64(trips) != tt.trips {
			t.Errorf("%d begun when asked, %d done: got %d round trips, want %d", tt.begun, tt.done, trips, tt.trips)
		}
		if tt.trips > 0 {
			has(t, c, h, true)
			if c.feed.done != tt.begun+1 {
				t.Errorf("got reading %d done, want %d", c.feed.done, tt.begun+1)
			}
		}
	}
}
