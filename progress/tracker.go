package progress

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"onceover/celery"
)

// Tracker reports the progress of one run of a job. Safe for concurrent use.
//
// Other runs of the job may report at the same time, each by a tracker of its own: each write is
// one step in Redis that sees what is shown. Once the end is shown, progress 100 or the stage
// "failed", a report changes nothing, and is no error. Only [Tracker.Finish] and [Tracker.Fail],
// the first report of a run that is not resumed, and [Store.Reset] replace an end.
type Tracker struct {
	store         *Store
	jobID, taskID string
	resumed       bool

	mu    sync.Mutex
	fresh bool // the run is not resumed, and has not reported
	floor int  // the number last shown
}

// Track returns the tracker of one run of a job, by the task of this id. With resume, for a run that follows an
// interrupted or failed one, it goes on from the number that is shown. Without, its first report
// replaces whatever is shown, unless a run of the task that follows it has reported before: it was cut off from Redis then.
// taskID may be empty if nothing of that is to be known. The error is always nil.
func (s *Store) Track(_ context.Context, jobID, taskID string, resume bool) (*Tracker, error) {
	return &Tracker{store: s, jobID: jobID, taskID: taskID, resumed: resume && taskID != "", fresh: !resume}, nil
}

// Report shows the stage. progress counts from 0 to 100; a number below the one
// last shown is raised to it. After the end of the job it does nothing.
func (t *Tracker) Report(ctx context.Context, progress int, stage, message string) error {
	return t.write(ctx, modeReport, Update{Progress: progress, Stage: stage, Message: message})
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
// KEYS: the document, and the name of the task of which a run that follows another one has reported, which is not looked at on
// a cluster
// ARGV: mode, number, the document before and after its number, TTL in seconds, the task, "1" for a run that follows another one
// Returns the number that is shown, -1 if the end is shown and nothing was written.
//
// What is there and not in our form counts as nothing.
var show = redis.NewScript(`
local mode, n = ARGV[1], tonumber(ARGV[2])
if KEYS[2] and ARGV[6] ~= '' then
	if mode == 'begin' and redis.call('GET', KEYS[2]) == ARGV[6] then mode = 'report' end
	if ARGV[7] == '1' then redis.call('SET', KEYS[2], ARGV[6], 'EX', ARGV[5]) end
end
if mode == 'report' or mode == 'fail' then
	local ok, shown = pcall(cjson.decode, redis.pcall('GET', KEYS[1]))
	if ok and type(shown) == 'table' then
		local number = tonumber(shown.progress)
		if mode == 'report' and (number == 100 or shown.stage == 'failed') then return -1 end
		if number and number > n and number < 100 then n = math.floor(number) end
	end
end
redis.call('SET', KEYS[1], ARGV[3] .. string.format('%d', n) .. ARGV[4], 'EX', ARGV[5])
return n
`)

func (t *Tracker) write(ctx context.Context, mode string, u Update) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mode == modeReport && t.fresh {
		mode = modeBegin
	}
	u.Progress = max(u.Progress, t.floor)
	u.UpdatedAt = t.store.timestamp()
	doc, err := celery.MarshalJSON(u)
	if err != nil {
		return fmt.Errorf("encode progress of job %s: %w", t.jobID, err)
	}
	// The number is the first member.
	_, tail, _ := strings.Cut(string(doc), ",")
	var shown int
	keys, resumed := []string{Key(t.jobID), resumedKey(t.jobID)}, ""
	if _, cluster := t.store.client.(*redis.ClusterClient); cluster {
		keys = keys[:1]
	}
	if t.resumed {
		resumed = "1"
	}
	err = t.store.guard.Do(ctx, func(ctx context.Context) (err error) {
		shown, err = show.Run(ctx, t.store.client, keys, mode, u.Progress,
			`{"progress":`, ","+tail, int(TTL.Seconds()), t.taskID, resumed).Int()
		return err
	})
	if err != nil {
		return fmt.Errorf("write progress of job %s: %w", t.jobID, err)
	}
	t.fresh, t.floor = false, max(t.floor, shown)
	return nil
}
