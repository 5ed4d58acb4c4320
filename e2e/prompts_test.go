package e2e

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestWordsOfTheService has a model answer with the words that the Python service in production
// writes, in a fence as many models do: they are an answer, paid for once.
func TestWordsOfTheService(t *testing.T) {
	b := setup(t)
	b.model.answer = "```json\n{\"waste_type\": \"PET 플라스틱\", \"category\": \"플라스틱류\", \"recyclable\": true, \"confidence\": 0.9, \"feedback\": \"헹궈서 버리세요\"}\n```"
	b.worker()
	got := b.client("run", analyze("image_url", b.picture("bottle.jpg")))[0]
	if got.State != "SUCCESS" || got.Value["waste_type"] != "PET 플라스틱" || got.Value["category"] != "플라스틱" || got.Value["model"] != "test-model" {
		t.Errorf("got %+v", got)
	}
	if n := b.model.vision.Load(); n != 1 {
		t.Errorf("got %d vision calls, want 1", n)
	}
}

// TestReceipts runs another domain than waste from its folder in examples.
func TestReceipts(t *testing.T) {
	b := setup(t)
	folder, err := filepath.Abs("../examples/receipts")
	if err != nil {
		t.Fatal(err)
	}
	b.env = append(b.env, "ONCEOVER_PROMPTS="+folder, "ONCEOVER_LANG=en")
	b.model.answer = `{"merchant": "A & B", "date": "2026-11-28", "currency": "₩", "total": "12500", "lines": [{"text": "tea", "amount": 12500}], "confidence": 0.8, "feedback": "Tea."}`
	b.worker()
	url := b.picture("box.jpg")
	got := b.client("run", analyze("image_url", url), analyze("image_url", url, "user_input", "How much?"))
	for i, o := range got {
		if v := o.Value; o.State != "SUCCESS" || v["merchant"] != "A & B" || v["currency"] != "KRW" || v["total"] != 12500.0 ||
			fmt.Sprint(v["lines"]) != "[map[amount:12500 text:tea]]" || v["waste_type"] != "" || v["recyclable"] != false || v["confidence"] != 0.8 {
			t.Errorf("job %d: got %+v", i, o)
		}
	}
	if got[0].Value["feedback"] != "Tea." || got[1].Value["feedback"] != "질문에 대한 답변입니다" {
		t.Errorf("got feedback %v and %v", got[0].Value["feedback"], got[1].Value["feedback"])
	}
	if n, m := b.model.vision.Load(), b.model.text.Load(); n != 1 || m != 1 {
		t.Errorf("got %d vision calls and %d for the question, want one of each", n, m)
	}
	hash := fmt.Sprint(got[0].Value["phash"])
	out, errs, code := b.onceover("cache", "get", hash)
	if code != 0 || !strings.Contains(out, "merchant     A & B") || !strings.Contains(out, `lines        [{"text":"tea","amount":12500}]`) || strings.Contains(out, "waste type") {
		t.Errorf("cache get: got exit code %d, %s%s", code, out, errs)
	}
	if _, errs, code := b.onceover("cache", "set", hash, "--json", `{"currency": "KRV"}`); code != 2 || !strings.Contains(errs, `currency is "KRV": expected one of KRW, USD`) {
		t.Errorf("cache set of a currency that is none: got exit code %d, %s", code, errs)
	}
	if out, errs, code := b.onceover("cache", "set", hash, "--json", `{"total": 99, "currency": "usd"}`); code != 0 || !strings.Contains(out, "currency     USD") {
		t.Errorf("cache set: got exit code %d, %s%s", code, out, errs)
	}
	if got := b.client("run", analyze("image_url", url))[0]; got.Value["total"] != 99.0 || got.Value["currency"] != "USD" || got.Value["merchant"] != "A & B" {
		t.Errorf("after the correction: got %+v", got)
	}
}

// TestNoModel says at the start and in /readyz that no model is configured, unless that is wished for.
func TestNoModel(t *testing.T) {
	for name, tt := range map[string]struct{ env, want string }{
		"forgotten":  {"ONCEOVER_OFFLINE=false", "no vision model is configured"},
		"wished for": {"ONCEOVER_OFFLINE=true", `{"ready":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			w := b.worker("ONCEOVER_VISION_URL=", "ONCEOVER_VISION_MODEL=", tt.env)
			w.wait(`"msg":"ready"`, 1)
			resp, err := http.Get("http://" + w.httpAddr() + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), tt.want) {
				t.Errorf("got %d, %s, %v, want %s", resp.StatusCode, body, err, tt.want)
			}
			if said := strings.Contains(w.log.String(), "no vision model is configured"); said != (tt.want != `{"ready":true}`) {
				t.Errorf("the log says it: %v", said)
			}
		})
	}
}
