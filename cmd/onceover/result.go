package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"onceover/celery"
	"onceover/internal/config"
)

func newResult() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "result TASK_ID",
		Short: "Print the result of a task, as Celery has stored it",
		Long: `Reads celery-task-meta-TASK_ID. Exit code 0 for SUCCESS, 3 for FAILURE and
REVOKED, 4 for a task that is unknown or not finished.`,
		Example: `  onceover result 0f9c…
  onceover result --json 0f9c… | jq .result.category`,
		Args: exactArgs(1),
	}
	settings := config.Bind(cmd.Flags(), "redis-url", "results-url")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the stored JSON document")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		if err := connectRedis(cmd.Context(), "results-url", settings.ResultsURL); err != nil {
			return err
		}
		rs, _, closeStores, err := openStores(settings)
		if err != nil {
			return err
		}
		defer closeStores()
		m, err := rs.Load(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if m == nil {
			if asJSON {
				m = &celery.Meta{Status: celery.Pending, TaskID: args[0]}
			} else {
				return &exitCodeError{exitNotFinished, fmt.Errorf("no result of task %s is stored: it is not finished, its result has run out (24 h), or the id is wrong", args[0])}
			}
		}
		if err := printMeta(cmd.OutOrStdout(), m, asJSON); err != nil {
			return err
		}
		return exitOf(m)
	}
	return cmd
}

// exitOf is the exit code that tells a task's state.
func exitOf(m *celery.Meta) error {
	switch m.Status {
	case celery.Success:
		return nil
	case celery.Failure, celery.Revoked:
		return &exitCodeError{code: exitJobFailed}
	default:
		return &exitCodeError{code: exitNotFinished}
	}
}

func printMeta(out io.Writer, m *celery.Meta, asJSON bool) error {
	if asJSON {
		doc, err := celery.MarshalJSON(m)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s\n", doc)
		return err
	}
	fmt.Fprintf(out, "%s  %s", m.TaskID, m.Status)
	if m.DateDone != nil {
		fmt.Fprintf(out, "  %s", *m.DateDone)
	}
	fmt.Fprintln(out)
	if m.Status == celery.Success {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, m.Result, "", "  "); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, "%s\n", pretty.Bytes())
		return err
	}
	if exc, err := m.Exception(); err == nil {
		fmt.Fprintln(out, exc)
	}
	return nil
}
