package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/time/rate"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/config"
	"onceover/rabbit"
	"onceover/tasks"
)

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
	f.StringArrayVar(&r.unset, "unset", nil, "leave out a keyword argument")
	f.BoolVar(&r.wait, "wait", false, "wait until the replayed jobs have ended, and say how; exit code 3 if one did not succeed; those whose result is not stored are waited for in vain")
	f.DurationVar(&r.timeout, "timeout", 0, "with --wait: give up after this, with exit code 4 (default: wait for ever)")
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
		if r.timeout != 0 && !r.wait || r.timeout < 0 || r.wait && r.dryRun {
			return usageError(errors.New("--timeout needs --wait and is more than 0, and --wait has no place beside --dry-run"))
		}
		if cmd.Flags().Changed("to-queue") && r.toQueue == "" {
			return usageError(errors.New("--to-queue is empty: expected the name of a queue"))
		}
		store, refs, closeStore, err := sel.open(cmd.Context(), settings, args)
		if err != nil {
			return err
		}
		defer closeStore()
		r.store, r.chosen = store, sel.describe(args)
		if r.dryRun {
			return r.preview(cmd, settings, refs)
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
	chosen  string // which jobs, for the list of changes
	dryRun  bool
	limit   rate.Limit
	set     []string // NAME=VALUE
	unset   []string
	toQueue string
	wait    bool
	timeout time.Duration
}

// edit changes a record as the flags want it.
func (r replayer) edit(rec *failed.Record) error {
	if r.toQueue != "" {
		rec.Message.Queue = r.toQueue
	}
	var parameters []string
	if rec.Task == tasks.NameAnalyze {
		parameters = tasks.AnalyzeParameters
	}
	change := func(name string, raw []byte) error {
		if err := rec.SetArgument(name, raw, parameters); err != nil {
			return &failed.SkippedError{Why: err.Error()}
		}
		return nil
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
		if err := change(name, raw); err != nil {
			return err
		}
	}
	for _, name := range r.unset {
		if err := change(name, nil); err != nil {
			return err
		}
	}
	return nil
}

// hints says what is worth knowing of the jobs that a run replays. It is safe for
// concurrent use.
type hints struct {
	mu     sync.Mutex
	watch  string // the job whose progress can be watched
	chords int
}

func (h *hints) note(rec *failed.Record) {
	req, err := rec.Request()
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if rec.Task == tasks.NameAnalyze {
		h.watch = tasks.JobID(req)
	}
	if req.Chord != nil {
		h.chords++
	}
}

func (h *hints) print(out io.Writer, done int) {
	if h.chords > 0 {
		fmt.Fprintf(out, "%d of the jobs are parts of chords: the chords' bodies, which failed with them, do not run\n", h.chords)
	}
	if done == 1 && h.watch != "" {
		fmt.Fprintf(out, "follow it with: onceover watch %s\n", plainLine(h.watch, 600))
	}
}

// preview shows what would be replayed, without a change to anything.
func (r replayer) preview(cmd *cobra.Command, s *config.Settings, refs []failed.Key) error {
	out := cmd.OutOrStdout()
	conn, err := rabbit.Dial(cmd.Context(), "onceover failed replay", s.Worker.BrokerURLs)
	if err != nil {
		return err
	}
	defer rabbit.HangUp(conn)
	queues := map[string]error{}
	var h hints
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
		queue := rec.Message.Queue
		if _, known := queues[queue]; !known {
			queues[queue] = rabbit.QueueExists(conn, queue)
		}
		if err := queues[queue]; err != nil && why == "" {
			why = err.Error()
		}
		if why != "" {
			fmt.Fprintf(out, "would not replay %s: %s\n", plainLine(rec.Name(), 60), plainLine(why, 300))
			continue
		}
		would++
		h.note(rec)
		fmt.Fprintf(out, "would replay %s  %s to %s  %s\n", plainLine(rec.Name(), 60), plainLine(orDash(rec.Task), 40),
			plainLine(rec.Message.Queue, 40), plainLine(rec.Kwargs+" "+rec.Args, 100))
	}
	h.print(out, 0)
	fmt.Fprintf(out, "%s would be replayed\n", jobs(would))
	return nil
}

