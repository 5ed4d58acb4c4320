package worker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"onceover/celery"
	"onceover/rabbit"
)

// Ledger is where the ends of tasks are recorded, and which run is at work on each: results.Store
// for tasks whose result is stored, progress.Store for the others.
type Ledger interface {
	Look(ctx context.Context, taskID string) (celery.Stored, error)
	Begin(ctx context.Context, taskID, run, from, earlier string) (stored celery.Stored, holder string, err error)
	Renew(ctx context.Context, runs map[string]string) error
	Release(ctx context.Context, taskID, run string) error
	Holder(ctx context.Context, taskID string) (string, error)
	Past(ctx context.Context, taskID string, again bool, since string) (stored celery.Stored, over bool, err error)
	Alive(ctx context.Context, taskID, run string) (named string, err error)
	Ended(ctx context.Context, taskID, run string) error
	Acknowledged(ctx context.Context, taskID string) error
	Record(ctx context.Context, m celery.Meta, since celery.Stored) (theirs celery.Stored, err error)
	End(ctx context.Context, run string, m celery.Meta, since celery.Stored) (theirs celery.Stored, released bool, err error)
}

// book is a ledger in the order of an ending's steps: Celery's result is there before its chord
// and its callers go on, a completion mark stands for a job that needs nothing any more.
type book interface {
	Ledger
	// Result records an end, or another state, before what follows from it is done, and returns
	// what another run has recorded in its place. run is one that gives the id back with its end, "" for
	// none, and released says that it has.
	Result(ctx context.Context, run string, m celery.Meta, since celery.Stored, replyTo string) (theirs celery.Stored, released bool, err error)
	// Done records an end after that.
	Done(ctx context.Context, m celery.Meta, since celery.Stored) error
}

// stored is the book of tasks whose results are stored.
type stored struct{ Ledger }

func (s stored) Result(ctx context.Context, run string, m celery.Meta, since celery.Stored, _ string) (theirs celery.Stored, released bool, err error) {
	if run != "" {
		return s.End(ctx, run, m, since)
	}
	theirs, err = s.Record(ctx, m, since)
	return theirs, false, err
}

func (stored) Done(context.Context, celery.Meta, celery.Stored) error { return nil }

// marked is the book of tasks whose results are not stored: nobody wants them, or they are sent
// to the caller's queue (Celery's rpc://).
type marked struct {
	Ledger
	send func(ctx context.Context, m celery.Meta, replyTo string) error
}

func (b marked) Result(ctx context.Context, _ string, m celery.Meta, _ celery.Stored, replyTo string) (celery.Stored, bool, error) {
	return celery.Stored{}, false, b.send(ctx, m, replyTo)
}

func (b marked) Done(ctx context.Context, m celery.Meta, since celery.Stored) error {
	if !m.Status.Final() && m.Status != celery.Retried {
		return nil
	}
	theirs, err := b.Record(ctx, m, since)
	if err == nil && m.Status != celery.Retried && theirs.Meta != nil && theirs.Meta.Status == celery.Retried {
		_, err = b.Record(ctx, m, theirs) // of the attempt before, which was slow to record it
	}
	return err
}

// ledgerOf returns the ledger in which a book writes.
func ledgerOf(b book) Ledger {
	switch b := b.(type) {
	case stored:
		return b.Ledger
	case marked:
		return b.Ledger
	}
	return nil
}

// bookOf returns the book of a request.
func (w *Worker) bookOf(req *celery.Request) book {
	switch {
	case req.IgnoreResult:
		return marked{w.marks, func(context.Context, celery.Meta, string) error { return nil }}
	case w.cfg.RPCResults:
		return marked{w.marks, w.reply}
	default:
		return stored{w.results}
	}
}

// reply sends a result to the queue of the client that waits for it, which may have gone
// (celery/backends/rpc.py, store_result).
func (w *Worker) reply(ctx context.Context, m celery.Meta, replyTo string) error {
	if replyTo == "" {
		return nil
	}
	body, err := celery.MarshalJSON(m)
	if err != nil {
		return err
	}
	err = w.outbox.publish(ctx, confirmLimit, rabbit.Message{RoutingKey: replyTo, Optional: true, Body: body, Properties: celery.Properties{
		ContentType: celery.ContentTypeJSON, ContentEncoding: "utf-8", CorrelationID: m.TaskID, DeliveryMode: 1,
	}})
	unfit := errors.Is(err, rabbit.ErrUnconfirmed) || errors.Is(err, rabbit.ErrRefused) || rabbit.Undeliverable(err) && !rabbit.Forbidden(err)
	if unfit && ctx.Err() == nil { // a queue of the caller's own cannot hold the job for ever
		w.log.Warn("a result was sent to its caller's queue, which does not take or confirm it", zap.String("task_id", m.TaskID), zap.String("queue", replyTo), zap.Error(err))
		return nil
	}
	return err
}

// renewEvery is how often the ids of the jobs at work are taken once more. It is well below the
// time for which they stay taken.
const renewEvery = 15 * time.Second

// renewLeases keeps the ids that jobs have taken, until ctx ends.
func (w *Worker) renewLeases(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, l := range []Ledger{w.results, w.marks} {
			ctx, cancel := context.WithTimeout(ctx, renewEvery)
			if err := l.Renew(ctx, w.leased.leases(l)); err != nil {
				w.log.Debug("leases not renewed", zap.Error(err)) // the guard tells of the outage
			}
			cancel()
		}
	}
}
