package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/phash"
	"onceover/phash/verify"
	"onceover/phash/verify/verifytest"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const good = "d339859858ce338dd339859858ce338d2cc67a67a731cc722cc67a67a731cc72" // popcount 128

func hash(t testing.TB, s string) phash.Hash {
	t.Helper()
	h, err := phash.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// setup returns a cache on a Redis of its own, which at the end of the test must
// hold no key that stays for ever.
func setup(t testing.TB) (*Cache, *redis.Client) {
	t.Helper()
	c, client, _ := setupServer(t)
	t.Cleanup(func() { allExpire(t, client) })
	return c, client
}

// setupServer is setup for tests that stop the server.
func setupServer(t testing.TB, args ...string) (*Cache, *redis.Client, *testenv.RedisServer) {
	t.Helper()
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
	server := testenv.Redis(t, args...)
	c, client := join(t, server.Addr())
	return c, client, server
}

// join returns another process's cache on a server.
func join(t testing.TB, addr string) (*Cache, *redis.Client) {
	t.Helper()
	opt, err := redisretry.Options("redis://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	c := newOn(client)
	t.Cleanup(func() { c.Close(); client.Close() })
	return c, client
}

func newOn(client redis.UniversalClient) *Cache {
	return New(DefaultConfig(), client, prometheus.NewRegistry(), zap.NewNop())
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// allExpire fails the test for every key without a TTL.
func allExpire(t testing.TB, client *redis.Client) {
	t.Helper()
	ctx := context.Background()
	for keys := client.Scan(ctx, 0, "*", 1000).Iterator(); keys.Next(ctx); {
		if ttl := client.TTL(ctx, keys.Val()).Val(); ttl == -1 {
			t.Errorf("%s stays for ever, want a TTL", keys.Val())
		}
	}
}

// lives fails the test unless a key has about this TTL.
func lives(t testing.TB, client *redis.Client, key string, want time.Duration) {
	t.Helper()
	if got := client.TTL(context.Background(), key).Val(); got > want || got < want-time.Minute {
		t.Errorf("%s: got TTL %v, want %v", key, got, want)
	}
}

var bottle = Entry{
	WasteType: "plastic", Confidence: 0.93, Feedback: "라벨을 떼고 <b>헹궈서</b> 버리세요", Category: "plastic_bottle",
	Recyclable: true, AnalyzedAt: "2026-11-21T00:44:25", Model: "m", PromptVersion: "0a1b2c3d",
}

var can = Entry{WasteType: "can", Confidence: 1, Feedback: "찌그러뜨려", Category: "metal", Recyclable: true, AnalyzedAt: "2026-11-20T10:00:00"}

// canByPython is can as json.dumps writes it.
const canByPython = `{"waste_type": "can", "confidence": 1.0, "feedback": "\ucc0c\uadf8\ub7ec\ub728\ub824", "category": "metal", "recyclable": true, "analyzed_at": "2026-11-20T10:00:00"}`

// grayColour is the base64 of 128 bytes 0x80.
var grayColour = strings.Repeat("gICA", 42) + "gIA"

// picture returns one of a gray picture's files.
func picture(h phash.Hash) Picture { return coloured(h, 128) }

// hashOnly returns a picture of which only the hash is known.
func hashOnly(h phash.Hash) Picture { return Picture{Fingerprint: phash.Fingerprint{Hash: h}} }

// coloured returns a picture of one colour, whose shapes are those of all others.
func coloured(h phash.Hash, chroma uint8) Picture {
	p := Picture{Digest: sha256.Sum256([]byte(fmt.Sprint(h, chroma)))}
	p.Hash = h
	for i := range p.Colour {
		p.Colour[i] = chroma
	}
	p.View = func(context.Context) (*verify.View, error) { return verifytest.View(p.Hash, p.Colour, 0), nil }
	return p
}

// record returns what the index has of a picture.
func record(h phash.Hash) Record { return Record{Key: h, Hashes: verify.Hashes{Hash: h}} }

// logOf returns a log of pictures.
func logOf(hashes ...phash.Hash) string {
	var all []Record
	for _, h := range hashes {
		all = append(all, record(h))
	}
	return encodeRecords(all)
}

// logged returns the pictures of a log, in order of their hashes.
func logged(log string) []phash.Hash {
	var out []phash.Hash
	for _, r := range recordsOf(log) {
		out = append(out, r.Key)
	}
	slices.SortFunc(out, byBits)
	return out
}

// putSigned stores can as a worker does whose log was evicted.
func putSigned(t testing.TB, client redis.Cmdable, h phash.Hash) {
	t.Helper()
	p, e := picture(h), can
	s, err := p.signature(t.Context())
	check(t, err)
	e.Colour, e.File = p.Colour.String(), p.Digest.String()
	doc, err := e.MarshalJSON()
	check(t, err)
	check(t, client.Set(t.Context(), Key(h, Variant{}), doc, TTL).Err())
	check(t, client.Set(t.Context(), signatureKey(e.File), s.String(), TTL).Err())
}

// random returns a source that is the same at every run.
func random() *rand.Rand { return rand.New(rand.NewPCG(11, 12)) }

// away returns a hash that is so many bits from h.
func away(r *rand.Rand, h phash.Hash, bits int) phash.Hash { return moved(r, h, bits/2) }

// counted returns a counter's value.
func counted(t testing.TB, c prometheus.Collector) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	check(t, reg.Register(c))
	families, err := reg.Gather()
	check(t, err)
	return families[0].Metric[0].Counter.GetValue()
}

// commands counts what a client sends.
type commands struct {
	mu    sync.Mutex
	trips int // round trips: single commands and pipelines
	names map[string]int
	looks int // PTTL alone, which ends a look of one that waits
}

func count(client *redis.Client) *commands {
	c := &commands{names: map[string]int{}}
	client.AddHook(c)
	return c
}

func (c *commands) add(cmds ...redis.Cmder) {
	if name := cmds[0].Name(); name == "hello" || name == "client" {
		return // of a new connection
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trips++
	if len(cmds) == 1 && cmds[0].Name() == "pttl" {
		c.looks++
	}
	for _, cmd := range cmds {
		c.names[cmd.Name()]++
	}
}

// take returns what was sent since the last time.
func (c *commands) take() (trips int, names map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	trips, names = c.trips, c.names
	c.trips, c.looks, c.names = 0, 0, map[string]int{}
	return trips, names
}

// asleep waits until the one process of this client that waits for another has
// looked so many times, by GET, lock and PTTL, and will not look again unasked.
func (c *commands) asleep(t testing.TB, looks int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		n := c.looks
		c.mu.Unlock()
		if n >= looks {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("got %d looks of a process that waits, want %d", n, looks)
		}
	}
}

func (c *commands) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c *commands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.add(cmd); return next(ctx, cmd) }
}

