package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/phash"
	"onceover/phash/verify"
	"onceover/phash/verify/verifytest"
)

// scene returns the file of a gray picture of a hash, which shows something else than those of other scenes.
func scene(h phash.Hash, scene int) Picture {
	p := picture(h)
	p.Digest = sha256.Sum256(fmt.Append(nil, h, scene))
	p.View = func(context.Context) (*verify.View, error) { return verifytest.View(p.Hash, p.Colour, scene), nil }
	return p
}

// byHand is what a person says of everything.
func byHand(what string) Correction {
	return Correction{WasteType: &what, Required: []string{"waste_type"}}
}

// TestFamilyOfAHashThatIsAnothers corrects and removes a copy whose root's hash is another gray picture's by now, and that picture.
func TestFamilyOfAHashThatIsAnothers(t *testing.T) {
	for _, by := range []string{"copy", "other"} {
		t.Run(by, func(t *testing.T) {
			c, client := setup(t)
			r := random()
			h := randomHash(r)
			root, copied, other := picture(h), picture(away(r, h, 4)), scene(h, 1)
			store(t, c, root, named("root"))
			load(t, c)
			want(t, look(t, c, Query{Picture: copied}), "near root 4")
			check(t, client.Del(t.Context(), Key(h, Variant{})).Err())
			store(t, c, other, named("other"))
			want(t, look(t, c, Query{Picture: other}), "exact other")
			who, alone, is := copied, other, "exact other"
			if by == "other" {
				who, alone, is = other, copied, "exact root"
			}
			if got, err := c.Invalidate(t.Context(), Selection{Picture: &who, DryRun: true}, nil); err != nil || got.Entries != 1 {
				t.Errorf("got %+v, %v, want its own entry removed", got, err)
			}
			if done, err := c.Correct(t.Context(), who, Variant{}, byHand("by hand"), false); err != nil || done.Copies+done.Neighbours != 0 {
				t.Errorf("got %+v, %v, want its own entry corrected", done, err)
			}
			want(t, look(t, c, Query{Picture: alone}), is)
			want(t, look(t, c, Query{Picture: who}), "exact by hand")
		})
	}
}

// TestInvalidateLeavesTheTwin removes a picture that is kept by its file, with or without an entry, and not the one that has its hash.
func TestInvalidateLeavesTheTwin(t *testing.T) {
	c, _ := setup(t)
	r := random()
	h := randomHash(r)
	one, twin, copied := picture(h), scene(h, 1), picture(away(r, h, 4))
	store(t, c, one, named("one"))
	store(t, c, twin, named("twin"))
	load(t, c)
	want(t, look(t, c, Query{Picture: copied}), "near one 4")
	_, err := c.Correct(t.Context(), one, Variant{}, byHand("by hand"), false)
	check(t, err)
	for _, entries := range []int{1, 0} {
		if got, err := c.Invalidate(t.Context(), Selection{Picture: &twin, Corrected: true}, nil); err != nil || got.Entries != entries {
			t.Errorf("got %+v, %v, want %d entries removed", got, err, entries)
		}
		want(t, look(t, c, Query{Picture: one}), "exact by hand")
		want(t, look(t, c, Query{Picture: copied}), "exact by hand")
	}
	if got, err := c.Invalidate(t.Context(), Selection{Picture: &one, Corrected: true}, nil); err != nil || got.Entries != 2 {
		t.Errorf("got %+v, %v, want it and its copy removed", got, err)
	}
}

// TestNoDriftByEqualHash has a file with the hash of a copy, which shows what the copy shows and not what that is a copy of: one cell
// is lighter each time.
func TestNoDriftByEqualHash(t *testing.T) {
	c, _ := setup(t)
	r := random()
	h := randomHash(r)
	lighter := func(h phash.Hash, by uint8) Picture {
		p := picture(h)
		p.Digest = sha256.Sum256(fmt.Append(nil, h, "lighter", by))
		p.View = func(context.Context) (*verify.View, error) {
			s := verifytest.View(h, p.Colour, 0).Signature()
			s.Luma[1000] += by
			return s.View(), nil
		}
		return p
	}
	root, copied := lighter(h, 0), lighter(away(r, h, 4), 1)
	next := lighter(copied.Hash, 2)
	store(t, c, root, named("root"))
	load(t, c)
	want(t, look(t, c, Query{Picture: next}), "miss")
	want(t, look(t, c, Query{Picture: copied}), "near root 4")
	view, err := next.View(t.Context())
	check(t, err)
	of, err := copied.signature(t.Context())
	check(t, err)
	if r := verify.Compare(view, of, verify.Options{}); r.Reason != verify.Same {
		t.Fatalf("got %+v, want this test's copy to show the same", r)
	}
	want(t, look(t, c, Query{Picture: next}), "miss")
}

