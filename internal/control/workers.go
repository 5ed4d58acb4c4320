package control

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"onceover/celery"
)

// Worker is what a worker says of itself. What it does not say is zero.
type Worker struct {
	Node     string   `json:"node"`
	Software string   `json:"software"` // "onceover" or "celery", by its pool; "" if it is neither
	PID      int      `json:"pid"`
	Slots    int      `json:"slots"`              // how many jobs may run at once
	Active   int      `json:"active"`             // how many run
	Accepted int      `json:"accepted"`           // how many jobs it has begun since it was started
	Prefetch int      `json:"prefetch"`           // how many messages the broker may send it ahead
	Jobs     []Job    `json:"jobs"`               // those that run, in the worker's order
	Queues   []string `json:"queues"`             // it consumes these, sorted
	Problems []string `json:"problems,omitempty"` // why it cannot run jobs as it should, where it says so; secrets are not taken out
	Fault    string   `json:"fault"`              // which of its answers is missing, or why it was refused; "" if none
}

// Job is a job that runs.
type Job struct {
	ID      string    `json:"id"`
	Task    string    `json:"task"`
	Kwargs  string    `json:"kwargs"`  // as Celery shows them, at most 2 KB and "…"; secrets are not taken out
	Started time.Time `json:"started"` // by the worker's clock; zero if it does not say
	Node    string    `json:"node"`
}

// question is a command whose answer says something of a worker.
type question struct {
	command string
	args    map[string]any
	read    func(*Worker, json.RawMessage) error
}

// questions are what Workers asks. With safe, workers send the texts of arguments and not their values, which may be long.
func questions() []question {
	return []question{
		{"stats", nil, (*Worker).readStats},
		{"active", map[string]any{"safe": true}, (*Worker).readActive},
		{"active_queues", nil, (*Worker).readQueues},
	}
}

// Workers asks all workers what they are and hold, and returns those that have answered anything within [Client.Wait], by their names.
// An error is as that of Ask; the workers are then what was heard before.
func (c *Client) Workers(ctx context.Context) ([]Worker, error) {
	all := questions()
	answers, faults := make([]map[string]json.RawMessage, len(all)), make([]error, len(all))
	var asking sync.WaitGroup
	for i, q := range all {
		asking.Go(func() { answers[i], faults[i] = c.Ask(ctx, q.command, q.args, nil) })
	}
	asking.Wait()
	workers := workersOf(all, answers)
	for _, err := range faults {
		if err != nil {
			return workers, err // the connection is that of all
		}
	}
	return workers, nil
}

// workersOf reads the answers to the questions.
func workersOf(all []question, answers []map[string]json.RawMessage) []Worker {
	known := map[string]*Worker{}
	for _, of := range answers {
		for node := range of {
			if known[node] == nil && len(known) < maxNodes {
				known[node] = &Worker{Node: node}
			}
		}
	}
	workers := []Worker{}
	for _, node := range slices.Sorted(maps.Keys(known)) {
		w := known[node]
		var faults []string
		for i, q := range all {
			answer, answered := answers[i][node]
			switch why := Refusal(answer); {
			case !answered:
				faults = append(faults, q.command+": no answer in time")
			case why != "":
				faults = append(faults, q.command+": "+why)
			default:
				if err := q.read(w, answer); err != nil {
					faults = append(faults, q.command+": "+err.Error())
				}
			}
		}
		w.Fault = strings.Join(faults, "; ")
		workers = append(workers, *w)
	}
	return workers
}

// maxProblems bounds what is shown of one worker.
const maxProblems = 10

