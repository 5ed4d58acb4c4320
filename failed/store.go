package failed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/crash"
	"onceover/internal/redisretry"
	"onceover/progress"
	"onceover/results"
)

// Names of the asynq queues.
const (
	QueueDelay  = "delay"  // parked jobs, scheduled
	QueueFailed = "failed" // failed jobs, archived; the later ones are failed-2, failed-3, …
	QueueUpkeep = "upkeep" // periodic work
)

// A queue of failed jobs is closed, and the next one begun, when it has this many
// jobs or its oldest is this old. Asynq forgets beyond 9,999 jobs and 90 days;
// between is room for what several processes keep before they see that it is full.
const (
	fullQueue = 8000
	oldQueue  = 60 * 24 * time.Hour

	roomForQueue = 9500 // a job is archived where it is only below these
	roomForAge   = 85 * 24 * time.Hour
)

// pieceSize is the largest value written, in bytes; a longer message is kept in
// pieces of this size.
const pieceSize = 64 << 10

// forever is a number of retries that is never reached: asynq would archive a
// parked job after the last.
const forever = math.MaxInt32

// Config says what a Store does. The zero value is ready for use.
type Config struct {
	// AllowEviction lets the store work on a Redis that evicts, and may lose jobs.
	AllowEviction bool
	// Retention is how long failed jobs are kept; 0: until they are replayed or
	// discarded.
	Retention time.Duration
	// BeforeReplay is called with a job that is about to run again, such as to reset
	// what it shows; nil: nothing.
	BeforeReplay func(context.Context, *celery.Request) error
}

// Store keeps parked and failed jobs. Safe for concurrent use.
type Store struct {
	cfg       Config
	client    redis.UniversalClient
	results   *results.Store
	marks     *progress.Store
	queue     *asynq.Client
	inspector *asynq.Inspector
	guard     *redisretry.Guard
	log       *zap.Logger
	metrics   *metrics
	periodic  []Periodic

	evicting atomic.Bool

	mu      sync.Mutex
	current string    // the queue of failed jobs that is not full
	before  string    // the one before it, "" if there is none
	checked time.Time // when that was found
	since   int       // jobs kept since
}

// New returns a store on the database that client has selected, whose replays
// reset results and the marks in progress. The caller closes client. reg may be
// nil.
func New(cfg Config, client redis.UniversalClient, results *results.Store, marks *progress.Store, reg prometheus.Registerer, log *zap.Logger) *Store {
	s := &Store{
		cfg: cfg, client: client, results: results, marks: marks, log: log,
		queue:     asynq.NewClientFromRedisClient(client),
		inspector: asynq.NewInspectorFromRedisClient(client),
		guard:     redisretry.New("failed", log),
	}
	s.metrics = newMetrics(reg)
	return s
}

// Park puts m away until due, to within a second before it. The message is then
// published to the queue it came from. It is idempotent for one attempt of one id:
// parking it again changes nothing. While Redis is away it waits until ctx ends.
func (s *Store) Park(ctx context.Context, m Message, due time.Time) error {
	req, _ := celery.Decode(properties(m), m.Publishing.Headers, m.Publishing.Body)
	r := Failure(m, req, nil, "")
	retries := 0
	if req != nil {
		retries = req.Retries
	}
	key := parkKey(r.key(), retries, m.number(headerParks))
	r.Message = m.clone()
	r.Message.SetRoute()
	r.Message.Publishing.Headers[headerParks] = int32(m.number(headerParks) + 1)
	r.Message.Publishing.Headers[HeaderAgain] = true
	err := s.put(ctx, &r, key, due, func(context.Context) (string, error) { return QueueDelay, nil })
	if err != nil {
		return fmt.Errorf("park job %s until %s: %w", r.ID, due.UTC().Format(time.RFC3339), err)
	}
	return nil
}

