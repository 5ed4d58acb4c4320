package tasks

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.uber.org/zap"

	"onceover/cache"
	"onceover/celery"
	"onceover/internal/redact"
	"onceover/phash"
	"onceover/vision"
)

// arguments are those of
//
//	image.analyze(job_id, image_url, user_input=None, *, user_id=None, phash=None, model=None, lang=None)
//
// job_id defaults to the Celery task id.
type arguments struct {
	JobID     jobID   `celery:"job_id,optional"`
	ImageURL  string  `celery:"image_url"`
	UserInput string  `celery:"user_input,optional"`
	UserID    anyJSON `celery:"user_id,keyword"`
	PHash     string  `celery:"phash,keyword"`
	Model     string  `celery:"model,keyword"`
	Lang      string  `celery:"lang,keyword"`

	given *phash.Hash // PHash, parsed
}

// AnalyzeParameters are the arguments of image.analyze, those that it takes by
// position first.
var AnalyzeParameters = []string{"job_id", "image_url", "user_input", "user_id", "phash", "model", "lang"}

// JobID is the job id under which the progress of a job of image.analyze is shown.
func JobID(req *celery.Request) string {
	a, _ := bind(req) // the id is set even beside an error
	return a.JobID.text
}

// ImageURL returns where the picture of a job of image.analyze is.
func ImageURL(req *celery.Request) (string, error) {
	a, err := bind(req)
	if err != nil {
		return "", err
	}
	return a.ImageURL, nil
}

// LogFields says whose job it was and of which picture, without the query of its URL (worker.Detailer).
func (t *ImageAnalyze) LogFields(req *celery.Request) []zap.Field {
	a, _ := bind(req) // what can be read is set even beside an error
	return []zap.Field{zap.String("job_id", a.JobID.text), zap.String("user_id", clip(userOf(a.UserID))), zap.String("image_url", clip(redact.Text(a.ImageURL)))}
}

// clip bounds what is logged of a text that came from elsewhere.
func clip(text string) string {
	const most = 500 // bytes
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// anyJSON is an argument that is accepted and not looked at.
type anyJSON = json.RawMessage

// userOf is whose job it is as text, "" if the job does not say.
func userOf(raw anyJSON) string {
	var text string
	switch {
	case json.Unmarshal(raw, &text) == nil:
		return text
	case len(raw) > maxUser:
		return ""
	}
	return string(raw)
}

// maxUser bounds a user id that is no text, in bytes.
const maxUser = 100

// jobID is a string, or a number as a database key is. It is given back to the
// producer as it came.
type jobID struct {
	text string
	raw  json.RawMessage
}

func (j *jobID) UnmarshalJSON(raw []byte) error {
	var number json.Number // also accepts a string, but only of digits
	if json.Unmarshal(raw, &j.text) != nil {
		if err := json.Unmarshal(raw, &number); err != nil {
			return err
		}
		j.text = number.String()
	}
	if len(j.text) > 512 {
		return errors.New("longer than 512 bytes")
	}
	j.raw = append(json.RawMessage(nil), raw...)
	return nil
}

func (j jobID) MarshalJSON() ([]byte, error) { return j.raw, nil }

func jobIDOf(taskID string) jobID {
	raw, err := celery.MarshalJSON(taskID)
	if err != nil { // a string is always JSON
		raw = json.RawMessage(`""`)
	}
	return jobID{text: taskID, raw: raw}
}

var modelForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}$`)

// bind reads the arguments. The job id is set even beside an error, so that the
// failure can be shown where the client looks.
func bind(req *celery.Request) (arguments, error) {
	if b, ok := req.Memo.(*bound); ok {
		return b.arguments, b.err
	}
	a, err := bindAnew(req)
	req.Memo = &bound{arguments: a, err: err}
	return a, err
}

// bound is a request's Memo.
type bound struct {
	arguments
	err   error
	ahead *cache.Ahead // see ImageAnalyze.Prepare
}

func bindAnew(req *celery.Request) (arguments, error) {
	var a arguments
	err := req.Bind(&a)
	if a.JobID.text == "" {
		a.JobID = jobIDOf(req.ID)
	}
	if err != nil {
		return a, err
	}
	a.UserInput = strings.TrimSpace(a.UserInput) // a blank is no question
	if a.PHash != "" {
		h, err := phash.Parse(a.PHash)
		if err != nil {
			return a, valueError("phash", err)
		}
		a.given = &h
	}
	if n := utf8.RuneCountInString(a.UserInput); n > vision.MaxQuestionRunes {
		return a, valueError("user_input", fmt.Errorf("has %d characters, at most %d are accepted", n, vision.MaxQuestionRunes))
	}
	if a.Model != "" && !modelForm.MatchString(a.Model) {
		return a, valueError("model", errors.New("expected a model name of at most 100 letters, digits and ._:/@+-"))
	}
	if a.Lang != "" {
		if err := vision.CheckLang(a.Lang); err != nil {
			return a, valueError("lang", err)
		}
	}
	return a, nil
}

func valueError(argument string, err error) error {
	return celery.NewException("ValueError", fmt.Sprintf("image.analyze() argument '%s': %v", argument, err), err)
}
