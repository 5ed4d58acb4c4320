package tasks

import (
	"go.uber.org/zap/zapcore"

	"onceover/cache"
	"onceover/vision"
)

// cachedExact is the value of Result.Cached for an answer that was cached under
// the picture's own hash, or was being made for another job of this process.
const cachedExact = "exact"

// Result is what image.analyze returns: the cached analysis, its six shared
// fields first, and how it came about.
type Result struct {
	cache.Entry
	JobID  jobID         `json:"job_id"`
	PHash  string        `json:"phash"`
	Cached *string       `json:"cached"` // "exact", or null for an answer made for this job
	Model  *string       `json:"model"`  // null when unknown: Python wrote the entry
	Usage  *vision.Usage `json:"usage,omitempty"`
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
	if r.Usage != nil {
		enc.AddInt("vision_calls", r.Usage.Calls)
		enc.AddInt64("cost_microusd", r.Usage.CostMicroUSD)
	}
	return nil
}
