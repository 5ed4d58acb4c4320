package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"onceover/failed"
	"onceover/internal/config"
	"onceover/internal/control"
	"onceover/rabbit"
)

func newQueue() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "See queues, and have workers stop and begin to consume them",
		Long: `Shows what waits in the queues, and pauses a queue: all workers, ours and Celery's, stop
consuming it, finish what they have of it, and begin again when it is resumed.

A pause is kept in Redis. It holds for workers that start later while a gateway runs,
which tells them. Messages expire in a paused queue as in any other.`,
		Example: `  onceover queue list
  onceover queue pause q.batch --why "the model is slow today"
  onceover queue resume q.batch`,
		SuggestionsMinimumDistance: 2,
		Args:                       unknownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newQueueList(), newQueuePause(), newQueueResume())
	return cmd
}

// queueFlags are the settings that these commands show.
var queueFlags = []string{"broker-url", "redis-url", "failed-url"}

// queueOperator is what these commands ask.
type queueOperator struct {
	client *control.Client
	pauses *control.Pauses
	kept   redis.UniversalClient // DB5
	urls   []string
	out    io.Writer
}

// openQueues connects to Redis; to the broker it is connected when that is asked.
func openQueues(cmd *cobra.Command, s *config.Settings) (*queueOperator, func(), error) {
	if err := connectRedis(cmd.Context(), "failed-url", s.FailedURL); err != nil {
		return nil, nil, err
	}
	kept, err := openRedis("failed", s.FailedURL, 1)
	if err != nil {
		return nil, nil, usageError(err)
	}
	client := control.New("onceover queue", s.Worker.BrokerURLs)
	q := &queueOperator{client, control.NewPauses(kept), kept, s.Worker.BrokerURLs, cmd.OutOrStdout()}
	return q, func() {
		client.Close()
		kept.Close()
	}, nil
}

func newQueueList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the queues, what waits in them, and who consumes them",
		Long: `Lists the queues of the topology and those that a worker consumes: the messages that
are ready, the consumers by the broker's count, and the workers that answered within
a second and consume it.`,
		Example: `  onceover queue list
  onceover queue list --json | jq -r 'select(.paused).queue'`,
		Args: noArgs,
	}
	settings := config.Bind(cmd.Flags(), queueFlags...)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		q, closeQueues, err := openQueues(cmd, settings)
		if err != nil {
			return err
		}
		defer closeQueues()
		return q.list(cmd.Context(), asJSON)
	}
	return cmd
}

// queueRow is how a queue stands.
type queueRow struct {
	Queue     string         `json:"queue"`
	Ready     int            `json:"ready"`
	Consumers int            `json:"consumers"`
	Missing   bool           `json:"missing,omitempty"` // it does not exist
	Fault     string         `json:"fault,omitempty"`   // why the broker does not say how it stands
	Workers   []string       `json:"workers"`           // that consume it
	Paused    *control.Pause `json:"paused,omitempty"`
}

func (q *queueOperator) list(ctx context.Context, asJSON bool) error {
	paused, err := q.pauses.All(ctx)
	if err != nil {
		return err
	}
	workers, err := q.client.Workers(ctx)
	if err != nil {
		return err
	}
	conn, err := rabbit.Dial(ctx, "onceover queue", q.urls)
	if err != nil {
		return err
	}
	defer rabbit.HangUp(conn)
	var rows []queueRow
	for _, name := range queueNames(workers, paused) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		row := queueRow{Queue: name, Workers: append([]string{}, control.Consumers(workers, name)...)}
		standing, err := rabbit.Look(conn, name)
		row.Ready, row.Consumers = standing.Ready, standing.Consumers
		var refused *rabbit.ConfigError
		switch {
		case errors.Is(err, rabbit.ErrNoQueue):
			row.Missing = true
		case errors.As(err, &refused):
			row.Fault = err.Error()
		case err != nil:
			return err
		}
		if p, is := paused[name]; is {
			row.Paused = &p
		}
		rows = append(rows, row)
	}
	if asJSON {
		for _, row := range rows {
			if err := printJSON(q.out, row); err != nil {
				return err
			}
		}
		return nil
	}
	return drawQueues(q.out, rows, len(workers))
}

// queueNames are the queues of the topology, then those that workers consume or that are paused.
func queueNames(workers []control.Worker, paused map[string]control.Pause) []string {
	var names []string
	for _, q := range rabbit.Topology() {
		names = append(names, q.Name)
	}
	others := map[string]bool{}
	for _, w := range workers {
		for _, name := range w.Queues {
			others[name] = true
		}
	}
	for name := range paused {
		others[name] = true
	}
	for _, name := range names {
		delete(others, name)
	}
	return append(names, slices.Sorted(maps.Keys(others))...)
}

