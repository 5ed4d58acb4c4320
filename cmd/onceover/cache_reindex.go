package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func newCacheReindex() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "reindex",
		Short: "Make the index of hashes anew from the entries",
		Long: `Goes through all entries and mends the logs from which every worker learns what can
answer near pictures: what they lack is added, what they hold without an entry, or
twice, is taken out. Workers need not be stopped, and see what was added within a
second. One of them adds the entries of Python services every 5 minutes by itself;
this is for after a loss or a restore of Redis. The logs of the last two hours are
added to but not cleaned, as workers write to them.

With --json: entries, added, removed.`,
		Example: `  onceover cache reindex
  onceover cache reindex --json`,
		Args: noArgs,
	}
	s := bindCache(cmd, "redis-url", "cache-url", "cache-index-entries")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the counts as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(); err != nil {
			return err
		}
		ctx := cmd.Context()
		c, closeCache, err := s.open(ctx)
		if err != nil {
			return err
		}
		defer closeCache()
		step, end, err := scanBar(ctx, c)
		if err != nil {
			return err
		}
		defer end()
		done, err := c.Reindex(ctx, step)
		end()
		if errors.Is(err, context.Canceled) {
			return errors.New("interrupted: what was added stays, the same command goes on")
		}
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), done)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s added to the index, %s without an entry removed\n", count(done.Entries, "entry", "entries"),
			number(done.Added), count(done.Removed, "record", "records"))
		return nil
	}
	return cmd
}
