package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"onceover/internal/testenv"
)

// flower is a running Flower.
type flower struct {
	t   *testing.T
	url string
	log bytes.Buffer
}

func (b *bundle) flower() *flower {
	b.t.Helper()
	python := testenv.Python(b.t, "celery", "flower")
	f := &flower{t: b.t, url: fmt.Sprintf("http://127.0.0.1:%d", testenv.FreePort(b.t))}
	cmd := exec.Command(python, "-m", "celery", "-A", "flower_app", "--broker="+b.broker, "flower", "--address=127.0.0.1",
		"--port="+f.url[strings.LastIndexByte(f.url, ':')+1:], "--inspect_timeout=2000")
	cmd.Env = append(os.Environ(), "FLOWER_UNAUTHENTICATED_API=true", "PYTHONDONTWRITEBYTECODE=1")
	cmd.Stdout, cmd.Stderr = &f.log, &f.log
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if b.t.Failed() {
			b.t.Logf("Flower's log:\n%s", f.log.String())
		}
	})
	return f
}

// call asks Flower and returns status and body, 0 while it is not up.
func (f *flower) call(method, path string, form url.Values) (int, []byte) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		f.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, body
}

// get asks until the answer is as it should be.
func get[T any](f *flower, path, what string, good func(T) bool) T {
	f.t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	var body []byte
	for time.Now().Before(deadline) {
		var status int
		var got T
		status, body = f.call(http.MethodGet, path, nil)
		if status == http.StatusOK && json.Unmarshal(body, &got) == nil && good(got) {
			return got
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-f.t.Context().Done():
		}
	}
	f.t.Fatalf("Flower's %s does not show %s; last: %s", path, what, body)
	panic("unreachable")
}

// TestFlower has a real Flower look at a worker and steer it.
func TestFlower(t *testing.T) {
	b := setup(t)
	const node = "flower@test"
	f := b.flower()
	p := b.worker("ONCEOVER_NODE_NAME="+node, "ONCEOVER_CONCURRENCY=7")

	type workers map[string]struct {
		Stats struct {
			Total map[string]int
			Pool  map[string]any
			PID   int

			Autoscaler *struct{ Max, Min int }
		}
		ActiveQueues []struct{ Name string } `json:"active_queues"`
		Registered   []string
		Conf         map[string]any
	}
	all := get(f, "/api/workers?refresh=1", "the worker with everything about it", func(w workers) bool {
		return w[node].Stats.Pool != nil && w[node].Registered != nil && w[node].Conf != nil && len(w[node].ActiveQueues) == 2
	})[node]
	if all.Stats.PID != p.cmd.Process.Pid || all.Stats.Pool["max-concurrency"] != 7.0 || !slices.Contains(all.Registered, "image.analyze") {
		t.Errorf("got stats %+v, tasks %v", all.Stats, all.Registered)
	}
	get(f, "/api/workers?status=1", "the worker online", func(w map[string]bool) bool { return w[node] })

	// Flower has asked for task events by now.
	p.wait(`"task events enabled by remote control"`, 1)
	sent := b.client("run", analyze("image_url", b.picture("bottle.jpg")), analyze("image_url", b.picture("missing.png")))
	type task struct {
		Name, State, Worker, Args, Kwargs, Exception, Result string
		Runtime, Received, Started                           float64
	}
	for i, want := range []string{"SUCCESS", "FAILURE"} {
		got := get(f, "/api/task/info/"+sent[i].ID, "the task in its end", func(x task) bool { return x.State == want && x.Name != "" })
		if got.Name != "image.analyze" || got.Worker != node || got.Received == 0 || got.Started == 0 || !strings.Contains(got.Kwargs, "image_url") {
			t.Errorf("%s: got %+v", want, got)
		}
		if want == "SUCCESS" && (got.Runtime <= 0 || got.Result == "") || want == "FAILURE" && !strings.HasPrefix(got.Exception, "FileNotFoundError(") {
			t.Errorf("%s: got %+v", want, got)
		}
	}
	if status, metrics := f.call(http.MethodGet, "/metrics", nil); status != http.StatusOK ||
		!bytes.Contains(metrics, []byte(`flower_events_total{task="image.analyze",type="task-succeeded",worker="`+node+`"} 1.0`)) {
		t.Errorf("Flower's metrics do not count the task:\n%s", metrics)
	}
	if status, page := f.call(http.MethodGet, "/worker/"+node, nil); status != http.StatusOK || !bytes.Contains(page, []byte("image.analyze")) {
		t.Errorf("the worker's page: %d\n%s", status, page)
	}

	for _, action := range []struct {
		path string
		form url.Values
		want string
	}{
		{"/api/worker/pool/grow/" + node, url.Values{"n": {"2"}}, "Growing"},
		{"/api/worker/pool/shrink/" + node, url.Values{"n": {"1"}}, "Shrinking"},
		{"/api/worker/pool/autoscale/" + node, url.Values{"min": {"1"}, "max": {"5"}}, "Autoscaling"},
		{"/api/worker/queue/add-consumer/" + node, url.Values{"queue": {"added"}}, "add consumer added"},
		{"/api/worker/queue/cancel-consumer/" + node, url.Values{"queue": {"added"}}, "no longer consuming from added"},
		{"/api/task/rate-limit/image.analyze", url.Values{"workername": {node}, "ratelimit": {"100/s"}}, "new rate limit set successfully"},
		{"/api/task/timeout/image.analyze", url.Values{"workername": {node}, "soft": {"30"}, "hard": {"60"}}, "time limits set successfully"},
		{"/api/task/revoke/" + sent[0].ID, url.Values{"terminate": {"true"}}, "Revoked"},
	} {
		status, body := f.call(http.MethodPost, action.path, action.form)
		if status != http.StatusOK || !bytes.Contains(body, []byte(action.want)) {
			t.Errorf("%s: got %d %s, want it to say %q", action.path, status, body, action.want)
		}
	}
	get(f, "/api/workers?refresh=1&workername="+node, "the pool autoscaled", func(w workers) bool {
		s := w[node].Stats
		return s.Autoscaler != nil && s.Autoscaler.Max == 5 && s.Pool["max-concurrency"] == 5.0
	})
	if status, body := f.call(http.MethodPost, "/api/worker/shutdown/"+node, url.Values{}); status != http.StatusOK {
		t.Errorf("shutdown: got %d %s", status, body)
	}
	if code := p.end(); code != 0 {
		t.Errorf("the worker ended with %d after the shutdown by Flower, want 0", code)
	}
	get(f, "/api/workers?status=1", "the worker offline", func(w map[string]bool) bool { online, known := w[node]; return known && !online })
}