func drawQueues(out io.Writer, rows []queueRow, workers int) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "QUEUE\tREADY\tCONSUMERS\tWORKERS\tPAUSED")
	var faults []string
	for _, r := range rows {
		ready, consumers := fmt.Sprint(r.Ready), fmt.Sprint(r.Consumers)
		switch {
		case r.Missing:
			ready, consumers = "missing", "-"
		case r.Fault != "":
			ready, consumers = "?", "?"
			faults = append(faults, r.Fault)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", plainLine(r.Queue, 24), ready, consumers, len(r.Workers), pausedBy(r.Paused))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s answered\n", workersOf(workers))
	for _, fault := range faults {
		fmt.Fprintln(out, plainLine(fault, 240))
	}
	return nil
}

// pausedBy tells of a pause in a few words.
func pausedBy(p *control.Pause) string {
	if p == nil {
		return "-"
	}
	text := "by " + cmp.Or(p.By, "unknown")
	if !p.Since.IsZero() {
		text = age(p.Since) + " " + text
	}
	if p.Why != "" {
		text += ": " + p.Why
	}
	return plainLine(text, 40)
}

// workersOf is n with its noun.
func workersOf(n int) string {
	if n == 1 {
		return "1 worker"
	}
	return fmt.Sprintf("%d workers", n)
}

// maxWhy is how many bytes may say why a queue is paused.
const maxWhy = 200

func newQueuePause() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use:   "pause QUEUE",
		Short: "Have all workers stop consuming a queue",
		Long: `Notes in Redis that the queue is paused, tells all workers to stop consuming it, and
looks who still does. What they have taken from it before, they run. It may be
repeated. Workers that start later are told by a gateway, while one runs.`,
		Example: `  onceover queue pause q.batch --why "the model is slow today"`,
		Args:    exactArgs(1),
	}
	settings := config.Bind(cmd.Flags(), queueFlags...)
	cmd.Flags().StringVar(&why, "why", "", "say why, for those who see that it is paused")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		if err := checkQueueName(args[0]); err != nil {
			return err
		}
		if len(why) > maxWhy {
			return usageError(fmt.Errorf("--why has %d bytes: expected at most %d", len(why), maxWhy))
		}
		q, closeQueues, err := openQueues(cmd, settings)
		if err != nil {
			return err
		}
		defer closeQueues()
		return q.pause(cmd.Context(), args[0], why)
	}
	return cmd
}

func checkQueueName(name string) error {
	if name == "" || len(name) > 255 {
		return usageError(fmt.Errorf("QUEUE has %d bytes: expected the name of a queue, of 1 to 255", len(name)))
	}
	return nil
}

// operator is who we are: user@host.
func operator() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return cmp.Or(os.Getenv("USER"), "unknown") + "@" + host
}

// noteChange has the list of changes name what was done and by whom. That it cannot be noted is told, and is no fault: the change was made.
func noteChange(ctx context.Context, client redis.UniversalClient, action, target, outcome string) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := failed.Audit(late, client, failed.Change{By: operator(), Action: action, Target: target, Outcome: outcome}); err != nil {
		fmt.Fprintln(os.Stderr, "onceover: warning:", err)
	}
}

func (q *queueOperator) pause(ctx context.Context, queue, why string) error {
	if err := q.mustExist(ctx, queue); err != nil {
		return err
	}
	workers, err := q.client.Workers(ctx)
	if err != nil {
		return err
	}
	// Noted first: a worker that starts in between is told by a gateway.
	p := control.Pause{By: operator(), Since: time.Now().UTC().Truncate(time.Second), Why: why, Nodes: control.Consumers(workers, queue)}
	if err := q.pauses.Set(ctx, queue, p); err != nil {
		return err
	}
	noteChange(ctx, q.kept, "pause", "queue "+queue, "noted, and workers told: "+why)
	told, err := q.client.Pause(ctx, queue)
	if err != nil {
		return fmt.Errorf("%w; queue %s is noted as paused: repeat the command", err, queue)
	}
	q.refused(told)
	// A Python worker says that it stops before it does.
	if workers, err = q.client.Workers(ctx); err != nil {
		return fmt.Errorf("%w; queue %s is paused, and it is not known who still consumes it: see onceover queue list", err, queue)
	}
	still := control.Consumers(workers, queue)
	fmt.Fprintf(q.out, "queue %s is paused: %s answered, %s\n", plainLine(queue, 255), workersOf(len(workers)), stillConsume(still, len(p.Nodes)))
	if ttl, expires := rabbit.QueueNamed(queue).Args["x-message-ttl"].(int32); expires {
		fmt.Fprintf(q.out, "messages that wait in it for more than %v expire, and are kept as failed jobs\n", time.Duration(ttl)*time.Millisecond)
	}
	fmt.Fprintln(q.out, "workers that start later are told to leave it by a gateway, while one runs")
	if len(still) > 0 {
		return fmt.Errorf("queue %s is still consumed by %s: repeat the command", queue, names(still))
	}
	return nil
}

