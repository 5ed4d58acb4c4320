// Package e2e runs the program as an operator would, with real Celery producers
// and readers, a real RabbitMQ and a real Redis. Only the vision model is
// played: by a server that answers as an OpenAI-compatible endpoint does and
// counts what it is asked.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/internal/samples"
	"onceover/internal/testenv"
)

// program is the built binary.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "onceover-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "onceover")
	build := exec.Command("go", "build", "-race", "-buildvcs=false", "-o", program, "onceover/cmd/onceover")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// bundle is one deployment: broker, Redis, pictures, model.
type bundle struct {
	t        *testing.T
	broker   string
	redis    *testenv.RedisServer
	pictures *httptest.Server
	model    *model
	env      []string
}

func setup(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	return setupOn(t, testenv.SharedRabbitMQ(t))
}

func setupOn(t *testing.T, broker string) *bundle {
	t.Helper()
	b := &bundle{t: t, broker: broker, redis: testenv.Redis(t), model: newModel(t)}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServerFS(samples.FS()))
	mux.HandleFunc("/busy.jpg", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) })
	mux.HandleFunc("/patch/{name}", patches)
	mux.HandleFunc("/blue.png", func(w http.ResponseWriter, _ *http.Request) {
		flat := image.NewPaletted(image.Rect(0, 0, 64, 64), color.Palette{color.RGBA{B: 200, A: 255}})
		_ = png.Encode(w, flat) // the worker that asks says so if it fails
	})
	b.pictures = httptest.NewServer(mux)
	t.Cleanup(b.pictures.Close)
	b.env = append(os.Environ(),
		"ONCEOVER_BROKER_URL="+b.broker, "ONCEOVER_REDIS_URL="+b.redis.URL(), "ONCEOVER_QUEUES=q.ai,celery", "ONCEOVER_DELAYED_DELIVERY=false",
		"ONCEOVER_IMAGE_ALLOW=127.0.0.1", "ONCEOVER_HTTP_ADDR=127.0.0.1:0", "ONCEOVER_LOG_FORMAT=json",
		"ONCEOVER_VISION_URL="+b.model.server.URL+"/v1", "ONCEOVER_VISION_MODEL=test-model", "ONCEOVER_VISION_API_KEY=sk-secret-key")
	return b
}

func (b *bundle) picture(name string) string { return b.pictures.URL + "/" + name }

// db opens one of Redis's databases.
func (b *bundle) db(n int) *redis.Client {
	opt, err := redis.ParseURL(fmt.Sprintf("%s/%d", b.redis.URL(), n))
	if err != nil {
		b.t.Fatal(err)
	}
	c := redis.NewClient(opt)
	b.t.Cleanup(func() { c.Close() })
	return c
}

// process is a running "onceover worker".
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	err  error
	log  lines
}

// lines keeps what a process wrote and lets others wait for a line.
type lines struct {
	mu    sync.Mutex
	text  strings.Builder
	added chan struct{} // closed and replaced at each write
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.added != nil {
		close(l.added)
		l.added = nil
	}
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// wait waits until the text contains want, n times.
func (p *process) wait(want string, n int) {
	p.t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		p.log.mu.Lock()
		if strings.Count(p.log.text.String(), want) >= n {
			p.log.mu.Unlock()
			return
		}
		if p.log.added == nil {
			p.log.added = make(chan struct{})
		}
		added := p.log.added
		p.log.mu.Unlock()
		select {
		case <-added:
		case <-p.done:
			p.t.Fatalf("the worker ended (%v) before it wrote %q:\n%s", p.err, want, p.log.String())
		case <-timeout:
			p.t.Fatalf("the worker did not write %q %d times:\n%s", want, n, p.log.String())
		}
	}
}

// worker starts the worker and waits until it is ready.
func (b *bundle) worker(extra ...string) *process {
	b.t.Helper()
	p := b.start("worker", extra...)
	p.wait(`"msg":"ready"`, 1)
	return p
}

func (b *bundle) start(command string, extra ...string) *process {
	b.t.Helper()
	return b.startProgram(program, command, extra...)
}

func (b *bundle) startProgram(program, command string, extra ...string) *process {
	b.t.Helper()
	p := &process{t: b.t, cmd: exec.Command(program, strings.Fields(command)...), done: make(chan struct{})}
	p.cmd.Env = append(append([]string{}, b.env...), extra...)
	p.cmd.Stderr = &p.log
	p.cmd.Stdout = &p.log
	if err := p.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	b.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if strings.Contains(p.log.String(), "DATA RACE") {
			b.t.Errorf("data race in the worker:\n%s", p.log.String())
		}
		for _, secret := range []string{"sk-secret-key", "token=", "guest:guest"} {
			// dev prints its own broker's URL, for the producer to use.
			if command == "worker" && strings.Contains(p.log.String(), secret) {
				b.t.Errorf("the log contains %q", secret)
			}
		}
	})
	return p
}

