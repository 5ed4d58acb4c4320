package cache

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"onceover/phash"
)

// named returns an entry that is told apart by its name.
func named(name string) Entry {
	return Entry{WasteType: name, Category: "c", AnalyzedAt: "2026-11-20T10:00:00"}
}

// look looks up and returns a short form of what was found.
func look(t testing.TB, c *Cache, q Query) string {
	t.Helper()
	a, err := c.Lookup(context.Background(), &q)
	check(t, err)
	if a == nil {
		return "miss"
	}
	if a.Near != 0 {
		return fmt.Sprintf("%s %s %d", a.Kind, a.WasteType, a.Near)
	}
	return string(a.Kind) + " " + a.WasteType
}

func store(t testing.TB, c *Cache, p Picture, e Entry) {
	t.Helper()
	_, err := c.Store(context.Background(), p, Variant{}, e)
	check(t, err)
}

func load(t testing.TB, c *Cache) {
	t.Helper()
	check(t, c.Load(context.Background()))
}

func want(t testing.TB, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRadius(t *testing.T) {
	for _, radius := range []int{0, 2, 14, 15, 16, 24, 50} {
		t.Run(fmt.Sprint(radius), func(t *testing.T) {
			c, client := setup(t)
			c.cfg.Radius = radius
			r := random()
			for d := 2; d <= 56; d += 6 {
				root := randomHash(r)
				store(t, c, picture(root), named("root"))
				load(t, c)
				q := Query{Picture: picture(away(r, root, d))}
				if d > radius {
					want(t, look(t, c, q), "miss")
					continue
				}
				want(t, look(t, c, q), fmt.Sprintf("near root %d", d))
				// Found as its own from then on.
				want(t, look(t, c, q), "exact root")
				key := q.Key(Variant{})
				lives(t, client, key, TTL)
				got, err := c.Get(t.Context(), key)
				check(t, err)
				e := named("root")
				e.Colour, e.DerivedFrom, e.Distance = q.Colour.String(), root.String(), d
				e.File, e.DerivedFile = q.Digest.String(), picture(root).Digest.String()
				if diff := cmp.Diff(&e, got); diff != "" {
					t.Errorf("copy (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestNearestRootWins(t *testing.T) {
	c, _ := setup(t)
	r := random()
	for range 20 {
		h := randomHash(r)
		for _, d := range []int{12, 4, 8, 14} {
			store(t, c, picture(away(r, h, d)), named(fmt.Sprint(d)))
		}
		load(t, c)
		want(t, look(t, c, Query{Picture: picture(h)}), "near 4 4")
	}
}

// TestNoDrift looks up a chain of pictures, each 14 bits further away from the
// one that was looked at.
func TestNoDrift(t *testing.T) {
	c, client := setup(t)
	c.cfg.Radius = 24
	r := random()
	a := randomHash(r)
	b := away(r, a, 14)
	far := away(r, b, 14)
	for a.Distance(far) <= 24 {
		far = away(r, b, 14)
	}
	store(t, c, picture(a), named("a"))
	load(t, c)
	want(t, look(t, c, Query{Picture: picture(b)}), "near a 14")
	other, _ := join(t, client.Options().Addr)
	other.cfg.Radius = 24
	for name, again := range map[string]func() error{
		"load":               func() error { return c.Load(t.Context()) },
		"reload":             func() error { return other.Load(t.Context()) },
		"reconcile":          func() error { _, err := c.Reconcile(t.Context(), nil); return err },
		"known to be a copy": func() error { _, err := c.Reconcile(t.Context(), nil); return err },
		"elsewhere":          func() error { _, err := other.Reconcile(t.Context(), nil); return err },
		"reindex":            func() error { _, err := c.Reindex(t.Context(), nil); return err },
		"cleanup":            func() error { _, err := c.Cleanup(t.Context()); return err },
	} {
		check(t, again())
		for _, c := range []*Cache{c, other} {
			if got := look(t, c, Query{Picture: picture(far)}); got != "miss" {
				t.Fatalf("after %s: got %q, want a miss", name, got)
			}
			if contains(c.index, b) {
				t.Fatalf("after %s: the copy is in the index, want only what was looked at", name)
			}
		}
	}
	// Even in the index it is no root.
	c.index.Add(hourOf(time.Now()), record(b))
	want(t, look(t, c, Query{Picture: picture(far)}), "miss")
	if n := client.StrLen(t.Context(), logKey(hourOf(time.Now()))).Val() + client.StrLen(t.Context(), logKey(hourOf(time.Now())-1)).Val(); n != recordSize {
		t.Errorf("got %d bytes in the logs, want the %d of one root", n, recordSize)
	}
}

func TestColours(t *testing.T) {
	c, client := setup(t)
	r := random()
	clear, green := randomHash(r), randomHash(r)
	store(t, c, coloured(clear, 128), named("clear"))
	check(t, client.Set(t.Context(), Key(green, Variant{}), `{"waste_type":"python","category":"c"}`, TTL).Err())
	c.index.Add(hourOf(time.Now()), record(green))
	load(t, c)
	want(t, look(t, c, Query{Picture: coloured(away(r, clear, 2), 150)}), "miss")
	if n := counted(t, c.metrics.vetoed); n != 1 {
		t.Errorf("got %v vetoes counted, want 1", n)
	}
	// What Python wrote cannot be compared.
	want(t, look(t, c, Query{Picture: coloured(away(r, green, 2), 150)}), "miss")
	want(t, look(t, c, Query{Picture: coloured(green, 150)}), "exact python")
	// A nearer one of other colours does not hide one of the same.
	h := randomHash(r)
	store(t, c, coloured(away(r, h, 2), 200), named("red"))
	store(t, c, coloured(away(r, h, 10), 60), named("blue"))
	load(t, c)
	want(t, look(t, c, Query{Picture: coloured(h, 62)}), "near blue 10")
	// Colours that cannot be read are not those.
	h = randomHash(r)
	check(t, client.Set(t.Context(), Key(h, Variant{}), `{"waste_type":"odd","category":"c","colour":"xyz"}`, TTL).Err())
	c.index.Add(hourOf(time.Now()), record(h))
	want(t, look(t, c, Query{Picture: picture(away(r, h, 2))}), "miss")
	want(t, look(t, c, Query{Picture: coloured(h, 1)}), "exact odd")
}

// TestDegenerate keeps analyses of pictures whose hash says too little by the
// file.
func TestDegenerate(t *testing.T) {
	c, client := setup(t)
	flat, other := picture(phash.Hash{}), picture(phash.Hash{})
	other.Digest[0] ^= 1
	r := random()
	one := randomHash(r) // one bit off being good, and near to it
	store(t, c, picture(one), named("good"))
	load(t, c)
	off := one
	off[0] ^= 1
	for _, p := range []Picture{flat, picture(off)} {
		q := Query{Picture: p}
		want(t, look(t, c, q), "miss")
		store(t, c, p, named("flat"))
		load(t, c)
		want(t, look(t, c, q), "exact flat")
		want(t, look(t, c, Query{Picture: hashOnly(p.Hash)}), "miss")
		if n := client.Exists(t.Context(), "cache:image:hash:"+p.Hash.String()).Val(); n != 0 {
			t.Error("got an entry under a hash that pictures share, want none")
		}
		if near := c.index.Near(MaxRadius, 1<<20, record(one).Hashes); len(near) != 1 {
			t.Errorf("got %v in the index, want no hash that pictures share", near)
		}
	}
	want(t, look(t, c, Query{Picture: other}), "miss")
	commands := count(client)
	want(t, look(t, c, Query{Picture: hashOnly(flat.Hash)}), "miss")
	if trips, _ := commands.take(); trips != 0 {
		t.Errorf("got %d round trips for a hash that is no key, want none", trips)
	}
	// Also put there by others it is none.
	check(t, client.Set(t.Context(), "cache:image:hash:"+off.String(), canByPython, TTL).Err())
	_, err := c.Reconcile(t.Context(), nil)
	check(t, err)
	want(t, look(t, c, Query{Picture: picture(off)}), "exact flat")
	if n := c.index.Len(); n != 1 {
		t.Errorf("got %d hashes in the index, want 1", n)
	}
}

func TestHashOnly(t *testing.T) {
	c, _ := setup(t)
	r := random()
	h := randomHash(r)
	store(t, c, picture(h), named("a"))
	load(t, c)
	want(t, look(t, c, Query{Picture: hashOnly(picture(h).Hash)}), "exact a")
	want(t, look(t, c, Query{Picture: hashOnly(picture(away(r, h, 2)).Hash)}), "miss")
}

func TestVariantsAreApart(t *testing.T) {
	c, _ := setup(t)
	r := random()
	h := randomHash(r)
	variants := []Variant{{}, {Lang: "en"}, {Model: "big"}, {Lang: "en", Model: "big"}}
	for i, v := range variants {
		for _, later := range variants[i:] {
			want(t, look(t, c, Query{Picture: picture(h), Variant: later}), "miss")
		}
		_, err := c.Store(t.Context(), picture(h), v, named(fmt.Sprint(v)))
		check(t, err)
	}
	load(t, c)
	near := picture(away(r, h, 4))
	for _, v := range variants {
		want(t, look(t, c, Query{Picture: picture(h), Variant: v}), "exact "+fmt.Sprint(v))
		want(t, look(t, c, Query{Picture: near, Variant: v}), "near "+fmt.Sprint(v)+" 4")
		want(t, look(t, c, Query{Picture: near, Variant: v}), "exact "+fmt.Sprint(v))
	}
	// That there is none in one language does not hide the others.
	h = randomHash(r)
	_, err := c.Store(t.Context(), picture(h), Variant{}, named("ko"))
	check(t, err)
	load(t, c)
	want(t, look(t, c, Query{Picture: picture(away(r, h, 4)), Variant: Variant{Lang: "en"}}), "miss")
	want(t, look(t, c, Query{Picture: picture(away(r, h, 4))}), "near ko 4")
}

func TestPromptVersions(t *testing.T) {
	c, _ := setup(t)
	r := random()
	entry := func(prompt string) Entry { e := named("e"); e.PromptVersion = prompt; return e }
	for _, tt := range []struct {
		name   string
		has    Entry
		prompt string
		any    bool
		hit    bool
	}{
		{"the same", entry("1"), "1", false, true},
		{"another", entry("1"), "2", false, false},
		{"another, all taken", entry("1"), "2", true, true},
		{"none in the entry", entry(""), "2", false, true},
		{"none asked for", entry("1"), "", false, true},
	} {
		c.cfg.AnyPrompt = tt.any
		h := randomHash(r)
		store(t, c, picture(h), tt.has)
		load(t, c)
		for kind, h := range map[string]phash.Hash{"exact e": h, "near e 6": away(r, h, 6)} {
			if !tt.hit {
				kind = "miss"
			}
			if got := look(t, c, Query{Picture: picture(h), Prompt: tt.prompt}); got != kind {
				t.Errorf("%s: got %q, want %q", tt.name, got, kind)
			}
		}
	}
	// An entry that is no answer does not hide the answer of a near one.
	h := randomHash(r)
	store(t, c, picture(h), entry("1"))
	two := entry("2")
	two.WasteType = "new"
	store(t, c, picture(away(r, h, 6)), two)
	load(t, c)
	want(t, look(t, c, Query{Picture: picture(h), Prompt: "2"}), "near new 6")
	want(t, look(t, c, Query{Picture: picture(h), Prompt: "2"}), "exact new")
}

func TestUsable(t *testing.T) {
	c, _ := setup(t)
	r := random()
	h := randomHash(r)
	store(t, c, picture(h), named("offline"))
	store(t, c, picture(away(r, h, 2)), named("offline"))
	store(t, c, picture(away(r, h, 8)), named("model"))
	load(t, c)
	online := func(e Entry) bool { return e.WasteType != "offline" }
	want(t, look(t, c, Query{Picture: picture(h), Usable: online}), "near model 8")
	stale := named("model")
	stale.Colour = picture(h).Colour.String()
	want(t, look(t, c, Query{Picture: picture(h), Usable: online, Stale: &stale})[:4], "exac") // its copy is another entry
}

// TestGoneCandidates takes away what the index holds: the next one is tried, in
// more than one batch.
func TestGoneCandidates(t *testing.T) {
	c, client := setup(t)
	c.cfg.Radius = MaxRadius
	r := random()
	h := randomHash(r)
	var gone []phash.Hash
	for range 40 {
		gone = append(gone, away(r, h, 4))
	}
	for _, g := range gone {
		store(t, c, picture(g), named("gone"))
	}
	store(t, c, picture(away(r, h, 20)), named("there"))
	load(t, c)
	for _, g := range gone {
		client.Del(t.Context(), Key(g, Variant{}))
	}
	client.Set(t.Context(), Key(gone[3], Variant{}), "damaged", time.Minute)
	commands := count(client)
	want(t, look(t, c, Query{Picture: picture(h)}), "near there 20")
	if trips, _ := commands.take(); trips != 5 {
		t.Errorf("got %d round trips, want 5: the exact one, two batches of 32, the signature, the copy", trips)
	}
	// Written again it is found again.
	store(t, c, picture(gone[0]), named("again"))
	load(t, c)
	want(t, look(t, c, Query{Picture: picture(away(r, gone[0], 2))})[:10], "near again")
}

func TestEvictedCandidateIsAMiss(t *testing.T) {
	c, client := setup(t)
	r := random()
	h := randomHash(r)
	store(t, c, picture(h), named("a"))
	load(t, c)
	check(t, client.FlushDB(t.Context()).Err())
	want(t, look(t, c, Query{Picture: picture(away(r, h, 2))}), "miss")
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("got %d keys, want none", n)
	}
}

func TestRoundTrips(t *testing.T) {
	c, client := setup(t)
	r := random()
	h := randomHash(r)
	for range 1000 {
		c.index.Add(hourOf(time.Now()), record(randomHash(r)))
	}
	store(t, c, picture(h), named("a"))
	load(t, c)
	commands := count(client)
	for _, tt := range []struct {
		name  string
		h     phash.Hash
		kind  string
		trips int
		names map[string]int
	}{
		// Of the hash and of the file.
		{"miss", randomHash(r), "miss", 1, map[string]int{"getrange": 2, "pttl": 2}},
		{"exact", h, "exact a", 1, map[string]int{"getrange": 2, "pttl": 2}},
		{"near", away(r, h, 8), "near a 8", 4, map[string]int{"getrange": 4, "pttl": 3, "eval": 1, "sadd": 1, "expire": 2, "set": 1, "publish": 1}},
	} {
		want(t, look(t, c, Query{Picture: picture(tt.h)}), tt.kind)
		trips, names := commands.take()
		if diff := cmp.Diff(tt.names, names); trips != tt.trips || diff != "" {
			t.Errorf("%s: got %d round trips, want %d; commands (-want +got):\n%s", tt.name, trips, tt.trips, diff)
		}
	}
}

// TestExpiring draws often: an entry with so long to live is to be made anew with
// the probability exp(-left/time of a computation).
func TestExpiring(t *testing.T) {
	t.Parallel()
	c := &Cache{}
	const draws = 20_000
	for _, took := range []time.Duration{firstAverage, time.Second} {
		if took != firstAverage {
			c.took.nanos.Store(int64(took))
		}
		for _, left := range []time.Duration{0, took / 4, took, 2 * took, 5 * took, time.Hour, TTL} {
			n := 0
			for range draws {
				if c.expiring(left) {
					n++
				}
			}
			p := math.Exp(-float64(left) / float64(took))
			if got, slack := float64(n)/draws, 6*math.Sqrt(p*(1-p)/draws)+1e-9; math.Abs(got-p) > slack {
				t.Errorf("%v left, %v to compute: got a share of %v, want %v ± %v", left, took, got, p, slack)
			}
		}
	}
	for range draws {
		if c.expiring(-1) || c.expiring(-2) {
			t.Fatal("an entry that stays for ever, or has gone, is to be made anew, want never")
		}
	}
}

func TestAverage(t *testing.T) {
	t.Parallel()
	var a average
	if got := a.get(); got != 3*time.Second {
		t.Errorf("got %v, want 3 s before there is one", got)
	}
	for range 100 {
		a.add(time.Second)
	}
	if got := a.get(); got < 999*time.Millisecond || got > 1001*time.Millisecond {
		t.Errorf("got %v, want 1 s", got)
	}
}

// TestLookupTellsOfTheEnd draws for an entry with a second to live; a correction
// is prolonged instead.
func TestLookupTellsOfTheEnd(t *testing.T) {
	c, client := setup(t)
	c.took.nanos.Store(int64(1000 * time.Hour)) // so that the draw is sure
	h := hash(t, good)
	key := Key(h, Variant{})
	store(t, c, picture(h), named("a"))
	client.Expire(t.Context(), key, time.Minute)
	a, err := c.Lookup(t.Context(), &Query{Picture: picture(h)})
	if err != nil || a == nil || !a.Expiring {
		t.Errorf("got %+v, %v, want an answer that is to be made anew", a, err)
	}
	lives(t, client, key, time.Minute)

	_, err = c.Correct(t.Context(), hashOnly(h), Variant{}, Correction{WasteType: new("b")}, false)
	check(t, err)
	client.Expire(t.Context(), key, time.Minute)
	a, err = c.Lookup(t.Context(), &Query{Picture: picture(h)})
	if err != nil || a == nil || a.Expiring || a.WasteType != "b" {
		t.Errorf("got %+v, %v, want the correction", a, err)
	}
	lives(t, client, key, TTL)

	client.Expire(t.Context(), key, TTL*6/10)
	want(t, look(t, c, Query{Picture: picture(h)}), "exact b")
	lives(t, client, key, TTL*6/10)
	client.Expire(t.Context(), key, TTL*4/10)
	want(t, look(t, c, Query{Picture: picture(h)}), "exact b")
	lives(t, client, key, TTL)

	// What stays for ever, as others may write it, is left to Cleanup.
	client.Set(t.Context(), key, canByPython, 0)
	if a, err := c.Lookup(t.Context(), &Query{Picture: picture(h)}); err != nil || a == nil || a.Expiring {
		t.Errorf("got %+v, %v, want an answer that is not made anew", a, err)
	}
	client.Del(t.Context(), key)
}

// BenchmarkLookup asks a real server.
func BenchmarkLookup(b *testing.B) {
	c, client := setup(b)
	r := random()
	all := make([]phash.Hash, 20_000)
	for i := range all {
		all[i] = randomHash(r)
	}
	for part := range slices.Chunk(all, 1000) {
		p := client.Pipeline()
		for _, h := range part {
			putSigned(b, p, h)
		}
		p.Append(b.Context(), logKey(hourOf(time.Now())), logOf(part...))
		p.Expire(b.Context(), logKey(hourOf(time.Now())), logTTL)
		_, err := p.Exec(b.Context())
		check(b, err)
	}
	load(b, c)
	for _, bench := range []struct {
		name string
		hash func() phash.Hash
	}{
		{"exact", func() phash.Hash { return all[r.IntN(len(all))] }},
		{"near", func() phash.Hash { return away(r, all[r.IntN(len(all))], 2+2*r.IntN(7)) }},
		{"miss", func() phash.Hash { return randomHash(r) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				got := look(b, c, Query{Picture: picture(bench.hash())})
				if !strings.HasPrefix(got, bench.name) {
					b.Fatalf("got %s, want %s", got, bench.name)
				}
			}
		})
	}
	b.Run("GET", func(b *testing.B) { // the round trip alone
		for b.Loop() {
			if err := client.Get(b.Context(), Key(randomHash(r), Variant{})).Err(); err != redis.Nil {
				b.Fatal(err)
			}
		}
	})
}
