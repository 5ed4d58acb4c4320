// Package failed keeps jobs that wait and jobs that failed, each with the whole message that
// Celery had sent (DB5).
//
// Start with [Store]. [Store.Park] puts a message away until it is due, [Store.Keep] keeps a
// failed job as a [Record]; both are idempotent, so that a redelivery neither loses nor doubles a
// job. [Store.Run] publishes parked messages that are due. [Store.Replay] publishes failed jobs
// anew, [Store.Discard] throws one away. [Store.Page], [Store.Each], [Store.Find] and [Store.Get]
// look at records, [Store.Causes] groups them by what they failed of.
//
// What is promised: a nil error means that Redis has the job, and that it stays listed and
// replayable until it was published again with the broker's confirm, or an operator discards it. A
// process that dies in between leaves a duplicate at worst, never a gap. A record of a list that
// cannot be replayed is skipped with its reason; the others are replayed, and the call may be
// repeated. While Redis is away, Park and Keep wait.
//
// The package does not decide which jobs fail, and talks to no broker: it is handed a [Publish].
//
// Jobs that wait are scheduled tasks of asynq, in a queue "delay". A failed job is a hash, and its
// key is in two sorted sets by the time of its last failure, that of all and that of its cause, and
// in one by its text. So a page of the list, a count, and a search by the beginning of an id cost the
// same however many there are. What versions before this
// one kept in archives of asynq is carried over, see [Store.CarryOver].
package failed
