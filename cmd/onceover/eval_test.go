package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/internal/testenv"
	"onceover/phash"
	"onceover/vision/eval"
)

// evalEndpoint plays the paid API by the built-in English prompt: it answers by the colour of the picture, and takes blue
// for paper unless it is asked as "dear".
type evalEndpoint struct {
	*httptest.Server
	calls atomic.Int64
	hold  func(n int64)
}

func newEvalEndpoint(t *testing.T) *evalEndpoint {
	t.Helper()
	e := &evalEndpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		n := e.calls.Add(1)
		if e.hold != nil {
			e.hold(n)
		}
		var sent struct{ Model string }
		_, data, _ := strings.Cut(string(raw), "data:image/jpeg;base64,")
		data, _, _ = strings.Cut(data, `"`)
		img, imgErr := jpeg.Decode(base64.NewDecoder(base64.StdEncoding, strings.NewReader(data)))
		if err := errors.Join(imgErr, json.Unmarshal(raw, &sent)); err != nil {
			t.Errorf("request: %v", err)
			return
		}
		cr, _, cb, _ := img.At(32, 32).RGBA()
		category, confidence := "metal can", 0.6
		if cr > 0x9000 {
			category, confidence = "glass bottle", 0.8+float64(n%20)/100
		} else if cb > 0x9000 && sent.Model != "dear" {
			category = "paper"
		}
		answer := fmt.Sprintf(`{"waste_type":"item","category":%q,"recyclable":true,"confidence":%v,"feedback":"Rinse it."}`, category, confidence)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"model":   sent.Model,
			"choices": []any{map[string]any{"finish_reason": "stop", "message": map[string]any{"content": answer}}},
			"usage":   map[string]any{"prompt_tokens": 1000, "completion_tokens": 100},
		})
	}))
	t.Cleanup(e.Close)
	return e
}

// evalPictures writes pictures of two colours below dir: red is glass, blue is a can.
func evalPictures(t *testing.T, dir string, reds, blues int) {
	t.Helper()
	for i := range reds + blues {
		class, c := "Glass Bottle", color.RGBA{220, 0, 0, 255} // as the schema has it but for the case
		if i >= reds {
			class, c = "metal can", color.RGBA{0, 0, 220, 255}
		}
		img := image.NewRGBA(image.Rect(0, 0, 64, 64))
		draw.Draw(img, img.Rect, image.NewUniform(c), image.Point{}, draw.Src)
		for bit := range 10 { // a bar code of the number
			if i>>bit&1 == 1 {
				draw.Draw(img, image.Rect(6*bit, 0, 6*bit+6, 16), image.NewUniform(color.Gray{50}), image.Point{}, draw.Src)
			}
		}
		var buf bytes.Buffer
		if err := png.Encode(&buf, img); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, class, fmt.Sprintf("%03d.png", i)), buf.String())
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// evalRun runs the command in a folder of its own and returns what it prints, and its exit code with what it says then.
func evalRun(ctx context.Context, args ...string) (out, progress string, code int, fault string) {
	var stdout, stderr bytes.Buffer
	root := newRoot(stop{})
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(append([]string{"eval"}, args...))
	err := root.ExecuteContext(ctx)
	var coded *exitCodeError
	switch {
	case err == nil:
	case errors.As(err, &coded):
		code, fault = coded.code, err.Error()
	default:
		code, fault = exitError, err.Error()
	}
	return stdout.String(), stderr.String(), code, fault
}

// squeezed is a text with one space between any two words.
func squeezed(text string) string { return strings.Join(strings.Fields(text), " ") }

