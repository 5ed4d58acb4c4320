package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"golang.org/x/term"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/config"
	"onceover/progress"
	"onceover/results"
	"onceover/tasks"
)

func newFailed() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "failed",
		Short: "See, replay and discard failed jobs",
		Long: `Every job that failed for good, was refused or was dead-lettered is kept with its
whole message until it is replayed or discarded. These commands work beside the
running workers, on the same settings.

A job is named by its task id, or by the beginning of it. Several are chosen by
filters, all of which must hold.`,
		Example: `  onceover failed list --newer-than 1h
  onceover failed show 6f1c
  onceover failed replay --error TimeoutError --dry-run
  onceover failed replay 6f1c --set image_url=https://example.com/photo.jpg
  onceover failed stats`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newFailedList(), newFailedShow(), newFailedReplay(), newFailedDiscard(),
		newFailedExport(), newFailedImport(), newFailedStats())
	return cmd
}

// failedFlags are the settings that these commands show.
var failedFlags = []string{"broker-url", "redis-url", "results-url", "progress-url", "failed-url"}

// openFailed opens the store for a command. Unlike a worker it does not wait for
// Redis.
func openFailed(ctx context.Context, s *config.Settings) (*failed.Store, func(), error) {
	var clients []*redis.Client
	closeAll := func() {
		for _, c := range clients {
			c.Close()
		}
	}
	for _, role := range []struct{ name, url string }{
		{"failed", s.FailedURL}, {"results", s.ResultsURL}, {"progress", s.ProgressURL},
	} {
		err := connectRedis(ctx, role.name+"-url", role.url)
		var c *redis.Client
		if err == nil {
			c, err = openRedis(role.name, role.url, 32)
		}
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		clients = append(clients, c)
	}
	// What makes a command wait is said.
	log, err := newLogger(s)
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	log = log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))
	marks := progress.New(clients[2], log)
	s.Failed.BeforeReplay = tasks.ResetProgress(marks, s.Tasks)
	store := failed.New(s.Failed, clients[0], results.New(clients[1], log), marks, nil, log)
	carrying, cancel := context.WithTimeout(ctx, carryTime)
	defer cancel()
	if _, err := store.CarryOver(carrying); err != nil && ctx.Err() == nil {
		log.Warn("failed jobs of a version before are not all here yet: a worker goes on with it", zap.Error(err))
	}
	return store, closeAll, nil
}

// carryTime is how long a command carries over failed jobs of a version before.
const carryTime = 10 * time.Second

// selection says which failed jobs a command is about.
type selection struct {
	filter    failed.Filter
	olderThan time.Duration
	newerThan time.Duration
	all       bool
	fs        *pflag.FlagSet
}

// filterFlags are the flags that choose.
var filterFlags = []string{"task", "error", "queue", "reason", "cause", "user", "text", "older-than", "newer-than"}

func (sel *selection) bind(fs *pflag.FlagSet) {
	sel.fs = fs
	fs.StringVar(&sel.filter.Task, "task", "", "only of this task, such as image.analyze")
	fs.StringVar(&sel.filter.Error, "error", "", "only with this class of error, such as TimeoutError")
	fs.StringVar(&sel.filter.Queue, "queue", "", "only from this queue")
	fs.StringVar(&sel.filter.Reason, "reason", "", "only kept for this reason: failed, rejected, expired, maxlen, delivery_limit, poison, unknown-task, …")
	fs.StringVar(&sel.filter.Cause, "cause", "", "only of this cause, by its `id` in failed stats")
	fs.StringVar(&sel.filter.User, "user", "", "only of this `user_id`")
	fs.StringVar(&sel.filter.Text, "text", "", "only with this text in error, id, arguments or stage; case does not matter")
	fs.DurationVar(&sel.olderThan, "older-than", 0, "only if the last failure is longer ago, such as 30m")
	fs.DurationVar(&sel.newerThan, "newer-than", 0, "only if the last failure is less long ago")
}

// bindAll adds --all, for commands that must not choose everything by accident.
func (sel *selection) bindAll(fs *pflag.FlagSet) {
	sel.bind(fs)
	fs.BoolVar(&sel.all, "all", false, "all failed jobs")
}

// check refuses filters that choose nothing, or by accident everything: an unset
// variable of a shell is "".
func (sel *selection) check() error {
	var faults []error
	for _, name := range filterFlags {
		f := sel.fs.Lookup(name)
		if !f.Changed {
			continue
		}
		if f.Value.String() == "" {
			faults = append(faults, fmt.Errorf("--%s is empty: expected a value, or leave it out", name))
		}
		if age, err := time.ParseDuration(f.Value.String()); f.Value.Type() == "duration" && (err != nil || age <= 0) {
			faults = append(faults, fmt.Errorf("--%s is %s: expected more than 0, such as 30m", name, f.Value))
		}
	}
	if sel.olderThan > 0 && sel.newerThan > 0 && sel.olderThan >= sel.newerThan {
		faults = append(faults, fmt.Errorf("--older-than %v and --newer-than %v choose nothing: expected the first to be shorter", sel.olderThan, sel.newerThan))
	}
	if r := sel.filter.Reason; r != "" && !slices.Contains(failed.Reasons, celery.Reason(r)) {
		faults = append(faults, fmt.Errorf("--reason %q: expected one of %s", r, joinReasons()))
	}
	if err := errors.Join(faults...); err != nil {
		return usageError(err)
	}
	return nil
}

