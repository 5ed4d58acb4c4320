package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"onceover/phash"
)

// twins returns the pictures of two files, of one hash and of different colours.
func twins(h phash.Hash) (red, green Picture) {
	red, green = coloured(h, 90), coloured(h, 160)
	green.Digest = sha256.Sum256([]byte("green " + h.String()))
	return red, green
}

// TestEqualHashOtherColours has each of two pictures that only their colours tell apart have an answer of its
// own, while readers of the plain key have the one that came first.
func TestEqualHashOtherColours(t *testing.T) {
	c, client := setup(t)
	r := random()
	red, green := twins(randomHash(r))
	store(t, c, red, named("red"))
	load(t, c)
	want(t, look(t, c, Query{Picture: green}), "miss")
	if n := counted(t, c.metrics.vetoed); n != 1 {
		t.Errorf("got %v counted as told apart by their colours, want 1", n)
	}
	a, err := c.Fill(t.Context(), &Query{Picture: green}, func(context.Context) (Entry, error) { return named("green"), nil }, nil)
	if err != nil || a.Kind != Fresh || a.WasteType != "green" {
		t.Fatalf("got %+v, %v, want it asked anew", a, err)
	}
	for range 2 {
		want(t, look(t, c, Query{Picture: red}), "exact red")
		want(t, look(t, c, Query{Picture: green}), "exact green")
	}
	want(t, look(t, c, Query{Picture: hashOnly(red.Hash)}), "exact red")
	python, err := c.Get(t.Context(), Key(red.Hash, Variant{}))
	if err != nil || python == nil || python.WasteType != "red" {
		t.Errorf("got %+v, %v under the plain key, want what was there", python, err)
	}
	lives(t, client, green.fileKey(Variant{}), TTL)
	// What is kept by its file is no root; what has the hash is.
	near := coloured(away(r, red.Hash, 6), 160)
	want(t, look(t, c, Query{Picture: near}), "miss")
	near = coloured(near.Hash, 90)
	want(t, look(t, c, Query{Picture: near}), "near red 6")
	// One does not depend on the other.
	check(t, client.Del(t.Context(), Key(red.Hash, Variant{})).Err())
	want(t, look(t, c, Query{Picture: green}), "exact green")
	want(t, look(t, c, Query{Picture: red}), "miss")
	check(t, client.Del(t.Context(), green.fileKey(Variant{})).Err())
	store(t, c, green, named("green again"))
	want(t, look(t, c, Query{Picture: hashOnly(red.Hash)}), "exact green again")
	want(t, look(t, c, Query{Picture: red}), "miss")
	// Without colours, as Python writes it, an entry answers by its hash alone.
	check(t, client.Set(t.Context(), Key(red.Hash, Variant{}), canByPython, TTL).Err())
	want(t, look(t, c, Query{Picture: red}), "exact can")
}

// TestTwinsAtOnce has both looked at, in whatever process and order, and none get the answer or the fault of the other.
func TestTwinsAtOnce(t *testing.T) {
	for _, where := range []string{"one process", "two processes"} {
		for _, fault := range []error{nil, errors.New("refused")} {
			t.Run(where, func(t *testing.T) {
				c, client := setup(t)
				other := c
				if where == "two processes" {
					other, _ = join(t, client.Options().Addr)
				}
				red, green := twins(randomHash(random()))
				began, waits := make(chan struct{}), make(chan struct{})
				var wg sync.WaitGroup
				wg.Go(func() {
					a, err := c.Fill(t.Context(), &Query{Picture: red}, func(context.Context) (Entry, error) {
						close(began)
						<-waits
						return named("red"), fault
					}, nil)
					if !errors.Is(err, fault) || fault == nil && a.WasteType != "red" {
						t.Errorf("red: got %+v, %v", a, err)
					}
				})
				result(t, began)
				a, err := other.Fill(t.Context(), &Query{Picture: green}, func(context.Context) (Entry, error) {
					return named("green"), nil
				}, func() { close(waits) })
				if err != nil || a.WasteType != "green" || a.Kind != Fresh {
					t.Errorf("green: got %+v, %v, want its own", a, err)
				}
				wg.Wait()
				want(t, look(t, c, Query{Picture: green}), "exact green")
				if fault == nil {
					want(t, look(t, c, Query{Picture: red}), "exact red")
				}
			})
		}
	}
}

