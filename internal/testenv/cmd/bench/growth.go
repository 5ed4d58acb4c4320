package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/chart"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
)

// growing is what grows, with everything else as it is.
type growing struct {
	name  string
	sizes []int
	load  func(b *bench, size, jobs int) load
	env   func(size int) []string
	queue bool // it is the queue
}

var growths = []growing{
	{name: "jobs in the queue", queue: true, sizes: []int{1000, 10_000, 100_000}, load: func(_ *bench, size, _ int) load { return load{jobs: size} }},
	{name: "jobs in flight", sizes: []int{10, 100, 1000}, load: func(_ *bench, _, jobs int) load { return load{jobs: jobs} },
		env: func(size int) []string { return []string{fmt.Sprint("ONCEOVER_CONCURRENCY=", size)} }},
	{name: "worker processes", sizes: []int{1, 2, 4, 8}, load: func(_ *bench, size, jobs int) load { return load{jobs: jobs, workers: size} }},
	{name: "cached pictures", sizes: []int{10_000, 100_000, 1_000_000}, load: func(b *bench, size, jobs int) load {
		return load{jobs: jobs, before: func(ctx context.Context) error { return b.cached(ctx, size) }}
	}},
	{name: "failed jobs", sizes: []int{1000, 10_000, 100_000}, load: func(b *bench, size, jobs int) load {
		return load{jobs: jobs, before: func(ctx context.Context) error { return b.kept(ctx, size, false) }}
	}},
	{name: "parked jobs", sizes: []int{1000, 10_000, 100_000}, load: func(b *bench, size, jobs int) load {
		return load{jobs: jobs, before: func(ctx context.Context) error { return b.kept(ctx, size, true) }}
	}},
}

// growthRate is how many jobs a second come while their latency is measured.
const growthRate = 1000

// growth measures this worker as one thing after the other grows.
func growth(ctx context.Context, b *bench, o options) ([]*table, error) {
	t := &table{title: "Growth", note: fmt.Sprintf("One thing grows, all else stays as it is: %d hits, 100 in flight, one process, empty stores. p99 is that of %d jobs a second.", o.jobs, growthRate),
		head: []string{"what grows", "to", "jobs/s", "CPU s for 1,000", "RSS MB", "p99, ms"}}
	plot := chart.Chart{Title: "Jobs a second as one thing grows", X: "times the least", Y: "of the rate at the least", LogX: true}
	for _, g := range growths {
		if !strings.Contains(g.name, o.grow) {
			continue
		}
		line := chart.Series{Name: g.name}
		first := 0.0
		for _, size := range g.sizes {
			c := *b.ours
			if g.env != nil {
				c.env = g.env(size)
			}
			l := g.load(b, size, o.jobs)
			l.profiled = size == g.sizes[len(g.sizes)-1]
			m, err := b.measure(ctx, &c, l)
			if err != nil {
				return nil, fmt.Errorf("%d %s: %w", size, g.name, err)
			}
			late := "" // behind a queue it would be that queue
			if !g.queue {
				d, err := b.delays(ctx, &c, l, growthRate, 3*growthRate)
				if err != nil {
					return nil, fmt.Errorf("%d %s: %w", size, g.name, err)
				}
				late = ms(d.at(0.99))
			}
			t.add(g.name, fmt.Sprint(size), fmt.Sprintf("%.0f", m.rate), fmt.Sprintf("%.3f", m.cpu*1000/float64(l.jobs)), fmt.Sprintf("%.0f", m.rss/1e6), late)
			if first == 0 {
				first = m.rate
			}
			line.Points = append(line.Points, chart.Point{X: float64(size) / float64(g.sizes[0]), Y: m.rate / first})
		}
		plot.Series = append(plot.Series, line)
	}
	if o.plot == "" {
		return []*table{t}, nil
	}
	var drawing bytes.Buffer
	if err := plot.Write(&drawing); err != nil {
		return nil, err
	}
	return []*table{t}, os.WriteFile(o.plot, drawing.Bytes(), 0o644) //nolint:gosec // documentation
}

// cached puts answers into the cache as a Python service does.
func (b *bench) cached(ctx context.Context, n int) error {
	cache := redis.NewClient(&redis.Options{Addr: b.redis.Addr(), DB: 1})
	defer cache.Close()
	for done := 0; done < n; {
		p := cache.Pipeline()
		for ; done < n && p.Len() < 10_000; done++ {
			a, b := uuid.New(), uuid.New()
			p.Set(ctx, fmt.Sprintf("cache:image:hash:%x%x", a[:], b[:]), entry, time.Hour)
		}
		if _, err := p.Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// kept puts failed or parked jobs into DB5.
func (b *bench) kept(ctx context.Context, n int, parked bool) error {
	client := func(db int) *redis.Client {
		return redis.NewClient(&redis.Options{Addr: b.redis.Addr(), DB: db, PoolSize: 16})
	}
	five, zero, two := client(5), client(0), client(2)
	defer func() { _ = errors.Join(five.Close(), zero.Close(), two.Close()) }()
	log := zap.NewNop()
	store := failed.New(failed.Config{}, five, results.New(zero, log), progress.New(two, log), nil, log)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	due := time.Now().Add(24 * time.Hour)
	for range n {
		g.Go(func() error {
			_, messages, err := jobsOf(1, false)
			if err != nil {
				return err
			}
			return keep(ctx, store, messages[0], parked, due)
		})
	}
	return g.Wait()
}

func keep(ctx context.Context, store *failed.Store, m rabbit.Message, parked bool, due time.Time) error {
	req, err := m.Request()
	if err != nil {
		return err
	}
	if parked {
		return store.Park(ctx, m, req, due, nil)
	}
	return store.Keep(ctx, failed.Failure(m, req, celery.NewException("ValueError", "a broken picture", nil), failed.ReasonFailed))
}
