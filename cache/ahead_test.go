package cache

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSeenBringsTheEntry looks a file up that was seen before, and after that its entry: in one round trip, wherever the entry is. What is
// read ahead is used once.
func TestSeenBringsTheEntry(t *testing.T) {
	c, client := setup(t)
	h := randomHash(random())
	one, twin, en := picture(h), scene(h, 1), Variant{Lang: "en"}
	store(t, c, one, named("one"))
	store(t, c, twin, named("twin")) // by its file
	for _, p := range []Picture{one, twin} {
		check(t, c.Remember(t.Context(), p))
	}
	commands := count(client)
	lookup := func(p Picture, v Variant) (string, *Query) {
		t.Helper()
		known, _, ahead, err := c.Seen(t.Context(), p.Digest, v)
		check(t, err)
		q := &Query{Picture: *known, Variant: v, Ahead: ahead}
		a, err := c.Lookup(t.Context(), q)
		check(t, err)
		if a == nil {
			return "miss", q
		}
		return a.WasteType, q
	}
	_, _ = lookup(one, Variant{}) // the script is loaded
	for _, tt := range []struct {
		p    Picture
		v    Variant
		want string
	}{{one, Variant{}, "one"}, {twin, Variant{}, "twin"}, {one, en, "miss"}} {
		commands.take()
		got, _ := lookup(tt.p, tt.v)
		want(t, got, tt.want)
		if trips, names := commands.take(); trips != 1 || cmp.Diff(map[string]int{"evalsha": 1}, names) != "" {
			t.Errorf("%s: got %d round trips, %v, want one script", tt.want, trips, names)
		}
	}
	_, q := lookup(one, Variant{})
	check(t, client.Set(t.Context(), Key(h, Variant{}), canByPython, TTL).Err())
	a, err := c.Lookup(t.Context(), q)
	check(t, err)
	want(t, a.WasteType, "can")
}

// TestAhead reads an entry before it is looked up, and not another one's.
func TestAhead(t *testing.T) {
	c, client := setup(t)
	r := random()
	h, other := randomHash(r), randomHash(r)
	store(t, c, picture(h), named("one"))
	store(t, c, picture(other), named("other"))
	check(t, client.Expire(t.Context(), Key(h, Variant{}), time.Hour).Err())
	ahead := func(q Query) string {
		t.Helper()
		q.Ahead = c.Ahead(h, Variant{})
		check(t, q.Ahead.done(t))
		check(t, client.Set(t.Context(), Key(h, Variant{}), canByPython, TTL).Err()) // too late for it
		return look(t, c, q)
	}
	want(t, ahead(Query{Picture: hashOnly(h)}), "exact one")
	want(t, ahead(Query{Picture: hashOnly(other)}), "exact other")
	want(t, ahead(Query{Picture: hashOnly(h), Variant: Variant{Lang: "en"}}), "miss")
	if c.Ahead(hash(t, "ff00000000000000000000000000000000000000000000000000000000000000"), Variant{}) != nil {
		t.Error("got something of a hash that is no key")
	}
	found, err := c.Ahead(h, Variant{}).wait(t.Context())
	if check(t, err); found[0].ttl < TTL-time.Minute || found[0].entry.WasteType != "can" {
		t.Errorf("got %+v", found[0])
	}
	// What cannot be read ahead is read when it is wanted.
	check(t, client.Del(t.Context(), Key(h, Variant{})).Err())
	check(t, client.LPush(t.Context(), Key(h, Variant{}), "x").Err())
	check(t, client.Expire(t.Context(), Key(h, Variant{}), time.Hour).Err())
	want(t, look(t, c, Query{Picture: hashOnly(h), Ahead: c.Ahead(h, Variant{})}), "miss")
}

// done waits until the entry was read.
func (a *Ahead) done(t *testing.T) error {
	_, err := a.wait(t.Context())
	return err
}
