package progress

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/internal/redisretry"
)

// Tracker reports the progress of one run of a job. Safe for concurrent use.
//
// Other runs of the job may report at the same time, each by a tracker of its own: each write is
// one step in Redis that sees what is shown. Once the end is shown, progress 100 or the stage
// "failed", a report changes nothing, and is no error. Only [Tracker.Finish] and [Tracker.Fail],
// the first report of a run that is not resumed, and [Store.Reset] replace an end.
//
// Nobody waits for a report. Reports are written in their order, and before an end that comes after
// them; of several that leave for Redis together the last one is written. While Redis is away the last one
// waits for it.
type Tracker struct {
	store         *Store
	jobID, taskID string
	resumed       bool

	mu    sync.Mutex
	fresh bool // the run is not resumed, and has not reported
	floor int  // the number last shown
	last  *redisretry.Posting
	mode  string // of last
}

// Track returns the tracker of one run of a job, by the task of this id. With resume, for a run that follows an
// interrupted or failed one, it goes on from the number that is shown. Without, its first report
// replaces whatever is shown, unless a run of the task that follows it has reported before: it was cut off from Redis then.
// taskID may be empty if nothing of that is to be known. The error is always nil.
func (s *Store) Track(_ context.Context, jobID, taskID string, resume bool) (*Tracker, error) {
	return &Tracker{store: s, jobID: jobID, taskID: taskID, resumed: resume && taskID != "", fresh: !resume}, nil
}

// Report shows the stage, and does not wait for that. progress counts from 0 to 100; a number below the one
// last shown is raised to it. After the end of the job it does nothing. The error is that ctx has ended: then nothing is shown.
func (t *Tracker) Report(ctx context.Context, progress int, stage, message string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	later, err := t.arguments(modeReport, Update{Progress: progress, Stage: stage, Message: message})
	if err != nil {
		return err
	}
	if t.last != nil && t.store.guard.Swap(t.last, show, t.keys(), as(t.mode, later), later) {
		return nil
	}
	t.mode = modeReport
	if t.fresh {
		t.mode, t.fresh = modeBegin, false
	}
	t.last = t.store.guard.Post(show, t.keys(), as(t.mode, later), later)
	return nil
}

// Show is Report that waits until the stage is shown. While Redis is away it waits for it, until ctx ends.
func (t *Tracker) Show(ctx context.Context, progress int, stage, message string) error {
	t.mu.Lock()
	mode := modeReport
	if t.fresh {
		mode, t.fresh = modeBegin, false
	}
	t.mu.Unlock()
	return t.write(ctx, mode, Update{Progress: progress, Stage: stage, Message: message})
}

// Finish shows that the job has succeeded, whatever is shown: the number is 100. It is for the run
// whose result was recorded, once that can be read.
func (t *Tracker) Finish(ctx context.Context, stage, message string) error {
	return t.write(ctx, modeFinish, Update{Progress: 100, Stage: stage, Message: message})
}

// Fail shows that the job has failed, whatever is shown: the number stays, the stage is "failed".
// It is for the run whose failure was recorded.
func (t *Tracker) Fail(ctx context.Context, message, reason string) error {
	return t.write(ctx, modeFail, Update{Stage: stageFailed, Message: message, Error: reason})
}

// stageFailed is the stage of a job that has failed.
const stageFailed = "failed"

// Modes of the script.
const (
	modeBegin  = "begin"  // replaces whatever is shown, or is report if a run that follows has reported
	modeReport = "report" // keeps the number from falling, and does nothing after the end
	modeFail   = "fail"   // keeps the number
	modeFinish = "finish" // replaces whatever is shown
)

// show writes a document.
//
// KEYS: the document, the stream of updates, and the name of the task of which a run that follows another one has reported, which is
// not looked at on a cluster
// ARGV: mode, number, the document before and after its number, TTL in seconds, the task, "1" for a run that follows another one
// Returns the number that is shown, -1 if the end is shown and nothing was written.
//
// What is there and not in our form counts as nothing.
var show = redis.NewScript(`
local mode, n = ARGV[1], tonumber(ARGV[2])
if KEYS[3] and ARGV[6] ~= '' then
	if mode == 'begin' and redis.call('GET', KEYS[3]) == ARGV[6] then mode = 'report' end
	if ARGV[7] == '1' then redis.call('SET', KEYS[3], ARGV[6], 'EX', ARGV[5]) end
end
if mode == 'report' or mode == 'fail' then
	local ok, shown = pcall(cjson.decode, redis.pcall('GET', KEYS[1]))
	if ok and type(shown) == 'table' then
		local number = tonumber(shown.progress)
		if mode == 'report' and (number == 100 or shown.stage == 'failed') then return -1 end
		if number and number > n and number < 100 then n = math.floor(number) end
	end
end
local doc = ARGV[3] .. string.format('%d', n) .. ARGV[4]
redis.call('SET', KEYS[1], doc, 'EX', ARGV[5])
` + tell + `
return n
`)

// tell adds doc to the stream of updates in KEYS[2], which lives as long as the document, ARGV[5] seconds, and says so. Who reads the
// document needs none of that: where a right for it is missing, it is left out.
const tell = `
redis.pcall('XADD', KEYS[2], 'MAXLEN', '64', '*', 'doc', doc)
redis.pcall('EXPIRE', KEYS[2], ARGV[5])
redis.pcall('PUBLISH', KEYS[2], '')
`

// write writes a document, and waits for that.
func (t *Tracker) write(ctx context.Context, mode string, u Update) error {
	t.mu.Lock()
	args, err := t.arguments(mode, u)
	t.mu.Unlock()
	if err == nil {
		_, err = t.store.guard.Run(ctx, show, t.keys(), args...)
	}
	if err != nil {
		return fmt.Errorf("write progress of job %s: %w", t.jobID, err)
	}
	return nil
}

// arguments are those of show. t.mu is held.
func (t *Tracker) arguments(mode string, u Update) ([]any, error) {
	t.floor = max(t.floor, u.Progress)
	u.Progress, u.UpdatedAt = t.floor, t.store.timestamp()
	doc, err := celery.MarshalJSON(u)
	if err != nil {
		return nil, fmt.Errorf("encode progress of job %s: %w", t.jobID, err)
	}
	// The number is the first member.
	_, tail, _ := strings.Cut(string(doc), ",")
	resumed := ""
	if t.resumed {
		resumed = "1"
	}
	return []any{mode, u.Progress, `{"progress":`, "," + tail, int(TTL.Seconds()), t.taskID, resumed}, nil
}

// as returns the arguments for another mode.
func as(mode string, args []any) []any {
	args = slices.Clone(args)
	args[0] = mode
	return args
}

func (t *Tracker) keys() []string {
	if _, cluster := t.store.client.(*redis.ClusterClient); cluster {
		return []string{Key(t.jobID), eventsKey(t.jobID)}
	}
	return []string{Key(t.jobID), eventsKey(t.jobID), resumedKey(t.jobID)}
}
