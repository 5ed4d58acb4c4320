// Command violence runs workers on servers of its own, does to them whatever may
// happen, and accounts for every job; see package violence. It exits with 1 if
// anything is lost or not as promised.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/redis/go-redis/v9"

	"onceover/internal/testenv/violence"
)

func main() {
	redis.SetLogger(quiet{}) // that servers are away is no news
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ok, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "violence:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (ok bool, err error) {
	cfg := violence.DefaultConfig()
	fs := flag.NewFlagSet("violence", flag.ExitOnError)
	short := fs.Bool("short", false, "a run of about a minute; the defaults of other flags change")
	fs.IntVar(&cfg.Jobs, "jobs", cfg.Jobs, "messages to publish")
	fs.IntVar(&cfg.Workers, "workers", cfg.Workers, "worker processes")
	fs.IntVar(&cfg.Concurrency, "concurrency", cfg.Concurrency, "jobs in flight in each")
	fs.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "of all that is random")
	fs.DurationVar(&cfg.Duration, "duration", cfg.Duration, "how long jobs are published, and violence done")
	fs.DurationVar(&cfg.Settle, "settle", cfg.Settle, "how long the rest may take")
	fs.BoolVar(&cfg.Race, "race", cfg.Race, "workers with the race detector")
	fs.IntVar(&cfg.DeliveryLimit, "delivery-limit", 0, "of the queues; 0: by the seed, the release's own or a low one")
	fs.StringVar(&cfg.Program, "program", "", "a worker built with -tags crashpoints, instead of the present one")
	rabbitRelease := fs.String("rabbitmq", os.Getenv("ONCEOVER_TEST_RABBITMQ"), "release of RabbitMQ, such as 4.3; the machine's if empty")
	redisRelease := fs.String("redis", os.Getenv("ONCEOVER_TEST_REDIS"), "release of Redis or Valkey, such as valkey-9; the machine's Redis if empty")
	keep := fs.Bool("keep", false, "keep the folder with servers and logs in any case")
	_ = fs.Parse(args) // it exits
	if *short {
		cfg = violence.ShortConfig()
		_ = fs.Parse(args) // flags win
	}
	if err := errors.Join(os.Setenv("ONCEOVER_TEST_RABBITMQ", *rabbitRelease), os.Setenv("ONCEOVER_TEST_REDIS", *redisRelease)); err != nil {
		return false, err
	}
	if cfg.Dir, err = os.MkdirTemp("", "onceover-violence-"); err != nil {
		return false, err
	}
	report, err := violence.Run(ctx, cfg)
	if report != nil {
		report.Write(os.Stdout)
		ok = len(report.Faults) == 0
	}
	if ok && !*keep {
		return ok, os.RemoveAll(cfg.Dir)
	}
	fmt.Fprintln(os.Stderr, "servers' data and logs are in", cfg.Dir)
	return ok, err
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}
