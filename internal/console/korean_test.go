package console

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"onceover/failed"
)

// chosen are texts that the templates show by a value.
var chosen = []string{
	failed.BulkReplay, failed.BulkDiscard, failed.BulkRunning, failed.BulkStopped, failed.BulkDone,
	failed.ParkedWaiting, failed.ParkedDue, failed.ParkedPublishing, failed.ParkedDamaged,
	"pending", "processing", "completed", "failed", // Status of a picture that was tried
}

// texts finds all texts of the page, with where each is.
func texts(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, text := range chosen {
		found[text] = "a value"
	}
	names, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil || len(names) < 10 {
		t.Fatalf("got the pages %v, %v", names, err)
	}
	call := regexp.MustCompile(`\bt ("(?:[^"\\]|\\.)*")`)
	for _, name := range names {
		page, err := pageFiles.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(page), -1) {
			text, err := strconv.Unquote(m[1])
			if err != nil {
				t.Fatalf("%s: %s: %v", name, m[1], err)
			}
			found[text] = name
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "korean.go" {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		note := func(e ast.Expr) {
			if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					found[text] = set.Position(lit.Pos()).String()
				}
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "refusal" { // status, format
					note(n.Args[1])
				}
				method, ok := n.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				switch method.Sel.Name {
				case "text":
					note(n.Args[0])
				case "show": // name, title, data
					note(n.Args[1])
				case "render": // status, name, title, data
					note(n.Args[2])
				}
			case *ast.CompositeLit:
				if kind, ok := n.Type.(*ast.Ident); ok && kind.Name == "Bars" {
					for _, field := range n.Elts {
						if kv, ok := field.(*ast.KeyValueExpr); ok && kv.Key.(*ast.Ident).Name == "Parts" {
							for _, part := range kv.Value.(*ast.CompositeLit).Elts {
								note(part)
							}
						}
					}
				}
			}
			return true
		})
	}
	return found
}

// TestKorean has each text of the page in Korean, with the same values in it, and no other.
func TestKorean(t *testing.T) {
	t.Parallel()
	found := texts(t)
	if len(found) < 150 {
		t.Fatalf("got %d texts, want those of all pages", len(found))
	}
	for text, where := range found {
		form, ok := korean[text]
		switch {
		case strings.TrimSpace(verb.ReplaceAllString(text, "")) == "": // what somebody else says
		case !ok:
			t.Errorf("%s: the text %q is not in Korean", where, text)
		case strings.ContainsFunc(verb.ReplaceAllString(form, ""), unicode.IsLetter) && !strings.ContainsFunc(form, func(r rune) bool { return unicode.Is(unicode.Hangul, r) }):
			t.Errorf("%s: the Korean form of %q is %q", where, text, form)
		}
	}
	for _, text := range slices.Sorted(maps.Keys(korean)) {
		if found[text] == "" {
			t.Errorf("the text %q is in Korean, and on no page", text)
		}
		if got, want := verbs(t, korean[text]), verbs(t, text); !slices.Equal(got, want) {
			t.Errorf("%q has the values %v, and its Korean form %v", text, want, got)
		}
	}
}

var verb = regexp.MustCompile(`%(?:\[(\d+)\])?([a-z%])`)

// verbs are the values of a text in the order in which they are given.
func verbs(t *testing.T, text string) []string {
	t.Helper()
	at := map[int]string{}
	next := 1
	for _, m := range verb.FindAllStringSubmatch(text, -1) {
		if m[2] == "%" {
			continue
		}
		if m[1] != "" {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			next = n
		}
		at[next] = m[2]
		next++
	}
	var out []string
	for _, i := range slices.Sorted(maps.Keys(at)) {
		out = append(out, strconv.Itoa(i)+m(at[i]))
	}
	return out
}

func m(verb string) string { return "%" + verb }

// TestLanguages asks for pages in Korean: by the browser, by the link of the page, and by what was chosen before.
func TestLanguages(t *testing.T) {
	b := setup(t, withStubbedAPI)
	b.jobs(60, func(i int, r *failed.Record) { r.Replays, r.Stage, r.Previous = 2, "stage", "previous" })
	r := job(t, "parked", nil)
	if err := b.store.Park(t.Context(), r.Message, mustRequest(t, &r), r.Last.Add(1e13), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.BeginBulk(t.Context(), failed.Bulk{Action: failed.BulkReplay, By: "kim", Filter: failed.Filter{Text: "nothing"}}); err != nil {
		t.Fatal(err)
	}
	bulks, err := b.store.Bulks(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	b.work(map[string]string{"id": "running", "kwargs": "{}"}, "q.ai")
	b.run()
	paths := []string{
		"", "failed", "failed?text=nothing", "failed?text=boom", "failed/job-000:2", "failed/none:0", "bulk", "bulk/new?action=replay", "bulk/new?action=discard", "bulk/" + bulks[0].ID,
		"bulk/none", "parked", "running", "queues", "changes", "try", "try/x", "none", "failed?since=x",
	}
	read := b.reader()
	read.lang = "ko-KR,ko;q=0.9,en;q=0.8"
	for _, path := range paths {
		a := read.do(http.MethodGet, Base+path, nil)
		if !isKorean(a) {
			t.Errorf("%s: got %d in another language: %.200s", path, a.status, a.text())
		}
	}
	// What was done is said in Korean, too.
	if _, page := read.post(Base+"failed/job-000:2/replay", nil); !strings.Contains(page.said(), "재실행했습니다") {
		t.Errorf("got %q", page.said())
	}
	english := read.get(read.get(Base + "failed?error=ValueError").path("English"))
	if isKorean(english) || !strings.Contains(english.text(), "59 failed jobs match") {
		t.Errorf("got %.200s, want the same page in English", english.text())
	}
	if isKorean(read.get(Base)) {
		t.Error("the language that was chosen is forgotten")
	}
	if back := read.get(read.get(Base + "queues").path("한국어")); !isKorean(back) {
		t.Error("there is no way back to Korean")
	}
	for lang, want := range map[string]bool{"ko": true, "en-GB": false, "de,ko;q=0.5": true, "": false, "xx": false, "*": false, "\x00": false} {
		other := b.reader()
		other.lang = lang
		req := func(r *http.Request) { r.Header.Set("Accept-Language", lang) }
		if lang == "" || !strings.HasPrefix(lang, "ko") && !strings.HasPrefix(lang, "en") { // what the page is expected to be in
			if other.lang = "en"; want {
				other.lang = "ko"
			}
		}
		if got := isKorean(other.do(http.MethodGet, Base+"queues", nil, req)); got != want {
			t.Errorf("Accept-Language %q: got Korean %v", lang, got)
		}
	}
	if a := b.reader().get(Base + "changes?lang=xx"); isKorean(a) {
		t.Error("a language that is not known is Korean")
	}
}

// path is where a link of the page leads, with the path of the page if it has none.
func (a *answer) path(text string) string {
	link := a.link(text)
	if strings.HasPrefix(link, "?") {
		for _, n := range a.elements("a") {
			if attr(n, "aria-current") == "page" {
				return attr(n, "href") + link
			}
		}
	}
	return link
}

func isKorean(a *answer) bool {
	for _, n := range a.elements("h1") {
		return strings.ContainsFunc(textOf(n), func(r rune) bool { return unicode.Is(unicode.Hangul, r) })
	}
	return false
}
