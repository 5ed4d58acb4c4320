package tasks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"onceover/cache"
	"onceover/celery"
	"onceover/phash"
	"onceover/progress"
	"onceover/vision"
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
	Get(ctx context.Context, key string) (*cache.Entry, error)
	Fill(ctx context.Context, key string, compute func(context.Context) (cache.Entry, error), waiting func()) (e cache.Entry, shared bool, err error)
}

// Progress shows how far a job is: progress.Store.
type Progress interface {
	Track(ctx context.Context, jobID string, resume bool) (*progress.Tracker, error)
}

// Config is what an operator may set.
type Config struct {
	Lang      string // language of messages and analyses where the job names none; default ko
	MaxPixels int    // larger pictures are refused before they are decoded; default 50 million
	Cores     int    // pictures decoded, hashed or scaled at once; default runtime.GOMAXPROCS

	PillowOrder phash.Order // that of the Python services that share the cache; default phash.AcrossFirst
}

// DefaultConfig returns the documented defaults.
func DefaultConfig() Config { return Config{Lang: "ko", MaxPixels: 50_000_000} }

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
	return &ImageAnalyze{
		cfg: cfg, fetcher: f, cache: c, progress: p, analyzer: a,
		metrics: newMetrics(reg), log: log,
		cpu: newCores(cfg.Cores), now: time.Now,
	}
}

// Run analyses one picture and returns a *Result.
func (t *ImageAnalyze) Run(ctx context.Context, req *celery.Request) (any, error) {
	a, err := bind(req)
	if err != nil {
		return nil, err
	}
	tracker, err := t.progress.Track(ctx, a.JobID.text, req.Retries > 0 || req.Delivery.Redelivered)
	if err != nil {
		return nil, err
	}
	r := &run{t: t, args: a, taskID: req.ID, tracker: tracker, opt: vision.Options{Model: a.Model, Lang: a.Lang}}
	if r.opt.Lang == "" {
		r.opt.Lang = t.cfg.Lang
	}
	result, err := r.analyze(ctx)
	stage := r.enter("")
	if err != nil {
		return nil, &stageError{translate(err), stage}
	}
	return result, nil
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
		lang := a.Lang
		if lang == "" {
			lang = cfg.Lang
		}
		return store.Reset(ctx, a.JobID.text, stepQueued.stage, stepQueued.text.in(lang))
	}
}

// AfterReturn shows the end of the job, or that it will be tried again.
func (t *ImageAnalyze) AfterReturn(ctx context.Context, req *celery.Request, state celery.State, exc *celery.Exception) error {
	a, _ := bind(req) // what is wrong with the arguments is in exc
	lang := a.Lang
	if lang == "" {
		lang = t.cfg.Lang
	}
	tracker, err := t.progress.Track(ctx, a.JobID.text, state != celery.Success)
	if err != nil {
		return err
	}
	switch state {
	case celery.Success:
		return tracker.Report(ctx, stepDone.progress, stepDone.stage, stepDone.text.in(lang))
	case celery.Retried:
		return tracker.Report(ctx, stepRetry.progress, stepRetry.stage, stepRetry.text.in(lang))
	default:
		reason := "the task ended without a result"
		if exc != nil {
			reason = exc.Error()
		}
		return tracker.Fail(ctx, textFailed.in(lang), reason)
	}
}

// run is one attempt on one picture.
type run struct {
	t       *ImageAnalyze
	args    arguments
	taskID  string
	opt     vision.Options
	tracker *progress.Tracker

	mu         sync.Mutex // of what follows: the model may be asked in another goroutine
	stage      string     // the stage that is under way
	stageStart time.Time
}

func (r *run) analyze(ctx context.Context) (*Result, error) {
	if res, err := r.lookUpGiven(ctx); res != nil || err != nil {
		return res, err
	}
	if err := r.report(ctx, stepDownload); err != nil {
		return nil, err
	}
	data, err := r.t.fetcher.Fetch(ctx, r.args.ImageURL)
	if err != nil {
		return nil, err
	}
	if err := r.report(ctx, stepHash); err != nil {
		return nil, err
	}
	h, err := r.hash(ctx, data)
	if err != nil {
		return nil, err
	}
	if err := r.report(ctx, stepCache); err != nil {
		return nil, err
	}
	key := cache.Key(h, r.variant())
	entry, err := r.lookUp(ctx, key)
	if err != nil {
		return nil, err
	}
	if entry != nil {
		r.t.metrics.lookups.WithLabelValues(lookupExact).Inc()
		return r.answer(ctx, h, *entry, true, vision.Usage{})
	}
	fresh, shared, usage, err := r.look(ctx, key, data)
	if err != nil {
		return nil, err
	}
	return r.answer(ctx, h, fresh, shared, usage)
}

// lookUpGiven answers from the cache by the hash that the producer gave, without
// a download. It returns nil if there is no such hash or entry.
func (r *run) lookUpGiven(ctx context.Context) (*Result, error) {
	if r.args.given == nil {
		return nil, nil
	}
	entry, err := r.lookUp(ctx, cache.Key(*r.args.given, r.variant()))
	if entry == nil || err != nil {
		return nil, err
	}
	if err := r.report(ctx, stepCache); err != nil {
		return nil, err
	}
	r.t.metrics.lookups.WithLabelValues(lookupExact).Inc()
	return r.answer(ctx, *r.args.given, *entry, true, vision.Usage{})
}

// lookUp returns the entry under key if it may be used. What the offline
// describer wrote is no answer once a model is configured.
func (r *run) lookUp(ctx context.Context, key string) (*cache.Entry, error) {
	e, err := r.t.cache.Get(ctx, key)
	if err != nil || e == nil {
		return nil, err
	}
	if e.Model == vision.OfflineModel && r.t.analyzer.Model() != vision.OfflineModel {
		return nil, nil
	}
	return e, nil
}

