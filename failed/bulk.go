package failed

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/rabbit"
)

// What a Bulk does.
const (
	BulkReplay  = "replay"
	BulkDiscard = "discard"
)

// States of a Bulk.
const (
	BulkRunning = "running"
	BulkStopped = "stopped" // by a person, before its end
	BulkDone    = "done"
)

// Bulk is one change to all failed jobs that a filter chooses. It is kept in Redis, and goes on
// whichever process began it, as long as one of them runs [Store.RunBulks].
type Bulk struct {
	ID     string    `json:"id"`
	Action string    `json:"action"` // BulkReplay or BulkDiscard
	Filter Filter    `json:"filter"`
	By     string    `json:"by"`             // who began it
	Rate   float64   `json:"rate,omitempty"` // jobs a second at most, 0: as fast as the broker takes them
	Began  time.Time `json:"began"`          // no job is chosen that failed later
	Total  int       `json:"total"`          // how many the filter chose when it began,
	Exact  bool      `json:"exact"`          // or at least

	State string    `json:"-"`
	Ended time.Time `json:"-"` // zero while it runs
	Done  int       `json:"-"` // replayed, or discarded
	Left  int       `json:"-"` // left as they were, see Store.BulkLeft
	Fault string    `json:"-"` // what it waits for, such as a broker that is away; "" if nothing
}

// BulkError says what is wrong with a Bulk that is to begin.
type BulkError struct{ Text string }

func (e *BulkError) Error() string { return e.Text }

// Bounds of Bulk.Rate.
const (
	minRate = 0.001
	maxRate = 1e6
)

// Validate returns what is wrong.
func (b *Bulk) Validate() error {
	switch {
	case b.Action != BulkReplay && b.Action != BulkDiscard:
		return &BulkError{fmt.Sprintf("action is %q: expected %s or %s", b.Action, BulkReplay, BulkDiscard)}
	case b.Rate != 0 && !(b.Rate >= minRate && b.Rate <= maxRate): // NaN neither
		return &BulkError{fmt.Sprintf("rate is %v: expected jobs a second from %v to a million, or 0 for no limit", b.Rate, minRate)}
	case b.By == "":
		return &BulkError{"by is empty: expected who asks for it"}
	}
	return nil
}

// Keys of bulks.
const (
	bulksKey   = prefix + "bulks"        // sorted set: ids by when they began, in Unix milliseconds
	runningKey = prefix + "bulk-running" // set: ids
	// set: ids of bulks of a user's jobs. Processes of before Filter.User would take them for those of all users, and do not look here.
	runningUserKey = prefix + "bulk-running-user"
)

// runningOf is where a bulk is named while it runs.
func runningOf(f Filter) string {
	if f.User != "" {
		return runningUserKey
	}
	return runningKey
}

func bulkKey(id string) string      { return prefix + "bulk:" + id }            // hash, see below
func bulkTakenKey(id string) string { return prefix + "bulk:" + id + ":taken" } // set: keys of records it has begun with
func bulkLeftKey(id string) string  { return prefix + "bulk:" + id + ":left" }  // hash: of these, why one was left as it was
func bulkLeaseKey(id string) string { return prefix + "bulk:" + id + ":lease" } // held by the process that works on it

// Fields of the hash of a bulk.
const (
	bulkAbout  = "about" // Bulk in JSON
	bulkState  = "state"
	bulkCursor = "cursor" // where to go on
	bulkEnded  = "ended"  // Unix milliseconds
	bulkFault  = "fault"
)

// bulkTTL is how long a bulk is known after it began.
const bulkTTL = 7 * 24 * time.Hour

// times are how long things take that processes do together. Tests have shorter ones.
type times struct {
	lock  time.Duration // a record is locked for whoever replays it, should that process die
	lease time.Duration // a dead process holds a bulk
	look  time.Duration // between looks for bulks to work on
	pause time.Duration // before another attempt at a bulk, while the broker is away

	confirm time.Duration // a parked message that is due waits for its confirm
}

var usualTimes = times{lock: replayLock, lease: 15 * time.Second, look: time.Second, pause: 2 * time.Second, confirm: 10 * time.Second}

// countTime is how long a count may take that looks at records.
const countTime = 2 * time.Second

