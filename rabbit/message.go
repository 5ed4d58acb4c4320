package rabbit

import (
	"maps"
	"math"
	"reflect"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"onceover/celery"
)

// Message is a message with everything that is known of its way. A delivery becomes one at
// the door ([Of]), a request of Celery by [New]; [Message.Publishing] is the only place that
// writes one, be it published, parked, kept, exported or replayed.
type Message struct {
	// Queue is the queue that the message was taken from and goes back to, through the default
	// exchange. A message with an empty Queue goes to Exchange with RoutingKey.
	Queue string
	// Exchange and RoutingKey are where the producer published the message.
	Exchange   string
	RoutingKey string

	Properties celery.Properties
	Headers    amqp.Table // without Own; never nil
	Body       []byte
	Own        Own

	// Optional messages may have no queue: nobody minds. It is not part of the JSON form.
	Optional bool
}

// Own are the marks that Onceover puts on a message, as headers that begin with x-onceover-.
type Own struct {
	Again    bool      // it may have been published before: its id is looked up before it runs
	Revoked  bool      // it was revoked while it was parked
	Replays  int       // how often it was replayed
	Parks    int       // how often the present attempt was parked
	Replayed time.Time // the last replay
	First    time.Time // the job's first failure
	Trying   time.Time // the first of the retries under way that go on for a time
	Timed    int       // how many of the retries went on for a time, and are not counted
	Previous string    // the error before the last replay
	Since    string    // digest of an end on record that the message comes after: see celery.Stored
	From     string    // who published it, as in celery.Meta.Unconfirmed; "" if that may not be recorded
	Routed   bool      // it had gone back to its queue before, so that its route stood in marks
}

// Headers that hold Own, and the route of a message that goes back to its queue.
const (
	headerAgain      = "x-onceover-again"
	headerRevoked    = "x-onceover-revoked"
	headerReplays    = "x-onceover-replays"
	headerParks      = "x-onceover-parks"
	headerReplayed   = "x-onceover-replayed" // RFC 3339
	headerFirst      = "x-onceover-first"    // RFC 3339
	headerTrying     = "x-onceover-trying"   // RFC 3339
	headerTimed      = "x-onceover-timed"
	headerPrevious   = "x-onceover-previous"
	headerSince      = "x-onceover-since"
	headerFrom       = "x-onceover-from"
	headerExchange   = "x-onceover-exchange"
	headerRoutingKey = "x-onceover-routing-key"
)

// New returns the message of a request of Celery as a producer would publish it: to Exchange
// with RoutingKey, or to Queue through the default exchange.
func New(m celery.Message) (Message, error) {
	props, headers, body, err := m.Request.Encode()
	if err != nil {
		return Message{}, err
	}
	out := Message{Exchange: m.Exchange, RoutingKey: m.RoutingKey, Properties: props, Headers: table(headers), Body: body}
	if m.Exchange == "" && m.Queue != "" {
		out.RoutingKey = m.Queue
	}
	return out, nil
}

// messageOf reads a delivery from a queue. The message takes its headers over, and the marks leave them.
func messageOf(d amqp.Delivery, queue string) Message {
	m := Message{
		Queue: queue, Exchange: d.Exchange, RoutingKey: d.RoutingKey,
		Properties: celery.Properties{
			ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
			CorrelationID: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration,
			MessageID: d.MessageId, Type: d.Type, UserID: d.UserId, AppID: d.AppId,
			// The client does not tell a missing priority from 0, which Celery's producers send
			// when they set none.
			DeliveryMode: d.DeliveryMode, Timestamp: d.Timestamp, Priority: &d.Priority,
		},
		Headers: d.Headers, Body: d.Body,
	}
	if m.Headers == nil {
		m.Headers = amqp.Table{}
	}
	if key, ok := m.take(headerRoutingKey).(string); ok {
		m.RoutingKey = key
		m.Own.Routed = true
		m.Exchange, _ = m.take(headerExchange).(string)
	}
	m.Own = Own{
		Routed:   m.Own.Routed,
		Again:    m.take(headerAgain) == true,
		Revoked:  m.take(headerRevoked) == true,
		Replays:  count(m.take(headerReplays)),
		Parks:    count(m.take(headerParks)),
		Replayed: moment(m.take(headerReplayed)),
		First:    moment(m.take(headerFirst)),
		Trying:   moment(m.take(headerTrying)),
		Timed:    count(m.take(headerTimed)),
	}
	m.Own.Previous, _ = m.take(headerPrevious).(string)
	m.Own.Since, _ = m.take(headerSince).(string)
	m.Own.From, _ = m.take(headerFrom).(string)
	return m
}

// take removes a header and returns its value.
func (m Message) take(name string) any {
	v := m.Headers[name]
	delete(m.Headers, name)
	return v
}

// count reads a number that another client may have written in its own idea of integers.
func count(v any) int {
	var n int64
	switch v := v.(type) {
	case int8, int16, int32, int64:
		n = reflect.ValueOf(v).Int()
	case uint8, uint16, uint32:
		n = int64(reflect.ValueOf(v).Uint())
	}
	return int(min(max(n, 0), math.MaxInt32-1))
}

