package tasks

import (
	"encoding/json"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"

	"onceover/celery"
	"onceover/vision"
	"onceover/vision/prompt"
)

// TestLangIsThatOfTheModel: what the arguments let through, the model takes.
func TestLangIsThatOfTheModel(t *testing.T) {
	for _, lang := range []string{"ko", "pt-BR", "zh-Hant-TW", "abcd-x", "en-GB-oxendict", "de-u-co-phonebk", "korean language"} {
		raw, err := celery.MarshalJSON(lang)
		if err != nil {
			t.Fatal(err)
		}
		_, refused := bind(&celery.Request{ID: "i", Task: "image.analyze", Kwargs: map[string]json.RawMessage{
			"image_url": json.RawMessage(`"a.jpg"`), "lang": raw,
		}})
		_, byModel := vision.NewOpenAI(vision.OpenAIConfig{BaseURL: "https://api.example.com/v1", Model: "m", DefaultLang: lang, Prompts: prompt.Builtin()})
		if (refused == nil) != (byModel == nil) {
			t.Errorf("%s: the arguments say %v, the model %v", lang, refused, byModel)
		}
		if refused != nil && !strings.HasPrefix(refused.Error(), "ValueError: image.analyze() argument 'lang'") {
			t.Errorf("%s: got %v, want a ValueError that names the argument", lang, refused)
		}
	}
}

// TestLogFields has whose job it was and of which picture, whatever else is wrong with it, and no secret.
func TestLogFields(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("u", 10_000)
	for _, tt := range []struct {
		kwargs map[string]any
		want   [3]string // job, user, picture
	}{
		{map[string]any{"job_id": "j", "user_id": "u-1", "image_url": "https://store.example/a.jpg?X-Amz-Signature=secret"}, [3]string{"j", "u-1", "https://store.example/a.jpg?…"}},
		{map[string]any{"job_id": 7, "user_id": 42, "image_url": "data:image/png;base64,AAAA"}, [3]string{"7", "42", "data:image/png;… (4 bytes)"}},
		{map[string]any{"image_url": "https://store.example/a.jpg", "lang": "?"}, [3]string{"id", "", "https://store.example/a.jpg"}},
		{map[string]any{"image_url": "a.jpg", "user_id": long}, [3]string{"id", long[:500] + "…", "a.jpg"}},
		{nil, [3]string{"id", "", ""}},
	} {
		req := request(t, tt.kwargs)
		req.ID = "id"
		enc := zapcore.NewMapObjectEncoder()
		for _, f := range (&ImageAnalyze{}).LogFields(req) {
			f.AddTo(enc)
		}
		if got := [3]string{enc.Fields["job_id"].(string), enc.Fields["user_id"].(string), enc.Fields["image_url"].(string)}; got != tt.want {
			t.Errorf("%v: got %.100q, want %.100q", tt.kwargs, got, tt.want)
		}
	}
}
