// Command tasks is the smallest worker with a task of its own: it adds numbers
// for whoever calls app.send_task("add", (2, 3)), on the queue celery of the
// RabbitMQ and the Redis of this machine.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/failed"
	"onceover/progress"
	"onceover/results"
	"onceover/worker"
)

type addArgs struct {
	X float64 `celery:"x"`
	Y float64 `celery:"y" default:"1"`
}

func add(_ context.Context, a addArgs) (float64, error) { return a.X + a.Y, nil }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	logger := zap.Must(zap.NewDevelopment())
	store := redis.NewClient(&redis.Options{DB: 0})
	marks := redis.NewClient(&redis.Options{DB: 2})

	kept := redis.NewClient(&redis.Options{DB: 5})

	cfg := worker.DefaultConfig()
	cfg.Queues = []string{"celery"}
	done, begun := results.New(store, logger), progress.New(marks, logger)
	parking := failed.New(failed.Config{}, kept, done, begun, nil, logger)
	w, err := worker.New(cfg, done, begun, parking, prometheus.NewRegistry(), logger)
	if err == nil {
		err = w.Register(worker.Task{Name: "add", Handler: worker.Func(add), MaxRetries: 3})
	}
	if err == nil {
		err = w.Run(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
}
