package tasks

import (
	"go.uber.org/zap/zapcore"

	"onceover/cache"
	"onceover/vision"
)

// Result is what image.analyze returns: the cached analysis, its six shared
// fields first, and how it came about.
type Result struct {
	cache.Entry
	JobID jobID  `json:"job_id"`
	PHash string `json:"phash"`
	// "exact" if the answer was kept for this picture or being made for another job,
	// "near" if it is that of a picture that looks the same, Distance bits away;
	// null for an answer made for this job.
	Cached   *string       `json:"cached"`
	Distance int           `json:"distance,omitempty"`
	Model    *string       `json:"model"` // null when unknown: Python wrote the entry
	Usage    *vision.Usage `json:"usage,omitempty"`
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
	if r.Distance > 0 {
		enc.AddInt("distance_bits", r.Distance)
	}
	if r.Usage != nil {
		enc.AddInt("vision_calls", r.Usage.Calls)
		enc.AddInt64("cost_microusd", r.Usage.CostMicroUSD)
	}
	return nil
}
