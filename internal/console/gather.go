package console

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"onceover/cache"
	"onceover/failed"
	"onceover/internal/control"
	"onceover/rabbit"
	"onceover/vision/fleet"
)

const (
	fresh     = 2 * time.Second  // how old a snapshot is that is shown, while somebody looks
	unwatched = time.Minute      // after which nobody is taken to look
	idle      = 30 * time.Second // between snapshots then: rates are known at once to who looks again
	slowly    = 15 * time.Second // between looks at what changes by the hour
	gathering = 4 * time.Second  // how long a server may take
)

// Part is a part of a Snapshot: what was read, or why it could not be.
type Part[T any] struct {
	Value T
	Err   error
	At    time.Time
}

// OK reports whether it could be read.
func (p Part[T]) OK() bool { return p.Err == nil && !p.At.IsZero() }

// Snapshot is what was found at one time.
type Snapshot struct {
	At        time.Time
	Servers   []ServerState
	Queues    []Queue
	Rates     Rates
	AgesKnown bool // whether it is known what workers have begun, by which messages are found to wait for long
	Paused    Part[map[string]control.Pause]
	Workers   Part[[]control.Worker]
	Counts    Part[failed.Counts]
	Causes    Part[[]failed.Cause]
	Bulks     Part[[]failed.Bulk]
	Hours     Part[[]failed.Count] // of failures, the last 24
	Cache     Part[cache.Stats]    // the last 24 hours
	Endpoints Part[[]fleet.State]
	Budgets   Part[[]fleet.Spending]
}

// ServerState is whether a server answered.
type ServerState struct {
	Name string
	Err  error
	Took time.Duration
}

// Queue is how a queue stands.
type Queue struct {
	Name    string
	State   Part[rabbit.Standing]
	Missing bool // it does not exist
	Paused  *control.Pause

	Oldest time.Duration // how long the oldest message has waited at least
	TTL    time.Duration // after which one that waits expires, and is kept as a failed job; 0 if none does, or that is not known
}

// Dead reports whether it is the queue of dead letters.
func (q Queue) Dead() bool { return q.Name == rabbit.QueueDeadLetter }

// Rates are jobs a second of all queues together, in the last half minute or so.
type Rates struct {
	Known   bool
	In, Out float64
	Empties time.Duration // when the queues are empty if this goes on; 0 if they never are
}

