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
// what it writes is read by Celery 5.x. It reads message protocols 1 and 2, with
// JSON, YAML or msgpack bodies, and writes protocol 2 in JSON.
//
// [Signature] is a call that is still to be made, of a task or of a canvas
// (chain, group, chord); [Plan] works out which messages start it.
//
// Sources: Celery 5.2 to 5.6, celery/app/amqp.py, celery/worker/request.py,
// celery/backends/base.py, kombu/utils/json.py.
package celery
