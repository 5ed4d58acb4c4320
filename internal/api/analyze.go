package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/crash"
	"onceover/internal/redact"
	"onceover/rabbit"
	"onceover/vision"
)

// order is what a client asks for.
type order struct {
	ImageURL  string `json:"image_url"`
	UserInput string `json:"user_input"`
	Lang      string `json:"lang"`

	uploaded bool   // ImageURL is that of an upload of this request
	content  string // what tells the picture from others: its SHA-256, or its URL
}

// accepted is the answer to an order.
type accepted struct {
	JobID  string `json:"job_id"`
	Status string `json:"status"`
	Links  links  `json:"links"`
}

// links are paths.
type links struct {
	Status string `json:"status"`
	Result string `json:"result"`
}

// path is that of a route for a job.
func (a *API) path(route, jobID string) string {
	return "/api/v1/" + a.cfg.Domain + "/" + route + "/" + url.PathEscape(jobID)
}

// accept answers that there is a job.
func (a *API) accept(w http.ResponseWriter, job string) {
	body := accepted{JobID: job, Status: pending, Links: links{Status: a.path("status", job), Result: a.path("result", job)}}
	w.Header().Set("Location", body.Links.Status)
	w.Header().Set("Retry-After", "1")
	send(w, http.StatusAccepted, "application/json", body)
}

// analyze takes a picture or its URL, and puts a job into the queue.
func (a *API) analyze(w http.ResponseWriter, r *http.Request) {
	key := ""
	if fields := r.Header.Values("Idempotency-Key"); len(fields) > 0 {
		var err error
		if key, err = parseKey(strings.Join(fields, ",")); err != nil {
			fail(w, problem{Status: http.StatusBadRequest, Detail: err.Error()})
			return
		}
	}
	o := a.read(w, r)
	if o == nil {
		return
	}
	job, held := uuid.NewString(), (*claim)(nil)
	if key != "" {
		if held = a.claim(w, r, key, o); held == nil || held.again {
			a.discard(r.Context(), o)
			if held != nil {
				a.accept(w, held.job)
			}
			return
		}
		job = held.job
		crash.Point("key-claimed")
	}
	// From here on the client may go away: the job is published or it is not.
	ctx := context.WithoutCancel(r.Context())
	req, err := a.request(job, subject(r), o)
	if err == nil {
		a.announce(ctx, job, o.Lang)
		err = a.publish(ctx, req)
	}
	switch {
	case err == nil:
		a.log.Info("job accepted", zap.String("job_id", job), zap.String("image", redact.URL(o.ImageURL)))
		if held != nil {
			crash.Point("keyed-job-published")
			held.done(ctx, a.log)
		}
		a.accept(w, job)
		return
	case held != nil:
		held.release(ctx, a.log)
	}
	if !maybePublished(err) {
		a.discard(ctx, o)
	}
	if refused := (*rabbit.ConfigError)(nil); rabbit.Undeliverable(err) || errors.As(err, &refused) {
		a.log.Error("jobs cannot be published until somebody acts", zap.Error(err))
	}
	a.away(w, r, "jobs cannot be put into the queue", err)
}

// claim takes the key of a request. It returns nil where it has answered instead.
func (a *API) claim(w http.ResponseWriter, r *http.Request, key string, o *order) *claim {
	c, err := a.Keys.take(r.Context(), subject(r), key, o.fingerprint())
	switch {
	case err == nil:
		return c
	case errors.Is(err, errOtherRequest):
		fail(w, problem{Status: http.StatusUnprocessableEntity, Detail: "this Idempotency-Key was used for another request: expected a new key for each picture and question"})
	case errors.Is(err, errInFlight):
		fail(w, problem{Status: http.StatusConflict, Detail: "a request with this Idempotency-Key is under way: repeat it to get its answer", retry: time.Second})
	default:
		a.away(w, r, "idempotency keys cannot be looked up", err)
	}
	return nil
}

// maybePublished reports whether a job may be in its queue after an error, and needs its picture then.
func maybePublished(err error) bool {
	return !errors.Is(err, rabbit.ErrNoConnection) && !errors.Is(err, rabbit.ErrRefused) && !rabbit.Undeliverable(err)
}

// publish puts the job into its queue.
func (a *API) publish(ctx context.Context, req *celery.Request) error {
	ctx, cancel := context.WithTimeout(ctx, publishing)
	defer cancel()
	return a.Publish(ctx, celery.Message{Request: req, Exchange: a.cfg.Exchange, RoutingKey: a.cfg.RoutingKey})
}

