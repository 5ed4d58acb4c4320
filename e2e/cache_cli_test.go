package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/internal/testenv"
	"onceover/phash"
	"onceover/phash/verify"
	"onceover/phash/verify/verifytest"
	"onceover/vision/prompt"
)

// cacheCLI is a cache with a few pictures, and the program beside it.
type cacheCLI struct {
	*bundle
	cache *cache.Cache
	dir   string
}

// newCacheCLI needs no broker: the workers are played by the package cache.
func newCacheCLI(t *testing.T) *cacheCLI {
	t.Helper()
	t.Parallel()
	b := &bundle{t: t, redis: testenv.Redis(t)}
	b.env = append(os.Environ(), "ONCEOVER_BROKER_URL=amqp://127.0.0.1:1//", "ONCEOVER_REDIS_URL="+b.redis.URL())
	c := cache.New(cache.DefaultConfig(), b.db(1), prometheus.NewRegistry(), zap.NewNop())
	t.Cleanup(c.Close)
	return &cacheCLI{b, c, copyPictures(t, "bottle.jpg", "can.jpg", "flat.png")}
}

// run runs "onceover cache" and wants an exit code and a text.
func (b *cacheCLI) run(want string, wantCode int, args ...string) string {
	b.t.Helper()
	return b.runOn("", want, wantCode, args...)
}

func (b *cacheCLI) runOn(stdin, want string, wantCode int, args ...string) string {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), program, append([]string{"cache"}, args...)...)
	cmd.Env, cmd.Dir, cmd.Stdin = b.env, b.dir, strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != wantCode || !strings.Contains(out.String()+errs.String(), want) {
		b.t.Fatalf("cache %s: %v: got exit code %d, %q, %q; want %d with %q", strings.Join(args, " "), err, code, out.String(), errs.String(), wantCode, want)
	}
	return out.String()
}

// into runs a command that prints JSON.
func into[T any](b *cacheCLI, wantCode int, args ...string) T {
	b.t.Helper()
	var v T
	out := b.run("", wantCode, args...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		b.t.Fatalf("cache %s: %v in %s", strings.Join(args, " "), err, out)
	}
	return v
}

// picture is what a worker knows of a sample.
func (b *cacheCLI) picture(name string) cache.Picture {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	f, err := phash.Of(data, phash.AcrossFirst)
	if err != nil {
		b.t.Fatal(err)
	}
	return seen(cache.Picture{Digest: sha256.Sum256(data), Fingerprint: f})
}

// seen is a picture of whose shapes nothing is known but that they are those of all others.
func seen(p cache.Picture) cache.Picture {
	of := p.Fingerprint
	p.View = func(context.Context) (*verify.View, error) { return verifytest.View(of.Hash, of.Colour, 0), nil }
	return p
}

// moved is a picture whose hash is some bits away, an even number, after the first
// ones and zeros.
func moved(p cache.Picture, bits, from int) cache.Picture {
	old := p.Hash
	for _, set := range []bool{true, false} {
		left, skip := bits/2, from
		for i := 0; left > 0; i++ {
			mask := uint64(1) << (i % 64)
			if (old[i/64]&mask != 0) != set {
				continue
			}
			if skip > 0 {
				skip--
				continue
			}
			p.Hash[i/64] ^= mask
			left--
		}
	}
	p.Digest[0] ^= byte(bits)
	return seen(p)
}

// prompt is the program's own prompt version.
func promptVersion() string { return prompt.Builtin().Find(prompt.Analysis, "ko").Version }

func analysis(category string) cache.Entry {
	return cache.Entry{
		WasteType: "plastic", Confidence: 0.75, Feedback: "라벨을 떼세요.", Category: category, Recyclable: true,
		AnalyzedAt: time.Now().UTC().Add(-3 * time.Hour).Format("2006-01-02T15:04:05"), Model: "test-model", PromptVersion: promptVersion(),
		Origin: cache.Origin{CostMicroUSD: 1500},
	}
}

