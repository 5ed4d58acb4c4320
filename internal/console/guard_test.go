package console

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"onceover/failed"
	"onceover/internal/token"
)

// target is an address of a route.
func (r route) target() string {
	path := strings.NewReplacer("{$}", "", "{key}", "none:0", "{id}", "none", "{queue}", "q.none", "{name}", "style.css", "{file}", strings.Repeat("0", 64)).Replace(r.path)
	if path == "bulk/new" {
		path += "?action=replay"
	}
	return Base + path
}

// send sends a request to a route, with a form if it takes one.
func (r route) send(from *reader, change ...func(*http.Request)) *answer {
	var form url.Values
	if r.method == http.MethodPost {
		form = url.Values{}
	}
	return from.do(r.method, r.target(), form, change...)
}

// forbidden says whether a request was refused for who sent it or where it came from.
func forbidden(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// TestGuards has readers of all kinds ask for every route.
func TestGuards(t *testing.T) {
	b := setup(t, withReadScope, withStubbedAPI)
	b.run()
	nobody, stranger, read, admin := b.reader(), b.reader(), b.reader(), b.reader()
	stranger.token = signed(t, "eve", nil, "other", "ops", "ops:reader", "OPS:READ", "ops:administrator")
	read.token = signed(t, "lee", nil, "ops:read")
	admin.token = signed(t, "kim", nil, adminScope)
	changes := 0
	for _, r := range routes {
		name := r.method + " " + r.path
		if r.admin {
			changes++
		}
		if r.method == http.MethodPost && !r.admin && !r.open {
			t.Errorf("%s changes something, and any reader may send it", name)
		}
		wants := func(who string, from *reader, want func(status int) bool) {
			t.Helper()
			if a := r.send(from); !want(a.status) {
				t.Errorf("%s: got %d for %s: %.200s", name, a.status, who, a.text())
			}
		}
		is := func(want int) func(int) bool { return func(got int) bool { return got == want } }
		let := func(status int) bool {
			return !forbidden(status) && status != http.StatusMethodNotAllowed && status < 500
		}
		switch {
		case r.path == "sign-in" && r.method == http.MethodPost:
			wants("a form without a token", nobody, is(http.StatusUnauthorized))
		case r.open:
			for _, from := range []*reader{nobody, stranger, read, admin} {
				wants("anybody", from, func(s int) bool { return s == http.StatusOK || s == http.StatusSeeOther })
			}
		default:
			wants("nobody", nobody, is(http.StatusUnauthorized))
			wants("a token without the scope", stranger, is(http.StatusForbidden))
			wants("an admin", admin, let)
			if r.admin {
				wants("a reader", read, is(http.StatusForbidden))
			} else {
				wants("a reader", read, func(s int) bool { return s == http.StatusOK || s == http.StatusNotFound })
			}
		}
		if r.method == http.MethodPost {
			for what, field := range map[string][2]string{
				"another site":   {"Sec-Fetch-Site", "cross-site"},
				"another name":   {"Sec-Fetch-Site", "same-site"},
				"another origin": {"Origin", "https://evil.example"},
				"no origin":      {"Origin", "null"},
			} {
				a := r.send(admin, func(req *http.Request) { req.Header.Set(field[0], field[1]) })
				if a.status != http.StatusForbidden {
					t.Errorf("%s: got %d for a request from %s, want 403", name, a.status, what)
				}
			}
			same := r.send(admin, func(req *http.Request) { req.Header.Set("Sec-Fetch-Site", "same-origin") })
			if same.status == http.StatusForbidden {
				t.Errorf("%s: got %d for a request from the page itself", name, same.status)
			}
		}
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
			var allowed []string
			for _, other := range routes {
				if other.path == r.path && !slices.Contains(allowed, other.method) {
					allowed = append(allowed, other.method)
				}
			}
			slices.Sort(allowed)
			if slices.Contains(allowed, method) {
				continue
			}
			if r.path == "bulk/{id}" || r.path == "bulk/new" { // the same for both
				allowed = []string{http.MethodGet}
			}
			a := admin.do(method, r.target(), nil)
			if a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != strings.Join(allowed, ", ") {
				t.Errorf("%s %s: got %d, Allow %q, want 405, %v", method, r.path, a.status, a.header.Get("Allow"), allowed)
			}
		}
	}
	if changes < 8 {
		t.Errorf("got %d routes for admins, want all that change something", changes)
	}
	for _, path := range []string{Base + "none", Base + "failed/a/b", Base + "assets/../console.go", Base + "assets/none.js"} {
		if a := admin.do(http.MethodGet, path, nil); a.status != http.StatusNotFound && a.status != http.StatusMovedPermanently && a.status != http.StatusTemporaryRedirect {
			t.Errorf("%s: got %d, want 404", path, a.status)
		}
	}
	if n, err := b.console.Failed.Changes(t.Context(), 10); err != nil || slices.ContainsFunc(n, func(c failed.Change) bool { return c.By != "kim" }) {
		t.Errorf("got the changes %+v, %v, want none by others than the admin", n, err)
	}
	page := read.get(Base)
	if !strings.Contains(page.body, "lee") || !strings.Contains(page.body, "read only") {
		t.Error("want the page to say who reads")
	}
	for _, path := range []string{"", "failed", "parked", "queues"} {
		for _, n := range read.get(Base + path).elements("form") {
			if attr(n, "method") == "post" && !strings.HasSuffix(attr(n, "action"), "/sign-out") {
				t.Errorf("%s: a reader is shown the form %s", path, attr(n, "action"))
			}
		}
	}
}

