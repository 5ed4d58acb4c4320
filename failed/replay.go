package failed

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"onceover/celery"
	"onceover/internal/crash"
	"onceover/internal/redact"
	"onceover/rabbit"
)

// ReplayBatch is how many records Replay takes at most.
const ReplayBatch = 100

// replayLock is how long a record is locked for whoever replays it, should that
// process die.
const replayLock = time.Minute

// Outcome is what became of a record that was to be replayed.
type Outcome struct {
	Key  Key
	Done bool
	Over bool   // not done because nothing is to be done: it has succeeded, or the record has gone
	Busy bool   // not done because somebody else replays it, or was killed when he did
	Why  string // why not done
}

// SkippedError says why a job is not replayed, or not discarded. The record stays.
type SkippedError struct {
	Why  string
	Over bool // there is nothing to be done

	perhaps bool // the message may be in its queue all the same
	noted   bool // it is worth to be noted with the record
	busy    bool // the record is locked
}

func (e *SkippedError) Error() string { return e.Why }

// locking is why nothing is done with a record that somebody has locked.
const locking = "is being replayed by somebody else, or was by a command that was killed less than a minute ago"

func skipped(format string, args ...any) error {
	return &SkippedError{Why: fmt.Sprintf(format, args...), noted: true}
}

// Replay runs up to ReplayBatch failed jobs again: with their ids, headers and
// queues, as a first attempt, without what had expired. The results of each and of
// what would have followed it are deleted if they say FAILURE or REVOKED, so that
// its state is PENDING. edit may change a record before; nil: nothing. Records
// whose job has succeeded meanwhile, or runs, are left alone, as are those that
// somebody else replays at this moment. It may be repeated after any interruption.
// The error says what kept all of them from being replayed.
func (s *Store) Replay(ctx context.Context, keys []Key, publish Publish, edit func(*Record) error) ([]Outcome, error) {
	out := make([]Outcome, len(keys))
	all := make([]*replay, len(keys))
	for i, k := range keys {
		out[i].Key = k
		all[i] = &replay{key: k, outcome: &out[i]}
	}
	defer s.unlock(context.WithoutCancel(ctx), all)
	defer s.renew(all)()
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		for _, p := range all {
			if !p.sent {
				s.putBack(late, p)
			}
		}
	}()
	each := func(sent bool, step func(ctx context.Context, p *replay) error) error {
		var g errgroup.Group // an error of one does not end the others
		g.SetLimit(8)
		for _, p := range all {
			if p.outcome.Why != "" {
				continue
			}
			g.Go(func() error {
				err := step(ctx, p)
				var why *SkippedError
				var refused interface{ Refused() bool }
				if !sent && errors.As(err, &refused) && refused.Refused() { // a value of this job, which no waiting mends
					why = &SkippedError{Why: err.Error(), noted: true}
				}
				if why != nil || errors.As(err, &why) {
					p.outcome.Why, p.outcome.Over, p.outcome.Busy, p.sent = why.Why, why.Over, why.busy, why.perhaps
					if why.noted {
						return s.note(ctx, p.key, why.Why)
					}
					return nil
				}
				return err
			})
		}
		return g.Wait()
	}
	err := each(false, func(ctx context.Context, p *replay) error {
		// Before the look: who had it may have done all of it since.
		if err := s.lock(ctx, p); err != nil {
			return err
		}
		if err := s.prepare(ctx, p, edit); err != nil {
			return err
		}
		return s.reset(ctx, p)
	})
	if err != nil {
		return out, err
	}
	crash.Point("replay-before-publish")
	var messages []rabbit.Message
	for _, p := range all {
		if p.outcome.Why == "" {
			p.sent = true
			messages = append(messages, p.message)
		}
	}
	faults := rabbit.ErrorsOf(publish(ctx, false, messages...), len(messages))
	for _, p := range all {
		if p.sent {
			p.fault, p.sent, faults = refusal(faults[0]), !rabbit.Unsent(faults[0]), faults[1:]
		}
	}
	crash.Point("replay-before-delete")
	// A record whose message is in its queue is forgotten even if the caller has gone, and even if
	// others are not there.
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = each(true, func(_ context.Context, p *replay) error {
		if p.fault != nil {
			return p.fault
		}
		p.outcome.Done = true
		return s.forget(late, p)
	})
	return out, err
}

// forget deletes the record of a job that is in its queue.
func (s *Store) forget(ctx context.Context, p *replay) error {
	s.metrics.replayed.Inc()
	if err := s.guard.Do(ctx, func(ctx context.Context) error { return s.drop(ctx, p.key) }); err != nil {
		return fmt.Errorf("forget failed job %s, which has been replayed: %w", p.key, err)
	}
	return nil
}