func TestEval(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	e := newEvalEndpoint(t)
	defer e.Close()
	dir := t.TempDir()
	evalPictures(t, filepath.Join(dir, "pictures"), 6, 4)
	jsonl, html := filepath.Join(dir, "r.jsonl"), filepath.Join(dir, "r.html")
	base := []string{filepath.Join(dir, "pictures"), "--vision-url", e.URL, "--lang", "en", "--out", jsonl, "--html", html, "--model", "cheap", "--price", "cheap=1/10"}

	out, progress, code, fault := evalRun(t.Context(), base...)
	if code != exitOK || e.calls.Load() != 10 {
		t.Fatalf("got exit code %d (%s) after %d calls", code, fault, e.calls.Load())
	}
	for _, want := range []string{"10 pictures of 2 classes", "accuracy 60.0 %", "cost 0.0200 USD", "per correct picture 0.00333 USD", ". . 4 #2 metal can",
		"0.53 – 0.60 4 0.600 0.000", "look at it: " + html} {
		if !strings.Contains(squeezed(out), want) {
			t.Errorf("got no %q in\n%s", want, out)
		}
	}
	if !strings.Contains(progress, "10 of 10: 6 right, 0.0200 USD\n") {
		t.Errorf("progress: got %q", progress)
	}
	page, err := os.ReadFile(html)
	if err != nil || strings.Count(string(page), "<img ") != 4 {
		t.Errorf("got %v, %d pictures on the page, want the 4 wrong ones", err, strings.Count(string(page), "<img "))
	}
	if info, err := os.Stat(html); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a page for its owner alone", info.Mode(), err)
	}

	if _, _, code, fault := evalRun(t.Context(), base...); code != exitUsage || !strings.Contains(fault, "expected --resume") {
		t.Errorf("again: got exit code %d, %s", code, fault)
	}
	if _, _, code, fault := evalRun(t.Context(), append(base, "--resume", "--min-accuracy", "0.61")...); code != exitError || fault != "accuracy of cheap is 60.0 %: expected at least 61.0 %" {
		t.Errorf("--min-accuracy: got exit code %d, %s", code, fault)
	}
	if _, _, code, fault := evalRun(t.Context(), append(base, "--resume", "--lang", "ko")...); code != exitUsage {
		t.Errorf("another language: got exit code %d, %s", code, fault)
	}
	out, _, code, fault = evalRun(t.Context(), append(base, "--resume", "--model", "dear", "--json", "--min-accuracy", "0.6")...)
	if code != exitOK || e.calls.Load() != 20 {
		t.Fatalf("two models: got exit code %d (%s) after %d calls", code, fault, e.calls.Load())
	}
	var got struct {
		Models []struct {
			Accuracy float64
			Priced   bool
		}
		Comparison struct {
			OnlySecond int     `json:"only_second"`
			P          float64 `json:"mcnemar_p"`
		}
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Models[0].Accuracy != 0.6 || got.Models[1].Accuracy != 1 || !got.Models[0].Priced || got.Models[1].Priced || got.Comparison.OnlySecond != 4 || got.Comparison.P != 0.125 {
		t.Errorf("got %+v", got)
	}
}

// TestEvalFiles refuses what would replace labels or answers, or be taken for a picture later.
func TestEvalFiles(t *testing.T) {
	t.Parallel()
	e := newEvalEndpoint(t)
	dir := t.TempDir()
	evalPictures(t, filepath.Join(dir, "p"), 1, 1)
	labels := filepath.Join(dir, "labels.csv")
	writeFile(t, labels, "picture,label\np/Glass Bottle/000.png,glass bottle\n")
	if err := os.Symlink(labels, filepath.Join(dir, "link.html")); err != nil {
		t.Fatal(err)
	}
	r := filepath.Join(dir, "r.jsonl")
	for want, args := range map[string][]string{
		"LABELS and --out are both":        {labels, "--out", labels, "--resume"},
		"LABELS and --html are both":       {labels, "--out", r, "--html", filepath.Join(dir, "link.html")},
		"--out and --html are both":        {labels, "--out", r, "--html", filepath.Join(dir, "p", "..", "r.jsonl")},
		"--html and --calibration are":     {labels, "--out", r, "--html", r + ".x", "--calibration", r + ".x"},
		"is in the folder of pictures: ex": {filepath.Join(dir, "p"), "--out", filepath.Join(dir, "p", "r.jsonl"), "--html", ""},
	} {
		_, _, code, fault := evalRun(t.Context(), append([]string{"--vision-url", e.URL, "--lang", "en", "--model", "m"}, args...)...)
		if code != exitUsage || !strings.Contains(fault, want) {
			t.Errorf("%q: got exit code %d, %s", args, code, fault)
		}
	}
	if e.calls.Load() != 0 {
		t.Errorf("got %d calls, want none", e.calls.Load())
	}
	// A page that cannot be written keeps back neither the table nor the answers.
	out, _, code, fault := evalRun(t.Context(), labels, "--vision-url", e.URL, "--lang", "en", "--model", "m", "--out", r, "--html", filepath.Join(dir, "none", "x.html"))
	if code != exitError || !strings.Contains(fault, "--html: ") || !strings.Contains(squeezed(out), "accuracy 100.0 %") {
		t.Errorf("got exit code %d, %s\n%s", code, fault, out)
	}
}

