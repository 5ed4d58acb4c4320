package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/net/html"

	"onceover/cache"
	"onceover/celery"
	"onceover/failed"
	"onceover/internal/control"
	"onceover/internal/devbroker"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/internal/token"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
	"onceover/vision/fleet"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// limit is how long anything may take that a test waits for.
const limit = time.Minute

const (
	secret     = "a secret of the tests, forty bytes long."
	adminScope = "ops:admin"
)

// bundle is a console on a real Redis and a broker in this process.
type bundle struct {
	t       *testing.T
	server  *testenv.RedisServer
	broker  string
	client  *redis.Client // DB5
	revoked *redis.Client // DB4
	store   *failed.Store
	results *results.Store
	out     *outbox
	console *Console
	handler http.Handler
	counter *counter
	pings   atomic.Int64 // of Redis, one in each gathering
}

func setup(t *testing.T, change ...func(*Config, *Needs)) *bundle {
	t.Helper()
	t.Parallel()
	b := &bundle{t: t, server: testenv.Redis(t, "--appendfsync", "no"), out: &outbox{}, counter: &counter{}}
	s, err := devbroker.Listen(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	b.broker = s.URL()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	log := zap.NewNop()
	b.client, b.revoked = b.connect(5), b.connect(4)
	theirs := func(db int) *redis.Client { // those of the console, whose commands are counted
		c := b.connect(db)
		c.AddHook(b.counter)
		return c
	}
	db0, kept := theirs(0), theirs(5)
	b.results = results.New(db0, log)
	shown := progress.New(theirs(2), log)
	b.store = failed.New(failed.Config{}, kept, b.results, shown, nil, log)
	producer := rabbit.NewProducer("console test", []string{b.broker}, rabbit.QueueNamed("q.ai"))
	workers := control.New("console test", []string{b.broker})
	workers.Wait = 300 * time.Millisecond
	var looks sync.WaitGroup
	needs := Needs{
		Failed: b.store, Publish: b.out.publish, Progress: shown, Cache: cache.New(cache.DefaultConfig(), theirs(1), nil, log),
		Gate: fleet.New(fleet.Config{}, theirs(3), prometheus.NewRegistry(), log), Workers: workers, Pauses: control.NewPauses(kept), Queues: []string{"q.ai"},
		Look: func(ctx context.Context, queue string) (rabbit.Standing, error) {
			conn, err := producer.Conn(ctx)
			if err != nil {
				return rabbit.Standing{}, err
			}
			looks.Add(1)
			defer looks.Done()
			return rabbit.Look(conn, queue)
		},
		Servers: []Server{
			{"RabbitMQ", producer.Connect},
			{"Redis DB5", func(ctx context.Context) error {
				b.pings.Add(1)
				return b.client.Ping(ctx).Err()
			}},
		},
		API: http.NotFoundHandler(), Domain: "waste", Uploads: true,
	}
	needs.Pictures = cached{needs.Cache}
	cfg := Config{AdminScope: adminScope}
	for _, c := range change {
		c(&cfg, &needs)
	}
	if needs.Tokens == wantTokens {
		own := b.connect(4)
		needs.Tokens = token.New(token.Config{Secret: secret}, own, log)
		t.Cleanup(func() {
			own.Close()
			needs.Tokens.Wait()
			needs.Tokens.Close()
		})
	}
	b.console = New(cfg, needs, log)
	b.handler = b.console.Handler()
	t.Cleanup(func() {
		producer.Close()
		workers.Close()
		looks.Wait()
	})
	return b
}

// wantTokens has setup make a verifier.
var wantTokens = &token.Verifier{}

func withTokens(_ *Config, n *Needs) { n.Tokens = wantTokens }

func withReadScope(c *Config, n *Needs) { c.ReadScope, n.Tokens = "ops:read", wantTokens }

func (b *bundle) connect(db int) *redis.Client {
	b.t.Helper()
	opt, err := redisretry.Options(b.server.URL())
	if err != nil {
		b.t.Fatal(err)
	}
	opt.DB = db
	c := redis.NewClient(opt)
	b.t.Cleanup(func() { c.Close() })
	return c
}

// run has the console gather and work on bulks until the test ends.
func (b *bundle) run() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.console.Run(ctx)
	}()
	b.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// until waits for a state of which nothing tells.
