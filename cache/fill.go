package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/phash/verify"
)

const lockPrefix = "cache:lock:"

// noTTL is how go-redis says that a key stays for ever.
const noTTL = time.Duration(-1)

// channel is where the end of a computation is announced.
func channel(key string) string { return "cache:filled:" + key }

// lease is how long a lock outlives the process that held it. It is renewed
// three times as often.
const lease = 10 * time.Second

// Fill has the answer of q computed and stores it. Of concurrent calls for one
// picture, in all processes on this cache, one computes; the others wait and have
// their waiting called once, if it is not nil. The answer's Kind is Fresh for
// the one whose compute made it, Shared for those that waited, and that of
// Lookup if it was there after all. q stays as it is until compute has ended. If the one that computes fails, fails to
// store, or dies, another one goes on: after a crash once its lease of 10 s has
// run out. With q.Stale nobody waits: while another one makes the entry anew, it is
// the answer.
//
// A call that ends because its ctx ended leaves the computation to those of its
// process that wait too; compute's own context ends when none does any more, or
// with Close. If compute fails the error goes to all callers of this process
// with the same file, and, if Query.AnyPicture says so, to those that waited for
// it with another file of the same hash.
func (c *Cache) Fill(ctx context.Context, q *Query, compute func(context.Context) (Entry, error), waiting func()) (*Answer, error) {
	if waiting == nil {
		waiting = func() {}
	}
	key := q.Key(q.Variant)
	if key == "" {
		return nil, fmt.Errorf("fill %s: %w", q.Hash, errNoKey)
	}
	at := flightKey{key, q.Digest}
	if q.Stale != nil && c.flight.busy(at) {
		return &Answer{Entry: *q.Stale, Kind: Exact}, nil // another job makes it anew
	}
	a, shared, err := c.flight.do(ctx, at, waiting, func(ctx context.Context, waits func()) (*Answer, error) {
		return c.fill(ctx, q, compute, sync.OnceFunc(waits))
	})
	if err != nil {
		return nil, err
	}
	own := *a
	if shared && own.Kind == Fresh {
		own.Kind = Shared
	}
	return &own, nil
}

// fill is Fill for one file in this process. Who computes the entry of a key is told by the key's turn in this process and its lock
// in all. Files of one hash have the key of the hash until it is another picture's; then each has its own.
func (c *Cache) fill(ctx context.Context, q *Query, compute func(context.Context) (Entry, error), waits func()) (*Answer, error) {
	key := q.Key(q.Variant) // as a rule
	for {
		a, err := c.fillAt(ctx, key, q, compute, waits)
		if a != nil || err != nil {
			return a, err
		}
		own, err := c.own(ctx, q.Variant, q.Picture)
		if err != nil {
			return nil, err
		}
		key = own[0].key
	}
}

// fillAt is fill for the key at which the entry would be; nil and nil if that may be another one by now.
func (c *Cache) fillAt(ctx context.Context, key string, q *Query, compute func(context.Context) (Entry, error), waits func()) (*Answer, error) {
	end, theirs := c.flight.turn(key)
	if theirs != nil {
		return c.takeTurn(ctx, key, q, theirs, waits)
	}
	var common error // of the computation
	defer func() { end(common) }()
	l, err := c.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	if l == nil && q.Stale != nil {
		return c.madeElsewhere(ctx, key, q)
	}
	if l == nil {
		waits()
		c.metrics.waits.Inc()
		var a *Answer
		if a, l, err = c.await(ctx, key, q); l == nil {
			return a, err
		}
	}
	defer l.release() // after a panic, too
	// Somebody may have been faster, under this hash or a near one.
	if c.cfg.Radius > 0 {
		if err := c.Load(ctx); err != nil {
			return nil, err
		}
	}
	a, at, err := c.lookup(ctx, q)
	if a != nil {
		a.Expiring = false
	}
	if a != nil || err != nil || at.key != key {
		return a, err
	}
	own := *q
	signature, err := own.signature(ctx)
	if err != nil {
		return nil, err
	}
	if signature != nil { // all that is needed of the picture from now on: a call may take long
		own.View = func(context.Context) (*verify.View, error) { return signature.View(), nil }
	}
	a, err = c.computed(ctx, at, &own, signature, compute)
	// One that has an answer already asks with less patience, and one that was given up says nothing of others.
	if err != nil && q.Stale == nil && ctx.Err() == nil && q.AnyPicture != nil && q.AnyPicture(err) {
		common = err
	}
	return a, err
}

