package failed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/progress"
	"onceover/rabbit"
	"onceover/results"
)

// shortTimes let a test wait for what usually takes a while. The lease is long enough for a busy machine to prolong it.
var shortTimes = times{lock: 3 * time.Second, lease: 3 * time.Second, look: 20 * time.Millisecond, pause: 20 * time.Millisecond, confirm: 500 * time.Millisecond}

// runBulks works on bulks until stop, or until the test ends.
func (b *bundle) runBulks(s *Store, publish Publish) (stop func()) {
	b.t.Helper()
	s.times = shortTimes
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.RunBulks(ctx, publish)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	b.t.Cleanup(stop)
	return stop
}

// begin has a bulk begin.
func (b *bundle) begin(bulk Bulk) Bulk {
	b.t.Helper()
	if bulk.By == "" {
		bulk.By = "kim"
	}
	got, err := b.store.BeginBulk(b.t.Context(), bulk)
	if err != nil {
		b.t.Fatal(err)
	}
	if got.ID == "" || got.State != BulkRunning {
		b.t.Fatalf("got %+v, want one that runs", got)
	}
	return got
}

func (b *bundle) bulk(id string) Bulk {
	b.t.Helper()
	got, err := b.store.BulkOf(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	if got == nil {
		b.t.Fatalf("bulk %s is not known", id)
	}
	return *got
}

// ended waits until a bulk does not run any more.
func (b *bundle) ended(id string) Bulk {
	b.t.Helper()
	b.within(5*patience, "the end of bulk "+id, func() bool { return b.bulk(id).State != BulkRunning })
	return b.bulk(id)
}

// wantBulk compares what has become of a bulk.
func wantBulk(t *testing.T, got Bulk, state string, total, done, left int) {
	t.Helper()
	if got.State != state || got.Total != total || got.Done != done || got.Left != left {
		t.Errorf("got %s: %d of %d done, %d left, want %s: %d of %d, %d left", got.State, got.Done, got.Total, got.Left, state, done, total, left)
	}
	if got.Ended.IsZero() == (state != BulkRunning) {
		t.Errorf("got the end %v of a bulk that is %s", got.Ended, got.State)
	}
	if state != BulkRunning && got.Fault != "" {
		t.Errorf("got the fault %q of a bulk that is %s", got.Fault, got.State)
	}
}

// kept keeps n jobs and returns their ids.
func (b *bundle) kept(n int, change func(i int, r *Record)) []string {
	b.t.Helper()
	template := failure(b.t, "template")
	all := ids(n)
	records := make([]Record, n)
	for i, id := range all {
		r := template
		r.ID = id
		r.Message = r.Message.Clone()
		r.Message.Headers["id"], r.Message.Headers["root_id"] = id, id
		if change != nil {
			change(i, &r)
		}
		records[i] = r
	}
	b.keepMany(records)
	return all
}

// TestBulkReplaysWhatIsChosen replays the jobs of one cause, then those with a text.
func TestBulkReplaysWhatIsChosen(t *testing.T) {
	b := setup(t)
	all := b.kept(250, func(i int, r *Record) {
		if i%2 == 0 {
			r.Error, r.Text = "KeyError", "'image_url'"
		} else if i < 20 {
			r.Text = "Boom at the Needle"
		}
	})
	causes, err := b.store.Causes(t.Context())
	if err != nil || len(causes) != 3 {
		t.Fatalf("got %d causes, %v, want 3", len(causes), err)
	}
	cause := causes[slices.IndexFunc(causes, func(c Cause) bool { return c.Error == "KeyError" })].ID
	b.runBulks(b.store, b.out.publish)

	bulk := b.begin(Bulk{Action: BulkReplay, Filter: Filter{Cause: cause}})
	if bulk.Total != 125 || !bulk.Exact || bulk.By != "kim" || bulk.Began.IsZero() {
		t.Errorf("got %+v, want exactly 125 jobs to be replayed", bulk)
	}
	wantBulk(t, b.ended(bulk.ID), BulkDone, 125, 125, 0)
	var even, odd, needles []string
	for i, id := range all {
		switch {
		case i%2 == 0:
			even = append(even, id)
		case i < 20:
			needles = append(needles, id)
		default:
			odd = append(odd, id)
		}
	}
	wantOnce(t, b.out.counts(), even)

	bulk = b.begin(Bulk{Action: BulkReplay, Filter: Filter{Text: "needle"}})
	if bulk.Total != 10 || !bulk.Exact {
		t.Errorf("got %d jobs with the text, exact %v, want exactly 10", bulk.Total, bulk.Exact)
	}
	wantBulk(t, b.ended(bulk.ID), BulkDone, 10, 10, 0)
	wantOnce(t, b.out.counts(), append(slices.Clone(even), needles...))
	var rest []string
	for _, e := range b.entries() {
		rest = append(rest, e.Key.Name())
	}
	slices.Sort(rest)
	if !slices.Equal(rest, odd) {
		t.Errorf("got %d failed jobs left, want the %d that were not chosen", len(rest), len(odd))
	}

	// How they ended: some well, one not, the others wait.
	for _, id := range even[:7] {
		b.end(id, celery.Success)
	}
	b.end(even[7], celery.Failure)
	bulks, err := b.store.Bulks(t.Context(), 10)
	if err != nil || len(bulks) != 2 {
		t.Fatalf("got %d bulks, %v", len(bulks), err)
	}
	ends, err := b.store.BulkEnds(t.Context(), bulks[1].ID)
	if want := (map[celery.State]int{celery.Success: 7, celery.Failure: 1, "": 117}); err != nil || !maps.Equal(ends, want) {
		t.Errorf("got the ends %v, %v, want %v", ends, err, want)
	}
}

// TestBulkLeft has a job that has succeeded meanwhile, and one whose queue does not exist.
func TestBulkLeft(t *testing.T) {
	b := setup(t)
	all := b.kept(5, nil)
	b.end(all[1], celery.Success)
	b.out.refuse(func(m rabbit.Message) error {
		if text(m.Headers["id"]) == all[3] {
			return fmt.Errorf("%w (%q)", rabbit.ErrNoQueue, m.Queue)
		}
		return nil
	})
	b.runBulks(b.store, b.out.publish)
	bulk := b.begin(Bulk{Action: BulkReplay})
	wantBulk(t, b.ended(bulk.ID), BulkDone, 5, 3, 2)
	wantOnce(t, b.out.counts(), []string{all[0], all[2], all[4]})
	left, err := b.store.BulkLeft(t.Context(), bulk.ID, 10)
	if err != nil || len(left) != 2 || left[0].Key != key(all[1]) || left[1].Key != key(all[3]) ||
		!strings.Contains(left[0].Why, "succeeded") || !strings.Contains(left[1].Why, "start a worker that consumes it") {
		t.Errorf("got left %+v, %v, want the two with their reasons", left, err)
	}
	if few, err := b.store.BulkLeft(t.Context(), bulk.ID, 1); err != nil || len(few) != 1 || !slices.Contains(left, few[0]) {
		t.Errorf("got left %+v, %v, want one of the two", few, err)
	}
	if !b.has(key(all[1])) || !b.has(key(all[3])) || b.has(key(all[0])) {
		t.Error("want the two that were left to be kept, and no other")
	}
	for _, key := range b.keys(bulkKey(bulk.ID) + "*") {
		if ttl := b.client.TTL(t.Context(), key).Val(); ttl <= 0 || ttl > bulkTTL {
			t.Errorf("%s is kept for %v, want %v at most", key, ttl, bulkTTL)
		}
	}
	ends, err := b.store.BulkEnds(t.Context(), bulk.ID)
	if err != nil || !maps.Equal(ends, map[celery.State]int{"": 3}) {
		t.Errorf("got the ends %v, %v, want those of the three that were replayed", ends, err)
	}
}

// TestBulkLeavesAll has no queue for any of more jobs than a step has: each is tried once.
func TestBulkLeavesAll(t *testing.T) {
	b := setup(t)
	all := b.kept(2*ReplayBatch+10, nil)
	var tried atomic.Int64
	b.out.refuse(func(m rabbit.Message) error {
		if tried.Add(1) > int64(len(all)) {
			return nil // so that it ends
		}
		return rabbit.ErrNoQueue
	})
	b.runBulks(b.store, b.out.publish)
	bulk := b.begin(Bulk{Action: BulkReplay})
	wantBulk(t, b.ended(bulk.ID), BulkDone, len(all), 0, len(all))
	if n := len(b.out.messages()); n != 0 {
		t.Errorf("got %d jobs tried again", n)
	}
}

// TestBulkFailsAgain has every job fail again as soon as it is published: none is replayed twice.
func TestBulkFailsAgain(t *testing.T) {
	b := setup(t)
	all := b.kept(2*ReplayBatch+30, nil)
	publish := func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		if err := b.out.publish(ctx, create, messages...); err != nil {
			return err
		}
		for _, m := range messages {
			if err := b.store.Keep(ctx, failedAgain(t, m)); err != nil {
				return err
			}
		}
		return nil
	}
	// Nothing runs before the bulk has begun, so that all fail later than it began.
	bulk := b.begin(Bulk{Action: BulkReplay})
	b.until("the next millisecond", func() bool { return time.Now().After(bulk.Began.Add(time.Millisecond)) })
	late := failure(t, "late") // so that a step that is done again does not find it either
	b.keep(late)
	b.runBulks(b.store, publish)
	wantBulk(t, b.ended(bulk.ID), BulkDone, len(all), len(all), 0)
	wantOnce(t, b.out.counts(), all)
	if err := b.store.Discard(t.Context(), key("late")); err != nil {
		t.Fatal(err)
	}
	entries := b.entries()
	if len(entries) != len(all) {
		t.Fatalf("got %d failed jobs, want the %d that failed again", len(entries), len(all))
	}
	for _, e := range entries {
		if e.Replays != 1 || !e.Last.After(bulk.Began) {
			t.Fatalf("got %s, which failed last at %v, want it to have failed again after %v", e.Key, e.Last, bulk.Began)
		}
	}
}

