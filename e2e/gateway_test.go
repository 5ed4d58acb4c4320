package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"onceover/internal/samples"
	"onceover/internal/testenv"
)

// gateway starts a gateway and waits until it is ready.
func (b *bundle) gateway(extra ...string) *process {
	b.t.Helper()
	p := b.start("gateway", extra...)
	p.wait(`"msg":"ready"`, 1)
	return p
}

// answerTo reads a JSON answer.
func answerTo(t *testing.T, resp *http.Response, err error) (int, map[string]any) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatalf("%s: %v", resp.Status, err)
	}
	return resp.StatusCode, body
}

// uploading is the body and content type of a form with a sample picture.
func uploading(t *testing.T, name string) (*bytes.Buffer, string) {
	t.Helper()
	data, err := fs.ReadFile(samples.FS(), name)
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	part, err := w.CreateFormFile("file", name)
	if err != nil {
		t.Fatal(err)
	}
	part.Write(data)
	w.Close()
	return &body, w.FormDataContentType()
}

// TestGateway goes the way of a client without a Python API: a picture is uploaded and its job watched until it is over. Celery reads the same
// result by the same id. SIGTERM ends the gateway.
func TestGateway(t *testing.T) {
	b := setup(t)
	uploads := t.TempDir()
	g := b.gateway("ONCEOVER_UPLOADS=" + uploads)
	base := "http://" + g.httpAddr()
	body, kind := uploading(t, "bottle.jpg")
	resp, err := http.Post(base+"/api/v1/waste/analyze", kind, body)
	status, accepted := answerTo(t, resp, err)
	if status != 202 {
		t.Fatalf("got %d %v", status, accepted)
	}
	id := fmt.Sprint(accepted["job_id"])
	resp, err = http.Get(base + "/status/" + id)
	if status, job := answerTo(t, resp, err); status != 200 || job["status"] != "pending" || job["stage"] != "queued" || job["message"] == "" {
		t.Errorf("before there is a worker: got %d %v", status, job)
	}
	b.worker("ONCEOVER_IMAGE_ROOT=" + uploads)
	var job map[string]any
	deadline := time.Now().Add(time.Minute)
	for status = 202; status == 202; {
		if time.Now().After(deadline) {
			t.Fatalf("the job is not over: %v", job)
		}
		resp, err = http.Get(base + "/api/v1/waste/result/" + id)
		status, job = answerTo(t, resp, err)
	}
	result, _ := job["result"].(map[string]any)
	if status != 200 || job["status"] != "completed" || result["job_id"] != id || result["model"] != "test-model" {
		t.Errorf("got %d %v", status, job)
	}
	if got := b.python("get", 1, map[string]any{"ids": []string{id}})[0]; got.State != "SUCCESS" || got.Value["waste_type"] != result["waste_type"] {
		t.Errorf("Celery got %+v", got)
	}
	g.signal(syscall.SIGTERM)
	if code := g.end(); code != 0 {
		t.Errorf("got exit code %d:\n%s", code, g.log.String())
	}
}

