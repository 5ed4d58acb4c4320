package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/internal/testenv"
)

// TestCeleryGetsItsAnswers sends the same task by each way that a producer has.
func TestCeleryGetsItsAnswers(t *testing.T) {
	b := setup(t)
	w := b.worker("ONCEOVER_RESULT_EXTENDED=true", "ONCEOVER_TRACK_STARTED=true")
	url := b.picture("bottle.jpg") + "?token=secret"
	positional := job{Task: "image.analyze", Args: []any{"job-3", url}, Route: "celery"}
	noDeclare := analyze("image_url", url, "job_id", 17)
	noDeclare.Route = "no_declare"
	// A header that py-amqp writes as a type of its own, see worker/longint.go.
	noDeclare.Options = map[string]any{"headers": map[string]any{"sent_at_ms": 1795000000000}}
	got := b.client("run", analyze("image_url", url), noDeclare, positional)
	for i, o := range got {
		if o.State != "SUCCESS" || o.Value["waste_type"] != "plastic" || o.Value["feedback"] != "라벨을 떼고 헹궈서 버리세요" {
			t.Errorf("job %d: got %+v", i, o)
		}
	}
	if got[0].Value["job_id"] != got[0].ID || got[1].Value["job_id"] != 17.0 || got[2].Value["job_id"] != "job-3" {
		t.Errorf("got job ids %v, %v, %v, want the task id, 17 and job-3", got[0].Value["job_id"], got[1].Value["job_id"], got[2].Value["job_id"])
	}
	if n := b.model.vision.Load(); n != 1 {
		t.Errorf("got %d vision calls for one picture, want 1", n)
	}
	paid := 0
	for _, o := range got {
		if o.Value["cached"] == nil {
			paid++
			if o.Value["usage"] == nil || o.Value["model"] != "test-model" {
				t.Errorf("paid answer: got %+v, want usage and model", o.Value)
			}
		} else if o.Value["cached"] != "exact" || o.Value["usage"] != nil {
			t.Errorf("cached answer: got %+v", o.Value)
		}
	}
	if paid != 1 {
		t.Errorf("got %d answers that say they were paid for, want 1", paid)
	}
	w.signal(syscall.SIGTERM)
	if code := w.end(); code != 0 {
		t.Errorf("got exit code %d, want 0:\n%s", code, w.log.String())
	}
	b.checkKeys()
}

func TestCelerySeesFailuresAsExceptions(t *testing.T) {
	b := setup(t)
	b.worker()
	flagged := analyze("image_url", b.picture("bottle.jpg"))
	flagged.Kwargs["colour"] = "red"
	expired := analyze("image_url", b.picture("bottle.jpg"))
	expired.Options = map[string]any{"expires": "2020-01-01T00:00:00+00:00", "expiration": 600000}
	tests := []struct {
		job                  job
		raised, module, text string
	}{
		{analyze("image_url", b.picture("nothing.jpg")), "FileNotFoundError", "builtins", "404"},
		{analyze("image_url", "http://169.254.169.254/latest/meta-data/"), "PermissionError", "builtins", "169.254.169.254"},
		{analyze("image_url", "file:///etc/passwd"), "PermissionError", "builtins", "file"},
		{analyze("image_url", b.picture("broken.jpg")), "ValueError", "builtins", "damaged"},
		{analyze("image_url", "data:text/plain,hello"), "ValueError", "builtins", "not a picture"},
		{analyze(), "TypeError", "builtins", "image.analyze() missing 1 required positional argument: 'image_url'"},
		{flagged, "TypeError", "builtins", "unexpected keyword argument 'colour'"},
		{job{Task: "no.such.task"}, "NotRegistered", "celery.exceptions", "no.such.task"},
	}
	var jobs []job
	for _, tt := range tests {
		jobs = append(jobs, tt.job)
	}
	for i, o := range b.client("run", jobs...) {
		tt := tests[i]
		if o.State != "FAILURE" || o.Raised != tt.raised || o.Module != tt.module || !strings.Contains(o.Text, tt.text) {
			t.Errorf("%v: got %s, raised %s.%s(%q), want FAILURE and %s.%s(…%s…)", tt.job, o.State, o.Module, o.Raised, o.Text, tt.module, tt.raised, tt.text)
		}
	}
	if n := b.model.vision.Load(); n != 0 {
		t.Errorf("got %d vision calls, want 0", n)
	}
	b.checkKeys()
}