// TestEvalFaults names all faults before anything is paid.
func TestEvalFaults(t *testing.T) {
	t.Parallel()
	e := newEvalEndpoint(t)
	dir := t.TempDir()
	evalPictures(t, dir, 2, 1)
	writeFile(t, filepath.Join(dir, "labels.csv"), "picture,label\nGlass Bottle/000.png,glass bottle\nGlass Bottle/000.png,paper\nGlass Bottle/001.png,bottle of gin\n"+
		"gone.png,paper\nhttps://example.com/x.png,paper\nlabels.csv,paper\n")
	writeFile(t, filepath.Join(dir, "list.csv"), "picture,label\nmetal can/002.png,metal can\n")
	base := []string{"--vision-url", e.URL, "--lang", "en", "--out", filepath.Join(dir, "out", "r.jsonl"), "--html", "", "--model", "m"}
	_, _, code, fault := evalRun(t.Context(), append(base, filepath.Join(dir, "labels.csv"))...)
	for _, want := range []string{"labels.csv:3: Glass Bottle/000.png: is the same picture as labels.csv:2", `label "bottle of gin" of 1 picture cannot be an answer: category is "bottle of gin": expected one of`,
		"labels.csv:5: gone.png: no such file", "labels.csv:6: picture is a URL", "labels.csv:7: labels.csv: not a picture", "nothing has been asked"} {
		if !strings.Contains(fault, want) {
			t.Errorf("got no %q in\n%s", want, fault)
		}
	}
	if code != exitUsage {
		t.Errorf("got exit code %d", code)
	}
	list := filepath.Join(dir, "list.csv")
	for _, tt := range []struct{ args, want string }{
		{"--field nonsense", "--field nonsense: the schema has no such field"},
		{"--confidence-field sure", "--confidence-field sure"},
		{"--vision-url=", "vision-url is not set"},
		{"--parallel 0", "--parallel 0"},
		{"--max-pictures -1", "--max-pictures -1"},
		{"--min-accuracy 90", "--min-accuracy 90"},
		{"--retry-lost", "without --resume"},
		{"--max-cost much", `--max-cost "much"`},
		{"--max-cost 1usd", "no price of m: expected --price m=IN/OUT"},
		{"--price m=1", `--price "m=1"`},
		{"--price m=0/0", `--price "m=0/0"`},
		{"--price other=1/2", "--price is given for other, which is not asked"},
		{"--model m", "--model m is given twice"},
		{"--model n --model o", "--model is given 3 times"},
		{"--lang 1", "--lang"},
		{"--out /dev/null/x", "--out"},
		{"--corrections --cache-url redis://127.0.0.1:1", "cache-url"},
	} {
		_, _, code, fault := evalRun(t.Context(), append(append(base, list), strings.Fields(tt.args)...)...)
		if code == exitOK || !strings.Contains(fault, tt.want) {
			t.Errorf("%s: got exit code %d, %q, want %q", tt.args, code, fault, tt.want)
		}
	}
	writeFile(t, filepath.Join(dir, "none.csv"), "picture,label\n")
	if _, _, code, fault := evalRun(t.Context(), append(base, filepath.Join(dir, "none.csv"))...); code != exitUsage || !strings.Contains(fault, "has no pictures") {
		t.Errorf("no pictures: got exit code %d, %s", code, fault)
	}
	if n := e.calls.Load(); n != 0 {
		t.Errorf("got %d calls, want none", n)
	}
}