// TestBulkDiscards discards the jobs of one error.
func TestBulkDiscards(t *testing.T) {
	b := setup(t)
	b.kept(130, func(i int, r *Record) {
		if i >= 120 {
			r.Error = "KeyError"
		}
	})
	b.runBulks(b.store, b.out.publish)
	bulk := b.begin(Bulk{Action: BulkDiscard, Filter: Filter{Error: "ValueError"}})
	wantBulk(t, b.ended(bulk.ID), BulkDone, 120, 120, 0)
	if got := len(b.entries()); got != 10 || len(b.out.messages()) != 0 {
		t.Errorf("got %d failed jobs left and %d published, want 10 and none", got, len(b.out.messages()))
	}
}

// TestBulkRate replays 40 jobs at 40 a second, in steps of ten: the last step begins after three quarters of a second.
func TestBulkRate(t *testing.T) {
	b := setup(t)
	all := b.kept(40, nil)
	var mu sync.Mutex
	var sizes []int
	var last time.Time
	b.runBulks(b.store, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		mu.Lock()
		sizes, last = append(sizes, len(messages)), time.Now()
		mu.Unlock()
		return b.out.publish(ctx, create, messages...)
	})
	began := time.Now()
	bulk := b.begin(Bulk{Action: BulkReplay, Rate: 40})
	wantBulk(t, b.ended(bulk.ID), BulkDone, 40, 40, 0)
	wantOnce(t, b.out.counts(), all)
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(sizes, []int{10, 10, 10, 10}) {
		t.Errorf("got steps of %v jobs, want four of ten", sizes)
	}
	if took := last.Sub(began); took < 750*time.Millisecond {
		t.Errorf("the last jobs were published after %v, want three quarters of a second at least", took)
	}
	if b.bulk(bulk.ID).Rate != 40 {
		t.Errorf("got the rate %v, want 40", b.bulk(bulk.ID).Rate)
	}
}

