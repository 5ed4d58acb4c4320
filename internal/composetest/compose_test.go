// Package composetest checks docker-compose.yml, Dockerfile and Makefile against each
// other and against what the worker needs. It runs no container engine: compose-go,
// the library of Docker Compose itself, reads the file by the compose specification.
package composetest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

const root = "../.."

func TestServices(t *testing.T) {
	t.Parallel()
	project := load(t)
	if got, want := project.ServiceNames(), []string{"rabbitmq", "redis", "redis-failed", "worker"}; !slices.Equal(got, want) {
		t.Fatalf("services: got %q, want %q", got, want)
	}
	for name, s := range project.Services {
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %d: got host address %q, want 127.0.0.1", name, p.Target, p.HostIP)
			}
		}
		if s.Restart != types.RestartPolicyUnlessStopped {
			t.Errorf("%s: restart: got %q, want %q", name, s.Restart, types.RestartPolicyUnlessStopped)
		}
		if name == "worker" {
			continue
		}
		if s.HealthCheck == nil || len(s.HealthCheck.Test) == 0 {
			t.Errorf("%s: got no health check, want one: the worker waits for it", name)
		}
		if !regexp.MustCompile(`:\d+\.\d+`).MatchString(s.Image) {
			t.Errorf("%s: image: got %q, want one pinned to major.minor", name, s.Image)
		}
		if !slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool { return v.Type == types.VolumeTypeVolume && v.Source != "" }) {
			t.Errorf("%s: got no named volume, want one for its data", name)
		}
	}
}

// TestRedisOptions holds both servers to the design: DB 0-4 may be evicted, DB 5
// must not and must survive a crash.
func TestRedisOptions(t *testing.T) {
	t.Parallel()
	project := load(t)
	for _, c := range []struct{ service, option, want string }{
		{"redis", "--appendonly", "yes"},
		{"redis", "--appendfsync", "everysec"},
		{"redis", "--maxmemory-policy", "allkeys-lru"},
		{"redis", "--databases", "16"},
		{"redis-failed", "--appendonly", "yes"},
		{"redis-failed", "--appendfsync", "always"},
		{"redis-failed", "--maxmemory-policy", "noeviction"},
		{"redis-failed", "--databases", "16"},
	} {
		if got := option(project.Services[c.service].Command, c.option); got != c.want {
			t.Errorf("%s: %s: got %q, want %q", c.service, c.option, got, c.want)
		}
	}
	// Without a limit allkeys-lru never evicts, and the host runs out of memory.
	if got := option(project.Services["redis"].Command, "--maxmemory"); got == "" || got == "0" {
		t.Errorf("redis: --maxmemory: got %q, want a limit", got)
	}
}

func TestRabbitMQ(t *testing.T) {
	t.Parallel()
	s := load(t).Services["rabbitmq"]
	if !strings.HasSuffix(s.Image, "-management") {
		t.Errorf("image: got %q, want one with the management plugin", s.Image)
	}
	if s.Hostname == "" {
		t.Error("hostname: got none, want a fixed one: RabbitMQ finds its data by it")
	}
}

func TestWorker(t *testing.T) {
	t.Parallel()
	project := load(t)
	w := project.Services["worker"]

	for name, want := range map[string]string{
		"ONCEOVER_BROKER_URL": "amqp://onceover:onceover@rabbitmq:5672//",
		"ONCEOVER_REDIS_URL":  "redis://redis:6379",
		"ONCEOVER_FAILED_URL": "redis://redis-failed:6379/5",
		"ONCEOVER_HTTP_ADDR":  "0.0.0.0:8080",
	} {
		if got := w.Environment[name]; got == nil || *got != want {
			t.Errorf("%s: got %v, want %q", name, deref(got), want)
		}
	}
	// Not set by whoever starts it: not set in the container, rather than empty.
	if got, ok := w.Environment["ONCEOVER_VISION_URL"]; ok && got != nil {
		t.Errorf("ONCEOVER_VISION_URL: got %q, want it not set", *got)
	}

	grace, err := time.ParseDuration(deref(w.Environment["ONCEOVER_GRACE"]))
	if err != nil {
		t.Fatalf("ONCEOVER_GRACE: %v", err)
	}
	if w.StopGracePeriod == nil || time.Duration(*w.StopGracePeriod) < grace+5*time.Second {
		t.Errorf("stop_grace_period: got %v, want at least 5s more than ONCEOVER_GRACE, %v", w.StopGracePeriod, grace)
	}

	for _, name := range []string{"rabbitmq", "redis", "redis-failed"} {
		if got := w.DependsOn[name].Condition; got != types.ServiceConditionHealthy {
			t.Errorf("depends_on %s: got %q, want %q", name, got, types.ServiceConditionHealthy)
		}
	}

	if w.Build == nil || w.Image != "" {
		t.Error("got an image, want a build of this folder")
	}
	if !w.ReadOnly {
		t.Error("read_only: got false, want true")
	}
	if !slices.Equal(w.CapDrop, []string{"ALL"}) || len(w.CapAdd) > 0 || w.Privileged {
		t.Errorf("capabilities: got drop %q, add %q, privileged %v, want all dropped", w.CapDrop, w.CapAdd, w.Privileged)
	}
	if !slices.Contains(w.SecurityOpt, "no-new-privileges:true") {
		t.Errorf("security_opt: got %q, want no-new-privileges:true", w.SecurityOpt)
	}
}

