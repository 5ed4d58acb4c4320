package console

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"onceover/cache"
	"onceover/celery"
	"onceover/failed"
	"onceover/internal/api"
	"onceover/internal/control"
	"onceover/internal/token"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/vision/fleet"
)

// Base is the path below which the page is.
const Base = "/ops/"

// Config says who may do what.
type Config struct {
	ReadScope  string // that a token needs for the page; "": any token will do
	AdminScope string // that it needs to change things
}

// Needs are what a Console works with.
type Needs struct {
	Failed   *failed.Store
	Publish  failed.Publish
	Progress *progress.Store
	Cache    *cache.Cache
	Gate     *fleet.Gate // nil without a model or a budget
	Workers  *control.Client
	Pauses   *control.Pauses
	Look     func(ctx context.Context, queue string) (rabbit.Standing, error)
	Queues   []string // shown whether or not somebody consumes them
	Servers  []Server
	Picture  func(ctx context.Context, req *celery.Request) ([]byte, error)  // a small JPEG file of the picture of a job
	States   func(ctx context.Context, ids []string) ([]celery.State, error) // of jobs in DB0; nil: Failed's
	Tokens   *token.Verifier                                                 // nil: no token is asked for
	Pictures Pictures
	API      http.Handler // for clients, of whole paths
	Domain   string       // in its paths
	Uploads  bool         // whether the API takes pictures
}

// Server is a server that jobs need.
type Server struct {
	Name string
	Ping func(context.Context) error
}

// Console serves the page. Safe for concurrent use.
type Console struct {
	cfg Config
	Needs
	log   *zap.Logger
	pages map[string]*template.Template

	want  chan struct{} // has an element when somebody waits for news
	ring  ring
	tally tally
	scans chan struct{} // has an element for each look at records that no index answers
	ends  singleflight.Group

	endsMu sync.Mutex
	ended  map[string]bulkEnds // by the bulk's id

	mu     sync.Mutex
	now    *Snapshot     // the last one
	next   chan struct{} // closed with the next one
	viewed time.Time     // when somebody looked last
}

var (
	//go:embed pages/*.html
	pageFiles embed.FS
	//go:embed assets
	assetFiles embed.FS
)

// New returns a Console; [Console.Run] has it know something.
func New(cfg Config, needs Needs, log *zap.Logger) *Console {
	c := &Console{cfg: cfg, Needs: needs, log: log, want: make(chan struct{}, 1), scans: make(chan struct{}, scansAtOnce), ended: map[string]bulkEnds{}, next: make(chan struct{}), pages: map[string]*template.Template{}}
	if c.States == nil {
		c.States = needs.Failed.States
	}
	layout := template.Must(template.New("layout.html").Funcs(functions(tongues[0])).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html"))
	names, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		panic(err) // of a constant
	}
	for _, name := range names {
		c.pages[strings.TrimSuffix(strings.TrimPrefix(name, "pages/"), ".html")] = template.Must(template.Must(layout.Clone()).ParseFS(pageFiles, name))
	}
	return c
}

// route is a request that is answered.
type route struct {
	method, path string // below Base
	admin        bool   // it changes something
	open         bool   // to those without a token
	serve        func(*Console, *page) error
	raw          bool // serve reads the body, and bounds it
}

