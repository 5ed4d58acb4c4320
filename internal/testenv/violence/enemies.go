package violence

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/rabbit"
)

// harnessUser is the Redis user of the harness: what is done to the workers' rights does
// not concern it.
const harnessUser = "violence"

// userOptions make that user in a Redis that starts.
var userOptions = []string{"--user", harnessUser, "on", "nopass", "~*", "&*", "+@all"}

// wrongPassword has a Redis ask the workers for a password that they do not have, for a
// while. Who is connected has to connect again.
func wrongPassword(ctx context.Context, admin *redis.Client, away func() error) error {
	return aclFor(ctx, admin, away,
		[][]any{{"CONFIG", "SET", "requirepass", "changed"}, {"CLIENT", "KILL", "USER", "default"}},
		[]any{"CONFIG", "SET", "requirepass", ""})
}

// lessRights are the ways in which the rights of the workers are cut down, and how each
// is undone.
var lessRights = [][2][]any{
	{{"ACL", "SETUSER", "default", "-@write"}, {"ACL", "SETUSER", "default", "+@all"}},
	{{"ACL", "SETUSER", "default", "resetkeys"}, {"ACL", "SETUSER", "default", "allkeys"}},
	{{"ACL", "SETUSER", "default", "-@scripting"}, {"ACL", "SETUSER", "default", "+@all"}},
	{{"ACL", "SETUSER", "default", "off"}, {"ACL", "SETUSER", "default", "on"}},
	{{"ACL", "SETUSER", "default", "resetpass"}, {"ACL", "SETUSER", "default", "nopass"}},
}

// noRights takes rights from the workers for a while.
func noRights(ctx context.Context, admin *redis.Client, rng *rand.Rand, away func() error) error {
	way := lessRights[rng.IntN(len(lessRights))]
	return aclFor(ctx, admin, away, [][]any{way[0]}, way[1])
}

func aclFor(ctx context.Context, admin *redis.Client, away func() error, begin [][]any, end []any) error {
	for _, command := range begin {
		if err := admin.Do(ctx, command...).Err(); err != nil {
			return fmt.Errorf("%v: %w", command, err)
		}
	}
	if err := away(); err != nil {
		return err
	}
	if err := admin.Do(ctx, end...).Err(); err != nil {
		return fmt.Errorf("%v: %w", end, err)
	}
	return nil
}

// stuckQueue is the queue of the callbacks, which nobody consumes.
const stuckQueue = "v.stuck"

// suspendQueue stops the process that leads the queue of the callbacks: as without a
// majority, nothing that is published there is confirmed.
func (s *servers) suspendQueue(ctx context.Context) error {
	if _, err := s.rabbit.Control(ctx, "eval", "sys:suspend('%2F_"+stuckQueue+"')."); err != nil {
		return fmt.Errorf("suspend queue %s: %w", stuckQueue, err)
	}
	s.silence.begin()
	return nil
}

func (s *servers) resumeQueue(ctx context.Context) error {
	defer s.silence.end()
	if _, err := s.rabbit.Control(ctx, "eval", "sys:resume('%2F_"+stuckQueue+"')."); err != nil {
		return fmt.Errorf("resume queue %s: %w", stuckQueue, err)
	}
	return nil
}

// stick suspends the queue of the callbacks for a while.
func (s *servers) stick(ctx context.Context, away func() error) error {
	if err := s.suspendQueue(ctx); err != nil {
		return err
	}
	if err := away(); err != nil {
		return err
	}
	return s.resumeQueue(ctx)
}

// silence is when the queue of the callbacks did not confirm.
type silence struct {
	mu    sync.Mutex
	times []window
}

func (s *silence) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, window{from: time.Now()})
}

func (s *silence) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times[len(s.times)-1].to = time.Now()
}

// longest returns for how long a message that was published between two moments can have
// waited for its confirm.
func (s *silence) longest(from, to time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out time.Duration
	for _, w := range s.times {
		begin, end := w.from, w.to
		if begin.Before(from) {
			begin = from
		}
		if end.IsZero() || end.After(to) {
			end = to
		}
		out = max(out, end.Sub(begin))
	}
	return out
}

// called returns how many messages there are for each callback. They stay in the queue.
func (s *servers) called(ctx context.Context) (map[string]int, error) {
	conn, err := rabbit.Dial(ctx, "violence", []string{s.rabbit.URL()})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for {
		d, ok, err := ch.Get(stuckQueue, false)
		if err != nil {
			return nil, fmt.Errorf("get from %s: %w", stuckQueue, err)
		}
		if !ok {
			return out, nil
		}
		id, _ := d.Headers["id"].(string)
		out[id]++
	}
}