// readStats reads what differs little between pools (celery/worker/worker.py, stats; celery/concurrency/base.py, info).
func (w *Worker) readStats(answer json.RawMessage) error {
	var stats struct {
		PID      json.RawMessage
		Prefetch json.RawMessage `json:"prefetch_count"`
		Total    json.RawMessage
		Pool     json.RawMessage
		Problems json.RawMessage
	}
	if err := json.Unmarshal(answer, &stats); err != nil {
		return fmt.Errorf("expected an object: %w", err)
	}
	w.PID, w.Prefetch = count(stats.PID), count(stats.Prefetch)
	var problems []string // no worker of Celery says any
	if json.Unmarshal(stats.Problems, &problems) == nil {
		for _, text := range problems[:min(len(problems), maxProblems)] {
			w.Problems = append(w.Problems, shorten(text))
		}
	}
	var total map[string]json.RawMessage // by the name of the task
	if json.Unmarshal(stats.Total, &total) == nil {
		for _, n := range total {
			w.Accepted = min(w.Accepted+count(n), math.MaxInt32)
		}
	}
	var pool struct {
		Implementation json.RawMessage
		Max            json.RawMessage `json:"max-concurrency"`
		Processes      json.RawMessage
	}
	if json.Unmarshal(stats.Pool, &pool) != nil {
		return nil // such as "N/A"
	}
	var processes []json.RawMessage
	if json.Unmarshal(pool.Processes, &processes) != nil {
		processes = nil // it says no number of them either
	}
	if w.Slots = count(pool.Max); w.Slots == 0 {
		w.Slots = len(processes)
	}
	switch implementation := textOf(pool.Implementation); {
	case strings.HasPrefix(implementation, "onceover:"):
		w.Software = "onceover"
	case strings.HasPrefix(implementation, "celery."):
		w.Software = "celery"
	}
	return nil
}

// readActive reads the jobs that run (celery/worker/request.py, info).
func (w *Worker) readActive(answer json.RawMessage) error {
	var list []json.RawMessage
	if err := json.Unmarshal(answer, &list); err != nil {
		return fmt.Errorf("expected a list: %w", err)
	}
	w.Active = len(list)
	w.Jobs = make([]Job, 0, len(list))
	for _, raw := range list {
		var info struct {
			ID, Name, Type, Kwargs json.RawMessage
			Started                json.RawMessage `json:"time_start"`
		}
		if json.Unmarshal(raw, &info) != nil {
			continue // it counts all the same
		}
		j := Job{ID: textOf(info.ID), Task: textOf(info.Type), Kwargs: kwargsText(info.Kwargs), Started: moment(info.Started), Node: w.Node}
		if j.Task == "" {
			j.Task = textOf(info.Name)
		}
		w.Jobs = append(w.Jobs, j)
	}
	return nil
}

// kwargsText is the text of keyword arguments, which a worker that does not know safe sends as an object.
func kwargsText(raw json.RawMessage) string {
	var values map[string]json.RawMessage
	if json.Unmarshal(raw, &values) == nil && values != nil {
		return shorten(celery.ReprKwargs(values))
	}
	return textOf(raw)
}

// readQueues reads the names of what is consumed (kombu/entity.py, Queue.as_dict).
func (w *Worker) readQueues(answer json.RawMessage) error {
	var list []json.RawMessage
	if err := json.Unmarshal(answer, &list); err != nil {
		return fmt.Errorf("expected a list: %w", err)
	}
	w.Queues = []string{}
	for _, raw := range list {
		var queue struct{ Name string }
		if json.Unmarshal(raw, &queue) == nil && isName(queue.Name) {
			w.Queues = append(w.Queues, queue.Name)
		}
	}
	slices.Sort(w.Queues)
	w.Queues = slices.Compact(w.Queues)
	return nil
}

// number reads a JSON number; NaN if it is none.
func number(raw json.RawMessage) float64 {
	var n *float64
	if json.Unmarshal(raw, &n) != nil || n == nil {
		return math.NaN()
	}
	return *n
}

// count is a number of things, 0 for anything else.
func count(raw json.RawMessage) int {
	if n := number(raw); n >= 0 && n <= math.MaxInt32 {
		return int(n)
	}
	return 0
}

// moment is Unix seconds. Before Celery 4.4 they are those of the worker's monotonic clock, which say nothing here: what would be before
// 2000 or after 9999 is none.
func moment(raw json.RawMessage) time.Time {
	n := number(raw)
	if !(n >= 946684800 && n <= 253402300799) {
		return time.Time{}
	}
	return time.UnixMilli(int64(n * 1000)).UTC()
}
