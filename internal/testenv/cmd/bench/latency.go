package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

// delays are how long jobs took from their enqueueing to the PUBLISH of their result.
type delays []time.Duration

// at returns the quantile q, by the nearest rank.
func (d delays) at(q float64) time.Duration {
	slices.Sort(d)
	return d[max(0, int(math.Ceil(q*float64(len(d))))-1)]
}

// latencies measures how long a job takes where nothing else is to be done, and at half the rate of a backlog.
func latencies(ctx context.Context, b *bench, o options) ([]*table, error) {
	t := &table{title: "Latency", note: "From a job's enqueueing to the PUBLISH of its result, in ms.",
		head: []string{"worker", "one at a time: p50", "p99", "at half its rate: jobs/s", "p50", "p99"}}
	for _, c := range b.candidates {
		if c.rate == 0 {
			m, err := b.measure(ctx, c, load{jobs: o.jobs})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			c.rate = m.rate
		}
		idle, err := b.delays(ctx, c, load{}, 50, 250)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		half := c.rate / 2
		busy, err := b.delays(ctx, c, load{}, half, int(5*half))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		t.add(c.name, ms(idle.at(0.5)), ms(idle.at(0.99)), fmt.Sprintf("%.0f", half), ms(busy.at(0.5)), ms(busy.at(0.99)))
	}
	return []*table{t}, nil
}

// delays enqueues n jobs at a rate, after what is in a load.
func (b *bench) delays(ctx context.Context, c *candidate, l load, rate float64, n int) (delays, error) {
	l.jobs = 1
	if err := b.fill(ctx, l); err != nil {
		return nil, err
	}
	var all []*worker
	for i := range max(1, l.workers) {
		w, err := b.launchAs(c, fmt.Sprint("worker", i))
		if err != nil {
			return nil, err
		}
		defer w.Kill()
		all = append(all, w)
	}
	w := all[0]
	if _, _, err := b.until(ctx, w, 1, 10*time.Millisecond); err != nil {
		return nil, err
	}
	if err := wait(ctx, time.Second); err != nil { // what is done beside the first job
		return nil, err
	}
	const channel = "celery-task-meta-"
	sub := b.results.PSubscribe(ctx, channel+"*")
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var mu sync.Mutex
	sent := map[string]time.Time{}
	var publishing sync.WaitGroup
	failed := make(chan error, 1)
	publishing.Go(func() {
		began := time.Now()
		for done := 0; done < n; {
			due := min(int(time.Since(began).Seconds()*rate)+1, n) - done
			if due <= 0 {
				if wait(ctx, time.Duration(float64(time.Second)/rate/2)) != nil {
					return
				}
				continue
			}
			ids, messages, err := jobsOf(due, false)
			if err == nil {
				mu.Lock()
				for _, id := range ids {
					sent[id] = time.Now()
				}
				mu.Unlock()
				err = b.pub.Publish(ctx, messages...)
			}
			if err != nil {
				failed <- err
				cancel()
				return
			}
			done += due
		}
	})
	var out delays
	for len(out) < n {
		m, err := sub.ReceiveMessage(ctx)
		if err != nil {
			publishing.Wait()
			select {
			case err = <-failed:
			default:
			}
			return nil, fmt.Errorf("got %d of %d results: %w", len(out), n, err)
		}
		at := time.Now()
		mu.Lock()
		if from, ok := sent[strings.TrimPrefix(m.Channel, channel)]; ok {
			out = append(out, at.Sub(from))
		}
		mu.Unlock()
	}
	publishing.Wait()
	for _, w := range all {
		if _, err := w.stop(); err != nil {
			return nil, err
		}
	}
	return out, nil
}
