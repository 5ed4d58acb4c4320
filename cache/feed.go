package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/phash"
)

// The logs that feed the index of every process: one string an hour, of one Record
// for each entry that was written, in no particular order. APPEND is atomic, so
// any number of processes may write.
const (
	logPrefix = "phash:log:2:"
	logHours  = int64(TTL / time.Hour)
	logTTL    = TTL + time.Hour // until the last entry of the hour has gone
)

const (
	pollEvery      = 5 * time.Second // besides, whoever is about to ask a model reads first
	reconcileEvery = 5 * time.Minute
)

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

func logKey(hour int64) string { return logPrefix + strconv.FormatInt(hour, 10) }

// feed is what this process has read of the logs.
type feed struct {
	turn chan struct{}   // holds a token while somebody reads
	read map[int64]int64 // bytes, by hour
	last int64           // hour of the last reading, 0 before the first

	begun atomic.Int64 // readings that have begun
	done  int64        // the last of them that came to its end
}

// appendLog adds records to the present hour's log.
func (c *Cache) appendLog(ctx context.Context, p redis.Pipeliner, records ...Record) {
	key := logKey(hourOf(c.now()))
	p.Append(ctx, key, encodeRecords(records))
	p.Expire(ctx, key, logTTL)
}

func encodeRecords(records []Record) string {
	b := make([]byte, 0, len(records)*recordSize)
	for i := range records {
		b = records[i].append(b)
	}
	return string(b)
}

// recordsOf reads what a log holds.
func recordsOf(log string) []Record {
	b := []byte(log)
	out := make([]Record, 0, len(b)/recordSize)
	for ; len(b) >= recordSize; b = b[recordSize:] {
		out = append(out, readRecord(b))
	}
	return out
}

// Load reads into the index what was written since the last Load: everything at
// first, later what is new. It makes two round trips, or a few more at first.
func (c *Cache) Load(ctx context.Context) error {
	asked := c.feed.begun.Load()
	select {
	case c.feed.turn <- struct{}{}:
		defer func() { <-c.feed.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.feed.done > asked {
		return nil // somebody has begun since this was asked for, and has read all of it
	}
	reading := c.feed.begun.Add(1)
	now := hourOf(c.now())
	oldest := now - logHours
	c.index.DropBefore(oldest)
	maps.DeleteFunc(c.feed.read, func(hour, _ int64) bool { return hour < oldest })
	// The hour before may still get records, from a process that was slow, and the
	// hour to come from one whose clock is ahead.
	var hours []int64
	for hour := max(oldest, min(c.feed.last, now)-1); hour <= now+1; hour++ {
		hours = append(hours, hour)
	}
	const atOnce = 24 // logs read in one round trip, to bound what is held
	for part := range slices.Chunk(hours, atOnce) {
		if err := c.loadHours(ctx, part); err != nil {
			return fmt.Errorf("load the index of hashes: %w", err)
		}
	}
	c.feed.last, c.feed.done = now, reading
	return nil
}

func (c *Cache) loadHours(ctx context.Context, hours []int64) error {
	sizes, logs := make([]*redis.IntCmd, len(hours)), make([]*redis.StringCmd, len(hours))
	err := c.pipeline(ctx, func(p redis.Pipeliner) {
		for i, hour := range hours {
			sizes[i], logs[i] = p.StrLen(ctx, logKey(hour)), p.GetRange(ctx, logKey(hour), c.feed.read[hour], -1)
		}
	})
	if err != nil {
		return err
	}
	var anew []int64
	for i, hour := range hours {
		if sizes[i].Val() < c.feed.read[hour] {
			// It was evicted and begun anew, or rewritten: what is in it may be new.
			delete(c.feed.read, hour)
			anew = append(anew, hour)
			continue
		}
		if new := recordsOf(logs[i].Val()); len(new) > 0 {
			c.index.Add(hour, new...)
			c.feed.read[hour] += int64(len(new)) * recordSize
		}
	}
	if len(anew) > 0 {
		return c.loadHours(ctx, anew)
	}
	return nil
}

// Index returns the index that Load fills.
func (c *Cache) Index() *Index { return c.index }

// Run keeps the index up to date, writes the statistics and, in one process at a
// time, looks for entries that others wrote, until ctx ends. An outage of Redis
// leaves the index as it is.
func (c *Cache) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		reconcile := time.NewTicker(reconcileEvery)
		defer reconcile.Stop()
		for {
			c.tick(ctx, "reconcile", c.reconcileInTurn)
			select {
			case <-reconcile.C:
			case <-ctx.Done():
				return
			}
		}
	})
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		if c.cfg.Radius > 0 {
			c.tick(ctx, "load", c.Load)
		}
		c.tick(ctx, "write statistics", c.Flush)
		select {
		case <-poll.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			c.tick(last, "write statistics", c.Flush)
			return
		}
	}
}

