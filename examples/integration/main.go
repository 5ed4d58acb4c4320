// Command integration is a worker with the tasks of Celery's own integration
// tests (t/integration/tasks.py in Celery's source), written with onceover's
// worker package: it shows every way of registering a task, and Celery's tests
// can be run against it (make celery-suite).
//
// It is configured by the variables and flags of onceover worker. REDIS_HOST and
// REDIS_PORT (127.0.0.1 and 6379) name the Redis in whose database 0 some tasks
// write keys of their own.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"onceover/failed"
	"onceover/internal/config"
	"onceover/progress"
	"onceover/results"
	"onceover/worker"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	flags := pflag.NewFlagSet("integration", pflag.ContinueOnError)
	settings := config.Bind(flags)
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	warnings, err := settings.Load(flags, os.Environ())
	if err != nil {
		return err
	}
	log, err := zap.NewProduction()
	if err != nil {
		return err
	}
	for _, text := range warnings {
		log.Warn(text)
	}

	resultsClient, err := open("results-url", settings.ResultsURL)
	if err != nil {
		return err
	}
	defer resultsClient.Close()
	progressClient, err := open("progress-url", settings.ProgressURL)
	if err != nil {
		return err
	}
	defer progressClient.Close()
	failedClient, err := open("failed-url", settings.FailedURL)
	if err != nil {
		return err
	}
	defer failedClient.Close()
	own := redis.NewClient(&redis.Options{Addr: net.JoinHostPort(env("REDIS_HOST", "127.0.0.1"), env("REDIS_PORT", "6379"))})
	defer own.Close()

	ends, marks := results.New(resultsClient, log), progress.New(progressClient, log)
	kept := failed.New(settings.Failed, failedClient, ends, marks, nil, log)
	w, err := worker.New(settings.Worker, ends, marks, kept, prometheus.NewRegistry(), log)
	if err != nil {
		return err
	}
	if err := w.Register(all(own)...); err != nil {
		return err
	}
	return w.Run(ctx)
}

func open(setting, url string) (*redis.Client, error) {
	opt, err := config.ParseRedisURL(setting, url)
	if err != nil {
		return nil, err
	}
	return redis.NewClient(opt), nil
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