// TestBulkStop stops a bulk while it publishes a step: that is finished, and nothing is begun after it.
func TestBulkStop(t *testing.T) {
	b := setup(t)
	all := b.kept(3*ReplayBatch, nil)
	inside, goOn := make(chan struct{}, 1), make(chan struct{})
	b.runBulks(b.store, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		inside <- struct{}{}
		<-goOn
		return b.out.publish(ctx, create, messages...)
	})
	bulk := b.begin(Bulk{Action: BulkReplay})
	<-inside
	if ran, err := b.store.StopBulk(t.Context(), bulk.ID); err != nil || !ran {
		t.Errorf("got %v, %v, want it stopped", ran, err)
	}
	if ran, err := b.store.StopBulk(t.Context(), bulk.ID); err != nil || ran {
		t.Errorf("got %v, %v for the second time, want that it has ended", ran, err)
	}
	close(goOn)
	b.until("the end of the step", func() bool { return b.client.Exists(t.Context(), bulkLeaseKey(bulk.ID)).Val() == 0 })
	wantBulk(t, b.bulk(bulk.ID), BulkStopped, len(all), ReplayBatch, 0)
	if got := len(b.out.messages()); got != ReplayBatch {
		t.Errorf("got %d jobs published, want the %d of the step that was under way", got, ReplayBatch)
	}
	if got := len(b.entries()); got != 2*ReplayBatch {
		t.Errorf("got %d failed jobs left, want %d", got, 2*ReplayBatch)
	}
	if ran, err := b.store.StopBulk(t.Context(), "unknown"); err != nil || ran {
		t.Errorf("got %v, %v for a bulk that is not known", ran, err)
	}
}

