package tasks

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/samples"
	"onceover/internal/source"
	"onceover/internal/testenv"
	"onceover/phash"
	"onceover/progress"
	"onceover/vision"
	"onceover/vision/prompt"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// pictures serves the samples by name and counts what is fetched.
type pictures struct {
	fetched atomic.Int32
	extra   map[string][]byte // beside the samples
}

func (p *pictures) Fetch(_ context.Context, url string) ([]byte, error) {
	p.fetched.Add(1)
	if data, ok := p.extra[url]; ok {
		return data, nil
	}
	data, err := fs.ReadFile(samples.FS(), url)
	if err != nil {
		return nil, &source.Error{Kind: source.NotFound, Msg: "no such picture"}
	}
	return data, nil
}

// model is the paid API: it counts, and does what it is told.
type model struct {
	name, prompt   string
	fields         string // of the answer; "" for waste
	visions, texts atomic.Int32
	paid           atomic.Int32  // Options.Paid of the last call
	enter          chan struct{} // if set, Analyze waits for it
	fail           func() error
}

func (m *model) Analyze(ctx context.Context, p *vision.Preview, opt vision.Options) (vision.Answer, vision.Usage, error) {
	m.visions.Add(1)
	m.paid.Store(int32(opt.Paid))
	if len(p.JPEG) == 0 {
		return vision.Answer{}, vision.Usage{}, errors.New("no preview")
	}
	if m.enter != nil {
		select {
		case <-m.enter:
		case <-ctx.Done():
			return vision.Answer{}, vision.Usage{}, context.Cause(ctx)
		}
	}
	if m.fail != nil {
		if err := m.fail(); err != nil {
			return vision.Answer{}, vision.Usage{Calls: 1, Paid: 1}, err
		}
	}
	fields := m.fields
	if fields == "" {
		fields = `{"waste_type":"plastic","category":"plastic_bottle","recyclable":true,"confidence":0.9,"feedback":"neutral"}`
	}
	return vision.Answer{Fields: json.RawMessage(fields), Model: m.name, PromptVersion: m.prompt}, vision.Usage{Calls: 1, Paid: 1, PromptTokens: 9}, nil
}

func (m *model) Feedback(_ context.Context, analysis json.RawMessage, question string, _ vision.Options) (string, vision.Usage, error) {
	m.texts.Add(1)
	var a struct{ Feedback string }
	if err := json.Unmarshal(analysis, &a); err != nil {
		return "", vision.Usage{}, err
	}
	return a.Feedback + ": " + question, vision.Usage{Calls: 1, PromptTokens: 1}, nil
}

func (m *model) Model(string) string         { return m.name }
func (m *model) PromptVersion(string) string { return m.prompt }

type bundle struct {
	task     *ImageAnalyze
	pictures *pictures
	model    *model
	redis    *redis.Client // DB 0 holds everything
	progress *progress.Store
	cache    *cache.Cache
}

func setup(t *testing.T) *bundle {
	t.Helper()
	return setupWith(t, cache.DefaultConfig())
}

func setupWith(t *testing.T, cfg cache.Config) *bundle {
	t.Helper()
	t.Parallel()
	opt, err := redisretry.Options(testenv.Redis(t, "--notify-keyspace-events", "K$").URL())
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle{pictures: &pictures{}, model: &model{name: "m-1", prompt: "v1"}, redis: redis.NewClient(opt)}
	b.progress, b.cache = progress.New(b.redis, zap.NewNop()), cache.New(cfg, b.redis, prometheus.NewRegistry(), zap.NewNop())
	t.Cleanup(func() { b.cache.Close(); b.redis.Close() })
	b.task = NewImageAnalyze(DefaultConfig(), b.pictures, b.cache, b.progress, b.model, prometheus.NewRegistry(), zap.NewNop())
	return b
}