func (c *commands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.add(cmds...)
		return next(ctx, cmds)
	}
}

func TestKey(t *testing.T) {
	h := hash(t, good)
	for _, tt := range []struct {
		v    Variant
		want string
	}{
		{Variant{}, "cache:image:hash:" + good},
		{Variant{Lang: "en"}, "cache:image:hash:" + good + ":lang=en"},
		{Variant{Model: "big"}, "cache:image:hash:" + good + ":model=big"},
		{Variant{Lang: "en", Model: "big"}, "cache:image:hash:" + good + ":lang=en:model=big"},
	} {
		if got := Key(h, tt.v); got != tt.want {
			t.Errorf("got key %q, want %q", got, tt.want)
		}
		if got := picture(h).Key(tt.v); got != tt.want {
			t.Errorf("got a picture's key %q, want %q", got, tt.want)
		}
		if got, ok := hashOfKey(tt.want); !ok || got != h {
			t.Errorf("%s: got hash %v, %v, want %v", tt.want, got, ok, h)
		}
	}
	for _, degenerate := range []string{
		strings.Repeat("0", 64), "8" + strings.Repeat("0", 63), "9" + good[1:63] + "f",
	} {
		p := picture(hash(t, degenerate))
		if got := Key(p.Hash, Variant{}); got != "" {
			t.Errorf("degenerate hash %s: got key %q, want none", degenerate, got)
		}
		want := "cache:image:digest:" + p.Digest.String() + ":analysis:lang=en"
		if got := p.Key(Variant{Lang: "en"}); got != want {
			t.Errorf("degenerate hash %s: got a picture's key %q, want %q", degenerate, got, want)
		}
		if _, ok := hashOfKey("cache:image:hash:" + degenerate); ok {
			t.Errorf("%s: got a hash, want none", degenerate)
		}
	}
}

