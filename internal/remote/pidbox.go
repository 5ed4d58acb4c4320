package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
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
	ReplyTo     *struct {
		Exchange   string `json:"exchange"`
		RoutingKey string `json:"routing_key"`
	} `json:"reply_to"`
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

// isFor reports whether a request is meant for the node.
func (m *request) isFor(node string) (bool, error) {
	if len(m.Destination) > 0 {
		return slices.Contains(m.Destination, node), nil
	}
	if m.Pattern == "" {
		return true, nil
	}
	switch m.Matcher {
	case "", "glob":
		// Python's fnmatch: a slash is nothing special, and ! negates a set.
		pattern := strings.NewReplacer("/", "\x00", "[!", "[^").Replace(m.Pattern)
		return path.Match(pattern, strings.ReplaceAll(node, "/", "\x00"))
	case "pcre":
		re, err := regexp.Compile(`^(?:` + m.Pattern + `)`)
		if err != nil {
			return false, err
		}
		return re.MatchString(node), nil
	}
	return false, fmt.Errorf("matcher %q: expected glob or pcre", m.Matcher)
}

// answer runs a request and publishes the reply, if one is wanted.
func (r *Remote) answer(ctx context.Context, ch *amqp.Channel, d amqp.Delivery) error {
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
	if m.ReplyTo == nil || m.ReplyTo.RoutingKey == "" || !answered {
		return nil
	}
	body, err := celery.MarshalJSON(map[string]any{r.cfg.NodeName: value})
	if err != nil {
		return fmt.Errorf("encode the reply to %s: %w", m.Method, err)
	}
	err = ch.PublishWithContext(ctx, m.ReplyTo.Exchange, m.ReplyTo.RoutingKey, false, false, amqp.Publishing{
		ContentType: celery.ContentTypeJSON, ContentEncoding: "utf-8", DeliveryMode: amqp.Transient,
		Headers: amqp.Table{"ticket": m.Ticket, "clock": r.Clock.Forward()}, Body: body,
	})
	if err != nil {
		return fmt.Errorf("reply to %s: %w", m.Method, err)
	}
	return nil
}

// run executes a command. What goes wrong in it is part of the answer, as
// Python's repr of the exception.
func (r *Remote) run(m *request) (value any, answered bool) {
	defer func() {
		if p := recover(); p != nil {
			exc := celery.Recovered(p)
			r.log.Error("remote control command panicked", zap.String("method", m.Method), zap.Error(exc))
			value, answered = map[string]any{"error": exc.Repr()}, true
		}
	}()
	c, known := commands[m.Method]
	if !known {
		return map[string]any{"error": "KeyError(" + celery.Repr(m.Method) + ")"}, true
	}
	value, err := c.run(r, arguments{method: m.Method, values: m.Arguments})
	switch {
	case errors.Is(err, errNoAnswer):
		return nil, false
	case err != nil:
		var exc *celery.Exception
		if !errors.As(err, &exc) {
			exc = celery.NewException("ValueError", err.Error(), err)
		}
		return map[string]any{"error": exc.Repr()}, true
	}
	if c.logged {
		r.log.Info("remote control", zap.String("method", m.Method))
	}
	return value, true
}

// adjust moves the clock by that of a message.
func (r *Remote) adjust(headers amqp.Table) {
	switch seen := headers["clock"].(type) {
	case int64:
		r.Clock.Adjust(seen)
	case int32:
		r.Clock.Adjust(int64(seen))
	case int16:
		r.Clock.Adjust(int64(seen))
	case int8:
		r.Clock.Adjust(int64(seen))
	}
}

// errNoAnswer is returned by a command that is not answered.
var errNoAnswer = errors.New("no answer")

// arguments are those of a request, by name.
type arguments struct {
	method string
	values map[string]json.RawMessage
}

// get decodes an argument into dst and reports whether it was given, and not
// null.
func (a arguments) get(name string, dst any) (given bool, err error) {
	raw, ok := a.values[name]
	if !ok || string(raw) == "null" {
		return false, nil
	}
	if err := json.Unmarshal(raw, dst); err != nil {
		return false, celery.NewException("TypeError", fmt.Sprintf("argument '%s' of %s() has the wrong type", name, a.method), err)
	}
	return true, nil
}

// need is get for an argument without which nothing can be done.
func (a arguments) need(name string, dst any) error {
	given, err := a.get(name, dst)
	if err == nil && !given {
		err = celery.NewException("TypeError", fmt.Sprintf("%s() missing 1 required positional argument: '%s'", a.method, name), nil)
	}
	return err
}

// only refuses arguments of any other name.
func (a arguments) only(names ...string) error {
	for name := range a.values {
		if !slices.Contains(names, name) {
			return celery.NewException("TypeError", fmt.Sprintf("%s() got an unexpected keyword argument '%s'", a.method, name), nil)
		}
	}
	return nil
}

// texts reads a string or a list of them.
func (a arguments) texts(name string) ([]string, error) {
	var one string
	if raw, ok := a.values[name]; ok && json.Unmarshal(raw, &one) == nil && string(raw) != "null" {
		return []string{one}, nil
	}
	var many []string
	_, err := a.get(name, &many)
	return many, err
}

// number reads an integer, which clients may send as text.
func (a arguments) number(name string, otherwise int) (int, error) {
	n := otherwise
	raw, ok := a.values[name]
	if !ok || string(raw) == "null" {
		return n, nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		raw = json.RawMessage(strings.TrimSpace(text))
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return 0, celery.NewException("ValueError", fmt.Sprintf("argument '%s' of %s() is not an integer", name, a.method), err)
	}
	return n, nil
}
