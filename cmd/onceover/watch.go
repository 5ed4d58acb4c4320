package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"onceover/internal/config"
	"onceover/progress"
)

// errTimedOut ends a wait that --timeout bounds.
var errTimedOut = errors.New("timed out")

func newWatch() *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "watch JOB_ID",
		Short: "Show a job's progress until it ends",
		Long: `Follows job:JOB_ID:progress until it says 100 or failed. A job that has shown
nothing yet is waited for. JOB_ID is the job_id that the producer gave, or the
Celery task id if it gave none.`,
		Example: `  onceover watch 6f1c…
  onceover watch --json --timeout 30s 6f1c… | jq .stage`,
		Args: exactArgs(1),
	}
	settings := config.Bind(cmd.Flags(), "redis-url", "progress-url")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each update as a JSON line")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this (default: wait for ever)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		ctx, cancel := withTimeout(cmd.Context(), timeout)
		defer cancel()
		if err := connectRedis(ctx, "progress-url", settings.ProgressURL); err != nil {
			return err
		}
		_, ps, closeStores, err := openStores(settings)
		if err != nil {
			return err
		}
		defer closeStores()
		b := newBoard(os.Stdout)
		defer b.close()
		var last progress.Update
		enc := json.NewEncoder(cmd.OutOrStdout())
		err = eachUpdate(ctx, ps, args[0], func(u progress.Update) error {
			last = u
			if asJSON {
				return enc.Encode(u)
			}
			b.show(args[0], u)
			return nil
		})
		switch {
		case errors.Is(err, errTimedOut):
			return &exitCodeError{exitNotFinished, fmt.Errorf("job %s has not ended within %v; it last showed %q", args[0], timeout, last.Stage)}
		case err != nil:
			return err
		case last.Stage == stageFailed:
			return &exitCodeError{code: exitJobFailed}
		}
		return nil
	}
	return cmd
}

// withTimeout bounds ctx, with errTimedOut as its cause; 0 bounds nothing.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d, errTimedOut)
}
