package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
)

// isRun is a Lua function: it reports whether a lease is that of a run, which may not know that
// it goes as alive.
const isRun = `
local function isRun(lease, run) return lease == run or lease == 'alive ' .. run end
`

// LeaseTTL is how long an id stays taken by a run that is not renewed.
const LeaseTTL = 60 * time.Second

// Begin takes the id for a run and returns what is on record, in one round trip. run is a name
// that no other run has. holder is who has the id now: it contains run if this run has, which
// goes by that name from now on; else it is another one that is at work. from names a run, as
// holder did before, from which the id is taken all the same, unless it has said since that it is
// alive ([Ledger.Alive]); "" for none.
//
// earlier is the digest of an end that is of an earlier message with the id, [celery.AnyEnd], or "" for
// none. If that is what is on record, the name of the run says so: a redelivery of this message
// is not taken for ended therefore. After an end whose message may come again the run is alive from
// the start: that message must not take the id from it.
//
// The id is taken before the record is read. An end that is recorded before its lease is
// released is seen therefore by whoever gets the lease next.
func (l *Ledger) Begin(ctx context.Context, taskID, run, from, earlier string) (stored celery.Stored, holder string, err error) {
	begin := l.begin
	if _, cluster := l.client.(*redis.ClusterClient); cluster {
		begin = l.beginApart
	}
	holder, raw, err := begin(ctx, taskID, run, from, earlier)
	if err != nil {
		return celery.Stored{}, "", fmt.Errorf("begin a run of task %s: %w", taskID, err)
	}
	return l.stored(taskID, raw), holder, nil
}

// beginScript takes a lease that is free, that of a message that has ended, or that of a run which
// it is to be taken from.
//
// KEYS: the lease, and the document if it is on the same server. ARGV: run, the run from which it
// is taken, TTL in seconds, the digest of an end of an earlier message.
// Returns who has the lease now, and the document.
var beginScript = redis.NewScript(`
local run, from, ttl, earlier = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local has, doc = redis.call('GET', KEYS[1]), KEYS[2] and redis.call('GET', KEYS[2])
local name = has and string.match(string.gsub(has, '^alive ', ''), '^%S+')
if name == run then
	run = has -- by a try whose answer was lost
elseif not has or has == 'ended' or has == 'acknowledged' or has == from and string.sub(has, 1, 6) ~= 'alive ' then
	local digest = doc and earlier ~= '' and redis.sha1hex(doc)
	if digest and (earlier == 'any' or earlier == digest) then run = run .. ' ' .. digest end
	if has == 'ended' then run = 'alive ' .. run end
else
	return {has, doc or ''}
end
redis.call('SET', KEYS[1], run, 'EX', ttl)
return {run, doc or ''}
`)

func (l *Ledger) begin(ctx context.Context, taskID, run, from, earlier string) (holder, raw string, err error) {
	keys := []string{l.format.LeaseKey(taskID), l.format.DocumentKey(taskID)}
	answer, err := l.guard.Run(ctx, beginScript, keys, run, from, int(LeaseTTL.Seconds()), earlier)
	if err != nil {
		return "", "", err
	}
	reply, err := answer.StringSlice()
	if err == nil && len(reply) != 2 {
		err = fmt.Errorf("script returned %d values, want 2", len(reply))
	}
	if err != nil {
		return "", "", err
	}
	return reply[0], reply[1], nil
}

// beginApart is begin on a cluster, where a lease and its document may be on two servers. A run
// that dies between its steps leaves the end of an earlier message unmarked.
func (l *Ledger) beginApart(ctx context.Context, taskID, run, from, earlier string) (holder, raw string, err error) {
	lease := l.format.LeaseKey(taskID)
	answer, err := l.guard.Run(ctx, beginScript, []string{lease}, run, from, int(LeaseTTL.Seconds()), "")
	if err != nil {
		return "", "", err
	}
	reply, err := answer.StringSlice()
	if err != nil {
		return "", "", err
	}
	holder = reply[0]
	stored, err := l.Look(ctx, taskID)
	if err != nil {
		return "", "", err
	}
	raw = stored.Raw
	if digest := stored.Digest(); strings.HasSuffix(holder, run) && digest != "" && (earlier == celery.AnyEnd || earlier == digest) {
		named := holder + " " + digest
		return named, raw, l.change(ctx, taskID, holder, named, LeaseTTL)
	}
	return holder, raw, nil
}

// renew lets a lease last longer that is the run's.
//
// KEYS: the lease. ARGV: run, TTL in seconds.
const renew = isRun + `
if isRun(redis.call('GET', KEYS[1]), ARGV[1]) then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return 1
`

// Renew lets the leases that the runs still have last LeaseTTL from now, by task id, in one round
// trip.
//
// A lease that another run has got, or that has vanished, stays as it is. The run of a vanished
// one may have been released while this call was on its way. Or Redis was away for longer than
// LeaseTTL, or evicted the lease: then a second run of the task may begin, and as always one of
// the two records the end.
func (l *Ledger) Renew(ctx context.Context, runs map[string]string) error {
	if len(runs) == 0 {
		return nil
	}
	pipe := l.client.Pipeline()
	for taskID, run := range runs {
		// Not EVALSHA: in a pipeline nobody would answer a NOSCRIPT.
		pipe.Eval(ctx, renew, []string{l.format.LeaseKey(taskID)}, run, int(LeaseTTL.Seconds()))
	}
	if err := l.guard.Send(ctx, pipe.Cmds()...); err != nil {
		return fmt.Errorf("renew the leases of %d tasks: %w", len(runs), err)
	}
	return nil
}

// release deletes a lease that is the run's.
//
// KEYS: the lease. ARGV: run.
var release = redis.NewScript(isRun + `
if isRun(redis.call('GET', KEYS[1]), ARGV[1]) then redis.call('DEL', KEYS[1]) end
return 1
`)

// Release gives the id back if run still has it.
func (l *Ledger) Release(ctx context.Context, taskID, run string) error {
	if _, err := l.guard.Run(ctx, release, []string{l.format.LeaseKey(taskID)}, run); err != nil {
		return fmt.Errorf("release task %s: %w", taskID, err)
	}
	return nil
}

// Holder returns the name of the run that has the id at this moment, "" for none.
func (l *Ledger) Holder(ctx context.Context, taskID string) (string, error) {
	get := redis.NewStringCmd(ctx, "get", l.format.LeaseKey(taskID))
	err := l.guard.Send(ctx, get)
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("look whether task %s is taken: %w", taskID, err)
	}
	if lease := get.Val(); err == nil && atWork(lease) {
		return lease, nil
	}
	return "", nil
}
