package cache

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"onceover/phash"
)

var right = Correction{WasteType: new("right"), Category: new("glass")}

// whose returns the short forms of the entries under hashes.
func whose(t testing.TB, c *Cache, hashes ...phash.Hash) []string {
	t.Helper()
	var out []string
	for _, h := range hashes {
		e, err := c.Get(context.Background(), Key(h, Variant{}))
		check(t, err)
		s := "-"
		if e != nil {
			s = e.WasteType
			if e.DerivedFrom != "" {
				s += " copied"
			}
			if e.CorrectedAt != "" {
				s += " corrected"
			}
		}
		out = append(out, s)
	}
	return out
}

func correct(t testing.TB, c *Cache, h phash.Hash, only bool) Corrected {
	t.Helper()
	done, err := c.Correct(context.Background(), hashOnly(h), Variant{}, right, only)
	check(t, err)
	return done
}

func is(t testing.TB, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestCorrect corrects a picture, its copies and its neighbours, by the hash of the
// root and by that of a copy.
func TestCorrect(t *testing.T) {
	for _, by := range []string{"root", "copy"} {
		t.Run(by, func(t *testing.T) {
			c, client := setup(t)
			c.cfg.Radius = 24
			r := random()
			root := randomHash(r)
			one, two := away(r, root, 14), away(r, root, 12)
			store(t, c, picture(root), bottle)
			load(t, c)
			want(t, look(t, c, Query{Picture: picture(one)}), "near plastic 14")
			want(t, look(t, c, Query{Picture: picture(two)}), "near plastic 12")
			same, green, far, human, python := away(r, root, 8), away(r, root, 8), away(r, root, 30), away(r, root, 8), away(r, root, 10)
			store(t, c, picture(same), named("same"))
			store(t, c, coloured(green, 180), named("green"))
			store(t, c, picture(far), named("far"))
			store(t, c, picture(human), named("human"))
			_, err := c.Correct(t.Context(), hashOnly(human), Variant{}, Correction{WasteType: new("human")}, true)
			check(t, err)
			check(t, client.Set(t.Context(), Key(python, Variant{}), canByPython, TTL).Err())
			_, err = c.Store(t.Context(), picture(root), Variant{Lang: "en"}, named("in English"))
			check(t, err)

			h := map[string]phash.Hash{"root": root, "copy": one}[by]
			done := correct(t, c, h, false)
			if done.Copies != 2 || done.Neighbours != 1 || done.Entry != *mustGet(t, c, h) {
				t.Errorf("got %+v, want 2 copies, a neighbour and the entry", done)
			}
			is(t, whose(t, c, root, one, two, same, green, far, human, python), []string{"right corrected", "right copied corrected",
				"right copied corrected", "right copied corrected", "green", "far", "human corrected", "can"}) // what Python wrote cannot be compared
			e := *mustGet(t, c, root)
			at, err := time.Parse(timeLayout, e.CorrectedAt)
			if err != nil || time.Since(at) > time.Minute || e.AnalyzedAt != e.CorrectedAt {
				t.Errorf("got %+v, want it corrected now", e)
			}
			wantEntry := bottle
			wantEntry.WasteType, wantEntry.Category, wantEntry.Model, wantEntry.PromptVersion = "right", "glass", "human", ""
			wantEntry.AnalyzedAt, wantEntry.CorrectedAt, wantEntry.Colour = e.AnalyzedAt, e.CorrectedAt, picture(root).Colour.String()
			wantEntry.File = picture(root).Digest.String()
			is(t, e, wantEntry)
			if e := mustGet(t, c, same); e.DerivedFrom != root.String() || e.Distance != 8 {
				t.Errorf("got %+v, want a copy of the root", e)
			}
			for _, h := range []phash.Hash{root, one, two, same} {
				lives(t, client, Key(h, Variant{}), TTL)
			}
			// The next lookup of a neighbour without an entry, here and elsewhere.
			other, _ := join(t, client.Options().Addr)
			load(t, other)
			next := away(r, root, 4)
			want(t, look(t, other, Query{Picture: picture(next), Prompt: "new"}), "near right 4")
			want(t, look(t, c, Query{Picture: picture(root), Variant: Variant{Lang: "en"}}), "exact in English")
			// Whatever the prompt becomes, and whatever a model says.
			want(t, look(t, c, Query{Picture: picture(root), Prompt: "new"}), "exact right")
			for _, h := range []phash.Hash{root, one, same, next} {
				kept, err := c.Store(t.Context(), picture(h), Variant{}, named("model"))
				if err != nil || kept.WasteType != "right" || mustGet(t, c, h).WasteType != "right" {
					t.Errorf("got %+v, %v, want the correction to stay", kept, err)
				}
			}
		})
	}
}

// TestUndo takes corrections back: of a picture with copies and a neighbour, and of one of which nothing was known.
func TestUndo(t *testing.T) {
	c, client := setup(t)
	c.cfg.Radius = 24
	r := random()
	root := randomHash(r)
	one, two, same, apart := away(r, root, 14), away(r, root, 12), away(r, root, 8), away(r, root, 90)
	store(t, c, picture(root), bottle)
	load(t, c)
	want(t, look(t, c, Query{Picture: picture(one)}), "near plastic 14")
	want(t, look(t, c, Query{Picture: picture(two)}), "near plastic 12")
	store(t, c, picture(same), named("same"))
	hashes := []phash.Hash{root, one, two, same}
	before := make([]Entry, len(hashes))
	for i, h := range hashes {
		before[i] = *mustGet(t, c, h)
	}
	check(t, client.PExpire(t.Context(), Key(root, Variant{}), time.Hour).Err())

	done := correct(t, c, one, false)
	is(t, whose(t, c, hashes...), []string{"right corrected", "right copied corrected", "right copied corrected", "right copied corrected"})
	load(t, c)
	next := away(r, root, 4)
	want(t, look(t, c, Query{Picture: picture(next)}), "near right 4") // it has taken the correction over
	// One is changed again: that stays.
	_, err := c.Correct(t.Context(), hashOnly(two), Variant{}, Correction{WasteType: new("again")}, true)
	check(t, err)
	// As if it were later: times are whole seconds.
	e := *mustGet(t, c, two)
	e.CorrectedAt = "2099-01-01T00:00:00"
	check(t, c.replace(t.Context(), Key(two, Variant{}), e, nil))

	n, err := c.Undo(t.Context(), done.ID)
	if err != nil || n != 3 {
		t.Errorf("got %d, %v, want 3 entries put back", n, err)
	}
	is(t, whose(t, c, root, one, two, same, next), []string{"plastic", "plastic copied", "again corrected", "same", "-"})
	for i, h := range hashes {
		if h != two {
			is(t, *mustGet(t, c, h), before[i])
		}
	}
	lives(t, client, Key(root, Variant{}), time.Hour)
	if n, err := c.Undo(t.Context(), done.ID); n != 0 || err != nil { // what was changed again may be put back once that is undone
		t.Errorf("got %d, %v the second time, want nothing put back", n, err)
	}

	alone, err := c.Correct(t.Context(), hashOnly(apart), Variant{},
		Correction{WasteType: new("w"), Feedback: new("f"), Category: new("c"), Recyclable: new(true)}, false)
	check(t, err)
	if n, err := c.Undo(t.Context(), alone.ID); err != nil || n != 1 {
		t.Errorf("got %d, %v, want one entry removed", n, err)
	}
	is(t, whose(t, c, apart), []string{"-"})
	if _, err := c.Undo(t.Context(), alone.ID); !errors.Is(err, ErrNothingToUndo) {
		t.Errorf("got %v the second time, want that there is nothing to undo", err)
	}

	// Two corrections in one second, of an entry that never runs out: each is undone by itself, the later one first.
	check(t, client.Set(t.Context(), Key(apart, Variant{}), canByPython, 0).Err())
	first, err := c.Correct(t.Context(), hashOnly(apart), Variant{}, Correction{WasteType: new("first")}, true)
	check(t, err)
	second, err := c.Correct(t.Context(), hashOnly(apart), Variant{}, Correction{WasteType: new("second")}, true)
	check(t, err)
	if n, err := c.Undo(t.Context(), first.ID); n != 0 || err != nil {
		t.Errorf("got %d, %v, want the later correction to stay", n, err)
	}
	is(t, whose(t, c, apart), []string{"second corrected"})
	for _, id := range []string{second.ID, first.ID} {
		if n, err := c.Undo(t.Context(), id); n != 1 || err != nil {
			t.Errorf("got %d, %v, want it put back", n, err)
		}
	}
	is(t, whose(t, c, apart), []string{"can"})
	if ttl := client.TTL(t.Context(), Key(apart, Variant{})).Val(); ttl != -1 {
		t.Errorf("it runs out in %v, want never, as before", ttl)
	}
	check(t, client.Del(t.Context(), Key(apart, Variant{})).Err())
}

func TestCorrectOnly(t *testing.T) {
	c, _ := setup(t)
	r := random()
	root := randomHash(r)
	one, two := away(r, root, 4), away(r, root, 6)
	store(t, c, picture(root), named("a"))
	load(t, c)
	look(t, c, Query{Picture: picture(one)})
	look(t, c, Query{Picture: picture(two)})
	if done := correct(t, c, one, true); done.Copies != 0 || done.Neighbours != 0 {
		t.Errorf("got %+v, want nothing else changed", done)
	}
	is(t, whose(t, c, root, one, two), []string{"a", "right corrected", "a copied"})
	// It is told apart, so that a correction of the others passes it by.
	_, err := c.Correct(t.Context(), hashOnly(root), Variant{}, Correction{WasteType: new("b")}, false)
	check(t, err)
	is(t, whose(t, c, root, one, two), []string{"b corrected", "right corrected", "b copied corrected"})
	// And it is a root from now on.
	load(t, c)
	has(t, c, one, true)
}

// TestCorrectOrphans has copies whose root has gone: they are still one family.
func TestCorrectOrphans(t *testing.T) {
	c, client := setup(t)
	c.cfg.Radius = 24
	r := random()
	root := randomHash(r)
	one, two := away(r, root, 14), away(r, root, 14)
	for one.Distance(two) <= 24 {
		two = away(r, root, 14)
	}
	store(t, c, picture(root), named("a"))
	load(t, c)
	look(t, c, Query{Picture: picture(one)})
	look(t, c, Query{Picture: picture(two)})
	client.Del(t.Context(), Key(root, Variant{}))
	if done := correct(t, c, one, false); done.Copies != 1 {
		t.Errorf("got %+v, want 1 copy", done)
	}
	is(t, whose(t, c, root, one, two), []string{"-", "right corrected", "right copied corrected"})
	load(t, c)
	has(t, c, one, true)
	// By either of them they are found again.
	_, err := c.Correct(t.Context(), hashOnly(two), Variant{}, Correction{WasteType: new("better")}, false)
	check(t, err)
	is(t, whose(t, c, one, two), []string{"better corrected", "better copied corrected"})
}

// TestCorrectCopiesOfOthers reaches a neighbour that is a copy of another picture.
func TestCorrectCopiesOfOthers(t *testing.T) {
	c, _ := setup(t)
	c.cfg.Radius = 24
	r := random()
	h := randomHash(r)
	between := away(r, h, 8)
	other := away(r, between, 18)
	for other.Distance(h) <= 24 {
		other = away(r, between, 18)
	}
	store(t, c, picture(other), named("other"))
	load(t, c)
	want(t, look(t, c, Query{Picture: picture(between)}), "near other 18")
	store(t, c, picture(h), named("a"))
	if done := correct(t, c, h, false); done.Copies != 0 || done.Neighbours != 1 {
		t.Errorf("got %+v, want one neighbour", done)
	}
	is(t, whose(t, c, h, between, other), []string{"right corrected", "right copied corrected", "other"})
}

func TestCorrectWithoutEntry(t *testing.T) {
	c, client := setup(t)
	r := random()
	h := randomHash(r)
	if _, err := c.Correct(t.Context(), hashOnly(h), Variant{}, right, false); !errors.Is(err, ErrIncomplete) {
		t.Errorf("got %v, want that it is incomplete", err)
	}
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("got %d keys, want none", n)
	}
	neighbour := away(r, h, 6)
	store(t, c, coloured(neighbour, 200), named("neighbour"))
	whole := Correction{WasteType: new("w"), Feedback: new("f"), Category: new("c"), Recyclable: new(false)}
	done, err := c.Correct(t.Context(), hashOnly(h), Variant{}, whole, false)
	if err != nil || done.Entry.Confidence != 1 || done.Entry.Model != Person || done.Neighbours != 0 {
		t.Errorf("got %+v, %v, want it whole", done, err)
	}
	is(t, whose(t, c, h, neighbour), []string{"w corrected", "neighbour"}) // the colours of the one are not known
	_, err = c.Correct(t.Context(), hashOnly(h), Variant{Lang: "en"}, whole, false)
	check(t, err)
	is(t, whose(t, c, neighbour), []string{"neighbour"})
	for _, flat := range []phash.Hash{{}, {1}} {
		if _, err := c.Correct(t.Context(), hashOnly(flat), Variant{}, whole, false); err == nil || !strings.Contains(err.Error(), "unrelated pictures") {
			t.Errorf("got %v, want that the hash is refused", err)
		}
	}
}