// meanwhile does something between the moment in which a place is chosen and that in which an entry is written there.
type meanwhile struct {
	once sync.Once
	do   func()
}

func (m *meanwhile) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (m *meanwhile) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (m *meanwhile) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if strings.HasPrefix(cmd.Name(), "eval") && len(cmds) > 2 {
				m.once.Do(m.do)
			}
		}
		return next(ctx, cmds)
	}
}

// TestCorrectionOfATwinMeanwhile has a person correct another picture of an equal hash at the last moment: the job has its own answer,
// which is kept by its file.
func TestCorrectionOfATwinMeanwhile(t *testing.T) {
	c, client := setup(t)
	elsewhere, _ := join(t, client.Options().Addr)
	h := randomHash(random())
	one, twin := picture(h), scene(h, 1)
	client.AddHook(&meanwhile{do: func() {
		if _, err := elsewhere.Correct(context.Background(), one, Variant{}, byHand("by hand"), false); err != nil {
			t.Error(err)
		}
	}})
	a, err := c.Fill(t.Context(), &Query{Picture: twin}, func(context.Context) (Entry, error) { return named("twin"), nil }, nil)
	if err != nil || a.WasteType != "twin" {
		t.Errorf("got %+v, %v, want its own answer", a, err)
	}
	want(t, look(t, c, Query{Picture: twin}), "exact twin")
	want(t, look(t, c, Query{Picture: one}), "exact by hand")
}

// TestCopyReplacesNothing has a model asked about another picture of the hash that a near copy is about to take.
func TestCopyReplacesNothing(t *testing.T) {
	c, client := setup(t)
	elsewhere, _ := join(t, client.Options().Addr)
	r := random()
	root := picture(randomHash(r))
	store(t, c, root, named("root"))
	load(t, c)
	h := away(r, root.Hash, 10)
	copied, twin := picture(h), scene(h, 1)
	client.AddHook(&meanwhile{do: func() { store(t, elsewhere, twin, named("twin")) }})
	want(t, look(t, c, Query{Picture: copied}), "near root 10")
	want(t, look(t, c, Query{Picture: twin}), "exact twin")
	want(t, look(t, c, Query{Picture: copied}), "exact root") // by its file
}

// TestLostSignature has what is kept of a picture evicted: its own file is found, and other files of the hash are looked at once. A
// person's answer stays its file's, and is no other one's.
func TestLostSignature(t *testing.T) {
	c, client := setup(t)
	h := randomHash(random())
	one := picture(h)
	file := func(n int) Picture { p := picture(h); p.Digest = sha256.Sum256([]byte{byte(n)}); return p }
	calls := 0
	ask := func(p Picture) string {
		a, err := c.Fill(t.Context(), &Query{Picture: p}, func(context.Context) (Entry, error) { calls++; return named("asked"), nil }, nil)
		check(t, err)
		return a.WasteType
	}
	evict := func() { check(t, client.Del(t.Context(), signatureKey(one.Digest.String())).Err()) }
	store(t, c, one, named("one"))
	evict()
	want(t, look(t, c, Query{Picture: one}), "exact one")
	for n := range 3 {
		want(t, ask(file(n)), "asked")
	}
	if calls != 1 {
		t.Errorf("got %d calls, want 1: what was looked at has the hash from then on", calls)
	}
	one = file(0)
	_, err := c.Correct(t.Context(), one, Variant{}, byHand("by hand"), false)
	check(t, err)
	evict()
	for n := range 3 {
		want(t, ask(file(10+n)), "asked")
		want(t, ask(one), "by hand")
	}
}

