package failed

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/rabbit"
)

func TestNormalise(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, want string }{
		{"", ""},
		{"boom", "boom"},
		{"  boom \n", "boom"},
		{"first line\nsecond line", "first line"},
		{"\n\nfirst\n", "first"},
		{"one\rtwo\tthree\v\u2028four", "one two three four"},
		{"'waste_type'", "'waste_type'"},
		{"'confidence'", "'confidence'"},
		{"KeyError 'waste_type'", "KeyError 'waste_type'"},
		{`KeyError "confidence"`, `KeyError "confidence"`},
		{"HTTP 429 Too Many Requests", "HTTP 429 Too Many Requests"},
		{"HTTP 500 Internal Server Error", "HTTP 500 Internal Server Error"},
		{"HTTP/1.1 502 Bad Gateway", "HTTP/1.1 502 Bad Gateway"},
		{"status code 503", "status code 503"},
		{"status code: 503", "status code: 503"},
		{"status=404 of job 17", "status=404 of job #"},
		{"429 Client Error: Too Many Requests for url: https://s.example/v1/a/17?x=1", "429 Client Error: Too Many Requests for url: #"},
		{"503 Server Error: Service Unavailable for url: https://s.example/v1/a", "503 Server Error: Service Unavailable for url: #"},
		{"get https://s.example/a/b.jpg: connection refused", "get #: connection refused"},
		{"get https://s.example/a.jpg?X-Amz-Signature=abc&b=c: timeout", "get #: timeout"},
		{"get s3://bucket/key.jpg failed", "get # failed"},
		{`{"url":"https:\/\/s.example\/a","code":"E"}`, `{"url":#,"code":"E"}`},
		{"data:image/png;base64,iVBORw0KGgo= is too large", "# is too large"},
		{"job 0b3c5a3e-93a4-4a51-8b5f-0f4d1c9a7e11 is gone", "job # is gone"},
		{"digest deadbeef01 differs from 0xFFEE", "digest # differs from #"},
		{"object at 0x7f3a9c0d1e50>", "object at #>"},
		{"expected 3 values, got 12", "expected # values, got #"},
		{"-1.5 is less than 0", "# is less than #"},
		{"timed out after 30.5s (limit 1m30s)", "timed out after # (limit #)"},
		{"at 2026-11-21T12:00:00.123Z and 12:34:56", "at # and #"},
		{"at 2026-11-21T12:00:00+09:00.", "at #."},
		{"connect to 10.0.0.1:5432 failed", "connect to # failed"},
		{"No such file or directory: '/tmp/a/b.jpg'", "No such file or directory: #"},
		{"open /var/lib/x/job.json: permission denied", "open #: permission denied"},
		{"open ../data/x: permission denied", "open #: permission denied"},
		{"read/write is not allowed and/or wrong", "read/write is not allowed and/or wrong"},
		{"mail to kim.minsu@example.com bounced", "mail to # bounced"},
		{"cannot identify image file 'a.jpg'", "cannot identify image file #"},
		{`cannot read "kim.minsu"`, "cannot read #"},
		{"can't read what isn't there", "can't read what isn't there"},
		{`{"error": "rate limited", "retry_after": 17}`, `{"error": "rate limited", "retry_after": #}`},
		{`{"code":"E","detail":"no such file","n":17}`, `{"code":"E","detail":"no such file","n"#}`},
		{`{'code': 'E', 'file': 'a-b.jpg'}`, `{'code': 'E', 'file': #}`},
		{"can't open 'a.jpg'", "can't open #"},
		{"KeyError '신뢰도'", "KeyError '신뢰도'"},
		{"cannot open '사진-가.jpg' 'img0001'", "cannot open # '#'"},
		{"Client error '429 Too Many Requests' for url 'https://s.example/a?b=c'", "Client error '# Too Many Requests' for url #"},
		{"이미지 12개를 읽을 수 없습니다", "이미지 # 읽을 수 없습니다"},
		{"파일이 없습니다: 사진1.jpg", "파일이 없습니다: #"},
		{"파일이 없습니다", "파일이 없습니다"},
		{"caf\xe9 is closed", "caf\uFFFD is closed"},
		{strings.Repeat("a", 200), strings.Repeat("a", 200)},
		{strings.Repeat("a", 201), strings.Repeat("a", 200) + "…"},
		{strings.Repeat("한", 100), strings.Repeat("한", 66) + "…"},
		{"x" + strings.Repeat("한", 300), "x" + strings.Repeat("한", 66) + "…"},
		{strings.Repeat("1", 10_000) + " at the end", "#"},
		{strings.Repeat("1", 400) + strings.Repeat("한", 150), "#"},
		{"/" + strings.Repeat("한/", 500), "#"},
	}
	for _, tt := range tests {
		got := normalise(tt.in)
		if got != tt.want {
			t.Errorf("%.100q: got %q, want %q", tt.in, got, tt.want)
		}
		checkNormalised(t, tt.in, got)
	}
}

