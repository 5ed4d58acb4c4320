// Package celery is Celery's wire format without any I/O: bytes in, values out.
//
// Start with [Decode], which turns what arrived on the broker (properties,
// headers, body) into a [Request], and with [Meta], the document that Celery's
// Redis result backend keeps for a task. [Request.Bind] maps a request's
// arguments onto a struct as Python would map them onto a function's
// parameters; [Request.Encode] makes the message that a producer publishes;
// [Exception] is an error in the form that Python raises again.
//
// The package promises that nothing a client sends makes it panic, and that
// what it writes is read by Celery 5.x. It speaks message protocol 2 with JSON
// bodies; protocol 1, other serialisers, compression and canvas (chain, chord,
// links) are recognised and refused by name, never misread.
//
// Sources: Celery 5.2 to 5.6, celery/app/amqp.py, celery/worker/request.py,
// celery/backends/base.py, kombu/utils/json.py.
package celery
