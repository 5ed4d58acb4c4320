package e2e

import (
	"testing"

	"onceover/internal/testenv"
	"onceover/internal/testenv/violence"
)

// TestViolence is the short form of "make violence": workers die at random and at every
// crash point that does not leave asynq waiting, RabbitMQ and Redis are restarted,
// connections cut, Redis is full, passwords and rights are taken away, consumers ended by
// the broker, messages run out under work, a destination has no majority. Then every job is
// accounted for. It takes 90 s, as each enemy needs its time.
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
