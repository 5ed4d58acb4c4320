package cache

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/phash"
)

func TestParseTag(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text string
		want Tag
		ok   bool
	}{
		{"model=gpt", Tag{"model", "gpt"}, true},
		{"prompt=0a1b", Tag{"prompt", "0a1b"}, true},
		{"category=a=b c", Tag{"category", "a=b c"}, true},
		{"", Tag{}, false},
		{"model", Tag{}, false},
		{"model=", Tag{}, false},
		{"=x", Tag{}, false},
		{"waste_type=x", Tag{}, false},
		{"Model=x", Tag{}, false},
	} {
		got, err := ParseTag(tt.text)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q: got %v, %v, want %v, valid %v", tt.text, got, err, tt.want, tt.ok)
		}
		if err == nil && got.String() != tt.text {
			t.Errorf("got %q, want %q", got, tt.text)
		}
		if err != nil && !strings.Contains(err.Error(), "model, prompt, category") {
			t.Errorf("%q: got %v, want what is expected", tt.text, err)
		}
	}
}

func TestTagSets(t *testing.T) {
	c, client := setup(t)
	k := ticking(c)
	h := hash(t, good)
	store(t, c, picture(h), bottle)
	_, err := c.Store(t.Context(), picture(h), Variant{Lang: "en"}, named("x"))
	check(t, err)
	store(t, c, picture(phash.Hash{}), named("flat"))
	hour := strconv.FormatInt(k.at.Unix()/3600, 10)
	for set, want := range map[string][]string{
		"model=m": {"hash:" + good}, "prompt=0a1b2c3d": {"hash:" + good}, "category=plastic_bottle": {"hash:" + good},
		"category=c": {"digest:" + picture(phash.Hash{}).Digest.String() + ":analysis", "hash:" + good + ":lang=en"},
	} {
		key := "cache:tag:" + hour + ":" + set
		got := client.SMembers(t.Context(), key).Val()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", key, got, want)
		}
		lives(t, client, key, TTL+time.Hour)
	}
	if keys := client.Keys(t.Context(), "cache:tag:*").Val(); len(keys) != 4 {
		t.Errorf("got sets %v, want 4: nothing is tagged with what it has not", keys)
	}
}

// entriesThere returns the names of the entries that are there.
func entriesThere(t testing.TB, c *Cache) []string {
	t.Helper()
	var names []string
	check(t, c.each(t.Context(), entries, nil, nil, func(found []item) error {
		for _, f := range found {
			names = append(names, f.entry.WasteType)
		}
		return nil
	}))
	slices.Sort(names)
	return names
}

// TestInvalidate selects among the same entries in many ways.
func TestInvalidate(t *testing.T) {
	now := time.Now().UTC()
	of := func(name, model, category string, age time.Duration) Entry {
		return Entry{WasteType: name, Model: model, Category: category, PromptVersion: "p", AnalyzedAt: now.Add(-age).Format(timeLayout)}
	}
	for _, tt := range []struct {
		name string
		s    Selection
		left []string // of a, its copy, b, c, corrected, flat
		want Invalidated
	}{
		{"model", Selection{Tags: []Tag{{"model", "m1"}}}, []string{"b", "corrected", "flat"}, Invalidated{Entries: 3}},
		{"category", Selection{Tags: []Tag{{"category", "glass"}}}, []string{"a", "a", "c", "corrected"}, Invalidated{Entries: 2, Corrected: 1}},
		{"both", Selection{Tags: []Tag{{"model", "m1"}, {"category", "glass"}}}, []string{"a", "a", "b", "c", "corrected", "flat"}, Invalidated{}},
		{"both, other order", Selection{Tags: []Tag{{"category", "paper"}, {"model", "m1"}}}, []string{"b", "corrected", "flat"}, Invalidated{Entries: 3}},
		{"prompt", Selection{Tags: []Tag{{"prompt", "p"}}}, []string{"corrected"}, Invalidated{Entries: 5}},
		{"prompt, only counted", Selection{Tags: []Tag{{"prompt", "p"}}, DryRun: true}, []string{"a", "a", "b", "c", "corrected", "flat"}, Invalidated{Entries: 5}},
		{"unknown", Selection{Tags: []Tag{{"model", "m9"}}}, []string{"a", "a", "b", "c", "corrected", "flat"}, Invalidated{}},
		{"corrected too", Selection{Tags: []Tag{{"category", "glass"}}, Corrected: true}, []string{"a", "a", "c"}, Invalidated{Entries: 3}},
		{"by scan", Selection{Tags: []Tag{{"category", "glass"}}, Scan: true}, []string{"a", "a", "c", "corrected"}, Invalidated{Entries: 2, Corrected: 1}},
		{"age", Selection{OlderThan: 2 * time.Hour}, []string{"b", "corrected", "flat"}, Invalidated{Entries: 3}},
		{"age of hours", Selection{OlderThan: 30 * time.Minute}, []string{"corrected"}, Invalidated{Entries: 5}},
		{"age and tag", Selection{OlderThan: 30 * time.Minute, Tags: []Tag{{"model", "m2"}}}, []string{"a", "a", "c", "corrected"}, Invalidated{Entries: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := setup(t)
			r := random()
			a := randomHash(r)
			store(t, c, picture(a), of("a", "m1", "paper", 3*time.Hour))
			load(t, c)
			want(t, look(t, c, Query{Picture: picture(away(r, a, 4))}), "near a 4")
			store(t, c, picture(randomHash(r)), of("b", "m2", "glass", time.Hour))
			_, err := c.Store(t.Context(), picture(randomHash(r)), Variant{Lang: "en"}, of("c", "m1", "paper", 3*time.Hour))
			check(t, err)
			h := randomHash(r)
			store(t, c, picture(h), of("x", "m1", "glass", 3*time.Hour))
			_, err = c.Correct(t.Context(), hashOnly(h), Variant{}, Correction{WasteType: new("corrected")}, false)
			check(t, err)
			store(t, c, picture(phash.Hash{}), of("flat", "m2", "glass", time.Hour))
			steps := 0
			got, err := c.Invalidate(t.Context(), tt.s, func(seen int) { steps = seen })
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
			if left := entriesThere(t, c); !slices.Equal(left, tt.left) {
				t.Errorf("got %v left, want %v", left, tt.left)
			}
			if tt.want.Entries > 0 && steps == 0 {
				t.Error("got no step, want them told")
			}
		})
	}
}

