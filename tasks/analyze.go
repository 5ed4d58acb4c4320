package tasks

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"onceover/cache"
	"onceover/celery"
	"onceover/phash"
	"onceover/phash/verify"
	"onceover/progress"
	"onceover/vision"
	"onceover/vision/prompt"
)

// NameAnalyze is the name under which producers call the task.
const NameAnalyze = "image.analyze"

// AnalyzeRetries is how often a transient failure of image.analyze is retried.
const AnalyzeRetries = 3

// Fetcher gets the bytes of a picture: source.Fetcher.
type Fetcher interface {
	Fetch(ctx context.Context, url string) ([]byte, error)
}

// Cache keeps analyses: cache.Cache.
type Cache interface {
	Ahead(h phash.Hash, v cache.Variant) *cache.Ahead
	Seen(ctx context.Context, d cache.Digest, v cache.Variant) (*cache.Picture, *cache.Refusal, *cache.Ahead, error)
	Remember(ctx context.Context, p cache.Picture) error
	Refuse(ctx context.Context, d cache.Digest, r cache.Refusal) error
	Lookup(ctx context.Context, q *cache.Query) (*cache.Answer, error)
	Fill(ctx context.Context, q *cache.Query, compute func(context.Context) (cache.Entry, error), waiting func()) (*cache.Answer, error)
	Record(p cache.Picture, a cache.Answer)
	RecordCanary(distance int, differs bool)
}

// Progress shows how far a job is: progress.Store.
type Progress interface {
	Track(ctx context.Context, jobID, taskID string, resume bool) (*progress.Tracker, error)
	Paid(ctx context.Context, taskID, kind string) (int, error)
	AddPaid(ctx context.Context, taskID, kind string, n int) error
}

// Config is what an operator may set.
type Config struct {
	Lang        string         // language of messages and analyses where the job names none; default ko
	MaxPixels   int            // larger pictures are refused before they are decoded; default 50 million
	PillowOrder phash.Order    // of the Python services that share the cache
	Cores       int            // pictures decoded, hashed or scaled at once; default runtime.GOMAXPROCS
	Prompts     *prompt.Folder // what the model is asked, and the messages; default prompt.Builtin

	// Canary is the share of near hits, from 0 to 1, of which the model is asked all the same, to see how often they are
	// wrong. Default 0.
	Canary float64
	// RetryHorizon is how long a job is tried again because of a fault of the model; 0: it fails at once. Default 1 h.
	RetryHorizon time.Duration
	// SoftTimeLimit is that of jobs whose message has none: a third of it may be spent waiting. 0: none.
	SoftTimeLimit time.Duration
	// StepAside gives the job's place among those that are at work to another one until back is called: worker.StepAside.
	// nil: it keeps it.
	StepAside func(ctx context.Context) (back func(ctx context.Context) error)
}

// DefaultConfig returns the documented defaults.
func DefaultConfig() Config {
	return Config{Lang: "ko", MaxPixels: 50_000_000, Prompts: prompt.Builtin(), RetryHorizon: time.Hour}
}

// ImageAnalyze is the task image.analyze: a worker.Handler and
// worker.AfterReturner. Safe for concurrent use.
type ImageAnalyze struct {
	cfg      Config
	fetcher  Fetcher
	cache    Cache
	progress Progress
	analyzer vision.Analyzer
	metrics  *metrics
	log      *zap.Logger
	cpu      cores
	now      func() time.Time
}

// NewImageAnalyze returns the task whose metrics are registered with reg.
func NewImageAnalyze(cfg Config, f Fetcher, c Cache, p Progress, a vision.Analyzer, reg prometheus.Registerer, log *zap.Logger) *ImageAnalyze {
	if cfg.StepAside == nil {
		cfg.StepAside = func(context.Context) func(context.Context) error { return func(context.Context) error { return nil } }
	}
	return &ImageAnalyze{
		cfg: cfg, fetcher: f, cache: c, progress: p, analyzer: a,
		metrics: newMetrics(reg), log: log,
		cpu: newCores(cfg.Cores), now: time.Now,
	}
}

