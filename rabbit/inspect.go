package rabbit

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

// An Inspection is what a broker says when nothing is to be changed. What the user may not look at is not known, and no fault.
type Inspection struct {
	Product, Version, Cluster string
	Exchanges                 map[string]ExchangeState
	Queues                    map[string]QueueState
	Publish                   error // the user may not publish to the default exchange; nil if he may or that is not known
}

// ExchangeState is how an exchange is.
type ExchangeState struct {
	Missing bool
	Fault   error // it is of another type; nil if it is not, or that is not known
	Unseen  error // why that is not known: the user may not look; nil if it is
}

// QueueState is how a queue is.
type QueueState struct {
	Standing
	Missing bool
	Differs *Difference // from the topology, nil if it does not or that is not known
	Unseen  error       // why that is not known: the user may not look; nil if it is
	Fault   error       // it cannot be looked at, or the user may not consume it; nil if neither is known
}

// Difference is the first argument of a queue that is other than in the topology.
type Difference struct{ Argument, Want, Have string }

// inspecting is how long the broker may take to refuse a message.
const inspecting = 2 * time.Second

// Inspect looks at exchanges by their names, each with its type, and at queues: whether they are there and as the topology has them, and
// whether the user may publish and consume. It creates nothing, and no message is published or taken: RabbitMQ looks at rights before
// it refuses what is wrong with a request for other reasons. Whether the user may consume is not tried with other brokers. The error is that of a connection that is lost. Close the connection when ctx
// ends, as the broker may not answer.
func Inspect(ctx context.Context, conn *Conn, exchanges map[string]string, queues []Queue) (*Inspection, error) {
	text := func(name string) string {
		s, _ := conn.Properties[name].(string)
		return s
	}
	out := &Inspection{Product: text("product"), Version: text("version"), Cluster: text("cluster_name"), Exchanges: map[string]ExchangeState{}, Queues: map[string]QueueState{}}
	d := declarer{conn: conn} // the caller closes the connection
	// Another broker may take what RabbitMQ refuses, and deliver messages; the embedded one is RabbitMQ by its product.
	refuses := out.Product == "RabbitMQ" && strings.HasPrefix(text("platform"), "Erlang")
	for name, kind := range exchanges {
		s, err := d.inspectExchange(name, kind)
		if err != nil {
			return out, err
		}
		out.Exchanges[name] = s
	}
	for _, q := range queues {
		s, err := d.inspectQueue(q, refuses)
		if err != nil {
			return out, err
		}
		out.Queues[q.Name] = s
	}
	// Last: a broker that has an alarm reads nothing any more of a connection that publishes.
	var err error
	out.Publish, err = mayPublish(ctx, conn)
	return out, err
}

// lost returns err unless the broker has refused something.
func lost(err error) error {
	if Refused(err) {
		return nil
	}
	return err
}

func (d *declarer) inspectExchange(name, kind string) (s ExchangeState, err error) {
	err = d.do("look for exchange "+name, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(name, kind, true, false, false, false, nil)
	})
	if notFound(err) {
		return ExchangeState{Missing: true}, nil
	}
	if err == nil { // it is there: that it is declared once more changes nothing
		err = d.do("declare exchange "+name, func(ch *amqp.Channel) error { return ch.ExchangeDeclare(name, kind, true, false, false, false, nil) })
	}
	if OtherType(err) {
		return ExchangeState{Fault: fmt.Errorf("exchange %s has another type than %s: %w", name, kind, err)}, nil
	}
	if Denied(err) {
		return ExchangeState{Unseen: err}, nil
	}
	return s, lost(err)
}

// mayPublish publishes a message with an expiration that is no number, which the broker refuses once it has looked at rights
// (rabbit_channel, check_expiration_header), by a key that no queue has.
func mayPublish(ctx context.Context, conn *Conn) (fault, err error) {
	const what = "publish to the default exchange"
	ch, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	refused := ch.NotifyClose(make(chan *amqp.Error, 1))
	err = ch.PublishWithContext(ctx, "", "onceover.doctor."+uuid.NewString(), false, false, amqp.Publishing{Expiration: "doctor"})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	wait := time.NewTimer(inspecting)
	defer wait.Stop()
	select {
	case answer := <-refused:
		switch {
		case answer == nil:
			return nil, fmt.Errorf("%s: %w", what, amqp.ErrClosed)
		case Denied(answer):
			return NewConfigError(what, answer), nil
		}
		return nil, lost(answer)
	case <-wait.C: // an alarm, or an embedded broker, which looks at nothing
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// inequivalent is how RabbitMQ says what differs (rabbit_misc, assert_field_equivalence).
var inequivalent = regexp.MustCompile(`inequivalent arg '([^']*)' for .*: received (.*) but current is (.*?)"?$`)

// reasonOf is what the broker says of a refusal.
func reasonOf(err error) string {
	var answer *amqp.Error
	if errors.As(err, &answer) {
		return answer.Reason
	}
	return err.Error()
}

// inspectQueue tries to consume only a broker that refuses.
func (d *declarer) inspectQueue(q Queue, refuses bool) (s QueueState, err error) {
	found, err := d.look(q.Name)
	switch {
	case errors.Is(err, ErrNoQueue):
		return QueueState{Missing: true}, nil
	case lost(err) != nil:
		return s, err
	case err != nil:
		return QueueState{Unseen: err, Fault: err}, nil
	}
	s.Standing = Standing{found.Messages, found.Consumers}
	if q.Args != nil { // it is there: that it is declared once more changes nothing
		err = d.do("declare queue "+shorten(q.Name), func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(q.Name, true, false, false, false, q.Args)
			return err
		})
		if lost(err) != nil {
			return s, err
		}
		switch {
		case Denied(err):
			s.Unseen = err
		case code(err) == amqp.PreconditionFailed:
			s.Differs = &Difference{Have: reasonOf(err)}
			if m := inequivalent.FindStringSubmatch(reasonOf(err)); m != nil {
				s.Differs = &Difference{m[1], m[2], m[3]}
			}
		}
	}
	if !refuses {
		return s, nil
	}
	// The broker refuses a priority that is no number once it has looked at rights (rabbit_amqqueue, check_consume_arguments).
	err = d.do("consume queue "+shorten(q.Name), func(ch *amqp.Channel) error {
		_, err := ch.Consume(q.Name, "", false, false, false, false, amqp.Table{"x-priority": "doctor"})
		return err
	})
	if Denied(err) {
		s.Fault = err
	}
	return s, lost(err)
}
