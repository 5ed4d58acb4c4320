package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"time"

	"go.uber.org/zap"

	"onceover/celery"
	"onceover/internal/token"
	"onceover/progress"
)

const (
	// writing is how long a client may take to take an event.
	writing = 10 * time.Second
	// mostListeners bounds the streams of a process.
	mostListeners = 20_000
	// comeBack is when a client whose stream has ended comes back, in milliseconds; after a drain at random within so many more.
	comeBack, comeBackWithin = 1000, 4000
)

// endID is the id of the last event of a job whose updates are in no stream: whoever comes back with it gets no more.
const endID = "0-1"

// eventID is the form of the ids of events.
var eventID = regexp.MustCompile(`^[0-9]{1,20}-[0-9]{1,20}$`)

// events answers with the updates of a job as server-sent events (WHATWG HTML, 9.2) until it is over. Each is of the type progress, or
// of the type reset where those between it and the last one that the client had are not known any more; its data are those of status.
// A client that comes back names the last event that it had, and gets each of the others once. One that has had the last of all gets 204,
// after which a browser does not come back.
func (a *API) events(w http.ResponseWriter, r *http.Request) {
	id, after := r.PathValue("job_id"), r.Header.Get("Last-Event-ID")
	if after == "" {
		after = r.URL.Query().Get("last_event_id") // of a client that makes another stream, with another ticket
	}
	switch {
	case len(id) > maxJobID:
		fail(w, problem{Status: http.StatusNotFound, Detail: "no job has an id of more than 512 bytes"})
		return
	case after != "" && !eventID.MatchString(after):
		fail(w, problem{Status: http.StatusBadRequest, Detail: "Last-Event-ID is not the id of an event: expected one such as 1763685865000-0"})
		return
	case a.Progress.Fault() != nil:
		a.away(w, r, "the updates of jobs cannot be read", faultOf(a.Progress.Fault()))
		return
	case a.listening.Add(1) > mostListeners:
		a.listening.Add(-1)
		fail(w, problem{Status: http.StatusServiceUnavailable, Detail: "too many streams are open at the moment: try again later", retry: 5 * time.Second})
		return
	}
	defer a.listening.Add(-1)
	listener := a.Feed.Listen(id, after)
	defer listener.Close()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	known, err := listener.Known(ctx)
	if err != nil {
		a.away(w, r, "the updates of jobs cannot be read", err)
		return
	}
	var only *statusDoc // of a job of which nothing but a result is left
	if !known || after == endID {
		if only = a.look(w, r); only == nil {
			return
		}
	}
	if over := only != nil && (only.Status == completed || only.Status == failed); listener.Ended() || after == endID && over {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s := &stream{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	if s.write(fmt.Appendf(nil, "retry: %d\n\n", comeBack)) != nil {
		return
	}
	if !known {
		_ = s.event("progress", endID, only) // the stream ends in any case
		return
	}
	a.follow(r, id, listener, s)
}

// follow writes the events of a job until it is over, the client goes away, its token runs out or the gateway stops.
func (a *API) follow(r *http.Request, id string, listener *progress.Listener, s *stream) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(a.draining, cancel)()
	signedInBy := tokenOf(r)
	if signedInBy != nil {
		ctx, cancel = context.WithDeadline(ctx, signedInBy.Expires)
		defer cancel()
	}
	defer s.end()
	checked := time.Now()
	for {
		turn, next := context.WithTimeout(ctx, a.cfg.Heartbeat)
		events, err := listener.Next(turn)
		silent := turn.Err() != nil
		next()
		switch {
		case a.draining.Err() != nil:
			// All clients of this gateway would come back at the same moment.
			_ = s.write(fmt.Appendf(nil, "retry: %d\n: the gateway stops\n\n", comeBack+rand.IntN(comeBackWithin)))
			return
		case ctx.Err() != nil:
			return
		case err != nil && !silent:
			a.log.Warn("a stream ends", zap.String("job_id", id), zap.Error(err))
			return
		case signedInBy != nil && time.Since(checked) >= a.cfg.Heartbeat:
			checked = time.Now()
			if revoked, err := a.Tokens.Revoked(ctx, signedInBy); revoked && err == nil {
				return // who comes back is told why
			}
		}
		if err != nil {
			if listener.Gone() { // who comes back is told that nothing is known of the job
				return
			}
			if s.write([]byte(": no news\n\n")) != nil {
				return
			}
			continue
		}
		for _, e := range events {
			kind := "progress"
			if e.Reset {
				kind = "reset"
			}
			if e.ID == "" && e.Over() {
				e.ID = endID
			}
			if s.event(kind, e.ID, a.describeEvent(ctx, id, e)) != nil || e.Over() {
				return
			}
		}
	}
}

// describeEvent is what an event says of its job: the last one with the result.
func (a *API) describeEvent(ctx context.Context, id string, e progress.Event) *statusDoc {
	var m *celery.Meta
	if e.Over() {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		var err error
		if m, err = a.Results.Load(ctx, id); err != nil {
			a.log.Warn("a stream ends without the result of its job", zap.String("job_id", id), zap.Error(err))
		}
	}
	return describeJob(id, &e.Update, m)
}

// stream writes server-sent events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (s *stream) write(text []byte) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(writing)) // of a test's writer it may have none
	if _, err := s.w.Write(text); err != nil {
		return err
	}
	return s.control.Flush()
}