// Run gathers what is shown, and works on bulks, until ctx ends.
func (c *Console) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { c.Failed.RunBulks(ctx, c.Publish) })
	var last *Snapshot
	for ctx.Err() == nil {
		last = c.gather(ctx, last)
		c.enforce(ctx, last)
		c.mu.Lock()
		c.now = last
		close(c.next)
		select {
		case <-c.want: // who wanted news has got them
		default:
		}
		c.next = make(chan struct{})
		pause := idle
		if time.Since(c.viewed) < unwatched {
			pause = fresh
		}
		c.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-c.want:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// Watch gathers every two seconds, and hands what it found to show, until ctx ends or show returns an error. It is for who looks without a
// page, in place of Run.
func (c *Console) Watch(ctx context.Context, show func(*Snapshot) error) error {
	var last *Snapshot
	for {
		last = c.gather(ctx, last)
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := show(last); err != nil {
			return err
		}
		timer := time.NewTimer(fresh)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// enforce tells workers that began later to leave the queues that are paused.
func (c *Console) enforce(ctx context.Context, s *Snapshot) {
	if !s.Paused.OK() || !s.Workers.OK() || len(s.Paused.Value) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, gathering)
	defer cancel()
	if err := c.Workers.Enforce(ctx, c.Pauses, s.Workers.Value); err != nil && ctx.Err() == nil {
		c.log.Warn("a worker that began later consumes a paused queue", zap.Error(err))
	}
}

// staleTime is how long a page waits for news of servers, if what is known is old: it has its times.
const staleTime = 300 * time.Millisecond

// latest returns what was found last, gathered anew if that is long ago. It is nil if nothing was found in time.
func (c *Console) latest(ctx context.Context) *Snapshot {
	c.mu.Lock()
	c.viewed = time.Now()
	now, next := c.now, c.next
	c.mu.Unlock()
	if now != nil && time.Since(now.At) < 2*fresh {
		return now
	}
	select {
	case c.want <- struct{}{}:
	default:
	}
	patience := staleTime
	if now == nil || time.Since(now.At) > unwatched {
		patience = gathering
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-next:
	case <-timer.C:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// renew waits until what was changed just now can be seen, for a while.
func (c *Console) renew(ctx context.Context) {
	for range 2 { // a round that is under way may have asked before
		c.mu.Lock()
		c.viewed = time.Now()
		next := c.next
		c.mu.Unlock()
		select {
		case c.want <- struct{}{}:
		default:
		}
		timer := time.NewTimer(gathering / 2)
		select {
		case <-next:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// read fills a part.
func read[T any](ctx context.Context, work *sync.WaitGroup, to *Part[T], ask func(context.Context) (T, error)) {
	work.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, gathering)
		defer cancel()
		value, err := ask(ctx)
		*to = Part[T]{value, err, time.Now()}
	})
}

// gather asks all servers at once.
func (c *Console) gather(ctx context.Context, last *Snapshot) *Snapshot {
	s := &Snapshot{At: time.Now(), Servers: make([]ServerState, len(c.Servers))}
	var work sync.WaitGroup
	for i, server := range c.Servers {
		work.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, gathering)
			defer cancel()
			began := time.Now()
			err := server.Ping(ctx)
			s.Servers[i] = ServerState{server.Name, err, time.Since(began)}
		})
	}
	read(ctx, &work, &s.Paused, c.Pauses.All)
	read(ctx, &work, &s.Workers, c.Workers.Workers)
	read(ctx, &work, &s.Counts, c.Failed.Count)
	read(ctx, &work, &s.Causes, c.Failed.Causes)
	read(ctx, &work, &s.Bulks, func(ctx context.Context) ([]failed.Bulk, error) { return c.Failed.Bulks(ctx, 5) })
	if last != nil && time.Since(last.Cache.At) < slowly {
		s.Cache, s.Hours = last.Cache, last.Hours
	} else {
		read(ctx, &work, &s.Cache, func(ctx context.Context) (cache.Stats, error) { return c.Cache.Stats(ctx, 24, 5) })
		read(ctx, &work, &s.Hours, func(ctx context.Context) ([]failed.Count, error) { return c.Failed.Hours(ctx, 24) })
	}
	if c.Gate != nil {
		read(ctx, &work, &s.Endpoints, c.Gate.States)
		read(ctx, &work, &s.Budgets, c.Gate.Spending)
	}
	work.Wait()
	c.lookAtQueues(ctx, s, last)
	return s
}

// lookAtQueues looks at the queues that should be there, and at those that somebody consumes or has paused. Those of the topology, and what
// was there before, are shown as long as they exist: what waits in them does not go with its workers.
func (c *Console) lookAtQueues(ctx context.Context, s, last *Snapshot) {
	names := map[string]bool{} // whether they are shown although they do not exist
	for _, q := range rabbit.Topology() {
		names[q.Name] = false
	}
	if last != nil {
		for _, q := range last.Queues {
			names[q.Name] = false
		}
	}
	for _, name := range c.Queues {
		names[name] = true
	}
	for _, w := range s.Workers.Value {
		for _, name := range w.Queues {
			names[name] = true
		}
	}
	for name := range s.Paused.Value {
		names[name] = true
	}
	s.Queues = make([]Queue, 0, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		q := Queue{Name: name}
		if ttl, ok := rabbit.QueueNamed(name).Args["x-message-ttl"].(int32); ok {
			q.TTL = time.Duration(ttl) * time.Millisecond
		}
		if pause, ok := s.Paused.Value[name]; ok {
			q.Paused = &pause
		}
		s.Queues = append(s.Queues, q)
	}
	var work sync.WaitGroup
	for i := range s.Queues {
		q := &s.Queues[i]
		work.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, gathering)
			defer cancel()
			standing, err := c.Look(ctx, q.Name)
			if q.Missing = errors.Is(err, rabbit.ErrNoQueue); q.Missing {
				err = nil
			}
			q.State = Part[rabbit.Standing]{standing, err, time.Now()}
		})
	}
	work.Wait()
	s.Queues = slices.DeleteFunc(s.Queues, func(q Queue) bool { return q.Missing && !names[q.Name] })
	begun, sure := c.tally.count(s.Workers, s.At)
	if c.tally.lost {
		c.ring, c.tally.lost = ring{}, false
	}
	if s.AgesKnown = sure; !sure {
		return
	}
	c.ring.add(s.At, begun, s.Queues)
	for i := range s.Queues {
		c.ring.age(&s.Queues[i], s.At, begun)
	}
	s.Rates = c.ring.rates(s.Queues, s.At, begun, c.tally.jumped)
}

// tally counts the jobs that workers have begun since the page looks: each worker counts from its own start.
type tally struct {
	nodes  map[string]heard
	total  int
	jumped time.Time // when a worker was first heard of, with all that it had begun before
	lost   bool      // a worker has gone, and what it had begun since it was last heard of is not known
}