// TestTwinsFailTogether has the model be away for the first of many files of one hash: those that wait need not try one after another
// where any picture would fail.
func TestTwinsFailTogether(t *testing.T) {
	for _, common := range []bool{true, false} {
		t.Run(fmt.Sprint(common), func(t *testing.T) {
			c, _ := setup(t)
			h := randomHash(random())
			fault := errors.New("the model is away")
			const others = 5
			var waiting, computed atomic.Int32
			allWait := make(chan struct{})
			fill := func(n int, compute func() error) error {
				_, err := c.Fill(t.Context(), &Query{Picture: scene(h, n), AnyPicture: func(err error) bool { return common && err == fault }},
					func(context.Context) (Entry, error) { return named(fmt.Sprint(n)), compute() },
					func() {
						if waiting.Add(1) == others {
							close(allWait)
						}
					})
				return err
			}
			began := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := fill(0, func() error { close(began); <-allWait; return fault }); err != fault {
					t.Errorf("got %v, want %v", err, fault)
				}
			})
			result(t, began)
			for n := range others {
				wg.Go(func() {
					err := fill(1+n, func() error { computed.Add(1); return nil })
					if common != (err == fault) {
						t.Errorf("got %v", err)
					}
				})
			}
			wg.Wait()
			if want := map[bool]int32{true: 0, false: others}[common]; computed.Load() != want {
				t.Errorf("got %d computed, want %d", computed.Load(), want)
			}
		})
	}
}

// TestTwinOfItsOwnPlace has an entry be made anew that is kept by its file, while the picture that has the hash is asked about.
func TestTwinOfItsOwnPlace(t *testing.T) {
	for _, stale := range []bool{true, false} {
		t.Run(fmt.Sprint(stale), func(t *testing.T) {
			c, _ := setup(t)
			h := randomHash(random())
			one, twin := picture(h), scene(h, 1)
			old := named("old")
			old.PromptVersion = "old"
			store(t, c, one, old)
			store(t, c, twin, old)
			began, end := make(chan struct{}), make(chan struct{})
			first := fills(t.Context(), c, Query{Picture: one, Prompt: "new"}, func(context.Context) (Entry, error) {
				close(began)
				<-end
				return named("one"), nil
			}, nil)
			result(t, began)
			q := Query{Picture: twin, Prompt: "new"}
			if stale {
				q.Stale = must(c.own(t.Context(), Variant{}, twin))[0].entry
			}
			a := result(t, fills(t.Context(), c, q, func(context.Context) (Entry, error) { return named("twin"), nil }, nil))
			if a.err != nil || a.WasteType != "twin" || a.Kind != Fresh {
				t.Errorf("got %+v, %v, want it asked about at once", a.Answer, a.err)
			}
			close(end)
			if a := result(t, first); a.err != nil || a.WasteType != "one" {
				t.Errorf("got %+v, %v", a.Answer, a.err)
			}
		})
	}
}

// TestFilesOfOneHashAtOnce has many files of one picture come at once: one is looked at, and the others wait here, not on Redis.
func TestFilesOfOneHashAtOnce(t *testing.T) {
	c, _ := setup(t)
	h := randomHash(random())
	const files = 30
	var computed, waiting, shared atomic.Int32
	allWait := make(chan struct{})
	var wg sync.WaitGroup
	for i := range files {
		p := picture(h)
		p.Digest = sha256.Sum256([]byte{byte(i)})
		wg.Go(func() {
			a, err := c.Fill(t.Context(), &Query{Picture: p}, func(context.Context) (Entry, error) {
				computed.Add(1)
				<-allWait
				return named("one"), nil
			}, func() {
				if waiting.Add(1) == files-1 {
					close(allWait)
				}
			})
			if err != nil || a.WasteType != "one" {
				t.Errorf("got %+v, %v, want the one answer", a, err)
			} else if a.Kind == Shared {
				shared.Add(1)
			}
		})
	}
	wg.Wait()
	if computed.Load() != 1 || shared.Load() != files-1 {
		t.Errorf("got %d computations and %d shared answers, want 1 and %d", computed.Load(), shared.Load(), files-1)
	}
	if n := counted(t, c.metrics.waits); n != 0 {
		t.Errorf("got %v waits for another process, want none", n)
	}
}