func TestConfig(t *testing.T) {
	if got, want := DefaultConfig(), (Config{Radius: 50, Turned: true, IndexEntries: 1_000_000}); got != want {
		t.Errorf("got defaults %+v, want %+v", got, want)
	}
	for _, tt := range []struct {
		c    Config
		want []string // of the error; none: valid
	}{
		{DefaultConfig(), nil},
		{Config{Radius: 0, IndexEntries: 1}, nil},
		{Config{Radius: 60, IndexEntries: 1}, nil},
		{Config{Radius: 61, IndexEntries: 1}, []string{"cache-radius is 61"}},
		{Config{Radius: -1, IndexEntries: 0}, []string{"cache-radius is -1", "cache-index-entries is 0"}},
	} {
		err := tt.c.Validate()
		if (err == nil) != (tt.want == nil) {
			t.Errorf("%+v: got %v, want %q", tt.c, err, tt.want)
		}
		for _, want := range tt.want {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: got %v, want %q", tt.c, err, want)
			}
		}
	}
}

func TestWireForm(t *testing.T) {
	c, client := setup(t)
	p := coloured(hash(t, good), 0x80)
	key := p.Key(Variant{})
	if e, err := c.Get(t.Context(), key); e != nil || err != nil {
		t.Fatalf("empty cache: got %v, %v, want nothing", e, err)
	}
	e := bottle
	e.CostMicroUSD = 1500
	stored, err := c.Store(t.Context(), p, Variant{}, e)
	check(t, err)
	const six = `{"waste_type":"plastic","confidence":0.93,"feedback":"라벨을 떼고 <b>헹궈서</b> 버리세요","category":"plastic_bottle","recyclable":true,"analyzed_at":"2026-11-21T00:44:25"`
	want := six + `,"model":"m","prompt_version":"0a1b2c3d","colour":"` + grayColour + `","cost_microusd":1500,"picture_sha256":"` + p.Digest.String() + `"}`
	if raw := client.Get(t.Context(), key).Val(); raw != want {
		t.Errorf("got %s stored, want %s", raw, want)
	}
	e.Colour, e.File = grayColour, p.Digest.String()
	got, err := c.Get(t.Context(), key)
	check(t, err)
	if diff := cmp.Diff([]Entry{e, e}, []Entry{stored, *got}); diff != "" {
		t.Errorf("entry returned and read (-want +got):\n%s", diff)
	}
	// A bare entry has the six fields and no others but those of the picture.
	_, err = c.Store(t.Context(), p, Variant{}, Entry{Category: "x"})
	check(t, err)
	want = `{"waste_type":"","confidence":0,"feedback":"","category":"x","recyclable":false,"analyzed_at":"","colour":"` + grayColour + `","picture_sha256":"` + p.Digest.String() + `"}`
	if raw := client.Get(t.Context(), key).Val(); raw != want {
		t.Errorf("got %s stored, want %s", raw, want)
	}
}

// TestTTL looks at the commands, so that not a second is missing.
func TestTTL(t *testing.T) {
	c, client := setup(t)
	clock := time.Now()
	_, err := c.Store(t.Context(), picture(hash(t, good)), Variant{}, bottle)
	check(t, err)
	key := Key(hash(t, good), Variant{})
	first := client.ExpireTime(t.Context(), key).Val()
	if got := (first - time.Duration(clock.Unix())*time.Second).Seconds(); got < 604800 || got > 604805 {
		t.Errorf("got %v s to live, want 604800", got)
	}
	lives(t, client, logKey(hourOf(clock)), 7*24*time.Hour+time.Hour)
	if TTL != 604800*time.Second {
		t.Errorf("got %v, want 604800 s", TTL)
	}
}

