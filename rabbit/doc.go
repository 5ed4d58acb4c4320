// Package rabbit talks to RabbitMQ: connections, the topology, messages as they come in and go
// out, and publishing with confirms. The broker of demo and dev is internal/devbroker.
//
// Start with [Message], the one envelope. A delivery becomes one at the door ([Of]) and a request
// of Celery by [New]; [Message.Publishing] is the only place that writes one, be it published,
// parked, kept, exported or replayed. [Own] are the marks that Onceover puts on it, as headers
// that begin with x-onceover-.
//
// [Dial] connects, [Declare] creates what is missing and leaves what exists as it is, and
// [Publisher] publishes.
//
// What is promised:
//
//   - A message that cannot be encoded (a name over 255 bytes, headers over a frame) is refused
//     before it reaches the connection, as an *[UndeliverableError].
//   - Callers of a [Publisher] do not wait for each other's confirms: a queue that does not
//     confirm holds up only those that publish to it. Each message of a list has its own fault,
//     see [Errors].
//   - A refusal by the broker that waiting does not change is a *[ConfigError] with a remedy.
//   - Header values that py-amqp writes and the AMQP client does not know are read, see longint.go.
//   - Errors show no password.
//
// What it does not do: reconnect, send again on another connection, or decide what becomes of a
// job. The worker does.
package rabbit
