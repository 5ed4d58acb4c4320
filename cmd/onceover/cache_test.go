package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"html"
	"image"
	"image/png"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/internal/testenv"
	"onceover/phash"
	"onceover/phash/verify"
	"onceover/phash/verify/verifytest"
	"onceover/vision/eval"
)

// randomPhotos are pictures of which many look like an earlier one, in the same or
// in other colours, or are the same file.
func randomPhotos(r *rand.Rand, n int) []photo {
	var out []photo
	for i := range n {
		p := photo{name: fmt.Sprintf("%04d.jpg", i)}
		binary.BigEndian.PutUint64(p.Digest[:], uint64(i+1))
		for _, bit := range r.Perm(256)[:128] {
			p.Hash[bit/64] |= 1 << (bit % 64)
		}
		for c := range p.Colour {
			p.Colour[c] = 128
		}
		if i > 0 && r.IntN(4) > 0 {
			like := out[r.IntN(i)]
			p.Hash = like.Hash
			swapBits(r, &p.Hash, r.IntN(9))
			p.Colour = like.Colour
			if r.IntN(3) == 0 {
				p.Colour[0] ^= uint8(r.IntN(32))
			}
		}
		switch {
		case r.IntN(20) == 0:
			p.Hash = phash.Hash{1 << 63} // as flat pictures have it
		case i > 0 && r.IntN(20) == 0:
			p.Picture = out[r.IntN(i)].Picture
		}
		of := p.Fingerprint
		p.View = func(context.Context) (*verify.View, error) { return verifytest.View(of.Hash, of.Colour, 0), nil }
		out = append(out, p)
	}
	return out
}

// swapBits moves h by up to 2n bits.
func swapBits(r *rand.Rand, h *phash.Hash, n int) {
	ones, zeros := n, n
	for _, i := range r.Perm(256) {
		mask := uint64(1) << (i % 64)
		switch set := h[i/64]&mask != 0; {
		case set && ones > 0:
			ones--
		case !set && zeros > 0:
			zeros--
		default:
			continue
		}
		h[i/64] ^= mask
	}
}

