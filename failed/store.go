package failed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	"onceover/rabbit"
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
const pieceSize = 48 << 10

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
	// Replicas is at how many replicas of the server a job has to be before it counts as
	// kept or parked; 0: none, and a replica that takes over may miss the latest jobs.
	Replicas int
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
	work     chan struct{} // has an element when a queue has got something to do

	look    chan struct{} // held by who looks for the current queue
	mu      sync.Mutex
	current string    // the queue of failed jobs that is not full
	before  string    // the one before it, "" if there is none
	checked time.Time // when that was found
	since   int       // jobs kept since
	fault   string    // why a job that is due was not published; "" if the last one was
}

// New returns a store on the database that client has selected, whose replays
// reset results and the marks in progress. The caller closes client. reg may be
// nil.
func New(cfg Config, client redis.UniversalClient, results *results.Store, marks *progress.Store, reg prometheus.Registerer, log *zap.Logger) *Store {
	client.AddHook(pace{})
	return &Store{
		cfg: cfg, client: client, results: results, marks: marks, log: log,
		work:      make(chan struct{}, 1),
		queue:     asynq.NewClientFromRedisClient(client),
		inspector: asynq.NewInspectorFromRedisClient(client),
		guard:     redisretry.New("failed", log).On(client),
		metrics:   newMetrics(reg),
		look:      make(chan struct{}, 1),
	}
}

