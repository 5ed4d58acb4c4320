package console

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"onceover/failed"
	"onceover/internal/control"
	"onceover/progress"
	"onceover/rabbit"
)

func (c *Console) overview(p *page) error {
	s := c.latest(p.Context())
	if s == nil {
		return refusal(http.StatusServiceUnavailable, "Nothing is known yet: the servers are being asked. Try again in a moment.")
	}
	shown := *s
	shown.Queues = Worst(s.Queues)
	return p.show("overview", "Overview", &shown)
}

// runningJob is a job that runs.
type runningJob struct {
	control.Job
	Update *progress.Update // what it shows, nil if nothing
}

// runningShown is what the page of running jobs shows.
type runningShown struct {
	At   time.Time
	Err  error
	Jobs []runningJob
	More int // jobs that are not listed

	NoProgress error // why their progress is not shown, nil if it is
}

// runningRows is how many running jobs are listed.
const runningRows = 100

func (c *Console) running(p *page) error {
	s := c.latest(p.Context())
	if s == nil {
		return refusal(http.StatusServiceUnavailable, "Nothing is known yet: the servers are being asked. Try again in a moment.")
	}
	data := runningShown{At: s.Workers.At, Err: s.Workers.Err}
	for _, w := range s.Workers.Value {
		for _, j := range w.Jobs {
			data.Jobs = append(data.Jobs, runningJob{Job: j})
		}
	}
	slices.SortFunc(data.Jobs, func(a, b runningJob) int { return a.Started.Compare(b.Started) })
	if len(data.Jobs) > runningRows {
		data.More, data.Jobs = len(data.Jobs)-runningRows, data.Jobs[:runningRows]
	}
	ids := make([]string, len(data.Jobs))
	for i, j := range data.Jobs {
		ids[i] = jobIDOf(j.Job)
	}
	ctx, cancel := context.WithTimeout(p.Context(), stateTime)
	defer cancel()
	updates, err := c.Progress.LoadAll(ctx, ids)
	if data.NoProgress = err; err == nil {
		for i := range data.Jobs {
			data.Jobs[i].Update = updates[i]
		}
	}
	return p.show("running", "Running jobs", data)
}

// parkedShown is what the page of parked jobs shows.
type parkedShown struct {
	Jobs  []failed.ParkedJob
	Total int
	Page  int
	Pages int
	At    time.Time
}

func (c *Console) parked(p *page) error {
	number := 1
	if text := p.URL.Query().Get("page"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1e6 {
			return refusal(http.StatusBadRequest, "The page is %q: expected a number from 1.", clip(text, 20))
		}
		number = n
	}
	jobs, total, err := c.Failed.ParkedPage(p.Context(), number, pageRows)
	if err != nil {
		return err
	}
	return p.show("parked", "Parked jobs", parkedShown{jobs, total, number, (total + pageRows - 1) / pageRows, time.Now()})
}

func (c *Console) runParked(p *page) error {
	return c.changeParked(p, "run now", p.lang.text("The job is published in a moment."), func(key string) error { return c.Failed.RunParked(p.Context(), key) })
}

func (c *Console) discardParked(p *page) error {
	if p.PostFormValue("sure") != "yes" {
		return refusal(http.StatusBadRequest, "Nothing was discarded: tick the box beside the button first.")
	}
	return c.changeParked(p, "discard parked", p.lang.text("The parked job was discarded."), func(key string) error { return c.Failed.DiscardParked(p.Context(), key) })
}

func (c *Console) changeParked(p *page, action, said string, do func(key string) error) error {
	key := p.PathValue("key")
	err := do(key)
	if errors.Is(err, failed.ErrNotParked) {
		return refusal(http.StatusNotFound, "There is no parked job %s: it was published or discarded meanwhile.", key)
	}
	var away interface{ Unavailable() bool }
	if err != nil && !errors.As(err, &away) {
		return refusal(http.StatusConflict, "%v", err)
	}
	if err != nil {
		return err
	}
	p.changed(action, key, "done")
	return p.back("parked", said)
}

func (c *Console) queues(p *page) error {
	s := c.latest(p.Context())
	if s == nil {
		return refusal(http.StatusServiceUnavailable, "Nothing is known yet: the servers are being asked. Try again in a moment.")
	}
	return p.show("queues", "Queues and workers", s)
}

