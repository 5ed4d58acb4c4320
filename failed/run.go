package failed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/internal/crash"
	"onceover/rabbit"
)

// Publish publishes messages to their queues, through the default exchange, and
// returns once the broker has confirmed each. A queue that is missing is created
// if create is set, else it is an error that names it.
type Publish func(ctx context.Context, create bool, messages ...rabbit.Message) error

// Pace of the servers of asynq.
const (
	taskTimeout   = 60 * time.Second // of one publication
	checkQueues   = 3 * time.Second  // between looks for what others have put into queues
	keepServing   = 5 * time.Second  // a queue that has nothing to do any more
	pollQueue     = 250 * time.Millisecond
	pollScheduled = time.Second // the least that asynq can
)

// Run publishes what is due and what is to run again, and does the periodic work,
// until ctx ends. Any number of processes may do so beside each other. It returns
// when all of it has stopped.
func (s *Store) Run(ctx context.Context, publish Publish) {
	// What has begun to be published when ctx ends may end well.
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	// A server of asynq asks Redis ten times a second, and takes a moment to end. Each is there while its queue has something to do.
	type serving struct {
		*asynq.Server
		last time.Time // when there was something
	}
	servers := map[string]*serving{}
	logger := newQuiet(s.log.WithOptions(zap.AddCallerSkip(1)))
	serve := func(queue string) {
		if servers[queue] != nil {
			servers[queue].last = time.Now()
			return
		}
		concurrency, handler := 20, func(ctx context.Context, t *asynq.Task) error { return s.deliver(ctx, t, publish) }
		if queue == QueueUpkeep {
			concurrency, handler = 1, s.upkeep
		}
		server := asynq.NewServerFromRedisClient(s.client, asynq.Config{
			Queues:                   map[string]int{queue: 1},
			Concurrency:              concurrency,
			BaseContext:              func() context.Context { return base },
			TaskCheckInterval:        pollQueue,
			DelayedTaskCheckInterval: pollScheduled,
			JanitorInterval:          time.Second, // it is there for some seconds only
			RetryDelayFunc:           retryDelay,
			// A job that cannot be published yet has not failed.
			IsFailure:       func(error) bool { return queue == QueueUpkeep },
			ShutdownTimeout: 5 * time.Second,
			Logger:          logger,
			LogLevel:        asynq.WarnLevel,
		})
		if err := server.Start(asynq.HandlerFunc(handler)); err != nil { // only if it was started before
			s.log.Error("queue not served", zap.String("queue", queue), zap.Error(err))
			return
		}
		servers[queue] = &serving{server, time.Now()}
	}

	var others sync.WaitGroup
	others.Go(func() { s.watch(ctx) })
	others.Go(func() { s.tick(ctx) })
	others.Go(func() { s.carry(ctx) })
	tick := time.NewTicker(checkQueues)
	defer tick.Stop()
	for ctx.Err() == nil {
		busy, err := s.busy(ctx)
		if err != nil {
			s.log.Debug("queues not looked at", zap.Error(err))
		}
		for _, q := range busy {
			serve(q)
		}
		for q, server := range servers {
			if err == nil && time.Since(server.last) > keepServing {
				delete(servers, q)
				others.Go(server.Shutdown)
			}
		}
		select {
		case <-tick.C:
		case <-s.work:
		case <-ctx.Done():
		}
	}
	for _, server := range servers {
		others.Go(server.Shutdown)
	}
	others.Wait()
}

// busy returns the queues in which something is to be done, now or later. It makes one round trip.
func (s *Store) busy(ctx context.Context) (busy []string, err error) {
	queues := []string{QueueDelay, QueueUpkeep}
	p := s.client.Pipeline()
	work := make([]*redis.IntCmd, len(queues))
	for i, q := range queues {
		key := "asynq:{" + q + "}:"
		work[i] = p.Exists(ctx, key+"pending", key+"active", key+"scheduled", key+"retry")
	}
	if _, err := p.Exec(ctx); err != nil {
		return nil, err
	}
	for i, q := range queues {
		if work[i].Val() > 0 {
			busy = append(busy, q)
		}
	}
	return busy, nil
}

// hasWork has Run look at the queues at once.
func (s *Store) hasWork() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// retryDelay is the pause before a task is tried again that could not be published. It grows with the time for which its destination has
// been late: each attempt writes the task anew. asynq counts no attempts that are no failures.
func retryDelay(_ int, err error, _ *asynq.Task) time.Duration {
	var late *lateError
	switch {
	case errors.Is(err, asynq.ErrLeaseExpired):
		return 0 // whoever had it died
	case errors.As(err, &late):
		return max(2*time.Second, min(time.Since(late.since)/2, 30*time.Second))
	}
	return 2 * time.Second
}

