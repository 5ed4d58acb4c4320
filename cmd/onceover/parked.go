package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"onceover/failed"
	"onceover/internal/config"
	"onceover/internal/redact"
)

func newParked() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "parked",
		Short: "See, run and discard jobs that wait for their time",
		Long: `Jobs that are due much later, by an ETA or a retry, wait in Redis and not in a worker.
These commands work beside the running workers, on the same settings.

A job is named by its task id, or by the beginning of it.`,
		Example: `  onceover parked list
  onceover parked run 6f1c
  onceover parked discard 6f1c`,
		SuggestionsMinimumDistance: 2,
		Args:                       unknownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newParkedList(), newParkedRun(), newParkedDiscard())
	return cmd
}

// parkedPage is how many parked jobs are read at once where all are listed.
const parkedPage = 50

func newParkedList() *cobra.Command {
	var limit, page int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List parked jobs, those that are due next first",
		Long: `Lists parked jobs, those that are due next first, a page at a time. A job that is
"due" is published in a moment, or tried again if the broker did not take it. One
that is "damaged" is not published any more.`,
		Example: `  onceover parked list
  onceover parked list --limit 100 --page 2
  onceover parked list --json --limit 0 | jq -r .id`,
		Args: noArgs,
	}
	settings := config.Bind(cmd.Flags(), failedFlags...)
	cmd.Flags().IntVar(&limit, "limit", 20, "jobs on a page; 0: all")
	cmd.Flags().IntVar(&page, "page", 1, "which page")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a line, without the messages")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		if limit < 0 || limit > parkedPage || page < 1 || page > 1e6 || limit == 0 && page > 1 {
			return usageError(fmt.Errorf("--limit and --page: expected a limit of 1 to %d, or 0 (all, on one page), and a page from 1", parkedPage))
		}
		store, closeStore, err := openFailed(cmd.Context(), settings)
		if err != nil {
			return err
		}
		defer closeStore()
		return listParked(cmd.Context(), store, cmd.OutOrStdout(), limit, page, asJSON)
	}
	return cmd
}

// listParked prints a page; all jobs if limit is 0.
func listParked(ctx context.Context, store *failed.Store, out io.Writer, limit, page int, asJSON bool) error {
	size := limit
	if limit == 0 {
		size = parkedPage
	}
	rows := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for first := true; ; first, page = false, page+1 {
		jobs, total, err := store.ParkedPage(ctx, page, size)
		if err != nil {
			return errors.Join(err, rows.Flush())
		}
		if err := printParked(out, rows, jobs, first, asJSON); err != nil {
			return err
		}
		switch left := total - page*size; {
		case limit == 0 && left > 0 && len(jobs) > 0:
			continue
		case asJSON:
			return nil
		case total == 0:
			fmt.Fprintln(out, "no parked jobs")
		case len(jobs) == 0 && first:
			fmt.Fprintf(out, "nothing is on page %d\n", page)
		case limit > 0 && left > 0:
			if err := rows.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(out, "\n%d more: --page %d\n", left, page+1)
		}
		return rows.Flush()
	}
}

// listedParked is how a parked job is printed in JSON.
type listedParked struct {
	failed.ParkedJob
	Message *json.RawMessage `json:"message,omitempty"` // never: it hides that of the record
}

func printParked(out io.Writer, rows io.Writer, jobs []failed.ParkedJob, first, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		for _, j := range jobs {
			if err := enc.Encode(listedParked{ParkedJob: j}); err != nil {
				return err
			}
		}
		return nil
	}
	if first && len(jobs) > 0 {
		fmt.Fprintln(rows, "ID\tDUE\tSTATE\tWHY\tTASK")
	}
	for _, j := range jobs {
		what := plainLine(orDash(j.Task), 14)
		if j.Fault != "" { // longer than a line, where something is wrong
			what += ": " + plainLine(redact.Text(j.Fault), 100)
		}
		fmt.Fprintf(rows, "%s\t%s\t%s\t%s\t%s\n", plainLine(j.Name(), 36), dueIn(j.Due), j.State, orDash(j.Why), what)
	}
	return nil
}

// dueIn is how far off a time is: "in 5m", "5m ago", or a dash for none.
func dueIn(t time.Time) string {
	switch left := time.Until(t); {
	case t.IsZero():
		return "-"
	case left > 0:
		return "in " + age(time.Now().Add(-left))
	default:
		return age(t) + " ago"
	}
}

func newParkedRun() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run KEY...",
		Short: "Publish parked jobs before their time",
		Long: `Has parked jobs published now, to the queues that they came from: by a worker, in a
few seconds. Their ETA is taken out: a worker would park them again for it.`,
		Example: `  onceover parked run 6f1c`,
		Args:    someArgs,
	}
	settings := config.Bind(cmd.Flags(), failedFlags...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return eachParked(cmd, settings, args, nil, "due now", (*failed.Store).RunParked)
	}
	return cmd
}

func newParkedDiscard() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "discard KEY...",
		Short: "Throw parked jobs away",
		Long: `Throws parked jobs away with their messages. They are not run, and what waits for
their results waits on: to have them end as REVOKED, revoke them instead.`,
		Example: `  onceover parked discard 6f1c --yes`,
		Args:    someArgs,
	}
	settings := config.Bind(cmd.Flags(), failedFlags...)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		sure := func(n int) (bool, error) {
			if yes {
				return true, nil
			}
			return confirm(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), fmt.Sprintf("Discard %s of %s? They are not run any more.", parkedJobs(n), serverOf(settings.FailedURL)))
		}
		return eachParked(cmd, settings, args, sure, "discarded", (*failed.Store).DiscardParked)
	}
	return cmd
}

// eachParked does something with the parked jobs that are named, if sure says so, which may be nil.
func eachParked(cmd *cobra.Command, settings *config.Settings, names []string, sure func(n int) (bool, error), done string, do func(*failed.Store, context.Context, string) error) error {
	if err := load(settings, cmd.Flags()); err != nil {
		return err
	}
	if slices.Contains(names, "") {
		return usageError(errors.New("KEY is empty: expected the id of a parked job, or the beginning of it"))
	}
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	store, closeStore, err := openFailed(ctx, settings)
	if err != nil {
		return err
	}
	defer closeStore()
	var keys []string
	for _, name := range names {
		found, err := store.FindParked(ctx, name)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return notParked(name)
		}
		for _, key := range found {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	if sure != nil {
		if ok, err := sure(len(keys)); err != nil {
			return err
		} else if !ok {
			fmt.Fprintln(out, "nothing discarded")
			return nil
		}
	}
	n := 0
	defer func() {
		auditChange(ctx, store, "parked "+cmd.Name(), strings.Join(names, ", "), parkedJobs(n)+" "+done)
	}()
	for i, key := range keys {
		n = i
		switch err := do(store, ctx, key); {
		case errors.Is(err, failed.ErrNotParked):
			return notParked(key)
		case err != nil && i > 0:
			return fmt.Errorf("%w; %s %s before", err, parkedJobs(i), done)
		case err != nil:
			return err
		}
	}
	n = len(keys)
	fmt.Fprintf(out, "%s %s\n", parkedJobs(n), done)
	return nil
}

func notParked(name string) error {
	return &exitCodeError{exitNotFinished, fmt.Errorf("no job %s is parked: it was published or discarded, or the id is wrong; see onceover parked list", name)}
}

// parkedJobs is n with its noun.
func parkedJobs(n int) string {
	if n == 1 {
		return "1 parked job"
	}
	return fmt.Sprintf("%d parked jobs", n)
}
