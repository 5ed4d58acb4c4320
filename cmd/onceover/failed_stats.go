package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"onceover/failed"
	"onceover/internal/config"
)

func newFailedStats() *cobra.Command {
	var hours int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Count failed jobs by cause and by hour",
		Long: `Shows what jobs fail of: the message of an error without the ids, numbers and URLs
that differ from job to job. HOUR and DAY count every failure, including jobs that
were replayed or discarded since, to five minutes; KEPT is exact. Below is how many
jobs failed in each of the last hours. The last column chooses a cause:

  onceover failed replay --cause ID`,
		Example: `  onceover failed stats
  onceover failed stats --hours 6 --json`,
		Args: noArgs,
	}
	settings := config.Bind(cmd.Flags(), failedFlags...)
	cmd.Flags().IntVar(&hours, "hours", 24, "how many hours back, up to 360")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		if hours < 1 || hours > 360 {
			return usageError(fmt.Errorf("--hours %d: expected 1 to 360", hours))
		}
		store, closeStore, err := openFailed(cmd.Context(), settings)
		if err != nil {
			return err
		}
		defer closeStore()
		s, err := gatherStats(cmd.Context(), store, hours)
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
		}
		s.draw(cmd.OutOrStdout())
		return nil
	}
	return cmd
}

// failureStats is what stats shows.
type failureStats struct {
	Kept    int            `json:"kept"`
	Causes  []failed.Cause `json:"causes"`  // the worst first
	Classes map[string]int `json:"classes"` // of the kept jobs, by class of error
	Tasks   map[string]int `json:"tasks"`   // by task
	Oldest  *time.Time     `json:"oldest"`
	Hours   []hourStats    `json:"hours"` // the oldest first
}

type hourStats struct {
	Hour    time.Time      `json:"hour"`
	Failed  int            `json:"failed"`
	Classes map[string]int `json:"classes"`
}

func gatherStats(ctx context.Context, store *failed.Store, hours int) (*failureStats, error) {
	s := &failureStats{Classes: map[string]int{}, Tasks: map[string]int{}}
	var err error
	if s.Causes, err = store.Causes(ctx); err != nil {
		return nil, err
	}
	for _, c := range s.Causes {
		if c.Kept > 0 {
			s.Kept += c.Kept
			s.Classes[orDash(c.Error)] += c.Kept
			s.Tasks[orDash(c.Task)] += c.Kept
		}
	}
	oldest, ok, err := store.Oldest(ctx)
	if err != nil {
		return nil, err
	}
	if ok {
		s.Oldest = &oldest
	}
	counts, err := store.Hours(ctx, hours)
	if err != nil {
		return nil, err
	}
	for _, c := range counts {
		s.Hours = append(s.Hours, hourStats{c.Start, c.Total(), c.Classes})
	}
	return s, nil
}

// maxCausesShown is how many causes are shown, so that they fit on a terminal.
const maxCausesShown = 12

func (s *failureStats) draw(out io.Writer) {
	if s.Kept == 0 || s.Oldest == nil {
		fmt.Fprintln(out, "no failed jobs are kept")
	} else {
		fmt.Fprintf(out, "%s kept, the oldest failed %s ago\n\n", jobs(s.Kept), age(*s.Oldest))
	}
	if len(s.Causes) > 0 {
		rows := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(rows, "HOUR\tDAY\tKEPT\tLAST\t\tCAUSE")
		for _, c := range s.Causes[:min(len(s.Causes), maxCausesShown)] {
			what := c.Error + ": " + c.Text
			if c.Reason != failed.ReasonFailed {
				what = string(c.Reason) + ": " + what
			}
			fmt.Fprintf(rows, "%d\t%d\t%d\t%s\t%s\t  %s\n", c.Hour, c.Day, c.Kept, age(c.Last), c.ID, plainLine(what, 40))
		}
		rows.Flush()
		if n := len(s.Causes) - maxCausesShown; n > 0 {
			fmt.Fprintf(out, "… and %d more: --json has all\n", n)
		}
		fmt.Fprintln(out)
	}
	most, total := 0, 0
	for _, h := range s.Hours {
		most, total = max(most, h.Failed), total+h.Failed
	}
	fmt.Fprintf(out, "failed in the last %d hours: %d, at most %d in one\n", len(s.Hours), total, most)
	line := make([]rune, len(s.Hours))
	for i, h := range s.Hours {
		line[i] = level(h.Failed, most)
	}
	for part := range slices.Chunk(line, lineHours) {
		fmt.Fprintln(out, string(part))
	}
	if len(s.Hours) > 0 {
		fmt.Fprintf(out, "from %s, an hour each\n", s.Hours[0].Hour.Local().Format("02 Jan 15:00"))
	}
}

// lineHours is how many hours are drawn on a line.
const lineHours = 72

// levels are the characters of which level draws, by height.
const levels = "▁▂▃▄▅▆▇█"

// level draws n as a part of most, 0 as a dot.
func level(n, most int) rune {
	if n <= 0 || most <= 0 {
		return '·'
	}
	all := []rune(levels)
	return all[min(len(all)-1, (n*len(all)-1)/most)]
}
