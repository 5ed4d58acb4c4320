package failed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
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
	QueueUpkeep = "upkeep" // periodic work
)

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
	times     times
	confirms  confirms

	evicting atomic.Bool
	work     chan struct{} // has an element when a queue has got something to do
	bulks    chan struct{} // has an element when a bulk was begun here

	mu    sync.Mutex
	fault string // why a job that is due was not published; "" if the last one was
}

// New returns a store on the database that client has selected, whose replays
// reset results and the marks in progress. The caller closes client. reg may be
// nil.
func New(cfg Config, client redis.UniversalClient, results *results.Store, marks *progress.Store, reg prometheus.Registerer, log *zap.Logger) *Store {
	client.AddHook(pace{})
	return &Store{
		cfg: cfg, client: client, results: results, marks: marks, log: log,
		work:      make(chan struct{}, 1),
		bulks:     make(chan struct{}, 1),
		queue:     asynq.NewClientFromRedisClient(client),
		inspector: asynq.NewInspectorFromRedisClient(client),
		guard:     redisretry.New("failed", log).On(client),
		metrics:   newMetrics(reg),
		times:     usualTimes,
	}
}

// Park puts m away until due, to within a second before it. The message is then
// published to the queue it came from. It is idempotent for one attempt of one id:
// parking it again changes nothing. While Redis is away it waits until ctx ends.
// req is what m asks for. exc is what the attempt before it failed of, nil if it is
// parked for another reason or that is not known.
func (s *Store) Park(ctx context.Context, m rabbit.Message, req *celery.Request, due time.Time, exc *celery.Exception) error {
	r := Failure(m, req, exc, "")
	r.Text, r.Traceback = shorten(r.Text, maxCause), "" // the record of a job that ends with it has all
	key := parkKey(string(r.key()), req.Retries, m.Own.Parks)
	r.Message.Own.Parks++
	r.Message.Own.Again = true
	isNew, err := s.put(ctx, &r, key, due, shelf{
		add:  func(ctx context.Context, key string) (bool, error) { return s.enqueue(ctx, key, &r, due) },
		read: s.task,
		at:   func(key string) string { return taskKey(QueueDelay, key) },
	})
	if err != nil {
		return fmt.Errorf("park job %s until %s: %w", r.ID, due.UTC().Format(time.RFC3339), err)
	}
	if isNew {
		s.metrics.parked.Inc()
	}
	return nil
}

// maxCause is how much of a message is kept with a parked job, in bytes.
const maxCause = 400

// parkKey is the task of a parked job: its key as a record, the number of its
// attempt, and how often that was parked before. A key that was used once must not
// come again: it would be taken for parked already.
func parkKey(key string, retries, parks int) string {
	return fmt.Sprintf("%s:%d:%d", key, retries, parks)
}

// Keep keeps a failed job. It is idempotent for one id and number of replays. While
// Redis is away it waits until ctx ends.
func (s *Store) Keep(ctx context.Context, r Record) error {
	isNew, err := s.keep(ctx, r, true)
	if isNew {
		s.metrics.kept.WithLabelValues(string(r.Reason)).Inc()
		s.count(ctx, &r)
	}
	return err
}

// Import is Keep for a job that failed elsewhere, which counts there. It reports
// whether the job was not kept here already.
func (s *Store) Import(ctx context.Context, r Record) (isNew bool, err error) {
	return s.keep(ctx, r, false)
}

func (s *Store) keep(ctx context.Context, r Record, met bool) (isNew bool, err error) {
	if req, rerr := r.Request(); r.User == "" && rerr == nil { // as of a record that an earlier version has exported
		r.User = userOf(req)
	}
	message, err := json.Marshal(r.Message)
	if err == nil {
		isNew, err = s.put(ctx, &r, string(r.key()), time.Time{}, shelf{
			add: func(ctx context.Context, key string) (bool, error) { return s.add(ctx, Key(key), &r, message, met) },
			read: func(ctx context.Context, key string) (*Record, error) {
				r, err := s.Get(ctx, Key(key))
				if err == nil && r == nil {
					err = errGone
				}
				return r, err
			},
			at: func(key string) string { return recordKey(Key(key)) },
		})
	}
	if err != nil {
		return false, fmt.Errorf("keep failed job %s: %w", r.ID, err)
	}
	return isNew, nil
}

