package cache

import (
	"context"
	"crypto/sha256"
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
	c, client := setup(t)
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
	for _, p := range []Picture{one, copied, twin} {
		if n := client.Exists(t.Context(), signatureKey(p.Digest.String())).Val(); n != 0 {
			t.Errorf("the signature of %v is still there", p.Hash)
		}
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

// TestLostSignature has what is kept of a picture evicted: its own file is found, other files of the hash are looked at once, and a
// person's answer stays.
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
	_, err := c.Correct(t.Context(), one, Variant{}, byHand("by hand"), false)
	check(t, err)
	evict()
	for n := range 3 {
		want(t, ask(file(10+n)), "by hand")
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