// TestNormaliseKeepsApart has messages that must not become one cause.
func TestNormaliseKeepsApart(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, text := range []string{
		"HTTP 429 Too Many Requests", "HTTP 500 Internal Server Error", "HTTP 503", "HTTP 502", "status code 503", "status code 429",
		"429 Client Error: Too Many Requests for url: https://s.example/a", "404 Client Error: Not Found for url: https://s.example/a",
		"KeyError 'waste_type'", "KeyError 'confidence'", "'waste_type'", "'confidence'",
		"파일이 없습니다", "이미지를 읽을 수 없습니다", "KeyError '신뢰도'", "KeyError '폐기물'", `{"code":"A"}`, `{"code":"B"}`,
		"Client error '429 Too Many Requests' for url 'https://s.example/a'", "Client error '404 Not Found' for url 'https://s.example/a'",
	} {
		got := normalise(text)
		if other, ok := seen[got]; ok {
			t.Errorf("%q and %q both became %q", text, other, got)
		}
		seen[got] = text
	}
}

func checkNormalised(t *testing.T, in, got string) {
	t.Helper()
	if len(got) > maxCauseText+len("…") {
		t.Errorf("%.100q: got %d bytes, want %d at most", in, len(got), maxCauseText+len("…"))
	}
	if !utf8.ValidString(got) {
		t.Errorf("%.100q: got %q, want UTF-8", in, got)
	}
	if got != strings.Join(strings.Fields(got), " ") {
		t.Errorf("%.100q: got %q, want one line with single spaces", in, got)
	}
}

func FuzzNormalise(f *testing.F) {
	for _, text := range []string{
		"", "boom", "429 Client Error: x for url: https://s.example/a?b=c", "HTTP 500", "'a.b' \"c d\" e@f 0x1f", "caf\xe9\n2",
		strings.Repeat("한1", 300), strings.Repeat("1", 400) + strings.Repeat("한", 150), "a\u2028b\u0085c", "/a/b:1:.", "data:x",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := normalise(text)
		checkNormalised(t, text, got)
		if again := normalise(text); again != got {
			t.Errorf("%q: got %q, then %q", text, got, again)
		}
		if line, _, _ := strings.Cut(strings.TrimSpace(text), "\n"); got == "" && strings.TrimSpace(line) != "" {
			t.Errorf("%q: got nothing", text)
		}
		r := Record{Task: text, Error: text, Text: text}
		if id := causeOf(&r).ID; len(id) != 16 || id != causeOf(&r).ID {
			t.Errorf("%q: got cause %q", text, id)
		}
	})
}

// of returns the record of a failure at a time.
func of(t testing.TB, id, task, text string, last time.Time) Record {
	t.Helper()
	r := failure(t, id)
	r.Task, r.Text, r.Last = task, text, last.UTC().Truncate(time.Millisecond)
	return r
}

// causes are those of a store, by their texts.
func (b *bundle) causes() map[string]Cause {
	b.t.Helper()
	all, err := b.store.Causes(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string]Cause{}
	for _, c := range all {
		if _, ok := out[c.Text]; ok {
			b.t.Errorf("got two causes with text %q", c.Text)
		}
		out[c.Text] = c
	}
	return out
}

