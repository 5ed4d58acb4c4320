// Command testreport runs go test and prints a readable report: a line per package,
// the whole log of every package that failed (passed tests left out), and counts.
//
//	testreport [ARGUMENTS OF go test]
//
// It exits 1 when a test failed or when one was skipped: a check that did not
// run is no check. Skips whose reason begins with testenv.NotCompared are
// counted and named, but allowed.
package main

import (
	"fmt"
	"os"
	"os/exec"
)

func main() {
	ok, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func run(args []string) (ok bool, err error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	r := newReport(os.Stdout)
	readErr := r.read(stdout)
	waitErr := cmd.Wait()
	ok = r.summarize()
	if ok && waitErr != nil {
		return false, fmt.Errorf("go test: %w", waitErr)
	}
	return ok, readErr
}
