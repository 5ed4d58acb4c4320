package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"onceover/internal/ratelimit"
	"onceover/phash"
)

func load(t *testing.T, args []string, env ...string) (*Settings, []string, error) {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	s := Bind(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	warnings, err := s.Load(fs, env)
	return s, warnings, err
}

func TestPrecedence(t *testing.T) {
	for _, tt := range []struct {
		args, env []string
		want      int
	}{
		{nil, nil, 100},
		{nil, []string{"ONCEOVER_CONCURRENCY=7"}, 7},
		{nil, []string{"ONCEOVER_CONCURRENCY="}, 100},
		{[]string{"--concurrency=3"}, []string{"ONCEOVER_CONCURRENCY=7"}, 3},
	} {
		s, _, err := load(t, tt.args, tt.env...)
		if err != nil || s.Worker.Concurrency != tt.want {
			t.Errorf("%v %v: got %d, %v, want %d", tt.args, tt.env, s.Worker.Concurrency, err, tt.want)
		}
	}
}

func TestFallbackVariables(t *testing.T) {
	s, _, err := load(t, nil, "CELERY_BROKER_URL=amqp://celery//", "CELERY_RESULT_BACKEND=redis://celery:6379/9", "OPENAI_API_KEY=sk-1")
	if err != nil {
		t.Fatal(err)
	}
	if s.Worker.BrokerURLs[0] != "amqp://celery//" || s.ResultsURL != "redis://celery:6379/9" || s.Vision.APIKey != "sk-1" {
		t.Errorf("got %v %s %s", s.Worker.BrokerURLs, s.ResultsURL, s.Vision.APIKey)
	}
	s, _, err = load(t, nil, "CELERY_BROKER_URL=amqp://celery//", "ONCEOVER_BROKER_URL=amqp://a//, amqp://b//")
	if err != nil || strings.Join(s.Worker.BrokerURLs, " ") != "amqp://a// amqp://b//" {
		t.Errorf("got %v, %v", s.Worker.BrokerURLs, err)
	}
}

func TestListsMayHaveSpaces(t *testing.T) {
	s, _, err := load(t, nil, "ONCEOVER_QUEUES=q.ai, celery", "ONCEOVER_IMAGE_ALLOW=10.0.0.0/8, images.internal")
	if err != nil || strings.Join(s.Worker.Queues, "|") != "q.ai|celery" || strings.Join(s.Image.Allow, "|") != "10.0.0.0/8|images.internal" {
		t.Errorf("got %q %q, %v", s.Worker.Queues, s.Image.Allow, err)
	}
}

func TestRoles(t *testing.T) {
	s, _, err := load(t, []string{"--redis-url=rediss://u:p@h:6380", "--cache-url=redis://other:1/5"})
	if err != nil {
		t.Fatal(err)
	}
	want := "rediss://u:p@h:6380/0 redis://other:1/5 rediss://u:p@h:6380/2"
	if got := s.ResultsURL + " " + s.CacheURL + " " + s.ProgressURL; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestRolesOnPythonsURLs: what Celery takes, the server of all roles may be too.
func TestRolesOnPythonsURLs(t *testing.T) {
	for url, want := range map[string]string{
		"rediss://:p|w@h:6380?ssl_cert_reqs=none": "rediss://:p|w@h:6380/2?ssl_cert_reqs=none",
		"redis+socket:///run/r.sock":              "redis+socket:///run/r.sock?db=2",
		"redis://h/0?socket_timeout=3":            "redis://h/2?socket_timeout=3",
	} {
		s, _, err := load(t, nil, "ONCEOVER_REDIS_URL="+url, "CELERY_RESULT_BACKEND="+url)
		if err != nil || s.ProgressURL != want || s.ResultsURL != url {
			t.Errorf("%s: got %s and %s, %v, want %s for progress", url, s.ProgressURL, s.ResultsURL, err, want)
		}
	}
	_, _, err := load(t, nil, "CELERY_RESULT_BACKEND=redis://:hunter2@h?foo=hunter2")
	if err == nil || !strings.Contains(err.Error(), `results-url (redis://…) is not a Redis URL that can be used: parameter "foo" is not known: expected one of db`) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v, want the setting and the parameter named, and no password", err)
	}
	if _, _, err := load(t, nil, "ONCEOVER_REDIS_URL=redis+socket:///run/r.sock?virtual_host=3"); err == nil || !strings.Contains(err.Error(), "redis-url names database 3") {
		t.Errorf("a database for all roles: got %v", err)
	}
}

// TestRedisParameters: the documentation names what is taken.
func TestRedisParameters(t *testing.T) {
	_, err := ParseRedisURL("results-url", "redis://h?foo=1")
	if err == nil {
		t.Fatal("got no error")
	}
	doc, readErr := os.ReadFile("../../docs/configuration.md")
	if readErr != nil {
		t.Fatal(readErr)
	}
	_, list, _ := strings.Cut(err.Error(), "expected one of ")
	names := strings.Fields(strings.Replace(list, "; without effect are", "", 1))
	if len(names) < 25 {
		t.Fatalf("the error names %d parameters: %v", len(names), err)
	}
	for _, name := range names {
		if !strings.Contains(string(doc), "`"+name+"`") {
			t.Errorf("docs/configuration.md does not name %s", name)
		}
	}
}

func TestSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("sk-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, warnings, err := load(t, nil, "ONCEOVER_VISION_API_KEY_FILE="+file)
	if err != nil || s.Vision.APIKey != "sk-secret" || len(warnings) != 0 {
		t.Errorf("got %q, %v, %v", s.Vision.APIKey, warnings, err)
	}
	doc, err := json.Marshal(s.apiKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(s.apiKey), fmt.Sprintf("%v %+v %#v %q", s.apiKey, s.apiKey, s.apiKey, s.apiKey), string(doc)} {
		if strings.Contains(text, "sk-secret") {
			t.Errorf("the secret is printed: %s", text)
		}
	}
	if _, _, err := load(t, nil, "ONCEOVER_VISION_API_KEY_FILE="+file+".not"); err == nil || !strings.Contains(err.Error(), "ONCEOVER_VISION_API_KEY_FILE") {
		t.Errorf("missing file: got %v, want an error that names the variable", err)
	}
}

// TestEveryFaultAtOnce also looks for what must not be shown.
func TestEveryFaultAtOnce(t *testing.T) {
	_, _, err := load(t, nil,
		"ONCEOVER_BROKER_URL=amqp://u:hunter2@[", "ONCEOVER_REDIS_URL=redis://:hunter2@h/3", "ONCEOVER_CONCURRENCY=many",
		"ONCEOVER_GRACE=-1s", "ONCEOVER_LOG_LEVEL=loud", "ONCEOVER_LOG_FORMAT=xml", "ONCEOVER_VISION_MODEL=m",
		"ONCEOVER_IMAGE_MAX_PIXELS=0", "ONCEOVER_IMAGE_ALLOW=10.0.0.0/99")
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"broker URL", "redis-url names database 3", "ONCEOVER_CONCURRENCY", "grace", "log-level", "log-format", "vision-url", "image-max-pixels", "Allow"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q:\n%v", want, err)
		}
	}
	for _, never := range []string{"hunter2", "concurrency is 0"} {
		if strings.Contains(err.Error(), never) {
			t.Errorf("the error contains %q:\n%v", never, err)
		}
	}
	for _, backend := range []string{"db+postgresql://u:hunter2@h/x", "nonsense hunter2"} {
		if _, _, err := load(t, nil, "CELERY_RESULT_BACKEND="+backend); err == nil || !strings.Contains(err.Error(), "results-url") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("result backend %q: got %v", backend, err)
		}
	}
}

