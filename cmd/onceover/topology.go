package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"onceover/internal/config"
	"onceover/rabbit"
)

func newTopology() *cobra.Command {
	var declare, asJSON bool
	cmd := &cobra.Command{
		Use:   "topology",
		Short: "Print the exchanges and queues, or declare what is missing of them",
		Long: `Prints the fixed topology: topic exchange "tasks", direct exchange "dlx", and
five queues. With --declare it creates on the broker what is missing. What
exists is left as it is, whatever its arguments.`,
		Example: `  onceover topology
  onceover topology --declare --broker-url amqp://user:password@rabbit:5672/vhost`,
		Args: noArgs,
	}
	settings := config.Bind(cmd.Flags(), "broker-url")
	cmd.Flags().BoolVar(&declare, "declare", false, "create what is missing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out := cmd.OutOrStdout()
		queues := rabbit.Topology()
		if declare {
			if err := load(settings, cmd.Flags()); err != nil {
				return err
			}
			conn, err := rabbit.Dial(cmd.Context(), "onceover topology", settings.Worker.BrokerURLs)
			if err != nil {
				return err
			}
			defer rabbit.HangUp(conn)
			d, err := rabbit.Declare(cmd.Context(), conn, queues...)
			if err != nil {
				return err
			}
			if err := d.Err(); err != nil {
				return err
			}
			created := d.Created
			if asJSON {
				return json.NewEncoder(out).Encode(map[string]any{"created": append([]string{}, created...)})
			}
			if len(created) == 0 {
				fmt.Fprintln(out, "nothing was missing")
				return nil
			}
			fmt.Fprintln(out, "created:", strings.Join(created, ", "))
			return nil
		}
		if asJSON {
			enc := json.NewEncoder(out)
			enc.SetIndent("", "  ")
			return enc.Encode(queues)
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "QUEUE\tBINDING\tEXCHANGE\tARGUMENTS")
		for _, q := range queues {
			var args []string
			for _, k := range slices.Sorted(maps.Keys(q.Args)) {
				args = append(args, fmt.Sprintf("%s=%v", k, q.Args[k]))
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", q.Name, q.BindingKey, q.Exchange, strings.Join(args, " "))
		}
		return w.Flush()
	}
	return cmd
}
