package eval

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image/color"
	"image/jpeg"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"onceover/vision"
	"onceover/vision/prompt"
)

// testFolder asks for one of three colours.
const testFolder = `---
output:
  schema:
    type: object
    properties:
      category: {type: string, enum: [red, green, blue, unclassified]}
      confidence: {type: number, minimum: 0, maximum: 1}
    required: [category, confidence]
---
{{role "user"}}
{{media url=picture}}
`

var (
	red   = color.RGBA{220, 0, 0, 255}
	green = color.RGBA{0, 200, 0, 255}
	blue  = color.RGBA{0, 0, 220, 255}
	black = color.RGBA{0, 0, 0, 255}       // refused
	white = color.RGBA{255, 255, 255, 255} // broken
	grey  = color.RGBA{120, 120, 120, 255} // HTTP 429 at first
)

// endpoint plays the paid API: it looks at the colour of the picture. Each answer takes 1000 and 100 tokens.
type endpoint struct {
	*httptest.Server
	mu    sync.Mutex
	calls map[string]int // by picture, as it was sent
	count int
	busy  int // most calls at once
	now   int
	hold  func(n int)

	refuseFirst bool // the server's own check does not let the first answer pass
}

// holdCalls has f called for each request before it is answered, with its number.
func (e *endpoint) holdCalls(f func(n int)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hold = f
}

func newEndpoint(t *testing.T) *endpoint {
	t.Helper()
	e := &endpoint{calls: map[string]int{}}
	e.Server = httptest.NewServer(http.HandlerFunc(e.serve))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) serve(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, data, _ := strings.Cut(string(raw), "data:image/jpeg;base64,")
	data, _, _ = strings.Cut(data, `"`)
	e.mu.Lock()
	e.calls[data]++
	again := e.calls[data] > 1
	e.count++
	e.now++
	e.busy = max(e.busy, e.now)
	n, hold := e.count, e.hold
	e.mu.Unlock()
	defer func() { e.mu.Lock(); e.now--; e.mu.Unlock() }()
	if hold != nil {
		hold(n)
	}
	if e.refuseFirst && n == 1 {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error": {"code": "json_validate_failed", "message": "the answer is no JSON"}}`)
		return
	}
	img, err := jpeg.Decode(base64.NewDecoder(base64.StdEncoding, strings.NewReader(data)))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	cr, cg, cb, _ := img.At(32, 32).RGBA()
	high := func(c uint32) bool { return c > 0x9000 }
	text, refusal := "", ""
	switch {
	case high(cr) && high(cg) && high(cb):
		text = "I cannot say."
	case high(cr):
		text = `{"category": "red", "confidence": 0.9}`
	case high(cg):
		text = `{"category": "green", "confidence": 0.8}`
	case high(cb):
		text = `{"category": "red", "confidence": 0.7}` // wrong
	case cr > 0x4000 && !again:
		w.Header().Set("Retry-After-Ms", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case cr > 0x4000:
		text = `{"category": "unclassified", "confidence": 0.1}`
	default:
		refusal = "I will not look at this."
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"model":   "model-2026",
		"choices": []any{map[string]any{"finish_reason": "stop", "message": map[string]any{"content": text, "refusal": refusal}}},
		"usage":   map[string]any{"prompt_tokens": 1000, "completion_tokens": 100},
	})
}

// total returns how many calls there were, and the most for one picture.
func (e *endpoint) total() (all, most int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.calls {
		most = max(most, n)
	}
	return e.count, most
}

// testModel asks the endpoint. A call takes 1000 x 1 + 100 x 10 micro-dollars.
func testModel(t testing.TB, url, name string) Model {
	t.Helper()
	folder, err := prompt.Load(fstest.MapFS{"analysis.prompt": {Data: []byte(testFolder)}})
	if err != nil {
		t.Fatal(err)
	}
	o, err := vision.NewOpenAI(vision.OpenAIConfig{BaseURL: url + "/v1", Model: name, Prompts: folder, DefaultLang: "en", HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	if err != nil {
		t.Fatal(err)
	}
	return Model{Name: name, Analyzer: o, Lang: "en", Price: PerMillion(1_000_000, 10_000_000)}
}

const callCost = 2000 // micro-dollars

var testHeader = Header{Field: "category", Confidence: "confidence", Lang: "en"}

// testItems makes pictures, each labelled with the name of its colour, and checks them.
func testItems(t testing.TB, dir string, each int, colours map[string]color.RGBA) []Item {
	t.Helper()
	for name, c := range colours {
		for i := range each {
			pictureFile(t, filepath.Join(dir, name, fmt.Sprintf("%d.png", i)), c, uint8(i*7))
		}
	}
	items, err := ReadLabels(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := testPictures.Check(t.Context(), items, 2, nil); err != nil {
		t.Fatal(err)
	}
	distinct, copies, err := Distinct(items)
	if err != nil || copies > 0 {
		t.Fatalf("got %d copies, %v", copies, err)
	}
	return distinct
}

func openResults(t testing.TB, path string, resume bool) *Results {
	t.Helper()
	r, err := OpenResults(path, testHeader, resume)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() }) // most tests have closed it
	return r
}

func mustVerdict(t *testing.T, r *Results, it Item, model string) Verdict {
	t.Helper()
	v, ok := r.Verdict(it.Digest, model)
	if !ok {
		t.Fatalf("%s has not been asked about %s", model, it.ID)
	}
	return v
}

// outcomes counts the verdicts about pictures.
func outcomes(r *Results, items []Item, models ...Model) map[Outcome]int {
	out := map[Outcome]int{}
	for _, it := range items {
		for _, m := range models {
			v, _ := r.Verdict(it.Digest, m.Name)
			out[v.Outcome]++
		}
	}
	return out
}
