package failed

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

func (b *bundle) set(option, value string) {
	b.t.Helper()
	if err := b.client.ConfigSet(b.t.Context(), option, value).Err(); err != nil {
		b.t.Fatal(err)
	}
}

// gauge reads a metric.
func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestEviction keeps nothing on a server that evicts, until it no longer does.
func TestEviction(t *testing.T) {
	b := setup(t)
	reg := prometheus.NewRegistry()
	b.store = New(Config{}, b.client, b.results, b.marks, reg, zap.NewNop())
	if _, err := b.store.Check(t.Context()); err != nil || b.store.Ready(t.Context()) != nil {
		t.Fatalf("got %v of a good server", err)
	}
	b.set("maxmemory-policy", "allkeys-lru")
	if _, err := b.store.Check(t.Context()); err != nil {
		t.Errorf("without a limit: got %v, want no error, as nothing is evicted", err)
	}
	b.set("maxmemory", "100mb")
	_, err := b.store.Check(t.Context())
	var evicts *EvictionError
	if !errors.As(err, &evicts) || evicts.Policy != "allkeys-lru" || !strings.Contains(err.Error(), "ONCEOVER_FAILED_URL") {
		t.Fatalf("got %v, want an *EvictionError", err)
	}
	if err := b.store.Ready(t.Context()); !errors.As(err, &evicts) {
		t.Errorf("Ready: got %v, want an *EvictionError", err)
	}
	if got := gauge(t, reg, "onceover_failed_store_evicting"); got != 1 {
		t.Errorf("got metric %v, want 1", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := b.store.Keep(ctx, failure(t, "a")); !errors.As(err, &evicts) {
		t.Errorf("Keep: got %v, want an *EvictionError", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := b.store.Park(ctx, message(t, request("a")), request("a"), time.Now().Add(time.Hour), nil); !errors.As(err, &evicts) {
		t.Errorf("Park: got %v, want an *EvictionError", err)
	}
	if keys := b.client.Keys(t.Context(), "*").Val(); len(keys) != 0 {
		t.Errorf("got keys %v, want nothing stored", keys)
	}

	asked := new(commandCount)
	b.client.AddHook(asked)
	done := make(chan error, 1)
	go func() { done <- b.store.Keep(t.Context(), failure(t, "b")) }()
	b.until("Keep has asked and waits", func() bool { return asked.read() > 1 })
	b.set("maxmemory-policy", "noeviction")
	if err := <-done; err != nil {
		t.Errorf("Keep: got %v, want it kept once the server no longer evicts", err)
	}
	if !b.has(key("b")) || b.store.Ready(t.Context()) != nil {
		t.Error("the job is not kept, or the store is not ready")
	}
	if got := gauge(t, reg, "onceover_failed_store_evicting"); got != 0 {
		t.Errorf("got metric %v, want 0", got)
	}
}

// TestEvictionAllowed accepts the loss.
func TestEvictionAllowed(t *testing.T) {
	b := setup(t)
	b.set("maxmemory-policy", "allkeys-random")
	b.set("maxmemory", "100mb")
	b.store = b.newStore(Config{AllowEviction: true})
	warnings, err := b.store.Check(t.Context())
	if err != nil || !strings.Contains(strings.Join(warnings, "\n"), "allkeys-random") {
		t.Errorf("got %q, %v, want a warning", warnings, err)
	}
	b.keep(failure(t, "a"))
	if err := b.store.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPersistence warns of what a crash of the server would lose.
func TestPersistence(t *testing.T) {
	b := setup(t)
	for _, tt := range []struct{ appendonly, appendfsync, want string }{
		{"yes", "always", ""},
		{"yes", "everysec", "appendfsync everysec"},
		{"yes", "no", "appendfsync no"},
		{"no", "always", "no append-only file"},
	} {
		b.set("appendonly", tt.appendonly)
		b.set("appendfsync", tt.appendfsync)
		warnings, err := b.store.Check(t.Context())
		if err != nil || (len(warnings) > 0) != (tt.want != "") || !strings.Contains(strings.Join(warnings, "\n"), tt.want) {
			t.Errorf("%s, %s: got %q, %v, want %q", tt.appendonly, tt.appendfsync, warnings, err, tt.want)
		}
	}
}

// TestCheckOutage asks a server that is away.
func TestCheckOutage(t *testing.T) {
	b := setup(t)
	b.server.Kill()
	if _, err := b.store.Check(t.Context()); err == nil {
		t.Error("Check: got no error of a server that is away")
	}
}