func (c *Cache) tick(ctx context.Context, what string, do func(context.Context) error) {
	if err := do(ctx); err != nil && ctx.Err() == nil {
		c.log.Warn("cache upkeep failed", zap.String("step", what), zap.Error(err))
	}
}

// reconcileInTurn is Reconcile unless another process has done it a moment ago.
func (c *Cache) reconcileInTurn(ctx context.Context) error {
	mine := false
	err := c.guard.Do(ctx, func(ctx context.Context) error {
		err := c.client.SetArgs(ctx, lockPrefix+"reconcile", "", redis.SetArgs{Mode: "NX", TTL: reconcileEvery - pollEvery}).Err()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		mine = err == nil
		return err
	})
	if err != nil || !mine {
		return err
	}
	_, err = c.Reconcile(ctx, nil)
	return err
}

// Reindexed is what Reconcile or Reindex found and did.
type Reindexed struct {
	Entries int `json:"entries"` // there
	Added   int `json:"added"`   // that no log held
	Removed int `json:"removed"` // records of no entry, or double
}

// Reconcile looks for entries that are in no log, as Python services write them,
// or whose log was evicted, and adds them to the log and to the tags. It calls
// step, if that is not nil, with the number of entries seen so far.
func (c *Cache) Reconcile(ctx context.Context, step func(seen int)) (Reindexed, error) {
	done, _, err := c.reconcile(ctx, step)
	return done, err
}

// reconcile is Reconcile. It also returns the hashes that have an entry.
func (c *Cache) reconcile(ctx context.Context, step func(seen int)) (done Reindexed, there map[phash.Hash]bool, err error) {
	// The index of this process may have forgotten what is in the logs, and hold what
	// is in none any more.
	logs, now := logsRead{keys: map[phash.Hash]bool{}, read: map[int64]int64{}}, hourOf(c.now())
	if err := c.readLogs(ctx, &logs, now-logHours); err != nil {
		return done, nil, err
	}
	there = map[phash.Hash]bool{}
	unknown := func(key string) bool {
		h, ok := hashOfKey(key)
		if ok {
			done.Entries++
			there[h] = true
		}
		return ok && !logs.keys[h]
	}
	err = c.each(ctx, []string{hashPrefix + "*"}, unknown, step, func(found []item) error {
		// Some were written since, and SCAN may show a key again.
		if err := c.readLogs(ctx, &logs, now-1); err != nil {
			return err
		}
		var roots []item
		for _, f := range found {
			if h, _ := hashOfKey(f.key); f.entry != nil && f.entry.DerivedFrom == "" && !logs.keys[h] {
				roots = append(roots, f)
			}
		}
		if len(roots) == 0 {
			return nil
		}
		records, err := c.recordsOfEntries(ctx, roots)
		if err != nil {
			return err
		}
		done.Added += len(roots)
		return c.pipeline(ctx, func(p redis.Pipeliner) {
			c.appendLog(ctx, p, records...)
			for _, f := range roots {
				c.tag(ctx, p, f.key, *f.entry)
			}
		})
	})
	if err != nil {
		return done, nil, fmt.Errorf("index the entries of others, after %d: %w", done.Entries, err)
	}
	if done.Added > 0 {
		c.log.Info("entries of others indexed", zap.Int("entries", done.Entries), zap.Int("added", done.Added))
	}
	return done, there, nil
}

