package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
	onceover "onceover/worker"
)

// Tasks of the worker that waits.
const (
	nap   = "bench.nap"   // until the time is over that its argument names, in seconds
	pause = "bench.pause" // until told otherwise, which ends with the worker
)

// consumeWaiting is a worker whose tasks wait. It writes how many goroutines there are when all are in flight.
func consumeWaiting(ctx context.Context) error {
	most, err := strconv.Atoi(os.Getenv("BENCH_IN_FLIGHT"))
	if err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: os.Getenv("BENCH_REDIS")})
	defer client.Close()
	log := zap.NewNop()
	ends, marks := results.New(client, log), progress.New(client, log)
	cfg := onceover.DefaultConfig()
	cfg.BrokerURLs, cfg.Queues, cfg.Concurrency, cfg.PrefetchMultiplier = []string{os.Getenv("BENCH_BROKER")}, []string{queue}, most, 1
	cfg.Mingle, cfg.DelayedDelivery, cfg.Grace = false, false, time.Millisecond
	w, err := onceover.New(cfg, ends, marks, failed.New(failed.Config{}, client, ends, marks, nil, log), prometheus.NewRegistry(), log)
	if err != nil {
		return err
	}
	var flying atomic.Int64
	if err := w.Register(
		onceover.Task{Name: nap, Handler: onceover.HandlerFunc(func(ctx context.Context, req *celery.Request) (any, error) {
			seconds, err := strconv.ParseFloat(string(req.Args[0]), 64)
			if err != nil {
				return nil, err
			}
			return nil, wait(ctx, time.Duration(seconds*float64(time.Second)))
		})},
		onceover.Task{Name: pause, Handler: onceover.HandlerFunc(func(ctx context.Context, _ *celery.Request) (any, error) {
			if flying.Add(1) == int64(most) {
				fmt.Fprintln(os.Stderr, "goroutines:", runtime.NumGoroutine())
			}
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})},
	); err != nil {
		return err
	}
	_ = w.Run(ctx) // jobs that go back are what it says
	return nil
}

// waiting measures what jobs cost that only wait.
func waiting(ctx context.Context, b *bench, _ options) ([]*table, error) {
	const most, naps = 10_000, 1000
	idle, full, goroutines, err := b.flight(ctx, most)
	if err != nil {
		return nil, err
	}
	took, err := b.naps(ctx, naps, 2)
	if err != nil {
		return nil, err
	}
	t := &table{title: "Jobs in flight that wait", note: "A worker of the library, with tasks that do nothing else.",
		head: []string{"measured", "value"}}
	t.add(fmt.Sprintf("memory with %d in flight, beyond that of an idle worker, MB", most), fmt.Sprintf("%.0f", (full-idle)/1e6))
	t.add("goroutines for each", fmt.Sprintf("%.2f", goroutines/most))
	t.add(fmt.Sprintf("%d jobs that wait for 2 s, from the first one's sending to the last result, s", naps), fmt.Sprintf("%.2f", took))
	return []*table{t}, nil
}

var goroutineLine = regexp.MustCompile(`goroutines: (\d+)`)

// flight has so many jobs in flight, and returns the memory before and then.
func (b *bench) flight(ctx context.Context, most int) (idle, full, goroutines float64, err error) {
	w, err := b.waits(ctx, most)
	if err != nil {
		return 0, 0, 0, err
	}
	defer w.Kill()
	idle = rssOf(w.pid)
	if err := b.send(ctx, pause, most, ""); err != nil {
		return 0, 0, 0, err
	}
	end := time.Now().Add(limit)
	for {
		text, err := os.ReadFile(w.log)
		if err != nil {
			return 0, 0, 0, err
		}
		if m := goroutineLine.FindSubmatch(text); m != nil {
			goroutines, err = strconv.ParseFloat(string(m[1]), 64)
			if err != nil {
				return 0, 0, 0, err
			}
			break
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return 0, 0, 0, err
		}
		if time.Now().After(end) {
			return 0, 0, 0, fmt.Errorf("not all of %d jobs were in flight within %v", most, limit)
		}
	}
	full = rssOf(w.pid)
	w.Kill()
	return idle, full, goroutines, b.purge(queue)
}

// naps has so many jobs wait for some seconds, and returns how long that took.
func (b *bench) naps(ctx context.Context, jobs int, seconds float64) (took float64, err error) {
	w, err := b.waits(ctx, jobs)
	if err != nil {
		return 0, err
	}
	defer w.Kill()
	began := time.Now()
	if err := b.send(ctx, nap, jobs, fmt.Sprint(seconds)); err != nil {
		return 0, err
	}
	_, end, err := b.until(ctx, w, 1+jobs, 5*time.Millisecond)
	if err != nil {
		return 0, err
	}
	if _, err := w.stop(); err != nil {
		return 0, err
	}
	return end.Sub(began).Seconds(), b.check(ctx, load{jobs: 1 + jobs})
}

// waits starts a worker that has done one job.
func (b *bench) waits(ctx context.Context, most int) (*worker, error) {
	if err := b.fill(ctx, load{}); err != nil {
		return nil, err
	}
	b.waiter.env = []string{fmt.Sprint("BENCH_IN_FLIGHT=", most)}
	w, err := b.launch(b.waiter)
	if err != nil {
		return nil, err
	}
	if err := b.send(ctx, nap, 1, "0"); err != nil {
		w.Kill()
		return nil, err
	}
	if _, _, err := b.until(ctx, w, 1, 5*time.Millisecond); err != nil {
		w.Kill()
		return nil, err
	}
	if err := wait(ctx, 2*time.Second); err != nil { // what is done beside the first job
		w.Kill()
		return nil, err
	}
	return w, nil
}

// send sends jobs of a task of the worker that waits.
func (b *bench) send(ctx context.Context, task string, jobs int, argument string) error {
	for sent := 0; sent < jobs; {
		var batch []rabbit.Message
		for ; sent < jobs && len(batch) < 1000; sent++ {
			id := uuid.NewString()
			req := &celery.Request{ID: id, RootID: id, Task: task}
			if argument != "" {
				req.Args = []json.RawMessage{json.RawMessage(argument)}
			}
			m, err := rabbit.New(celery.Message{Request: req, Queue: queue})
			if err != nil {
				return err
			}
			batch = append(batch, m)
		}
		if err := b.pub.Publish(ctx, batch...); err != nil {
			return err
		}
	}
	return nil
}