// CountChosen counts the records that a filter chooses. If exact is not set there are more: it looks
// at records for two seconds at most.
func (s *Store) CountChosen(ctx context.Context, f Filter) (n int, exact bool, err error) {
	n, exact, err = s.Size(ctx, f)
	if err != nil || exact {
		return n, exact, err
	}
	began, looked, ended := time.Now(), 0, true
	err = s.walk(ctx, f, Cursor{}, pageSize, func(_ Entry, chosen bool) bool {
		if looked++; looked%pageSize == 0 && time.Since(began) > countTime {
			ended = false
			return false
		}
		if chosen {
			n++
		}
		return true
	})
	return n, ended, err
}

// BeginBulk has a bulk begin, and returns it with its id. An error of b's own is a *BulkError.
func (s *Store) BeginBulk(ctx context.Context, b Bulk) (Bulk, error) {
	if err := b.Validate(); err != nil {
		return b, err
	}
	b.Began = time.Now().UTC().Truncate(time.Millisecond)
	if b.Filter.Before.IsZero() || b.Filter.Before.After(b.Began) {
		b.Filter.Before = b.Began
	}
	var err error
	if b.Total, b.Exact, err = s.CountChosen(ctx, b.Filter); err != nil {
		return b, fmt.Errorf("count the failed jobs to %s: %w", b.Action, err)
	}
	b.ID, b.State = strings.ToLower(rand.Text()[:12]), BulkRunning
	doc, err := json.Marshal(b)
	if err != nil {
		return b, err
	}
	old := strconv.FormatInt(b.Began.Add(-bulkTTL).UnixMilli(), 10)
	_, err = s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, bulkKey(b.ID), bulkAbout, doc, bulkState, BulkRunning)
		p.Expire(ctx, bulkKey(b.ID), bulkTTL)
		p.ZAdd(ctx, bulksKey, redis.Z{Score: float64(b.Began.UnixMilli()), Member: b.ID})
		p.ZRemRangeByScore(ctx, bulksKey, "-inf", old)
		p.SAdd(ctx, runningOf(b.Filter), b.ID)
		return nil
	})
	if err != nil {
		return b, fmt.Errorf("begin to %s %d failed jobs: %w", b.Action, b.Total, err)
	}
	select {
	case s.bulks <- struct{}{}:
	default:
	}
	return b, nil
}