// refusal is a *SkippedError if the fault is that of one message or its queue, so that others may go, else err.
func refusal(err error) error {
	var full *rabbit.FullError
	var config *rabbit.ConfigError
	switch {
	case errors.Is(err, rabbit.ErrNoConnection): // whyever: it is no fault of a message
		return err
	case errors.Is(err, rabbit.ErrUnconfirmed):
		return &SkippedError{perhaps: true, noted: true, Why: fmt.Sprintf("%v: the job is known by its id if it is there, and may be replayed again once the queue confirms", err)}
	case errors.As(err, &config):
		return skipped("%v", err)
	case errors.Is(err, rabbit.ErrNoQueue):
		return skipped("%v: start a worker that consumes it, or name another queue", err)
	case errors.As(err, &full), errors.Is(err, rabbit.ErrRefused):
		return skipped("%v: try again when there is room", err)
	case rabbit.Undeliverable(err):
		return skipped("%v", err)
	}
	return err
}

// replay is a record on its way to be run again.
type replay struct {
	key     Key
	outcome *Outcome
	held    atomic.Pointer[string] // the token of our lock, nil if it is not ours
	sent    bool                   // the message may be in its queue
	fault   error                  // why it was not published, or may not have been
	undo    []stored               // what was reset, to be put back if it is not
	request *celery.Request        // nil if the message cannot be read
	message rabbit.Message
}

// prepare makes the message that is to be published.
func (s *Store) prepare(ctx context.Context, p *replay, edit func(*Record) error) error {
	r, err := s.Get(ctx, p.key)
	switch {
	case errors.Is(err, errUnreadable):
		return skipped("%v", err)
	case err != nil:
		return err
	case r == nil:
		return &SkippedError{Why: "is no longer there: replayed or discarded meanwhile", Over: true}
	}
	if again, err := s.replayedBefore(ctx, r); err != nil || again {
		if err == nil {
			err = s.drop(ctx, p.key)
		}
		if err != nil {
			return err
		}
		return &SkippedError{Why: "was replayed by a command that was killed then, and has failed again since: that is another record", Over: true}
	}
	if edit != nil {
		if err := edit(r); err != nil {
			return err
		}
	}
	at, err := s.client.Time(ctx).Result() // not by the clock of an operator's machine: workers compare it with theirs
	if err != nil {
		at = time.Now() // the user may not ask
	}
	if p.message, p.request, err = again(r, at); err != nil {
		return skipped("%v", err)
	}
	return nil
}

// replayedBefore reports whether the record of the next replay is there: then this one was replayed, and whoever did it died before it
// was forgotten.
func (s *Store) replayedBefore(ctx context.Context, r *Record) (bool, error) {
	if r.ID == "" {
		return false, nil
	}
	next := *r
	next.Replays++
	for _, k := range []Key{next.key(), next.key() + Key("~"+r.callSum())} { // see put
		there, err := s.Get(ctx, k)
		if err != nil && !errors.Is(err, errUnreadable) {
			return false, err
		}
		if err == nil && there != nil && sameCall(there, r) {
			return true, nil
		}
	}
	return false, nil
}

// lock keeps others from replaying the record.
func (s *Store) lock(ctx context.Context, p *replay) error {
	token := rand.Text()
	locked, err := s.client.SetNX(ctx, lockKey(p.key), token, s.times.lock).Result()
	switch {
	case err != nil:
		return err
	case !locked:
		return &SkippedError{busy: true, Why: locking}
	}
	p.held.Store(&token)
	return nil
}

// renew keeps the locks, however long the broker takes, until stop is called.
func (s *Store) renew(all []*replay) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() {
		tick := time.NewTicker(s.times.lock / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			for _, p := range all {
				if token := p.held.Load(); token != nil {
					prolong.Run(ctx, s.client, []string{lockKey(p.key)}, *token, s.times.lock.Milliseconds())
				}
			}
		}
	})
	return func() {
		cancel()
		loop.Wait()
	}
}

// prolong renews a lock that is still ours.
//
// KEYS: the lock. ARGV: its token, its time in milliseconds.
var prolong = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
`)

// release deletes a lock that is still ours.
//
// KEYS: the lock. ARGV: its token.
var release = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
`)

