// Package violence is the proof that no job is lost: it runs real workers on real
// servers, does to them whatever a bad day does, and then accounts for every job.
//
// Start with [Run]. It starts a RabbitMQ, a Redis for DB0 to DB4, one for DB5, and a
// server that plays picture host and vision model; it publishes jobs of all kinds
// while workers are killed at random moments and at each crash.Point, servers are
// restarted or full, connections cut, passwords and rights taken away, and a queue
// stays without a majority; it waits until all is quiet. Then the trials do one kind of
// violence each to workers that have nothing else to bear, where it is exact what has to
// become of each job. It counts, and runs again what had failed, which must succeed. The
// [Report] has the counts, and in Faults everything that is not as promised.
//
// What counts as lost is a task id that has no final state in the end. A job may end
// as expired, poison or over the delivery limit only if the harness proves that it has
// made it so: it knows which process has begun which job, from the picture host, and when
// each died or lost what it held, from the logs. The rest is a fault.
//
// The model may be asked twice about one picture when a call of it was in flight as its
// worker died or lost the job. This is counted for each picture; any call more is a fault.
//
// The broker ends consumers after seconds (its consumer_timeout), and one of its queues
// keeps messages for seconds: some jobs take longer. The delivery limit is the release's
// own or a low one, by the seed.
//
// It is part of the tests, never of the binary; internal/testenv/cmd/violence runs
// it from a shell.
package violence