// queueIn returns the queue that the path names, if there is one.
func (c *Console) queueIn(p *page) (string, error) {
	name := p.PathValue("queue")
	_, err := c.Look(p.Context(), name)
	if errors.Is(err, rabbit.ErrNoQueue) {
		return "", refusal(http.StatusNotFound, "There is no queue %s.", name)
	}
	return name, err
}

func (c *Console) pause(p *page) error {
	name, err := c.queueIn(p)
	if err != nil {
		return err
	}
	by := p.who
	if by == "" {
		by = "this machine"
	}
	why := clip(strings.TrimSpace(p.PostFormValue("why")), 200)
	workers, err := c.Workers.Workers(p.Context()) // now: those that are noted are told when it ends
	if err != nil {
		return err
	}
	for _, w := range workers {
		if w.Fault != "" {
			return refusal(http.StatusConflict, "Nothing was paused: worker %s does not say which queues it consumes (%s). Try again.", w.Node, w.Fault)
		}
	}
	pause := control.Pause{By: by, Since: time.Now().UTC(), Why: why, Nodes: control.Consumers(workers, name)}
	if err := c.Pauses.Set(p.Context(), name, pause); err != nil {
		return err
	}
	told, err := c.Workers.Pause(p.Context(), name)
	if err != nil { // it is noted: they are told as soon as that is possible
		p.changed("pause", "queue "+name, "noted, workers not told yet: "+why)
		return err
	}
	p.changed("pause", "queue "+name, fmt.Sprintf("paused, %d workers told: %s", len(told.Nodes), why))
	c.renew(p.Context())
	return p.back("queues", p.lang.text("Queue %s is paused: jobs in flight are finished, and no new ones are taken.", name))
}

func (c *Console) resume(p *page) error {
	name := p.PathValue("queue")
	pause, was, err := c.Pauses.Clear(p.Context(), name)
	if err != nil {
		return err
	}
	if !was {
		return p.back("queues", p.lang.text("Queue %s was not paused.", name))
	}
	if len(pause.Nodes) == 0 { // Resume would tell all workers, also those that never consumed it
		p.changed("resume", "queue "+name, "resumed, nobody had consumed it")
		return p.back("queues", p.lang.text("Queue %s is not paused any more. Nobody consumed it when it was paused, and nobody is told to.", name))
	}
	told, err := c.Workers.Resume(p.Context(), name, pause.Nodes...)
	if err != nil { // who was told to stop is known by the pause alone
		late, cancel := context.WithTimeout(context.WithoutCancel(p.Context()), 2*time.Second)
		defer cancel()
		return fmt.Errorf("the queue stays paused: %w", errors.Join(err, c.Pauses.Set(late, name, pause)))
	}
	silent := silentOf(pause.Nodes, told)
	for range 2 { // one whose connection was just lost hears the next question
		if len(silent) == 0 {
			break
		}
		more, err := c.Workers.Resume(p.Context(), name, silent...)
		if err != nil {
			break // they are named
		}
		told.Nodes = append(told.Nodes, more.Nodes...)
		maps.Copy(told.Refused, more.Refused)
		silent = silentOf(pause.Nodes, told)
	}
	outcome := fmt.Sprintf("resumed, %d workers of %d that had consumed it", len(told.Nodes), len(pause.Nodes))
	for node, why := range told.Refused {
		outcome += "; " + node + " refused: " + why
	}
	if len(silent) > 0 {
		outcome += "; no answer from " + strings.Join(silent, ", ")
	}
	p.changed("resume", "queue "+name, outcome)
	c.renew(p.Context())
	if len(silent) > 0 {
		return p.back("queues", p.lang.text("Queue %s is not paused any more. %d of the %d workers that had consumed it did not answer: %s. If they still run, have them consume it by: celery control add_consumer %s", name, len(silent), len(pause.Nodes), clip(strings.Join(silent, ", "), 300), name))
	}
	return p.back("queues", p.lang.text("Queue %s is not paused any more: %d of the %d workers that had consumed it do so again.", name, len(told.Nodes), len(pause.Nodes)))
}

// silentOf are the nodes that have not answered.
func silentOf(nodes []string, told control.Told) (out []string) {
	for _, node := range nodes {
		if _, refused := told.Refused[node]; !refused && !slices.Contains(told.Nodes, node) {
			out = append(out, node)
		}
	}
	return out
}
