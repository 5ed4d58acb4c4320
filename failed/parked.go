package failed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// States of a parked job.
const (
	ParkedWaiting    = "waiting"    // it is not due
	ParkedDue        = "due"        // it is published next, or tried again
	ParkedPublishing = "publishing" // this moment
	ParkedDamaged    = "damaged"    // it is not published any more: its message cannot be read, or a tool of asynq has archived it
)

// ParkedJob is a job that waits, as it is listed; its Message is not read.
type ParkedJob struct {
	Key string `json:"key"` // see [Store.FindParked]
	Record
	Due   time.Time `json:"due,omitzero"` // when it is or was to be published; zero if that is not known
	State string    `json:"state"`        // a Parked…, instead of that of the record
	Why   string    `json:"why"`          // it was parked: "eta", "retry 2" for the second retry, or "postponed" if there was no room for it; "" if that is not known. Error and Text say what it failed of.
	Fault string    `json:"fault"`        // of the last attempt to publish it, or what is damaged; "" if nothing is known to be wrong
}

// Name is the id of the job, or what stands for it.
func (j ParkedJob) Name() string { return parkedName(j.Key) }

// parkedName is the id of which parkKey has made a key; the key itself if it is somebody else's.
func parkedName(key string) string {
	name := key
	if last := strings.LastIndexByte(key, ':') + 1; last > 0 { // a sum may follow, of another call by the same id
		parks, _, _ := strings.Cut(key[last:], "~")
		name = key[:last] + parks
	}
	for range 3 { // replays, retries, parks
		i := strings.LastIndexByte(name, ':')
		if i < 0 {
			return key
		}
		if _, err := strconv.ParseUint(name[i+1:], 10, 32); err != nil {
			return key
		}
		name = name[:i]
	}
	return name
}

// ErrNotParked says that there is no such parked job: it was published or discarded, or never parked.
var ErrNotParked = errors.New("no such job is parked")

// Errors of parked jobs that cannot be run or discarded.
var (
	errBeingPublished = errors.New("it is being published: look for it in its queue")
	errStaysDamaged   = errors.New("it would not be published: it can only be discarded")
)

// maxParkedPage is the longest page of parked jobs: one script of asynq reads them with their messages, of up to pieceSize each.
const maxParkedPage = 100

// parkedLists are asynq's lists of parked jobs, in the order in which they are shown.
func (s *Store) parkedLists() []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error) {
	i := s.inspector
	return []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		i.ListScheduledTasks, i.ListRetryTasks, i.ListPendingTasks, i.ListActiveTasks, i.ListArchivedTasks,
	}
}

// parkedKeys are the keys of these lists in Redis (asynq 0.26), and whether each is a sorted set.
var parkedKeys = [...]struct {
	name   string
	sorted bool
}{{"scheduled", true}, {"retry", true}, {"pending", false}, {"active", false}, {"archived", true}}

func parkedKey(name string) string { return "asynq:{" + QueueDelay + "}:" + name }

// ParkedPage returns a page of the parked jobs, from 1, and how many there are: those that wait by when they are due, then those that are
// due, being published, and damaged. A job that moves on meanwhile may be missed or come twice. size is 1 to 100.
func (s *Store) ParkedPage(ctx context.Context, page, size int) (jobs []ParkedJob, total int, err error) {
	if page < 1 || page > 1e9 || size < 1 || size > maxParkedPage {
		return nil, 0, fmt.Errorf("page %d of %d parked jobs: expected a page from 1, of 1 to %d", page, size, maxParkedPage)
	}
	counts, err := s.parkedCounts(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("count parked jobs: %w", err)
	}
	skip, now := (page-1)*size, time.Now()
	for i, list := range s.parkedLists() {
		total += counts[i]
		if skip >= counts[i] {
			skip -= counts[i]
			continue
		}
		if len(jobs) == size {
			continue
		}
		tasks, err := parkedPart(ctx, list, skip, size-len(jobs))
		if err != nil {
			return nil, 0, fmt.Errorf("list parked jobs: %w", err)
		}
		skip = 0
		for _, t := range tasks {
			jobs = append(jobs, parkedOf(t, now))
		}
	}
	return jobs, total, nil
}

