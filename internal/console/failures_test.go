package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/net/html"

	"onceover/celery"
	"onceover/failed"
)

// odd are ids, texts and queues that must not do harm.
var odd = map[string]string{
	"script":         `<script>alert(1)</script>`,
	"end of a tag":   `"><img src=x onerror=alert(1)>`,
	"single quotes":  `' onclick='alert(1)`,
	"a comment":      `<!-- --><!--`,
	"a template":     `{{.Who}} %s %d %!`,
	"direction":      "user\u202egpj.exe\u2066x",
	"control":        "a\x00b\x07c\x1b[31md\x7fe\u0085f",
	"line ends":      "a\r\nSet-Cookie: x=y\n\nb\tc",
	"not UTF-8":      "a\xff\xfeb\xc3",
	"long":           strings.Repeat("long ", 2000),
	"of a path":      "a/../b//c/./..",
	"of a query":     "a?b=c&d=e#f;g",
	"percent":        "a%2Fb%00c%zz+d e",
	"colons":         "a:b:c:0",
	"like a key":     "a:0~1234",
	"Korean":         "작업 하나/둘",
	"dots":           "..",
	"a scheme":       "javascript:alert(1)",
	"another host":   "//evil.example/x",
	"a quoted value": `a=1;b="c"`,
}

// TestOddJobs lists, shows, replays and discards jobs of which every field is odd, by the links and forms of the pages.
func TestOddJobs(t *testing.T) {
	for name, text := range odd {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			for _, id := range []string{text, "second " + text} {
				r := job(t, strings.ToValidUTF8(id, "x"), map[string]any{text: text, "nested": map[string]any{"<b>": []string{text}}})
				r.ID, r.Message.Headers["id"], r.Message.Headers["root_id"] = id, id, id
				r.Task, r.Error, r.Text, r.Traceback, r.Stage, r.Previous, r.Worker, r.Queue, r.User = text, text, text, text, text, text, text, text, text
				r.Message.Queue, r.Message.Headers["odd"] = text, text
				b.keep(r)
			}
			b.run()
			read := b.reader()
			for _, path := range []string{"", "failed?text=" + url.QueryEscape(text), "failed?queue=" + url.QueryEscape(text), "failed?user=" + url.QueryEscape(text), "failed?error=" + url.QueryEscape(text), "bulk/new?action=replay&text=" + url.QueryEscape(text)} {
				read.get(Base + path)
			}
			links := read.get(Base + "failed").jobLinks()
			if len(links) != 2 {
				t.Fatalf("got the links %.200q, want two", links)
			}
			shown := read.get(links[0])
			var byUser []string
			for _, n := range shown.elements("a") {
				if href := attr(n, "href"); strings.HasPrefix(href, Base+"failed?user=") {
					byUser = read.get(href).jobLinks()
				}
			}
			if len(byUser) != 2 && strings.TrimSpace(text) == text {
				t.Errorf("got the jobs %.200q of the user, want both", byUser)
			}
			action, fields := shown.form(t, "/replay")
			fields.Set("set-name", "no such argument")
			if _, page := read.post(action, fields); page.status != http.StatusOK || !strings.HasPrefix(page.said(), "Not replayed: ") || !strings.Contains(page.text(), "Last failed") {
				t.Errorf("got %d, %.200q, want the page of the job, and why it was not replayed", page.status, page.said())
			}
			fields.Del("set-name")
			path, page := read.post(action, fields)
			if path != Base+"failed" || page.status != http.StatusOK || !strings.Contains(page.said(), "was replayed") {
				t.Errorf("got to %.200s, %d, which says %.200q", path, page.status, page.said())
			}
			if got := b.out.messages(); len(got) != 1 || got[0].Queue != text && utf8.ValidString(text) {
				t.Errorf("got %d jobs published, want one to its queue", len(got))
			}
			links = page.jobLinks()
			if len(links) != 1 {
				t.Fatalf("got the links %.200q after the replay, want one", links)
			}
			action, fields = read.get(links[0]).form(t, "/discard")
			if a := read.do(http.MethodPost, action, fields); a.status != http.StatusBadRequest {
				t.Errorf("got %d for a discard that nobody is sure of, want 400", a.status)
			}
			fields.Set("sure", "yes")
			path, page = read.post(action, fields)
			if path != Base+"failed" || page.status != http.StatusOK || !strings.Contains(page.said(), "was discarded") || len(page.jobLinks()) != 0 {
				t.Errorf("got to %.200s, %d, which says %.200q", path, page.status, page.said())
			}
			if n, _, err := b.store.Size(t.Context(), failed.Filter{}); err != nil || n != 0 {
				t.Errorf("got %d failed jobs left, %v, want none", n, err)
			}
			changes := read.get(Base + "changes")
			if rows := changes.elements("tr"); len(rows) != 4 {
				t.Errorf("got %d changes, want three: %.300s", len(rows)-1, changes.text())
			}
			if a := read.do(http.MethodGet, links[0], nil); a.status != http.StatusNotFound {
				t.Errorf("got %d for a job that has gone, want 404", a.status)
			}
		})
	}
}