// TestCauses groups 2,000 failures with ids, numbers and URLs in their messages.
func TestCauses(t *testing.T) {
	b := setup(t)
	texts := []func(i int) string{
		func(i int) string {
			return fmt.Sprintf("429 Client Error: Too Many Requests for url: https://s.example/jobs/%d?n=%d", i, i)
		},
		func(i int) string {
			return fmt.Sprintf("job %08x-93a4-4a51-8b5f-0f4d1c9a7e11: expected %d values", i*7919, i)
		},
		func(i int) string { return "'waste_type'" },
	}
	template := of(t, "template", "t", "", dawn)
	kept := map[string]int{}
	var records []Record
	for i := range 2000 {
		r := template
		kind := min(i%10/4, 2) // 4, 4 and 2 of ten
		r.ID, r.Text = fmt.Sprintf("job-%04d", i), texts[kind](i)
		kept[normalise(texts[kind](0))]++
		records = append(records, r)
	}
	b.keepMany(records)
	if got := b.causes(); len(got) != 3 {
		t.Fatalf("got %d causes, want 3: %v", len(got), got)
	}
	for text, c := range b.causes() {
		if c.Kept != kept[text] || c.Day != kept[text] {
			t.Errorf("got %+v, want %d kept, and as many in a day", c, kept[text])
		}
		if c.Task != "t" || c.Error != "ValueError" || c.Reason != ReasonFailed || c.ID != causeOf(&Record{Task: "t", Error: "ValueError", Reason: ReasonFailed, Text: text}).ID && !strings.Contains(text, "#") {
			t.Errorf("got %+v", c)
		}
		if n, exact, err := b.store.Size(t.Context(), Filter{Cause: c.ID}); n != c.Kept || !exact || err != nil {
			t.Errorf("%q: got size %d, %v, %v, want %d", text, n, exact, err, c.Kept)
		}
		if n := len(b.list(Filter{Cause: c.ID})); n != c.Kept {
			t.Errorf("%q: got %d listed, want %d", text, n, c.Kept)
		}
	}
	// Another task, reason or class is another cause.
	for _, change := range []func(*Record){
		func(r *Record) { r.Task = "u" }, func(r *Record) { r.Error = "E" }, func(r *Record) { r.Reason = rabbit.Expired },
	} {
		r := records[0]
		change(&r)
		if causeOf(&r).ID == causeOf(&records[0]).ID {
			t.Errorf("got one cause of %+v and another", r)
		}
	}
}

// TestCauseTimes counts failures by when they were, whatever became of the jobs since.
func TestCauseTimes(t *testing.T) {
	b := setup(t)
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d).UTC().Truncate(time.Millisecond) }
	keep := func(id, text string, last time.Time) { t.Helper(); b.keep(of(t, id, "t", text, last)) }
	keep("b-1", "both", ago(3*time.Hour))
	keep("b-2", "both", ago(30*time.Minute))
	keep("b-3", "both", ago(10*time.Minute))
	keep("b-4", "both", ago(40*time.Minute))
	keep("d-1", "a day", ago(66*time.Minute))
	keep("d-2", "a day", ago(23*time.Hour+50*time.Minute))
	keep("l-1", "long ago", ago(24*time.Hour+6*time.Minute))
	keep("l-2", "long ago", ago(1000*time.Hour))
	keep("g-1", "gone", ago(20*time.Minute))
	keep("g-2", "gone", ago(2*time.Hour))
	keep("gg-1", "gone long ago", ago(25*time.Hour))
	keep("now", "now", now)
	// What failed elsewhere counts there.
	for _, text := range []string{"both", "imported"} {
		if isNew, err := b.store.Import(t.Context(), of(t, "i-"+text, "t", text, ago(5*time.Minute))); !isNew || err != nil {
			t.Fatalf("got %v, %v", isNew, err)
		}
	}
	b.replay(key("b-2"), key("g-1"))
	for _, id := range []string{"b-3", "g-2", "gg-1"} {
		if err := b.store.Discard(t.Context(), key(id)); err != nil {
			t.Fatal(err)
		}
	}
	// A redelivery is no failure.
	keep("now", "now", now)
	want := map[string]Cause{
		"both":     {Kept: 3, Hour: 3, Day: 4, First: ago(3 * time.Hour), Last: ago(5 * time.Minute), Newest: key("i-both")},
		"a day":    {Kept: 2, Hour: 0, Day: 2, First: ago(23*time.Hour + 50*time.Minute), Last: ago(66 * time.Minute), Newest: key("d-1")},
		"long ago": {Kept: 2, First: ago(1000 * time.Hour), Last: ago(24*time.Hour + 6*time.Minute), Newest: key("l-1")},
		"gone":     {Hour: 1, Day: 2, First: ago(2 * time.Hour), Last: ago(20 * time.Minute)},
		"imported": {Kept: 1, First: ago(5 * time.Minute), Last: ago(5 * time.Minute), Newest: key("i-imported")},
		"now":      {Kept: 1, Hour: 1, Day: 1, First: now.Truncate(time.Millisecond), Last: now.Truncate(time.Millisecond), Newest: key("now")},
	}
	got := b.causes()
	for text, w := range want {
		c := got[text]
		if c.Kept != w.Kept || c.Hour != w.Hour || c.Day != w.Day || !c.First.Equal(w.First) || !c.Last.Equal(w.Last) || c.Newest != w.Newest {
			t.Errorf("%s: got %+v, want %+v", text, c, w)
		}
		if c.Task != "t" || c.ID == "" {
			t.Errorf("%s: got %+v, want its task and id", text, c)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d causes, want %d: %v", len(got), len(want), got)
	}
	all, err := b.store.Causes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, c := range all {
		order = append(order, c.Text)
	}
	if order[0] != "both" || !slices.Equal(order[3:], []string{"a day", "long ago", "imported"}) {
		t.Errorf("got %q, want those with most failures of the hour first, then of the day, then kept", order)
	}
}

