package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"onceover/internal/testenv"
)

// TestLiteLLM puts a real gateway between the worker and the model: a limit behind it is waited for as
// long as it says, and a budget that has run out is told from a limit. It takes the start of the
// gateway, 10 s of a core, and the wait.
func TestLiteLLM(t *testing.T) {
	b := setup(t)
	var (
		mu    sync.Mutex
		calls []time.Time
	)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		if strings.Contains(string(body), "image_url") { // not of the gateway's own
			calls = append(calls, time.Now())
		}
		n := len(calls)
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if n == 1 {
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}`)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"id": "c", "object": "chat.completion", "created": 1, "model": "m-2026-01-01",
			"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": wasteAnswer}}},
			"usage":   map[string]any{"prompt_tokens": 900, "completion_tokens": 50, "total_tokens": 950},
		})
	}))
	defer upstream.Close()
	url := testenv.LiteLLM(t, `
model_list:
  - model_name: test-model
    litellm_params: {model: openai/m, api_base: "`+upstream.URL+`/v1", api_key: none, input_cost_per_token: 0.000001, output_cost_per_token: 0.000002}
litellm_settings: {num_retries: 0}
router_settings:
  provider_budget_config: {openai: {budget_limit: 0.0005, time_period: 1d}}
general_settings: {master_key: sk-gateway}
`)
	gateway := []string{"ONCEOVER_VISION_URL=" + url + "/v1", "ONCEOVER_VISION_API_KEY=sk-gateway"}
	w := b.worker(gateway...)
	got := b.client("run", analyze("image_url", b.picture("bottle.jpg")))[0]
	if got.State != "SUCCESS" || got.Value["waste_type"] != "plastic" || fmt.Sprint(got.Value["usage"]) != "map[calls:2 completion_tokens:50 prompt_tokens:900]" {
		t.Errorf("got %+v", got)
	}
	mu.Lock()
	if len(calls) != 2 || calls[1].Sub(calls[0]) < 3*time.Second {
		t.Errorf("got calls at %v, want two, as far apart as the limit asks for", calls)
	}
	mu.Unlock()

	// The first answer has cost more than the budget.
	sent := b.client("send", analyze("image_url", b.picture("can.jpg")))
	w.wait("the account has no quota left", 1)
	if s := b.state(sent[0].ID); s != "RETRY" {
		t.Errorf("got %s over the budget, want RETRY", s)
	}
	b.env = append(b.env, gateway...)
	out, errs, code := b.onceover("vision", "check")
	if code != 1 || !strings.Contains(errs, "no quota left") || !strings.Contains(out, "in 1 call") {
		t.Errorf("vision check: got exit code %d, %s%s", code, out, errs)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(calls) != 2 {
		t.Errorf("got %d calls behind the gateway, want none over its budget", len(calls)-2)
	}
	if strings.Contains(w.log.String(), "sk-gateway") || strings.Contains(out+errs, "sk-gateway") {
		t.Error("the key is shown")
	}
}
