package rabbit

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"
)

// wireMessage is a Message in JSON. Header values keep their AMQP types.
type wireMessage struct {
	Queue           string         `json:"queue"`
	Exchange        string         `json:"exchange"`
	RoutingKey      string         `json:"routing_key"`
	ContentType     string         `json:"content_type,omitempty"`
	ContentEncoding string         `json:"content_encoding,omitempty"`
	DeliveryMode    uint8          `json:"delivery_mode,omitempty"`
	Priority        uint8          `json:"priority,omitempty"`
	CorrelationID   string         `json:"correlation_id,omitempty"`
	ReplyTo         string         `json:"reply_to,omitempty"`
	Expiration      string         `json:"expiration,omitempty"`
	MessageID       string         `json:"message_id,omitempty"`
	Timestamp       int64          `json:"timestamp,omitempty"` // Unix seconds
	Type            string         `json:"type,omitempty"`
	AppID           string         `json:"app_id,omitempty"`
	Headers         map[string]any `json:"headers"`
	Body            []byte         `json:"body,omitempty"`
}

// MarshalJSON writes the message as Publishing would send it, with its body in base64, and
// header values that JSON would confuse as an object of their type: {"int32": "3"}.
func (m Message) MarshalJSON() ([]byte, error) {
	p := m.Publishing()
	w := wireMessage{
		Queue: m.Queue, Exchange: m.Exchange, RoutingKey: m.RoutingKey,
		ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, DeliveryMode: p.DeliveryMode,
		Priority: p.Priority, CorrelationID: p.CorrelationId, ReplyTo: p.ReplyTo, Expiration: p.Expiration,
		MessageID: p.MessageId, Type: p.Type, AppID: p.AppId,
		Headers: typedTable(p.Headers), Body: p.Body,
	}
	if !p.Timestamp.IsZero() {
		w.Timestamp = p.Timestamp.Unix()
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads the form of MarshalJSON.
func (m *Message) UnmarshalJSON(doc []byte) error {
	var w wireMessage
	if err := json.Unmarshal(doc, &w); err != nil {
		return err
	}
	headers, err := plainTable(w.Headers)
	if err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	d := amqp.Delivery{
		Exchange: w.Exchange, RoutingKey: w.RoutingKey,
		ContentType: w.ContentType, ContentEncoding: w.ContentEncoding, DeliveryMode: w.DeliveryMode,
		Priority: w.Priority, CorrelationId: w.CorrelationID, ReplyTo: w.ReplyTo, Expiration: w.Expiration,
		MessageId: w.MessageID, Type: w.Type, AppId: w.AppID, Headers: headers, Body: w.Body,
	}
	if w.Timestamp != 0 {
		d.Timestamp = time.Unix(w.Timestamp, 0)
	}
	*m = messageOf(d, w.Queue)
	return nil
}

// typed makes a field-table value (AMQP 0-9-1, 4.2.5.5, with RabbitMQ's types)
// one that JSON keeps apart: nil, booleans, strings and lists are themselves, all
// else is an object with one member, its type.
func typed(v any) any {
	as := func(kind, text string) any { return map[string]any{kind: text} }
	switch v := v.(type) {
	case nil, bool:
		return v
	case string:
		if !utf8.ValidString(v) {
			return as("bytestring", base64.StdEncoding.EncodeToString([]byte(v)))
		}
		return v
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = typed(e)
		}
		return out
	case amqp.Table:
		return map[string]any{"table": typedTable(v)}
	case map[string]any:
		return map[string]any{"table": typedTable(v)}
	case []byte:
		return as("bytes", base64.StdEncoding.EncodeToString(v))
	case int:
		return as("int64", strconv.Itoa(v))
	case int8, int16, int32, int64, uint8, uint16, uint32:
		return as(fmt.Sprintf("%T", v), fmt.Sprint(v))
	case float32:
		return as("float32", strconv.FormatFloat(float64(v), 'g', -1, 32))
	case float64:
		return as("float64", strconv.FormatFloat(v, 'g', -1, 64))
	case time.Time:
		return as("timestamp", strconv.FormatInt(v.Unix(), 10))
	case amqp.Decimal:
		return as("decimal", fmt.Sprintf("%de-%d", v.Value, v.Scale))
	default:
		return as("text", fmt.Sprint(v)) // no such value comes from the client
	}
}

func typedTable(t map[string]any) map[string]any {
	out := make(map[string]any, len(t))
	for k, v := range t {
		if !utf8.ValidString(k) || strings.HasPrefix(k, escapedName) {
			k = escapedName + base64.StdEncoding.EncodeToString([]byte(k))
		}
		out[k] = typed(v)
	}
	return out
}

// escapedName begins the names of fields that are not UTF-8, or begin like this.
const escapedName = "base64:"

// plain is the opposite of typed.
func plain(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string:
		return v, nil
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			var err error
			if out[i], err = plain(e); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		if len(v) == 1 {
			for kind, inner := range v {
				return plainTyped(kind, inner)
			}
		}
	}
	return nil, fmt.Errorf("%v is no header value: expected null, true, false, a string, a list, or one type with its value such as {\"int32\": \"3\"}", v)
}

func plainTyped(kind string, inner any) (any, error) {
	if kind == "table" {
		t, ok := inner.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("a table is %v: expected an object", inner)
		}
		return plainTable(t)
	}
	text, ok := inner.(string)
	if !ok {
		return nil, fmt.Errorf("%s is %v: expected a string", kind, inner)
	}
	read, ok := kinds[kind]
	if !ok {
		return nil, fmt.Errorf("%q is no type of a header value", kind)
	}
	out, err := read(text)
	if err != nil {
		return nil, fmt.Errorf("%q is no %s: %w", text, kind, err)
	}
	return out, nil
}

// kinds read the types that typed writes as text.
var kinds = map[string]func(text string) (any, error){
	"int8": signed[int8], "int16": signed[int16], "int32": signed[int32], "int64": signed[int64],
	"uint8": unsigned[uint8], "uint16": unsigned[uint16], "uint32": unsigned[uint32],
	"float32": func(text string) (any, error) {
		f, err := strconv.ParseFloat(text, 32)
		return float32(f), err
	},
	"float64": func(text string) (any, error) { return strconv.ParseFloat(text, 64) },
	"timestamp": func(text string) (any, error) {
		n, err := strconv.ParseInt(text, 10, 64)
		return time.Unix(n, 0), err
	},
	"decimal": func(text string) (any, error) {
		var d amqp.Decimal
		_, err := fmt.Sscanf(text, "%de-%d", &d.Value, &d.Scale)
		return d, err
	},
	"bytes": func(text string) (any, error) { return base64.StdEncoding.DecodeString(text) },
	"bytestring": func(text string) (any, error) {
		b, err := base64.StdEncoding.DecodeString(text)
		return string(b), err
	},
	"text": func(text string) (any, error) { return text, nil },
}

func signed[T int8 | int16 | int32 | int64](text string) (any, error) {
	n, err := strconv.ParseInt(text, 10, reflect.TypeFor[T]().Bits())
	return T(n), err
}

func unsigned[T uint8 | uint16 | uint32](text string) (any, error) {
	n, err := strconv.ParseUint(text, 10, reflect.TypeFor[T]().Bits())
	return T(n), err
}

func plainTable(t map[string]any) (amqp.Table, error) {
	out := make(amqp.Table, len(t))
	for k, v := range t {
		p, err := plain(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		if text, ok := strings.CutPrefix(k, escapedName); ok {
			name, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, fmt.Errorf("name %s: %w", k, err)
			}
			k = string(name)
		}
		out[k] = p
	}
	return out, nil
}
