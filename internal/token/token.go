// Package token tells who a request comes from by its JSON Web Token (RFC 7519), and keeps the tokens that were revoked (DB4).
//
// Start with [Verifier]. A token that was revoked has a key blacklist:token:{sha256}, the SHA-256 of its compact form in hex, for
// as long as the token would be taken; Python services that share the secret look at the same key. What is not signed is never looked
// up, nor can it be revoked: nobody fills the database without a token.
package token

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
)

// Config says which tokens are taken: those signed with Secret, or with a key of the set at JWKSURL.
type Config struct {
	Secret   string        // of HS256
	JWKSURL  string        // of the public keys of RS256 and ES256, a JSON Web Key Set (RFC 7517)
	Audience string        // a token has to name it in aud; "" for any
	Issuer   string        // a token has to name it in iss; "" for any
	Leeway   time.Duration // how far other clocks may differ
}

// DefaultConfig returns a Config that takes no token yet.
func DefaultConfig() Config { return Config{Leeway: 30 * time.Second} }

// String describes c without its secret: logs print configurations.
func (c Config) String() string {
	if c.Secret != "" {
		c.Secret = "[redacted]"
	}
	type plain Config
	return fmt.Sprintf("%+v", plain(c))
}

// GoString is String, so that %#v keeps the secret too.
func (c Config) GoString() string { return c.String() }

// weakSecret is the length from which a secret of HS256 is as hard to guess as its hash, in bytes (RFC 7518, section 3.2).
const weakSecret = 32

// Enabled reports whether tokens are asked for.
func (c Config) Enabled() bool { return c.Secret != "" || c.JWKSURL != "" }

// Weak reports whether the secret is short enough to be guessed by whoever has seen one token.
func (c Config) Weak() bool { return c.Secret != "" && len(c.Secret) < weakSecret }

// Insecure reports whether the keys come over a network that others may change them on.
func (c Config) Insecure() bool {
	u, err := url.Parse(c.JWKSURL)
	if err != nil || u.Scheme != "http" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback())
}

// Validate returns every fault, each with the name of its setting.
func (c Config) Validate() error {
	var faults []error
	if c.Secret != "" && c.JWKSURL != "" {
		faults = append(faults, errors.New("jwt-secret is set, and so is jwt-jwks-url: expected one of them"))
	}
	if !c.Enabled() && (c.Audience != "" || c.Issuer != "") {
		faults = append(faults, errors.New("jwt-audience or jwt-issuer is set, and no token is asked for: expected jwt-secret or jwt-jwks-url too"))
	}
	if c.JWKSURL != "" {
		if u, err := url.Parse(c.JWKSURL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			faults = append(faults, errors.New("jwt-jwks-url is not a URL: expected https://HOST/PATH of a JSON Web Key Set"))
		}
	}
	return errors.Join(faults...)
}

// Token is a token that was verified.
type Token struct {
	Subject string    // sub, "" if it names none
	Scopes  []string  // scope, words in one text (RFC 8693, section 4.2), or scopes, a list as FastAPI's guide has it
	Expires time.Time // until when it is taken: exp, and the leeway

	keys []string // of Redis, any of which revokes it
}

// InvalidError says why a token is not taken. The reason does not repeat the token.
type InvalidError struct{ Reason string }

func (e *InvalidError) Error() string { return "the token is not valid: " + e.Reason }

// ErrRevoked says that a token was good, and was revoked.
var ErrRevoked = errors.New("the token has been revoked")

// Verifier verifies tokens and revokes them. Safe for concurrent use.
type Verifier struct {
	cfg    Config
	parser *jwt.Parser
	keys   *keySet // nil with a secret
	guard  *redisretry.Guard
}

// New returns a verifier that looks up revoked tokens on the database that client has selected. The caller closes client.
// cfg is valid and Enabled.
func New(cfg Config, client redis.UniversalClient, log *zap.Logger) *Verifier {
	methods := []string{jwt.SigningMethodHS256.Alg()}
	v := &Verifier{cfg: cfg, guard: redisretry.New("tokens", log).On(client)}
	if cfg.JWKSURL != "" {
		methods = []string{jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg()}
		v.keys = newKeySet(cfg.JWKSURL, log)
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(methods), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(cfg.Leeway), jwt.WithStrictDecoding(),
	}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	v.parser = jwt.NewParser(options...)
	return v
}

// maxLength bounds a token, in bytes.
const maxLength = 8 << 10

// alphabet is what the compact form of a token is made of (RFC 7515, section 7.1): decoders of base64 skip line ends, which would make
// other texts of the same token.
const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// patience is how long a request waits for Redis. While an outage is known, none waits.
const patience = time.Second

