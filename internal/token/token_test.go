package token_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/internal/token"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const secret = "a secret of the tests, forty bytes long."

// verifier returns one on a Redis of its own.
func verifier(t *testing.T, cfg token.Config) (*token.Verifier, *redis.Client, *testenv.RedisServer) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := testenv.Redis(t)
	opt, err := redisretry.Options(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	own, c := redis.NewClient(opt), redis.NewClient(opt)
	v := token.New(cfg, own, zap.NewNop())
	t.Cleanup(func() {
		own.Close()
		v.Wait()
		v.Close()
		c.Close()
	})
	return v, c, s
}

// claims are those of a good token, with changes; a nil value takes one away.
func claims(changes jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{"sub": "user-1", "exp": time.Now().Add(time.Hour).Unix(), "aud": "onceover", "iss": "https://issuer.example"}
	for name, value := range changes {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return c
}

func sign(t *testing.T, method jwt.SigningMethod, key any, c jwt.MapClaims, header map[string]any) string {
	t.Helper()
	tok := jwt.NewWithClaims(method, c)
	for name, value := range header {
		tok.Header[name] = value
	}
	raw, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func hs(t *testing.T, changes jwt.MapClaims) string {
	t.Helper()
	return sign(t, jwt.SigningMethodHS256, []byte(secret), claims(changes), nil)
}

// parts joins texts as the three parts of a token.
func parts(header, payload, signature string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(header)) + "." + enc([]byte(payload)) + "." + signature
}

// TestForgedTokens is a table of tokens that nobody may use.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	v, c, _ := verifier(t, token.Config{Secret: secret, Audience: "onceover", Issuer: "https://issuer.example", Leeway: 30 * time.Second})
	good := hs(t, nil)
	if tok, err := v.Verify(t.Context(), good); err != nil || tok.Subject != "user-1" {
		t.Fatalf("got %+v, %v for a good token", tok, err)
	}
	head, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	now := time.Now()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"sub":"admin","exp":%d,"aud":"onceover","iss":"https://issuer.example"}`, now.Add(time.Hour).Unix())
	none := jwt.NewWithClaims(jwt.SigningMethodNone, claims(nil))
	unsigned, err := none.SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	// The last letter of a signature of 32 bytes has two bits that mean nothing.
	letters := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	other := letters[strings.IndexByte(letters, signature[len(signature)-1])^1]
	for name, tt := range map[string]struct{ raw, why string }{
		"empty":                              {"", "compact form"},
		"one part":                           {head, "compact form"},
		"two parts":                          {head + "." + payload, "compact form"},
		"no signature":                       {head + "." + payload + ".", "signature"},
		"four parts":                         {good + ".x", "compact form"},
		"alg none":                           {unsigned, "signature"},
		"alg None":                           {parts(`{"alg":"None"}`, body, ""), "signature"},
		"alg nOnE with a signature":          {parts(`{"alg":"nOnE"}`, body, signature), "signature"},
		"no alg":                             {parts(`{"typ":"JWT"}`, body, signature), "signature"},
		"alg not a string":                   {parts(`{"alg":["HS256"]}`, body, signature), "signature"},
		"alg in lower case":                  {parts(`{"alg":"hs256"}`, body, signature), "signature"},
		"HS384 with the secret":              {sign(t, jwt.SigningMethodHS384, []byte(secret), claims(nil), nil), "signature"},
		"RS256":                              {sign(t, jwt.SigningMethodRS256, rsaKey, claims(nil), nil), "signature"},
		"another secret":                     {sign(t, jwt.SigningMethodHS256, []byte("another"), claims(nil), nil), "signature"},
		"an empty secret":                    {sign(t, jwt.SigningMethodHS256, []byte(""), claims(nil), nil), "signature"},
		"another payload":                    {head + "." + base64.RawURLEncoding.EncodeToString([]byte(body)) + "." + signature, "signature"},
		"another header":                     {parts(`{"alg":"HS256","kid":"../../dev/null"}`, body, signature), "signature"},
		"bits of the signature that are not": {good[:len(good)-1] + string(other), "compact form"},
		"padding":                            {good + "=", "compact form"},
		"a line end":                         {good + "\n", "compact form"},
		"line ends within":                   {head + "." + payload[:4] + "\r\n" + payload[4:] + "." + signature, "compact form"},
		"a blank":                            {" " + good, "compact form"},
		"letters of plain base64":            {head + "." + payload + "." + strings.Repeat("+/", 22), "compact form"},
		"beyond ASCII":                       {head + "." + payload + ".é", "compact form"},
		"not JSON":                           {parts(`{`, body, signature), "compact form"},
		"a header that is a list":            {parts(`[]`, body, signature), "compact form"},
		"very long":                          {head + "." + strings.Repeat("A", 9000) + "." + signature, "at most 8192"},
		"expired":                            {hs(t, jwt.MapClaims{"exp": now.Add(-31 * time.Second).Unix()}), "expired"},
		"no exp":                             {hs(t, jwt.MapClaims{"exp": nil}), "exp"},
		"exp as words":                       {hs(t, jwt.MapClaims{"exp": "tomorrow"}), "compact form"},
		"exp null":                           {parts(`{"alg":"HS256"}`, `{"exp":null}`, signature), "signature"},
		"not yet valid":                      {hs(t, jwt.MapClaims{"nbf": now.Add(time.Minute).Unix()}), "not valid yet"},
		"issued in the future":               {hs(t, jwt.MapClaims{"iat": now.Add(time.Minute).Unix()}), "future"},
		"another audience":                   {hs(t, jwt.MapClaims{"aud": "onceover2"}), "audience"},
		"audiences without ours":             {hs(t, jwt.MapClaims{"aud": []string{"a", "Onceover"}}), "audience"},
		"no audience":                        {hs(t, jwt.MapClaims{"aud": nil}), "exp"},
		"EXP for exp":                        {hs(t, jwt.MapClaims{"exp": nil, "EXP": now.Add(time.Hour).Unix()}), "exp"},
		"EXP after an exp that is past":      {hs(t, jwt.MapClaims{"exp": now.Add(-time.Hour).Unix(), "eXp": now.Add(time.Hour).Unix()}), "expired"},
		"AUD for aud":                        {hs(t, jwt.MapClaims{"aud": nil, "AUD": "onceover"}), "exp"},
		"iss with two long s":                {hs(t, jwt.MapClaims{"iss": nil, "i\u017f\u017f": "https://issuer.example"}), "exp"},
		"crit":                               {sign(t, jwt.SigningMethodHS256, []byte(secret), claims(nil), map[string]any{"crit": []string{"x"}, "x": 1}), "crit"},
		"crit null":                          {sign(t, jwt.SigningMethodHS256, []byte(secret), claims(nil), map[string]any{"crit": nil}), "crit"},
		"another issuer":                     {hs(t, jwt.MapClaims{"iss": "https://issuer.example.evil"}), "issuer"},
		"no issuer":                          {hs(t, jwt.MapClaims{"iss": nil}), "exp"},
	} {
		_, err := v.Verify(t.Context(), tt.raw)
		var invalid *token.InvalidError
		if !errors.As(err, &invalid) || !strings.Contains(invalid.Reason, tt.why) {
			t.Errorf("%s: got %v, want it refused for %q", name, err, tt.why)
		}
		if len(tt.raw) > 20 && err != nil && strings.Contains(err.Error(), tt.raw[:20]) {
			t.Errorf("%s: the error repeats the token: %v", name, err)
		}
	}
	for name, raw := range map[string]string{
		"expired within the leeway":       hs(t, jwt.MapClaims{"exp": now.Add(-10 * time.Second).Unix()}),
		"valid from within the leeway":    hs(t, jwt.MapClaims{"nbf": now.Add(10 * time.Second).Unix()}),
		"issued within the leeway":        hs(t, jwt.MapClaims{"iat": now.Add(10 * time.Second).Unix()}),
		"exp as text, as PyJWT takes it":  hs(t, jwt.MapClaims{"exp": "2999999999"}),
		"exp as a fraction":               hs(t, jwt.MapClaims{"exp": float64(now.Add(time.Minute).UnixMilli()) / 1000}),
		"audiences with ours":             hs(t, jwt.MapClaims{"aud": []string{"a", "onceover"}}),
		"no subject":                      hs(t, jwt.MapClaims{"sub": nil}),
		"further claims and headers":      sign(t, jwt.SigningMethodHS256, []byte(secret), claims(jwt.MapClaims{"scope": "admin"}), map[string]any{"kid": "x"}),
		"an exp a thousand years from us": hs(t, jwt.MapClaims{"exp": now.AddDate(1000, 0, 0).Unix()}),
	} {
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Errorf("%s: got %v, want it taken", name, err)
		}
	}
	if n := c.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("got %d keys, want none: nothing was revoked", n)
	}
}

// TestRevoke has the contract of the key, which Python looks at and writes too.
func TestRevoke(t *testing.T) {
	t.Parallel()
	v, c, _ := verifier(t, token.Config{Secret: secret, Leeway: 30 * time.Second})
	raw, twin := hs(t, nil), hs(t, jwt.MapClaims{"jti": "2"})
	tok, err := v.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Revoke(t.Context(), tok); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(raw))
	key := "blacklist:token:" + hex.EncodeToString(digest[:])
	if value := c.Get(t.Context(), key).Val(); value != "revoked" {
		t.Errorf("got %s = %q, want revoked", key, value)
	}
	// As long as the token would be taken, leeway included, and not much longer.
	if ttl := c.PTTL(t.Context(), key).Val(); ttl < time.Hour+25*time.Second || ttl > time.Hour+31*time.Second {
		t.Errorf("got TTL %v, want what is left of an hour and the leeway", ttl)
	}
	if _, err := v.Verify(t.Context(), raw); !errors.Is(err, token.ErrRevoked) {
		t.Errorf("got %v, want that it was revoked", err)
	}
	if _, err := v.Verify(t.Context(), twin); err != nil {
		t.Errorf("got %v for another token of the same user", err)
	}
	c.Set(t.Context(), token.Key(twin), "revoked", time.Minute) // by Python
	if _, err := v.Verify(t.Context(), twin); !errors.Is(err, token.ErrRevoked) {
		t.Errorf("got %v, want that it was revoked elsewhere", err)
	}
	// One that has expired within the leeway is banned for the rest of it.
	late, err := v.Verify(t.Context(), hs(t, jwt.MapClaims{"exp": time.Now().Add(-20 * time.Second).Unix()}))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Revoke(t.Context(), late); err != nil {
		t.Error(err)
	}
	// One that is taken almost for ever is banned for as long as can be said.
	eternal, err := v.Verify(t.Context(), hs(t, jwt.MapClaims{"exp": 253402300799}))
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := v.Issue(t.Context(), eternal)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := v.Redeem(t.Context(), ticket); err != nil || !again.Expires.Equal(eternal.Expires) {
		t.Errorf("got %+v, %v for the ticket of a token that is taken almost for ever", again, err)
	}
	if err := v.Revoke(t.Context(), eternal); err != nil {
		t.Error(err)
	}
	if n := c.DBSize(t.Context()).Val(); n != 4 {
		t.Errorf("got %d keys, want those of four tokens", n)
	}
	for _, key := range c.Keys(t.Context(), "*").Val() {
		if c.PTTL(t.Context(), key).Val() <= 0 {
			t.Errorf("%s has no TTL", key)
		}
	}
}

// TestOutage: while Redis is away nothing is known of any token, and nobody waits for it.
func TestOutage(t *testing.T) {
	t.Parallel()
	v, _, s := verifier(t, token.Config{Secret: secret})
	raw := hs(t, nil)
	if _, err := v.Verify(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	var invalid *token.InvalidError
	for range 50 {
		if _, err := v.Verify(t.Context(), raw); err == nil || errors.As(err, &invalid) || errors.Is(err, token.ErrRevoked) {
			t.Fatalf("got %v without Redis, want that nothing is known", err)
		}
	}
	s.Start()
	for {
		if _, err := v.Verify(t.Context(), raw); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
}

// issuer serves a set of keys.
type issuer struct {
	*httptest.Server
	requests atomic.Int64
	status   atomic.Int64
	mu       sync.Mutex
	doc      string
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{}
	i.status.Store(200)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.requests.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		w.WriteHeader(int(i.status.Load()))
		fmt.Fprint(w, i.doc)
	}))
	t.Cleanup(i.Close)
	return i
}

// serve is the document from now on.
func (i *issuer) serve(t *testing.T, keys ...map[string]string) {
	t.Helper()
	doc, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.doc = string(doc)
}

func number(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }

func rsaJWK(kid string, key *rsa.PrivateKey) map[string]string {
	return map[string]string{"kty": "RSA", "kid": kid, "use": "sig", "n": number(key.N), "e": "AQAB"}
}

func ecJWK(t *testing.T, kid string, key *ecdsa.PrivateKey) map[string]string {
	t.Helper()
	point, err := key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	return map[string]string{"kty": "EC", "kid": kid, "use": "sig", "alg": "ES256", "crv": "P-256", "x": enc(point[1:33]), "y": enc(point[33:])}
}

func TestKeySet(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := newIssuer(t)
	i.serve(t, rsaJWK("r", rsaKey), ecJWK(t, "e", ecKey), map[string]string{"kty": "unheard of", "kid": "u"},
		map[string]string{"kty": "oct", "kid": "o", "k": base64.RawURLEncoding.EncodeToString([]byte(secret))})
	v, c, _ := verifier(t, token.Config{JWKSURL: i.URL + "/keys", Leeway: time.Second})
	withKid := func(kid string) map[string]any { return map[string]any{"kid": kid} }
	es := sign(t, jwt.SigningMethodES256, ecKey, claims(nil), withKid("e"))
	for name, raw := range map[string]string{
		"RS256": sign(t, jwt.SigningMethodRS256, rsaKey, claims(nil), withKid("r")), "ES256": es,
		"no kid": sign(t, jwt.SigningMethodRS256, rsaKey, claims(nil), nil),
	} {
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Errorf("%s: got %v", name, err)
		}
	}
	der, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"the public key as the secret of HS256": sign(t, jwt.SigningMethodHS256, public, claims(nil), withKid("r")),
		"a symmetric key of the set":            sign(t, jwt.SigningMethodHS256, []byte(secret), claims(nil), withKid("o")),
		"a stranger's key":                      sign(t, jwt.SigningMethodRS256, stranger, claims(nil), withKid("r")),
		"another key of the set":                sign(t, jwt.SigningMethodRS256, rsaKey, claims(nil), withKid("e")),
		"PS256":                                 sign(t, jwt.SigningMethodPS256, rsaKey, claims(nil), withKid("r")),
		"RS512":                                 sign(t, jwt.SigningMethodRS512, rsaKey, claims(nil), withKid("r")),
		"a key that it brings along":            sign(t, jwt.SigningMethodRS256, stranger, claims(nil), map[string]any{"jwk": rsaJWK("r", stranger)}),
		"a place of keys that it names":         sign(t, jwt.SigningMethodRS256, stranger, claims(nil), map[string]any{"jku": i.URL, "kid": "r"}),
	} {
		var invalid *token.InvalidError
		if _, err := v.Verify(t.Context(), raw); !errors.As(err, &invalid) {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}

	// A second signature that anybody can make of the first is revoked with it.
	tok, err := v.Verify(t.Context(), es)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Revoke(t.Context(), tok); err != nil {
		t.Fatal(err)
	}
	mirrored := mirror(t, es)
	for name, revoke := range map[string]func(){"here": func() {}, "by Python": func() { c.Set(t.Context(), token.Key(es), "revoked", time.Minute) }} {
		c.FlushAll(t.Context())
		if revoke(); name == "here" {
			if err := v.Revoke(t.Context(), tok); err != nil {
				t.Fatal(err)
			}
		}
		for text, raw := range map[string]string{"it": es, "the same with the other signature": mirrored} {
			if _, err := v.Verify(t.Context(), raw); !errors.Is(err, token.ErrRevoked) || mirrored == es {
				t.Errorf("revoked %s: got %v for %s", name, err, text)
			}
		}
		if c.Exists(t.Context(), token.Key(es)).Val() != 1 {
			t.Errorf("revoked %s: the token has no key, which Python looks at", name)
		}
	}

	// A flood of unknown keys makes one request.
	before := i.requests.Load()
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			raw := sign(t, jwt.SigningMethodRS256, stranger, claims(nil), withKid(fmt.Sprint("unknown-", n)))
			var invalid *token.InvalidError
			if _, err := v.Verify(context.Background(), raw); !errors.As(err, &invalid) || !strings.Contains(invalid.Reason, "no key of the issuer") {
				t.Errorf("got %v for an unknown key", err)
			}
		})
	}
	all.Wait()
	if n := i.requests.Load() - before; n > 1 || before > 1 {
		t.Errorf("got %d requests for the keys before 200 unknown ones, and %d for them, want 1 and at most 1", before, n)
	}
}

// mirror returns the same token with the other signature: (r, n-s) is as good as (r, s).
func mirror(t *testing.T, raw string) string {
	t.Helper()
	signed, signature := raw[:strings.LastIndexByte(raw, '.')], raw[strings.LastIndexByte(raw, '.')+1:]
	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:]))
	return signed + "." + base64.RawURLEncoding.EncodeToString(append(sig[:32:32], s.FillBytes(make([]byte, 32))...))
}

// TestKeySetAway: without keys nothing is known of a token; keys that were had are used on.
func TestKeySetAway(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	raw := sign(t, jwt.SigningMethodRS256, key, claims(nil), map[string]any{"kid": "r"})
	for name, doc := range map[string]string{"500": "", "not JSON": "<html>", "no keys": `{"keys":[]}`, "another document": `{"issuer":"x"}`} {
		i := newIssuer(t)
		i.doc = doc
		if name == "500" {
			i.status.Store(500)
		}
		v, _, _ := verifier(t, token.Config{JWKSURL: i.URL})
		var invalid *token.InvalidError
		if _, err := v.Verify(t.Context(), raw); err == nil || errors.As(err, &invalid) || !strings.Contains(err.Error(), "keys cannot be had") {
			t.Errorf("%s: got %v, want that there are no keys", name, err)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]token.Config{
		"jwt-secret":    {Secret: "x", JWKSURL: "https://issuer.example/keys"},
		"jwt-jwks-url":  {JWKSURL: "issuer.example"},
		"jwt-audience":  {Audience: "x"},
		"JSON Web Key":  {JWKSURL: "file:///etc/keys"},
		"no token is a": {Issuer: "x"},
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if !(token.Config{Secret: "short"}).Weak() || (token.Config{Secret: secret}).Weak() || (token.Config{}).Weak() {
		t.Error("a secret of fewer than 32 bytes is weak, and only that")
	}
}

// FuzzVerify takes any text, and must take none that was not signed.
func FuzzVerify(f *testing.F) {
	f.Add("a.b.c")
	f.Add(parts(`{"alg":"none"}`, `{"exp":9999999999}`, ""))
	f.Add(parts(`{"alg":"HS256","crit":["b64"]}`, `{"exp":1e300,"aud":[]}`, "AAAA"))
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	f.Cleanup(func() { c.Close() })
	v := token.New(token.Config{Secret: secret}, c, zap.NewNop())
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := v.Verify(t.Context(), raw); err == nil {
			t.Errorf("%q was taken", raw)
		}
	})
}

// TestScopes reads what a token is for, in the spellings of RFC 8693 and of FastAPI's guide. A claim of another form is no reason to refuse
// a token that is good without.
func TestScopes(t *testing.T) {
	t.Parallel()
	v, _, _ := verifier(t, token.Config{Secret: secret})
	for _, tt := range []struct {
		changes jwt.MapClaims
		want    []string
	}{
		{nil, nil},
		{jwt.MapClaims{"scope": "admin  read"}, []string{"admin", "read"}},
		{jwt.MapClaims{"scopes": []string{"admin", "read all"}}, []string{"admin", "read all"}},
		{jwt.MapClaims{"scope": []string{"admin"}, "scopes": "read"}, []string{"admin", "read"}},
		{jwt.MapClaims{"scope": ""}, nil},
		{jwt.MapClaims{"SCOPE": "admin", "Scopes": []string{"admin"}, "\u017fcope": "admin"}, nil},
		{jwt.MapClaims{"scope": 7, "scopes": map[string]any{"admin": true}}, nil},
		{jwt.MapClaims{"scopes": []any{"admin", 7}}, nil},
	} {
		tok, err := v.Verify(t.Context(), hs(t, tt.changes))
		if err != nil || !slices.Equal(tok.Scopes, tt.want) {
			t.Errorf("%v: got %+v, %v, want %q", tt.changes, tok, err, tt.want)
		}
	}
}
