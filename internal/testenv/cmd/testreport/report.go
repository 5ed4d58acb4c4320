package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"onceover/internal/testenv"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// report reads the events of one go test.
type report struct {
	out      io.Writer
	packages map[string]*packageRun
	tests    map[string]int // by result: pass, fail, skip
	failed   []string       // packages
	skipped  []string       // "package: test: reason", not allowed
	allowed  []string       // the same, allowed
	slow     []slowTest     // the slowest tests, first
}

// slowTest is a test with how long it took, waits for its turn among parallel tests not counted.
type slowTest struct {
	name    string
	seconds float64
}

// mostSlow is how many of the slowest tests are named, if they take slowFrom seconds or more.
const (
	mostSlow = 15
	slowFrom = 5
)

// packageRun is a package whose tests have not ended yet.
type packageRun struct {
	lines  []line
	result map[string]string // test: pass, fail, skip; a test that never ended is not in it
}

type line struct{ test, text string }

func newReport(out io.Writer) *report {
	return &report{out: out, packages: make(map[string]*packageRun), tests: make(map[string]int)}
}

// read takes events until r ends, and prints each package when it is done.
func (r *report) read(events io.Reader) error {
	lines := bufio.NewReader(events)
	for {
		text, err := lines.ReadBytes('\n')
		if len(text) > 0 {
			var e event
			if json.Unmarshal(text, &e) != nil {
				fmt.Fprintf(r.out, "%s", text) // not from a test: go's own word
			} else {
				r.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read go test: %w", err)
		}
	}
}

func (r *report) take(e event) {
	if e.Action == "build-output" {
		fmt.Fprint(r.out, e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &packageRun{result: make(map[string]string)}
		r.packages[e.Package] = p
	}
	switch e.Action {
	case "output":
		p.lines = append(p.lines, line{e.Test, e.Output})
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.finish(e, p)
			return
		}
		p.result[e.Test] = e.Action
		r.tests[e.Action]++
		if e.Elapsed >= slowFrom && !strings.Contains(e.Test, "/") {
			r.slow = append(r.slow, slowTest{e.Package + ": " + e.Test, e.Elapsed})
			slices.SortStableFunc(r.slow, func(a, b slowTest) int { return cmp.Compare(b.seconds, a.seconds) })
			r.slow = r.slow[:min(len(r.slow), mostSlow)]
		}
		if e.Action == "skip" {
			r.skip(e, p)
		}
	}
}

// skip files the skip under the allowed ones or the others.
func (r *report) skip(e event, p *packageRun) {
	reason := ""
	for _, l := range p.lines {
		if l.test == e.Test && !strings.HasPrefix(strings.TrimSpace(l.text), "--- ") && !strings.HasPrefix(l.text, "=== ") {
			reason += strings.TrimSpace(l.text) + " "
		}
	}
	entry := fmt.Sprintf("%s: %s: %s", e.Package, e.Test, strings.TrimSpace(reason))
	if strings.Contains(reason, testenv.NotCompared) {
		r.allowed = append(r.allowed, entry)
	} else {
		r.skipped = append(r.skipped, entry)
	}
}

// finish prints the package's line and, where it failed, the log of what failed.
func (r *report) finish(e event, p *packageRun) {
	delete(r.packages, e.Package)
	elapsed := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok    %-45s %7v  %d tests\n", e.Package, elapsed, len(p.result))
	case "skip":
		fmt.Fprintf(r.out, "-     %-45s no test files\n", e.Package)
	case "fail":
		r.failed = append(r.failed, e.Package)
		p.printFailed(r.out)
		fmt.Fprintf(r.out, "FAIL  %-45s %7v\n", e.Package, elapsed)
	}
}

// printFailed prints in order what was written by failed tests, by tests that
// never ended (time-out, os.Exit) and by no test (panics, leaked goroutines).
func (p *packageRun) printFailed(out io.Writer) {
	for _, l := range p.lines {
		passed := p.result[l.test] == "pass" || p.result[l.test] == "skip"
		noise := strings.HasPrefix(l.text, "=== ") || l.test == "" && (l.text == "FAIL\n" || l.text == "PASS\n")
		if !passed && !noise {
			fmt.Fprint(out, l.text)
		}
	}
}

// summarize prints the counts and reports whether all that should run has passed.
func (r *report) summarize() bool {
	for _, name := range slices.Sorted(maps.Keys(r.packages)) {
		r.packages[name].printFailed(r.out)
		r.failed = append(r.failed, name+" (did not end)")
	}
	list := func(heading string, entries []string) {
		if len(entries) > 0 {
			fmt.Fprintf(r.out, "\n%s\n  %s\n", heading, strings.Join(entries, "\n  "))
		}
	}
	var slow []string
	for _, t := range r.slow {
		slow = append(slow, fmt.Sprintf("%5.0f s  %s", t.seconds, t.name))
	}
	list("Slowest tests:", slow)
	list("Skipped, for want of what this machine could not install:", r.allowed)
	list("Skipped, which counts as failed:", r.skipped)
	list("Failed packages:", r.failed)
	fmt.Fprintf(r.out, "\n%d tests passed, %d failed, %d skipped\n", r.tests["pass"], r.tests["fail"], r.tests["skip"])
	if r.tests["pass"] == 0 {
		fmt.Fprintln(r.out, "No test has run.")
		return false
	}
	return len(r.failed) == 0 && len(r.skipped) == 0
}
