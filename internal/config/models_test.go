package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"onceover/vision"
	"onceover/vision/prompt"
)

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestModels(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("sk-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, cascade, err := parseModels("m.yaml", []byte(`
endpoints:
  - &first
    name: openai
    url: https://api.openai.com/v1
    model: gpt-5-mini
    key_env: KEY
    price: {in: 0.25usd, out: 2usd}
    requests_per_minute: 500
    tokens_per_minute: 200000
    in_flight: 50
    timeout: 60s
    format: json_object
    tier: {name: flex, price: 0.5, timeout: 3m}
  - url: http://gpu:8000/v1
    model: qwen3-vl
    key_file: `+key+`
`), env(map[string]string{"KEY": "sk-env"}), true)
	if err != nil || len(got) != 3 || cascade != nil {
		t.Fatalf("got %d endpoints, %+v, %v", len(got), cascade, err)
	}
	flex, usual, home := got[0], got[1], got[2]
	if flex.Name != "openai/flex" || flex.Tier != "flex" || !flex.Cheap || flex.Prices != (vision.Prices{In: 125_000, Out: 1_000_000}) || flex.Timeout != 3*time.Minute ||
		flex.RPM != 500 || flex.Model != "gpt-5-mini" || flex.APIKey != "sk-env" {
		t.Errorf("the tier: got %+v", flex)
	}
	if usual.Name != "openai" || usual.Tier != "" || usual.Cheap || usual.Prices != (vision.Prices{In: 250_000, Out: 2_000_000}) || usual.Timeout != time.Minute ||
		usual.TPM != 200_000 || usual.InFlight != 50 || usual.Format != vision.JSONObject {
		t.Errorf("the endpoint: got %+v", usual)
	}
	if home.Name != "gpu" || home.APIKey != "sk-file" || home.Prices.Known() || home.BaseURL != "http://gpu:8000/v1" {
		t.Errorf("the second: got %+v", home)
	}
}

// TestModelsFaults has every fault named, with its line, and no key shown.
func TestModelsFaults(t *testing.T) {
	t.Setenv("KEY", "sk-secret")
	_, _, err := parseModels("m.yaml", []byte(`
endpoints:
  - name: a b
    url: https://api.openai.com/v1
    model: m
    key_env: NONE
    key_fil: x
    price: {in: 5, out: 2usd}
    requests_per_minute: -1
    timeout: soon
  - url: ftp://x
    model: ""
  - {name: same, url: "http://x/v1", model: m, key_env: KEY, key_file: y}
  - {name: same, url: "http://x/v1", model: m, tier: {name: flex}}
  - {name: nan, url: "http://x/v1", model: m, tier: {name: flex, price: nan}}
  - {name: "first/flex", url: "http://x/v1", model: m}
  - {name: first, url: "http://x/v1", model: m, tier: {name: flex, price: 0.5}}
  - just text
`), env(map[string]string{"KEY": "sk-secret"}), true)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`m.yaml:7: "key_fil" of an endpoint is not known: expected one of format, in_flight, key_env, key_file`,
		`m.yaml:8: in is "5": expected the price of a million tokens, such as 0.25usd`,
		`m.yaml:9: requests_per_minute is "-1": expected a whole number from 1 on`,
		`m.yaml:10: timeout is "soon": expected a duration such as 60s`,
		`m.yaml:3: the name "a b" of an endpoint`,
		`m.yaml:3: the variable NONE that key_env names is not set`,
		`m.yaml:11: endpoint x: vision BaseURL: is not an http or https URL`, `vision Model: is empty`,
		`m.yaml:13: key_env and key_file are both set`,
		`m.yaml:14: two endpoints are named same`,
		`m.yaml:14: a tier has a name and a price`,
		`m.yaml:15: price of a tier is "nan"`,
		`m.yaml:17: two endpoints are named first/flex`,
		`m.yaml:18: an endpoint is not a mapping`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("lacks %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "sk-secret") {
		t.Error("a key is shown")
	}
	const one = "endpoints:\n- {name: a, url: 'http://x/v1', model: m}\n"
	for doc, want := range map[string]string{"": "the file is empty", "a: 1": `"a" of the file is not known`, "endpoints: []": "not a list with at least one", "endpoints: [": "not YAML", "[]": "not a mapping", "{}": "no list named endpoints",
		one + "---\ncascade: {below: 0.5}": "there is a second document", one + "---\n[": "there is a second document",
		"endpoints:\n- {name: a, url: 'http://x/v1', model: m, key_env: sk-secret}":  "its name is not one of capitals",
		"endpoints:\n- {name: a, url: 'http://x/v1', model: m, key_file: sk-secret}": "key_file is not the path of a file"} {
		if _, _, err := parseModels("m.yaml", []byte(doc), os.Getenv, true); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sk-secret") {
			t.Errorf("%q: got %v, want %q", doc, err, want)
		}
	}
}

// TestCascadeSettings reads a cascade, and says what is wrong with one.
func TestCascadeSettings(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	version := prompt.Builtin().Find(prompt.Analysis, "ko").Version
	write("good.json", `{"version":1,"method":"platt","model":"small","prompt_version":"`+version+`","field":"category","confidence_field":"sure","a":0.5,"b":0,"n":250}`)
	write("other.json", `{"version":1,"method":"platt","model":"large","prompt_version":"`+version+`","a":0.5,"b":0}`)
	write("old.json", `{"version":1,"method":"platt","model":"small","prompt_version":"0","a":0.5,"b":0}`)
	write("bad.json", `{}`)
	two := "endpoints:\n- {name: a, url: 'http://x/v1', model: small}\n- {name: b, url: 'http://x/v1', model: large}\n"
	s, _, err := load(t, nil, "ONCEOVER_MODELS="+write("m.yaml", two+"cascade: {below: 0.85, calibration: good.json}\n"))
	if err != nil || s.Cascade == nil || s.Cascade.Below != 0.85 || s.Cascade.Field != "sure" || s.Cascade.PromptVersion != version || s.Cascade.Sure(0.5) != 0.5 || s.Cascade.Sure(0.99) > 0.95 {
		t.Errorf("got %+v, %v", s.Cascade, err)
	}
	for doc, want := range map[string]string{
		two + "cascade: {below: 1.5}\n":                                       `m.yaml:4: below is "1.5": expected a confidence above 0`,
		two + "cascade: {}\n":                                                 "m.yaml:4: cascade has no below",
		two + "cascade: {below: 0.5, calibration: none.json}\n":               "calibration: open " + filepath.Join(dir, "none.json"),
		two + "cascade: {below: 0.5, calibration: bad.json}\n":                "expected 1 by \"platt\"",
		two + "cascade: {below: 0.5, calibration: other.json}\n":              "is of model large: expected that of small",
		two + "cascade: {below: 0.5, calibration: old.json}\n":                "is of prompt version 0, and that for ko is " + version,
		strings.Replace(two, "large", "small", 1) + "cascade: {below: 0.5}\n": "no endpoint with another model than small",
	} {
		if _, _, err := load(t, nil, "ONCEOVER_MODELS="+write("m.yaml", doc)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", doc, err, want)
		}
	}
}

// TestOnlyWorkersNeedAll: a command for people takes a file of models whose calibration is stale, and whose keys the
// operator's shell does not have. Else no calibration could be renewed.
func TestOnlyWorkersNeedAll(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "m.yaml")
	for name, text := range map[string]string{
		"m.yaml": "endpoints:\n- {name: a, url: 'http://x/v1', model: small}\n- {name: b, url: 'http://x/v1', model: large, key_env: NONE}\n" +
			"- {name: c, url: 'http://x/v1', model: large, key_file: none}\ncascade: {below: 0.85, calibration: old.json}\n",
		"old.json": `{"version":1,"method":"platt","model":"small","prompt_version":"0","a":0.5,"b":0}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		only []string
		want []string // in the error; none: it loads
	}{
		{nil, []string{"m.yaml:3: the variable NONE", "m.yaml:4: key_file is not the path"}},                      // worker
		{[]string{"concurrency", "prompts"}, []string{"m.yaml:3: the variable NONE", "key_file is not the path"}}, // demo
		{[]string{"redis-url", "budget"}, nil},
		{[]string{"models"}, nil},
	} {
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		s := Bind(fs, tt.only...)
		_, err := s.Load(fs, []string{"ONCEOVER_MODELS=" + file})
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: got %v, want %q", tt.only, err, want)
			}
		}
		if tt.want != nil {
			continue
		}
		if err != nil || len(s.Models) != 3 || s.Models[0].NoKey != nil {
			t.Errorf("%v: got %+v, %v", tt.only, s.Models, err)
			continue
		}
		if got := s.Models[1].NoKey; got == nil || !strings.Contains(got.Error(), "m.yaml:3: the variable NONE that key_env names is not set") {
			t.Errorf("%v: got %v", tt.only, got)
		}
	}
}