// TestGetWhatPythonWrote reads json.dumps output, escaped and not, and refuses
// what is no analysis.
func TestGetWhatPythonWrote(t *testing.T) {
	c, client := setup(t)
	zero := can
	zero.Confidence, zero.Recyclable = 0, false
	more := can
	more.More = `{"extra":[1],"phash":null}`
	tests := []struct {
		name, raw string
		want      *Entry
	}{
		{"ensure_ascii", canByPython, &can},
		{"readable", `{"waste_type": "can", "confidence": 1.0, "feedback": "찌그러뜨려", "category": "metal", "recyclable": true, "analyzed_at": "2026-11-20T10:00:00"}`, &can},
		{"an integer, another order", `{"category": "metal", "analyzed_at": "2026-11-20T10:00:00", "feedback": "찌그러뜨려", "confidence": 1, "recyclable": true, "waste_type": "can"}`, &can},
		{"exponents", `{"waste_type": "can", "confidence": 1e-0, "feedback": "찌그러뜨려", "category": "metal", "recyclable": true, "analyzed_at": "2026-11-20T10:00:00"}`, &can},
		{"unknown fields", `{"waste_type": "can", "confidence": 1.0, "feedback": "찌그러뜨려", "category": "metal", "recyclable": true, "analyzed_at": "2026-11-20T10:00:00", "extra": [1], "phash": null}`, &more},
		{"none", `{"waste_type": "can", "confidence": null, "feedback": "찌그러뜨려", "category": "metal", "recyclable": null, "analyzed_at": "2026-11-20T10:00:00", "model": null}`, &zero},
		{"only one name", `{"category": "metal"}`, &Entry{Category: "metal"}},
		{"half a surrogate pair", `{"category": "\ud83d"}`, &Entry{Category: "\ufffd"}},
		{"truncated", `{"waste_type": "can", "conf`, nil},
		{"more behind", canByPython + "}", nil},
		{"not an analysis", `{"hello": "world"}`, nil},
		{"nan", `{"waste_type": "can", "confidence": NaN}`, nil},
		{"infinite", `{"waste_type": "can", "confidence": 1e999}`, nil},
		{"wrong type", `{"waste_type": ["can"]}`, nil},
		{"not an object", `"plastic"`, nil},
		{"null", `null`, nil},
		{"pickle", "\x80\x04\x95\x10\x00", nil},
		{"empty", ``, nil},
	}
	for _, tt := range tests {
		client.Set(t.Context(), "k", tt.raw, time.Minute)
		got, err := c.Get(t.Context(), "k")
		if err != nil {
			t.Errorf("%s: got error %v, want none", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: entry (-want +got):\n%s", tt.name, diff)
		}
	}
	client.Del(t.Context(), "k")
	client.LPush(t.Context(), "k", canByPython)
	client.Expire(t.Context(), "k", time.Minute)
	if got, err := c.Get(t.Context(), "k"); got != nil || err != nil {
		t.Errorf("a list: got %v, %v, want nothing", got, err)
	}
}

// TestStoreReplacesWhatIsNoEntry stores over damaged values and other types.
func TestStoreReplacesWhatIsNoEntry(t *testing.T) {
	c, client := setup(t)
	p := picture(hash(t, good))
	key := p.Key(Variant{})
	want := bottle
	want.Colour, want.File = p.Colour.String(), p.Digest.String()
	for name, put := range map[string]func(){
		"text":                 func() { client.Set(t.Context(), key, "x", 0) },
		"JSON":                 func() { client.Set(t.Context(), key, `[{"corrected_at":"x"}]`, 0) },
		"deep JSON":            func() { client.Set(t.Context(), key, strings.Repeat("[", 5000), 0) },
		"list":                 func() { client.LPush(t.Context(), key, "x") },
		"Python's":             func() { client.Set(t.Context(), key, canByPython, 0) },
		"a damaged correction": func() { client.Set(t.Context(), key, `{"corrected_at":"2026-11-20T10:00:00"}`, 0) },
		"said, but no correction": func() {
			client.Set(t.Context(), key, `{"category":"x","feedback":"\"corrected_at\":\"2026\"","corrected_at":""}`, 0)
		},
	} {
		client.Del(t.Context(), key)
		put()
		got, err := c.Store(t.Context(), p, Variant{}, bottle)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
		if there, err := c.Get(t.Context(), key); err != nil || there == nil || *there != want {
			t.Errorf("%s: got %+v stored, %v, want %+v", name, there, err, want)
		}
		lives(t, client, key, TTL)
	}
}

// TestEveryKeyExpires runs what the package can do, and looks at every key after
// each step.
func TestEveryKeyExpires(t *testing.T) {
	c, client := setup(t)
	ctx, r := t.Context(), random()
	h := randomHash(r)
	p, near, flat := picture(h), picture(away(r, h, 6)), picture(phash.Hash{})
	compute := func(context.Context) (Entry, error) { allExpire(t, client); return bottle, nil }
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"seen", func() error { _, _, _, err := c.Seen(ctx, p.Digest, Variant{}); return err }},
		{"remember", func() error { return c.Remember(ctx, p) }},
		{"refuse", func() error { return c.Refuse(ctx, flat.Digest, Refusal{Type: "ValueError", Message: "no"}) }},
		{"fill", func() error { _, err := c.Fill(ctx, &Query{Picture: p}, compute, nil); return err }},
		{"fill flat", func() error { _, err := c.Fill(ctx, &Query{Picture: flat}, compute, nil); return err }},
		{"fill failed", func() error {
			_, err := c.Fill(ctx, &Query{Picture: picture(randomHash(r))}, func(context.Context) (Entry, error) {
				allExpire(t, client)
				return Entry{}, errors.New("no")
			}, nil)
			if err == nil {
				return errors.New("got no error, want one")
			}
			return nil
		}},
		{"near", func() error {
			a, err := c.Lookup(ctx, &Query{Picture: near})
			if err == nil && (a == nil || a.Kind != Near) {
				t.Errorf("got %+v, want a near answer", a)
			}
			return err
		}},
		{"store", func() error { _, err := c.Store(ctx, p, Variant{Lang: "en"}, bottle); return err }},
		{"correct", func() error {
			_, err := c.Correct(ctx, hashOnly(h), Variant{}, Correction{WasteType: new("x")}, false)
			return err
		}},
		{"store over a correction", func() error { _, err := c.Store(ctx, p, Variant{}, bottle); return err }},
		{"correct only", func() error {
			_, err := c.Correct(ctx, hashOnly(near.Hash), Variant{}, Correction{WasteType: new("y")}, true)
			return err
		}},
		{"record", func() error {
			c.Record(p, Answer{Entry: bottle, Kind: Exact})
			c.Record(p, Answer{Entry: bottle, Kind: Fresh})
			return c.Flush(ctx)
		}},
		{"stats", func() error { _, err := c.Stats(ctx, 200, 10); return err }},
		{"load", func() error { return c.Load(ctx) }},
		{"reconcile", func() error { return c.reconcileInTurn(ctx) }},
		{"reindex", func() error { _, err := c.Reindex(ctx, nil); return err }},
		{"cleanup", func() error { _, err := c.Cleanup(ctx); return err }},
		{"invalidate", func() error { _, err := c.Invalidate(ctx, Selection{Tags: []Tag{{"model", "m"}}}, nil); return err }},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		allExpire(t, client)
		if t.Failed() {
			t.Fatalf("after %s", step.name)
		}
	}
}