// TestGuardsOfThisMachine is without tokens: under the names of this machine only, and from no other site.
func TestGuardsOfThisMachine(t *testing.T) {
	b := setup(t, withStubbedAPI)
	b.run()
	for _, r := range routes {
		for host, want := range map[string]bool{
			"127.0.0.1:8080": true, "localhost": true, "[::1]:8080": true, "127.0.0.2": true,
			"evil.example": false, "evil.example:8080": false, "localhost.evil.example": false, "127.0.0.1.evil.example:80": false, "": false, "10.0.0.1": false, "0.0.0.0": false,
		} {
			from := b.reader()
			from.host = host
			if a := r.send(from); (a.status == http.StatusForbidden) == want {
				t.Errorf("%s %s: got %d under the name %q", r.method, r.path, a.status, host)
			}
		}
		if r.method == http.MethodPost {
			for _, field := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "http://evil.example"}} {
				if a := r.send(b.reader(), func(req *http.Request) { req.Header.Set(field[0], field[1]) }); a.status != http.StatusForbidden {
					t.Errorf("%s %s: got %d with %v, want 403", r.method, r.path, a.status, field)
				}
			}
		}
	}
	if a := b.reader().do(http.MethodGet, Base+"sign-in", nil); a.status != http.StatusSeeOther || a.header.Get("Location") != Base {
		t.Errorf("got %d to %q, want that nobody has to sign in", a.status, a.header.Get("Location"))
	}
	if body := b.reader().get(Base).body; strings.Contains(body, "sign-out") {
		t.Error("nobody can sign out where nobody signs in")
	}
}

// TestWithoutReadScope lets any token read, and the admin's change things.
func TestWithoutReadScope(t *testing.T) {
	b := setup(t, withTokens)
	b.run()
	any := b.reader()
	any.token = signed(t, "eve", nil)
	if a := any.get(Base); !strings.Contains(a.body, "read only") {
		t.Error("want the page to say that nothing can be changed")
	}
	if a := any.do(http.MethodPost, Base+"bulk", url.Values{"action": {"replay"}}); a.status != http.StatusForbidden {
		t.Errorf("got %d, want 403", a.status)
	}
	// Under any name: where tokens are asked for, the page may be anywhere.
	any.host = "ops.example"
	any.get(Base)
}