// moment reads a time, zero for anything else.
func moment(v any) time.Time {
	text, _ := v.(string)
	if text == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return at
}

// headers are the marks as headers.
func (o Own) headers() amqp.Table {
	out := amqp.Table{}
	if o.Again {
		out[headerAgain] = true
	}
	if o.Revoked {
		out[headerRevoked] = true
	}
	if o.Replays > 0 {
		out[headerReplays] = int32(o.Replays)
	}
	if o.Parks > 0 {
		out[headerParks] = int32(o.Parks)
	}
	if !o.Replayed.IsZero() {
		out[headerReplayed] = o.Replayed.UTC().Format(time.RFC3339Nano)
	}
	if !o.First.IsZero() {
		out[headerFirst] = o.First.UTC().Format(time.RFC3339Nano)
	}
	if !o.Trying.IsZero() {
		out[headerTrying] = o.Trying.UTC().Format(time.RFC3339Nano)
	}
	if o.Timed > 0 {
		out[headerTimed] = int32(o.Timed)
	}
	if o.Previous != "" {
		out[headerPrevious] = o.Previous
	}
	if o.Since != "" {
		out[headerSince] = o.Since
	}
	if o.From != "" {
		out[headerFrom] = o.From
	}
	return out
}

// Publishing returns the AMQP form of the message: its properties, its headers with the marks,
// and its body, which is not copied.
func (m Message) Publishing() amqp.Publishing {
	p := m.Properties
	out := amqp.Publishing{
		Headers:         m.Own.headers(),
		ContentType:     p.ContentType,
		ContentEncoding: p.ContentEncoding,
		DeliveryMode:    p.DeliveryMode,
		CorrelationId:   p.CorrelationID,
		ReplyTo:         p.ReplyTo,
		Expiration:      p.Expiration,
		MessageId:       p.MessageID,
		Timestamp:       p.Timestamp,
		Type:            p.Type,
		AppId:           p.AppID,
		Body:            m.Body,
		// No UserId: the broker takes only the publisher's own.
	}
	if p.Priority != nil {
		out.Priority = *p.Priority
	}
	maps.Copy(out.Headers, m.Headers)
	if m.Queue != "" {
		m.routed(out.Headers)
	}
	return out
}

// routed writes where the message was published into the headers of one that goes back to its
// queue.
func (m Message) routed(headers amqp.Table) {
	headers[headerExchange], headers[headerRoutingKey] = m.Exchange, m.RoutingKey
	// RabbitMQ would send copies to the queues in these headers, as it did before.
	for _, name := range []string{"CC", "BCC"} {
		if copies, ok := headers[name]; ok {
			delete(headers, name)
			headers["x-onceover-"+strings.ToLower(name)] = copies
		}
	}
}

// target is where the message goes.
func (m Message) target() (exchange, routingKey string) {
	if m.Queue != "" {
		return "", m.Queue
	}
	return m.Exchange, m.RoutingKey
}

// Destination names where the message goes, for people.
func (m Message) Destination() string {
	exchange, key := m.target()
	if exchange == "" {
		return "queue " + shorten(key)
	}
	return "exchange " + shorten(exchange) + ", key " + shorten(key)
}

// QueueOf returns the queue that the message goes to through the default exchange, "" and false
// if it goes to another exchange.
func (m Message) QueueOf() (queue string, ok bool) {
	exchange, key := m.target()
	return key, exchange == ""
}

// isDeathNote reports whether RabbitMQ writes the header when it dead-letters or returns a message.
func isDeathNote(name string) bool {
	return name == "x-death" || name == headerReturned || name == headerAcquired ||
		strings.HasPrefix(name, "x-first-death-") || strings.HasPrefix(name, "x-last-death-")
}

// Clone returns a copy whose headers can be changed.
func (m Message) Clone() Message {
	m.Headers = maps.Clone(m.Headers)
	if m.Headers == nil {
		m.Headers = amqp.Table{}
	}
	return m
}

// Request returns the request that the message carries. The error is a *celery.MessageError.
func (m Message) Request() (*celery.Request, error) {
	return celery.Decode(m.Properties, m.Headers, m.Body)
}

// SetRequest replaces the content of the message by req, in protocol 2 and JSON. The marks and
// the route stay.
func (m *Message) SetRequest(req *celery.Request) error {
	props, headers, body, err := req.Encode()
	if err != nil {
		return err
	}
	m.Properties, m.Headers, m.Body = props, table(headers), body
	return nil
}

// table converts nested maps to the AMQP client's type.
func table(m map[string]any) amqp.Table {
	out := make(amqp.Table, len(m))
	for k, v := range m {
		out[k] = tableValue(v)
	}
	return out
}

func tableValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return table(v)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = tableValue(e)
		}
		return out
	default:
		return v
	}
}
