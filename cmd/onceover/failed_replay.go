package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/time/rate"

	"onceover/failed"
	"onceover/internal/config"
	"onceover/tasks"
	"onceover/worker"
)

func sortedHeaders[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func newFailedReplay() *cobra.Command {
	var sel selection
	r := replayer{}
	var perSecond string
	cmd := &cobra.Command{
		Use:   "replay ID... | --all | FILTERS",
		Short: "Run failed jobs again",
		Long: `Publishes failed jobs anew: with their ids, headers and arguments, to the queue each
came from. Retries begin from nothing, an expiry that has passed is dropped, the
result is PENDING and the progress 0 until a worker takes the job. What would have
followed in a chain is PENDING again, too.

A job that has succeeded meanwhile is left alone. The command may be interrupted
and repeated: what was replayed is no longer in the list. A job that fails again is
a new record, which this run does not see.

--set changes an argument of the call, by its name or, for one given by position,
by its number from 0: for a signed URL that has run out.`,
		Example: `  onceover failed replay 6f1c4a9e
  onceover failed replay --error TimeoutError --newer-than 1h --dry-run
  onceover failed replay --all --rate 20/s
  onceover failed replay 6f1c --set image_url=https://example.com/photo.jpg
  onceover failed replay 6f1c --to-queue q.batch`,
	}
	settings := config.Bind(cmd.Flags(), failedFlags...)
	sel.bindAll(cmd.Flags())
	f := cmd.Flags()
	f.BoolVar(&r.dryRun, "dry-run", false, "only show what would be replayed")
	f.StringVar(&perSecond, "rate", "", "at most so many, such as 20/s, 100/m or 500/h (default: as fast as the broker takes them)")
	f.StringArrayVar(&r.set, "set", nil, "change an argument: NAME=VALUE; a VALUE that is JSON is taken as such, else as text")
	f.StringVar(&r.toQueue, "to-queue", "", "publish to this queue instead of the one that the job came from")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		var err error
		if r.limit, err = parseRate(perSecond); err != nil {
			return usageError(err)
		}
		for _, s := range r.set {
			if name, _, ok := strings.Cut(s, "="); !ok || name == "" {
				return usageError(fmt.Errorf("--set %q: expected NAME=VALUE, such as image_url=https://example.com/a.jpg", s))
			}
		}
		ctx := cmd.Context()
		store, closeStore, err := openFailed(ctx, settings)
		if err != nil {
			return err
		}
		defer closeStore()
		r.store = store
		refs, err := sel.choose(ctx, store, args)
		if err != nil {
			return err
		}
		if r.dryRun {
			return r.preview(cmd, refs)
		}
		return r.run(cmd, settings, refs)
	}
	return cmd
}

// parseRate reads N, N/s, N/m or N/h.
func parseRate(text string) (rate.Limit, error) {
	if text == "" {
		return rate.Inf, nil
	}
	number, unit, _ := strings.Cut(text, "/")
	n, err := strconv.ParseFloat(number, 64)
	per := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[unit]
	if err != nil || per == 0 || !(n > 0) || n > 1e6 {
		return 0, fmt.Errorf("--rate %q: expected a number above 0, and /s, /m or /h, such as 20/s", text)
	}
	return rate.Limit(n / per), nil
}

// replayer runs failed jobs again.
type replayer struct {
	store   *failed.Store
	dryRun  bool
	limit   rate.Limit
	set     []string // NAME=VALUE
	toQueue string
}

// edit changes a record as the flags want it.
func (r replayer) edit(rec *failed.Record) error {
	if r.toQueue != "" {
		rec.Message.Queue = r.toQueue
	}
	for _, s := range r.set {
		name, value, _ := strings.Cut(s, "=")
		raw := []byte(value)
		if !json.Valid(raw) {
			var err error
			if raw, err = json.Marshal(value); err != nil {
				return err
			}
		}
		var parameters []string
		if rec.Task == tasks.NameAnalyze {
			parameters = tasks.AnalyzeParameters
		}
		if err := rec.SetArgument(name, raw, parameters); err != nil {
			return &failed.SkippedError{Why: err.Error()}
		}
	}
	return nil
}

// preview shows what would be replayed, without a change to anything.
func (r replayer) preview(cmd *cobra.Command, refs []failed.Ref) error {
	out := cmd.OutOrStdout()
	would := 0
	for _, ref := range refs {
		rec, err := r.store.Get(cmd.Context(), ref)
		if err != nil {
			return err
		}
		if rec == nil {
			continue
		}
		states, err := r.store.States(cmd.Context(), []string{rec.ID})
		if err != nil {
			return err
		}
		why := failed.Blocks(states[0])
		if err := r.edit(rec); err != nil {
			why = err.Error()
		}
		if why != "" {
			fmt.Fprintf(out, "would not replay %s: it %s\n", rec.Name(), plainLine(why, 300))
			continue
		}
		would++
		fmt.Fprintf(out, "would replay %s  %s to %s  %s\n", plainLine(rec.Name(), 60), plainLine(orDash(rec.Task), 40),
			plainLine(rec.Message.Queue, 40), plainLine(rec.Kwargs+" "+rec.Args, 100))
	}
	fmt.Fprintf(out, "%s would be replayed\n", jobs(would))
	return nil
}