// TestCorrectKnowsColours keeps those of a picture that had no entry.
func TestCorrectKnowsColours(t *testing.T) {
	c, _ := setup(t)
	r := random()
	h := randomHash(r)
	whole := Correction{WasteType: new("w"), Feedback: new("f"), Category: new("c"), Recyclable: new(false)}
	_, err := c.Correct(t.Context(), coloured(h, 200), Variant{}, whole, false)
	check(t, err)
	load(t, c)
	want(t, look(t, c, Query{Picture: coloured(away(r, h, 4), 60)}), "miss")
	want(t, look(t, c, Query{Picture: coloured(away(r, h, 4), 200)}), "near w 4")
}

// TestCorrectByFile corrects a picture whose hash says too little.
func TestCorrectByFile(t *testing.T) {
	c, _ := setup(t)
	flat, other := picture(phash.Hash{}), picture(phash.Hash{1})
	store(t, c, flat, named("flat"))
	store(t, c, other, named("other"))
	done, err := c.Correct(t.Context(), flat, Variant{}, right, false)
	if err != nil || done.Copies != 0 || done.Neighbours != 0 {
		t.Errorf("got %+v, %v, want this picture corrected and no other", done, err)
	}
	want(t, look(t, c, Query{Picture: flat}), "exact right")
	want(t, look(t, c, Query{Picture: other}), "exact other")
}