// TestEvalEndsEarly says how to go on after Ctrl-C, and at the cost limit.
func TestEvalEndsEarly(t *testing.T) {
	t.Parallel()
	e := newEvalEndpoint(t)
	dir := t.TempDir()
	evalPictures(t, filepath.Join(dir, "pictures"), 12, 0)
	ctx, cancel := context.WithCancel(t.Context())
	e.hold = func(n int64) {
		if n == 3 {
			cancel()
		}
	}
	base := []string{filepath.Join(dir, "pictures"), "--vision-url", e.URL, "--lang", "en", "--out", filepath.Join(dir, "r.jsonl"), "--html", "", "--vision-model", "m",
		"--vision-price-in", "1000000", "--vision-price-out", "10000000", "--parallel", "1"}
	out, progress, code, fault := evalRun(ctx, base...)
	if code != exitError || fault != "interrupted: 3 of 12 pictures have an answer; go on with --resume" || !strings.Contains(progress, "interrupted: waiting for the calls in flight") {
		t.Errorf("interrupted: got exit code %d, %s, %s", code, fault, progress)
	}
	if !strings.Contains(squeezed(out), "without a verdict 9 (0 failed, 0 lost, 9 open)") {
		t.Errorf("interrupted: got\n%s", out)
	}
	// A call takes 2,000 micro-dollars, the next picture up to four times as much: 7 are within 20,000.
	_, _, code, fault = evalRun(t.Context(), append(base, "--resume", "--max-cost", "0.02USD")...)
	if want := "stopped before --max-cost: 0.0140 USD of 0.0200 USD are spent, or may be, and 7 of 12 pictures have an answer; go on with --resume and a higher --max-cost"; code != exitError || fault != want {
		t.Errorf("limit: got exit code %d, %s, want %s", code, fault, want)
	}
	if n := e.calls.Load(); n != 7 {
		t.Errorf("got %d calls, want 7", n)
	}
	if _, _, code, fault := evalRun(t.Context(), append(base, "--resume", "--max-cost", "1")...); code != exitOK || e.calls.Load() != 12 {
		t.Errorf("gone on with: got exit code %d, %s, after %d calls", code, fault, e.calls.Load())
	}
}

// TestEvalSecondSignal ends the calls in flight, which are lost, and are asked again only on request.
func TestEvalSecondSignal(t *testing.T) {
	t.Parallel()
	e := newEvalEndpoint(t)
	dir := t.TempDir()
	evalPictures(t, filepath.Join(dir, "pictures"), 4, 0)
	ctx, cancel := context.WithCancel(t.Context())
	again, release := make(chan struct{}), make(chan struct{})
	e.hold = func(n int64) {
		if n == 2 {
			cancel()
			close(again)
			<-release
		}
	}
	base := []string{"eval", filepath.Join(dir, "pictures"), "--vision-url", e.URL, "--lang", "en", "--out", filepath.Join(dir, "r.jsonl"), "--html", "", "--model", "m", "--parallel", "1"}
	var out bytes.Buffer
	root := newRoot(stop{again: again})
	root.SetOut(&out)
	root.SetErr(io.Discard)
	root.SetArgs(base)
	err := root.ExecuteContext(ctx)
	close(release)
	if err == nil || !strings.Contains(err.Error(), "interrupted: 1 of 4 pictures have an answer") || !strings.Contains(out.String(), "3 (0 failed, 1 lost, 2 open)") {
		t.Fatalf("got %v\n%s", err, out.String())
	}
	if _, _, code, fault := evalRun(t.Context(), append(base[1:], "--resume")...); code != exitError || !strings.Contains(fault, "3 of 4 pictures have an answer, and 1 is lost") || e.calls.Load() != 4 {
		t.Errorf("got exit code %d, %s after %d calls", code, fault, e.calls.Load())
	}
	if _, _, code, fault := evalRun(t.Context(), append(base[1:], "--resume", "--retry-lost")...); code != exitOK || e.calls.Load() != 5 {
		t.Errorf("got exit code %d, %s after %d calls", code, fault, e.calls.Load())
	}
}