// signal sends a signal; end waits for the exit code.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) end() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(60 * time.Second):
		p.t.Fatalf("the worker has not ended:\n%s", p.log.String())
		return -1
	}
}

// job is what client.py sends.
type job struct {
	Task    string         `json:"task"`
	Args    []any          `json:"args,omitempty"`
	Kwargs  map[string]any `json:"kwargs,omitempty"`
	Route   string         `json:"route,omitempty"`
	Options map[string]any `json:"options,omitempty"`
}

// analyze is the usual job.
func analyze(kwargs ...any) job {
	j := job{Task: "image.analyze", Kwargs: map[string]any{}}
	for i := 0; i < len(kwargs); i += 2 {
		j.Kwargs[kwargs[i].(string)] = kwargs[i+1]
	}
	return j
}

// outcome is what a Python caller sees of a job.
type outcome struct {
	ID        string         `json:"id"`
	Value     map[string]any `json:"value"`
	State     string         `json:"state"`
	Raised    string         `json:"raised"`
	Module    string         `json:"module"`
	Text      string         `json:"text"`
	Traceback string         `json:"traceback"`
	Updates   []update       `json:"updates"`
}

type update struct {
	Progress  int    `json:"progress"`
	Message   string `json:"message"`
	Stage     string `json:"stage"`
	UpdatedAt string `json:"updated_at"`
	Error     string `json:"error"`
}

// client has client.py send the jobs, in its mode run, send or poll.
func (b *bundle) client(mode string, jobs ...job) []outcome {
	b.t.Helper()
	return b.python(mode, len(jobs), map[string]any{"jobs": jobs})
}

// results has client.py get the results of jobs that were sent before.
func (b *bundle) results(sent []outcome) []outcome {
	b.t.Helper()
	var ids []string
	for _, o := range sent {
		ids = append(ids, o.ID)
	}
	return b.python("get", len(ids), map[string]any{"ids": ids})
}

func (b *bundle) python(mode string, n int, fields map[string]any) []outcome {
	b.t.Helper()
	fields["broker"], fields["redis"] = b.broker, b.redis.URL()
	plan, err := json.Marshal(fields)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), 150*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, testenv.Python(b.t, "celery", "redis"), "client.py", mode)
	cmd.Stdin = bytes.NewReader(plan)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("client.py %s: %v\n%s", mode, err, errors.String())
	}
	var got []outcome
	if err := json.Unmarshal(out, &got); err != nil {
		b.t.Fatalf("client.py %s: %v\n%s", mode, err, out)
	}
	if len(got) != n {
		b.t.Fatalf("client.py %s: got %d outcomes, want %d", mode, len(got), n)
	}
	return got
}

// model plays an OpenAI-compatible endpoint.
type model struct {
	server *httptest.Server
	vision atomic.Int32 // requests with a picture
	text   atomic.Int32 // requests without
	hold   chan struct{}
	gate   atomic.Bool  // vision requests wait for hold
	answer string       // about a picture; "" for wasteAnswer
	status atomic.Int32 // of all answers; 0 for 200
}

const wasteAnswer = `{"waste_type":"plastic","confidence":0.93,"feedback":"라벨을 떼고 헹궈서 버리세요","category":"plastic_bottle","recyclable":true}`

func newModel(t *testing.T) *model {
	m := &model{hold: make(chan struct{})}
	m.server = httptest.NewServer(m)
	t.Cleanup(m.server.Close)
	return m
}

func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	if _, err := body.ReadFrom(r.Body); err != nil {
		return
	}
	var asked struct{ Model string }
	if err := json.Unmarshal(body.Bytes(), &asked); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	content := "질문에 대한 답변입니다"
	if strings.Contains(body.String(), "image_url") {
		m.vision.Add(1)
		if m.gate.Load() {
			select {
			case <-m.hold:
			case <-r.Context().Done():
				return
			}
		}
		if content = m.answer; content == "" {
			content = wasteAnswer
		}
	} else {
		m.text.Add(1)
	}
	w.Header().Set("Content-Type", "application/json")
	if s := m.status.Load(); s != 0 {
		w.WriteHeader(int(s))
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"id": "c", "object": "chat.completion", "created": 1, "model": asked.Model,
		"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": content}}},
		"usage":   map[string]any{"prompt_tokens": 900, "completion_tokens": 50, "total_tokens": 950},
	})
}

// httpAddr is where the worker's HTTP side listens.
func (p *process) httpAddr() string {
	p.t.Helper()
	p.wait(`"msg":"HTTP is up"`, 1)
	for line := range strings.Lines(p.log.String()) {
		var entry struct{ Msg, Addr string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "HTTP is up" {
			if _, _, err := net.SplitHostPort(entry.Addr); err == nil {
				return entry.Addr
			}
		}
	}
	p.t.Fatal("no HTTP address in the log")
	return ""
}
