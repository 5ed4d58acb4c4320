package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"onceover/internal/testenv"
)

// pair is a release of RabbitMQ, such as 4.3, and one of Redis or Valkey, such as
// valkey-9.
type pair struct{ rabbit, redis string }

func (p pair) String() string { return p.rabbit + "+" + p.redis }

func parsePairs(text string) ([]pair, error) {
	var pairs []pair
	for _, word := range strings.Fields(text) {
		rabbit, redis, ok := strings.Cut(word, "+")
		if !ok || rabbit == "" || redis == "" {
			return nil, fmt.Errorf("pair is %q: expected RABBITMQ+PRODUCT-RELEASE, such as 4.3+valkey-9", word)
		}
		pairs = append(pairs, pair{rabbit, redis})
	}
	if len(pairs) == 0 {
		return nil, errors.New("no pair is given: expected RABBITMQ+PRODUCT-RELEASE, such as 4.3+valkey-9")
	}
	return pairs, nil
}

// job is all that is done on each pair.
type job struct {
	run      string // regular expression of tests; "": all
	packages []string
	violence string // flags; "": no violence run
	programs string // the folder of testreport and violence

	today, celery, python string
}

// on does the job on a pair. Tests that fail make a row; an error says that there
// were no servers to run them on.
func (j job) on(ctx context.Context, p pair) (row, error) {
	fmt.Printf("== %s\n", p)
	r := row{pair: p.String(), celery: j.celery, python: j.python, date: j.today, violence: "not run"}
	testsPass, err := j.tests(ctx, p, &r)
	if err != nil {
		return r, err
	}
	violencePass := true
	if j.violence != "" && ctx.Err() == nil {
		violencePass = j.rage(ctx, &r)
	}
	r.passed = testsPass && violencePass
	fmt.Printf("== %s: RabbitMQ %s, %s: %s; violence: %s\n", p, r.rabbit, r.redis, r.tests, r.violence)
	return r, nil
}

// tests runs the tests on servers of the pair.
func (j job) tests(ctx context.Context, p pair, r *row) (bool, error) {
	dir, err := os.MkdirTemp("", "onceover-matrix-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	// The servers started here, those of the tests and those of the violence run.
	if err := errors.Join(os.Setenv("ONCEOVER_TEST_RABBITMQ", p.rabbit), os.Setenv("ONCEOVER_TEST_REDIS", p.redis)); err != nil {
		return false, err
	}
	servers, err := testenv.StartServers(ctx, dir)
	defer servers.Stop()
	if err != nil {
		return false, err
	}
	version, redis, err := servers.Versions()
	if err != nil {
		return false, err
	}
	r.rabbit, r.redis = string(version), redis
	args := []string{"-race", "-count=1", "-vet=off", "-p", "2", "-timeout", "30m"}
	if j.run != "" {
		args = append(args, "-run", j.run)
	}
	out, ok := j.program(ctx, "testreport", append(servers.Env(), "ONCEOVER_TEST_REQUIRE=1"), append(args, j.packages...))
	r.tests = readTests(out, ok)
	return ok, nil
}

// rage runs the violence run, which starts servers of its own.
func (j job) rage(ctx context.Context, r *row) bool {
	out, ok := j.program(ctx, "violence", nil, strings.Fields(j.violence))
	r.violence = readViolence(out, ok)
	return ok
}

// program runs one of the programs, shows its output and returns it, and reports
// whether it exited with 0. The end of ctx ends it and all that it has started.
func (j job) program(ctx context.Context, name string, env, args []string) (string, bool) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(j.programs, name), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &out), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	err := cmd.Run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "matrix: %s: %v\n", name, err)
	}
	return out.String(), err == nil
}

// readTests makes a cell of what testreport printed.
func readTests(out string, ok bool) string {
	counts := regexp.MustCompile(`(?m)^(\d+) tests passed, (\d+) failed, (\d+) skipped$`).FindStringSubmatch(out)
	if counts == nil {
		return "**did not end**"
	}
	if ok {
		cell := counts[1] + " passed"
		if counts[3] != "0" {
			cell += ", " + counts[3] + " skipped"
		}
		return cell
	}
	cell := fmt.Sprintf("**%s failed**, %s passed, %s skipped", counts[2], counts[1], counts[3])
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`).FindAllStringSubmatch(out, -1) {
		names = append(names, "`"+m[1]+"`")
	}
	const most = 12
	if len(names) > most {
		names = append(names[:most], "…")
	}
	if len(names) > 0 {
		cell += ": " + strings.Join(names, ", ")
	}
	return cell
}

// readViolence makes a cell of what the violence run printed.
func readViolence(out string, ok bool) string {
	faults := strings.Count("\n"+out, "\nFAULT:")
	jobs := regexp.MustCompile(`(?m)^ *all +(\d+)`).FindStringSubmatch(out)
	switch {
	case faults > 0:
		return fmt.Sprintf("**faults: %d**", faults)
	case !ok || jobs == nil:
		return "**did not end**"
	default:
		return jobs[1] + " jobs, no fault"
	}
}