// TestTooManyCauses meets with more causes than are told apart: nothing is lost, and what was known
// before is still told apart.
func TestTooManyCauses(t *testing.T) {
	b := setup(t)
	const extra = 12
	var records []Record
	for i := range maxCauses + extra {
		r := of(t, fmt.Sprintf("job-%03d", i), "task."+word(i), "text "+word(i), dawn.Add(time.Duration(i)*time.Minute/10))
		r.Error = "Error" + word(i)
		if i >= maxCauses {
			r.Reason = rabbit.Expired
		}
		records = append(records, r)
	}
	b.keepMany(records[:maxCauses])
	b.keepMany(records[maxCauses:])
	again := records[0]
	again.ID = "again"
	b.keep(again)
	long := sized(t, "long", 200<<10, "x") // its pieces must outlive the second try
	long.Task, long.Text = "task.long", "text long"
	b.keep(long)

	got := b.causes()
	if len(got) != maxCauses+1 {
		t.Errorf("got %d causes, want %d and one for all others", len(got), maxCauses)
	}
	other := got[otherCauses.Text]
	if other.ID != otherCauses.ID || other.Kept != extra+1 || other.Day != extra+1 || other.Newest != key("long") || other.First.IsZero() {
		t.Errorf("got %+v, want %d other failures, and when they began", other, extra+1)
	}
	if c := got["text aaa"]; c.Kept != 2 || c.ID == otherCauses.ID {
		t.Errorf("got %+v, want two of a cause that was known", c)
	}
	if n := len(b.entries()); n != len(records)+2 {
		t.Errorf("got %d records listed, want %d", n, len(records)+2)
	}
	for _, i := range []int{1, maxCauses, maxCauses + extra - 1} {
		r := records[i]
		for _, f := range []Filter{{Task: r.Task}, {Error: r.Error}, {Task: r.Task, Error: r.Error, Reason: string(r.Reason)}} {
			all := b.list(f)
			if len(all) != 1 || all[0].ID != r.ID {
				t.Errorf("%+v: got %v, want %s", f, all, r.ID)
			}
			if n, exact, err := b.store.Size(t.Context(), f); err != nil || exact {
				t.Errorf("%+v: got size %d, %v, %v, want that it is not known", f, n, exact, err)
			}
		}
	}
	if n := len(b.list(Filter{Reason: string(rabbit.Expired)})); n != extra {
		t.Errorf("got %d records by a reason that only other causes have, want %d", n, extra)
	}
	if n := len(b.list(Filter{Cause: otherCauses.ID})); n != extra+1 {
		t.Errorf("got %d records of other causes, want %d", n, extra+1)
	}
	if ttl := b.client.TTL(t.Context(), b.pieces(key("long"))).Val(); ttl != -1 {
		t.Errorf("the message of a record expires in %v, want never", ttl)
	}
	b.replay(key("long"), Key(records[maxCauses].ID+":0"))
	if c := b.causes()[otherCauses.Text]; c.Kept != extra-1 || c.Day != extra+1 {
		t.Errorf("got %+v, want %d kept after two were replayed", c, extra-1)
	}

	// Once a cause is forgotten there is room for another.
	if err := b.store.Discard(t.Context(), key(records[5].ID)); err != nil {
		t.Fatal(err)
	}
	b.seen(got[records[5].Text].ID, metTTL+time.Hour)
	if _, err := b.store.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.keep(of(t, "late", "t", "late", time.Now()))
	if c := b.causes()["late"]; c.Kept != 1 {
		t.Errorf("got %+v, want a cause of its own", c)
	}
}

