package e2e

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp/kb"
	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	"onceover/internal/testenv"
)

// site is a deployment with an operators' page, and a browser.
type site struct {
	*browser
	b        *bundle
	proxy    *testenv.Proxy // between the gateway and RabbitMQ
	gateway  *process
	settings []string    // of the gateway
	mended   atomic.Bool // the pictures of /photos/ are there
}

func newSite(t *testing.T, settings ...string) *site {
	t.Helper()
	b := setup(t)
	target, err := url.Parse(b.broker)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{b: b, proxy: testenv.NewProxy(t, target.Host)}
	others := b.pictures.Config.Handler
	b.pictures.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/scans/"):
			r.URL.Path = "/broken.jpg"
		case strings.HasPrefix(r.URL.Path, "/shelf/"), strings.HasPrefix(r.URL.Path, "/photos/") && s.mended.Load():
			r.URL.Path = "/jar.jpg"
		}
		others.ServeHTTP(w, r)
	})
	uploads := t.TempDir()
	b.env = append(b.env, "TZ=UTC", "ONCEOVER_NODE_NAME=worker-1@photos", "ONCEOVER_RATE_LIMIT=off", "ONCEOVER_IMAGE_ROOT="+uploads)
	s.settings = append([]string{"ONCEOVER_UPLOADS=" + uploads, "ONCEOVER_BROKER_URL=" + s.proxy.URL(b.broker)}, settings...)
	s.gateway = b.gateway(s.settings...)
	w := b.worker()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the gateway:\n%s\nthe worker:\n%s", s.gateway.log.String(), w.log.String())
			t.Logf("the broker's queues: %s", s.queues())
		}
	})
	s.browser = newBrowser(t, "http://"+s.gateway.httpAddr())
	return s
}

// queues is what the broker itself says of its queues, for the log of a test that failed.
func (s *site) queues() string {
	at, err := url.Parse(s.b.broker)
	if err != nil {
		return err.Error()
	}
	client := &http.Client{Timeout: 5 * time.Second}
	get := func(path string) string {
		resp, err := client.Get(os.Getenv("ONCEOVER_TEST_RABBITMQ_API_URL") + path)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return resp.Status + " " + string(text)
	}
	vhost := url.PathEscape(strings.TrimPrefix(at.Path, "/"))
	return get("/api/queues/"+vhost+"?columns=name,messages_ready,messages_unacknowledged,consumers,message_stats") +
		"\nconsumers: " + get("/api/consumers/"+vhost)
}

// jobs sends n jobs, and does not wait for them.
func (s *site) jobs(n int, of func(i int) job) []outcome {
	s.t.Helper()
	var all []job
	for i := range n {
		all = append(all, of(i))
	}
	return s.b.client("send", all...)
}

// Three kinds of jobs that fail, and one that does not.
func (s *site) missing(i int) job {
	return analyze("image_url", s.b.picture(fmt.Sprintf("photos/2026-11/IMG_%d.jpg", 4021+i)), "user_id", fmt.Sprintf("user-%d", 17+i))
}
func (s *site) damaged(i int) job {
	return analyze("image_url", s.b.picture(fmt.Sprintf("scans/receipt-%03d.jpg", 118+i)), "user_id", "scanner-2")
}
func (s *site) unknown(i int) job {
	return job{Task: "receipt.read", Kwargs: map[string]any{"image_url": s.b.picture(fmt.Sprintf("shelf/jar-%02d.jpg", i))}}
}
func (s *site) good(i int) job {
	return analyze("image_url", s.b.picture(fmt.Sprintf("shelf/jar-%02d.jpg", i)))
}