func TestPillow(t *testing.T) {
	s, _, err := load(t, nil, "ONCEOVER_PILLOW=12.3.0")
	if err != nil || s.Tasks.PillowOrder != phash.VeryTallDownFirst {
		t.Errorf("got %v, %v, want %v", s.Tasks.PillowOrder, err, phash.VeryTallDownFirst)
	}
	if _, _, err := load(t, nil, "ONCEOVER_PILLOW=newest"); err == nil || !strings.Contains(err.Error(), `pillow: release of Pillow is "newest"`) {
		t.Errorf("newest: got %v, want an error that names the setting", err)
	}
}

func TestLang(t *testing.T) {
	if s, _, err := load(t, nil, "ONCEOVER_LANG=pt-BR"); err != nil || s.Tasks.Lang != "pt-BR" || s.Vision.DefaultLang != "pt-BR" {
		t.Errorf("got %q, %q, %v, want pt-BR", s.Tasks.Lang, s.Vision.DefaultLang, err)
	}
	for _, lang := range []string{"english please", "abcd-x", "ko_KR"} {
		_, _, err := load(t, nil, "ONCEOVER_LANG="+lang)
		if err == nil || !strings.Contains(err.Error(), "lang: ") || !strings.Contains(err.Error(), "expected one such as ko, en or pt-BR") {
			t.Errorf("%s: got %v, want an error that names the setting and the form", lang, err)
		}
	}
}