func request(t *testing.T, kwargs map[string]any) *celery.Request {
	t.Helper()
	r := &celery.Request{ID: "task-1", Task: NameAnalyze, Kwargs: map[string]json.RawMessage{}}
	for k, v := range kwargs {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		r.Kwargs[k] = raw
	}
	return r
}

func (b *bundle) run(t *testing.T, kwargs map[string]any) *Result {
	t.Helper()
	v, err := b.task.Run(t.Context(), request(t, kwargs))
	if err != nil {
		t.Fatal(err)
	}
	return v.(*Result)
}

// shown is the progress of a job, when all that was reported is shown.
func (b *bundle) shown(t *testing.T, jobID string) (*progress.Update, error) {
	t.Helper()
	if err := b.progress.Flush(t.Context()); err != nil {
		return nil, err
	}
	return b.progress.Load(t.Context(), jobID)
}

// steps runs f and says how often it wrote the job's progress, and what last: that of a job which writes nothing more.
func (b *bundle) steps(t *testing.T, jobID string, f func()) (writes int, last string) {
	t.Helper()
	sub := b.redis.Subscribe(t.Context(), "__keyspace@0__:"+progress.Key(jobID), "the end")
	defer sub.Close()
	for range 2 {
		if _, err := sub.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f()
	if err := b.progress.Flush(t.Context()); err != nil { // nobody waits for a report
		t.Fatal(err)
	}
	if err := b.redis.Publish(t.Context(), "the end", "").Err(); err != nil {
		t.Fatal(err)
	}
	for {
		msg, err := sub.ReceiveMessage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if msg.Channel == "the end" {
			break
		}
		if msg.Payload == "set" {
			writes++
		}
	}
	u, err := b.progress.Load(t.Context(), jobID)
	if err != nil || u == nil {
		t.Fatalf("last update: %v, %v", u, err)
	}
	return writes, fmt.Sprintf("%s %d", u.Stage, u.Progress)
}

func TestStages(t *testing.T) {
	b := setup(t)
	// Those that leave for Redis together are one write.
	check := func(name string, most int, want string, kwargs map[string]any) {
		t.Helper()
		kwargs["job_id"] = name
		writes, last := b.steps(t, name, func() { b.run(t, kwargs) })
		if writes < 1 || writes > most || last != want {
			t.Errorf("%s: got %d writes, the last %s, want at most %d, and %s", name, writes, last, most, want)
		}
	}
	// 100 is AfterReturn's to show.
	check("miss", 9, "store 90", map[string]any{"image_url": "bottle.jpg"})
	check("hit", 3, "cache 30", map[string]any{"image_url": "bottle.jpg"})
	check("question", 6, "store 90", map[string]any{"image_url": "bottle.jpg", "user_input": "?"})
	check("blank question", 3, "cache 30", map[string]any{"image_url": "bottle.jpg", "user_input": "  "})
}

func TestMissThenHit(t *testing.T) {
	b := setup(t)
	miss := b.run(t, map[string]any{"image_url": "bottle.jpg", "job_id": 7})
	if miss.Cached != nil || miss.Usage == nil || miss.Usage.Calls != 1 || *miss.Model != "m-1" || string(miss.JobID.raw) != "7" {
		t.Errorf("miss: got %+v", miss)
	}
	hit := b.run(t, map[string]any{"image_url": "bottle.jpg"})
	if hit.Cached == nil || *hit.Cached != "exact" || hit.Usage != nil || hit.JobID.text != "task-1" {
		t.Errorf("hit: got %+v", hit)
	}
	if diff := cmp.Diff(miss.Entry, hit.Entry); diff != "" {
		t.Errorf("the answers differ:\n%s", diff)
	}
	raw, err := celery.MarshalJSON(hit)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"waste_type":"plastic","confidence":0.9,"feedback":"neutral","category":"plastic_bottle","recyclable":true,"analyzed_at":"%s","prompt_version":"v1","job_id":"task-1","phash":"%s","cached":"exact","model":"m-1"}`, hit.AnalyzedAt, hit.PHash)
	if string(raw) != want {
		t.Errorf("got %s, want %s", raw, want)
	}
	if n := b.model.visions.Load(); n != 1 {
		t.Errorf("got %d vision calls, want 1", n)
	}
}

func TestQuestionLeavesTheEntryNeutral(t *testing.T) {
	b := setup(t)
	asked := b.run(t, map[string]any{"image_url": "can.jpg", "user_input": "where?"})
	if asked.Feedback != "neutral: where?" || asked.Usage.Calls != 2 || asked.Usage.PromptTokens != 10 {
		t.Errorf("got %+v with usage %+v", asked, asked.Usage)
	}
	if again := b.run(t, map[string]any{"image_url": "can.jpg"}); again.Feedback != "neutral" || again.Cached == nil {
		t.Errorf("got %+v, want the neutral answer from the cache", again)
	}
	if n := b.model.texts.Load(); n != 1 {
		t.Errorf("got %d text calls, want 1", n)
	}
}

func TestGivenHash(t *testing.T) {
	b := setup(t)
	first := b.run(t, map[string]any{"image_url": "box.jpg"})
	fetched := b.pictures.fetched.Load()
	if hit := b.run(t, map[string]any{"image_url": "nowhere", "phash": first.PHash}); hit.Cached == nil || b.pictures.fetched.Load() != fetched {
		t.Errorf("got %+v, want a hit without a download", hit)
	}
	// A hash that is not the picture's is good for nothing else.
	wrong := strings.Replace(first.PHash, first.PHash[:1], "0", 1)
	r := b.run(t, map[string]any{"image_url": "jar.jpg", "phash": wrong})
	if r.Cached != nil || r.PHash == wrong {
		t.Errorf("got %+v, want a fresh answer under the computed hash", r)
	}
	if n := b.redis.Exists(t.Context(), "cache:image:hash:"+wrong).Val(); n != 0 {
		t.Error("an entry is stored under the hash that was given")
	}
}

// TestFlatPictureIsCachedByItsFile has a hash that many pictures share.
func TestFlatPictureIsCachedByItsFile(t *testing.T) {
	b := setup(t)
	first := b.run(t, map[string]any{"image_url": "flat.png"})
	if again := b.run(t, map[string]any{"image_url": "flat.png"}); first.Cached != nil || again.Cached == nil || *again.Cached != "exact" {
		t.Errorf("got %+v and %+v, want the second answer to be the first", first, again)
	}
	// Its hash alone is good for nothing.
	if r := b.run(t, map[string]any{"image_url": "bottle.jpg", "phash": first.PHash}); r.Cached != nil {
		t.Errorf("got %+v, want a fresh answer", r)
	}
	if n := b.redis.Exists(t.Context(), "cache:image:hash:"+first.PHash).Val(); n != 0 {
		t.Error("an entry is stored under a hash that many pictures share")
	}
}

func TestNearPicture(t *testing.T) {
	b := setup(t)
	first := b.run(t, map[string]any{"image_url": "box.jpg"})
	near := b.run(t, map[string]any{"image_url": "box-cropped.jpg"})
	if near.Cached == nil || *near.Cached != "near" || near.Distance == nil || *near.Distance < 2 || *near.Distance > 14 || near.Usage != nil || near.PHash == first.PHash {
		t.Errorf("got %+v, want the answer of a near picture", near)
	}
	if diff := cmp.Diff(first.Entry, near.Entry); diff != "" {
		t.Errorf("the answers differ:\n%s", diff)
	}
	raw, err := celery.MarshalJSON(near)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`"cached":"near","distance":%d,"model":"m-1"}`, *near.Distance); !strings.HasSuffix(string(raw), want) {
		t.Errorf("got %s, want it to end with %s", raw, want)
	}
	for _, own := range []string{"colour", "derived", "cost"} {
		if strings.Contains(string(raw), own) {
			t.Errorf("the result tells what is the cache's own: %s", raw)
		}
	}
	if again := b.run(t, map[string]any{"image_url": "box-cropped.jpg"}); *again.Cached != "exact" || again.Distance != nil {
		t.Errorf("got %+v, want its own entry the second time", again)
	}
	if n := b.model.visions.Load(); n != 1 {
		t.Errorf("got %d vision calls, want 1", n)
	}
}

// TestSameFileIsNotDecodedAgain puts another hash in the place of a file's own: the
// file's is not computed any more.
func TestSameFileIsNotDecodedAgain(t *testing.T) {
	b := setup(t)
	can := b.run(t, map[string]any{"image_url": "can.jpg"})
	data, err := fs.ReadFile(samples.FS(), "box.jpg")
	if err != nil {
		t.Fatal(err)
	}
	key := fmt.Sprintf("cache:image:digest:%x", sha256.Sum256(data))
	b.run(t, map[string]any{"image_url": "box.jpg"})
	if ttl := b.redis.TTL(t.Context(), key).Val(); ttl < cache.TTL-time.Minute {
		t.Errorf("got TTL %v, want %v", ttl, cache.TTL)
	}
	known, err := fs.ReadFile(samples.FS(), "can.jpg")
	if err != nil {
		t.Fatal(err)
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(known))
	ofCan := b.redis.Get(t.Context(), "cache:image:digest:"+digest).Val()
	if err := b.redis.Set(t.Context(), key, ofCan+" "+digest, time.Hour).Err(); err != nil { // and that it shows the same
		t.Fatal(err)
	}
	if r := b.run(t, map[string]any{"image_url": "box.jpg"}); r.PHash != can.PHash {
		t.Errorf("got hash %s, want the one that is kept for the file", r.PHash)
	}
}

// TestNoPictureIsRememberedForAWhile keeps the reason under the file's digest.
func TestNoPictureIsRememberedForAWhile(t *testing.T) {
	b := setup(t)
	data, err := fs.ReadFile(samples.FS(), "bottle.jpg")
	if err != nil {
		t.Fatal(err)
	}
	b.pictures.extra = map[string][]byte{"cut.jpg": data[:len(data)/2]}
	key := fmt.Sprintf("cache:image:refused:%x", sha256.Sum256(data[:len(data)/2]))
	var first *celery.Exception
	if _, err := b.task.Run(t.Context(), request(t, map[string]any{"image_url": "cut.jpg"})); !errors.As(err, &first) || first.Type != "ValueError" {
		t.Fatalf("got %v, want a ValueError", err)
	}
	if ttl := b.redis.TTL(t.Context(), key).Val(); ttl <= 0 || ttl > cache.RefusalTTL {
		t.Errorf("got TTL %v, want at most %v", ttl, cache.RefusalTTL)
	}
	var again *celery.Exception
	if _, err := b.task.Run(t.Context(), request(t, map[string]any{"image_url": "cut.jpg"})); !errors.As(err, &again) || again.Error() != first.Error() {
		t.Errorf("got %v, want %v again", again, first)
	}
	if err := b.redis.Set(t.Context(), key, `{"exc_type":"ValueError","exc_message":"as it is kept"}`, time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.task.Run(t.Context(), request(t, map[string]any{"image_url": "cut.jpg"})); !errors.As(err, &again) || again.Error() != "ValueError: as it is kept" {
		t.Errorf("got %v, want what is kept", err)
	}
}

// TestOtherPromptIsAMiss asks anew when the prompt has changed, and what a person
// wrote is not asked again.
func TestOtherPromptIsAMiss(t *testing.T) {
	b := setup(t)
	first := b.run(t, map[string]any{"image_url": "can.jpg"})
	b.model.prompt = "v2"
	if r := b.run(t, map[string]any{"image_url": "can.jpg"}); r.Cached != nil || r.PromptVersion != "v2" {
		t.Errorf("got %+v, want a fresh answer", r)
	}
	h, err := phash.Parse(first.PHash)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.cache.Correct(t.Context(), cache.Picture{Fingerprint: phash.Fingerprint{Hash: h}}, cache.Variant{}, cache.Correction{WasteType: new("metal")}, false); err != nil {
		t.Fatal(err)
	}
	b.model.prompt = "v3"
	if r := b.run(t, map[string]any{"image_url": "can.jpg"}); r.Cached == nil || r.WasteType != "metal" || *r.Model != cache.Person {
		t.Errorf("got %+v, want the correction", r)
	}
}

// drawn tells every job that it is the one to make an entry anew.
type drawn struct{ *cache.Cache }

func (d drawn) Lookup(ctx context.Context, q *cache.Query) (*cache.Answer, error) {
	a, err := d.Cache.Lookup(ctx, q)
	if a != nil {
		a.Expiring = true
	}
	return a, err
}

// TestExpiringEntry is made anew by the job that is told so; if that fails the job
// has the old answer.
func TestExpiringEntry(t *testing.T) {
	b := setup(t)
	b.task.now = func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }
	first := b.run(t, map[string]any{"image_url": "can.jpg"})
	b.task.now = time.Now
	key := "cache:image:hash:" + first.PHash
	if err := b.redis.Expire(t.Context(), key, time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	b.task.cache = drawn{b.cache}
	b.model.fail = func() error { return &vision.Error{Class: vision.Overloaded, Err: errors.New("503")} }
	if r := b.run(t, map[string]any{"image_url": "can.jpg"}); r.Cached == nil || b.model.visions.Load() != 2 {
		t.Errorf("got %+v after %d calls, want the old answer after a second one", r, b.model.visions.Load())
	}
	b.model.fail = nil
	if r := b.run(t, map[string]any{"image_url": "can.jpg"}); r.Cached != nil || r.AnalyzedAt == first.AnalyzedAt {
		t.Errorf("got %+v, want a fresh answer", r)
	}
	if ttl := b.redis.TTL(t.Context(), key).Val(); ttl < cache.TTL-time.Minute {
		t.Errorf("got TTL %v, want %v", ttl, cache.TTL)
	}
	// So it is where the hash is given; without the picture the old answer has to do.
	if r := b.run(t, map[string]any{"image_url": "nowhere", "phash": first.PHash}); r.Cached == nil {
		t.Errorf("got %+v, want the entry", r)
	}
	if r := b.run(t, map[string]any{"image_url": "can.jpg", "phash": first.PHash}); r.Cached != nil || r.Usage == nil {
		t.Errorf("got %+v, want a fresh answer", r)
	}
}

func TestVariants(t *testing.T) {
	b := setup(t)
	for _, kwargs := range []map[string]any{{}, {"lang": "ko"}, {"model": "m-1"}, {"lang": "en"}, {"model": "m-2"}, {"model": "m-2", "lang": "en"}} {
		kwargs["image_url"] = "bottle.jpg"
		b.run(t, kwargs)
	}
	if n := b.model.visions.Load(); n != 4 {
		t.Errorf("got %d vision calls, want 4: default, en, m-2, en with m-2", n)
	}
	if n := len(b.redis.Keys(t.Context(), "cache:image:hash:*").Val()); n != 4 {
		t.Errorf("got %d entries, want 4", n)
	}
}

func TestOfflineEntriesAreNoAnswerOfAModel(t *testing.T) {
	b := setup(t)
	b.model.name = vision.OfflineModel
	b.run(t, map[string]any{"image_url": "bottle.jpg"})
	if r := b.run(t, map[string]any{"image_url": "bottle.jpg"}); r.Cached == nil {
		t.Error("offline: got a miss, want a hit")
	}
	b.model.name = "m-1"
	if r := b.run(t, map[string]any{"image_url": "bottle.jpg"}); r.Cached != nil || *r.Model != "m-1" {
		t.Errorf("got %+v, want the model's own answer", r)
	}
}

func TestOnePictureOneCall(t *testing.T) {
	b := setup(t)
	b.model.enter = make(chan struct{})
	var wg sync.WaitGroup
	var paid atomic.Int32
	const jobs = 10
	for i := range jobs {
		req := request(t, map[string]any{"image_url": "newspapers.jpg", "job_id": fmt.Sprint(i)})
		wg.Go(func() {
			v, err := b.task.Run(t.Context(), req)
			if err != nil {
				t.Error(err)
				return
			}
			if v.(*Result).Cached == nil {
				paid.Add(1)
			}
		})
	}
	// All of them show that they wait for the model before it answers.
	deadline := time.After(30 * time.Second)
	for i := range jobs {
		for {
			u, err := b.shown(t, fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			if u != nil && u.Stage == stageVision {
				break
			}
			select {
			case <-deadline:
				t.Fatalf("job %d is at %+v", i, u)
			case <-time.After(time.Millisecond):
			}
		}
	}
	close(b.model.enter)
	wg.Wait()
	if b.model.visions.Load() != 1 || paid.Load() != 1 {
		t.Errorf("got %d vision calls and %d paid answers, want 1 and 1", b.model.visions.Load(), paid.Load())
	}
}

func TestErrors(t *testing.T) {
	b := setup(t)
	b.task.cfg.MaxPixels = 640*480 - 1
	_, err := b.task.Run(t.Context(), request(t, map[string]any{"image_url": "bottle.jpg"}))
	var exc *celery.Exception
	if !errors.As(err, &exc) || exc.Type != "ValueError" || !strings.Contains(exc.Error(), "pixels") {
		t.Errorf("too many pixels: got %v", err)
	}
	b.task.cfg.MaxPixels = 50_000_000
	for name, tt := range map[string]struct {
		kwargs map[string]any
		want   string
	}{
		"missing":  {map[string]any{"image_url": "nowhere"}, "FileNotFoundError: no such picture"},
		"broken":   {map[string]any{"image_url": "broken.jpg"}, "ValueError: JPEG is damaged"},
		"phash":    {map[string]any{"image_url": "bottle.jpg", "phash": "xyz"}, "ValueError: image.analyze() argument 'phash'"},
		"model":    {map[string]any{"image_url": "bottle.jpg", "model": "a b"}, "ValueError: image.analyze() argument 'model'"},
		"lang":     {map[string]any{"image_url": "bottle.jpg", "lang": "../x"}, "ValueError: image.analyze() argument 'lang'"},
		"question": {map[string]any{"image_url": "bottle.jpg", "user_input": strings.Repeat("?", 2001)}, "ValueError: image.analyze() argument 'user_input'"},
		"none":     {nil, "TypeError: image.analyze() missing 1 required"},
	} {
		if _, err := b.task.Run(t.Context(), request(t, tt.kwargs)); !errors.As(err, &exc) || !strings.HasPrefix(exc.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
	}
	away, there := 0, 0
	b.task.cfg.StepAside = func(context.Context) func(context.Context) error {
		away++
		return func(context.Context) error { there++; return nil }
	}
	b.model.fail = func() error { panic("boom") }
	if _, err := b.task.Run(t.Context(), request(t, map[string]any{"image_url": "bottle.jpg"})); !errors.As(err, &exc) || len(exc.Frames) == 0 {
		t.Errorf("panic in the model: got %v, want an exception with the stack", err)
	}
	if away != 1 || there != 1 {
		t.Errorf("panic in the model: the job stepped aside %d times and came back %d times, want once", away, there)
	}
	b.model.fail = func() error {
		return &vision.Error{Class: vision.RateLimited, RetryAfter: 3 * time.Second, Err: errors.New("429")}
	}
	var later *celery.Postpone
	if _, err := b.task.Run(t.Context(), request(t, map[string]any{"image_url": "bottle.jpg"})); !errors.As(err, &later) || later.After != leastPostponed {
		t.Errorf("429: got %v, want it postponed for %v", err, leastPostponed)
	}
	if keys := b.redis.Keys(t.Context(), "cache:image:hash:*").Val(); len(keys) != 0 {
		t.Errorf("errors are cached: %v", keys)
	}
}

// TestTranslate tells what becomes of a job after each kind of error: it fails, is retried for as long as the operator
// wants, or just comes later.
func TestTranslate(t *testing.T) {
	const ends, forAnHour, postponed, counted = "ends", "retried for an hour", "postponed", "retried"
	text := errors.New("x")
	model := func(c vision.Class, after time.Duration) error {
		return &vision.Error{Class: c, RetryAfter: after, StatusCode: 403, Err: text}
	}
	tests := []struct {
		err   error
		named bool // the job has chosen the model
		class string
		want  string
		after time.Duration // at least, and a tenth and a second more at most
	}{
		{&source.Error{Kind: source.NotFound}, false, "FileNotFoundError", ends, 0},
		{&source.Error{Kind: source.Forbidden}, false, "PermissionError", ends, 0},
		{&source.Error{Kind: source.TooLarge}, false, "ValueError", ends, 0},
		{&source.Error{Kind: source.BadURL}, false, "ValueError", ends, 0},
		{&source.Error{Kind: source.Unusable}, false, "ValueError", ends, 0},
		{&source.Error{Kind: source.Transient, RetryAfter: time.Minute}, false, "ConnectionError", counted, time.Minute},
		{&phash.FormatError{Fault: phash.Damaged, Found: "JPEG"}, false, "ValueError", ends, 0},
		{&vision.Error{Err: text}, false, "RuntimeError", ends, 0},
		{model(vision.Overloaded, 0), false, "RuntimeError", forAnHour, 0},
		{model(vision.Unreachable, 0), false, "RuntimeError", forAnHour, 0},
		{model(vision.Quota, 0), false, "RuntimeError", forAnHour, quotaWait},
		{model(vision.Quota, time.Hour), true, "RuntimeError", forAnHour, time.Hour},
		{model(vision.Denied, time.Minute), false, "RuntimeError", forAnHour, time.Minute},
		{model(vision.NotFound, 0), false, "RuntimeError", forAnHour, 0},
		{model(vision.Denied, 0), true, "RuntimeError", ends, 0},
		{model(vision.NotFound, 0), true, "RuntimeError", ends, 0},
		{&vision.Error{Class: vision.NotFound, Closed: true, RetryAfter: time.Minute, Err: text}, true, "RuntimeError", forAnHour, time.Minute},
		{model(vision.RateLimited, 0), false, "RuntimeError", postponed, leastPostponed},
		{model(vision.RateLimited, time.Minute), false, "RuntimeError", postponed, time.Minute},
		{model(vision.Spent, time.Hour), false, "RuntimeError", postponed, time.Hour},
		{model(vision.Spent, 0), false, "RuntimeError", ends, 0},
		{model(vision.Invalid, 0), false, "RuntimeError", ends, 0},
		{model(vision.Exhausted, 0), false, "RuntimeError", ends, 0},
	}
	for _, tt := range tests {
		err := translate(fmt.Errorf("wrapped: %w", tt.err), time.Hour, tt.named)
		var exc *celery.Exception
		var again *celery.Retry
		var later *celery.Postpone
		got, after := ends, time.Duration(0)
		switch {
		case errors.As(err, &later):
			got, after = postponed, later.After
		case errors.As(err, &again) && again.For == time.Hour:
			got, after = forAnHour, again.After
		case errors.As(err, &again):
			got, after = counted, again.After
		}
		if !errors.As(err, &exc) || exc.Type != tt.class || got != tt.want || after < tt.after || after > tt.after+tt.after/10+time.Second {
			t.Errorf("%v, named %v: got %v, %s after %v, want %s, %s after %v", tt.err, tt.named, err, got, after, tt.class, tt.want, tt.after)
		}
	}
	if err := translate(text, time.Hour, false); err != text {
		t.Errorf("another error: got %v, want it as it is", err)
	}
	var again *celery.Retry
	if err := translate(model(vision.Overloaded, 0), 0, false); errors.As(err, &again) {
		t.Errorf("without a horizon: got %v, want it to end", err)
	}
}

func TestAfterReturn(t *testing.T) {
	b := setup(t)
	r := request(t, map[string]any{"image_url": "bottle.jpg", "job_id": "j"})
	boom := celery.NewException("ValueError", "boom", nil)
	show := func(req *celery.Request, state celery.State, exc *celery.Exception) progress.Update {
		t.Helper()
		if err := b.task.AfterReturn(t.Context(), req, state, exc); err != nil {
			t.Fatal(err)
		}
		a, _ := bind(req)
		u, err := b.shown(t, a.JobID.text)
		if err != nil {
			t.Fatal(err)
		}
		return *u
	}
	if _, err := b.task.Run(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if u := show(r, celery.Retried, boom); u.Progress != 90 || u.Stage != stageRetry {
		t.Errorf("retry: got %+v, want the number kept", u)
	}
	if u := show(r, celery.Failure, boom); u.Progress != 90 || u.Stage != "failed" || u.Error != "ValueError: boom" {
		t.Errorf("failure: got %+v", u)
	}
	if u := show(r, celery.Success, nil); u.Progress != 100 || u.Stage != stageDone || u.Message != "분석이 완료되었습니다" {
		t.Errorf("success: got %+v", u)
	}
	// Arguments that do not fit: the job id is still where the client looks.
	bad := request(t, map[string]any{"job_id": "bad", "colour": 1})
	if u := show(bad, celery.Failure, boom); u.Stage != "failed" {
		t.Errorf("bad arguments: got %+v", u)
	}
	if u, err := b.shown(t, "bad"); u == nil || err != nil {
		t.Errorf("job bad: got %v, %v, want its failure", u, err)
	}
}

func TestRetryResumesTheProgress(t *testing.T) {
	b := setup(t)
	r := request(t, map[string]any{"image_url": "bottle.jpg", "job_id": "j"})
	b.model.fail = func() error { return &vision.Error{Class: vision.Overloaded, Err: errors.New("503")} }
	if _, err := b.task.Run(t.Context(), r); err == nil {
		t.Fatal("got no error")
	}
	b.model.fail = nil
	r.Retries = 1
	b.model.enter = make(chan struct{})
	done := make(chan error, 1)
	go func() { _, err := b.task.Run(t.Context(), r); done <- err }()
	deadline := time.After(20 * time.Second)
	for b.model.visions.Load() < 2 {
		u, err := b.shown(t, "j")
		if err != nil || u.Progress < 50 {
			t.Fatalf("got %+v, %v, want at least 50", u, err)
		}
		select {
		case <-deadline:
			t.Fatal("the second attempt did not reach the model")
		default:
		}
	}
	close(b.model.enter)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCatalogueIsComplete(t *testing.T) {
	steps := []step{stepDownload, stepHash, stepCache, stepPreprocess, stepVision, stepVisionDone, stepFeedback, stepFeedbackDone, stepStore, stepDone, stepRetry, stepQueued}
	names := []string{textFailed}
	for _, s := range steps {
		if s.stage == "" {
			t.Errorf("step %d: got %+v", s.progress, s)
		}
		names = append(names, s.text)
	}
	for _, name := range prompt.Steps {
		if !slices.Contains(names, name) {
			t.Errorf("%s is a message that no step shows", name)
		}
	}
	if len(names) != len(prompt.Steps) {
		t.Errorf("got the messages %v, want %v", names, prompt.Steps)
	}
}