// simulate runs pictures in their order.
func simulate(t *testing.T, pictures []photo, cfg cache.Config, maxPairs int) *simulation {
	t.Helper()
	s := newSimulator(cfg, maxPairs)
	for _, p := range pictures {
		if err := s.add(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	return s.end()
}

// TestSimulateIsTheCache runs the same pictures through the simulation and through
// the cache on a real Redis.
func TestSimulateIsTheCache(t *testing.T) {
	t.Parallel()
	opt, err := redis.ParseURL(testenv.Redis(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	pictures := randomPhotos(rand.New(rand.NewPCG(1, 2)), 150)
	for _, radius := range []int{0, 14, 50} {
		cfg := cache.DefaultConfig()
		cfg.Radius = radius
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		c := cache.New(cfg, client, prometheus.NewRegistry(), zap.NewNop())
		calls, near := 0, map[int]int{}
		answers := map[string]string{} // by file: who was looked at, for near hits
		for _, p := range pictures {
			if err := c.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			a, err := c.Lookup(t.Context(), &cache.Query{Picture: p.Picture})
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case a == nil:
				calls++
				if _, err := c.Store(t.Context(), p.Picture, cache.Variant{}, cache.Entry{Category: "x", Feedback: p.name}); err != nil {
					t.Fatal(err)
				}
			case a.Kind == cache.Near:
				near[a.Near]++
				answers[p.name] = a.Feedback
			}
		}
		c.Close()
		s := simulate(t, pictures, cfg, 10_000)
		if s.Calls.Near != calls || s.Calls.None != len(pictures) || s.LeftOut != 0 {
			t.Errorf("radius %d: got %+v, want %d calls", radius, s.Calls, calls)
		}
		if diff := gocmp.Diff(near, s.Distances); diff != "" {
			t.Errorf("radius %d: near hits by distance (-cache +simulation):\n%s", radius, diff)
		}
		got := map[string]string{}
		for _, p := range s.Pairs {
			if p.Verdict == pairNear {
				got[p.Second] = p.First
			}
		}
		if diff := gocmp.Diff(answers, got); diff != "" {
			t.Errorf("radius %d: near pairs (-cache +simulation):\n%s", radius, diff)
		}
		if exact := simulate(t, pictures, cache.Config{IndexEntries: 1}, 0); s.Calls.Exact != exact.Calls.Near {
			t.Errorf("radius %d: got %d calls with equal hashes only, want %d", radius, s.Calls.Exact, exact.Calls.Near)
		}
		if radius == 14 && (s.NearHits == 0 || s.Vetoed == 0 || s.Twins == 0 || s.Degenerate == 0 || s.Files == s.Pictures) {
			t.Errorf("got %+v, want some of everything", s)
		}
	}
}

// TestPairsAreBounded keeps the likeliest mistakes of each verdict.
func TestPairsAreBounded(t *testing.T) {
	t.Parallel()
	run := func(most int) *simulation {
		r := rand.New(rand.NewPCG(3, 4))
		s := newSimulator(cache.DefaultConfig(), most)
		for i := range 3000 {
			groups := map[string]*pairs{pairNear: &s.near, pairVetoed: &s.vetoed, pairTwin: &s.twins}
			verdict := []string{pairNear, pairVetoed, pairVetoed, pairTwin}[r.IntN(4)]
			groups[verdict].add(pair{Verdict: verdict, Distance: 2 * r.IntN(25), Part: float64(r.IntN(50)), first: i, second: i + 1})
		}
		return s.end()
	}
	all := run(100_000)
	total := all.NearHits + all.Vetoed + all.Twins
	if len(all.Pairs) != total || total != 3000 {
		t.Fatalf("got %d pairs, want %d", len(all.Pairs), total)
	}
	for _, most := range []int{0, 1, 10, 100, total - 1} {
		s := run(most)
		if len(s.Pairs) != most || s.LeftOut != total-most {
			t.Fatalf("at most %d: got %d and %d left out of %d", most, len(s.Pairs), s.LeftOut, total)
		}
		byVerdict := map[string][]pair{}
		for _, p := range s.Pairs {
			byVerdict[p.Verdict] = append(byVerdict[p.Verdict], p)
		}
		if most >= 10 && len(byVerdict) != 3 {
			t.Errorf("at most %d: got only %v", most, slices.Collect(maps.Keys(byVerdict)))
		}
		for verdict, got := range byVerdict {
			var want []pair
			for _, p := range all.Pairs {
				if p.Verdict == verdict && len(want) < len(got) {
					want = append(want, p)
				}
			}
			for i := range got { // those of equal risk may be others
				if got[i].Part != want[i].Part || got[i].Distance != want[i].Distance {
					t.Fatalf("at most %d, %s: got pair %d with %v, want %v", most, verdict, i, got[i].Part, want[i].Part)
				}
			}
			if way := cmp.Compare(got[0].Part, got[len(got)-1].Part); verdict == pairNear && way < 0 || verdict != pairNear && way > 0 {
				t.Errorf("at most %d, %s: got %v first and %v last", most, verdict, got[0].Part, got[len(got)-1].Part)
			}
		}
	}
}

func TestPhotoOrder(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	names := func(order string) string {
		all := []photo{{name: "c", changed: at}, {name: "a", changed: at.Add(time.Second)}, {name: "b", changed: at}}
		sortPhotos(all, order)
		return all[0].name + all[1].name + all[2].name
	}
	if got := names(orderTime); got != "bca" {
		t.Errorf("by time: got %s, want bca", got)
	}
	if got := names(orderName); got != "abc" {
		t.Errorf("by name: got %s, want abc", got)
	}
}

// openFolder makes a folder of small pictures.
func openFolder(t *testing.T, names ...string) folder {
	t.Helper()
	dir := t.TempDir()
	for i, name := range names {
		m := image.NewGray(image.Rect(0, 0, 40, 30))
		r := rand.New(rand.NewPCG(uint64(i), 1))
		for p := range m.Pix {
			m.Pix[p] = uint8(r.UintN(256))
		}
		var buf bytes.Buffer
		if err := png.Encode(&buf, m); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), buf.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return folder{root, eval.Pictures{MaxBytes: 1 << 20, MaxPixels: 1 << 20}, phash.AcrossFirst}
}

// TestEachKeepsTheOrder decodes several pictures at once, and has them in the order of their files.
func TestEachKeepsTheOrder(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := openFolder(t, "a.png", "b.png", "c.png", "d.png", "e.png")
	if err := f.root.WriteFile("c.png", []byte("no picture"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, _, err := f.list(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names, steps := "", 0
	left, err := f.each(t.Context(), files, 3, func() { steps++ }, func(p photo) error { names += p.name; return nil })
	if err != nil || names != "a.pngb.pngd.pnge.png" || steps != 5 || len(left) != 1 || left[0].File != "c.png" {
		t.Errorf("got %s in %d steps, %v left, %v", names, steps, left, err)
	}
	no := errors.New("no")
	visits := 0
	if _, err := f.each(t.Context(), files, 3, func() {}, func(photo) error { visits++; return no }); !errors.Is(err, no) || visits != 1 {
		t.Errorf("got %v after %d visits, want its error after one", err, visits)
	}
}

func TestHashingCanBeInterrupted(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := openFolder(t, "a.png", "b.png", "c.png", "d.png")
	ctx, cancel := context.WithCancel(t.Context())
	files, left, err := f.list(ctx)
	if err != nil || len(files) != 4 || len(left) != 0 {
		t.Fatalf("got %d files, %v, %v", len(files), left, err)
	}
	steps := 0
	_, err = f.each(ctx, files, 1, func() { steps++; cancel() }, func(photo) error { return nil })
	if !errors.Is(err, context.Canceled) || steps > 3 {
		t.Errorf("got %v after %d files, want it to end early", err, steps)
	}
	if _, _, err := f.list(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("list: got %v, want context canceled", err)
	}
}

// TestReportEscapes writes a page about files with names of another kind.
func TestReportEscapes(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	evil := `"<script>alert(1)<script>.png`
	f := openFolder(t, evil, "gone.png", "changed.png")
	files, _, err := f.list(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sortPhotos(files, orderName)
	sim := newSimulator(cache.DefaultConfig(), 10)
	if _, err := f.each(t.Context(), files, 2, func() {}, func(p photo) error { return sim.add(t.Context(), p) }); err != nil || len(sim.pictures) != 3 {
		t.Fatalf("got %d pictures, %v", len(sim.pictures), err)
	}
	s := sim.end()
	s.Dir, s.Skipped = "</title><b>", []skipped{{"x<i>.txt", "not <u>a picture"}}
	s.NearHits, s.Vetoed = 2, 1
	s.Pairs = []pair{
		{Verdict: pairNear, Distance: 4, First: evil, Second: "gone.png", first: 0, second: 2},
		{Verdict: pairNear, Distance: 2, First: evil, Second: "changed.png", first: 0, second: 1},
	}
	if err := f.root.Remove("gone.png"); err != nil {
		t.Fatal(err)
	}
	if err := f.root.WriteFile("changed.png", []byte("GIF89a"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.HTML = filepath.Join(t.TempDir(), "report.html")
	if err := s.writeReport(t.Context(), f, 2); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(s.HTML)
	if err != nil {
		t.Fatal(err)
	}
	page := string(doc)
	script := onlyScript(t, page)
	for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch", "{{"} {
		if strings.Contains(script, bad) {
			t.Errorf("the script contains %q", bad)
		}
	}
	page = strings.Replace(page, script, "", 1)
	for _, bad := range []string{"<i>", "<u>", "<b>&", "</title><b>", "ZgotmplZ", "http://", "https://", "style=", "onload"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	for text, want := range map[string]int{
		`<img src="data:image/jpeg;base64,`: 2, "no picture": 2, "&lt;script&gt;": 16, "data-first=\"&#34;&lt;script&gt;": 2, "default-src &#39;none&#39;": 1,
		"no such file": 1, "1 more are left out": 1,
	} {
		if got := strings.Count(page, text); got != want {
			t.Errorf("the page contains %q %d times, want %d", text, got, want)
		}
	}
	if info, err := os.Stat(s.HTML); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a page for its owner alone", info.Mode(), err)
	}
	// Interrupted, it leaves nothing behind and the old page as it was.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.writeReport(ctx, f, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context canceled", err)
	}
	left, err := os.ReadDir(filepath.Dir(s.HTML))
	if again, _ := os.ReadFile(s.HTML); err != nil || len(left) != 1 || !bytes.Equal(again, doc) {
		t.Errorf("got %v, %v, want only the old page", left, err)
	}
}

// onlyScript returns the script of a page, which has no other one and allows no other one.
func onlyScript(t *testing.T, page string) string {
	t.Helper()
	_, script, _ := strings.Cut(page, "<script>")
	script, _, _ = strings.Cut(script, "</script>")
	if script != reportScript || strings.Count(strings.ToLower(page), "<script") != 1 {
		t.Errorf("got %d scripts, and %d bytes in the first one", strings.Count(page, "<script"), len(script))
	}
	digest := sha256.Sum256([]byte(script))
	policy, _, _ := strings.Cut(page[strings.Index(page, "Content-Security-Policy"):], ">")
	policy = html.UnescapeString(policy)
	if want := "; script-src 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'; require-trusted-types-for 'script'; trusted-types 'none'\""; !strings.HasSuffix(policy, want) ||
		!strings.Contains(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") || strings.Count(policy, "script-src") != 1 {
		t.Errorf("got %s, want %s", policy, want)
	}
	return script
}

// TestPlot draws hours without jobs as gaps, and fits any number of hours.
func TestPlot(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 0, 0, 0, time.UTC)
	statsOf := func(hours int, jobs func(i int) (hits, missed int64)) *cacheStats {
		s := &cacheStats{}
		for i := range hours {
			hits, missed := jobs(i)
			s.Hours = append(s.Hours, cache.Hour{Hour: now.Add(time.Duration(i-hours+1) * time.Hour), Exact: hits, Missed: missed})
		}
		return s
	}
	drawn := statsOf(24, func(i int) (int64, int64) {
		if i%6 == 0 {
			return 7, 3
		}
		return 0, 0
	}).plot(80)
	for line := range strings.Lines(drawn) {
		label, graph, _ := strings.Cut(line, "┤")
		if strings.TrimSpace(label) == "0" && strings.TrimSpace(graph) != "" {
			t.Errorf("hours without a job are drawn as 0 %%:\n%s", drawn)
		}
	}
	if got := strings.Count(drawn, "╶"); got != 3 { // the first begins at the axis
		t.Errorf("got %d beginnings, want 3 and the first hour:\n%s", got, drawn)
	}
	for _, hours := range []int{1, 2, 23, 24, 25, 48, 100, 167, 168} {
		for _, width := range []int{0, 40, 80, 200} {
			drawn := statsOf(hours, func(i int) (int64, int64) { return int64(i), int64(hours - i) }).plot(width)
			if !strings.Contains(drawn, "100 ") || !strings.HasSuffix(drawn, "now") {
				t.Errorf("%d hours on %d columns:\n%s", hours, width, drawn)
			}
			for line := range strings.Lines(drawn) {
				if n := len([]rune(strings.TrimRight(line, "\n"))); n > max(width, 66) {
					t.Errorf("%d hours on %d columns: got a line of %d", hours, width, n)
				}
			}
		}
	}
}

func TestCacheFigures(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		number(0):                    "0",
		number(999):                  "999",
		number(1_000):                "1,000",
		number(-1_234_567):           "-1,234,567",
		usd(0):                       "0.00 USD",
		usd(1_500):                   "0.00150 USD",
		usd(14_900):                  "0.0149 USD",
		usd(12_345_678_900):          "12,345.68 USD",
		percent(1, 3):                "33.3 %",
		percent(1, 0):                "-",
		ttl(-1):                      "never; cleanup.cache gives it 7 days",
		ttl(50 * time.Hour):          "in 2d 2h",
		ttl(90 * time.Minute):        "in 1h 30m",
		ttl(90 * time.Second):        "in 1m30s",
		count(1, "entry", "entries"): "1 entry",
		moment("yesterday"):          "yesterday",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