// TestBulkBrokerAway has the broker away for a while: it is said so, and the bulk goes on by itself.
func TestBulkBrokerAway(t *testing.T) {
	b := setup(t)
	all := b.kept(4*ReplayBatch, nil)
	b.out.refuse(func(m rabbit.Message) error {
		if n, err := strconv.Atoi(text(m.Headers["id"])[4:]); err != nil || n%2 == 1 {
			return errAway
		}
		return nil
	})
	b.runBulks(b.store, b.out.publish)
	bulk := b.begin(Bulk{Action: BulkReplay})
	b.until("the fault is shown", func() bool { return strings.Contains(b.bulk(bulk.ID).Fault, errAway.Error()) })
	// The others go, and count, and what does not go is tried again and again with more.
	b.until("half of a step has gone", func() bool { return len(b.out.messages()) >= ReplayBatch/2 })
	b.until("those count that have gone", func() bool { return b.bulk(bulk.ID).Done == len(b.out.messages()) })
	b.until("those are kept that have not gone", func() bool { return len(b.entries()) == len(all)-len(b.out.messages()) })
	// It goes on: there is no fault any more while it does its second step.
	inside, goOn := make(chan struct{}, 1), make(chan struct{})
	var sent atomic.Int64
	b.out.refuse(func(rabbit.Message) error {
		if sent.Add(1) == ReplayBatch+1 {
			inside <- struct{}{}
			<-goOn
		}
		return nil
	})
	<-inside
	if got := b.bulk(bulk.ID); got.State != BulkRunning || got.Fault != "" {
		t.Errorf("got %s with the fault %q, want it to go on", got.State, got.Fault)
	}
	close(goOn)
	wantBulk(t, b.ended(bulk.ID), BulkDone, len(all), len(all), 0)
	wantOnce(t, b.out.counts(), all)

	// One that is stopped while it waits says nothing of the broker any more, even if a step ends after that.
	again := b.kept(3, func(_ int, r *Record) { r.ID += "-again"; r.Message.Headers["id"] = r.ID })
	goOn = make(chan struct{})
	b.out.refuse(func(rabbit.Message) error {
		select {
		case inside <- struct{}{}:
		default:
		}
		<-goOn
		return errAway
	})
	bulk = b.begin(Bulk{Action: BulkReplay})
	<-inside
	if _, err := b.store.StopBulk(t.Context(), bulk.ID); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	b.until("the end of the step", func() bool { return b.client.Exists(t.Context(), bulkLeaseKey(bulk.ID)).Val() == 0 })
	wantBulk(t, b.bulk(bulk.ID), BulkStopped, len(again), 0, 0)
	if got := len(b.entries()); got != len(again) {
		t.Errorf("got %d failed jobs, want all kept", got)
	}
}