// answered does what a worker does with a picture, and returns its kind.
func (b *cacheCLI) answered(p cache.Picture, category string) cache.Kind {
	b.t.Helper()
	ctx := b.t.Context()
	if err := b.cache.Load(ctx); err != nil {
		b.t.Fatal(err)
	}
	a, err := b.cache.Lookup(ctx, &cache.Query{Picture: p})
	if err == nil && a == nil {
		a = &cache.Answer{Kind: cache.Fresh}
		a.Entry, err = b.cache.Store(ctx, p, cache.Variant{}, analysis(category))
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.cache.Record(p, *a)
	return a.Kind
}

type cachedDoc struct {
	Key, PHash, Digest string
	TTLSeconds         *int `json:"ttl_seconds"`
	Entry              *cache.Entry
}

// TestCacheCLI goes the way of an operator who is told that an answer is wrong.
func TestCacheCLI(t *testing.T) {
	b := newCacheCLI(t)
	ctx := t.Context()
	bottle, can, flat := b.picture("bottle.jpg"), b.picture("can.jpg"), b.picture("flat.png")
	b.run("no job in the last 24 hours", 0, "stats")
	b.run("nothing is cached for bottle.jpg", 4, "get", "bottle.jpg")
	if doc := into[cachedDoc](b, 4, "get", "bottle.jpg", "--json"); doc.Entry != nil || doc.PHash != bottle.Hash.String() {
		t.Errorf("get --json: got %+v, want no entry", doc)
	}
	b.run("none: the model would be asked", 0, "inspect", "bottle.jpg")
	b.run("0 entries", 0, "reindex")

	// A day's work: three pictures are looked at, one looks like the bottle.
	like := moved(bottle, 4, 0)
	other := moved(bottle, 6, 20)
	other.Colour[0] ^= 0x7f
	other = seen(other)
	var kinds []cache.Kind
	for _, p := range []cache.Picture{bottle, bottle, like, like, other, flat, flat} {
		kinds = append(kinds, b.answered(p, "plastic_bottle"))
	}
	if got, want := fmt.Sprint(kinds), "[miss exact near exact miss miss exact]"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	old := analysis("plastic_bottle")
	old.PromptVersion = "0ld"
	if _, err := b.cache.Store(ctx, moved(bottle, 10, 40), cache.Variant{}, old); err != nil {
		t.Fatal(err)
	}
	if err := b.cache.Flush(ctx); err != nil {
		t.Fatal(err)
	}

	stats := into[struct {
		Total struct {
			Jobs, Exact, Near, Shared, Miss int
			HitRate                         float64 `json:"hit_rate"`
			Saved                           int     `json:"saved_microusd"`
			Spent                           int     `json:"spent_microusd"`
			Calls                           int     `json:"saved_calls"`
		}
		Hours []struct{ Exact, Miss int }
		Days  []struct{ Unique int }
		Top   []struct {
			Picture, Category string
			Hits              int
		}
		Index   struct{ Entries, Bytes int }
		Entries int
	}](b, 0, "stats", "--json", "--top", "3", "--hours", "3")
	if got := stats.Total; got.Jobs != 7 || got.Exact != 3 || got.Near != 1 || got.Miss != 3 || got.Calls != 4 || got.Saved != 6000 || got.Spent != 4500 || got.HitRate < .57 || got.HitRate > .58 {
		t.Errorf("stats: got %+v", got)
	}
	top := map[string]string{}
	for _, hot := range stats.Top {
		top[hot.Picture] = hot.Category
	}
	if len(stats.Hours) != 3 || len(top) != 2 || stats.Top[0].Picture != bottle.Hash.String() || stats.Top[0].Hits != 3 || top[flat.Digest.String()] != "plastic_bottle" ||
		stats.Index.Entries != 3 || stats.Entries == 0 {
		t.Errorf("stats: got %+v", stats)
	}
	text := b.run("calls saved           4   57.1 %", 0, "stats")
	for _, want := range []string{"money saved  0.00600 USD", "100 ┤", " now", flat.Digest.String()} {
		if !strings.Contains(text, want) {
			t.Errorf("stats: got %s, want %q in it", text, want)
		}
	}

	// An entry by its file, the standard input, its hash, and the digest of its file.
	text = b.run("category     plastic_bottle", 0, "get", "bottle.jpg")
	if !strings.Contains(text, "by           test-model, prompt version "+promptVersion()) || !strings.Contains(text, "runs out     in 6d 23h") {
		t.Errorf("get: got %s", text)
	}
	data, err := os.ReadFile(filepath.Join(b.dir, "flat.png"))
	if err != nil {
		t.Fatal(err)
	}
	b.runOn(string(data), "category     plastic_bottle", 0, "get", "-")
	b.run("copy of      "+bottle.Hash.String()+", 4 bits away", 0, "get", like.Hash.String())
	for _, name := range []string{"flat.png", flat.Digest.String()} {
		doc := into[cachedDoc](b, 0, "get", "--json", name)
		if doc.Entry == nil || doc.Digest != flat.Digest.String() || doc.TTLSeconds == nil || *doc.TTLSeconds < 600_000 || *doc.TTLSeconds > 604_800 {
			t.Errorf("get %s: got %+v", name, doc)
		}
	}
	b.run("nothing is cached", 4, "get", "bottle.jpg", "--lang", "en")
	b.run("plastic_bottle", 0, "get", "bottle.jpg", "--lang", "ko") // the workers' own
	b.run("it can be no key", 4, "get", flat.Hash.String())
	b.run("expected a picture's file, 64 hex digits", 2, "get", "nothing.jpg")

	// Why a picture would be answered as it is.
	b.inspectNeighbours(bottle, like)

	// A person says what it is: so it is for all that look the same.
	b.run("--json is empty", 2, "set", "bottle.jpg")
	b.run("there is no field \"shade\"", 2, "set", "bottle.jpg", "--json", `{"shade": "green"}`)
	b.run("there is no entry to correct", 1, "set", "can.jpg", "--json", `{"category": "캔"}`)
	b.run("this hash says too little", 1, "set", flat.Hash.String(), "--json", `{"category": "종이"}`)
	var done cache.Corrected
	out := b.runOn(`{"category": "유리병", "waste_type": "유리병"}`, "", 0, "set", like.Hash.String(), "--json", "-", "--print-json")
	if err := json.Unmarshal([]byte(out), &done); err != nil || done.Copies != 1 || done.Neighbours != 1 || done.Entry.Category != "유리병" || done.Entry.Feedback != "라벨을 떼세요." {
		t.Errorf("set --print-json: got %+v, %v, want one copy and one neighbour", done, err)
	}
	b.run("no model's answer replaces it", 0, "get", "bottle.jpg")
	b.run("category     plastic_bottle", 0, "get", other.Hash.String()) // other colours
	correction := filepath.Join(b.dir, "correction.json")
	if err := os.WriteFile(correction, []byte(`{"waste_type": "철캔", "feedback": "…", "category": "캔", "recyclable": false}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.run("and 0 other entries", 0, "set", "can.jpg", "--json", "@"+correction)
	b.run("told apart", 0, "set", "bottle.jpg", "--only", "--json", `{"category": "고철"}`)
	b.run("category     유리병", 0, "get", like.Hash.String())
	b.run("category     캔", 0, "get", can.Hash.String())

	// What is wrong goes.
	b.run("nothing is chosen", 2, "invalidate", "--yes")
	b.run("expected NAME=VALUE", 2, "invalidate", "--tag", "colour=green", "--yes")
	b.run("--hash is empty", 2, "invalidate", "--hash", "", "--yes")
	b.run("expected more than 0", 2, "invalidate", "--older-than", "-1h", "--yes")
	b.run("expected --yes", 2, "invalidate", "--tag", "category=plastic_bottle")
	if n := b.invalidate("--tag", "category=plastic_bottle", "--dry-run"); n != (invalidated{2, 0, true}) {
		t.Errorf("invalidate --dry-run: got %+v, want 2 entries", n)
	}
	if n := b.invalidate("--tag", "category=plastic_bottle", "--tag", "model=nobody", "--yes"); n != (invalidated{}) {
		t.Errorf("invalidate of two tags: got %+v, want nothing", n)
	}
	b.run("2 cached analyses invalidated", 0, "invalidate", "--tag", "category=plastic_bottle", "--yes")
	b.run("nothing is cached", 4, "get", other.Hash.String())
	b.run("is left, as people have corrected", 0, "invalidate", "--hash", "can.jpg", "--yes")
	if n := b.invalidate("--hash", "can.jpg", "--yes", "--corrected"); n != (invalidated{1, 0, false}) {
		t.Errorf("invalidate --hash: got %+v, want 1 entry", n)
	}
	b.run("nothing is cached", 4, "get", "can.jpg")
	if n := b.invalidate("--older-than", "1h", "--yes", "--scan"); n.Entries != 0 || n.Corrected != 0 {
		t.Errorf("invalidate --older-than 1h: got %+v, want nothing, as corrections are new", n)
	}

	// An entry of a Python service, and a record of nothing.
	db := b.db(1)
	theirs := moved(can, 30, 0).Hash
	if err := db.Set(ctx, cache.Key(theirs, cache.Variant{}), `{"waste_type": "metal", "category": "can", "analyzed_at": "2026-01-01T00:00:00"}`, cache.TTL).Err(); err != nil {
		t.Fatal(err)
	}
	lost := fmt.Sprintf("phash:log:2:%d", time.Now().Unix()/3600-5)
	if err := db.Set(ctx, lost, strings.Repeat("x", 256), cache.TTL).Err(); err != nil {
		t.Fatal(err)
	}
	if n := into[cache.Reindexed](b, 0, "reindex", "--json"); n.Added != 1 || n.Removed != 2 {
		t.Errorf("reindex: got %+v, want 1 added and 2 removed", n)
	}
	b.run("a Python service", 0, "get", theirs.String())
	b.run("1 cached analysis invalidated", 0, "invalidate", "--older-than", "24h", "--yes")
	b.run("0 added to the index", 0, "reindex")

	b.redis.Stop()
	b.run("(cache-url) does not answer", 1, "stats")
}

type invalidated struct {
	Entries, Corrected int
	DryRun             bool `json:"dry_run"`
}

func (b *cacheCLI) invalidate(args ...string) invalidated {
	b.t.Helper()
	return into[invalidated](b, 0, append([]string{"invalidate", "--json"}, args...)...)
}

// inspectNeighbours looks at the bottle, with one in other colours at 6 bits and one
// of an old prompt at 10, and at a hash that is 2 bits farther from all. Copies are
// nobody's neighbours.
func (b *cacheCLI) inspectNeighbours(bottle, like cache.Picture) {
	b.t.Helper()
	type doc struct {
		Name, Answer, Format, Colour string
		PopCount                     int
		CanBeKey                     bool `json:"can_be_key"`
		Width                        int
		Entry                        *cache.Entry
		Neighbours                   []struct {
			PHash, Verdict, Reason string
			Distance               int
			Entry                  *cache.Entry
		}
	}
	verdicts := func(d doc) string {
		var out []string
		for _, n := range d.Neighbours {
			out = append(out, fmt.Sprintf("%d %s", n.Distance, n.Verdict))
			if (n.Verdict == string(cache.Differs)) != (n.Reason != "") {
				b.t.Errorf("got reason %q of a neighbour that %s", n.Reason, n.Verdict)
			}
		}
		return strings.Join(out, ", ")
	}
	d := into[doc](b, 0, "inspect", "--json", "bottle.jpg")
	if d.Answer != "exact" || d.Format != "jpeg" || d.Width == 0 || d.PopCount != 128 || !d.CanBeKey || d.Entry == nil || d.Colour != bottle.Colour.String() {
		b.t.Errorf("inspect bottle.jpg: got %+v", d)
	}
	if got, want := verdicts(d), "6 differs, 10 unusable"; got != want {
		b.t.Errorf("inspect bottle.jpg: got neighbours %s, want %s", got, want)
	}
	// By a hash alone there is nothing to compare.
	new := moved(bottle, 2, 60)
	if d = into[doc](b, 0, "inspect", "--json", new.Hash.String()); d.Answer != "unknown" || verdicts(d) != "2 unknown, 8 unknown, 12 unusable" {
		b.t.Errorf("inspect a new hash: got %s, %s", d.Answer, verdicts(d))
	}
	if d = into[doc](b, 0, "inspect", "--json", like.Hash.String(), "--radius", "4", "--cache-radius", "2"); d.Answer != "exact" || verdicts(d) != "4 too_far" {
		b.t.Errorf("inspect by the hash of an entry: got %s, %s", d.Answer, verdicts(d))
	}
	if d = into[doc](b, 0, "inspect", "--json", new.Hash.String(), "--radius", "0"); d.Answer != "unknown" || len(d.Neighbours) != 0 {
		b.t.Errorf("inspect without neighbours: got %s, %s", d.Answer, verdicts(d))
	}
	text := b.run("its own entry", 0, "inspect", "bottle.jpg")
	if !strings.Contains(text, "2 neighbours within 60 bits") || !strings.Contains(text, "unusable") {
		b.t.Errorf("inspect: got %s", text)
	}
	if text = b.run("too little to be a key", 0, "inspect", "flat.png"); strings.Contains(text, "neighbours within") {
		b.t.Errorf("inspect of a flat picture: got %s", text)
	}
	b.run("expected 0 to 60", 2, "inspect", "bottle.jpg", "--radius", "61")
}
