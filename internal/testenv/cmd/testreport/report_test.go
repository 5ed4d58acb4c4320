package main

import (
	"strings"
	"testing"

	"onceover/internal/testenv"
)

func TestReport(t *testing.T) {
	t.Parallel()
	const passed = `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"TestA","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
`
	for _, c := range []struct {
		name, events string
		ok           bool
		want, not    string // in the output
	}{
		{"passed", passed + `{"Action":"pass","Package":"p","Elapsed":1.5}`, true, "ok    p", "quiet"},
		{"failed", passed + `{"Action":"output","Package":"p","Test":"TestB","Output":"loud\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"fail","Package":"p"}`, false, "loud\nFAIL  p", "quiet"},
		{"log of a subtest", passed + `{"Action":"output","Package":"p","Test":"TestB/x","Output":"loud\n"}
{"Action":"fail","Package":"p","Test":"TestB/x"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"fail","Package":"p"}`, false, "1 tests passed, 2 failed", "quiet"},
		{"skipped", passed + `{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:3: no server\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p"}`, false, "p: TestB: b_test.go:3: no server", "quiet"},
		{"skipped, allowed", passed + `{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:3: ` + testenv.NotCompared + `x\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p"}`, true, "1 tests passed, 0 failed, 1 skipped", "counts as failed"},
		{"slow", passed + `{"Action":"pass","Package":"p","Test":"TestB","Elapsed":5.5}
{"Action":"pass","Package":"p","Test":"TestC","Elapsed":70}
{"Action":"pass","Package":"p","Test":"TestC/sub","Elapsed":60}
{"Action":"pass","Package":"p"}`, true, "Slowest tests:\n     70 s  p: TestC\n      6 s  p: TestB\n\n", "sub"},
		{"no test files", passed + `{"Action":"pass","Package":"p"}
{"Action":"skip","Package":"q"}`, true, "no test files", "Skipped"},
		{"cut off", passed + `{"Action":"output","Package":"p","Output":"panic: x\n"}`, false, "panic: x", "quiet"},
		{"does not build", passed + `{"Action":"pass","Package":"p"}
{"ImportPath":"q","Action":"build-output","Output":"q.go:1: undefined: y\n"}
{"ImportPath":"q","Action":"build-fail"}
{"Action":"start","Package":"q"}
{"Action":"fail","Package":"q","FailedBuild":"q"}`, false, "q.go:1: undefined: y", "quiet"},
		{"time-out", passed + `{"Action":"output","Package":"p","Test":"TestB","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"p"}`, false, "panic: test timed out", "quiet"},
		{"not JSON", "go: no such package\n", false, "go: no such package", "ok  "},
		{"nothing", "", false, "No test has run.", "ok  "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			r := newReport(&out)
			if err := r.read(strings.NewReader(c.events)); err != nil {
				t.Fatal(err)
			}
			if got := r.summarize(); got != c.ok {
				t.Errorf("ok: got %v, want %v", got, c.ok)
			}
			if !strings.Contains(out.String(), c.want) || strings.Contains(out.String(), c.not) {
				t.Errorf("output: got\n%s\nwant %q in it and not %q", out.String(), c.want, c.not)
			}
		})
	}
}
