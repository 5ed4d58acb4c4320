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

// answer runs a request and returns the reply, nil if none is wanted.
func (r *Remote) answer(d amqp.Delivery) *reply {
	m, err := parseRequest(d.ContentType, d.Body)
	if err != nil {
		r.log.Warn("remote control request ignored", zap.Error(err))
		return nil
	}
	r.adjust(d.Headers)
	mine, err := m.isFor(r.cfg.NodeName)
	if err != nil {
		r.log.Warn("remote control request ignored", zap.String("method", m.Method), zap.Error(err))
		return nil
	}
	if !mine {
		return nil
	}
	value, answered := r.run(m)
	if m.ReplyTo == nil || !answered {
		return nil
	}
	body, err := celery.MarshalJSON(map[string]any{r.cfg.NodeName: value})
	if err != nil {
		r.log.Error("remote control reply cannot be encoded", zap.String("method", m.Method), zap.Error(err))
		// Two strings can be.
		body, _ = celery.MarshalJSON(map[string]any{r.cfg.NodeName: failure(celery.NewException("EncodeError", err.Error(), err))})
	}
	return &reply{*m.ReplyTo, m.Method, m.Ticket, body}
}

// failure answers with Python's repr of what went wrong.
func failure(exc *celery.Exception) map[string]any { return map[string]any{"error": exc.Repr()} }

// run executes a command. What goes wrong in it is part of the answer.
func (r *Remote) run(m *request) (value any, answered bool) {
	defer func() {
		if p := recover(); p != nil {
			exc := celery.Recovered(p)
			r.log.Error("remote control command panicked", zap.String("method", m.Method), zap.Error(exc))
			value, answered = failure(exc), true
		}
	}()
	c, known := lookUp(m.Method)
	if !known {
		r.log.Warn("remote control command is not known", zap.String("method", m.Method))
		return failure(celery.NewException("KeyError", m.Method, nil)), true
	}
	a := arguments{c, m.Arguments}
	err := a.check()
	if err == nil {
		value, err = c.run(r, a)
	}
	switch {
	case errors.Is(err, errNoAnswer):
		return nil, false
	case err != nil:
		var exc *celery.Exception
		if !errors.As(err, &exc) {
			exc = celery.NewException("ValueError", err.Error(), err)
		}
		r.log.Warn("remote control command refused", zap.String("method", m.Method), zap.Error(err))
		return failure(exc), true
	}
	if c.logged {
		r.log.Info("remote control", zap.String("method", m.Method))
	}
	return value, true
}

// adjust moves the clock by that of a message, which may have none.
func (r *Remote) adjust(headers amqp.Table) {
	var seen int64
	switch v := headers["clock"].(type) {
	case int64:
		seen = v
	case int32:
		seen = int64(v)
	case int16:
		seen = int64(v)
	case int8:
		seen = int64(v)
	}
	r.Clock.Adjust(seen)
}

// errNoAnswer is returned by a command that is not answered.
var errNoAnswer = errors.New("no answer")