// routes are all there are.
var routes = []route{
	{"GET", "{$}", false, false, (*Console).overview, false},
	{"GET", "failed", false, false, (*Console).list, false},
	{"GET", "failed/{key}", false, false, (*Console).record, false},
	{"GET", "failed/{key}/picture", false, false, (*Console).picture, false},
	{"POST", "failed/{key}/replay", true, false, (*Console).replay, false},
	{"POST", "failed/{key}/discard", true, false, (*Console).discard, false},
	{"GET", "bulk", false, false, (*Console).bulks, false},
	{"GET", "bulk/new", false, false, (*Console).planBulk, false},
	{"GET", "bulk/{id}", false, false, (*Console).bulk, false},
	{"POST", "bulk", true, false, (*Console).beginBulk, false},
	{"POST", "bulk/{id}/stop", true, false, (*Console).stopBulk, false},
	{"GET", "parked", false, false, (*Console).parked, false},
	{"POST", "parked/{key}/run", true, false, (*Console).runParked, false},
	{"POST", "parked/{key}/discard", true, false, (*Console).discardParked, false},
	{"GET", "running", false, false, (*Console).running, false},
	{"GET", "queues", false, false, (*Console).queues, false},
	{"POST", "queues/{queue}/pause", true, false, (*Console).pause, false},
	{"POST", "queues/{queue}/resume", true, false, (*Console).resume, false},
	{"GET", "changes", false, false, (*Console).changes, false},
	{"GET", "pictures", false, false, (*Console).pictures, false},
	{"GET", "pictures/{file}/thumbnail", false, false, (*Console).thumbnail, false},
	{"POST", "pictures", true, false, (*Console).correct, false},
	{"POST", "corrections/{id}/undo", true, false, (*Console).undo, false},
	{"GET", "try", false, false, (*Console).try, false},
	{"POST", "try", true, false, (*Console).send, true},
	{"GET", "try/{id}", false, false, (*Console).tried, false},
	{"GET", "sign-in", false, true, (*Console).signInForm, false},
	{"POST", "sign-in", false, true, (*Console).signIn, false},
	{"POST", "sign-out", false, true, (*Console).signOut, false},
	{"GET", "assets/{name}", false, true, (*Console).asset, false},
}

// Handler returns the handler of all routes. It takes whole paths.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.HandleFunc(r.method+" "+Base+r.path, func(w http.ResponseWriter, req *http.Request) { c.answer(w, req, r) })
	}
	return secured(api.Guard(c.orRefuse(mux), c.Tokens == nil))
}

// orRefuse answers what mux has no route for.
func (c *Console) orRefuse(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, pattern := mux.Handler(req); pattern != "" {
			mux.ServeHTTP(w, req)
			return
		}
		p := &page{Request: req, w: w, c: c, lang: tongueOf(req)}
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			other := req.Clone(req.Context())
			other.Method = method
			if _, pattern := mux.Handler(other); pattern != "" {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) == 0 {
			c.refuse(p, http.StatusNotFound, p.lang.text("There is nothing at this address."))
			return
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		c.refuse(p, http.StatusMethodNotAllowed, p.lang.text("%s is not answered here: expected %s.", req.Method, strings.Join(allowed, " or ")))
	})
}

// secured lets the browser load nothing from elsewhere, run no script but ours, and be framed by nobody.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// page is a request on its way to its answer.
type page struct {
	*http.Request
	w     http.ResponseWriter
	c     *Console
	lang  *tongue
	who   string // who asks, "" if nobody says
	admin bool   // may change things
}

const (
	patience  = 5 * time.Second // for a page
	formBytes = 64 << 10        // of a form at most
)

