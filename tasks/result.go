package tasks

import (
	"go.uber.org/zap/zapcore"

	"onceover/cache"
	"onceover/celery"
	"onceover/vision"
)

// Result is what image.analyze returns: the cached analysis, its six shared
// fields first, and how it came about.
type Result struct {
	cache.Entry
	JobID jobID
	PHash string
	// "exact" if the answer was kept for this picture or being made for another job,
	// "near" if it is that of a picture that looks the same, Distance bits away;
	// null for an answer made for this job.
	Cached   *string
	Distance *int    // null otherwise
	Model    *string // null when unknown: Python wrote the entry
	Usage    *vision.Usage
}

// MarshalJSON puts what is the job's own behind the entry.
func (r Result) MarshalJSON() ([]byte, error) {
	e := r.Entry
	e.Model = "" // Result.Model stands for it
	doc, err := e.MarshalJSON()
	if err != nil {
		return nil, err
	}
	own, err := celery.MarshalJSON(struct {
		JobID    jobID         `json:"job_id"`
		PHash    string        `json:"phash"`
		Cached   *string       `json:"cached"`
		Distance *int          `json:"distance,omitempty"`
		Model    *string       `json:"model"`
		Usage    *vision.Usage `json:"usage,omitempty"`
	}{r.JobID, r.PHash, r.Cached, r.Distance, r.Model, r.Usage})
	if err != nil {
		return nil, err
	}
	return cache.Join(doc, own), nil
}

// MarshalLogObject names the job's outcome in the worker's log line.
func (r *Result) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("job_id", r.JobID.text)
	enc.AddString("phash", r.PHash)
	cached := "no"
	if r.Cached != nil {
		cached = *r.Cached
	}
	enc.AddString("cache", cached)
	if r.Distance != nil {
		enc.AddInt("distance_bits", *r.Distance)
	}
	if r.Usage != nil {
		enc.AddInt("vision_calls", r.Usage.Calls)
		enc.AddInt64("cost_microusd", r.Usage.CostMicroUSD)
	}
	return nil
}
