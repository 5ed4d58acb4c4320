package loadtest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"onceover/celery"
	"onceover/rabbit"
	"onceover/results"
	"onceover/tasks"
)

// Config is what is measured.
type Config struct {
	Jobs  int
	Shape Shape
	// Rate is how many jobs are sent in a second; 0: as fast as the broker takes them.
	Rate float64
	// ModelDelay is how long the model that the test plays takes for an answer.
	ModelDelay time.Duration
	Side       int           // longer side of the pictures, in pixels
	Radius     int           // most bits between the hashes of a picture and a near copy
	Stall      time.Duration // the test gives up when no job that was sent has ended for so long
	Window     int           // jobs that are sent and have not ended, at most; 0: no bound
	Shared     bool          // the queue is others' too: no job is sent for which it has no room
	Settle     time.Duration // after Prepare, for workers to hear of each other's pictures
	Listen     string        // address at which pictures are served and the model is played
	Seed       uint64        // of the pictures; another seed has pictures that nobody has seen
}

// Bounds of a test: what a machine holds in memory, and what a worker takes.
const (
	maxJobs = 1_000_000
	minSide = 64
	maxSide = 8000
	// maxKnown is how many pictures the jobs of kinds Hash and File share.
	maxKnown = 50
	// mostBytes is what all pictures may take, with about so many bytes for a pixel.
	mostBytes, perPixel = 2 << 30, 0.25
)

// DefaultConfig returns what a test is without wishes.
func DefaultConfig() Config {
	return Config{
		Jobs: 1000, Shape: Shape{{Hash, 50}, {File, 15}, {Near, 10}, {Miss, 25}}, ModelDelay: 2 * time.Second,
		Side: 640, Radius: 20, Stall: time.Minute, Window: 10_000, Listen: "127.0.0.1:0",
	}
}

// Validate says what of the configuration cannot be.
func (c Config) Validate() error {
	var faults []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	want(c.Jobs >= 1 && c.Jobs <= maxJobs, "jobs is %d: expected 1 to %d", c.Jobs, maxJobs)
	want(len(c.Shape) > 0, "shape is empty: expected kinds, as in hash:70,near:10,miss:20")
	want(c.Rate >= 0 && c.Rate <= 1e6, "rate is %v: expected 0 to 1000000 jobs a second", c.Rate)
	want(c.ModelDelay >= 0 && c.ModelDelay <= 10*time.Minute, "model delay is %v: expected 0 to 10m", c.ModelDelay)
	want(c.Side >= minSide && c.Side <= maxSide, "picture side is %d: expected %d to %d pixels", c.Side, minSide, maxSide)
	want(c.Radius >= 1, "radius is %d: expected 1 or more bits", c.Radius)
	want(c.Stall > c.ModelDelay, "the time until it gives up is %v: expected more than the model's delay of %v", c.Stall, c.ModelDelay)
	want(c.Window >= 0, "window is %d: expected 0 or more", c.Window)
	want(c.Settle >= 0, "settle is %v: expected 0 or more", c.Settle)
	if len(faults) == 0 {
		n := c.Shape.Of(c.Jobs)
		want(c.bytes() <= mostBytes, "%d near copies and %d misses need a picture each, of %d pixels a side, some %.1f GB in all: expected at most %.0f GB; name fewer jobs, smaller pictures, or another shape",
			n[Near], n[Miss], c.Side, c.bytes()/(1<<30), float64(mostBytes)/(1<<30))
	}
	return errors.Join(faults...)
}

// pictures is how many are drawn.
func (c Config) pictures() int {
	n := c.Shape.Of(c.Jobs)
	return min(n[Hash]+n[File], maxKnown) + 2*n[Near] + n[Miss]
}

// bytes is about what they take.
func (c Config) bytes() float64 {
	return float64(c.pictures()) * float64(c.Side) * float64(c.Side) * 3 / 4 * perPixel
}

// Prepared is how many pictures are to be known before the test.
func (c Config) Prepared() int {
	n := c.Shape.Of(c.Jobs)
	return min(n[Hash]+n[File], maxKnown) + n[Near]
}

