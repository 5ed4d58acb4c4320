package fleet

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// State is how an endpoint stands, as all processes see it.
type State struct {
	Endpoint  string
	InFlight  int       // calls under way
	Begun     int       // calls begun in the last minute
	Opened    time.Time // since when the breaker is open or half open; zero if it is closed
	Open      time.Time // until when no calls begin, as the breaker is open; zero if they may
	HalfOpen  bool      // the breaker was open, and is until a call has succeeded: one begins, the others wait
	NotBefore time.Time // until when no calls begin, as the endpoint has asked for that; zero if they may
	Throttled int       // calls in a row that were answered with 429 or the like
	Fails     int       // calls in a row that failed
	Class     string    // of the last fault, "" if there was none lately
	Text      string    // and what it said
}

// States reads how the endpoints stand that calls have begun at, by their names.
func (g *Gate) States(ctx context.Context) ([]State, error) {
	var out []State
	err := g.guard.Do(ctx, func(ctx context.Context) error {
		names, err := g.client.SMembers(ctx, endpointsKey).Result()
		if err != nil {
			return err
		}
		now, err := g.client.Time(ctx).Result()
		if err != nil {
			return err
		}
		slices.Sort(names)
		out = make([]State, len(names))
		fields := make([]*redis.MapStringStringCmd, len(names))
		flying, begun := make([]*redis.IntCmd, len(names)), make([]*redis.IntCmd, len(names))
		pipe := g.client.Pipeline()
		for i, name := range names {
			base := prefix + name
			fields[i] = pipe.HGetAll(ctx, base)
			flying[i] = pipe.ZCount(ctx, base+":leases", strconv.FormatInt(now.UnixMicro(), 10), "+inf")
			begun[i] = pipe.ZCount(ctx, base+":log", strconv.FormatInt(now.Add(-time.Minute).UnixMicro(), 10), "+inf")
		}
		if len(names) == 0 {
			return nil
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		for i, name := range names {
			f := fields[i].Val()
			number := func(field string) int64 { n, _ := strconv.ParseFloat(f[field], 64); return int64(n) } // absent: 0
			until := func(field string) (t time.Time) {
				if at := time.UnixMicro(number(field)); at.After(now) {
					t = at.UTC()
				}
				return t
			}
			var opened time.Time
			if number("open_until") > 0 && number("opened") > 0 {
				opened = time.UnixMicro(number("opened")).UTC()
			}
			out[i] = State{
				Endpoint: name, Opened: opened, InFlight: int(flying[i].Val()), Begun: int(begun[i].Val()), Open: until("open_until"), NotBefore: until("not_before"),
				HalfOpen:  number("open_until") > 0 && until("open_until").IsZero(),
				Throttled: int(number("throttled")), Fails: int(number("fails")), Class: f["class"], Text: f["text"],
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read how the vision endpoints stand: %w", err)
	}
	return out, nil
}
