package api

import (
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"onceover/internal/ratelimit"
	"onceover/internal/token"
)

// quotaExceeded is the problem type of a rate limit (draft-ietf-httpapi-ratelimit-headers-11, section 5.1).
const quotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"

// policy is the name of the rate limit in the fields of that draft.
const policy = "default"

// limited counts requests to a route by the client's address.
func (a *API) limited(endpoint string, next http.HandlerFunc) http.HandlerFunc {
	if a.Limiter == nil {
		return next
	}
	rule := a.Limiter.Rule()
	return func(w http.ResponseWriter, r *http.Request) {
		d, err := a.Limiter.Take(r.Context(), a.Proxies.Client(r), endpoint)
		if err != nil {
			if a.cfg.RefuseUncounted {
				a.away(w, r, "requests cannot be counted", err)
				return
			}
			next(w, r) // the limiter's log has the outage
			return
		}
		w.Header().Set("RateLimit-Policy", `"`+policy+`";q=`+strconv.Itoa(rule.Limit)+`;w=`+wholeSeconds(rule.Window))
		w.Header().Set("RateLimit", `"`+policy+`";r=`+strconv.Itoa(d.Remaining)+`;t=`+wholeSeconds(d.Reset))
		if !d.Admitted {
			fail(w, problem{
				Type: quotaExceeded, Title: "Request quota exceeded", Status: http.StatusTooManyRequests, Detail: tooMany(rule), Violated: []string{policy},
				retry: max(d.Reset, time.Second),
			})
			return
		}
		next(w, r)
	}
}

func tooMany(rule ratelimit.Rule) string {
	return "Too many requests: at most " + strconv.Itoa(rule.Limit) + " are admitted in " + wholeSeconds(rule.Window) + " seconds"
}

// wholeSeconds are seconds as header fields have them, rounded up.
func wholeSeconds(d time.Duration) string { return strconv.Itoa(int(math.Ceil(d.Seconds()))) }

// Guard lets no page of another site work next through the browser of somebody who can reach it: neither by a request across sites, nor,
// with local, which is for loopback addresses, under a name that was made to point here. It is for what asks for no token.
func Guard(next http.Handler, local bool) http.Handler {
	sites := http.NewCrossOriginProtection()
	sites.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fail(w, problem{Status: http.StatusForbidden, Detail: "this request comes from a page of another site"})
	}))
	next = sites.Handler(next)
	if !local {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if !IsLocalName(host) {
			fail(w, problem{Status: http.StatusForbidden, Detail: "this address is served under the names localhost and 127.0.0.1 only"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// IsLocalName reports whether a host name is always this machine's.
func IsLocalName(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// caller is the key of the caller's token in a request's context.
type caller struct{}

// tokenOf returns the token that a request came with, nil if none is asked for.
func tokenOf(r *http.Request) *token.Token {
	t, _ := r.Context().Value(caller{}).(*token.Token)
	return t
}

// subject is who makes a request, "" if nobody says.
func subject(r *http.Request) string {
	if t := tokenOf(r); t != nil {
		return t.Subject
	}
	return ""
}

// revokedDetail is what Python's service says of a token that was revoked.
const revokedDetail = "Token has been revoked"

func unauthorized(w http.ResponseWriter, challenge, detail string) {
	w.Header().Set("WWW-Authenticate", challenge)
	fail(w, problem{Status: http.StatusUnauthorized, Detail: detail})
}

// signedIn asks for a token (RFC 6750), where there are any.
func (a *API) signedIn(next http.HandlerFunc) http.HandlerFunc {
	if a.Tokens == nil {
		return next
	}
	return func(w http.ResponseWriter, r *http.Request) {
		fields := r.Header.Values("Authorization")
		if len(fields) == 0 {
			unauthorized(w, "Bearer", "Not authenticated: expected a token in the header Authorization: Bearer TOKEN")
			return
		}
		scheme, raw, _ := strings.Cut(fields[0], " ")
		if len(fields) > 1 || !strings.EqualFold(scheme, "Bearer") || raw == "" {
			unauthorized(w, "Bearer", "Not authenticated: expected one header Authorization: Bearer TOKEN")
			return
		}
		t, err := a.Tokens.Verify(r.Context(), strings.TrimSpace(raw))
		var invalid *token.InvalidError
		switch {
		case errors.Is(err, token.ErrRevoked):
			unauthorized(w, `Bearer error="invalid_token"`, revokedDetail)
		case errors.As(err, &invalid):
			unauthorized(w, `Bearer error="invalid_token"`, "Could not validate credentials: "+invalid.Reason)
		case err != nil:
			a.away(w, r, "tokens cannot be verified", err)
		default:
			next(w, r.WithContext(context.WithValue(r.Context(), caller{}, t)))
		}
	}
}

// loggedOut is the answer to a logout.
type loggedOut struct {
	Message string `json:"message"`
}

// logout revokes the token that it comes with.
func (a *API) logout(w http.ResponseWriter, r *http.Request) {
	if err := a.Tokens.Revoke(r.Context(), tokenOf(r)); err != nil {
		a.away(w, r, "tokens cannot be revoked", err)
		return
	}
	send(w, http.StatusOK, "application/json", loggedOut{"Logged out"})
}
