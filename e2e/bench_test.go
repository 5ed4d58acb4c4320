package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"onceover/internal/loadtest"
	"onceover/rabbit"
)

// TestBench measures with workers of its own, and leaves nothing.
func TestBench(t *testing.T) {
	b := setup(t)
	page := filepath.Join(t.TempDir(), "report.html")
	out, errs, code := b.onceover("bench", "--jobs", "30", "--shape", "hash:3,file:1,near:1,miss:1", "--rate", "100", "--model-delay", "100ms",
		"--picture-side", "320", "--workers", "2", "--json", "--html", page)
	if code != 0 {
		t.Fatalf("got exit code %d, %q %q", code, out, errs)
	}
	var r loadtest.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("got %v of %q", err, out)
	}
	if r.All.Jobs != 30 || r.All.Failed != 0 || r.Unfinished != 0 || len(r.Kinds) != 4 || len(r.Series) == 0 {
		t.Errorf("got %+v", r)
	}
	for _, row := range r.Kinds {
		switch {
		case row.Kind == string(loadtest.Miss) && (row.Miss != 5 || row.P50 < 0.1):
			t.Errorf("got %+v, want 5 misses that take 0.1 s or more", row)
		case row.Kind == string(loadtest.Hash) && row.Exact != 15, row.Kind == string(loadtest.File) && row.Exact != 5:
			t.Errorf("got %+v, want exact hits", row)
		case row.Kind == string(loadtest.Near) && row.Near != 5:
			t.Errorf("got %+v, want near hits", row)
		}
	}
	if r.ModelCalls != 5 {
		t.Errorf("the model was asked %d times, want 5", r.ModelCalls)
	}
	if r.Cost == nil || r.Cost.CPU <= 0 || r.Cost.Memory < 1e6 || len(r.Servers) != 2 {
		t.Errorf("got cost %+v, servers %v", r.Cost, r.Servers)
	}
	if n := b.model.vision.Load(); n != 0 {
		t.Errorf("the configured model was asked %d times, want never", n)
	}
	if text, err := os.ReadFile(page); err != nil || strings.Count(string(text), "<svg ") != 4 {
		t.Errorf("got page %s, %v", text, err)
	}
	for db := range 16 {
		if n := b.db(db).DBSize(t.Context()).Val(); n != 0 {
			t.Errorf("database %d has %d keys, want none", db, n)
		}
	}
	if !strings.Contains(errs, "jobs: 30 of 30") {
		t.Errorf("got %q, want how far it was", errs)
	}
}

// TestBenchEnds is interrupted, or its terminal is closed, and leaves nothing.
func TestBenchEnds(t *testing.T) {
	b := setup(t)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} {
		p := b.start("bench --picture-side 128 --shape hash:1,miss:1")
		p.wait("jobs: ", 1)
		p.signal(s)
		if code := p.end(); code != 1 {
			t.Errorf("after %v: got exit code %d, %q, want 1", s, code, p.log.String())
		}
		for db := range 16 {
			if n := b.db(db).DBSize(t.Context()).Val(); n != 0 {
				t.Errorf("after %v: database %d has %d keys, want none", s, db, n)
			}
		}
	}
	// What one that was killed has left is said, and thrown away with --yes.
	p := b.start("bench --picture-side 128 --shape hash:1,miss:1", "ONCEOVER_GRACE=1s")
	p.wait("jobs: ", 1)
	p.signal(syscall.SIGKILL)
	<-p.done
	b.until(func() bool { return !strings.Contains(b.db(8).ClientList(t.Context()).Val(), "name=onceover-failed") }) // its workers have ended with it
	if out, errs, code := b.onceover("bench", "--jobs", "1"); code != 1 || !strings.Contains(errs, "another test's") {
		t.Errorf("right after a kill: got exit code %d, %q %q", code, out, errs)
	}
	for db := range 16 {
		b.db(db).Del(t.Context(), "onceover:bench:lease") // a minute later
	}
	if out, errs, code := b.onceover("bench", "--jobs", "1"); code != 1 || !strings.Contains(errs, "--yes throws that away") {
		t.Errorf("a minute after a kill: got exit code %d, %q %q", code, out, errs)
	}
	if out, errs, code := b.onceover("bench", "--jobs", "1", "--yes", "--picture-side", "320"); code != 0 {
		t.Errorf("with --yes: got exit code %d, %q %q", code, out, errs)
	}
}