// stillConsume tells how many workers consume a queue, of those that did.
func stillConsume(still []string, before int) string {
	if len(still) > 0 {
		return fmt.Sprintf("%d still consume it", len(still))
	}
	return fmt.Sprintf("%d consumed it and none does any more", before)
}

// names lists nodes, the first few.
func names(nodes []string) string {
	const most = 5
	shown := make([]string, 0, most)
	for _, n := range nodes[:min(len(nodes), most)] {
		shown = append(shown, plainLine(n, 60))
	}
	text := strings.Join(shown, ", ")
	if len(nodes) > most {
		text += fmt.Sprintf(" and %d others", len(nodes)-most)
	}
	return text
}

// refused prints which workers did not do as they were told.
func (q *queueOperator) refused(told control.Told) {
	for _, node := range slices.Sorted(maps.Keys(told.Refused)) {
		fmt.Fprintf(q.out, "worker %s refused: %s\n", plainLine(node, 60), plainLine(told.Refused[node], 200))
	}
}

// mustExist fails if there is no such queue: its name may be wrong.
func (q *queueOperator) mustExist(ctx context.Context, queue string) error {
	conn, err := rabbit.Dial(ctx, "onceover queue", q.urls)
	if err != nil {
		return err
	}
	defer rabbit.HangUp(conn)
	_, err = rabbit.Look(conn, queue)
	var refused *rabbit.ConfigError
	switch {
	case errors.Is(err, rabbit.ErrNoQueue):
		return fmt.Errorf("there is no queue %q: see onceover queue list", queue)
	case errors.As(err, &refused):
		return nil // we may not look
	}
	return err
}

func newQueueResume() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "resume QUEUE",
		Short: "Have workers consume a paused queue again",
		Long: `Takes the pause away, tells the workers that consumed the queue to consume it again,
and looks who does. With --all every worker is told, also those that never
consumed it, and a queue that is not noted as paused is resumed, too.`,
		Example: `  onceover queue resume q.batch`,
		Args:    exactArgs(1),
	}
	settings := config.Bind(cmd.Flags(), queueFlags...)
	cmd.Flags().BoolVar(&all, "all", false, "tell all workers, not only those that consumed it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := load(settings, cmd.Flags()); err != nil {
			return err
		}
		if err := checkQueueName(args[0]); err != nil {
			return err
		}
		q, closeQueues, err := openQueues(cmd, settings)
		if err != nil {
			return err
		}
		defer closeQueues()
		return q.resume(cmd.Context(), args[0], all)
	}
	return cmd
}

func (q *queueOperator) resume(ctx context.Context, queue string, all bool) error {
	if all {
		if err := q.mustExist(ctx, queue); err != nil {
			return err
		}
	}
	// Taken away first, so that no gateway tells the workers to stop after they were told to begin.
	pause, was, err := q.pauses.Clear(ctx, queue)
	if err != nil {
		return err
	}
	if !was && !all {
		return &exitCodeError{exitNotFinished, fmt.Errorf("queue %s is not paused: to have all workers consume it, give --all", plainLine(queue, 255))}
	}
	nodes := pause.Nodes
	if all {
		nodes = nil
	}
	noteChange(ctx, q.kept, "resume", "queue "+queue, map[bool]string{true: "all workers told", false: "the workers told that had consumed it"}[all])
	if len(nodes) > 0 || all {
		told, err := q.client.Resume(ctx, queue, nodes...)
		if err != nil {
			if was { // to be repeated with those that had it
				err = errors.Join(err, q.pauses.Set(context.WithoutCancel(ctx), queue, pause))
			}
			return fmt.Errorf("%w; workers may consume queue %s or not: repeat the command", err, queue)
		}
		q.refused(told)
	}
	workers, err := q.client.Workers(ctx)
	if err != nil {
		return fmt.Errorf("%w; queue %s is not paused any more, and it is not known who consumes it: see onceover queue list", err, queue)
	}
	now := control.Consumers(workers, queue)
	fmt.Fprintf(q.out, "queue %s is not paused any more: %s answered, %d consume it\n", plainLine(queue, 255), workersOf(len(workers)), len(now))
	var silent []string
	for _, node := range nodes {
		if !slices.Contains(now, node) {
			silent = append(silent, node)
		}
	}
	if len(silent) > 0 {
		fmt.Fprintf(q.out, "%s consumed it and does not now: %s\n", workersOf(len(silent)), names(silent))
	}
	if len(now) == 0 {
		fmt.Fprintln(q.out, "nobody consumes it: start a worker, or give --all")
	}
	return nil
}