func (b *bundle) until(what string, done func() bool) {
	b.t.Helper()
	deadline := time.After(limit)
	for !done() {
		select {
		case <-deadline:
			b.t.Fatalf("not within %v: %s", limit, what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// outbox is a broker for failed jobs that notes what is published.
type outbox struct {
	mu   sync.Mutex
	got  []rabbit.Message
	fail error // nil: nothing fails
}

func (o *outbox) publish(ctx context.Context, _ bool, messages ...rabbit.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return o.fail
	}
	o.got = append(o.got, messages...)
	return ctx.Err()
}

func (o *outbox) messages() []rabbit.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.got)
}

// counter counts commands by their names.
type counter struct {
	mu sync.Mutex
	by map[string]int
}

func (c *counter) note(cmds ...redis.Cmder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]int{}
	}
	for _, cmd := range cmds {
		c.by[cmd.Name()]++
	}
}

// total is how many commands there were, without those that ask for bulks to work on, and those of new connections.
func (c *counter) total() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, times := range c.by {
		if name != "smembers" && name != "hello" && name != "client" && name != "select" && name != "auth" {
			n += times
		}
	}
	return n
}

func (c *counter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.note(cmd)
		return next(ctx, cmd)
	}
}
func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.note(cmds...)
		return next(ctx, cmds)
	}
}

// job is the record of a job that failed, whose message was taken from q.ai.
func job(t *testing.T, id string, kwargs map[string]any) failed.Record {
	t.Helper()
	req := &celery.Request{ID: id, Task: "image.analyze", Kwargs: map[string]json.RawMessage{}}
	for name, value := range kwargs {
		doc, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		req.Kwargs[name] = doc
	}
	m, err := rabbit.New(celery.Message{Request: req, Exchange: "tasks", RoutingKey: "ai.analyze"})
	if err != nil {
		t.Fatal(err)
	}
	p := m.Publishing()
	taken := rabbit.Of(amqp.Delivery{
		Headers: p.Headers, Body: p.Body, Exchange: "tasks", RoutingKey: "ai.analyze", ContentType: p.ContentType, ContentEncoding: p.ContentEncoding,
		CorrelationId: p.CorrelationId, ReplyTo: p.ReplyTo, DeliveryMode: p.DeliveryMode,
	}, "q.ai").Message
	return failed.Failure(taken, req, celery.NewException("ValueError", "boom", nil), failed.ReasonFailed)
}

