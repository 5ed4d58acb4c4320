package rabbit

import (
	"fmt"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// maxShortString is the longest name in AMQP, in bytes (0-9-1, 4.2.5.3).
const maxShortString = 255

// frameOverhead is what a frame has besides its payload, in bytes (AMQP 0-9-1, 2.3.5).
const frameOverhead = 8

// encodable says why a message cannot be sent in frames of frameSize bytes (0: no bound). What
// cannot be encoded would end the connection, and with it the messages of everybody else.
func encodable(pc *parcel, frameSize int) error {
	p := pc.publishing
	for _, s := range []struct{ what, text string }{
		{"exchange", pc.exchange}, {"routing key", pc.routingKey},
		{"content type", p.ContentType}, {"content encoding", p.ContentEncoding},
		{"correlation id", p.CorrelationId}, {"reply-to", p.ReplyTo}, {"expiration", p.Expiration},
		{"message id", p.MessageId}, {"type", p.Type}, {"app id", p.AppId},
	} {
		if len(s.text) > maxShortString {
			return fmt.Errorf("the %s %q has %d bytes: AMQP takes at most %d", s.what, shorten(s.text), len(s.text), maxShortString)
		}
	}
	if _, err := strconv.ParseUint(p.Expiration, 10, 32); p.Expiration != "" && err != nil {
		return fmt.Errorf("the expiration is %q: expected milliseconds", shorten(p.Expiration))
	}
	for _, name := range []string{"CC", "BCC"} {
		if err := checkCopies(p.Headers[name]); err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
	}
	headers, err := tableSize(p.Headers)
	if err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	size := 12 + 2 + 4 + headers + 1 + 1 + 8 // class, size; flags; table; delivery mode, priority, time
	for _, text := range []string{p.ContentType, p.ContentEncoding, p.CorrelationId, p.ReplyTo, p.Expiration, p.MessageId, p.Type, p.AppId} {
		size += 1 + len(text)
	}
	if frameSize > 0 && size > frameSize-frameOverhead {
		return fmt.Errorf("the headers have %d bytes: at most %d fit into a frame of the broker (its setting frame_max)",
			headers, frameSize-frameOverhead-(size-headers))
	}
	return nil
}

// checkCopies says why a header is not RabbitMQ's list of further routing keys.
func checkCopies(v any) error {
	if v == nil {
		return nil
	}
	list, ok := v.([]any)
	for _, key := range list {
		_, isText := key.(string)
		ok = ok && isText
	}
	if !ok {
		return fmt.Errorf("%s: expected a list of routing keys", shorten(fmt.Sprint(v)))
	}
	return nil
}

// tableSize is the length of a field table without its length prefix, as the client writes it.
func tableSize(t amqp.Table) (int, error) {
	n := 0
	for name, v := range t {
		if len(name) > maxShortString {
			return 0, fmt.Errorf("the name %q has %d bytes: AMQP takes at most %d", shorten(name), len(name), maxShortString)
		}
		size, err := fieldSize(v)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", shorten(name), err)
		}
		n += 1 + len(name) + size
	}
	return n, nil
}

// fieldSize is the length of a field with its type (AMQP 0-9-1, 4.2.5.5, with RabbitMQ's types).
func fieldSize(v any) (int, error) {
	switch v := v.(type) {
	case nil:
		return 1, nil
	case bool, int8, uint8:
		return 2, nil
	case int16, uint16:
		return 3, nil
	case int, int32, uint32, float32: // the client writes an int as 32 bits
		return 5, nil
	case amqp.Decimal:
		return 6, nil
	case int64, float64, time.Time:
		return 9, nil
	case string:
		return 5 + len(v), nil
	case []byte:
		return 5 + len(v), nil
	case amqp.Table:
		n, err := tableSize(v)
		return 5 + n, err
	case []any:
		n := 5
		for i, e := range v {
			size, err := fieldSize(e)
			if err != nil {
				return 0, fmt.Errorf("element %d: %w", i, err)
			}
			n += size
		}
		return n, nil
	default:
		return 0, fmt.Errorf("a %T cannot be sent in a header", v)
	}
}

// maxShown bounds a foreign name in an error, in bytes.
const maxShown = 80

func shorten(text string) string {
	if len(text) <= maxShown {
		return text
	}
	return text[:maxShown] + "…"
}

// lean are the headers of a message whose marks made them too large: without those that are for
// people, and without Celery's texts of the arguments, which are, too.
func (m Message) lean() amqp.Table {
	m = m.Clone()
	m.Own.Previous, m.Own.First = "", time.Time{}
	for _, name := range []string{"argsrepr", "kwargsrepr"} {
		if _, ok := m.Headers[name]; ok {
			m.Headers[name] = "…"
		}
	}
	return m.Publishing().Headers
}