func TestFiles(t *testing.T) {
	c, client := setup(t)
	ctx := t.Context()
	d, bad := Digest(sha256.Sum256([]byte("a"))), Digest(sha256.Sum256([]byte("b")))
	seen := func(d Digest, known *Picture, refusal *Refusal) {
		t.Helper()
		gotKnown, gotRefusal, _, err := c.Seen(ctx, d, Variant{})
		if err != nil || !reflect.DeepEqual(gotKnown, known) || !reflect.DeepEqual(gotRefusal, refusal) {
			t.Errorf("got %v, %v, %v, want %v and %v", gotKnown, gotRefusal, err, known, refusal)
		}
	}
	seen(d, nil, nil)
	of := func(h phash.Hash) Picture { return Picture{Digest: d, Fingerprint: picture(h).Fingerprint} }
	one, flat := of(hash(t, good)), of(phash.Hash{})
	check(t, c.Remember(ctx, one))
	seen(d, &one, nil)
	if got, want := client.Get(ctx, "cache:image:digest:"+d.String()).Val(), good+" "+grayColour; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	lives(t, client, "cache:image:digest:"+d.String(), TTL)
	one.Like = bad
	check(t, c.Remember(ctx, one))
	seen(d, &one, nil)
	check(t, c.Remember(ctx, flat))
	seen(d, &flat, nil)
	check(t, client.Set(ctx, "cache:image:digest:"+d.String(), good, TTL).Err()) // by an earlier version
	seen(d, &Picture{Digest: d, Fingerprint: phash.Fingerprint{Hash: one.Hash}}, nil)

	no := Refusal{Type: "ValueError", Message: "kein Bild: <x>"}
	check(t, c.Refuse(ctx, bad, no))
	seen(bad, nil, &no)
	lives(t, client, "cache:image:refused:"+bad.String(), 10*time.Minute)
	for _, damaged := range []string{"", "x", good + " ", good + " gICA", "x " + grayColour, `{"exc_message":"no type"}`, `["a"]`, `null`, "\xff"} {
		client.Set(ctx, "cache:image:refused:"+bad.String(), damaged, time.Minute)
		client.Set(ctx, "cache:image:digest:"+d.String(), damaged, time.Minute)
		seen(bad, nil, nil)
		seen(d, nil, nil)
	}
	client.Del(ctx, "cache:image:refused:"+bad.String())
	client.SAdd(ctx, "cache:image:refused:"+bad.String(), "x")
	client.Expire(ctx, "cache:image:refused:"+bad.String(), time.Minute)
	seen(bad, nil, nil)
	// A refusal is for a while only, but while it is there it counts.
	again := one
	again.Digest = bad
	check(t, c.Remember(ctx, again))
	check(t, c.Refuse(ctx, bad, no))
	client.Del(ctx, "cache:image:refused:"+bad.String())
	check(t, c.Refuse(ctx, bad, no))
	seen(bad, nil, &no)
}

