package main

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"onceover/cache"
	"onceover/vision/eval"
)

// TestJudgedPairs counts what people have judged, and leaves it out of the page.
func TestJudgedPairs(t *testing.T) {
	t.Parallel()
	pictures := randomPhotos(rand.New(rand.NewPCG(5, 6)), 600)
	cfg := cache.DefaultConfig()
	before := simulate(t, pictures, cfg, 10_000)
	if before.Judged != nil || before.NearHits < 20 || before.Vetoed < 20 || before.Twins < 4 || before.LeftOut != 0 {
		t.Fatalf("got %d near hits, %d told apart, %d twins, want some of each", before.NearHits, before.Vetoed, before.Twins)
	}
	var judgements []eval.Judgement
	say := func(p pair, same bool) {
		judgements = append(judgements, eval.Judgement{First: p.First, Second: p.Second, FirstDigest: p.FirstDigest, SecondDigest: p.SecondDigest, Verdict: p.Verdict, Same: same, Source: "j:1"})
	}
	got := map[string]map[bool]int{pairNear: {}, pairVetoed: {}, pairTwin: {}}
	answered, wasted, gone := map[string]bool{}, map[string]bool{}, map[eval.PicturePair]bool{}
	for i, p := range before.Pairs {
		if p.Verdict == pairNear {
			answered[p.Second] = true
		}
		of := eval.PairOf(p.FirstDigest, p.SecondDigest)
		if i%2 == 0 || gone[of] {
			continue
		}
		gone[of] = true
		same := i%3 == 0
		if i%4 == 1 { // as judged in the other order of the two
			p.First, p.FirstDigest, p.Second, p.SecondDigest = p.Second, p.SecondDigest, p.First, p.FirstDigest
		}
		say(p, same)
		if i%4 == 1 {
			p = before.Pairs[i]
		}
		got[p.Verdict][same]++
		if same && p.Verdict != pairNear {
			wasted[p.Second] = true
		}
	}
	for second := range answered {
		delete(wasted, second)
	}
	say(pair{Verdict: pairNear, First: "x", FirstDigest: strings.Repeat("ab", 32), Second: pictures[0].name, SecondDigest: pictures[0].Digest.String()}, true)
	far := pair{Verdict: pairNear, First: pictures[0].name, FirstDigest: pictures[0].Digest.String()}
	for _, p := range pictures[1:] { // one that is not compared
		far.Second, far.SecondDigest = p.name, p.Digest.String()
		if !slices.ContainsFunc(before.Pairs, func(b pair) bool {
			return eval.PairOf(b.FirstDigest, b.SecondDigest) == eval.PairOf(far.FirstDigest, far.SecondDigest)
		}) {
			break
		}
	}
	say(far, true)

	s := newSimulator(cfg, 20)
	s.Judged = newJudged(judgements, 3)
	for _, p := range pictures {
		if err := s.add(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	after := s.end()
	d := after.Judged
	of := func(verdict string, wrong bool) judgedPairs {
		n, k := got[verdict][true]+got[verdict][false], got[verdict][wrong]
		return judgedPairs{n, k, eval.Wilson(k, n)}
	}
	if d.Near != of(pairNear, false) || d.Twins != of(pairTwin, true) || d.Vetoed != of(pairVetoed, true) {
		t.Errorf("got %+v, %+v, %+v, want %v judged as the same or not", d.Near, d.Twins, d.Vetoed, got)
	}
	if d.Near.Wrong == 0 || d.Twins.Wrong == 0 || d.Vetoed.Wrong == 0 || d.WastedCalls != len(wasted) || d.WastedCalls == 0 || d.WastedCalls == d.Twins.Wrong+d.Vetoed.Wrong {
		t.Errorf("got %d calls wasted, want %d; %+v", d.WastedCalls, len(wasted), d)
	}
	if d.NotCompared != 1 || len(d.Elsewhere) != 1 || d.Elsewhere[0] != (elsewhere{"x", pictures[0].name, "j:1"}) || d.Judgements != len(judgements) || d.Overruled != 3 || !d.part {
		t.Errorf("got %d not compared, elsewhere %v, %d judgements", d.NotCompared, d.Elsewhere, d.Judgements)
	}
	if after.Calls != before.Calls || after.NearHits != before.NearHits || after.Vetoed != before.Vetoed || after.Twins != before.Twins {
		t.Errorf("judgements change what the cache does: got %+v, want %+v", after.Calls, before.Calls)
	}
	r := after.report(nil)
	for i, verdict := range []string{pairNear, pairTwin, pairVetoed} {
		g, judged, open := r.Groups[i], 0, 0
		for _, p := range before.Pairs {
			switch {
			case p.Verdict != verdict:
			case gone[eval.PairOf(p.FirstDigest, p.SecondDigest)]:
				judged++
			default:
				open++
			}
		}
		if g.Verdict != verdict || g.Judged != judged || g.LeftOut+len(g.Pairs) != open || len(g.Pairs) == 0 {
			t.Errorf("%s: got %d judged and %d left out, want %d and %d", verdict, g.Judged, g.LeftOut, judged, open-len(g.Pairs))
		}
		for _, p := range g.Pairs {
			if gone[eval.PairOf(p.FirstDigest, p.SecondDigest)] {
				t.Errorf("%s and %s are shown although they were judged", p.First, p.Second)
			}
		}
	}
	if len(after.Pairs) != 20 || after.LeftOut != len(before.Pairs)-20-after.judgedBy[pairNear]-after.judgedBy[pairTwin]-after.judgedBy[pairVetoed] {
		t.Errorf("got %d pairs and %d left out of %d", len(after.Pairs), after.LeftOut, len(before.Pairs))
	}
}

// TestJudgedOnce counts a pair once that is compared as it is and turned, and once more as another verdict.
func TestJudgedOnce(t *testing.T) {
	t.Parallel()
	p := pair{Verdict: pairVetoed, FirstDigest: "a", SecondDigest: "b"}
	d := newJudged([]eval.Judgement{{FirstDigest: "b", SecondDigest: "a", Same: true}}, 0)
	for _, verdict := range []string{pairVetoed, pairVetoed, pairNear} {
		p.Verdict = verdict
		if !d.count(p, cache.Digest{1}) {
			t.Errorf("%s: the pair is not taken as judged", verdict)
		}
	}
	if d.Vetoed.Judged != 1 || d.Vetoed.Wrong != 1 || d.Near.Judged != 1 || d.Near.Wrong != 0 {
		t.Errorf("got %+v and %+v", d.Vetoed, d.Near)
	}
}

func TestJudgedFacts(t *testing.T) {
	t.Parallel()
	d := newJudged(nil, 1)
	d.Near, d.Twins, d.Vetoed = judgedPairs{Judged: 40, Wrong: 3}, judgedPairs{Judged: 1}, judgedPairs{Judged: 10, Wrong: 1}
	d.WastedCalls, d.NotCompared, d.Elsewhere = 1, 2, []elsewhere{{"a", "b\x1b[31m", "j.jsonl:3"}}
	d.end(func(string) bool { return true }, true)
	want := []string{
		"40 of 210 near hits judged: 3 were false, 7.5 % (95 %: 2.6 – 19.9 %)",
		"1 pair of equal hashes judged: 0 show the same, 0.0 % (95 %: 0.0 – 79.3 %)",
		"10 pairs that were told apart judged: 1 shows the same, 10.0 % (95 %: 1.8 – 40.4 %)",
		"1 call was wasted on a picture that shows the same as an earlier one",
		"the page begins with the likeliest mistakes: among the pairs that nobody judged there are fewer",
		"1 judgement says the opposite of an earlier one, and counts instead of it",
		"2 judgements are of pairs that this run does not compare",
		"1 judgement is of files that are not in the folder",
	}
	if diff := gocmp.Diff(want, d.facts(210)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var out strings.Builder
	if d.warn(&out); out.String() != "not in the folder: a and b [31m, judged in j.jsonl:3\n" {
		t.Errorf("got %q", out.String())
	}
	for range maxWarned + 1 {
		d.Elsewhere = append(d.Elsewhere, elsewhere{})
	}
	out.Reset()
	if d.warn(&out); strings.Count(out.String(), "\n") != maxWarned+1 || !strings.HasSuffix(out.String(), "… and 2 more judgements of other files; --json has all\n") {
		t.Errorf("got %q", out.String())
	}
	var none *judged
	if none.warn(&out); none.facts(1) != nil {
		t.Error("got facts without judgements")
	}
}
