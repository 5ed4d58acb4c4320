package failed

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// auditKey is a stream with what people have changed, the latest auditLength changes.
const (
	auditKey    = prefix + "audit"
	auditLength = 10_000
)

// Change is what a person has changed.
type Change struct {
	At      time.Time
	By      string // who
	Action  string // such as replay, discard, pause
	Target  string // which jobs, queue or picture
	Outcome string // what became of it
}

// Audit notes a change.
func (s *Store) Audit(ctx context.Context, c Change) error { return Audit(ctx, s.client, c) }

// Audit notes a change of what is kept beside the failed jobs, in the database that client has selected (DB5).
func Audit(ctx context.Context, client redis.UniversalClient, c Change) error {
	err := client.XAdd(ctx, &redis.XAddArgs{
		Stream: auditKey, MaxLen: auditLength, Approx: true,
		Values: []string{"by", shorten(c.By, 200), "action", c.Action, "target", shorten(c.Target, 1000), "outcome", shorten(c.Outcome, 1000)},
	}).Err()
	if err != nil {
		return fmt.Errorf("note that %s has asked for %s: %w", c.By, c.Action, err)
	}
	return nil
}

// Changes returns the latest changes, the last one first.
func (s *Store) Changes(ctx context.Context, most int) ([]Change, error) {
	all, err := s.client.XRevRangeN(ctx, auditKey, "+", "-", int64(most)).Result()
	if err != nil {
		return nil, fmt.Errorf("list what was changed: %w", err)
	}
	out := make([]Change, len(all))
	for i, m := range all {
		field := func(name string) string { text, _ := m.Values[name].(string); return text }
		ms, _, _ := strings.Cut(m.ID, "-")
		at, _ := strconv.ParseInt(ms, 10, 64)
		out[i] = Change{time.UnixMilli(at).UTC(), field("by"), field("action"), field("target"), field("outcome")}
	}
	return out, nil
}