// Where a process that works on a bulk is killed, see bulkChild.
const (
	killAtPublish = "publish" // before the jobs of a step are published
	killAtCursor  = "cursor"  // after they were replayed, before it is noted where to go on

	childURL, childPoint = "ONCEOVER_TEST_BULK_REDIS", "ONCEOVER_TEST_BULK_KILL"
	childList            = "published" // in DB9: ids
)

// bulkChild is the process that TestBulkKilled kills: it works on bulks, with a list in Redis as its broker. It returns after two minutes.
func bulkChild(url string) {
	connect := func(db int) *redis.Client {
		opt, err := redisretry.Options(url)
		if err != nil {
			panic(err)
		}
		opt.DB = db
		return redis.NewClient(opt)
	}
	db0, db5, list := connect(0), connect(5), connect(9)
	s := New(Config{}, db5, results.New(db0, zap.NewNop()), progress.New(db0, zap.NewNop()), nil, zap.NewNop())
	s.times = shortTimes
	kill := &killer{point: os.Getenv(childPoint)}
	kill.left.Store(4)
	db5.AddHook(kill)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s.RunBulks(ctx, func(ctx context.Context, _ bool, messages ...rabbit.Message) error {
		kill.at(killAtPublish)
		return pushTo(ctx, list, messages)
	})
}

// pushTo publishes all messages or none.
func pushTo(ctx context.Context, list *redis.Client, messages []rabbit.Message) error {
	names := make([]any, len(messages))
	for i, m := range messages {
		names[i] = text(m.Headers["id"])
	}
	return list.RPush(ctx, childList, names...).Err()
}

// killer kills this process when it passes a point for the fourth time.
type killer struct {
	point string
	left  atomic.Int64
}

func (k *killer) at(point string) {
	if point == k.point && k.left.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until it has come
	}
}

func (*killer) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*killer) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (k *killer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, c := range cmds {
			if args := c.Args(); c.Name() == "hset" && len(args) > 2 && args[2] == bulkCursor {
				k.at(killAtCursor)
			}
		}
		return next(ctx, cmds)
	}
}

// TestBulkKilled kills the process that works on a bulk of 1,000 jobs, which leaves its lease and its locks behind: another process
// goes on once these have run out, and each job is published once.
func TestBulkKilled(t *testing.T) {
	for _, point := range []string{killAtPublish, killAtCursor} {
		t.Run(point, func(t *testing.T) {
			b := setup(t)
			all := b.kept(1000, nil)
			b.store.times = shortTimes
			bulk := b.begin(Bulk{Action: BulkReplay})
			child := exec.CommandContext(t.Context(), os.Args[0])
			child.Env = append(os.Environ(), childURL+"="+b.server.URL(), childPoint+"="+point)
			said, err := child.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the other process ended with %v, want it killed\n%s", err, said)
			}
			before := b.bulk(bulk.ID)
			list := b.connect(9)
			published := func() map[string]int {
				counts := map[string]int{}
				for _, id := range list.LRange(t.Context(), childList, 0, -1).Val() {
					counts[id]++
				}
				return counts
			}
			if n := len(published()); before.State != BulkRunning || n == 0 || n == 1000 {
				t.Fatalf("got %+v and %d published when the process was killed, want it in the middle", before, n)
			}

			other := b.newStore(Config{})
			b.runBulks(other, func(ctx context.Context, _ bool, messages ...rabbit.Message) error {
				return pushTo(ctx, list, messages)
			})
			wantBulk(t, b.ended(bulk.ID), BulkDone, 1000, 1000, 0)
			wantOnce(t, published(), all)
			if got := len(b.entries()); got != 0 {
				t.Errorf("got %d failed jobs left, want none", got)
			}
		})
	}
}