// recordsOfEntries returns the records of entries, without hashes where no signature is kept.
func (c *Cache) recordsOfEntries(ctx context.Context, roots []item) ([]Record, error) {
	files := make([]string, len(roots))
	for i, f := range roots {
		files[i] = f.entry.File
	}
	signatures, err := c.signatures(ctx, files...)
	if err != nil {
		return nil, err
	}
	records := make([]Record, len(roots))
	for i, f := range roots {
		records[i].Key, _ = hashOfKey(f.key)
		if s := signatures[i]; s != nil {
			records[i].Hashes = s.Hashes
		}
	}
	return records, nil
}

// logsRead is what was read of the logs.
type logsRead struct {
	keys map[phash.Hash]bool
	read map[int64]int64 // bytes, by hour
}

// readLogs reads what the logs hold from an hour on and was not read before.
func (c *Cache) readLogs(ctx context.Context, to *logsRead, from int64) error {
	for hour := from; hour <= hourOf(c.now())+1; hour++ {
		var log *redis.StringCmd
		if err := c.pipeline(ctx, func(p redis.Pipeliner) { log = p.GetRange(ctx, logKey(hour), to.read[hour], -1) }); err != nil {
			return fmt.Errorf("read %s: %w", logKey(hour), err)
		}
		new := recordsOf(log.Val())
		to.read[hour] += int64(len(new)) * recordSize
		for _, r := range new {
			to.keys[r.Key] = true
		}
	}
	return nil
}

// Reindex makes the logs anew: what they lack is added, what they hold without
// an entry, or twice, is taken out. It may run beside anything.
func (c *Cache) Reindex(ctx context.Context, step func(seen int)) (Reindexed, error) {
	done, there, err := c.reconcile(ctx, step)
	if err != nil {
		return done, err
	}
	done.Removed, err = c.compact(ctx, there)
	return done, err
}

// compact takes records of hashes that are not there, in any variant, and double
// ones out of the logs to which nobody appends any more, and sees that each log has
// a TTL.
func (c *Cache) compact(ctx context.Context, there map[phash.Hash]bool) (removed int, err error) {
	now := hourOf(c.now())
	seen := map[phash.Hash]int{}
	for hour := now + 1; hour >= now-logHours; hour-- {
		key := logKey(hour)
		var log *redis.StringCmd
		var ttl *redis.DurationCmd
		err := c.pipeline(ctx, func(p redis.Pipeliner) { log, ttl = p.Get(ctx, key), p.TTL(ctx, key) })
		if err != nil {
			return removed, fmt.Errorf("compact %s: %w", key, err)
		}
		settled := hour < now-1
		old := recordsOf(log.Val())
		var kept []Record
		for _, r := range slices.Backward(old) {
			says := 1
			if r.Hash != (phash.Hash{}) { // one without hashes, as an entry of Python's has it, stands in for no other one
				says = 2
			}
			if says > seen[r.Key] && (there[r.Key] || !settled) {
				kept = append(kept, r)
			}
			seen[r.Key] = max(seen[r.Key], says)
		}
		err = c.pipeline(ctx, func(p redis.Pipeliner) {
			switch {
			case log.Val() != "" && ttl.Val() < 0:
				p.Expire(ctx, key, logTTL)
			case settled && len(kept) == 0 && len(old) > 0:
				p.Unlink(ctx, key)
			case settled && len(kept) < len(old):
				// XX: evicted meanwhile, it would come back without a TTL.
				p.SetArgs(ctx, key, encodeRecords(kept), redis.SetArgs{Mode: "XX", KeepTTL: true})
			}
		})
		if err != nil {
			return removed, fmt.Errorf("compact %s: %w", key, err)
		}
		if settled {
			removed += len(old) - len(kept)
		}
	}
	return removed, nil
}

// hashOfKey returns the hash that an entry's key names. Keys that others have made
// up under our prefix name none.
func hashOfKey(key string) (phash.Hash, bool) {
	text, ok := strings.CutPrefix(key, hashPrefix)
	if !ok {
		return phash.Hash{}, false
	}
	text, suffix, _ := strings.Cut(text, ":")
	if suffix != "" && !strings.HasPrefix(suffix, "lang=") && !strings.HasPrefix(suffix, "model=") {
		return phash.Hash{}, false
	}
	h, err := phash.Parse(text)
	return h, err == nil && !h.Degenerate() && h.String() == text
}
