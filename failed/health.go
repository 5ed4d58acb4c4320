package failed

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"onceover/internal/redisretry"
)

// checkServer is how often the settings of the Redis server are looked at.
const checkServer = time.Minute

// EvictionError says that the server may throw jobs away to make room.
type EvictionError struct{ Policy string }

func (e *EvictionError) Error() string {
	return fmt.Sprintf("the Redis of failed and parked jobs evicts keys (maxmemory-policy %s), so jobs would be lost without a trace: "+
		"give it a server of its own with noeviction (ONCEOVER_FAILED_URL), or set volatile-lru, which spares the jobs because they do not expire; "+
		"ONCEOVER_FAILED_ALLOW_EVICTION=true accepts the loss", e.Policy)
}

// Evicts is the policy of the server.
func (e *EvictionError) Evicts() string { return e.Policy }

// Check looks whether the server is fit to keep jobs. It returns an
// *EvictionError if it evicts and that is not allowed, and warnings about what a
// crash of the server would lose.
func (s *Store) Check(ctx context.Context) (warnings []string, err error) {
	memory, err := s.client.Info(ctx, "memory").Result()
	if err != nil && !strings.Contains(err.Error(), "not supported") {
		return nil, fmt.Errorf("ask the Redis of failed and parked jobs for its settings: %w", err)
	}
	policy, limit := infoField(memory, "maxmemory_policy"), infoField(memory, "maxmemory")
	evicting := strings.HasPrefix(policy, "allkeys") && limit != "0"
	s.metrics.evicting.Set(map[bool]float64{true: 1}[evicting])
	s.evicting.Store(evicting && !s.cfg.AllowEviction)
	if evicting {
		e := &EvictionError{policy}
		if !s.cfg.AllowEviction {
			return nil, e
		}
		warnings = append(warnings, e.Error())
	}
	if policy == "" {
		return warnings, nil // not a Redis, or one that is embedded and keeps nothing anyway
	}
	persistence, err := s.client.Info(ctx, "persistence").Result()
	if err != nil {
		return warnings, fmt.Errorf("ask the Redis of failed and parked jobs for its persistence: %w", err)
	}
	if infoField(persistence, "aof_enabled") != "1" {
		warnings = append(warnings, "the Redis of failed and parked jobs keeps no append-only file: a crash of that server loses what came after its last snapshot; set appendonly yes and appendfsync always")
	} else if fsync, err := s.client.ConfigGet(ctx, "appendfsync").Result(); err == nil && fsync["appendfsync"] != "" && fsync["appendfsync"] != "always" {
		warnings = append(warnings, fmt.Sprintf("the Redis of failed and parked jobs has appendfsync %s: a crash of that server loses the last jobs; set appendfsync always", fsync["appendfsync"]))
	}
	if s.cfg.Replicas > 0 {
		n, err := s.client.Info(ctx, "replication").Result()
		if err != nil {
			return warnings, fmt.Errorf("ask the Redis of failed and parked jobs for its replicas: %w", err)
		}
		if has, err := strconv.Atoi(infoField(n, "connected_slaves")); err == nil && has < s.cfg.Replicas {
			warnings = append(warnings, fmt.Sprintf("the Redis of failed and parked jobs has %d replicas and should have %d (ONCEOVER_FAILED_REPLICAS): jobs that fail or are parked wait for the others", has, s.cfg.Replicas))
		}
	}
	return warnings, nil
}

// Ready is an error while the server evicts. That it answers is not looked at.
func (s *Store) Ready(ctx context.Context) error { return s.refuseEviction(ctx) }

// refuseEviction is an error while the server evicts: what is to be kept waits, as
// it does while the server is away.
func (s *Store) refuseEviction(ctx context.Context) error {
	if !s.evicting.Load() {
		return nil
	}
	_, err := s.Check(ctx)
	return err
}

// countEvery is how often the jobs are counted: as often as Prometheus asks as a rule.
const countEvery = 15 * time.Second

// watch looks at the server, and counts what it holds, now and then.
func (s *Store) watch(ctx context.Context) {
	settings := time.NewTicker(checkServer)
	defer settings.Stop()
	size := time.NewTicker(countEvery)
	defer size.Stop()
	for {
		select {
		case <-settings.C:
			var evicts *EvictionError
			if _, err := s.Check(ctx); errors.As(err, &evicts) && ctx.Err() == nil {
				s.log.Error("failed and parked jobs are not safe", zap.Error(err))
			}
		case <-size.C:
			s.measure(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// Counts are what the store holds.
type Counts struct {
	Failed, Parked int
}

// Count counts the jobs in the store.
func (s *Store) Count(ctx context.Context) (c Counts, err error) {
	n, err := s.client.ZCard(ctx, timesKey).Result()
	if err != nil {
		return c, fmt.Errorf("count failed jobs: %w", err)
	}
	c.Failed = int(n)
	if c.Parked, err = s.parked(ctx); err != nil {
		return c, fmt.Errorf("count parked jobs: %w", err)
	}
	return c, nil
}

func (s *Store) measure(ctx context.Context) {
	c, err := s.Count(ctx)
	if err != nil {
		return // next time
	}
	s.metrics.held.WithLabelValues("failed").Set(float64(c.Failed))
	s.metrics.held.WithLabelValues("parked").Set(float64(c.Parked))
}

// infoField reads a field of an INFO reply.
func infoField(reply, name string) string {
	for line := range strings.Lines(reply) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Probe asks the server for a sign of life, so that Fault knows. It waits until ctx ends while the
// server is away.
func (s *Store) Probe(ctx context.Context) error {
	return s.guard.Do(ctx, func(ctx context.Context) error { return s.client.Ping(ctx).Err() })
}

// Fault returns what keeps the store from working, nil while all is well.
func (s *Store) Fault() *redisretry.Fault { return s.guard.Fault() }
