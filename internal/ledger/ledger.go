package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/internal/redisretry"
)

// Format is how a ledger writes its documents.
type Format struct {
	DocumentKey func(taskID string) string
	LeaseKey    func(taskID string) string
	TTL         time.Duration // of a document
	Publish     bool          // each document on the channel of its key's name, as Celery does

	// Write returns the document of m. Documents of two runs that ended differ.
	Write func(m celery.Meta) (string, error)
	// Read returns what a document says, nil if it is not in this format.
	Read func(taskID, raw string) *celery.Meta
	// State is the body of a Lua function: of doc it returns the state, "" if doc is not in
	// this format, and nil if Lua cannot read it, so that Read decides.
	State string
}

// Ledger records the ends and the runs of tasks. While Redis is away each method waits until
// ctx ends. Safe for concurrent use.
type Ledger struct {
	format Format
	client redis.UniversalClient
	guard  *redisretry.Guard
	record *redis.Script
}

// New returns a ledger on the database that client has selected.
func New(client redis.UniversalClient, guard *redisretry.Guard, f Format) *Ledger {
	return &Ledger{format: f, client: client, guard: guard, record: redis.NewScript(
		isRun + "local function state(doc)\n" + f.State + "\nend\n" + recordScript)}
}

// Look returns what is on record of a task.
func (l *Ledger) Look(ctx context.Context, taskID string) (celery.Stored, error) {
	get := redis.NewStringCmd(ctx, "get", l.format.DocumentKey(taskID))
	switch err := l.guard.Send(ctx, get); {
	case errors.Is(err, redis.Nil):
		return celery.Stored{}, nil
	case err != nil:
		return celery.Stored{}, fmt.Errorf("look what is on record of task %s: %w", taskID, err)
	}
	return l.stored(taskID, get.Val()), nil
}

func (l *Ledger) stored(taskID, raw string) celery.Stored {
	if raw == "" {
		return celery.Stored{}
	}
	return celery.Stored{Raw: raw, Meta: l.format.Read(taskID, raw)}
}

// recordScript stores a document, see [Ledger.Record] and [Ledger.End].
//
// KEYS: the document, and the lease that ends with it, if one does
// ARGV: document, what was on record when the run began, "" for nothing, the state in that,
// "1" for RETRY, TTL in seconds, "1" to publish, the run whose lease ends, "1" for FAILURE and REVOKED
// Returns nil if the end is this run's, else what is on record.
//
// PUBLISH is repeated when the document is there already: it may have been stored by a try
// whose PUBLISH was refused.
const recordScript = `
local doc, since, was, retry = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local stored = redis.call('GET', KEYS[1])
if stored ~= doc then
	if stored and stored == since and was == 'SUCCESS' then
		doc = nil -- it stays
	elseif stored and stored == since then
	elseif retry then
		if stored or since ~= '' then return stored end
	elseif stored then
		local now = state(stored)
		if not now or now == 'SUCCESS' or now == 'FAILURE' or now == 'REVOKED' then return stored end
		if now == 'RETRY' and ARGV[8] == '1' then return stored end
	end
	if doc then redis.call('SET', KEYS[1], doc, 'EX', ARGV[5]) end
end
if doc and ARGV[6] == '1' then redis.call('PUBLISH', KEYS[1], doc) end
if KEYS[2] and isRun(redis.call('GET', KEYS[2]), ARGV[7]) then redis.call('DEL', KEYS[2]) end
return false
`

// Record stores m unless another run has ended the task since: then it stores nothing and
// returns what that run stored. theirs is the zero value if the end is this run's.
//
// since is what was on record when this run began ([Ledger.Begin]). An end that stands there is
// one of an earlier life of the id: FAILURE and REVOKED are overwritten; SUCCESS stays, as in
// Celery (celery/backends/base.py, store_result), and m counts as recorded.
//
// FAILURE and REVOKED are not stored over a RETRY that was not there since: another run has retried the task, which goes on. That comes
// back.
//
// RETRY is stored only if exactly since is still on record, since the next attempt is published
// first and may have begun or ended: else what is on record comes back. A run that recorded
// STARTED passes as since what [Ledger.Look] returned before it published the next attempt.
func (l *Ledger) Record(ctx context.Context, m celery.Meta, since celery.Stored) (theirs celery.Stored, err error) {
	return l.recordAs(ctx, "", m, since)
}

// End is Record and, if the end is this run's, [Ledger.Release] in the same step, for an end after which nothing is left for the run to
// do that another one may not do too. released is false on a cluster, where the two may be on different servers.
func (l *Ledger) End(ctx context.Context, run string, m celery.Meta, since celery.Stored) (theirs celery.Stored, released bool, err error) {
	if _, cluster := l.client.(*redis.ClusterClient); cluster {
		run = ""
	}
	theirs, err = l.recordAs(ctx, run, m, since)
	return theirs, run != "" && err == nil && theirs.Raw == "", err
}

// recordAs is Record for a run whose lease ends with it; "" for none.
func (l *Ledger) recordAs(ctx context.Context, run string, m celery.Meta, since celery.Stored) (theirs celery.Stored, err error) {
	doc, err := l.format.Write(m)
	if err != nil {
		return celery.Stored{}, fmt.Errorf("encode %s of task %s: %w", m.Status, m.TaskID, err)
	}
	for {
		raw, err := l.put(ctx, run, m, doc, since)
		if errors.Is(err, redis.Nil) {
			return celery.Stored{}, nil
		}
		if err != nil {
			return celery.Stored{}, fmt.Errorf("store %s of task %s: %w", m.Status, m.TaskID, err)
		}
		theirs = l.stored(m.TaskID, raw)
		if theirs.Ended() || m.Status == celery.Retried || bad(m.Status) && theirs.Meta != nil && theirs.Meta.Status == celery.Retried {
			return theirs, nil
		}
		since = theirs // no end, which Lua could not see: replaced if it still is there
	}
}

// put is one run of the script. It returns redis.Nil, or what another run stored.
func (l *Ledger) put(ctx context.Context, run string, m celery.Meta, doc string, since celery.Stored) (raw string, err error) {
	was := celery.State("")
	if since.Meta != nil {
		was = since.Meta.Status
	}
	keys := []string{l.format.DocumentKey(m.TaskID)}
	if run != "" {
		keys = append(keys, l.format.LeaseKey(m.TaskID))
	}
	answer, err := l.guard.Run(ctx, l.record, keys, doc, since.Raw, string(was),
		flag(m.Status == celery.Retried), int(l.format.TTL.Seconds()), flag(l.format.Publish), run, flag(bad(m.Status)))
	if err != nil {
		return "", err
	}
	return answer.Text()
}

// bad reports whether a state is an end that does not stand over a RETRY.
func bad(s celery.State) bool { return s == celery.Failure || s == celery.Revoked }

func flag(set bool) string {
	if set {
		return "1"
	}
	return "0"
}
