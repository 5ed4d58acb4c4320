package tasks

import (
	"errors"
	"time"

	"onceover/celery"
	"onceover/internal/source"
	"onceover/phash"
	"onceover/vision"
)

// quotaWait is the least pause after the model's account has run dry.
const quotaWait = time.Minute

// translate turns the errors of the stages into what Celery's clients see: a
// Python exception they know, or another attempt. An error that is neither
// (Redis away, the context ended) is the worker's business and stays as it is.
func translate(err error) error {
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
		if !model.Class.Retryable() {
			return exc
		}
		after := model.RetryAfter
		if model.Class == vision.Quota {
			after = max(after, quotaWait)
		}
		return &celery.Retry{Err: exc, After: after}
	}
	return err
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