// stopScript ends a bulk that runs.
//
// KEYS: the bulk, the ids of those that run, those of a user. ARGV: its id, its state from now on, the time in Unix
// milliseconds.
var stopScript = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'state') ~= 'running' then return 0 end
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'ended', ARGV[3])
redis.call('HDEL', KEYS[1], 'fault')
return 1
`)

// StopBulk ends a bulk. The jobs that it has in hand are finished. It reports whether the bulk ran.
func (s *Store) StopBulk(ctx context.Context, id string) (ran bool, err error) {
	return s.endBulk(ctx, id, BulkStopped)
}

func (s *Store) endBulk(ctx context.Context, id, state string) (ran bool, err error) {
	n, err := stopScript.Run(ctx, s.client, []string{bulkKey(id), runningKey, runningUserKey}, id, state, time.Now().UnixMilli()).Int()
	if err != nil {
		return false, fmt.Errorf("end bulk %s: %w", id, err)
	}
	return n == 1, nil
}

// Bulks returns the latest bulks, the last one first. They are known for a week.
func (s *Store) Bulks(ctx context.Context, most int) ([]Bulk, error) {
	ids, err := s.client.ZRevRange(ctx, bulksKey, 0, int64(most-1)).Result()
	if err != nil {
		return nil, fmt.Errorf("list bulks: %w", err)
	}
	return s.bulksOf(ctx, ids)
}

// BulkOf returns a bulk, nil if it is not known.
func (s *Store) BulkOf(ctx context.Context, id string) (*Bulk, error) {
	all, err := s.bulksOf(ctx, []string{id})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return &all[0], nil
}

func (s *Store) bulksOf(ctx context.Context, ids []string) ([]Bulk, error) {
	fields, taken, left := make([]*redis.MapStringStringCmd, len(ids)), make([]*redis.IntCmd, len(ids)), make([]*redis.IntCmd, len(ids))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			fields[i], taken[i], left[i] = p.HGetAll(ctx, bulkKey(id)), p.SCard(ctx, bulkTakenKey(id)), p.HLen(ctx, bulkLeftKey(id))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up bulks: %w", err)
	}
	var out []Bulk
	for i := range ids {
		f := fields[i].Val()
		var b Bulk
		if json.Unmarshal([]byte(f[bulkAbout]), &b) != nil {
			continue // it has expired
		}
		b.State, b.Left = f[bulkState], int(left[i].Val())
		if b.State == BulkRunning { // else it was noted by a step that was under way when the bulk ended
			b.Fault = f[bulkFault]
		}
		b.Done = max(0, int(taken[i].Val())-b.Left)
		if ms, err := strconv.ParseInt(f[bulkEnded], 10, 64); err == nil {
			b.Ended = time.UnixMilli(ms).UTC()
		}
		out = append(out, b)
	}
	return out, nil
}

// Left is a record that a bulk has left as it was.
type Left struct {
	Key Key
	Why string
}

// BulkLeft returns up to so many of the records that a bulk has left as they were, in the order of their keys. If there are more, any
// of them.
func (s *Store) BulkLeft(ctx context.Context, id string, most int) ([]Left, error) {
	var out []Left
	scan := s.client.HScan(ctx, bulkLeftKey(id), 0, "", int64(most)).Iterator()
	for len(out) < most && scan.Next(ctx) {
		k := Key(scan.Val())
		if !scan.Next(ctx) {
			break
		}
		out = append(out, Left{k, scan.Val()})
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("list what bulk %s has left: %w", id, err)
	}
	slices.SortFunc(out, func(a, b Left) int { return cmp.Compare(a.Key, b.Key) })
	return out[:min(most, len(out))], nil
}

// BulkEnds returns how many of the jobs that a bulk has replayed are in which state by now: "" stands
// for those that wait, or whose result is not stored. It looks at all of them.
func (s *Store) BulkEnds(ctx context.Context, id string) (map[celery.State]int, error) {
	out := map[celery.State]int{}
	left, err := s.client.HKeys(ctx, bulkLeftKey(id)).Result()
	if err != nil {
		return nil, fmt.Errorf("list what bulk %s has left: %w", id, err)
	}
	slices.Sort(left)
	var batch []string
	count := func() error {
		states, err := s.results.States(ctx, batch)
		for _, state := range states {
			out[state]++
		}
		batch = batch[:0]
		return err
	}
	scan := s.client.SScan(ctx, bulkTakenKey(id), 0, "", 500).Iterator()
	for scan.Next(ctx) {
		if _, found := slices.BinarySearch(left, scan.Val()); found {
			continue
		}
		if batch = append(batch, Key(scan.Val()).Name()); len(batch) == 500 {
			if err := count(); err != nil {
				return nil, err
			}
		}
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("list what bulk %s has replayed: %w", id, err)
	}
	if len(batch) == 0 {
		return out, nil
	}
	return out, count()
}

// RunBulks works on bulks until ctx ends. Any number of processes may do so: each bulk is worked on
// by one, and taken over a while after that has died.
func (s *Store) RunBulks(ctx context.Context, publish Publish) {
	var work sync.WaitGroup
	defer work.Wait()
	mine := map[string]chan struct{}{}
	tick := time.NewTicker(s.times.look)
	defer tick.Stop()
	for ctx.Err() == nil {
		for id, done := range mine {
			select {
			case <-done:
				delete(mine, id)
			default:
			}
		}
		ids, err := s.client.SUnion(ctx, runningKey, runningUserKey).Result()
		if err != nil && ctx.Err() == nil {
			s.log.Debug("bulks not looked for", zap.Error(err))
		}
		for _, id := range ids {
			token := rand.Text()
			if mine[id] != nil {
				continue
			}
			if err := s.client.SetArgs(ctx, bulkLeaseKey(id), token, redis.SetArgs{Mode: "NX", TTL: s.times.lease}).Err(); err != nil {
				continue // another process has it, or Redis is away
			}
			done := make(chan struct{})
			mine[id] = done
			work.Go(func() {
				defer close(done)
				s.runBulk(ctx, id, token, publish)
			})
		}
		select {
		case <-tick.C:
		case <-s.bulks:
		case <-ctx.Done():
		}
	}
}

// runBulk works on a bulk until it has ended, or ctx ends, or the lease is lost.
func (s *Store) runBulk(ctx context.Context, id, token string, publish Publish) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var renewal sync.WaitGroup
	defer func() {
		cancel(nil)
		renewal.Wait()
		late, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer end()
		release.Run(late, s.client, []string{bulkLeaseKey(id)}, token) // else it runs out
	}()
	renewal.Go(func() {
		tick := time.NewTicker(s.times.lease / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			held, err := prolong.Run(ctx, s.client, []string{bulkLeaseKey(id)}, token, s.times.lease.Milliseconds()).Int()
			if err == nil && held == 0 {
				cancel(errors.New("another process has taken over"))
			}
		}
	})
	b, err := s.BulkOf(ctx, id)
	if err == nil && b == nil { // it has expired
		s.client.SRem(ctx, runningKey, id)
		s.client.SRem(ctx, runningUserKey, id)
		return
	}
	if err == nil {
		err = s.understands(ctx, id)
	}
	for err == nil && ctx.Err() == nil {
		var more bool
		if more, err = s.bulkStep(ctx, b, token, publish); !more {
			break
		}
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("bulk interrupted, it goes on in a moment", zap.String("bulk", id), zap.Error(err))
	}
}

// understands is an error for a bulk that a newer version has begun with more than is known here: it would choose other jobs.
func (s *Store) understands(ctx context.Context, id string) error {
	doc, err := s.client.HGet(ctx, bulkKey(id), bulkAbout).Result()
	if err != nil {
		return err
	}
	known := json.NewDecoder(strings.NewReader(doc))
	known.DisallowUnknownFields()
	if err := known.Decode(new(Bulk)); err != nil {
		fault := fmt.Errorf("it was begun by another version of onceover, which goes on with it: %w", err)
		if err := s.bulkWaits(ctx, &Bulk{ID: id}, fault); err != nil {
			return err
		}
		return fault
	}
	return nil
}

// bulkStep does the next jobs of a bulk. more is set unless it has ended.
func (s *Store) bulkStep(ctx context.Context, b *Bulk, token string, publish Publish) (more bool, err error) {
	at, err := s.client.HMGet(ctx, bulkKey(b.ID), bulkState, bulkCursor).Result()
	if err != nil {
		return false, err
	}
	if state, _ := at[0].(string); state != BulkRunning {
		return false, nil
	}
	place, _ := at[1].(string)
	from, err := ParseCursor(place)
	if err != nil {
		return false, err
	}
	size := ReplayBatch
	if b.Rate > 0 {
		size = max(1, min(size, int(b.Rate/4))) // four steps a second
	}
	began := time.Now()
	page, err := s.Page(ctx, b.Filter, from, size)
	if err != nil {
		return false, err
	}
	left, fault := s.bulkDo(ctx, b, token, page.Entries, publish)
	if fault != nil {
		if ctx.Err() != nil {
			return false, fault
		}
		return true, s.bulkWaits(ctx, b, fault)
	}
	_, err = s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, bulkKey(b.ID), bulkCursor, page.Next.String())
		p.Expire(ctx, bulkKey(b.ID), bulkTTL) // from when it was at work last
		p.HDel(ctx, bulkKey(b.ID), bulkFault)
		if len(left) > 0 {
			p.HSet(ctx, bulkLeftKey(b.ID), left)
			p.Expire(ctx, bulkLeftKey(b.ID), bulkTTL)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if page.Next.IsZero() {
		ended, err := s.endBulk(ctx, b.ID, BulkDone)
		if ended {
			s.auditBulk(ctx, b)
			s.log.Info("bulk done", zap.String("bulk", b.ID), zap.String("action", b.Action), zap.String("by", b.By))
		}
		return false, err
	}
	return true, s.bulkPace(ctx, b, len(page.Entries), began)
}

// auditBulk notes how a bulk has ended.
func (s *Store) auditBulk(ctx context.Context, b *Bulk) {
	outcome := "done"
	if now, err := s.BulkOf(ctx, b.ID); err == nil && now != nil {
		outcome = fmt.Sprintf("done: %d, and %d left as they were", now.Done, now.Left)
	}
	if err := s.Audit(ctx, Change{By: b.By, Action: b.Action + " all", Target: "bulk " + b.ID, Outcome: outcome}); err != nil {
		s.log.Error("the end of a bulk is not in the list of changes", zap.String("bulk", b.ID), zap.Error(err))
	}
}

// bulkDo replays or discards the jobs of one step, and returns why some were left as they were. An
// error means that the step has to be done again.
func (s *Store) bulkDo(ctx context.Context, b *Bulk, token string, entries []Entry, publish Publish) (left map[string]any, err error) {
	if len(entries) == 0 {
		return nil, nil
	}
	keys, names := make([]Key, len(entries)), make([]any, len(entries))
	for i, e := range entries {
		keys[i], names[i] = e.Key, string(e.Key)
	}
	// Before: should this process die, what has gone from the list is known to be done.
	var taken *redis.BoolSliceCmd
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		taken = p.SMIsMember(ctx, bulkTakenKey(b.ID), names...)
		p.SAdd(ctx, bulkTakenKey(b.ID), names...)
		p.Expire(ctx, bulkTakenKey(b.ID), bulkTTL)
		return nil
	})
	if err != nil {
		return nil, err
	}
	left = map[string]any{}
	if b.Action == BulkDiscard {
		for i, k := range keys {
			if err := s.Discard(ctx, k); err != nil {
				s.bulkUndone(ctx, b, token, names[i:])
				return nil, err
			}
		}
		return left, nil
	}
	outcomes, err := s.Replay(ctx, keys, inTime(publish), nil)
	if err != nil {
		undone := slices.DeleteFunc(names, func(name any) bool {
			return slices.ContainsFunc(outcomes, func(o Outcome) bool { return o.Done && string(o.Key) == name })
		})
		s.bulkUndone(ctx, b, token, undone)
		return nil, err
	}
	var undone []any // if the step has to be done again
	locked := 0
	for i, o := range outcomes {
		switch {
		case o.Over && taken.Val()[i]: // it was this bulk's own doing, in a process that died before it forgot the record
			if derr := s.drop(ctx, o.Key); derr != nil && err == nil {
				err = derr
			}
			continue
		case o.Done:
			continue
		case o.Busy:
			locked++
		default:
			left[string(o.Key)] = o.Why
		}
		undone = append(undone, string(o.Key))
	}
	if err == nil && locked > 0 { // for a minute, if whoever worked on this bulk was killed
		err = fmt.Errorf("%d of the next jobs are locked by another command, or by one that was killed less than a minute ago", locked)
	}
	if err != nil {
		s.bulkUndone(ctx, b, token, undone)
		return nil, err
	}
	return left, nil
}

// bulkPublish is how long the messages of a step may take: a queue that is full, or a broker that does not answer, is told of, and the
// jobs are given back.
const bulkPublish = 30 * time.Second

func inTime(publish Publish) Publish {
	return func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		ctx, cancel := context.WithTimeoutCause(ctx, bulkPublish, fmt.Errorf("the messages were not taken within %v", bulkPublish))
		defer cancel()
		return publish(ctx, create, messages...)
	}
}

// undoneScript takes back that a bulk has begun with records, unless another process has taken over: that may have done them by now.
//
// KEYS: the lease, the keys of records it has begun with. ARGV: the lease's token, keys.
var undoneScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('SREM', KEYS[2], unpack(ARGV, 2))
`)