// TestModelSettings says what goes together.
func TestModelSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "models.yaml")
	if err := os.WriteFile(file, []byte("endpoints:\n- {name: a, url: 'http://x/v1', model: m}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _, err := load(t, nil, "ONCEOVER_MODELS="+file, "ONCEOVER_VISION_TIMEOUT=7s", "ONCEOVER_CONCURRENCY=9")
	if err != nil || len(s.Models) != 1 || s.Models[0].Timeout != 7*time.Second || s.Models[0].Prompts == nil || s.Fleet.Calls != 9 {
		t.Errorf("got %+v, %v", s.Models, err)
	}
	s, _, err = load(t, nil, "ONCEOVER_VISION_URL=http://x/v1", "ONCEOVER_VISION_MODEL=m", "ONCEOVER_VISION_RPM=5", "ONCEOVER_VISION_TPM=6",
		"ONCEOVER_BUDGET=5usd/1d", "ONCEOVER_VISION_PRICE_IN=1", "ONCEOVER_VISION_PRICE_OUT=2", "ONCEOVER_BUDGET_OVER=fail")
	if err != nil || len(s.Models) != 1 || s.Models[0].Name != "default" || s.Fleet.Limits["default"].RPM != 5 || s.Fleet.Limits["default"].TPM != 6 ||
		len(s.Fleet.Budgets) != 1 || !s.Fleet.Refuse || s.LimitsURL != "redis://127.0.0.1:6379/3" {
		t.Errorf("got %+v, %+v, %v", s.Models, s.Fleet, err)
	}
	for want, vars := range map[string][]string{
		"models is set, and so is vision-url":                    {"ONCEOVER_MODELS=" + file, "ONCEOVER_VISION_URL=http://x/v1", "ONCEOVER_VISION_MODEL=m"},
		"models is set, and so is vision-rpm":                    {"ONCEOVER_MODELS=" + file, "ONCEOVER_VISION_PRICE_IN=1", "ONCEOVER_VISION_PRICE_OUT=2"},
		"the price of model m at endpoint a is not":              {"ONCEOVER_MODELS=" + file, "ONCEOVER_BUDGET=5usd/1d"},
		"endpoint a has a time-out of 2m0s, and a job may":       {"ONCEOVER_MODELS=" + file, "ONCEOVER_SOFT_TIME_LIMIT=1m"},
		`budget: "5usd" is not a budget`:                         {"ONCEOVER_BUDGET=5usd"},
		`budget-over is "maybe": expected wait or fail`:          {"ONCEOVER_BUDGET_OVER=maybe"},
		"retry-horizon or user-concurrency is negative":          {"ONCEOVER_RETRY_HORIZON=-1s"},
		"vision-rpm or vision-tpm is negative":                   {"ONCEOVER_VISION_RPM=-1"},
		"models: open " + file + ".none: no such file":           {"ONCEOVER_MODELS=" + file + ".none"},
		"offline is set, and so is vision-url: expected one of":  {"ONCEOVER_OFFLINE=true", "ONCEOVER_VISION_URL=http://x/v1", "ONCEOVER_VISION_MODEL=m"},
		"vision-model is set but vision-url is not: expected bo": {"ONCEOVER_VISION_MODEL=m"},
	} {
		if _, _, err := load(t, nil, vars...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", vars, err, want)
		}
	}
}

func FuzzModels(f *testing.F) {
	f.Add("endpoints:\n- {name: a, url: 'http://x/v1', model: m, price: {in: 1usd, out: 2usd}, tier: {name: flex, price: 0.5}}\n")
	f.Add("endpoints: [*a]")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, doc string) {
		all, _, err := parseModels("m", []byte(doc), env(nil), true)
		if err == nil && len(all) == 0 {
			t.Error("neither endpoints nor an error")
		}
	})
}