// TestUnreadableBody shows a job whose message is no JSON.
func TestUnreadableBody(t *testing.T) {
	b := setup(t)
	r := job(t, "pickle", nil)
	r.Message.Body, r.Message.Properties.ContentType = []byte("\x80\x04\x95\xff\xfe</pre><script>\x00"), "application/x-python-serialize"
	b.keep(r)
	b.run()
	a := b.reader().get(Base + "failed/pickle:0")
	if !strings.Contains(a.text(), "</pre><script>") {
		t.Errorf("got %s, want the body shown", a.text())
	}
	if _, page := b.reader().post(Base+"failed/pickle:0/replay", nil); page.status != http.StatusOK || len(b.out.messages()) != 1 {
		t.Errorf("got %d, %q, want the message published as it is", page.status, page.said())
	}
}

// TestSecrets looks on every page for what stands behind the question mark of a URL.
func TestSecrets(t *testing.T) {
	b := setup(t)
	const signed = "https://store.example/a.jpg?X-Amz-Signature=hush0&token=hush1"
	r := job(t, "job", map[string]any{"image_url": signed, "callback": "https://user:hush2@hook.example/x#hush3", "inline": "data:image/png;base64,aGlkZGVu"})
	r = failed.Failure(r.Message, mustRequest(t, &r), celery.NewException("FetchError", "GET "+signed+": 403", nil), failed.ReasonFailed)
	b.keep(r)
	req := mustRequest(t, &r)
	if err := b.store.Park(t.Context(), r.Message, req, time.Now().Add(time.Hour), nil); err != nil {
		t.Fatal(err)
	}
	b.work(map[string]string{"id": "running", "kwargs": "{'image_url': '" + signed + "'}"}, "q.ai")
	b.run()
	read := b.reader()
	b.until("the running job is shown", func() bool { return strings.Contains(read.get(Base+"running").body, "store.example/a.jpg") })
	_, page := read.post(Base+"failed/job:0/replay", url.Values{"set-name": {"image_url"}, "set-value": {signed}})
	if !strings.Contains(page.said(), "was replayed") {
		t.Errorf("got %q", page.said())
	}
	b.keep(r)
	shown := 0
	for _, path := range []string{"", "failed", "failed/job:0", "failed?text=store.example", "parked", "running", "queues", "changes", "bulk", "bulk/new?action=replay"} {
		a := read.get(Base + path)
		if strings.Contains(a.body, "store.example/a.jpg") {
			shown++
		}
		if i := strings.Index(a.body, "hush"); i >= 0 {
			t.Errorf("%s%s shows a secret: %q", Base, path, a.body[max(0, i-60):min(len(a.body), i+20)])
		}
		if strings.Contains(a.body, "aGlkZGVu") {
			t.Errorf("%s%s shows the content of a data URL", Base, path)
		}
	}
	if shown < 5 {
		t.Errorf("got the URL on %d pages, want it on those that show arguments", shown)
	}
	sent := b.out.messages()
	if len(sent) != 1 || !strings.Contains(string(sent[0].Body), "hush0") {
		t.Errorf("want the job published with its whole URL")
	}
}