// TestTransientFailureIsRetried waits out three retries of a server that is
// always busy.
func TestTransientFailureIsRetried(t *testing.T) {
	b := setup(t)
	w := b.worker()
	o := b.client("run", analyze("image_url", b.picture("busy.jpg")))[0]
	if o.State != "FAILURE" || o.Raised != "ConnectionError" || !strings.Contains(o.Text, "503") {
		t.Errorf("got %+v, want ConnectionError with 503", o)
	}
	if n := strings.Count(w.log.String(), `"msg":"task will be retried"`); n != 3 {
		t.Errorf("got %d retries, want 3", n)
	}
}

// TestProgress polls as a FastAPI service does, on a miss, on a hit, on a
// question, and on a failure.
func TestProgress(t *testing.T) {
	b := setup(t)
	b.worker()
	o := b.client("poll", analyze("image_url", b.picture("can.jpg")))[0]
	if o.State != "SUCCESS" {
		t.Errorf("whoever read 100 found state %s, want SUCCESS", o.State)
	}
	checkUpdates(t, "miss", o.Updates, "download 10, hash 20, cache 30, preprocess 40, ai_vision 50, ai_vision 60, feedback 70, feedback 80, store 90, done 100")
	b.checkUpdatesOf("hit", analyze("image_url", b.picture("can.jpg"), "job_id", "second"), "download 10, hash 20, cache 30, done 100")
	b.checkUpdatesOf("question", analyze("image_url", b.picture("can.jpg"), "user_input", "뭐예요?"), "download 10, hash 20, cache 30, feedback 70, feedback 80, store 90, done 100")
	failed := b.client("poll", analyze("image_url", b.picture("nothing.jpg")))[0]
	last := failed.Updates[len(failed.Updates)-1]
	if failed.State != "FAILURE" || last.Stage != "failed" || last.Progress != 10 || !strings.HasPrefix(last.Error, "FileNotFoundError") {
		t.Errorf("failure: got state %s after %+v", failed.State, failed.Updates)
	}
	if v, n := b.model.vision.Load(), b.model.text.Load(); v != 1 || n != 1 {
		t.Errorf("got %d vision and %d text calls, want 1 and 1", v, n)
	}
	b.checkKeys()
}

func (b *bundle) checkUpdatesOf(name string, j job, want string) {
	b.t.Helper()
	o := b.client("poll", j)[0]
	if o.State != "SUCCESS" {
		b.t.Errorf("%s: whoever read 100 found state %s, want SUCCESS", name, o.State)
	}
	checkUpdates(b.t, name, o.Updates, want)
}

// checkUpdates accepts that a poller misses short stages, but nothing else: what
// it sees is a part of want in want's order, and ends at 100. On a miss, where
// the model's answer can be held, see TestProgressShowsStages.
func checkUpdates(t *testing.T, name string, updates []update, want string) {
	t.Helper()
	steps := strings.Split(want, ", ")
	next := 0
	for _, u := range updates {
		got := fmt.Sprintf("%s %d", u.Stage, u.Progress)
		for next < len(steps) && steps[next] != got {
			next++
		}
		if next == len(steps) {
			t.Errorf("%s: got %q out of order or unknown; all: %+v", name, got, updates)
			return
		}
		if _, err := time.Parse("2006-01-02T15:04:05", u.UpdatedAt); err != nil || u.Message == "" {
			t.Errorf("%s: got update %+v", name, u)
		}
	}
	if len(updates) == 0 || updates[len(updates)-1].Progress != 100 {
		t.Errorf("%s: got %+v, want the end at 100", name, updates)
	}
}

