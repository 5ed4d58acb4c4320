package doctor

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"onceover/internal/config"
	"onceover/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// settings are those of an environment. The variables TZ and KUBERNETES_SERVICE_HOST are seen by checks, too.
func settings(t *testing.T, environ ...string) Subject {
	t.Helper()
	fs := pflag.NewFlagSet("doctor", pflag.ContinueOnError)
	s := config.Bind(fs)
	warnings, err := s.Load(fs, environ)
	if err != nil {
		t.Fatal(err)
	}
	return Subject{Settings: s, Warnings: warnings, Management: s.ManagementURL, Getenv: func(name string) string {
		for _, kv := range environ {
			if n, value, _ := strings.Cut(kv, "="); n == name {
				return value
			}
		}
		return ""
	}}
}

// problems are the warnings and errors of a report: "error redis.eviction failed".
func problems(r *Report) []string {
	out := []string{}
	for _, f := range r.Problems() {
		out = append(out, strings.TrimSpace(string(f.Severity)+" "+f.Check+" "+f.Subject))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// want compares the problems, and looks for what a report must not have.
func want(t *testing.T, r *Report, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := problems(r); !slices.Equal(got, want) {
		t.Errorf("got the problems\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		for _, f := range r.Problems() {
			t.Logf("%+v", f)
		}
	}
	checkReport(t, r)
}

// checkReport looks for findings that help nobody, and for secrets, which the tests call hunter2.
func checkReport(t *testing.T, r *Report) {
	t.Helper()
	for _, f := range r.Findings {
		if f.Check == "" || f.Found == "" || f.Severity.Worse(Unknown) != (f.Remedy != "") || f.Severity.Worse(OK) != (f.Docs != "") {
			t.Errorf("got the finding %+v, want it with what is so, and a remedy if it is a problem", f)
		}
	}
	if r.Seconds > 10 {
		t.Errorf("it took %v s", r.Seconds)
	}
	if doc, err := json.Marshal(r); err != nil || strings.Contains(string(doc), "hunter2") {
		t.Errorf("got a secret, or %v, in %s", err, doc)
	}
}
