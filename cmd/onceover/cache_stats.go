package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/guptarohit/asciigraph"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"onceover/cache"
	"onceover/phash"
	"onceover/vision/eval"
)

// maxStatsHours is how far back the statistics go.
const maxStatsHours = int(cache.TTL / time.Hour)

func newCacheStats() *cobra.Command {
	var hours, top int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "How well the cache works: hits, saved calls and money, by the hour",
		Long: `Counts the jobs of all workers by how their answer was found: by an equal hash
(exact), by a near one, by waiting for another job that asked about the same picture
(shared), or by asking the model (miss). Money is what the calls cost that are known
to have cost something: workers report it where --vision-price-in is set.

With --json: total (jobs, exact, near, shared, miss, hit_rate from 0 to 1 or null
without a job, saved_calls, saved_microusd, spent_microusd), hours (the oldest first,
the same counts), days (day, unique: different pictures, within 1 % or so), top
(picture, hits, category), canary (distance in bits, asked, differs, at_most: the upper
end of the 95 % interval of the share that differs; see ONCEOVER_CANARY), index (entries: hashes that can answer near pictures,
bytes: memory of it in each process) and entries (about how many are kept).`,
		Example: `  onceover cache stats
  onceover cache stats --hours 168 --top 20
  onceover cache stats --json | jq .total.hit_rate`,
		Args: noArgs,
	}
	s := bindCache(cmd, "redis-url", "cache-url", "cache-index-entries")
	cmd.Flags().IntVar(&hours, "hours", 24, fmt.Sprintf("how many hours back, up to %d", maxStatsHours))
	cmd.Flags().IntVar(&top, "top", 10, "how many of the most hit pictures")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(); err != nil {
			return err
		}
		if hours < 1 || hours > maxStatsHours {
			return usageError(fmt.Errorf("--hours %d: expected 1 to %d", hours, maxStatsHours))
		}
		if top < 0 {
			return usageError(fmt.Errorf("--top %d: expected 0 or more", top))
		}
		c, closeCache, err := s.open(cmd.Context())
		if err != nil {
			return err
		}
		defer closeCache()
		stats, err := gatherCacheStats(cmd.Context(), c, hours, top)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), stats)
		}
		return stats.draw(cmd.OutOrStdout(), plotWidth(cmd.OutOrStdout()))
	}
	return cmd
}

// cacheStats is what stats shows.
type cacheStats struct {
	Total   cacheTotal   `json:"total"`
	Hours   []cache.Hour `json:"hours"`
	Days    []cache.Day  `json:"days"`
	Top     []hotPicture `json:"top"`
	Index   indexSize    `json:"index"`
	Entries int          `json:"entries"`
	Canary  []canary     `json:"canary"`
}

// canary is how often the near hits at a distance are wrong, as far as the model was asked.
type canary struct {
	cache.Canary
	AtMost float64 `json:"at_most"` // the upper end of the 95 % score interval of the share
}

type cacheTotal struct {
	Jobs          int64    `json:"jobs"`
	Exact         int64    `json:"exact"`
	Near          int64    `json:"near"`
	Shared        int64    `json:"shared"`
	Missed        int64    `json:"miss"`
	HitRate       *float64 `json:"hit_rate"`
	SavedCalls    int64    `json:"saved_calls"`
	SavedMicroUSD int64    `json:"saved_microusd"`
	SpentMicroUSD int64    `json:"spent_microusd"`
}

type hotPicture struct {
	cache.Hot
	Category string `json:"category,omitempty"` // of its entry, if that is still there
}

type indexSize struct {
	Entries int `json:"entries"`
	Bytes   int `json:"bytes"`
}

func gatherCacheStats(ctx context.Context, c *cache.Cache, hours, top int) (*cacheStats, error) {
	counted, err := c.Stats(ctx, hours, top)
	if err != nil {
		return nil, err
	}
	s := &cacheStats{Hours: counted.Hours, Days: counted.Days, Top: []hotPicture{}, Canary: []canary{}}
	for _, c := range counted.Canary {
		s.Canary = append(s.Canary, canary{c, eval.Wilson(int(c.Differs), int(max(c.Asked, c.Differs))).High})
	}
	t := &s.Total
	for _, h := range s.Hours {
		t.Exact, t.Near, t.Shared, t.Missed = t.Exact+h.Exact, t.Near+h.Near, t.Shared+h.Shared, t.Missed+h.Missed
		t.SavedMicroUSD, t.SpentMicroUSD = t.SavedMicroUSD+h.SavedMicroUSD, t.SpentMicroUSD+h.SpentMicroUSD
		t.Jobs, t.SavedCalls = t.Jobs+h.Jobs(), t.SavedCalls+h.Hits()
	}
	if t.Jobs > 0 {
		rate := float64(t.SavedCalls) / float64(t.Jobs)
		t.HitRate = &rate
	}
	// A picture is called by its hash, or by the digest of its file, which may look
	// like a hash.
	var keys []string
	for _, hot := range counted.Top {
		h, err := phash.Parse(hot.Picture)
		if err != nil {
			continue // written by nobody of ours
		}
		s.Top = append(s.Top, hotPicture{Hot: hot})
		byDigest := cache.Picture{Digest: digestOf(h)}.Key(cache.Variant{})
		keys = append(keys, cmp.Or(cache.Key(h, cache.Variant{}), byDigest), byDigest)
	}
	found, err := c.Inspect(ctx, keys...)
	if err != nil {
		return nil, err
	}
	for i := range s.Top {
		for _, e := range found[2*i : 2*i+2] {
			if e != nil && s.Top[i].Category == "" {
				s.Top[i].Category = e.Category
			}
		}
	}
	if err := c.Load(ctx); err != nil {
		return nil, err
	}
	s.Index = indexSize{c.Index().Len(), c.Index().Bytes()}
	s.Entries, err = c.Estimate(ctx)
	return s, err
}