// TestCorrectionOfFewerFields has answers get a field that a person has not spoken of: the model is asked about it once.
func TestCorrectionOfFewerFields(t *testing.T) {
	c, client := setup(t)
	p := picture(randomHash(random()))
	store(t, c, p, named("one"))
	_, err := c.Correct(t.Context(), p, Variant{}, byHand("by hand"), false)
	check(t, err)
	check(t, client.Expire(t.Context(), signatureKey(p.Digest.String()), time.Hour).Err())
	calls := 0
	for range 3 {
		q := &Query{Picture: p, Usable: func(e Entry) bool { return e.Has("brand") }}
		a, err := c.Lookup(t.Context(), q)
		check(t, err)
		if a == nil {
			a, err = c.Fill(t.Context(), q, func(context.Context) (Entry, error) {
				calls++
				e := named("by a model")
				e.More = `{"brand":"b"}`
				return e, nil
			}, nil)
			check(t, err)
		}
		if a.WasteType != "by hand" || a.More != `{"brand":"b"}` || a.CorrectedAt == "" {
			t.Errorf("got %+v, want what the person said, and of the model what the person did not", a)
		}
	}
	if calls != 1 {
		t.Errorf("got %d calls, want 1", calls)
	}
	lives(t, client, signatureKey(p.Digest.String()), TTL)
}

// TestSecondCorrection corrects a copy that a twin's hash has made be kept by its file, twice: both times its copies follow.
func TestSecondCorrection(t *testing.T) {
	c, client := setup(t)
	r := random()
	root := picture(randomHash(r))
	copied, sibling := picture(away(r, root.Hash, 4)), picture(away(r, root.Hash, 6))
	twin := scene(copied.Hash, 1)
	store(t, c, twin, named("twin"))
	store(t, c, root, named("root"))
	load(t, c)
	want(t, look(t, c, Query{Picture: copied}), "near root 4")
	want(t, look(t, c, Query{Picture: sibling}), "near root 6")
	check(t, client.Del(t.Context(), Key(root.Hash, Variant{})).Err())
	for _, what := range []string{"a mistake", "right"} {
		_, err := c.Correct(t.Context(), copied, Variant{}, byHand(what), false)
		check(t, err)
		want(t, look(t, c, Query{Picture: copied}), "exact "+what)
		want(t, look(t, c, Query{Picture: sibling}), "exact "+what)
		want(t, look(t, c, Query{Picture: twin}), "exact twin")
	}
}

// TestLikeACopy has another file of a copy's picture be compared once.
func TestLikeACopy(t *testing.T) {
	c, _ := setup(t)
	r := random()
	root := picture(randomHash(r))
	copied := picture(away(r, root.Hash, 4))
	again := picture(copied.Hash)
	again.Digest = sha256.Sum256([]byte("again"))
	store(t, c, root, named("root"))
	load(t, c)
	want(t, look(t, c, Query{Picture: copied}), "near root 4")
	a, err := c.Lookup(t.Context(), &Query{Picture: again})
	check(t, err)
	check(t, c.Remember(t.Context(), Picture{Digest: again.Digest, Fingerprint: again.Fingerprint, Like: a.Like}))
	known, _, _, err := c.Seen(t.Context(), again.Digest, Variant{})
	check(t, err)
	known.View = func(context.Context) (*verify.View, error) { return nil, errors.New("compared once more") }
	want(t, look(t, c, Query{Picture: *known}), "exact root")
}

// TestPoorIsNoAnswer has a picture with little in it looked at first, and one with more contrast after it.
func TestPoorIsNoAnswer(t *testing.T) {
	c, _ := setup(t)
	r := random()
	h := randomHash(r)
	contrast := func(h phash.Hash, gain float64) Picture {
		p := picture(h)
		p.Digest = sha256.Sum256(fmt.Append(nil, h, gain))
		p.View = func(context.Context) (*verify.View, error) {
			s := verifytest.View(h, p.Colour, 0).Signature()
			for i, v := range s.Luma {
				s.Luma[i] = uint8(128 + gain*(float64(v)-128))
			}
			return s.View(), nil
		}
		return p
	}
	gain := 1.0
	for ; !must(contrast(h, gain).View(t.Context())).Signature().Poor(); gain *= 0.95 {
	}
	for _, tt := range []struct {
		gain float64
		want string
	}{{gain, "miss"}, {1.3 * gain, "near first 4"}} {
		first := contrast(randomHash(r), tt.gain)
		store(t, c, first, named("first"))
		load(t, c)
		want(t, look(t, c, Query{Picture: contrast(away(r, first.Hash, 4), 1.5*gain)}), tt.want)
	}
}

