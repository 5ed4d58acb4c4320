package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"onceover/internal/testenv"
)

// patience is how long the browser may take for one thing on a machine with much else to do.
const patience = 60 * time.Second

// browser is a Chromium with a profile of its own. The test fails when a page writes an error to the console, violates its
// content security policy, or asks another origin for anything.
type browser struct {
	t    *testing.T
	ctx  context.Context
	base string // scheme and host of the pages

	mu      sync.Mutex
	faults  []string
	excused []*regexp.Regexp // faults that a test causes on purpose
}

// tab is a window of a browser.
type tab struct {
	*browser
	ctx   context.Context
	close context.CancelFunc
}

// newBrowser starts a Chromium that ends with t. In Docker and as root it has no sandbox.
func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	path := testenv.Chromium(t)
	profile := t.TempDir()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path), chromedp.UserDataDir(filepath.Join(profile, "profile")), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("lang", "en-US"), chromedp.Flag("accept-lang", "en-US"), chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("allow-pre-commit-input", true), // else clicks soon after a navigation are lost
		chromedp.WindowSize(1200, 900), chromedp.Env("TZ=UTC", "HOME="+profile))
	// Cleanups use the browser after t's own context has ended.
	allocator, end := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	b := &browser{t: t, base: base}
	var cancel context.CancelFunc
	b.ctx, cancel = chromedp.NewContext(allocator, chromedp.WithErrorf(func(string, ...any) {}))
	t.Cleanup(func() {
		late, stop := context.WithTimeout(b.ctx, 20*time.Second)
		defer stop()
		if err := chromedp.Cancel(late); err != nil && !errors.Is(err, context.Canceled) {
			t.Logf("the browser did not end in an orderly way: %v", err)
		}
		cancel()
		end()
		b.check()
	})
	if err := chromedp.Do(b.ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return b
}

// excuse takes faults that match for the test's own doing, from now on.
func (b *browser) excuse(pattern string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.excused = append(b.excused, regexp.MustCompile(pattern))
}

func (b *browser) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, pattern := range b.excused {
		if pattern.MatchString(text) {
			return
		}
	}
	b.faults = append(b.faults, text)
}

// check fails the test for what the pages have done wrong since the last check.
func (b *browser) check() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, text := range b.faults {
		b.t.Errorf("a page: %s", text)
	}
	b.faults = nil
}

// violations writes each violation of a content security policy to the console. Chromium does so too, in its own words.
const violations = `addEventListener("securitypolicyviolation", (e) => console.error("violates the policy:", e.violatedDirective, e.blockedURI, e.sample))`

func (b *browser) listen(event any) {
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.fault("%s: %s (%s)", e.Entry.Level, e.Entry.Text, e.Entry.URL)
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			var said []string
			for _, a := range e.Args {
				said = append(said, string(a.Value))
			}
			b.fault("console.%s: %s", e.Type, strings.Join(said, " "))
		}
	case *runtime.EventExceptionThrown:
		b.fault("exception: %s", e.ExceptionDetails.Text)
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if err != nil || u.Scheme+"://"+u.Host != b.base && u.Scheme != "about" && u.Scheme != "chrome" {
			b.fault("asked %s of another origin", e.Request.URL)
		}
	}
}

// open opens a window with a page, which closes with the test.
func (b *browser) open(path string) *tab {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithListener(b.listen))
	b.t.Cleanup(cancel)
	w := &tab{b, ctx, cancel}
	if err := chromedp.Do(ctx); err != nil { // the window ends with the context of the first
		b.t.Fatalf("open a window: %v", err)
	}
	w.do("open a window",
		call(page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: violations}),
		call(emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true}))
	w.size(1200, 900)
	w.visit(path)
	return w
}

// do runs actions within patience.
func (w *tab) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

func (w *tab) size(width, height int64) {
	w.t.Helper()
	w.do("resize", chromedp.EmulateViewport(width, height))
}

func (w *tab) visit(path string) {
	w.t.Helper()
	w.do("go to "+path, chromedp.Navigate(w.base+path))
}

// eval evaluates an expression in the page, and what it promises.
func eval[T any](w *tab, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// value is eval that must not fail.
func value[T any](w *tab, expression string) T {
	w.t.Helper()
	v, err := eval[T](w, expression)
	if err != nil {
		w.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// wait waits until an expression is true in the page, over navigations too. chromedp.Poll would make a function of a text, which the
// page's policy forbids.
func (w *tab) wait(expression string) {
	w.t.Helper()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		// An error is one of a page that goes.
		if ok, err := eval[bool](w, "(async () => !!await ("+expression+"))()"); err == nil && ok {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			text, _ := eval[string](w, "location.href + '\\n' + document.body.innerText")
			w.t.Fatalf("waited in vain for %s\non %s", expression, text)
		}
	}
}

// one is an expression of the first visible element that a selector finds, and whose text begins as given.
func one(selector, text string) string {
	return fmt.Sprintf(`[...document.querySelectorAll(%q)].find((e) => e.checkVisibility() && e.textContent.trim().startsWith(%q))`, selector, text)
}

// shows waits for a visible element.
func (w *tab) shows(selector, text string) {
	w.t.Helper()
	w.wait(one(selector, text))
}

// text is that of the first element that a selector finds.
func (w *tab) text(selector string) string {
	w.t.Helper()
	return value[string](w, fmt.Sprintf(`(document.querySelector(%q)?.innerText ?? "").trim()`, selector))
}

// click presses the mouse's button above an element.
func (w *tab) click(selector, text string) {
	w.t.Helper()
	w.shows(selector, text)
	at := value[struct{ X, Y float64 }](w, `(async () => {
		const e = `+one(selector, text)+`;
		e.scrollIntoView({block: "center", behavior: "instant"});
		const r = e.getClientRects()[0]; // the first line of a link
		return {X: r.x + r.width / 2, Y: r.y + r.height / 2};
	})()`)
	w.do("click "+selector+" "+text, chromedp.MouseClickXY(at.X, at.Y))
}

// press presses keys of the keyboard.
func (w *tab) press(keys string, modifiers ...chromedp.Modifier) {
	w.t.Helper()
	w.do("press keys", chromedp.KeyEvent(keys, chromedp.KeyModifiers(modifiers...)))
}

// enter clicks into a field and types.
func (w *tab) enter(selector, text string) {
	w.t.Helper()
	w.click(selector, "")
	w.press(text)
	if got := value[string](w, fmt.Sprintf(`document.querySelector(%q).value`, selector)); got != text {
		w.t.Fatalf("%s has %q, want %q", selector, got, text)
	}
}

// upload chooses a file.
func (w *tab) upload(selector, file string) {
	w.t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		w.t.Fatal(err)
	}
	w.do("choose "+file, chromedp.SetUploadFiles(chromedp.CSS(selector), []string{path}))
}

// mark marks the document: a page that was loaded anew is without the mark.
func (w *tab) mark() { w.t.Helper(); value[bool](w, `window.marked = true`) }

// same fails the test if the page was loaded anew since it was marked.
func (w *tab) same() {
	w.t.Helper()
	if !value[bool](w, `window.marked === true`) {
		w.t.Errorf("%s was loaded anew, want it renewed in place", value[string](w, `location.href`))
	}
}

// renewed waits until the page was renewed n times.
func (w *tab) renewed(n int) {
	w.t.Helper()
	for range n {
		before := w.text(".asof")
		w.wait(fmt.Sprintf(`document.querySelector(".asof")?.innerText.trim() !== %q`, before))
	}
}

// call is the action of a command of the protocol.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, command, params)
		return err
	})
}