// FuzzDecode reads anything without a panic; what it takes for an entry is stored
// and read back unchanged, by Python's rules too.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(canByPython))
	f.Add([]byte(`{"category":"x","corrected_at":"y","derived_from":"z","derived_distance":-1,"confidence":1e308}`))
	f.Add([]byte(`{"waste_type":"\ud83d","colour":""}`))
	f.Add([]byte(`{"Category":"x","category":"","a":[1, 2],"prompt_version":"p","b":{"\ud83d":"<"}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		e, err := decode(doc)
		if err != nil {
			if e != nil {
				t.Fatalf("got %+v and %v, want one of them", e, err)
			}
			return
		}
		if math.IsNaN(e.Confidence) || math.IsInf(e.Confidence, 0) || e.WasteType == "" && e.Category == "" && e.More == "" && e.Feedback == "" {
			t.Fatalf("got %+v, want an analysis", e)
		}
		again, err := marshalled(*e)
		if err != nil || *again != *e {
			t.Fatalf("got %+v, %v, want %+v", again, err, e)
		}
		(&Cache{}).judge(&Query{}, 0, e)
		Correction{WasteType: new("x")}.apply(e, "now")
	})
}

// FuzzHashOfKey reads the keys of anybody.
func FuzzHashOfKey(f *testing.F) {
	f.Add("cache:image:hash:" + good)
	f.Add("cache:image:hash:" + good + ":lang=en:model=x:y")
	f.Add("cache:image:digest:" + good + ":analysis")
	f.Add("cache:image:hash:::")
	f.Fuzz(func(t *testing.T, key string) {
		h, ok := hashOfKey(key)
		if !ok {
			return
		}
		if own := Key(h, Variant{}); !strings.EqualFold(own, key[:min(len(own), len(key))]) {
			t.Fatalf("got %s of %q, want the key to begin with it", own, key)
		}
	})
}

func marshalled(e Entry) (*Entry, error) {
	doc, err := celery.MarshalJSON(e)
	if err != nil {
		return nil, err
	}
	return decode(doc)
}