// Run analyses one picture and returns a *Result.
func (t *ImageAnalyze) Run(ctx context.Context, req *celery.Request) (any, error) {
	r, err := t.begin(ctx, req)
	if err != nil {
		return nil, err
	}
	result, err := r.analyze(ctx)
	stage := r.enter("")
	if err != nil {
		model := r.args.Model
		return nil, &stageError{translate(err, t.cfg.RetryHorizon, model != "" && model != t.analyzer.Model(r.opt.Lang)), stage}
	}
	return result, nil
}

// Prepare begins to read the entry of the hash that the producer gave: see worker.Preparer.
func (t *ImageAnalyze) Prepare(req *celery.Request) {
	a, err := bind(req)
	if b, ok := req.Memo.(*bound); ok && err == nil && a.given != nil {
		b.ahead = t.cache.Ahead(*a.given, t.variant(a.Model, cmp.Or(a.Lang, t.cfg.Lang)))
	}
}

// begin returns the attempt that a request is.
func (t *ImageAnalyze) begin(ctx context.Context, req *celery.Request) (*run, error) {
	a, err := bind(req)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	again := req.Retries > 0 || req.Delivery.Redelivered
	id := req.ID
	if req.Delivery.AfterEnd && !again {
		id = "" // it begins anew, whoever has reported
	}
	tracker, err := t.progress.Track(ctx, a.JobID.text, id, again)
	if err != nil {
		return nil, err
	}
	r := &run{t: t, args: a, taskID: req.ID, again: again, tracker: tracker,
		opt: vision.Options{Model: a.Model, Lang: cmp.Or(a.Lang, t.cfg.Lang), User: userOf(a.UserID), Expires: req.Expires}}
	if b, ok := req.Memo.(*bound); ok {
		r.ahead, b.ahead = b.ahead, nil
	}
	if soft := cmp.Or(req.SoftTimeLimit, t.cfg.SoftTimeLimit); soft > 0 {
		r.opt.Until = began.Add(soft / 3) // what is left has to do for the calls
		r.callsEnd = began.Add(soft * 9 / 10)
	}
	if p := req.Priority(); p != nil {
		r.opt.Priority = *p
	}
	return r, nil
}

// stageError is an error with the stage in which it came.
type stageError struct {
	error
	stage string
}

func (e *stageError) Unwrap() error { return e.error }

// Stage is the stage that was under way, see worker.
func (e *stageError) Stage() string { return e.stage }

// ResetProgress returns what shows that a job of image.analyze waits to be run once
// more.
func ResetProgress(store *progress.Store, cfg Config) func(context.Context, *celery.Request) error {
	return func(ctx context.Context, req *celery.Request) error {
		if req.Task != NameAnalyze {
			return nil
		}
		a, _ := bind(req) // it may have failed because of its arguments
		stage, message := Queued(cfg, a.Lang)
		return store.Reset(ctx, a.JobID.text, stage, message)
	}
}

// Queued is how a job of image.analyze is shown that waits to be run, in the language that it names, "" for the default.
func Queued(cfg Config, lang string) (stage, message string) {
	if lang == "" {
		lang = cfg.Lang
	}
	return stepQueued.stage, cfg.Prompts.Text(stepQueued.text, lang)
}

// AfterReturn shows the end of the job, or that it will be tried again.
func (t *ImageAnalyze) AfterReturn(ctx context.Context, req *celery.Request, state celery.State, exc *celery.Exception) error {
	a, _ := bind(req) // what is wrong with the arguments is in exc
	lang := a.Lang
	if lang == "" {
		lang = t.cfg.Lang
	}
	followed := "" // of a run that follows another one
	if req.Retries > 0 || req.Delivery.Redelivered {
		followed = req.ID
	}
	tracker, err := t.progress.Track(ctx, a.JobID.text, followed, true)
	if err != nil {
		return err
	}
	switch state {
	case celery.Success:
		return tracker.Finish(ctx, stepDone.stage, t.cfg.Prompts.Text(stepDone.text, lang))
	case celery.Retried:
		return tracker.Show(ctx, stepRetry.progress, stepRetry.stage, t.cfg.Prompts.Text(stepRetry.text, lang))
	default:
		reason := "the task ended without a result"
		if exc != nil {
			reason = exc.Error()
		}
		return tracker.Fail(ctx, t.cfg.Prompts.Text(textFailed, lang), reason)
	}
}