func (s *Store) parkedCounts(ctx context.Context) ([len(parkedKeys)]int, error) {
	var counts [len(parkedKeys)]*redis.IntCmd
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, list := range parkedKeys {
			if list.sorted {
				counts[i] = p.ZCard(ctx, parkedKey(list.name))
			} else {
				counts[i] = p.LLen(ctx, parkedKey(list.name))
			}
		}
		return nil
	})
	var out [len(parkedKeys)]int
	for i, c := range counts {
		out[i] = int(c.Val())
	}
	return out, err
}

// parkedPart returns up to n tasks of a list of asynq, which knows only whole pages, after the first skip. Tasks whose hash has gone from
// Redis are not among them.
func parkedPart(ctx context.Context, list func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error), skip, n int) ([]*asynq.TaskInfo, error) {
	var out []*asynq.TaskInfo
	for page, drop := skip/n, skip%n; len(out) < n; page, drop = page+1, 0 {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		tasks, err := list(QueueDelay, asynq.PageSize(n), asynq.Page(page+1))
		if gone(err) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(tasks) <= drop {
			break
		}
		out = append(out, tasks[drop:]...)
		if drop == 0 {
			break // it was the page itself, or the second of two
		}
	}
	return out[:min(n, len(out))], nil
}

// parkedOf is what is shown of a task.
func parkedOf(t *asynq.TaskInfo, now time.Time) ParkedJob {
	out := ParkedJob{Key: t.ID, Due: t.NextProcessAt, Fault: t.LastErr}
	out.Task = t.Type
	j, err := decodeJob(t.Payload)
	if err == nil && j.Pieces == 0 && len(j.Message) == 0 {
		err = errNotOurs
	}
	if err != nil {
		out.State, out.Fault = ParkedDamaged, err.Error()
		return out
	}
	out.Record = j.Record
	if !j.Due.IsZero() {
		out.Due = j.Due // to the millisecond, and not when it is tried again
	}
	switch {
	case j.Attempts > 1:
		out.Why = "retry " + strconv.Itoa(j.Attempts-1) // of how many only its task knows
	case j.Error != "":
		out.Why = "postponed"
	default:
		out.Why = "eta"
	}
	switch {
	case t.State == asynq.TaskStateArchived:
		out.State = ParkedDamaged
	case t.State == asynq.TaskStateActive:
		out.State = ParkedPublishing
	case t.State == asynq.TaskStateScheduled && out.Due.After(now):
		out.State = ParkedWaiting
	default:
		out.State = ParkedDue
	}
	return out
}

