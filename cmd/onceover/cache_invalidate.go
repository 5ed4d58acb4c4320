package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"onceover/cache"
)

func newCacheInvalidate() *cobra.Command {
	var sel cache.Selection
	var tags []string
	var name string
	var yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "invalidate --tag NAME=VALUE | --hash HASH | --older-than AGE",
		Short: "Remove cached analyses, so that pictures are looked at again",
		Long: `Removes the entries that match all that is given, in every language and of every
model, so that the next job with such a picture asks the model again, which costs a
call each. Asks first; without a terminal it needs --yes. What people have corrected
stays, unless --corrected is given.

Tags are model, prompt and category; several narrow the choice. --hash takes a
picture's file too, and removes what was copied from its answer, and what its
answer was copied from. Entries that a Python service wrote are tagged within 5 minutes; --scan
looks at every entry instead of the tags.

A new prompt or model needs none of this: entries of another prompt version are no
hits (unless --cache-any-prompt is on). With --json: entries and corrected (left as
people have corrected them), and dry_run.`,
		Example: `  onceover cache invalidate --tag model=gpt-4o-mini --dry-run
  onceover cache invalidate --tag category=battery --tag prompt=1a2b3c4d
  onceover cache invalidate --hash photo.jpg --yes
  onceover cache invalidate --older-than 24h`,
		Args: noArgs,
	}
	s := bindCache(cmd, "redis-url", "cache-url", "pillow")
	f := cmd.Flags()
	f.StringArrayVar(&tags, "tag", nil, "with this tag, such as model=gpt-4o-mini, prompt=1a2b3c4d or category=battery; several narrow")
	f.StringVar(&name, "hash", "", "of this `picture`: a hash or a file")
	f.DurationVar(&sel.OlderThan, "older-than", 0, "analysed longer ago than this, such as 24h")
	f.BoolVar(&sel.Corrected, "corrected", false, "also what people have corrected")
	f.BoolVar(&sel.Scan, "scan", false, "look at every entry instead of the tags")
	f.BoolVar(&sel.DryRun, "dry-run", false, "only count")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.BoolVar(&asJSON, "json", false, "print the counts as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(); err != nil {
			return err
		}
		var faults []error
		for _, text := range tags {
			t, err := cache.ParseTag(text)
			faults = append(faults, err)
			sel.Tags = append(sel.Tags, t)
		}
		if f.Changed("older-than") && sel.OlderThan <= 0 {
			faults = append(faults, fmt.Errorf("--older-than is %v: expected more than 0, such as 24h", sel.OlderThan))
		}
		if f.Changed("hash") && name == "" { // an unset variable of a shell
			faults = append(faults, errors.New("--hash is empty: expected 64 hex digits or a picture's file"))
		}
		if len(tags) == 0 && !f.Changed("hash") && !f.Changed("older-than") {
			faults = append(faults, errors.New("nothing is chosen: expected --tag, --hash or --older-than"))
		}
		if err := errors.Join(faults...); err != nil {
			return usageError(err)
		}
		var sub *subject
		if name != "" {
			var err error
			if sub, err = subjectOf(cmd, name, s.Tasks.PillowOrder); err != nil {
				return err
			}
		}
		ctx, out := cmd.Context(), cmd.OutOrStdout()
		c, closeCache, err := s.open(ctx)
		if err != nil {
			return err
		}
		defer closeCache()
		if sub != nil {
			if err := sub.identify(ctx, c, cache.Variant{}); err != nil {
				return err
			}
			if err := sub.checkKey(); err != nil {
				return err
			}
			sel.Picture = &sub.Picture
		}
		if !sel.DryRun && !yes {
			counted := sel
			counted.DryRun = true
			found, err := invalidate(ctx, c, counted)
			if err != nil {
				return err
			}
			if found.Entries > 0 {
				sure, err := confirm(ctx, cmd.InOrStdin(), cmd.ErrOrStderr(), fmt.Sprintf("Invalidate %s of %s? Their pictures are looked at again, unless near ones answer.",
					count(found.Entries, "cached analysis", "cached analyses"), serverOf(s.CacheURL)))
				if err != nil {
					return err
				}
				if !sure {
					fmt.Fprintln(out, "nothing invalidated")
					return nil
				}
			}
		}
		done, err := invalidate(ctx, c, sel)
		if errors.Is(err, context.Canceled) {
			return fmt.Errorf("interrupted: %s invalidated, the same command goes on", count(done.Entries, "cached analysis", "cached analyses"))
		}
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(out, struct {
				cache.Invalidated
				DryRun bool `json:"dry_run"`
			}{done, sel.DryRun})
		}
		verb := "invalidated"
		if sel.DryRun {
			verb = "would be invalidated"
		}
		fmt.Fprintf(out, "%s %s\n", count(done.Entries, "cached analysis", "cached analyses"), verb)
		if done.Corrected > 0 {
			fmt.Fprintf(out, "%s left, as people have corrected them; see --corrected\n", count(done.Corrected, "is", "are"))
		}
		return nil
	}
	return cmd
}

// invalidate is Cache.Invalidate with a progress bar where all entries are gone
// through.
func invalidate(ctx context.Context, c *cache.Cache, sel cache.Selection) (cache.Invalidated, error) {
	if len(sel.Tags) > 0 && !sel.Scan && sel.Picture == nil {
		return c.Invalidate(ctx, sel, nil)
	}
	step, end, err := scanBar(ctx, c)
	if err != nil {
		return cache.Invalidated{}, err
	}
	defer end()
	return c.Invalidate(ctx, sel, step)
}