// parkKey is the task of a parked job: its key as a record, the number of its
// attempt, and how often that was parked before. A key that was used once must not
// come again: it would be taken for parked already.
func parkKey(key string, retries, parks int) string {
	return fmt.Sprintf("%s:%d:%d", key, retries, parks)
}

// Keep keeps a failed job. It is idempotent for one id and number of replays. While
// Redis is away it waits until ctx ends.
func (s *Store) Keep(ctx context.Context, r Record) error {
	if err := s.put(ctx, &r, r.key(), time.Time{}, s.openQueue(&r)); err != nil {
		return fmt.Errorf("keep failed job %s: %w", r.ID, err)
	}
	return nil
}

// put enqueues the record as the task called key in the queue that where names, ""
// for a record that is there already.
func (s *Store) put(ctx context.Context, r *Record, key string, due time.Time, where func(context.Context) (string, error)) error {
	j, err := encode(r, due)
	if err != nil {
		return err
	}
	name := r.Task
	if name == "" {
		name = "unknown"
	}
	return s.guard.Do(ctx, func(ctx context.Context) error {
		if err := s.refuseEviction(ctx); err != nil {
			return err
		}
		queue, err := where(ctx)
		if err != nil || queue == "" {
			return err
		}
		j := j
		if len(j.Message) > pieceSize {
			if j.Pieces, err = s.putPieces(ctx, queue, key, j.Message); err != nil {
				return err
			}
			j.Message = nil
		}
		doc, err := json.Marshal(j)
		if err != nil {
			return redisretry.Final(err)
		}
		options := []asynq.Option{
			asynq.Queue(queue), asynq.TaskID(key), asynq.MaxRetry(forever), asynq.Timeout(taskTimeout),
		}
		if !due.IsZero() {
			options = append(options, asynq.ProcessAt(due))
		}
		_, err = s.queue.EnqueueContext(ctx, asynq.NewTask(name, doc, options...))
		switch {
		case errors.Is(err, asynq.ErrTaskIDConflict):
			same, err := s.holds(ctx, queue, key, r)
			if err != nil || same || strings.Contains(key, "~") {
				return err // an earlier delivery of the message is there
			}
			return s.put(ctx, r, key+"~"+r.bodySum(), due, where)
		case err != nil:
			return err
		}
		crash.Point("after-enqueue")
		if due.IsZero() {
			s.metrics.kept.WithLabelValues(string(r.Reason)).Inc()
			s.count(ctx, r)
		} else {
			s.metrics.parked.Inc()
		}
		return nil
	})
}

// holds tells whether a task has the message of r: a producer may use an id again for
// another call.
func (s *Store) holds(ctx context.Context, queue, key string, r *Record) (bool, error) {
	info, err := s.inspector.GetTaskInfo(queue, key)
	if err != nil {
		if gone(err) {
			err = nil // done meanwhile
		}
		return true, err
	}
	there, err := s.read(ctx, queue, key, info.Payload)
	if err != nil {
		return false, nil // whatever that is
	}
	return bytes.Equal(there.Record.Message.Publishing.Body, r.Message.Publishing.Body), nil
}

// openQueue returns the function that finds the queue to keep r in: the last one,
// or the next if that is full. A record that is in the one before, where an earlier
// delivery left it, stays there.
func (s *Store) openQueue(r *Record) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		current, before, err := s.currentQueue()
		if err != nil || before == "" {
			return current, err
		}
		if _, err := s.inspector.GetTaskInfo(before, r.key()); err == nil {
			return "", nil
		} else if !gone(err) {
			return "", err
		}
		return current, nil
	}
}

// gone tells that a task or its queue is not there.
func gone(err error) bool {
	return errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound)
}