// Verify returns what a token in compact form says. The error is an *[InvalidError], [ErrRevoked], or says that Redis or
// the server of the keys did not answer, so that nothing is known.
func (v *Verifier) Verify(ctx context.Context, raw string) (*Token, error) {
	if len(raw) > maxLength {
		return nil, &InvalidError{fmt.Sprintf("it has %d bytes, and at most %d are read", len(raw), maxLength)}
	}
	if strings.Trim(raw, alphabet) != "" {
		return nil, &InvalidError{"it is not in the compact form of a JSON Web Token"}
	}
	var said claims
	parsed, err := v.parser.ParseWithClaims(raw, &said, v.key)
	var away *keysAwayError
	switch {
	case errors.As(err, &away):
		return nil, away
	case err != nil:
		return nil, &InvalidError{reason(err)}
	}
	if _, has := parsed.Header["crit"]; has { // RFC 7515, section 4.1.11
		return nil, &InvalidError{"its header names extensions in crit, and none is understood here"}
	}
	t := &Token{Subject: said.Subject, Scopes: append(said.Scope, said.Scopes...), Expires: said.ExpiresAt.Add(v.cfg.Leeway), keys: []string{Key(raw)}}
	if parsed.Method == jwt.SigningMethodES256 {
		t.keys = append(t.keys, Key(mirrored(raw, parsed.Signature)))
	}
	revoked, err := v.Revoked(ctx, t)
	switch {
	case err != nil:
		return nil, fmt.Errorf("look up whether a token was revoked: %w", err)
	case revoked:
		return nil, ErrRevoked
	}
	return t, nil
}

// claims are those that are read.
type claims struct {
	jwt.RegisteredClaims
	Scope  words `json:"scope"`
	Scopes words `json:"scopes"`
}

var claimNames = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "scopes"}

// UnmarshalJSON reads the claims of exactly these names, as other services do that take the same tokens: encoding/json by itself would
// take EXP for exp (RFC 7519, section 10.1.1: names are case-sensitive).
func (c *claims) UnmarshalJSON(doc []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(doc, &all); err != nil {
		return err
	}
	maps.DeleteFunc(all, func(name string, _ json.RawMessage) bool { return !slices.Contains(claimNames, name) })
	exact, err := json.Marshal(all)
	if err != nil {
		return err
	}
	type plain claims // has no UnmarshalJSON
	return json.Unmarshal(exact, (*plain)(c))
}

// words is a text of words, or a list of them. Anything else has none: it must not make a token bad that is good without.
type words []string

func (w *words) UnmarshalJSON(doc []byte) error {
	var text string
	var list []string
	switch {
	case json.Unmarshal(doc, &text) == nil:
		*w = strings.Fields(text)
	case json.Unmarshal(doc, &list) == nil:
		*w = list
	}
	return nil
}

// mirrored is the same token with the other signature of its signer: where (r, s) is one by an elliptic curve, (r, n-s) is too, and
// anybody can make it. Neither may be taken once the other was revoked, here or by a service that knows of one only.
func mirrored(raw string, signature []byte) string {
	half := len(signature) / 2
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(signature[half:]))
	other := append(slices.Clone(signature[:half]), s.FillBytes(make([]byte, half))...)
	return raw[:strings.LastIndexByte(raw, '.')+1] + base64.RawURLEncoding.EncodeToString(other)
}

// key returns the key that verifies a token.
func (v *Verifier) key(t *jwt.Token) (any, error) {
	if v.keys == nil {
		return []byte(v.cfg.Secret), nil
	}
	return v.keys.find(t)
}

// reason says what is wrong with a token without repeating it.
func reason(err error) string {
	for _, r := range []struct {
		err  error
		text string
	}{
		{jwt.ErrTokenExpired, "it has expired"},
		{jwt.ErrTokenNotValidYet, "it is not valid yet"},
		{jwt.ErrTokenUsedBeforeIssued, "it was issued in the future"},
		{jwt.ErrTokenInvalidAudience, "it is for another audience"},
		{jwt.ErrTokenInvalidIssuer, "another issuer has made it"},
		{jwt.ErrTokenRequiredClaimMissing, "it lacks exp or another claim that is required"},
		{jwt.ErrTokenMalformed, "it is not in the compact form of a JSON Web Token"},
		{errUnknownKey, "no key of the issuer has signed it"},
	} {
		if errors.Is(err, r.err) {
			return r.text
		}
	}
	return "its signature is not one that is taken"
}

const keyPrefix = "blacklist:token:"

// Key is the key of a revoked token.
func Key(raw string) string {
	digest := sha256.Sum256([]byte(raw))
	return keyPrefix + hex.EncodeToString(digest[:])
}

// Revoked reports whether a token was revoked since it was verified. The error says that Redis did not answer.
func (v *Verifier) Revoked(ctx context.Context, t *Token) (bool, error) {
	if f := v.guard.Fault(); f != nil {
		return false, f.Err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var cmds []redis.Cmder
	for _, key := range t.keys {
		cmds = append(cmds, redis.NewIntCmd(ctx, "exists", key))
	}
	if err := v.guard.Send(ctx, cmds...); err != nil {
		return false, err
	}
	for _, cmd := range cmds {
		if cmd.(*redis.IntCmd).Val() > 0 {
			return true, nil
		}
	}
	return false, nil
}

// Revoke bans a token for as long as it would be taken.
func (v *Verifier) Revoke(ctx context.Context, t *Token) error {
	left := time.Until(t.Expires)
	if left < time.Millisecond {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var cmds []redis.Cmder
	for _, key := range t.keys {
		cmds = append(cmds, redis.NewStatusCmd(ctx, "set", key, "revoked", "px", left.Milliseconds()))
	}
	if err := v.guard.Send(ctx, cmds...); err != nil {
		return fmt.Errorf("revoke a token: %w", err)
	}
	return nil
}

// Close ends what is asked of the issuer. Nobody may verify any more.
func (v *Verifier) Close() {
	if v.keys != nil {
		v.keys.close()
	}
}

// Wait waits until what was sent to Redis was answered, after the client was closed.
func (v *Verifier) Wait() { v.guard.Wait() }
