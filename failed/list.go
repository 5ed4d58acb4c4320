package failed

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hibiken/asynq"

	"onceover/celery"
)

// pageSize is how many records are read at once.
const pageSize = 100

// Ref is where a record is.
type Ref struct {
	Queue string // the asynq queue
	Key   string // the task in it: the job's id and its number of replays
}

// Name is the id of the job, or what stands for it.
func (r Ref) Name() string {
	if i := strings.LastIndexByte(r.Key, ':'); i >= 0 {
		return r.Key[:i]
	}
	return r.Key
}

// Entry is a record as it is listed; its Message is not read, see [Store.Get].
type Entry struct {
	Ref Ref
	Record
	Note string // what asynq says of it, such as why a replay did not go
}

// Filter chooses records; fields that are zero choose all.
type Filter struct {
	Task   string    // name of the task
	Error  string    // class of the exception
	Queue  string    // where it was taken from
	Reason string    // why it is kept
	Text   string    // part of the error, the id or the arguments, in any case
	After  time.Time // that failed last after this,
	Before time.Time // or before this
}

// Match tells whether the filter chooses r.
func (f Filter) Match(r *Record) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	if !is(f.Task, r.Task) || !is(f.Error, r.Error) || !is(f.Queue, r.Queue) || !is(f.Reason, string(r.Reason)) {
		return false
	}
	if !f.After.IsZero() && r.Last.Before(f.After) || !f.Before.IsZero() && r.Last.After(f.Before) {
		return false
	}
	if f.Text == "" {
		return true
	}
	part := strings.ToLower(f.Text)
	return slices.ContainsFunc([]string{r.ID, r.Error, r.Text, r.Args, r.Kwargs, r.Stage}, func(s string) bool {
		return strings.Contains(strings.ToLower(s), part)
	})
}

// Each calls fn with every record, the newest first, until fn returns false.
// Records that come or go meanwhile may be missed or seen twice.
func (s *Store) Each(ctx context.Context, f Filter, fn func(Entry) bool) error {
	queues, err := s.failedQueues(ctx)
	if err != nil {
		return fmt.Errorf("list the queues of failed jobs: %w", err)
	}
	for _, queue := range slices.Backward(queues) {
		goOn, err := s.eachIn(ctx, queue, f, fn)
		if err != nil && !gone(err) {
			return fmt.Errorf("list failed jobs of %s: %w", queue, err)
		}
		if err == nil && !goOn {
			return nil
		}
	}
	return nil
}

func (s *Store) eachIn(ctx context.Context, queue string, f Filter, fn func(Entry) bool) (goOn bool, err error) {
	seen := map[string]bool{} // of those on their way into the archive, or out of it
	type lister func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error)
	show := func(list lister, page int, moving bool) (bool, error) {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		tasks, err := list(queue, asynq.PageSize(pageSize), asynq.Page(page))
		if err != nil {
			return false, err
		}
		entries := make([]Entry, len(tasks))
		for i, t := range tasks {
			entries[i] = entryOf(queue, t)
		}
		// Asynq orders by whole seconds.
		slices.SortStableFunc(entries, func(a, b Entry) int { return b.Last.Compare(a.Last) })
		for _, e := range entries {
			if seen[e.Ref.Key] {
				continue
			}
			if moving {
				seen[e.Ref.Key] = true
			}
			if f.Match(&e.Record) && !fn(e) {
				return false, nil
			}
		}
		return true, nil
	}
	for _, part := range []struct {
		list   lister
		count  func(sizes) int
		moving bool
	}{
		{s.inspector.ListPendingTasks, func(n sizes) int { return n.pending }, true},
		{s.inspector.ListActiveTasks, func(n sizes) int { return n.active }, true},
		{s.inspector.ListRetryTasks, func(n sizes) int { return n.retry }, true},
		{s.inspector.ListArchivedTasks, func(n sizes) int { return n.archived }, false},
	} {
		has, err := s.sizes(ctx, queue) // at this moment
		if err != nil {
			return false, err
		}
		for page := (part.count(has) + pageSize - 1) / pageSize; page > 0; page-- {
			if goOn, err := show(part.list, page, part.moving); err != nil || !goOn {
				return false, err
			}
		}
	}
	return true, nil
}

