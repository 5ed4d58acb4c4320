// Package broker is a small AMQP 0-9-1 broker that runs inside the process, for `onceover demo` and
// `onceover dev`: trying Onceover must not need a RabbitMQ installation. Start with [Listen].
//
// It promises to its two kinds of client, our worker and real Python Celery, what RabbitMQ 3.x would do
// for them: direct, fanout and topic exchanges, bindings between exchanges, acknowledgements with requeue to the
// original position, prefetch, publisher confirms and returns, dead-lettering with x-death, message and
// queue TTL, length limits, priorities, exclusive and auto-delete queues, exclusive consumers, and RabbitMQ's error codes. One
// conformance table checks this broker and a real RabbitMQ alike. Whatever a client sends, at most that
// client's connection is closed.
//
// It does not do: persistence (everything is gone with the process, durable or not), TLS, users and
// permissions (any password is right, so it listens on loopback only), virtual hosts besides "/",
// direct reply-to (amq.rabbitmq.reply-to), replication, consumer priorities, single active consumers, alternate
// exchanges, CC and BCC headers, delivery limits, memory alarms, consumer time-outs or bounds on what waits for
// a client that does not read. Quorum queues are taken as classic ones. Arguments that ask for these are kept
// and otherwise ignored. Names that begin with "amq." are not reserved, the empty queue name never means the
// queue declared last, bindings do not differ by arguments, user-id is not checked, nested tables are passed on
// unread, and x-death comes without x-first-death-* and original-expiration.
//
// Refused with 540 (NOT_IMPLEMENTED): transactions, headers and internal exchanges, streams, x-max-length-bytes,
// x-overflow other than drop-head, if-unused and if-empty, exchange.unbind, queue.unbind,
// basic.recover, channel.flow, and logins other than PLAIN.
//
// Layers, from the wire up: wire.go and table.go (frames, fields), message.go (content), routing.go
// (exchanges, matching), queue.go and broker.go (state, under one mutex), conn.go (a connection's two
// goroutines), channel.go and methods.go (what a client may ask for).
package devbroker
