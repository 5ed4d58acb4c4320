// Package importrule checks who may import whom; CONTRIBUTING.md has the rule in
// words. It has no code of its own.
package importrule

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath string
	Imports    []string // of non-test code
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "onceover/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 15 {
		t.Fatalf("go list names %d packages", len(all))
	}
	return all
}

// ours are the packages that the left one may import of ours; internal/testenv
// and its commands are for tests and stand outside.
var ours = map[string][]string{
	"celery":                  {},
	"phash":                   {"phash/jpeg"},
	"phash/jpeg":              {},
	"phash/verify":            {"phash"},
	"phash/verify/verifytest": {"phash", "phash/verify"},
	"vision":                  {"phash", "vision/prompt"},
	"vision/prompt":           {},
	"vision/eval":             {"phash", "vision", "internal/page"},
	"vision/fleet":            {"vision", "internal/redisretry"},
	"internal/page":           {},
	"internal/chart":          {},
	"internal/loadtest":       {"cache", "celery", "phash", "phash/verify", "rabbit", "results", "tasks", "internal/chart", "internal/page"},
	"internal/redact":         {},
	"internal/source":         {"internal/redact"},
	"internal/devbroker":      {},
	"internal/ledger":         {"celery", "internal/redisretry"},
	"rabbit":                  {"celery", "internal/redact"},
	"internal/samples":        {},
	"internal/redisretry":     {},
	"internal/gateway":        {},
	"internal/ratelimit":      {"internal/redisretry"},
	"internal/token":          {"internal/redisretry"},
	"internal/upload":         {"internal/source"},
	"internal/api":            {"celery", "progress", "rabbit", "results", "vision", "internal/crash", "internal/ratelimit", "internal/redact", "internal/redisretry", "internal/token", "internal/upload"},
	"internal/console":        {"cache", "celery", "failed", "progress", "rabbit", "vision/fleet", "internal/api", "internal/control", "internal/redact", "internal/token"},
	"internal/doctor":         {"celery", "rabbit", "tasks", "internal/config", "internal/control", "internal/redact", "internal/redisretry"},
	"internal/composetest":    {},
	"internal/importrule":     {},
	"e2e":                     {},
	"e2e/suite":               {},
	"results":                 {"celery", "internal/ledger", "internal/redisretry"},
	"progress":                {"celery", "internal/ledger", "internal/redisretry"},
	"cache":                   {"celery", "phash", "phash/verify", "internal/redisretry"},
	"tasks":                   {"celery", "phash", "phash/verify", "vision", "vision/prompt", "progress", "cache", "internal/redact", "internal/source"},
	"failed":                  {"celery", "progress", "rabbit", "results", "internal/crash", "internal/redact", "internal/redisretry"},
	"internal/crash":          {},
	"worker":                  {"celery", "failed", "rabbit", "results", "internal/crash", "internal/redisretry", "internal/remote"},
	"internal/remote":         {"celery"},
	"internal/control":        {"celery", "rabbit"},
	"examples/tasks":          {"worker", "results", "progress", "failed"},
	"examples/integration":    {"celery", "worker", "results", "progress", "failed", "internal/config"},
	"internal/embedded":       {"internal/devbroker"},
	"internal/config":         {"worker", "failed", "cache", "tasks", "phash", "rabbit", "vision", "vision/eval", "vision/fleet", "vision/prompt", "internal/ratelimit", "internal/source", "internal/redisretry", "internal/token", "internal/upload"},
	"cmd/onceover": {"worker", "failed", "rabbit", "tasks", "celery", "phash", "phash/verify", "vision", "vision/eval", "vision/fleet", "vision/prompt", "progress", "results", "cache",
		"internal/api", "internal/config", "internal/console", "internal/control", "internal/doctor", "internal/gateway", "internal/ratelimit", "internal/token", "internal/upload", "internal/page", "internal/redact", "internal/source", "internal/embedded", "internal/loadtest", "internal/samples"},
}

// clients may be imported only by these.
var clients = map[string][]string{
	"github.com/rabbitmq/amqp091-go": {"rabbit", "worker", "internal/control", "internal/remote", "internal/testenv", "internal/testenv/cmd/bench", "internal/testenv/violence"},
	"github.com/redis/go-redis/v9": {"results", "progress", "cache", "failed", "vision/fleet", "internal/api", "internal/control", "internal/doctor", "internal/ledger", "internal/ratelimit", "internal/redisretry", "internal/token", "internal/config", "internal/loadtest", "cmd/onceover", "examples/integration", "examples/tasks", "internal/testenv",
		"internal/testenv/violence", "internal/testenv/cmd/bench", "internal/testenv/cmd/soak", "internal/testenv/cmd/violence"},
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, "onceover/")
		for client, who := range clients {
			if slices.Contains(p.Imports, client) && !slices.Contains(who, name) {
				t.Errorf("%s imports %s: only %v may", name, client, who)
			}
		}
		if strings.HasPrefix(name, "internal/testenv") {
			continue
		}
		allowed, known := ours[name]
		if !known {
			t.Errorf("package %s is not in the rule: add it with what it may import", name)
			continue
		}
		for _, i := range p.Imports {
			i, isOurs := strings.CutPrefix(i, "onceover/")
			if isOurs && !slices.Contains(allowed, i) {
				t.Errorf("%s imports %s: it may import %v", name, i, allowed)
			}
		}
	}
}
