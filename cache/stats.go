package cache

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/redis/go-redis/v9"
)

// Statistics of all processes, kept a little longer than entries.
const (
	statsPrefix  = "cache:stats:"  // + hour: a hash of counters
	uniquePrefix = "cache:unique:" // + day: HyperLogLog of pictures
	topPrefix    = "cache:top:"    // + day: sorted set of pictures by their hits
	statsTTL     = TTL + 25*time.Hour
	hourLayout   = "2006-01-02T15"
	dayLayout    = "2006-01-02"
	maxTop       = 1000 // pictures of a day whose hits are counted
)

type metrics struct {
	vetoed, waits, lost, refreshed prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, x *Index) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "onceover_cache_index_entries", Help: "Hashes in this process's index for near lookups.",
	}, func() float64 { return float64(x.Len()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "onceover_cache_index_bytes", Help: "Memory of the index for near lookups.",
	}, func() float64 { return float64(x.Bytes()) })
	return &metrics{
		vetoed: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_cache_near_vetoed_total", Help: "Pictures of a near or equal hash whose answer was not taken because the two were compared and do not show the same.",
		}),
		waits: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_cache_waits_total", Help: "Misses that waited for another process to ask the model.",
		}),
		refreshed: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_cache_refreshes_total", Help: "Entries made anew before they ran out.",
		}),
		lost: f.NewCounter(prometheus.CounterOpts{
			Name: "onceover_cache_locks_lost_total", Help: "Locks of a picture that ran out or were evicted while a model was asked.",
		}),
	}
}

// counts is what was counted since the last Flush.
type counts struct {
	mu     sync.Mutex
	fields map[string]map[string]int64 // by hour and field
	unique map[string][]any            // pictures by day
	top    map[string]map[string]int64 // hits by day and picture
}

// Record counts a job: how its answer was found, and which. It costs no round
// trip; Run writes what was counted once a second.
func (c *Cache) Record(p Picture, a Answer) {
	now := c.now().UTC()
	hour, day := now.Format(hourLayout), now.Format(dayLayout)
	name := p.Hash.String()
	if p.Hash.Degenerate() {
		name = p.Digest.String()
	}
	n := &c.counts
	n.mu.Lock()
	defer n.mu.Unlock()
	n.begin(hour)
	n.fields[hour][string(a.Kind)]++
	n.unique[day] = append(n.unique[day], name)
	if a.Kind == Fresh {
		n.fields[hour]["spent_microusd"] += a.CostMicroUSD
		return
	}
	n.fields[hour]["saved_microusd"] += a.CostMicroUSD
	if n.top[day] == nil {
		n.top[day] = map[string]int64{}
	}
	if a.DerivedFrom != "" {
		name = a.DerivedFrom // what looks the same counts as one picture
	}
	n.top[day][name]++
}

// RecordCanary counts a near hit at a distance in bits of which the model was asked all the same, and whether its answer
// differs.
func (c *Cache) RecordCanary(distance int, differs bool) {
	hour := c.now().UTC().Format(hourLayout)
	n := &c.counts
	n.mu.Lock()
	defer n.mu.Unlock()
	n.begin(hour)
	n.fields[hour][canaryField+strconv.Itoa(distance)]++
	if differs {
		n.fields[hour][differsField+strconv.Itoa(distance)]++
	}
}

// Counters of near hits by their distance.
const (
	canaryField  = "canary:"
	differsField = "differs:"
)

// begin makes room for what is counted in an hour. n.mu is held.
func (n *counts) begin(hour string) {
	if n.fields == nil {
		n.fields, n.unique, n.top = map[string]map[string]int64{}, map[string][]any{}, map[string]map[string]int64{}
	}
	if n.fields[hour] == nil {
		n.fields[hour] = map[string]int64{}
	}
}

// Flush writes what was counted since the last time. What cannot be written is
// lost.
func (c *Cache) Flush(ctx context.Context) error {
	c.counts.mu.Lock()
	fields, unique, top := c.counts.fields, c.counts.unique, c.counts.top
	c.counts.fields, c.counts.unique, c.counts.top = nil, nil, nil
	c.counts.mu.Unlock()
	if len(fields) == 0 {
		return nil
	}
	// Once, not by the guard: a second try would count twice what the first one has
	// written before its connection was lost.
	_, err := c.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for hour, counted := range fields {
			for field, n := range counted {
				p.HIncrBy(ctx, statsPrefix+hour, field, n)
			}
			p.Expire(ctx, statsPrefix+hour, statsTTL)
		}
		for day, pictures := range unique {
			p.PFAdd(ctx, uniquePrefix+day, pictures...)
			p.Expire(ctx, uniquePrefix+day, statsTTL)
		}
		for day, hits := range top {
			for picture, n := range hits {
				p.ZIncrBy(ctx, topPrefix+day, float64(n), picture)
			}
			p.ZRemRangeByRank(ctx, topPrefix+day, 0, -maxTop-1)
			p.Expire(ctx, topPrefix+day, statsTTL)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write cache statistics: %w", err)
	}
	return nil
}