func TestCorrectAtRadiusZero(t *testing.T) {
	c, _ := setup(t)
	c.cfg.Radius = 0
	r := random()
	h := randomHash(r)
	near := away(r, h, 2)
	store(t, c, picture(h), named("a"))
	store(t, c, picture(near), named("b"))
	correct(t, c, h, false)
	is(t, whose(t, c, h, near), []string{"right corrected", "b"})
}

// TestCorrectionWakes who waits for the entry of the picture.
func TestCorrectionWakes(t *testing.T) {
	c, client := setup(t)
	q := Query{Picture: picture(hash(t, good))}
	check(t, client.Set(t.Context(), lockPrefix+q.Key(Variant{}), "somebody's", time.Hour).Err())
	other, its := join(t, client.Options().Addr)
	sent := count(its)
	waiter := fills(t.Context(), other, q, never, nil)
	sent.asleep(t, 1)
	start := time.Now()
	_, err := c.Correct(t.Context(), hashOnly(q.Hash), Variant{}, Correction{WasteType: new("w"), Feedback: new("f"), Category: new("c"), Recyclable: new(true)}, false)
	check(t, err)
	if a := result(t, waiter); a.err != nil || a.Kind != Shared || a.WasteType != "w" {
		t.Errorf("got %+v, want the correction", a)
	}
	if took := time.Since(start); took > lease/2 {
		t.Errorf("got %v, want the waiter woken", took)
	}
}

