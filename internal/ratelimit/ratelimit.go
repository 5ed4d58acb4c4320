// Package ratelimit counts requests by client address and endpoint in Redis (DB3).
//
// Start with [Limiter]. A fixed window is counted in ratelimit:ip:{ip}:{endpoint}, a decimal number whose TTL is what is left of
// the window: whoever runs the script fixed.lua on the same key shares the limit, as examples/fastapi does. The first request opens the
// window; refused requests are not counted. [Proxies] finds the address of a client behind proxies.
package ratelimit

import (
	"context"
	"crypto/rand"
	_ "embed" // the scripts
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/redisretry"
)

// Rule is how many requests a client may make to one endpoint.
type Rule struct {
	Limit   int           // requests in a window, at least 1
	Window  time.Duration // whole milliseconds, at least a second
	Sliding bool          // the window ends now, wherever it began; else it begins with a request and ends after Window

	// IPv6Prefix is how many bits of an IPv6 address make a client, 1 to 128. A subscriber has a network of 64 bits or fewer, with all its
	// addresses (RFC 6177). 0 is 128.
	IPv6Prefix int
}

// String returns the rule in the form that [ParseRule] reads.
func (r Rule) String() string {
	if r.Limit == 0 {
		return "off"
	}
	return fmt.Sprintf("%d/%s", r.Limit, seconds(r.Window))
}

// seconds returns a duration as "60s", "1.5s".
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s" }

const (
	minWindow = time.Second
	maxWindow = 24 * time.Hour
	maxLimit  = 1_000_000
)

// ParseRule reads a limit and a window, such as "60/60s" or "1000/1h". "off" is the zero Rule.
func ParseRule(text string) (Rule, error) {
	if text == "off" {
		return Rule{}, nil
	}
	want := func() (Rule, error) {
		return Rule{}, fmt.Errorf("%q is not a rate limit: expected requests and a window of 1s to 24h, such as 60/60s, or off", text)
	}
	count, window, ok := strings.Cut(text, "/")
	limit, err := strconv.Atoi(strings.TrimSpace(count))
	if !ok || err != nil || limit < 1 || limit > maxLimit {
		return want()
	}
	d, err := time.ParseDuration(strings.TrimSpace(window))
	if err != nil || d < minWindow || d > maxWindow || d%time.Millisecond != 0 {
		return want()
	}
	return Rule{Limit: limit, Window: d}, nil
}

// Decision is what became of one request.
type Decision struct {
	Admitted  bool
	Remaining int           // requests that the window still admits
	Reset     time.Duration // until the window admits more: its end, or in a sliding one until its oldest request leaves it
}

// Limiter applies one rule. Safe for concurrent use.
type Limiter struct {
	rule  Rule
	guard *redisretry.Guard
}

// New returns a limiter that counts on the database that client has selected. The caller closes client. rule is not "off".
func New(rule Rule, client redis.UniversalClient, log *zap.Logger) *Limiter {
	return &Limiter{rule: rule, guard: redisretry.New("limits", log).On(client)}
}

// Rule is the rule that is applied.
func (l *Limiter) Rule() Rule { return l.rule }

//go:embed fixed.lua
var fixedText string

//go:embed sliding.lua
var slidingText string

var fixed, sliding = redis.NewScript(fixedText), redis.NewScript(slidingText)

// patience is how long a request waits for Redis. While an outage is known, none waits.
const patience = time.Second

// Take counts a request of a client to an endpoint, in one step. endpoint is the route's template, such as
// /api/v1/waste/analyze, not a path with an id in it: each would have a counter of its own. The error says that Redis did not
// answer, so that nothing is known.
func (l *Limiter) Take(ctx context.Context, client netip.Addr, endpoint string) (Decision, error) {
	key := l.rule.Key(client, endpoint)
	if f := l.guard.Fault(); f != nil {
		return Decision{}, fmt.Errorf("count a request of %s: %w", key, f.Err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	script, args := fixed, []any{l.rule.Limit, l.rule.Window.Milliseconds()}
	if l.rule.Sliding {
		script, key, args = sliding, key+":sliding", append(args, rand.Text())
	}
	// Where the answer is not known it is asked again: a request may count twice, and none is admitted uncounted.
	answer, err := l.guard.Run(ctx, script, []string{key}, args...)
	if err != nil {
		return Decision{}, fmt.Errorf("count a request of %s: %w", key, err)
	}
	reply, err := answer.Int64Slice()
	if err != nil || len(reply) != 3 {
		return Decision{}, fmt.Errorf("count a request of %s: Redis answered %v, expected three numbers", key, answer.Val())
	}
	return Decision{
		Admitted:  reply[0] == 1,
		Remaining: max(0, l.rule.Limit-int(reply[1])),
		Reset:     time.Duration(reply[2]) * time.Millisecond,
	}, nil
}

// Key is the key in which the requests of a client to an endpoint are counted. It names a network by its first address.
func (r Rule) Key(client netip.Addr, endpoint string) string {
	text := "unknown"
	if client.Is6() && r.IPv6Prefix > 0 {
		if network, err := client.Prefix(r.IPv6Prefix); err == nil {
			client = network.Addr()
		}
	}
	if client.IsValid() {
		text = client.String()
	}
	return "ratelimit:ip:" + text + ":" + endpoint
}

// Wait waits until what was sent to Redis was answered, after the client was closed.
func (l *Limiter) Wait() { l.guard.Wait() }