// announce shows the job as waiting. Without it the job is unknown until a worker begins, which is no reason to refuse it.
func (a *API) announce(ctx context.Context, job, lang string) {
	if a.Progress.Fault() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stage, message := a.cfg.Queued(lang)
	if err := a.Progress.Announce(ctx, job, stage, message); err != nil {
		a.log.Warn("a job is not shown as waiting", zap.String("job_id", job), zap.Error(err))
	}
}

// discard removes the upload of a request that made no job.
func (a *API) discard(ctx context.Context, o *order) {
	if !o.uploaded {
		return
	}
	if err := a.Uploads.Remove(context.WithoutCancel(ctx), o.ImageURL); err != nil {
		a.log.Warn("an upload that nobody needs is left", zap.String("image", redact.URL(o.ImageURL)), zap.Error(err))
	}
}

// request is the job as a Celery producer sends it: app.send_task(task, kwargs={...}, task_id=job).
func (a *API) request(job, user string, o *order) (*celery.Request, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	req := &celery.Request{ID: job, Task: a.cfg.Task, Kwargs: map[string]json.RawMessage{}, Origin: fmt.Sprintf("gen%d@%s", os.Getpid(), host)}
	for name, value := range map[string]string{"job_id": job, "image_url": o.ImageURL, "user_input": o.UserInput, "user_id": user, "lang": o.Lang} {
		if value == "" {
			continue
		}
		if req.Kwargs[name], err = celery.MarshalJSON(value); err != nil {
			return nil, fmt.Errorf("argument %s: %w", name, err)
		}
	}
	return req, nil
}

// fingerprint tells the request from others.
func (o *order) fingerprint() string {
	sum := sha256.New()
	for _, part := range []string{o.content, o.UserInput, o.Lang} {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// check says what is wrong with the texts of an order, "" if nothing is.
func (o *order) check() string {
	o.UserInput = strings.TrimSpace(o.UserInput)
	if n := utf8.RuneCountInString(o.UserInput); n > vision.MaxQuestionRunes {
		return fmt.Sprintf("user_input has %d characters: at most %d are accepted", n, vision.MaxQuestionRunes)
	}
	if o.Lang != "" {
		if err := vision.CheckLang(o.Lang); err != nil {
			return "lang: " + err.Error()
		}
	}
	return ""
}

// read reads a request, and keeps the picture that is in it. It returns nil where it has answered instead.
func (a *API) read(w http.ResponseWriter, r *http.Request) *order {
	o, p := &order{}, (*problem)(nil)
	control := http.NewResponseController(w)
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err == nil && kind == "multipart/form-data":
		// Longer than those that others have, the server's among them.
		_ = control.SetReadDeadline(time.Now().Add(uploading))
		_ = control.SetWriteDeadline(time.Now().Add(uploading + keeping))
		p = a.readForm(w, r, params["boundary"], o, func() {
			// The time for sending is over, and must not run out while the picture is kept.
			_ = control.SetReadDeadline(time.Now().Add(keeping))
			_ = control.SetWriteDeadline(time.Now().Add(2 * keeping))
		})
	case err == nil && kind == "application/json":
		if p = decode(w, r, o); p == nil {
			p = o.checkURL()
		}
	default:
		p = &problem{Status: http.StatusUnsupportedMediaType, Detail: "expected multipart/form-data with a picture in the field file, or application/json with image_url"}
	}
	if p == nil {
		if text := o.check(); text != "" {
			p = &problem{Status: http.StatusUnprocessableEntity, Detail: text}
		}
	}
	if p == nil {
		// A deadline that passes while the job is published would end the request.
		_ = control.SetReadDeadline(time.Time{})
		_ = control.SetWriteDeadline(time.Now().Add(publishing + 5*patience))
		return o
	}
	a.discard(r.Context(), o)
	if p.cause != nil {
		a.log.Warn("an upload cannot be kept", zap.Error(p.cause))
	}
	fail(w, *p)
	return nil
}

// maxURL bounds a picture's URL, in bytes.
const maxURL = 8 << 10

// checkURL says what is wrong with the URL of an order. Those that only the operator may use are refused: s3:// and file:// would read
// with the worker's rights.
func (o *order) checkURL() *problem {
	u, err := url.Parse(o.ImageURL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || len(o.ImageURL) > maxURL {
		return &problem{Status: http.StatusUnprocessableEntity, Detail: "image_url is not the URL of a picture: expected https:// or http:// and at most 8192 bytes; a picture itself goes into the field file of multipart/form-data"}
	}
	o.content = "url:" + o.ImageURL
	return nil
}

// formSlack is what a form may have besides the picture, in bytes.
const formSlack = 1 << 20

// readForm reads a form part by part. The picture goes straight to where it is kept; arrived is called when all of it is here.
func (a *API) readForm(w http.ResponseWriter, r *http.Request, boundary string, o *order, arrived func()) *problem {
	switch {
	case a.Uploads == nil:
		return &problem{Status: http.StatusUnsupportedMediaType, Detail: "this gateway takes no uploads: expected application/json with image_url"}
	case boundary == "":
		return &problem{Status: http.StatusBadRequest, Detail: "multipart/form-data has no boundary"}
	case r.ContentLength > a.cfg.MaxBytes+formSlack:
		return a.tooLarge()
	}
	form := multipart.NewReader(http.MaxBytesReader(w, r.Body, a.cfg.MaxBytes+formSlack), boundary)
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return a.unreadable(err)
		}
		var p *problem
		switch part.FormName() {
		case "file":
			p = a.keep(r.Context(), part, o, arrived)
		case "user_input":
			p = a.readText(part, &o.UserInput)
		case "lang":
			p = a.readText(part, &o.Lang)
		}
		if p != nil {
			return p
		}
	}
	if !o.uploaded {
		return &problem{Status: http.StatusUnprocessableEntity, Detail: "the form has no field file: expected a picture in it"}
	}
	return nil
}

