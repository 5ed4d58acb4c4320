package e2e

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"onceover/internal/samples"
	"onceover/internal/testenv"
)

// onceover runs the program to its end.
func (b *bundle) onceover(args ...string) (stdout, stderr string, code int) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), program, args...)
	cmd.Env = b.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		b.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// copyPictures puts sample pictures into a folder.
func copyPictures(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		data, err := fs.ReadFile(samples.FS(), name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestOperatingFromTheCommandLine goes the way of somebody with a picture and a
// question.
func TestOperatingFromTheCommandLine(t *testing.T) {
	b := setup(t)
	dir := copyPictures(t, "bottle.jpg", "can.jpg")
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("not a picture"), 0o600); err != nil {
		t.Fatal(err)
	}

	// Enqueued before there is a worker: the topology is made where it is missing.
	out, errs, code := b.onceover("enqueue", "--json", filepath.Join(dir, "bottle.jpg"))
	var sent struct {
		TaskID string `json:"task_id"`
		Image  string `json:"image"`
	}
	if err := json.Unmarshal([]byte(out), &sent); err != nil || code != 0 || strings.Contains(sent.Image, "base64,") {
		t.Fatalf("enqueue: got exit code %d, %q %q, %v", code, out, errs, err)
	}
	if _, errs, code = b.onceover("result", sent.TaskID); code != 4 || !strings.Contains(errs, "not finished") {
		t.Errorf("result before its time: got exit code %d, %q, want 4", code, errs)
	}
	if _, errs, code = b.onceover("watch", "--timeout", "2s", sent.TaskID); code != 4 || !strings.Contains(errs, "has not ended") {
		t.Errorf("watch with nobody at work: got exit code %d, %q, want 4", code, errs)
	}
	b.worker()
	if out, errs, code = b.onceover("watch", sent.TaskID); code != 0 || !strings.Contains(out, "100%  done") {
		t.Errorf("watch: got exit code %d, %q %q", code, out, errs)
	}
	if out, errs, code = b.onceover("watch", "--json", sent.TaskID); code != 0 || !strings.Contains(out, `"progress":100`) {
		t.Errorf("watch --json: got exit code %d, %q %q", code, out, errs)
	}
	if out, errs, code = b.onceover("result", sent.TaskID); code != 0 || !strings.Contains(out, "SUCCESS") || !strings.Contains(out, "라벨을 떼고") {
		t.Errorf("result: got exit code %d, %q %q", code, out, errs)
	}
	if out, errs, code = b.onceover("enqueue", "--queue", "celery", "--wait", "--json", "--question", "뭐예요?", dir); code != 0 || strings.Count(out, `"status":"SUCCESS"`) != 2 {
		t.Errorf("enqueue a folder: got exit code %d, %q %q, want two results", code, out, errs)
	}
	if out, errs, code = b.onceover("enqueue", "--wait", b.picture("nothing.jpg")); code != 3 || !strings.Contains(out, "FileNotFoundError") || !strings.Contains(errs, "failed") {
		t.Errorf("a job that fails: got exit code %d, %q %q, want 3", code, out, errs)
	}
	if _, errs, code = b.onceover("enqueue", "--routing-key", "nobody", b.picture("can.jpg")); code != 1 || !strings.Contains(errs, "--routing-key") {
		t.Errorf("no such key: got exit code %d, %q, want 1 and the remedy", code, errs)
	}
	if out, errs, code = b.onceover("topology", "--declare"); code != 0 || !strings.Contains(out, "q.batch, q.api, q.sched") {
		t.Errorf("topology --declare: got exit code %d, %q %q", code, out, errs)
	}
	b.checkKeys()
}

// TestDev runs the Python snippet that dev prints, as it stands.
func TestDev(t *testing.T) {
	t.Parallel()
	b := &bundle{t: t, env: append(os.Environ(), "ONCEOVER_LOG_FORMAT=json", "ONCEOVER_BROKER_URL=amqp://127.0.0.1:1//", "ONCEOVER_REDIS_URL=redis://127.0.0.1:1")}
	python := testenv.Python(t, "celery", "redis")
	p := b.start("dev")
	p.wait("Ctrl-C stops.", 1)
	p.wait(`"msg":"ready"`, 1)
	text := p.log.String()
	from, to := strings.Index(text, "    from celery"), strings.Index(text, "Ctrl-C stops.")
	if from < 0 || to < from {
		t.Fatalf("no snippet in %s", text)
	}
	var snippet strings.Builder
	for line := range strings.Lines(text[from:to]) {
		if rest, ok := strings.CutPrefix(line, "    "); ok || line == "\n" {
			snippet.WriteString(rest)
			if !ok {
				snippet.WriteString("\n")
			}
		}
	}
	out, err := exec.CommandContext(t.Context(), python, "-c", snippet.String()).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "'category': 'unclassified'") {
		t.Errorf("the snippet: %v\n%s\nprinted:\n%s", err, snippet.String(), out)
	}
	p.signal(syscall.SIGTERM)
	if code := p.end(); code != 0 {
		t.Errorf("got exit code %d, want 0:\n%s", code, p.log.String())
	}
}