// TestBulkLeaseHeld leaves a lease of another process: nobody else works on the bulk while it lasts.
func TestBulkLeaseHeld(t *testing.T) {
	b := setup(t)
	all := b.kept(3, nil)
	b.store.times = shortTimes
	bulk := b.begin(Bulk{Action: BulkReplay})
	free := b.begin(Bulk{Action: BulkReplay, Filter: Filter{Text: "no job has this"}})
	if err := b.client.Set(t.Context(), bulkLeaseKey(bulk.ID), "another", 0).Err(); err != nil {
		t.Fatal(err)
	}
	b.runBulks(b.store, b.out.publish)
	wantBulk(t, b.ended(free.ID), BulkDone, 0, 0, 0) // so that it has looked at both
	next := b.begin(Bulk{Action: BulkReplay, Filter: Filter{Text: "no job has this"}})
	b.ended(next.ID)
	wantBulk(t, b.bulk(bulk.ID), BulkRunning, 3, 0, 0)
	if n := len(b.out.messages()); n != 0 {
		t.Errorf("got %d jobs published under the lease of another, want none", n)
	}
	if err := b.client.Del(t.Context(), bulkLeaseKey(bulk.ID)).Err(); err != nil {
		t.Fatal(err)
	}
	wantBulk(t, b.ended(bulk.ID), BulkDone, 3, 3, 0)
	wantOnce(t, b.out.counts(), all)
}

// TestBulkLeaseLost takes the lease away in the middle, as when a process was stopped for long: it begins nothing more.
func TestBulkLeaseLost(t *testing.T) {
	b := setup(t)
	b.kept(3*ReplayBatch, nil)
	inside := make(chan struct{}, 10)
	var calls atomic.Int64
	b.runBulks(b.store, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		calls.Add(1)
		inside <- struct{}{}
		<-ctx.Done() // it is told while it publishes
		return ctx.Err()
	})
	bulk := b.begin(Bulk{Action: BulkReplay})
	<-inside
	if err := b.client.Set(t.Context(), bulkLeaseKey(bulk.ID), "another", 0).Err(); err != nil {
		t.Fatal(err)
	}
	b.until("the locks are released", func() bool { return len(b.keys("onceover:replaying:*")) == 0 })
	if got := b.client.Get(t.Context(), bulkLeaseKey(bulk.ID)).Val(); got != "another" {
		t.Errorf("got the lease %q, want that of the other process left alone", got)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("got %d steps, want none after the lease was lost", n)
	}
	if got := len(b.entries()); got != 3*ReplayBatch {
		t.Errorf("got %d failed jobs, want all of them kept", got)
	}
	// The other process may have begun with the same jobs, and counts them.
	wantBulk(t, b.bulk(bulk.ID), BulkRunning, 3*ReplayBatch, ReplayBatch, 0)
}

// TestBulkLocked has another command replay one of the jobs: the bulk waits for it, and counts it once. Meanwhile a job that was skipped is
// neither done nor left.
func TestBulkLocked(t *testing.T) {
	b := setup(t)
	all := b.kept(5, nil)
	b.end(all[0], celery.Success)
	if err := b.client.Set(t.Context(), lockKey(key(all[2])), "another", 0).Err(); err != nil {
		t.Fatal(err)
	}
	b.runBulks(b.store, b.out.publish)
	bulk := b.begin(Bulk{Action: BulkReplay})
	b.until("it waits", func() bool { return strings.Contains(b.bulk(bulk.ID).Fault, "1 of the next jobs are locked") })
	wantBulk(t, b.bulk(bulk.ID), BulkRunning, 5, 3, 0)
	if err := b.client.Del(t.Context(), lockKey(key(all[2]))).Err(); err != nil {
		t.Fatal(err)
	}
	wantBulk(t, b.ended(bulk.ID), BulkDone, 5, 4, 1)
	wantOnce(t, b.out.counts(), all[1:])
}

// TestBulkOfAnotherVersion has a newer version begin a bulk with a filter that this one does not know: it does nothing, and says why.
func TestBulkOfAnotherVersion(t *testing.T) {
	b := setup(t)
	b.kept(3, nil)
	bulk := b.begin(Bulk{Action: BulkDiscard, Filter: Filter{Error: "none of them"}})
	if err := b.client.HSet(t.Context(), bulkKey(bulk.ID), bulkAbout, `{"id":"`+bulk.ID+`","action":"discard","filter":{"colour":"red"}}`).Err(); err != nil {
		t.Fatal(err)
	}
	b.runBulks(b.store, b.out.publish)
	b.until("it waits", func() bool { return strings.Contains(b.bulk(bulk.ID).Fault, "another version") })
	wantBulk(t, b.bulk(bulk.ID), BulkRunning, 0, 0, 0)
	if n := len(b.entries()); n != 3 {
		t.Errorf("got %d failed jobs, want all three", n)
	}
}