// TestProgressShowsStages reads what each write shows, for which no poller is quick enough: the stage that lasts, and the end.
func TestProgressShowsStages(t *testing.T) {
	b := setup(t)
	b.worker()
	client := b.db(2)
	if err := client.ConfigSet(t.Context(), "notify-keyspace-events", "K$").Err(); err != nil {
		t.Fatal(err)
	}
	sub := client.Subscribe(t.Context(), "__keyspace@2__:job:every-stage:progress")
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.model.gate.Store(true)
	sent := b.client("send", analyze("image_url", b.picture("jar.jpg"), "job_id", "every-stage"))
	shown := func() (u update) {
		doc, err := client.Get(t.Context(), "job:every-stage:progress").Bytes()
		if err == nil {
			err = json.Unmarshal(doc, &u)
		}
		if err != nil && !errors.Is(err, redis.Nil) {
			t.Fatal(err)
		}
		return u
	}
	// Reports that leave for Redis together are one write; the last of them is what is shown.
	var last update
	writes := 0
	next := func() {
		t.Helper()
		if _, err := sub.ReceiveMessage(t.Context()); err != nil {
			t.Fatal(err)
		}
		writes++
		u := shown()
		if u.Progress < last.Progress {
			t.Errorf("the number fell from %d to %d", last.Progress, u.Progress)
		}
		last = u
	}
	for last.Stage != "ai_vision" {
		next()
	}
	if last.Progress != 50 {
		t.Errorf("got %+v while the model is asked, want 50", last)
	}
	b.model.gate.Store(false)
	close(b.model.hold)
	for last.Progress < 100 {
		next()
	}
	if o := b.results(sent)[0]; o.State != "SUCCESS" {
		t.Errorf("got %+v", o)
	}
	if last.Stage != "done" || writes < 3 || writes > 10 {
		t.Errorf("got %d writes, the last %+v, want 3 to 10 and done", writes, last)
	}
}