// TestEvalModelsFile takes endpoints by name, or by model at the usual tier, with their prices.
func TestEvalModelsFile(t *testing.T) {
	t.Parallel()
	e := newEvalEndpoint(t)
	dir := t.TempDir()
	evalPictures(t, filepath.Join(dir, "pictures"), 2, 2)
	file := filepath.Join(dir, "models.yaml")
	// A worker would refuse the file: the calibration is stale, and the last key is not here.
	writeFile(t, filepath.Join(dir, "stale.json"), "{}")
	writeFile(t, file, fmt.Sprintf("endpoints:\n  - {name: near, url: %q, model: cheap, price: {in: 1usd, out: 10usd}}\n"+
		"  - {name: far, url: %[1]q, model: dear, price: {in: 2usd, out: 20usd}, tier: {name: flex, price: 0.5}}\n"+
		"  - {name: locked, url: %[1]q, model: locked, key_env: ONCEOVER_TEST_NO_SUCH_KEY}\ncascade: {below: 0.5, calibration: stale.json}\n", e.URL))
	base := []string{filepath.Join(dir, "pictures"), "--models", file, "--lang", "en", "--html", "", "--max-cost", "1usd"}
	out, _, code, fault := evalRun(t.Context(), append(base, "--out", filepath.Join(dir, "a"), "--model", "near", "--model", "dear")...)
	if got := squeezed(out); code != exitOK || !strings.Contains(got, "accuracy 50.0 % 100.0 %") || !strings.Contains(got, "per picture 0.00200 USD 0.00400 USD") {
		t.Errorf("got exit code %d, %s\n%s", code, fault, out)
	}
	out, _, code, fault = evalRun(t.Context(), append(base, "--out", filepath.Join(dir, "b"))...)
	if got := squeezed(out); code != exitOK || !strings.Contains(got, "accuracy 50.0 %") || !strings.Contains(got, "results "+filepath.Join(dir, "b")+" cheap prompt version") {
		t.Errorf("the first: got exit code %d, %s\n%s", code, fault, out)
	}
	if _, _, code, fault := evalRun(t.Context(), append(base, "--out", filepath.Join(dir, "c"), "--model", "other")...); code != exitUsage || !strings.Contains(fault, "no endpoint has that name or model: expected one of near") {
		t.Errorf("another: got exit code %d, %s", code, fault)
	}
	if _, _, code, fault := evalRun(t.Context(), append(base[:len(base)-2:len(base)-2], "--out", filepath.Join(dir, "d"), "--model", "locked")...); code != exitUsage || !strings.Contains(fault, "the variable ONCEOVER_TEST_NO_SUCH_KEY that key_env names is not set") {
		t.Errorf("without a key: got exit code %d, %s", code, fault)
	}
}

// TestEvalCalibration writes the calibration of enough answers.
func TestEvalCalibration(t *testing.T) {
	t.Parallel()
	e := newEvalEndpoint(t)
	dir := t.TempDir()
	evalPictures(t, filepath.Join(dir, "pictures"), 150, 60)
	name := filepath.Join(dir, "c.json")
	args := []string{filepath.Join(dir, "pictures"), "--vision-url", e.URL, "--lang", "en", "--out", filepath.Join(dir, "r.jsonl"), "--html", "", "--model", "m", "--calibration", name}
	if _, _, code, fault := evalRun(t.Context(), args...); code != exitOK {
		t.Fatalf("got exit code %d, %s", code, fault)
	}
	doc, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := eval.ParseCalibration(doc)
	if err != nil || c.Model != "m" || c.N != 210 || c.Field != "category" || len(c.PromptVersion) != 8 || c.Apply(0.6) > 0.1 || c.Apply(0.9) < 0.9 {
		t.Errorf("got %+v, %v", c, err)
	}
	evalPictures(t, filepath.Join(dir, "few"), 3, 1)
	args[0], args[6], args[len(args)-1] = filepath.Join(dir, "few"), filepath.Join(dir, "few.jsonl"), filepath.Join(dir, "few.json")
	if _, _, code, fault := evalRun(t.Context(), args...); code != exitError || !strings.Contains(fault, "--calibration is not written: no calibration: 4 answers") {
		t.Errorf("few: got exit code %d, %s", code, fault)
	}
}

