// Command bench measures how fast workers are, beside each other and in one run, on servers of its own: this one, Celery's Python
// worker in prefork mode, and a bare consumer, which does the reads and writes of a job and nothing else.
//
// A queue holds as many jobs as -jobs says, whose answers are in the cache under the hash that the producer gives. A worker starts,
// and is measured from its first result to its last; its CPU time is that of all its processes in between. The workers take turns,
// -rounds times. Before that each starts once with one job waiting, is idle for a while, and stops. After it jobs come one by one, and at
// half the rate that the worker had.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bareCommand is the argument with which this program is the bare consumer.
const bareCommand = "bare"

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	if len(args) > 0 && args[0] == bareCommand {
		return consumeBare(ctx)
	}
	fs := flag.NewFlagSet("bench", flag.ExitOnError)
	jobs := fs.Int("jobs", 20_000, "messages in the queue")
	rounds := fs.Int("rounds", 3, "how often each worker is measured")
	idle := fs.Duration("idle", 10*time.Second, "how long a worker is watched that has nothing to do")
	program := fs.String("program", "", "a worker that is measured too, built before, for comparison")
	profile := fs.String("profile", "", "file for the CPU profile of this worker's last round; FILE.allocs gets its allocations")
	_ = fs.Parse(args) // it exits
	dir, err := os.MkdirTemp("", "onceover-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	present := filepath.Join(dir, "onceover")
	build := []string{"build", "-trimpath", "-buildvcs=false", "-o", present}
	if *profile != "" {
		build = append(build, "-tags", "profile")
	}
	if text, err := exec.CommandContext(ctx, "go", append(build, "onceover/cmd/onceover")...).CombinedOutput(); err != nil {
		return fmt.Errorf("build the worker: %w\n%s", err, text)
	}
	b, err := open(ctx, dir)
	defer b.close()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	candidates := []candidate{
		{name: "bare consumer", args: []string{self, bareCommand}},
		{name: "onceover", args: []string{present, "worker"}, profile: *profile},
	}
	if *program != "" {
		candidates = append(candidates, candidate{name: "onceover before", args: []string{*program, "worker"}})
	}
	if python := os.Getenv("ONCEOVER_TEST_PYTHON"); python != "" {
		if err := os.WriteFile(filepath.Join(dir, "bench_app.py"), []byte(pythonApp), 0o600); err != nil {
			return err
		}
		candidates = append(candidates, candidate{name: "celery prefork -c 2", args: []string{python, "-m", "celery", "-A", "bench_app", "worker",
			"-c", "2", "-Q", queue, "-l", "WARNING", "--prefetch-multiplier", "4", "--without-gossip", "--without-mingle"}})
	} else {
		fmt.Fprintln(out, "ONCEOVER_TEST_PYTHON is not set (make setup writes .cache/test.env): not beside Celery")
	}

	fmt.Fprintln(out, b.about)
	if err := starts(ctx, b, candidates, *idle, out); err != nil {
		return err
	}
	rates, err := hits(ctx, b, candidates, *jobs, *rounds, out)
	if err != nil {
		return err
	}
	return latencies(ctx, b, candidates, rates, out)
}

// hits measures each candidate in turn, and prints ratios to the first one. It returns the median of jobs a second of each.
func hits(ctx context.Context, b *bench, candidates []candidate, jobs, rounds int, out io.Writer) (rates []float64, err error) {
	all := make([][]measured, len(candidates))
	for round := range rounds {
		for i, c := range candidates {
			if round < rounds-1 {
				c.profile = ""
			}
			m, err := b.measure(ctx, c, jobs)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			all[i] = append(all[i], m)
		}
	}
	fmt.Fprintf(out, "\n%d hits, %d rounds in turn; least, median, most\n", jobs, rounds)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "worker\tjobs/s\tof bare\tCPU s/1,000\tof bare\tRedis commands/job\tRSS MB")
	for i, c := range candidates {
		rate := spreadOf(all[i], func(m measured) float64 { return m.rate })
		cpu := spreadOf(all[i], func(m measured) float64 { return m.cpu * 1000 / float64(jobs) })
		faster := ratios(all[i], all[0], func(m measured) float64 { return m.rate })
		dearer := ratios(all[i], all[0], func(m measured) float64 { return m.cpu })
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.name, rate.text("%.0f"), faster.text("%.2f"), cpu.text("%.3f"), dearer.text("%.2f"),
			spreadOf(all[i], func(m measured) float64 { return m.commands }).text("%.1f"),
			spreadOf(all[i], func(m measured) float64 { return m.rss / 1e6 }).text("%.0f"))
		rates = append(rates, rate[1])
	}
	return rates, w.Flush()
}

// starts measures how each candidate begins, is idle, and ends.
func starts(ctx context.Context, b *bench, candidates []candidate, idle time.Duration, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nworker\texec to first result, ms\tidle RSS MB\tidle CPU %%\tidle Redis commands/s\tSIGTERM to exit, ms\n")
	for _, c := range candidates {
		c.profile = ""
		s, err := b.start(ctx, c, idle)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\t%.1f\t%.0f\n", c.name, s.first.Seconds()*1000, s.rss/1e6, s.cpu*100, s.commands, s.stop.Seconds()*1000)
	}
	return w.Flush()
}

// spread is the least, the median, and the largest of some values.
type spread [3]float64

func spreadOf(all []measured, of func(measured) float64) spread {
	values := make([]float64, len(all))
	for i, m := range all {
		values[i] = of(m)
	}
	return spreadOver(values)
}

// ratios are those of each round.
func ratios(all, to []measured, of func(measured) float64) spread {
	values := make([]float64, len(all))
	for i, m := range all {
		values[i] = of(m) / of(to[i])
	}
	return spreadOver(values)
}

func spreadOver(values []float64) spread {
	slices.Sort(values)
	return spread{values[0], values[len(values)/2], values[len(values)-1]}
}

func (s spread) text(format string) string {
	var parts []string
	for _, v := range s {
		parts = append(parts, fmt.Sprintf(format, v))
	}
	return strings.Join(parts, " ")
}
