package e2e

import (
	"testing"

	"onceover/internal/testenv"
	"onceover/internal/testenv/violence"
)

// TestViolence is a minute of "make violence": workers die at random and at every
// crash point that does not leave asynq waiting, RabbitMQ and Redis are restarted,
// connections cut, Redis is full. Then every job is accounted for.
func TestViolence(t *testing.T) {
	testenv.RequireServers(t)
	t.Parallel()
	cfg := violence.ShortConfig()
	cfg.Dir, cfg.Log, cfg.Race = t.TempDir(), t.Output(), true
	report, err := violence.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	report.Write(t.Output())
	if n := len(report.Faults); n > 0 {
		t.Errorf("seed %d: got %d faults, want none; the report has them", cfg.Seed, n)
	}
}