// entryOf reads a task; one that is not ours is listed with what is wrong with it.
func entryOf(queue string, t *asynq.TaskInfo) Entry {
	j, err := decodeJob(t.Payload)
	if err != nil {
		return Entry{Ref: Ref{queue, t.ID}, Record: Record{ID: t.ID, Task: t.Type, Text: err.Error(), Last: t.LastFailedAt}}
	}
	e := Entry{Ref: Ref{queue, t.ID}, Record: j.Record}
	if j.Note != "" {
		e.Note = "not replayed: " + j.Note
	}
	if note, ok := strings.CutPrefix(t.LastErr, keptPrefix); ok {
		if _, why, ok := strings.Cut(note, notReplayed); ok {
			e.Note = "not replayed: " + strings.TrimSuffix(why, ")")
		}
	}
	return e
}

// Find returns where the records of a job are: by its id, by a record's key, or by
// the beginning of an id if only one job has it. It returns nothing if there is no
// such record.
func (s *Store) Find(ctx context.Context, name string) ([]Ref, error) {
	queues, err := s.failedQueues(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the queues of failed jobs: %w", err)
	}
	// Most jobs were replayed a few times at most.
	var found []Ref
	for _, queue := range slices.Backward(queues) {
		for _, key := range []string{name, name + ":3", name + ":2", name + ":1", name + ":0"} {
			_, err := s.inspector.GetTaskInfo(queue, key)
			if err == nil {
				found = append(found, Ref{queue, key})
			} else if !gone(err) {
				return nil, fmt.Errorf("look up failed job %s: %w", name, err)
			}
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	var ids []string
	var exact []Ref
	err = s.Each(ctx, Filter{}, func(e Entry) bool {
		id := e.Ref.Name()
		if id == name {
			exact = append(exact, e.Ref)
		}
		if strings.HasPrefix(id, name) {
			found = append(found, e.Ref)
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
		return true
	})
	if err == nil && len(exact) > 0 {
		return exact, nil
	}
	if err == nil && len(ids) > 1 {
		err = fmt.Errorf("%q is the beginning of several ids, such as %s and %s: give more of it", name, ids[0], ids[1])
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Get returns a whole record, nil if it is not there.
func (s *Store) Get(ctx context.Context, ref Ref) (*Record, error) {
	info, err := s.inspector.GetTaskInfo(ref.Queue, ref.Key)
	if err != nil {
		if gone(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("look up failed job %s: %w", ref.Key, err)
	}
	j, err := s.read(ctx, ref.Queue, ref.Key, info.Payload)
	if err != nil {
		return nil, err
	}
	return &j.Record, nil
}

// Discard throws a record away. It is no error if it is not there; it is one if the
// record is being worked on.
func (s *Store) Discard(ctx context.Context, ref Ref) error {
	info, err := s.inspector.GetTaskInfo(ref.Queue, ref.Key)
	if gone(err) {
		return nil
	}
	if err == nil {
		err = s.delete(ctx, ref.Queue, ref.Key)
	}
	if err != nil {
		return fmt.Errorf("discard failed job %s: %w", ref.Key, err)
	}
	if j, err := decodeJob(info.Payload); err == nil && j.Pieces > 0 {
		return s.client.Unlink(ctx, piecesKey(ref.Queue, ref.Key, j.Sum)).Err()
	}
	return nil
}

// States returns what DB0 says of the jobs, in their order; "" if it says nothing.
func (s *Store) States(ctx context.Context, ids []string) ([]celery.State, error) {
	return s.results.States(ctx, ids)
}
