package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
)

const (
	// keyKept is how long a key names its job. It stands in the API's description.
	keyKept = 24 * time.Hour
	// keyClaimed is how long a request has a key before its job is published; if its process dies, the next one has it after that. It is
	// longer than publishing takes.
	keyClaimed = 2 * publishing
	maxKey     = 255
)

// Keys remembers which job a request with an Idempotency-Key made (draft-ietf-httpapi-idempotency-key-header), in DB3.
//
// The id of the job derives from who makes the request, the key and what is asked for. So a request that is repeated after a
// process died between claim and publishing publishes the same job again, and a worker runs one id once.
type Keys struct {
	guard *redisretry.Guard
}

// NewKeys returns keys on the database that client has selected. The caller closes client.
func NewKeys(client redis.UniversalClient, log *zap.Logger) *Keys {
	return &Keys{redisretry.New("idempotency keys", log).On(client)}
}

// Wait waits until what was sent to Redis was answered, after the client was closed.
func (k *Keys) Wait() { k.guard.Wait() }

// What a claim can meet.
var (
	errOtherRequest = errors.New("the key was used for another request")
	errInFlight     = errors.New("a request with the key is under way")
)

// claim is a key that a request has.
type claim struct {
	keys  *Keys
	key   string // in Redis
	print string // fingerprint of the request
	value string // while it is under way
	job   string // id of its job
	again bool   // the job was published before
}

// claimScript takes a key if nobody has it. KEYS: the key. ARGV: its value, and the milliseconds for which it is claimed.
// Returns the value of who has it, "" if it is ours now.
var claimScript = redis.NewScript(`
local held = redis.call('GET', KEYS[1])
if held then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''
`)

// releaseScript gives a key up if it is still claimed. KEYS: the key. ARGV: its value.
var releaseScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
`)

// parseKey reads the header's value: a string of a structured field (RFC 9651), or the same without quotes, as most clients send it.
func parseKey(value string) (string, error) {
	key := strings.TrimSpace(value)
	if inner, ok := strings.CutPrefix(key, `"`); ok {
		if key, ok = strings.CutSuffix(inner, `"`); !ok || strings.ContainsAny(key, `"\`) {
			key = ""
		}
	}
	if key == "" || len(key) > maxKey || strings.ContainsFunc(key, func(c rune) bool { return c < 0x20 || c > 0x7e }) {
		return "", fmt.Errorf("Idempotency-Key is not a key: expected 1 to %d printable ASCII characters, such as a UUID, in quotes or without", maxKey)
	}
	return key, nil
}

// jobOf is the id of the job that a request with a key makes.
func jobOf(principal, key, print string) string {
	data := fmt.Appendf(nil, "%d:%s%d:%s%s", len(principal), principal, len(key), key, print)
	return uuid.NewHash(sha256.New(), uuid.NameSpaceURL, data, 8).String()
}

// take claims a key for a request. The error is errOtherRequest, errInFlight or that Redis does not answer.
func (k *Keys) take(ctx context.Context, principal, key, print string) (*claim, error) {
	digest := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(principal), principal, key))
	c := &claim{keys: k, key: "idempotency:" + hex.EncodeToString(digest[:]), print: print, job: jobOf(principal, key, print)}
	c.value = "claimed:" + print + ":" + rand.Text()
	if f := k.guard.Fault(); f != nil {
		return nil, fmt.Errorf("claim an idempotency key: %w", f.Err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := k.guard.Run(ctx, claimScript, []string{c.key}, c.value, keyClaimed.Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("claim an idempotency key: %w", err)
	}
	held, err := answer.Text()
	if err != nil {
		return nil, fmt.Errorf("claim an idempotency key: %w", err)
	}
	state, rest, _ := strings.Cut(held, ":")
	other, _, _ := strings.Cut(rest, ":")
	switch {
	case held == "" || held == c.value: // the second when the first answer was lost
		return c, nil
	case other != print:
		return nil, errOtherRequest
	case state != "done":
		return nil, errInFlight
	}
	c.again = true
	return c, nil
}

// done remembers that the job is published. Where that fails, the next request with the key publishes the same id again, which runs once.
func (c *claim) done(ctx context.Context, log *zap.Logger) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.keys.guard.Send(ctx, redis.NewStatusCmd(ctx, "set", c.key, "done:"+c.print, "px", keyKept.Milliseconds())); err != nil {
		log.Warn("an idempotency key is not kept", zap.String("job_id", c.job), zap.Error(err))
	}
}

// release gives the key up, as no job was published. Where that fails, it runs out.
func (c *claim) release(ctx context.Context, log *zap.Logger) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := c.keys.guard.Run(ctx, releaseScript, []string{c.key}, c.value); err != nil {
		log.Warn("an idempotency key is held until it runs out", zap.String("job_id", c.job), zap.Error(err))
	}
}