// takeTurn waits for another computation of this process that has the turn of a key, and returns what came of it: an answer, a
// failure that any picture would meet, or nil and nil. It returns these at once if the picture's entry belongs elsewhere.
func (c *Cache) takeTurn(ctx context.Context, key string, q *Query, theirs *turn, waits func()) (*Answer, error) {
	if q.Stale != nil {
		return c.madeElsewhere(ctx, key, q)
	}
	if own, err := c.own(ctx, q.Variant, q.Picture); err != nil || own[0].key != key {
		return nil, err
	}
	waits()
	select {
	case <-theirs.ended:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	a, err := c.Lookup(ctx, q)
	switch {
	case a != nil:
		a.Expiring = false
		if a.Kind == Exact {
			a.Kind = Shared
		}
	case err == nil:
		err = theirs.err
	}
	return a, err
}

// madeElsewhere returns the entry that another job makes anew, which is good enough until it has; nil and nil if what is made at the key
// is another picture's.
func (c *Cache) madeElsewhere(ctx context.Context, key string, q *Query) (*Answer, error) {
	if own, err := c.own(ctx, q.Variant, q.Picture); err != nil || own[0].key != key {
		return nil, err
	}
	return &Answer{Entry: *q.Stale, Kind: Exact}, nil
}

// computed computes an entry and keeps it at its place.
func (c *Cache) computed(ctx context.Context, at item, q *Query, s *verify.Signature, compute func(context.Context) (Entry, error)) (*Answer, error) {
	began := time.Now()
	e, err := compute(ctx)
	if err != nil {
		return nil, err
	}
	c.took.add(time.Since(began))
	if q.Stale != nil {
		c.metrics.refreshed.Inc()
	}
	return &Answer{Entry: c.storePaid(ctx, at, q, s, &e), Kind: Fresh}, nil
}

// storePaid stores an entry, and returns what is kept. It is paid for: it is kept even if all who asked have gone.
func (c *Cache) storePaid(ctx context.Context, at item, q *Query, s *verify.Signature, e *Entry) Entry {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	kept, err := c.store(ctx, at, &q.Picture, q.Variant, *e, s)
	if err != nil {
		c.log.Warn("answer not cached", zap.String("key", at.key), zap.Error(err))
	}
	return kept
}

// await waits until there is an entry under key, or the lock is ours; it returns neither
// if the picture's entry belongs elsewhere by now. It asks Redis when the end of a computation is announced, and when the lease of the
// holder should have run out.
func (c *Cache) await(ctx context.Context, key string, q *Query) (*Answer, *lock, error) {
	sub := c.client.Subscribe(ctx, channel(key))
	defer sub.Close()
	// It also tells when announcements begin to be heard, at first and after a lost
	// connection: what was announced before is seen by looking then.
	announced := sub.ChannelWithSubscriptions()
	wait := c.lease
	for {
		// Spread a little, so that not all wake at once.
		timer := time.NewTimer(wait + rand.N(c.lease/100))
		select {
		case <-announced:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, nil, context.Cause(ctx)
		}
		timer.Stop()
		found, err := c.own(ctx, q.Variant, q.Picture)
		if err != nil {
			return nil, nil, err
		}
		if e := found[0].entry; e != nil && c.Usable(q, *e) {
			return &Answer{Entry: *e, Kind: Shared}, nil, nil
		}
		if found[0].key != key {
			return nil, nil, nil
		}
		l, err := c.lock(ctx, key)
		if l != nil || err != nil {
			return nil, l, err
		}
		var left *redis.DurationCmd
		if err := c.pipeline(ctx, func(p redis.Pipeliner) { left = p.PTTL(ctx, lockPrefix+key) }); err != nil {
			return nil, nil, err
		}
		if wait = min(max(left.Val(), 0), c.lease); left.Val() == noTTL {
			// Not written by us. It would be waited for without end.
			wait = c.lease
			if err := c.pipeline(ctx, func(p redis.Pipeliner) { p.Expire(ctx, lockPrefix+key, c.lease) }); err != nil {
				return nil, nil, err
			}
		}
	}
}

// lock is the right to compute the entry of a key, renewed until release.
type lock struct {
	c       *Cache
	key     string
	mutex   *redsync.Mutex
	ctx     context.Context // of its renewals
	stop    context.CancelFunc
	renewal sync.WaitGroup // that is due or under way

	mu    sync.Mutex
	timer *time.Timer // of the next renewal
	over  bool
}

// lock takes the lock of a key; nil if somebody else has it.
func (c *Cache) lock(ctx context.Context, key string) (*lock, error) {
	mutex := c.locks.NewMutex(lockPrefix+key, redsync.WithExpiry(c.lease), redsync.WithTries(1),
		redsync.WithTimeoutFactor(0.2), redsync.WithSetNXOnExtend())
	mine, err := c.tryLock(ctx, mutex)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", key, err)
	}
	if !mine {
		return nil, nil
	}
	l := &lock{c: c, key: key, mutex: mutex}
	l.ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.renewLater()
	return l, nil
}

