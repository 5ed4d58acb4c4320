package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// patches serves pictures without number, each of which looks like no other: /17.png and so on.
func patches(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseUint(strings.TrimSuffix(r.PathValue("name"), ".png"), 10, 64)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	chance := rand.New(rand.NewPCG(n, 1))
	img := image.NewRGBA(image.Rect(0, 0, 64, 64))
	for y := range 8 {
		for x := range 8 {
			c := color.RGBA{uint8(chance.Uint32()), uint8(chance.Uint32()), uint8(chance.Uint32()), 255}
			for i := range 64 {
				img.SetRGBA(8*x+i%8, 8*y+i/8, c)
			}
		}
	}
	_ = png.Encode(w, img) // the worker that asks says so if it fails
}

// misses are jobs about pictures that nobody has seen.
func (b *bundle) misses(from, n int, kwargs ...any) []job {
	var out []job
	for i := range n {
		out = append(out, analyze(append([]any{"image_url", fmt.Sprintf("%s/patch/%d.png", b.pictures.URL, from+i)}, kwargs...)...))
	}
	return out
}

// until waits for what is to come about. If it does not, the test says what there is instead.
func (b *bundle) until(cond func() bool, instead ...func() string) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			for _, f := range instead {
				b.t.Log(f())
			}
			b.t.Fatal("it has not come about in a minute")
		}
	}
}

// status is the state on record of a job, "" for none. Unlike state it asks no Python.
func (b *bundle) status(results *redis.Client, id string) string {
	var m struct{ Status string }
	doc, err := results.Get(b.t.Context(), "celery-task-meta-"+id).Bytes()
	if err == nil {
		err = json.Unmarshal(doc, &m)
	}
	if err != nil {
		return ""
	}
	return m.Status
}

// metric is a metric of a worker without labels.
func (p *process) metric(name string) float64 {
	p.t.Helper()
	resp, err := http.Get("http://" + p.httpAddr() + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return v
		}
	}
	p.t.Fatalf("no metric %s", name)
	return 0
}

// stop ends a worker in good order.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.end(); code != 0 {
		p.t.Errorf("exit code %d, want 0", code)
	}
}

// TestHitsAreNotBehindMisses has many more misses wait for the model than there are slots, and deliveries sent ahead: a
// picture that was seen is answered all the same. One that expires while it waits is revoked, and not paid for; a job of
// a higher priority goes first.
func TestHitsAreNotBehindMisses(t *testing.T) {
	b := setup(t)
	w := b.worker("ONCEOVER_CONCURRENCY=8")
	results := b.db(0)
	if got := b.client("run", analyze("image_url", b.picture("bottle.jpg")))[0]; got.State != "SUCCESS" {
		t.Fatalf("got %+v", got)
	}
	b.model.gate.Store(true)
	const misses = 40
	sent := b.client("send", b.misses(0, misses)...)
	at := func() string {
		return fmt.Sprintf("%d calls, %v jobs that wait; the worker's log:\n%s", b.model.vision.Load(), w.metric("onceover_vision_waiting"), w.log.String())
	}
	b.until(func() bool { return b.model.vision.Load() == 1+8 && w.metric("onceover_vision_waiting") == misses-8 }, at)
	hit := b.client("run", analyze("image_url", b.picture("bottle.jpg")))[0]
	if hit.State != "SUCCESS" || hit.Value["cached"] != "exact" {
		t.Errorf("got %+v, want the answer of the cache", hit)
	}
	late := b.misses(1000, 1)[0]
	late.Options = map[string]any{"expires": 1}
	id := b.client("send", late)[0].ID
	b.until(func() bool { return b.status(results, id) == "REVOKED" }, at)
	if n := b.model.vision.Load(); n != 9 {
		t.Errorf("%d calls, want 9: those in flight, and the first", n)
	}
	b.model.gate.Store(false)
	close(b.model.hold)
	for _, o := range b.results(sent) {
		if o.State != "SUCCESS" {
			t.Errorf("got %+v", o)
		}
	}
	if n := b.model.vision.Load(); n != 1+misses {
		t.Errorf("%d calls, want %d", n, 1+misses)
	}
}

// TestDeadKey has two workers and 200 jobs meet a key that the endpoint refuses: few calls find out, one line in the logs
// of both says what to do, the jobs are not lost, and the cache answers.
func TestDeadKey(t *testing.T) {
	b := setup(t)
	first := b.worker()
	if got := b.client("run", analyze("image_url", b.picture("bottle.jpg")))[0]; got.State != "SUCCESS" {
		t.Fatalf("got %+v", got)
	}
	first.stop()
	if err := b.db(3).FlushDB(t.Context()).Err(); err != nil { // nothing is known of the endpoint
		t.Fatal(err)
	}
	results := b.db(0)
	b.model.status.Store(http.StatusUnauthorized)
	one, two := b.worker("ONCEOVER_NODE_NAME=a@host"), b.worker("ONCEOVER_NODE_NAME=b@host")
	sent := b.client("send", b.misses(0, 200)...)
	for _, o := range sent {
		b.until(func() bool { return b.status(results, o.ID) == "RETRY" })
	}
	refused, most := b.refusedAfter()
	if n := int(b.model.vision.Load()) - 1; n > most {
		t.Errorf("%d calls with a dead key that was refused after %v, want at most %d", n, refused, most)
	}
	text := one.log.String() + two.log.String()
	if n := strings.Count(text, "the vision endpoint fails"); n != 1 || !strings.Contains(text, "check ONCEOVER_VISION_API_KEY") {
		t.Errorf("%d lines say so, want one with the remedy", n)
	}
	if hit := b.client("run", analyze("image_url", b.picture("bottle.jpg")))[0]; hit.State != "SUCCESS" {
		t.Errorf("a picture that was seen: got %+v", hit)
	}
}

