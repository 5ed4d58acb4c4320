package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"onceover/failed"
	"onceover/internal/config"
	"onceover/internal/console"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
	"onceover/vision/fleet"
)

func newTop() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch what waits, runs and fails",
		Long: `Shows in the terminal what the overview of the operators' page shows: servers, what
waits and for how long at least, rates, jobs in flight, failures by cause, queues, the
model and the cache. It is renewed every two seconds and fits 80 columns and 24 lines.
Ctrl-C ends it. What is not on a terminal gets it once.`,
		Example: `  onceover top
  onceover top --once`,
		Args: noArgs,
	}
	settings := config.Bind(cmd.Flags(), "broker-url", "redis-url", "results-url", "cache-url", "progress-url", "limits-url", "failed-url", "queues", "budget")
	cmd.Flags().BoolVar(&once, "once", false, "print it once")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		file, _ := out.(*os.File)
		once = once || file == nil || !isTerminal(file)
		err := watchAll(cmd.Context(), settings, func(s *console.Snapshot) error {
			var text bytes.Buffer
			drawTop(&text, s)
			if once {
				_, err := out.Write(text.Bytes())
				return errors.Join(err, errShown)
			}
			// Home, each line cleared to its end, and what is below.
			_, err := fmt.Fprintf(out, "\x1b[H%s\x1b[J", strings.ReplaceAll(text.String(), "\n", "\x1b[K\n"))
			return err
		})
		if errors.Is(err, errShown) || errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
	return cmd
}

// errShown ends a watch that has shown what it was to show.
var errShown = errors.New("shown")

// watchAll calls show with what is found every two seconds.
func watchAll(ctx context.Context, s *config.Settings, show func(*console.Snapshot) error) error {
	var servers redisServers
	defer servers.close()
	log := zap.NewNop() // what is shown says it
	resultsClient, err := servers.open("results", s.ResultsURL, 1)
	if err != nil {
		return usageError(err)
	}
	progressClient, err := servers.open("progress", s.ProgressURL, 1)
	if err != nil {
		return usageError(err)
	}
	st, err := openStoresOf(s, &servers, results.New(resultsClient, log), progress.New(progressClient, log), prometheus.NewRegistry(), log)
	if err != nil {
		return err
	}
	producer := rabbit.NewProducer("onceover top", s.Worker.BrokerURLs)
	o, err := newOps(s, *st, nil, producer, servers.probes, nil, log)
	if err != nil {
		return err
	}
	defer func() {
		producer.Close()
		o.close()
	}()
	return o.console.Watch(ctx, show)
}

// What fits a terminal of 80 columns and 24 lines.
const (
	topWidth     = 79
	topQueues    = 4
	topCauses    = 6
	topEndpoints = 2
	topBudgets   = 1
)