// TestCorrectionRewrittenByPython is still one when Python has changed and dumped
// the JSON again, with spaces and all.
func TestCorrectionRewrittenByPython(t *testing.T) {
	c, client := setup(t)
	p := picture(hash(t, good))
	doc := strings.TrimSuffix(canByPython, "}") + `, "corrected_at": "2026-11-20T10:00:00"}`
	check(t, client.Set(t.Context(), p.Key(Variant{}), doc, time.Hour).Err())
	kept, err := c.Store(t.Context(), p, Variant{}, bottle)
	if err != nil || kept.WasteType != "can" {
		t.Errorf("got %+v, %v, want the correction", kept, err)
	}
	lives(t, client, p.Key(Variant{}), TTL)
}

func TestParseCorrection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		doc  string
		want Correction
		err  string // "" if it is valid
	}{
		{`{"waste_type": "a", "confidence": 0, "feedback": "", "category": "b", "recyclable": false}`,
			Correction{WasteType: new("a"), Confidence: new(0.0), Feedback: new(""), Category: new("b"), Recyclable: new(false)}, ""},
		{`{"confidence": 1}`, Correction{Confidence: new(1.0)}, ""},
		{` {"recyclable": true, "feedback": null} `, Correction{Recyclable: new(true)}, ""},
		{`{}`, Correction{}, "nothing is set"},
		{`null`, Correction{}, "nothing is set"},
		{`{"waste_type": null}`, Correction{}, "nothing is set"},
		{``, Correction{}, "expected a JSON object"},
		{`[]`, Correction{}, "expected a JSON object"},
		{`"x"`, Correction{}, "expected a JSON object"},
		{`{"merchant": "a", "lines": [1]}`, Correction{More: map[string]json.RawMessage{"merchant": []byte(`"a"`), "lines": []byte(`[1]`)}}, ""},
		{`{"merchant": null}`, Correction{}, "nothing is set"},
		{`{"model": "a"}`, Correction{}, "model"},
		{`{"corrected_at": "a"}`, Correction{}, "corrected_at"},
		{`{"confidence": "0.5"}`, Correction{}, "expected a JSON object"},
		{`{"confidence": 1.01}`, Correction{}, "expected 0 to 1"},
		{`{"confidence": -0.01}`, Correction{}, "expected 0 to 1"},
		{`{"confidence": 1e999}`, Correction{}, "expected a JSON object"},
		{`{"waste_type": ""}`, Correction{}, "is empty"},
		{`{"category": ""}`, Correction{}, "is empty"},
		{`{"confidence": 1} {}`, Correction{}, "more after"},
		{`{"confidence": 1}}`, Correction{}, "more after"},
	} {
		got, err := ParseCorrection([]byte(tt.doc))
		switch {
		case tt.err == "" && err != nil, tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%s: got %v, want %q", tt.doc, err, tt.err)
		case err == nil:
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.doc, diff)
			}
		}
	}
}

func FuzzParseCorrection(f *testing.F) {
	f.Add([]byte(`{"waste_type": "a", "confidence": 0.5}`))
	f.Add([]byte(`{"confidence": 1} {}`))
	f.Add([]byte(`{"CATEGORY": "x"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := ParseCorrection(doc)
		if err != nil {
			return
		}
		e, err := c.apply(&bottle, "2026-01-01T00:00:00")
		if err != nil || e == bottle || e.Confidence < 0 || e.Confidence > 1 || e.WasteType == "" || e.Category == "" {
			t.Fatalf("got %+v, %v, want a corrected entry", e, err)
		}
		// What is stored is what is read again.
		if again, err := marshalled(e); err != nil || *again != e {
			t.Fatalf("got %+v, %v, want %+v", again, err, e)
		}
	})
}