// currentQueue returns the queue in which failed jobs are kept at present, and the
// one before. What it knows is at most a second or 100 jobs old.
func (s *Store) currentQueue() (current, before string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since++
	if s.current != "" && s.since < 100 && time.Since(s.checked) < time.Second {
		return s.current, s.before, nil
	}
	queues, err := s.failedQueues()
	if err != nil {
		return "", "", err
	}
	current = QueueFailed
	if len(queues) > 0 {
		current = queues[len(queues)-1]
		full, err := s.full(current)
		if err != nil {
			return "", "", err
		}
		if full {
			before = current
			current = fmt.Sprintf("%s-%d", QueueFailed, number(current)+1)
			if current != s.current {
				s.log.Warn("a queue of failed jobs is full, the next one is begun: many jobs fail, or nobody looks after those that did",
					zap.String("full", before), zap.String("next", current))
			}
		} else if len(queues) > 1 {
			before = queues[len(queues)-2]
		}
	}
	s.current, s.before, s.checked, s.since = current, before, time.Now(), 0
	return current, before, nil
}

func (s *Store) full(queue string) (bool, error) {
	info, err := s.inspector.GetQueueInfo(queue)
	if err != nil || info.Size >= fullQueue {
		return err == nil, err
	}
	age, err := s.age(queue)
	return age > oldQueue, err
}

// age is that of the oldest job in the archive of the queue.
func (s *Store) age(queue string) (time.Duration, error) {
	oldest, err := s.inspector.ListArchivedTasks(queue, asynq.PageSize(1))
	if err != nil || len(oldest) == 0 {
		return 0, err
	}
	return time.Since(oldest[0].LastFailedAt), nil
}

// failedQueues returns the queues of failed jobs that exist, the oldest first.
func (s *Store) failedQueues() ([]string, error) {
	all, err := s.inspector.Queues()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(q string) bool { return number(q) == 0 })
	slices.SortFunc(all, func(a, b string) int { return number(a) - number(b) })
	return all, nil
}

// number of a queue of failed jobs; 0 for other queues.
func number(queue string) int {
	rest, ok := strings.CutPrefix(queue, QueueFailed)
	if !ok {
		return 0
	}
	if rest == "" {
		return 1
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "-"))
	if err != nil || n < 2 || rest != "-"+strconv.Itoa(n) {
		return 0
	}
	return n
}

// Messages longer than pieceSize are kept beside the task, in a hash with a field
// for each piece.
func piecesKey(queue, key string) string { return "onceover:message:" + queue + ":" + key }

// usedPieces is how long the pieces of a published message are kept, for the case
// that its task comes back after a crash.
const usedPieces = 24 * time.Hour

func (s *Store) putPieces(ctx context.Context, queue, key string, doc []byte) (int, error) {
	fields := map[string]any{}
	for piece := range slices.Chunk(doc, pieceSize) {
		fields[strconv.Itoa(len(fields))] = piece
	}
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, piecesKey(queue, key), fields)
		p.Persist(ctx, piecesKey(queue, key))
		return nil
	})
	return len(fields), err
}

func (s *Store) dropPieces(ctx context.Context, queue, key string) error {
	return s.client.Expire(ctx, piecesKey(queue, key), usedPieces).Err()
}

// read returns the record that a task holds, with its message.
func (s *Store) read(ctx context.Context, queue, key string, payload []byte) (*job, error) {
	j, err := decodeJob(payload)
	if err != nil {
		return nil, fmt.Errorf("task %s of queue %s: %w", key, queue, err)
	}
	if j.Pieces > 0 {
		fields := make([]string, j.Pieces)
		for i := range fields {
			fields[i] = strconv.Itoa(i)
		}
		pieces, err := s.client.HMGet(ctx, piecesKey(queue, key), fields...).Result()
		if err != nil {
			return nil, err
		}
		for _, piece := range pieces {
			text, ok := piece.(string)
			if !ok {
				return nil, redisretry.Final(fmt.Errorf("the message of job %s has gone from Redis: it cannot be published; discard it", j.ID))
			}
			j.Message = append(j.Message, text...)
		}
	}
	if err := json.Unmarshal(j.Message, &j.Record.Message); err != nil {
		return nil, fmt.Errorf("read the message of job %s: %w", j.ID, err)
	}
	return j, nil
}