// TestTokens is a table of tokens that nobody may use, in a header and in a cookie.
func TestTokens(t *testing.T) {
	b := setup(t, withTokens)
	b.run()
	good := signed(t, "kim", nil, adminScope)
	revoked := signed(t, "kim", jwt.MapClaims{"jti": "revoked"}, adminScope)
	if err := b.revoked.Set(t.Context(), token.Key(revoked), "revoked", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	claims, err := json.Marshal(map[string]any{"sub": "kim", "exp": time.Now().Add(time.Hour).Unix(), "scope": adminScope})
	if err != nil {
		t.Fatal(err)
	}
	another, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "kim", "exp": time.Now().Add(time.Hour).Unix(), "scope": adminScope}).SignedString([]byte("another secret, which is long enough too"))
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"revoked": revoked, "expired": signed(t, "kim", jwt.MapClaims{"exp": time.Now().Add(-time.Hour).Unix()}, adminScope),
		"garbage": "garbage", "alg none": enc([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + enc(claims) + ".", "another secret": another,
		"cut": good[:len(good)-2], "script": "<script>alert(1)</script>",
	} {
		for _, r := range routes {
			if r.open {
				continue
			}
			header, cookie := b.reader(), b.reader()
			header.token = raw
			cookie.cookies[tokenCookie] = raw
			for how, from := range map[string]*reader{"header": header, "cookie": cookie} {
				a := r.send(from)
				if a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") != "Bearer" || len(a.elements("form")) == 0 {
					t.Errorf("%s %s: got %d for a token in a %s that is %s, want 401 and a form to sign in", r.method, r.path, a.status, how, name)
				}
			}
		}
		// Who has such a token can sign in with another, and out.
		from := b.reader()
		from.cookies[tokenCookie] = raw
		from.get(Base + "sign-in")
		if a := from.do(http.MethodPost, Base+"sign-in", url.Values{"token": {raw}}); a.status != http.StatusUnauthorized || a.header.Get("Set-Cookie") != "" {
			t.Errorf("%s: got %d, and the cookie %q", name, a.status, a.header.Get("Set-Cookie"))
		}
	}
	for how, change := range map[string]func(*reader){
		"header": func(r *reader) { r.token = good },
		"cookie": func(r *reader) { r.cookies[tokenCookie] = good },
	} {
		from := b.reader()
		change(from)
		if a := from.get(Base); !strings.Contains(a.body, "kim") {
			t.Errorf("%s: want the page to say who reads", how)
		}
	}
	lower := b.reader()
	if a := lower.do(http.MethodGet, Base, nil, func(r *http.Request) { r.Header.Set("Authorization", "bearer "+good) }); a.status != http.StatusOK {
		t.Errorf("got %d with bearer in lower case, want 200", a.status)
	}
}