func (c *Console) answer(w http.ResponseWriter, req *http.Request, r route) {
	ctx := req.Context()
	if !r.raw {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	p := &page{Request: req.WithContext(ctx), w: w, c: c, lang: tongueOf(req)}
	if chosen := named(req.URL.Query().Get("lang")); chosen != nil {
		http.SetCookie(w, &http.Cookie{Name: langCookie, Value: chosen.tag, Path: Base, MaxAge: 365 * 24 * 3600, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	}
	if !c.enter(p, r) {
		return
	}
	if r.method == http.MethodPost && !r.raw {
		p.Body = http.MaxBytesReader(w, p.Body, formBytes)
		if err := p.ParseForm(); err != nil {
			c.refuse(p, http.StatusBadRequest, "The form cannot be read: "+err.Error())
			return
		}
	}
	err := r.serve(c, p)
	var known *statusError
	switch {
	case err == nil:
	case errors.As(err, &known):
		c.refuse(p, known.status, p.lang.text(known.format, known.args...))
	default:
		if req.Context().Err() == nil { // else the reader has gone
			c.log.Warn("a page cannot be shown", zap.String("path", req.URL.Path), zap.Error(err))
		}
		c.refuse(p, http.StatusServiceUnavailable, p.lang.text("A server does not answer as it should: %s", err.Error()))
	}
}

// statusError is an answer that is no page.
type statusError struct {
	status int
	format string
	args   []any
}

func (e *statusError) Error() string { return fmt.Sprintf(e.format, e.args...) }

func refusal(status int, format string, args ...any) error {
	return &statusError{status, format, args}
}

// refuse answers with a page that says why.
func (c *Console) refuse(p *page, status int, why string) {
	if err := p.render(status, "error", "Not possible", map[string]any{"Why": why, "Status": status}); err != nil {
		http.Error(p.w, why, status)
	}
}

// frame is what every page has.
type frame struct {
	Title  string
	Active string // the page in the menu
	Lang   string
	Who    string
	Admin  bool
	Tokens bool
	Said   string // what came of what the reader did last
	Other  string // the page in the other language
	At     time.Time
	Data   any
}

// show answers with a page.
func (p *page) show(name, title string, data any) error {
	return p.render(http.StatusOK, name, title, data)
}

func (p *page) render(status int, name, title string, data any) error {
	t, err := p.c.pages[name].Clone()
	if err != nil {
		return err
	}
	t.Funcs(functions(p.lang))
	var out bytes.Buffer
	f := frame{
		Title: title, Active: name, Lang: p.lang.tag, Who: p.who, Admin: p.admin, Tokens: p.c.Tokens != nil,
		Said: p.takeSaid(), Other: p.inOther(), At: time.Now(), Data: data,
	}
	if err := t.ExecuteTemplate(&out, "layout.html", f); err != nil {
		return fmt.Errorf("make the page %s: %w", name, err)
	}
	p.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	p.w.WriteHeader(status)
	_, _ = p.w.Write(out.Bytes()) // the reader may have gone
	return nil
}

// inOther is the query with which the page comes in the other language.
func (p *page) inOther() string {
	query := p.URL.Query()
	for _, l := range tongues {
		if l != p.lang {
			query.Set("lang", l.tag)
		}
	}
	return "?" + query.Encode()
}

// back answers a change: the browser goes to a path below Base, and shows what was done.
func (p *page) back(path, said string) error {
	p.say(said)
	http.Redirect(p.w, p.Request, Base+path, http.StatusSeeOther)
	return nil
}

// saidCookie has what the next page says, once.
const saidCookie = "onceover_said"

func (p *page) say(text string) {
	http.SetCookie(p.w, &http.Cookie{Name: saidCookie, Value: url.QueryEscape(clip(text, 1000)), Path: Base, MaxAge: 60, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

func (p *page) takeSaid() string {
	cookie, err := p.Cookie(saidCookie)
	if err != nil || p.Header.Get("Sec-Fetch-Dest") == "empty" { // a page that renews itself does not show it
		return ""
	}
	http.SetCookie(p.w, &http.Cookie{Name: saidCookie, Path: Base, MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	text, err := url.QueryUnescape(cookie.Value)
	if err != nil {
		return ""
	}
	return text
}

// changed notes what the reader has changed. That it cannot be noted is logged: the change was made.
func (p *page) changed(action, target, outcome string) {
	who := p.who
	if who == "" {
		who = "this machine"
	}
	p.c.log.Info("changed by an operator", zap.String("by", who), zap.String("action", action), zap.String("target", target), zap.String("outcome", outcome))
	late, cancel := context.WithTimeout(context.WithoutCancel(p.Context()), 2*time.Second)
	defer cancel()
	if err := p.c.Failed.Audit(late, failed.Change{By: who, Action: action, Target: target, Outcome: outcome}); err != nil {
		p.c.log.Error("a change is not in the list of changes", zap.Error(err))
	}
}

var assetTypes = map[string]string{"style.css": "text/css; charset=utf-8", "live.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}

func (c *Console) asset(p *page) error {
	name := p.PathValue("name")
	kind, ok := assetTypes[name]
	if !ok {
		return refusal(http.StatusNotFound, "There is nothing at this address.")
	}
	text, err := assetFiles.ReadFile("assets/" + name)
	if err != nil {
		return err
	}
	p.w.Header().Set("Content-Type", kind)
	p.w.Header().Set("Cache-Control", "max-age=300")
	_, _ = p.w.Write(text) // the reader may have gone
	return nil
}
