package tasks

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/celery"
	"onceover/phash"
	"onceover/vision"
	"onceover/vision/prompt"
)

// TestPaidIsCarriedOver tells the model what earlier attempts of the job have paid for, until the job
// is replayed.
func TestPaidIsCarriedOver(t *testing.T) {
	b := setup(t)
	b.model.fail = func() error { return &vision.Error{Class: vision.Overloaded, Err: errors.New("503")} }
	attempt := func(retries, paid int) {
		t.Helper()
		r := request(t, map[string]any{"image_url": "can.jpg"})
		r.Retries = retries
		var again *celery.Retry
		if _, err := b.task.Run(t.Context(), r); !errors.As(err, &again) {
			t.Fatalf("got %v, want a retry", err)
		}
		if got := int(b.model.paid.Load()); got != paid {
			t.Errorf("retry %d: the model was told of %d answers, want %d", retries, got, paid)
		}
	}
	attempt(0, 0)
	attempt(1, 1)
	r := request(t, map[string]any{"image_url": "can.jpg"})
	r.Retries = 2
	var exc *celery.Exception
	if _, err := b.task.Run(t.Context(), r); !errors.As(err, &exc) || !strings.Contains(exc.Error(), "2 calls were paid for") || b.model.visions.Load() != 2 {
		t.Errorf("got %v after %d calls, want that no third is made", err, b.model.visions.Load())
	}
	if _, err := b.progress.ResetMarks(t.Context(), "task-1"); err != nil { // as a replay does
		t.Fatal(err)
	}
	attempt(1, 0)

	// An answer counts too: it may not be in the cache any more when a later attempt comes.
	b.model.fail = nil
	b.run(t, map[string]any{"image_url": "box.jpg"})
	if n, err := b.progress.Paid(t.Context(), "task-1", kindVision); n != 2 || err != nil {
		t.Errorf("got %d answers on record, %v, want two since the replay", n, err)
	}
}

// TestRefusalIsRemembered does not ask the same model once more about a picture that it refuses.
func TestRefusalIsRemembered(t *testing.T) {
	b := setup(t)
	b.model.fail = func() error {
		return &vision.Error{Class: vision.Refused, Err: errors.New("the model refused to answer")}
	}
	for range 2 {
		var exc *celery.Exception
		if _, err := b.task.Run(t.Context(), request(t, map[string]any{"image_url": "can.jpg"})); !errors.As(err, &exc) || exc.Error() != "RuntimeError: the model refused to answer" {
			t.Errorf("got %v, want the refusal", err)
		}
	}
	if n := b.model.visions.Load(); n != 1 {
		t.Errorf("got %d calls, want 1", n)
	}
	b.model.fail = nil
	b.run(t, map[string]any{"image_url": "can.jpg", "model": "another"})
	b.model.prompt = "v2"
	b.run(t, map[string]any{"image_url": "can.jpg"})
	if n := b.model.visions.Load(); n != 3 {
		t.Errorf("got %d calls, want one of each model and prompt", n)
	}
}

// TestAnotherDomain answers with other fields than those of waste. What was cached of waste is no
// answer then.
func TestAnotherDomain(t *testing.T) {
	b := setup(t)
	folder, err := prompt.Load(fstest.MapFS{
		"analysis.prompt": {Data: []byte("---\noutput: {schema: {type: object, properties: {merchant: {type: string}, total: {type: number}, lines: {type: array, items: {type: string}}}, required: [total]}}\n---\n{{media url=picture}}")},
	})
	if err != nil {
		t.Fatal(err)
	}
	waste := b.run(t, map[string]any{"image_url": "can.jpg"})
	h, err := phash.Parse(waste.PHash)
	if err != nil {
		t.Fatal(err)
	}
	key := cache.Key(h, cache.Variant{})
	python := `{"user_email": "a@b", "job_id": 7, "waste_type": "PET 플라스틱", "confidence": 1, "feedback": "f", "category": "플라스틱", "recyclable": true, "analyzed_at": "2026-11-20T10:00:00"}`
	if err := b.redis.Set(t.Context(), key, python, cache.TTL).Err(); err != nil {
		t.Fatal(err)
	}
	if r := b.run(t, map[string]any{"image_url": "can.jpg"}); r.Cached == nil || r.WasteType != "PET 플라스틱" || r.Category != "플라스틱" || r.More != "" {
		t.Errorf("got %+v, want what Python wrote", r)
	}

	cfg := DefaultConfig()
	cfg.Prompts = folder
	b.task = NewImageAnalyze(cfg, b.pictures, b.cache, b.progress, b.model, prometheus.NewRegistry(), zap.NewNop())
	b.model.prompt, b.model.fields = "r1", `{"merchant":"A & B","total":12.50,"lines":["x"]}`
	fresh := b.run(t, map[string]any{"image_url": "can.jpg"})
	again := b.run(t, map[string]any{"image_url": "can.jpg"})
	if fresh.Cached != nil || again.Cached == nil || fresh.Entry != again.Entry {
		t.Errorf("got %+v, then %+v, want a fresh answer and the same again", fresh, again)
	}
	raw, err := celery.MarshalJSON(again)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"waste_type":"","confidence":0,"feedback":"","category":"","recyclable":false,"analyzed_at":"` + again.AnalyzedAt +
		`","prompt_version":"r1","lines":["x"],"merchant":"A & B","total":12.50,"job_id":"task-1","phash":"` + again.PHash + `","cached":"exact","model":"m-1"}`
	if string(raw) != want {
		t.Errorf("got  %s\nwant %s", raw, want)
	}
	var kept map[string]json.RawMessage
	if err := json.Unmarshal([]byte(b.redis.Get(t.Context(), key).Val()), &kept); err != nil || string(kept["total"]) != "12.50" || string(kept["waste_type"]) != `""` {
		t.Errorf("got entry %s, %v", kept, err)
	}
	if n := b.model.visions.Load(); n != 2 {
		t.Errorf("got %d calls, want one of each domain", n)
	}
}
