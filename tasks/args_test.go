package tasks

import (
	"encoding/json"
	"strings"
	"testing"

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
