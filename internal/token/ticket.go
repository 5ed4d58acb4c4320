package token

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// TicketLife is how long a ticket can be used.
const TicketLife = time.Minute

// ErrNoTicket says that a ticket was used before, has run out, or was never issued.
var ErrNoTicket = errors.New("the ticket is not valid any more")

// ticket is what Redis keeps of one.
type ticket struct {
	Subject string   `json:"sub"`
	Expires int64    `json:"exp"`  // in milliseconds since 1970
	Keys    []string `json:"keys"` // that revoke the token
}

// Issue returns a ticket that stands for a token once, within TicketLife: for a URL, where a token has no place. It is kept in
// ticket:{sha256} of the database of revoked tokens.
func (v *Verifier) Issue(ctx context.Context, t *Token) (string, error) {
	text := rand.Text()
	doc, err := json.Marshal(ticket{t.Subject, t.Expires.UnixMilli(), t.keys})
	if err != nil {
		return "", fmt.Errorf("issue a ticket: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := v.guard.Send(ctx, redis.NewStatusCmd(ctx, "set", ticketKey(text), doc, "px", TicketLife.Milliseconds())); err != nil {
		return "", fmt.Errorf("issue a ticket: %w", err)
	}
	return text, nil
}

// ticketKey is the key of a ticket.
func ticketKey(text string) string { return "ticket:" + strings.TrimPrefix(Key(text), keyPrefix) }

// redeem takes a ticket away. KEYS: the ticket. Returns what is kept of it, "" if there is none.
var redeem = redis.NewScript(`
local held = redis.call('GET', KEYS[1])
if not held then return '' end
redis.call('DEL', KEYS[1])
return held
`)

// Redeem returns the token that a ticket stands for, which nobody can do again. The error is [ErrNoTicket], [ErrRevoked] if the token was
// revoked since, or says that Redis did not answer.
func (v *Verifier) Redeem(ctx context.Context, text string) (*Token, error) {
	if f := v.guard.Fault(); f != nil {
		return nil, fmt.Errorf("redeem a ticket: %w", f.Err)
	}
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := v.guard.Run(within, redeem, []string{ticketKey(text)})
	if err != nil {
		return nil, fmt.Errorf("redeem a ticket: %w", err)
	}
	doc, err := answer.Text()
	if err != nil {
		return nil, fmt.Errorf("redeem a ticket: %w", err)
	}
	var held ticket
	if doc == "" || json.Unmarshal([]byte(doc), &held) != nil {
		return nil, ErrNoTicket
	}
	t := &Token{Subject: held.Subject, Expires: time.UnixMilli(held.Expires), keys: held.Keys}
	revoked, err := v.Revoked(ctx, t)
	switch {
	case err != nil:
		return nil, fmt.Errorf("look up whether a token was revoked: %w", err)
	case revoked:
		return nil, ErrRevoked
	case time.Now().After(t.Expires):
		return nil, ErrNoTicket
	}
	return t, nil
}
