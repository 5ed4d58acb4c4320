package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"onceover/internal/loadtest"
)

// TestBenchOutcome has all ways in which a load test ends.
func TestBenchOutcome(t *testing.T) {
	fine, failing := &loadtest.Report{}, &loadtest.Report{All: loadtest.Row{Failed: 1}}
	stalled := &loadtest.StalledError{Missing: 3}
	for name, c := range map[string]struct {
		report *loadtest.Report
		err    error
		html   string
		code   int // 0: no error, 1: one without a code
	}{
		"not wanted":                   {},
		"no broker":                    {err: errors.New("no broker"), code: 1},
		"stalled before the test":      {err: stalled, code: exitNotFinished},
		"stalled":                      {report: fine, err: stalled, code: exitNotFinished},
		"done":                         {report: fine},
		"jobs failed":                  {report: failing, code: exitJobFailed},
		"jobs failed, no page written": {report: failing, html: filepath.Join("no", "such", "folder", "r.html"), code: exitJobFailed},
	} {
		var out bytes.Buffer
		o := &loadOrder{out: &out, errs: &out, html: c.html}
		err := o.outcome(c.report, c.err)
		var coded *exitCodeError
		switch {
		case c.code == 0 && err != nil, c.code != 0 && err == nil:
			t.Errorf("%s: got %v", name, err)
		case c.code > 1 && (!errors.As(err, &coded) || coded.code != c.code):
			t.Errorf("%s: got %v, want exit code %d", name, err, c.code)
		case c.html != "" && !strings.Contains(err.Error(), "r.html"):
			t.Errorf("%s: got %v, want what was not written", name, err)
		}
		if printed := strings.Contains(out.String(), "ended in"); printed != (c.report != nil) {
			t.Errorf("%s: got %q", name, out.String())
		}
	}
}

func TestEnviron(t *testing.T) {
	got := environ([]string{"A=1", "B_FILE=/b", "C=3", "HOME=/h"}, map[string]string{"A": "2", "B": "x", "C": ""})
	slices.Sort(got)
	if want := []string{"A=2", "B=x", "HOME=/h"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