// shelf is where messages are put under keys: with those that wait, or with those that failed.
type shelf struct {
	add  func(ctx context.Context, key string) (isNew bool, err error) // unless there is one
	read func(ctx context.Context, key string) (*Record, error)        // what is there
	at   func(key string) string                                       // the key in Redis
}

// put adds r to a shelf under a key, unless it is there, and waits for the replicas. It reports
// whether it was not there. due is when it leaves by itself, zero if it does not.
func (s *Store) put(ctx context.Context, r *Record, key string, due time.Time, to shelf) (isNew bool, err error) {
	placed, under, times := "", "", 0
	err = s.guard.Do(ctx, func(ctx context.Context) error {
		if err := s.refuseEviction(ctx); err != nil {
			return err
		}
		if placed != "" {
			err := s.replicated(ctx, placed)
			if !errors.Is(err, errGone) {
				return err
			}
			// A failed job was replayed or discarded meanwhile, or lost with the server that had it.
			if due.IsZero() {
				if said, err := s.client.Exists(ctx, goneKey(Key(under))).Result(); err != nil || said > 0 {
					return err
				}
			}
			// A job that was due is published, or lost with the server that had it: it is
			// published twice rather than never, and not again and again.
			if times > 1 && !due.IsZero() && time.Now().After(due) {
				return nil
			}
		}
		key := key
		for range 2 {
			added, err := to.add(ctx, key)
			if err != nil {
				return err
			}
			same := added
			if added {
				isNew = true
				times++
			} else { // an earlier delivery is there, or another call by the same id
				there, err := to.read(ctx, key)
				if err != nil && !errors.Is(err, errUnreadable) && !errors.Is(err, errNotOurs) {
					return err // if it has gone meanwhile, too: then the key is free
				}
				same = err == nil && sameCall(there, r)
			}
			if same {
				placed, under = to.at(key), key
				return s.replicated(ctx, placed)
			}
			key += "~" + r.callSum()
		}
		return redisretry.Final(fmt.Errorf("%s is another call's", to.at(key)))
	})
	return isNew, err
}

// enqueue parks r, unless there is a task of this key: then it reports false.
func (s *Store) enqueue(ctx context.Context, key string, r *Record, due time.Time) (isNew bool, err error) {
	message, err := json.Marshal(r.Message)
	if err != nil {
		return false, redisretry.Final(err)
	}
	j := job{Record: *r, Due: due, Message: message}
	if len(message) > pieceSize {
		j.Message = nil
		if j.Pieces, j.Sum, err = s.putPieces(ctx, key, message); err != nil {
			return false, err
		}
	}
	doc, err := json.Marshal(j)
	if err != nil {
		return false, redisretry.Final(err)
	}
	if err := s.client.SAdd(ctx, queuesKey, QueueDelay).Err(); err != nil {
		return false, err
	}
	_, err = s.queue.EnqueueContext(ctx, asynq.NewTask(taskName(r.Task), doc), asynq.Queue(QueueDelay), asynq.TaskID(key),
		asynq.MaxRetry(forever), asynq.Timeout(taskTimeout), asynq.ProcessAt(due))
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

// taskName is what asynq calls a task.
func taskName(task string) string {
	name := strings.ToValidUTF8(task, "\uFFFD")
	if strings.TrimSpace(name) == "" {
		return "unknown"
	}
	return name
}

// task returns what is parked under a key.
func (s *Store) task(ctx context.Context, key string) (*Record, error) {
	info, err := s.inspector.GetTaskInfo(QueueDelay, key)
	if err != nil {
		return nil, err
	}
	j, err := s.read(ctx, QueueDelay, key, info.Payload)
	if err != nil {
		return nil, err
	}
	return &j.Record, nil
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
	if x.Task != y.Task { // which is in the headers
		return false
	}
	if sameBody {
		return true
	}
	asked := func(r *celery.Request) ([]byte, error) {
		return celery.MarshalJSON([]any{r.Args, r.Kwargs, r.Callbacks, r.Errbacks, r.Chain, r.Chord})
	}
	mine, err := asked(x)
	if err != nil {
		return false
	}
	theirs, err := asked(y)
	return err == nil && bytes.Equal(mine, theirs)
}

// gone tells that a task or its queue is not there.
func gone(err error) bool {
	return errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound)
}