// Park puts m away until due, to within a second before it. The message is then
// published to the queue it came from. It is idempotent for one attempt of one id:
// parking it again changes nothing. While Redis is away it waits until ctx ends.
// req is what m asks for.
func (s *Store) Park(ctx context.Context, m rabbit.Message, req *celery.Request, due time.Time) error {
	r := Failure(m, req, nil, "")
	key := parkKey(r.key(), req.Retries, m.Own.Parks)
	r.Message.Own.Parks++
	r.Message.Own.Again = true
	where := func(context.Context) (string, error) { return QueueDelay, nil }
	isNew, err := s.put(ctx, job{Record: r, Due: due}, key, where)
	if err != nil {
		return fmt.Errorf("park job %s until %s: %w", r.ID, due.UTC().Format(time.RFC3339), err)
	}
	if isNew {
		s.metrics.parked.Inc()
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
	isNew, err := s.Import(ctx, r)
	if isNew {
		s.metrics.kept.WithLabelValues(string(r.Reason)).Inc()
		s.count(ctx, &r)
	}
	return err
}

// Import is Keep for a job that failed elsewhere, which counts there. It reports
// whether the job was not kept here already.
func (s *Store) Import(ctx context.Context, r Record) (isNew bool, err error) {
	isNew, err = s.put(ctx, job{Record: r}, r.key(), s.openQueue(&r))
	if err != nil {
		return false, fmt.Errorf("keep failed job %s: %w", r.ID, err)
	}
	return isNew, nil
}

// put enqueues j as the task called key in the queue that where names, "" for a job
// that is there already, and waits for the replicas. It reports whether the task is new.
func (s *Store) put(ctx context.Context, j job, key string, where func(context.Context) (string, error)) (isNew bool, err error) {
	message, err := json.Marshal(j.Record.Message)
	if err != nil {
		return false, err
	}
	name := strings.ToValidUTF8(j.Task, "\uFFFD")
	if strings.TrimSpace(name) == "" {
		name = "unknown"
	}
	placed, times := "", 0
	err = s.guard.Do(ctx, func(ctx context.Context) error {
		if err := s.refuseEviction(ctx); err != nil {
			return err
		}
		if placed != "" {
			err := s.replicated(ctx, placed)
			if !errors.Is(err, errGone) {
				return err
			}
			// A job that was due is published, or lost with the server that had it: it is
			// published twice rather than never, and not again and again.
			if times > 1 && !j.Due.IsZero() && time.Now().After(j.Due) {
				return nil
			}
		}
		queue, err := where(ctx)
		if err != nil {
			return err
		}
		if queue == "" {
			return s.replicated(ctx)
		}
		j, key := j, key
		for range 2 {
			added, err := s.enqueue(ctx, queue, key, name, j, message)
			if err != nil {
				return err
			}
			same := added
			if added {
				isNew = true
				times++
			} else { // an earlier delivery is there, or another call by the same id
				if same, err = s.holds(ctx, queue, key, &j.Record); err != nil {
					return err
				}
			}
			if same {
				placed = taskKey(queue, key)
				return s.replicated(ctx, placed)
			}
			key += "~" + j.callSum()
		}
		return redisretry.Final(fmt.Errorf("task %s of asynq's queue %s is another call's", key, queue))
	})
	return isNew, err
}

// enqueue enqueues a task, unless there is one of this key: then it reports false.
func (s *Store) enqueue(ctx context.Context, queue, key, name string, j job, message []byte) (isNew bool, err error) {
	j.Message = message
	if len(message) > pieceSize {
		j.Message = nil
		if j.Pieces, j.Sum, err = s.putPieces(ctx, queue, key, message); err != nil {
			return false, err
		}
	}
	doc, err := json.Marshal(j)
	if err != nil {
		return false, redisretry.Final(err)
	}
	options := []asynq.Option{
		asynq.Queue(queue), asynq.TaskID(key), asynq.MaxRetry(forever), asynq.Timeout(taskTimeout),
	}
	if !j.Due.IsZero() {
		options = append(options, asynq.ProcessAt(j.Due))
	}
	if err := s.client.SAdd(ctx, queuesKey, queue).Err(); err != nil {
		return false, err
	}
	_, err = s.queue.EnqueueContext(ctx, asynq.NewTask(name, doc, options...))
	if errors.Is(err, asynq.ErrTaskIDConflict) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.hasWork()
	crash.Point("after-enqueue")
	return true, nil
}

// holds tells whether a task has the message of r: a producer may use an id again for
// another call.
func (s *Store) holds(ctx context.Context, queue, key string, r *Record) (bool, error) {
	info, err := s.inspector.GetTaskInfo(queue, key)
	if err != nil {
		return false, err // if it has gone meanwhile, too: then the key is free
	}
	there, err := s.read(ctx, queue, key, info.Payload)
	if err != nil {
		return false, nil // whatever that is
	}
	return sameCall(&there.Record, r), nil
}

// sameCall tells whether two records are of one call. The bodies may differ in form:
// an attempt that is retried is written anew. So may the times of two attempts that are
// retried, as each run of the one before computes its own; a producer's call for another
// time is another call.
func sameCall(a, b *Record) bool {
	x, errX := a.Request()
	y, errY := b.Request()
	sameBody := bytes.Equal(a.Message.Body, b.Message.Body)
	if errX != nil || errY != nil {
		return sameBody
	}
	if x.Retries == 0 && y.Retries == 0 && !x.ETA.Equal(y.ETA) {
		return false
	}
	if sameBody {
		return true
	}
	if x.Task != y.Task {
		return false
	}
	mine, err := celery.MarshalJSON([]any{x.Args, x.Kwargs})
	if err != nil {
		return false
	}
	theirs, err := celery.MarshalJSON([]any{y.Args, y.Kwargs})
	return err == nil && bytes.Equal(mine, theirs)
}

// openQueue returns the function that finds the queue to keep r in: the last one,
// or the next if that is full. A record that is in the one before, where an earlier
// delivery left it, stays there.
func (s *Store) openQueue(r *Record) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		current, before, err := s.currentQueue(ctx)
		if err != nil || before == "" {
			return current, err
		}
		same, err := s.holds(ctx, before, r.key(), r)
		switch {
		case same:
			return "", nil
		case err != nil && !gone(err):
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
func (s *Store) currentQueue(ctx context.Context) (current, before string, err error) {
	s.mu.Lock()
	s.since++
	current, before = s.current, s.before
	fresh := current != "" && s.since < 100 && time.Since(s.checked) < time.Second
	s.mu.Unlock()
	if fresh {
		return current, before, nil
	}
	select {
	case s.look <- struct{}{}:
		defer func() { <-s.look }()
	case <-ctx.Done():
		return "", "", context.Cause(ctx)
	}
	queues, err := s.failedQueues(ctx)
	if err != nil {
		return "", "", err
	}
	current, before = QueueFailed, ""
	if len(queues) > 0 {
		current = queues[len(queues)-1]
		sizes, err := s.sizes(ctx, current)
		if err != nil {
			return "", "", err
		}
		if sizes.total() >= fullQueue || sizes.age > oldQueue {
			before = current
			current = fmt.Sprintf("%s-%d", QueueFailed, number(current)+1)
		} else if len(queues) > 1 {
			before = queues[len(queues)-2]
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != current && before != "" {
		s.log.Warn("a queue of failed jobs is full, the next one is begun: many jobs fail, or nobody looks after those that did",
			zap.String("full", before), zap.String("next", current))
	}
	s.current, s.before, s.checked, s.since = current, before, time.Now(), 0
	return current, before, nil
}

// failedQueues returns the queues of failed jobs that exist, the oldest first.
func (s *Store) failedQueues(ctx context.Context) ([]string, error) {
	all, err := s.client.SMembers(ctx, queuesKey).Result()
	if err != nil {
		return nil, err
	}
	return failedOf(all), nil
}

// failedOf returns the queues of failed jobs among others, the oldest first.
func failedOf(all []string) []string {
	all = slices.DeleteFunc(all, func(q string) bool { return number(q) == 0 })
	slices.SortFunc(all, func(a, b string) int { return number(a) - number(b) })
	return all
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

// piecesKey is the hash in which a message longer than pieceSize is kept beside its
// task, with a field for each piece. sum is that of the message: two that come for one
// task do not disturb each other.
func piecesKey(queue, key, sum string) string {
	return "onceover:message:" + queue + ":" + key + ":" + sum
}

// usedPieces is how long the pieces of a published message are kept, for the case
// that its task comes back after a crash.
const usedPieces = 24 * time.Hour

func (s *Store) putPieces(ctx context.Context, queue, key string, message []byte) (n int, sum string, err error) {
	digest := sha256.Sum256(message)
	sum = hex.EncodeToString(digest[:8])
	fields := map[string]any{}
	for piece := range slices.Chunk(message, pieceSize) {
		fields[strconv.Itoa(len(fields))] = piece
	}
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, piecesKey(queue, key, sum), fields)
		p.Persist(ctx, piecesKey(queue, key, sum))
		return nil
	})
	return len(fields), sum, err
}

// dropPieces lets the pieces of a job's message run out, if it has any.
func (s *Store) dropPieces(ctx context.Context, queue, key string, j *job) error {
	if j.Pieces == 0 {
		return nil
	}
	return s.client.Expire(ctx, piecesKey(queue, key, j.Sum), usedPieces).Err()
}

// errUnreadable says that the message of a record is damaged.
var errUnreadable = errors.New("the message cannot be read: it can only be discarded")

// errMessageGone says that the pieces of a message are not in Redis any more.
var errMessageGone = errors.New("the message has gone from Redis: it cannot be published, only discarded")

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
		pieces, err := s.client.HMGet(ctx, piecesKey(queue, key, j.Sum), fields...).Result()
		if err != nil {
			return nil, err
		}
		for _, piece := range pieces {
			text, ok := piece.(string)
			if !ok {
				return nil, fmt.Errorf("%w: job %s", errMessageGone, j.ID)
			}
			j.Message = append(j.Message, text...)
		}
	}
	if err := json.Unmarshal(j.Message, &j.Record.Message); err != nil {
		return nil, fmt.Errorf("%w: job %s: %w", errUnreadable, j.ID, err)
	}
	return j, nil
}
