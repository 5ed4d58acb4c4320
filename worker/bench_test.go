package worker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/failed"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
	"onceover/worker"
)

// BenchmarkCallback compares jobs with one callback each, to a queue of another worker's, with
// jobs without: b.N jobs wait in the queue, and the time is from the start to the last result.
func BenchmarkCallback(b *testing.B) {
	for _, callbacks := range []int{0, 1} {
		b.Run(fmt.Sprint("callbacks=", callbacks), func(b *testing.B) { benchmarkJobs(b, callbacks) })
	}
}

func benchmarkJobs(b *testing.B, callbacks int) {
	b.ReportAllocs()
	url := testenv.SharedRabbitMQ(b)
	opt, err := redisretry.Options(testenv.Redis(b).URL())
	if err != nil {
		b.Fatal(err)
	}
	client := redis.NewClient(opt)
	defer client.Close()
	conn, err := rabbit.Dial(b.Context(), "benchmark", []string{url})
	if err != nil {
		b.Fatal(err)
	}
	pub := rabbit.NewPublisher(conn)
	defer pub.Close()
	defer conn.Close()
	if _, err := rabbit.Declare(b.Context(), conn, rabbit.Names("jobs", "callbacks")...); err != nil {
		b.Fatal(err)
	}
	for sent := 0; sent < b.N; {
		var batch []rabbit.Message
		for ; sent < b.N && len(batch) < 1000; sent++ {
			req := &celery.Request{ID: fmt.Sprint("job-", sent), Task: "t"}
			for range callbacks {
				s := celery.NewSignature("elsewhere")
				s.Options.Queue = "callbacks"
				req.Callbacks = append(req.Callbacks, s)
			}
			m, err := rabbit.New(celery.Message{Request: req, Queue: "jobs"})
			if err != nil {
				b.Fatal(err)
			}
			batch = append(batch, m)
		}
		if err := pub.Publish(b.Context(), batch...); err != nil {
			b.Fatal(err)
		}
	}

	log := zap.NewNop()
	marks, ends := progress.New(client, log), results.New(client, log)
	cfg := worker.DefaultConfig()
	cfg.BrokerURLs, cfg.Queues, cfg.Mingle, cfg.DelayedDelivery = []string{url}, []string{"jobs"}, false, false
	w, err := worker.New(cfg, ends, marks, failed.New(failed.Config{}, client, ends, marks, nil, log), prometheus.NewRegistry(), log)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{}, b.N)
	after := counting{value(1), done}
	if err := w.Register(worker.Task{Name: "t", Handler: after}); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	b.ResetTimer()
	go func() { ended <- w.Run(ctx) }()
	for range b.N {
		<-done
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	cancel()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		b.Fatal("the worker does not end")
	}
}

// counting says when a job has ended.
type counting struct {
	worker.HandlerFunc
	done chan struct{}
}

func (c counting) AfterReturn(context.Context, *celery.Request, celery.State, *celery.Exception) error {
	c.done <- struct{}{}
	return nil
}
