// Command matrix runs tests and a violence run on pairs of releases of RabbitMQ and of
// Redis or Valkey, and writes docs/tested-with.md, a table with a row for each pair.
//
//	matrix [-pairs "4.0+redis-8.0 4.3+valkey-9"] [-out FILE] [-violence "FLAGS"] [-run REGEXP] [PACKAGE...]
//
// Rows of other pairs stay as they are. With -run or packages it prints the table and
// writes nothing, as that is not the run which the page speaks of. scripts/matrix
// builds the servers and the programs testreport and violence, which it expects in
// its own folder. It exits with 1 when a pair fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// What make matrix runs.
const (
	allPairs    = "3.10+redis-7.0 4.0+redis-8.0 4.0+valkey-8 4.3+redis-8.0 4.3+valkey-9"
	allPackages = "./worker ./failed ./e2e"
	// A minute, with another seed than the tests have.
	shortViolence = "-short -seed 2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ok, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (ok bool, err error) {
	fs := flag.NewFlagSet("matrix", flag.ExitOnError)
	pairs := fs.String("pairs", allPairs, "RABBITMQ+PRODUCT-RELEASE, separated by spaces")
	out := fs.String("out", "docs/tested-with.md", "the page")
	violence := fs.String("violence", shortViolence, "flags of the violence run; empty: none")
	only := fs.String("run", "", "only these tests, a regular expression")
	_ = fs.Parse(args) // it exits
	work, err := parsePairs(*pairs)
	if err != nil {
		return false, err
	}
	job := job{run: *only, packages: fs.Args(), violence: *violence, today: time.Now().UTC().Format(time.DateOnly)}
	partial := job.run != "" || len(job.packages) > 0 || job.violence == ""
	if len(job.packages) == 0 {
		job.packages = strings.Fields(allPackages)
	}
	if job.programs, err = ownFolder(); err != nil {
		return false, err
	}
	if job.celery, job.python, err = pythonVersions(ctx); err != nil {
		return false, err
	}
	ok = true
	var rows []row
	for _, p := range work {
		r, err := job.on(ctx, p)
		if ctx.Err() != nil {
			return false, errors.Join(errors.New("stopped; nothing is written"), err)
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", p, err)
		}
		ok = ok && r.passed
		rows = append(rows, r)
	}
	if partial {
		fmt.Print(table(rows))
		return ok, nil
	}
	return ok, writePage(*out, rows)
}

func ownFolder() (string, error) {
	program, err := os.Executable()
	return filepath.Dir(program), err
}

// pythonVersions returns the versions of the Celery and the Python that tests use.
func pythonVersions(ctx context.Context) (celery, python string, err error) {
	program := os.Getenv("ONCEOVER_TEST_PYTHON")
	if program == "" {
		return "", "", errors.New("ONCEOVER_TEST_PYTHON is empty: run scripts/matrix")
	}
	out, err := exec.CommandContext(ctx, program, "-c", "import sys, celery; print(celery.__version__, sys.version.split()[0])").Output()
	if err != nil {
		return "", "", fmt.Errorf("ask %s for its Celery: %w", program, err)
	}
	celery, python, _ = strings.Cut(strings.TrimSpace(string(out)), " ")
	return celery, python, nil
}
