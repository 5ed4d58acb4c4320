package rabbit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Declared is what Declare found and made.
type Declared struct {
	Created []string // names of the queues that were missing
	// Faults say what the broker does not let us have, by the name of the queue; "" for the
	// exchanges that all queues share. The queues without a fault are there.
	Faults map[string]*ConfigError
	// Unbound are queues that were there and that we may not bind: others have bound them, or
	// nothing arrives.
	Unbound map[string]error
}

// Names are QueueNamed for each.
func Names(names ...string) []Queue {
	out := make([]Queue, len(names))
	for i, name := range names {
		out[i] = QueueNamed(name)
	}
	return out
}

// Declare creates what is missing of queues, of their exchanges, and of the dead-letter exchange
// with its queue. What exists is left as it is, whatever its arguments: only an exchange of the
// topology that has another type is a fault, as nothing would arrive through it. The error is
// that of a connection that is lost.
func Declare(ctx context.Context, conn *Conn, queues ...Queue) (Declared, error) {
	d := declarer{conn: conn}
	defer d.close()
	out := Declared{Faults: map[string]*ConfigError{}, Unbound: map[string]error{}}
	if !slices.ContainsFunc(queues, func(q Queue) bool { return q.Name == QueueDeadLetter }) {
		queues = append(slices.Clone(queues), QueueNamed(QueueDeadLetter))
	}
	note := func(queue string, err error) error {
		var fault *ConfigError
		if errors.As(err, &fault) {
			out.Faults[queue] = fault
			return nil
		}
		return err
	}
	if err := note("", d.exchange(ExchangeTasks, amqp.ExchangeTopic)); err != nil {
		return out, err
	}
	d.broken = len(out.Faults) > 0
	for _, q := range queues {
		if err := ctx.Err(); err != nil {
			return out, context.Cause(ctx)
		}
		d.strict = q.Kind != ""
		isNew, err := d.queue(q)
		if isNew {
			out.Created = append(out.Created, q.Name)
		}
		var unbound *unboundError
		if errors.As(err, &unbound) {
			out.Unbound[q.Name], err = unbound.err, nil
		}
		if err := note(q.Name, err); err != nil {
			return out, err
		}
	}
	return out, nil
}

// Err is the faults as one error, nil if there is none.
func (d Declared) Err() error {
	var faults []error
	for _, f := range d.Faults {
		faults = append(faults, f)
	}
	return errors.Join(faults...)
}

// declarer declares on a channel that it replaces when the broker closes it, as
// a passive declaration of something missing does.
type declarer struct {
	conn   *Conn
	ch     *amqp.Channel
	strict bool // every exchange has to be of the type that is named
	broken bool // the fixed exchange of the producers is not as it has to be, which has been said
}

func (d *declarer) close() {
	if d.ch != nil {
		d.ch.Close()
	}
}

// do calls f with a channel. The broker's refusal is a *ConfigError.
func (d *declarer) do(what string, f func(*amqp.Channel) error) error {
	if d.ch == nil || d.ch.IsClosed() {
		ch, err := d.conn.Channel()
		if err != nil {
			return fmt.Errorf("open channel: %w", err)
		}
		d.ch = ch
	}
	err := f(d.ch)
	switch {
	case err == nil:
		return nil
	case Refused(err):
		return NewConfigError(what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// NewConfigError returns the error of something that the broker has refused.
func NewConfigError(doing string, err error) *ConfigError {
	return &ConfigError{doing, err, remedyOf(err)}
}

// remedyOf says what helps against a refusal.
func remedyOf(err error) string {
	switch answerCode(err) {
	case amqp.AccessRefused:
		if strings.Contains(err.Error(), "reserved") {
			return "names that begin with amq. are the broker's own: name another"
		}
		return "grant the user the permission that is named (rabbitmqctl set_permissions), or let somebody declare it who has it"
	case amqp.ResourceLocked:
		return "it is exclusive to another connection: name another, or end that connection"
	case amqp.NotFound:
		return "create it, or name another"
	case amqp.CommandInvalid, amqp.NotImplemented:
		return "the broker does not know of such a thing: enable the plugin that has it, or name another type"
	case amqp.PreconditionFailed:
		return "it exists with other arguments: delete it, or name another"
	default:
		return "name another, or look into the broker's log"
	}
}

// once declares with f what passive does not find.
func (d *declarer) once(what string, passive, f func(*amqp.Channel) error) (created bool, err error) {
	if err := d.do("look for "+what, passive); !notFound(err) {
		return false, err
	}
	return true, d.do("declare "+what, f)
}

func notFound(err error) bool { return answerCode(err) == amqp.NotFound }

// exchange creates an exchange that is missing. A passive declaration does not look at the type
// of one that is there: that of the topology is declared once more, which changes nothing where
// it is right.
func (d *declarer) exchange(name, kind string) error {
	declare := func(ch *amqp.Channel) error { return ch.ExchangeDeclare(name, kind, true, false, false, false, nil) }
	created, err := d.once("exchange "+name, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(name, kind, true, false, false, false, nil)
	}, declare)
	if !created && code(err) == amqp.AccessRefused {
		return nil // RabbitMQ 4.3 lets nobody look who may not declare
	}
	if err != nil || created || !(ours(name) || d.strict) {
		return err
	}
	err = d.do("declare exchange "+name, declare)
	var fault *ConfigError
	switch {
	case !errors.As(err, &fault):
		return err
	case OtherType(err):
		fault.Remedy = fmt.Sprintf("exchange %s has to be of type %s, or not all that is published to it arrives: delete it, and it is declared again", name, kind)
		return fault
	}
	return nil // its other arguments are its owner's, as is what we may not look at
}

// unboundError says that we may not bind a queue that was there.
type unboundError struct{ err error }

func (e *unboundError) Error() string { return e.err.Error() }

func (d *declarer) queue(q Queue) (created bool, err error) {
	created, err = d.once("queue "+q.Name, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(q.Name, true, false, false, false, nil)
		return err
	}, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(q.Name, true, false, false, false, q.Args)
		return err
	})
	if err != nil || (!created && len(q.Args) == 0 && q.Kind == "") {
		return created && err == nil, err // somebody else's queue: its bindings are theirs too
	}
	if d.broken && q.Exchange == ExchangeTasks {
		return created, nil // what is in the queue can be consumed
	}
	if err := d.exchange(q.Exchange, q.ExchangeKind()); err != nil {
		return created, err
	}
	err = d.do("bind queue "+q.Name+" to exchange "+q.Exchange, func(ch *amqp.Channel) error {
		return ch.QueueBind(q.Name, q.BindingKey, q.Exchange, false, nil)
	})
	if !created && code(err) == amqp.AccessRefused {
		return created, &unboundError{err}
	}
	return created, err
}
