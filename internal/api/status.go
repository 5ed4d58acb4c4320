package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"onceover/celery"
	"onceover/internal/redisretry"
	"onceover/progress"
)

// States of a job, for clients.
const (
	pending    = "pending"    // in its queue, or waiting to be tried again
	processing = "processing" // a worker has begun
	completed  = "completed"
	failed     = "failed"
)

// statusDoc is how a job is: the keys of its progress document, and what belongs to them.
type statusDoc struct {
	JobID     string          `json:"job_id"`
	Status    string          `json:"status"`
	Progress  int             `json:"progress"` // 0 to 100
	Message   string          `json:"message"`
	Stage     string          `json:"stage"`
	UpdatedAt string          `json:"updated_at"` // UTC without offset
	Error     string          `json:"error,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"` // of a completed job
}

// maxJobID bounds an id, in bytes, as tasks does.
const maxJobID = 512

// look reads what is known of a job. It answers itself, and returns nil, where it cannot be read or nothing is known.
func (a *API) look(w http.ResponseWriter, r *http.Request) *statusDoc {
	id := r.PathValue("job_id")
	if len(id) > maxJobID {
		fail(w, problem{Status: http.StatusNotFound, Detail: "no job has an id of more than 512 bytes"})
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	var u *progress.Update
	var m *celery.Meta
	err := faultOf(a.Progress.Fault())
	if err == nil {
		u, err = a.Progress.Load(ctx, id)
	}
	if err == nil && (u == nil || u.Over()) {
		if err = faultOf(a.Results.Fault()); err == nil {
			m, err = a.Results.Load(ctx, id)
		}
	}
	switch {
	case err != nil && (outage(err) || r.Context().Err() != nil):
		a.away(w, r, "the state of jobs cannot be read", err)
	case err != nil:
		a.broken(w, r, "the state of this job cannot be read: what is stored of it is not of the expected form", err)
	case u == nil && m == nil:
		fail(w, problem{Status: http.StatusNotFound, Detail: "no job of this id is known: expected the job_id of an answer; progress is kept for an hour, a result for a day"})
	default:
		return describeJob(id, u, m)
	}
	return nil
}

// errOutage says that Redis is known to be away.
var errOutage = errors.New("redis does not answer, or does not let this program work")

// faultOf returns a fault that is known as an error.
func faultOf(f *redisretry.Fault) error {
	if f == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errOutage, f.Err)
}

// describeJob puts together what is known: u or m may be nil.
func describeJob(id string, u *progress.Update, m *celery.Meta) *statusDoc {
	d := &statusDoc{JobID: id, Status: processing}
	if u != nil {
		d.Progress, d.Message, d.Stage, d.UpdatedAt, d.Error = u.Progress, u.Message, u.Stage, u.UpdatedAt, u.Error
		switch {
		case u.Stage == failed:
			d.Status = failed
		case u.Progress == 100:
			d.Status = completed
		case u.Stage == "queued" || u.Stage == "retry":
			d.Status = pending
		}
	}
	if m == nil {
		return d
	}
	// The progress has run out, or says that the job is over.
	if m.DateDone != nil && d.UpdatedAt == "" {
		d.UpdatedAt = seconds(*m.DateDone)
	}
	switch m.Status {
	case celery.Success:
		d.Status, d.Progress, d.Result, d.Error = completed, 100, m.Result, ""
		if u == nil {
			d.Stage = "done"
		}
	case celery.Failure, celery.Revoked:
		if d.Status == completed { // a replay has begun since
			return d
		}
		d.Status, d.Stage = failed, failed
		if exc, err := m.Exception(); err == nil && d.Error == "" {
			d.Error = exc.Error()
		}
		if d.Error == "" {
			d.Error = string(m.Status)
		}
	}
	return d
}

// seconds is Celery's date_done as progress documents have times: UTC without offset, whole seconds.
func seconds(doneAt string) string {
	t, err := time.Parse(time.RFC3339Nano, doneAt)
	if err != nil {
		if t, err = time.Parse("2006-01-02T15:04:05.999999", doneAt); err != nil {
			return doneAt
		}
	}
	return t.UTC().Format("2006-01-02T15:04:05")
}

// status says how a job is. FastAPI's polling code reads the keys of the progress document.
func (a *API) status(w http.ResponseWriter, r *http.Request) {
	d := a.look(w, r)
	if d == nil {
		return
	}
	if d.Status == pending || d.Status == processing {
		w.Header().Set("Retry-After", "1")
	}
	send(w, http.StatusOK, "application/json", d)
}

// result answers like status, with 202 while there is no result yet.
func (a *API) result(w http.ResponseWriter, r *http.Request) {
	d := a.look(w, r)
	if d == nil {
		return
	}
	code := http.StatusOK
	if d.Status == pending || d.Status == processing {
		code = http.StatusAccepted
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Location", a.path("status", d.JobID))
	}
	send(w, code, "application/json", d)
}