// drawTop writes a snapshot.
func drawTop(out io.Writer, s *console.Snapshot) {
	line := func(format string, args ...any) { fmt.Fprintln(out, fitLine(fmt.Sprintf(format, args...))) }
	var well, bad []string
	var fault error
	for _, server := range s.Servers {
		if server.Err != nil {
			bad = append(bad, strings.TrimPrefix(server.Name, "redis for "))
			if fault == nil {
				fault = server.Err
			}
		} else {
			well = append(well, strings.TrimPrefix(server.Name, "redis for "))
		}
	}
	line("onceover %s  answering: %s", s.At.Local().Format("15:04:05"), strings.Join(well, ", "))
	if len(bad) > 0 {
		line("NO ANSWER: %s (%v)", strings.Join(bad, ", "), fault)
	}
	rates := "rates in half a minute"
	if r := s.Rates; r.Known {
		rates = fmt.Sprintf("%.1f in, %.1f out a second", r.In, r.Out)
		if r.Empties > 0 {
			rates += ", empty in " + r.Empties.Round(time.Second).String()
		}
	}
	if !s.AgesKnown && !s.Rates.Known {
		rates = "rates not known: workers do not answer"
	}
	oldest := "-"
	if o := s.OldestWaiting(); o > 0 {
		oldest = "≥ " + o.Round(time.Second).String()
	} else if !s.AgesKnown && s.Waiting() > 0 {
		oldest = "?"
	}
	line("waiting  %s   oldest %s   %s", known(s.QueuesKnown(), s.Waiting()), oldest, rates)
	if alarm := s.Alarm(); alarm != "" {
		line("BLOCKED: RabbitMQ takes no messages (%s), and workers cannot answer", alarm)
	} else if problems := s.Problems(); len(problems) > 0 {
		line("PROBLEM  %s of %s: %s", count(problems[0].Workers, "worker", "workers"), count(len(s.Workers.Value), "worker", "workers"), problems[0].Text)
	} else if s.Workers.Err != nil {
		line("running  ? (%v)", s.Workers.Err)
	} else {
		line("running  %s of %s slots on %s", known(s.Workers.OK(), s.Running()), known(s.Workers.OK(), s.Slots()), count(len(s.Workers.Value), "worker", "workers"))
	}
	line("failed   %s in the last hour, %s in a day   kept %s   parked %s", known(s.Causes.OK(), s.FailedHour()), known(s.Causes.OK(), s.FailedDay()),
		known(s.Counts.OK(), s.Counts.Value.Failed), known(s.Counts.OK(), s.Counts.Value.Parked))
	line("")
	table(out, func(rows io.Writer) {
		fmt.Fprintln(rows, "QUEUE\tWAITING\tOLDEST\tCONSUMERS\tSTATE")
		for _, q := range console.Worst(s.Queues)[:min(len(s.Queues), topQueues)] {
			state, ready, consumers, oldest := "consumed", fmt.Sprint(q.State.Value.Ready), fmt.Sprint(q.State.Value.Consumers), "-"
			switch {
			case q.Missing:
				state, ready, consumers = "does not exist", "-", "-"
			case !q.State.OK():
				state, ready, consumers = "not known", "?", "?"
			case q.Paused != nil:
				state = "paused by " + q.Paused.By
			case q.State.Value.Consumers == 0:
				state = "nobody consumes it"
			}
			if q.Oldest > 0 {
				oldest = "≥ " + q.Oldest.Round(time.Second).String()
			} else if !s.AgesKnown && q.State.Value.Ready > 0 {
				oldest = "?"
			}
			fmt.Fprintf(rows, "%s\t%s\t%s\t%s\t%s\n", plainLine(q.Name, 24), ready, oldest, consumers, plainLine(state, 30))
		}
	})
	line("")
	switch {
	case !s.Causes.OK():
		line("causes are not known: %v", s.Causes.Err)
	case len(s.Causes.Value) == 0:
		line("nothing has failed in the last day, and nothing is kept")
	default:
		table(out, func(rows io.Writer) {
			fmt.Fprintln(rows, "HOUR\tDAY\tKEPT\tLAST\tCAUSE")
			for _, c := range s.Causes.Value[:min(len(s.Causes.Value), topCauses)] {
				what := c.Error + ": " + c.Text
				if c.Reason != failed.ReasonFailed {
					what = string(c.Reason) + ": " + what
				}
				fmt.Fprintf(rows, "%d\t%d\t%d\t%s\t%s\n", c.Hour, c.Day, c.Kept, age(c.Last), plainLine(what, 60))
			}
		})
		if n := len(s.Causes.Value) - topCauses; n > 0 {
			line("… and %d more: onceover failed stats", n)
		}
	}
	if s.Cache.OK() && s.CacheJobs() > 0 {
		line("cache    %d of %d jobs of a day needed no call (%d %%), %s saved", s.CacheHits(), s.CacheJobs(), s.CacheHits()*100/s.CacheJobs(), fleet.Money(s.SavedMicroUSD()))
	}
	for _, e := range s.Endpoints.Value[:min(len(s.Endpoints.Value), topEndpoints)] {
		state := "closed"
		switch {
		case e.HalfOpen:
			state = "half open: one call tries it, " + e.Class + ": " + e.Text
		case !e.Open.IsZero():
			state = "OPEN until " + e.Open.Local().Format("15:04:05") + ", " + e.Class + ": " + e.Text
		case !e.NotBefore.IsZero():
			state = "waits until " + e.NotBefore.Local().Format("15:04:05")
		}
		line("model    %s: %d in flight, %d begun in a minute, breaker %s", plainLine(e.Endpoint, 20), e.InFlight, e.Begun, state)
	}
	for _, b := range s.Budgets.Value[:min(len(s.Budgets.Value), topBudgets)] {
		line("budget   %s: %s spent, %s reserved, %s left", b.Budget, fleet.Money(b.Spent), fleet.Money(b.Reserved), fleet.Money(b.Left()))
	}
}

// table writes rows in columns, each line cut to the terminal.
func table(out io.Writer, fill func(io.Writer)) {
	var text bytes.Buffer
	rows := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	fill(rows)
	rows.Flush()
	for row := range strings.Lines(text.String()) {
		fmt.Fprintln(out, fitLine(strings.TrimRight(row, " \n")))
	}
}

// fitLine is text on one line of the terminal, without what would draw on it.
func fitLine(text string) string { return plainLine(text, topWidth) }

// known is a number, or a question mark.
func known(is bool, n int) string {
	if !is {
		return "?"
	}
	return fmt.Sprint(n)
}