func (a *API) tooLarge() *problem {
	return &problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the picture is too large: at most %d bytes are accepted", a.cfg.MaxBytes)}
}

// unreadable is what becomes of a body that cannot be read to its end.
func (a *API) unreadable(err error) *problem {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge), errors.Is(err, errTooLarge):
		return a.tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &problem{Status: http.StatusRequestTimeout, Detail: fmt.Sprintf("the picture did not arrive within %v", uploading)}
	}
	return &problem{Status: http.StatusBadRequest, Detail: "the form cannot be read to its end: expected multipart/form-data (RFC 7578)"}
}

func (a *API) readText(part io.Reader, into *string) *problem {
	text, err := io.ReadAll(io.LimitReader(part, smallBody+1))
	switch {
	case err != nil:
		return a.unreadable(err)
	case len(text) > smallBody:
		return &problem{Status: http.StatusRequestEntityTooLarge, Detail: "a text of the form is larger than 64 KiB"}
	case !utf8.Valid(text):
		return &problem{Status: http.StatusUnprocessableEntity, Detail: "a text of the form is not UTF-8"}
	}
	*into = string(text)
	return nil
}

// errTooLarge ends the upload of a picture that is too large.
var errTooLarge = errors.New("the picture is too large")

// keep keeps a picture as it comes.
func (a *API) keep(ctx context.Context, part io.Reader, o *order, arrived func()) *problem {
	if o.uploaded {
		return &problem{Status: http.StatusUnprocessableEntity, Detail: "the form has more than one field file: expected one picture a request"}
	}
	head := make([]byte, 512)
	n, err := io.ReadFull(part, head)
	if head = head[:n]; err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return a.unreadable(err)
	}
	if p := checkPicture(head); p != nil {
		return p
	}
	sum := sha256.New()
	picture := &reader{from: io.TeeReader(io.MultiReader(bytes.NewReader(head), part), sum), left: a.cfg.MaxBytes, arrived: arrived}
	o.ImageURL, err = a.Uploads.Put(ctx, picture)
	switch {
	case picture.err != nil:
		return a.unreadable(picture.err)
	case err != nil:
		return &problem{Status: http.StatusServiceUnavailable, Detail: "pictures cannot be kept at the moment: try again later", retry: 5 * time.Second, cause: err}
	}
	o.uploaded, o.content = true, "sha256:"+hex.EncodeToString(sum.Sum(nil))
	return nil
}

// reader reads a picture, and remembers what was wrong with it.
type reader struct {
	from io.Reader
	left int64 // bytes that it may still have
	err  error // besides io.EOF

	arrived func() // called at its end
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if r.left -= int64(n); r.left < 0 {
		err = errTooLarge
	}
	switch {
	case errors.Is(err, io.EOF):
		r.arrived()
	case err != nil:
		r.err = err
	}
	return n, err
}

// checkPicture refuses what is no picture by its first bytes.
func checkPicture(head []byte) *problem {
	switch kind := http.DetectContentType(head); {
	case len(head) == 0:
		return &problem{Status: http.StatusUnprocessableEntity, Detail: "the field file is empty: expected a picture"}
	case kind == "image/jpeg", kind == "image/png", kind == "image/gif", kind == "image/webp", kind == "image/bmp":
		return nil
	case bytes.HasPrefix(head, []byte("II*\x00")), bytes.HasPrefix(head, []byte("MM\x00*")): // TIFF
		return nil
	}
	return &problem{Status: http.StatusUnsupportedMediaType, Detail: "the field file is not a picture that can be read: expected JPEG, PNG, GIF, WebP, BMP or TIFF; HEIC and AVIF have to be converted"}
}