func TestInvalidateNothing(t *testing.T) {
	c, _ := setup(t)
	store(t, c, picture(hash(t, good)), bottle)
	for _, s := range []Selection{{}, {Scan: true}, {Corrected: true}, {OlderThan: -time.Hour}} {
		if got, err := c.Invalidate(t.Context(), s, nil); err == nil || got != (Invalidated{}) {
			t.Errorf("%+v: got %+v, %v, want an error", s, got, err)
		}
	}
	if left := entriesThere(t, c); len(left) != 1 {
		t.Errorf("got %v left, want all", left)
	}
}

// TestInvalidateHash removes a picture with its copies and its root, whichever of
// them is named, and what is near without being one of them stays.
func TestInvalidateHash(t *testing.T) {
	for _, by := range []string{"root", "copy"} {
		t.Run(by, func(t *testing.T) {
			c, _ := setup(t)
			r := random()
			root := randomHash(r)
			one, two := away(r, root, 14), away(r, root, 12)
			store(t, c, picture(root), named("a"))
			_, err := c.Store(t.Context(), picture(root), Variant{Lang: "en"}, named("a in English"))
			check(t, err)
			load(t, c)
			want(t, look(t, c, Query{Picture: picture(one)}), "near a 14")
			want(t, look(t, c, Query{Picture: picture(two)}), "near a 12")
			store(t, c, picture(away(r, root, 6)), named("another"))
			h := map[string]phash.Hash{"root": root, "copy": one}[by]
			got, err := c.Invalidate(t.Context(), Selection{Picture: new(hashOnly(h))}, nil)
			if err != nil || got.Entries != 4 {
				t.Errorf("got %+v, %v, want 4 entries", got, err)
			}
			if left := entriesThere(t, c); !slices.Equal(left, []string{"another"}) {
				t.Errorf("got %v left, want the other one", left)
			}
			want(t, look(t, c, Query{Picture: picture(root), Variant: Variant{Lang: "en"}}), "miss")
		})
	}
	c, _ := setup(t)
	if got, err := c.Invalidate(t.Context(), Selection{Picture: new(hashOnly(hash(t, good)))}, nil); err != nil || got != (Invalidated{}) {
		t.Errorf("got %+v, %v, want nothing", got, err)
	}
	if _, err := c.Invalidate(t.Context(), Selection{Picture: new(hashOnly(phash.Hash{}))}, nil); !errors.Is(err, errNoKey) {
		t.Errorf("got %v, want %v", err, errNoKey)
	}
	// By its file it is one of its own.
	flat, other := picture(phash.Hash{}), picture(phash.Hash{1})
	store(t, c, flat, named("flat"))
	_, err := c.Store(t.Context(), flat, Variant{Lang: "en"}, named("flat in English"))
	check(t, err)
	store(t, c, other, named("other"))
	if got, err := c.Invalidate(t.Context(), Selection{Picture: &flat}, nil); err != nil || got.Entries != 2 {
		t.Errorf("got %+v, %v, want both entries of the file", got, err)
	}
	want(t, look(t, c, Query{Picture: flat}), "miss")
	want(t, look(t, c, Query{Picture: other}), "exact other")
}