// deliver publishes a parked message that is due.
func (s *Store) deliver(ctx context.Context, t *asynq.Task, publish Publish) error {
	key, _ := asynq.GetTaskID(ctx)
	j, err := s.read(ctx, QueueDelay, key, t.Payload())
	if errors.Is(err, errNotOurs) || errors.Is(err, errUnreadable) {
		s.log.Error("parked job cannot be published", zap.String("key", key), zap.Error(err))
		return fmt.Errorf("%w: %w", err, asynq.SkipRetry) // has it archived, where asynq's tools show it
	}
	if err != nil {
		return err
	}
	revoked, err := s.client.Exists(ctx, revokedKey(j.ID)).Result()
	if err != nil {
		return fmt.Errorf("look whether job %s is revoked: %w", j.ID, err)
	}
	if revoked > 0 {
		j.Record.Message.Own.Revoked = true
	}
	now, err := s.client.Exists(ctx, nowKey(key)).Result()
	if err != nil {
		return fmt.Errorf("look whether job %s is to run now: %w", j.ID, err)
	}
	if now > 0 {
		if err := runNow(&j.Record); err != nil {
			s.log.Warn("parked job that was to run now waits for its time", zap.String("task_id", j.ID), zap.Error(err))
		}
	}
	crash.Point("due-before-publish")
	if err := s.confirms.publish(ctx, s.times.confirm, publish, j.Record.Message); err != nil {
		if late := (*lateError)(nil); !errors.As(err, &late) && s.isNews(err) {
			s.log.Warn("parked job is due and not published, trying again", zap.String("task_id", j.ID), zap.Error(err))
		}
		return fmt.Errorf("publish job %s, which is due: %w", j.ID, err)
	}
	s.isNews(nil)
	crash.Point("due-after-publish")
	return s.dropPieces(ctx, key, j)
}

// confirms are the destinations that do not confirm messages in time. One message at a time tries such a destination, so that those for
// others need not wait for it.
type confirms struct {
	mu   sync.Mutex
	late map[string]*lateness // by destination
}

// lateness is that of a destination.
type lateness struct {
	since time.Time
	tried bool // by a message, at this moment
}

// lateError says that a message waits for another one to its destination.
type lateError struct{ since time.Time }

func (e *lateError) Error() string {
	return fmt.Sprintf("its destination has not confirmed messages in time since %s: one of the others that are due tries it", e.since.UTC().Format(time.RFC3339))
}

// publish publishes a message, within limit unless its destination is known to be late: then it has all of ctx, as a broker that is only
// slow would get a copy with each attempt.
func (c *confirms) publish(ctx context.Context, limit time.Duration, publish Publish, m rabbit.Message) error {
	to := m.Destination()
	tries, err := c.enter(to)
	if err != nil {
		return err
	}
	if !tries {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("the broker did not take it within %v", limit))
		defer cancel()
	}
	began := time.Now()
	err = publish(ctx, true, m)
	c.leave(to, tries, errors.Is(err, rabbit.ErrUnconfirmed) || err == nil && time.Since(began) >= limit)
	return err
}

// enter reports whether the message tries a destination that is late. The error is a *lateError if another one does.
func (c *confirms) enter(to string) (tries bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.late[to]
	switch {
	case l == nil:
		return false, nil
	case l.tried:
		return false, &lateError{l.since}
	}
	l.tried = true
	return true, nil
}

func (c *confirms) leave(to string, tried, late bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.late[to]
	switch {
	case !late:
		delete(c.late, to)
	case l == nil:
		if c.late == nil {
			c.late = map[string]*lateness{}
		}
		c.late[to] = &lateness{since: time.Now()}
	case tried:
		l.tried = false
	}
}

// nowKey is there for a parked job that an operator has asked to run now, for a day: its message may be published more than once.
func nowKey(key string) string { return prefix + "now:" + key }

const nowTTL = 24 * time.Hour

// runNow takes the time out of a message for which its worker would park it again.
func runNow(r *Record) error {
	m := r.Message.Clone()
	req, err := m.Request()
	if err != nil {
		return err
	}
	req.ETA = time.Time{}
	if err := m.SetRequest(req); err != nil {
		return err
	}
	r.Message = m
	return nil
}

// isNews tells whether the error is another than the last, which many jobs may have.
func (s *Store) isNews(err error) bool {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	is := text != s.fault
	s.fault = text
	return is
}

// revokedTTL is how long a revoked id is remembered for jobs that are parked.
const revokedTTL = 30 * 24 * time.Hour

func revokedKey(id string) string { return "onceover:revoked:" + id }

// Revoke has parked jobs revoked: at once, as far as their tasks are found by what is
// usual, else when they are due.
func (s *Store) Revoke(ctx context.Context, ids []string) error {
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, id := range ids {
			p.Set(ctx, revokedKey(id), "1", revokedTTL)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note %d revoked jobs: %w", len(ids), err)
	}
	for _, id := range ids {
		for retries := range 4 {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			err := s.inspector.RunTask(QueueDelay, parkKey(id+":0", retries, 0))
			if err == nil {
				break
			}
			if !gone(err) {
				s.log.Debug("revoked job not brought forward", zap.String("task_id", id), zap.Error(err))
			}
		}
	}
	return nil
}

// processName is how asynq lists this process.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// First tells whether this process is the first of those that run the store, so
// that one of them can answer for all.
func (s *Store) First(ctx context.Context) (bool, error) {
	servers, err := s.inspector.Servers()
	if err != nil {
		return false, err
	}
	me := processName()
	found := false
	for _, server := range servers {
		if server.Queues[QueueDelay] == 0 {
			continue
		}
		name := fmt.Sprintf("%s/%d", server.Host, server.PID)
		if name < me {
			return false, nil
		}
		found = found || name == me
	}
	return found, ctx.Err()
}

// Parked returns the messages of up to limit parked jobs that are due next.
func (s *Store) Parked(ctx context.Context, limit int) ([]rabbit.Message, error) {
	tasks, err := s.inspector.ListScheduledTasks(QueueDelay, asynq.PageSize(limit))
	if err != nil {
		if gone(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("list parked jobs: %w", err)
	}
	out := make([]rabbit.Message, 0, len(tasks))
	for _, t := range tasks {
		j, err := s.read(ctx, QueueDelay, t.ID, t.Payload)
		if err != nil {
			continue // deliver tells of it
		}
		out = append(out, j.Record.Message)
	}
	return out, nil
}
