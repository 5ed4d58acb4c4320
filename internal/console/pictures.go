package console

import (
	"context"
	"errors"
	"image"
	"image/png"
	"net/http"
	"strings"
	"time"

	"onceover/cache"
	"onceover/celery"
	"onceover/internal/redact"
)

// Pictures knows what is cached of pictures.
type Pictures interface {
	// Look returns what is known of a picture by its hash, or the digest of its file, in 64 hex digits; or by its file, with name for
	// people. The error is an ErrNoPicture if it is neither.
	Look(ctx context.Context, name string, file []byte) (*Picture, error)
	// Correct writes what a person says of the picture of a hash or digest, a JSON object with fields of the answer. An error of what he
	// says is a *CorrectionError.
	Correct(ctx context.Context, name string, doc []byte, only bool) (cache.Corrected, error)
	// Undo takes a correction back; see cache.Undo.
	Undo(ctx context.Context, id string) (int, error)
	// Thumbnail returns what the cache keeps of the picture of a file, by its SHA-256 in 64 hex digits, nil if nothing is kept. The error is an
	// ErrNoPicture if it is no SHA-256.
	Thumbnail(ctx context.Context, file string) (image.Image, error)
	// File returns the file of the picture of a job.
	File(ctx context.Context, req *celery.Request) ([]byte, error)
}

// ErrNoPicture says that a name is none of a picture.
var ErrNoPicture = errors.New("expected the hash of a picture, or the SHA-256 of its file, in 64 hex digits")

// CorrectionError says what is wrong with a correction.
type CorrectionError struct{ Text string }

func (e *CorrectionError) Error() string { return e.Text }

// Picture is what is known of a picture.
type Picture struct {
	Name       string // hash or digest, in 64 hex digits
	Hash       string // "" if only the digest is known
	Key        string // of its entry, "" if it can have none
	Answer     string // where a job would get its answer: exact, near, miss or unknown
	Entry      string // JSON, "" if there is none
	File       string // SHA-256 of the file whose picture the entry is of, "" if that is not known
	Left       time.Duration
	Neighbours []Neighbour
}

// Neighbour is a picture that looks alike.
type Neighbour struct {
	Hash     string
	Distance int    // of the hashes, in bits
	Verdict  string // see cache.Verdict
	Why      string
	Category string
	Entry    string // JSON, "" if it has gone
	File     string // as that of a Picture
}

// pictureShown is what the page of a picture shows.
type pictureShown struct {
	*Picture        // nil if none was asked for
	Asked    string // as it was asked for
	Job      string // key of the failed job whose picture it is, "" if it is none's
	At       time.Time
}

func (c *Console) pictures(p *page) error {
	name, job := strings.ToLower(strings.TrimSpace(p.URL.Query().Get("hash"))), p.URL.Query().Get("job")
	data := pictureShown{Asked: name, Job: job, At: time.Now()}
	if name == "" && job == "" {
		return p.show("pictures", "Pictures", data)
	}
	done, err := c.turn(p.Context())
	if err != nil {
		return err
	}
	defer done()
	var file []byte
	if job != "" {
		p.SetPathValue("key", job)
		_, r, err := c.find(p)
		if err != nil {
			return err
		}
		req, err := r.Request()
		if err != nil {
			return refusal(http.StatusNotFound, "The job has no picture that can be shown.")
		}
		if file, err = c.Pictures.File(p.Context(), req); err != nil {
			return refusal(http.StatusNotFound, "The picture cannot be shown: %v", redact.Text(err.Error()))
		}
	}
	data.Picture, err = c.Pictures.Look(p.Context(), name, file)
	if errors.Is(err, ErrNoPicture) {
		return refusal(http.StatusBadRequest, "This is no picture: %v.", err)
	}
	if err != nil {
		return err
	}
	return p.show("pictures", "Pictures", data)
}

func (c *Console) thumbnail(p *page) error {
	m, err := c.Pictures.Thumbnail(p.Context(), p.PathValue("file"))
	if errors.Is(err, ErrNoPicture) {
		return refusal(http.StatusBadRequest, "This is no picture: %v.", err)
	}
	if err != nil {
		return err
	}
	if m == nil {
		return refusal(http.StatusNotFound, "Nothing is kept of this picture any more.")
	}
	p.w.Header().Set("Content-Type", "image/png")
	_ = png.Encode(p.w, m) // the reader may have gone
	return nil
}

// correctTime is how long a correction may take, whether or not its reader waits: it looks at the whole cache for those that look the same.
const correctTime = 5 * time.Minute

func (c *Console) correct(p *page) error {
	name := p.PostFormValue("hash")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.Context()), correctTime)
	defer cancel()
	done, err := c.Pictures.Correct(ctx, name, []byte(p.PostFormValue("doc")), p.PostFormValue("only") == "yes")
	var wrong *CorrectionError
	switch {
	case errors.As(err, &wrong):
		return refusal(http.StatusBadRequest, "Nothing was corrected: %v.", wrong)
	case errors.Is(err, ErrNoPicture):
		return refusal(http.StatusBadRequest, "This is no picture: %v.", err)
	case err != nil:
		outcome := "not known: " + err.Error()
		if done.ID != "" {
			outcome = corrected + done.ID + ": in part: " + err.Error()
		}
		p.changed("correct", "picture "+name, outcome)
		return err
	}
	p.changed("correct", "picture "+name, corrected+done.ID+": "+p.PostFormValue("doc"))
	return p.back("pictures?hash="+name, p.lang.text("Corrected, with %d entries of the same answer and %d near pictures. It can be undone under Changes.", done.Copies, done.Neighbours))
}

func (c *Console) undo(p *page) error {
	id := p.PathValue("id")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.Context()), correctTime)
	defer cancel()
	n, err := c.Pictures.Undo(ctx, id)
	if errors.Is(err, cache.ErrNothingToUndo) {
		return refusal(http.StatusNotFound, "Nothing is known of this correction: it was undone, or is more than 7 days old.")
	}
	if err != nil {
		return err
	}
	p.changed("undo", "correction "+id, "undone")
	return p.back("changes", p.lang.text("Undone: %d entries are as they were.", n))
}
