package loadtest

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"onceover/celery"
)

// Report is what was measured. Times are in seconds.
type Report struct {
	Format  int       `json:"format"` // of this document: 1
	Program string    `json:"program"`
	At      time.Time `json:"at"`
	Machine string    `json:"machine"`
	Servers []string  `json:"servers"`
	Workers string    `json:"workers"`

	Jobs       int     `json:"jobs"`
	Shape      string  `json:"shape"`
	Rate       float64 `json:"rate"`        // jobs a second that were to be sent; 0: as fast as they were taken
	Sent       float64 `json:"sent"`        // jobs a second that were sent
	ModelDelay float64 `json:"model_delay"` // of the model that the test plays
	Side       int     `json:"picture_side"`

	Seconds    float64  `json:"seconds"` // from the first job sent to the last end
	All        Row      `json:"all"`
	Kinds      []Row    `json:"kinds"`
	ModelCalls int      `json:"model_calls"` // of the model that the test plays
	Unfinished int      `json:"unfinished"`
	Failures   []Fault  `json:"failures"`
	Cost       *Cost    `json:"cost,omitempty"` // nil where the workers are not the test's
	Series     []Second `json:"series"`
}

// Row is what became of jobs of a kind.
type Row struct {
	Kind      string  `json:"kind"`
	Jobs      int     `json:"jobs"` // that have ended
	PerSecond float64 `json:"per_second"`
	Failed    int     `json:"failed"`
	// Exact, Near and Miss are how those that succeeded were answered, by the field cached of their results.
	Exact int `json:"exact"`
	Near  int `json:"near"`
	Miss  int `json:"miss"`
	// Other is how many succeeded and were answered otherwise than their kind is meant to be.
	Other int       `json:"other"`
	P50   float64   `json:"p50"`
	P90   float64   `json:"p90"`
	P99   float64   `json:"p99"`
	Max   float64   `json:"max"`
	Curve []float64 `json:"curve"` // the quantiles 0, 0.01 … 1
}

// Fault is a way in which jobs failed.
type Fault struct {
	Text  string `json:"text"`
	Count int    `json:"count"`
	Task  string `json:"task"` // the first one
}

// Cost is what the workers of a test took.
type Cost struct {
	CPU    float64 `json:"cpu"`    // of all jobs
	Memory float64 `json:"memory"` // bytes, of all workers at their largest
}

// Second is one of the test.
type Second struct {
	At        float64 `json:"at"`
	PerSecond float64 `json:"per_second"`
	Waiting   int     `json:"waiting"` // sent, without an end
	P50       float64 `json:"p50"`     // of jobs that ended in it; 0 if none did
	P99       float64 `json:"p99"`
}

// spread is how long jobs took, sorted.
type spread []time.Duration

func spreadOf(all []time.Duration) spread { return slices.Sorted(slices.Values(all)) }

// at returns the quantile q, by the nearest rank; 0 if there is none.
func (s spread) at(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	return s[max(0, int(math.Ceil(q*float64(len(s))))-1)]
}

// meant is how jobs of a kind are answered, by the field cached of their results.
var meant = map[Kind]string{Hash: "exact", File: "exact", Near: "near", Miss: ""}

// report sums up.
func (r *run) report() *Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &Report{Format: 1, At: r.began, Jobs: len(r.jobs), Series: r.seconds, Unfinished: len(r.jobs) - r.counts.Ended, Failures: []Fault{}}
	end := r.began
	faults := map[string]*Fault{}
	by := map[Kind][]*job{}
	var ended []*job
	for _, j := range r.jobs {
		if j.ended.IsZero() {
			continue
		}
		ended, by[j.kind] = append(ended, j), append(by[j.kind], j)
		if j.ended.After(end) {
			end = j.ended
		}
		if j.status == celery.Success {
			continue
		}
		if faults[j.fault] == nil {
			faults[j.fault] = &Fault{Text: j.fault, Task: j.id}
		}
		faults[j.fault].Count++
	}
	for _, f := range faults {
		out.Failures = append(out.Failures, *f)
	}
	slices.SortFunc(out.Failures, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Text, b.Text))
	})
	out.Seconds = end.Sub(r.began).Seconds()
	if took := r.sent.Sub(r.began).Seconds(); took > 0 {
		out.Sent = float64(r.counts.Sent) / took
	}
	out.All = rowOf("all", ended, out.Seconds)
	for _, k := range Kinds {
		if len(by[k]) > 0 {
			out.Kinds = append(out.Kinds, rowOf(string(k), by[k], out.Seconds))
		}
	}
	return out
}