// TestTwinsByHand corrects and removes the picture that is named by its file, and leaves the other alone.
func TestTwinsByHand(t *testing.T) {
	c, _ := setup(t)
	r := random()
	red, green := twins(randomHash(r))
	store(t, c, red, named("red"))
	store(t, c, green, named("green"))
	load(t, c)
	copied := coloured(away(r, red.Hash, 4), 90)
	want(t, look(t, c, Query{Picture: copied}), "near red 4")

	own, err := c.Own(t.Context(), Variant{}, red, green, Picture{})
	check(t, err)
	if own[0].Key != Key(red.Hash, Variant{}) || own[0].Stored.WasteType != "red" ||
		own[1].Key != green.fileKey(Variant{}) || own[1].Stored.WasteType != "green" || own[2] != (Owned{}) {
		t.Errorf("got %+v, want the entries of both and none", own)
	}
	name := "green by hand"
	done, err := c.Correct(t.Context(), green, Variant{}, Correction{WasteType: &name}, false)
	if err != nil || done.Key != own[1].Key || done.Copies != 0 || done.Neighbours != 0 {
		t.Errorf("got %+v, %v, want only its own entry corrected", done, err)
	}
	want(t, look(t, c, Query{Picture: green}), "exact green by hand")
	want(t, look(t, c, Query{Picture: red}), "exact red")
	want(t, look(t, c, Query{Picture: copied}), "exact red")

	got, err := c.Invalidate(t.Context(), Selection{Picture: &green, Corrected: true}, nil)
	if err != nil || got.Entries != 1 {
		t.Errorf("got %+v, %v, want one entry removed", got, err)
	}
	want(t, look(t, c, Query{Picture: green}), "miss")
	want(t, look(t, c, Query{Picture: copied}), "exact red")
	store(t, c, green, named("green"))
	if got, err := c.Invalidate(t.Context(), Selection{Picture: &red}, nil); err != nil || got.Entries != 2 {
		t.Errorf("got %+v, %v, want the entry and its copy removed", got, err)
	}
	want(t, look(t, c, Query{Picture: green}), "exact green")
}

// TestCorrectionOfAFileStays keeps to what a person said of a file whose hash was another picture's, when the hash is
// free again and somebody else writes there.
func TestCorrectionOfAFileStays(t *testing.T) {
	for name, doc := range map[string]string{"Python": canByPython, "a copy": `{"waste_type":"copy","category":"c","colour":"` + coloured(phash.Hash{}, 160).Colour.String() + `"}`} {
		t.Run(name, func(t *testing.T) {
			c, client := setup(t)
			red, green := twins(randomHash(random()))
			store(t, c, red, named("red"))
			store(t, c, green, named("green"))
			byHand := "green by hand"
			_, err := c.Correct(t.Context(), green, Variant{}, Correction{WasteType: &byHand}, false)
			check(t, err)
			check(t, client.Set(t.Context(), Key(red.Hash, Variant{}), doc, TTL).Err())
			want(t, look(t, c, Query{Picture: green}), "exact green by hand")
		})
	}
}