func mustRequest(t *testing.T, r *failed.Record) *celery.Request {
	t.Helper()
	req, err := r.Request()
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// TestPaging follows the link to older jobs, with a filter and without.
func TestPaging(t *testing.T) {
	b := setup(t)
	b.jobs(140, func(i int, r *failed.Record) {
		if i%7 == 0 {
			r.Error = "KeyError & co"
		}
	})
	b.run()
	for _, query := range []string{"", "?error=ValueError", "?error=ValueError&since=1h&text=boom"} {
		want := 140
		if query != "" {
			want = 120
		}
		read := b.reader()
		seen, pages := map[string]int{}, 0
		for path := Base + "failed" + query; path != ""; {
			a := read.get(path)
			pages++
			for _, link := range a.jobLinks() {
				seen[link]++
			}
			if !strings.Contains(query, "text") && !strings.Contains(a.text(), fmt.Sprintf("%d failed jobs match (exact)", want)) {
				t.Errorf("%s: got %.300s, want the exact number %d", path, a.text(), want)
			}
			next := a.link("Older")
			if next != "" && a.link("Newest") == "" != (pages == 1) {
				t.Errorf("%s: got the link %q to the newest", path, a.link("Newest"))
			}
			if pages > 10 {
				t.Fatal("there is always an older page")
			}
			path = next
		}
		for link, n := range seen {
			if n != 1 {
				t.Errorf("%q: %s is listed %d times", query, link, n)
			}
		}
		if len(seen) != want || pages != 3 {
			t.Errorf("%q: got %d jobs on %d pages, want %d on 3", query, len(seen), pages, want)
		}
	}
}

// TestFilters is a table of lists.
func TestFilters(t *testing.T) {
	b := setup(t)
	b.jobs(10, func(i int, r *failed.Record) {
		switch {
		case i < 2:
			r.Error, r.Text = "KeyError", "'image_url'"
		case i == 2:
			r.Task = "image.other"
		case i == 3:
			r.Queue = "q.batch"
		case i == 4:
			r.Reason = failed.ReasonPoison
		case i == 5:
			r.Text = "a needle"
		case i == 6:
			r.Last = r.Last.Add(-5 * time.Hour)
		case i == 7:
			r.User = "user-7"
		}
	})
	b.run()
	read := b.reader()
	for query, want := range map[string]int{
		"": 10, "error=KeyError": 2, "task=image.other": 1, "queue=q.batch": 1, "reason=poison": 1, "user=user-7": 1, "user=user": 0, "text=NEEDLE": 1, "text=%20needle%20": 1,
		"since=1h": 9, "since=24h": 10, "older=1h": 1, "older=24h": 0, "since=24h&older=1h": 1, "error=KeyError&text=needle": 0, "text=job-00": 10, "text=store.example": 10, "text=%ff": 0,
	} {
		if got := len(read.get(Base + "failed?" + query).jobLinks()); got != want {
			t.Errorf("%s: got %d jobs, want %d", query, got, want)
		}
	}
	for _, query := range []string{"reason=unknown", "since=yesterday", "since=-1h", "older=x", "at=nowhere", "at=1", "since=0s"} {
		if a := read.do(http.MethodGet, Base+"failed?"+query, nil); a.status != http.StatusBadRequest {
			t.Errorf("%s: got %d, want 400", query, a.status)
		}
	}
	if old := read.get(Base + "bulk/new?action=discard&older=1h"); !strings.Contains(old.text(), "Discard 1 failed jobs (exact)") {
		t.Errorf("got the plan %.300s, want the job that is older", old.text())
	}
	// The way of a person: from a cause to its jobs, and to all of them at once.
	overview := read.get(Base)
	cause := overview.link("KeyError")
	if !strings.HasPrefix(cause, Base+"failed?cause=") {
		t.Fatalf("got the link %q of a cause: %s", cause, overview.text())
	}
	list := read.get(cause)
	if got := list.jobLinks(); len(got) != 2 || !strings.Contains(list.text(), "2 failed jobs match (exact)") {
		t.Errorf("got %v: %.300s, want the two of the cause", got, list.text())
	}
	plan := read.get(list.link("Replay all that match"))
	if !strings.Contains(plan.text(), "Replay 2 failed jobs (exact)") || !strings.Contains(plan.text(), "KeyError") {
		t.Errorf("got the plan %.300s, want the two of the cause", plan.text())
	}
	discard := read.get(list.link("Discard all that match"))
	if !strings.Contains(discard.text(), "Discard 2 failed jobs (exact)") {
		t.Errorf("got the plan %.300s, want the two of the cause", discard.text())
	}
	if back := read.get(plan.link("Back")); len(back.jobLinks()) != 2 {
		t.Errorf("got %d jobs on the way back, want the two of the cause", len(back.jobLinks()))
	}
	sample := read.get(overview.link("Sample"))
	if _, fields := sample.form(t, "/replay"); fields == nil {
		t.Error("the sample is no failed job")
	}
	both := read.get(Base + "failed?" + url.Values{"error": {"KeyError"}, "text": {"a&b=c d"}}.Encode())
	for _, n := range both.elements("input") {
		if attr(n, "name") == "text" && attr(n, "value") != "a&b=c d" {
			t.Errorf("got the text %q in the form", attr(n, "value"))
		}
	}
}

// TestBulk replays all that match as a person does: the list, the plan, the number, the bulk.
func TestBulk(t *testing.T) {
	b := setup(t, withTokens)
	b.jobs(130, func(i int, r *failed.Record) {
		if i < 10 {
			r.Error = "Key & Error"
		}
	})
	b.run()
	read := b.reader()
	read.token = signed(t, "김 & <kim>", nil, adminScope)
	plan := read.get(read.get(Base + "failed?error=ValueError").link("Replay all that match"))
	if !strings.Contains(plan.text(), "Replay 120 failed jobs (exact)") || !strings.Contains(plan.text(), "Type 120 to go on") {
		t.Fatalf("got the plan %s", plan.text())
	}
	action, fields := plan.form(t, "/bulk")
	for _, typed := range []string{"", "12", "121", "x", "-120", "120.0"} {
		fields.Set("typed", typed)
		if a := read.do(http.MethodPost, action, fields); a.status != http.StatusConflict {
			t.Errorf("typed %q: got %d, want 409", typed, a.status)
		}
	}
	fields.Set("typed", "120")
	for _, rate := range []string{"-1", "0", "x", "NaN", "Inf", "1e300", "1e-300"} {
		fields.Set("rate", rate)
		if a := read.do(http.MethodPost, action, fields); a.status != http.StatusBadRequest {
			t.Errorf("rate %q: got %d %s, want 400", rate, a.status, a.text())
		}
	}
	if all, err := b.store.Bulks(t.Context(), 10); err != nil || len(all) != 0 || len(b.out.messages()) != 0 {
		t.Fatalf("got the bulks %+v, %v, want that nothing has begun", all, err)
	}
	fields.Set("rate", " 5000 ")
	fields.Set("typed", " 120 ")
	path, page := read.post(action, fields)
	if !strings.HasPrefix(path, Base+"bulk/") || page.status != http.StatusOK {
		t.Fatalf("got to %s, %d", path, page.status)
	}
	b.until("the bulk is done", func() bool {
		page = read.get(path)
		return strings.Contains(page.text(), "120 / 120 done")
	})
	if got := len(b.out.messages()); got != 120 {
		t.Errorf("got %d jobs published, want 120", got)
	}
	if !strings.Contains(page.text(), "PENDING 120") || !strings.Contains(page.text(), "5000") || !strings.Contains(page.text(), "김 & <kim>") {
		t.Errorf("got %s, want how the jobs ended, the rate and who began it", page.text())
	}
	if left := read.get(Base + "failed").jobLinks(); len(left) != 10 {
		t.Errorf("got %d failed jobs left, want 10", len(left))
	}
	if again := read.get(page.link("error=")); !strings.Contains(again.text(), "No failed job matches.") {
		t.Errorf("got %.200s behind the filter of the bulk, want none left", again.text())
	}

	// What is not counted exactly comes out otherwise at another time: the number counts that the reader was shown.
	const inexact = "nothing has this text"
	for counted, want := range map[string]int{"7": http.StatusSeeOther, "8": http.StatusConflict, "": http.StatusConflict} {
		a := read.do(http.MethodPost, Base+"bulk", url.Values{"action": {"discard"}, "text": {inexact}, "typed": {"7"}, "counted": {counted}})
		if a.status != want {
			t.Errorf("typed 7 of %q: got %d, want %d", counted, a.status, want)
		}
	}
	// A few need no number, but to be discarded.
	plan = read.get(read.get(Base + "failed?error=Key+%26+Error").link("Replay all that match"))
	if _, fields := plan.form(t, "/bulk"); fields.Has("typed") {
		t.Error("a number is asked for to replay ten jobs")
	}
	plan = read.get(read.get(Base + "failed?error=Key+%26+Error").link("Discard all that match"))
	action, fields = plan.form(t, "/bulk")
	if a := read.do(http.MethodPost, action, fields); a.status != http.StatusConflict {
		t.Errorf("got %d for a discard without its number, want 409", a.status)
	}
	fields.Set("typed", "10")
	path, _ = read.post(action, fields)
	b.until("the bulk is done", func() bool { return strings.Contains(read.get(path).text(), "10 / 10 done") })
	if n, _, err := b.store.Size(t.Context(), failed.Filter{}); err != nil || n != 0 || len(b.out.messages()) != 120 {
		t.Errorf("got %d failed jobs left, %v", n, err)
	}
	bulks := read.get(Base + "bulk")
	if rows := bulks.elements("tr"); len(rows) != 4 || !strings.HasPrefix(textOf(rows[1]), "discard done 10 0 10") || !strings.HasPrefix(textOf(rows[3]), "replay done 120 0 120") {
		t.Errorf("got the bulks %s", bulks.text())
	}
	// Who began each, and how each ended.
	var changes *answer
	b.until("all ends are noted", func() bool {
		changes = read.get(Base + "changes")
		return len(changes.elements("tr")) == 7
	})
	for _, want := range []string{"김 & <kim> discard all error=Key", "김 & <kim> replay all error=ValueError", "done: 120, and 0 left as they were", "done: 10, and 0 left as they were"} {
		if !strings.Contains(changes.text(), want) {
			t.Errorf("got no %q in %s", want, changes.text())
		}
	}
}

// TestBulkWhileJobsFail begins a bulk of the jobs that were counted, while others of its kind go on to fail: these are not among them.
func TestBulkWhileJobsFail(t *testing.T) {
	b := setup(t)
	b.jobs(120, func(int, *failed.Record) {})
	b.run()
	read := b.reader()
	plan := read.get(read.get(Base + "failed?error=ValueError").link("Replay all that match"))
	action, fields := plan.form(t, "/bulk")
	late := job(t, "late", nil)
	late.Error, late.Last = "ValueError", time.Now().Add(time.Second) // after the plan was shown, whatever the clocks say
	b.keep(late)
	fields.Set("typed", "120")
	path, page := read.post(action, fields)
	if !strings.HasPrefix(path, Base+"bulk/") {
		t.Fatalf("got to %s: %s", path, page.text())
	}
	b.until("the bulk is done", func() bool { return strings.Contains(read.get(path).text(), "120 / 120 done") })
	if got := len(b.out.messages()); got != 120 || !b.has("late:0") {
		t.Errorf("got %d jobs replayed, late there: %v; want those that were counted", got, b.has("late:0"))
	}
}

// TestDamagedRecord shows a failed job of which the message has gone, and discards it.
func TestDamagedRecord(t *testing.T) {
	b := setup(t)
	b.keep(job(t, "damaged", nil))
	if err := b.connect(5).HSet(t.Context(), "onceover:{failed}:job:damaged:0", "message", "{").Err(); err != nil {
		t.Fatal(err)
	}
	b.run()
	read := b.reader()
	page := read.get(read.get(Base + "failed").jobLinks()[0])
	if page.status != http.StatusOK || !strings.Contains(page.text(), "can only be discarded") || strings.Contains(page.text(), "Replay this job") {
		t.Errorf("got %d %s", page.status, page.text())
	}
	action, fields := page.form(t, "/discard")
	fields.Set("sure", "yes")
	if _, page := read.post(action, fields); b.has("damaged:0") {
		t.Errorf("it is still there: %s", page.text())
	}
}

// TestWithoutResults shows failed jobs while the server of the results is away: the jobs are on another one.
func TestWithoutResults(t *testing.T) {
	b := setup(t, func(_ *Config, n *Needs) {
		n.States = func(context.Context, []string) ([]celery.State, error) { return nil, errors.New("away") }
	})
	b.keep(job(t, "a", nil))
	b.run()
	read := b.reader()
	list := read.get(Base + "failed")
	if list.status != http.StatusOK || !strings.Contains(list.text(), "?") {
		t.Errorf("got %d %s", list.status, list.text())
	}
	if page := read.get(list.jobLinks()[0]); page.status != http.StatusOK || !strings.Contains(page.text(), "ValueError") {
		t.Errorf("got %d %s", page.status, page.text())
	}
}

// TestBulkOfAll has no filter.
func TestBulkOfAll(t *testing.T) {
	b := setup(t)
	b.jobs(3, nil)
	b.run()
	read := b.reader()
	plan := read.get(Base + "bulk/new?action=replay")
	if !strings.Contains(plan.text(), "these are all failed jobs") {
		t.Errorf("got %s", plan.text())
	}
	action, fields := plan.form(t, "/bulk")
	path, _ := read.post(action, fields)
	b.until("the bulk is done", func() bool { return strings.Contains(read.get(path).text(), "3 / 3 done") })
	if a := read.get(Base + "changes"); !strings.Contains(a.text(), "this machine replay all all failed jobs begun as") {
		t.Errorf("got the changes %s", a.text())
	}
	if plan = read.get(Base + "bulk/new?action=discard"); !strings.Contains(plan.text(), "No failed job matches.") || len(plan.elements("form")) != 0 {
		t.Errorf("got %s, want nothing to be discarded", plan.text())
	}
	for _, query := range []string{"", "action=delete", "action=replay&since=x"} {
		if a := read.do(http.MethodGet, Base+"bulk/new?"+query, nil); a.status != http.StatusBadRequest {
			t.Errorf("%s: got %d, want 400", query, a.status)
		}
	}
	if a := read.do(http.MethodGet, Base+"bulk/unknown", nil); a.status != http.StatusNotFound {
		t.Errorf("got %d for a bulk that is not known, want 404", a.status)
	}
}

// TestBulkWaitsAndStops has the broker away: the page says so, and a person stops the bulk.
func TestBulkWaitsAndStops(t *testing.T) {
	b := setup(t)
	b.jobs(3, nil)
	b.out.fail = errors.New("the broker <is> away")
	b.run()
	read := b.reader()
	action, fields := read.get(Base+"bulk/new?action=replay").form(t, "/bulk")
	path, _ := read.post(action, fields)
	var page *answer
	b.until("the fault is shown", func() bool {
		page = read.get(path)
		return strings.Contains(page.text(), "Waits: ") && strings.Contains(page.text(), "the broker <is> away")
	})
	b.until("the overview shows it", func() bool { return strings.Contains(read.get(Base).text(), "the broker <is> away") })
	action, fields = page.form(t, "/stop")
	_, page = read.post(action, fields)
	if page.said() != "Stopped." || !strings.Contains(page.text(), "0 / 3 stopped") || strings.Contains(page.text(), "Waits") {
		t.Errorf("got %q, %s, want it stopped", page.said(), page.text())
	}
	if _, page = read.post(action, fields); page.said() != "It had ended before." {
		t.Errorf("got %q for the second time", page.said())
	}
	if read.get(path).said() != "" {
		t.Error("what was done is said twice")
	}
	if !b.has("job-000:0") || !b.has("job-002:0") {
		t.Error("want the jobs kept")
	}
	if rows := read.get(Base + "changes").elements("tr"); len(rows) != 3 || !strings.Contains(textOf(rows[1]), "this machine stop bulk") {
		t.Errorf("got %d changes, want that it was stopped, once", len(rows)-1)
	}
}

// TestChangedArgument replays a job with another argument.
func TestChangedArgument(t *testing.T) {
	b := setup(t)
	b.jobs(4, nil)
	b.run()
	read := b.reader()
	send := func(id, name, value string) (string, *answer) {
		return read.post(Base+"failed/"+id+":0/replay", url.Values{"set-name": {name}, "set-value": {value}})
	}
	sent := func() string {
		all := b.out.messages()
		return string(all[len(all)-1].Body)
	}
	if _, page := send("job-000", " image_url ", "https://store.example/b.jpg"); !strings.Contains(page.said(), "was replayed") || !strings.Contains(sent(), `"image_url":"https://store.example/b.jpg"`) {
		t.Errorf("got %q, and the message %s", page.said(), sent())
	}
	if _, page := send("job-001", "image_url", `{"a":[1,2]}`); !strings.Contains(page.said(), "was replayed") || !strings.Contains(sent(), `"image_url":{"a":[1,2]}`) {
		t.Errorf("got %q, and the message %s", page.said(), sent())
	}
	if a := read.do(http.MethodPost, Base+"failed/job-002:0/replay", url.Values{"set-value": {"x"}}); a.status != http.StatusBadRequest {
		t.Errorf("got %d for a value without a name, want 400", a.status)
	}
	path, page := send("job-002", "no_such_argument", "1")
	if path != Base+"failed/job-002:0" || !strings.HasPrefix(page.said(), "Not replayed: ") || !strings.Contains(page.said(), "no_such_argument") {
		t.Errorf("got %q at %s, want that there is no such argument", page.said(), path)
	}
	if len(b.out.messages()) != 2 || !b.has("job-002:0") {
		t.Error("want the job kept, and not published")
	}
	rows := read.get(Base + "changes").elements("tr")
	if len(rows) != 4 || !strings.Contains(textOf(rows[1]), "not replayed") || !strings.Contains(textOf(rows[3]), "job-000:0 with another image_url replayed") {
		t.Errorf("got %d changes: %s", len(rows)-1, textOf(rows[1]))
	}
	for _, path := range []string{"failed/none:0/replay"} {
		if _, page := read.post(Base+path, nil); !strings.Contains(page.text(), "There is no failed job none:0") {
			t.Errorf("%s: got %s", path, page.text())
		}
	}
	if a := read.do(http.MethodPost, Base+"failed/none:0/discard", url.Values{"sure": {"yes"}}); a.status != http.StatusNotFound {
		t.Errorf("got %d for a job that is not there, want 404", a.status)
	}
	if a := read.do(http.MethodPost, Base+"failed/job-003:0/replay", url.Values{"set-name": {"image_url"}, "set-value": {strings.Repeat("x", formBytes)}}); a.status != http.StatusBadRequest {
		t.Errorf("got %d for a form that is too long, want 400", a.status)
	}
}

// TestPicture shows the picture of a job.
func TestPicture(t *testing.T) {
	fault := errors.New(`cannot get "https://store.example/a.jpg?sig=hush"`)
	b := setup(t, func(_ *Config, n *Needs) {
		n.Picture = func(_ context.Context, req *celery.Request) ([]byte, error) {
			if req.ID == "job-001" {
				return nil, fault
			}
			return []byte("\xff\xd8\xff of " + req.ID), nil
		}
	})
	b.jobs(2, nil)
	b.run()
	read := b.reader()
	img := read.get(Base + "failed/job-000:0").elements("img")
	img = slices.DeleteFunc(img, func(n *html.Node) bool { return strings.HasPrefix(attr(n, "src"), Base+"assets/") })
	if len(img) != 1 {
		t.Fatalf("got %d pictures on the page of a job, want one", len(img))
	}
	a := read.get(attr(img[0], "src"))
	if a.header.Get("Content-Type") != "image/jpeg" || a.body != "\xff\xd8\xff of job-000" {
		t.Errorf("got %q, %q", a.header.Get("Content-Type"), a.body)
	}
	if a = read.do(http.MethodGet, Base+"failed/job-001:0/picture", nil); a.status != http.StatusNotFound || strings.Contains(a.body, "hush") || !strings.Contains(a.text(), "store.example") {
		t.Errorf("got %d, %s, want why without the secret", a.status, a.text())
	}
	if a = read.do(http.MethodGet, Base+"failed/none:0/picture", nil); a.status != http.StatusNotFound {
		t.Errorf("got %d for a job that is not there, want 404", a.status)
	}
}

// TestStates shows what became of jobs, and that one which has succeeded is not replayed.
func TestStates(t *testing.T) {
	b := setup(t)
	b.jobs(2, nil)
	meta, err := celery.NewMeta(&celery.Request{ID: "job-001", Task: "t"}, celery.Success, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.results.Record(t.Context(), meta, celery.Stored{}); err != nil {
		t.Fatal(err)
	}
	b.run()
	read := b.reader()
	if a := read.do(http.MethodGet, Base+"failed/job-001:9", nil); a.status != http.StatusNotFound || !strings.Contains(a.text(), "says SUCCESS now") {
		t.Errorf("got %d, %.300s for a record that has gone, want what became of its job", a.status, a.text())
	}
	rows := read.get(Base + "failed").elements("tr")
	if len(rows) != 3 || !strings.Contains(textOf(rows[1]), "SUCCESS") || !strings.Contains(textOf(rows[2]), "PENDING") {
		t.Errorf("got %d rows: %s", len(rows), read.get(Base+"failed").text())
	}
	page := read.get(Base + "failed/job-001:0")
	if !strings.Contains(page.text(), "has succeeded meanwhile") {
		t.Errorf("got %s", page.text())
	}
	if _, page = read.post(Base+"failed/job-001:0/replay", nil); !strings.HasPrefix(page.said(), "Not replayed: has succeeded") || len(b.out.messages()) != 0 {
		t.Errorf("got %q", page.said())
	}
}

// TestParked lists parked jobs, has one run and discards one.
func TestParked(t *testing.T) {
	b := setup(t)
	due := time.Now().Add(time.Hour)
	for i := range 60 {
		r := job(t, fmt.Sprintf("parked-%02d/<b>", i), nil)
		exc := celery.NewException("RateLimitError", "no <b>room", nil)
		if err := b.store.Park(t.Context(), r.Message, mustRequest(t, &r), due.Add(time.Duration(i)*time.Second), exc); err != nil {
			t.Fatal(err)
		}
	}
	b.run()
	read := b.reader()
	first := read.get(Base + "parked")
	if !strings.Contains(first.text(), "60 jobs are parked") {
		t.Errorf("got %.200s", first.text())
	}
	if cells := first.elements("td"); !strings.Contains(textOf(cells[2]), "postponed") || !strings.Contains(textOf(cells[2]), "RateLimitError no <b>room") {
		t.Errorf("the first job is parked as of %q, want what it failed of", textOf(cells[2]))
	}
	second := read.get(Base + "parked" + first.link("Later"))
	names := func(a *answer) (out []string) {
		for _, n := range a.elements("td") {
			if attr(n, "class") == "id" {
				out = append(out, textOf(n))
			}
		}
		return out
	}
	all := append(names(first), names(second)...)
	slices.Sort(all)
	if all = slices.Compact(all); len(all) != 60 || len(names(first)) != 50 {
		t.Errorf("got %d jobs on two pages, want 60", len(all))
	}
	action, fields := first.form(t, "/run")
	if _, page := read.post(action, fields); page.said() != "The job is published in a moment." {
		t.Errorf("got %q", page.said())
	}
	action, fields = second.form(t, "/discard")
	if a := read.do(http.MethodPost, action, fields); a.status != http.StatusBadRequest {
		t.Errorf("got %d for a discard that nobody is sure of, want 400", a.status)
	}
	fields.Set("sure", "yes")
	if _, page := read.post(action, fields); page.said() != "The parked job was discarded." || !strings.Contains(page.text(), "59 jobs are parked") {
		t.Errorf("got %q: %.200s", page.said(), page.text())
	}
	if a := read.do(http.MethodPost, action, fields); a.status != http.StatusNotFound {
		t.Errorf("got %d for a job that is parked no more, want 404", a.status)
	}
	for _, n := range []string{"0", "-1", "x", "99999999999"} {
		if a := read.do(http.MethodGet, Base+"parked?page="+n, nil); a.status != http.StatusBadRequest {
			t.Errorf("page %s: got %d, want 400", n, a.status)
		}
	}
	if rows := read.get(Base + "changes").elements("tr"); len(rows) != 3 || !strings.Contains(textOf(rows[1]), "discard parked") || !strings.Contains(textOf(rows[2]), "run now") {
		t.Errorf("got %d changes, want two", len(rows)-1)
	}
}