// TestManyTwinsAtOnce has many pictures of one hash come at once. The first has the hash, and all others are asked about side by side.
func TestManyTwinsAtOnce(t *testing.T) {
	c, _ := setup(t)
	h := randomHash(random())
	const twins = 8
	first := make(chan struct{})
	var wg sync.WaitGroup
	var at atomic.Int32
	all := make(chan struct{})
	fill := func(n int, compute func()) {
		a, err := c.Fill(t.Context(), &Query{Picture: scene(h, n)}, func(context.Context) (Entry, error) {
			compute()
			return named(fmt.Sprint(n)), nil
		}, nil)
		if err != nil || a.WasteType != fmt.Sprint(n) {
			t.Errorf("%d: got %+v, %v, want its own answer", n, a, err)
		}
	}
	began := make(chan struct{})
	wg.Go(func() { fill(0, func() { close(began); <-first }) })
	<-began
	for n := 1; n < twins; n++ {
		wg.Go(func() {
			fill(n, func() {
				if at.Add(1) == twins-1 {
					close(all)
				}
				select {
				case <-all:
				case <-time.After(20 * time.Second):
					t.Errorf("%d: got %d asked about at once, want all %d", n, at.Load(), twins-1)
				}
			})
		})
	}
	close(first)
	wg.Wait()
}

// TestDenseIndex has far more pictures within the radius than are read: those are found that are nearest.
func TestDenseIndex(t *testing.T) {
	t.Parallel()
	r := random()
	h := randomHash(r)
	x := NewIndex(1 << 20)
	var all []phash.Hash
	for i := range 20_000 {
		all = append(all, moved(r, h, 3+r.IntN(20)))
		x.Add(int64(i/5000), record(all[i]))
	}
	got := x.Near(MaxRadius, 64, record(h).Hashes)
	last := got[len(got)-1].Distance
	if len(got) < 64 {
		t.Fatalf("got %d, want 64 at least", len(got))
	}
	if want := len(brute(all, h, last)); len(got) != want {
		t.Errorf("got %d up to %d bits, want all %d", len(got), last, want)
	}
	if fewer := len(brute(all, h, last-1)); fewer >= 64 {
		t.Errorf("got pictures at %d bits, want none: there are %d nearer ones", last, fewer)
	}
}

// TestInvalidateLooksAtEachVariant removes a picture's entries where its hash is another one's in one language and its own in another.
// What a person has corrected stays, with all that it is compared by.
func TestInvalidateLooksAtEachVariant(t *testing.T) {
	c, _ := setup(t)
	h := randomHash(random())
	one, twin, en := picture(h), scene(h, 1), Variant{Lang: "en"}
	storeIn := func(p Picture, v Variant, name string) {
		_, err := c.Store(t.Context(), p, v, named(name))
		check(t, err)
	}
	store(t, c, one, named("one"))
	storeIn(twin, Variant{}, "twin")
	storeIn(twin, en, "twin in English")
	if got, err := c.Invalidate(t.Context(), Selection{Picture: &twin}, nil); err != nil || got.Entries != 2 {
		t.Errorf("got %+v, %v, want both of its entries removed", got, err)
	}
	want(t, look(t, c, Query{Picture: twin, Variant: en}), "miss")
	storeIn(one, en, "one in English")
	_, err := c.Correct(t.Context(), one, Variant{}, byHand("by hand"), false)
	check(t, err)
	if got, err := c.Invalidate(t.Context(), Selection{Picture: &one}, nil); err != nil || got != (Invalidated{Entries: 1, Corrected: 1}) {
		t.Errorf("got %+v, %v, want one removed and the correction left", got, err)
	}
	want(t, look(t, c, Query{Picture: one}), "exact by hand")
	want(t, look(t, c, Query{Picture: twin}), "miss")
}

// TestCopiesOfARootThatAnotherFileReplaced removes them with it, although nothing is kept of the first file.
func TestCopiesOfARootThatAnotherFileReplaced(t *testing.T) {
	c, client := setup(t)
	r := random()
	one := picture(randomHash(r))
	two, copied := picture(one.Hash), picture(away(r, one.Hash, 4))
	two.Digest = sha256.Sum256([]byte("two"))
	store(t, c, one, named("old"))
	load(t, c)
	want(t, look(t, c, Query{Picture: copied}), "near old 4")
	check(t, client.Del(t.Context(), Key(one.Hash, Variant{}), signatureKey(one.Digest.String())).Err())
	store(t, c, two, named("new"))
	if got, err := c.Invalidate(t.Context(), Selection{Picture: &two}, nil); err != nil || got.Entries != 2 {
		t.Errorf("got %+v, %v, want the root and its copy removed", got, err)
	}
}