func joinReasons() string {
	names := make([]string, len(failed.Reasons))
	for i, r := range failed.Reasons {
		names[i] = string(r)
	}
	return strings.Join(names, ", ")
}

// checkChoice is check, for commands that must be told what they are about.
func (sel *selection) checkChoice(names []string) error {
	switch {
	case len(names) > 0 && (sel.all || sel.filters()):
		return usageError(errors.New("both ids and filters are given: expected one of them"))
	case sel.all && sel.filters():
		return usageError(errors.New("both --all and filters are given: expected one of them"))
	case len(names) == 0 && !sel.all && !sel.filters():
		return usageError(errors.New("nothing is chosen: expected ids, filters such as --error TimeoutError, or --all"))
	}
	return sel.check()
}

// complete turns the ages into times.
func (sel *selection) complete() failed.Filter {
	f := sel.filter
	now := time.Now()
	if sel.newerThan > 0 {
		f.After = now.Add(-sel.newerThan)
	}
	if sel.olderThan > 0 {
		f.Before = now.Add(-sel.olderThan)
	}
	return f
}

// describe says which jobs are chosen, for the list of changes.
func (sel *selection) describe(names []string) string {
	names = slices.Clone(names)
	for _, name := range filterFlags {
		if f := sel.fs.Lookup(name); f.Changed {
			names = append(names, name+"="+f.Value.String())
		}
	}
	if len(names) == 0 {
		return "all"
	}
	return strings.Join(names, ", ")
}

// auditChange is noteChange for a store of failed jobs.
func auditChange(ctx context.Context, store *failed.Store, action, target, outcome string) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := store.Audit(late, failed.Change{By: operator(), Action: action, Target: target, Outcome: outcome}); err != nil {
		fmt.Fprintln(os.Stderr, "onceover: warning:", err)
	}
}

func (sel *selection) filters() bool {
	for _, name := range filterFlags {
		if sel.fs.Changed(name) {
			return true
		}
	}
	return false
}

// choose returns where the chosen records are, the newest first: those named, or
// those that the filters choose.
func (sel *selection) choose(ctx context.Context, store *failed.Store, names []string) ([]failed.Key, error) {
	var refs []failed.Key
	for _, name := range names {
		found, err := find(ctx, store, name)
		if err != nil {
			return nil, err
		}
		for _, ref := range found {
			if !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
	}
	if len(names) > 0 {
		return refs, nil
	}
	err := store.Each(ctx, sel.complete(), func(e failed.Entry) bool {
		refs = append(refs, e.Key)
		return true
	})
	return refs, err
}

// open opens the store and chooses: what a command does that is told what it is about.
func (sel *selection) open(ctx context.Context, s *config.Settings, names []string) (*failed.Store, []failed.Key, func(), error) {
	if err := sel.checkChoice(names); err != nil {
		return nil, nil, nil, err
	}
	store, closeStore, err := openFailed(ctx, s)
	if err != nil {
		return nil, nil, nil, err
	}
	refs, err := sel.choose(ctx, store, names)
	if err != nil {
		closeStore()
		return nil, nil, nil, err
	}
	return store, refs, closeStore, nil
}

// find returns the records of a job, at least one.
func find(ctx context.Context, store *failed.Store, name string) ([]failed.Key, error) {
	if name == "" {
		return nil, usageError(errors.New("the id of a job is empty: expected one, or its beginning")) // an unset variable
	}
	refs, err := store.Find(ctx, name)
	if err == nil && len(refs) == 0 {
		err = &exitCodeError{exitNotFinished, fmt.Errorf(
			"no failed job %s is kept: it has not failed, was replayed or discarded, or the id is wrong; see onceover failed list", name)}
	}
	return refs, err
}

// confirm asks a yes-or-no question on the terminal.
func confirm(ctx context.Context, in io.Reader, out io.Writer, question string) (bool, error) {
	file, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return false, usageError(errors.New("there is no terminal to ask on: expected --yes"))
	}
	fmt.Fprintf(out, "%s [y/N] ", question)
	line, err := bufio.NewReader(interruptible{ctx, in}).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}

// interruptible is a reader whose Read ends when the context does. What reads below
// it then stays behind until the program ends.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i interruptible) Read(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	own := make([]byte, len(p))
	go func() {
		n, err := i.r.Read(own)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return copy(p, own[:r.n]), r.err
	case <-i.ctx.Done():
		return 0, context.Cause(i.ctx)
	}
}

// jobs is n with its noun.
func jobs(n int) string {
	if n == 1 {
		return "1 failed job"
	}
	return fmt.Sprintf("%d failed jobs", n)
}

// age is how long ago t was, in the largest unit that makes sense.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// orDash is s, or a dash for nothing.
func orDash(s string) string { return cmp.Or(s, "-") }