func (b *bundle) keep(records ...failed.Record) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 5*limit)
	defer cancel()
	var wg sync.WaitGroup
	for part := range slices.Chunk(records, (len(records)+7)/8) {
		wg.Go(func() {
			for _, r := range part {
				if err := b.store.Keep(ctx, r); err != nil {
					b.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// jobs keeps n failed jobs, job-000 and so on, one millisecond after the other.
func (b *bundle) jobs(n int, change func(i int, r *failed.Record)) {
	b.t.Helper()
	template := job(b.t, "template", map[string]any{"image_url": "https://store.example/a.jpg"})
	records := make([]failed.Record, n)
	for i := range records {
		r := template
		r.ID = fmt.Sprintf("job-%03d", i)
		r.Message = r.Message.Clone()
		r.Message.Headers["id"], r.Message.Headers["root_id"] = r.ID, r.ID
		r.Last = r.Last.Add(-time.Duration(n-i) * time.Millisecond)
		if change != nil {
			change(i, &r)
		}
		records[i] = r
	}
	b.keep(records...)
}

func (b *bundle) has(k failed.Key) bool {
	b.t.Helper()
	r, err := b.store.Get(b.t.Context(), k)
	if err != nil {
		b.t.Fatal(err)
	}
	return r != nil
}

// signed is a token with these scopes.
func signed(t *testing.T, subject string, changes jwt.MapClaims, scopes ...string) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": subject, "exp": time.Now().Add(time.Hour).Unix(), "scope": strings.Join(scopes, " ")}
	for name, value := range changes {
		claims[name] = value
	}
	raw, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// reader is a browser, as far as it matters: it keeps cookies.
type reader struct {
	b       *bundle
	token   string // in the header Authorization
	lang    string // Accept-Language
	host    string
	cookies map[string]string
}

func (b *bundle) reader() *reader {
	return &reader{b: b, host: "127.0.0.1:8080", lang: "en", cookies: map[string]string{}}
}

// answer is an answer, of which doc is the page, nil if it is none.
type answer struct {
	status int
	header http.Header
	body   string
	doc    *html.Node
}

// do sends a request, and checks the page that it gets.
func (r *reader) do(method, target string, form url.Values, change ...func(*http.Request)) *answer {
	r.b.t.Helper()
	var req *http.Request
	if form != nil {
		req = httptest.NewRequest(method, target, strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		req = httptest.NewRequest(method, target, nil)
	}
	req.Host = r.host
	req.Header.Set("Accept-Language", r.lang)
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	for name, value := range r.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for _, c := range change {
		c(req)
	}
	w := httptest.NewRecorder()
	r.b.handler.ServeHTTP(w, req.WithContext(r.b.t.Context()))
	resp := w.Result()
	a := &answer{status: resp.StatusCode, header: resp.Header, body: w.Body.String()}
	for _, c := range resp.Header.Values("Set-Cookie") {
		if len(c) > 4096 {
			r.b.t.Errorf("%s %.100s: got a cookie of %d bytes, which browsers drop", method, target, len(c))
		}
	}
	for _, c := range resp.Cookies() {
		if c.MaxAge < 0 {
			delete(r.cookies, c.Name)
		} else {
			r.cookies[c.Name] = c.Value
		}
	}
	where := fmt.Sprintf("%s %.100s: %d", method, target, a.status)
	checkHeader(r.b.t, where, a.header)
	if strings.HasPrefix(a.header.Get("Content-Type"), "text/html") && a.status != http.StatusSeeOther && method != http.MethodHead {
		var err error
		if a.doc, err = html.Parse(strings.NewReader(a.body)); err != nil {
			r.b.t.Fatal(err)
		}
		want := r.cookies[langCookie]
		if want == "" {
			want, _, _ = strings.Cut(r.lang, "-")
		}
		checkPage(r.b.t, where, a, want)
	}
	return a
}

// get gets a page that is there.
func (r *reader) get(target string) *answer {
	r.b.t.Helper()
	a := r.do(http.MethodGet, target, nil)
	if a.status != http.StatusOK {
		r.b.t.Fatalf("GET %s: got %d %s", target, a.status, a.text())
	}
	return a
}

// post sends a form, and returns the page to which that leads, after its path.
func (r *reader) post(target string, form url.Values) (path string, page *answer) {
	r.b.t.Helper()
	if form == nil {
		form = url.Values{}
	}
	a := r.do(http.MethodPost, target, form)
	if a.status != http.StatusSeeOther {
		r.b.t.Fatalf("POST %.100s %v: got %d %s, want a redirect", target, form, a.status, a.text())
	}
	path = a.header.Get("Location")
	return path, r.do(http.MethodGet, path, nil)
}

// checkHeader looks for what keeps a browser from harm.
func checkHeader(t *testing.T, where string, h http.Header) {
	t.Helper()
	policy := h.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, part) {
			t.Errorf("%s: got the policy %q, want %s in it", where, policy, part)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") || strings.Contains(policy, "http") {
		t.Errorf("%s: got the policy %q, want it to allow nothing from elsewhere", where, policy)
	}
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: got %s %q, want %q", where, name, got, want)
		}
	}
	if cc := h.Get("Cache-Control"); cc != "no-store" && !strings.HasPrefix(h.Get("Content-Type"), "text/css") &&
		!strings.HasPrefix(h.Get("Content-Type"), "text/javascript") && h.Get("Content-Type") != "image/svg+xml" {
		t.Errorf("%s: got Cache-Control %q, want no-store", where, cc)
	}
}

// checkPage says what is wrong with a page, whatever it shows.
func checkPage(t *testing.T, where string, a *answer, lang string) {
	t.Helper()
	fault := func(format string, args ...any) { t.Helper(); t.Errorf("%s: %s", where, fmt.Sprintf(format, args...)) }
	if !utf8.ValidString(a.body) {
		fault("the page is not UTF-8")
	}
	if at := wrong.FindStringIndex(a.body); at != nil {
		fault("the page has …%.60s", a.body[at[0]:])
	}
	ids, heads := map[string]bool{}, 0
	for n := range a.doc.Descendants() {
		if n.Type == html.TextNode {
			if i := strings.IndexFunc(n.Data, harmful); i >= 0 {
				fault("a text has the character %+q: %.60q", n.Data[i:i+1], n.Data)
			}
			if text := strings.TrimSpace(n.Data); lang == "ko" && own[n.Parent.Data] && korean[text] != "" && korean[text] != text {
				fault("the text %q is in English", text)
			}
		}
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "html":
			if got := attr(n, "lang"); got != lang {
				fault("got the language %q, want %q", got, lang)
			}
		case "h1":
			heads++
		case "style", "base", "iframe", "object", "embed":
			fault("the page has a <%s>", n.Data)
		case "script":
			if attr(n, "src") != Base+"assets/live.js" || n.FirstChild != nil {
				fault("the page has a script of its own: %s %.80s", attr(n, "src"), textOf(n))
			}
		case "input", "select", "textarea":
			if attr(n, "type") != "hidden" && !labelled(n) {
				fault("the field %s has no label", attr(n, "name"))
			}
		case "img":
			inMain := false
			for up := n.Parent; up != nil; up = up.Parent {
				inMain = inMain || up.Data == "main"
			}
			if !slices.ContainsFunc(n.Attr, func(at html.Attribute) bool { return at.Key == "alt" && (at.Val != "" || !inMain) }) {
				fault("a picture has no text")
			}
		}
		for _, at := range n.Attr {
			switch {
			case strings.HasPrefix(at.Key, "on") || at.Key == "style" || at.Key == "srcdoc":
				fault("<%s> has the attribute %s=%q", n.Data, at.Key, at.Val)
			case at.Key == "id":
				if ids[at.Val] || at.Val == "" {
					fault("the id %q is there twice", at.Val)
				}
				ids[at.Val] = true
			case at.Key == "href" || at.Key == "src" || at.Key == "action":
				u, err := url.Parse(at.Val)
				if err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(at.Val, Base) && !strings.HasPrefix(at.Val, "?") && !strings.HasPrefix(at.Val, "#") {
					fault("<%s> leads to %q", n.Data, at.Val)
				}
			case at.Key == "title" || at.Key == "alt" || at.Key == "placeholder" || at.Key == "aria-label":
				if i := strings.IndexFunc(at.Val, harmful); i >= 0 {
					fault("<%s %s> has the character %+q", n.Data, at.Key, at.Val[i:i+1])
				}
			}
		}
	}
	if heads != 1 {
		fault("the page has %d headings, want one", heads)
	}
	for n := range a.doc.Descendants() {
		if by := attr(n, "aria-labelledby"); by != "" && !ids[by] {
			fault("a part is named by the id %q, which is not there", by)
		}
		if href := attr(n, "href"); strings.HasPrefix(href, "#") && !ids[href[1:]] {
			fault("a link leads to the id %q, which is not there", href)
		}
	}
}

// own are the elements whose text is the page's own, and no value.
var own = map[string]bool{"h1": true, "h2": true, "th": true, "dt": true, "legend": true, "label": true, "button": true, "summary": true, "option": true, "p": true, "title": true, "figcaption": true}

// wrong finds what templates and formats write instead of what was meant.
var wrong = regexp.MustCompile(`ZgotmplZ|%![a-zA-Z]?\(|<no value>`)

// harmful reports whether a character draws, or turns the direction of what follows.
func harmful(r rune) bool {
	return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

func labelled(n *html.Node) bool {
	if attr(n, "aria-label") != "" {
		return true
	}
	for up := n.Parent; up != nil; up = up.Parent {
		if up.Type == html.ElementNode && up.Data == "label" && textOf(up) != "" {
			return true
		}
	}
	return false
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// textOf is the text below a node, with one blank for any white space.
func textOf(n *html.Node) string {
	var out strings.Builder
	for d := range n.Descendants() {
		switch d.Data {
		case "td", "th", "p", "li", "dt", "dd", "h1", "h2", "small", "label", "div", "section", "button":
			if d.Type == html.ElementNode {
				out.WriteByte(' ')
			}
		}
		if d.Type == html.TextNode {
			out.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(out.String()), " ")
}

// elements are those of a name, in the order of the page.
func (a *answer) elements(name string) (out []*html.Node) {
	if a.doc == nil {
		return nil
	}
	for n := range a.doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == name {
			out = append(out, n)
		}
	}
	return out
}

// text is what the page says in its main part.
func (a *answer) text() string {
	for _, n := range a.elements("main") {
		return textOf(n)
	}
	return a.body
}

// said is what the page says of what was done last.
func (a *answer) said() string {
	for _, n := range a.elements("p") {
		if attr(n, "class") == "said" {
			return textOf(n)
		}
	}
	return ""
}

// link is where the first link leads whose text begins so, "" if there is none.
func (a *answer) link(text string) string {
	for _, n := range a.elements("a") {
		if strings.HasPrefix(textOf(n), text) {
			return attr(n, "href")
		}
	}
	return ""
}

// form is the form whose action ends so, with its fields as they stand.
func (a *answer) form(t *testing.T, end string) (action string, fields url.Values) {
	t.Helper()
	for _, n := range a.elements("form") {
		if !strings.HasSuffix(attr(n, "action"), end) {
			continue
		}
		fields = url.Values{}
		for f := range n.Descendants() {
			if f.Type == html.ElementNode && f.Data == "input" && attr(f, "type") != "checkbox" {
				fields.Set(attr(f, "name"), attr(f, "value"))
			}
		}
		return attr(n, "action"), fields
	}
	t.Fatalf("the page has no form for %s: %s", end, a.text())
	return "", nil
}

// jobLinks are the links to failed jobs in the table of a list.
func (a *answer) jobLinks() (out []string) {
	for _, n := range a.elements("td") {
		if attr(n, "class") != "id" {
			continue
		}
		for d := range n.Descendants() {
			if d.Type == html.ElementNode && d.Data == "a" {
				out = append(out, attr(d, "href"))
			}
		}
	}
	return out
}