// TestCorrectKeepsToTheColours corrects neither the copies of a picture whose hash another one has by now, nor by a copy
// of such a picture the other one.
func TestCorrectKeepsToTheColours(t *testing.T) {
	c, client := setup(t)
	r := random()
	red, green := twins(randomHash(r))
	store(t, c, green, named("green"))
	load(t, c)
	copied := coloured(away(r, green.Hash, 4), 160)
	want(t, look(t, c, Query{Picture: copied}), "near green 4")
	check(t, client.Del(t.Context(), Key(green.Hash, Variant{})).Err())
	store(t, c, red, named("red"))
	for _, p := range []Picture{red, hashOnly(red.Hash)} {
		got, err := c.Invalidate(t.Context(), Selection{Picture: &p, DryRun: true}, nil)
		if err != nil || got.Entries != 1 {
			t.Errorf("got %+v, %v, want no copy of another picture removed", got, err)
		}
	}
	if got, err := c.Invalidate(t.Context(), Selection{Picture: &copied, DryRun: true}, nil); err != nil || got.Entries != 1 {
		t.Errorf("got %+v, %v, want only the copy removed", got, err)
	}
	byHand := "by hand"
	done, err := c.Correct(t.Context(), red, Variant{}, Correction{WasteType: &byHand}, false)
	if err != nil || done.Copies+done.Neighbours != 0 {
		t.Errorf("got %+v, %v, want nothing else corrected", done, err)
	}
	want(t, look(t, c, Query{Picture: copied}), "exact green")
	other := "the copy by hand"
	done, err = c.Correct(t.Context(), copied, Variant{}, Correction{WasteType: &other}, false)
	if err != nil || done.Copies+done.Neighbours != 0 || done.Entry.DerivedFrom != "" {
		t.Errorf("got %+v, %v, want nothing else corrected, and a picture of its own", done, err)
	}
	want(t, look(t, c, Query{Picture: red}), "exact by hand")
}

// TestCorrectOfAFreeHash leaves alone the copies of the picture that had the hash before.
func TestCorrectOfAFreeHash(t *testing.T) {
	c, client := setup(t)
	r := random()
	red, green := twins(randomHash(r))
	store(t, c, green, named("green"))
	load(t, c)
	copied := coloured(away(r, green.Hash, 4), 160)
	want(t, look(t, c, Query{Picture: copied}), "near green 4")
	check(t, client.Del(t.Context(), Key(green.Hash, Variant{})).Err())
	byHand := "by hand"
	done, err := c.Correct(t.Context(), red, Variant{}, Correction{WasteType: &byHand, Required: []string{"waste_type"}}, false)
	if err != nil || done.Copies+done.Neighbours != 0 {
		t.Errorf("got %+v, %v, want nothing else corrected", done, err)
	}
	want(t, look(t, c, Query{Picture: copied}), "exact green")
}

// TestTwinIsNear gives a picture of an equal hash the answer of a near one of its colours, and the correction of that.
func TestTwinIsNear(t *testing.T) {
	c, _ := setup(t)
	r := random()
	red, green := twins(randomHash(r))
	root := coloured(away(r, red.Hash, 4), 160)
	store(t, c, root, named("root"))
	store(t, c, red, named("red"))
	load(t, c)
	want(t, look(t, c, Query{Picture: green}), "near root 4")
	want(t, look(t, c, Query{Picture: green}), "exact root")
	byHand := "by hand"
	if _, err := c.Correct(t.Context(), root, Variant{}, Correction{WasteType: &byHand}, false); err != nil {
		t.Fatal(err)
	}
	want(t, look(t, c, Query{Picture: green}), "exact by hand")
	want(t, look(t, c, Query{Picture: red}), "exact red")
}

// TestTwinWithoutAFile can be kept nowhere, and takes nothing from the one that has the hash.
func TestTwinWithoutAFile(t *testing.T) {
	c, _ := setup(t)
	red, green := twins(randomHash(random()))
	green.Digest = Digest{}
	store(t, c, red, named("red"))
	if _, err := c.Store(t.Context(), green, Variant{}, named("green")); !errors.Is(err, errNoKey) {
		t.Errorf("got %v, want %v", err, errNoKey)
	}
	if _, err := c.Correct(t.Context(), green, Variant{}, Correction{}, false); !errors.Is(err, errNoKey) {
		t.Errorf("got %v, want %v", err, errNoKey)
	}
	want(t, look(t, c, Query{Picture: red}), "exact red")
	want(t, look(t, c, Query{Picture: green}), "miss")
}