func rowOf(kind string, jobs []*job, seconds float64) Row {
	row := Row{Kind: kind, Jobs: len(jobs)}
	if seconds > 0 {
		row.PerSecond = float64(len(jobs)) / seconds
	}
	var took []time.Duration
	for _, j := range jobs {
		took = append(took, j.ended.Sub(j.sent))
		switch {
		case j.status != celery.Success:
			row.Failed++
			continue
		case j.cached == "exact":
			row.Exact++
		case j.cached == "near":
			row.Near++
		default:
			row.Miss++
		}
		if j.cached != meant[j.kind] {
			row.Other++
		}
	}
	s := spreadOf(took)
	row.P50, row.P90, row.P99, row.Max = s.at(0.5).Seconds(), s.at(0.9).Seconds(), s.at(0.99).Seconds(), s.at(1).Seconds()
	for q := range 101 {
		row.Curve = append(row.Curve, s.at(float64(q)/100).Seconds())
	}
	return row
}

// Rows are those of each kind, and of all if there are several kinds.
func (r *Report) Rows() []Row {
	if len(r.Kinds) < 2 {
		return r.Kinds
	}
	return append(slices.Clone(r.Kinds), r.All)
}

// Saved is the share of jobs that were answered without the model.
func (r *Report) Saved() float64 {
	if good := r.All.Jobs - r.All.Failed; good > 0 {
		return float64(r.All.Exact+r.All.Near) / float64(good)
	}
	return 0
}

// Facts say in words what was measured, on what.
func (r *Report) Facts() []string {
	how := "as fast as they were taken"
	if r.Rate > 0 {
		how = fmt.Sprintf("%s a second (%s were wanted)", Figure(r.Sent), Figure(r.Rate))
	}
	out := []string{
		fmt.Sprintf("%s jobs (%s), sent %s; %s", Figure(float64(r.Jobs)), r.Shape, how, r.Workers),
		fmt.Sprintf("%s ended in %s: %s a second", Figure(float64(r.All.Jobs)), Time(r.Seconds), Figure(r.All.PerSecond)),
		fmt.Sprintf("%.0f %% were answered without the model", 100*r.Saved()),
	}
	if r.Cost != nil && r.All.Jobs > 0 {
		out = append(out, fmt.Sprintf("CPU time for 1,000 jobs: %s; memory at most: %.0f MB", Time(r.Cost.CPU*1000/float64(r.All.Jobs)), r.Cost.Memory/1e6))
	}
	if r.Unfinished > 0 {
		out = append(out, fmt.Sprintf("%s had not ended when the test gave up", Figure(float64(r.Unfinished))))
	}
	if r.All.Other > 0 {
		out = append(out, fmt.Sprintf("%s were answered otherwise than meant, see the table", Figure(float64(r.All.Other))))
	}
	return append(out, fmt.Sprintf("%s; %s", r.Machine, strings.Join(r.Servers, ", ")))
}

// Print writes the report for a terminal.
func (r *Report) Print(out io.Writer) error {
	for _, f := range r.Facts() {
		fmt.Fprintln(out, f)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "kind\tjobs\tjobs/s\tp50\tp90\tp99\tmost\texact\tnear\tmiss\tfailed\t")
	for _, row := range r.Rows() {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t\n", row.Kind, row.Jobs, Figure(row.PerSecond),
			Time(row.P50), Time(row.P90), Time(row.P99), Time(row.Max), row.Exact, row.Near, row.Miss, row.Failed)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range r.Failures {
		fmt.Fprintf(out, "%d failed, such as %s: %s\n", f.Count, f.Task, f.Text)
	}
	return nil
}

// Figure writes a count or a rate with three digits or more, and separators.
func Figure(v float64) string {
	digits := 0
	switch {
	case v == float64(int64(v)), v >= 100:
	case v >= 10:
		digits = 1
	default:
		digits = 2
	}
	text := fmt.Sprintf("%.*f", digits, v)
	whole, rest, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		whole += "." + rest
	}
	return whole
}

// Time writes seconds with the unit that suits them.
func Time(seconds float64) string {
	switch {
	case seconds == 0:
		return "0"
	case seconds < 0.01:
		return fmt.Sprintf("%.2f ms", seconds*1000)
	case seconds < 0.1:
		return fmt.Sprintf("%.1f ms", seconds*1000)
	case seconds < 1:
		return fmt.Sprintf("%.0f ms", seconds*1000)
	case seconds < 100:
		return fmt.Sprintf("%.2f s", seconds)
	default:
		return (time.Duration(seconds) * time.Second).String()
	}
}
