// Command bench measures how fast workers are, beside each other and in one run, on servers of its own: this one, Celery's Python
// worker in prefork mode, and a bare consumer, which does the reads and writes of a job and nothing else. Each measures what its name says:
//
//	starts     from exec to the first result with one job waiting, what an idle worker takes, how long it takes to stop
//	hits       jobs a second and CPU time, for answers that are in the cache under the hash that the producer gives: from a worker's first
//	           result to its last, by all of its processes
//	latency    from enqueue to PUBLISH, for jobs that come one by one, and at half of the rate that hits found
//	control    how long remote control and the health check take while a queue is worked off
//	callbacks  jobs with a callback beside jobs without
//	chord      a chord whose parts are hits
//	waiting    10,000 jobs in flight that wait, and 1,000 that wait for two seconds
//	pictures   what a 12-megapixel photo takes, stage by stage, beside Pillow
//	growth     what becomes of jobs a second, CPU time, memory and latency as queues, caches and the number of workers grow
//
// Workers take turns where several rounds are made. The report is in Markdown.
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

// Arguments with which this program is another one.
const (
	bareCommand   = "bare"   // the bare consumer
	waiterCommand = "waiter" // a worker whose tasks wait
)

// options are the flags.
type options struct {
	jobs, rounds, parts    int
	idle                   time.Duration
	program, profile, page string
	plot, grow             string
	whole                  bool // everything is measured
}

// part is one that is measured.
type part struct {
	name    string
	measure func(context.Context, *bench, options) ([]*table, error)
}

var parts = []part{
	{"starts", starts}, {"hits", hits}, {"latency", latencies}, {"control", control}, {"callbacks", callbacks}, {"chord", chords},
	{"waiting", waiting}, {"pictures", pictures}, {"growth", growth},
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	if len(args) > 0 {
		switch args[0] {
		case bareCommand:
			return consumeBare(ctx)
		case waiterCommand:
			return consumeWaiting(ctx)
		}
	}
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	var o options
	fs := flag.NewFlagSet("bench", flag.ExitOnError)
	fs.IntVar(&o.jobs, "jobs", 20_000, "messages in the queue")
	fs.IntVar(&o.rounds, "rounds", 3, "how often each worker is measured")
	fs.IntVar(&o.parts, "parts", 10_000, "parts of the chord")
	fs.DurationVar(&o.idle, "idle", 10*time.Second, "how long a worker is watched that has nothing to do")
	fs.StringVar(&o.program, "program", "", "a worker that is measured too, built before, for comparison")
	fs.StringVar(&o.profile, "profile", "", "file for the CPU profile of this worker's last round; FILE.allocs gets its allocations")
	fs.StringVar(&o.page, "page", "", "Markdown file into which the report is written too, if it has everything")
	fs.StringVar(&o.plot, "plot", "", "SVG file for the plot of growth, if everything is measured")
	fs.StringVar(&o.grow, "grow", "", "measure only the growth of what has this in its name, such as failed")
	only := fs.String("only", strings.Join(names, ","), "what is measured")
	_ = fs.Parse(args) // it exits
	wanted := strings.Split(*only, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-only names %q: expected some of %s", name, strings.Join(names, ", "))
		}
	}
	if o.whole = len(wanted) == len(names) && o.grow == ""; !o.whole {
		o.plot = "" // the documentation has all of it
	}
	dir, err := os.MkdirTemp("", "onceover-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := open(ctx, dir)
	defer b.close()
	if err != nil {
		return err
	}
	if err := b.enlist(ctx, o, out); err != nil {
		return err
	}
	report := fmt.Sprintf("`make bench%s` on %s: %s.\n\n", flagsText(fs), time.Now().Format("2006-01-02"), b.about)
	fmt.Fprint(out, report)
	for _, p := range parts {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		tables, err := p.measure(ctx, b, o)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		for _, t := range tables {
			text := t.markdown()
			fmt.Fprint(out, text)
			report += text
		}
	}
	if o.page != "" && o.whole {
		return writePage(o.page, report)
	}
	return nil
}

// flagsText is what was given, but for where the report goes.
func flagsText(fs *flag.FlagSet) string {
	var given []string
	fs.Visit(func(f *flag.Flag) {
		if f.Name != "page" && f.Name != "plot" {
			given = append(given, "-"+f.Name+" "+filepath.Base(f.Value.String()))
		}
	})
	if given == nil {
		return ""
	}
	return ` FLAGS="` + strings.Join(given, " ") + `"`
}