// end lets what ends the body be written.
func (s *stream) end() { _ = s.control.SetWriteDeadline(time.Now().Add(writing)) }

func (s *stream) event(kind, id string, data any) error {
	doc, err := celery.MarshalJSON(data)
	if err != nil {
		return err
	}
	var line bytes.Buffer // without line ends, which would end the data
	if err := json.Compact(&line, doc); err != nil {
		return err
	}
	text := fmt.Appendf(nil, "event: %s\n", kind)
	if id != "" {
		text = fmt.Appendf(text, "id: %s\n", id)
	}
	return s.write(fmt.Appendf(text, "data: %s\n\n", line.Bytes()))
}

// Drain ends all streams, and says when to come back. Streams that begin later end at once.
func (a *API) Drain() { a.drain() }

// ticketDoc is the answer to a request for a ticket.
type ticketDoc struct {
	Ticket    string `json:"ticket"`
	ExpiresIn int    `json:"expires_in"` // seconds
}

// ticket issues what stands for the token in the URL of a stream, once: a browser's EventSource sends no headers.
func (a *API) ticket(w http.ResponseWriter, r *http.Request) {
	text, err := a.Tokens.Issue(r.Context(), tokenOf(r))
	if err != nil {
		a.away(w, r, "tickets cannot be issued", err)
		return
	}
	send(w, http.StatusOK, "application/json", ticketDoc{text, int(token.TicketLife.Seconds())})
}

// ticketed asks for a ticket in the URL, or for a token.
func (a *API) ticketed(next http.HandlerFunc) http.HandlerFunc {
	byToken := a.signedIn(next)
	return func(w http.ResponseWriter, r *http.Request) {
		text := r.URL.Query().Get("ticket")
		if r.Method == http.MethodHead { // it would use a ticket, and wait for the job's end
			w.Header().Set("Allow", "GET")
			fail(w, problem{Status: http.StatusMethodNotAllowed, Detail: "HEAD is not answered here: expected GET"})
			return
		}
		if a.Tokens == nil {
			byToken(w, r)
			return
		}
		if text == "" || r.Header.Get("Authorization") != "" {
			byToken(w, r)
			return
		}
		t, err := a.Tokens.Redeem(r.Context(), text)
		switch {
		case errors.Is(err, token.ErrRevoked):
			unauthorized(w, `Bearer error="invalid_token"`, revokedDetail)
		case errors.Is(err, token.ErrNoTicket):
			unauthorized(w, "Bearer", "Not authenticated: the ticket was used, or has run out: expected a new one of /api/v1/auth/ticket")
		case err != nil:
			a.away(w, r, "tickets cannot be redeemed", err)
		default:
			next(w, r.WithContext(context.WithValue(r.Context(), caller{}, t)))
		}
	}
}