// seen has Redis say that a cause was met with for the last time so long ago.
func (b *bundle) seen(id string, ago time.Duration) {
	b.t.Helper()
	z := redis.Z{Score: float64(time.Now().Add(-ago).UnixMilli()), Member: id}
	if err := b.client.ZAddXX(b.t.Context(), seenKey, z).Err(); err != nil {
		b.t.Fatal(err)
	}
}

// known reports what is kept of a cause: what it is, and when it was met with.
func (b *bundle) known(id string) (about, seen bool) {
	b.t.Helper()
	about, err := b.client.HExists(b.t.Context(), causesKey, id).Result()
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = b.client.ZScore(b.t.Context(), seenKey, id).Result()
	return about, err == nil
}

// TestForgetCauses forgets a cause a day after its last failure, if no job of it is kept.
func TestForgetCauses(t *testing.T) {
	b := setup(t)
	ids := map[string]string{}
	for _, text := range []string{"recent", "old", "kept", "met again"} {
		r := of(t, text, "t", text, time.Now())
		b.keep(r)
		ids[text] = causeOf(&r).ID
		if text != "kept" {
			if err := b.store.Discard(t.Context(), r.key()); err != nil {
				t.Fatal(err)
			}
		}
	}
	expire := func(s *Store) {
		t.Helper()
		if n, err := s.Expire(t.Context()); n != 0 || err != nil {
			t.Fatalf("got %d records discarded, %v", n, err)
		}
	}
	b.seen(ids["old"], 25*time.Hour)
	expire(b.store)
	for text, id := range ids {
		if about, seen := b.known(id); !about || !seen {
			t.Errorf("%s: forgotten (%v, %v) while its failures count", text, about, seen)
		}
	}
	for _, text := range []string{"old", "kept", "met again"} {
		b.seen(ids[text], metTTL+time.Minute)
	}
	// A job fails of it, and is discarded, after it was found to be old.
	client := b.connect(5)
	client.AddHook(&beforeScript{f: func() {
		r := of(t, "another", "t", "met again", time.Now())
		b.keep(r)
		if err := b.store.Discard(t.Context(), r.key()); err != nil {
			t.Error(err)
		}
	}})
	expire(New(Config{}, client, b.results, b.marks, nil, zap.NewNop()))
	for text, id := range ids {
		want := text != "old"
		if about, seen := b.known(id); about != want || seen != want {
			t.Errorf("%s: known %v, seen %v, want %v", text, about, seen, want)
		}
	}
	got := b.causes()
	if c := got["met again"]; c.Day != 2 {
		t.Errorf("got %+v, want two failures in the day", c)
	}
	if c := got["kept"]; c.Kept != 1 {
		t.Errorf("got %+v, want one kept", c)
	}
}

// beforeScript calls f before a script that is called by itself, after so many others.
type beforeScript struct {
	f     func()
	after int32
	n     atomic.Int32
}

func (*beforeScript) DialHook(next redis.DialHook) redis.DialHook { return next }
func (*beforeScript) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h *beforeScript) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.HasPrefix(cmd.Name(), "eval") && h.n.Add(1) == h.after+1 {
			h.f()
		}
		return next(ctx, cmd)
	}
}

// TestCauseOfReasons keeps jobs that failed before there was an exception: they have a cause as well.
func TestCauseOfReasons(t *testing.T) {
	b := setup(t)
	for i, reason := range []celery.Reason{celery.ReasonBody, rabbit.Expired, ReasonPoison} {
		m := message(t, request(fmt.Sprint("job-", i)))
		b.keep(Failure(m, requestOf(t, m), nil, reason))
	}
	all, err := b.store.Causes(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("got %+v, %v, want three", all, err)
	}
	for _, c := range all {
		if listed := b.list(Filter{Reason: string(c.Reason)}); c.Kept != 1 || len(listed) != 1 || listed[0].Key != c.Newest {
			t.Errorf("got %+v with %v, want its job", c, listed)
		}
	}
}
