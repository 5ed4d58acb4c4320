package violence

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Count is how often something was.
type Count struct {
	Name string
	N    int
}

// Row is what became of the tasks of one kind of job.
type Row struct {
	Kind      string
	Jobs      int // messages published
	Tasks     int // task ids
	Succeeded int
	Failed    int // as they should, with exactly one record where there is to be one
	Aside     int // of those that would have succeeded, kept as expired, poison, …, by what is proven to be our own doing
	Lost      int // without a final state
	Wrong     int // any other end than wanted
	Mended    int // SUCCESS and no record after the replay
	Calls     int // of the model
	Doubled   int // calls that the job did not need
}

// Report is the outcome of a run.
type Report struct {
	Seed    uint64
	Took    time.Duration
	Servers string
	Acts    []Count
	Crashes []Count // by crash.Point
	Aside   []Count // by reason
	Kinds   []Row

	Records  int // run again
	Left     int // that had succeeded although their record was still there
	Repeated int // publications of the producer that were sent twice
	Doubled  int // calls of the model
	Bound    int // the most that Doubled may be
	Faults   []string

	began time.Time
	aside map[string]int
}

func newReport(cfg Config) *Report {
	r := &Report{Seed: cfg.Seed, began: time.Now(), aside: map[string]int{}}
	for k := range kinds {
		r.Kinds = append(r.Kinds, Row{Kind: k.String()})
	}
	return r
}

// fill completes the report.
func (r *run) fill() {
	out := r.report
	for _, j := range r.ledger.jobs {
		out.Kinds[j.kind].Jobs++
	}
	limit := "no delivery limit"
	if r.limit > 0 {
		limit = fmt.Sprintf("delivery limit %d", r.limit)
	}
	out.Servers = fmt.Sprintf("RabbitMQ %s (%s), %s", r.servers.version, limit, r.servers.redis.Version())
	out.Took, out.Repeated = time.Since(out.began), r.producer.again
	out.Acts, out.Crashes, out.Aside = list(r.tally.acts), list(r.tally.crashes), list(out.aside)
	out.Faults = r.tally.faults
}

// Write writes the report as tables.
func (r *Report) Write(w io.Writer) {
	fmt.Fprintf(w, "\nseed %d, %v, %s\n\n", r.Seed, r.Took.Round(time.Second), r.Servers)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "violence\tcount")
	for _, c := range r.Acts {
		fmt.Fprintf(t, "%s\t%d\n", c.Name, c.N)
	}
	for _, c := range r.Crashes {
		fmt.Fprintf(t, "killed at %s\t%d\n", c.Name, c.N)
	}
	_ = t.Flush()
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "job\tsent\ttasks\tsucceeded\tfailed, kept\tset aside\tlost\twrong\tSUCCESS after replay\tvision calls\tdoubled\t")
	sum := Row{Kind: "all"}
	for _, k := range append(r.Kinds, sum) {
		if k.Kind == "all" {
			k = sum
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n",
			k.Kind, k.Jobs, k.Tasks, k.Succeeded, k.Failed, k.Aside, k.Lost, k.Wrong, k.Mended, k.Calls, k.Doubled)
		sum.Jobs, sum.Tasks, sum.Succeeded, sum.Failed = sum.Jobs+k.Jobs, sum.Tasks+k.Tasks, sum.Succeeded+k.Succeeded, sum.Failed+k.Failed
		sum.Aside, sum.Lost, sum.Wrong, sum.Mended = sum.Aside+k.Aside, sum.Lost+k.Lost, sum.Wrong+k.Wrong, sum.Mended+k.Mended
		sum.Calls, sum.Doubled = sum.Calls+k.Calls, sum.Doubled+k.Doubled
	}
	_ = t.Flush()
	fmt.Fprintf(w, "\ndoubled vision calls: %d, bound %d (those in flight when their worker died or lost them)\n", r.Doubled, r.Bound)
	for _, c := range r.Aside {
		fmt.Fprintf(w, "set aside as %s: %d\n", c.Name, c.N)
	}
	fmt.Fprintf(w, "records run again: %d, of which %d had succeeded before the record was gone\n", r.Records, r.Left)
	fmt.Fprintf(w, "publications repeated by the producer: %d\n", r.Repeated)
	if len(r.Faults) == 0 {
		fmt.Fprintln(w, "faults: none")
	}
	for _, f := range r.Faults {
		fmt.Fprintln(w, "FAULT:", f)
	}
}