func TestRPCResults(t *testing.T) {
	s, _, err := load(t, nil, "CELERY_RESULT_BACKEND=rpc://")
	if err != nil || !s.Worker.RPCResults || s.ResultsURL != "redis://127.0.0.1:6379/0" {
		t.Errorf("got %+v, %v, want results sent to the client", s, err)
	}
}

func TestStrangers(t *testing.T) {
	_, warnings, err := load(t, nil, "ONCEOVER_CONCURENCY=5", "ONCEOVER_BLACKLIST_URL=redis://h/4", "ONCEOVER_TEST_AMQP_URL=x", "OTHER=1")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ONCEOVER_CONCURENCY is not a setting of onceover; see onceover worker --help",
	}
	if strings.Join(warnings, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", warnings, want)
	}
}

func TestDefaultsAreThoseOfTheDocs(t *testing.T) {
	s, _, err := load(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Worker.Grace != 25*time.Second || s.Worker.SoftTimeLimit != 240*time.Second || s.Worker.TimeLimit != 300*time.Second ||
		s.Image.MaxBytes != 20_000_000 || s.Tasks.MaxPixels != 50_000_000 || s.Tasks.Lang != "ko" || s.HTTPAddr != "127.0.0.1:8080" {
		t.Errorf("got %+v", s)
	}
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range s.table() {
		for _, name := range append(x.vars, "--"+x.flag) {
			if !strings.Contains(string(doc), "`"+name+"`") {
				t.Errorf("docs/configuration.md does not name %s", name)
			}
		}
	}
}

// TestGateway has what only the gateway uses.
func TestGateway(t *testing.T) {
	s, _, err := load(t, []string{"--rate-limit-sliding"}, "ONCEOVER_RATE_LIMIT=5/1m", "ONCEOVER_TRUSTED_PROXIES=10.0.0.0/8, ::1", "ONCEOVER_JWT_SECRET=hunter2",
		"ONCEOVER_RATE_LIMIT_OUTAGE=refuse", "ONCEOVER_RATE_LIMIT_IPV6_PREFIX=64", "ONCEOVER_UPLOADS=s3://photos/in", "ONCEOVER_REDIS_URL=redis://h")
	if err != nil {
		t.Fatal(err)
	}
	if want := (ratelimit.Rule{Limit: 5, Window: time.Minute, Sliding: true, IPv6Prefix: 64}); s.RateLimit != want || len(s.Proxies) != 2 || !s.RefuseUncounted ||
		s.Tokens.Secret != "hunter2" || s.Uploads != "s3://photos/in" || s.BlacklistURL != "redis://h/4" {
		t.Errorf("got %+v", s)
	}
	_, _, err = load(t, nil, "ONCEOVER_RATE_LIMIT=5", "ONCEOVER_TRUSTED_PROXIES=proxy", "ONCEOVER_JWT_SECRET=hunter2", "ONCEOVER_JWT_JWKS_URL=https://h",
		"ONCEOVER_RATE_LIMIT_OUTAGE=open", "ONCEOVER_RATE_LIMIT_IPV6_PREFIX=129", "ONCEOVER_UPLOADS=in", "ONCEOVER_UPLOADS_KEEP=1m", "ONCEOVER_DOMAIN=a/b")
	if err == nil {
		t.Fatal("got no error")
	}
	for _, setting := range []string{"rate-limit: ", "trusted-proxies", "jwt-secret", "rate-limit-outage", "rate-limit-ipv6-prefix", "uploads: ", "uploads-keep", "domain"} {
		if !strings.Contains(err.Error(), setting) {
			t.Errorf("got %v, want %s named", err, setting)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the secret is in %v", err)
	}
}