// ModelCalls returns about how many pictures the model is asked about: those that are to be known, and the misses.
func (c Config) ModelCalls() int {
	return c.Prepared() + c.Shape.Of(c.Jobs)[Miss]
}

// Test is one that has its pictures, and serves them.
type Test struct {
	cfg  Config
	host *host
	// Numbers of pictures: the known ones come first, then each original with its copy, then the misses.
	known, near, miss int
	hashes            []string // of the known ones and of the originals
}

// New draws the pictures, and begins to serve them. step is told of each picture that is drawn. Call Close.
func New(ctx context.Context, cfg Config, step func(drawn, of int)) (*Test, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := cfg.Shape.Of(cfg.Jobs)
	t := &Test{cfg: cfg, known: min(n[Hash]+n[File], maxKnown), near: n[Near], miss: n[Miss]}
	pictures := make([][]byte, cfg.pictures())
	a := album{cfg.Seed, cfg.Side}
	var mu sync.Mutex
	drawn := 0
	tell := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		drawn += n
		step(drawn, len(pictures))
	}
	single := t.known + t.miss
	err := parallel(ctx, single+t.near, func(i int) (err error) {
		if i >= single {
			at := t.original(i - single)
			pictures[at], pictures[at+1], err = a.pair(at, cfg.Radius)
			tell(2)
			return err
		}
		at := i
		if i >= t.known {
			at = t.missed(i - t.known)
		}
		pictures[at], err = a.one(at)
		tell(1)
		return err
	})
	if err != nil {
		return nil, err
	}
	if t.host, err = openHost(cfg.Listen, pictures); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Test) original(i int) int { return t.known + 2*i }
func (t *Test) missed(i int) int   { return t.known + 2*t.near + i }

// Close ends what New began.
func (t *Test) Close() { t.host.close() }

// Addr is where the pictures are.
func (t *Test) Addr() string { return t.host.addr }

// ModelURL is the base URL of the model that the test plays.
func (t *Test) ModelURL() string { return "http://" + t.host.addr + "/v1" }

// job is one that is sent.
type job struct {
	id      string
	kind    Kind
	picture int
	hash    string // "" where the producer gives none

	sent, ended time.Time
	outcome
}

// outcome is what the result says.
type outcome struct {
	status celery.State
	cached string // as the result has it; "" for a miss
	hash   string
	fault  string
}

// Place is where jobs are sent, and where their results are.
type Place struct {
	Conn      *rabbit.Conn
	Publisher *rabbit.Publisher
	Queue     string
	Results   *redis.Client
}

// StalledError says that no job has ended for so long.
type StalledError struct {
	Missing int  // jobs that were sent
	Blocked bool // the broker takes no more
	For     time.Duration
	Err     error // why results could not be read, nil if they could
}

func (e *StalledError) Error() string {
	text := fmt.Sprintf("%d jobs that were sent have not ended, and none has for %v", e.Missing, e.For)
	switch {
	case e.Err != nil:
		return text + ": " + e.Err.Error()
	case e.Blocked:
		return text + ": the broker does not take more; look whether the queue is full, or the broker in a memory or disk alarm"
	}
	return text + ": look whether workers take them, and at their log"
}

// Unwrap returns why results could not be read.
func (e *StalledError) Unwrap() error { return e.Err }

// Prepare sends the pictures that are to be known and waits until the workers know them. step is told every second how far it is.
func (t *Test) Prepare(ctx context.Context, at Place, step func(Now)) error {
	var jobs []*job
	for i := range t.known {
		jobs = append(jobs, t.job(Miss, i))
	}
	for i := range t.near {
		jobs = append(jobs, t.job(Miss, t.original(i)))
	}
	if len(jobs) == 0 {
		return nil
	}
	// One goes first: if it fails, so would all.
	done := 0
	each := func(n Now) {
		n.Sent, n.Ended, n.Jobs = n.Sent+done, n.Ended+done, len(jobs)
		step(n)
	}
	for _, some := range [][]*job{jobs[:1], jobs[1:]} {
		if len(some) == 0 {
			break
		}
		if err := t.run(some, at, 0, each).all(ctx); err != nil {
			return fmt.Errorf("before the test, with pictures that are to be known: %w", err)
		}
		for _, j := range some {
			if j.status != celery.Success {
				return fmt.Errorf("before the test, task %s with a picture that is to be known ended as %s: %s", j.id, j.status, j.fault)
			}
			t.hashes = append(t.hashes, j.outcome.hash)
		}
		done += len(some)
	}
	if t.near > 0 {
		return pause(ctx, t.cfg.Settle)
	}
	return nil
}

