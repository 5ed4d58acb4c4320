package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"onceover/internal/config"
	"onceover/vision/fleet"
)

func newBudget() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "budget",
		Short: "Show what the vision model may cost, and has cost",
		Long: `Shows each window of the budget: what was spent in it, what is reserved for calls that
are in flight, what is left, when the next window begins, and which model and user_id
had it spent. The windows of a day begin at midnight UTC. The call of a worker that
died counts as reserved until its endpoint is asked again, two minutes after its
time-out or later, and then as spent.`,
		Example: `  ONCEOVER_BUDGET=5usd/1d,100usd/30d onceover budget
  onceover budget --budget 5usd/1d --json`,
		Args: noArgs,
	}
	s := config.Bind(cmd.Flags(), "redis-url", "limits-url", "budget", "log-level", "log-format")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := load(s, cmd.Flags()); err != nil {
			return err
		}
		if len(s.Fleet.Budgets) == 0 {
			return usageError(errors.New("no budget is set: expected the same as the workers have, such as ONCEOVER_BUDGET=5usd/1d"))
		}
		if err := connectRedis(cmd.Context(), "limits-url", s.LimitsURL); err != nil {
			return err
		}
		client, err := openRedis("limits", s.LimitsURL, 1)
		if err != nil {
			return usageError(err)
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
		defer cancel()
		all, err := fleet.New(s.Fleet, client, prometheus.NewRegistry(), zap.NewNop()).Spending(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), budgetJSON(all))
		}
		drawBudget(cmd.OutOrStdout(), all)
		return nil
	}
	return cmd
}

func drawBudget(out io.Writer, all []fleet.Spending) {
	for i, s := range all {
		if i > 0 {
			fmt.Fprintln(out)
		}
		f := fields{out}
		f.print("budget", "%v", s.Budget)
		f.print("window", "%s to %s", s.Begins.Local().Format(time.DateTime), s.Ends().Local().Format(time.DateTime))
		f.print("spent", "%s", fleet.Money(s.Spent))
		f.print("reserved", "%s", fleet.Money(s.Reserved))
		f.print("left", "%s", fleet.Money(s.Left()))
		if len(s.By) == 0 {
			continue
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "\nMODEL\tUSER\tSPENT\tRESERVED")
		for _, p := range s.By {
			user := p.User
			if user == "" {
				user = "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", plainLine(p.Model, 100), plainLine(user, 100), fleet.Money(p.MicroUSD), fleet.Money(p.Reserved))
		}
		w.Flush()
	}
}

// budgetJSON is the form of --json. Money is in millionths of a US dollar.
func budgetJSON(all []fleet.Spending) any {
	type part struct {
		Model string `json:"model"`
		User  string `json:"user_id"`
		Spent int64  `json:"spent_microusd"`
		Held  int64  `json:"reserved_microusd"`
	}
	type window struct {
		Budget   string    `json:"budget"`
		Begins   time.Time `json:"begins"`
		Ends     time.Time `json:"ends"`
		Amount   int64     `json:"amount_microusd"`
		Spent    int64     `json:"spent_microusd"`
		Reserved int64     `json:"reserved_microusd"`
		Left     int64     `json:"left_microusd"`
		By       []part    `json:"by"`
	}
	out := []window{}
	for _, s := range all {
		w := window{s.Budget.String(), s.Begins, s.Ends(), s.MicroUSD, s.Spent, s.Reserved, s.Left(), []part{}}
		for _, p := range s.By {
			w.By = append(w.By, part{p.Model, p.User, p.MicroUSD, p.Reserved})
		}
		out = append(out, w)
	}
	return out
}