// TestSignIn signs in and out, and is led nowhere else.
func TestSignIn(t *testing.T) {
	b := setup(t, withTokens)
	b.run()
	good := signed(t, "kim", nil, adminScope)
	from := b.reader()
	asked := from.do(http.MethodGet, Base+"failed?text=a+b%26c", nil)
	action, fields := asked.form(t, "/sign-in")
	if asked.status != http.StatusUnauthorized || fields.Get("to") != "failed?text=a+b%26c" {
		t.Fatalf("got %d, and to %q", asked.status, fields.Get("to"))
	}
	fields.Set("token", "  Bearer "+good+"\n")
	a := from.do(http.MethodPost, action, fields)
	if a.status != http.StatusSeeOther || a.header.Get("Location") != Base+"failed?text=a+b%26c" {
		t.Fatalf("got %d to %q", a.status, a.header.Get("Location"))
	}
	set := a.header.Get("Set-Cookie")
	for _, part := range []string{tokenCookie + "=" + good, "Path=" + Base, "HttpOnly", "SameSite=Strict", "Expires="} {
		if !strings.Contains(set, part) {
			t.Errorf("got the cookie %q, want %s in it", set, part)
		}
	}
	if strings.Contains(set, "Secure") {
		t.Error("the cookie is for TLS only, and there is none")
	}
	if page := from.get(a.header.Get("Location")); !strings.Contains(page.body, "kim") {
		t.Error("want the page to say who reads")
	}
	for how, change := range map[string]func(*http.Request){
		"behind": func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") },
		"over":   func(r *http.Request) { r.TLS = &tls.ConnectionState{} },
	} {
		if set := b.reader().do(http.MethodPost, action, fields, change).header.Get("Set-Cookie"); !strings.Contains(set, "Secure") {
			t.Errorf("got the cookie %q %s TLS, want it for TLS only", set, how)
		}
	}

	for _, to := range []string{
		"//evil", "/evil", "https://evil", "javascript:alert(1)", `\evil`, `/\evil`, `\\evil`, `..\evil`, `failed\..\..\evil`, "..", "../", "../evil", "failed/../../evil", "./../evil", ".././evil",
		"%2e%2e/evil", "..%2fevil", "\t//evil", "\n/evil", "a\r\nSet-Cookie: x=y", "?x=//evil", "#//evil", "@evil", ":80/", ".evil.example/", strings.Repeat("../", 20) + "etc",
	} {
		fields.Set("to", to)
		a := b.reader().do(http.MethodPost, action, fields)
		location := a.header.Get("Location")
		base, err := url.Parse("http://127.0.0.1:8080" + Base)
		if err != nil {
			t.Fatal(err)
		}
		// As a browser reads it: it drops tabs and line ends.
		u, err := base.Parse(strings.NewReplacer("\t", "", "\n", "", "\r", "", `\`, "/").Replace(location))
		if err != nil || u.Host != base.Host || u.Scheme != "http" || !strings.HasPrefix(u.Path, Base) || a.status != http.StatusSeeOther || a.header.Get("X") != "" {
			t.Errorf("%q: got %d to %q (%v), want a page below %s", to, a.status, location, u, Base)
		}
	}

	fields.Set("to", "failed?text=https://store.example/a")
	if a := b.reader().do(http.MethodPost, action, fields); a.header.Get("Location") != Base+"failed?text=https://store.example/a" {
		t.Errorf("got to %q, want where the reader was", a.header.Get("Location"))
	}

	path, page := from.post(Base+"sign-out", nil)
	if path != Base+"sign-in" || page.status != http.StatusOK || from.cookies[tokenCookie] != "" {
		t.Errorf("got to %s, %d, and still the cookie %q", path, page.status, from.cookies[tokenCookie])
	}
	if a := from.do(http.MethodGet, Base, nil); a.status != http.StatusUnauthorized {
		t.Errorf("got %d after signing out, want 401", a.status)
	}
}

// TestTokensCannotBeVerified has the database of revoked tokens away.
func TestTokensCannotBeVerified(t *testing.T) {
	b := setup(t, withTokens)
	from := b.reader()
	from.token = signed(t, "kim", nil, adminScope)
	b.server.Kill()
	for _, path := range []string{Base + "failed", Base + "changes"} {
		if a := from.do(http.MethodGet, path, nil); a.status != http.StatusServiceUnavailable || !strings.Contains(a.text(), "Tokens cannot be verified") {
			t.Errorf("%s: got %d, %s", path, a.status, a.text())
		}
	}
	if a := from.do(http.MethodPost, Base+"bulk", url.Values{"action": {"replay"}}); a.status != http.StatusServiceUnavailable {
		t.Errorf("got %d for a change, want 503", a.status)
	}
}

// withStubbedAPI has an API that takes any picture.
func withStubbedAPI(_ *Config, n *Needs) {
	n.API = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "seen by " + r.Header.Get("Authorization")
		switch {
		case r.Header.Get("Cookie") != "":
			http.Error(w, `{"detail":"a cookie"}`, http.StatusBadRequest)
		case r.Method == http.MethodPost && r.URL.Path == "/api/v1/waste/analyze":
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprintf(w, `{"job_id":"id<1>"}`)
		case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/api/v1/waste/status/"):
			fmt.Fprintf(w, `{"status":"completed","progress":100,"stage":"done <b>","message":%q,"result":{"a":"<script>alert(1)</script>"}}`, who)
		default:
			http.Error(w, `{"detail":"no such path"}`, http.StatusNotFound)
		}
	})
}

// TestTry uploads a picture with the token of the reader, and shows what becomes of it.
func TestTry(t *testing.T) {
	b := setup(t, withTokens, withStubbedAPI)
	b.run()
	from := b.reader()
	from.cookies[tokenCookie] = signed(t, "kim", nil, adminScope)
	action, _ := from.get(Base+"try").form(t, "/try")
	b.console.Uploads = false
	if page := from.get(Base + "try"); page.status != http.StatusOK || strings.Contains(page.body, `type="file"`) || !strings.Contains(page.text(), "ONCEOVER_UPLOADS") {
		t.Errorf("a gateway that takes no pictures: got %d, %.300s, want it said and no form", page.status, page.text())
	}
	b.console.Uploads = true
	path, page := from.post(action, nil)
	if !strings.HasPrefix(path, Base+"try/") || page.status != http.StatusOK || !strings.Contains(page.text(), "id<1>") ||
		!strings.Contains(page.text(), "<script>alert(1)</script>") || !strings.Contains(page.text(), "seen by Bearer "+from.cookies[tokenCookie]) {
		t.Errorf("got to %s, %d: %s", path, page.status, page.text())
	}
}
