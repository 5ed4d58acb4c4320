package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
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
		Short: "Count failed jobs by class of error and by hour",
		Long: `Shows which errors the kept jobs have, and how many jobs failed in each of the last
hours, including those that were replayed or discarded since.`,
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
	err := store.Each(ctx, failed.Filter{}, func(e failed.Entry) bool {
		s.Kept++
		s.Classes[orDash(e.Error)]++
		s.Tasks[orDash(e.Task)]++
		if s.Oldest == nil || e.Last.Before(*s.Oldest) {
			last := e.Last
			s.Oldest = &last
		}
		return true
	})
	if err != nil {
		return nil, err
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

// barWidth is the length of the longest bar, in characters.
const barWidth = 40

func bar(n, most int) string {
	if n == 0 || most == 0 {
		return ""
	}
	return strings.Repeat("█", max(1, n*barWidth/most))
}

func (s *failureStats) draw(out io.Writer) {
	if s.Kept == 0 {
		fmt.Fprintln(out, "no failed jobs are kept")
	} else {
		fmt.Fprintf(out, "%s kept, the oldest failed %s ago\n\n", jobs(s.Kept), age(*s.Oldest))
		rows := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		for _, group := range []map[string]int{s.Classes, s.Tasks} {
			names := slices.SortedFunc(maps.Keys(group), func(a, b string) int {
				if group[a] != group[b] {
					return group[b] - group[a]
				}
				return strings.Compare(a, b)
			})
			for _, name := range names[:min(len(names), 20)] {
				fmt.Fprintf(rows, "%s\t%d\t%s\n", plainLine(name, 50), group[name], bar(group[name], group[names[0]]))
			}
			rows.Flush()
			fmt.Fprintln(out)
		}
	}
	most, total := 0, 0
	for _, h := range s.Hours {
		most, total = max(most, h.Failed), total+h.Failed
	}
	fmt.Fprintf(out, "failed in the last %d hours: %d\n", len(s.Hours), total)
	for _, h := range s.Hours {
		worst := ""
		for _, class := range slices.Sorted(maps.Keys(h.Classes)) {
			if worst == "" || h.Classes[class] > h.Classes[worst] {
				worst = class
			}
		}
		line := fmt.Sprintf("%s %6d %-*s %s", h.Hour.Local().Format("02 Jan 15:00"), h.Failed, barWidth, bar(h.Failed, most), plainLine(worst, 40))
		fmt.Fprintln(out, strings.TrimRight(line, " "))
	}
}
