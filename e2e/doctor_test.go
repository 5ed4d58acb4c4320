package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"onceover/internal/doctor"
)

// TestDoctor has the command look at a deployment with a worker, and tells by its exit code what it found.
func TestDoctor(t *testing.T) {
	b := setup(t)
	b.worker()
	run := func(wantCode int, args ...string) (stdout, stderr string) {
		t.Helper()
		stdout, stderr, code := b.onceover(append([]string{"doctor"}, args...)...)
		if code != wantCode {
			t.Fatalf("doctor %s: got exit code %d, want %d: %s%s", strings.Join(args, " "), code, wantCode, stdout, stderr)
		}
		return stdout, stderr
	}
	// The servers of the tests keep no file: a warning.
	out, _ := run(0, "--json", "--probe", "--wait", "30s")
	var r doctor.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Version != 1 || r.Verdict != doctor.Warning || r.Count(doctor.Error) != 0 {
		t.Fatalf("got %s, %v", out, err)
	}
	if last := r.Findings[len(r.Findings)-1]; last.Check != "probe.job" || last.Severity != doctor.OK {
		t.Errorf("got %+v of the probe", last)
	}
	if out, _ := run(0, "--brief"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "redis.persistence (failed)") || !strings.Contains(out, "0 errors, 1 warning") {
		t.Errorf("got %s", out)
	}
	run(6, "--brief", "--strict")
	out, _ = run(6, "--problems", "--cache-url", "redis://127.0.0.1:1/1")
	if !strings.Contains(out, "ERROR    reachable     cache: ") || !strings.Contains(out, "docs/doctor.md#redisreachable") || strings.Contains(out, "  ok ") {
		t.Errorf("got %s", out)
	}
	if out, _ := run(0, "--pre", "--cache-url", "redis://127.0.0.1:1/1"); strings.Contains(out, "redis") {
		t.Errorf("got %s", out)
	}
	if _, errs := run(2, "--pre", "--probe"); !strings.Contains(errs, "--pre asks nobody") {
		t.Errorf("got %s", errs)
	}
	run(2, "--concurrency", "0")
}