// TestLostSignatureOfACorrection has a picture of other colours come: it has its own answer, and replaces no correction.
func TestLostSignatureOfACorrection(t *testing.T) {
	c, client := setup(t)
	h := randomHash(random())
	one, red := picture(h), coloured(h, 30)
	store(t, c, one, named("one"))
	_, err := c.Correct(t.Context(), one, Variant{}, byHand("by hand"), false)
	check(t, err)
	check(t, client.Del(t.Context(), signatureKey(one.Digest.String())).Err())
	a, err := c.Fill(t.Context(), &Query{Picture: red}, func(context.Context) (Entry, error) { return named("red"), nil }, nil)
	if err != nil || a.WasteType != "red" {
		t.Errorf("got %+v, %v, want its own answer", a, err)
	}
	want(t, look(t, c, Query{Picture: red}), "exact red")
	_, err = c.Correct(t.Context(), red, Variant{}, byHand("red by hand"), false)
	check(t, err)
	want(t, look(t, c, Query{Picture: one}), "exact by hand")
	want(t, look(t, c, Query{Picture: red}), "exact red by hand")
}

// TestCorrectedCopyIsStillCompared has what a copy was made from run out long before the copy, which a person has corrected.
func TestCorrectedCopyIsStillCompared(t *testing.T) {
	c, client := setup(t)
	r := random()
	root := picture(randomHash(r))
	copied := picture(away(r, root.Hash, 4))
	twin := scene(copied.Hash, 1)
	store(t, c, root, named("root"))
	load(t, c)
	want(t, look(t, c, Query{Picture: copied}), "near root 4")
	_, err := c.Correct(t.Context(), copied, Variant{}, byHand("by hand"), false)
	check(t, err)
	want(t, look(t, c, Query{Picture: twin}), "miss")
	check(t, client.Del(t.Context(), signatureKey(root.Digest.String())).Err())
	want(t, look(t, c, Query{Picture: twin}), "miss")
	want(t, look(t, c, Query{Picture: copied}), "exact by hand")
}

// TestWhatAFileIsLikeIsNoChain has a file be known to show what another one shows, whose entry is a copy of a third one's by now.
func TestWhatAFileIsLikeIsNoChain(t *testing.T) {
	c, client := setup(t)
	r := random()
	first := picture(randomHash(r))
	like := scene(first.Hash, 1) // so that a comparison would tell
	like.Like = first.Digest
	store(t, c, first, named("first"))
	want(t, look(t, c, Query{Picture: like}), "exact first")
	check(t, client.Del(t.Context(), Key(first.Hash, Variant{})).Err())
	third := picture(away(r, first.Hash, 4))
	store(t, c, third, named("third"))
	load(t, c)
	want(t, look(t, c, Query{Picture: first}), "near third 4")
	want(t, look(t, c, Query{Picture: like}), "miss")
}

// TestDeadNeighbours has many pictures in the index whose entries have gone, nearer than one that is there.
func TestDeadNeighbours(t *testing.T) {
	c, client := setup(t)
	r := random()
	h := randomHash(r)
	store(t, c, picture(away(r, h, 8)), named("root"))
	var gone []phash.Hash
	for range 70 {
		gone = append(gone, away(r, h, 4))
		store(t, c, picture(gone[len(gone)-1]), named("gone"))
	}
	load(t, c)
	for _, g := range gone {
		check(t, client.Del(t.Context(), Key(g, Variant{})).Err())
	}
	want(t, look(t, c, Query{Picture: picture(h)}), "near root 8")
}

// TestAnswerGoesWhereItsTurnWas renews the entry of a hash for a file whose crop the picture is, as details of the picture said, although
// what is kept of it would not.
func TestAnswerGoesWhereItsTurnWas(t *testing.T) {
	c, _ := setup(t)
	h := randomHash(random())
	one := picture(h)
	old := named("old")
	old.PromptVersion = "old"
	store(t, c, one, old)
	again := picture(h)
	again.Digest = sha256.Sum256([]byte("again"))
	a, err := c.Fill(t.Context(), &Query{Picture: again, Prompt: "new"}, func(context.Context) (Entry, error) {
		// Whatever a comparison would say by now.
		check(t, c.client.Set(context.Background(), signatureKey(one.Digest.String()), must(scene(h, 1).View(context.Background())).Signature().String(), TTL).Err())
		e := named("new")
		e.PromptVersion = "new"
		return e, nil
	}, nil)
	if err != nil || a.WasteType != "new" {
		t.Fatalf("got %+v, %v", a, err)
	}
	want(t, mustGet(t, c, h).WasteType, "new")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