// TestBulkTogether has two processes work on several bulks at once.
func TestBulkTogether(t *testing.T) {
	b := setup(t)
	all := b.kept(600, func(i int, r *Record) { r.Error = "Error" + strconv.Itoa(i%3) })
	other := b.newStore(Config{})
	b.runBulks(b.store, b.out.publish)
	b.runBulks(other, b.out.publish)
	var begun []Bulk
	for i := range 3 {
		begun = append(begun, b.begin(Bulk{Action: BulkReplay, Filter: Filter{Error: "Error" + strconv.Itoa(i)}}))
	}
	for _, bulk := range begun {
		wantBulk(t, b.ended(bulk.ID), BulkDone, 200, 200, 0)
	}
	wantOnce(t, b.out.counts(), all)
}

// TestBulkRefused is a table of bulks that make no sense.
func TestBulkRefused(t *testing.T) {
	b := setup(t)
	b.keep(failure(t, "a"))
	for name, tt := range map[string]struct {
		bulk Bulk
		why  string
	}{
		"no action":        {Bulk{By: "kim"}, "action"},
		"another action":   {Bulk{By: "kim", Action: "delete"}, "action"},
		"negative rate":    {Bulk{By: "kim", Action: BulkReplay, Rate: -1}, "rate"},
		"rate too high":    {Bulk{By: "kim", Action: BulkReplay, Rate: 1e7}, "rate"},
		"rate too low":     {Bulk{By: "kim", Action: BulkReplay, Rate: 1e-12}, "rate"},
		"rate no number":   {Bulk{By: "kim", Action: BulkReplay, Rate: math.NaN()}, "rate"},
		"rate is infinite": {Bulk{By: "kim", Action: BulkReplay, Rate: math.Inf(1)}, "rate"},
		"nobody":           {Bulk{Action: BulkReplay}, "by"},
	} {
		_, err := b.store.BeginBulk(t.Context(), tt.bulk)
		var wrong *BulkError
		if !errors.As(err, &wrong) || !strings.HasPrefix(wrong.Text, tt.why+" is ") {
			t.Errorf("%s: got %v, want a *BulkError of its %s", name, err, tt.why)
		}
	}
	if all, err := b.store.Bulks(t.Context(), 10); err != nil || len(all) != 0 {
		t.Errorf("got %+v, %v, want that none has begun", all, err)
	}
}

// TestBulksAreListed lists the latest first, and forgets those of more than a week ago.
func TestBulksAreListed(t *testing.T) {
	b := setup(t)
	var want []string
	for range 3 {
		bulk := b.begin(Bulk{Action: BulkDiscard})
		want = append([]string{bulk.ID}, want...)
		b.until("the next millisecond", func() bool { return time.Now().After(bulk.Began.Add(time.Millisecond)) })
	}
	list := func(most int) (out []string) {
		all, err := b.store.Bulks(t.Context(), most)
		if err != nil {
			t.Fatal(err)
		}
		for _, bulk := range all {
			out = append(out, bulk.ID)
		}
		return out
	}
	if got := list(10); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := list(2); !slices.Equal(got, want[:2]) {
		t.Errorf("got %v, want the latest two of %v", got, want)
	}
	if ttl := b.client.TTL(t.Context(), bulkKey(want[0])).Val(); ttl < bulkTTL-time.Hour || ttl > bulkTTL {
		t.Errorf("a bulk is kept for %v, want %v", ttl, bulkTTL)
	}
	// A week later.
	old := float64(time.Now().Add(-bulkTTL - time.Minute).UnixMilli())
	if err := b.client.ZAdd(t.Context(), bulksKey, redis.Z{Score: old, Member: want[2]}).Err(); err != nil {
		t.Fatal(err)
	}
	if err := b.client.Del(t.Context(), bulkKey(want[1])).Err(); err != nil { // its hash has expired, its id not yet
		t.Fatal(err)
	}
	next := b.begin(Bulk{Action: BulkDiscard})
	if got := list(10); !slices.Equal(got, []string{next.ID, want[0]}) {
		t.Errorf("got %v, want %v", got, []string{next.ID, want[0]})
	}
	if b.client.ZScore(t.Context(), bulksKey, want[2]).Err() == nil {
		t.Error("the id of a week ago is there, want it forgotten")
	}
	if got, err := b.store.BulkOf(t.Context(), want[1]); got != nil || err != nil {
		t.Errorf("got %+v, %v of a bulk that has expired, want nothing", got, err)
	}
	// What has expired is not worked on for ever.
	b.runBulks(b.store, b.out.publish)
	b.until("none runs", func() bool { return b.client.Exists(t.Context(), runningKey).Val() == 0 })
}

