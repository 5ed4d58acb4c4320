package console

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"onceover/internal/token"
)

// tokenCookie has the token of a reader who has signed in. The browser sends it to the page only, and to no script.
const tokenCookie = "onceover_token"

// enter reports whether a request may go on, and answers it if not. It sets who asks.
func (c *Console) enter(p *page, r route) bool {
	if c.Tokens == nil {
		p.admin = true
		return true
	}
	raw := tokenIn(p.Request)
	if raw == "" {
		if !r.open {
			c.askToSignIn(p, "")
		}
		return r.open
	}
	t, err := c.Tokens.Verify(p.Context(), raw)
	var invalid *token.InvalidError
	switch {
	case errors.Is(err, token.ErrRevoked), errors.As(err, &invalid):
		if !r.open {
			c.askToSignIn(p, err.Error())
		}
		return r.open
	case err != nil:
		if !r.open {
			c.refuse(p, http.StatusServiceUnavailable, p.lang.text("Tokens cannot be verified at the moment: %s", err.Error()))
		}
		return r.open
	}
	p.who, p.admin = t.Subject, slices.Contains(t.Scopes, c.cfg.AdminScope)
	if p.who == "" {
		p.who = "a token without a subject"
	}
	switch {
	case r.open:
	case c.cfg.ReadScope != "" && !p.admin && !slices.Contains(t.Scopes, c.cfg.ReadScope):
		c.refuse(p, http.StatusForbidden, p.lang.text("This token may not see this page: expected one with the scope %s.", c.cfg.ReadScope))
		return false
	case r.admin && !p.admin:
		c.refuse(p, http.StatusForbidden, p.lang.text("This token may only read: expected one with the scope %s.", c.cfg.AdminScope))
		return false
	}
	return true
}

// tokenIn returns the token of a request, "" if it has none.
func tokenIn(r *http.Request) string {
	if scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(raw)
	}
	if cookie, err := r.Cookie(tokenCookie); err == nil {
		return cookie.Value
	}
	return ""
}

func (c *Console) askToSignIn(p *page, fault string) {
	p.w.Header().Set("WWW-Authenticate", "Bearer")
	if p.render(http.StatusUnauthorized, "signin", "Sign in", map[string]any{"Fault": fault, "To": p.returnTo()}) != nil {
		http.Error(p.w, "Sign in with a token", http.StatusUnauthorized)
	}
}

// returnTo is the page to show once the reader has signed in.
func (p *page) returnTo() string {
	if p.Method == http.MethodGet && strings.HasPrefix(p.URL.Path, Base) {
		return strings.TrimPrefix(p.URL.RequestURI(), Base)
	}
	return strings.TrimPrefix(below(p.PostForm.Get("to")), Base) // of who has given a wrong token
}

func (c *Console) signInForm(p *page) error {
	if c.Tokens == nil {
		return p.back("", "")
	}
	return p.show("signin", "Sign in", map[string]any{"Fault": "", "To": ""})
}

// maxCookie is how much browsers keep of a cookie, with some room for its name and attributes.
const maxCookie = 3800

func (c *Console) signIn(p *page) error {
	if c.Tokens == nil {
		return p.back("", "")
	}
	raw := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(p.PostFormValue("token")), "Bearer "))
	t, err := c.Tokens.Verify(p.Context(), raw)
	var invalid *token.InvalidError
	switch {
	case len(raw) > maxCookie:
		c.askToSignIn(p, p.lang.text("The token has %d bytes, and browsers keep %d in a cookie: use a program that sends it in the header Authorization.", len(raw), maxCookie))
		return nil
	case errors.Is(err, token.ErrRevoked), errors.As(err, &invalid):
		c.askToSignIn(p, err.Error())
		return nil
	case err != nil:
		return err
	}
	http.SetCookie(p.w, &http.Cookie{
		Name: tokenCookie, Value: raw, Path: Base, Expires: t.Expires, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: p.TLS != nil || strings.EqualFold(p.Header.Get("X-Forwarded-Proto"), "https"),
	})
	http.Redirect(p.w, p.Request, below(p.PostFormValue("to")), http.StatusSeeOther)
	return nil
}

// below returns the address of a page below Base, the overview's if to is none.
func below(to string) string {
	u, err := url.Parse(Base + to)
	if err != nil || !strings.HasPrefix(path.Clean(u.Path)+"/", Base) || strings.Contains(u.Path, `\`) {
		return Base
	}
	return Base + to
}

func (c *Console) signOut(p *page) error {
	http.SetCookie(p.w, &http.Cookie{Name: tokenCookie, Path: Base, MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return p.back("sign-in", "")
}
