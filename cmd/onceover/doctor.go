package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"onceover/internal/config"
	"onceover/internal/doctor"
)

// doctorPause is between two examinations that --wait makes.
const doctorPause = 2 * time.Second

func newDoctor() *cobra.Command {
	var o struct {
		json, brief, problems, strict, pre, probe bool
		wait                                      time.Duration
	}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at the whole deployment, and say what is wrong and what to do",
		Long: `Asks RabbitMQ, each role of Redis, the workers, the model's endpoint and this machine,
with the settings of a worker, and says of each check whether all is well. It changes
no job, queue or key, and takes 10 seconds at most whatever the servers do.
docs/doctor.md has a section for each check.

With --probe a worker runs one job of each queue, celery.accumulate, whose traces are
removed. No picture is looked at: "onceover vision check" asks the model.

Exit code 0 if there is no error, 6 if there is one (with --strict: or a warning), 1 if
it could not look.`,
		Example: `  onceover doctor
  onceover doctor --brief --strict
  onceover doctor --pre                 # before there are servers: the settings and the machine
  onceover doctor --wait 2m --probe     # after a deployment
  ONCEOVER_MANAGEMENT_URL=http://user:password@rabbit:15672 onceover doctor --json`,
		Args: noArgs,
	}
	f := cmd.Flags()
	settings := config.Bind(f)
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.BoolVar(&o.brief, "brief", false, "print one line")
	f.BoolVar(&o.problems, "problems", false, "print what is wrong, and nothing else")
	f.BoolVar(&o.strict, "strict", false, "a warning is an error")
	f.BoolVar(&o.pre, "pre", false, "look at the settings and this machine alone, and ask nobody")
	f.BoolVar(&o.probe, "probe", false, "have a worker run one job of each queue")
	f.DurationVar(&o.wait, "wait", 0, "look again until there is no error, for so long at most")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.pre && (o.probe || o.wait > 0) {
			return usageError(fmt.Errorf("--pre asks nobody: leave out --probe and --wait"))
		}
		warnings, err := settings.Load(f, os.Environ())
		if err != nil {
			return usageError(fmt.Errorf("the configuration is not valid:\n%w", err))
		}
		subject := doctor.Subject{Settings: settings, Warnings: warnings, Getenv: os.Getenv, Management: settings.ManagementURL, SettingsAlone: o.pre}
		r, err := examine(cmd.Context(), subject, o.strict, o.wait)
		if err != nil {
			return err
		}
		if o.probe {
			doctor.Probe(cmd.Context(), settings, r)
		}
		if cmd.Context().Err() != nil {
			return context.Cause(cmd.Context())
		}
		out := cmd.OutOrStdout()
		if o.problems {
			r.Findings = r.Problems()
		}
		switch {
		case o.json:
			err = json.NewEncoder(out).Encode(r)
		case o.brief:
			_, err = fmt.Fprintln(out, briefly(r))
		default:
			drawReport(out, r)
		}
		if err == nil && bad(r, o.strict) {
			return &exitCodeError{code: exitFaults}
		}
		return err
	}
	return cmd
}

// bad reports whether the exit code is to say so.
func bad(r *doctor.Report, strict bool) bool {
	return r.Verdict == doctor.Error || strict && r.Verdict == doctor.Warning
}

// examine looks until nothing is bad, for so long at most.
func examine(ctx context.Context, s doctor.Subject, strict bool, wait time.Duration) (*doctor.Report, error) {
	began := time.Now()
	for {
		r := doctor.Examine(ctx, s)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !bad(r, strict) || time.Since(began)+doctorPause > wait {
			return r, nil
		}
		pause := time.NewTimer(doctorPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// briefly says it in a line.
func briefly(r *doctor.Report) string {
	var bad []string
	for _, f := range r.Problems() {
		name := f.Check
		if f.Subject != "" {
			name += " (" + plainLine(f.Subject, 60) + ")"
		}
		bad = append(bad, name)
	}
	return cmp.Or(strings.Join(bad, ", "), "all is well") + ": " + countsOf(r)
}

func countsOf(r *doctor.Report) string {
	return fmt.Sprintf("%s, %s, %d not known", count(r.Count(doctor.Error), "error", "errors"), count(r.Count(doctor.Warning), "warning", "warnings"), r.Count(doctor.Unknown))
}

// drawReport prints the findings by the first word of their checks.
func drawReport(out io.Writer, r *doctor.Report) {
	part := ""
	for _, f := range r.Findings {
		if of, _, _ := strings.Cut(f.Check, "."); of != part {
			part = of
			fmt.Fprintln(out, part)
		}
		mark := map[doctor.Severity]string{doctor.OK: "ok", doctor.Unknown: "-", doctor.Warning: "WARNING", doctor.Error: "ERROR"}[f.Severity]
		_, name, _ := strings.Cut(f.Check, ".")
		found := f.Found
		if f.Subject != "" {
			found = f.Subject + ": " + found
		}
		fmt.Fprintf(out, "  %-8s %-13s %s\n", mark, name, plainLine(found, 1000))
		if f.Remedy != "" {
			fmt.Fprintf(out, "  %-8s %-13s → %s\n", "", "", plainLine(f.Remedy, 1000))
		}
		if f.Severity.Worse(doctor.Unknown) {
			fmt.Fprintf(out, "  %-8s %-13s   %s\n", "", "", f.Docs)
		}
	}
	fmt.Fprintf(out, "%s (%.1f s)\n", countsOf(r), r.Seconds)
}
