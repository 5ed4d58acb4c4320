package loadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"onceover/celery"
	"onceover/internal/testenv"
	"onceover/phash"
	"onceover/results"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestParseShape(t *testing.T) {
	for text, want := range map[string]string{
		"miss": "miss:1", "hash:70, near:10 ,miss:20": "hash:70,near:10,miss:20",
	} {
		if got, err := ParseShape(text); err != nil || got.String() != want {
			t.Errorf("ParseShape(%q) = %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "hit", "miss:0", "miss:-1", "miss:", "miss:1.5", "miss,miss", "miss:1000001", "miss,"} {
		if got, err := ParseShape(text); err == nil {
			t.Errorf("ParseShape(%q) = %v, want an error", text, got)
		}
	}
}

// TestShapeOf has all jobs, whatever does not divide.
func TestShapeOf(t *testing.T) {
	s := Shape{{Hash, 1}, {Near, 1}, {Miss, 1}}
	for n := range 20 {
		sum := 0
		for k, count := range s.Of(n) {
			if sum += count; count < n/3 || count > n/3+1 {
				t.Errorf("of %d jobs %d are %s", n, count, k)
			}
		}
		if sum != n {
			t.Errorf("of %d jobs: got %d", n, sum)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"no jobs": func(c *Config) { c.Jobs = 0 }, "a negative rate": func(c *Config) { c.Rate = -1 },
		"no shape": func(c *Config) { c.Shape = nil }, "a side of 1": func(c *Config) { c.Side = 1 },
		"too many pictures": func(c *Config) { c.Jobs, c.Shape = 60_000, Shape{{Miss, 1}} },
	} {
		c := DefaultConfig()
		if change(&c); c.Validate() == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

// TestPair draws near copies that are files of their own, and pictures that are far from each other.
func TestPair(t *testing.T) {
	a := album{seed: 7, side: 256}
	var all []phash.Hash
	for i := range 5 {
		original, copied, err := a.pair(i, 20)
		if err != nil {
			t.Fatal(err)
		}
		h, err := phash.Sum(original)
		if err != nil {
			t.Fatal(err)
		}
		near, err := phash.Sum(copied)
		if err != nil {
			t.Fatal(err)
		}
		if d := h.Distance(near); d < 1 || d > 20 {
			t.Errorf("picture %d: its copy is %d bits off, want 1 to 20", i, d)
		}
		for j, other := range all {
			if d := h.Distance(other); d <= 60 {
				t.Errorf("pictures %d and %d are %d bits apart, want more than 60", i, j, d)
			}
		}
		again, _, err := a.pair(i, 20)
		if err != nil || !bytes.Equal(again, original) {
			t.Errorf("picture %d is another one when it is drawn again (%v)", i, err)
		}
		all = append(all, h)
	}
}

// TestNew draws what each kind needs, and has it served.
func TestNew(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Jobs, cfg.Side, cfg.Shape = 8, 128, Shape{{Hash, 2}, {Near, 1}, {Miss, 1}}
	drawn := 0
	test, err := New(t.Context(), cfg, func(n, of int) { drawn = max(drawn, n) })
	if err != nil {
		t.Fatal(err)
	}
	defer test.Close()
	if want := 4 + 2*2 + 2; drawn != want || len(test.host.pictures) != want {
		t.Errorf("got %d pictures of %d, want %d", drawn, len(test.host.pictures), want)
	}
	for i, p := range test.host.pictures {
		if _, err := phash.Sum(p); err != nil {
			t.Errorf("picture %d: %v", i, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(ctx, cfg, func(int, int) {}); err == nil {
		t.Error("got no error from one that is interrupted")
	}
}

// TestSample answers as the schema wants it.
func TestSample(t *testing.T) {
	for _, text := range []string{
		`{"type":"object","properties":{"a":{"type":"string","minLength":1,"maxLength":100},"b":{"enum":["x","y"]},"c":{"type":"number","minimum":0,"maximum":1},
			"d":{"type":"boolean"},"e":{"type":"array","items":{"type":"integer","minimum":3},"minItems":2},"f":{"type":["string","null"],"minLength":20},
			"g":{"anyOf":[{"type":"null"},{"type":"string"}]},"h":{"const":5}},"required":["a","b","c","d","e","f","g","h"],"additionalProperties":false}`,
		`{"type":"array","items":{"type":"string"}}`,
	} {
		doc, err := json.Marshal(sample(json.RawMessage(text)))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource("s.json", parsed); err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.MustCompile("s.json").Validate(value); err != nil {
			t.Errorf("got %s for %s: %v", doc, text, err)
		}
	}
}

// TestHost takes its time as the model, and has each picture.
func TestHost(t *testing.T) {
	h, err := openHost("127.0.0.1:0", [][]byte{[]byte("a"), []byte("b")})
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	for path, want := range map[string]string{"0.jpg": "a", "1.jpg": "b", "2.jpg": "", "-1.jpg": "", "x": ""} {
		resp, err := http.Get("http://" + h.addr + "/pictures/" + path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode == http.StatusOK != (want != "") || want != "" && string(got) != want {
			t.Errorf("%s: got %s %q, %v", path, resp.Status, got, err)
		}
	}
	const takes = 50 * time.Millisecond
	h.delay.Store(int64(takes))
	began := time.Now()
	resp, err := http.Post("http://"+h.addr+"/v1/chat/completions", "application/json",
		strings.NewReader(`{"model":"m","response_format":{"json_schema":{"schema":{"enum":["a"]}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || len(answer.Choices) != 1 || answer.Choices[0].Message.Content != `"a"` {
		t.Errorf("got %+v, %v", answer, err)
	}
	if took := time.Since(began); took < takes || h.calls.Load() != 1 {
		t.Errorf("got the answer after %v and %d calls, want %v or more and 1", took, h.calls.Load(), takes)
	}
}

// TestMissedResults are read: nobody hears what is stored before it is published, or while the connection is cut.
func TestMissedResults(t *testing.T) {
	server := testenv.Redis(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	stored := func(id, doc string) {
		if err := client.Set(t.Context(), results.Key(id), doc, time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
	}
	var last Now
	r := &run{at: Place{Results: client}, stall: 30 * time.Second, step: func(n Now) { last = n }, waiting: map[string]*job{}, over: make(chan struct{})}
	r.began = time.Now()
	for i, doc := range []string{
		`{"status":"SUCCESS","result":{"cached":"exact","phash":"ab"},"task_id":"0"}`, `{"status":"SUCCESS","result":{"cached":null},"task_id":"1"}`,
		`{"status":"FAILURE","result":{"exc_type":"ValueError","exc_message":["no picture"],"exc_module":"builtins"},"task_id":"2"}`,
		`{"status":"SUCCESS","result":[],"task_id":"3"}`,
	} {
		j := &job{id: string(rune('0' + i)), kind: []Kind{Hash, Near, Miss, Miss}[i], sent: r.began}
		r.jobs, r.waiting[j.id] = append(r.jobs, j), j
		stored(j.id, doc)
	}
	r.counts.Sent = len(r.jobs)
	if err := r.watch(t.Context()); err != nil {
		t.Fatal(err)
	}
	report := r.report()
	if last.Ended != 4 || last.Failed != 2 || report.Unfinished != 0 {
		t.Errorf("got %+v, and %d unfinished", last, report.Unfinished)
	}
	all := report.All
	if all.Jobs != 4 || all.Exact != 1 || all.Miss != 1 || all.Failed != 2 || all.Other != 1 {
		t.Errorf("got %+v, want 1 exact, 1 miss that was to be near, 2 failed", all)
	}
	if len(report.Failures) != 2 || !strings.Contains(report.Failures[0].Text+report.Failures[1].Text, "no picture") {
		t.Errorf("got failures %+v", report.Failures)
	}
}

// TestStalled gives up when nothing ends any more.
func TestStalled(t *testing.T) {
	server := testenv.Redis(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	j := &job{id: "a", kind: Miss, sent: time.Now()}
	r := &run{at: Place{Results: client}, stall: time.Second, step: func(Now) {}, jobs: []*job{j}, waiting: map[string]*job{"a": j}, over: make(chan struct{})}
	r.began = time.Now()
	r.last, r.counts.Sent = r.began, 1
	err := r.watch(t.Context())
	stalled, ok := err.(*StalledError)
	if !ok || stalled.Missing != 1 {
		t.Errorf("got %v, want a StalledError of 1 job", err)
	}
	if report := r.report(); report.Unfinished != 1 || report.All.Jobs != 0 {
		t.Errorf("got %+v", report)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.all(ctx); err == nil {
		t.Error("got no error from a test that is interrupted")
	}
}

func TestReport(t *testing.T) {
	r := &run{began: time.Now(), over: make(chan struct{})}
	for i := range 100 {
		j := &job{id: "a", kind: Hash, sent: r.began, ended: r.began.Add(time.Duration(i+1) * time.Millisecond)}
		j.status, j.cached = celery.Success, "exact"
		r.jobs = append(r.jobs, j)
	}
	r.counts.Ended = 100
	report := r.report()
	if row := report.Kinds[0]; row.P50 != 0.05 || row.P99 != 0.099 || row.Max != 0.1 || row.PerSecond != 1000 || row.Other != 0 {
		t.Errorf("got %+v", row)
	}
	if report.Saved() != 1 || len(report.Rows()) != 1 {
		t.Errorf("got %v saved, and %d rows", report.Saved(), len(report.Rows()))
	}
	var text, html bytes.Buffer
	if err := report.Print(&text); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "50.0 ms") || !strings.Contains(text.String(), "1,000") {
		t.Errorf("got %s", text.String())
	}
	if err := report.WriteHTML(&html); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(html.String(), "<svg "); n != 4 || !strings.Contains(html.String(), "50.0 ms") {
		t.Errorf("got %d charts in %s", n, html.String())
	}
}

func TestSpace(t *testing.T) {
	server := testenv.Redis(t)
	open := func(db int) *redis.Client {
		c := redis.NewClient(&redis.Options{Addr: server.Addr(), DB: db})
		t.Cleanup(func() { c.Close() })
		return c
	}
	ctx := t.Context()
	mine, used := open(8), open(9)
	if err := used.Set(ctx, "theirs", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(ctx, true, mine, used); !errors.Is(err, ErrUsed) || !strings.Contains(err.Error(), "database 9") {
		t.Errorf("of a database with keys: got %v", err)
	}
	if n := mine.DBSize(ctx).Val(); n != 0 {
		t.Errorf("what was taken before has %d keys, want none", n)
	}
	first, err := Claim(ctx, false, mine)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(ctx, true, mine); !errors.Is(err, ErrBusy) {
		t.Errorf("of another test's database: got %v", err)
	}
	// It is killed, and its lease ends.
	mine.Set(ctx, "left", "1", 0)
	mine.Del(ctx, leaseKey)
	if _, err := Claim(ctx, false, mine); !errors.Is(err, ErrLeft) || mine.Exists(ctx, "left").Val() != 1 {
		t.Errorf("of a database that a killed test left: got %v", err)
	}
	second, err := Claim(ctx, true, mine)
	if err != nil {
		t.Fatal(err)
	}
	if mine.Exists(ctx, "left").Val() != 0 {
		t.Error("what a killed test left is still there")
	}
	mine.Set(ctx, "new", "1", 0)
	if err := first.Leave(ctx); err == nil || mine.Exists(ctx, "new").Val() != 1 {
		t.Errorf("a test that lost its database emptied it, or said nothing (%v)", err)
	}
	// Redis loses its keys, and the claim is renewed.
	mine.Del(ctx, markKey, leaseKey)
	if err := keep.Run(ctx, mine, []string{markKey, leaseKey}, second.args()...).Err(); err != nil || mine.Get(ctx, markKey).Val() != second.id {
		t.Errorf("the claim was not renewed: %v", err)
	}
	if err := second.Leave(ctx); err != nil || mine.DBSize(ctx).Val() != 0 {
		t.Errorf("got %v, and %d keys", err, mine.DBSize(ctx).Val())
	}
	if used.Get(ctx, "theirs").Val() != "1" {
		t.Error("others' keys are gone")
	}
}

func TestFigures(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 7: "7", 1234: "1,234", 1234567: "1,234,567", 12.34: "12.3", 1.234: "1.23", 999.6: "1,000"} {
		if got := Figure(v); got != want {
			t.Errorf("Figure(%v) = %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0", 0.00123: "1.23 ms", 0.0123: "12.3 ms", 0.123: "123 ms", 1.234: "1.23 s", 123: "2m3s"} {
		if got := Time(v); got != want {
			t.Errorf("Time(%v) = %s, want %s", v, got, want)
		}
	}
}