// TestBulkEndsWithItsContext ends the work in the middle: nothing is lost, and another goes on at once.
func TestBulkEndsWithItsContext(t *testing.T) {
	b := setup(t)
	all := b.kept(3*ReplayBatch, nil)
	inside := make(chan struct{}, 10)
	var calls atomic.Int64
	stop := b.runBulks(b.store, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		if calls.Add(1) == 1 {
			return b.out.publish(ctx, create, messages...)
		}
		inside <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	bulk := b.begin(Bulk{Action: BulkReplay})
	<-inside
	stop()
	if n := b.client.Exists(t.Context(), bulkLeaseKey(bulk.ID)).Val(); n != 0 {
		t.Error("the lease is there, want it given back")
	}
	if locks := b.keys("onceover:replaying:*"); len(locks) != 0 {
		t.Errorf("got the locks %v, want none", locks)
	}
	wantBulk(t, b.bulk(bulk.ID), BulkRunning, len(all), ReplayBatch, 0)
	if got := len(b.entries()); got != 2*ReplayBatch {
		t.Errorf("got %d failed jobs, want the %d that were not published", got, 2*ReplayBatch)
	}
	b.runBulks(b.newStore(Config{}), b.out.publish)
	wantBulk(t, b.ended(bulk.ID), BulkDone, len(all), len(all), 0)
	wantOnce(t, b.out.counts(), all)
}

// TestBulkRedisAway kills Redis in the middle: the work goes on once it is back.
func TestBulkRedisAway(t *testing.T) {
	b := setup(t)
	all := b.kept(3*ReplayBatch, nil)
	inside, goOn := make(chan struct{}, 10), make(chan struct{})
	b.runBulks(b.store, func(ctx context.Context, create bool, messages ...rabbit.Message) error {
		select {
		case <-goOn:
			return b.out.publish(ctx, create, messages...)
		default:
		}
		inside <- struct{}{}
		<-goOn
		return errAway // it is not known whether they were published; here they were not
	})
	bulk := b.begin(Bulk{Action: BulkReplay})
	<-inside
	b.server.Kill()
	close(goOn)
	b.server.Start()
	wantBulk(t, b.ended(bulk.ID), BulkDone, len(all), len(all), 0)
	wantOnce(t, b.out.counts(), all)
}

// TestBulkOfAUser discards what failed of one user. It is not named where processes look that do not know of users.
func TestBulkOfAUser(t *testing.T) {
	b := setup(t)
	for _, user := range []string{"kim", "lee"} {
		r := failure(t, "job-"+user)
		r.User = user
		b.keep(r)
	}
	bulk := b.begin(Bulk{Action: BulkDiscard, Filter: Filter{User: "kim"}})
	if ids := b.client.SMembers(t.Context(), runningKey).Val(); len(ids) > 0 {
		t.Errorf("got %q where all processes look, want nothing", ids)
	}
	b.runBulks(b.store, b.out.publish)
	wantBulk(t, b.ended(bulk.ID), BulkDone, 1, 1, 0)
	if n, _, err := b.store.CountChosen(t.Context(), Filter{User: "lee"}); err != nil || n != 1 {
		t.Errorf("got %d jobs of the other user, %v, want 1", n, err)
	}
	if n := b.client.Exists(t.Context(), runningUserKey).Val(); n != 0 {
		t.Error("the bulk is named as running after its end")
	}
}