func (c *Cache) tryLock(ctx context.Context, mutex *redsync.Mutex) (mine bool, err error) {
	err = c.guard.Do(ctx, func(ctx context.Context) error {
		err := mutex.TryLockContext(ctx)
		var taken *redsync.ErrTaken
		if errors.As(err, &taken) {
			mine = false
			return nil
		}
		mine = err == nil
		return err
	})
	return mine, err
}

// renewLater has the lock be renewed when a third of its lease is over, until it is released or lost. A lock that waits
// for that needs no goroutine.
func (l *lock) renewLater() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.renewal.Add(1)
	l.timer = time.AfterFunc(l.c.lease/3, func() {
		defer l.renewal.Done()
		if l.renew() {
			l.renewLater()
		}
	})
}

// renew keeps the lock, and takes it again where it ran out or was evicted. Where
// somebody else has it meanwhile both go on: the call is paid for already, and
// the last answer stays. It reports whether the lock may still be ours.
func (l *lock) renew() bool {
	var taken *redsync.ErrTaken
	if _, err := l.mutex.ExtendContext(l.ctx); !errors.As(err, &taken) {
		return true // if Redis is away, the next time shows whether the lock is
	}
	l.c.metrics.lost.Inc()
	l.c.log.Warn("lock of a picture lost to another process", zap.String("key", l.key))
	return false
}

// endRenewal waits for a renewal that is under way. There is none after it.
func (l *lock) endRenewal() {
	l.stop()
	l.mu.Lock()
	l.over = true
	if l.timer.Stop() {
		l.renewal.Done()
	}
	l.mu.Unlock()
	l.renewal.Wait()
}

// release gives the lock back and wakes those who wait for it.
func (l *lock) release() {
	l.endRenewal()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	// Where it fails the lock is lost already, or Redis is away and it runs out.
	_, _ = l.mutex.UnlockContext(ctx)
	if err := l.c.client.Publish(ctx, channel(l.key), "").Err(); err != nil {
		l.c.log.Debug("end of a computation not announced", zap.String("key", l.key), zap.Error(err))
	}
}
