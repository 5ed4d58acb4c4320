package failed

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// Failures are counted by the hour, and rolled up by the day; the counts live
// longer than the records.
const (
	hourLayout = "2006-01-02T15"
	dayLayout  = "2006-01-02"

	hourTTL = 15 * 24 * time.Hour
	dayTTL  = 400 * 24 * time.Hour
)

func countKey(period string) string { return "onceover:failures:" + period }

// count counts a job that was kept. A count that Redis does not take is lost: the
// record is what matters.
func (s *Store) count(ctx context.Context, r *Record) {
	key := countKey(r.Last.UTC().Format(hourLayout))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HIncrBy(ctx, key, r.Error, 1)
		p.Expire(ctx, key, hourTTL)
		return nil
	})
	if err != nil {
		s.log.Debug("failure not counted", zap.Error(err))
	}
}

// Count is how many jobs failed in a period, by class of the exception.
type Count struct {
	Start   time.Time // UTC
	Classes map[string]int
}

// Total is that of all classes.
func (c Count) Total() int {
	n := 0
	for _, m := range c.Classes {
		n += m
	}
	return n
}

// Hours returns the counts of the last n hours, the oldest first. They are kept for
// 15 days, and include jobs that were replayed or discarded since.
func (s *Store) Hours(ctx context.Context, n int) ([]Count, error) {
	return s.counts(ctx, time.Now().UTC().Truncate(time.Hour), n, -time.Hour, hourLayout)
}

// Days returns the counts of the last n days before today, the oldest first. They
// are kept for 400 days.
func (s *Store) Days(ctx context.Context, n int) ([]Count, error) {
	today := time.Now().UTC().Truncate(24 * time.Hour)
	return s.counts(ctx, today.Add(-24*time.Hour), n, -24*time.Hour, dayLayout)
}

func (s *Store) counts(ctx context.Context, last time.Time, n int, step time.Duration, layout string) ([]Count, error) {
	out := make([]Count, n)
	replies := make([]*redis.MapStringStringCmd, n)
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range n {
			out[n-1-i].Start = last.Add(time.Duration(i) * step)
			replies[n-1-i] = p.HGetAll(ctx, countKey(out[n-1-i].Start.Format(layout)))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the counts of failures: %w", err)
	}
	for i, r := range replies {
		out[i].Classes = map[string]int{}
		for class, text := range r.Val() {
			count, err := strconv.Atoi(text)
			if err != nil {
				return nil, fmt.Errorf("the count of %s in %s is %q: expected a number", class, out[i].Start.Format(layout), text)
			}
			out[i].Classes[class] = count
		}
	}
	return out, nil
}

// RollUp adds up the hours of the last days, each into its day. Days that are
// written again come out the same.
func (s *Store) RollUp(ctx context.Context) error {
	today := time.Now().UTC().Truncate(24 * time.Hour)
	for back := range 13 {
		day := today.Add(-time.Duration(back+1) * 24 * time.Hour)
		hours, err := s.counts(ctx, day, 24, time.Hour, hourLayout)
		if err != nil {
			return err
		}
		sums := map[string]any{}
		for _, h := range hours {
			for class, n := range h.Classes {
				sum, _ := sums[class].(int)
				sums[class] = sum + n
			}
		}
		if len(sums) == 0 {
			continue
		}
		key := countKey(day.Format(dayLayout))
		_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.HSet(ctx, key, sums)
			p.Expire(ctx, key, dayTTL)
			return nil
		})
		if err != nil {
			return fmt.Errorf("roll up the failures of %s: %w", day.Format(dayLayout), err)
		}
	}
	return nil
}
