package rabbit

import (
	"errors"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ConfigError says that the broker answers, and does not let us work as we are configured. It
// does not pass by waiting: a person has to follow the Remedy.
type ConfigError struct {
	Doing  string // connect to broker …, declare queue …
	Err    error
	Remedy string
}

func (e *ConfigError) Error() string { return fmt.Sprintf("%s: %v: %s", e.Doing, e.Err, e.Remedy) }
func (e *ConfigError) Unwrap() error { return e.Err }

// code is that of the broker's refusal, 0 for other errors.
func code(err error) int {
	var e *amqp.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// answerCode is code where the broker has said so itself: the client guesses at a reason where a
// broker that ends just closes the connection.
func answerCode(err error) int {
	var e *amqp.Error
	if errors.As(err, &e) && e.Server {
		return e.Code
	}
	return 0
}

// refusals are the codes with which RabbitMQ refuses a method for good, and closes the channel or
// the connection (AMQP 0-9-1, 1.2).
var refusals = map[int]bool{
	amqp.AccessRefused: true, amqp.NotFound: true, amqp.ResourceLocked: true, amqp.PreconditionFailed: true,
	amqp.SyntaxError: true, amqp.CommandInvalid: true, amqp.NotAllowed: true, amqp.NotImplemented: true,
}

// Refused reports whether the broker has answered that it never does what it was asked for.
func Refused(err error) bool { return refusals[answerCode(err)] }

// Forbidden reports whether the broker has refused a message because the user may not write to the
// exchange.
func Forbidden(err error) bool { return Undeliverable(err) && answerCode(err) == amqp.AccessRefused }

// Denied reports whether the broker has refused anything because the user lacks a right.
func Denied(err error) bool { return answerCode(err) == amqp.AccessRefused }

// OtherType reports whether the broker has refused an exchange because there is one of another type
// with its name.
func OtherType(err error) bool {
	return answerCode(err) == amqp.PreconditionFailed && strings.Contains(err.Error(), "arg 'type'")
}