// FindParked returns the keys of parked jobs: by a key, by the id of a job, or by the beginning of an id if only one job has it. It
// returns nothing if there is none. It reads the keys of all parked jobs unless it is given one.
func (s *Store) FindParked(ctx context.Context, name string) ([]string, error) {
	if _, err := s.parkedTask(name); err == nil {
		return []string{name}, nil
	} else if !errors.Is(err, ErrNotParked) {
		return nil, fmt.Errorf("look up parked job %s: %w", name, err)
	}
	found := map[string][]string{} // keys by their job
	err := s.parkedBeginning(ctx, name, func(key string) {
		id := parkedName(key)
		if strings.HasPrefix(id, name) && !slices.Contains(found[id], key) {
			found[id] = append(found[id], key)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("look up parked job %s: %w", name, err)
	}
	if keys := found[name]; keys != nil {
		return keys, nil
	}
	var ids []string
	for id := range found {
		ids = append(ids, id)
	}
	switch slices.Sort(ids); len(ids) {
	case 0:
		return nil, nil
	case 1:
		return found[ids[0]], nil
	}
	return nil, fmt.Errorf("%q is the beginning of several ids, such as %s and %s: give more of it", name, ids[0], ids[1])
}

// globs are what a pattern of Redis takes as something else.
var globs = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`)

// parkedBeginning calls fn with the keys of parked jobs that begin so, with some more than once.
func (s *Store) parkedBeginning(ctx context.Context, name string, fn func(key string)) error {
	for _, list := range parkedKeys {
		if list.sorted {
			scan := s.client.ZScan(ctx, parkedKey(list.name), 0, globs.Replace(name)+"*", 1000).Iterator()
			for score := false; scan.Next(ctx); score = !score { // each is followed by its score
				if !score {
					fn(scan.Val())
				}
			}
			if err := scan.Err(); err != nil {
				return err
			}
			continue
		}
		keys, err := s.client.LRange(ctx, parkedKey(list.name), 0, -1).Result()
		if err != nil {
			return err
		}
		for _, key := range keys {
			fn(key)
		}
	}
	return nil
}

// parkedTask returns a parked job as asynq has it. The error is an ErrNotParked if there is none.
func (s *Store) parkedTask(key string) (*asynq.TaskInfo, error) {
	info, err := s.inspector.GetTaskInfo(QueueDelay, key)
	if gone(err) {
		return nil, ErrNotParked
	}
	return info, err
}

// RunParked makes a parked job due now, whoever runs the store publishes it in a moment. It is no error if it is due already. A job whose
// message cannot be read stays as it is, which is an error. The error wraps [ErrNotParked] if there is no such job.
func (s *Store) RunParked(ctx context.Context, key string) error {
	if err := s.runParked(ctx, key); err != nil {
		return fmt.Errorf("run parked job %s: %w", key, err)
	}
	return nil
}

func (s *Store) runParked(ctx context.Context, key string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	info, err := s.parkedTask(key)
	if err != nil {
		return err
	}
	if _, err := s.read(ctx, QueueDelay, key, info.Payload); errors.Is(err, errNotOurs) || errors.Is(err, errUnreadable) {
		return fmt.Errorf("%w: %w", errStaysDamaged, err)
	} else if err != nil {
		return err
	}
	if err := s.client.Set(ctx, nowKey(key), 1, nowTTL).Err(); err != nil {
		return err
	}
	if err := s.inspector.RunTask(QueueDelay, key); err != nil {
		// It may be due already, or have been published.
		info, again := s.parkedTask(key)
		if gone(err) || errors.Is(again, ErrNotParked) {
			return ErrNotParked
		}
		if again != nil || info.State != asynq.TaskStatePending && info.State != asynq.TaskStateActive {
			return err
		}
	}
	s.hasWork()
	return nil
}

// DiscardParked throws a parked job away, with its message. Its result stays as it is: whoever waits for it waits on. A job that is being
// published stays, which is an error. The error wraps [ErrNotParked] if there is no such job.
func (s *Store) DiscardParked(ctx context.Context, key string) error {
	if err := s.discardParked(ctx, key); err != nil {
		return fmt.Errorf("discard parked job %s: %w", key, err)
	}
	return nil
}

func (s *Store) discardParked(ctx context.Context, key string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	info, err := s.parkedTask(key)
	if err != nil {
		return err
	}
	if err := s.inspector.DeleteTask(QueueDelay, key); err != nil {
		if gone(err) {
			return ErrNotParked
		}
		if info, again := s.parkedTask(key); again == nil && info.State == asynq.TaskStateActive {
			return errBeingPublished
		}
		return err
	}
	j, err := decodeJob(info.Payload)
	if err != nil || j.Pieces == 0 {
		return nil // it has no pieces, or none that are known
	}
	if err := s.client.Unlink(ctx, piecesKey(QueueDelay, key, j.Sum)).Err(); err != nil {
		return fmt.Errorf("it is discarded, and its message is not: that expires in a day by the upkeep: %w", err)
	}
	return nil
}
