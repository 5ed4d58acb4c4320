// Package violence is the proof that no job is lost: it runs real workers on real
// servers, does to them whatever a bad day does, and then accounts for every job.
//
// Start with [Run]. It starts a RabbitMQ, a Redis for DB0 to DB4, one for DB5, and a
// server that plays picture host and vision model; it publishes jobs of all kinds
// while workers are killed at random moments and at each crash.Point, servers are
// restarted or full, and connections cut; it waits until all is quiet and counts.
// Then it runs again what had failed, which must succeed. The [Report] has the
// counts, and in Faults everything that is not as promised.
//
// What counts as lost is a task id that has no final state in the end. The model may
// be asked twice about one picture when a worker dies in between: this is counted,
// and held against the jobs that can have been in flight.
//
// It is part of the tests, never of the binary; internal/testenv/cmd/violence runs
// it from a shell.
package violence
