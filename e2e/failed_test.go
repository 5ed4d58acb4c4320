package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"onceover/internal/testenv"
)

// script runs Python with app, an application on the bundle's servers, and returns
// what it prints.
func (b *bundle) script(code string, args ...string) string {
	b.t.Helper()
	head := "import sys, time, json\nfrom celery import Celery\nfrom celery.result import AsyncResult\n" +
		"app = Celery(broker=sys.argv[1], backend=sys.argv[2] + '/0')\n" +
		"app.conf.broker_transport_options = {'confirm_publish': True}\n" // as in client.py
	cmd := exec.CommandContext(b.t.Context(), testenv.Python(b.t, "celery", "redis"),
		append([]string{"-c", head + code, b.broker, b.redis.URL()}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("%v\n%s\nof %s", err, errs.String(), code)
	}
	return strings.TrimSpace(string(out))
}

// state is what Celery says of a task.
func (b *bundle) state(id string) string {
	return b.script("print(AsyncResult(sys.argv[3], app=app).state)", id)
}

// TestFailedJobsFromTheCommandLine goes the way of an operator at night: a producer's
// jobs have failed; he looks, mends one call, replays, and tidies up.
func TestFailedJobsFromTheCommandLine(t *testing.T) {
	b := setup(t)
	p := b.worker()
	run := func(want string, wantCode int, args ...string) string {
		t.Helper()
		out, errs, code := b.onceover(append([]string{"failed"}, args...)...)
		if code != wantCode || !strings.Contains(out+errs, want) {
			t.Fatalf("failed %s: got exit code %d, %q, %q; want %d with %q", strings.Join(args, " "), code, out, errs, wantCode, want)
		}
		return out
	}
	run("no failed jobs", 0, "list")
	run("no failed jobs are kept", 0, "stats")

	sent := b.client("run",
		analyze("image_url", b.picture("gone-1.jpg")+"?token=secret", "job_id", "job-1"),
		analyze("image_url", b.picture("gone-2.jpg")),
		job{Task: "nobody.knows", Args: []any{1}})
	bad, worse, unknown := sent[0], sent[1], sent[2]
	if bad.Raised != "FileNotFoundError" || unknown.Raised != "NotRegistered" {
		t.Fatalf("got %+v", sent)
	}
	list := run(bad.ID, 0, "list")
	if strings.Count(list, "FAILURE") != 3 || strings.Contains(list, "token") {
		t.Errorf("list: got %s", list)
	}
	if out := run(unknown.ID, 0, "list", "--reason", "unknown-task"); strings.Contains(out, bad.ID) {
		t.Errorf("list --reason: got %s", out)
	}
	run(worse.ID, 0, "list", "--text", "GONE-2")
	run("there are more: --page 2", 0, "list", "--limit", "2")
	run("no failed jobs", 0, "list", "--older-than", "1h")
	var line struct{ ID, Now, Error, Stage string }
	if err := json.Unmarshal([]byte(run("", 0, "list", "--json", "--text", "gone-1")), &line); err != nil ||
		line.ID != bad.ID || line.Now != "FAILURE" || line.Error != "FileNotFoundError" || line.Stage != "download" {
		t.Errorf("list --json: got %+v, %v", line, err)
	}
	shown := run("stage        download", 0, "show", bad.ID[:8])
	if strings.Contains(shown, "token=secret") || !strings.Contains(shown, "to exchange \"tasks\" with key \"ai.analyze\"") {
		t.Errorf("show: got %s", shown)
	}
	run("token=secret", 0, "show", bad.ID, "--raw")
	run("no failed job", 4, "show", "ffffffff-not-there")
	run("nothing is chosen", 2, "replay")
	run("--error is empty", 2, "discard", "--error", "", "--yes") // an unset variable
	run("expected more than 0", 2, "discard", "--older-than", "-1h", "--yes")
	run("both --all and filters", 2, "replay", "--all", "--error", "ValueError")
	run("expected one of failed, rejected", 2, "list", "--reason", "bogus")
	run("--timeout needs --wait", 2, "replay", "--all", "--timeout", "1s")
	run("takes no argument", 0, "replay", bad.ID, "--set", "imageurl=x", "--dry-run")
	run("does not exist", 0, "replay", bad.ID, "--to-queue", "nowhere", "--dry-run")
	run("does not exist", 1, "replay", bad.ID, "--to-queue", "nowhere")
	if s := b.state(bad.ID); s != "FAILURE" {
		t.Errorf("got state %s after a replay that was refused, want FAILURE", s)
	}
	run("3 failed jobs would be replayed", 0, "replay", "--all", "--dry-run")
	var stats struct {
		Kept   int
		Causes []struct {
			ID, Error, Text string
			Kept, Hour, Day int
		}
	}
	if err := json.Unmarshal([]byte(run("", 0, "stats", "--json")), &stats); err != nil || stats.Kept != 3 || len(stats.Causes) != 2 {
		t.Fatalf("stats --json: got %+v, %v, want 3 failed jobs of 2 causes", stats, err)
	}
	missing := stats.Causes[0]
	if missing.Error != "FileNotFoundError" || missing.Kept != 2 || missing.Hour != 2 || missing.Day != 2 || strings.Contains(missing.Text, "gone") {
		t.Errorf("stats --json: got cause %+v, want both missing pictures", missing)
	}
	run(missing.ID, 0, "stats")
	run("2 failed jobs would be replayed", 0, "replay", "--cause", missing.ID, "--dry-run")

	// With no worker at hand the state and the progress are those of a new job.
	p.signal(syscall.SIGTERM)
	p.end()
	run("no worker consumes q.ai", 0, "replay", bad.ID, bad.ID[:9], "--set", "image_url="+b.picture("bottle.jpg"))
	if s := b.state(bad.ID); s != "PENDING" {
		t.Errorf("got state %s after the replay, want PENDING", s)
	}
	var progress update
	if raw, err := b.db(2).Get(t.Context(), "job:job-1:progress").Bytes(); err != nil || json.Unmarshal(raw, &progress) != nil || progress.Progress != 0 {
		t.Errorf("got progress %+v, %v after the replay, want 0", progress, err)
	}
	b.worker()
	if got := b.results([]outcome{bad})[0]; got.State != "SUCCESS" || got.Value["job_id"] != "job-1" {
		t.Errorf("got %+v, want the replayed job's result", got)
	}
	run("no failed job "+bad.ID, 4, "replay", bad.ID)

	// To another store, and back.
	file := filepath.Join(t.TempDir(), "failed.jsonl")
	run("2 failed jobs exported", 0, "export", "-o", file)
	run("expected --yes", 2, "discard", "--all")
	run("2 failed jobs discarded", 0, "discard", "--all", "--yes")
	run("no failed jobs", 0, "list")
	run("2 failed jobs imported, 0 were kept already", 0, "import", file)
	run("0 failed jobs imported, 2 were kept already", 0, "import", file)
	records, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(records, []byte("\n"), []byte("\n{\"broken\":\nno record\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	run("2 failed jobs discarded", 0, "discard", "--all", "--yes")
	_, errs, code := b.onceover("failed", "import", file)
	if code != 1 || !strings.Contains(errs, "line 2: not a record") || !strings.Contains(errs, "line 5: not a record") || strings.Contains(errs, "line 4") ||
		!strings.Contains(errs, "2 failed jobs imported, 0 were kept already") {
		t.Errorf("import of two records and four lines that are none: got exit code %d, %q", code, errs)
	}
	if out := run(worse.ID, 0, "list"); strings.Count(out, "FAILURE") != 2 {
		t.Errorf("after the import: got %s", out)
	}
	if out := run("1 failed job replayed", 0, "replay", worse.ID, "--set", "image_url="+b.picture("can.jpg"), "--wait", "--timeout", "1m"); !strings.Contains(out, "SUCCESS 1") {
		t.Errorf("replay --wait: got %s", out)
	}
	if got := b.results([]outcome{worse})[0]; got.State != "SUCCESS" {
		t.Errorf("got %+v, want the imported and replayed job's result", got)
	}
	b.checkKeys()
}

// TestParkedJobs has Celery send a job for later: it is parked, seen by inspect, runs
// when it is due; another one is revoked meanwhile.
func TestParkedJobs(t *testing.T) {
	b := setup(t)
	b.worker()
	out := b.script(`
send = lambda s: app.send_task("image.analyze", kwargs={"image_url": sys.argv[3]}, exchange="tasks", routing_key="ai.analyze", countdown=s)
soon, late = send(13), send(3600)
for _ in range(100):
    found = {j["request"]["id"]: node for node, jobs in (app.control.inspect(timeout=1).scheduled() or {}).items() for j in jobs}
    if len(found) == 2:
        break
assert set(found) == {soon.id, late.id}, found
print(app.control.inspect(timeout=1).active())
late.revoke()
try:
    late.get(timeout=30)
except Exception as exc:
    print(type(exc).__name__, exc, late.state)
print(soon.get(timeout=60)["category"], soon.state)
`, b.picture("bottle.jpg"))
	if !strings.Contains(out, "TaskRevokedError revoked REVOKED") || !strings.Contains(out, "plastic_bottle SUCCESS") {
		t.Errorf("got %s", out)
	}
	b.checkKeys()
}

// TestEvictingStoreIsRefused starts the worker on a Redis that evicts.
func TestEvictingStoreIsRefused(t *testing.T) {
	b := setup(t)
	for name, value := range map[string]string{"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"} {
		if err := b.db(5).ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	p := b.start("worker")
	if code := p.end(); code != 1 || !strings.Contains(p.log.String(), "volatile-lru") {
		t.Errorf("got exit code %d, %s", code, p.log.String())
	}
	b.worker("ONCEOVER_FAILED_ALLOW_EVICTION=true")
}