// run is one attempt on one picture.
type run struct {
	t       *ImageAnalyze
	args    arguments
	taskID  string
	again   bool // the job has had an attempt before
	opt     vision.Options
	tracker *progress.Tracker
	ahead   *cache.Ahead // of the entry of the hash that the producer gave, nil if it is not read ahead

	callsEnd time.Time // when calls end that the job can do without; zero: as others do

	mu         sync.Mutex // of what follows: the model may be asked in another goroutine
	stage      string     // the stage that is under way
	stageStart time.Time
}

func (r *run) analyze(ctx context.Context) (*Result, error) {
	given, err := r.lookUpGiven(ctx)
	if err != nil {
		return nil, err
	}
	if given == nil {
		return r.examine(ctx, nil)
	}
	pic := &cache.Picture{Fingerprint: phash.Fingerprint{Hash: *r.args.given}}
	if given.Expiring {
		res, err := r.examine(ctx, &given.Entry)
		if err == nil || ctx.Err() != nil {
			return res, err
		}
		r.tellStale(pic, err)
	}
	return r.answer(ctx, pic, given, vision.Usage{})
}

// examine finds the answer by the picture itself. stale is its entry if that is to
// be made anew before it runs out, else nil.
func (r *run) examine(ctx context.Context, stale *cache.Entry) (*Result, error) {
	pic, seen, err := r.fetch(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.report(ctx, stepCache); err != nil {
		return nil, err
	}
	q := r.query(pic)
	q.Ahead = seen.ahead
	found, err := r.t.cache.Lookup(ctx, q)
	if err != nil {
		return nil, err
	}
	if found != nil && stale != nil && found.Entry == *stale {
		found.Expiring = true
	}
	if found != nil && found.Like != (cache.Digest{}) && q.Hash == pic.Hash { // compared with what has the hash by which it was found
		pic.Like = found.Like
		if err := r.t.cache.Remember(ctx, *pic); err != nil {
			return nil, err
		}
	}
	q.Own = found != nil && r.mayDoubt(found) && rand.Float64() < r.t.cfg.Canary
	if found != nil && !found.Expiring && !q.Own {
		return r.answer(ctx, pic, found, vision.Usage{})
	}
	if found != nil {
		q.Stale = &found.Entry
	}
	if _, err := seen.view(ctx); err != nil { // its file may be known, and now it is looked at all the same
		return nil, err
	}
	q.Picture = *pic // as it is decoded now
	fresh, usage, err := r.look(ctx, q, seen)
	if err != nil && found != nil && ctx.Err() == nil {
		r.tellStale(pic, err)
		return r.answer(ctx, pic, found, usage)
	}
	if err != nil {
		return nil, err
	}
	if q.Own && fresh.Kind != cache.Fresh { // the picture is looked at for another job
		return r.answer(ctx, pic, found, usage)
	}
	if q.Own {
		r.recordCanary(found, fresh)
	}
	return r.answer(ctx, pic, fresh, usage)
}

// fetch gets the picture's file, and says what picture it is. It is decoded here where the file is not known.
func (r *run) fetch(ctx context.Context) (*cache.Picture, *sight, error) {
	if err := r.report(ctx, stepDownload); err != nil {
		return nil, nil, err
	}
	data, err := r.t.fetcher.Fetch(ctx, r.args.ImageURL)
	if err != nil {
		return nil, nil, err
	}
	if err := r.report(ctx, stepHash); err != nil {
		return nil, nil, err
	}
	if err := r.checkSize(data); err != nil {
		return nil, nil, err
	}
	pic := &cache.Picture{Digest: sha256.Sum256(data)}
	known, refusal, ahead, err := r.t.cache.Seen(ctx, pic.Digest, r.variant())
	if err != nil {
		return nil, nil, err
	}
	if refusal != nil && (refusal.By == "" || refusal.By == r.asks()) {
		return nil, nil, celery.NewException(refusal.Type, refusal.Message, nil)
	}
	if known != nil {
		pic = known
	}
	seen := &sight{r: r, pic: pic, data: data, ahead: ahead}
	if pic.Colour == (phash.Colour{}) {
		_, err = seen.view(ctx)
	}
	pic.View = seen.view
	return pic, seen, err
}

// A sight is what the job sees of its picture, which is decoded when somebody wants to see it, once.
type sight struct {
	r   *run
	pic *cache.Picture

	mu    sync.Mutex   // as the model may be asked in another goroutine
	ahead *cache.Ahead // of its entry, nil if nothing was read
	data  []byte       // nil once the picture was taken
	look  *phash.Look
	seen  *verify.View
}

// errTaken says that a picture is not at hand any more.
var errTaken = errors.New("the picture is wanted although the model has been asked about it already")

// view returns the picture for comparisons: a cache.Picture's View.
func (s *sight) view(ctx context.Context) (*verify.View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil && s.data == nil {
		return nil, errTaken
	}
	if s.seen == nil {
		look, view, err := s.r.decode(ctx, s.pic, s.data)
		if err != nil {
			return nil, err
		}
		s.look, s.seen, s.data = look, view, nil
	}
	return s.seen, nil
}

// take returns the picture, and lets go of it: the preview is smaller, and may wait for long.
func (s *sight) take() (*phash.Look, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	look := s.look
	if s.look, s.seen = nil, nil; look == nil {
		return nil, errTaken
	}
	return look, nil
}

// mayDoubt reports whether an answer is one that a canary may look at: a near one, not of a person, and where there is a
// model.
func (r *run) mayDoubt(a *cache.Answer) bool {
	return a.Kind == cache.Near && a.Entry.CorrectedAt == "" && r.t.analyzer.Model(r.opt.Lang) != vision.OfflineModel
}

// recordCanary counts whether a near answer is what the model says.
func (r *run) recordCanary(near, fresh *cache.Answer) {
	differs, err := r.differ(&near.Entry, &fresh.Entry)
	if err != nil { // the job has its answer
		r.t.log.Warn("a near answer cannot be compared with that of the model", zap.String("task_id", r.taskID), zap.Error(err))
		return
	}
	r.t.cache.RecordCanary(near.Near, differs)
	r.t.metrics.canary.WithLabelValues(strconv.Itoa(near.Near), strconv.FormatBool(differs)).Inc()
}

// differ reports whether two answers differ in what is not just words.
func (r *run) differ(a, b *cache.Entry) (bool, error) {
	s := r.t.cfg.Prompts.Find(prompt.Analysis, r.opt.Lang).Schema
	names := s.Closed()
	if len(names) == 0 {
		names, _ = s.Names()
	}
	one, err := a.Answer(names)
	if err != nil {
		return false, err
	}
	other, err := b.Answer(names)
	return !bytes.Equal(one, other), err
}

// levelOf is the level at which the log has a fault of the model that costs no job its answer: debug if the log has it
// already, for all jobs together.
func levelOf(err error) zapcore.Level {
	var model *vision.Error
	var away interface{ Unavailable() bool }
	if errors.As(err, &model) && (model.Closed || model.Class == vision.RateLimited || model.Class == vision.Spent) || errors.As(err, &away) && away.Unavailable() {
		return zap.DebugLevel
	}
	return zap.WarnLevel
}

// tellStale logs that a job has the old answer.
func (r *run) tellStale(pic *cache.Picture, err error) {
	r.t.log.Log(levelOf(err), "the model could not be asked anew, and the answer that was there is used", zap.String("task_id", r.taskID),
		zap.String("phash", pic.Hash.String()), zap.Error(err))
}

// lookUpGiven looks up the hash that the producer gave, without a download. It
// returns nil if there is no such hash or entry.
func (r *run) lookUpGiven(ctx context.Context) (*cache.Answer, error) {
	if r.args.given == nil {
		return nil, nil
	}
	q := r.query(&cache.Picture{Fingerprint: phash.Fingerprint{Hash: *r.args.given}})
	q.Ahead = r.ahead
	found, err := r.t.cache.Lookup(ctx, q)
	if found == nil || err != nil || found.Expiring {
		return found, err
	}
	return found, r.report(ctx, stepCache)
}

// query asks for an analysis that may be used. What the offline describer wrote
// is no answer once a model is configured; it takes any itself, since it has
// nothing better to put in its place.
func (r *run) query(pic *cache.Picture) *cache.Query {
	q := &cache.Query{Picture: *pic, Variant: r.variant(), AnyPicture: anyPicture}
	if r.t.analyzer.Model(r.opt.Lang) != vision.OfflineModel {
		q.Prompt = r.t.analyzer.PromptVersion(r.opt.Lang)
		_, required := r.fields()
		// What a Python service, a person or another prompt wrote is an answer whatever its words.
		q.Usable = func(e cache.Entry) bool {
			return e.Model != vision.OfflineModel && (e.PromptVersion == q.Prompt || e.Has(required...))
		}
	}
	return q
}

// anyPicture reports whether the model could not be asked, whatever the picture.
func anyPicture(err error) bool {
	var e *vision.Error
	return errors.As(err, &e) && (e.Closed || e.Class.Retryable() || e.Class == vision.Denied || e.Class == vision.NotFound)
}

// fields are the names of the schema of the job's answer.
func (r *run) fields() (all, required []string) {
	return r.t.cfg.Prompts.Find(prompt.Analysis, r.opt.Lang).Schema.Names()
}

// asks names who is asked what about the picture.
func (r *run) asks() string {
	return r.modelName() + " prompt " + r.t.analyzer.PromptVersion(r.opt.Lang)
}

// variant names the cache entry beside the picture's hash: the default language
// and model have no name, so that Python services share their entries.
func (r *run) variant() cache.Variant { return r.t.variant(r.opt.Model, r.opt.Lang) }

func (t *ImageAnalyze) variant(model, lang string) cache.Variant {
	var v cache.Variant
	if lang != t.cfg.Lang {
		v.Lang = lang
	}
	if model != t.analyzer.Model(lang) {
		v.Model = model
	}
	return v
}

// checkSize refuses what is too large to be decoded.
func (r *run) checkSize(data []byte) error {
	info, err := phash.Inspect(data)
	if err != nil {
		return err // as quickly found again as looked up
	}
	if pixels := info.Width * info.Height; pixels > r.t.cfg.MaxPixels {
		return celery.NewException("ValueError", fmt.Sprintf(
			"the picture has %d x %d pixels: at most %d million are accepted; send a smaller copy",
			info.Width, info.Height, r.t.cfg.MaxPixels/1_000_000), nil)
	}
	return nil
}

// decode decodes the picture, and remembers what came of it.
func (r *run) decode(ctx context.Context, pic *cache.Picture, data []byte) (look *phash.Look, view *verify.View, err error) {
	look, err = onCPU(ctx, r.t.cpu, func() (*phash.Look, error) {
		look, err := phash.LookAt(data, r.t.cfg.PillowOrder)
		if err == nil {
			view = verify.Of(look)
		}
		return look, err
	})
	if format := (*phash.FormatError)(nil); errors.As(err, &format) {
		r.refuse(ctx, pic.Digest, translate(err, 0, false), "")
	}
	if err != nil {
		return nil, nil, err
	}
	if pic.Hash != look.Hash { // what it is like was found by the hash
		pic.Like = cache.Digest{}
	}
	pic.Fingerprint = look.Fingerprint
	if g := r.args.given; g != nil && *g != look.Hash {
		r.t.log.Warn("the producer's hash is not the picture's", zap.String("task_id", r.taskID),
			zap.String("phash_given", g.String()), zap.String("phash", look.Hash.String()), zap.Int("distance_bits", g.Distance(look.Hash)))
	}
	return look, view, r.t.cache.Remember(ctx, *pic)
}

// refuse remembers that the file is no picture, or that by refuses to look at it, so
// that it need not be decoded or paid for again soon.
func (r *run) refuse(ctx context.Context, d cache.Digest, err error, by string) {
	var exc *celery.Exception
	if !errors.As(err, &exc) {
		return
	}
	if err := r.t.cache.Refuse(ctx, d, cache.Refusal{Type: exc.Type, Message: exc.Message(), By: by}); err != nil {
		r.t.log.Warn("refusal not cached", zap.String("task_id", r.taskID), zap.Error(err))
	}
}

// look asks the model about the picture, or waits for another job that does.
// The usage is this job's own: zero if it waited.
func (r *run) look(ctx context.Context, q *cache.Query, seen *sight) (*cache.Answer, vision.Usage, error) {
	if err := r.report(ctx, stepPreprocess); err != nil {
		return nil, vision.Usage{}, err
	}
	opt, err := r.paidBefore(ctx, kindVision)
	if err != nil {
		return nil, vision.Usage{}, err
	}
	if opt.Paid >= vision.MaxPaid { // told here, as those who share the answer have paid for nothing
		return nil, vision.Usage{}, vision.PaidEnough(r.modelName(), opt.Paid)
	}
	// ask may outlive this job if others wait for it: spent is this job's to
	// read only once Fill has returned its answer.
	var spent vision.Usage
	ask := func(fill context.Context) (cache.Entry, error) {
		picture, err := seen.take()
		if err != nil {
			return cache.Entry{}, err
		}
		preview, err := r.prepare(ctx, fill, picture)
		if err != nil {
			return cache.Entry{}, err
		}
		a, err := r.askModel(fill, q, preview, &opt, &spent)
		if err != nil {
			return cache.Entry{}, err
		}
		return r.entryOf(q, a, spent)
	}
	var waitErr error
	back := func(context.Context) error { return nil }
	answer, err := r.t.cache.Fill(ctx, q, ask, func() {
		waitErr = r.report(ctx, stepVision)
		back = r.t.cfg.StepAside(ctx)
	})
	if err = errors.Join(err, back(ctx), waitErr); err != nil {
		return nil, vision.Usage{}, err
	}
	if err := r.report(ctx, stepVisionDone); err != nil {
		return nil, vision.Usage{}, err
	}
	if answer.Kind != cache.Fresh {
		spent = vision.Usage{}
	}
	return answer, spent, nil
}

// prepare makes what the model is shown. fill is the context of those who wait for the answer.
func (r *run) prepare(ctx, fill context.Context, picture *phash.Look) (*vision.Preview, error) {
	preview, err := onCPU(fill, r.t.cpu, func() (*vision.Preview, error) { return vision.PreviewOf(picture) })
	if err != nil {
		return nil, err
	}
	// By the job's own context: once the job has ended nothing may be shown.
	if err := r.report(ctx, stepVision); err != nil && ctx.Err() == nil {
		return nil, err
	}
	return preview, nil
}

// askModel asks the model about a picture. A call may take long, and many do at once: this function and those that it
// calls keep little on their stacks.
func (r *run) askModel(fill context.Context, q *cache.Query, preview *vision.Preview, opt *vision.Options, spent *vision.Usage) (*vision.Answer, error) {
	call := fill
	if q.Stale != nil { // there is an answer: the call may not cost the job its time limit
		opt.Until = time.Now().Add(time.Second)
		if !r.callsEnd.IsZero() {
			var cancel context.CancelFunc
			call, cancel = context.WithDeadline(fill, r.callsEnd)
			defer cancel()
		}
	}
	var a vision.Answer
	var usage vision.Usage
	var err error
	backErr := r.aside(fill, func() { a, usage, err = r.t.analyzer.Analyze(call, preview, *opt) })
	if err != nil && call.Err() != nil && fill.Err() == nil && !errors.As(err, new(*vision.Error)) {
		// The time is up that a job with an answer has. Those who share the call may have none.
		err = &vision.Error{Class: vision.Unreachable, Err: err}
	}
	r.t.metrics.spent(kindVision, usage)
	*spent = usage
	r.pays(fill, kindVision, usage)
	if err != nil {
		if refused := (*vision.Error)(nil); errors.As(err, &refused) && refused.Class == vision.Refused {
			r.refuse(fill, q.Digest, translate(err, 0, false), r.asks())
		}
		return nil, err
	}
	if backErr != nil {
		r.t.log.Debug("the job was not waited for", zap.String("task_id", r.taskID), zap.Error(backErr))
	}
	return &a, nil
}

// entryOf is what is kept of an answer.
func (r *run) entryOf(q *cache.Query, a *vision.Answer, usage vision.Usage) (cache.Entry, error) {
	e, err := cache.EntryOf(a.Fields)
	if err != nil {
		return cache.Entry{}, err
	}
	r.t.metrics.tookOffList(a.OffList)
	r.t.metrics.cascaded(a)
	if a.Dearer != nil {
		r.t.log.Log(levelOf(a.Dearer), "the dearer model could not be asked, and the answer of the cheaper one is used", zap.String("task_id", r.taskID),
			zap.String("phash", q.Hash.String()), zap.Error(a.Dearer))
	}
	e.AnalyzedAt = r.t.now().UTC().Format("2006-01-02T15:04:05")
	e.Model, e.PromptVersion, e.CostMicroUSD = a.Model, a.PromptVersion, usage.CostMicroUSD
	return e, nil
}

// aside calls f without the job's place among those that are at work.
func (r *run) aside(ctx context.Context, f func()) (err error) {
	back := r.t.cfg.StepAside(ctx)
	defer func() { err = back(ctx) }() // after a panic, too
	f()
	return nil
}

// Kinds of calls.
const (
	kindVision = "vision" // about a picture
	kindText   = "text"   // to a question
)

// paidBefore returns the job's wishes with what its earlier attempts have paid for.
func (r *run) paidBefore(ctx context.Context, kind string) (opt vision.Options, err error) {
	opt = r.opt
	if r.again {
		opt.Paid, err = r.t.progress.Paid(ctx, r.taskID, kind)
		opt.Unanswered = opt.Paid > 0
	}
	return opt, err
}

// pays remembers what a job has paid for, for its next attempt, which may find nothing in the cache.
func (r *run) pays(ctx context.Context, kind string, u vision.Usage) {
	if u.Paid == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := r.t.progress.AddPaid(ctx, r.taskID, kind, u.Paid); err != nil {
		r.t.log.Warn("calls that were paid for are not remembered", zap.String("task_id", r.taskID), zap.Error(err))
	}
}

// modelName is who answers this job.
func (r *run) modelName() string {
	configured := r.t.analyzer.Model(r.opt.Lang)
	if configured == vision.OfflineModel {
		return configured
	}
	return cmp.Or(r.opt.Model, configured)
}

// answer makes the result out of what was found. A question is answered here, in
// the result only: the entry is neutral and stays so.
func (r *run) answer(ctx context.Context, pic *cache.Picture, a *cache.Answer, usage vision.Usage) (*Result, error) {
	pic.View = nil // a question may take long
	r.t.cache.Record(*pic, *a)
	r.t.metrics.answered(a)
	e, question := a.Entry, r.args.UserInput
	e.Origin = cache.Origin{}
	names, _ := r.fields()
	e.More = e.More.Only(names) // others may write what they like into an entry
	if a.Kind == cache.Fresh || question != "" {
		if err := r.report(ctx, stepFeedback); err != nil {
			return nil, err
		}
	}
	if question != "" {
		analysis, err := e.Answer(names)
		if err != nil {
			return nil, err
		}
		opt, err := r.paidBefore(ctx, kindText)
		if err != nil {
			return nil, err
		}
		var feedback string
		var spent vision.Usage
		backErr := r.aside(ctx, func() { feedback, spent, err = r.t.analyzer.Feedback(ctx, analysis, question, opt) })
		err = errors.Join(err, backErr)
		r.t.metrics.spent(kindText, spent)
		usage = usage.Add(spent)
		r.pays(ctx, kindText, spent)
		if err != nil {
			return nil, err
		}
		e.Feedback = feedback
	}
	if a.Kind == cache.Fresh || question != "" {
		if err := r.report(ctx, stepFeedbackDone); err != nil {
			return nil, err
		}
		if err := r.report(ctx, stepStore); err != nil {
			return nil, err
		}
	}
	res := &Result{Entry: e, JobID: r.args.JobID, PHash: pic.Hash.String()}
	switch a.Kind {
	case cache.Exact, cache.Shared:
		res.Cached = new(string(cache.Exact))
	case cache.Near:
		res.Cached, res.Distance = new(string(cache.Near)), &a.Near
	}
	if e.Model != "" {
		res.Model = &e.Model
	}
	if usage.Calls > 0 {
		res.Usage = &usage
	}
	return res, nil
}

// report shows a step and measures the stage before it.
func (r *run) report(ctx context.Context, s step) error {
	r.enter(s.stage)
	return r.tracker.Report(ctx, s.progress, s.stage, r.t.cfg.Prompts.Text(s.text, r.opt.Lang))
}

// enter ends the measurement of one stage and begins that of the next; "" ends
// the last. It returns the stage that was under way.
func (r *run) enter(stage string) (before string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if before = r.stage; stage == before {
		return before
	}
	now := time.Now()
	if r.stage != "" {
		r.t.metrics.stage.WithLabelValues(r.stage).Observe(now.Sub(r.stageStart).Seconds())
	}
	r.stage, r.stageStart = stage, now
	return before
}