// heard is what a worker said last.
type heard struct {
	accepted int
	at       time.Time
}

// goneAfter is how long a worker may be silent before it is taken to have gone.
const goneAfter = time.Minute

// count adds what workers say. It is not sure while one of them is silent, or does not say all.
func (t *tally) count(workers Part[[]control.Worker], now time.Time) (total int, sure bool) {
	if !workers.OK() {
		return t.total, false
	}
	if t.nodes == nil {
		t.nodes = map[string]heard{}
	}
	sure = true
	for _, w := range workers.Value {
		if w.Fault != "" {
			sure = false
			continue
		}
		last, known := t.nodes[w.Node]
		if !known {
			t.jumped = now
		}
		if w.Accepted < last.accepted { // it was started again
			last.accepted = 0
		}
		t.total += w.Accepted - last.accepted
		t.nodes[w.Node] = heard{w.Accepted, now}
	}
	for node, last := range t.nodes {
		switch {
		case last.at.Equal(now):
		case now.Sub(last.at) > goneAfter:
			delete(t.nodes, node)
			t.lost = true
		default:
			sure = false
		}
	}
	return t.total, sure
}

// ring remembers how the queues stood in the last hour, in a fixed room.
type ring struct {
	samples [720]sample
	n       int // ever added
}

// sample is how the queues stood at one time.
type sample struct {
	at       time.Time
	accepted int // jobs that the workers had begun by then
	ready    map[string]int
}

// spacing is the least time between samples: 720 of them are an hour.
const spacing = 5 * time.Second

func newSample(at time.Time, accepted int, queues []Queue) sample {
	s := sample{at, accepted, map[string]int{}}
	for _, q := range queues {
		if q.State.OK() && !q.Missing && !q.Dead() { // dead letters are begun by nobody
			s.ready[q.Name] = q.State.Value.Ready
		}
	}
	return s
}

func (s *sample) total() (n int) {
	for _, ready := range s.ready {
		n += ready
	}
	return n
}

func (r *ring) add(at time.Time, accepted int, queues []Queue) {
	if r.n > 0 && at.Sub(r.samples[(r.n-1)%len(r.samples)].at) < spacing {
		return
	}
	r.samples[r.n%len(r.samples)] = newSample(at, accepted, queues)
	r.n++
}

// each calls fn with the samples since the last worker has gone, the latest first, until it returns false: what that worker had
// begun is not counted any more.
func (r *ring) each(accepted int, fn func(*sample) bool) {
	for i := r.n - 1; i >= max(0, r.n-len(r.samples)); i-- {
		s := &r.samples[i%len(r.samples)]
		if s.accepted > accepted || !fn(s) {
			return
		}
		accepted = s.accepted
	}
}

// age says how long a queue's oldest message has waited at least. Workers begin the jobs of a queue in their order: of what waited at
// a time when more waited than have been begun since, the last has not been begun.
func (r *ring) age(q *Queue, now time.Time, accepted int) {
	if !q.State.OK() || q.State.Value.Ready == 0 {
		return
	}
	r.each(accepted, func(s *sample) bool {
		waited, known := s.ready[q.Name]
		if !known || waited == 0 || q.TTL > 0 && now.Sub(s.at) >= q.TTL { // none of what waits now, or what waited then may have expired
			return false
		}
		if waited > accepted-s.accepted {
			q.Oldest = now.Sub(s.at)
		}
		return true
	})
}

// rateTime is over how long rates are taken.
const rateTime = 30 * time.Second

// rates goes back to since at most.
func (r *ring) rates(queues []Queue, now time.Time, accepted int, since time.Time) (out Rates) {
	present := newSample(now, accepted, queues)
	r.each(accepted, func(s *sample) bool {
		ago := now.Sub(s.at)
		if len(s.ready) != len(present.ready) || s.at.Before(since) {
			return false // a queue is new, or did not answer
		}
		if ago < rateTime {
			return true
		}
		out.Known = true
		out.Out = float64(accepted-s.accepted) / ago.Seconds()
		out.In = max(0, out.Out+float64(present.total()-s.total())/ago.Seconds())
		return false
	})
	if net := out.Out - out.In; out.Known && net > 0 {
		out.Empties = time.Duration(float64(present.total()) / net * float64(time.Second))
	}
	return out
}

// Worst returns the queues with what waits longest first.
func Worst(queues []Queue) []Queue {
	return slices.SortedStableFunc(slices.Values(queues), func(a, b Queue) int {
		return cmp.Or(cmp.Compare(b.Oldest, a.Oldest), cmp.Compare(b.State.Value.Ready, a.State.Value.Ready))
	})
}
