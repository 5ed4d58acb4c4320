package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"onceover/vision"
)

// EvictionError says that the server may throw the counters of a budget away to make room.
type EvictionError struct{ Policy string }

func (e *EvictionError) Error() string {
	return fmt.Sprintf("the Redis of limits evicts keys (maxmemory-policy %s), so that what was spent could be forgotten, and there is a budget: "+
		"expected a server with noeviction (ONCEOVER_LIMITS_URL), such as that of the failed jobs, on a database of its own", e.Policy)
}

// Evicts is the policy of the server.
func (e *EvictionError) Evicts() string { return e.Policy }

// keeps is an error while the server may forget what was spent. It is looked at once a minute: the server may have been
// away at the start, or be another one since.
func (g *Gate) keeps(ctx context.Context) error {
	if len(g.cfg.Budgets) == 0 {
		return nil
	}
	g.mu.Lock()
	due, evicts := time.Since(g.checked) > g.minute, g.evicts
	if due {
		g.checked = time.Now()
	}
	g.mu.Unlock()
	if due {
		_, err := g.Check(ctx)
		var now *EvictionError
		switch {
		case errors.As(err, &now):
			g.log.Error("the budget is not safe: no call of a model begins", zap.Error(now))
			g.heard("limits", failing{now.Error(), time.Now().Add(2 * g.minute)})
		case err != nil: // it is away, as the call will notice: the next one looks
			g.mu.Lock()
			g.checked = time.Time{}
			g.mu.Unlock()
			now = evicts
		default:
			g.heard("limits", failing{})
		}
		evicts = now
		g.mu.Lock()
		g.evicts = now
		g.mu.Unlock()
	}
	if evicts == nil {
		return nil
	}
	return &vision.Error{Class: vision.RateLimited, RetryAfter: g.minute, Err: evicts}
}

// Check looks whether the server is fit to keep a budget. It returns an *EvictionError if it evicts, and warnings about
// what a crash of the server would forget. Without a budget there is nothing to look at.
func (g *Gate) Check(ctx context.Context) (warnings []string, err error) {
	if len(g.cfg.Budgets) == 0 {
		return nil, nil
	}
	fields := map[string]string{}
	for _, section := range []string{"memory", "persistence"} {
		doc, err := g.client.Info(ctx, section).Result()
		if err != nil && strings.Contains(err.Error(), "not supported") {
			return nil, nil // an embedded server, which keeps nothing anyway
		}
		if err != nil {
			return nil, fmt.Errorf("ask the Redis of limits for its settings: %w", err)
		}
		for _, line := range strings.Split(doc, "\r\n") {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = value
		}
	}
	if policy := fields["maxmemory_policy"]; policy != "" && policy != "noeviction" && fields["maxmemory"] != "0" {
		return nil, &EvictionError{policy}
	}
	if fields["aof_enabled"] == "0" {
		warnings = append(warnings, "the Redis of limits has no append-only file (appendonly): a crash of it forgets what was spent since its last snapshot, and that may be spent once more")
	}
	return warnings, nil
}
