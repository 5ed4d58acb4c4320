package violence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/failed"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/progress"
	"onceover/results"
	"onceover/tasks"
)

// servers are what the workers talk to, and the program they run.
type servers struct {
	program string
	rabbit  *testenv.Rabbit
	version testenv.Version      // of RabbitMQ
	redis   *testenv.RedisServer // DB0 to DB4
	keeper  *testenv.RedisServer // DB5
	host    *host

	clients   []*redis.Client
	admin     *redis.Client // of redis, for CONFIG and ACL
	keepAdmin *redis.Client // of keeper
	results   *results.Store
	progress  *progress.Store
	failed    *failed.Store
	inspector *asynq.Inspector
	silence   silence
}

// openServers starts everything; the slow ones, and the build, beside each other.
// Whatever it returns, call close.
func openServers(ctx context.Context, cfg Config) (*servers, error) {
	s := &servers{program: filepath.Join(cfg.Dir, "onceover")}
	for _, name := range []string{"rabbitmq", "redis", "keeper", "log"} {
		if err := os.Mkdir(filepath.Join(cfg.Dir, name), 0o700); err != nil {
			return s, err
		}
	}
	var built, rabbitErr error
	var both sync.WaitGroup
	if cfg.Program != "" {
		s.program = cfg.Program
	} else {
		both.Go(func() { built = build(ctx, s.program, cfg.Race) })
	}
	both.Go(func() {
		s.rabbit, rabbitErr = testenv.OpenRabbitMQ(ctx, filepath.Join(cfg.Dir, "rabbitmq"),
			fmt.Sprintf("consumer_timeout = %d", consumerTimeout.Milliseconds()))
	})
	var redisErr, keeperErr, hostErr error
	s.redis, redisErr = testenv.OpenRedis(ctx, filepath.Join(cfg.Dir, "redis"), userOptions...)
	s.keeper, keeperErr = testenv.OpenRedis(ctx, filepath.Join(cfg.Dir, "keeper"),
		append(userOptions, "--appendfsync", "always", "--maxmemory-policy", "noeviction")...)
	s.host, hostErr = openHost(cfg.slowest())
	both.Wait()
	if err := errors.Join(built, rabbitErr, redisErr, keeperErr, hostErr); err != nil {
		return s, err
	}
	var err error
	if s.version, err = s.rabbit.Release(); err != nil {
		return s, err
	}
	open := func(server *testenv.RedisServer, db int) *redis.Client {
		opt, err := redisretry.Options(fmt.Sprintf("redis://%s:any@%s/%d", harnessUser, server.Addr(), db))
		if err != nil { // our own URL
			panic(err)
		}
		c := redis.NewClient(opt)
		s.clients = append(s.clients, c)
		return c
	}
	log := zap.NewNop()
	s.admin = open(s.redis, 0)
	keeper := open(s.keeper, 5)
	s.keepAdmin = keeper
	s.results, s.progress = results.New(s.admin, log), progress.New(open(s.redis, 2), log)
	s.failed = failed.New(failed.Config{BeforeReplay: tasks.ResetProgress(s.progress, tasks.DefaultConfig())}, keeper, s.results, s.progress, nil, log)
	s.inspector = asynq.NewInspectorFromRedisClient(keeper)
	return s, nil
}

// build builds the program with the crash points in it.
func build(ctx context.Context, program string, race bool) error {
	args := []string{"build", "-buildvcs=false", "-tags", "crashpoints", "-o", program}
	if race {
		args = append(args, "-race")
	}
	out, err := exec.CommandContext(ctx, "go", append(args, "onceover/cmd/onceover")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the worker: %w\n%s", err, out)
	}
	return nil
}

func (s *servers) close() {
	for _, c := range s.clients {
		_ = c.Close()
	}
	if s.host != nil {
		s.host.close()
	}
	if s.rabbit != nil {
		s.rabbit.End()
	}
	for _, r := range []*testenv.RedisServer{s.redis, s.keeper} {
		if r != nil {
			r.Kill()
		}
	}
}

// restartRabbit stops RabbitMQ in an orderly way and starts it again. (Killed, 3.10
// loses quorum queues that are new.)
func (s *servers) restartRabbit(ctx context.Context) error {
	if err := s.rabbit.Down(); err != nil {
		return fmt.Errorf("stop RabbitMQ: %w", err)
	}
	if err := s.rabbit.Up(ctx); err != nil {
		return fmt.Errorf("start RabbitMQ: %w", err)
	}
	return nil
}

// restartRedis stops the server of DB0 to DB4 in an orderly way, for this long.
func (s *servers) restartRedis(ctx context.Context, away func() error) error {
	if err := s.redis.Down(); err != nil {
		return fmt.Errorf("stop Redis: %w", err)
	}
	if err := away(); err != nil {
		return err
	}
	if err := s.redis.Up(ctx); err != nil {
		return fmt.Errorf("start Redis: %w", err)
	}
	return nil
}

// killKeeper kills the server of DB5 and starts it again.
func (s *servers) killKeeper(ctx context.Context, away func() error) error {
	s.keeper.Kill()
	if err := away(); err != nil {
		return err
	}
	if err := s.keeper.Up(ctx); err != nil {
		return fmt.Errorf("start the Redis of DB5: %w", err)
	}
	return nil
}

// fill has the server of DB0 to DB4 refuse writes with OOM.
func (s *servers) fill(ctx context.Context, away func() error) error {
	if err := s.admin.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		return fmt.Errorf("fill Redis: %w", err)
	}
	if err := away(); err != nil {
		return err
	}
	if err := s.admin.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		return fmt.Errorf("free Redis: %w", err)
	}
	return nil
}