// TestInvalidateStaleTags leaves an entry that was rewritten since it was tagged.
func TestInvalidateStaleTags(t *testing.T) {
	c, client := setup(t)
	h := hash(t, good)
	old := bottle
	old.Category = "wrong"
	store(t, c, picture(h), old)
	store(t, c, picture(h), bottle)
	gone := randomHash(random())
	store(t, c, picture(gone), old)
	client.Del(t.Context(), Key(gone, Variant{}))
	if got, err := c.Invalidate(t.Context(), Selection{Tags: []Tag{{"category", "wrong"}}}, nil); err != nil || got != (Invalidated{}) {
		t.Errorf("got %+v, %v, want nothing: it is of another category now", got, err)
	}
	mustGet(t, c, h)
}

// TestInvalidateOverDays finds entries that were tagged in any of the hours they
// live, by a clock ahead of ours too; and without tags by a scan.
func TestInvalidateOverDays(t *testing.T) {
	c, client := setup(t)
	k := ticking(c)
	start := k.at
	all := randomHashes(700) // more than a step
	for i, h := range all {
		k.at = start.Add(time.Duration(i%8) * 24 * time.Hour)
		store(t, c, picture(h), bottle)
	}
	k.at = start.Add(7*24*time.Hour - time.Minute)
	tag := Selection{Tags: []Tag{{"model", "m"}}, DryRun: true}
	if got, err := c.Invalidate(t.Context(), tag, nil); err != nil || got.Entries != len(all) {
		t.Errorf("got %+v, %v, want %d", got, err, len(all))
	}
	for keys := client.Scan(t.Context(), 0, "cache:tag:*", 1000).Iterator(); keys.Next(t.Context()); {
		client.Del(t.Context(), keys.Val())
	}
	if got, err := c.Invalidate(t.Context(), tag, nil); err != nil || got.Entries != 0 {
		t.Errorf("tags evicted: got %+v, %v, want none found", got, err)
	}
	tag.Scan = true
	if got, err := c.Invalidate(t.Context(), tag, nil); err != nil || got.Entries != len(all) {
		t.Errorf("by scan: got %+v, %v, want %d", got, err, len(all))
	}
	tag.DryRun = false
	if got, err := c.Invalidate(t.Context(), tag, nil); err != nil || got.Entries != len(all) {
		t.Errorf("got %+v, %v, want %d", got, err, len(all))
	}
	if left := entriesThere(t, c); len(left) != 0 {
		t.Errorf("got %d left, want none", len(left))
	}
}

// TestInvalidatedIsAMiss asks the next process.
func TestInvalidatedIsAMiss(t *testing.T) {
	c, client := setup(t)
	other, _ := join(t, client.Options().Addr)
	r := random()
	h := randomHash(r)
	store(t, c, picture(h), bottle)
	load(t, other)
	_, err := c.Invalidate(t.Context(), Selection{Tags: []Tag{{"model", "m"}}}, nil)
	check(t, err)
	want(t, look(t, other, Query{Picture: picture(h)}), "miss")
	want(t, look(t, other, Query{Picture: picture(away(r, h, 6))}), "miss")
}

// TestInvalidateByScanFindsPython finds what nobody has tagged yet.
func TestInvalidateByScanFindsPython(t *testing.T) {
	c, client := setup(t)
	for i, h := range randomHashes(3) {
		doc := strings.Replace(canByPython, "2026-11-20T10:00:00", []string{"2020-01-01T00:00:00", "2020-01-01T00:00:00.123456", "yesterday"}[i], 1)
		check(t, client.Set(t.Context(), Key(h, Variant{}), doc, TTL).Err())
	}
	check(t, client.Set(t.Context(), "cache:image:hash:x", "damaged", TTL).Err())
	if got, err := c.Invalidate(t.Context(), Selection{OlderThan: time.Hour}, nil); err != nil || got.Entries != 2 {
		t.Errorf("got %+v, %v, want the two whose age is known", got, err)
	}
	if got, err := c.Invalidate(t.Context(), Selection{Tags: []Tag{{"category", "metal"}}, Scan: true}, nil); err != nil || got.Entries != 1 {
		t.Errorf("got %+v, %v, want the third", got, err)
	}
	if n, err := client.Exists(t.Context(), "cache:image:hash:x").Result(); n != 1 || err != nil && err != redis.Nil {
		t.Errorf("got %d, %v, want what is no entry left", n, err)
	}
}

// FuzzTag reads what people type.
func FuzzTag(f *testing.F) {
	f.Add("model=x")
	f.Add("category==")
	f.Fuzz(func(t *testing.T, s string) {
		tag, err := ParseTag(s)
		if err == nil && (tag.String() != s || tag.Value == "" || !slices.Contains(TagNames, tag.Name)) {
			t.Fatalf("got %+v, want what %q says", tag, s)
		}
		if err != nil && tag != (Tag{}) {
			t.Fatal(fmt.Errorf("got %+v and %w", tag, err))
		}
	})
}