// Run sends the jobs and waits for them, after Prepare. step is told every second how far it is. The report is there with a *StalledError too.
func (t *Test) Run(ctx context.Context, at Place, step func(Now)) (*Report, error) {
	t.host.delay.Store(int64(t.cfg.ModelDelay))
	calls := t.host.calls.Load()
	r := t.run(t.jobs(), at, t.cfg.Rate, step)
	err := r.all(ctx)
	var stalled *StalledError
	if err != nil && !errors.As(err, &stalled) {
		return nil, err
	}
	report := r.report()
	report.ModelCalls = int(t.host.calls.Load() - calls)
	report.Shape, report.Rate, report.ModelDelay, report.Side = t.cfg.Shape.String(), t.cfg.Rate, t.cfg.ModelDelay.Seconds(), t.cfg.Side
	return report, err
}

func (t *Test) job(kind Kind, picture int) *job {
	return &job{id: uuid.NewString(), kind: kind, picture: picture}
}

// jobs returns those of the test, in an order that is drawn.
func (t *Test) jobs() (all []*job) {
	counts := t.cfg.Shape.Of(t.cfg.Jobs)
	for i := range counts[Hash] {
		j := t.job(Hash, i%t.known)
		j.hash = t.hashes[j.picture]
		all = append(all, j)
	}
	for i := range counts[File] {
		all = append(all, t.job(File, i%t.known))
	}
	for i := range counts[Near] {
		all = append(all, t.job(Near, t.original(i)+1))
	}
	for i := range counts[Miss] {
		all = append(all, t.job(Miss, t.missed(i)))
	}
	rand.New(rand.NewPCG(t.cfg.Seed, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// messages are the jobs as a Celery producer sends them.
func (r *run) messages(jobs []*job) ([]rabbit.Message, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	out := make([]rabbit.Message, len(jobs))
	for i, j := range jobs {
		kwargs := map[string]json.RawMessage{"image_url": json.RawMessage(strconv.Quote(fmt.Sprintf("%s%d.jpg", r.pictures, j.picture)))}
		if j.hash != "" {
			kwargs["phash"] = json.RawMessage(strconv.Quote(j.hash))
		}
		m, err := rabbit.New(celery.Message{Queue: r.at.Queue, Request: &celery.Request{
			ID: j.id, RootID: j.id, Task: tasks.NameAnalyze, Kwargs: kwargs, Origin: fmt.Sprintf("gen%d@%s", os.Getpid(), host),
		}})
		if err != nil {
			return nil, err
		}
		m.Queue = r.at.Queue
		out[i] = m
	}
	return out, nil
}

// run is some jobs on their way.
type run struct {
	at       Place
	rate     float64
	stall    time.Duration
	window   int
	shared   bool
	step     func(Now)
	pictures string // the URL of one, without its number

	mu      sync.Mutex
	jobs    []*job
	waiting map[string]*job // sent, without an end
	began   time.Time
	last    time.Time       // when a job ended, or was sent
	sending bool            // the broker has not taken the next ones yet
	deaf    bool            // results may have been missed
	before  []time.Duration // of the second before
	sent    time.Time       // when the last one was
	recent  []time.Duration
	counts  Now
	seconds []Second
	over    chan struct{} // closed with the last end
}

func (t *Test) run(jobs []*job, at Place, rate float64, step func(Now)) *run {
	return &run{
		at: at, rate: rate, stall: t.cfg.Stall, window: t.cfg.Window, shared: t.cfg.Shared, step: step, pictures: "http://" + t.host.addr + "/pictures/",
		jobs: jobs, waiting: make(map[string]*job, len(jobs)), over: make(chan struct{}),
	}
}

// Now is how far a test is.
type Now struct {
	Jobs                int
	Sent, Ended, Failed int
	Seconds             float64       // since the first job
	PerSecond           float64       // that ended in the last second
	P50, P99            time.Duration // of those that ended in the last second; 0 if none did
}

// all sends the jobs and waits for their ends.
func (r *run) all(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sub := r.at.Results.PSubscribe(ctx, results.Key("*"))
	defer sub.Close()
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })() // what it waits for does not end with ctx
	if _, err := sub.Receive(ctx); err != nil {
		return fmt.Errorf("listen for results: %w", err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel(nil)
	all.Go(func() { r.listen(ctx, sub) })
	sent := make(chan struct{})
	r.began = time.Now()
	r.last = r.began
	all.Go(func() {
		defer close(sent)
		if err := r.send(ctx); err != nil {
			cancel(err)
		}
	})
	if err := r.watch(ctx); err != nil {
		return err
	}
	select { // the last confirm may come after the last result
	case <-sent:
	case <-time.After(lastConfirm):
	}
	return nil
}

// lastConfirm is how long the last confirm is waited for, once all jobs have ended.
const lastConfirm = 5 * time.Second

// send publishes the jobs, each when it is due.
func (r *run) send(ctx context.Context) error {
	batch := 500
	if r.shared {
		batch = 50 // others send too
	}
	for done := 0; done < len(r.jobs); {
		due := len(r.jobs)
		if r.rate > 0 {
			due = min(due, int(time.Since(r.began).Seconds()*r.rate)+1)
		}
		n := min(due-done, batch, r.room())
		if n <= 0 {
			if err := pause(ctx, sendPause); err != nil {
				return err
			}
			continue
		}
		jobs := r.jobs[done : done+n]
		messages, err := r.messages(jobs)
		if err != nil {
			return err
		}
		r.note(func() {
			if !r.sending && len(r.waiting) == 0 {
				r.last = time.Now() // nothing was to be waited for
			}
			r.sending = true
		})
		if r.shared {
			full, err := r.full(ctx, messages)
			if err != nil {
				return fmt.Errorf("send jobs: %w", err)
			}
			if full {
				if err := pause(ctx, fullPause); err != nil {
					return err
				}
				continue
			}
		}
		r.mu.Lock()
		now := time.Now()
		for i, j := range jobs {
			j.sent = now
			if r.rate > 0 { // what it waits for us counts as well
				j.sent = r.began.Add(time.Duration(float64(done+i) / r.rate * float64(time.Second)))
			}
			r.waiting[j.id] = j
		}
		r.mu.Unlock()
		if err := r.at.Publisher.Publish(ctx, messages...); err != nil {
			return fmt.Errorf("send jobs: %w", firstOf(err))
		}
		r.mu.Lock()
		r.counts.Sent += n
		r.sending, r.sent = false, time.Now()
		r.mu.Unlock()
		done += n
	}
	return nil
}

// note changes what is known.
func (r *run) note(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// fullPause is how long the sender waits for others' jobs to leave the queue.
const fullPause = 200 * time.Millisecond

// full reports whether the queue has no room for messages. A broker that does not answer does not hold it up beyond ctx.
func (r *run) full(ctx context.Context, messages []rabbit.Message) (bool, error) {
	answer := make(chan error, 1)
	go func() { answer <- rabbit.HaveRoom(r.at.Conn, messages, nil) }() // it ends with the connection
	select {
	case err := <-answer:
		var full *rabbit.FullError
		if errors.As(err, &full) {
			return true, nil
		}
		return false, firstOf(err)
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// sendPause is how long the sender waits for the next job to be due, or for room.
const sendPause = time.Millisecond

// room is how many more jobs may be on their way.
func (r *run) room() int {
	if r.window == 0 {
		return len(r.jobs)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.window - len(r.waiting)
}

// firstOf returns the first fault of many messages.
func firstOf(err error) error {
	var each rabbit.Errors
	if !errors.As(err, &each) {
		return err
	}
	faults := each.Unwrap()
	if len(faults) == 1 {
		return faults[0]
	}
	return fmt.Errorf("%w (and %d more)", faults[0], len(faults)-1)
}

// listen hears of results until ctx ends.
func (r *run) listen(ctx context.Context, sub *redis.PubSub) {
	for {
		m, err := sub.ReceiveMessage(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil { // it subscribes anew, and has missed what came meanwhile
			r.note(func() { r.deaf = true })
			_ = pause(ctx, 100*time.Millisecond)
			continue
		}
		r.end(m.Payload, time.Now())
	}
}

// end notes the end of a job that is waited for.
func (r *run) end(doc string, at time.Time) {
	var m celery.Meta
	if json.Unmarshal([]byte(doc), &m) != nil || !m.Status.Final() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	j := r.waiting[m.TaskID]
	if j == nil {
		return // somebody else's, or heard and read
	}
	delete(r.waiting, j.id)
	j.ended, j.outcome, r.last = at, outcomeOf(&m), at
	r.recent = append(r.recent, at.Sub(j.sent))
	if r.counts.Ended++; j.status != celery.Success {
		r.counts.Failed++
	}
	if r.counts.Ended == len(r.jobs) {
		close(r.over)
	}
}

func outcomeOf(m *celery.Meta) outcome {
	o := outcome{status: m.Status}
	if m.Status != celery.Success {
		o.fault = string(m.Status)
		if exc, err := m.Exception(); err == nil {
			o.fault = exc.Error()
		}
		return o
	}
	var answer struct {
		Cached *string
		PHash  string
	}
	if err := json.Unmarshal(m.Result, &answer); err != nil {
		o.status, o.fault = celery.Failure, fmt.Sprintf("its result is not as expected: %v", err)
		return o
	}
	o.hash = answer.PHash
	if answer.Cached != nil {
		o.cached = *answer.Cached
	}
	return o
}

// watch tells every second how far it is, and reads results that were not heard of, until all jobs have ended.
func (r *run) watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-r.over:
			r.second(time.Now())
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		r.second(time.Now())
		if err := r.stalled(r.read(ctx)); err != nil {
			return err
		}
	}
}

// stalled returns an error if no job has been sent or has ended for too long; unread is why results could not be read.
func (r *run) stalled(unread error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 && !r.sending || time.Since(r.last) <= r.stall {
		return nil
	}
	return &StalledError{len(r.waiting), r.sending, r.stall, unread}
}

// second ends one. The last one, which is short as a rule, is a part of the one before.
func (r *run) second(now time.Time) {
	r.mu.Lock()
	at, n := now.Sub(r.began).Seconds(), len(r.seconds)
	if n > 0 && at-r.seconds[n-1].At < 0.5 {
		r.recent = slices.Concat(r.before, r.recent)
		r.seconds = r.seconds[:n-1]
	}
	since := 0.0
	if n := len(r.seconds); n > 0 {
		since = r.seconds[n-1].At
	}
	took := spreadOf(r.recent)
	c := r.counts
	c.Jobs, c.Seconds, c.P50, c.P99 = len(r.jobs), at, took.at(0.5), took.at(0.99)
	if at > since {
		c.PerSecond = float64(len(r.recent)) / (at - since)
	}
	r.seconds = append(r.seconds, Second{At: at, PerSecond: c.PerSecond, Waiting: len(r.waiting), P50: c.P50.Seconds(), P99: c.P99.Seconds()})
	r.before, r.recent = r.recent, nil
	r.mu.Unlock()
	r.step(c)
}

// read looks for the results of jobs that were not heard of, once nothing has ended for a second or the connection was lost.
func (r *run) read(ctx context.Context) error {
	const most = 1000
	var keys []string
	r.mu.Lock()
	if r.deaf || time.Since(r.last) >= time.Second {
		for id := range r.waiting {
			if keys = append(keys, results.Key(id)); len(keys) == most {
				break
			}
		}
	}
	r.deaf = r.deaf && len(keys) == most
	r.mu.Unlock()
	if len(keys) == 0 {
		return nil
	}
	docs, err := r.at.Results.MGet(ctx, keys...).Result()
	if err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	now := time.Now()
	for _, doc := range docs {
		if text, ok := doc.(string); ok {
			r.end(text, now)
		}
	}
	return nil
}

// pause waits for d, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(cmp.Or(d, 1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
