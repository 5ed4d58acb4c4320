package failed

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"onceover/celery"
	"onceover/internal/redact"
	"onceover/rabbit"
)

// Reasons for which a job is kept, besides those of celery.MessageError and those for which
// RabbitMQ dead-letters: its task failed, or every process that ran it died.
const (
	ReasonFailed celery.Reason = "failed"
	ReasonPoison celery.Reason = "poison"
)

// Reasons are all reasons for which a job is kept.
var Reasons = []celery.Reason{
	ReasonFailed, rabbit.Rejected, rabbit.Expired, rabbit.MaxLength, rabbit.DeliveryLimit, ReasonPoison,
	celery.ReasonNotATask, celery.ReasonContentType, celery.ReasonBody, celery.ReasonHeader, celery.ReasonCanvas, celery.ReasonUnknownTask,
}

// Record is a failed job: what is known of its end, and its message.
type Record struct {
	ID        string         `json:"id"` // task id; "" if the message has none
	Task      string         `json:"task"`
	State     celery.State   `json:"state"`  // stored in DB0: FAILURE or REVOKED
	Reason    celery.Reason  `json:"reason"` // why it is kept
	Error     string         `json:"error"`  // class of the exception
	Text      string         `json:"text"`   // its message
	Traceback string         `json:"traceback,omitempty"`
	Stage     string         `json:"stage,omitempty"`         // how far the task had come
	Previous  string         `json:"previous,omitempty"`      // the error before the last replay
	Ignored   bool           `json:"ignore_result,omitempty"` // nobody wants its result, and DB0 says nothing of it
	Attempts  int            `json:"attempts"`                // runs since it was last published
	Replays   int            `json:"replays"`
	Worker    string         `json:"worker"` // node name of who kept it
	Queue     string         `json:"queue"`
	First     time.Time      `json:"first"`          // when it failed for the first time,
	Last      time.Time      `json:"last"`           // and for the last time
	Args      string         `json:"args"`           // as Celery shows them, shortened, without
	Kwargs    string         `json:"kwargs"`         // the queries of URLs
	User      string         `json:"user,omitempty"` // the keyword argument user_id
	Message   rabbit.Message `json:"message"`
}

// Failure returns the record of a message that failed with exc, now. req is nil if
// the message could not be read.
func Failure(m rabbit.Message, req *celery.Request, exc *celery.Exception, reason celery.Reason) Record {
	now := time.Now().UTC().Truncate(time.Millisecond)
	r := Record{
		State: celery.Failure, Reason: reason, Attempts: 1, Replays: m.Own.Replays,
		Queue: m.Queue, First: now, Last: now, Message: m,
	}
	if exc != nil {
		r.Error, r.Text, r.Traceback = exc.Type, shorten(redact.Text(exc.Message()), 4<<10), shorten(redact.Text(exc.Traceback()), 16<<10)
	}
	if req != nil {
		r.ID, r.Task, r.Attempts, r.Ignored = req.ID, req.Task, req.Retries+1, req.IgnoreResult
		r.User = userOf(req)
		r.Args, r.Kwargs = shorten(redact.Text(req.ArgsText()), 1<<10), shorten(redact.Text(req.KwargsText()), 1<<10)
	}
	r.Previous = m.Own.Previous
	if !m.Own.First.IsZero() {
		r.First = m.Own.First
	}
	return r
}

// userOf returns the keyword argument user_id, a text or a number; "" if there is none.
func userOf(req *celery.Request) string {
	raw := req.Kwargs["user_id"]
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return shorten(text, 200)
	}
	var number json.Number
	if json.Unmarshal(raw, &number) == nil {
		return shorten(number.String(), 200)
	}
	return ""
}

// Key names a record: by the id of the job and how often it was replayed.
type Key string

// Name is the id of the job, or what stands for it.
func (k Key) Name() string {
	if i := strings.LastIndexByte(string(k), ':'); i >= 0 {
		return string(k[:i])
	}
	return string(k)
}

// key is what tells records apart: the id and how often it was replayed. A message
// without an id is known by its content.
func (r *Record) key() Key {
	id := r.ID
	if id != "" && !utf8.ValidString(id) {
		sum := sha256.Sum256([]byte(id)) // the ids of asynq are UTF-8
		id = "id-" + hex.EncodeToString(sum[:16])
	}
	if id == "" {
		sum := sha256.New()
		fmt.Fprintf(sum, "%s\x00%s\x00", r.Message.Queue, r.Message.Properties.MessageID)
		sum.Write(r.Message.Body)
		id = "message-" + hex.EncodeToString(sum.Sum(nil)[:16])
	}
	return Key(id + ":" + strconv.Itoa(r.Replays))
}

// callSum tells calls with one id apart, see sameCall.
func (r *Record) callSum() string {
	sum := sha256.New()
	sum.Write(r.Message.Body)
	if req, err := r.Request(); err == nil {
		fmt.Fprintf(sum, "\x00%s\x00", req.Task)
		if req.Retries == 0 && !req.ETA.IsZero() {
			sum.Write([]byte(req.ETA.UTC().Format(time.RFC3339Nano)))
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// Name is the id by which people and commands call the record.
func (r *Record) Name() string {
	return r.key().Name()
}

// Request is what the message asks for.
func (r *Record) Request() (*celery.Request, error) {
	return r.Message.Request()
}

// Validate says what an imported record lacks.
func (r *Record) Validate() error {
	switch {
	case r.Message.Queue == "":
		return errors.New("message.queue is missing: expected the queue to which a replay goes")
	case r.ID == "" && r.Message.Body == nil:
		return errors.New("id and message.body are missing: expected one of them at least")
	case r.Replays < 0 || r.Replays > 1e6 || r.Attempts < 0 || r.Attempts > 1e6:
		return errors.New("replays or attempts: expected 0 to a million")
	case r.State != celery.Failure && r.State != celery.Revoked:
		return fmt.Errorf("state is %q: expected FAILURE or REVOKED", r.State)
	case !slices.Contains(Reasons, r.Reason):
		return fmt.Errorf("reason is %q: expected one of %v", r.Reason, Reasons)
	case r.Last.IsZero() || time.Until(r.Last) > 24*time.Hour:
		return errors.New("last: expected when the job failed, in RFC 3339")
	}
	if req, err := r.Request(); err == nil && req.ID != r.ID {
		return fmt.Errorf("id is %q, and that of the message %q: expected the same", r.ID, req.ID)
	}
	return nil
}

// job is a parked job as it is stored, with the message as one opaque piece: lists
// of asynq's tools show the payload, and a message may hold signed URLs.
type job struct {
	Record
	Due     time.Time `json:"due,omitzero"`
	Message []byte    `json:"message,omitempty"` // Message in JSON
	Pieces  int       `json:"pieces,omitempty"`  // or kept beside, in as many pieces
	Sum     string    `json:"sum,omitempty"`     // of the message in pieces
}

// errNotOurs says that a task was put there by somebody else.
var errNotOurs = errors.New("not a job of onceover")

// decodeJob reads a payload; the message stays as it is.
func decodeJob(payload []byte) (*job, error) {
	var j job
	if err := json.Unmarshal(payload, &j); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOurs, err)
	}
	return &j, nil
}

// shorten cuts text to about max bytes and says so.
func shorten(text string, max int) string {
	if len(text) <= max {
		return text
	}
	cut := max
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return fmt.Sprintf("%s… (%d bytes more)", text[:cut], len(text)-cut)
}
