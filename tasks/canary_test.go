package tasks

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/phash"
	"onceover/vision"
)

// TestCanary has the model asked about near hits all the same: about one whose answer agrees in all that is not just
// words, and then about one whose answer does not. The picture keeps the answer of its own.
func TestCanary(t *testing.T) {
	b := setup(t)
	cfg := DefaultConfig()
	cfg.Canary = 1
	b.task = NewImageAnalyze(cfg, b.pictures, b.cache, b.progress, b.model, prometheus.NewRegistry(), zap.NewNop())
	box, cropped := map[string]any{"image_url": "box.jpg"}, map[string]any{"image_url": "box-cropped.jpg"}
	first := b.run(t, box)
	load := func() {
		if err := b.cache.Load(t.Context()); err != nil { // as Run does now and then
			t.Fatal(err)
		}
	}
	load()
	b.model.fields = `{"waste_type":"other words","confidence":0.5,"feedback":"other words","category":"` + first.Category + `","recyclable":` + map[bool]string{true: "true", false: "false"}[first.Recyclable] + `}`
	asked := b.run(t, cropped)
	if asked.Cached != nil || asked.WasteType != "other words" || b.model.visions.Load() != 2 {
		t.Errorf("got %+v after %d calls, want an answer of its own", asked, b.model.visions.Load())
	}
	if again := b.run(t, cropped); again.Cached == nil || *again.Cached != "exact" || again.WasteType != "other words" || b.model.visions.Load() != 2 {
		t.Errorf("again: got %+v after %d calls, want that answer", again, b.model.visions.Load())
	}
	if err := b.cache.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.redis.Del(t.Context(), cache.Key(hashOf(t, asked.PHash), cache.Variant{})).Err(); err != nil {
		t.Fatal(err)
	}
	b.model.fields = `{"waste_type":"x","confidence":0.5,"feedback":"x","category":"another","recyclable":false}`
	b.run(t, cropped)
	if err := b.cache.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := b.cache.Stats(t.Context(), 1, 0)
	if err != nil || len(s.Canary) != 1 {
		t.Fatalf("got %+v, %v", s.Canary, err)
	}
	if diff := cmp.Diff(cache.Canary{Distance: s.Canary[0].Distance, Asked: 2, Differs: 1}, s.Canary[0]); diff != "" || s.Canary[0].Distance < 2 {
		t.Errorf("canaries: %s", diff)
	}

	// Where the model cannot be asked the near answer is used, and nothing is counted.
	if err := b.redis.Del(t.Context(), cache.Key(hashOf(t, asked.PHash), cache.Variant{})).Err(); err != nil {
		t.Fatal(err)
	}
	b.model.fail = func() error { return errors.New("away") }
	if got := b.run(t, cropped); got.Cached == nil || *got.Cached != "near" {
		t.Errorf("without the model: got %+v, want the near answer", got)
	}
	if err := b.cache.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err := b.cache.Stats(t.Context(), 1, 0); err != nil || s.Canary[0].Asked != 2 {
		t.Errorf("without the model: got %+v, %v", s.Canary, err)
	}
}

// TestCanaryOfWhatAPersonSays asks nobody about a picture that is near one with a correction.
func TestCanaryOfWhatAPersonSays(t *testing.T) {
	b := setup(t)
	cfg := DefaultConfig()
	cfg.Canary = 1
	b.task = NewImageAnalyze(cfg, b.pictures, b.cache, b.progress, b.model, prometheus.NewRegistry(), zap.NewNop())
	first := b.run(t, map[string]any{"image_url": "box.jpg"})
	picture := cache.Picture{Fingerprint: phash.Fingerprint{Hash: hashOf(t, first.PHash)}}
	if _, err := b.cache.Correct(t.Context(), picture, cache.Variant{}, cache.Correction{WasteType: new("a person's")}, false); err != nil {
		t.Fatal(err)
	}
	if err := b.cache.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.run(t, map[string]any{"image_url": "box-cropped.jpg"}); got.Cached == nil || *got.Cached != "near" || got.WasteType != "a person's" || b.model.visions.Load() != 1 {
		t.Errorf("got %+v after %d calls, want what the person says, and nobody asked", got, b.model.visions.Load())
	}
}

// TestCanaryOffline has no model that could be asked.
func TestCanaryOffline(t *testing.T) {
	b := setup(t)
	cfg := DefaultConfig()
	cfg.Canary = 1
	b.task = NewImageAnalyze(cfg, b.pictures, b.cache, b.progress, vision.NewOffline(), prometheus.NewRegistry(), zap.NewNop())
	b.run(t, map[string]any{"image_url": "box.jpg"})
	if err := b.cache.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.run(t, map[string]any{"image_url": "box-cropped.jpg"}); got.Cached == nil || *got.Cached != "near" {
		t.Errorf("got %+v, want the near answer", got)
	}
}

// TestCanaryWithinTheLimit has the model hang in a canary: the job has the near answer before its time limit is over.
func TestCanaryWithinTheLimit(t *testing.T) {
	b := setup(t)
	cfg := DefaultConfig()
	cfg.Canary = 1
	b.task = NewImageAnalyze(cfg, b.pictures, b.cache, b.progress, b.model, prometheus.NewRegistry(), zap.NewNop())
	began := time.Now()
	b.run(t, map[string]any{"image_url": "box.jpg"})
	took := time.Since(began) // where the machine is busy a picture takes seconds
	if err := b.cache.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.model.enter = make(chan struct{})
	req := request(t, map[string]any{"image_url": "box-cropped.jpg"})
	req.SoftTimeLimit = 3*time.Second + 20*took
	ctx, cancel := context.WithTimeout(t.Context(), req.SoftTimeLimit)
	defer cancel()
	got, err := b.task.Run(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if r := got.(*Result); r.Cached == nil || *r.Cached != "near" || b.model.visions.Load() != 2 {
		t.Errorf("got %+v after %d calls, want the near answer", r, b.model.visions.Load())
	}
}

// TestSharedCallOfACanary ends a call at the time of a job that has an answer: to those who share it, and have none, that
// is a fault that passes.
func TestSharedCallOfACanary(t *testing.T) {
	b := setup(t)
	b.model.enter = make(chan struct{})
	r := &run{t: b.task, taskID: "task-1", callsEnd: time.Now().Add(20 * time.Millisecond)}
	var spent vision.Usage
	_, err := r.askModel(t.Context(), &cache.Query{Stale: &cache.Entry{}}, &vision.Preview{JPEG: []byte("x")}, &vision.Options{}, &spent)
	var e *vision.Error
	if !errors.As(err, &e) || e.Class != vision.Unreachable {
		t.Errorf("got %v, want an *Error of class unreachable", err)
	}
}

// TestNoCanary asks about no near hit by default.
func TestNoCanary(t *testing.T) {
	b := setup(t)
	b.run(t, map[string]any{"image_url": "box.jpg"})
	if got := b.run(t, map[string]any{"image_url": "box-cropped.jpg"}); got.Cached == nil || *got.Cached != "near" || b.model.visions.Load() != 1 {
		t.Errorf("got %+v after %d calls, want the near answer", got, b.model.visions.Load())
	}
}

func hashOf(t *testing.T, text string) phash.Hash {
	t.Helper()
	h, err := phash.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
