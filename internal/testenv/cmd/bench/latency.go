package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// delays are how long jobs took from their enqueueing to the PUBLISH of their result.
type delays []time.Duration

// at returns the quantile q.
func (d delays) at(q float64) time.Duration {
	slices.Sort(d)
	return d[min(int(q*float64(len(d))), len(d)-1)]
}

// latencies prints how long a job takes where nothing else is to be done, and at half the rate of a backlog.
func latencies(ctx context.Context, b *bench, candidates []candidate, rates []float64, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nenqueue to PUBLISH, ms\tidle: p50\tp99\tat half the rate: jobs/s\tp50\tp99")
	for i, c := range candidates {
		idle, err := b.delays(ctx, c, 50, 250)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		half := rates[i] / 2
		busy, err := b.delays(ctx, c, half, int(5*half))
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.0f\t%.2f\t%.2f\n", c.name, ms(idle.at(0.5)), ms(idle.at(0.99)), half, ms(busy.at(0.5)), ms(busy.at(0.99)))
	}
	return w.Flush()
}

// delays enqueues n jobs at a rate.
func (b *bench) delays(ctx context.Context, c candidate, rate float64, n int) (delays, error) {
	c.profile = ""
	if err := b.fill(ctx, 1); err != nil {
		return nil, err
	}
	w, err := b.launch(c)
	if err != nil {
		return nil, err
	}
	defer w.Kill()
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
			ids, messages, err := jobsOf(due)
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
	_, err = w.stop()
	return out, err
}
