package failed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/internal/testenv"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(childURL); url != "" {
		bulkChild(url)
		return
	}
	testenv.Main(m)
}

// bundle is a store on a real Redis.
type bundle struct {
	t       *testing.T
	server  *testenv.RedisServer
	client  *redis.Client // DB5
	results *results.Store
	marks   *progress.Store
	store   *Store
	out     *outbox
}

func setup(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	return setupSerial(t)
}

func setupSerial(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{t: t, server: testenv.Redis(t, "--appendfsync", "no"), out: &outbox{}}
	b.client = b.connect(5)
	db0 := b.connect(0)
	b.results, b.marks = results.New(db0, zap.NewNop()), progress.New(db0, zap.NewNop())
	b.store = b.newStore(Config{})
	return b
}

func (b *bundle) connect(db int) *redis.Client {
	b.t.Helper()
	opt, err := redisretry.Options(b.server.URL())
	if err != nil {
		b.t.Fatal(err)
	}
	opt.DB = db
	client := redis.NewClient(opt)
	b.t.Cleanup(func() { client.Close() })
	return client
}

// newStore returns another store on the same Redis, as another process has.
func (b *bundle) newStore(cfg Config) *Store {
	return New(cfg, b.connect(5), b.results, b.marks, nil, zap.NewNop())
}

// run serves a store until stop, or until the test ends.
func (b *bundle) run(s *Store, publish Publish) (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx, publish)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	b.t.Cleanup(stop)
	return stop
}

// patience is how long anything may take that a test waits for.
const patience = 30 * time.Second

// until waits for a state of Redis, of which nothing tells.
func (b *bundle) until(what string, done func() bool) {
	b.t.Helper()
	b.within(patience, what, done)
}