// TestEvalCorrections takes the labels that people have put into the cache.
func TestEvalCorrections(t *testing.T) {
	t.Parallel()
	server := testenv.Redis(t)
	opt, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	c := cache.New(cache.DefaultConfig(), client, prometheus.NewRegistry(), zap.NewNop())
	defer c.Close()
	e := newEvalEndpoint(t)
	golden := "../../phash/testdata/golden"
	dir := t.TempDir()
	for name, correct := range map[string]string{"jpeg-420-640x480.jpg": "glass bottle", "flat-red.png": "paper", "jpeg-420-q75.jpg": "", "gif.gif": ""} {
		data, err := os.ReadFile(filepath.Join(golden, name))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "loose", name), string(data))
		f, err := phash.Of(data, phash.AcrossFirst)
		if err != nil {
			t.Fatal(err)
		}
		p, entry := cache.Picture{Digest: cacheDigest(data), Fingerprint: f}, cache.Entry{WasteType: "x", Category: "lamp", Feedback: "y"}
		if _, err := c.Store(t.Context(), p, cache.Variant{Lang: "en"}, entry); err != nil {
			t.Fatal(err)
		}
		if correct != "" {
			if _, err := c.Correct(t.Context(), p, cache.Variant{Lang: "en"}, cache.Correction{Category: &correct}, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	args := []string{filepath.Join(dir, "loose"), "--corrections", "--vision-url", e.URL, "--lang", "en", "--cache-url", server.URL(),
		"--out", filepath.Join(dir, "r.jsonl"), "--html", "", "--model", "m"}
	out, _, code, fault := evalRun(t.Context(), args...)
	if code != exitOK || e.calls.Load() != 2 || !strings.Contains(out, "2 pictures of 2 classes") || !strings.Contains(out, "left out 2 pictures without a correction") {
		t.Errorf("got exit code %d, %s after %d calls\n%s", code, fault, e.calls.Load(), out)
	}
	doc, err := os.ReadFile(filepath.Join(dir, "r.jsonl"))
	if err != nil || !strings.Contains(string(doc), `"id":"flat-red.png"`) || !strings.Contains(string(doc), `"gold":"paper"`) || !strings.Contains(string(doc), `"gold":"glass bottle"`) {
		t.Errorf("got %v\n%s", err, doc)
	}
	// In the workers' own language nobody has corrected anything.
	args[5] = "ko"
	if _, _, code, fault := evalRun(t.Context(), args...); code != exitUsage || !strings.Contains(fault, "none of 4 pictures has a correction") {
		t.Errorf("another language: got exit code %d, %s", code, fault)
	}
}

// TestEvalJudged takes the labels of pictures that people have found to show the same.
func TestEvalJudged(t *testing.T) {
	t.Parallel()
	e := newEvalEndpoint(t)
	dir := t.TempDir()
	evalPictures(t, filepath.Join(dir, "all"), 4, 2) // 000 to 003 are red, 004 and 005 blue
	names := []string{"Glass Bottle/000.png", "Glass Bottle/001.png", "Glass Bottle/002.png", "Glass Bottle/003.png", "metal can/004.png", "metal can/005.png"}
	var digests []string
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, "all", name))
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, eval.Digest(data))
	}
	line := func(a, b int, same bool) string {
		return fmt.Sprintf(`{"first":%q,"second":%q,"first_sha256":%q,"second_sha256":%q,"verdict":"near","same":%v,"at":"2026-03-04T05:06:07Z"}`+"\n",
			names[a], names[b], digests[a], digests[b], same)
	}
	labels := filepath.Join(dir, "all", "labels.csv")
	writeFile(t, labels, "picture,label\n"+names[0]+", GLASS bottle\n"+names[4]+",metal can\n")
	ana, ben := filepath.Join(dir, "ana.jsonl"), filepath.Join(dir, "ben.jsonl")
	writeFile(t, ana, line(0, 1, true)+line(1, 2, true)+line(0, 4, true)+line(4, 5, false))
	writeFile(t, ben, line(4, 0, false)) // the later word
	wrong := filepath.Join(dir, "wrong.jsonl")
	writeFile(t, wrong, line(0, 1, true)+"nonsense\n")
	base := []string{labels, "--vision-url", e.URL, "--lang", "en", "--html", "", "--model", "m", "--judged", ana}

	out, _, code, fault := evalRun(t.Context(), append(base, "--judged", ben, "--out", filepath.Join(dir, "r"))...)
	if code != exitOK || e.calls.Load() != 4 || !strings.Contains(out, "4 pictures of 2 classes") || !strings.Contains(out, "judged   2 pictures with the label of one that shows the same") {
		t.Errorf("got exit code %d, %s after %d calls\n%s", code, fault, e.calls.Load(), out)
	}
	doc, err := os.ReadFile(filepath.Join(dir, "r"))
	if err != nil || strings.Count(string(doc), `"gold":"glass bottle"`) != 2*3 || !strings.Contains(string(doc), `"id":"Glass Bottle/002.png"`) {
		t.Errorf("got %v\n%s", err, doc)
	}
	e.calls.Store(0)
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"two labels in a group", `labels.csv:2: ` + names[0] + ` ("glass bottle") and labels.csv:3: ` + names[4] + ` ("metal can") have two labels, but show the same by ` + ana + ":3: expected", nil},
		{"wrong lines", wrong + ":2: is not a judgement", []string{"--judged", wrong}},
		{"no such file", "--judged: open", []string{"--judged", filepath.Join(dir, "gone")}},
		{"replaced", "--out and --judged are both", []string{"--out", ana}},
	} {
		args := append(base[:len(base):len(base)], "--out", filepath.Join(dir, "s"))
		args = append(args, tt.args...)
		if _, _, code, fault := evalRun(t.Context(), args...); code != exitUsage || !strings.Contains(fault, tt.want) || e.calls.Load() != 0 {
			t.Errorf("%s: got exit code %d, %s after %d calls", tt.name, code, fault, e.calls.Load())
		}
	}
}