func (s *cacheStats) draw(out io.Writer, width int) error {
	t := s.Total
	if t.Jobs == 0 {
		fmt.Fprintf(out, "no job in the last %s\n", count(len(s.Hours), "hour", "hours"))
	} else {
		fmt.Fprintf(out, "the last %s of all workers\n\n", count(len(s.Hours), "hour", "hours"))
		row := func(name string, n int64, what string) {
			fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("%-12s %10s %8s  %s", name, number(n), percent(n, t.Jobs), what), " "))
		}
		row("jobs", t.Jobs, "")
		row("exact hits", t.Exact, "the same picture")
		row("near hits", t.Near, "a picture that looks the same")
		row("shared", t.Shared, "waited for another job's answer")
		row("misses", t.Missed, "the model was asked")
		row("calls saved", t.SavedCalls, "the hit rate")
		fmt.Fprintln(out)
		f := fields{out}
		if t.SavedMicroUSD == 0 && t.SpentMicroUSD == 0 {
			f.print("money", "not known: no call has a price, see --vision-price-in of the worker")
		} else {
			f.print("money saved", "%s, as far as prices were known", usd(t.SavedMicroUSD))
			f.print("money spent", "%s", usd(t.SpentMicroUSD))
		}
		var days []string
		for _, d := range s.Days {
			days = append(days, fmt.Sprintf("%s on %s", number(d.Unique), d.Day))
		}
		f.print("pictures", "%s (UTC), each counted once a day", strings.Join(days, ", "))
		fmt.Fprintf(out, "\nhit rate by the hour, in %%\n\n%s\n", s.plot(width))
	}
	fmt.Fprintf(out, "\nkept now: about %s; %s in the index for near pictures, %s in each worker\n",
		count(s.Entries, "analysis", "analyses"), count(s.Index.Entries, "hash", "hashes"), megabytes(s.Index.Bytes))
	if len(s.Canary) > 0 {
		fmt.Fprintln(out)
		rows := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(rows, "NEAR HITS AT\tASKED\tDIFFERENT\tAT MOST, WITH 95 %")
		for _, c := range s.Canary {
			fmt.Fprintf(rows, "%s\t%s\t%s\t%.1f %%\n", count(c.Distance, "bit", "bits"), number(c.Asked), percent(c.Differs, c.Asked), 100*c.AtMost)
		}
		if err := rows.Flush(); err != nil {
			return err
		}
	}
	if len(s.Top) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	rows := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(rows, "HITS\tPICTURE\tCATEGORY")
	for _, hot := range s.Top {
		fmt.Fprintf(rows, "%s\t%s\t%s\n", number(hot.Hits), hot.Picture, plainLine(orDash(hot.Category), 40))
	}
	return rows.Flush()
}

func megabytes(n int) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// plotHeight is in lines.
const plotHeight = 10

// plotWidth is that of the terminal, or what fits everywhere.
func plotWidth(out io.Writer) int {
	if file, ok := out.(*os.File); ok {
		if w, _, err := term.GetSize(int(file.Fd())); err == nil {
			return w
		}
	}
	return 80
}

// plot draws the hit rate. Each hour has a few columns, or several hours share
// two; hours without a job are left empty.
func (s *cacheStats) plot(width int) string {
	const axis = 12 // what the labels take, and some room
	columns := min(max(width-axis, 48), 168)
	each, together := min(max(columns/len(s.Hours), 2), 6), 1
	if each*len(s.Hours) > columns {
		together = (each*len(s.Hours) + columns - 1) / columns
	}
	var series []float64
	for i := 0; i < len(s.Hours); i += together {
		hits, jobs := int64(0), int64(0)
		for _, h := range s.Hours[i:min(i+together, len(s.Hours))] {
			hits, jobs = hits+h.Hits(), jobs+h.Jobs()
		}
		rate := math.NaN()
		if jobs > 0 {
			rate = 100 * float64(hits) / float64(jobs)
		}
		for range each {
			series = append(series, rate)
		}
	}
	drawn := asciigraph.Plot(append(series, math.NaN()), // which ends the last hour's line
		asciigraph.LowerBound(0), asciigraph.UpperBound(100), asciigraph.Height(plotHeight), asciigraph.Precision(0))
	head, _, _ := strings.Cut(drawn, "\n")
	margin := 1 + strings.IndexAny(head, "┤┼")
	margin = utf8.RuneCountInString(head[:margin])
	from, to := hourText(s.Hours[0]), "now"
	gap := max(1, len(series)-len(from)-len(to))
	return drawn + "\n" + strings.Repeat(" ", margin) + from + strings.Repeat(" ", gap) + to
}

func hourText(h cache.Hour) string { return h.Hour.Local().Format("02 Jan 15:04") }