// TestGatewayWithoutTokensIsLocal: nobody else's machine, and no page of another site, gets at it.
func TestGatewayWithoutTokensIsLocal(t *testing.T) {
	b := setup(t)
	out, errs, code := b.onceover("gateway", "--http-addr", "0.0.0.0:0")
	if code != 2 || !strings.Contains(errs, "jwt-secret") {
		t.Errorf("got exit code %d, %s%s", code, out, errs)
	}
	g := b.gateway()
	for name, change := range map[string]func(*http.Request){
		"another name":         func(r *http.Request) { r.Host = "evil.example" },
		"a page of elsewhere":  func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"an origin of its own": func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+g.httpAddr()+"/api/v1/waste/analyze", strings.NewReader(`{"image_url": "https://x/y"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		change(r)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: got %s, want it forbidden", name, resp.Status)
		}
	}
	// With tokens it listens anywhere, and asks for them.
	g = b.gateway("ONCEOVER_HTTP_ADDR=0.0.0.0:0", "ONCEOVER_JWT_SECRET=short")
	if !strings.Contains(g.log.String(), "fewer than 32 bytes") || strings.Contains(g.log.String(), `"short"`) {
		t.Errorf("got no warning of a weak secret, or the secret itself:\n%s", g.log.String())
	}
	_, port, err := net.SplitHostPort(g.httpAddr())
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://127.0.0.1:" + port + "/status/x")
	if status, body := answerTo(t, resp, err); status != 401 {
		t.Errorf("got %d %v", status, body)
	}
}

// TestKeyOverKill kills a gateway (SIGKILL) between the claim of an idempotency key and its confirmation, before and after the job is published. The
// request that is repeated until it is answered makes one job, which runs once.
func TestKeyOverKill(t *testing.T) {
	b := setup(t)
	b.env = append(b.env, "ONCEOVER_RATE_LIMIT=off") // it asks again and again
	whole := program
	crashing := filepath.Join(t.TempDir(), "onceover")
	build := exec.Command("go", "build", "-race", "-tags", "crashpoints", "-buildvcs=false", "-o", crashing, "onceover/cmd/onceover")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	uploads := t.TempDir()
	post := func(g *process, key string) (int, map[string]any, error) {
		body, kind := uploading(t, "bottle.jpg")
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+g.httpAddr()+"/api/v1/waste/analyze", body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		r.Header.Set("Idempotency-Key", key)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, nil, err
		}
		status, doc := answerTo(t, resp, err)
		return status, doc, nil
	}
	points := []string{"key-claimed", "keyed-job-published"}
	for _, point := range points {
		g := b.startProgram(crashing, "gateway", "ONCEOVER_UPLOADS="+uploads, "ONCEOVER_TEST_CRASH="+point)
		g.wait(`"msg":"ready"`, 1)
		if status, doc, err := post(g, point); err == nil {
			t.Fatalf("%s: got %d %v, want the gateway to be killed", point, status, doc)
		}
		<-g.done
	}
	g := b.startProgram(whole, "gateway", "ONCEOVER_UPLOADS="+uploads)
	g.wait(`"msg":"ready"`, 1)
	ids := map[string]string{}
	deadline := time.Now().Add(2 * time.Minute)
	for _, point := range points {
		for ids[point] == "" {
			status, doc, err := post(g, point)
			switch {
			case err != nil || status != 409 && status != 202 || time.Now().After(deadline):
				t.Fatalf("%s: got %d %v, %v", point, status, doc, err)
			case status == 409: // until the claim of the dead one has run out
				time.Sleep(100 * time.Millisecond)
			default:
				ids[point] = fmt.Sprint(doc["job_id"])
			}
		}
		if status, doc, err := post(g, point); err != nil || status != 202 || doc["job_id"] != ids[point] {
			t.Errorf("%s, once more: got %d %v, %v, want job %s", point, status, doc, err, ids[point])
		}
	}
	w := b.worker("ONCEOVER_IMAGE_ROOT=" + uploads)
	for _, got := range b.python("get", 2, map[string]any{"ids": []string{ids[points[0]], ids[points[1]]}}) {
		if got.State != "SUCCESS" {
			t.Errorf("got %+v", got)
		}
	}
	// Three messages of two jobs: the second had been published when its gateway died.
	for metric(w, `onceover_jobs_total{outcome="duplicate",task="image.analyze"}`) != 1 {
		if time.Now().After(deadline) {
			t.Fatalf("the message that was published twice was not recognised:\n%s", w.log.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := metric(w, `onceover_jobs_total{outcome="success",task="image.analyze"}`); n != 2 {
		t.Errorf("got %v jobs that ran, want 2", n)
	}
}

var uvicornUp = regexp.MustCompile(`running on (http://127\.0\.0\.1:\d+)`)

// TestLimitIsSharedWithPython has FastAPI, with the dependency of examples/fastapi, and a gateway side by side: of 200 requests at once from one client
// exactly 60 are admitted by both together.
func TestLimitIsSharedWithPython(t *testing.T) {
	b := setup(t)
	python := testenv.Python(t, "fastapi", "uvicorn", "celery", "redis")
	uvicorn := &process{t: t, cmd: exec.Command(python, "-B", "-m", "uvicorn", "app:app", "--no-proxy-headers", "--port", "0"), done: make(chan struct{})}
	uvicorn.cmd.Dir = "../examples/fastapi"
	uvicorn.cmd.Env = append(os.Environ(), "BROKER_URL="+b.broker, "REDIS_URL="+b.redis.URL(), "TRUSTED_PROXIES=127.0.0.0/8")
	uvicorn.cmd.Stdout, uvicorn.cmd.Stderr = &uvicorn.log, &uvicorn.log
	if err := uvicorn.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		uvicorn.err = uvicorn.cmd.Wait()
		close(uvicorn.done)
	}()
	t.Cleanup(func() {
		uvicorn.cmd.Process.Kill()
		<-uvicorn.done
	})
	g := b.gateway("ONCEOVER_TRUSTED_PROXIES=127.0.0.0/8")
	uvicorn.wait("running on http://127.0.0.1:", 1)
	bases := []string{"http://" + g.httpAddr(), uvicornUp.FindStringSubmatch(uvicorn.log.String())[1]}
	var admitted [2]atomic.Int64
	var all sync.WaitGroup
	for i := range 200 {
		if i == 2 {
			all.Wait() // each has answered once: both have their connections
		}
		all.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, bases[i%2]+"/api/v1/waste/analyze", strings.NewReader(`{"image_url": "https://photos.example/a.jpg"}`))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("X-Forwarded-For", fmt.Sprintf("203.0.113.%d, 198.51.100.9", i)) // the client writes what it likes
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			switch resp.StatusCode {
			case http.StatusAccepted:
				admitted[i%2].Add(1)
			case http.StatusTooManyRequests:
				if resp.Header.Get("Retry-After") == "" || !strings.HasPrefix(resp.Header.Get("RateLimit"), `"default";r=0;t=`) {
					t.Errorf("got headers %v", resp.Header)
				}
			default:
				t.Errorf("got %s of %s\n%s", resp.Status, bases[i%2], uvicorn.log.String())
			}
		})
	}
	all.Wait()
	if ours, theirs := admitted[0].Load(), admitted[1].Load(); ours+theirs != 60 || ours == 0 || theirs == 0 {
		t.Errorf("got %d admitted by the gateway and %d by FastAPI, want 60 in all, and some by each", ours, theirs)
	}
	const key = "ratelimit:ip:198.51.100.9:/api/v1/waste/analyze"
	if n := b.db(3).Get(t.Context(), key).Val(); n != "60" {
		t.Errorf("got %s = %q, want 60", key, n)
	}
}