func (b *bundle) within(limit time.Duration, what string, done func() bool) {
	b.t.Helper()
	deadline := time.After(limit)
	for !done() {
		select {
		case <-deadline:
			b.t.Fatalf("not within %v: %s", limit, what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (b *bundle) keep(r Record) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if err := b.store.Keep(ctx, r); err != nil {
		b.t.Fatal(err)
	}
}

// info is what asynq knows of a task, nil if there is none.
func (b *bundle) info(queue, key string) *asynq.TaskInfo {
	b.t.Helper()
	info, err := b.store.inspector.GetTaskInfo(queue, key)
	if err != nil && !gone(err) {
		b.t.Fatal(err)
	}
	return info
}

// archived waits until asynq has given up a task.
func (b *bundle) archived(queue, key string) {
	b.t.Helper()
	b.until("archive "+key, func() bool {
		info := b.info(queue, key)
		return info != nil && info.State == asynq.TaskStateArchived
	})
}

// has reports whether there is a record.
func (b *bundle) has(k Key) bool {
	b.t.Helper()
	r, err := b.store.Get(b.t.Context(), k)
	if err != nil {
		b.t.Fatal(err)
	}
	return r != nil
}

// keepMany keeps records from several goroutines.
func (b *bundle) keepMany(records []Record) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*patience)
	defer cancel()
	var wg sync.WaitGroup
	for part := range slices.Chunk(records, (len(records)+7)/8) {
		wg.Go(func() {
			for _, r := range part {
				if err := b.store.Keep(ctx, r); err != nil {
					b.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// replay replays records, all of which go.
func (b *bundle) replay(keys ...Key) {
	b.t.Helper()
	out, err := b.store.Replay(b.t.Context(), keys, b.out.publish, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, o := range out {
		if !o.Done {
			b.t.Fatalf("got %+v, want it replayed", o)
		}
	}
}

func (b *bundle) entries() []Entry {
	b.t.Helper()
	return b.list(Filter{})
}

func (b *bundle) list(f Filter) []Entry {
	b.t.Helper()
	var all []Entry
	if err := b.store.Each(b.t.Context(), f, func(e Entry) bool {
		all = append(all, e)
		return true
	}); err != nil {
		b.t.Fatal(err)
	}
	return all
}

// get returns a whole record.
func (b *bundle) get(k Key) *Record {
	b.t.Helper()
	r, err := b.store.Get(b.t.Context(), k)
	if err != nil {
		b.t.Fatal(err)
	}
	if r == nil {
		b.t.Fatalf("no record %s", k)
	}
	return r
}

// end stores how a task ended.
func (b *bundle) end(id string, state celery.State) {
	b.t.Helper()
	var result any = 1
	if state != celery.Success {
		result = boom
	}
	meta, err := celery.NewMeta(&celery.Request{ID: id, Task: "t"}, state, result, time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	if theirs, err := b.results.Record(b.t.Context(), meta, celery.Stored{}); err != nil || theirs.Raw != "" {
		b.t.Fatalf("got %q, %v, want %s recorded", theirs.Raw, err, state)
	}
}

func (b *bundle) state(id string) celery.State {
	b.t.Helper()
	states, err := b.store.States(b.t.Context(), []string{id})
	if err != nil {
		b.t.Fatal(err)
	}
	return states[0]
}

// outbox is a broker that notes what is published to it.
type outbox struct {
	mu   sync.Mutex
	got  []rabbit.Message
	fail func(rabbit.Message) error // nil: nothing fails
}

func (o *outbox) publish(ctx context.Context, _ bool, messages ...rabbit.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	faults := make(rabbit.Errors, len(messages))
	for i, m := range messages {
		if o.fail != nil {
			faults[i] = o.fail(m)
		}
		if faults[i] == nil {
			o.got = append(o.got, m)
		}
	}
	return faults.OrNil()
}

func (o *outbox) refuse(fail func(rabbit.Message) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = fail
}

func (o *outbox) messages() []rabbit.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.got)
}

// counts is how often each id was published.
func (o *outbox) counts() map[string]int {
	out := map[string]int{}
	for _, m := range o.messages() {
		out[text(m.Headers["id"])]++
	}
	return out
}

var boom = celery.NewException("ValueError", "boom", nil)

// request is a job with one argument.
func request(id string) *celery.Request {
	return &celery.Request{ID: id, Task: "t", Args: []json.RawMessage{json.RawMessage(`"a"`)}}
}

// message is the message of a job, as the consumer takes it from queue q.ai.
func message(t testing.TB, req *celery.Request) rabbit.Message {
	t.Helper()
	m, err := rabbit.New(celery.Message{Request: req, Exchange: "tasks", RoutingKey: "ai.test"})
	if err != nil {
		t.Fatal(err)
	}
	p := m.Publishing()
	return rabbit.Of(amqp.Delivery{
		Headers: p.Headers, Body: p.Body, Exchange: "tasks", RoutingKey: "ai.test",
		ContentType: p.ContentType, ContentEncoding: p.ContentEncoding,
		CorrelationId: p.CorrelationId, ReplyTo: p.ReplyTo, DeliveryMode: p.DeliveryMode, Priority: 3,
	}, "q.ai").Message
}

// requestOf is what a message asks for, as far as it can be read.
func requestOf(t testing.TB, m rabbit.Message) *celery.Request {
	t.Helper()
	req, err := m.Request()
	if err != nil {
		return &celery.Request{}
	}
	return req
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// failure is the record of a job that failed.
func failure(t testing.TB, id string) Record {
	t.Helper()
	req := request(id)
	return Failure(message(t, req), req, boom, ReasonFailed)
}

// failedAgain is the record of a job that was published as m, and failed.
func failedAgain(t testing.TB, m rabbit.Message) Record {
	t.Helper()
	req, err := m.Request()
	if err != nil {
		t.Fatal(err)
	}
	return Failure(m, req, boom, ReasonFailed)
}

// key is that of a job which was not replayed.
func key(id string) Key { return Key(id + ":0") }

func ids(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("job-%04d", i)
	}
	return out
}

// wantOnce says that each id was published once.
func wantOnce(t *testing.T, got map[string]int, ids []string) {
	t.Helper()
	want := map[string]int{}
	for _, id := range ids {
		want[id] = 1
	}
	if maps.Equal(got, want) {
		return
	}
	for id, n := range got {
		if want[id] != n {
			t.Errorf("job %s was published %d times, want %d", id, n, want[id])
		}
	}
	for id := range want {
		if got[id] == 0 {
			t.Errorf("job %s was not published", id)
		}
	}
}

var errAway = errors.New("the broker is away")

// foreign enqueues a task that is not ours.
func (b *bundle) foreign(queue, key string, payload []byte) {
	b.t.Helper()
	if _, err := b.store.queue.EnqueueContext(b.t.Context(), asynq.NewTask("x", payload), asynq.Queue(queue), asynq.TaskID(key)); err != nil {
		b.t.Fatal(err)
	}
}

// keys are those in Redis that match a pattern, in order.
func (b *bundle) keys(pattern string) []string {
	b.t.Helper()
	keys, err := b.client.Keys(b.t.Context(), pattern).Result()
	if err != nil {
		b.t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

// pieces is the key of the first of the pieces of a record's message, of one that is
// not there if it has none.
func (b *bundle) pieces(k Key) string {
	b.t.Helper()
	if keys := b.keys(longKey(k, "*")); len(keys) > 0 {
		return keys[0]
	}
	return longKey(k, "none")
}

// parkedPieces is the same of a parked job.
func (b *bundle) parkedPieces(key string) string {
	b.t.Helper()
	if keys := b.keys(piecesKey(QueueDelay, key, "*")); len(keys) > 0 {
		return keys[0]
	}
	return piecesKey(QueueDelay, key, "none")
}
