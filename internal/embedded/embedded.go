// Package embedded runs a broker and a Redis inside this process, for trying
// Onceover out where there is neither. Both are on free loopback ports, in
// memory only, and never anything but their own.
//
// Start with [Start]. Clients talk to them over TCP as to the real ones.
package embedded

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/zap"

	"onceover/internal/devbroker"
)

// Servers are a running broker and Redis.
type Servers struct {
	broker *devbroker.Server
	redis  *miniredis.Miniredis

	stop  context.CancelFunc
	clock sync.WaitGroup
}

// Start starts both. The caller closes them after every client of theirs.
func Start(log *zap.Logger) (*Servers, error) {
	b, err := devbroker.Listen(log.Named("broker"))
	if err != nil {
		return nil, fmt.Errorf("start the embedded broker: %w", err)
	}
	r := miniredis.NewMiniRedis()
	if err := r.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("start the embedded Redis: %w", closing(err, b))
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Servers{broker: b, redis: r, stop: cancel}
	s.clock.Go(func() { s.tick(ctx) })
	return s, nil
}

func closing(err error, b *devbroker.Server) error {
	b.Close() // the first error is the one to show
	return err
}

// tick lets time pass for TTLs, which miniredis does not do by itself.
func (s *Servers) tick(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-t.C:
			now := time.Now()
			s.redis.FastForward(now.Sub(last))
			last = now
		case <-ctx.Done():
			return
		}
	}
}

// BrokerURL is the broker's URL for Onceover and for Celery.
func (s *Servers) BrokerURL() string { return s.broker.URL() }

// RedisURL is Redis's URL without a database.
func (s *Servers) RedisURL() string { return "redis://" + s.redis.Addr() }

// Unfinished is how many messages Close will drop.
func (s *Servers) Unfinished() int {
	st := s.broker.Stats()
	return st.Messages + st.Unacked
}

// Close stops both servers; what they hold is gone.
func (s *Servers) Close() error {
	s.stop()
	s.clock.Wait()
	s.redis.Close()
	return s.broker.Close()
}
