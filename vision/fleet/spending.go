package fleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Spending is what became of a budget in the window that is under way.
type Spending struct {
	Budget
	Begins   time.Time
	Spent    int64 // booked, in millionths of a US dollar
	Reserved int64 // for calls that are in flight, or whose processes have died
	By       []Part
}

// Part is what one user had one model spend.
type Part struct {
	Model, User string // User is "" where jobs name none
	MicroUSD    int64  // booked
	Reserved    int64  // for calls in flight
}

// Left is what may still be spent.
func (s Spending) Left() int64 { return max(s.MicroUSD-s.Spent-s.Reserved, 0) }

// Ends is when the next window begins.
func (s Spending) Ends() time.Time { return s.Begins.Add(s.Window) }

// Spending reads what was spent of each budget, the dearest part first.
func (g *Gate) Spending(ctx context.Context) ([]Spending, error) {
	out := make([]Spending, len(g.cfg.Budgets))
	err := g.guard.Do(ctx, func(ctx context.Context) error {
		now, err := g.client.Time(ctx).Result()
		if err != nil {
			return err
		}
		hashes := make([]*redis.MapStringStringCmd, len(out))
		pipe := g.client.Pipeline()
		for i, b := range g.cfg.Budgets {
			seconds := int64(b.Window / time.Second)
			index := now.Unix() / seconds
			out[i] = Spending{Budget: b, Begins: time.Unix(index*seconds, 0).UTC()}
			hashes[i] = pipe.HGetAll(ctx, fmt.Sprintf("ratelimit:budget:%d:%d", seconds, index))
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		for i, h := range hashes {
			out[i].read(h.Val())
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what was spent: %w", err)
	}
	return out, nil
}

// read takes the counters of common.lua, of which spent holds what is reserved, too.
func (s *Spending) read(fields map[string]string) {
	parties := map[[2]string]*Part{}
	for name, value := range fields {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue // not ours
		}
		parts := strings.SplitN(name, "\n", 3)
		switch {
		case name == "spent":
			s.Spent += n
		case name == "reserved":
			s.Reserved, s.Spent = n, s.Spent-n
		case len(parts) == 3 && n != 0:
			who := [2]string{parts[1], parts[2]}
			if parties[who] == nil {
				parties[who] = &Part{Model: parts[1], User: parts[2]}
			}
			if parts[0] == "by" {
				parties[who].MicroUSD = n
			} else {
				parties[who].Reserved = n
			}
		}
	}
	for _, p := range parties {
		s.By = append(s.By, *p)
	}
	slices.SortFunc(s.By, func(a, b Part) int {
		return cmp.Or(cmp.Compare(b.MicroUSD, a.MicroUSD), cmp.Compare(a.Model, b.Model), cmp.Compare(a.User, b.User))
	})
}