// cause is an expression of the row of a cause in the overview.
func cause(text string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("tr:has(td.cause)")].find((e) => e.innerText.includes(%q))`, text)
}

// kept waits until a cause is one row that says how many jobs of it are kept.
func (w *tab) kept(text string, n int) {
	w.t.Helper()
	w.wait(fmt.Sprintf(`%s?.querySelectorAll("td.n")[2].innerText === "%d"`, cause(text), n))
	if rows := value[int](w, fmt.Sprintf(`[...document.querySelectorAll("td.cause")].filter((e) => e.innerText.includes(%q)).length`, text)); rows != 1 {
		w.t.Errorf("got %d rows of %s, want one", rows, text)
	}
}

// ended fails the test unless all jobs have ended well.
func (s *site) ended(jobs []outcome) {
	s.t.Helper()
	for _, o := range s.b.results(jobs) {
		if o.State != "SUCCESS" {
			s.t.Errorf("got %+v, want SUCCESS", o)
		}
	}
}

// TestPage goes the ways of operators in a browser, with real servers and a worker.
func TestPage(t *testing.T) {
	s := newSite(t)
	s.step("a picture is tried", s.tryPicture)
	s.step("failures", s.failures)
	s.step("one job", s.oneJob)
	s.step("a picture is corrected", s.correctPicture)
	s.step("a cause", s.oneCause)
	s.step("without scripts", s.withoutScripts)
	s.step("how pages look", s.looks)
}

// TestPageOfServers is about what the jobs go through.
func TestPageOfServers(t *testing.T) {
	s := newSite(t)
	s.step("queues", s.pauseQueue)
	s.step("parked jobs", s.parkedJobs)
	s.step("outages", s.outages)
}

// step does a part of a test, and looks for what the pages have done wrong in it.
func (s *site) step(what string, do func()) {
	s.t.Helper()
	began := time.Now()
	do()
	s.check()
	s.t.Logf("%s: %.1f s", what, time.Since(began).Seconds())
}

// tryPicture uploads a picture, and sees its job go on, up to its result, on one page.
func (s *site) tryPicture() {
	s.b.model.gate.Store(true)
	w := s.open("/ops/try")
	w.upload("input[type=file]", "../internal/samples/pictures/bottle.jpg")
	w.click("button[type=submit]", "Analyse")
	w.shows("h1", "Picture")
	w.mark()
	w.shows("strong", "50 %")
	close(s.b.model.hold)
	w.shows("#result", "")
	if got := w.text("#result"); !strings.Contains(got, `"waste_type": "plastic"`) {
		s.t.Errorf("got the result %s", got)
	}
	w.shows(".state", "completed")
	w.same()
	w.close()
}

// failures has jobs of three kinds fail while seven overviews are open, which all show it.
func (s *site) failures() {
	var open []*tab
	for range 7 {
		w := s.open("/ops/")
		w.shows("#h-causes", "What jobs fail of")
		w.shows(".empty", "Nothing has failed")
		w.mark()
		open = append(open, w)
	}
	s.jobs(36, func(i int) job { return []func(int) job{s.missing, s.damaged, s.unknown}[i%3](i / 3) })
	for _, w := range open {
		w.kept("FileNotFoundError", 12)
		w.kept("ValueError", 12)
		w.kept("NotRegistered", 12)
		w.same()
	}
	if got := open[6].text(".tile.bad strong"); got != "36" {
		s.t.Errorf("got %s failures in the last hour, want 36", got)
	}
	for _, w := range open[1:] {
		w.close()
	}
	s.keyboard(open[0])
	s.focus(open[0])
	open[0].close()
}

// keyboard goes from the top of the page to the first cause by the keyboard alone.
func (s *site) keyboard(w *tab) {
	w.visit("/ops/")
	w.kept("ValueError", 12)
	first := value[string](w, `document.querySelector("td.cause a").getAttribute("href")`)
	// at is where the focus is, and fails the test unless it can be seen.
	at := func() string {
		s.t.Helper()
		got := value[struct {
			At   string
			Seen bool
		}](w, `(() => {
			const e = document.activeElement, style = getComputedStyle(e), r = e.getBoundingClientRect();
			return {At: e.className === "skip" ? "skip" : e.getAttribute("href") ?? e.id, Seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 &&
				r.width > 0 && r.left >= 0 && r.top >= 0 && r.right <= innerWidth && r.bottom <= innerHeight};
		})()`)
		if !got.Seen {
			s.t.Errorf("the focus is at %q and cannot be seen", got.At)
		}
		return got.At
	}
	w.press(kb.Tab)
	if got := at(); got != "skip" {
		s.t.Errorf("got %q by the first tab, want the link that skips the menu", got)
	}
	var menu []string
	for range 40 {
		w.press(kb.Tab)
		where := at()
		if where == first {
			break
		}
		menu = append(menu, where)
	}
	for _, page := range []string{"/ops/", "/ops/failed", "/ops/parked", "/ops/running", "/ops/queues", "/ops/bulk", "/ops/pictures", "/ops/try", "/ops/changes"} {
		if !slices.Contains(menu, page) {
			s.t.Errorf("the keyboard does not come by %s on its way to the first cause: got %v", page, menu)
		}
	}
	w.press(kb.Enter)
	w.shows("h1", "Failed jobs")
	if got := value[string](w, "location.pathname + location.search"); got != first {
		s.t.Errorf("got to %s, want %s", got, first)
	}
	w.press(kb.Tab)
	w.press(kb.Enter)
	w.press(kb.Tab)
	if !value[bool](w, `document.querySelector("main").contains(document.activeElement)`) {
		s.t.Errorf("got %q after the menu was skipped, want what follows it", at())
	}
}

// focus sees that a page which is renewed leaves the reader where he is.
func (s *site) focus(w *tab) {
	w.visit("/ops/")
	w.kept("ValueError", 12)
	last := value[string](w, `(() => { const a = [...document.querySelectorAll("td.cause a")].at(-1); a.focus(); return a.getAttribute("href"); })()`)
	text := value[string](w, `document.activeElement.innerText`)
	kind := []func(int) job{s.missing, s.damaged, s.unknown}[slices.IndexFunc([]string{"FileNotFoundError", "ValueError", "NotRegistered"}, func(e string) bool { return strings.Contains(text, e) })]
	s.jobs(1, func(int) job { return kind(12) })
	w.wait(fmt.Sprintf(`document.querySelector("td.cause a").getAttribute("href") === %q`, last)) // it has come to the top
	w.renewed(1)
	if got := value[string](w, `document.activeElement.getAttribute("href")`); got != last {
		s.t.Errorf("the focus went from %s to %s", last, got)
	}

	w.visit("/ops/failed")
	w.enter(`input[name="text"]`, "IMG_40")
	w.mark()
	s.jobs(1, func(int) job { return s.missing(99) })
	w.shows("td.text", "FileNotFoundError")
	w.shows(".count", "38")
	if got := value[string](w, `document.activeElement.name + "=" + document.activeElement.value`); got != "text=IMG_40" {
		s.t.Errorf("got %s after the page was renewed, want what was typed", got)
	}
	w.press("21") // goes on where it was
	w.press(kb.Enter)
	w.shows(".count", "1 failed job matches")

	// A queue's reason is typed in a part that is renewed.
	w.visit("/ops/queues")
	w.enter(`input[name="why"]`, "dep")
	w.renewed(1)
	w.press("loy")
	if got := value[string](w, `document.activeElement.name + "=" + document.activeElement.value`); got != "why=deploy" {
		s.t.Errorf("got %s after the page was renewed, want what was typed", got)
	}
}

// oneJob looks at a failed job with its picture, and replays one with another argument.
func (s *site) oneJob() {
	w := s.open("/ops/failed?error=NotRegistered")
	w.click("td.id a", "")
	w.shows("h1", "Failed job")
	w.wait(`document.querySelector("figure img")?.naturalWidth > 50`)
	s.shoot(w, "failed-job", 1400)

	s.excuse(`404 .*/picture`)
	w.visit("/ops/failed?error=FileNotFoundError")
	id := w.text("td.id a")
	w.click("td.id a", "")
	w.shows("figure .empty", "The picture of this job cannot be had")
	w.enter(`input[name="set-name"]`, "image_url")
	w.enter(`input[name="set-value"]`, s.b.picture("can.jpg"))
	w.click("button", "Replay this job")
	w.shows(".said", "Job "+id+" was replayed.")
	s.ended([]outcome{{ID: id}})
	w.visit("/ops/changes")
	w.shows("td.text", id)
	if got := w.text("tbody tr"); !strings.Contains(got, "this machine") || !strings.Contains(got, "replayed") || strings.Contains(got, "can.jpg") {
		s.t.Errorf("got the change %s", got)
	}
	w.close()
}

// correctPicture goes from a failed job to what the cache has of its picture, corrects that, and takes it back.
func (s *site) correctPicture() {
	s.ended(s.jobs(1, s.good)) // of the same picture
	w := s.open("/ops/failed?error=NotRegistered")
	w.click("td.id a", "")
	w.shows("h1", "Failed job")
	w.click("a", "What the cache has of it")
	w.shows("h1", "Pictures")
	w.shows("dd", "")
	w.wait(`document.querySelector("figure.small img")?.naturalWidth === 48`)
	w.wait(`document.querySelector('figure img[src*="/failed/"]')?.naturalWidth > 50`)
	value[bool](w, `(document.querySelector("textarea").value = '{"category": "유리병"}', true)`)
	w.click("button", "Correct the answer")
	w.shows(".said", "Corrected")
	w.wait(`[...document.querySelectorAll("pre")].some((e) => e.textContent.includes("유리병"))`)
	w.visit("/ops/changes")
	w.click("button", "Undo")
	w.shows(".said", "Undone: ")
	w.close()
}

// oneCause replays all jobs of a cause once it is mended, and discards those of another one.
func (s *site) oneCause() {
	w := s.open("/ops/failed?error=FileNotFoundError")
	n := value[int](w, `document.querySelectorAll("td.id").length`)
	if n < 12 {
		s.t.Fatalf("got %d jobs of missing pictures, want those that were not replayed", n)
	}
	w.visit("/ops/")
	w.kept("FileNotFoundError", n)
	s.mended.Store(true)
	w.wait(cause("FileNotFoundError") + `.querySelector("td.do a.button").dataset.chosen = "yes"`)
	w.click(`a.button[data-chosen]`, fmt.Sprintf("Replay %d", n))
	w.shows("h1", "All that match")
	w.shows(".big", fmt.Sprintf("Replay %d failed jobs", n))
	w.click("button", "Replay them")
	w.shows("h1", "Bulk")
	w.mark()
	w.shows(".state", "done")
	w.wait(fmt.Sprintf(`document.querySelector(".ends").innerText.replace(/\s+/g, " ").trim() === "SUCCESS %d"`, n))
	w.same()
	s.shoot(w, "bulk", 1400)
	s.mended.Store(false)

	// The number has to be typed before anything is discarded.
	w.visit("/ops/failed?error=NotRegistered")
	w.click("a.button", "Discard all that match")
	w.shows(".big", "Discard")
	n = value[int](w, `document.querySelector(".big strong").innerText | 0`)
	w.click("button", "Discard them")
	if !value[bool](w, `location.pathname === "/ops/bulk/new" && document.querySelector("input[name=typed]").matches(":invalid")`) {
		s.t.Error("jobs are discarded although their number was not typed")
	}
	s.excuse(`409 `)
	w.enter("input[name=typed]", "1000")
	w.press(kb.Enter)
	w.shows("main [role=alert]", "Nothing was begun")
	value[bool](w, `(history.back(), true)`)
	w.shows(".big", "Discard")
	value[bool](w, `(document.querySelector("input[name=typed]").value = "", true)`)
	w.enter("input[name=typed]", fmt.Sprint(n))
	w.press(kb.Enter)
	w.shows("h1", "Bulk")
	w.shows(".state", "done")
	w.visit("/ops/failed?error=NotRegistered")
	w.shows(".empty", "No failed job matches.")
	w.close()
}

// pauseQueue pauses a queue, whose jobs stay in it, and resumes it.
func (s *site) pauseQueue() {
	w := s.open("/ops/queues")
	w.enter(`[data-key="q.ai"] input[name="why"]`, "the model is moved")
	w.press(kb.Enter)
	w.shows(".said", "Queue q.ai is paused")
	w.mark()
	const row = `document.querySelector('tr[data-key="q.ai"]').innerText.replace(/\s+/g, " ")`
	w.wait(`/paused by this machine, .* ago: the model is moved/.test(` + row + `)`)
	sent := s.jobs(3, s.good)
	w.wait(`/^q.ai 3 /.test(` + row + `)`)
	w.renewed(1)
	if got := value[string](w, row); !strings.HasPrefix(got, "q.ai 3 ") {
		s.t.Errorf("got %s, want the jobs of a paused queue in it", got)
	}
	w.same()
	w.click(`[data-key="q.ai"] button`, "Resume")
	w.shows(".said", "Queue q.ai is not paused any more: 1 of the 1 workers")
	s.ended(sent)
	w.wait(`/^q.ai 0 /.test(` + row + `)`)

	// What is said is for the page that the reader comes to, not for one that renews itself beside it.
	w.wait(`fetch("/ops/queues/q.ai/resume", {method: "POST", redirect: "manual"}).then(() => fetch(location.href)).then((r) => r.text()).then((t) => !t.includes("was not paused"))`)
	w.visit("/ops/queues")
	w.shows(".said", "Queue q.ai was not paused.")
	w.close()
}

// parkedJobs runs a job before it is due.
func (s *site) parkedJobs() {
	later := s.good(0)
	later.Options = map[string]any{"countdown": 3600}
	sent := s.b.client("send", later)
	w := s.open("/ops/parked")
	w.mark()
	w.shows("td.id", sent[0].ID)
	w.same()
	w.click("td.do button", "Run now")
	w.shows(".said", "The job is published in a moment.")
	s.ended(sent)
	w.shows(".empty", "No job is parked.")
	w.close()
}

// withoutScripts replays a job in a browser that runs no scripts.
func (s *site) withoutScripts() {
	s.mended.Store(true)
	defer s.mended.Store(false)
	w := s.open("/ops/")
	w.do("forbid scripts", call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	w.visit("/ops/failed")
	if value[bool](w, `!document.querySelector("#pause").hidden`) {
		s.t.Error("the page's script has run")
	}
	w.click("td.id a", "")
	w.shows("h1", "Failed job")
	w.click("button", "Replay this job")
	w.shows(".said", "Job ")
	w.close()
}

// outages stops what the page needs, one after another: it says so, and recovers by itself.
func (s *site) outages() {
	s.excuse(`Failed to load resource: (the server responded with a status of 503|net::ERR_)`)
	over, list := s.open("/ops/"), s.open("/ops/failed")
	over.mark()
	list.mark()
	s.b.redis.Kill()
	over.shows(".servers .bad", "✕ redis for results does not answer")
	list.shows("#stale", "This page cannot be updated: A server does not answer")
	s.b.redis.Start()
	over.wait(`!document.querySelector(".servers .bad")`)
	list.wait(`document.querySelector("#stale").hidden`)

	s.proxy.Cut()
	over.shows(".servers .bad", "✕ RabbitMQ does not answer")
	s.proxy.Restore()
	over.wait(`!document.querySelector(".servers .bad")`)

	addr := s.gateway.httpAddr()
	s.gateway.signal(syscall.SIGTERM)
	if code := s.gateway.end(); code != 0 {
		s.t.Errorf("got exit code %d of the gateway:\n%s", code, s.gateway.log.String())
	}
	over.shows("#stale", "This page cannot be updated: The gateway does not answer.")
	s.gateway = s.b.gateway(append(s.settings, "ONCEOVER_HTTP_ADDR="+addr)...)
	over.wait(`document.querySelector("#stale").hidden`)
	over.renewed(1)
	over.same()
	list.same()
}

// TestPageWithTokens signs in with tokens that may more and less.
func TestPageWithTokens(t *testing.T) {
	const secret = "a secret of more than thirty-two bytes"
	s := newSite(t, "ONCEOVER_JWT_SECRET="+secret)
	signed := func(subject, scope string) string {
		raw, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": subject, "scope": scope, "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	s.excuse(`status of (40[13]|404 .*/picture)`)
	s.jobs(1, s.missing)
	w := s.open("/ops/failed?error=FileNotFoundError")
	w.audit()
	signIn := func(token string) {
		t.Helper()
		w.shows("h1", "Sign in")
		w.enter("input[name=token]", token)
		w.press(kb.Enter)
	}
	// status is how the page answers whom the browser's cookie says.
	status := func(method, path string) int {
		t.Helper()
		return value[int](w, fmt.Sprintf(`fetch(%q, {method: %q, redirect: "manual"}).then((r) => r.type === "opaqueredirect" ? 303 : r.status)`, path, method))
	}
	if got := status("GET", "/ops/"); got != 401 {
		t.Errorf("got %d without a token, want 401", got)
	}
	if got := status("GET", "/ops/failed"); got != 401 {
		t.Errorf("got %d without a token, want 401", got)
	}
	signIn("not.a.token")
	w.shows("main [role=alert]", "the token is not valid")
	if shown := value[string](w, "document.documentElement.outerHTML"); strings.Contains(shown, "not.a.token") {
		t.Error("the page repeats the token")
	}
	w.visit("/ops/failed?error=FileNotFoundError")
	signIn(signed("reader", "photos"))
	w.shows("td.id a", "")
	if got := value[string](w, "location.pathname + location.search"); got != "/ops/failed?error=FileNotFoundError" {
		t.Errorf("got to %s, want the page that was asked for", got)
	}
	w.shows(".who", "reader · read only")
	if value[bool](w, `document.cookie.includes("token")`) {
		t.Error("a script can read the token")
	}
	record := value[string](w, `document.querySelector("td.id a").getAttribute("href")`)
	for _, path := range []string{"/ops/", "/ops/failed", record, "/ops/queues", "/ops/parked", "/ops/bulk/new?action=replay", "/ops/try"} {
		w.visit(path)
		w.shows("h1", "")
		for _, button := range value[[]string](w, `[...document.querySelectorAll("main button, main .button, main form:not([method=get])")].map((e) => e.innerText)`) {
			if !strings.HasPrefix(button, "Show") {
				t.Errorf("%s shows %q to a token that may only read", path, button)
			}
		}
	}
	for _, path := range []string{record + "/replay", record + "/discard", "/ops/bulk", "/ops/queues/q.ai/pause", "/ops/try"} {
		if got := status("POST", path); got != 403 {
			t.Errorf("got %d for POST %s with a token that may only read, want 403", got, path)
		}
	}
	w.click("button", "Sign out")
	w.shows("h1", "Sign in")
	if got := status("GET", "/ops/"); got != 401 {
		t.Errorf("got %d after the reader has signed out, want 401", got)
	}
	w.visit("/ops/queues")
	signIn(signed("minji", "photos admin"))
	w.shows(".who", "minji")
	w.click(`[data-key="q.ai"] button`, "Pause")
	w.shows(".said", "Queue q.ai is paused")
	w.shows(`tr[data-key="q.ai"]`, "q.ai")
	w.wait(`/paused by minji/.test(document.querySelector('tr[data-key="q.ai"]').innerText.replace(/\s+/g, " "))`)

	w.visit("/ops/?lang=ko")
	w.shows("h1", "개요")
	w.audit()
	if got := value[string](w, `document.documentElement.lang`); got != "ko" {
		t.Errorf("got the language %q, want ko", got)
	}
	w.visit("/ops/failed")
	w.shows("h1", "실패한 작업") // it is remembered
	w.click("a", "English")
	w.shows("h1", "Failed jobs")
}

// past has the deployment look as if it had worked for a day, for screenshots.
func (s *site) past() {
	now := time.Now().UTC().Truncate(time.Hour)
	const id = "5ca1ab1e5ca1ab1e"
	first, last := float64(now.Add(-23*time.Hour).UnixMilli()), float64(now.Add(-time.Minute).UnixMilli())
	ctx, kept := s.b.t.Context(), s.b.db(5)
	if err := cmp.Or(
		kept.HSet(ctx, "onceover:{failed}:causes", id, `{"task":"image.analyze","reason":"failed","error":"ConnectionError","text":"ask the vision model: HTTP 503 Service Unavailable"}`).Err(),
		kept.ZAdd(ctx, "onceover:{failed}:first", redis.Z{Score: first, Member: id}).Err(),
		kept.ZAdd(ctx, "onceover:{failed}:seen", redis.Z{Score: last, Member: id}).Err(),
	); err != nil {
		s.b.t.Fatal(err)
	}
	for i := 1; i < 24; i++ {
		hour := now.Add(-time.Duration(i) * time.Hour)
		busy := 3 + max(0, 12-abs(hour.Hour()-13)*2)
		if err := cmp.Or(
			s.b.db(1).HSet(ctx, "cache:stats:"+hour.Format("2006-01-02T15"), "exact", 31*busy+7*(i%5), "near", 3*busy, "miss", 17*busy+11*(i%3), "saved_microusd", 152_000*busy).Err(),
			kept.HSet(ctx, "onceover:failures:"+hour.Format("2006-01-02T15"), "ConnectionError", busy/4+[]int{0, 1, 0, 3}[i%4]).Err(),
			kept.HSet(ctx, "onceover:{failed}:met:"+hour.Format("2006-01-02T15"), "06:"+id, busy/4+[]int{0, 1, 0, 3}[i%4]).Err(),
		); err != nil {
			s.b.t.Fatal(err)
		}
	}
}

func abs(n int) int { return max(n, -n) }