func (r replayer) run(cmd *cobra.Command, s *config.Settings, refs []failed.Key) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	if len(refs) == 0 {
		fmt.Fprintln(out, "no failed job is chosen: nothing to do")
		return nil
	}
	conn, err := rabbit.Dial(ctx, "onceover failed replay", s.Worker.BrokerURLs)
	if err != nil {
		return err
	}
	defer rabbit.HangUp(conn)
	var told string
	sender := &rabbit.Sender{Conn: conn, Waiting: func(full *rabbit.FullError) {
		if told != full.Queue { // once, until another one is full
			fmt.Fprintf(cmd.ErrOrStderr(), "waiting: %v; is a worker running?\n", full)
			told = full.Queue
		}
	}, Idle: func(queue string, ttl time.Duration) {
		text := fmt.Sprintf("warning: no worker consumes %s at the moment", queue)
		if ttl > 0 {
			text += fmt.Sprintf(", which drops messages after %v: they would be kept again, as expired", ttl)
		}
		fmt.Fprintln(cmd.ErrOrStderr(), text)
	}}
	publish := func(ctx context.Context, _ bool, messages ...rabbit.Message) error {
		return sender.Send(ctx, messages...)
	}
	var h hints
	edit := func(rec *failed.Record) error {
		err := r.edit(rec)
		if err == nil {
			h.note(rec)
		}
		return err
	}
	size := failed.ReplayBatch
	if r.limit != rate.Inf {
		size = max(1, min(size, int(float64(r.limit)/4))) // four steps a second
	}
	limiter := rate.NewLimiter(r.limit, size)
	bar := newCounter(len(refs))
	defer bar.close()
	over := 0
	var replayed []string // ids
	var why []string
	var failure error
	for batch := range slices.Chunk(refs, size) {
		if failure = limiter.WaitN(ctx, len(batch)); failure != nil {
			break
		}
		outcomes, err := r.store.Replay(ctx, batch, publish, edit)
		for _, o := range outcomes {
			switch {
			case o.Done:
				replayed = append(replayed, o.Key.Name())
			case o.Over:
				over++
			}
			if o.Why != "" && ctx.Err() == nil {
				why = append(why, fmt.Sprintf("not replayed: %s %s", plainLine(o.Key.Name(), 60), plainLine(o.Why, 300)))
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
	fmt.Fprintf(out, "%s replayed\n", jobs(len(replayed)))
	h.print(out, len(replayed))
	left := len(refs) - len(replayed) - over
	auditChange(ctx, r.store, "replay", r.chosen, fmt.Sprintf("%d replayed, %d left as they were", len(replayed), left))
	switch {
	case failure != nil && errors.Is(failure, context.Canceled):
		return fmt.Errorf("interrupted: %s left as they were; the same command goes on", jobs(left))
	case failure != nil:
		return fmt.Errorf("%w; %s left, the same command goes on", failure, jobs(left))
	}
	var ends error
	if r.wait && len(replayed) > 0 {
		ends = r.await(ctx, out, replayed)
	}
	if left > 0 {
		return errors.Join(fmt.Errorf("%s not replayed", jobs(left)), ends)
	}
	return ends
}

// await waits until jobs have ended, and says how.
func (r replayer) await(ctx context.Context, out io.Writer, ids []string) error {
	ctx, cancel := withTimeout(ctx, r.timeout)
	defer cancel()
	ended := map[celery.State]int{}
	bar := newCounter(len(ids))
	defer bar.close()
	for open := ids; len(open) > 0; {
		var still []string
		for part := range slices.Chunk(open, 500) {
			states, err := r.store.States(ctx, part)
			if err != nil {
				return err
			}
			for i, state := range states {
				if state == celery.Success || state == celery.Failure || state == celery.Revoked {
					ended[state]++
					bar.add(1)
				} else {
					still = append(still, part[i])
				}
			}
		}
		if open = still; len(open) == 0 {
			break
		}
		select {
		case <-time.After(awaitEvery):
		case <-ctx.Done():
			bar.close()
			printEnds(out, ended)
			return &exitCodeError{exitNotFinished, fmt.Errorf("%s not ended: %w", jobs(len(open)), context.Cause(ctx))}
		}
	}
	bar.close()
	printEnds(out, ended)
	if n := len(ids) - ended[celery.Success]; n > 0 {
		return &exitCodeError{exitJobFailed, fmt.Errorf("%s did not succeed: they are kept again; see onceover failed list --newer-than 1h", jobs(n))}
	}
	return nil
}

// awaitEvery is the time between looks at how replayed jobs are.
const awaitEvery = 500 * time.Millisecond

func printEnds(out io.Writer, ended map[celery.State]int) {
	for _, state := range slices.Sorted(maps.Keys(ended)) {
		fmt.Fprintf(out, "%s %d\n", state, ended[state])
	}
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
		store, refs, closeStore, err := sel.open(ctx, settings, args)
		if err != nil {
			return err
		}
		defer closeStore()
		if len(refs) == 0 {
			fmt.Fprintln(out, "no failed job is chosen: nothing to do")
			return nil
		}
		if !yes {
			sure, err := confirm(ctx, cmd.InOrStdin(), out, fmt.Sprintf("Discard %s of %s? They cannot be replayed any more.", jobs(len(refs)), serverOf(settings.FailedURL)))
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
		defer func() { auditChange(ctx, store, "discard", sel.describe(args), fmt.Sprintf("%d discarded", done)) }()
		var left []string
		for _, ref := range refs {
			if err := context.Cause(ctx); err != nil {
				return fmt.Errorf("interrupted: %s discarded, %d left", jobs(done), len(refs)-done)
			}
			var busy *failed.SkippedError
			switch err := store.Discard(ctx, ref); {
			case errors.As(err, &busy):
				left = append(left, fmt.Sprintf("not discarded: %s %s", plainLine(ref.Name(), 60), busy.Why))
			case err != nil:
				return fmt.Errorf("%w; %s discarded before", err, jobs(done))
			default:
				done++
			}
			bar.add(1)
		}
		bar.close()
		for _, line := range left {
			fmt.Fprintln(out, line)
		}
		fmt.Fprintf(out, "%s discarded\n", jobs(done))
		if len(left) > 0 {
			return &exitCodeError{code: exitError}
		}
		return nil
	}
	return cmd
}

// serverOf is host and database of a Redis URL.
func serverOf(url string) string {
	opt, err := config.ParseRedisURL("failed-url", url)
	if err != nil {
		return "?"
	}
	return fmt.Sprintf("%s/%d", opt.Addr, opt.DB)
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
