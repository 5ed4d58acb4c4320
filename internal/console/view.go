package console

import (
	"errors"
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strings"
	"time"

	"onceover/cache"
	"onceover/failed"
	"onceover/internal/control"
)

// OldestWaiting is how long the oldest job of all queues has waited at least.
func (s *Snapshot) OldestWaiting() (oldest time.Duration) {
	for _, q := range s.Queues {
		oldest = max(oldest, q.Oldest)
	}
	return oldest
}

// Waiting is how many messages wait in the queues that answered.
func (s *Snapshot) Waiting() (n int) {
	for _, q := range s.Queues {
		n += q.State.Value.Ready
	}
	return n
}

// QueuesKnown reports whether all queues answered.
func (s *Snapshot) QueuesKnown() bool {
	for _, q := range s.Queues {
		if !q.State.OK() {
			return false
		}
	}
	return true
}

// Alarm is why the broker takes no messages, such as "low on disk"; "" if it takes them, or if that is not known.
func (s *Snapshot) Alarm() string {
	var blocked *control.BlockedError
	if errors.As(s.Workers.Err, &blocked) {
		return blocked.Reason
	}
	return ""
}

// Problem is what keeps workers from running jobs as they should.
type Problem struct {
	Text    string
	Node    string // the first that says so
	Workers int    // how many do
}

// More reports whether several workers have the problem.
func (p Problem) More() bool { return p.Workers > 1 }

// Problems are what workers say of themselves, each once.
func (s *Snapshot) Problems() (out []Problem) {
	for _, w := range s.Workers.Value {
		for _, text := range w.Problems {
			if i := slices.IndexFunc(out, func(p Problem) bool { return p.Text == text }); i >= 0 {
				out[i].Workers++
				continue
			}
			out = append(out, Problem{text, w.Node, 1})
		}
	}
	return out
}

// Running is how many jobs run.
func (s *Snapshot) Running() (n int) {
	for _, w := range s.Workers.Value {
		n += w.Active
	}
	return n
}

// Slots is how many jobs may run at once.
func (s *Snapshot) Slots() (n int) {
	for _, w := range s.Workers.Value {
		n += w.Slots
	}
	return n
}

// FailedHour is how many jobs failed in the last hour, to five minutes.
func (s *Snapshot) FailedHour() (n int) {
	for _, c := range s.Causes.Value {
		n += c.Hour
	}
	return n
}

// FailedDay is how many jobs failed in the last 24 hours.
func (s *Snapshot) FailedDay() (n int) {
	for _, c := range s.Causes.Value {
		n += c.Day
	}
	return n
}

// RunningBulks are those under way.
func (s *Snapshot) RunningBulks() (out []failed.Bulk) {
	for _, b := range s.Bulks.Value {
		if b.State == failed.BulkRunning {
			out = append(out, b)
		}
	}
	return out
}

func (s *Snapshot) sum(of func(cache.Hour) int64) (n int64) {
	for _, h := range s.Cache.Value.Hours {
		n += of(h)
	}
	return n
}

// CacheHits is how many jobs of the last 24 hours needed no call, CacheJobs how many there were.
func (s *Snapshot) CacheHits() int { return int(s.sum(cache.Hour.Hits)) }
func (s *Snapshot) CacheJobs() int { return int(s.sum(cache.Hour.Jobs)) }

// SpentMicroUSD is what the calls have cost, in millionths of a US dollar.
func (s *Snapshot) SpentMicroUSD() int64 {
	return s.sum(func(h cache.Hour) int64 { return h.SpentMicroUSD })
}

// SavedMicroUSD is what these would have cost, in millionths of a US dollar.
func (s *Snapshot) SavedMicroUSD() int64 {
	return s.sum(func(h cache.Hour) int64 { return h.SavedMicroUSD })
}

// CacheChart has the jobs of each hour: those that needed no call, and those that did.
func (s *Snapshot) CacheChart() Bars {
	b := Bars{Parts: []string{"answered by the cache", "asked the model"}, Classes: []string{"a", "b"}}
	for _, h := range s.Cache.Value.Hours {
		b.add(h.Hour, h.Hits(), h.Missed)
	}
	return b
}

// FailureChart has the failures of each hour.
func (s *Snapshot) FailureChart() Bars {
	b := Bars{Parts: []string{"failed"}, Classes: []string{"r"}}
	for _, h := range s.Hours.Value {
		b.add(h.Start, int64(h.Total()))
	}
	return b
}

// Percent is how much of a bulk is done.
func (b bulkShown) Percent() int {
	switch {
	case b.State == failed.BulkDone:
		return 100
	case b.Total == 0:
		return 0
	}
	return min(100, (b.Done+b.Bulk.Left)*100/b.Total)
}

// jobIDIn finds the id under which a job shows its progress in its arguments, as Celery writes them.
var jobIDIn = regexp.MustCompile(`['"]job_id['"]: (?:'([^']*)'|"([^"]*)"|(\d+))`)

// jobIDOf returns the id under which a job shows its progress.
func jobIDOf(j control.Job) string {
	if m := jobIDIn.FindStringSubmatch(j.Kwargs); m != nil {
		return m[1] + m[2] + m[3]
	}
	return j.ID
}

// Bars is a chart of numbers by the hour, stacked.
type Bars struct {
	Parts   []string // what is counted, from below
	Classes []string // and its colour
	hours   []time.Time
	counts  [][]int64
}

func (b *Bars) add(hour time.Time, counts ...int64) {
	b.hours, b.counts = append(b.hours, hour), append(b.counts, counts)
}

// draw returns the chart as SVG, with a table for those who do not see it.
func (b Bars) draw(l *tongue) template.HTML {
	if len(b.hours) == 0 {
		return ""
	}
	const width, height, base, top = 480, 120, 104, 14
	var most int64 = 1
	for _, counts := range b.counts {
		var sum int64
		for _, n := range counts {
			sum += n
		}
		most = max(most, sum)
	}
	step := float64(width) / float64(len(b.hours))
	var out strings.Builder
	fmt.Fprintf(&out, `<svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="%s">`, width, height, template.HTMLEscapeString(l.text("by the hour")))
	fmt.Fprintf(&out, `<line x1="0" y1="%d" x2="%d" y2="%d"/><text x="0" y="10">%s</text>`, base, width, base, number(most))
	for i, counts := range b.counts {
		y := float64(base)
		var said []string
		for k, n := range counts {
			h := float64(base-top) * float64(n) / float64(most)
			y -= h
			said = append(said, number(n)+" "+l.text(b.Parts[k]))
			if n > 0 {
				fmt.Fprintf(&out, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, b.Classes[k], float64(i)*step+1, y, step-2, max(h, 1))
			}
		}
		hour := b.hours[i].Local().Format("15:04")
		fmt.Fprintf(&out, `<rect x="%.1f" y="0" width="%.1f" height="%d" fill="transparent"><title>%s: %s</title></rect>`,
			float64(i)*step, step, base, hour, template.HTMLEscapeString(strings.Join(said, ", ")))
		if i%6 == 0 {
			fmt.Fprintf(&out, `<text x="%.1f" y="%d">%s</text>`, float64(i)*step, height-4, hour)
		}
	}
	out.WriteString("</svg>")
	return template.HTML(out.String())
}