func (r replayer) run(cmd *cobra.Command, s *config.Settings, refs []failed.Ref) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	if len(refs) == 0 {
		fmt.Fprintln(out, "no failed job is chosen: nothing to do")
		return nil
	}
	conn, err := worker.Dial(ctx, "onceover failed replay", s.Worker.BrokerURLs)
	if err != nil {
		return err
	}
	defer conn.Close()
	var told string
	publish, err := worker.PublishKept(conn, func(full *failed.FullError) {
		if told != full.Queue { // once, until another one is full
			fmt.Fprintf(cmd.ErrOrStderr(), "waiting: %v; is a worker running?\n", full)
			told = full.Queue
		}
	})
	if err != nil {
		return err
	}
	size := failed.ReplayBatch
	if r.limit != rate.Inf {
		size = max(1, min(size, int(float64(r.limit)/4))) // four steps a second
	}
	limiter := rate.NewLimiter(r.limit, size)
	bar := newCounter(len(refs))
	defer bar.close()
	done, over := 0, 0
	var why []string
	var failure error
	for batch := range slices.Chunk(refs, size) {
		if failure = limiter.WaitN(ctx, len(batch)); failure != nil {
			break
		}
		outcomes, err := r.store.Replay(ctx, batch, publish, r.edit)
		for _, o := range outcomes {
			switch {
			case o.Done:
				done++
			case o.Over:
				over++
			}
			if o.Why != "" {
				why = append(why, fmt.Sprintf("not replayed: %s %s", plainLine(o.Ref.Name(), 60), plainLine(o.Why, 300)))
			}
		}
		bar.add(len(batch))
		if failure = err; failure != nil {
			break
		}
	}
	bar.close()
	for _, line := range why[:min(len(why), 50)] {
		fmt.Fprintln(out, line)
	}
	if len(why) > 50 {
		fmt.Fprintf(out, "… and %d more that were not replayed\n", len(why)-50)
	}
	fmt.Fprintf(out, "%s replayed\n", jobs(done))
	left := len(refs) - done - over
	switch {
	case failure != nil && errors.Is(failure, context.Canceled):
		return fmt.Errorf("interrupted: %s left as they were; the same command goes on", jobs(left))
	case failure != nil:
		return fmt.Errorf("%w; %s left, the same command goes on", failure, jobs(left))
	case left > 0:
		return fmt.Errorf("%s not replayed", jobs(left))
	}
	return nil
}

func newFailedDiscard() *cobra.Command {
	var sel selection
	var yes bool
	cmd := &cobra.Command{
		Use:   "discard ID... | --all | FILTERS",
		Short: "Throw failed jobs away, for good",
		Long: `Deletes records and their messages. Results in Redis stay as they are. Asks first;
without a terminal it needs --yes.`,
		Example: `  onceover failed discard 6f1c4a9e
  onceover failed discard --error ValueError --older-than 168h --yes`,
	}
	settings := config.Bind(cmd.Flags(), failedFlags...)
	sel.bindAll(cmd.Flags())
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		ctx, out := cmd.Context(), cmd.OutOrStdout()
		store, closeStore, err := openFailed(ctx, settings)
		if err != nil {
			return err
		}
		defer closeStore()
		refs, err := sel.choose(ctx, store, args)
		if err != nil {
			return err
		}
		if len(refs) == 0 {
			fmt.Fprintln(out, "no failed job is chosen: nothing to do")
			return nil
		}
		if !yes {
			sure, err := confirm(cmd.InOrStdin(), out, fmt.Sprintf("Discard %s? They cannot be replayed any more.", jobs(len(refs))))
			if err != nil {
				return err
			}
			if !sure {
				fmt.Fprintln(out, "nothing discarded")
				return nil
			}
		}
		bar := newCounter(len(refs))
		defer bar.close()
		done := 0
		for _, ref := range refs {
			if err := context.Cause(ctx); err != nil {
				return fmt.Errorf("interrupted: %s discarded, %d left", jobs(done), len(refs)-done)
			}
			if err := store.Discard(ctx, ref); err != nil {
				return fmt.Errorf("%w; %s discarded before", err, jobs(done))
			}
			done++
			bar.add(1)
		}
		bar.close()
		fmt.Fprintf(out, "%s discarded\n", jobs(done))
		return nil
	}
	return cmd
}

// counter is a progress bar for many jobs, on a terminal only.
type counter struct {
	bars *mpb.Progress
	bar  *mpb.Bar
}

func newCounter(total int) *counter {
	c := &counter{}
	if total > 1 && isTerminal(os.Stderr) {
		c.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(40), mpb.WithRefreshRate(50*time.Millisecond))
		c.bar = c.bars.AddBar(int64(total), mpb.PrependDecorators(decor.CountersNoUnit("%d / %d ")), mpb.AppendDecorators(
			decor.Percentage(), decor.Name("  "), decor.AverageETA(decor.ET_STYLE_GO)))
	}
	return c
}

func (c *counter) add(n int) {
	if c.bar != nil {
		c.bar.IncrBy(n)
	}
}

func (c *counter) close() {
	if c.bar != nil {
		c.bar.Abort(false)
		c.bars.Wait()
		c.bar = nil
	}
}