// TestBenchKeepsOff does not touch what others use.
func TestBenchKeepsOff(t *testing.T) {
	b := setup(t)
	if err := b.db(9).Set(t.Context(), "theirs", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	out, errs, code := b.onceover("bench", "--jobs", "1")
	if code != 1 || !strings.Contains(errs, "database 9") || !strings.Contains(errs, "--database-offset") {
		t.Errorf("with a database in use: got exit code %d, %q %q", code, out, errs)
	}
	if b.db(9).Get(t.Context(), "theirs").Val() != "1" || b.db(8).DBSize(t.Context()).Val() != 0 {
		t.Error("bench has changed databases")
	}
	// A role of the deployment is where the test's database would be.
	b.env = append(b.env, "ONCEOVER_FAILED_URL="+b.redis.URL()+"/8")
	if out, errs, code := b.onceover("bench", "--jobs", "1"); code != 2 || !strings.Contains(errs, "would be that of failed") {
		t.Errorf("with a role's own database: got exit code %d, %q %q", code, out, errs)
	}
	if out, errs, code := b.onceover("bench", "--jobs", "1", "--database-offset", "100"); code != 1 || !strings.Contains(errs, "expected a server with 106 databases") {
		t.Errorf("with too few databases: got exit code %d, %q %q", code, out, errs)
	}
	for _, args := range [][]string{{"--give-up", "1s"}, {"--queue", "q.ai", "--pictures-addr", ":9000"}, {"--jobs", "0"}, {"--shape", "hit"}, {"--workers", "0"}, {"--database-offset", "2"}, {"--rate", "-1"}} {
		if out, errs, code := b.onceover(append([]string{"bench"}, args...)...); code != 2 || errs == "" {
			t.Errorf("%v: got exit code %d, %q %q, want 2", args, code, out, errs)
		}
	}
}

// TestBenchOfOthers asks before it sends jobs to workers that are not its own.
func TestBenchOfOthers(t *testing.T) {
	b := setup(t)
	queue := "bench-" + strings.ToLower(t.Name())
	args := []string{"bench", "--queue", queue, "--jobs", "20", "--shape", "hash:9,miss:1", "--picture-side", "320", "--json"}
	if out, errs, code := b.onceover(args...); code != 1 || !strings.Contains(errs, "does not exist") {
		t.Errorf("without the queue: got exit code %d, %q %q", code, out, errs)
	}
	w := b.worker("ONCEOVER_QUEUES=" + queue)
	out, errs, code := b.onceover(args...)
	if code != 2 || !strings.Contains(errs, "1 consumer") || !strings.Contains(errs, "asked about 20 pictures") || !strings.Contains(errs, "--yes") {
		t.Errorf("without a terminal: got exit code %d, %q %q", code, out, errs)
	}
	if n := b.model.vision.Load(); n != 0 {
		t.Fatalf("the model was asked %d times before anybody said yes", n)
	}
	out, errs, code = b.onceover(append(args, "--yes")...)
	var r loadtest.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("got exit code %d, %v, %q %q", code, err, out, errs)
	}
	if r.All.Exact != 18 || r.All.Miss != 2 || r.All.Failed != 0 || r.Cost != nil {
		t.Errorf("got %+v, want 18 hits, 2 misses, and no cost of others' workers", r)
	}
	if n := b.model.vision.Load(); n != 20 {
		t.Errorf("the model was asked about %d pictures, want 18 that are to be known and 2", n)
	}
	// The workers are its owner's, and go on.
	select {
	case <-w.done:
		t.Error("the worker has ended")
	default:
	}
	// Jobs that do not end are said, those before the test as well.
	b.model.status.Store(401)
	for _, shape := range []string{"miss", "file"} {
		out, errs, code = b.onceover("bench", "--queue", queue, "--jobs", "2", "--shape", shape, "--picture-side", "320", "--yes", "--model-delay", "0", "--give-up", "2s")
		if code != 4 || !strings.Contains(errs, "have not ended") || !strings.Contains(errs, "are still in queue") {
			t.Errorf("%s with a model that refuses: got exit code %d, %q %q", shape, code, out, errs)
		}
	}
	conn, err := rabbit.Dial(t.Context(), "test", []string{b.broker})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := rabbit.Look(conn, queue); err != nil {
		t.Errorf("others' queue: %v", fmt.Sprint(err))
	}
}
