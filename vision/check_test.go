package vision

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// endpoint plays a server that differs from OpenAI's in some way: schema, object and plain are its
// answers to a request in each format, text that to one without a picture.
type endpoint struct{ schema, object, plain, text answer }

func (e endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var req struct {
		sentRequest
		Messages []json.RawMessage `json:"messages"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	picture := false
	for _, m := range req.Messages {
		picture = picture || strings.Contains(string(m), "image_url")
	}
	answer := e.plain
	switch {
	case !picture:
		answer = e.text
	case req.ResponseFormat != nil && req.ResponseFormat.Type == "json_schema":
		answer = e.schema
	case req.ResponseFormat != nil:
		answer = e.object
	}
	if answer == nil {
		answer = fails(418, `{"error":{"message":"was not to be asked"}}`)
	}
	answer(w, r)
}

func TestCheck(t *testing.T) {
	t.Parallel()
	const code = `{"left":"red","code":"q7"}`
	red, yes := says("The left half is red."), says("Yes.")
	noFormat := fails(400, `{"error":{"message":"This response_format type is unavailable now"}}`)
	with := func(a answer, header ...string) answer {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			a(w, r)
		}
	}
	in := func(field string, more ...any) answer {
		m := map[string]any{"role": "assistant", "content": "", field: code}
		for i := 0; i+1 < len(more); i += 2 {
			m[more[i].(string)] = more[i+1]
		}
		return completion(m, "stop")
	}
	for _, tt := range []struct {
		name   string
		server endpoint
		want   string // picture schema object format where calls
		advice string
		err    Class
	}{
		{"enforces (OpenAI)", endpoint{schema: with(says(code), "X-Ratelimit-Limit-Requests", "500")}, "enforced enforced not tried json_schema content 1", "no price is set", ""},
		{"ignores the schema (Gemini's proxies)", endpoint{schema: red, object: says(code)}, "enforced ignored heeded json_object content 2", "does not enforce the schema", ""},
		{"ignores all forms", endpoint{schema: red, object: red, plain: says(code)}, "enforced ignored ignored none content 3", "ONCEOVER_VISION_FORMAT=none", ""},
		{"heeds it in a fence (llama.cpp)", endpoint{schema: says("```json\n" + code + "\n```")}, "enforced heeded not tried json_schema content 1", "does not enforce", ""},
		{"refuses json_schema (DeepSeek)", endpoint{schema: noFormat, object: says(code)}, "enforced refused heeded json_object content 2", "ONCEOVER_VISION_FORMAT=json_object", ""},
		{"refuses json_object (LM Studio)", endpoint{schema: noFormat, object: fails(400, `{"error":"'response_format.type' must be 'json_schema' or 'text'"}`), plain: says(code)}, "enforced refused refused none content 3", "ONCEOVER_VISION_FORMAT=none", ""},
		{"refuses with 422", endpoint{schema: fails(422, `{"detail":[{"msg":"json_schema: unknown"}]}`), object: says(code)}, "enforced refused heeded json_object content 2", "", ""},
		{"refuses keywords (Gemini)", endpoint{schema: fails(400, `{"error":{"message":"Unknown name \"additionalProperties\""}}`), object: says(code)}, "enforced refused heeded json_object content 2", "", ""},
		{"answers in reasoning (Ollama)", endpoint{schema: in("reasoning")}, "enforced enforced not tried json_schema reasoning 1", "the answer comes in reasoning", ""},
		{"answers in reasoning_content (vLLM)", endpoint{schema: in("reasoning_content")}, "enforced enforced not tried json_schema reasoning_content 1", "thinking off", ""},
		{"answers in a tool call (LiteLLM)", endpoint{schema: in("tool_calls", "tool_calls", []any{map[string]any{"function": map[string]any{"arguments": code}}})}, "enforced enforced not tried json_schema tool_calls 1", "", ""},
		{"answers in parts (Mistral)", endpoint{schema: completion(map[string]any{"content": []any{map[string]any{"type": "thinking"}, map[string]any{"type": "text", "text": code}}}, "stop")}, "enforced enforced not tried json_schema content 1", "", ""},
		{"does not see the picture", endpoint{schema: says(`{"left":"blue","code":"q7"}`)}, "ignored enforced not tried json_schema content 1", "does not see the picture", ""},
		{"refuses the picture (a text model)", endpoint{schema: fails(400, `{"error":{"message":"m is not a multimodal model"}}`), object: fails(400, `{"error":{"message":"m is not a multimodal model"}}`), text: yes, plain: nil}, "refused not tried not tried   4", "does not take pictures", Invalid},
		{"thinks to the limit", endpoint{schema: completion(map[string]any{"content": "", "reasoning": "hm"}, "length"), object: completion(map[string]any{"content": ""}, "length"), plain: completion(map[string]any{"content": ""}, "length")}, "ignored ignored ignored   3", "max_completion_tokens", ""},
		{"counts no tokens", endpoint{schema: fails(200, `{"choices":[{"message":{"content":`+string(mustMarshal(code))+`}}]}`)}, "enforced enforced not tried json_schema content 1", "does not count tokens", ""},
		{"answers for another (a proxy)", endpoint{schema: fails(200, `{"model":"other-1","choices":[{"message":{"content":`+string(mustMarshal(code))+`}}]}`)}, "enforced enforced not tried json_schema content 1", "calls itself other-1", ""},
		{"does not accept the key", endpoint{schema: fails(401, `{}`)}, "not tried not tried not tried   1", "", Denied},
		{"has no such model", endpoint{schema: fails(404, `{"error":{"code":"model_not_found"}}`)}, "not tried not tried not tried   1", "", NotFound},
		{"has no money left", endpoint{schema: fails(429, `{"error":{"code":"insufficient_quota"}}`)}, "not tried not tried not tried   1", "", Quota},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, tt.server)
			o, err := NewOpenAI(OpenAIConfig{BaseURL: s + "/v1", Model: "test-model", APIKey: testKey, Prompts: defaultPrompts(t)})
			if err != nil {
				t.Fatal(err)
			}
			p, err := o.Check(t.Context())
			if p == nil {
				t.Fatal(err)
			}
			got := strings.Join([]string{string(p.Picture), string(p.JSONSchema), string(p.JSONObject), string(p.Format), p.Where, string(rune('0' + p.Calls))}, " ")
			if got != tt.want || p.Calls > maxChecks {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if !strings.Contains(strings.Join(p.Advice, "\n"), tt.advice) {
				t.Errorf("got advice %q, want %q in it", p.Advice, tt.advice)
			}
			if tt.err == "" && err != nil {
				t.Errorf("got %v", err)
			} else if tt.err != "" {
				if e := wantError(t, err, ""); e.Class != tt.err {
					t.Errorf("got class %s, want %s", e.Class, tt.err)
				}
			}
		})
	}
}

// TestPerMinute reads limits from headers as endpoints send them with an answer.
func TestPerMinute(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		headers          string
		requests, tokens int
	}{
		"OpenAI":                 {"limit-requests: 500, remaining-requests: 499, reset-requests: 120ms, limit-tokens: 200000, remaining-tokens: 199030, reset-tokens: 291ms", 500, 200000},
		"Groq":                   {"limit-requests: 14400, remaining-requests: 14399, reset-requests: 6s, limit-tokens: 6000, remaining-tokens: 5000, reset-tokens: 10s", 0, 6000},
		"Mistral":                {"limit-req-minute: 60, remaining-req-minute: 59, limit-tokens-minute: 500000, remaining-tokens-minute: 499000", 60, 500000},
		"Azure, without a reset": {"limit-requests: 10, remaining-requests: 9", 0, 0},
		"nothing used":           {"limit-requests: 10, remaining-requests: 10, reset-requests: 0s", 0, 0},
		"nothing left":           {"limit-requests: 10, remaining-requests: 0, reset-requests: 60s", 0, 0},
		"nonsense":               {"limit-requests: many, remaining-requests: -1, reset-requests: soon", 0, 0},
		"none":                   {"", 0, 0},
	} {
		p := &Profile{Model: "m", Calls: 1, Limits: map[string]string{}}
		for _, h := range strings.Split(tt.headers, ", ") {
			if key, value, ok := strings.Cut(h, ": "); ok {
				p.Limits["x-ratelimit-"+key] = value
			}
		}
		if r, n := p.perMinute("requests"), p.perMinute("tokens"); r != tt.requests || n != tt.tokens {
			t.Errorf("%s: got %d requests and %d tokens, want %d and %d", name, r, n, tt.requests, tt.tokens)
		}
		c := checker{o: &OpenAI{name: onlyEndpoint}, p: p}
		c.advise()
		if got := strings.Contains(strings.Join(p.Advice, "\n"), fmt.Sprintf("ONCEOVER_VISION_RPM=%d,", tt.requests)); got != (tt.requests > 0) {
			t.Errorf("%s: got advice %q", name, p.Advice)
		}
	}
}