// TestPythonSharesTheCache reads an entry that only Python has written, and lets
// Python's json read ours.
func TestPythonSharesTheCache(t *testing.T) {
	b := setup(t)
	b.worker()
	first := b.client("run", analyze("image_url", b.picture("box.jpg")))[0]
	hash, _ := first.Value["phash"].(string)
	key := "cache:image:hash:" + hash
	cache := b.db(1)
	raw, err := cache.Get(t.Context(), key).Result()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(raw, `{"waste_type":"plastic","confidence":0.93,"feedback":"라벨을 떼고 헹궈서 버리세요","category":"plastic_bottle","recyclable":true,"analyzed_at":"`) {
		t.Errorf("got entry %s", raw)
	}
	python := `{"waste_type": "paper", "confidence": 1, "feedback": "\uc885\uc774", "category": "box", "recyclable": true, "analyzed_at": "2026-11-20T10:00:00"}`
	if err := cache.Set(t.Context(), key, python, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	// With the hash given, a hit needs no download: the URL leads nowhere.
	got := b.client("run",
		analyze("image_url", b.picture("box.jpg")),
		analyze("image_url", b.picture("nothing.jpg"), "phash", hash))
	for i, o := range got {
		if o.Value["feedback"] != "종이" || o.Value["cached"] != "exact" || o.Value["model"] != nil {
			t.Errorf("job %d: got %+v, want what Python has cached", i, o)
		}
	}
	// Another model has an entry of its own.
	other := b.client("run", analyze("image_url", b.picture("box.jpg"), "model", "bigger"))[0]
	if other.Value["cached"] != nil || other.Value["model"] != "bigger" {
		t.Errorf("other model: got %+v, want a fresh answer", other.Value)
	}
	if n := b.model.vision.Load(); n != 2 {
		t.Errorf("got %d vision calls, want 2", n)
	}
	b.checkKeys()
}

// TestFlatPictures: unrelated flat pictures share their hash, so that each is cached
// by its file.
func TestFlatPictures(t *testing.T) {
	b := setup(t)
	b.worker()
	run := func(picture, hash string) outcome {
		t.Helper()
		o := b.client("run", analyze("image_url", b.picture(picture), "phash", hash))[0]
		if o.State != "SUCCESS" {
			t.Fatalf("%s: got %+v", picture, o)
		}
		return o
	}
	gray := run("flat.png", "")
	hash, _ := gray.Value["phash"].(string)
	if blue := run("blue.png", hash); blue.Value["cached"] != nil || blue.Value["phash"] != hash {
		t.Errorf("another flat picture: got %v, want the same hash and a fresh answer", blue.Value)
	}
	if again := run("flat.png", hash); again.Value["cached"] != "exact" {
		t.Errorf("the same file: got %v, want the answer from the cache", again.Value)
	}
	if n := b.model.vision.Load(); n != 2 {
		t.Errorf("got %d vision calls, want 2", n)
	}
	if n := b.db(1).Exists(t.Context(), "cache:image:hash:"+hash).Val(); n != 0 {
		t.Error("an entry is stored under a hash that many pictures share")
	}
	b.checkKeys()
}

// TestOnePictureOneCall sends one new picture 30 times at once.
func TestOnePictureOneCall(t *testing.T) {
	b := setup(t)
	w := b.worker()
	b.model.gate.Store(true)
	var jobs []job
	for range 30 {
		jobs = append(jobs, analyze("image_url", b.picture("newspapers.jpg")))
	}
	go func() {
		// All have looked into the cache before the model answers.
		defer close(b.model.hold)
		deadline := time.After(60 * time.Second)
		for metric(w, "onceover_jobs_in_flight") < 30 {
			select {
			case <-deadline:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	for i, o := range b.client("run", jobs...) {
		if o.State != "SUCCESS" {
			t.Errorf("job %d: got %+v", i, o)
		}
	}
	if n := b.model.vision.Load(); n != 1 {
		t.Errorf("got %d vision calls, want 1", n)
	}
}

// metric reads a number from /metrics, -1 if it is not there.
func metric(p *process, name string) float64 {
	resp, err := http.Get("http://" + p.httpAddr() + "/metrics")
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return -1
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` ([0-9.e+]+)$`).FindSubmatch(text)
	if m == nil {
		return -1
	}
	var n float64
	if json.Unmarshal(m[1], &n) != nil {
		return -1
	}
	return n
}

// keyForms are all keys that may exist after jobs have run; every one expires.
var keyForms = map[int]*regexp.Regexp{
	0: regexp.MustCompile(`^(celery-task-meta-.+|onceover:run:.+)$`),
	1: regexp.MustCompile(`^(cache:image:hash:[0-9a-f]{64}(:lang=[A-Za-z-]+)?(:model=.+)?` +
		`|cache:image:(digest|refused):[0-9a-f]{64}(:analysis.*|:signature:1)?|cache:(tag|stats|unique|top|lock|undo):.+|phash:log:2:[0-9]+)$`),
	2: regexp.MustCompile(`^job:(.+:(progress|progress:resumed|finished|runs|run|paid)|events:\{job:.+:progress\})$`),
	3: regexp.MustCompile(`^ratelimit:((vision|vision-user|vision-learned|budget):.+|vision-endpoints)$`),
	5: regexp.MustCompile(`^(asynq:.+|onceover:(failures|revoked|replaying|\{failed\}):.+)$`),
}

func (b *bundle) checkKeys() {
	b.t.Helper()
	limits := map[int]time.Duration{0: 24 * time.Hour, 1: 9 * 24 * time.Hour, 2: 48 * time.Hour, 3: 30 * 24 * time.Hour, 5: 30 * 24 * time.Hour}
	for n := range 16 {
		client := b.db(n)
		iter := client.Scan(b.t.Context(), 0, "*", 100).Iterator()
		for iter.Next(b.t.Context()) {
			key := iter.Val()
			form, ok := keyForms[n]
			if !ok || !form.MatchString(key) {
				b.t.Errorf("DB %d: unexpected key %s", n, key)
				continue
			}
			if n == 5 && (strings.HasPrefix(key, "asynq:") || strings.HasPrefix(key, "onceover:{failed}:")) {
				continue // they live as asynq wants them to, and as long as the failed jobs
			}
			ttl := client.TTL(b.t.Context(), key).Val()
			if ttl <= 0 || ttl > limits[n] || strings.HasPrefix(key, "cache:image:") && ttl > 7*24*time.Hour {
				b.t.Errorf("DB %d: key %s has TTL %v", n, key, ttl)
			}
		}
		if err := iter.Err(); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestRestartsInTheMiddle stops and kills what it can in the middle of 200 jobs.
func TestRestartsInTheMiddle(t *testing.T) {
	t.Parallel()
	rabbit := testenv.RabbitMQ(t)
	b := setupOn(t, rabbit.URL())
	b.pictures.Config.Handler = slow(b.pictures.Config.Handler, 150*time.Millisecond)
	first := b.worker("ONCEOVER_CONCURRENCY=4", "ONCEOVER_GRACE=10s")
	var jobs []job
	for i := range 200 {
		// Pictures with and without a repeat.
		jobs = append(jobs, analyze("image_url", b.picture([]string{"bottle.jpg", "can.jpg", "flat.png", "jar.jpg"}[i%4])))
	}
	sent := b.client("send", jobs...)
	first.wait(`"msg":"task finished"`, 20)
	first.signal(syscall.SIGTERM)
	if code := first.end(); code != 0 {
		t.Errorf("SIGTERM: got exit code %d, want 0", code)
	}
	second := b.worker("ONCEOVER_CONCURRENCY=4")
	second.wait(`"msg":"task finished"`, 20)
	second.signal(syscall.SIGKILL)
	second.end()
	third := b.worker("ONCEOVER_CONCURRENCY=4")
	third.wait(`"msg":"task finished"`, 10)
	b.redis.Stop()
	third.wait(`"msg":"redis lost, waiting for it"`, 1)
	b.redis.Start()
	third.wait(`"msg":"redis is back"`, 1)
	rabbit.Restart()
	third.wait(`"msg":"broker connected"`, 2)
	for i, o := range b.results(sent) {
		if o.State != "SUCCESS" {
			t.Errorf("job %d (%s): got %+v, want SUCCESS", i, o.ID, o)
		}
	}
	for what, limit := range map[string]int{"redis lost": 6, "broker lost": 2, "broker not reachable": 6} {
		if n := strings.Count(third.log.String(), what); n > limit {
			t.Errorf("got %d log lines %q, want at most %d", n, what, limit)
		}
	}
	b.checkKeys()
}

// slow keeps the jobs from being over before they are interrupted.
func slow(h http.Handler, d time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
			h.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
}

// TestHealth asks while every slot is busy and while the broker is away.
func TestHealth(t *testing.T) {
	t.Parallel()
	rabbit := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, rabbit.Addr())
	b := setupOn(t, rabbit.URL())
	b.model.gate.Store(true)
	w := b.worker("ONCEOVER_CONCURRENCY=3", "ONCEOVER_BROKER_URL="+proxy.URL(rabbit.URL()))
	get := func(path string) int {
		t.Helper()
		resp, err := http.Get("http://" + w.httpAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	sent := b.client("send", analyze("image_url", b.picture("bottle.jpg")), analyze("image_url", b.picture("can.jpg")), analyze("image_url", b.picture("jar.jpg")))
	deadline := time.After(60 * time.Second)
	for b.model.vision.Load() < 3 {
		select {
		case <-deadline:
			t.Fatal("the jobs did not reach the model")
		case <-time.After(5 * time.Millisecond):
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if code := get(path); code != http.StatusOK {
			t.Errorf("every slot busy: %s answers %d, want 200", path, code)
		}
	}
	proxy.Cut()
	w.wait(`"msg":"broker lost, reconnecting"`, 1)
	if ready, alive := get("/readyz"), get("/healthz"); ready != 503 || alive != 200 {
		t.Errorf("broker away: got readyz %d and healthz %d, want 503 and 200", ready, alive)
	}
	proxy.Restore()
	w.wait(`"msg":"broker connected"`, 2)
	close(b.model.hold)
	for i, o := range b.results(sent) {
		if o.State != "SUCCESS" {
			t.Errorf("job %d: got %+v", i, o)
		}
	}
	if n := b.model.vision.Load(); n != 3 {
		t.Errorf("got %d vision calls, want 3: jobs redelivered while they run are not run twice", n)
	}
}