func cacheDigest(data []byte) (d cache.Digest) {
	h := eval.Digest(data)
	for i := range d {
		_, _ = fmt.Sscanf(h[2*i:2*i+2], "%02x", &d[i])
	}
	return d
}

// TestParseUSD loses no micro-dollar to binary fractions.
func TestParseUSD(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"0.50usd": 500_000, "1": 1_000_000, "0.29 USD": 290_000, "1.1usd": 1_100_000, "0.000001": 1, "2.01": 2_010_000} {
		if got, err := parseUSD(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "usd", "-1", "0", "NaN", "Inf", "1eur", "$1", "1e300"} {
		if got, err := parseUSD(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
	var o evalOptions
	o.prices = []string{"openai/gpt=4=0.29/2.03"}
	if got, err := o.parsePrices(); err != nil || got["openai/gpt=4"] != (price{290_000, 2_030_000}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestEvalProgress(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newEvalProgress(&out, 40)
	for i := 21; i <= 40; i++ { // 20 are of an earlier run
		p.show(eval.Progress{Done: i, Total: 40, Right: i / 2, CostMicroUSD: int64(i) * 1000})
		if i == 30 {
			if got := p.text(p.began.Add(30 * time.Second)); got != "15 right, 0.0300 USD, 30s left" {
				t.Errorf("got %q", got)
			}
		}
	}
	p.say("a word")
	p.close()
	if got := strings.Count(out.String(), "\n"); got != 7 || !strings.HasSuffix(out.String(), "40 of 40: 20 right, 0.0400 USD\na word\n") {
		t.Errorf("got %d lines:\n%s", got, out.String())
	}
}
