package violence

import (
	"context"
	"math/rand/v2"
	"syscall"
	"time"
)

// Names of what is done, as the report has them.
const (
	actKill         = "kill -9 of a worker"
	actTerm         = "SIGTERM of a worker"
	actCutBroker    = "connection to RabbitMQ cut"
	actStallBroker  = "connection to RabbitMQ stalled"
	actCutRedis     = "connection to DB0-4 cut"
	actStallRedis   = "connection to DB0-4 stalled"
	actCutKeeper    = "connection to DB5 cut"
	actStallKeeper  = "connection to DB5 stalled"
	actRabbit       = "restart of RabbitMQ"
	actRedis        = "restart of the Redis of DB0-4"
	actKeeper       = "kill -9 of the Redis of DB5"
	actFull         = "Redis of DB0-4 full (OOM)"
	actPassword     = "password of DB0-4 wrong"
	actRights       = "rights in DB0-4 missing"
	actKeepPassword = "password of DB5 wrong"
	actKeepRights   = "rights in DB5 missing"
	actStuck        = "destination without a majority"
	actDeadly       = "job kills its worker"
	actLate         = "consumer ended by the broker (time-out)"
	actLateSession  = "connection lost over that"
	actReplayKilled = "onceover failed replay killed"
)

// act is one kind of violence. It returns an error only if it could not be done, or
// undone.
type act struct {
	name string
	do   func(ctx context.Context) error
}

// points are the crash points that workers pass while they do jobs, with how many
// passages may go by before.
var points = []point{
	{"before-store", 30, false}, {"after-store", 30, false},
	{"after-store-failure", 8, false}, {"before-keep", 8, false}, {"keep-before-ack", 8, false},
	{"after-enqueue", 8, false}, {"park-before-ack", 5, false}, {"after-retry", 8, false},
	{"due-before-publish", 5, true}, {"due-after-publish", 5, true},
}

// commandPoints are those that the command passes which replays records.
var commandPoints = []string{"replay-before-publish", "replay-before-delete"}

// point is a crash.Point.
type point struct {
	name     string
	passages int
	slow     bool // a task of asynq is active then, and comes back after a minute only
}

// lane does one deck of acts after another until ctx ends, with pauses of about gap. It
// calls all when each has been done, or cannot be. An act that has begun is done to its
// end.
func lane(ctx, undo context.Context, t *tally, rng *rand.Rand, gap time.Duration, deck []act, all func()) {
	defer all()
	for ; ; all() {
		rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		for _, a := range deck {
			if pause(ctx, gap/2+time.Duration(rng.Int64N(int64(gap)))) != nil {
				return
			}
			t.say("%s", a.name)
			t.did(a.name)
			if err := a.do(undo); err != nil {
				t.fault("%s: %v", a.name, err)
				return
			}
		}
	}
}

// workerActs are done to workers and their connections.
func workerActs(c *crew, rng *rand.Rand, short bool) []act {
	signal := func(name, why string, s syscall.Signal) act {
		return act{name, func(context.Context) error {
			c.any().end(why, s)
			return nil
		}}
	}
	// proxied does something to a connection for a while.
	const broker, redis, keeper = 0, 1, 2
	proxied := func(name string, which int, cut bool, longest time.Duration) act {
		return act{name, func(ctx context.Context) error {
			w := c.any()
			p := w.broker
			switch which {
			case broker:
				defer w.touching()()
			case redis:
				p = w.redis
			case keeper:
				p = w.keeper
			}
			if cut {
				p.Cut()
			} else {
				p.Pause()
			}
			err := pause(ctx, time.Duration(rng.Int64N(int64(longest))))
			if mendErr := p.Mend(); mendErr != nil {
				return mendErr
			}
			return err
		}}
	}
	kill := signal(actKill, killed, syscall.SIGKILL)
	term := signal(actTerm, "SIGTERM", syscall.SIGTERM)
	out := []act{
		kill, term,
		proxied(actCutBroker, broker, true, time.Second), proxied(actStallBroker, broker, false, 2*time.Second),
		proxied(actCutRedis, redis, true, time.Second), proxied(actStallRedis, redis, false, 2*time.Second),
	}
	if !short {
		out = append(out, kill, kill, kill, kill,
			proxied(actStallBroker, broker, false, 30*time.Second), // more than two heartbeats
			proxied(actStallRedis, redis, false, 10*time.Second),
			proxied(actCutKeeper, keeper, true, 3*time.Second), proxied(actStallKeeper, keeper, false, 6*time.Second))
	}
	return out
}

// serverActs are done to the servers.
func serverActs(c *crew, rng *rand.Rand, short bool) []act {
	s := c.servers
	long := func(inShort, full time.Duration) time.Duration {
		if short {
			return inShort
		}
		return full
	}
	// away waits for up to so long, for half of it at least.
	away := func(ctx context.Context, longest time.Duration) func() error {
		return func() error { return pause(ctx, longest/2+time.Duration(rng.Int64N(int64(longest/2)))) }
	}
	rabbit := act{actRabbit, func(ctx context.Context) error {
		for _, w := range c.slots {
			defer w.touching()()
		}
		return s.restartRabbit(ctx)
	}}
	stuck := func(longest time.Duration) act {
		return act{actStuck, func(ctx context.Context) error { return s.stick(ctx, away(ctx, longest)) }}
	}
	out := []act{
		rabbit,
		{actRedis, func(ctx context.Context) error { return s.restartRedis(ctx, away(ctx, 2*time.Second)) }},
		{actFull, func(ctx context.Context) error { return s.fill(ctx, away(ctx, long(2, 4)*time.Second)) }},
		{actPassword, func(ctx context.Context) error {
			return wrongPassword(ctx, s.admin, away(ctx, long(5, 8)*time.Second))
		}},
		{actRights, func(ctx context.Context) error {
			return noRights(ctx, s.admin, rng, away(ctx, long(3, 5)*time.Second))
		}},
		{actKeepPassword, func(ctx context.Context) error {
			return wrongPassword(ctx, s.keepAdmin, away(ctx, long(3, 5)*time.Second))
		}},
		{actKeepRights, func(ctx context.Context) error {
			return noRights(ctx, s.keepAdmin, rng, away(ctx, long(3, 5)*time.Second))
		}},
		stuck(4 * time.Second),
	}
	if !short {
		kill := act{actKeeper, func(ctx context.Context) error { return s.killKeeper(ctx, away(ctx, 2*time.Second)) }}
		out = append(out, kill, kill, rabbit, stuck(64*time.Second)) // longer than a worker waits for a confirm
	}
	return out
}