// Hour counts the jobs of an hour by how their answers were found.
type Hour struct {
	Hour          time.Time `json:"hour"` // UTC
	Exact         int64     `json:"exact"`
	Near          int64     `json:"near"`
	Shared        int64     `json:"shared"`
	Missed        int64     `json:"miss"`
	SavedMicroUSD int64     `json:"saved_microusd"`
	SpentMicroUSD int64     `json:"spent_microusd"`
}

// Hits is the number of jobs for which no model was asked about a picture.
func (h Hour) Hits() int64 { return h.Exact + h.Near + h.Shared }

// Jobs is the number of all jobs.
func (h Hour) Jobs() int64 { return h.Hits() + h.Missed }

// Day is what is known of a day.
type Day struct {
	Day    string `json:"day"`    // UTC
	Unique int64  `json:"unique"` // different pictures, within 1 % or so
}

// Hot is a picture that is asked for often.
type Hot struct {
	Picture string `json:"picture"` // its hash, or the SHA-256 of the file where the hash says too little
	Hits    int64  `json:"hits"`
}

// Canary counts the near hits at a distance of which the model was asked all the same.
type Canary struct {
	Distance int   `json:"distance"` // in bits
	Asked    int64 `json:"asked"`
	Differs  int64 `json:"differs"` // of these, how many answers were other ones
}

// Stats is what all processes counted.
type Stats struct {
	Hours  []Hour   `json:"hours"` // the oldest first, also those without a job
	Days   []Day    `json:"days"`
	Top    []Hot    `json:"top"`    // the most hit first
	Canary []Canary `json:"canary"` // the nearest first
}

// Stats reads the statistics of the last hours, at most those of TTL, with the
// most hit pictures of the days in which they lie.
func (c *Cache) Stats(ctx context.Context, hours, top int) (Stats, error) {
	hours = min(max(hours, 1), int(TTL/time.Hour))
	now := c.now().UTC().Truncate(time.Hour)
	var days []string
	counted, unique, hot := make([]*redis.MapStringStringCmd, hours), []*redis.IntCmd{}, []*redis.ZSliceCmd{}
	var out Stats
	for i := range hours {
		at := now.Add(time.Duration(i-hours+1) * time.Hour)
		out.Hours = append(out.Hours, Hour{Hour: at})
		if day := at.Format(dayLayout); len(days) == 0 || days[len(days)-1] != day {
			days = append(days, day)
		}
	}
	err := c.pipeline(ctx, func(p redis.Pipeliner) {
		unique, hot = unique[:0], hot[:0]
		for i, h := range out.Hours {
			counted[i] = p.HGetAll(ctx, statsPrefix+h.Hour.Format(hourLayout))
		}
		for _, day := range days {
			unique = append(unique, p.PFCount(ctx, uniquePrefix+day))
			hot = append(hot, p.ZRevRangeWithScores(ctx, topPrefix+day, 0, maxTop-1))
		}
	})
	if err != nil {
		return out, fmt.Errorf("read cache statistics: %w", err)
	}
	for i := range out.Hours {
		h := &out.Hours[i]
		for field, to := range map[string]*int64{
			string(Exact): &h.Exact, string(Near): &h.Near, string(Shared): &h.Shared, string(Fresh): &h.Missed,
			"saved_microusd": &h.SavedMicroUSD, "spent_microusd": &h.SpentMicroUSD,
		} {
			*to, _ = strconv.ParseInt(counted[i].Val()[field], 10, 64) // absent: none were counted
		}
	}
	out.Canary = canaries(counted)
	for i, day := range days {
		out.Days = append(out.Days, Day{day, unique[i].Val()})
	}
	out.Top = merge(hot, top)
	return out, nil
}

// canaries adds up those of several hours.
func canaries(hours []*redis.MapStringStringCmd) []Canary {
	all := map[int]Canary{}
	for _, hour := range hours {
		for field, value := range hour.Val() {
			text, asked := strings.CutPrefix(field, canaryField)
			if !asked {
				var differs bool
				if text, differs = strings.CutPrefix(field, differsField); !differs {
					continue
				}
			}
			distance, err := strconv.Atoi(text)
			n, countErr := strconv.ParseInt(value, 10, 64)
			if err != nil || countErr != nil {
				continue // written by nobody of ours
			}
			c := all[distance]
			c.Distance = distance
			if asked {
				c.Asked += n
			} else {
				c.Differs += n
			}
			all[distance] = c
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b Canary) int { return cmp.Compare(a.Distance, b.Distance) })
}

// merge adds up the hits of several days and returns the n largest sums.
func merge(days []*redis.ZSliceCmd, n int) []Hot {
	sums := map[string]int64{}
	for _, day := range days {
		for _, z := range day.Val() {
			if name, ok := z.Member.(string); ok {
				sums[name] += int64(z.Score)
			}
		}
	}
	out := make([]Hot, 0, len(sums))
	for name, hits := range sums {
		out = append(out, Hot{name, hits})
	}
	slices.SortFunc(out, func(a, b Hot) int { return cmp.Or(cmp.Compare(b.Hits, a.Hits), cmp.Compare(a.Picture, b.Picture)) })
	return out[:min(n, len(out))]
}
