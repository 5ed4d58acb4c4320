package tasks

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"onceover/celery"
	"onceover/internal/source"
	"onceover/phash"
	"onceover/vision"
)

const (
	// quotaWait is the least pause after the model's account has run dry.
	quotaWait = time.Minute
	// leastPostponed is how soon a job comes back at least that found no room at the model.
	leastPostponed = 5 * time.Second
)

// translate turns the errors of the stages into what Celery's clients see: a
// Python exception they know, or another attempt: after a fault of the model for as long as horizon. named says that the job
// has chosen the model. An error that is neither
// (Redis away, the context ended) is the worker's business and stays as it is.
func translate(err error, horizon time.Duration, named bool) error {
	var (
		src    *source.Error
		format *phash.FormatError
		model  *vision.Error
	)
	switch {
	case errors.As(err, &src):
		exc := celery.NewException(classOf(src.Kind), src.Error(), err)
		if src.Kind == source.Transient {
			return &celery.Retry{Err: exc, After: src.RetryAfter}
		}
		return exc
	case errors.As(err, &format):
		return celery.NewException("ValueError", err.Error(), err)
	case errors.As(err, &model):
		exc := celery.NewException("RuntimeError", err.Error(), err)
		after := model.RetryAfter
		switch {
		case model.Class == vision.Spent && after == 0: // the operator does not want it to wait
			return exc
		case model.Class == vision.RateLimited, model.Class == vision.Spent:
			return &celery.Postpone{Err: exc, After: max(after, leastPostponed)}
		case !model.Class.Retryable() && !model.Closed && !mayBeMended(model, named), horizon == 0:
			return exc
		case model.Class == vision.Quota:
			after = max(after, quotaWait)
		}
		return &celery.Retry{Err: exc, After: after + rand.N(after/10+time.Second), For: horizon, Quiet: model.Closed}
	}
	return err
}

// mayBeMended reports whether an operator can cure the fault by the settings of the endpoint, while its jobs wait.
// A model that is the job's own choice and is not to be had is the job's fault.
func mayBeMended(e *vision.Error, named bool) bool {
	switch e.Class {
	case vision.Denied:
		return !named || e.StatusCode == http.StatusUnauthorized
	case vision.NotFound:
		return !named
	}
	return false
}

// classOf is the built-in Python exception for a picture that cannot be had.
func classOf(k source.Kind) string {
	switch k {
	case source.NotFound:
		return "FileNotFoundError"
	case source.Forbidden:
		return "PermissionError"
	case source.Transient:
		return "ConnectionError"
	default:
		return "ValueError"
	}
}