// bulkUndone notes that the records of a step are as they were, and count as neither done nor left.
func (s *Store) bulkUndone(ctx context.Context, b *Bulk, token string, names []any) {
	if len(names) == 0 {
		return
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	keys := []string{bulkLeaseKey(b.ID), bulkTakenKey(b.ID)}
	if err := undoneScript.Run(late, s.client, keys, append([]any{token}, names...)...).Err(); err != nil {
		s.log.Debug("a bulk counts as done what it tries again", zap.String("bulk", b.ID), zap.Error(err))
	}
}

// bulkWaits notes why a step did not go, and waits for the next attempt.
func (s *Store) bulkWaits(ctx context.Context, b *Bulk, fault error) error {
	s.log.Debug("bulk waits", zap.String("bulk", b.ID), zap.Error(fault))
	if err := s.client.HSet(ctx, bulkKey(b.ID), bulkFault, shorten(fault.Error(), 500)).Err(); err != nil {
		return err
	}
	return wait(ctx, s.times.pause)
}

// bulkPace waits until the next step may begin.
func (s *Store) bulkPace(ctx context.Context, b *Bulk, n int, began time.Time) error {
	if b.Rate <= 0 || n == 0 {
		return nil
	}
	return wait(ctx, time.Until(began.Add(time.Duration(float64(n)/b.Rate*float64(time.Second)))))
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