// variant names the cache entry beside the picture's hash: the default language
// and model have no name, so that Python services share their entries.
func (r *run) variant() cache.Variant {
	var v cache.Variant
	if r.opt.Lang != r.t.cfg.Lang {
		v.Lang = r.opt.Lang
	}
	if r.opt.Model != r.t.analyzer.Model() {
		v.Model = r.opt.Model
	}
	return v
}

// hash refuses what is too large and hashes the rest.
func (r *run) hash(ctx context.Context, data []byte) (phash.Hash, error) {
	info, err := phash.Inspect(data)
	if err != nil {
		return phash.Hash{}, err
	}
	if pixels := info.Width * info.Height; pixels > r.t.cfg.MaxPixels {
		return phash.Hash{}, celery.NewException("ValueError", fmt.Sprintf(
			"the picture has %d x %d pixels: at most %d million are accepted; send a smaller copy",
			info.Width, info.Height, r.t.cfg.MaxPixels/1_000_000), nil)
	}
	h, err := onCPU(ctx, r.t.cpu, func() (phash.Hash, error) { return phash.Sum(data) })
	if err != nil {
		return phash.Hash{}, err
	}
	if g := r.args.given; g != nil && *g != h {
		r.t.log.Warn("the producer's hash is not the picture's", zap.String("task_id", r.taskID),
			zap.String("phash_given", g.String()), zap.String("phash", h.String()), zap.Int("distance_bits", g.Distance(h)))
	}
	return h, nil
}

// look asks the model about the picture, or waits for another job that does.
// The usage is this job's own: zero if it waited.
func (r *run) look(ctx context.Context, key string, data []byte) (cache.Entry, bool, vision.Usage, error) {
	fail := func(err error) (cache.Entry, bool, vision.Usage, error) {
		return cache.Entry{}, false, vision.Usage{}, err
	}
	if err := r.report(ctx, stepPreprocess); err != nil {
		return fail(err)
	}
	// ask may outlive this job if others wait for it: spent is this job's to
	// read only once Fill has returned its answer.
	var spent vision.Usage
	ask := func(fill context.Context) (cache.Entry, error) {
		preview, err := onCPU(fill, r.t.cpu, func() (*vision.Preview, error) { return vision.NewPreview(data) })
		if err != nil {
			return cache.Entry{}, celery.NewException("ValueError", "prepare the picture: "+err.Error(), err)
		}
		// By the job's own context: once the job has ended nothing may be shown.
		if err := r.report(ctx, stepVision); err != nil && ctx.Err() == nil {
			return cache.Entry{}, err
		}
		a, usage, err := r.t.analyzer.Analyze(fill, preview, r.opt)
		r.t.metrics.spent("vision", usage)
		spent = usage
		if err != nil {
			return cache.Entry{}, err
		}
		return cache.Entry{
			WasteType: a.WasteType, Confidence: a.Confidence, Feedback: a.Feedback,
			Category: a.Category, Recyclable: a.Recyclable,
			AnalyzedAt: r.t.now().UTC().Format("2006-01-02T15:04:05"),
			Model:      r.modelName(), PromptVersion: r.t.analyzer.PromptVersion(),
		}, nil
	}
	var waitErr error
	e, shared, err := r.t.cache.Fill(ctx, key, ask, func() { waitErr = r.report(ctx, stepVision) })
	if err = errors.Join(err, waitErr); err != nil {
		return fail(err)
	}
	if err := r.report(ctx, stepVisionDone); err != nil {
		return fail(err)
	}
	if shared {
		r.t.metrics.lookups.WithLabelValues(lookupShared).Inc()
		return e, true, vision.Usage{}, nil
	}
	lookup := lookupMiss
	if key == "" {
		lookup = lookupDegenerate
	}
	r.t.metrics.lookups.WithLabelValues(lookup).Inc()
	return e, false, spent, nil
}

// modelName is who answers this job.
func (r *run) modelName() string {
	if r.opt.Model != "" && r.t.analyzer.Model() != vision.OfflineModel {
		return r.opt.Model
	}
	return r.t.analyzer.Model()
}

// answer makes the result out of an entry. A question is answered here, in the
// result only: the entry is neutral and stays so.
func (r *run) answer(ctx context.Context, h phash.Hash, e cache.Entry, cached bool, usage vision.Usage) (*Result, error) {
	question := r.args.UserInput
	if !cached || question != "" {
		if err := r.report(ctx, stepFeedback); err != nil {
			return nil, err
		}
	}
	if question != "" {
		feedback, spent, err := r.t.analyzer.Feedback(ctx, vision.Analysis{
			WasteType: e.WasteType, Confidence: e.Confidence, Feedback: e.Feedback,
			Category: e.Category, Recyclable: e.Recyclable,
		}, question, r.opt)
		r.t.metrics.spent("text", spent)
		usage = usage.Add(spent)
		if err != nil {
			return nil, err
		}
		e.Feedback = feedback
	}
	if !cached || question != "" {
		if err := r.report(ctx, stepFeedbackDone); err != nil {
			return nil, err
		}
		if err := r.report(ctx, stepStore); err != nil {
			return nil, err
		}
	}
	res := &Result{Entry: e, JobID: r.args.JobID, PHash: h.String()}
	if cached {
		exact := cachedExact
		res.Cached = &exact
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
	return r.tracker.Report(ctx, s.progress, s.stage, s.text.in(r.opt.Lang))
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
