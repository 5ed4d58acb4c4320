package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"onceover/rabbit"
)

// Told is what workers answered to a command.
type Told struct {
	Nodes   []string          // that say they do it, sorted. A Python worker says so before it tries.
	Refused map[string]string // why, by node
}

func toldBy(answers map[string]json.RawMessage) Told {
	t := Told{Refused: map[string]string{}}
	for _, node := range slices.Sorted(maps.Keys(answers)) {
		if why := Refusal(answers[node]); why != "" {
			t.Refused[node] = why
		} else {
			t.Nodes = append(t.Nodes, node)
		}
	}
	return t
}

// Pause tells all workers to stop consuming a queue (celery control cancel_consumer). One that does not consume it says that it does as
// it is told, too: [Client.Workers] shows who still consumes it. What a worker has taken from the queue before, it runs.
func (c *Client) Pause(ctx context.Context, queue string) (Told, error) {
	if err := checkQueue(queue); err != nil {
		return Told{}, err
	}
	answers, err := c.Ask(ctx, "cancel_consumer", map[string]any{"queue": queue}, nil)
	return toldBy(answers), err
}

// Resume tells workers to consume a queue (celery control add_consumer): those of nodes, or all if there are none. All is rarely what is
// meant: workers that never consumed the queue begin to, and a Python worker that does not know it ends if it would declare it otherwise
// than it is. [Pause.Nodes] are those that had it.
//
// A queue of our topology is described by its exchange and binding. Any other is named only: a worker that had it knows the rest, and
// ours takes a queue that exists as it stands.
func (c *Client) Resume(ctx context.Context, queue string, nodes ...string) (Told, error) {
	if err := checkQueue(queue); err != nil {
		return Told{}, err
	}
	args := map[string]any{"queue": queue}
	if q := rabbit.QueueNamed(queue); q.Args != nil {
		args["exchange"], args["exchange_type"], args["routing_key"] = q.Exchange, q.ExchangeKind(), q.BindingKey
	}
	answers, err := c.Ask(ctx, "add_consumer", args, nodes)
	return toldBy(answers), err
}

func checkQueue(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("the name of the queue has %d bytes: expected 1 to %d", len(name), maxName)
	}
	return nil
}

// Consumers are the names of those workers that consume a queue.
func Consumers(workers []Worker, queue string) []string {
	var nodes []string
	for _, w := range workers {
		if slices.Contains(w.Queues, queue) {
			nodes = append(nodes, w.Node)
		}
	}
	return nodes
}

// Enforce tells those of workers that consume a paused queue to stop, as they have been started later or were told otherwise, and notes
// in the pause that they had it. It tries all queues, and returns what went wrong. Any number of processes may call it.
//
// A pause that ends meanwhile is not broken: a queue that is no longer paused when the workers have been told is resumed by them.
func (c *Client) Enforce(ctx context.Context, pauses *Pauses, workers []Worker) error {
	paused, err := pauses.All(ctx)
	if err != nil {
		return err
	}
	told := map[string][]string{}
	var faults []error
	for _, queue := range slices.Sorted(maps.Keys(paused)) {
		nodes := Consumers(workers, queue)
		if len(nodes) == 0 {
			continue
		}
		switch holds, err := pauses.had(ctx, queue, nodes); {
		case err != nil:
			faults = append(faults, err)
			continue
		case !holds:
			continue
		}
		told[queue] = nodes
		if err := c.Tell(ctx, "cancel_consumer", map[string]any{"queue": queue}, nodes); err != nil {
			faults = append(faults, fmt.Errorf("queue %s: %w", queue, err))
		}
	}
	if len(told) == 0 {
		return errors.Join(faults...)
	}
	// Whoever ends a pause first takes it away and then tells the workers that are noted in it. If it has gone by now, that may have been
	// before they were told here.
	paused, err = pauses.All(ctx)
	if err != nil {
		return errors.Join(append(faults, err)...)
	}
	for queue, nodes := range told {
		if _, still := paused[queue]; still {
			continue
		}
		if _, err := c.Resume(ctx, queue, nodes...); err != nil {
			faults = append(faults, fmt.Errorf("queue %s: %w", queue, err))
		}
	}
	return errors.Join(faults...)
}