// enlist builds this worker and finds the others.
func (b *bench) enlist(ctx context.Context, o options, out io.Writer) error {
	present := filepath.Join(b.dir, "onceover")
	build := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", present} // as the Makefile does
	if o.profile != "" {
		build = append(build, "-tags", "profile")
	}
	if text, err := exec.CommandContext(ctx, "go", append(build, "onceover/cmd/onceover")...).CombinedOutput(); err != nil {
		return fmt.Errorf("build the worker: %w\n%s", err, text)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b.bare = &candidate{name: "bare consumer", args: []string{self, bareCommand}}
	b.waiter = &candidate{name: "onceover", args: []string{self, waiterCommand}}
	b.ours = &candidate{name: "onceover", args: []string{present, "worker"}, profile: o.profile, control: true}
	b.candidates = []*candidate{b.bare, b.ours}
	if o.program != "" {
		b.candidates = append(b.candidates, &candidate{name: "onceover before", args: []string{o.program, "worker"}, control: true})
	}
	b.python = os.Getenv("ONCEOVER_TEST_PYTHON")
	if b.python == "" {
		fmt.Fprintln(out, "ONCEOVER_TEST_PYTHON is not set (make setup writes .cache/test.env): not beside Celery")
		return nil
	}
	if err := os.WriteFile(filepath.Join(b.dir, "bench_app.py"), []byte(pythonApp), 0o600); err != nil {
		return err
	}
	b.candidates = append(b.candidates, &candidate{name: "Celery prefork", control: true, args: []string{b.python, "-m", "celery", "-A", "bench_app", "worker",
		"-c", "2", "-Q", queue, "-l", "WARNING", "--prefetch-multiplier", "4", "--without-gossip", "--without-mingle"}})
	return nil
}

// whole are the candidates that do all that Celery does.
func (b *bench) whole() (all []*candidate) {
	for _, c := range b.candidates {
		if c.control {
			all = append(all, c)
		}
	}
	return all
}

// hits measures each candidate in turn, with ratios to the first one.
func hits(ctx context.Context, b *bench, o options) ([]*table, error) {
	all := make([][]measured, len(b.candidates))
	for round := range o.rounds {
		for i, c := range b.candidates {
			m, err := b.measure(ctx, c, load{jobs: o.jobs, profiled: round == o.rounds-1})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			all[i] = append(all[i], m)
		}
	}
	t := &table{title: "Hits", note: fmt.Sprintf("%d jobs with the producer's hash; least, median and most of %d rounds in turn.", o.jobs, o.rounds),
		head: []string{"worker", "jobs/s", "of bare", "CPU s for 1,000", "of bare", "Redis commands a job", "RSS MB"}}
	for i, c := range b.candidates {
		rate := spreadOf(all[i], func(m measured) float64 { return m.rate })
		c.rate = rate[1]
		t.add(c.name, rate.text("%.0f"), ratios(all[i], all[0], func(m measured) float64 { return m.rate }).text("%.2f"),
			spreadOf(all[i], func(m measured) float64 { return m.cpu * 1000 / float64(o.jobs) }).text("%.3f"),
			ratios(all[i], all[0], func(m measured) float64 { return m.cpu }).text("%.2f"),
			spreadOf(all[i], func(m measured) float64 { return m.commands }).text("%.1f"),
			spreadOf(all[i], func(m measured) float64 { return m.rss / 1e6 }).text("%.0f"))
	}
	return []*table{t}, nil
}

// starts measures how each candidate begins, is idle, and ends.
func starts(ctx context.Context, b *bench, o options) ([]*table, error) {
	t := &table{title: "Start, idle, stop", note: "Commands inside of scripts are counted.",
		head: []string{"worker", "exec to first result, ms", "idle RSS MB", "idle CPU %", "idle Redis commands/s", "SIGTERM to exit, ms"}}
	for _, c := range b.candidates {
		s, err := b.start(ctx, c, o.idle)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		t.add(c.name, fmt.Sprintf("%.0f", s.first.Seconds()*1000), fmt.Sprintf("%.0f", s.rss/1e6), fmt.Sprintf("%.2f", s.cpu*100),
			fmt.Sprintf("%.1f", s.commands), fmt.Sprintf("%.0f", s.stop.Seconds()*1000))
	}
	return []*table{t}, nil
}
