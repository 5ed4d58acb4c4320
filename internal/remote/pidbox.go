package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"onceover/celery"
)

const (
	controlExchange = "celery.pidbox"
	replyExchange   = "reply.celery.pidbox"
)

// request is one remote control message (kombu/pidbox.py).
type request struct {
	Method      string                     `json:"method"`
	Arguments   map[string]json.RawMessage `json:"arguments"`
	Destination []string                   `json:"destination"`
	Pattern     string                     `json:"pattern"`
	Matcher     string                     `json:"matcher"`
	Ticket      string                     `json:"ticket"`
	ReplyTo     *address                   `json:"reply_to"`
}

// address is where a reply goes.
type address struct {
	Exchange   string `json:"exchange"`
	RoutingKey string `json:"routing_key"`
}

// parseRequest reads a message.
func parseRequest(contentType string, body []byte) (*request, error) {
	if base, _, _ := strings.Cut(contentType, ";"); base != celery.ContentTypeJSON {
		return nil, fmt.Errorf("content type %q: expected %s", contentType, celery.ContentTypeJSON)
	}
	var m request
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("not a remote control request: %w", err)
	}
	if m.Method == "" {
		return nil, errors.New("not a remote control request: it has no method")
	}
	return &m, nil
}

// isFor reports whether a request is meant for the node. As in kombu, a pattern
// counts only together with a matcher, and a destination before both.
func (m *request) isFor(node string) (bool, error) {
	switch {
	case len(m.Destination) > 0:
		return slices.Contains(m.Destination, node), nil
	case m.Pattern == "" || m.Matcher == "":
		return true, nil
	}
	var expression string
	switch m.Matcher {
	case "glob":
		expression = globPattern(m.Pattern)
	case "pcre":
		expression = `\A(?:` + m.Pattern + `)`
	default:
		return false, fmt.Errorf("matcher %q: expected glob or pcre", m.Matcher)
	}
	re, err := regexp.Compile(expression)
	if err != nil {
		return false, fmt.Errorf("pattern %q: %w", m.Pattern, err)
	}
	return re.MatchString(node), nil
}

// reply is the answer to a request, ready to go.
type reply struct {
	to     address
	method string // that was asked
	ticket string
	body   []byte
}

// handle carries out a request. send is called with the reply, if one is wanted: by
// a lane, if the command has to wait for somebody.
func (r *Remote) handle(d amqp.Delivery, send func(*reply)) {
	m, err := parseRequest(d.ContentType, d.Body)
	if err != nil {
		r.log.Warn("remote control request ignored", zap.Error(err))
		return
	}
	r.Clock.AdjustTo(d.Headers["clock"])
	mine, err := m.isFor(r.cfg.NodeName)
	if err != nil {
		r.log.Warn("remote control request ignored", zap.String("method", m.Method), zap.Error(err))
		return
	}
	if !mine {
		return
	}
	r.run(m, func(answer any) {
		if m.ReplyTo != nil {
			send(r.reply(m, answer))
		}
	})
}

func (r *Remote) reply(m *request, answer any) *reply {
	body, err := celery.MarshalJSON(map[string]any{r.cfg.NodeName: answer})
	if err != nil {
		r.log.Error("remote control reply cannot be encoded", zap.String("method", m.Method), zap.Error(err))
		// Two strings can be.
		body, _ = celery.MarshalJSON(map[string]any{r.cfg.NodeName: failure(celery.NewException("EncodeError", err.Error(), err))})
	}
	return &reply{*m.ReplyTo, m.Method, m.Ticket, body}
}

// failure answers with Python's repr of what went wrong.
func failure(exc *celery.Exception) map[string]any { return map[string]any{"error": exc.Repr()} }

// run executes a command and calls done with the answer, if there is to be one.
func (r *Remote) run(m *request, done func(answer any)) {
	c, known := lookUp(m.Method)
	if !known {
		r.log.Warn("remote control command is not known", zap.String("method", m.Method))
		done(failure(celery.NewException("KeyError", m.Method, nil)))
		return
	}
	a := arguments{c, m.Arguments}
	r.step(c, done, func() (any, error) {
		if err := a.check(); err != nil {
			return nil, err
		}
		return c.run(r, a)
	})
}

// step executes a part of a command, and leaves the rest to a lane or ends it.
func (r *Remote) step(c command, done func(answer any), part func() (any, error)) {
	value, err := r.safely(c, part)
	if rest, waits := value.(later); waits && err == nil {
		if rest.lane.add(func() { r.step(c, done, rest.do) }) {
			return
		}
		err = fmt.Errorf("%d commands wait for Redis or the broker already: try again later", laneLength)
	}
	if answer, answered := r.conclude(c, value, err); answered {
		done(answer)
	}
}

// safely calls part; a panic in it is returned as an error.
func (r *Remote) safely(c command, part func() (any, error)) (value any, err error) {
	defer func() {
		if p := recover(); p != nil {
			exc := celery.Recovered(p)
			r.log.Error("remote control command panicked", zap.String("method", c.name), zap.Error(exc))
			value, err = nil, exc
		}
	}()
	return part()
}

// conclude is the answer for what a command returned. What went wrong in it is part
// of the answer.
func (r *Remote) conclude(c command, value any, err error) (answer any, answered bool) {
	switch {
	case errors.Is(err, errNoAnswer):
		return nil, false
	case err != nil:
		var exc *celery.Exception
		if !errors.As(err, &exc) {
			exc = celery.NewException("ValueError", err.Error(), err)
		}
		r.log.Warn("remote control command refused", zap.String("method", c.name), zap.Error(err))
		return failure(exc), true
	}
	if c.logged {
		r.log.Info("remote control", zap.String("method", c.name))
	}
	return value, true
}

// errNoAnswer is returned by a command that is not answered.
var errNoAnswer = errors.New("no answer")