// refusedAfter returns how long after the first call the endpoint was known to refuse the key, by Redis' clock, and how many calls may have
// begun by then: 8 within half a second (docs/models.md), more where the machine has too much to do for an answer to come so soon.
func (b *bundle) refusedAfter() (d time.Duration, calls int) {
	b.t.Helper()
	names, err := b.db(3).SMembers(b.t.Context(), "ratelimit:vision-endpoints").Result()
	if err != nil || len(names) != 1 {
		b.t.Fatalf("got endpoints %v, %v, want one", names, err)
	}
	var state struct {
		Ramp   int64 `redis:"ramp"`   // microseconds since 1970
		Opened int64 `redis:"opened"` // the same
	}
	if err := b.db(3).HGetAll(b.t.Context(), "ratelimit:vision:"+names[0]).Scan(&state); err != nil || state.Ramp == 0 || state.Opened < state.Ramp {
		b.t.Fatalf("got %+v of the endpoint, %v, want when it was asked first and when it had refused", state, err)
	}
	d = time.Duration(state.Opened-state.Ramp) * time.Microsecond
	for _, step := range []struct {
		within time.Duration
		calls  int
	}{{300 * time.Millisecond, 4}, {500 * time.Millisecond, 8}, {700 * time.Millisecond, 64}} {
		if d < step.within {
			return d, step.calls
		}
	}
	return d, 512
}

// TestBudget has a budget for a few calls: what is beyond it waits for the next window, or fails, as the operator wants;
// onceover budget shows who has spent it.
func TestBudget(t *testing.T) {
	b := setup(t)
	// 900 and 50 tokens at 1 and 2 dollars a million: a thousandth of a dollar each.
	money := []string{"ONCEOVER_VISION_PRICE_IN=1000000", "ONCEOVER_VISION_PRICE_OUT=2000000", "ONCEOVER_BUDGET=0.0105usd/365d,5usd/366d"}
	w := b.worker(append(money, "ONCEOVER_LOG_LEVEL=debug")...)
	results := b.db(0)
	var paid int
	for i := range 11 { // one after the other, until it is known what a call costs
		got := b.client("send", b.misses(i, 1, "user_id", i%2)...)
		parked := func() bool { return strings.Contains(w.log.String(), `"msg":"task parked","task_id":"`+got[0].ID) }
		b.until(func() bool { return b.status(results, got[0].ID) == "SUCCESS" || parked() })
		if !parked() {
			paid++
		}
	}
	if paid != 9 || b.model.vision.Load() != 9 {
		t.Errorf("%d jobs and %d calls, want 9 of each", paid, b.model.vision.Load())
	}
	w.wait(`"msg":"task parked"`, 2)
	if hit := b.client("run", b.misses(0, 1)...)[0]; hit.State != "SUCCESS" || hit.Value["cached"] != "exact" {
		t.Errorf("over the budget, a picture that was seen: got %+v", hit)
	}
	b.env = append(b.env, money...)
	out, errs, code := b.onceover("budget")
	for _, want := range []string{"0.0105usd/365d", "spent", "0.009usd", "left", "0.0015usd", "test-model  0     0.005usd", "test-model  1     0.004usd", "4.991usd"} {
		if !strings.Contains(out, want) {
			t.Errorf("onceover budget lacks %q (exit code %d, %s):\n%s", want, code, errs, out)
		}
	}
	if out, _, code := b.onceover("budget", "--json"); code != 0 || !strings.Contains(out, `"left_microusd":1500,`) {
		t.Errorf("as JSON: exit code %d, %s", code, out)
	}
	w.stop()
	b.worker("ONCEOVER_BUDGET_OVER=fail")
	if got := b.client("run", b.misses(100, 1)...)[0]; got.State != "FAILURE" || !strings.Contains(got.Text, "the budget of 0.0105usd/365d has no room") {
		t.Errorf("over the budget, to fail: got %+v", got)
	}
	if _, errs, code := b.onceover("worker", "--vision-price-in", "0", "--vision-price-out", "0"); code != 2 || !strings.Contains(errs, "the price of model test-model") {
		t.Errorf("a budget without a price: exit code %d, %s", code, errs)
	}
}

// TestModels has an endpoint run out of quota behind which another one stands, both from a file.
func TestModels(t *testing.T) {
	b := setup(t)
	b.model.status.Store(http.StatusPaymentRequired)
	next := newModel(t)
	file := t.TempDir() + "/models.yaml"
	doc := fmt.Sprintf(`
endpoints:
  - name: first
    url: %s/v1
    model: test-model
    key_env: FIRST_KEY
  - name: second
    url: %s/v1
    model: large
    price: {in: 1usd, out: 2usd}
`, b.model.server.URL, next.server.URL)
	if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	b.worker("ONCEOVER_VISION_URL=", "ONCEOVER_VISION_MODEL=", "ONCEOVER_MODELS="+file, "FIRST_KEY=sk-secret-key")
	for i := range 3 {
		got := b.client("run", b.misses(i, 1)...)[0]
		if got.State != "SUCCESS" || got.Value["model"] != "large" {
			t.Errorf("got %+v, want the answer of the second", got)
		}
	}
	if n := b.model.vision.Load(); n != 1 {
		t.Errorf("the first was asked %d times, want once", n)
	}
}