func TestImage(t *testing.T) {
	t.Parallel()
	stages := readDockerfile(t)
	if len(stages) != 2 {
		t.Fatalf("got %d stages, want 2: build and image", len(stages))
	}
	last := stages[1]
	if got := last["FROM"]; !slices.Equal(got, []string{"scratch"}) {
		t.Errorf("FROM: got %q, want scratch", got)
	}
	if len(last["USER"]) != 1 {
		t.Fatalf("USER: got %q, want one", last["USER"])
	}
	user, _, _ := strings.Cut(last["USER"][0], ":")
	if uid, err := strconv.Atoi(user); err != nil || uid == 0 {
		t.Errorf("USER: got %q, want a number other than 0", user)
	}
	if got := strings.Join(last["COPY"], "\n"); !strings.Contains(got, "ca-certificates.crt") {
		t.Errorf("COPY: got %q, want the CA certificates among them", got)
	}
	if got, want := last["ENTRYPOINT"], []string{`["/onceover"]`}; !slices.Equal(got, want) {
		t.Errorf("ENTRYPOINT: got %q, want %q", got, want)
	}
	if got, want := last["CMD"], []string{`["worker"]`}; !slices.Equal(got, want) {
		t.Errorf("CMD: got %q, want %q", got, want)
	}
}

// TestImageBuildIsTested holds every command of the image's build to be a target
// of the Makefile that scripts/test runs as well: no container engine runs there.
func TestImageBuildIsTested(t *testing.T) {
	t.Parallel()
	makefile, script := read(t, "Makefile"), read(t, "scripts/test")
	commands := 0
	for _, stage := range readDockerfile(t) {
		for _, run := range stage["RUN"] {
			commands++
			words := strings.Fields(run)
			if len(words) < 2 || words[0] != "make" || strings.ContainsAny(run, ";&|") {
				t.Errorf("RUN %s: got another command, want make TARGET", run)
				continue
			}
			target := words[1]
			if !strings.Contains(makefile, "\n"+target+":") {
				t.Errorf("RUN %s: got no target %s in the Makefile, want one", run, target)
			}
			if !regexp.MustCompile(`(?m)^\s*step .* make ` + target + `$`).MatchString(script) {
				t.Errorf("RUN %s: got no step of scripts/test that runs it, want one", run)
			}
		}
	}
	if commands == 0 {
		t.Error("got no RUN in the Dockerfile, want some")
	}
	if !strings.Contains(makefile, "CGO_ENABLED=0 go build -trimpath") {
		t.Error("Makefile: got no static build, want CGO_ENABLED=0 go build -trimpath")
	}
}

// load reads docker-compose.yml as docker compose does, without variables set.
func load(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(root, "docker-compose.yml")},
		cli.WithName("onceover"), cli.WithNormalization(true), cli.WithConsistency(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// readDockerfile returns, for each stage, the arguments of its instructions by name.
func readDockerfile(t *testing.T) []map[string][]string {
	t.Helper()
	var stages []map[string][]string
	for line := range strings.Lines(read(t, "Dockerfile")) {
		name, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case name == "" || name == "#":
		case strings.HasSuffix(args, `\`):
			t.Fatalf("Dockerfile: %q: got a continued line, which this test does not read", line)
		case name == "FROM":
			stages = append(stages, map[string][]string{name: {args}})
		case len(stages) > 0:
			stage := stages[len(stages)-1]
			stage[name] = append(stage[name], args)
		}
	}
	return stages
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// option returns the word after name, or nothing.
func option(command []string, name string) string {
	if i := slices.Index(command, name); i >= 0 && i+1 < len(command) {
		return command[i+1]
	}
	return ""
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