// unlock gives the locks back. Those that cannot be given back run out.
func (s *Store) unlock(ctx context.Context, all []*replay) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	pipe := s.client.Pipeline()
	for _, p := range all {
		if token := p.held.Load(); token != nil {
			release.Eval(ctx, pipe, []string{lockKey(p.key)}, *token)
		}
	}
	if pipe.Len() > 0 {
		if _, err := pipe.Exec(ctx); err != nil {
			s.log.Debug("replayed jobs stay locked for a minute", zap.Error(err))
		}
	}
}

// reset makes the state of the job, and of what follows it, PENDING.
func (s *Store) reset(ctx context.Context, p *replay) error {
	req := p.request
	if req == nil {
		return nil
	}
	state, err := s.resetState(ctx, p, req.ID)
	if err != nil {
		return err
	}
	if why := Blocks(state); why != "" {
		return &SkippedError{Why: why, Over: state == celery.Success}
	}
	if err := s.client.Unlink(ctx, revokedKey(req.ID)).Err(); err != nil {
		return fmt.Errorf("forget that job %s was revoked: %w", req.ID, err)
	}
	for _, id := range req.FollowerIDs() {
		if _, err := s.resetState(ctx, p, id); err != nil {
			return err
		}
	}
	if s.cfg.BeforeReplay == nil {
		return nil
	}
	return s.cfg.BeforeReplay(ctx, req)
}

// Blocks says why a job with this state in DB0 is not replayed, "" if it can be.
func Blocks(state celery.State) string {
	switch state {
	case celery.Success:
		return "has succeeded meanwhile; it can be discarded"
	case celery.Started, celery.Retried:
		return "runs again already: its state is " + string(state)
	}
	return ""
}

// resetState makes the state of a task PENDING if it is FAILURE or REVOKED, and
// returns what it was.
func (s *Store) resetState(ctx context.Context, p *replay, id string) (celery.State, error) {
	state, doc, err := s.results.Reset(ctx, id)
	if err != nil || state == celery.Success {
		return state, err
	}
	if doc != nil {
		p.undo = append(p.undo, stored{id, doc})
	}
	// Tasks whose result is not stored have a mark.
	mark, err := s.marks.ResetMarks(ctx, id)
	if state == "" {
		state = mark
	}
	return state, err
}

// stored is a result as it was.
type stored struct {
	id  string
	doc []byte
}

// putBack stores again what was reset, where nothing is stored meanwhile.
func (s *Store) putBack(ctx context.Context, p *replay) {
	for _, was := range p.undo {
		if err := s.results.PutBack(ctx, was.id, was.doc); err != nil {
			s.log.Warn("the failure of a job that was not replayed is not stored any more", zap.String("task_id", was.id), zap.Error(err))
		}
	}
}

// again returns the message with which a failed job is run once more from a time on.
func again(r *Record, at time.Time) (rabbit.Message, *celery.Request, error) {
	m := r.Message.Clone()
	req, err := m.Request()
	if err == nil && bytes.HasPrefix(bytes.TrimSpace(m.Body), []byte("{")) {
		// Protocol 1 has retries, ETA and expiry in the body, whatever headers it has.
		req.Retries, req.ETA, req.Expires = 0, time.Time{}, time.Time{}
		if err := m.SetRequest(req); err != nil {
			return m, nil, fmt.Errorf("rewrite the message of job %s: %w", req.ID, err)
		}
	}
	for name, value := range map[string]any{"retries": int32(0), "eta": nil, "expires": nil} {
		if _, ok := m.Headers[name]; ok {
			m.Headers[name] = value
		}
	}
	m.Properties.Expiration = ""
	m.ForgetDeaths()
	m.Own = rabbit.Own{
		Again: true, Replays: r.Replays + 1, Replayed: at, First: r.First,
		Previous: shorten(r.Error+": "+r.Text, 300),
	}
	return m, req, nil
}

// SetArgument replaces an argument of the job's call, see celery.Request.SetArgument.
func (r *Record) SetArgument(name string, value []byte, parameters []string) error {
	m := r.Message.Clone()
	req, err := m.Request()
	if err != nil {
		return fmt.Errorf("the message of job %s cannot be read, so no argument of it can be set: %w", r.ID, err)
	}
	if err := req.SetArgument(name, value, parameters); err != nil {
		return err
	}
	if err := m.SetRequest(req); err != nil {
		return fmt.Errorf("rewrite the message of job %s: %w", r.ID, err)
	}
	r.Message = m
	r.Args, r.Kwargs = shorten(redact.Text(req.ArgsText()), 1<<10), shorten(redact.Text(req.KwargsText()), 1<<10)
	return nil
}
